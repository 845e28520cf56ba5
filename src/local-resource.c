/*
 * The grant rules of the DLM, without its walks over every lock.
 *
 * Three queues: granted, converting (granted in one mode, waiting for another)
 * and waiting. What a converting lock holds counts like what a granted one
 * holds. The rules:
 * - A new request is granted at once only if it is compatible with all that is
 *   held and nobody is queued; a conversion only has to be compatible, QUECVT
 *   makes it queue behind other conversions. EXPEDITE asks nothing, NOORDER
 *   only about compatibility, also later.
 * - From the queues, only the first conversion is granted, and only when there
 *   is none the first waiter.
 * - A conversion that would hold up a queued one by what it holds meanwhile is
 *   a dead-lock: it ends in EDEADLK, or with CONVDEADLK gives up what it holds.
 *
 * Compatibility is a question of how many locks hold each mode, dead-lock one
 * of how many conversions want each mode, so both are answered by counters.
 *
 * Telling holders that somebody waits: granted locks stand in one list per mode,
 * least told first. A waiter's mode is told to the front of a list, up to the
 * first that already knows, which leaves the list in order; so each lock is
 * touched once per mode level until it is granted anew, whoever comes and goes.
 */
#include "local-resource.h"
#include "hash.h"
#include "memory.h"
#include <errno.h>
#include <string.h>

typedef struct Queue {
        LocalLock *first;
        LocalLock *last;
} Queue;

struct LocalResource {
        LocalName name;                         /* points at name_bytes */
        GList link;                             /* the engine's */
        LocalEvents *events;                    /* borrowed from the engine */
        uint32_t lockspace;
        uint32_t locks;                         /* on any queue */
        Queue granted[MODE_COUNT];              /* by mode, each by ascending told */
        Queue converting;
        Queue waiting;
        uint32_t holders[MODE_COUNT];           /* locks by granted mode: granted and converting */
        uint32_t conversions[MODE_COUNT];       /* converting locks by wanted mode */
        uint32_t waiters[MODE_COUNT];           /* waiting locks by wanted mode */
        uint32_t irregular;                     /* queued ones for which is_irregular() */
        gboolean lost;                          /* VALNOTVALID */
        gboolean has_value;                     /* it was written */
        uint8_t value[VALUE_LEN];               /* here, since who unlocks must not need memory for it */
        uint8_t name_bytes[];
};

guint local_name_hash(const void *name)
{
        const LocalName *n = name;

        return hash_bytes(n->bytes, n->len);
}

gboolean local_name_equal(const void *a, const void *b)
{
        const LocalName *x = a, *y = b;

        return x->len == y->len && memcmp(x->bytes, y->bytes, x->len) == 0;
}

LocalResource *local_resource_new(uint32_t lockspace, const LocalName *name, LocalEvents *events)
{
        LocalResource *r = memory_alloc0(sizeof(LocalResource) + name->len);

        if (!r)
                return NULL;
        memcpy(r->name_bytes, name->bytes, name->len);
        r->name = (LocalName){ .bytes = r->name_bytes, .len = name->len };
        r->link.data = r;
        r->lockspace = lockspace;
        r->events = events;
        return r;
}

const LocalName *local_resource_name(const LocalResource *r)
{
        return &r->name;
}

GList *local_resource_link(LocalResource *r)
{
        return &r->link;
}

uint32_t local_resource_lockspace(const LocalResource *r)
{
        return r->lockspace;
}

gboolean local_resource_is_unused(const LocalResource *r)
{
        return r->locks == 0;
}

void local_resource_forget_value(LocalResource *r)
{
        r->has_value = r->lost = FALSE;
}

void local_resource_free(LocalResource *r)
{
        g_free(r);
}

/* --- queues --- */

static void queue_insert(Queue *queue, LocalLock *lock, LocalLock *next)        /* before @next; NULL: at the end */
{
        lock->next = next;
        lock->prev = next ? next->prev : queue->last;
        *(lock->prev ? &lock->prev->next : &queue->first) = lock;
        *(next ? &next->prev : &queue->last) = lock;
}

static void queue_remove(Queue *queue, LocalLock *lock)
{
        *(lock->prev ? &lock->prev->next : &queue->first) = lock->next;
        *(lock->next ? &lock->next->prev : &queue->last) = lock->prev;
        lock->next = lock->prev = NULL;
}

/* May something other than the first in the queue need a look? */
static gboolean is_irregular(const LocalLock *lock)
{
        return (lock->flags & DLM_LKF_NOORDER) || (lock->state == LOCAL_LOCK_CONVERTING && (lock->flags & DLM_LKF_HEADQUE));
}

