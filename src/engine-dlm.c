#include "engine-dlm.h"
#include "dlm-cluster.h"
#include "hash.h"
#include "memory.h"
#include "trace.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>

/*
 * The kernel's DLM.
 *
 * Threads: the main loop owns every object here. A lock call goes to the
 * channel of its lockspace, whose thread writes it to the device and reads the
 * results; making and releasing lockspaces is for one control worker, since
 * the kernel does one at a time; a scout reads /proc and debugfs; one listens
 * to corosync. Each may hang while the others and the loop go on.
 *
 * Values: the kernel copies the request's 32 bytes into the lock at every
 * convert and unlock, and writes them to the resource when it had VALBLK and
 * goes down from PW or EX. When the master dies, the next one takes the value
 * from a lock above CR, even while that waits for a convert. So each call
 * carries bytes that may be seen: the value that the lock has, where it is sure
 * to be the resource's and no other is given, else zeroes.
 *
 * Memory: without it no lock is asked for or converted (ENOMEM). But what gives
 * back, an unlock or a cancel, must not fail, since nobody would do it later.
 * So when there is none for it, the lock that has it to do stands in a queue,
 * which needs none, until there is; no call is made before those.
 */

#define DLM_QUORUM_TIMEOUT_MS 1000              /* for corosync's first word */
#define DLM_OWED_US 1000                        /* until we look for memory again */
#define DLM_STOP_TIMEOUT_MS 200                 /* for threads that the kernel does not hold */

#define LOCK_FLAGS (DLM_LKF_NOQUEUE | DLM_LKF_VALBLK | DLM_LKF_IVVALBLK | DLM_LKF_QUECVT | DLM_LKF_CONVDEADLK | \
                    DLM_LKF_EXPEDITE | DLM_LKF_NOQUEUEBAST | DLM_LKF_HEADQUE | DLM_LKF_NOORDER)

typedef enum DlmLockState {
        DLM_LOCK_WAITING,                       /* lock() in flight */
        DLM_LOCK_HELD,
        DLM_LOCK_CONVERTING,
        DLM_LOCK_UNLOCKING,
} DlmLockState;

typedef struct DlmLock {
        uint32_t id;
        DlmSpace *space;                        /* borrowed: a lockspace's locks go before it */
        DlmLockState state;
        LockMode mode;                          /* granted */
        LockMode wanted;                        /* of the operation in flight */
        gboolean is_cancelling;                 /* the operation in flight: once is enough */
        gboolean has_value;                     /* the last request had VALBLK: so has the kernel's lock */
        gboolean writes;                        /* the convert in flight writes new_value … */
        gboolean spoils;                        /* … or, with IVVALBLK, marks the value lost */
        uint32_t unlock_flags;
        gboolean is_owed;                       /* in DlmEngine.owed */
        GList owed;
        gboolean is_lost;                       /* VALNOTVALID, and not written since */
        uint8_t value[VALUE_LEN];               /* as of the grant, or as written since */
        uint8_t new_value[VALUE_LEN];           /* of the convert or unlock in flight */
} DlmLock;

typedef struct Mailing {                        /* the GSource that delivers mail */
        GSource source;
        DlmEngine *engine;
} Mailing;

static DlmEngine *dlm_engine(Engine *engine)
{
        return (DlmEngine *)engine;
}

static gboolean engine_pay(DlmEngine *engine);

/* --- the loop --- */

void dlm_engine_post_later(DlmEngine *engine, DlmMail *mail)
{
        mail->next = NULL;
        *engine->later_end = mail;
        engine->later_end = &mail->next;
}

static gboolean engine_deliver_later(DlmEngine *engine, void *owner)
{
        DlmMail *mail = engine->later;

        if (!mail)
                return FALSE;
        engine->later = NULL;
        engine->later_end = &engine->later;
        while (mail) {
                DlmMail *next = mail->next;

                mail->deliver(mail, owner);
                mail = next;
        }
        return TRUE;
}

static void dlm_dispatch(Engine *base)
{
        DlmEngine *engine = dlm_engine(base);

        engine_pay(engine);
        engine_deliver_later(engine, engine);
        dlm_mailbox_deliver(engine->mailbox);
}

