/*
 * An engine on a pipe: reads operations from standard input and prints what
 * comes of them, through include/engine.h alone. test/histories drives it.
 *
 * A line is an operation:
 *   create SPACE                        make the lockspace
 *   await SPACE                         another process makes it
 *   lock ID SPACE RESOURCE MODE FLAGS   MODE and FLAGS are numbers
 *   convert ID MODE FLAGS VALUE         VALUE: 64 hex digits, or "-"
 *   unlock ID FLAGS VALUE
 *   cancel ID
 *   release SPACE FORCE                 FORCE is 0 or 1
 *   sync                                something may have come by others' doing
 *   .                                   print "." once all is told that has happened
 *
 * What is printed:
 *   r STATUS                            how the call ended: 0 or a negative errno
 *   a ID STATUS FLAGS VALUE             completed()
 *   b ID MODE                           blocking()
 *   .
 * create and release wait for their end and print its status.
 *
 * "." works by order, not by time: results of one lockspace come in the order
 * of its calls, so what a call has caused has been told when a later call of
 * ours has been answered: a conversion of an NL lock to NL, on a resource of
 * its own, in every lockspace that was used since the last ".".
 */
#include "engine.h"
#include "mode.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPACES_MAX 8
#define LOCKS_MAX 4096                          /* ids below; barriers' are above */
#define NO_STATUS 1

typedef struct Space {
        char name[LOCKSPACE_NAME_MAX + 1];
        uint32_t id;                            /* 0: is not there */
        gboolean is_used;                       /* since the last "." */
        gboolean has_barrier;
        gboolean in_barrier;                    /* asked, not answered */
} Space;

typedef struct Driver {
        Engine *engine;
        Space spaces[SPACES_MAX];
        unsigned n_spaces;
        Space *lock_spaces[LOCKS_MAX];          /* of the last lock() with that id */
        Space *creating;
        int status;                             /* of the operation on a lockspace; NO_STATUS: under way */
} Driver;

static const EngineOps *ops;

/* --- what the engine tells --- */

static void driver_completed(void *data, uint32_t id, int status, unsigned flags, const uint8_t *value)
{
        Driver *d = data;

        if (id >= LOCKS_MAX) {
                g_assert_cmpint(status, ==, 0);
                d->spaces[id - LOCKS_MAX].in_barrier = FALSE;
                return;
        }
        printf("a %u %d %u ", id, status, flags);
        if (value)
                for (unsigned i = 0; i < VALUE_LEN; i++)
                        printf("%02x", value[i]);
        else
                putchar('-');
        putchar('\n');
}

static void driver_blocking(void *data, uint32_t id, LockMode mode)
{
        printf("b %u %d\n", id, mode);
}

static Space *driver_space(Driver *d, const char *name)
{
        Space *space;

        for (unsigned i = 0; i < d->n_spaces; i++)
                if (g_str_equal(d->spaces[i].name, name))
                        return &d->spaces[i];
        g_assert_cmpuint(d->n_spaces, <, SPACES_MAX);
        space = &d->spaces[d->n_spaces++];
        g_strlcpy(space->name, name, sizeof(space->name));
        return space;
}

static void driver_appeared(void *data, uint32_t lockspace, const char *name, const EngineAttr *attr)
{
        driver_space(data, name)->id = lockspace;
}

static void driver_changed(void *data, uint32_t lockspace, const EngineAttr *attr)
{
}

static void driver_gone(void *data, uint32_t lockspace)
{
        Driver *d = data;

        for (unsigned i = 0; i < d->n_spaces; i++)
                if (d->spaces[i].id == lockspace)
                        d->spaces[i].id = 0;
}

static const EngineEvents driver_events = {
        .completed = driver_completed,
        .blocking = driver_blocking,
        .appeared = driver_appeared,
        .changed = driver_changed,
        .gone = driver_gone,
};

/* --- waiting --- */

static void driver_turn(Driver *d)
{
        g_main_context_iteration(NULL, TRUE);
        ops->dispatch(d->engine);
}

static void await_barrier(Driver *d, Space *space)
{
        space->in_barrier = TRUE;
        ops->dispatch(d->engine);
        while (space->in_barrier)
                driver_turn(d);
}

static void barrier(Driver *d, Space *space)
{
        uint32_t id = LOCKS_MAX + (uint32_t)(space - d->spaces);
        const EngineLock lock = {
                .lockspace = space->id,
                .id = id,
                .mode = MODE_NL,
                .flags = DLM_LKF_EXPEDITE,
                .name = (const uint8_t *)"barrier",
                .name_len = strlen("barrier"),
        };
        int r = space->has_barrier ? ops->convert(d->engine, id, MODE_NL, 0, NULL) : ops->lock(d->engine, &lock);

        g_assert_cmpint(r, ==, 0);
        space->has_barrier = TRUE;
        await_barrier(d, space);
}

static void drop_barrier(Driver *d, Space *space)
{
        if (!space->has_barrier)
                return;
        g_assert_cmpint(ops->unlock(d->engine, LOCKS_MAX + (uint32_t)(space - d->spaces), 0, NULL), ==, 0);
        space->has_barrier = FALSE;
        await_barrier(d, space);
}

static void driver_done(void *data, int status, uint32_t lockspace)
{
        Driver *d = data;

        d->status = status;
}

static void create_done(void *data, int status, uint32_t lockspace)
{
        Driver *d = data;

        if (status == 0)
                d->creating->id = lockspace;
        d->status = status;
}

