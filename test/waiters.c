/*
 * waiters PATH COUNT
 *
 * Very many callers blocked on one lock: COUNT threads, each in flock() on an
 * open file of its own. Says "opened" when the files are open, goes on to
 * block at the next line of its input, says "granted COUNT" when every thread
 * has had the lock, and ends at the end of its input.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

static void *wait_for_lock(void *data)
{
        int fd = (int)(intptr_t)data;

        if (flock(fd, LOCK_EX) < 0)
                err(1, "flock");
        if (close(fd) < 0)
                err(1, "close");
        return NULL;
}

int main(int argc, char **argv)
{
        pthread_attr_t attr;
        pthread_t *threads;
        int *fds, count;
        char line[16];

        if (argc != 3)
                errx(2, "usage: waiters PATH COUNT");
        count = atoi(argv[2]);
        if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){ (rlim_t)count + 64, (rlim_t)count + 64 }) < 0)
                err(1, "RLIMIT_NOFILE");
        threads = calloc((size_t)count, sizeof(*threads));
        fds = calloc((size_t)count, sizeof(*fds));
        if (!threads || !fds)
                err(1, "memory");

        for (int i = 0; i < count; i++) {
                fds[i] = open(argv[1], O_RDWR);
                if (fds[i] < 0)
                        err(1, "%s", argv[1]);
        }
        puts("opened");
        fflush(stdout);
        if (!fgets(line, sizeof(line), stdin))
                return 0;

        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, (size_t)PTHREAD_STACK_MIN);
        pthread_attr_setguardsize(&attr, 0);    /* a mapping less for each thread */
        for (int i = 0; i < count; i++) {
                errno = pthread_create(threads + i, &attr, wait_for_lock, (void *)(intptr_t)fds[i]);
                if (errno != 0)
                        err(1, "thread %d", i);
        }
        for (int i = 0; i < count; i++)
                pthread_join(threads[i], NULL);
        printf("granted %d\n", count);
        fflush(stdout);
        while (fgets(line, sizeof(line), stdin))
                ;
        free(threads);
        free(fds);
        return 0;
}
