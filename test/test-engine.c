/*
 * The local engine by what it answers. A recorder writes down every callback in
 * a few words ("1 ok, 2 blocks EX"), and a test says what must stand there:
 *   1 ok                 granted or unlocked
 *   1 ok+demoted+lost    with DLM_SBF_DEMOTED, DLM_SBF_VALNOTVALID
 *   1 ok="text"          with a value block
 *   1 again, deadlock, cancelled
 *   1 blocks EX          somebody wants EX of what lock 1 holds
 *   done 0               an operation on a lockspace
 */
#include "engine.h"
#include <errno.h>
#include <string.h>

typedef struct Recorder {
        Engine *engine;
        uint32_t lockspace;                     /* of the last EngineDone; at first an empty one */
        GString *log;
        unsigned completed;                     /* calls, counted also when quiet */
        unsigned blocking;
        gboolean is_quiet;
        void (*on_completed)(struct Recorder *recorder, uint32_t id);
} Recorder;

static void note(Recorder *rec, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void note(Recorder *rec, const char *format, ...)
{
        va_list args;

        if (rec->is_quiet)
                return;
        if (rec->log->len > 0)
                g_string_append(rec->log, ", ");
        va_start(args, format);
        g_string_append_vprintf(rec->log, format, args);
        va_end(args);
}

static const char *status_text(int status)
{
        switch (status) {
        case 0:
                return "ok";
        case -EAGAIN:
                return "again";
        case -EDEADLK:
                return "deadlock";
        case -ECANCELED:
                return "cancelled";
        default:
                return g_strerror(-status);
        }
}

static void record_completed(void *data, uint32_t id, int status, unsigned flags, const uint8_t *value)
{
        Recorder *rec = data;
        g_autofree char *text = value ? g_strdup_printf("=\"%.*s\"", VALUE_LEN, (const char *)value) : NULL;

        rec->completed++;
        note(rec, "%u %s%s%s%s", id, status_text(status), flags & DLM_SBF_DEMOTED ? "+demoted" : "",
             flags & DLM_SBF_VALNOTVALID ? "+lost" : "", text ? text : "");
        if (rec->on_completed)
                rec->on_completed(rec, id);
}

static void record_blocking(void *data, uint32_t id, LockMode mode)
{
        Recorder *rec = data;

        rec->blocking++;
        note(rec, "%u blocks %s", id, mode_to_string(mode));
}

static void record_done(void *data, int status, uint32_t lockspace)
{
        Recorder *rec = data;

        note(rec, "done %d", status);
        rec->lockspace = lockspace;
}

static void record_foreign(void *data, int status, const GArray *locks)
{
        note(data, "foreign %d %u", status, locks->len);
}

static void never_appeared(void *data, uint32_t lockspace, const char *name, const EngineAttr *attr)
{
        g_assert_not_reached();                 /* nobody else can make or end a lockspace */
}

static void never_changed(void *data, uint32_t lockspace, const EngineAttr *attr)
{
        g_assert_not_reached();
}

static void never_gone(void *data, uint32_t lockspace)
{
        g_assert_not_reached();
}

static const EngineEvents recorder_events = {
        .completed = record_completed,
        .blocking = record_blocking,
        .appeared = never_appeared,
        .changed = never_changed,
        .gone = never_gone,
};

static const EngineOps *ops;
static const Options options;
static const EngineAttr attr = { .mode = 0755 };

/* --- what tests say --- */

/* All that has happened since the last time. */
static void expect(Recorder *rec, const char *log)
{
        g_assert_cmpstr(rec->log->str, ==, ""); /* nothing comes from inside a call */
        ops->dispatch(rec->engine);
        g_assert_cmpstr(rec->log->str, ==, log);
        g_string_truncate(rec->log, 0);
}

static void forget(Recorder *rec)
{
        ops->dispatch(rec->engine);
        g_string_truncate(rec->log, 0);
}

static int try_lock(Recorder *rec, const char *name, uint32_t id, LockMode mode, uint32_t flags)
{
        EngineLock lock = {
                .lockspace = rec->lockspace,
                .id = id,
                .mode = mode,
                .flags = flags,
                .name = (const uint8_t *)name,
                .name_len = strlen(name),
        };

        return ops->lock(rec->engine, &lock);
}

static void lock_on(Recorder *rec, const char *name, uint32_t id, LockMode mode, uint32_t flags)
{
        g_assert_cmpint(try_lock(rec, name, id, mode, flags), ==, 0);
}

static void lock(Recorder *rec, uint32_t id, LockMode mode, uint32_t flags)
{
        lock_on(rec, "resource", id, mode, flags);
}

static int try_convert(Recorder *rec, uint32_t id, LockMode mode, uint32_t flags, const char *value)
{
        uint8_t block[VALUE_LEN] = { 0 };

        if (value)
                memcpy(block, value, strlen(value));
        return ops->convert(rec->engine, id, mode, flags, value ? block : NULL);
}

static void convert(Recorder *rec, uint32_t id, LockMode mode, uint32_t flags)
{
        g_assert_cmpint(try_convert(rec, id, mode, flags, NULL), ==, 0);
}

static void convert_with(Recorder *rec, uint32_t id, LockMode mode, uint32_t flags, const char *value)
{
        g_assert_cmpint(try_convert(rec, id, mode, flags, value), ==, 0);
}

static void unlock_with(Recorder *rec, uint32_t id, uint32_t flags, const char *value)
{
        uint8_t block[VALUE_LEN] = { 0 };

        if (value)
                memcpy(block, value, strlen(value));
        g_assert_cmpint(ops->unlock(rec->engine, id, flags, value ? block : NULL), ==, 0);
}

static void unlock(Recorder *rec, uint32_t id)
{
        unlock_with(rec, id, 0, NULL);
}

static void cancel(Recorder *rec, uint32_t id)
{
        ops->cancel(rec->engine, id);
}

/* Which mode does lock @id hold? Found out by what others get beside it. */
static void expect_mode(Recorder *rec, const char *name, LockMode mode)
{
        static const LockMode probes[] = { MODE_CR, MODE_CW, MODE_PR, MODE_PW, MODE_EX };
        const uint32_t id = 1000000;

        for (size_t i = 0; i < G_N_ELEMENTS(probes); i++) {
                lock_on(rec, name, id, probes[i], DLM_LKF_NOQUEUE);
                if (mode_is_compatible(mode, probes[i])) {
                        expect(rec, "1000000 ok");
                        unlock(rec, id);
                        expect(rec, "1000000 ok");
                } else {
                        expect(rec, "1000000 again");
                }
        }
}

static void create(Recorder *rec, const char *name)
{
        g_assert_cmpint(ops->create(rec->engine, name, &attr, record_done, rec), ==, 0);
        expect(rec, "done 0");
}

static void set_up(Recorder *rec, gconstpointer unused)
{
        *rec = (Recorder){ .log = g_string_new(NULL) };
        g_assert_true(ops->start(&options, &recorder_events, rec, &rec->engine, NULL));
        create(rec, "alpha");
}

static void tear_down(Recorder *rec, gconstpointer unused)
{
        ops->stop(rec->engine);
        g_assert_cmpstr(rec->log->str, ==, "");
        g_string_free(rec->log, TRUE);
}

/* --- compatibility --- */

/* Row: held; column: wanted, in the order of the modes. */
static const char *const granted_beside[MODE_COUNT] = {
        "yes yes yes yes yes yes",              /* NL */
        "yes yes yes yes yes no ",              /* CR */
        "yes yes yes no  no  no ",              /* CW */
        "yes yes no  yes no  no ",              /* PR */
        "yes yes no  no  no  no ",              /* PW */
        "yes no  no  no  no  no ",              /* EX */
};

static gboolean is_granted_beside(LockMode held, LockMode wanted)
{
        return granted_beside[held][wanted * 4] == 'y';
}

static void test_requests_follow_the_matrix(Recorder *rec, gconstpointer unused)
{
        for (LockMode held = MODE_NL; held < MODE_COUNT; held++)
                for (LockMode wanted = MODE_NL; wanted < MODE_COUNT; wanted++) {
                        g_autofree char *name = g_strdup_printf("%d-%d", held, wanted);
                        uint32_t id = 1000 + 10 * (held * MODE_COUNT + wanted);
                        g_autofree char *expected =
                                g_strdup_printf("%u ok, %u %s", id, id + 1, is_granted_beside(held, wanted) ? "ok" : "again");

                        lock_on(rec, name, id, held, 0);
                        lock_on(rec, name, id + 1, wanted, DLM_LKF_NOQUEUE);
                        expect(rec, expected);
                }
}

static void test_conversions_follow_the_matrix(Recorder *rec, gconstpointer unused)
{
        for (LockMode held = MODE_NL; held < MODE_COUNT; held++)
                for (LockMode wanted = MODE_NL; wanted < MODE_COUNT; wanted++) {
                        g_autofree char *name = g_strdup_printf("%d-%d", held, wanted);
                        uint32_t id = 1000 + 10 * (held * MODE_COUNT + wanted);
                        g_autofree char *expected = g_strdup_printf("%u %s", id + 1, is_granted_beside(held, wanted) ? "ok" : "again");

                        lock_on(rec, name, id, held, 0);
                        lock_on(rec, name, id + 1, MODE_NL, 0);
                        forget(rec);
                        convert(rec, id + 1, wanted, DLM_LKF_NOQUEUE);
                        expect(rec, expected);
                }
}

static void test_own_mode_does_not_stand_in_the_way(Recorder *rec, gconstpointer unused)
{
        for (LockMode from = MODE_NL; from < MODE_COUNT; from++)
                for (LockMode to = MODE_NL; to < MODE_COUNT; to++) {
                        g_autofree char *name = g_strdup_printf("%d-%d", from, to);

                        lock_on(rec, name, 1, from, 0);
                        expect(rec, "1 ok");
                        convert(rec, 1, to, 0);
                        expect(rec, "1 ok");
                        expect_mode(rec, name, to);
                        unlock(rec, 1);
                        expect(rec, "1 ok");
                }
}

/* --- queues --- */

static void test_waiters_are_granted_in_order(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_PR, 0);
        lock(rec, 3, MODE_PR, 0);
        lock(rec, 4, MODE_EX, 0);
        lock(rec, 5, MODE_PR, 0);
        expect(rec, "1 ok, 1 blocks PR, 1 blocks EX");
        unlock(rec, 1);
        expect(rec, "1 ok, 2 ok, 3 ok, 3 blocks EX, 2 blocks EX");
        unlock(rec, 2);
        expect(rec, "2 ok");
        unlock(rec, 3);
        expect(rec, "3 ok, 4 ok, 4 blocks PR");
        unlock(rec, 4);
        expect(rec, "4 ok, 5 ok");
}

