/*
 * Sequences of calls of the engine local, and the promises of include/engine.h:
 * each operation is completed once and with a status that it can have, no two
 * locks that exclude each other are held at once, nobody waits for nothing, a
 * value that is read was written there, and who stands in the way is told, once
 * for each higher mode. What the DLM's rules say in detail is a matter for
 * test/histories.
 *
 * What is known of a lock is what has been told of it. Events come in the order
 * in which things happened, so that is consistent, but for a conversion with
 * CONVDEADLK: while it is under way nobody knows whether it still holds its mode.
 */
#include "bytes.h"
#include "engine.h"
#include <errno.h>
#include <string.h>

#define SPACES 2
#define RESOURCES 3
#define LOCKS 12                                /* the ids are 1 and up */
#define NOTHING (-1)                            /* held: not granted, or not known */

typedef enum Operation {
        NONE,
        LOCK,
        CONVERT,
        UNLOCK,
} Operation;

typedef struct Lock {
        gboolean is_there;                      /* from lock() until told that it is gone */
        unsigned space, resource;
        int held;                               /* LockMode, as told */
        int told;                               /* the highest mode that somebody was said to want; NOTHING: none */
        Operation operation;                    /* in flight */
        LockMode wanted;                        /* by it */
        uint32_t flags;                         /* its */
        gboolean is_cancelled;
        gint64 place;                           /* in the queue, if it waits there */
        unsigned began;                         /* when: the operation, by count of calls */
        unsigned granted;                       /* when: what it holds */
        uint8_t value[VALUE_LEN];               /* that it writes */
} Lock;

typedef struct Test {
        Engine *engine;
        uint32_t spaces[SPACES];                /* 0: is not there */
        Lock locks[LOCKS + 1];                  /* by id */
        uint32_t writes[SPACES];                /* values written so far, which are numbered */
        gint64 first_place, last_place;
        unsigned calls;
        int outcome;                            /* of the operation on a lockspace; 1: under way */
        uint32_t outcome_space;
} Test;

static const EngineOps *const ops = &engine_local_ops;

static gboolean is_unsure(const Lock *lock)
{
        return lock->operation == CONVERT && (lock->flags & DLM_LKF_CONVDEADLK);
}

static gboolean shares_resource(const Lock *a, const Lock *b)
{
        return a != b && a->is_there && b->is_there && a->space == b->space && a->resource == b->resource;
}

/* Does another lock hold its resource so that @mode cannot be held beside it? Who is not sure does not. */
static gboolean is_excluded(const Test *t, const Lock *lock, LockMode mode)
{
        for (unsigned i = 1; i <= LOCKS; i++) {
                const Lock *other = &t->locks[i];

                if (shares_resource(lock, other) && other->held != NOTHING && !is_unsure(other) && !mode_is_compatible(other->held, mode))
                        return TRUE;
        }
        return FALSE;
}

/* --- what the engine tells --- */

static gboolean writes_value(const Lock *lock)
{
        gboolean is_down = lock->operation == UNLOCK || (lock->operation == CONVERT && (int)lock->wanted <= lock->held);

        return is_down && lock->held != NOTHING && mode_is_writer(lock->held);
}

/* Bytes 0 to 2 of a value say where it was written, then comes its number. */
static void check_value(const Test *t, const Lock *lock, const uint8_t *value)
{
        static const uint8_t zeros[VALUE_LEN];
        uint32_t number;

        g_assert_true((lock->flags & DLM_LKF_VALBLK) && lock->operation != UNLOCK);
        if (memcmp(value, zeros, VALUE_LEN) == 0)
                return;
        g_assert_cmpuint(value[0], ==, 'v');
        g_assert_cmpuint(value[1], ==, lock->space);
        g_assert_cmpuint(value[2], ==, lock->resource);
        memcpy(&number, value + 4, sizeof(number));
        g_assert_true(number >= 1 && number <= t->writes[lock->space]);
}

