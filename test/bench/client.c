/*
 * bench-client [-c CLIENTS] [-b BLOCK] [-r ROUNDS] OPERATION=PLACE...
 *
 * Times operations (operation.c has them) at several places in turn: a block
 * of calls here, a block there, and all again in the next round, so that a
 * machine that gets slower or faster meanwhile does so for all of them. With
 * CLIENTS each is a process of its own, they do each block at the same time,
 * and PLACE-0, PLACE-1 and so on are theirs.
 *
 * Prints one JSON object with a list "cases", in the order of the arguments.
 * Times are microseconds: "median" and "p99" of all calls; and for each round,
 * from which ratios are made, "block_medians", and "block_times", the time of
 * the whole block divided by the number of all clients' calls.
 */
#include "operation.h"
#include <err.h>
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 3                               /* calls before each block, not counted */

typedef struct Block {                          /* of one client */
        double start_us, end_us;
} Block;

typedef struct Bench {
        int clients, block, rounds, cases;
        char **arguments;
        /* shared by all clients */
        pthread_barrier_t *barrier;
        Block *blocks;                          /* [case][round][client] */
        double *samples;                        /* [case][round][client][call] */
} Bench;

static double now_us(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static size_t block_index(const Bench *bench, int i, int round, int client)
{
        return ((size_t)i * (size_t)bench->rounds + (size_t)round) * (size_t)bench->clients + (size_t)client;
}

static void *share(size_t size)
{
        void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

        if (memory == MAP_FAILED)
                err(1, "memory");
        return memory;
}

/* --- a client --- */

static void run_block(const Bench *bench, Case *c, Block *block, double *samples)
{
        double before_us;

        pthread_barrier_wait(bench->barrier);
        for (int i = 0; i < WARM_UP; i++)
                c->operation->call(c);
        pthread_barrier_wait(bench->barrier);
        block->start_us = before_us = now_us();
        for (int i = 0; i < bench->block; i++) {
                double after_us;

                c->operation->call(c);
                after_us = now_us();
                samples[i] = after_us - before_us;
                before_us = after_us;
        }
        block->end_us = before_us;
}

static void run_client(const Bench *bench, int client)
{
        g_autofree Case *cases = g_new0(Case, bench->cases);

        for (int i = 0; i < bench->cases; i++) {
                g_auto(GStrv) words = g_strsplit(bench->arguments[i], "=", 2);
                case_begin(cases + i, operation_find(words[0]), strchr(bench->arguments[i], '=') + 1, client);
        }
        for (int round = 0; round < bench->rounds; round++)
                for (int i = 0; i < bench->cases; i++) {
                        const int at = (round + i) % bench->cases;      /* nobody is always the first */
                        const size_t index = block_index(bench, at, round, client);
                        run_block(bench, cases + at, bench->blocks + index, bench->samples + index * (size_t)bench->block);
                }
}

static void run_clients(const Bench *bench)
{
        const pid_t parent = getpid();
        int status;

        for (int client = 0; client < bench->clients; client++) {
                pid_t pid = fork();

                if (pid < 0)
                        err(1, "fork");
                if (pid == 0) {
                        prctl(PR_SET_PDEATHSIG, SIGKILL);
                        if (getppid() != parent)
                                _exit(1);
                        run_client(bench, client);
                        _exit(0);
                }
        }
        for (int client = 0; client < bench->clients; client++)
                if (wait(&status) < 0 || status != 0)
                        exit(1);                /* he said why; the others wait for him in vain, and end with us */
}

/* --- what came of it --- */

static int compare(const void *a, const void *b)
{
        const double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

static double median_of(double *sorted, size_t n)
{
        qsort(sorted, n, sizeof(*sorted), compare);
        return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

/* From the first client's start to the last one's end. */
static double block_time_us(const Bench *bench, int i, int round)
{
        const Block *blocks = bench->blocks + block_index(bench, i, round, 0);
        Block all = blocks[0];

        for (int client = 1; client < bench->clients; client++) {
                all.start_us = MIN(all.start_us, blocks[client].start_us);
                all.end_us = MAX(all.end_us, blocks[client].end_us);
        }
        return (all.end_us - all.start_us) / (bench->block * bench->clients);
}

static void print_case(const Bench *bench, int i)
{
        const size_t block_samples = (size_t)bench->clients * (size_t)bench->block;
        const size_t n = (size_t)bench->rounds * block_samples;
        double *samples = bench->samples + (size_t)i * n;
        double median;

        printf("  {\"case\": \"%s\", \"samples\": %zu,\n   \"block_times\": [", bench->arguments[i], n);
        for (int round = 0; round < bench->rounds; round++)
                printf("%s%.3f", round ? ", " : "", block_time_us(bench, i, round));
        printf("],\n   \"block_medians\": [");
        for (int round = 0; round < bench->rounds; round++)
                printf("%s%.3f", round ? ", " : "", median_of(samples + (size_t)round * block_samples, block_samples));
        median = median_of(samples, n);
        printf("],\n   \"median\": %.3f, \"p99\": %.3f}", median, samples[n * 99 / 100]);
}

static int usage(void)
{
        fprintf(stderr, "usage: bench-client [-c CLIENTS] [-b BLOCK] [-r ROUNDS] OPERATION=PLACE...\n");
        return 2;
}

static int parse(int argc, char **argv, Bench *bench)
{
        int option;

        while ((option = getopt(argc, argv, "c:b:r:")) != -1) {
                int *number = option == 'c' ? &bench->clients : option == 'b' ? &bench->block : option == 'r' ? &bench->rounds : NULL;

                if (!number || (*number = atoi(optarg)) < 1)
                        return -1;
        }
        bench->arguments = argv + optind;
        bench->cases = argc - optind;
        for (int i = 0; i < bench->cases; i++) {
                g_auto(GStrv) words = g_strsplit(bench->arguments[i], "=", 2);
                if (!words[0] || !words[1] || !operation_find(words[0]))
                        return -1;
        }
        return bench->cases > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
        Bench bench = { .clients = 1, .block = 100, .rounds = 50 };
        pthread_barrierattr_t shared;
        size_t blocks;

        if (parse(argc, argv, &bench) < 0)
                return usage();
        blocks = block_index(&bench, bench.cases, 0, 0);
        bench.barrier = share(sizeof(*bench.barrier));
        bench.blocks = share(blocks * sizeof(*bench.blocks));
        bench.samples = share(blocks * (size_t)bench.block * sizeof(*bench.samples));
        pthread_barrierattr_init(&shared);
        pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
        pthread_barrier_init(bench.barrier, &shared, (unsigned)bench.clients);
        run_clients(&bench);
        printf("{\"cases\": [\n");
        for (int i = 0; i < bench.cases; i++) {
                print_case(&bench, i);
                printf("%s\n", i + 1 < bench.cases ? "," : "");
        }
        printf("]}\n");
        return 0;
}