static void test_new_request_waits_behind_waiters(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_EX, 0);
        expect(rec, "1 ok, 1 blocks EX");
        lock(rec, 3, MODE_PR, DLM_LKF_NOQUEUE);
        lock(rec, 4, MODE_NL, 0);
        expect(rec, "3 again");
        cancel(rec, 2);
        expect(rec, "2 cancelled, 4 ok");
}

static void test_new_request_waits_behind_conversions(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_PR, 0);
        forget(rec);
        convert(rec, 1, MODE_EX, 0);
        expect(rec, "2 blocks EX");
        lock(rec, 3, MODE_CR, DLM_LKF_NOQUEUE);
        lock(rec, 4, MODE_CR, 0);
        expect(rec, "3 again");
        unlock(rec, 2);
        expect(rec, "2 ok, 1 ok, 1 blocks CR");
        unlock(rec, 1);
        expect(rec, "1 ok, 4 ok");
}

static void test_conversions_go_before_waiters(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_NL, DLM_LKF_EXPEDITE);
        lock(rec, 3, MODE_EX, 0);
        expect(rec, "1 ok, 2 ok, 1 blocks EX");
        convert(rec, 2, MODE_EX, 0);
        unlock(rec, 1);
        expect(rec, "1 ok, 2 ok, 2 blocks EX");
        unlock(rec, 2);
        expect(rec, "2 ok, 3 ok");
}

static void test_queued_conversions_go_in_order(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        for (uint32_t id = 2; id <= 4; id++)
                lock(rec, id, MODE_NL, 0);
        forget(rec);
        convert(rec, 2, MODE_CW, 0);
        convert(rec, 3, MODE_EX, 0);
        convert(rec, 4, MODE_CW, 0);
        expect(rec, "1 blocks CW, 1 blocks EX");
        unlock(rec, 1);                         /* CW would go beside CW, but EX is before it */
        expect(rec, "1 ok, 2 ok, 2 blocks EX");
        unlock(rec, 2);
        expect(rec, "2 ok, 3 ok, 3 blocks CW");
        unlock(rec, 3);
        expect(rec, "3 ok, 4 ok");
}

static void test_conversion_counts_by_what_it_holds(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_CR, 0);
        lock(rec, 3, MODE_PR, 0);
        forget(rec);
        convert(rec, 1, MODE_EX, 0);
        expect(rec, "3 blocks EX, 2 blocks EX");
        convert(rec, 2, MODE_CW, DLM_LKF_NOQUEUE);
        expect(rec, "2 again");
        unlock(rec, 3);
        convert(rec, 2, MODE_CW, DLM_LKF_NOQUEUE);
        expect(rec, "3 ok, 2 again");           /* the PR of the converting lock */
}

static void test_conversion_overtakes_queues_when_compatible(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_PR, 0);
        lock(rec, 3, MODE_NL, 0);
        forget(rec);
        convert(rec, 1, MODE_EX, 0);
        lock(rec, 4, MODE_EX, 0);
        expect(rec, "2 blocks EX");
        convert(rec, 3, MODE_PR, 0);
        expect(rec, "3 ok, 3 blocks EX");
}

static void test_quecvt_waits_behind_conversions(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_PR, 0);
        lock(rec, 3, MODE_NL, 0);
        lock(rec, 4, MODE_NL, 0);
        forget(rec);
        convert(rec, 3, MODE_CR, DLM_LKF_QUECVT);       /* nothing to wait behind */
        expect(rec, "3 ok");
        convert(rec, 1, MODE_EX, 0);
        convert(rec, 4, MODE_PR, DLM_LKF_QUECVT);
        expect(rec, "2 blocks EX, 3 blocks EX");
        cancel(rec, 1);
        expect(rec, "1 cancelled, 4 ok");
}

static void test_down_conversion_is_granted_at_once(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_EX, 0);
        expect(rec, "1 ok, 1 blocks EX");
        for (int m = MODE_PW; m > MODE_CW; m--) {
                convert(rec, 1, m, 0);
                expect(rec, "1 ok, 1 blocks EX");
        }
        convert(rec, 1, MODE_NL, 0);
        expect(rec, "1 ok, 2 ok");
}

static void test_pr_to_cw_lets_a_conversion_pass(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_CR, 0);
        forget(rec);
        convert(rec, 2, MODE_CW, 0);
        expect(rec, "1 blocks CW");
        convert(rec, 1, MODE_CW, 0);
        expect(rec, "1 ok, 2 ok");
}

static void test_expedite_waits_for_nobody(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_EX, 0);
        lock(rec, 3, MODE_NL, 0);
        lock(rec, 4, MODE_NL, DLM_LKF_EXPEDITE);
        expect(rec, "1 ok, 1 blocks EX, 4 ok");
}

static void test_noorder_overtakes_when_compatible(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_EX, 0);
        expect(rec, "1 ok, 1 blocks EX");
        lock(rec, 3, MODE_PR, DLM_LKF_NOORDER);
        expect(rec, "3 ok");
        lock(rec, 4, MODE_CW, DLM_LKF_NOORDER);
        expect(rec, "3 blocks CW");
        unlock(rec, 3);
        expect(rec, "3 ok");
        convert(rec, 1, MODE_CR, 0);
        expect(rec, "1 ok, 4 ok, 4 blocks EX, 1 blocks EX");
}

static void test_noorder_conversion_overtakes_in_the_queue(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_NL, 0);
        lock(rec, 3, MODE_NL, 0);
        forget(rec);
        convert(rec, 2, MODE_EX, 0);
        convert(rec, 3, MODE_CR, DLM_LKF_NOORDER);
        expect(rec, "1 blocks EX");
        convert(rec, 1, MODE_PW, 0);
        expect(rec, "1 ok, 3 ok, 1 blocks EX, 3 blocks EX");
}

