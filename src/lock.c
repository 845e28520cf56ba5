#include "lock.h"
#include "lockspace.h"
#include "memory.h"
#include "resource.h"
#include "trace.h"
#include <errno.h>
#include <string.h>

/*
 * The value block travels with every operation: a grant upwards reads it into
 * lock->value, an unlock or a convert from PW or EX writes lock->value back. A
 * value that is lost (VALNOTVALID) and was not written since goes back as
 * lost, with IVVALBLK.
 *
 * Who writes the first value of this mount in a resource has just asked for
 * its keeper. When the master dies before it has granted that, the DLM takes
 * an unlock that was on its way for done, finds no lock that had a value, and
 * makes an empty one: it would read empty, not lost. So what publishes a value
 * waits until the keeper is granted, or refused.
 *
 * A lock is passing when nobody wants what the engine is still busy with: it,
 * or only its change, was given up meanwhile, or it is a probe, to see who else
 * is there. It may be in the way. That does not matter to who waits; a try
 * would be refused, though nobody has the lock. So a try waits until nothing is
 * passing there. That is soon, or as soon as the engine does anything at all.
 *
 * A new lock that is given up may have to be sounded before it is cancelled
 * (cancel_new() of the engine): its lead, an NL lock of nobody, goes ahead.
 *
 * What waits for one of these is held up, and so is all that is asked for there
 * after it, since what a mount does to a resource happens in its order. Those
 * are the last in Resource.locks, in that order.
 */

static MemorySpares spares;                     /* of Lock */

static const char *const state_names[] = { "new", "locking", "held", "converting", "unlocking", "abandoned" };

static gboolean is_internal(LockBy by)
{
        return by == BY_KEEPER || by == BY_READER;
}

gboolean lock_is_busy(const Lock *lock)
{
        return lock->state == LOCK_LOCKING || lock->state == LOCK_CONVERTING;
}

/* The engine has it in hand. */
static gboolean is_in_flight(const Lock *lock)
{
        return lock_is_busy(lock) && !lock->is_held_up;
}

gboolean lock_has(const Lock *lock)
{
        return lock->state == LOCK_HELD || lock->state == LOCK_CONVERTING;
}

LockMode lock_kept_mode(const Lock *lock)
{
        return lock->is_cancelled ? MIN(lock->mode, lock->back) : lock->mode;
}

gboolean lock_counts(const Lock *lock)
{
        return !lock->dropping && !is_internal(lock->by) && (lock_has(lock) || lock_is_busy(lock));
}

/* Granted, or maybe by now. */
static gboolean may_write(const Lock *lock)
{
        return mode_is_writer(lock->mode) || (lock_is_busy(lock) && mode_is_writer(lock->wanted));
}

gboolean locks_are_publishing(Tree *tree)
{
        uint32_t id = 0;
        const Lock *lock;

        while ((lock = id_table_next(&tree->locks, &id)))
                if ((lock->dropping || lock->by == BY_READER) && lock->state != LOCK_ABANDONED && may_write(lock))
                        return TRUE;
        return FALSE;
}

/* Add this lock to the counts, or with -1 take it out. */
static void count(Lock *lock, int n)
{
        Lockspace *lockspace = lock->resource->lockspace;

        if (!lock_counts(lock))
                return;
        lockspace->locks += n;
        if (lock_has(lock))
                lockspace->held += n;
        if (lock_is_busy(lock))
                lockspace->waiting += n;
}

static void set_state(Lock *lock, LockState state)
{
        trace("lock %u %s: %s -> %s", lock->id, lock_by_to_string(lock->by), state_names[lock->state], state_names[state]);
        count(lock, -1);
        lock->state = state;
        if (state != LOCK_UNLOCKING)            /* nobody is told how long that takes */
                lock->since_us = tree_now_us(lock->resource->lockspace->tree);
        count(lock, 1);
}

/* It is as good as given up: nobody is told of it. Its user is counted only for what
 * the engine is still busy with: that may take long where a node does not answer. */
