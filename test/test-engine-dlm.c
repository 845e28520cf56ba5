/*
 * The engine dlm on a real kernel DLM: to be run as root on a node of a
 * running cluster (test/cluster/lab), which it leaves as it found it.
 *
 * A recorder writes down every callback in a few words, and a test says what
 * must stand there:
 *   1 ok                 granted or unlocked
 *   1 ok+demoted+lost    with DLM_SBF_DEMOTED, DLM_SBF_VALNOTVALID
 *   1 ok="text"          with a value block
 *   1 again, deadlock, cancelled
 *   1 blocks EX          somebody wants EX of what lock 1 holds
 *   done 0               an operation on a lockspace
 *   web there 750, web changed 700, web gone
 *
 * "Others" are processes of this program, started with a command:
 *   idle NAME            has the device open, without a lock
 *   lock NAME RES MODE   holds a lock
 *   stuck NAME HEALTHY   an engine that holds EX on "r" in HEALTHY while a
 *                        worker of it hangs in NAME, which is stopped
 *   closing NAME HEALTHY the same, but its worker in NAME is idle
 * Each says "ready" when it is, and ends when its standard input does.
 */
#include "dlm-cluster.h"
#include "dlm-control.h"
#include "dlm-device.h"
#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIMEOUT_MS 10000
#define SETTLE_MS 60                            /* for what must not come */
#define QUICK_MS 1000                           /* "at once": also while a lockspace is stopped */

typedef struct Recorder {
        Engine *engine;
        uint32_t lockspace;                     /* the last that was made or has appeared */
        GHashTable *spaces;                     /* that have appeared: ids by name */
        GString *log;
        unsigned completed;                     /* calls, counted also when quiet */
        gboolean is_quiet;
        GArray *foreign;                        /* of EngineForeign: as last answered */
        int foreign_status;
        unsigned foreign_answers;
} Recorder;

typedef struct Child {
        pid_t pid;
        int in;                                 /* its standard input: it ends with it */
        int out;
} Child;

static const EngineOps *ops = &engine_dlm_ops;
static const EngineAttr attr = { .mode = 0750 };
static const char *self;

/* --- the recorder --- */

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
}

static void record_blocking(void *data, uint32_t id, LockMode mode)
{
        note(data, "%u blocks %s", id, mode_to_string(mode));
}

static void record_appeared(void *data, uint32_t lockspace, const char *name, const EngineAttr *found)
{
        Recorder *rec = data;

        rec->lockspace = lockspace;
        g_hash_table_insert(rec->spaces, g_strdup(name), GUINT_TO_POINTER(lockspace));
        note(rec, "%s there", name);
}

static void record_changed(void *data, uint32_t lockspace, const EngineAttr *now)
{
        note(data, "changed %03o %u:%u", now->mode, now->uid, now->gid);
}

static void record_gone(void *data, uint32_t lockspace)
{
        note(data, "gone");
}

static void record_done(void *data, int status, uint32_t lockspace)
{
        Recorder *rec = data;

        if (status == 0 && lockspace != 0)
                rec->lockspace = lockspace;
        note(rec, "done %d", status);
}

static void record_foreign(void *data, int status, const GArray *locks)
{
        Recorder *rec = data;

        g_array_set_size(rec->foreign, 0);
        if (locks)
                g_array_append_vals(rec->foreign, locks->data, locks->len);
        rec->foreign_status = status;
        rec->foreign_answers++;
}

static const EngineEvents recorder_events = {
        .completed = record_completed,
        .blocking = record_blocking,
        .appeared = record_appeared,
        .changed = record_changed,
        .gone = record_gone,
};

static const Options options;

static void recorder_init(Recorder *rec)
{
        g_autoptr(GError) error = NULL;

        *rec = (Recorder) {
                .spaces = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
                .log = g_string_new(NULL),
                .foreign = g_array_new(FALSE, FALSE, sizeof(EngineForeign)),
        };
        ops->start(&options, &recorder_events, rec, &rec->engine, &error);
        g_assert_no_error(error);
}

static void recorder_clear(Recorder *rec)
{
        ops->stop(rec->engine);
        g_hash_table_unref(rec->spaces);
        g_string_free(rec->log, TRUE);
        g_array_unref(rec->foreign);
}

/* --- what tests say --- */

static gboolean wake(gpointer data)
{
        *(gboolean *)data = TRUE;
        return G_SOURCE_REMOVE;
}

/* Run the loop until the log is @log, or for @timeout_ms. */
static void run_until(Recorder *rec, const char *log, unsigned timeout_ms)
{
        gboolean is_over = FALSE;
        guint source = g_timeout_add(timeout_ms, wake, &is_over);

        while (!is_over && !(log && g_str_equal(rec->log->str, log)))
                g_main_context_iteration(NULL, TRUE);
        if (!is_over)
                g_source_remove(source);
}

/* All that happens since the last time. */
static void expect_within(Recorder *rec, const char *log, unsigned timeout_ms)
{
        run_until(rec, log, timeout_ms);
        g_assert_cmpstr(rec->log->str, ==, log);
        g_string_truncate(rec->log, 0);
}

static void expect(Recorder *rec, const char *log)
{
        expect_within(rec, log, TIMEOUT_MS);
}

static void expect_nothing(Recorder *rec)
{
        run_until(rec, NULL, SETTLE_MS);
        g_assert_cmpstr(rec->log->str, ==, "");
}

/* All that happens begins with @log. */
static void expect_first(Recorder *rec, const char *log)
{
        run_until(rec, NULL, SETTLE_MS);
        g_assert_cmpstr(rec->log->str, !=, "");
        g_string_truncate(rec->log, MIN(rec->log->len, strlen(log)));
        g_assert_cmpstr(rec->log->str, ==, log);
        g_string_truncate(rec->log, 0);
}