static void test_headque_waits_in_front(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_EX, 0);
        lock(rec, 3, MODE_EX, DLM_LKF_HEADQUE);
        expect(rec, "1 ok, 1 blocks EX");
        unlock(rec, 1);
        expect(rec, "1 ok, 3 ok, 3 blocks EX");
        unlock(rec, 3);
        expect(rec, "3 ok, 2 ok");
}

static void test_headque_conversion_waits_in_front(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_NL, 0);
        lock(rec, 3, MODE_NL, 0);
        forget(rec);
        convert(rec, 2, MODE_EX, 0);
        convert(rec, 3, MODE_EX, DLM_LKF_HEADQUE);
        unlock(rec, 1);
        expect(rec, "1 blocks EX, 1 ok, 3 ok, 3 blocks EX");
        unlock(rec, 3);
        expect(rec, "3 ok, 2 ok");
}

static void test_refused_conversion_keeps_its_mode(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_CR, 0);
        forget(rec);
        convert(rec, 1, MODE_EX, DLM_LKF_NOQUEUE);
        expect(rec, "1 again");
        expect_mode(rec, "resource", MODE_PR);
}

static void test_refused_request_leaves_no_lock(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_EX, DLM_LKF_NOQUEUE);
        expect(rec, "1 ok, 2 again");
        g_assert_cmpint(try_convert(rec, 2, MODE_EX, 0, NULL), ==, -ESTALE);
        unlock(rec, 1);
        lock(rec, 2, MODE_EX, DLM_LKF_NOQUEUE); /* the id is free, and the unlock came first */
        expect(rec, "1 ok, 2 ok");
}

/* --- arguments --- */

static void test_invalid_requests(Recorder *rec, gconstpointer unused)
{
        static const struct {
                LockMode mode;
                uint32_t flags;
        } bad[] = {
                { MODE_COUNT, 0 },
                { (LockMode)-1, 0 },
                { MODE_EX, DLM_LKF_QUECVT },
                { MODE_EX, DLM_LKF_CONVDEADLK },
                { MODE_EX, DLM_LKF_CONVERT },
                { MODE_EX, DLM_LKF_CANCEL },
                { MODE_EX, DLM_LKF_EXPEDITE },
                { MODE_CR, DLM_LKF_EXPEDITE },
                { MODE_NL, DLM_LKF_EXPEDITE | DLM_LKF_NOQUEUE },
                { MODE_NL, DLM_LKF_EXPEDITE | DLM_LKF_QUECVT },
                { MODE_EX, DLM_LKF_ALTPR },
                { MODE_EX, DLM_LKF_ALTCW },
        };

        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_cmpint(try_lock(rec, "resource", 1, bad[i].mode, bad[i].flags), ==, -EINVAL);
        expect(rec, "");
}

static void test_invalid_names(Recorder *rec, gconstpointer unused)
{
        g_autofree char *longest = g_strnfill(64, 'x');
        g_autofree char *longer = g_strnfill(65, 'x');

        g_assert_cmpint(try_lock(rec, "", 1, MODE_EX, 0), ==, -EINVAL);
        g_assert_cmpint(try_lock(rec, longer, 1, MODE_EX, 0), ==, -EINVAL);
        g_assert_cmpint(try_lock(rec, longest, 1, MODE_EX, 0), ==, 0);
        expect(rec, "1 ok");
}

static void test_invalid_conversions(Recorder *rec, gconstpointer unused)
{
        static const uint32_t bad[] = {
                DLM_LKF_EXPEDITE, DLM_LKF_CANCEL, DLM_LKF_ALTPR, DLM_LKF_ALTCW,
                DLM_LKF_CONVDEADLK | DLM_LKF_NOQUEUE, DLM_LKF_EXPEDITE | DLM_LKF_QUECVT,
        };

        lock(rec, 1, MODE_CR, 0);
        expect(rec, "1 ok");
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_cmpint(try_convert(rec, 1, MODE_PR, bad[i], NULL), ==, -EINVAL);
        g_assert_cmpint(try_convert(rec, 1, MODE_COUNT, 0, NULL), ==, -EINVAL);
        g_assert_cmpint(try_convert(rec, 1, (LockMode)-1, 0, NULL), ==, -EINVAL);
        expect(rec, "");
        expect_mode(rec, "resource", MODE_CR);
}

/* QUECVT may ask for more only; between PR and CW each is more than the other. */
static void test_quecvt_is_for_going_up(Recorder *rec, gconstpointer unused)
{
        static const char *const allowed[MODE_COUNT] = {
                /* NL CR CW PR PW EX */
                "no  yes yes yes yes yes",      /* NL */
                "no  no  yes yes yes yes",      /* CR */
                "no  no  no  yes yes yes",      /* CW */
                "no  no  yes no  yes yes",      /* PR */
                "no  no  no  no  no  yes",      /* PW */
                "no  no  no  no  no  no ",      /* EX */
        };

        for (LockMode from = MODE_NL; from < MODE_COUNT; from++)
                for (LockMode to = MODE_NL; to < MODE_COUNT; to++) {
                        int expected = allowed[from][to * 4] == 'y' ? 0 : -EINVAL;

                        lock(rec, 1, from, 0);
                        forget(rec);
                        g_assert_cmpint(try_convert(rec, 1, to, DLM_LKF_QUECVT, NULL), ==, expected);
                        expect(rec, expected == 0 ? "1 ok" : "");
                        unlock(rec, 1);
                        forget(rec);
                }
}

static void test_invalid_unlocks(Recorder *rec, gconstpointer unused)
{
        static const uint32_t bad[] = { DLM_LKF_NOQUEUE, DLM_LKF_CANCEL, DLM_LKF_FORCEUNLOCK, DLM_LKF_CONVERT };

        lock(rec, 1, MODE_EX, 0);
        expect(rec, "1 ok");
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_cmpint(ops->unlock(rec->engine, 1, bad[i], NULL), ==, -EINVAL);
        g_assert_cmpint(ops->unlock(rec->engine, 1, DLM_LKF_VALBLK, NULL), ==, -EINVAL);
        g_assert_cmpint(try_convert(rec, 1, MODE_NL, DLM_LKF_VALBLK, NULL), ==, -EINVAL);
        expect(rec, "");
        expect_mode(rec, "resource", MODE_EX);
}

static void test_one_operation_at_a_time(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);               /* granted, but not told yet */
        g_assert_cmpint(try_convert(rec, 1, MODE_EX, 0, NULL), ==, -EBUSY);
        g_assert_cmpint(ops->unlock(rec->engine, 1, 0, NULL), ==, -EBUSY);
        lock(rec, 2, MODE_PR, 0);
        expect(rec, "1 ok, 2 ok");
        convert(rec, 1, MODE_EX, 0);            /* converting */
        lock(rec, 3, MODE_PR, 0);               /* waiting */
        expect(rec, "2 blocks EX");
        for (uint32_t id = 1; id <= 3; id += 2) {
                g_assert_cmpint(try_convert(rec, id, MODE_NL, 0, NULL), ==, -EBUSY);
                g_assert_cmpint(ops->unlock(rec->engine, id, 0, NULL), ==, -EBUSY);
        }
        unlock(rec, 2);                         /* gone, but not told yet */
        g_assert_cmpint(ops->unlock(rec->engine, 2, 0, NULL), ==, -EBUSY);
        g_assert_cmpint(try_convert(rec, 2, MODE_NL, 0, NULL), ==, -EBUSY);
        expect(rec, "2 ok, 1 ok, 1 blocks PR");
}

/* --- value blocks --- */

/* Leave @text as the value, kept alive by an NL lock @id. */
static void keep_value(Recorder *rec, uint32_t id, const char *text)
{
        lock(rec, id, MODE_EX, 0);
        forget(rec);
        convert_with(rec, id, MODE_NL, DLM_LKF_VALBLK, text);
        forget(rec);
}

static void expect_value(Recorder *rec, const char *log)
{
        lock(rec, 77, MODE_NL, DLM_LKF_EXPEDITE | DLM_LKF_VALBLK);
        expect(rec, log);
        unlock(rec, 77);
        expect(rec, "77 ok");
}