static gboolean mailing_prepare(GSource *source, gint *timeout_ms)
{
        DlmEngine *engine = ((Mailing *)source)->engine;

        *timeout_ms = -1;
        return engine->later || !dlm_mailbox_sleep(engine->mailbox);
}

static gboolean mailing_check(GSource *source)
{
        DlmEngine *engine = ((Mailing *)source)->engine;

        dlm_mailbox_awake(engine->mailbox);
        return engine->later || dlm_mailbox_has_mail(engine->mailbox);
}

static gboolean mailing_dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
        dlm_dispatch(&((Mailing *)source)->engine->head);
        return G_SOURCE_CONTINUE;
}

static GSource *mailing_new(DlmEngine *engine)
{
        static GSourceFuncs funcs = { .prepare = mailing_prepare, .check = mailing_check, .dispatch = mailing_dispatch };
        GSource *source = g_source_new(&funcs, sizeof(Mailing));

        ((Mailing *)source)->engine = engine;
        g_source_add_unix_fd(source, dlm_mailbox_fd(engine->mailbox), G_IO_IN);
        g_source_set_can_recurse(source, TRUE);         /* as with the session's: spares four system calls each time */
        g_source_attach(source, g_main_context_get_thread_default());
        return source;
}

/* --- start and stop --- */

static void dlm_stop(Engine *base)
{
        DlmEngine *engine = dlm_engine(base);

        dlm_watch_free(engine->watch);
        g_source_destroy(engine->source);
        dlm_space_free_all(engine);
        g_source_unref(engine->source);         /* until here locks may be owed */
        dlm_quorum_free(engine->quorum);
        dlm_worker_free(engine->control);
        dlm_worker_free(engine->scout);
        dlm_mailbox_close(engine->mailbox, DLM_STOP_TIMEOUT_MS);
        dlm_mailbox_unref(engine->mailbox);
        while (engine_deliver_later(engine, NULL))
                ;
        id_array_clear(&engine->locks);
        g_hash_table_unref(engine->spaces);
        g_hash_table_unref(engine->names);
        g_ptr_array_unref(engine->releases);
        g_free(engine);
}

static gboolean dlm_start(const Options *options, const EngineEvents *events, void *data, Engine **ret_engine, GError **error)
{
        DlmEngine *engine;
        DlmMailbox *mailbox;
        uint32_t flags;

        if (!dlm_cluster_check(error) || !dlm_cluster_parse_flags(options->lockspace_flags, &flags, error))
                return FALSE;
        /* A core dump stops the threads before their descriptors are closed. With
         * a release in the kernel, which waits for one of those, it would never end. */
        if (prctl(PR_SET_DUMPABLE, 0) < 0)
                g_debug("a crash during a release may hang the node's lockspaces");

        engine = g_new0(DlmEngine, 1);
        mailbox = dlm_mailbox_new(engine);
        if (mailbox)
                engine->watch = dlm_watch_new(dlm_space_look_again, engine);
        if (!engine->watch) {
                g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "/dev cannot be watched: %s", g_strerror(errno));
                if (mailbox) {
                        dlm_mailbox_close(mailbox, 0);
                        dlm_mailbox_unref(mailbox);
                }
                g_free(engine);
                return FALSE;
        }
        engine->head = (Engine) { .ops = &engine_dlm_ops, .events = events, .events_data = data };
        engine->options = options;
        engine->creation_flags = flags;
        engine->xid = (uint64_t)g_random_int() << 32 | g_random_int() | 1;
        engine->node = dlm_cluster_node();
        engine->spaces = g_hash_table_new(NULL, NULL);
        engine->names = g_hash_table_new_full(hash_string, g_str_equal, g_free, NULL);
        engine->releases = g_ptr_array_new();
        engine->mailbox = mailbox;
        engine->later_end = &engine->later;
        engine->source = mailing_new(engine);
        engine->control = dlm_worker_new("dlm-control", mailbox);
        engine->scout = dlm_worker_new("dlm-scout", mailbox);
        engine->quorum = dlm_quorum_new(mailbox);
        dlm_mailbox_wait(mailbox, DLM_QUORUM_TIMEOUT_MS);       /* so that the first look at the mount knows */
        dlm_space_find_all(engine);
        *ret_engine = &engine->head;
        return TRUE;
}

