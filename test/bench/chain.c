/*
 * bench-chain DIRECTORY STATUS ROUNDS COUNT...
 *
 * The lock of a file in DIRECTORY goes from hand to hand: COUNT threads wait
 * for it in flock(), and each that gets it drops it for the next one. STATUS
 * is .status of the mount, which says when all of them are in line. Only then
 * is the lock let go, and the clock runs until the last has had it.
 *
 * Prints a JSON object: for each COUNT the microseconds of one hand-over, in
 * each round. Short chains are repeated within a round.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define HAND_OVERS 1000                         /* in each round, at least */

typedef struct Chain {
        int count, repeats;
        int gate;                               /* holds the lock until all are in line */
        GArray *results;                        /* double, one a round */
        pthread_mutex_t mutex;
        pthread_cond_t start, end;
        int serial;                             /* of the run that is on */
        int done;
        double end_us;
} Chain;

typedef struct Link {
        Chain *chain;
        int fd;
} Link;

static double now_us(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void set_flock(int fd, int operation)
{
        if (flock(fd, operation) < 0)
                err(1, "flock");
}

/* --- a waiter --- */

static void *run_link(void *data)
{
        Link *link = data;
        Chain *chain = link->chain;

        for (int serial = 1;; serial++) {
                pthread_mutex_lock(&chain->mutex);
                while (chain->serial < serial)
                        pthread_cond_wait(&chain->start, &chain->mutex);
                pthread_mutex_unlock(&chain->mutex);

                set_flock(link->fd, LOCK_EX);
                set_flock(link->fd, LOCK_UN);

                pthread_mutex_lock(&chain->mutex);
                if (++chain->done == chain->count) {
                        chain->end_us = now_us();
                        pthread_cond_signal(&chain->end);
                }
                pthread_mutex_unlock(&chain->mutex);
        }
        return NULL;
}

static int open_file(const char *directory, int count)
{
        char path[PATH_MAX];
        int fd;

        snprintf(path, sizeof(path), "%s/chain-%d", directory, count);
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0)
                err(1, "%s", path);
        return fd;
}

static Chain *chain_new(const char *directory, int count)
{
        Chain *chain = g_new0(Chain, 1);
        pthread_attr_t attr;
        pthread_t thread;

        chain->count = count;
        chain->repeats = MAX(HAND_OVERS / count, 1);
        chain->gate = open_file(directory, count);
        chain->results = g_array_new(FALSE, FALSE, sizeof(double));
        pthread_mutex_init(&chain->mutex, NULL);
        pthread_cond_init(&chain->start, NULL);
        pthread_cond_init(&chain->end, NULL);
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, (size_t)PTHREAD_STACK_MIN);
        pthread_attr_setguardsize(&attr, 0);    /* a mapping less for each thread */
        for (int i = 0; i < count; i++) {
                Link *link = g_new0(Link, 1);

                link->chain = chain;
                link->fd = open_file(directory, count);
                errno = pthread_create(&thread, &attr, run_link, link);
                if (errno != 0)
                        err(1, "thread %d", i);
        }
        return chain;
}

/* --- the chain --- */

static int count_waiting(const char *status)
{
        g_autofree char *text = NULL;
        const char *line;

        if (!g_file_get_contents(status, &text, NULL, NULL))
                errx(1, "%s cannot be read", status);
        line = strstr(text, "\nwaiting ");
        if (!line)
                errx(1, "%s does not say who waits", status);
        return atoi(line + strlen("\nwaiting "));
}

/* The time of all its hand-overs. */
static double chain_run(Chain *chain, const char *status)
{
        double start_us;

        set_flock(chain->gate, LOCK_EX);
        pthread_mutex_lock(&chain->mutex);
        chain->done = 0;
        chain->serial++;
        pthread_cond_broadcast(&chain->start);
        pthread_mutex_unlock(&chain->mutex);
        while (count_waiting(status) < chain->count)
                usleep(1000);

        start_us = now_us();
        set_flock(chain->gate, LOCK_UN);
        pthread_mutex_lock(&chain->mutex);
        while (chain->done < chain->count)
                pthread_cond_wait(&chain->end, &chain->mutex);
        pthread_mutex_unlock(&chain->mutex);
        return chain->end_us - start_us;
}

static void chain_round(Chain *chain, const char *status)
{
        double time_us = 0;

        for (int i = 0; i < chain->repeats; i++)
                time_us += chain_run(chain, status);
        time_us /= chain->repeats * chain->count;
        g_array_append_val(chain->results, time_us);
}

static void chain_print(const Chain *chain)
{
        printf("  {\"count\": %d, \"hand_over_us\": [", chain->count);
        for (guint i = 0; i < chain->results->len; i++)
                printf("%s%.3f", i ? ", " : "", g_array_index(chain->results, double, i));
        printf("]}");
}

int main(int argc, char **argv)
{
        g_autoptr(GPtrArray) chains = g_ptr_array_new();
        struct rlimit limit;

        if (argc < 5) {
                fprintf(stderr, "usage: bench-chain DIRECTORY STATUS ROUNDS COUNT...\n");
                return 2;
        }
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        for (int i = 4; i < argc; i++)
                g_ptr_array_add(chains, chain_new(argv[1], atoi(argv[i])));
        for (int round = 0; round < atoi(argv[3]); round++)
                for (guint i = 0; i < chains->len; i++)
                        chain_round(chains->pdata[i], argv[2]);
        printf("{\"chains\": [\n");
        for (guint i = 0; i < chains->len; i++) {
                chain_print(chains->pdata[i]);
                printf("%s\n", i + 1 < chains->len ? "," : "");
        }
        printf("]}\n");
        fflush(stdout);
        _exit(0);                               /* with the threads as they are */
}
