/*
 * owners DIRECTORY
 *
 * Very many owners of POSIX locks: threads with a table of descriptors each,
 * which is what makes an owner. Lines of input say what there is to be,
 *
 *     COUNT HELD MODE [WANTED MODE]            owners; a file and pr or ex
 *
 * up to an empty one. Says "held" when each owner holds its lock, which must be
 * free; at the next line they ask for what they want, and keep what they get.
 * All ends at the end of the input.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Kind {
        unsigned count;
        char held[64], held_mode[3];
        char wanted[64], wanted_mode[3];        /* empty: nothing */
        struct Kind *next;
} Kind;

static pthread_barrier_t held, told;

static void take(const char *name, const char *mode, bool wait)
{
        struct flock whole = { .l_type = strcmp(mode, "ex") == 0 ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET };
        int fd = open(name, O_RDWR | O_CREAT, 0666);

        if (fd < 0 || fcntl(fd, wait ? F_SETLKW : F_SETLK, &whole) < 0)
                err(1, "%s", name);
}

static void *own(void *data)
{
        const Kind *kind = data;

        if (unshare(CLONE_FILES) < 0)
                err(1, "unshare");
        take(kind->held, kind->held_mode, false);
        pthread_barrier_wait(&held);
        pthread_barrier_wait(&told);
        if (*kind->wanted)
                take(kind->wanted, kind->wanted_mode, true);
        for (;;)
                pause();
}

static Kind *read_kind(const char *line)
{
        Kind *kind = calloc(1, sizeof(*kind));

        if (!kind || sscanf(line, "%u %63s %2s %63s %2s", &kind->count, kind->held, kind->held_mode, kind->wanted, kind->wanted_mode) < 3)
                errx(2, "not understood: %s", line);
        return kind;
}

static void start(Kind *kind)
{
        pthread_attr_t attr;
        pthread_t thread;

        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, (size_t)PTHREAD_STACK_MIN);
        pthread_attr_setguardsize(&attr, 0);    /* a mapping less for each thread */
        for (unsigned i = 0; i < kind->count; i++) {
                errno = pthread_create(&thread, &attr, own, kind);
                if (errno != 0)
                        err(1, "thread");
        }
}

int main(int argc, char **argv)
{
        Kind *kinds = NULL, *kind;
        unsigned count = 1;                     /* the main thread waits with them */
        char line[256];

        if (argc != 2)
                errx(2, "usage: owners DIRECTORY");
        if (chdir(argv[1]) < 0)
                err(1, "%s", argv[1]);
        while (fgets(line, sizeof(line), stdin) && *line != '\n') {
                kind = read_kind(line);
                kind->next = kinds;
                kinds = kind;
                count += kind->count;
        }
        pthread_barrier_init(&held, NULL, count);
        pthread_barrier_init(&told, NULL, count);
        for (kind = kinds; kind; kind = kind->next)
                start(kind);
        pthread_barrier_wait(&held);
        puts("held");
        fflush(stdout);
        if (!fgets(line, sizeof(line), stdin))
                return 0;
        pthread_barrier_wait(&told);
        while (fgets(line, sizeof(line), stdin))
                ;
        return 0;
}