static void set_dropping(Lock *lock, gboolean goes_on)
{
        Users *users = lock->resource->lockspace->tree->users;
        const gboolean is_charged = goes_on && users_charge(users, lock->uid, USER_GIVEN_UP) == 0;

        count(lock, -1);
        if (lock->is_charged)
                users_discharge(users, lock->uid, lock->dropping ? USER_GIVEN_UP : USER_LOCK);
        lock->is_charged = is_charged;
        lock->dropping = TRUE;
        lock->done = NULL;
        lock->blocking = NULL;
}

int lock_new(Resource *resource, LockBy by, uid_t uid, pid_t pid, Lock **ret_lock)
{
        Tree *tree = resource->lockspace->tree;
        uint32_t id;
        Lock *lock;
        int r;

        r = is_internal(by) ? users_check_given_up(tree->users, uid) : users_charge(tree->users, uid, USER_LOCK);
        if (r < 0)
                return r;
        lock = memory_take0(&spares, Lock);
        id = lock ? id_table_add(&tree->locks, lock) : 0;
        if (id == 0) {
                if (lock)
                        memory_give(&spares, lock);
                if (!is_internal(by))
                        users_discharge(tree->users, uid, USER_LOCK);
                return -ENOMEM;
        }
        lock->id = id;
        lock->is_charged = !is_internal(by);
        lock->by = by;
        lock->uid = uid;
        lock->pid = pid;
        lock->resource = resource;
        lock->link.data = lock;
        g_queue_push_tail_link(&resource->locks, &lock->link);
        resource->lockspace->all_locks++;
        *ret_lock = lock;
        return 0;
}

void lock_set_callbacks(Lock *lock, LockDone *done, LockBlocking *blocking, void *data)
{
        lock->done = done;
        lock->blocking = blocking;
        lock->data = data;
}

static void set_passing(Lock *lock, gboolean is_passing)
{
        lock->resource->passing += is_passing - lock->is_passing;
        lock->is_passing = is_passing;
}

/* A lock that is given up and its lead have no more to do with each other. The other of the two. */
static Lock *part(Lock *lock)
{
        Lock *other;

        if (!lock->is_paired)
                return NULL;
        other = lock->data;
        lock->is_paired = other->is_paired = FALSE;
        lock->data = other->data = NULL;
        return other;
}

static void set_dirty(Lock *lock, gboolean is_dirty)
{
        if (lock->dirty != is_dirty)
                lock->resource->has_newer = is_dirty;
        lock->dirty = is_dirty;
}

/* Its operation is to wait. */
static void hold_up(Lock *lock)
{
        Resource *resource = lock->resource;

        trace("lock %u: held up", lock->id);
        lock->is_held_up = TRUE;
        resource->held_up++;
        g_queue_unlink(&resource->locks, &lock->link);
        g_queue_push_tail_link(&resource->locks, &lock->link);
}

static void hold_up_no_more(Lock *lock)
{
        lock->resource->held_up -= lock->is_held_up;
        lock->is_held_up = FALSE;
}

/* It asks for nothing any more, has nothing to hand on, and nobody waits for it. */
static void retire(Lock *lock)
{
        part(lock);
        set_dropping(lock, FALSE);
        set_dirty(lock, FALSE);
        set_passing(lock, FALSE);
        hold_up_no_more(lock);
}

void lock_free(Lock *lock)
{
        Resource *resource = lock->resource;
        Lockspace *lockspace = resource->lockspace;

        retire(lock);
        g_queue_unlink(&resource->locks, &lock->link);
        id_table_remove(&lockspace->tree->locks, lock->id);
        memory_give(&spares, lock);
        lockspace_ref(lockspace);               /* the resource may be its last user */
        lockspace->all_locks--;
        resource_release(resource);
        lockspace_lock_freed(lockspace);
        lockspace_unref(lockspace);
}