/* How an operation on a lockspace ends. @r: what the call said. */
static int await_done(Driver *d, int r)
{
        if (r < 0)
                return r;
        while (d->status == NO_STATUS)
                driver_turn(d);
        return d->status;
}

/* --- operations --- */

static int create(Driver *d, Space *space)
{
        static const EngineAttr attr = { .mode = 0755 };

        d->creating = space;
        d->status = NO_STATUS;
        return await_done(d, ops->create(d->engine, space->name, &attr, create_done, d));
}

static int release(Driver *d, Space *space, gboolean force)
{
        int r;

        drop_barrier(d, space);
        d->status = NO_STATUS;
        r = await_done(d, ops->seal(d->engine, space->id, force, driver_done, d));
        if (r < 0)
                return r;
        d->status = NO_STATUS;
        r = await_done(d, ops->release(d->engine, space->id, force, driver_done, d));
        if (r < 0)
                ops->unseal(d->engine, space->id);
        else
                space->id = 0;
        return r;
}

static const uint8_t *parse_value(const char *text, uint8_t value[VALUE_LEN])
{
        if (strlen(text) != 2 * VALUE_LEN)
                return NULL;
        for (unsigned i = 0; i < VALUE_LEN; i++)
                value[i] = g_ascii_xdigit_value(text[2 * i]) << 4 | g_ascii_xdigit_value(text[2 * i + 1]);
        return value;
}

static uint32_t parse_id(Driver *d, const char *text)
{
        uint32_t id = (uint32_t)strtoul(text, NULL, 10);

        g_assert_true(id > 0 && id < LOCKS_MAX);
        if (d->lock_spaces[id])
                d->lock_spaces[id]->is_used = TRUE;
        return id;
}

static uint32_t number(const char *text)
{
        return (uint32_t)strtol(text, NULL, 0);
}

static int lock(Driver *d, char *const words[])
{
        Space *space = driver_space(d, words[2]);
        uint32_t id;

        d->lock_spaces[number(words[1])] = space;
        id = parse_id(d, words[1]);
        return ops->lock(d->engine, &(EngineLock) {
                .lockspace = space->id,
                .id = id,
                .mode = (LockMode)number(words[4]),
                .flags = number(words[5]),
                .name = (const uint8_t *)words[3],
                .name_len = strlen(words[3]),
        });
}

static void settle(Driver *d)
{
        for (unsigned i = 0; i < d->n_spaces; i++)
                if (d->spaces[i].is_used && d->spaces[i].id != 0) {
                        barrier(d, &d->spaces[i]);
                        d->spaces[i].is_used = FALSE;
                }
        puts(".");
        fflush(stdout);
}

/* 0 or a negative errno; NO_STATUS: there is nothing to say. */
static int perform(Driver *d, char *const words[], unsigned n)
{
        uint8_t value[VALUE_LEN];

        if (g_str_equal(words[0], "lock") && n == 6)
                return lock(d, words);
        if (g_str_equal(words[0], "convert") && n == 5)
                return ops->convert(d->engine, parse_id(d, words[1]), (LockMode)number(words[2]), number(words[3]),
                                    parse_value(words[4], value));
        if (g_str_equal(words[0], "unlock") && n == 4)
                return ops->unlock(d->engine, parse_id(d, words[1]), number(words[2]), parse_value(words[3], value));
        if (g_str_equal(words[0], "cancel") && n == 2) {
                ops->cancel(d->engine, parse_id(d, words[1]));
                return 0;
        }
        if (g_str_equal(words[0], "create") && n == 2)
                return create(d, driver_space(d, words[1]));
        if (g_str_equal(words[0], "release") && n == 3)
                return release(d, driver_space(d, words[1]), number(words[2]) != 0);
        if (g_str_equal(words[0], "await") && n == 2) {
                while (driver_space(d, words[1])->id == 0)
                        driver_turn(d);
                return 0;
        }
        if (g_str_equal(words[0], "sync") && n == 1) {
                for (unsigned i = 0; i < d->n_spaces; i++)
                        d->spaces[i].is_used = TRUE;
                return NO_STATUS;
        }
        g_error("no such operation: %s, with %u words", words[0], n);
}

static void driver_run(Driver *d)
{
        char line[512];

        while (fgets(line, sizeof(line), stdin)) {
                char *words[8], *rest = NULL;
                unsigned n = 0;
                int r;

                for (char *word = strtok_r(line, " \n", &rest); word && n < G_N_ELEMENTS(words); word = strtok_r(NULL, " \n", &rest))
                        words[n++] = word;
                if (n == 0)
                        continue;
                if (g_str_equal(words[0], ".")) {
                        settle(d);
                        continue;
                }
                r = perform(d, words, n);
                if (r != NO_STATUS)
                        printf("r %d\n", r);
        }
}

int main(int argc, char **argv)
{
        static const Options options;
        g_autoptr(GError) error = NULL;
        Driver driver = { 0 };

        ops = argc == 2 ? engine_find(argv[1]) : NULL;
        if (!ops) {
                fprintf(stderr, "usage: engine-driver ENGINE\n");
                return 2;
        }
        if (!ops->start(&options, &driver_events, &driver, &driver.engine, &error)) {
                fprintf(stderr, "engine-driver: %s\n", error->message);
                return 1;
        }
        driver_run(&driver);
        ops->stop(driver.engine);
        return 0;
}