static uint32_t dlm_node(Engine *engine)
{
        return dlm_engine(engine)->node;
}

static gboolean dlm_cluster(Engine *base, EngineCluster *ret_cluster)
{
        ret_cluster->members = dlm_quorum_get(dlm_engine(base)->quorum, &ret_cluster->is_quorate);
        ret_cluster->is_controlled = dlm_cluster_is_controlled();
        return TRUE;
}

/* --- the table of locks --- */

static DlmLock *lock_find(DlmEngine *engine, uint32_t id)
{
        return id_array_find(&engine->locks, id);
}

/* NULL: no memory. */
static DlmLock *lock_new(DlmEngine *engine, uint32_t id, DlmSpace *space)
{
        DlmLock *lock = memory_new0(DlmLock);

        if (!lock)
                return NULL;
        if (!id_array_add(&engine->locks, id, lock)) {
                g_free(lock);
                return NULL;
        }
        lock->id = id;
        lock->space = space;
        lock->owed.data = lock;
        dlm_space_count_lock(space, 1);
        return lock;
}

static void lock_settle(DlmEngine *engine, DlmLock *lock)
{
        if (!lock->is_owed)
                return;
        g_queue_unlink(&engine->owed, &lock->owed);
        lock->is_owed = FALSE;
        if (engine->owed.length == 0)
                g_source_set_ready_time(engine->source, -1);
}

static void lock_free(DlmEngine *engine, DlmLock *lock)
{
        lock_settle(engine, lock);
        id_array_remove(&engine->locks, lock->id);
        dlm_space_count_lock(lock->space, -1);
        g_free(lock);
}

void dlm_engine_drop_locks(DlmEngine *engine, DlmSpace *space)
{
        for (uint32_t id = 0; id < engine->locks.len && space->locks > 0; id++) {
                DlmLock *lock = lock_find(engine, id);

                if (lock && lock->space == space)
                        lock_free(engine, lock);
        }
}

/* --- what the kernel says --- */

/* Does a grant of @to over @from read the value? dlm_lvb_operations in the
 * kernel's fs/dlm/lock.c. */
static gboolean convert_reads(LockMode from, LockMode to)
{
        return from < MODE_PW ? to >= from : to > from;
}

static gboolean convert_writes(LockMode from, LockMode to)
{
        return mode_is_writer(from) && to <= from;
}

/* A grant: the lock's new mode and value. TRUE: the value was read. */
static gboolean lock_grant(DlmLock *lock, const DlmResult *result)
{
        LockMode from = result->flags & DLM_SBF_DEMOTED ? MODE_NL : lock->mode;
        gboolean reads = lock->has_value && (lock->state == DLM_LOCK_WAITING || convert_reads(from, lock->wanted));

        lock->mode = lock->wanted;
        if (reads) {
                if (result->has_value)
                        memcpy(lock->value, result->value, VALUE_LEN);
                else
                        memset(lock->value, 0, VALUE_LEN);
                lock->is_lost = (result->flags & DLM_SBF_VALNOTVALID) != 0;
        } else if (lock->writes) {
                memcpy(lock->value, lock->new_value, VALUE_LEN);
                lock->is_lost = lock->spoils;
        }
        return reads;
}

static void lock_completed(DlmEngine *engine, DlmLock *lock, const DlmResult *result)
{
        const EngineEvents *events = engine->head.events;
        unsigned flags = result->flags & (DLM_SBF_DEMOTED | DLM_SBF_VALNOTVALID);
        uint32_t id = lock->id;
        gboolean reads = FALSE;
        uint8_t value[VALUE_LEN];

        lock_settle(engine, lock);              /* of a cancel that it came before */
        switch (lock->state) {
        case DLM_LOCK_WAITING:
        case DLM_LOCK_CONVERTING:
                if (result->status == 0)
                        reads = lock_grant(lock, result);
                else if (lock->state == DLM_LOCK_WAITING)
                        break;
                else if (flags & DLM_SBF_DEMOTED)
                        lock->mode = MODE_NL;
                lock->state = DLM_LOCK_HELD;
                if (reads)
                        memcpy(value, lock->value, VALUE_LEN);
                lock = NULL;                    /* stays */
                break;
        case DLM_LOCK_UNLOCKING:
                break;
        case DLM_LOCK_HELD:
                return;                         /* owes nothing: unlocked by somebody who may write to the device */
        }
        if (lock)
                lock_free(engine, lock);
        trace("dlm: lock %u: %s%s%s", id, result->status == 0 ? "done" : g_strerror(-result->status),
              flags & DLM_SBF_DEMOTED ? ", demoted" : "", flags & DLM_SBF_VALNOTVALID ? ", value lost" : "");
        events->completed(engine->head.events_data, id, result->status, flags, reads ? value : NULL);
}