static void set_granted(LocalLock *lock, int mode)
{
        LocalResource *r = lock->resource;

        if (lock->granted != LOCAL_MODE_NONE)
                r->holders[lock->granted]--;
        lock->granted = mode;
        if (lock->granted != LOCAL_MODE_NONE)
                r->holders[lock->granted]++;
}

static void enlist_granted(LocalLock *lock)
{
        Queue *queue = &lock->resource->granted[lock->granted];
        LocalLock *next = queue->first;

        while (next && next->told < lock->told) /* after a conversion that failed; told is 0 after a grant */
                next = next->next;
        lock->state = LOCAL_LOCK_GRANTED;
        lock->resource->locks++;
        queue_insert(queue, lock, next);
}

static void enlist_queued(LocalLock *lock, LocalLockState state)
{
        LocalResource *r = lock->resource;
        gboolean is_conversion = state == LOCAL_LOCK_CONVERTING;
        Queue *queue = is_conversion ? &r->converting : &r->waiting;

        lock->state = state;
        r->locks++;
        (is_conversion ? r->conversions : r->waiters)[lock->wanted]++;
        r->irregular += is_irregular(lock);
        queue_insert(queue, lock, (lock->flags & DLM_LKF_HEADQUE) ? queue->first : NULL);
}

static void delist(LocalLock *lock)
{
        LocalResource *r = lock->resource;

        switch ((LocalLockState)lock->state) {
        case LOCAL_LOCK_NONE:
                return;
        case LOCAL_LOCK_GRANTED:
                queue_remove(&r->granted[lock->granted], lock);
                break;
        case LOCAL_LOCK_CONVERTING:
                r->conversions[lock->wanted]--;
                r->irregular -= is_irregular(lock);
                queue_remove(&r->converting, lock);
                break;
        case LOCAL_LOCK_WAITING:
                r->waiters[lock->wanted]--;
                r->irregular -= is_irregular(lock);
                queue_remove(&r->waiting, lock);
                break;
        }
        r->locks--;
        lock->state = LOCAL_LOCK_NONE;
}

/* --- outcomes --- */

static LocalEvent *complete(LocalLock *lock, int status)
{
        LocalResource *r = lock->resource;
        LocalEvent *event = local_events_push(r->events, LOCAL_EVENT_COMPLETED, r->lockspace);

        event->lock = lock;
        event->status = status;
        event->flags = lock->status_flags;
        return event;
}

/* The last completion: the lock is on no queue any more. */
static void complete_gone(LocalLock *lock, int status)
{
        complete(lock, status);
        set_granted(lock, LOCAL_MODE_NONE);
        lock->resource = NULL;
}

static void tell(LocalLock *lock, LockMode wanted)
{
        LocalResource *r = lock->resource;
        LocalEvent *event = local_events_push(r->events, LOCAL_EVENT_BLOCKING, r->lockspace);

        event->lock = lock;
        event->mode = wanted;
        lock->told = wanted;
}

static void tell_granted(LocalResource *r, LockMode granted, LockMode wanted)
{
        for (LocalLock *l = r->granted[granted].first; l && l->told < wanted; l = l->next)
                tell(l, wanted);
}

/* One more wants @wanted: tell all who stand in the way. */
static void tell_wanted(LocalResource *r, LockMode wanted)
{
        for (int m = MODE_EX; m > MODE_NL; m--)
                if (!mode_is_compatible(m, wanted))
                        tell_granted(r, m, wanted);
}

/* Who was granted just now has not heard what those still queued want. */
static void tell_all_wanted(LocalResource *r)
{
        if (!r->converting.first && !r->waiting.first)
                return;
        for (int granted = MODE_EX; granted > MODE_NL; granted--)
                for (int m = MODE_EX; m > MODE_NL; m--)
                        if ((r->conversions[m] || r->waiters[m]) && !mode_is_compatible(granted, m)) {
                                tell_granted(r, granted, m);
                                break;
                        }
}

/* --- the value block --- */

static gboolean writes_value(int from, LockMode to)
{
        return from != LOCAL_MODE_NONE && mode_is_writer(from) && to <= (LockMode)from;
}

static gboolean reads_value(int from, LockMode to)
{
        return from == LOCAL_MODE_NONE || (to >= (LockMode)from && !writes_value(from, to));
}

static void write_value(LocalResource *r, uint32_t flags, const uint8_t *value)
{
        if (flags & DLM_LKF_IVVALBLK) {
                r->lost = TRUE;
        } else if (flags & DLM_LKF_VALBLK) {
                r->has_value = TRUE;
                memcpy(r->value, value, VALUE_LEN);
                r->lost = FALSE;
        }
}

/* As in the kernel, a value that was never written cannot be seen to be lost,
 * and a step down that moves no value shows that it is, asked or not. */