/* The flags with which a lock held in PW or EX hands its value on. */
static unsigned value_flags(const Lock *lock)
{
        return DLM_LKF_VALBLK | (lock->lost && !lock->dirty ? DLM_LKF_IVVALBLK : 0);
}

/* Would a convert to @mode, or with NL an unlock, publish a value whose keeper is not granted? */
static gboolean is_early(const Lock *lock, LockMode mode)
{
        const Lock *keeper = lock->resource->keeper;

        return lock->dirty && mode_is_writer(lock->mode) && mode <= lock->mode && keeper && lock_is_busy(keeper);
}

/* Is what it asks for nobody's: a probe, or the way back from a grant that came after all? */
static gboolean is_nobodys(const Lock *lock, LockMode mode)
{
        return (lock->by == BY_READER && mode > MODE_NL) || lock->is_cancelled;
}

static int ask(Lock *lock, gboolean is_new, LockMode mode, unsigned flags)
{
        Lockspace *lockspace = lock->resource->lockspace;
        Engine *engine = lockspace->tree->engine;
        const EngineLock request = {
                .lockspace = lockspace->id,
                .id = lock->id,
                .mode = mode,
                .flags = flags | DLM_LKF_VALBLK,
                .name = lock->resource->name,
                .name_len = lock->resource->name_len,
        };
        int r;

        if (is_new) {
                r = engine->ops->lock(engine, &request);
        } else {
                lock->is_rewritten = FALSE;
                r = engine->ops->convert(engine, lock->id, mode,
                                         flags | (mode_is_writer(lock->mode) && mode <= lock->mode ? value_flags(lock) : DLM_LKF_VALBLK),
                                         lock->value);
        }
        if (r == 0 && is_nobodys(lock, mode))
                set_passing(lock, TRUE);
        return r;
}

/* Is that to be held up? Not the keeper, for which others are; nor the way back, which only lets others in. */
static gboolean has_to_wait(const Lock *lock, LockMode mode, unsigned flags)
{
        const Resource *resource = lock->resource;

        if (lock->by == BY_KEEPER || lock->is_cancelled)
                return FALSE;
        return resource->held_up > 0 || is_early(lock, mode) || (flags & DLM_LKF_NOQUEUE && resource->passing > 0);
}

int lock_request(Lock *lock, LockMode mode, unsigned flags)
{
        const gboolean is_new = lock->state == LOCK_NEW;
        int r;

        g_assert(is_new || lock->state == LOCK_HELD);
        if (has_to_wait(lock, mode, flags)) {
                hold_up(lock);
                lock->flags = flags;
        } else {
                r = ask(lock, is_new, mode, flags);
                if (r < 0)
                        return r;
        }
        lock->wanted = mode;
        set_state(lock, is_new ? LOCK_LOCKING : LOCK_CONVERTING);
        return 0;
}

static void lead_done(Lock *lead, int status, void *data)
{
        Engine *engine = lead->resource->lockspace->tree->engine;
        Lock *lock;

        if (lock_is_busy(lead))                 /* the lockspace is dead, and sees to both */
                return;
        lock = part(lead);
        if (lock)
                engine->ops->cancel(engine, lock->id);
        lock_drop(lead);
}

/* A new lock has been given up. FALSE: to be cancelled here and now. */
static gboolean sound(Lock *lock)
{
        Engine *engine = lock->resource->lockspace->tree->engine;
        Lock *lead;

        if (lock->state != LOCK_LOCKING || !engine->ops->cancel_new)
                return FALSE;
        if (lock->is_paired || engine->ops->cancel_new(engine, lock->id))
                return TRUE;
        if (lock_new(lock->resource, BY_READER, 0, 0, &lead) < 0)
                return FALSE;                   /* who gives back must not fail */
        if (ask(lead, TRUE, MODE_NL, DLM_LKF_EXPEDITE) < 0) {
                lock_drop(lead);
                return FALSE;
        }
        lead->wanted = MODE_NL;
        set_state(lead, LOCK_LOCKING);
        lock_set_callbacks(lead, lead_done, NULL, lock);
        lock->data = lead;
        lock->is_paired = lead->is_paired = TRUE;
        return TRUE;
}

