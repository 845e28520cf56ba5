#include "holder.h"
#include "handle.h"
#include "lockspace.h"
#include "memory.h"
#include "request.h"
#include "resource.h"
#include <errno.h>

/* An owner of fcntl locks, as the kernel names it: a process, or for OFD locks
 * a file. In Tree.owners while it has a holder. */
typedef struct Owner {
        guint64 id;                             /* the key, first: that table is a set */
        GQueue holders;                         /* of FcntlHolder */
        guint64 search;                         /* the last one for a dead-lock that met it … */
        struct Owner *next;                     /* … and who is followed after it */
} Owner;

typedef struct FcntlHolder {
        Holder base;
        Owner *owner;
        GList link;                             /* in Owner.holders */
        GSList of_handle;                       /* in Handle.fcntl */
} FcntlHolder;

static void holder_next(Holder *holder);

void holder_init(Holder *holder, Resource *resource, Handle *handle, LockBy by)
{
        *holder = (Holder){ .resource = resource, .handle = handle, .by = by };
}

void holder_clear(Holder *holder)
{
        g_assert(!holder->active && (!holder->waiting || g_queue_is_empty(holder->waiting)));
        lock_drop(g_steal_pointer(&holder->lock));
        g_clear_pointer(&holder->waiting, g_free);
}

static gboolean is_busy(const Holder *holder)
{
        return holder->active || (holder->lock && lock_is_busy(holder->lock));
}

static Tree *holder_tree(const Holder *holder)
{
        return holder->resource->lockspace->tree;
}

/* @request has its turn when this holder's earlier ones are through. A try that
 * may wait at all (is_sure) goes first: what waits before it may take long. */
static int wait_for_turn(Holder *holder, Request *request)
{
        if (!holder->waiting)
                holder->waiting = memory_new0(GQueue);
        if (!holder->waiting)
                return -ENOMEM;
        if (request->wait)
                request_enqueue(request, holder->waiting);
        else
                request_enqueue_first(request, holder->waiting);
        return 0;
}

/* @request cannot be asked for now. -EAGAIN: nor may it wait for that; -ENOMEM: nor can it. */
static int put_off(Holder *holder, Request *request)
{
        request_begin_wait(request);
        if (request->is_over_limit)
                return -EAGAIN;
        if (is_busy(holder))
                return wait_for_turn(holder, request);
        request_enqueue(request, &holder->resource->lockspace->postponed);
        return 0;
}

/* --- dead-locks --- */

/*
 * A search goes from the owner who asks to those who hold what he would wait
 * for, from them to those whom they wait for, and so on until it meets him.
 * What it has met bears its number: each owner is followed once, and each mode
 * that is held on a resource is looked for once, however many wait for it. So
 * it takes time in proportion to the locks on its way, and no memory.
 */
typedef struct Search {
        guint64 number;
        const Owner *asker;
        Owner *met;                             /* whose waits are still to be followed */
} Search;

/* Not with a try, nor with what was given up: that goes when the engine has answered. */
static gboolean waits(const Holder *holder)
{
        return holder->active && holder->active->wait;
}

/* Note in each holder that waits there the modes that must become possible
 * before it is granted: its own and those of the requests before it, since
 * nobody overtakes; but a conversion goes before every waiter. All of them
 * together: what a new request has before it. */
static unsigned note_modes(const Resource *resource)
{
        unsigned modes = 0;

        for (GList *l = resource->locks.head; l; l = l->next) {
                const Lock *lock = l->data;

                if (!lock_counts(lock) || !lock_is_busy(lock) || !waits(lock->data))
                        continue;
                modes |= 1u << lock->wanted;
                ((Holder *)lock->data)->modes = lock_has(lock) ? 1u << lock->wanted : modes;
        }
        return modes;
}

/* The modes that exclude one of @modes when they are held. */
static unsigned modes_against(unsigned modes)
{
        unsigned against = 0;

        for (LockMode held = MODE_NL; held < MODE_COUNT; held++)
                for (LockMode mode = MODE_NL; mode < MODE_COUNT; mode++)
                        if (modes & 1u << mode && !mode_is_compatible(held, mode))
                                against |= 1u << held;
        return against;
}

/* Meet the owners of the locks there that hold one of @modes, without @own.
 * TRUE: the asker is one of them, and would wait for himself. */