void dlm_engine_deliver_report(DlmMail *mail, void *owner)
{
        g_autofree DlmReport *report = (DlmReport *)mail;
        DlmEngine *engine = owner;
        DlmLock *lock;

        if (!engine)
                return;
        if (report->kind == DLM_REPORT_CLOSED)
                return dlm_space_channel_closed(engine, report->lockspace);
        if (report->kind == DLM_REPORT_IDLE)
                return dlm_space_channel_idle(engine, report->lockspace);
        /* The id may belong to a lock of another lockspace by now. */
        lock = lock_find(engine, report->result.id);
        if (!lock || lock->space->id != report->lockspace)
                return;
        if (report->kind == DLM_REPORT_COMPLETED) {
                lock_completed(engine, lock, &report->result);
        } else if (lock->state != DLM_LOCK_WAITING && lock->state != DLM_LOCK_UNLOCKING) {
                trace("dlm: lock %u: somebody wants %s", lock->id, mode_to_string(report->result.mode));
                engine->head.events->blocking(engine->head.events_data, lock->id, report->result.mode);
        }
}

/* --- lock calls --- */

/* What set_lock_args() and validate_lock_args() of the kernel refuse, and the
 * latter with a stack trace in the log. */
static gboolean are_flags_valid(uint32_t flags, LockMode mode, const DlmLock *converts)
{
        if (mode > MODE_EX || flags & ~LOCK_FLAGS)
                return FALSE;
        if (flags & DLM_LKF_EXPEDITE && (converts || mode != MODE_NL || flags & (DLM_LKF_QUECVT | DLM_LKF_NOQUEUE)))
                return FALSE;
        if (!converts)
                return !(flags & (DLM_LKF_QUECVT | DLM_LKF_CONVDEADLK));
        if (flags & DLM_LKF_CONVDEADLK && flags & DLM_LKF_NOQUEUE)
                return FALSE;
        if (flags & DLM_LKF_QUECVT)             /* upwards, or between PR and CW */
                return mode > converts->mode || (mode == MODE_CW && converts->mode == MODE_PR);
        return TRUE;
}

static int lock_call(DlmEngine *engine, DlmLock *lock, DlmCall *call)
{
        DlmChannel *channel = dlm_space_channel(lock->space);

        if (!channel)
                return -ENOMEM;                 /* or out of descriptors, which is the same to a caller */
        call->id = lock->id;
        call->xid = engine->xid;
        return dlm_channel_push(channel, call);
}

static int lock_unlock(DlmEngine *engine, DlmLock *lock)
{
        DlmCall call = { .verb = DLM_VERB_UNLOCK, .flags = lock->unlock_flags };

        memcpy(call.value, lock->new_value, VALUE_LEN);
        return lock_call(engine, lock, &call);
}

/* Take its call back, if it still stands in line. 1: it has been; 0: it has been made. */
static int lock_take_back(DlmEngine *engine, DlmLock *lock)
{
        DlmReport *report = memory_new0(DlmReport);

        if (!report)
                return -ENOMEM;
        if (!dlm_channel_withdraw(lock->space->channel, lock->id)) {
                g_free(report);
                return 0;
        }
        report->mail.deliver = dlm_engine_deliver_report;
        report->kind = DLM_REPORT_COMPLETED;
        report->lockspace = lock->space->id;
        report->result.id = lock->id;
        report->result.status = -ECANCELED;
        dlm_engine_post_later(engine, &report->mail);
        return 1;
}

static int lock_cancel(DlmEngine *engine, DlmLock *lock)
{
        DlmCall call = { .verb = DLM_VERB_CANCEL };
        int r = lock_take_back(engine, lock);

        return r == 0 ? lock_call(engine, lock, &call) : MIN(r, 0);
}