void lock_cancel(Lock *lock)
{
        Engine *engine = lock->resource->lockspace->tree->engine;

        if (lock->state == LOCK_CONVERTING && lock->wanted > lock->mode) {
                lock->is_cancelled = TRUE;
                lock->back = lock->mode;
        }
        if (!is_in_flight(lock))
                return;
        set_passing(lock, TRUE);
        if (!sound(lock))
                engine->ops->cancel(engine, lock->id);
}

static void unlock(Lock *lock)
{
        Engine *engine = lock->resource->lockspace->tree->engine;
        const unsigned flags = mode_is_writer(lock->mode) ? value_flags(lock) : 0;

        if (lock->dirty && flags != 0)
                resource_saw_value(lock->resource, lock->value);
        set_dirty(lock, FALSE);
        if (engine->ops->unlock(engine, lock->id, flags, lock->value) < 0)
                lock_free(lock);
        else
                set_state(lock, LOCK_UNLOCKING);
}

void lock_drop(Lock *lock)
{
        if (!lock)
                return;
        set_dropping(lock, is_in_flight(lock));
        switch (lock->state) {
        case LOCK_NEW:
                lock_free(lock);
                break;
        case LOCK_LOCKING:
                if (lock->is_held_up)
                        lock_free(lock);
                else
                        lock_cancel(lock);
                break;
        case LOCK_CONVERTING:
                if (lock->is_held_up)
                        set_state(lock, LOCK_HELD);     /* unlocked in its turn */
                else
                        lock_cancel(lock);
                break;
        case LOCK_HELD:
                if (is_early(lock, MODE_NL))
                        hold_up(lock);
                else
                        unlock(lock);
                break;
        case LOCK_UNLOCKING:
        case LOCK_ABANDONED:
                break;
        }
}

/* TRUE: the engine has it now; FALSE: it has ended, and its owner has been told. */
static gboolean send(Lock *lock)
{
        int r;

        hold_up_no_more(lock);
        if (lock->state == LOCK_HELD) {
                unlock(lock);
                return TRUE;
        }
        if (lock->is_cancelled)
                r = -ECANCELED;
        else
                r = ask(lock, lock->state == LOCK_LOCKING, lock->wanted, lock->flags);
        if (r < 0)
                lock_completed(lock->resource->lockspace->tree, lock->id, r, 0, NULL);
        return r == 0;
}

static gboolean is_still_held_up(const Lock *lock)
{
        const Resource *resource = lock->resource;

        if (resource->keeper && lock_is_busy(resource->keeper))
                return TRUE;
        return lock->state != LOCK_HELD && lock->flags & DLM_LKF_NOQUEUE && resource->passing > 0;
}

/* A keeper was granted or refused, or a lock has passed: is the first in line still held up? */
static void send_held_up(Resource *resource)
{
        GList *next;

        for (GList *l = resource->locks.head; l && resource->held_up > 0; l = next) {
                Lock *lock = l->data;

                next = l->next;
                if (!lock->is_held_up)
                        continue;
                if (is_still_held_up(lock))
                        return;
                if (!send(lock))
                        next = resource->locks.head;    /* what was next may be gone */
        }
}

void lock_abandon(Lock *lock)
{
        retire(lock);
        set_state(lock, LOCK_ABANDONED);
}

/* What came with a grant. */
static void take_value(Lock *lock, unsigned flags, const uint8_t *value)
{
        if (!value)
                return;
        memcpy(lock->value, value, VALUE_LEN);
        lock->lost = (flags & DLM_SBF_VALNOTVALID) != 0;
        if (!lock->resource->has_newer)
                resource_saw_value(lock->resource, lock->value);
}