static void check_status(const Lock *lock, int status, unsigned flags)
{
        switch (status) {
        case 0:
                break;
        case -EAGAIN:
                g_assert_true(lock->operation != UNLOCK && (lock->flags & DLM_LKF_NOQUEUE));
                break;
        case -EDEADLK:
                g_assert_true(lock->operation == CONVERT && !(lock->flags & (DLM_LKF_NOQUEUE | DLM_LKF_CONVDEADLK)));
                break;
        case -ECANCELED:
                g_assert_true(lock->operation != UNLOCK && lock->is_cancelled);
                break;
        default:
                g_assert_not_reached();
        }
        g_assert_cmpuint(flags & ~(unsigned)(DLM_SBF_DEMOTED | DLM_SBF_VALNOTVALID), ==, 0);
        if (flags & DLM_SBF_DEMOTED)
                g_assert_true(is_unsure(lock));
}

static void test_completed(void *data, uint32_t id, int status, unsigned flags, const uint8_t *value)
{
        Test *t = data;
        Lock *lock = &t->locks[id];
        gboolean was_unsure = is_unsure(lock);

        g_assert_true(lock->is_there && lock->operation != NONE);
        check_status(lock, status, flags);
        if (value) {
                g_assert_cmpint(status, ==, 0);
                g_assert_false(writes_value(lock));
                check_value(t, lock, value);
        }
        if (lock->operation == UNLOCK || (lock->operation == LOCK && status < 0)) {
                lock->is_there = FALSE;
                return;
        }
        lock->operation = NONE;
        if (status == 0) {
                lock->held = lock->wanted;
                lock->told = MODE_NL;
                lock->granted = t->calls;
                g_assert_false(is_excluded(t, lock, lock->held));
        } else if (was_unsure) {
                lock->held = NOTHING;           /* it may have NL, and then others what that allows */
        }
}

static void test_blocking(void *data, uint32_t id, LockMode mode)
{
        Test *t = data;
        Lock *lock = &t->locks[id];

        g_assert_true(lock->is_there);
        g_assert_cmpint(mode, >, lock->told);
        lock->told = mode;
        if (lock->held != NOTHING)
                g_assert_false(mode_is_compatible(lock->held, mode));
}

static void test_appeared(void *data, uint32_t lockspace, const char *name, const EngineAttr *attr)
{
        g_assert_not_reached();                 /* nobody else can make one */
}

static void test_changed(void *data, uint32_t lockspace, const EngineAttr *attr)
{
        g_assert_not_reached();
}

static void test_gone(void *data, uint32_t lockspace)
{
        g_assert_not_reached();
}

static const EngineEvents events = {
        .completed = test_completed,
        .blocking = test_blocking,
        .appeared = test_appeared,
        .changed = test_changed,
        .gone = test_gone,
};

static void test_done(void *data, int status, uint32_t lockspace)
{
        Test *t = data;

        g_assert_cmpint(t->outcome, ==, 1);
        t->outcome = status;
        t->outcome_space = lockspace;
}

static void test_foreign_done(void *data, int status, const GArray *locks)
{
        Test *t = data;

        g_assert_cmpint(status, ==, 0);
        g_assert_cmpuint(locks->len, ==, 0);
        t->outcome = 0;
}

/* --- after everything was told --- */

static gboolean has_unsure(const Test *t, unsigned space, unsigned resource)
{
        for (unsigned i = 1; i <= LOCKS; i++) {
                const Lock *lock = &t->locks[i];

                if (lock->is_there && lock->space == space && lock->resource == resource &&
                    (is_unsure(lock) || (lock->operation != LOCK && lock->held == NOTHING)))
                        return TRUE;
        }
        return FALSE;
}

/* Somebody is in the way. Or HEADQUE put it before others, or QUECVT behind them
 * where it minds no order: as in the kernel, such a one is not looked at before
 * something is given up. */