static int lock_try_giving_back(DlmEngine *engine, DlmLock *lock)
{
        return lock->state == DLM_LOCK_UNLOCKING ? lock_unlock(engine, lock) : lock_cancel(engine, lock);
}

/* FALSE: some is still owed. */
static gboolean engine_pay(DlmEngine *engine)
{
        while (engine->owed.length > 0) {
                DlmLock *lock = engine->owed.head->data;

                if (lock_try_giving_back(engine, lock) < 0) {
                        g_source_set_ready_time(engine->source, g_get_monotonic_time() + DLM_OWED_US);
                        return FALSE;
                }
                lock_settle(engine, lock);
        }
        return TRUE;
}

/* Unlock or cancel it, now or as soon as that can be. */
static void engine_give_back(DlmEngine *engine, DlmLock *lock)
{
        if (engine_pay(engine) && lock_try_giving_back(engine, lock) == 0)
                return;
        lock->is_owed = TRUE;
        g_queue_push_tail_link(&engine->owed, &lock->owed);
        g_source_set_ready_time(engine->source, g_get_monotonic_time() + DLM_OWED_US);
}

static int dlm_lock(Engine *base, const EngineLock *request)
{
        DlmEngine *engine = dlm_engine(base);
        DlmSpace *space = dlm_space_find(engine, request->lockspace);
        DlmCall call = { .verb = DLM_VERB_LOCK, .mode = request->mode, .flags = request->flags };
        DlmLock *lock;
        int r;

        if (!space || space->state >= DLM_SPACE_CLOSING)
                return -ESTALE;
        if (request->name_len < 1 || request->name_len > RESOURCE_NAME_MAX || !are_flags_valid(request->flags, request->mode, NULL))
                return -EINVAL;
        g_assert(request->id != 0 && !lock_find(engine, request->id));

        call.name_len = request->name_len;
        memcpy(call.name, request->name, request->name_len);
        lock = engine_pay(engine) ? lock_new(engine, request->id, space) : NULL;
        if (!lock)
                return -ENOMEM;
        lock->wanted = request->mode;
        lock->has_value = (request->flags & DLM_LKF_VALBLK) != 0;
        r = lock_call(engine, lock, &call);
        if (r < 0)
                lock_free(engine, lock);
        trace("dlm: lock %u: %s in %s, flags %#x", request->id, mode_to_string(request->mode), space->name, request->flags);
        return r;
}

static int dlm_convert(Engine *base, uint32_t id, LockMode mode, uint32_t flags, const uint8_t *value)
{
        DlmEngine *engine = dlm_engine(base);
        DlmLock *lock = lock_find(engine, id);
        DlmCall call = { .verb = DLM_VERB_CONVERT, .mode = mode, .flags = flags };
        gboolean writes;
        int r;

        if (!lock)
                return -ESTALE;
        if (lock->state != DLM_LOCK_HELD)
                return -EBUSY;
        if (!are_flags_valid(flags, mode, lock))
                return -EINVAL;

        writes = flags & DLM_LKF_VALBLK && convert_writes(lock->mode, mode);
        if (writes && !value)
                return -EINVAL;
        if (writes)
                memcpy(call.value, value, VALUE_LEN);
        else if (lock->has_value && lock->mode > MODE_CR)       /* nobody else can have written meanwhile */
                memcpy(call.value, lock->value, VALUE_LEN);
        /* Else zeroes: when the resource has no value yet, a convert that reads leaves them in place. */
        r = engine_pay(engine) ? lock_call(engine, lock, &call) : -ENOMEM;
        if (r < 0)
                return r;
        lock->state = DLM_LOCK_CONVERTING;
        lock->is_cancelling = FALSE;
        lock->wanted = mode;
        lock->has_value = (flags & DLM_LKF_VALBLK) != 0;
        lock->writes = writes;
        lock->spoils = (flags & DLM_LKF_IVVALBLK) != 0;
        memcpy(lock->new_value, call.value, VALUE_LEN);
        trace("dlm: lock %u: convert to %s, flags %#x", id, mode_to_string(mode), flags);
        return 0;
}