static gboolean shows_lost(const LocalResource *r, const LocalLock *lock)
{
        if (!r->lost || writes_value(lock->granted, lock->wanted))
                return FALSE;
        if (reads_value(lock->granted, lock->wanted))
                return (lock->flags & DLM_LKF_VALBLK) && r->has_value;
        return TRUE;
}

/* --- granting --- */

/* @value: to be written, if the direction writes. Such a conversion is a step
 * down, never queued, so whoever is granted from a queue needs none. */
static void grant(LocalLock *lock, const uint8_t *value)
{
        LocalResource *r = lock->resource;
        gboolean has_value = (lock->flags & DLM_LKF_VALBLK) && reads_value(lock->granted, lock->wanted);
        LocalEvent *event;

        if (writes_value(lock->granted, lock->wanted))
                write_value(r, lock->flags, value);
        if (shows_lost(r, lock))
                lock->status_flags |= DLM_SBF_VALNOTVALID;

        delist(lock);
        set_granted(lock, lock->wanted);
        lock->told = MODE_NL;
        enlist_granted(lock);

        event = complete(lock, 0);
        event->has_value = has_value;
        if (has_value && r->has_value)
                memcpy(event->value, r->value, VALUE_LEN);
}

static gboolean is_compatible_with_others(const LocalLock *lock)
{
        const LocalResource *r = lock->resource;

        for (LockMode m = MODE_NL; m < MODE_COUNT; m++) {
                uint32_t own = lock->granted == (int)m;

                if (r->holders[m] > own && !mode_is_compatible(m, lock->wanted))
                        return FALSE;
        }
        return TRUE;
}

static gboolean can_be_granted_at_once(const LocalLock *lock)
{
        const LocalResource *r = lock->resource;

        if (lock->flags & DLM_LKF_EXPEDITE)
                return TRUE;
        if (!is_compatible_with_others(lock))
                return FALSE;
        if (lock->granted != LOCAL_MODE_NONE)
                return !(lock->flags & DLM_LKF_QUECVT) || !r->converting.first;
        if (lock->flags & DLM_LKF_NOORDER)
                return TRUE;
        return !r->converting.first && !r->waiting.first;
}

static gboolean can_be_granted_from_queue(const LocalLock *lock)
{
        const LocalResource *r = lock->resource;

        if (!is_compatible_with_others(lock))
                return FALSE;
        if (lock->flags & DLM_LKF_NOORDER)
                return TRUE;
        if (r->converting.first)
                return lock == r->converting.first;
        return lock == r->waiting.first;
}

static void demote(LocalLock *lock)
{
        gboolean is_granted = lock->state == LOCAL_LOCK_GRANTED;

        if (is_granted)
                delist(lock);
        set_granted(lock, MODE_NL);
        if (is_granted)
                enlist_granted(lock);
        lock->status_flags |= DLM_SBF_DEMOTED;
}

/* Would @lock, not yet queued, hold up a queued conversion by what it holds? */
static gboolean is_conversion_deadlock(const LocalLock *lock)
{
        const LocalResource *r = lock->resource;

        for (LockMode m = MODE_NL; m < MODE_COUNT; m++)
                if (r->conversions[m] && !mode_is_compatible(lock->granted, m))
                        return TRUE;
        return FALSE;
}

/* Conversions put at the head are not checked against those they overtake. As
 * the kernel does, see to that with the next change: who holds up one ahead of
 * it is demoted if it may be; else both stay. */
static gboolean demote_for_those_ahead(LocalLock *lock, unsigned ahead)
{
        if (!(lock->flags & DLM_LKF_CONVDEADLK) || lock->granted == MODE_NL)
                return FALSE;
        for (LockMode m = MODE_NL; m < MODE_COUNT; m++)
                if ((ahead & 1u << m) && !mode_is_compatible(lock->granted, m)) {
                        demote(lock);
                        return TRUE;
                }
        return FALSE;
}

static void grant_conversions(LocalResource *r)
{
        gboolean is_changed;

        do {
                LocalLock *next;
                unsigned ahead = 0;             /* modes that those passed over want */

                is_changed = FALSE;
                for (LocalLock *l = r->converting.first; l; l = next) {
                        next = l->next;
                        if (can_be_granted_from_queue(l)) {
                                grant(l, NULL);
                                is_changed = TRUE;
                                continue;
                        }
                        if (r->irregular == 0)
                                break;
                        if (demote_for_those_ahead(l, ahead))
                                is_changed = TRUE;
                        ahead |= 1u << l->wanted;
                }
        } while (is_changed);                   /* PR to CW may let one pass that was passed over */
}

static void grant_waiters(LocalResource *r)
{
        LocalLock *next;

        for (LocalLock *l = r->waiting.first; l; l = next) {
                next = l->next;
                if (can_be_granted_from_queue(l))
                        grant(l, NULL);
                else if (r->irregular == 0)
                        break;
        }
}

