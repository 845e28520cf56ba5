/*
 * bench-dlm: how long a lock and its unlock take inside a guest, way by way,
 * and when each of several guests has a lock that all of them want.
 *
 * A guest's own clock is a system call, as dear as what is measured, and each
 * guest has another. So time is the processor's counter, which is one for the
 * whole machine: locks of different guests can be put in order by it.
 */
static const char usage[] =
        "usage: bench-dlm alternate SECONDS WAY...\n"
        "       bench-dlm contend SECONDS WAY\n"
        "\n"
        "alternate: lock and unlock by each WAY in turn, for SECONDS each in all. A line\n"
        "of JSON for each: microseconds of the lock, of the unlock and of both, and the\n"
        "median of both in each turn.\n"
        "contend: say \"ready\", wait for a line, then lock and unlock for SECONDS. The\n"
        "ticks in a microsecond, then a line for each lock: the tick at which it was here.\n"
        "\n"
        "A WAY is one of these; what is locked is always EX.\n"
        "  libdlm:LOCKSPACE    libdlm, from one thread that reads the results itself\n"
        "  libdlm-ast:LOCKSPACE  libdlm with its thread for ASTs: lock_wait, unlock_wait\n"
        "  flock:FILE          flock on an open file\n"
        "  open:FILE           open for writing, and close\n";

#define BUILDING_LIBDLM                         /* else libdlm.h has a struct dlm_lksb of its own, the same */
#include <linux/dlm_device.h>

#include <errno.h>
#include <fcntl.h>
#include <libdlm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define WAYS_MAX 16
#define SAMPLES_MAX (1 << 20)                   /* of each way; beyond, the first are kept */
#define TURN_US 40000                           /* short beside what makes a machine drift */
#define TURNS_MAX 4096
#define RESOURCE "bench"

typedef struct Way Way;

typedef struct Kind {
        const char *name;
        void (*prepare)(Way *way);
        void (*lock)(Way *way);
        void (*unlock)(Way *way);
} Kind;

typedef struct Sample {
        uint64_t begin;                         /* the lock is asked for */
        uint64_t locked;                        /* … it is here, and the unlock is asked for */
        uint64_t end;
} Sample;

struct Way {
        const char *text;
        const char *target;
        const Kind *kind;
        int fd;
        dlm_lshandle_t lockspace;
        struct dlm_lksb lksb;
        Sample *samples;
        size_t n_samples;
        size_t turns[TURNS_MAX];                /* where each begins in samples */
        size_t n_turns;
};

__attribute__((noreturn))
static void give_up(const char *what, const char *why)
{
        fprintf(stderr, "bench-dlm: %s: %s\n", what, why);
        exit(1);
}

static void check(const Way *way, bool ok)
{
        if (!ok)
                give_up(way->text, strerror(errno));
}

/* --- time --- */

static uint64_t first_tick;
static struct timespec first_time;

static uint64_t ticks(void)
{
        return __rdtsc();
}

static double ticks_per_us(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (ticks() - first_tick) / ((now.tv_sec - first_time.tv_sec) * 1e6 + (now.tv_nsec - first_time.tv_nsec) / 1e3);
}

/* Long enough to tell the counter's rate to one in a thousand. */
static void start_clock(void)
{
        clock_gettime(CLOCK_MONOTONIC, &first_time);
        first_tick = ticks();
        nanosleep(&(struct timespec) { .tv_nsec = 100 * 1000 * 1000 }, NULL);
}

/* --- libdlm --- */

static void libdlm_prepare(Way *way)
{
        way->lockspace = dlm_open_lockspace(way->target);
        check(way, way->lockspace != NULL);
        way->fd = dlm_ls_get_fd(way->lockspace);
}

/* What libdlm does with a result is to call @ast, which nobody here would miss. */
static void libdlm_ast(void *data)
{
}