static void lock(Recorder *rec, uint32_t id, LockMode mode, uint32_t flags, const char *name)
{
        const EngineLock request = {
                .lockspace = rec->lockspace,
                .id = id,
                .mode = mode,
                .flags = flags,
                .name = (const uint8_t *)name,
                .name_len = strlen(name),
        };

        g_assert_cmpint(ops->lock(rec->engine, &request), ==, 0);
}

static const uint8_t *value_of(const char *text)
{
        static uint8_t value[VALUE_LEN];

        memset(value, 0, sizeof(value));
        memcpy(value, text, MIN(strlen(text), sizeof(value)));
        return value;
}

static void convert(Recorder *rec, uint32_t id, LockMode mode, uint32_t flags, const char *text)
{
        g_assert_cmpint(ops->convert(rec->engine, id, mode, flags, text ? value_of(text) : NULL), ==, 0);
}

static void unlock(Recorder *rec, uint32_t id, uint32_t flags, const char *text)
{
        g_assert_cmpint(ops->unlock(rec->engine, id, flags, text ? value_of(text) : NULL), ==, 0);
}

static void unlock_quietly(Recorder *rec, uint32_t id)
{
        g_autofree char *log = g_strdup_printf("%u ok", id);

        unlock(rec, id, 0, NULL);
        expect(rec, log);
}

/* A resource with a value, and an NL lock @id that keeps it. */
static void keep_value(Recorder *rec, uint32_t id, const char *name, const char *text)
{
        g_autofree char *log = g_strdup_printf("%u ok=\"\"", id), *down = g_strdup_printf("%u ok", id);

        lock(rec, id, MODE_EX, DLM_LKF_VALBLK, name);
        expect(rec, log);
        convert(rec, id, MODE_NL, DLM_LKF_VALBLK, text);
        expect(rec, down);
}

static void create(Recorder *rec, const char *name)
{
        g_assert_cmpint(ops->create(rec->engine, name, &attr, record_done, rec), ==, 0);
        expect(rec, "done 0");
}

static void seal(Recorder *rec, gboolean force, const char *log)
{
        g_assert_cmpint(ops->seal(rec->engine, rec->lockspace, force, record_done, rec), ==, 0);
        expect(rec, log);
}

static void release(Recorder *rec)
{
        seal(rec, FALSE, "done 0");
        g_assert_cmpint(ops->release(rec->engine, rec->lockspace, FALSE, record_done, rec), ==, 0);
        expect(rec, "done 0");
}

/* --- the machine --- */

static void run_command(const char *format, ...) G_GNUC_PRINTF(1, 2);

static void run_command(const char *format, ...)
{
        g_autoptr(GError) error = NULL;
        g_autofree char *command = NULL, *said = NULL;
        va_list args;
        int status;

        va_start(args, format);
        command = g_strdup_vprintf(format, args);
        va_end(args);
        g_assert_true(g_spawn_command_line_sync(command, &said, NULL, &status, &error));
        if (!g_spawn_check_wait_status(status, &error))
                g_error("%s: %s%s", command, said, error->message);
}

/* Upon it udev gives the device its own mode again. */
static void send_change_event(const char *name)
{
        run_command("udevadm trigger --action=change /sys/devices/virtual/misc/dlm_%s", name);
        run_command("udevadm settle --timeout=10");
}

/* Stop or start the lockspace on this node, as a recovery would. */
static void set_running(const char *name, gboolean running)
{
        g_autofree char *path = g_strdup_printf("/sys/kernel/dlm/%s/control", name);
        int fd = open(path, O_WRONLY);

        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(write(fd, running ? "1" : "0", 1), ==, 1);
        close(fd);
}

static void assert_device(const char *name, unsigned mode, uid_t uid, gid_t gid)
{
        g_autofree char *path = g_strdup_printf("/dev/dlm_%s", name);
        struct stat st;

        g_assert_cmpint(stat(path, &st), ==, 0);
        g_assert_cmpuint(st.st_mode & 0777, ==, mode);
        g_assert_cmpuint(st.st_uid, ==, uid);
        g_assert_cmpuint(st.st_gid, ==, gid);
}

static gboolean has_device(const char *name)
{
        g_autofree char *path = g_strdup_printf("/dev/dlm_%s", name);

        return access(path, F_OK) == 0;
}

/* Has a thread of ours the device open? */
static gboolean is_open_here(const char *name)
{
        g_autofree char *path = g_strdup_printf("/dev/dlm_%s", name);
        DIR *tasks = opendir("/proc/self/task");
        struct dirent *task, *fd;
        gboolean is_open = FALSE;

        while ((task = readdir(tasks))) {
                g_autofree char *folder = g_strdup_printf("/proc/self/task/%s/fd", task->d_name);
                DIR *fds = task->d_name[0] == '.' ? NULL : opendir(folder);

                while (fds && (fd = readdir(fds))) {
                        g_autofree char *link = g_strdup_printf("%s/%s", folder, fd->d_name), *to = g_file_read_link(link, NULL);

                        is_open |= to && g_str_equal(to, path);
                }
                if (fds)
                        closedir(fds);
        }
        closedir(tasks);
        return is_open;
}

static Child child_start(const char *a, const char *b, const char *c, const char *d)
{
        const char *argv[] = { self, a, b, c, d, NULL };
        g_autoptr(GError) error = NULL;
        struct pollfd out = { .events = POLLIN };
        Child child;
        char line[64];
        ssize_t n;

        g_spawn_async_with_pipes(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &child.pid, &child.in, &child.out, NULL,
                                 &error);
        g_assert_no_error(error);
        out.fd = child.out;
        g_assert_cmpint(poll(&out, 1, TIMEOUT_MS), ==, 1);
        n = read(child.out, line, sizeof(line) - 1);
        g_assert_cmpint(n, >, 0);
        line[n] = '\0';
        g_assert_cmpstr(line, ==, "ready\n");
        return child;
}