static gboolean meet(Search *search, const Resource *resource, unsigned modes, const Lock *own)
{
        for (GList *l = resource->locks.head; l; l = l->next) {
                const Lock *lock = l->data;
                Owner *owner;

                if (lock == own || lock->by != BY_POSIX || !(modes & 1u << lock_kept_mode(lock)) || !lock_counts(lock) || !lock_has(lock))
                        continue;
                owner = ((FcntlHolder *)lock->data)->owner;
                if (owner == search->asker)
                        return TRUE;
                if (owner->search == search->number)
                        continue;
                owner->search = search->number;
                owner->next = search->met;
                search->met = owner;
        }
        return FALSE;
}

/* Meet those whom @waiter waits for. */
static gboolean follow(Search *search, const Holder *waiter)
{
        Resource *resource = waiter->resource;
        unsigned modes;

        if (resource->search != search->number) {
                resource->search = search->number;
                resource->searched = 0;
                note_modes(resource);
        }
        modes = modes_against(waiter->modes) & ~resource->searched;
        resource->searched |= modes;
        return modes && meet(search, resource, modes, waiter->lock);
}

static gboolean would_deadlock(const Holder *holder, LockMode mode)
{
        const Owner *owner = ((const FcntlHolder *)holder)->owner;
        Search search = { .number = ++holder_tree(holder)->searches, .asker = owner };
        unsigned modes = 1u << mode;
        gboolean has_any = FALSE, is_cycle;

        for (GList *h = owner->holders.head; h && !has_any; h = h->next)
                has_any = ((Holder *)h->data)->lock && lock_has(((Holder *)h->data)->lock);
        if (!has_any)
                return FALSE;                   /* who holds nothing keeps nobody waiting */
        if (!holder->lock)
                modes |= note_modes(holder->resource);
        is_cycle = meet(&search, holder->resource, modes_against(modes), holder->lock);
        while (search.met && !is_cycle) {
                GList *h = search.met->holders.head;

                search.met = search.met->next;
                for (; h && !is_cycle; h = h->next) {
                        const Holder *other = h->data;

                        is_cycle = waits(other) && follow(&search, other);
                }
        }
        return is_cycle;
}

/* --- the lock --- */

static void holder_done(Lock *lock, int status, void *data)
{
        Holder *holder = data;
        Request *request = g_steal_pointer(&holder->active);
        const gboolean is_open = request && request->kind == REQUEST_OPEN;

        if (!lock_has(lock)) {
                holder->lock = NULL;
                lock_drop(lock);
        }
        if (request)
                request_answer(request, status);
        if (!is_open)                           /* an open that failed took the holder with it */
                holder_next(holder);
}

static void holder_blocking(Lock *lock, void *data)
{
        Holder *holder = data;

        handle_notify(holder->handle);
}

static unsigned request_flags(const Holder *holder, const Request *request)
{
        const gboolean is_conversion = lock_has(holder->lock);

        if (is_conversion && request->mode <= holder->lock->mode)
                return 0;                       /* downwards: never refused */
        if (request->mode == MODE_NL)
                return DLM_LKF_EXPEDITE;        /* nothing excludes it: not behind those who wait for more */
        if (!request->wait || request->is_over_limit)
                return DLM_LKF_NOQUEUE;
        /* Two that change SH to EX wait for each other: flock(2) lets one of
         * them lose its lock on the way, fcntl(2) wants EDEADLK. */
        if (is_conversion && holder->by == BY_FLOCK)
                return DLM_LKF_CONVDEADLK;
        return 0;
}

/* 0: asked for, @request is active. */
static int ask(Holder *holder, Request *request)
{
        const gboolean is_new = !holder->lock;
        int r;

        request_begin_wait(request);
        if (is_new) {
                const struct fuse_ctx *ctx = fuse_req_ctx(request->req);

                r = lock_new(holder->resource, holder->by, ctx->uid,
                             request->pid ? request->pid : handle_process(holder->handle, ctx->pid), &holder->lock);
                if (r < 0)
                        return r;
                lock_set_callbacks(holder->lock, holder_done, holder_blocking, holder);
        }
        r = lock_request(holder->lock, request->mode, request_flags(holder, request));
        if (r < 0) {
                if (is_new)
                        lock_drop(g_steal_pointer(&holder->lock));
                return r;
        }
        if (request->since_us == 0)
                request->since_us = holder->lock->since_us;
        holder->active = request;
        return 0;
}

/* What is in flight ends soon, whatever others do: nobody waits for it any more,
 * or it is an fsync, and @request asks for no more than is held. */