/* Something was given up: who can go on now? */
static void grant_queued(LocalResource *r)
{
        grant_conversions(r);
        grant_waiters(r);
        tell_all_wanted(r);
}

/* --- the four operations --- */

/* Refused with NOQUEUEBAST: those in the way hear of it nevertheless, also
 * converting ones, and never @lock itself. */
static void tell_refused(LocalLock *lock)
{
        LocalResource *r = lock->resource;
        gboolean is_granted = lock->state == LOCAL_LOCK_GRANTED;

        if (is_granted)
                delist(lock);
        tell_wanted(r, lock->wanted);
        for (LocalLock *l = r->converting.first; l; l = l->next)
                if (l->told < lock->wanted && !mode_is_compatible(l->granted, lock->wanted))
                        tell(l, lock->wanted);
        if (is_granted)
                enlist_granted(lock);
}

static void begin(LocalLock *lock, LockMode mode, uint32_t flags)
{
        lock->flags = flags;
        lock->wanted = mode;
        lock->status_flags = 0;
}

void local_resource_request(LocalResource *r, LocalLock *lock, LockMode mode, uint32_t flags)
{
        lock->resource = r;
        lock->granted = LOCAL_MODE_NONE;
        begin(lock, mode, flags);
        if (can_be_granted_at_once(lock)) {
                grant(lock, NULL);
        } else if (flags & DLM_LKF_NOQUEUE) {
                if (flags & DLM_LKF_NOQUEUEBAST)
                        tell_refused(lock);
                complete_gone(lock, -EAGAIN);
        } else {
                enlist_queued(lock, LOCAL_LOCK_WAITING);
                tell_wanted(r, mode);
        }
}

static void wait_for_conversion(LocalLock *lock)
{
        delist(lock);
        enlist_queued(lock, LOCAL_LOCK_CONVERTING);
        tell_wanted(lock->resource, lock->wanted);
}

/* What @lock held may have been all that a queued conversion waited for, and
 * that one comes before @lock. */
static void convert_demoted(LocalLock *lock)
{
        LocalResource *r = lock->resource;

        demote(lock);
        grant_conversions(r);
        if (can_be_granted_at_once(lock)) {
                grant(lock, NULL);
                grant_queued(r);
                return;
        }
        wait_for_conversion(lock);
        tell_all_wanted(r);
}

int local_resource_convert(LocalLock *lock, LockMode mode, uint32_t flags, const uint8_t *value)
{
        gboolean is_up = (int)mode > lock->granted || (lock->granted == MODE_PR && mode == MODE_CW);

        if ((flags & DLM_LKF_QUECVT) && !is_up)
                return -EINVAL;
        if ((flags & DLM_LKF_VALBLK) && !(flags & DLM_LKF_IVVALBLK) && writes_value(lock->granted, mode) && !value)
                return -EINVAL;

        begin(lock, mode, flags);
        if (can_be_granted_at_once(lock)) {
                grant(lock, value);
                grant_queued(lock->resource);
        } else if (flags & DLM_LKF_NOQUEUE) {
                if (flags & DLM_LKF_NOQUEUEBAST)
                        tell_refused(lock);
                complete(lock, -EAGAIN);
        } else if (!is_conversion_deadlock(lock)) {
                wait_for_conversion(lock);
        } else if (flags & DLM_LKF_CONVDEADLK) {
                convert_demoted(lock);
        } else {
                complete(lock, -EDEADLK);
        }
        return 0;
}

int local_resource_unlock(LocalLock *lock, uint32_t flags, const uint8_t *value)
{
        LocalResource *r = lock->resource;
        gboolean is_writer = mode_is_writer(lock->granted);

        if (is_writer && (flags & DLM_LKF_VALBLK) && !(flags & DLM_LKF_IVVALBLK) && !value)
                return -EINVAL;
        if (!(lock->flags & DLM_LKF_VALBLK))
                flags = 0;
        if (is_writer)                          /* IVVALBLK sticks, as in the kernel */
                write_value(r, flags | (lock->flags & DLM_LKF_IVVALBLK), value);
        lock->status_flags = 0;
        delist(lock);
        complete_gone(lock, 0);
        grant_queued(r);
        return 0;
}

void local_resource_cancel(LocalLock *lock)
{
        LocalResource *r = lock->resource;

        switch ((LocalLockState)lock->state) {
        case LOCAL_LOCK_NONE:
        case LOCAL_LOCK_GRANTED:
                return;
        case LOCAL_LOCK_CONVERTING:
                lock->status_flags = 0;         /* DEMOTED goes untold, as in the kernel */
                delist(lock);
                enlist_granted(lock);
                complete(lock, -ECANCELED);
                break;
        case LOCAL_LOCK_WAITING:
                delist(lock);
                complete_gone(lock, -ECANCELED);
                break;
        }
        grant_queued(r);
}