static void child_end(Child *child)
{
        close(child->in);
        close(child->out);
        g_assert_cmpint(waitpid(child->pid, NULL, 0), ==, child->pid);
}

/* --- tests: lockspaces --- */

static void test_create_and_release(void)
{
        Recorder rec;
        uint32_t id;

        recorder_init(&rec);
        create(&rec, "t-create");
        id = rec.lockspace;
        assert_device("t-create", 0640, 0, 0);
        g_assert_cmpint(access("/dev/misc/dlm_t-create", F_OK), ==, 0);

        seal(&rec, FALSE, "done 0");
        assert_device("t-create", 0, 0, 0);
        ops->unseal(rec.engine, id);
        assert_device("t-create", 0640, 0, 0);

        release(&rec);
        g_assert_false(has_device("t-create"));
        g_assert_cmpint(ops->seal(rec.engine, id, FALSE, record_done, &rec), ==, -ESTALE);

        create(&rec, "t-create");
        g_assert_cmpuint(rec.lockspace, !=, id);
        release(&rec);
        expect_nothing(&rec);                   /* ours neither appear nor go */
        recorder_clear(&rec);
}

static void test_create_exists(void)
{
        Recorder rec;

        recorder_init(&rec);
        g_assert_cmpint(ops->create(rec.engine, "t-exists", &attr, record_done, &rec), ==, 0);
        g_assert_cmpint(ops->create(rec.engine, "t-exists", &attr, record_done, &rec), ==, -EBUSY);
        expect(&rec, "done 0");
        g_assert_cmpint(ops->create(rec.engine, "t-exists", &attr, record_done, &rec), ==, -EEXIST);
        release(&rec);
        recorder_clear(&rec);
}

static void test_default_lockspace(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "default");
        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        unlock_quietly(&rec, 1);
        release(&rec);
        recorder_clear(&rec);
}

static void test_attr(void)
{
        static const EngineAttr other = { .uid = 7, .gid = 8, .mode = 0770 };
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-attr");
        g_assert_cmpint(ops->set_attr(rec.engine, rec.lockspace, &other, record_done, &rec), ==, 0);
        expect(&rec, "done 0");
        assert_device("t-attr", 0660, 7, 8);
        expect_nothing(&rec);

        run_command("chown 9:10 /dev/dlm_t-attr");
        expect(&rec, "changed 770 9:10");
        run_command("chmod 604 /dev/dlm_t-attr");
        expect(&rec, "changed 705 9:10");
        release(&rec);
        recorder_clear(&rec);
}

static void test_udev_reset(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-udev");
        send_change_event("t-udev");
        expect_nothing(&rec);
        assert_device("t-udev", 0640, 0, 0);

        seal(&rec, FALSE, "done 0");
        send_change_event("t-udev");
        expect_nothing(&rec);
        assert_device("t-udev", 0, 0, 0);
        g_assert_cmpint(ops->release(rec.engine, rec.lockspace, FALSE, record_done, &rec), ==, 0);
        expect(&rec, "done 0");
        recorder_clear(&rec);
}

static void test_others_lockspaces(void)
{
        Recorder rec, late;
        EngineLock request = { .id = 2, .mode = MODE_PR, .name = (const uint8_t *)"r", .name_len = 1 };

        recorder_init(&rec);
        run_command("dlm_tool join t-others");
        expect_first(&rec, "t-others there");   /* and then its mode changes, by udev and by libdlm */
        g_assert_cmpint(ops->create(rec.engine, "t-others", &attr, record_done, &rec), ==, -EEXIST);
        recorder_init(&late);
        expect(&late, "t-others there");        /* was there at start */

        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        request.lockspace = rec.lockspace;
        /* It ends only when we have closed the device. */
        g_spawn_command_line_async("dlm_tool leave t-others", NULL);
        expect(&rec, "gone");
        expect(&late, "gone");
        g_assert_false(has_device("t-others"));
        g_assert_cmpint(ops->lock(rec.engine, &request), ==, -ESTALE);
        g_assert_cmpint(ops->unlock(rec.engine, 1, 0, NULL), ==, -ESTALE);

        create(&rec, "t-others");               /* nothing of ours is left in the way */
        expect_first(&late, "t-others there");
        release(&rec);
        expect(&late, "gone");                  /* that it was sealed before is nobody's business */
        recorder_clear(&late);
        recorder_clear(&rec);
}