static gboolean has_to_wait(const Test *t, const Lock *lock)
{
        gboolean is_passed_over = (lock->flags & DLM_LKF_HEADQUE) || (lock->flags & DLM_LKF_NOORDER && lock->flags & DLM_LKF_QUECVT);

        return is_passed_over || is_excluded(t, lock, lock->wanted);
}

/* Who held already when @lock began to wait, is in its way and does nothing, was told. */
static void check_told(const Test *t, const Lock *lock)
{
        for (unsigned i = 1; i <= LOCKS; i++) {
                const Lock *other = &t->locks[i];

                if (shares_resource(lock, other) && other->operation == NONE && other->held != NOTHING && other->granted < lock->began &&
                    !mode_is_compatible(other->held, lock->wanted))
                        g_assert_cmpint(other->told, >=, lock->wanted);
        }
}

/* Who is first in a queue waits for somebody who holds. */
static void check_queue(const Test *t, unsigned space, unsigned resource)
{
        const Lock *first[UNLOCK] = { NULL };   /* by operation */

        for (unsigned i = 1; i <= LOCKS; i++) {
                const Lock *lock = &t->locks[i];

                if (!lock->is_there || lock->operation == NONE || lock->space != space || lock->resource != resource)
                        continue;
                g_assert_cmpint(lock->operation, !=, UNLOCK);
                g_assert_false(lock->flags & DLM_LKF_NOQUEUE);
                g_assert_false(lock->is_cancelled);
                check_told(t, lock);
                if (lock->flags & DLM_LKF_NOORDER)
                        g_assert_true(has_to_wait(t, lock));
                if (!first[lock->operation] || lock->place < first[lock->operation]->place)
                        first[lock->operation] = lock;
        }
        if (first[CONVERT])
                g_assert_true(has_to_wait(t, first[CONVERT]));
        else if (first[LOCK])
                g_assert_true(has_to_wait(t, first[LOCK]));
}

static void settle(Test *t)
{
        ops->dispatch(t->engine);
        for (unsigned space = 0; space < SPACES; space++)
                for (unsigned resource = 0; resource < RESOURCES; resource++)
                        if (!has_unsure(t, space, resource))
                                check_queue(t, space, resource);
}

/* --- operations --- */

static int await_outcome(Test *t, int r)
{
        if (r < 0)
                return r;
        ops->dispatch(t->engine);
        g_assert_cmpint(t->outcome, <=, 0);
        return t->outcome;
}

static gboolean is_used(const Test *t, unsigned space)
{
        for (unsigned i = 1; i <= LOCKS; i++)
                if (t->locks[i].is_there && t->locks[i].space == space)
                        return TRUE;
        return FALSE;
}

static void create(Test *t, unsigned space)
{
        static const char *const names[SPACES] = { "alpha", "beta" };
        static const EngineAttr attr = { .mode = 0755 };
        int r;

        t->outcome = 1;
        r = await_outcome(t, ops->create(t->engine, names[space], &attr, test_done, t));
        g_assert_cmpint(r, ==, t->spaces[space] ? -EEXIST : 0);
        if (r == 0) {
                t->spaces[space] = t->outcome_space;
                t->writes[space] = 0;
        }
}

static void look(Test *t, unsigned space)
{
        static const EngineAttr attr = { .mode = 0700 };
        int expected = t->spaces[space] ? 0 : -ESTALE;

        t->outcome = 1;
        g_assert_cmpint(await_outcome(t, ops->set_attr(t->engine, t->spaces[space], &attr, test_done, t)), ==, expected);
        t->outcome = 1;
        g_assert_cmpint(await_outcome(t, ops->foreign_locks(t->engine, t->spaces[space], test_foreign_done, t)), ==, expected);
}