static void test_value_direction_of_conversions(Recorder *rec, gconstpointer unused)
{
        static const char *const directions[MODE_COUNT] = {     /* read, written or neither */
                /*  NL CR CW PR PW EX */
                "r  r  r  r  r  r",             /* NL */
                "-  r  r  r  r  r",             /* CR */
                "-  -  r  r  r  r",             /* CW */
                "-  -  -  r  r  r",             /* PR */
                "w  w  w  w  w  r",             /* PW */
                "w  w  w  w  w  w",             /* EX */
        };

        for (LockMode from = MODE_NL; from < MODE_COUNT; from++)
                for (LockMode to = MODE_NL; to < MODE_COUNT; to++) {
                        char direction = directions[from][to * 3];

                        keep_value(rec, 9, "old");
                        lock(rec, 1, from, 0);
                        expect(rec, "1 ok");
                        convert_with(rec, 1, to, DLM_LKF_VALBLK, "new");
                        expect(rec, direction == 'r' ? "1 ok=\"old\"" : "1 ok");
                        expect_value(rec, direction == 'w' ? "77 ok=\"new\"" : "77 ok=\"old\"");
                        convert(rec, 1, MODE_NL, 0);    /* no VALBLK: nothing moves */
                        expect(rec, "1 ok");
                        expect_value(rec, direction == 'w' ? "77 ok=\"new\"" : "77 ok=\"old\"");
                        unlock(rec, 1);
                        unlock(rec, 9);
                        forget(rec);
                }
}

static void test_value_is_read_by_every_request(Recorder *rec, gconstpointer unused)
{
        keep_value(rec, 9, "old");
        for (LockMode m = MODE_NL; m < MODE_COUNT; m++) {
                lock(rec, 1, m, DLM_LKF_VALBLK);
                expect(rec, "1 ok=\"old\"");
                unlock(rec, 1);
                expect(rec, "1 ok");
                lock(rec, 1, m, 0);
                expect(rec, "1 ok");            /* not asked, not told */
                unlock(rec, 1);
                expect(rec, "1 ok");
        }
}

static void test_value_is_written_by_unlock_of_pw_and_ex(Recorder *rec, gconstpointer unused)
{
        for (LockMode m = MODE_NL; m < MODE_COUNT; m++) {
                keep_value(rec, 9, "old");
                lock(rec, 1, m, DLM_LKF_VALBLK);
                forget(rec);
                unlock_with(rec, 1, DLM_LKF_VALBLK, "new");
                expect(rec, "1 ok");
                expect_value(rec, mode_is_writer(m) ? "77 ok=\"new\"" : "77 ok=\"old\"");
                lock(rec, 1, m, DLM_LKF_VALBLK);
                forget(rec);
                unlock(rec, 1);                 /* plain: leaves it alone */
                expect(rec, "1 ok");
                expect_value(rec, mode_is_writer(m) ? "77 ok=\"new\"" : "77 ok=\"old\"");
                unlock(rec, 9);
                forget(rec);
        }
}

static void test_unlock_writes_only_after_a_request_with_value(Recorder *rec, gconstpointer unused)
{
        keep_value(rec, 9, "old");
        lock(rec, 1, MODE_EX, 0);
        expect(rec, "1 ok");
        unlock_with(rec, 1, DLM_LKF_VALBLK, "new");
        expect(rec, "1 ok");
        expect_value(rec, "77 ok=\"old\"");
        lock(rec, 1, MODE_EX, 0);
        expect(rec, "1 ok");
        unlock_with(rec, 1, DLM_LKF_VALBLK | DLM_LKF_IVVALBLK, NULL);
        expect(rec, "1 ok");
        expect_value(rec, "77 ok=\"old\"");
}

static void test_ivvalblk_of_a_request_counts_at_unlock(Recorder *rec, gconstpointer unused)
{
        keep_value(rec, 9, "old");
        lock(rec, 1, MODE_EX, DLM_LKF_VALBLK | DLM_LKF_IVVALBLK);
        expect(rec, "1 ok=\"old\"");
        expect_value(rec, "77 ok=\"old\"");
        unlock_with(rec, 1, DLM_LKF_VALBLK, "new");
        expect(rec, "1 ok");
        expect_value(rec, "77 ok+lost=\"old\"");
}

static void test_waiter_reads_what_was_written_before_its_grant(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, DLM_LKF_VALBLK);
        lock(rec, 2, MODE_PR, DLM_LKF_VALBLK);
        expect(rec, "1 ok=\"\", 1 blocks PR");
        unlock_with(rec, 1, DLM_LKF_VALBLK, "rev 42");
        expect(rec, "1 ok, 2 ok=\"rev 42\"");
}

static void test_value_is_that_of_the_grant(Recorder *rec, gconstpointer unused)
{
        keep_value(rec, 9, "one");
        lock(rec, 1, MODE_EX, 0);
        forget(rec);
        lock(rec, 2, MODE_NL, DLM_LKF_VALBLK);
        convert_with(rec, 1, MODE_EX, DLM_LKF_VALBLK, "two");
        lock(rec, 3, MODE_NL, DLM_LKF_VALBLK);
        expect(rec, "2 ok=\"one\", 1 ok, 3 ok=\"two\"");
}

static void test_value_has_32_bytes(Recorder *rec, gconstpointer unused)
{
        keep_value(rec, 9, "0123456789abcdef0123456789abcdef");
        expect_value(rec, "77 ok=\"0123456789abcdef0123456789abcdef\"");
}

static void test_value_lives_while_a_lock_exists(Recorder *rec, gconstpointer unused)
{
        keep_value(rec, 9, "old");
        lock(rec, 1, MODE_NL, DLM_LKF_VALBLK);
        unlock(rec, 9);
        expect(rec, "1 ok=\"old\", 9 ok");
        expect_value(rec, "77 ok=\"old\"");
        unlock(rec, 1);
        expect(rec, "1 ok");
        expect_value(rec, "77 ok=\"\"");
}

static void test_lost_value_stays_lost_until_written(Recorder *rec, gconstpointer unused)
{
        keep_value(rec, 9, "old");
        lock(rec, 1, MODE_EX, DLM_LKF_VALBLK);
        expect(rec, "1 ok=\"old\"");
        unlock_with(rec, 1, DLM_LKF_VALBLK | DLM_LKF_IVVALBLK, "not this");
        expect(rec, "1 ok");
        expect_value(rec, "77 ok+lost=\"old\"");
        lock(rec, 1, MODE_EX, DLM_LKF_VALBLK);
        expect(rec, "1 ok+lost=\"old\"");
        convert(rec, 1, MODE_PR, 0);            /* writes nothing */
        expect(rec, "1 ok");
        convert(rec, 1, MODE_PW, DLM_LKF_VALBLK);
        expect(rec, "1 ok+lost=\"old\"");
        convert_with(rec, 1, MODE_PW, DLM_LKF_VALBLK, "new");
        expect(rec, "1 ok");
        expect_value(rec, "77 ok=\"new\"");
        convert(rec, 1, MODE_NL, DLM_LKF_VALBLK | DLM_LKF_IVVALBLK);
        expect(rec, "1 ok");
        expect_value(rec, "77 ok+lost=\"new\"");
        lock(rec, 2, MODE_EX, DLM_LKF_VALBLK);
        expect(rec, "2 ok+lost=\"new\"");
        unlock_with(rec, 2, DLM_LKF_VALBLK, "newer");
        expect(rec, "2 ok");
        expect_value(rec, "77 ok=\"newer\"");
}

static void test_only_writers_can_lose_a_value(Recorder *rec, gconstpointer unused)
{
        for (LockMode m = MODE_NL; m < MODE_COUNT; m++) {
                keep_value(rec, 9, "old");
                lock(rec, 1, m, DLM_LKF_VALBLK);
                forget(rec);
                unlock_with(rec, 1, DLM_LKF_VALBLK | DLM_LKF_IVVALBLK, NULL);
                expect(rec, "1 ok");
                expect_value(rec, mode_is_writer(m) ? "77 ok+lost=\"old\"" : "77 ok=\"old\"");
                unlock(rec, 9);
                forget(rec);
        }
}