static gboolean is_sure(const Holder *holder, const Request *request)
{
        if (!holder->active)
                return TRUE;
        return holder->active->kind == REQUEST_FSYNC && lock_has(holder->lock) && request->mode <= holder->lock->mode;
}

/* The reason why @request cannot even be asked for: 0 or a negative errno. */
static int check(const Holder *holder, const Request *request)
{
        if (holder->is_dead)
                return -ESTALE;
        if (holder_tree(holder)->shutting_down && !(holder->lock && request->mode <= holder->lock->mode))
                return -ESHUTDOWN;
        if (is_busy(holder) && !request->wait && !is_sure(holder, request))
                return -EAGAIN;
        return 0;
}

void holder_lock(Holder *holder, Request *request)
{
        Lockspace *lockspace = holder->resource->lockspace;
        int r = check(holder, request);

        request->holder = holder;
        if (r == 0 && (is_busy(holder) || !lockspace_is_usable(lockspace))) {
                r = put_off(holder, request);
                if (r == 0)
                        return;
        } else if (r == 0 && !(holder->lock && holder->lock->mode == request->mode)) {
                if (holder->by == BY_POSIX && request->wait && would_deadlock(holder, request->mode))
                        r = -EDEADLK;
                else
                        r = ask(holder, request);
                if (r == 0)
                        return;
        }
        request_answer(request, r);
}

/* 0: @request waits. */
static int publish(Holder *holder, Request *request)
{
        int r;

        request_begin_wait(request);
        if (request->is_over_limit && (is_busy(holder) || !lockspace_grants_locks(holder->resource->lockspace)))
                return -ENOLCK;                 /* the value stays, and is published at the unlock */
        if (is_busy(holder))
                return wait_for_turn(holder, request);
        r = lock_request(holder->lock, holder->lock->mode, 0);
        if (r == 0)
                holder->active = request;
        return r;
}

void holder_sync(Holder *holder, Request *request)
{
        Lock *lock = holder->lock;
        int r = holder->is_dead ? -ESTALE : 0;

        request->holder = holder;
        if (r == 0 && lock && lock_has(lock) && lock->dirty) {
                r = publish(holder, request);
                if (r == 0)
                        return;
        }
        request_answer(request, r);
}

static void start_request(Holder *holder, Request *request)
{
        if (request->kind == REQUEST_FSYNC)
                holder_sync(holder, request);
        else
                holder_lock(holder, request);
}

static void holder_next(Holder *holder)
{
        while (!is_busy(holder) && holder->waiting && !g_queue_is_empty(holder->waiting)) {
                Request *request = g_queue_peek_head(holder->waiting);

                g_queue_unlink(holder->waiting, &request->link);
                request->queue = NULL;
                start_request(holder, request);
        }
}

void holder_unlock(Holder *holder)
{
        Request *request = holder->active;

        if (!holder->lock || holder->lock->state == LOCK_LOCKING)
                return;                         /* nothing is held */
        if (!request || request->kind == REQUEST_FSYNC)
                request = NULL;
        else
                holder->active = NULL;          /* it was converting: it starts anew, with nothing */
        lock_drop(g_steal_pointer(&holder->lock));
        if (request)
                holder_lock(holder, request);
        else if (holder->active)                /* fsync: the unlock publishes just the same */
                request_answer(g_steal_pointer(&holder->active), 0);
        holder_next(holder);
}

/* @request, the active one, no longer waits: what becomes of the lock? */
static void give_up(Holder *holder, Request *request)
{
        Lock *lock = holder->lock;

        holder->active = NULL;
        if (lock->state == LOCK_CONVERTING && lock->wanted <= lock->mode)
                return;                         /* fsync, or a step down: happens anyway */
        if (lock->state == LOCK_CONVERTING && holder->by != BY_FLOCK) {
                lock_cancel(lock);              /* keeps what it has; holder_done() goes on */
                return;
        }
        /* Of a flock that was on its way from SH to EX the SH may be gone
         * already; flock(2) allows that it is. */
        holder->lock = NULL;
        lock_drop(lock);
}

void holder_leave(Holder *holder, Request *request)
{
        if (holder->active != request)
                return;                         /* in a queue: request_answer() takes it out */
        give_up(holder, request);
        if (holder->by != BY_OPEN)
                holder_next(holder);
}