static void libdlm_take_result(Way *way, int status)
{
        struct dlm_lock_result result;
        ssize_t n = read(way->fd, &result, sizeof(result));

        check(way, n >= (ssize_t)sizeof(result));
        if (abs(result.lksb.sb_status) != status)
                give_up(way->text, "an unexpected result");
        way->lksb.sb_lkid = result.lksb.sb_lkid;
}

static void libdlm_lock(Way *way)
{
        check(way, dlm_ls_lock(way->lockspace, LKM_EXMODE, &way->lksb, 0, RESOURCE, strlen(RESOURCE), 0, libdlm_ast, way, NULL, NULL) == 0);
        libdlm_take_result(way, 0);
}

static void libdlm_unlock(Way *way)
{
        check(way, dlm_ls_unlock(way->lockspace, way->lksb.sb_lkid, 0, &way->lksb, way) == 0);
        libdlm_take_result(way, DLM_EUNLOCK);
}

static void libdlm_ast_prepare(Way *way)
{
        libdlm_prepare(way);
        check(way, dlm_ls_pthread_init(way->lockspace) == 0);
}

static void libdlm_ast_lock(Way *way)
{
        check(way, dlm_ls_lock_wait(way->lockspace, LKM_EXMODE, &way->lksb, 0, RESOURCE, strlen(RESOURCE), 0, NULL, NULL, NULL) == 0);
        if (way->lksb.sb_status != 0)
                give_up(way->text, "the lock is refused");
}

static void libdlm_ast_unlock(Way *way)
{
        check(way, dlm_ls_unlock_wait(way->lockspace, way->lksb.sb_lkid, 0, &way->lksb) == 0);
}

/* --- files --- */