/* Two habits of the kernel's set_lvb_lock(). */
static void test_lost_value_shows_as_in_the_kernel(Recorder *rec, gconstpointer unused)
{
        lock(rec, 8, MODE_NL, 0);
        lock(rec, 1, MODE_EX, DLM_LKF_VALBLK);
        forget(rec);
        unlock_with(rec, 1, DLM_LKF_VALBLK | DLM_LKF_IVVALBLK, NULL);
        expect(rec, "1 ok");
        expect_value(rec, "77 ok=\"\"");        /* never written: not lost */

        keep_value(rec, 9, "old");
        lock(rec, 1, MODE_EX, DLM_LKF_VALBLK);
        forget(rec);
        unlock_with(rec, 1, DLM_LKF_VALBLK | DLM_LKF_IVVALBLK, NULL);
        lock(rec, 2, MODE_PR, 0);
        expect(rec, "1 ok, 2 ok");              /* did not ask for the value */
        convert(rec, 2, MODE_CR, 0);
        expect(rec, "2 ok+lost");               /* told on the way down, asked or not */
}

/* --- conversion dead-locks --- */

static void test_second_to_go_up_gets_deadlock(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_PR, 0);
        forget(rec);
        convert(rec, 1, MODE_EX, 0);
        expect(rec, "2 blocks EX");
        convert(rec, 2, MODE_EX, 0);
        expect(rec, "2 deadlock");
        convert(rec, 2, MODE_EX, DLM_LKF_NOQUEUE);
        expect(rec, "2 again");
        unlock(rec, 2);
        expect(rec, "2 ok, 1 ok");
        expect_mode(rec, "resource", MODE_EX);
}

static void test_convdeadlk_gives_way_and_waits(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_PR, 0);
        forget(rec);
        convert(rec, 1, MODE_EX, DLM_LKF_CONVDEADLK);
        expect(rec, "2 blocks EX");
        convert(rec, 2, MODE_EX, DLM_LKF_CONVDEADLK);
        expect(rec, "1 ok, 1 blocks EX");
        unlock(rec, 1);
        expect(rec, "1 ok, 2 ok+demoted");
        convert(rec, 2, MODE_PR, 0);
        expect(rec, "2 ok");                    /* not a word about the former conversion */
}

static void test_holding_up_one_that_is_ahead_is_deadlock_too(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_NL, 0);
        lock(rec, 2, MODE_PR, 0);
        lock(rec, 3, MODE_CR, 0);
        forget(rec);
        convert(rec, 1, MODE_EX, 0);
        expect(rec, "2 blocks EX, 3 blocks EX");
        convert(rec, 2, MODE_EX, 0);
        expect(rec, "2 deadlock");
        convert(rec, 2, MODE_EX, DLM_LKF_CONVDEADLK);
        expect(rec, "");                        /* 3 is in the way of both */
        unlock(rec, 3);
        expect(rec, "3 ok, 1 ok, 1 blocks EX");
        unlock(rec, 1);
        expect(rec, "1 ok, 2 ok+demoted");
}

static void test_waiting_for_one_another_in_turn_is_no_deadlock(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_CR, 0);
        lock(rec, 3, MODE_NL, 0);
        forget(rec);
        convert(rec, 3, MODE_PW, 0);            /* waits for 1; the CR of 2 is no hindrance */
        expect(rec, "1 blocks PW");
        convert(rec, 2, MODE_EX, 0);
        expect(rec, "1 blocks EX");
        unlock(rec, 1);
        expect(rec, "1 ok, 3 ok, 3 blocks EX");
        unlock(rec, 3);
        expect(rec, "3 ok, 2 ok");
}

static void test_demoted_lock_is_granted_when_that_was_all(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_CW, 0);
        lock(rec, 2, MODE_CR, 0);
        forget(rec);
        convert(rec, 2, MODE_PR, 0);            /* waits for the CW of 1 */
        expect(rec, "1 blocks PR");
        convert(rec, 1, MODE_PR, DLM_LKF_QUECVT | DLM_LKF_CONVDEADLK);
        expect(rec, "2 ok, 1 ok+demoted");
}

static void test_conversion_put_in_front_sees_to_deadlocks_later(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_NL, 0);
        lock(rec, 2, MODE_PR, 0);
        lock(rec, 3, MODE_PR, 0);
        forget(rec);
        convert(rec, 2, MODE_EX, DLM_LKF_CONVDEADLK);
        convert(rec, 1, MODE_EX, DLM_LKF_HEADQUE);
        expect(rec, "3 blocks EX");
        unlock(rec, 3);
        expect(rec, "3 ok, 1 ok, 1 blocks EX");
        unlock(rec, 1);
        expect(rec, "1 ok, 2 ok+demoted");
}

static void test_conversion_put_in_front_waits_for_who_may_not_be_demoted(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_NL, 0);
        lock(rec, 2, MODE_PR, 0);
        lock(rec, 3, MODE_PR, 0);
        forget(rec);
        convert(rec, 2, MODE_EX, 0);
        convert(rec, 1, MODE_EX, DLM_LKF_HEADQUE);
        unlock(rec, 3);
        expect(rec, "3 blocks EX, 3 ok");
        cancel(rec, 2);
        expect(rec, "2 cancelled, 2 blocks EX");
        unlock(rec, 2);
        expect(rec, "2 ok, 1 ok");
}

static void test_conversion_put_in_front_demotes_nobody_without_need(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_CR, 0);
        lock(rec, 3, MODE_NL, 0);
        lock(rec, 4, MODE_CR, 0);
        forget(rec);
        convert(rec, 2, MODE_PW, DLM_LKF_CONVDEADLK);
        convert(rec, 3, MODE_PW, DLM_LKF_HEADQUE);
        expect(rec, "1 blocks PW");
        unlock(rec, 4);                         /* its CR was nobody's hindrance */
        expect(rec, "4 ok");
        unlock(rec, 1);
        expect(rec, "1 ok, 3 ok, 3 blocks PW");
        unlock(rec, 3);
        expect(rec, "3 ok, 2 ok");
}

/* --- cancel --- */

static void test_cancelled_waiter_is_gone(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_EX, 0);
        lock(rec, 3, MODE_PR, 0);
        expect(rec, "1 ok, 1 blocks EX");
        cancel(rec, 2);
        expect(rec, "2 cancelled, 3 ok");
        g_assert_cmpint(ops->unlock(rec->engine, 2, 0, NULL), ==, -ESTALE);
        lock(rec, 2, MODE_PR, 0);
        expect(rec, "2 ok");
}

static void test_cancelled_conversion_keeps_its_mode(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_CR, 0);
        lock(rec, 3, MODE_CR, 0);
        forget(rec);
        convert(rec, 1, MODE_EX, DLM_LKF_CONVDEADLK);
        lock(rec, 4, MODE_CR, 0);               /* behind the conversion */
        expect(rec, "3 blocks EX, 2 blocks EX");
        cancel(rec, 1);
        expect(rec, "1 cancelled, 4 ok");
        expect_mode(rec, "resource", MODE_PR);
}

static void test_cancelled_conversion_that_gave_way_has_nl(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_PR, 0);
        forget(rec);
        convert(rec, 1, MODE_EX, 0);
        convert(rec, 2, MODE_EX, DLM_LKF_CONVDEADLK);
        expect(rec, "2 blocks EX, 1 ok, 1 blocks EX");
        cancel(rec, 2);
        expect(rec, "2 cancelled");             /* the kernel does not say demoted either */
        unlock(rec, 1);
        expect(rec, "1 ok");
        expect_mode(rec, "resource", MODE_NL);
        convert(rec, 2, MODE_PR, DLM_LKF_NOQUEUE);
        expect(rec, "2 ok");
}

static void test_cancel_comes_too_late(Recorder *rec, gconstpointer unused)
{
        cancel(rec, 1);                         /* never heard of */
        lock(rec, 1, MODE_EX, 0);
        cancel(rec, 1);                         /* granted, not told */
        expect(rec, "1 ok");
        cancel(rec, 1);                         /* nothing in flight */
        expect(rec, "");
        convert(rec, 1, MODE_PR, 0);
        cancel(rec, 1);
        expect(rec, "1 ok");
        lock(rec, 2, MODE_EX, DLM_LKF_NOQUEUE);
        cancel(rec, 2);                         /* refused, not told */
        expect(rec, "2 again");
        lock(rec, 2, MODE_EX, 0);
        cancel(rec, 2);
        cancel(rec, 2);                         /* cancelled, not told */
        expect(rec, "1 blocks EX, 2 cancelled");
        unlock(rec, 1);
        cancel(rec, 1);                         /* unlocked, not told */
        expect(rec, "1 ok");
}