static int dlm_unlock(Engine *base, uint32_t id, uint32_t flags, const uint8_t *value)
{
        DlmEngine *engine = dlm_engine(base);
        DlmLock *lock = lock_find(engine, id);

        if (!lock)
                return -ESTALE;
        if (lock->state != DLM_LOCK_HELD)
                return -EBUSY;
        if (flags & ~(DLM_LKF_VALBLK | DLM_LKF_IVVALBLK))
                return -EINVAL;

        memset(lock->new_value, 0, VALUE_LEN);
        lock->unlock_flags = flags;
        if (!lock->has_value) {
                /* VALBLK after a request without it: zeroes are published when
                 * the master is another node. */
                lock->unlock_flags = 0;
        } else if (flags & DLM_LKF_VALBLK && value) {
                memcpy(lock->new_value, value, VALUE_LEN);
        } else if (mode_is_writer(lock->mode)) {
                /* The kernel publishes what we send, asked or not. */
                lock->unlock_flags |= DLM_LKF_VALBLK | (lock->is_lost ? DLM_LKF_IVVALBLK : 0);
                memcpy(lock->new_value, lock->value, VALUE_LEN);
        }
        lock->state = DLM_LOCK_UNLOCKING;
        engine_give_back(engine, lock);
        trace("dlm: lock %u: unlock, flags %#x", id, flags);
        return 0;
}

/* NULL: there is nothing to cancel. */
static DlmLock *lock_find_to_cancel(DlmEngine *engine, uint32_t id)
{
        DlmLock *lock = lock_find(engine, id);

        if (!lock || lock->is_cancelling || !lock->space->channel)
                return NULL;
        return lock->state == DLM_LOCK_WAITING || lock->state == DLM_LOCK_CONVERTING ? lock : NULL;
}

static void dlm_cancel(Engine *base, uint32_t id)
{
        DlmEngine *engine = dlm_engine(base);
        DlmLock *lock = lock_find_to_cancel(engine, id);

        if (!lock)
                return;
        trace("dlm: lock %u: cancel", id);
        lock->is_cancelling = TRUE;
        engine_give_back(engine, lock);
}

/* The first lock that a node wants in a resource makes the kernel ask who its
 * master is, and what is asked for meanwhile waits for the answer. If it was
 * cancelled before that comes, and the node that had to answer dies, nobody asks
 * again (dlm_recover_waiters_post() in the kernel's fs/dlm/lock.c): whoever wants
 * a lock there waits for ever, or, with the lkid of that first one, panics the
 * kernel. An NL lock behind it ends after that answer. */
static gboolean dlm_cancel_new(Engine *base, uint32_t id)
{
        DlmEngine *engine = dlm_engine(base);
        DlmLock *lock = lock_find_to_cancel(engine, id);

        if (!lock)
                return TRUE;
        if (lock_take_back(engine, lock) <= 0)
                return FALSE;
        lock->is_cancelling = TRUE;
        return TRUE;
}

/* --- what it goes on needing --- */

static const int capabilities[] = {
        CAP_SYS_ADMIN,                          /* to make and to release lockspaces */
        CAP_DAC_OVERRIDE,                       /* to open the devices of lockspaces that belong to others */
        CAP_CHOWN, CAP_FOWNER,                  /* to give them to their owners */
        CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH,    /* who has them open: /proc/PID/fd */
        -1
};

static const char *const system_calls[] = {
        "chmod", "fchmodat", "fchmodat2", "chown", "fchownat",          /* devices */
        "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "kcmp",
        "unlink", "unlinkat", "rmdir",          /* libqb: what a corosync that has crashed left in /dev/shm */
        NULL
};

const EngineOps engine_dlm_ops = {
        .name = "dlm",
        .has_others = TRUE,
        .needs = { capabilities, system_calls },
        .start = dlm_start,
        .stop = dlm_stop,
        .node = dlm_node,
        .cluster = dlm_cluster,
        .create = dlm_create,
        .set_attr = dlm_set_attr,
        .seal = dlm_seal,
        .unseal = dlm_unseal,
        .release = dlm_release,
        .is_lingering = dlm_is_lingering,
        .lock = dlm_lock,
        .convert = dlm_convert,
        .unlock = dlm_unlock,
        .cancel = dlm_cancel,
        .cancel_new = dlm_cancel_new,
        .state = dlm_state,
        .foreign_locks = dlm_foreign_locks,
        .dispatch = dlm_dispatch,
};