static void lock_granted(Lock *lock, unsigned flags, const uint8_t *value)
{
        const gboolean wrote = lock->state == LOCK_CONVERTING && mode_is_writer(lock->mode) && lock->wanted <= lock->mode;

        set_state(lock, LOCK_HELD);
        if (lock->wanted != lock->mode)         /* fsync's conversion changes nothing for who waits */
                lock->is_asked = FALSE;
        lock->mode = lock->wanted;
        if (wrote)
                set_dirty(lock, lock->is_rewritten);
        else
                take_value(lock, flags, value);
}

/* A convert was cancelled, and that or the way back from it has ended. TRUE: it was
 * granted all the same, and the lock is on its way back now: that never waits, and
 * publishes the value as it was read. */
static gboolean goes_back(Lock *lock, int status)
{
        const gboolean is_too_high = lock->is_cancelled && lock->mode > lock->back;

        if (is_too_high && (status == 0 || status == -ENOMEM) && lock_request(lock, lock->back, 0) == 0)
                return TRUE;
        lock->is_cancelled = FALSE;
        return FALSE;
}

/* Granted, or not. */
static void request_ended(Lock *lock, int status, unsigned flags, const uint8_t *value)
{
        Resource *resource = lock->resource;
        const gboolean has_failed_new = status < 0 && lock->state == LOCK_LOCKING, was_passing = lock->is_passing;

        if (lock->dropping)
                part(lock);
        if (status == 0)
                lock_granted(lock, flags, value);
        else
                set_state(lock, has_failed_new ? LOCK_NEW : LOCK_HELD);
        set_passing(lock, FALSE);
        if (lock->by == BY_KEEPER)
                send_held_up(resource);
        resource->opens++;                      /* this may be its last lock */
        if (lock->dropping && has_failed_new)
                lock_free(lock);
        else if (lock->dropping)                /* the grant crossed our cancel: give it back */
                lock_drop(lock);
        else if (!goes_back(lock, status) && lock->done)
                lock->done(lock, status, lock->data);
        if (was_passing)                        /* if it held anything, the unlock or convert is on its way */
                send_held_up(resource);
        resource->opens--;
        resource_release(resource);
}

void lock_completed(Tree *tree, uint32_t id, int status, unsigned flags, const uint8_t *value)
{
        Lock *lock = id_table_find(&tree->locks, id);

        g_assert(lock);
        trace("lock %u: completed, %s%s%s", id, status < 0 ? g_strerror(-status) : "granted",
              flags & DLM_SBF_DEMOTED ? ", demoted" : "", flags & DLM_SBF_VALNOTVALID ? ", value lost" : "");
        switch (lock->state) {
        case LOCK_LOCKING:
        case LOCK_CONVERTING:
                request_ended(lock, status, flags, value);
                break;
        case LOCK_UNLOCKING:
                lock_free(lock);
                break;
        case LOCK_ABANDONED:                            /* it crossed the forced release */
                break;
        case LOCK_NEW:
        case LOCK_HELD:
                g_assert_not_reached();
        }
}

void lock_set_value(Lock *lock, const uint8_t *value)
{
        memcpy(lock->value, value, VALUE_LEN);
        set_dirty(lock, TRUE);
        lock->is_rewritten = lock->state == LOCK_CONVERTING && !lock->is_held_up;
        lock->lost = FALSE;
}

void lock_lose_value(Lock *lock)
{
        set_dirty(lock, FALSE);
        lock->lost = TRUE;
}

void lock_blocking(Tree *tree, uint32_t id)
{
        Lock *lock = id_table_find(&tree->locks, id);

        if (!lock || lock->is_asked)            /* the DLM may say it again */
                return;
        lock->is_asked = TRUE;
        if (lock->blocking)
                lock->blocking(lock, lock->data);
}

const char *lock_by_to_string(LockBy by)
{
        static const char *const names[] = { "flock", "posix", "ofd", "open", "keeper", "reader" };

        return names[by];
}