/* --- blocking callbacks --- */

static void test_blocking_comes_once_for_each_higher_mode(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_CW, 0);
        expect(rec, "1 ok, 1 blocks CW");
        lock(rec, 3, MODE_CW, 0);
        expect(rec, "");
        lock(rec, 4, MODE_PW, 0);
        expect(rec, "1 blocks PW");
        lock(rec, 5, MODE_CW, 0);
        lock(rec, 6, MODE_EX, 0);
        lock(rec, 7, MODE_PW, 0);
        expect(rec, "1 blocks EX");
        for (uint32_t id = 2; id <= 7; id++)    /* nothing says that they gave up … */
                cancel(rec, id);
        forget(rec);
        lock(rec, 8, MODE_EX, 0);               /* … and the latch stays */
        expect(rec, "");
}

static void test_blocking_is_for_incompatible_holders(Recorder *rec, gconstpointer unused)
{
        for (LockMode held = MODE_NL; held < MODE_COUNT; held++)
                for (LockMode wanted = MODE_NL; wanted < MODE_COUNT; wanted++) {
                        g_autofree char *name = g_strdup_printf("%d-%d", held, wanted);
                        g_autofree char *expected = g_strdup_printf("1 blocks %s", mode_to_string(wanted));
                        gboolean is_blocked = !is_granted_beside(held, wanted);

                        lock_on(rec, name, 1, held, 0);
                        expect(rec, "1 ok");
                        lock_on(rec, name, 2, wanted, 0);
                        expect(rec, is_blocked ? expected : "2 ok");
                        if (is_blocked)
                                cancel(rec, 2);
                        else
                                unlock(rec, 2);
                        unlock(rec, 1);
                        expect(rec, is_blocked ? "2 cancelled, 1 ok" : "2 ok, 1 ok");
                }
}

static void test_blocking_is_armed_again_by_a_conversion(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_EX, 0);
        expect(rec, "1 ok, 1 blocks EX");
        convert(rec, 1, MODE_EX, 0);            /* he still waits */
        expect(rec, "1 ok, 1 blocks EX");
        cancel(rec, 2);
        convert(rec, 1, MODE_EX, 0);
        expect(rec, "2 cancelled, 1 ok");
        lock(rec, 3, MODE_EX, 0);
        expect(rec, "1 blocks EX");
}

static void test_blocking_stays_told_when_a_conversion_fails(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_PR, 0);
        lock(rec, 3, MODE_EX, 0);
        expect(rec, "1 ok, 2 ok, 2 blocks EX, 1 blocks EX");
        convert(rec, 1, MODE_EX, DLM_LKF_NOQUEUE);
        expect(rec, "1 again");
        convert(rec, 1, MODE_EX, 0);
        cancel(rec, 1);
        expect(rec, "1 cancelled");
        convert(rec, 1, MODE_EX, 0);
        convert(rec, 2, MODE_EX, 0);
        expect(rec, "2 deadlock");
        cancel(rec, 1);
        expect(rec, "1 cancelled");
}

static void test_told_lock_stays_told_beside_others(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_EX, 0);
        cancel(rec, 2);
        lock(rec, 3, MODE_PR, 0);
        expect(rec, "1 ok, 1 blocks EX, 2 cancelled, 3 ok");
        convert(rec, 1, MODE_CW, 0);
        cancel(rec, 1);
        expect(rec, "3 blocks CW, 1 cancelled");
        lock(rec, 4, MODE_PR, 0);
        lock(rec, 5, MODE_EX, 0);               /* 4 has heard nothing, 3 of CW, 1 of EX */
        ops->dispatch(rec->engine);
        g_assert_cmpuint(rec->blocking, ==, 4);
        g_assert_nonnull(strstr(rec->log->str, "3 blocks EX"));
        g_assert_nonnull(strstr(rec->log->str, "4 blocks EX"));
        g_string_truncate(rec->log, 0);
}

static void test_refused_request_tells_only_when_asked_to(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_EX, DLM_LKF_NOQUEUE);
        expect(rec, "1 ok, 2 again");
        lock(rec, 2, MODE_EX, DLM_LKF_NOQUEUE | DLM_LKF_NOQUEUEBAST);
        lock(rec, 3, MODE_EX, DLM_LKF_NOQUEUE | DLM_LKF_NOQUEUEBAST);
        ops->dispatch(rec->engine);             /* whether told before or after is not promised */
        g_assert_nonnull(strstr(rec->log->str, "2 again"));
        g_assert_nonnull(strstr(rec->log->str, "3 again"));
        g_assert_nonnull(strstr(rec->log->str, "1 blocks EX"));
        g_assert_cmpuint(rec->blocking, ==, 1);
        g_string_truncate(rec->log, 0);
}

static void test_noqueuebast_tells_converting_locks_but_not_itself(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_PR, 0);
        lock(rec, 2, MODE_PR, 0);
        forget(rec);
        convert(rec, 1, MODE_PW, 0);
        expect(rec, "2 blocks PW");
        convert(rec, 2, MODE_EX, DLM_LKF_NOQUEUE | DLM_LKF_NOQUEUEBAST);
        ops->dispatch(rec->engine);
        g_assert_nonnull(strstr(rec->log->str, "2 again"));
        g_assert_nonnull(strstr(rec->log->str, "1 blocks EX"));
        g_assert_null(strstr(rec->log->str, "2 blocks"));
        g_string_truncate(rec->log, 0);
        lock(rec, 3, MODE_EX, 0);               /* 2 has not heard of EX yet, 1 has and is converting */
        expect(rec, "2 blocks EX");
}

static void test_new_holders_hear_of_those_who_wait_already(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_PR, 0);
        lock(rec, 3, MODE_CW, 0);
        lock(rec, 4, MODE_PR, 0);
        expect(rec, "1 ok, 1 blocks PR");       /* 3 and 4 want less or as much */
        unlock(rec, 1);
        expect(rec, "1 ok, 2 ok, 2 blocks CW"); /* the PR that waits too is no hindrance to it */
        unlock(rec, 2);
        expect(rec, "2 ok, 3 ok, 3 blocks PR");
}

/* --- order and the loop --- */

static void unlock_and_go_on(Recorder *rec, uint32_t id)
{
        rec->on_completed = NULL;
        unlock(rec, id);
        lock(rec, 2, MODE_NL, 0);
        lock(rec, 3, MODE_EX, 0);
        cancel(rec, 9);                         /* too late: the unlock has let it in */
}

static void test_callbacks_may_go_on_locking(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 9, MODE_EX, 0);
        lock_on(rec, "other", 8, MODE_EX, 0);
        rec->on_completed = unlock_and_go_on;
        expect(rec, "1 ok, 1 blocks EX, 8 ok, 1 ok, 9 ok, 2 ok, 9 blocks EX");
        unlock(rec, 9);
        expect(rec, "9 ok, 3 ok");
}

static void release_with_force(Recorder *rec, uint32_t id)
{
        rec->on_completed = NULL;
        g_assert_cmpint(ops->release(rec->engine, rec->lockspace, TRUE, record_done, rec), ==, 0);
}

static void test_callback_may_release(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        lock(rec, 2, MODE_EX, 0);
        lock(rec, 3, MODE_EX, DLM_LKF_NOQUEUE);
        rec->on_completed = release_with_force;
        expect(rec, "1 ok, done 0");
}

static void test_main_loop_is_ready_only_while_there_is_something(Recorder *rec, gconstpointer unused)
{
        g_assert_false(g_main_context_pending(NULL));
        lock(rec, 1, MODE_EX, 0);
        g_assert_true(g_main_context_pending(NULL));
        g_assert_true(g_main_context_iteration(NULL, FALSE));
        g_assert_cmpstr(rec->log->str, ==, "1 ok");
        g_string_truncate(rec->log, 0);
        g_assert_false(g_main_context_pending(NULL));
        unlock(rec, 1);
        expect(rec, "1 ok");
        g_assert_false(g_main_context_pending(NULL));
}

/* --- lockspaces --- */