static void flock_prepare(Way *way)
{
        way->fd = open(way->target, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        check(way, way->fd >= 0);
}

static void flock_lock(Way *way)
{
        check(way, flock(way->fd, LOCK_EX) == 0);
}

static void flock_unlock(Way *way)
{
        check(way, flock(way->fd, LOCK_UN) == 0);
}

static void open_prepare(Way *way)
{
        close(open(way->target, O_RDWR | O_CREAT | O_CLOEXEC, 0666));
}

static void open_lock(Way *way)
{
        way->fd = open(way->target, O_RDWR | O_CLOEXEC);
        check(way, way->fd >= 0);
}

static void open_unlock(Way *way)
{
        check(way, close(way->fd) == 0);
}

static const Kind kinds[] = {
        { "libdlm", libdlm_prepare, libdlm_lock, libdlm_unlock },
        { "libdlm-ast", libdlm_ast_prepare, libdlm_ast_lock, libdlm_ast_unlock },
        { "flock", flock_prepare, flock_lock, flock_unlock },
        { "open", open_prepare, open_lock, open_unlock },
};

/* --- one way --- */

static void way_init(Way *way, const char *text)
{
        const char *colon = strchr(text, ':');

        *way = (Way) { .text = text, .fd = -1 };
        for (size_t i = 0; colon && i < sizeof(kinds) / sizeof(*kinds); i++)
                if (strlen(kinds[i].name) == (size_t)(colon - text) && strncmp(kinds[i].name, text, colon - text) == 0)
                        way->kind = &kinds[i];
        if (!way->kind)
                give_up(text, "no such way; see its usage");
        way->target = colon + 1;
        way->samples = calloc(SAMPLES_MAX, sizeof(Sample));     /* memory once it is used */
        if (!way->samples)
                give_up(text, strerror(errno));
        way->kind->prepare(way);
}

static void way_once(Way *way, Sample *sample)
{
        sample->begin = ticks();
        way->kind->lock(way);
        sample->locked = ticks();
        way->kind->unlock(way);
        sample->end = ticks();
}

/* Lock and unlock for @us. */
static void way_turn(Way *way, double us)
{
        uint64_t duration = us * ticks_per_us(), begin = ticks();
        Sample sample;

        way->turns[way->n_turns++] = way->n_samples;
        do {
                way_once(way, &sample);
                if (way->n_samples < SAMPLES_MAX)
                        way->samples[way->n_samples++] = sample;
        } while (sample.end - begin < duration);
}

/* --- alternate --- */

static int compare(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

/* The time between two marks of a Sample, sorted. */
static double *sorted_us(const Sample *samples, size_t n, size_t from, size_t to)
{
        double rate = ticks_per_us(), *us = calloc(n, sizeof(*us));

        if (!us)
                give_up("samples", strerror(errno));
        for (size_t i = 0; i < n; i++) {
                const char *sample = (const char *)&samples[i];

                us[i] = (*(const uint64_t *)(sample + to) - *(const uint64_t *)(sample + from)) / rate;
        }
        qsort(us, n, sizeof(*us), compare);
        return us;
}

static void print_times(const Way *way, const char *what, size_t from, size_t to)
{
        double *us = sorted_us(way->samples, way->n_samples, from, to), sum = 0;

        for (size_t i = 0; i < way->n_samples; i++)
                sum += us[i];
        printf(", \"%s\": {\"median\": %.2f, \"p99\": %.2f, \"mean\": %.2f}", what, us[way->n_samples / 2],
               us[way->n_samples - 1 - way->n_samples / 100], sum / way->n_samples);
        free(us);
}

static void print_turns(const Way *way)
{
        printf(", \"turn_medians\": [");
        for (size_t i = 0; i < way->n_turns; i++) {
                size_t n = (i + 1 < way->n_turns ? way->turns[i + 1] : way->n_samples) - way->turns[i];
                double *us = sorted_us(way->samples + way->turns[i], n, offsetof(Sample, begin), offsetof(Sample, end));

                printf("%s%.2f", i ? ", " : "", us[n / 2]);
                free(us);
        }
        printf("]");
}

static void print_way(const Way *way)
{
        printf("{\"way\": \"%s\", \"samples\": %zu", way->text, way->n_samples);
        print_times(way, "lock", offsetof(Sample, begin), offsetof(Sample, locked));
        print_times(way, "unlock", offsetof(Sample, locked), offsetof(Sample, end));
        print_times(way, "both", offsetof(Sample, begin), offsetof(Sample, end));
        print_turns(way);
        printf("}\n");
}

static void alternate(double seconds, Way *ways, int n_ways)
{
        int i, turn, n_turns = seconds * 1e6 / TURN_US;

        if (n_turns < 1 || n_turns > TURNS_MAX)
                give_up("alternate", "too short or too long");
        for (i = 0; i < n_ways; i++) {          /* the first turn warms up */
                way_turn(&ways[i], TURN_US);
                ways[i].n_samples = ways[i].n_turns = 0;
        }
        for (turn = 0; turn < n_turns; turn++)
                for (i = 0; i < n_ways; i++)
                        way_turn(&ways[i], TURN_US);
        for (i = 0; i < n_ways; i++)
                print_way(&ways[i]);
}

/* --- contend --- */

static void contend(double seconds, Way *way)
{
        puts("ready");
        fflush(stdout);
        if (getchar() == EOF)
                give_up(way->text, "nobody said when to begin");
        way_turn(way, seconds * 1e6);
        printf("%.3f\n", ticks_per_us());
        for (size_t i = 0; i < way->n_samples; i++)
                printf("%ju\n", (uintmax_t)way->samples[i].locked);
}

int main(int argc, char **argv)
{
        Way ways[WAYS_MAX];
        int n_ways = argc - 3;
        double seconds;

        if (n_ways < 1 || n_ways > WAYS_MAX || (seconds = atof(argv[2])) <= 0) {
                fputs(usage, stderr);
                return 2;
        }
        start_clock();
        for (int i = 0; i < n_ways; i++)
                way_init(&ways[i], argv[3 + i]);
        if (strcmp(argv[1], "alternate") == 0) {
                alternate(seconds, ways, n_ways);
        } else if (strcmp(argv[1], "contend") == 0 && n_ways == 1) {
                contend(seconds, ways);
        } else {
                fputs(usage, stderr);
                return 2;
        }
        return 0;
}