/* While we only look at a lockspace, others can release it. */
static void test_device_is_closed_when_idle(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-idle");
        g_assert_false(is_open_here("t-idle"));
        lock(&rec, 1, MODE_PR, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        g_assert_true(is_open_here("t-idle"));
        unlock_quietly(&rec, 1);
        run_until(&rec, NULL, 1500);
        g_assert_false(is_open_here("t-idle"));
        lock(&rec, 1, MODE_PR, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        unlock_quietly(&rec, 1);
        release(&rec);
        recorder_clear(&rec);
}

/* --- tests: release --- */

static void test_seal_is_busy_by_idle_opener(void)
{
        Recorder rec;
        Child child;

        recorder_init(&rec);
        create(&rec, "t-busy");
        child = child_start("idle", "t-busy", NULL, NULL);
        seal(&rec, FALSE, "done -16");          /* EBUSY */
        assert_device("t-busy", 0640, 0, 0);
        child_end(&child);
        release(&rec);
        recorder_clear(&rec);
}

/* Another lockspacefs has its devices in the tables of single threads. */
static void test_seal_is_busy_by_other_engine(void)
{
        Recorder rec, other;
        Child child;

        recorder_init(&rec);
        recorder_init(&other);
        create(&rec, "t-busy1");
        create(&rec, "t-busy2");
        keep_value(&rec, 1, "r", "old");
        child = child_start("closing", "t-busy1", "t-busy2", NULL);
        seal(&rec, FALSE, "done -16");
        set_running("t-busy1", TRUE);           /* while stopped its end would not come */
        child_end(&child);
        unlock_quietly(&rec, 1);
        release(&rec);                          /* t-busy2 */
        rec.lockspace--;
        release(&rec);
        recorder_clear(&other);
        recorder_clear(&rec);
}

static void test_own_locks_do_not_seal_out(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-own");
        lock(&rec, 1, MODE_NL, DLM_LKF_EXPEDITE | DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        seal(&rec, FALSE, "done 0");
        g_assert_cmpint(ops->release(rec.engine, rec.lockspace, FALSE, record_done, &rec), ==, -EBUSY);
        unlock_quietly(&rec, 1);
        g_assert_cmpint(ops->release(rec.engine, rec.lockspace, FALSE, record_done, &rec), ==, 0);
        expect(&rec, "done 0");
        recorder_clear(&rec);
}

static void test_forced_release(void)
{
        Recorder rec;
        Child child;

        recorder_init(&rec);
        create(&rec, "t-force");
        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        lock(&rec, 2, MODE_PR, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 blocks PR");
        child = child_start("idle", "t-force", NULL, NULL);

        seal(&rec, TRUE, "done 0");
        g_assert_cmpint(ops->release(rec.engine, rec.lockspace, TRUE, record_done, &rec), ==, 0);
        expect_within(&rec, "done 0", 5000);
        g_assert_false(has_device("t-force"));
        g_assert_cmpint(ops->unlock(rec.engine, 1, 0, NULL), ==, -ESTALE);
        g_assert_true(ops->is_lingering(rec.engine));
        g_assert_cmpint(ops->create(rec.engine, "t-force", &attr, record_done, &rec), ==, -EBUSY);
        g_assert_cmpint(ops->create(rec.engine, "t-force2", &attr, record_done, &rec), ==, 0);
        expect_nothing(&rec);

        child_end(&child);                      /* only now can the kernel finish */
        expect(&rec, "done 0");
        g_assert_false(ops->is_lingering(rec.engine));
        release(&rec);
        create(&rec, "t-force");
        release(&rec);
        recorder_clear(&rec);
}

/* libdlm's create without NEWEXCL only counts; so does the kernel's release. */
static void test_release_of_lockspace_made_twice(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-twice");
        run_command("dlm_tool join t-twice");
        run_until(&rec, NULL, SETTLE_MS);
        g_string_truncate(rec.log, 0);          /* libdlm's create sets its own mode */
        release(&rec);
        g_assert_false(has_device("t-twice"));
        recorder_clear(&rec);
}

/* Whoever comes late with his release, since his worker had something else to do, finds the next one's minor. */
static void test_release_of_a_minor_that_is_anothers(void)
{
        DlmNode late, next;
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-late");
        g_assert_cmpint(dlm_node_stat("t-late", &late), ==, 0);
        release(&rec);
        create(&rec, "t-next");
        g_assert_cmpint(dlm_node_stat("t-next", &next), ==, 0);
        g_assert_cmpuint(next.rdev, ==, late.rdev);
        for (int force = FALSE; force <= TRUE; force++) {
                g_assert_cmpint(dlm_control_release("t-late", &late, 1, force), ==, 0);
                g_assert_true(has_device("t-next"));
        }
        expect_nothing(&rec);
        release(&rec);
        recorder_clear(&rec);
}

/* --- tests: locks --- */

static void test_modes(void)
{
        /* Held above, asked for at the left: the DLM's matrix. */
        static const char *const compatible[MODE_COUNT] = {
                /* NL CR CW PR PW EX */
                "yyyyyy", "yyyyyn", "yyynnn", "yynynn", "yynnnn", "ynnnnn",
        };
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-modes");
        for (int held = 0; held < MODE_COUNT; held++)
                for (int wanted = 0; wanted < MODE_COUNT; wanted++) {
                        gboolean is_granted = compatible[held][wanted] == 'y';

                        lock(&rec, 1, held, DLM_LKF_VALBLK, "r");
                        expect(&rec, "1 ok=\"\"");
                        lock(&rec, 2, wanted, DLM_LKF_VALBLK | DLM_LKF_NOQUEUE, "r");
                        expect(&rec, is_granted ? "2 ok=\"\"" : "2 again");
                        if (is_granted)
                                unlock_quietly(&rec, 2);
                        unlock_quietly(&rec, 1);
                }
        release(&rec);
        recorder_clear(&rec);
}

static void test_waiting_and_blocking(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-wait");
        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        lock(&rec, 2, MODE_CR, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 blocks CR");
        lock(&rec, 3, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 blocks EX");
        lock(&rec, 4, MODE_PR, DLM_LKF_VALBLK, "r");
        expect_nothing(&rec);                   /* EX was said already */
        unlock(&rec, 1, DLM_LKF_VALBLK, "hello");
        expect(&rec, "1 ok, 2 ok=\"hello\", 2 blocks EX");
        unlock(&rec, 2, 0, NULL);
        expect(&rec, "2 ok, 3 ok=\"hello\", 3 blocks PR");
        unlock(&rec, 3, 0, NULL);
        expect(&rec, "3 ok, 4 ok=\"hello\"");
        unlock_quietly(&rec, 4);
        release(&rec);
        recorder_clear(&rec);
}

static void test_unlock_goes_before_try(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-order");
        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        for (int i = 0; i < 200; i++) {
                unlock(&rec, 1 + i % 2, 0, NULL);
                lock(&rec, 2 - i % 2, MODE_EX, DLM_LKF_VALBLK | DLM_LKF_NOQUEUE, "r");
                expect(&rec, i % 2 ? "2 ok, 1 ok=\"\"" : "1 ok, 2 ok=\"\"");
        }
        unlock_quietly(&rec, 1);
        release(&rec);
        recorder_clear(&rec);
}

static void test_values(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-values");
        lock(&rec, 9, MODE_NL, DLM_LKF_EXPEDITE | DLM_LKF_VALBLK, "r");         /* keeps it alive */
        expect(&rec, "9 ok=\"\"");
        lock(&rec, 1, MODE_PR, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        convert(&rec, 1, MODE_EX, DLM_LKF_VALBLK, NULL);        /* never written: still empty */
        expect(&rec, "1 ok=\"\"");
        convert(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "one");       /* an fsync */
        expect(&rec, "1 ok");
        lock(&rec, 2, MODE_NL, DLM_LKF_EXPEDITE | DLM_LKF_VALBLK, "r");
        expect(&rec, "2 ok=\"one\"");
        unlock_quietly(&rec, 2);
        convert(&rec, 1, MODE_PR, DLM_LKF_VALBLK, "two");
        expect(&rec, "1 ok");
        convert(&rec, 1, MODE_CR, DLM_LKF_VALBLK, NULL);        /* from PR down nothing moves */
        expect(&rec, "1 ok");
        convert(&rec, 1, MODE_PW, DLM_LKF_VALBLK, NULL);
        expect(&rec, "1 ok=\"two\"");
        convert(&rec, 1, MODE_EX, DLM_LKF_VALBLK, NULL);        /* PW to EX reads */
        expect(&rec, "1 ok=\"two\"");
        unlock(&rec, 1, DLM_LKF_VALBLK, "three");
        expect(&rec, "1 ok");

        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"three\"");
        unlock_quietly(&rec, 1);                                /* without VALBLK: leaves the value alone */
        lock(&rec, 1, MODE_PW, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"three\"");
        unlock(&rec, 1, DLM_LKF_VALBLK | DLM_LKF_IVVALBLK, "lost");
        expect(&rec, "1 ok");
        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect_first(&rec, "1 ok+lost");
        unlock_quietly(&rec, 1);                                /* keeps it marked */
        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect_first(&rec, "1 ok+lost");
        unlock(&rec, 1, DLM_LKF_VALBLK, "again");
        expect(&rec, "1 ok");
        lock(&rec, 1, MODE_CR, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"again\"");
        unlock_quietly(&rec, 1);
        unlock_quietly(&rec, 9);
        release(&rec);
        recorder_clear(&rec);
}

static void test_value_of_killed_writer_is_lost(void)
{
        Recorder rec;
        Child child;

        recorder_init(&rec);
        create(&rec, "t-killed");
        keep_value(&rec, 1, "r", "old");
        child = child_start("lock", "t-killed", "r", "EX");
        lock(&rec, 2, MODE_PR, DLM_LKF_VALBLK, "r");
        expect_nothing(&rec);
        kill(child.pid, SIGKILL);
        child_end(&child);
        expect(&rec, "2 ok+lost=\"old\"");
        unlock_quietly(&rec, 2);
        unlock_quietly(&rec, 1);
        release(&rec);
        recorder_clear(&rec);
}

static void test_cancel(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-cancel");
        lock(&rec, 1, MODE_PR, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        lock(&rec, 2, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 blocks EX");
        ops->cancel(rec.engine, 2);
        expect(&rec, "2 cancelled");
        lock(&rec, 2, MODE_PR, DLM_LKF_VALBLK, "r");            /* the id is free at once */
        expect(&rec, "2 ok=\"\"");
        convert(&rec, 2, MODE_EX, DLM_LKF_VALBLK, NULL);
        expect_nothing(&rec);                                   /* lock 1 was told of EX already */
        ops->cancel(rec.engine, 2);
        ops->cancel(rec.engine, 2);
        expect(&rec, "2 cancelled");
        lock(&rec, 3, MODE_PW, DLM_LKF_VALBLK | DLM_LKF_NOQUEUE, "r");
        expect(&rec, "3 again");                                /* PR is kept */
        ops->cancel(rec.engine, 1);                             /* nothing is in flight */
        ops->cancel(rec.engine, 77);
        expect_nothing(&rec);
        unlock_quietly(&rec, 1);
        unlock_quietly(&rec, 2);
        release(&rec);
        recorder_clear(&rec);
}

static void test_deadlock(void)
{
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-dead");
        lock(&rec, 1, MODE_PR, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        lock(&rec, 2, MODE_PR, DLM_LKF_VALBLK, "r");
        expect(&rec, "2 ok=\"\"");
        convert(&rec, 1, MODE_EX, DLM_LKF_VALBLK, NULL);
        expect(&rec, "2 blocks EX");
        convert(&rec, 2, MODE_EX, DLM_LKF_VALBLK, NULL);
        expect(&rec, "2 deadlock");                             /* and keeps PR */
        convert(&rec, 2, MODE_EX, DLM_LKF_VALBLK | DLM_LKF_CONVDEADLK, NULL);
        expect(&rec, "1 ok=\"\", 1 blocks EX");
        unlock(&rec, 1, DLM_LKF_VALBLK, "mine");
        expect(&rec, "1 ok, 2 ok+demoted=\"mine\"");
        unlock_quietly(&rec, 2);
        release(&rec);
        recorder_clear(&rec);
}

static void test_refused_flags(void)
{
        static const struct {
                LockMode mode;
                uint32_t flags;
        } bad[] = {
                { MODE_NL, DLM_LKF_NOQUEUE | DLM_LKF_EXPEDITE },
                { MODE_PR, DLM_LKF_EXPEDITE },
                { MODE_PR, DLM_LKF_QUECVT },
                { MODE_PR, DLM_LKF_CONVDEADLK },
                { MODE_PR, DLM_LKF_CONVERT },
                { MODE_PR, DLM_LKF_PERSISTENT },
                { 6, 0 },
        };
        EngineLock request = { .id = 1, .name = (const uint8_t *)"r", .name_len = 1 };
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-flags");
        request.lockspace = rec.lockspace;
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                request.mode = bad[i].mode;
                request.flags = bad[i].flags;
                g_assert_cmpint(ops->lock(rec.engine, &request), ==, -EINVAL);
        }
        request = (EngineLock) { .lockspace = rec.lockspace, .id = 1, .name = (const uint8_t *)"r" };
        g_assert_cmpint(ops->lock(rec.engine, &request), ==, -EINVAL);
        lock(&rec, 1, MODE_PR, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        g_assert_cmpint(ops->convert(rec.engine, 1, MODE_CR, DLM_LKF_QUECVT, NULL), ==, -EINVAL);
        g_assert_cmpint(ops->convert(rec.engine, 1, MODE_EX, DLM_LKF_CONVDEADLK | DLM_LKF_NOQUEUE, NULL), ==, -EINVAL);
        unlock_quietly(&rec, 1);
        release(&rec);
        recorder_clear(&rec);
}

/* Random locks, converts, unlocks and cancels: each operation completes once. */
static void test_storm(void)
{
        enum { LOCKS = 40, ROUNDS = 5000 };
        gboolean is_held[LOCKS + 1] = { FALSE };
        Recorder rec;

        recorder_init(&rec);
        create(&rec, "t-storm");
        g_test_message("%d operations", ROUNDS);
        for (int i = 0; i < ROUNDS; i++) {
                uint32_t id = 1 + g_test_rand_int_range(0, LOCKS);
                const char name[] = { 'a' + id % 5, '\0' };
                unsigned before = rec.completed;
                int what = g_test_rand_int_range(0, 3);

                if (!is_held[id])
                        lock(&rec, id, g_test_rand_int_range(0, MODE_COUNT), DLM_LKF_VALBLK, name);
                else if (what == 0)
                        convert(&rec, id, g_test_rand_int_range(0, MODE_COUNT), DLM_LKF_VALBLK, "x");
                else
                        unlock(&rec, id, what == 1 ? DLM_LKF_VALBLK : 0, "y");
                if (what == 2 || g_test_rand_bit())
                        ops->cancel(rec.engine, id);
                rec.is_quiet = TRUE;
                while (rec.completed == before) {
                        ops->cancel(rec.engine, id);            /* nobody else would end a wait */
                        g_main_context_iteration(NULL, TRUE);
                }
                g_assert_cmpuint(rec.completed, ==, before + 1);
                /* What the lock is now, by a try of its own. */
                is_held[id] = ops->convert(rec.engine, id, MODE_NL, DLM_LKF_VALBLK, value_of("z")) == 0;
                while (is_held[id] && rec.completed == before + 1)
                        g_main_context_iteration(NULL, TRUE);
                rec.is_quiet = FALSE;
        }
        expect_nothing(&rec);
        for (uint32_t id = 1; id <= LOCKS; id++)
                if (is_held[id])
                        unlock_quietly(&rec, id);
        release(&rec);
        recorder_clear(&rec);
}

/* --- tests: looking --- */

static const EngineForeign *find_foreign(Recorder *rec, const char *name, size_t len)
{
        unsigned before = rec->foreign_answers;

        g_assert_cmpint(ops->foreign_locks(rec->engine, rec->lockspace, record_foreign, rec), ==, 0);
        while (rec->foreign_answers == before)
                g_main_context_iteration(NULL, TRUE);
        for (guint i = 0; i < rec->foreign->len; i++) {
                const EngineForeign *lock_found = &g_array_index(rec->foreign, EngineForeign, i);

                if (lock_found->name_len == len && memcmp(lock_found->name, name, len) == 0)
                        return lock_found;
        }
        return NULL;
}

static void test_foreign_locks(void)
{
        const EngineForeign *found;
        Recorder rec;
        Child child, odd;

        recorder_init(&rec);
        create(&rec, "t-foreign");
        lock(&rec, 1, MODE_CR, DLM_LKF_VALBLK, "held");
        expect(&rec, "1 ok=\"\"");
        child = child_start("lock", "t-foreign", "held", "PR");
        odd = child_start("lock", "t-foreign", "a\nb \"\xff", "EX");
        found = find_foreign(&rec, "held", 4);
        if (access("/sys/kernel/debug/dlm", F_OK) < 0) {
                g_assert_cmpint(rec.foreign_status, ==, -EOPNOTSUPP);
                g_assert_null(found);
        } else {
                g_assert_cmpint(rec.foreign_status, ==, 0);
                g_assert_cmpuint(rec.foreign->len, ==, 2);      /* not ours */
                g_assert_nonnull(found);
                g_assert_cmpint(found->state, ==, ENGINE_LOCK_HELD);
                g_assert_cmpint(found->mode, ==, MODE_PR);
                g_assert_cmpuint(found->node, ==, ops->node(rec.engine));
                g_assert_cmpint(found->pid, ==, child.pid);
                g_assert_cmpfloat(found->seconds, >=, 0);
                g_assert_cmpfloat(found->seconds, <, 60);
                g_assert_nonnull(find_foreign(&rec, "a\nb \"\xff", 6));
        }
        seal(&rec, FALSE, "done -16");
        child_end(&odd);
        child_end(&child);
        unlock_quietly(&rec, 1);
        release(&rec);
        recorder_clear(&rec);
}

static void test_node(void)
{
        Recorder rec;

        recorder_init(&rec);
        g_assert_cmpuint(ops->node(rec.engine), >, 0);
        recorder_clear(&rec);
}

static void test_lockspace_flags(void)
{
        g_autoptr(GError) unknown = NULL, unsupported = NULL, error = NULL;
        uint32_t flags;

        g_assert_true(dlm_cluster_parse_flags(NULL, &flags, &error));
        g_assert_cmpuint(flags, ==, 0);
        g_assert_true(dlm_cluster_parse_flags("newexcl:fs", &flags, &error));
        g_assert_cmpuint(flags, ==, 0x8 | 0x4);
        g_assert_false(dlm_cluster_parse_flags("fs:nosuch", &flags, &unknown));
        g_assert_nonnull(strstr(unknown->message, "nosuch"));
        g_assert_false(dlm_cluster_parse_flags("nodir", &flags, &unsupported));
        g_assert_nonnull(strstr(unsupported->message, "nodir"));
}

/* --- tests: a stopped lockspace, and a killed daemon --- */

static void test_stopped_lockspace_stops_nobody_else(void)
{
        Recorder rec;
        uint32_t healthy;
        gint64 begin;

        recorder_init(&rec);
        create(&rec, "t-healthy");
        healthy = rec.lockspace;
        create(&rec, "t-stopped");
        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        lock(&rec, 2, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 blocks EX");
        set_running("t-stopped", FALSE);

        begin = g_get_monotonic_time();
        lock(&rec, 3, MODE_PR, DLM_LKF_VALBLK, "s");            /* hangs in the kernel */
        expect_nothing(&rec);
        lock(&rec, 4, MODE_PR, DLM_LKF_VALBLK, "s");            /* stands in line behind it */
        ops->cancel(rec.engine, 4);
        expect_within(&rec, "4 cancelled", QUICK_MS);
        ops->cancel(rec.engine, 2);
        unlock(&rec, 1, DLM_LKF_VALBLK, "late");
        find_foreign(&rec, "r", 1);
        g_assert_cmpint(ops->set_attr(rec.engine, rec.lockspace, &attr, record_done, &rec), ==, 0);
        expect_within(&rec, "done 0", QUICK_MS);

        rec.lockspace = healthy;
        lock(&rec, 5, MODE_EX, DLM_LKF_VALBLK, "r");
        expect_within(&rec, "5 ok=\"\"", QUICK_MS);
        unlock(&rec, 5, 0, NULL);
        expect_within(&rec, "5 ok", QUICK_MS);
        g_assert_cmpint(g_get_monotonic_time() - begin, <, 10 * QUICK_MS * G_TIME_SPAN_MILLISECOND);
        expect_nothing(&rec);

        set_running("t-stopped", TRUE);
        expect(&rec, "3 ok=\"\", 2 cancelled, 1 ok");
        release(&rec);
        rec.lockspace++;
        unlock_quietly(&rec, 3);
        release(&rec);
        recorder_clear(&rec);
}

/* A daemon with a thread that hangs, or that will hang at its last close, is
 * killed: all else it has must be free at once. */
static void kill_daemon(const char *how)
{
        struct pollfd out = { .events = POLLIN };
        Recorder rec;
        Child child;
        char byte;

        recorder_init(&rec);
        create(&rec, "t-sick");
        create(&rec, "t-well");
        keep_value(&rec, 2, "r", "old");
        child = child_start(how, "t-sick", "t-well", NULL);
        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect_nothing(&rec);

        kill(child.pid, SIGKILL);
        /* Its end of the pipe stands for the mount: any descriptor of the main table. */
        out.fd = child.out;
        g_assert_cmpint(poll(&out, 1, 5000), ==, 1);
        g_assert_cmpint(read(child.out, &byte, 1), ==, 0);
        expect_within(&rec, "1 ok+lost=\"old\"", 5000);

        unlock_quietly(&rec, 1);
        unlock_quietly(&rec, 2);
        set_running("t-sick", TRUE);
        child_end(&child);
        release(&rec);
        rec.lockspace--;
        release(&rec);
        recorder_clear(&rec);
}

static void test_killed_with_stuck_worker(void)
{
        kill_daemon("stuck");
}

static void test_killed_with_stopped_lockspace(void)
{
        kill_daemon("closing");
}

/* --- tests: with a second node. The lockspace "remote" is on both, and the
 * other holds "r" there with EX, and "mine" with PR, which is mastered here --- */

static void test_remote(void)
{
        const EngineForeign *found;
        Recorder rec;

        if (!has_device("remote")) {
                g_test_skip("no lockspace \"remote\", shared with a second node");
                return;
        }
        recorder_init(&rec);
        expect(&rec, "remote there");
        lock(&rec, 1, MODE_NL, DLM_LKF_EXPEDITE | DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"\"");
        for (int i = 0; i < 100; i++) {
                lock(&rec, 2, MODE_EX, DLM_LKF_VALBLK, "r");
                ops->cancel(rec.engine, 2);
                expect(&rec, "2 cancelled");
                lock(&rec, 2, MODE_CR, DLM_LKF_VALBLK | DLM_LKF_NOQUEUE, "r");
                expect(&rec, "2 again");
        }
        unlock_quietly(&rec, 1);
        /* A grant that the cancel crosses: the unlock at its heels goes through. */
        for (int i = 0; i < 300; i++) {
                g_autofree char *name = g_strdup_printf("free%d", i % 7);

                rec.is_quiet = TRUE;
                rec.completed = 0;
                lock(&rec, 2, MODE_PR, DLM_LKF_VALBLK, name);
                ops->cancel(rec.engine, 2);
                while (rec.completed == 0)
                        g_main_context_iteration(NULL, TRUE);
                if (ops->convert(rec.engine, 2, MODE_CR, DLM_LKF_VALBLK, NULL) == 0) {
                        ops->cancel(rec.engine, 2);
                        while (rec.completed == 1)
                                g_main_context_iteration(NULL, TRUE);
                        unlock(&rec, 2, 0, NULL);
                        while (rec.completed == 2)
                                g_main_context_iteration(NULL, TRUE);
                }
                rec.is_quiet = FALSE;
        }
        expect_nothing(&rec);
        found = find_foreign(&rec, "mine", 4);
        if (rec.foreign_status == -EOPNOTSUPP) {
                seal(&rec, FALSE, "done 0");            /* cannot tell; the release can */
                run_until(&rec, NULL, 1100);
                g_assert_cmpint(ops->release(rec.engine, rec.lockspace, FALSE, record_done, &rec), ==, 0);
                expect(&rec, "done -66");               /* EREMOTE */
                ops->unseal(rec.engine, rec.lockspace);
        } else {
                g_assert_nonnull(found);
                g_assert_cmpuint(found->node, !=, ops->node(rec.engine));
                seal(&rec, FALSE, "done -66");
        }
        lock(&rec, 3, MODE_PR, DLM_LKF_VALBLK, "mine"); /* as before */
        expect(&rec, "3 ok=\"\"");
        recorder_clear(&rec);
}

/* --- others --- */

static void say_ready_and_wait(void)
{
        char byte;

        (void)!write(STDOUT_FILENO, "ready\n", 6);
        while (read(STDIN_FILENO, &byte, 1) > 0)
                ;
}

static int be_holder(const char *name, const char *resource, const char *mode)
{
        DlmCall call = { .verb = DLM_VERB_LOCK, .id = 1, .flags = DLM_LKF_VALBLK };
        DlmResult result = { 0 };
        int fd = dlm_device_open(name), r;

        while (call.mode < MODE_EX && !g_str_equal(mode, mode_to_string(call.mode)))
                call.mode++;
        call.name_len = strlen(resource);
        memcpy(call.name, resource, call.name_len);
        r = dlm_device_write(fd, &call);
        g_assert_cmpint(r, >, 0);
        while ((r = dlm_device_read(fd, &result)) == 0)
                g_usleep(1000);
        g_assert_cmpint(r, ==, 1);
        g_assert_cmpint(result.status, ==, 0);
        say_ready_and_wait();
        return 0;
}

static int be_daemon(const char *sick, const char *healthy, gboolean is_stuck)
{
        Recorder rec;
        uint32_t ids[2];

        recorder_init(&rec);
        while (!g_hash_table_contains(rec.spaces, sick) || !g_hash_table_contains(rec.spaces, healthy))
                g_main_context_iteration(NULL, TRUE);
        ids[0] = GPOINTER_TO_UINT(g_hash_table_lookup(rec.spaces, sick));
        ids[1] = GPOINTER_TO_UINT(g_hash_table_lookup(rec.spaces, healthy));
        g_string_truncate(rec.log, 0);
        rec.lockspace = ids[1];
        lock(&rec, 1, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "1 ok=\"old\"");
        rec.lockspace = ids[0];
        lock(&rec, 2, MODE_EX, DLM_LKF_VALBLK, "r");
        expect(&rec, "2 ok=\"\"");
        set_running(sick, FALSE);
        if (is_stuck)
                lock(&rec, 3, MODE_EX, DLM_LKF_VALBLK, "s");
        expect_nothing(&rec);
        say_ready_and_wait();
        _exit(0);
}

static int be_other(int argc, char **argv)
{
        if (argc == 3 && g_str_equal(argv[1], "idle")) {
                g_assert_cmpint(dlm_device_open(argv[2]), >=, 0);
                say_ready_and_wait();
                return 0;
        }
        if (argc == 5 && g_str_equal(argv[1], "lock"))
                return be_holder(argv[2], argv[3], argv[4]);
        if (argc == 4 && (g_str_equal(argv[1], "stuck") || g_str_equal(argv[1], "closing")))
                return be_daemon(argv[2], argv[3], g_str_equal(argv[1], "stuck"));
        return -1;
}

int main(int argc, char **argv)
{
        int r = be_other(argc, argv);

        if (r >= 0)
                return r;
        self = argv[0];
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/dlm/node", test_node);
        g_test_add_func("/dlm/lockspace-flags", test_lockspace_flags);
        g_test_add_func("/dlm/create-and-release", test_create_and_release);
        g_test_add_func("/dlm/create-exists", test_create_exists);
        g_test_add_func("/dlm/default-lockspace", test_default_lockspace);
        g_test_add_func("/dlm/attr", test_attr);
        g_test_add_func("/dlm/udev-reset", test_udev_reset);
        g_test_add_func("/dlm/others-lockspaces", test_others_lockspaces);
        g_test_add_func("/dlm/closed-when-idle", test_device_is_closed_when_idle);
        g_test_add_func("/dlm/modes", test_modes);
        g_test_add_func("/dlm/waiting-and-blocking", test_waiting_and_blocking);
        g_test_add_func("/dlm/unlock-before-try", test_unlock_goes_before_try);
        g_test_add_func("/dlm/values", test_values);
        g_test_add_func("/dlm/value-of-killed-writer", test_value_of_killed_writer_is_lost);
        g_test_add_func("/dlm/cancel", test_cancel);
        g_test_add_func("/dlm/deadlock", test_deadlock);
        g_test_add_func("/dlm/refused-flags", test_refused_flags);
        g_test_add_func("/dlm/storm", test_storm);
        g_test_add_func("/dlm/foreign-locks", test_foreign_locks);
        g_test_add_func("/dlm/seal-busy-by-opener", test_seal_is_busy_by_idle_opener);
        g_test_add_func("/dlm/seal-busy-by-engine", test_seal_is_busy_by_other_engine);
        g_test_add_func("/dlm/seal-with-own-locks", test_own_locks_do_not_seal_out);
        g_test_add_func("/dlm/release-forced", test_forced_release);
        g_test_add_func("/dlm/release-made-twice", test_release_of_lockspace_made_twice);
        g_test_add_func("/dlm/release-late", test_release_of_a_minor_that_is_anothers);
        g_test_add_func("/dlm/stopped", test_stopped_lockspace_stops_nobody_else);
        g_test_add_func("/dlm/killed-with-stuck-worker", test_killed_with_stuck_worker);
        g_test_add_func("/dlm/killed-with-stopped-lockspace", test_killed_with_stopped_lockspace);
        g_test_add_func("/dlm/remote", test_remote);
        return g_test_run();
}