static void test_lockspace_is_created_exclusively(Recorder *rec, gconstpointer unused)
{
        uint32_t alpha = rec->lockspace, beta;

        g_assert_cmpuint(alpha, !=, 0);
        g_assert_cmpint(ops->create(rec->engine, "alpha", &attr, record_done, rec), ==, 0);
        expect(rec, "done -17");
        create(rec, "beta");
        beta = rec->lockspace;
        g_assert_cmpuint(beta, !=, alpha);
        lock(rec, 1, MODE_EX, 0);
        rec->lockspace = alpha;
        lock(rec, 2, MODE_EX, DLM_LKF_NOQUEUE); /* the same name, another resource */
        expect(rec, "1 ok, 2 ok");
}

static void test_lockspace_ids_are_never_used_again(Recorder *rec, gconstpointer unused)
{
        uint32_t last = rec->lockspace;

        for (int i = 0; i < 100; i++) {
                g_assert_cmpint(ops->release(rec->engine, last, FALSE, record_done, rec), ==, 0);
                expect(rec, "done 0");
                create(rec, "alpha");
                g_assert_cmpuint(rec->lockspace, >, last);
                last = rec->lockspace;
        }
}

static void test_release_is_busy_while_locks_exist(Recorder *rec, gconstpointer unused)
{
        uint32_t alpha = rec->lockspace;

        keep_value(rec, 1, "kept");
        g_assert_cmpint(ops->release(rec->engine, alpha, FALSE, record_done, rec), ==, 0);
        expect(rec, "done -16");
        expect_value(rec, "77 ok=\"kept\"");
        unlock(rec, 1);                         /* gone, though not told yet */
        g_assert_cmpint(ops->release(rec->engine, alpha, FALSE, record_done, rec), ==, 0);
        expect(rec, "1 ok, done 0");
        g_assert_cmpint(try_lock(rec, "resource", 1, MODE_EX, 0), ==, -ESTALE);
}

static void test_release_with_force_ends_every_lock(Recorder *rec, gconstpointer unused)
{
        uint32_t alpha = rec->lockspace;

        create(rec, "beta");
        lock(rec, 10, MODE_EX, 0);
        rec->lockspace = alpha;
        lock(rec, 1, MODE_EX, DLM_LKF_VALBLK);
        forget(rec);
        lock(rec, 2, MODE_EX, 0);               /* waiting, and a blocking callback for 1 not told */
        lock(rec, 3, MODE_EX, DLM_LKF_NOQUEUE); /* refused, not told */
        lock_on(rec, "other", 4, MODE_PR, 0);   /* granted, not told */
        lock_on(rec, "third", 5, MODE_PR, 0);
        forget(rec);
        unlock(rec, 5);                         /* unlocked, not told */
        lock_on(rec, "other", 6, MODE_PR, 0);
        convert(rec, 4, MODE_EX, 0);            /* converting */
        unlock(rec, 10);                        /* in another lockspace */
        g_assert_cmpint(ops->set_attr(rec->engine, alpha, &attr, record_done, rec), ==, 0);
        g_assert_cmpint(ops->release(rec->engine, alpha, TRUE, record_done, rec), ==, 0);
        expect(rec, "10 ok, done 0, done 0");
        for (uint32_t id = 1; id <= 6; id++) {
                g_assert_cmpint(ops->unlock(rec->engine, id, 0, NULL), ==, -ESTALE);
                g_assert_cmpint(try_convert(rec, id, MODE_NL, 0, NULL), ==, -ESTALE);
                cancel(rec, id);
        }
        create(rec, "alpha");
        lock(rec, 1, MODE_EX, DLM_LKF_NOQUEUE | DLM_LKF_VALBLK);
        expect(rec, "1 ok=\"\"");
}

static void test_dead_lockspace_is_stale(Recorder *rec, gconstpointer unused)
{
        uint32_t alpha = rec->lockspace;

        g_assert_cmpint(ops->release(rec->engine, alpha, FALSE, record_done, rec), ==, 0);
        expect(rec, "done 0");
        g_assert_cmpint(try_lock(rec, "resource", 1, MODE_EX, 0), ==, -ESTALE);
        g_assert_cmpint(ops->set_attr(rec->engine, alpha, &attr, record_done, rec), ==, -ESTALE);
        g_assert_cmpint(ops->seal(rec->engine, alpha, FALSE, record_done, rec), ==, -ESTALE);
        g_assert_cmpint(ops->release(rec->engine, alpha, TRUE, record_done, rec), ==, -ESTALE);
        g_assert_cmpint(ops->foreign_locks(rec->engine, alpha, record_foreign, rec), ==, -ESTALE);
        ops->unseal(rec->engine, alpha);
        expect(rec, "");
}

static void test_nobody_else_is_there(Recorder *rec, gconstpointer unused)
{
        lock(rec, 1, MODE_EX, 0);
        g_assert_cmpuint(ops->node(rec->engine), ==, 0);
        g_assert_cmpint(ops->set_attr(rec->engine, rec->lockspace, &attr, record_done, rec), ==, 0);
        g_assert_cmpint(ops->seal(rec->engine, rec->lockspace, FALSE, record_done, rec), ==, 0);
        g_assert_cmpint(ops->foreign_locks(rec->engine, rec->lockspace, record_foreign, rec), ==, 0);
        ops->unseal(rec->engine, rec->lockspace);
        expect(rec, "1 ok, done 0, done 0, foreign 0 0");
}

static void test_names_are_bytes(Recorder *rec, gconstpointer unused)
{
        static const uint8_t names[][3] = { { 'a', 0, 'b' }, { 'a', 0, 'c' }, { 0, 0, 0 }, { 0xff, 0, 0 } };
        EngineLock request = { .lockspace = rec->lockspace, .mode = MODE_EX, .flags = DLM_LKF_NOQUEUE };

        for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
                for (size_t len = 2; len <= 3; len++) {
                        request.id++;
                        request.name = names[i];
                        request.name_len = len;
                        g_assert_cmpint(ops->lock(rec->engine, &request), ==, 0);
                }
        /* "a\0" came twice */
        expect(rec, "1 ok, 2 ok, 3 again, 4 ok, 5 ok, 6 ok, 7 ok, 8 ok");
}

static void test_stop_with_everything_under_way(Recorder *rec, gconstpointer unused)
{
        keep_value(rec, 1, "kept");
        lock(rec, 2, MODE_EX, 0);
        lock(rec, 3, MODE_EX, 0);
        lock_on(rec, "other", 4, MODE_PR, 0);
        lock_on(rec, "other", 5, MODE_PR, 0);
        forget(rec);
        convert(rec, 4, MODE_EX, 0);
        lock_on(rec, "other", 6, MODE_NL, DLM_LKF_EXPEDITE | DLM_LKF_VALBLK);
        unlock(rec, 1);
}

/* --- many locks --- */

/* @n holders, @n requests that stand in their way in turn, then @n conversions
 * and @n waiters behind one holder, given up from the back, and all of it let go:
 * what comes to more than a constant per lock shows. */
static void lock_many(Recorder *rec, uint32_t n)
{
        const uint32_t one = n + 1;

        for (uint32_t id = 1; id <= n; id++)
                lock(rec, id, MODE_PR, 0);
        forget(rec);
        for (uint32_t i = 0; i < n; i++) {
                lock(rec, one, MODE_EX, 0);
                cancel(rec, one);
                forget(rec);
        }
        for (uint32_t id = 1; id <= n; id++)
                convert(rec, id, MODE_NL, 0);
        lock(rec, one, MODE_EX, 0);
        forget(rec);
        for (uint32_t id = 1; id <= n; id++)
                convert(rec, id, MODE_EX, 0);
        for (uint32_t id = n; id >= 1; id--)
                cancel(rec, id);
        for (uint32_t id = 1; id <= n; id++)
                lock(rec, one + id, MODE_PR, 0);
        unlock(rec, one);
        forget(rec);
        for (uint32_t id = 1; id <= n; id++) {
                unlock(rec, id);
                unlock(rec, one + id);
        }
        forget(rec);
}

#define ROUNDS 5

/* Fewer where each takes a hundred times as long. */
static uint32_t number_of_locks(void)
{
        const char *number = g_getenv("LOCKSPACEFS_TEST_LOCKS");

        return number ? g_ascii_strtoull(number, NULL, 10) : 100000;
}