void holder_fail(Holder *holder, int status)
{
        Request *request;

        if (status == -ESTALE)
                holder->is_dead = TRUE;
        while (holder->waiting && (request = g_queue_peek_head(holder->waiting)))
                request_answer(request, status);
        request = holder->active;
        if (request && status != -ESTALE)
                give_up(holder, request);
        holder->active = NULL;
        if (status == -ESTALE && holder->lock) {
                lock_set_callbacks(holder->lock, NULL, NULL, NULL);
                holder->lock = NULL;            /* the lockspace sees to it */
        }
        if (request)
                request_answer(request, status);
}

/* --- fcntl --- */

guint fcntl_holder_hash(gconstpointer pointer)
{
        const Holder *holder = pointer;

        return g_direct_hash(holder->resource) * 31 + g_int64_hash(&holder->owner);
}

gboolean fcntl_holder_equal(gconstpointer a, gconstpointer b)
{
        const Holder *x = a, *y = b;

        return x->resource == y->resource && x->owner == y->owner;
}

Holder *fcntl_holder_find(Resource *resource, guint64 owner)
{
        const Holder key = { .resource = resource, .owner = owner };
        GHashTable *holders = resource->lockspace->tree->fcntl_holders;

        return g_hash_table_size(holders) ? g_hash_table_lookup(holders, &key) : NULL;  /* each close asks */
}

/* NULL: no memory. */
static Owner *owner_get(Tree *tree, guint64 id)
{
        Owner *owner = g_hash_table_lookup(tree->owners, &id);

        if (owner)
                return owner;
        owner = memory_new0(Owner);
        if (!owner)
                return NULL;
        owner->id = id;
        g_hash_table_add(tree->owners, owner);
        return owner;
}

static void remember(Handle *handle, FcntlHolder *holder)
{
        holder->base.handle = handle;
        holder->of_handle.next = handle->fcntl;
        handle->fcntl = &holder->of_handle;
}

static void forget(FcntlHolder *holder)
{
        Handle *handle = holder->base.handle;

        handle->fcntl = g_slist_remove_link(handle->fcntl, &holder->of_handle);
}

static FcntlHolder *fcntl_holder_new(Resource *resource, guint64 owner, LockBy by, Handle *handle)
{
        Tree *tree = resource->lockspace->tree;
        FcntlHolder *holder = memory_new0(FcntlHolder);

        if (!holder)
                return NULL;
        holder->owner = owner_get(tree, owner);
        if (!holder->owner) {
                g_free(holder);
                return NULL;
        }
        holder_init(&holder->base, resource, handle, by);
        holder->base.owner = owner;
        holder->link.data = holder->of_handle.data = holder;
        g_queue_push_tail_link(&holder->owner->holders, &holder->link);
        g_hash_table_add(tree->fcntl_holders, holder);
        remember(handle, holder);
        return holder;
}

Holder *fcntl_holder_get(Resource *resource, guint64 owner, LockBy by, Handle *handle)
{
        FcntlHolder *holder = (FcntlHolder *)fcntl_holder_find(resource, owner);

        if (!holder) {
                holder = fcntl_holder_new(resource, owner, by, handle);
        } else if (holder->base.handle != handle) {
                forget(holder);
                remember(handle, holder);
        }
        return (Holder *)holder;
}

/* One of those who wait as @holder, or NULL. */
static const Request *first_waiter(const Holder *holder)
{
        if (holder->active)
                return holder->active;
        if (holder->waiting && !g_queue_is_empty(holder->waiting))
                return g_queue_peek_head(holder->waiting);
        for (GList *l = holder->resource->lockspace->postponed.head; l; l = l->next)
                if (((const Request *)l->data)->holder == holder)
                        return l->data;
        return NULL;
}

void fcntl_holder_leave_handle(Holder *holder)
{
        const Request *request = first_waiter(holder);

        if (request) {                          /* another thread, through a file of its own */
                forget((FcntlHolder *)holder);
                remember(request->handle, (FcntlHolder *)holder);
        }
        fcntl_holder_put(holder);
}

void fcntl_holder_put(Holder *base)
{
        FcntlHolder *holder = (FcntlHolder *)base;
        Tree *tree = holder_tree(base);
        Owner *owner = holder->owner;

        holder_unlock(base);
        if (base->lock || first_waiter(base))
                return;
        g_hash_table_remove(tree->fcntl_holders, base);
        forget(holder);
        g_queue_unlink(&owner->holders, &holder->link);
        if (g_queue_is_empty(&owner->holders)) {
                g_hash_table_remove(tree->owners, &owner->id);
                g_free(owner);
        }
        holder_clear(base);
        g_free(holder);
}