/* Those of locks, most times; any, at times. */
static uint32_t take_flags(Bytes *bytes)
{
        static const uint32_t flags[8] = {
                DLM_LKF_NOQUEUE, DLM_LKF_VALBLK, DLM_LKF_IVVALBLK, DLM_LKF_QUECVT,
                DLM_LKF_CONVDEADLK, DLM_LKF_NOQUEUEBAST, DLM_LKF_HEADQUE, DLM_LKF_NOORDER,
        };
        uint8_t which = bytes_take(bytes);
        uint32_t chosen = 0;

        for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++)
                if (which & 1u << i)
                        chosen |= flags[i];
        if (which == 0xff)
                return DLM_LKF_EXPEDITE;
        if (which == 0xfe)                      /* one that may mean nothing */
                return 1u << (bytes_take(bytes) % 32);
        return chosen;
}

static void begin(Test *t, Lock *lock, Operation operation, LockMode mode, uint32_t flags)
{
        lock->operation = operation;
        lock->wanted = mode;
        lock->flags = flags;
        lock->is_cancelled = FALSE;
        lock->place = flags & DLM_LKF_HEADQUE ? --t->first_place : ++t->last_place;
        lock->began = ++t->calls;
}

static void lock(Test *t, uint32_t id, Bytes *bytes)
{
        static const uint8_t names[RESOURCES][RESOURCE_NAME_MAX + 1] = { "a", { '\0', 0xff }, { 'x' } };
        static const size_t lens[RESOURCES] = { 1, 2, RESOURCE_NAME_MAX };
        uint8_t where = bytes_take(bytes);
        unsigned space = where % SPACES, resource = where / SPACES % RESOURCES;
        Lock *l = &t->locks[id];
        EngineLock request = {
                .lockspace = t->spaces[space],
                .id = id,
                .mode = (LockMode)(bytes_take(bytes) % (MODE_COUNT + 1)),
                .flags = take_flags(bytes),
                .name = names[resource],
                .name_len = where < 0xfe ? lens[resource] : where < 0xff ? 0 : RESOURCE_NAME_MAX + 1,
        };
        int r = ops->lock(t->engine, &request);

        if (t->spaces[space] == 0)
                g_assert_cmpint(r, ==, -ESTALE);
        else if (request.mode >= MODE_COUNT || request.name_len != lens[resource])
                g_assert_cmpint(r, ==, -EINVAL);
        if (r < 0)
                return;
        *l = (Lock){ .is_there = TRUE, .space = space, .resource = resource, .held = NOTHING, .told = NOTHING };
        begin(t, l, LOCK, request.mode, request.flags);
}

static const uint8_t *make_value(Test *t, Lock *lock)
{
        uint32_t number = ++t->writes[lock->space];

        memset(lock->value, 0xa5, VALUE_LEN);
        lock->value[0] = 'v';
        lock->value[1] = lock->space;
        lock->value[2] = lock->resource;
        memcpy(lock->value + 4, &number, sizeof(number));
        return lock->value;
}

static void check_refused(const Lock *lock, int r)
{
        if (!lock->is_there)
                g_assert_true(r == -ESTALE || r == -EINVAL);
        else if (lock->operation != NONE)
                g_assert_true(r == -EBUSY || r == -EINVAL);
        else
                g_assert_true(r == 0 || r == -EINVAL);
}

static void convert(Test *t, uint32_t id, Bytes *bytes)
{
        Lock *l = &t->locks[id];
        LockMode mode = (LockMode)(bytes_take(bytes) % (MODE_COUNT + 1));
        uint32_t flags = take_flags(bytes);
        int r = ops->convert(t->engine, id, mode, flags, l->is_there && l->operation == NONE ? make_value(t, l) : NULL);

        check_refused(l, r);
        if (r == 0)
                begin(t, l, CONVERT, mode, flags);
}