/* The best of some rounds: others may want the processor too. */
static double us_per_lock(Recorder *rec, uint32_t n, unsigned repeats)
{
        double best = G_MAXDOUBLE;

        for (unsigned i = 0; i < ROUNDS; i++) {
                gint64 start_us = g_get_monotonic_time();

                for (unsigned j = 0; j < repeats; j++)
                        lock_many(rec, n);
                best = MIN(best, (double)(g_get_monotonic_time() - start_us) / repeats / n);
        }
        return best;
}

static void test_cost_does_not_grow_with_the_number_of_locks(Recorder *rec, gconstpointer unused)
{
        const uint32_t n = number_of_locks();
        double few_us, many_us;

        rec->is_quiet = TRUE;
        few_us = us_per_lock(rec, 10, n / 100);
        rec->completed = rec->blocking = 0;
        many_us = us_per_lock(rec, n, 1);
        g_test_message("%.2f us per lock with 10, %.2f with %u", few_us, many_us, n);

        /* each holder hears once of all who want EX, and so does the one of the conversions */
        g_assert_cmpuint(rec->blocking, ==, ROUNDS * (n + 1));
        /* those that hold: lock, two conversions, unlock; those in their way; the waiters: lock, unlock; the one */
        g_assert_cmpuint(rec->completed, ==, ROUNDS * (4 * n + n + 2 * n + 2));
        g_assert_cmpfloat(many_us, <, 10 * few_us);
}

static void add(const char *name, void (*test)(Recorder *rec, gconstpointer unused))
{
        g_autofree char *path = g_strdup_printf("/engine/%s", name);

        g_test_add(path, Recorder, NULL, set_up, test, tear_down);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        ops = engine_find("local");
        g_assert_nonnull(ops);
        add("requests-follow-the-matrix", test_requests_follow_the_matrix);
        add("conversions-follow-the-matrix", test_conversions_follow_the_matrix);
        add("own-mode-does-not-stand-in-the-way", test_own_mode_does_not_stand_in_the_way);
        add("waiters-are-granted-in-order", test_waiters_are_granted_in_order);
        add("new-request-waits-behind-waiters", test_new_request_waits_behind_waiters);
        add("new-request-waits-behind-conversions", test_new_request_waits_behind_conversions);
        add("conversions-go-before-waiters", test_conversions_go_before_waiters);
        add("queued-conversions-go-in-order", test_queued_conversions_go_in_order);
        add("conversion-counts-by-what-it-holds", test_conversion_counts_by_what_it_holds);
        add("conversion-overtakes-queues-when-compatible", test_conversion_overtakes_queues_when_compatible);
        add("quecvt-waits-behind-conversions", test_quecvt_waits_behind_conversions);
        add("down-conversion-is-granted-at-once", test_down_conversion_is_granted_at_once);
        add("pr-to-cw-lets-a-conversion-pass", test_pr_to_cw_lets_a_conversion_pass);
        add("expedite-waits-for-nobody", test_expedite_waits_for_nobody);
        add("noorder-overtakes-when-compatible", test_noorder_overtakes_when_compatible);
        add("noorder-conversion-overtakes-in-the-queue", test_noorder_conversion_overtakes_in_the_queue);
        add("headque-waits-in-front", test_headque_waits_in_front);
        add("headque-conversion-waits-in-front", test_headque_conversion_waits_in_front);
        add("refused-conversion-keeps-its-mode", test_refused_conversion_keeps_its_mode);
        add("refused-request-leaves-no-lock", test_refused_request_leaves_no_lock);
        add("invalid-requests", test_invalid_requests);
        add("invalid-names", test_invalid_names);
        add("invalid-conversions", test_invalid_conversions);
        add("quecvt-is-for-going-up", test_quecvt_is_for_going_up);
        add("invalid-unlocks", test_invalid_unlocks);
        add("one-operation-at-a-time", test_one_operation_at_a_time);
        add("value-direction-of-conversions", test_value_direction_of_conversions);
        add("value-is-read-by-every-request", test_value_is_read_by_every_request);
        add("value-is-written-by-unlock-of-pw-and-ex", test_value_is_written_by_unlock_of_pw_and_ex);
        add("unlock-writes-only-after-a-request-with-value", test_unlock_writes_only_after_a_request_with_value);
        add("ivvalblk-of-a-request-counts-at-unlock", test_ivvalblk_of_a_request_counts_at_unlock);
        add("waiter-reads-what-was-written-before-its-grant", test_waiter_reads_what_was_written_before_its_grant);
        add("value-is-that-of-the-grant", test_value_is_that_of_the_grant);
        add("value-has-32-bytes", test_value_has_32_bytes);
        add("value-lives-while-a-lock-exists", test_value_lives_while_a_lock_exists);
        add("lost-value-stays-lost-until-written", test_lost_value_stays_lost_until_written);
        add("only-writers-can-lose-a-value", test_only_writers_can_lose_a_value);
        add("lost-value-shows-as-in-the-kernel", test_lost_value_shows_as_in_the_kernel);
        add("second-to-go-up-gets-deadlock", test_second_to_go_up_gets_deadlock);
        add("convdeadlk-gives-way-and-waits", test_convdeadlk_gives_way_and_waits);
        add("holding-up-one-that-is-ahead-is-deadlock-too", test_holding_up_one_that_is_ahead_is_deadlock_too);
        add("waiting-for-one-another-in-turn-is-no-deadlock", test_waiting_for_one_another_in_turn_is_no_deadlock);
        add("demoted-lock-is-granted-when-that-was-all", test_demoted_lock_is_granted_when_that_was_all);
        add("conversion-put-in-front-sees-to-deadlocks-later", test_conversion_put_in_front_sees_to_deadlocks_later);
        add("conversion-put-in-front-waits-for-who-may-not-be-demoted", test_conversion_put_in_front_waits_for_who_may_not_be_demoted);
        add("conversion-put-in-front-demotes-nobody-without-need",
            test_conversion_put_in_front_demotes_nobody_without_need);
        add("cancelled-waiter-is-gone", test_cancelled_waiter_is_gone);
        add("cancelled-conversion-keeps-its-mode", test_cancelled_conversion_keeps_its_mode);
        add("cancelled-conversion-that-gave-way-has-nl", test_cancelled_conversion_that_gave_way_has_nl);
        add("cancel-comes-too-late", test_cancel_comes_too_late);
        add("blocking-comes-once-for-each-higher-mode", test_blocking_comes_once_for_each_higher_mode);
        add("blocking-is-for-incompatible-holders", test_blocking_is_for_incompatible_holders);
        add("blocking-is-armed-again-by-a-conversion", test_blocking_is_armed_again_by_a_conversion);
        add("blocking-stays-told-when-a-conversion-fails", test_blocking_stays_told_when_a_conversion_fails);
        add("told-lock-stays-told-beside-others", test_told_lock_stays_told_beside_others);
        add("refused-request-tells-only-when-asked-to", test_refused_request_tells_only_when_asked_to);
        add("noqueuebast-tells-converting-locks-but-not-itself", test_noqueuebast_tells_converting_locks_but_not_itself);
        add("new-holders-hear-of-those-who-wait-already", test_new_holders_hear_of_those_who_wait_already);
        add("callbacks-may-go-on-locking", test_callbacks_may_go_on_locking);
        add("callback-may-release", test_callback_may_release);
        add("main-loop-is-ready-only-while-there-is-something", test_main_loop_is_ready_only_while_there_is_something);
        add("lockspace-is-created-exclusively", test_lockspace_is_created_exclusively);
        add("lockspace-ids-are-never-used-again", test_lockspace_ids_are_never_used_again);
        add("release-is-busy-while-locks-exist", test_release_is_busy_while_locks_exist);
        add("release-with-force-ends-every-lock", test_release_with_force_ends_every_lock);
        add("dead-lockspace-is-stale", test_dead_lockspace_is_stale);
        add("nobody-else-is-there", test_nobody_else_is_there);
        add("names-are-bytes", test_names_are_bytes);
        add("stop-with-everything-under-way", test_stop_with_everything_under_way);
        add("cost-does-not-grow-with-the-number-of-locks", test_cost_does_not_grow_with_the_number_of_locks);
        return g_test_run();
}