static void unlock(Test *t, uint32_t id, Bytes *bytes)
{
        Lock *l = &t->locks[id];
        uint32_t flags = take_flags(bytes);
        int r = ops->unlock(t->engine, id, flags, l->is_there && l->operation == NONE ? make_value(t, l) : NULL);

        check_refused(l, r);
        if (r == 0)
                begin(t, l, UNLOCK, MODE_NL, flags);
}

static void cancel(Test *t, uint32_t id)
{
        t->locks[id].is_cancelled = TRUE;
        ops->cancel(t->engine, id);
}

static void use_lock(Test *t, uint8_t what, Bytes *bytes)
{
        uint32_t id = 1 + what / 16 % LOCKS;

        switch (what % 16) {
        case 0: case 1: case 2: case 3: case 4:
                if (!t->locks[id].is_there)     /* another id would be taken */
                        lock(t, id, bytes);
                break;
        case 5: case 6: case 7:
                convert(t, id, bytes);
                break;
        case 8: case 9:
                unlock(t, id, bytes);
                break;
        case 10:
                cancel(t, id);
                break;
        }
}

/* By force, what has not been told is lost; else all is told before, as the contract asks. */
static void release(Test *t, unsigned space, gboolean force, Bytes *bytes)
{
        gboolean is_there = t->spaces[space] != 0;
        int r;

        if (!force)
                settle(t);
        t->outcome = 1;
        r = await_outcome(t, ops->seal(t->engine, t->spaces[space], force, test_done, t));
        g_assert_cmpint(r, ==, is_there ? 0 : -ESTALE);
        for (unsigned n = force ? bytes_take(bytes) % 4 : 0; n > 0; n--)
                use_lock(t, bytes_take(bytes), bytes);
        t->outcome = 1;
        r = ops->release(t->engine, t->spaces[space], force, test_done, t);
        if (force && r == 0)
                for (unsigned i = 1; i <= LOCKS; i++)
                        if (t->locks[i].space == space)
                                t->locks[i].is_there = FALSE;
        r = await_outcome(t, r);
        g_assert_cmpint(r, ==, !is_there ? -ESTALE : !force && is_used(t, space) ? -EBUSY : 0);
        if (r == 0)
                t->spaces[space] = 0;
        else if (is_there)
                ops->unseal(t->engine, t->spaces[space]);
}

static void perform(Test *t, Bytes *bytes)
{
        uint8_t what = bytes_take(bytes);
        unsigned space = what / 16 % SPACES;

        switch (what % 16) {
        case 11: case 12:
                settle(t);
                break;
        case 13:
                create(t, space);
                break;
        case 14:
                release(t, space, what >= 0xc0, bytes);
                break;
        case 15:
                look(t, space);
                break;
        default:
                use_lock(t, what, bytes);
        }
}

/* In the end everybody lets go, and nothing is left. */
static void end(Test *t)
{
        Bytes nothing = { 0 };

        settle(t);
        for (unsigned i = 1; i <= LOCKS; i++)
                if (t->locks[i].is_there && t->locks[i].operation != NONE)
                        cancel(t, i);
        settle(t);
        for (unsigned i = 1; i <= LOCKS; i++)
                if (t->locks[i].is_there) {
                        g_assert_cmpint(t->locks[i].operation, ==, NONE);
                        g_assert_cmpint(ops->unlock(t->engine, i, 0, NULL), ==, 0);
                        begin(t, &t->locks[i], UNLOCK, MODE_NL, 0);
                }
        settle(t);
        for (unsigned space = 0; space < SPACES; space++)
                release(t, space, FALSE, &nothing);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const Options options;
        Bytes bytes = { data, size };
        Test t = { 0 };
        g_autoptr(GError) error = NULL;

        g_assert_true(ops->start(&options, &events, &t, &t.engine, &error));
        create(&t, 0);
        create(&t, 1);
        while (bytes.left > 0)
                perform(&t, &bytes);
        if (size % 4 > 0)                       /* else it stops with all that is there */
                end(&t);
        ops->stop(t.engine);
        return 0;
}
