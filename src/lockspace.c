#include "lockspace.h"
#include "handle.h"
#include "lock.h"
#include "request.h"
#include "resource.h"
#include "trace.h"
#include <errno.h>
#include <string.h>

/*
 * A release in steps, each started by the end of the one before:
 *
 *   lockspace_release   busy here? else have the engine seal it
 *   sealed              with force: everything here dies now. Else start to
 *                       save: each keeper reads its value …
 *   saved_read          … and is unlocked; when the last has, we drain: the
 *                       unlocks on their way end …
 *   engine_release      … and the engine is to release it
 *   released            done; or EBUSY: restore: each value is written back
 *                       under EX, unless somebody has it there now, and the
 *                       keepers are back. With force: once more, until it is
 *   restore_finished    unsealed; what was postponed starts
 */

#define FORCE_RETRY_MS 100

typedef struct SavedValue {
        Lock *lock;                             /* to put it back with; keeps the resource; the engine has not heard of it */
        gboolean is_lost;
        uint8_t value[VALUE_LEN];               /* zeroes if it is lost */
} SavedValue;

Lockspace *lockspace_new(Tree *tree, const char *name, uint32_t id, const EngineAttr *attr)
{
        Lockspace *lockspace = g_new0(Lockspace, 1);

        lockspace->node.kind = NODE_LOCKSPACE;
        lockspace->node.mode = attr->mode;
        lockspace->node.uid = attr->uid;
        lockspace->node.gid = attr->gid;
        node_touch(&lockspace->node);
        lockspace->node.atime_ns = lockspace->node.mtime_ns;
        lockspace->tree = tree;
        lockspace->name = g_strdup(name);
        lockspace->id = id;
        lockspace->refs = 1;
        lockspace->resources = g_hash_table_new(resource_name_hash, resource_name_equal);
        tree_add_node(tree, &lockspace->node);
        g_hash_table_insert(tree->lockspaces, lockspace->name, lockspace);
        g_hash_table_insert(tree->engine_lockspaces, GUINT_TO_POINTER(id), lockspace);
        tree_notify_listing(tree);
        return lockspace;
}

Lockspace *lockspace_ref(Lockspace *lockspace)
{
        lockspace->refs++;
        return lockspace;
}

void lockspace_unref(Lockspace *lockspace)
{
        g_assert(lockspace->refs > 0);
        if (--lockspace->refs > 0)
                return;
        g_assert(lockspace->state == LOCKSPACE_DEAD);
        g_assert(g_queue_is_empty(&lockspace->postponed));
        g_hash_table_unref(lockspace->resources);
        if (lockspace->saved)
                g_array_unref(lockspace->saved);
        g_free(lockspace->name);
        g_free(lockspace);
}

gboolean lockspace_is_usable(const Lockspace *lockspace)
{
        return lockspace->state == LOCKSPACE_ACTIVE;
}

static EngineSpaceState engine_state(const Lockspace *lockspace)
{
        Engine *engine = lockspace->tree->engine;

        return engine->ops->state(engine, lockspace->id);
}

gboolean lockspace_grants_locks(const Lockspace *lockspace)
{
        return lockspace_is_usable(lockspace) && engine_state(lockspace) == ENGINE_SPACE_ACTIVE;
}

const char *lockspace_state_to_string(const Lockspace *lockspace)
{
        if (!lockspace_is_usable(lockspace))
                return "releasing";
        switch (engine_state(lockspace)) {
        case ENGINE_SPACE_ACTIVE:
                break;
        case ENGINE_SPACE_RECOVERING:
                return "recovering";
        case ENGINE_SPACE_STOPPED:
                return "stopped";
        }
        return "active";
}

/* --- death --- */

static void release_ended(Lockspace *lockspace, int status);

static void lock_lost(Lock *lock, gboolean engine_knows)
{
        if (engine_knows)
                lock_abandon(lock);
        else
                lock_free(lock);
}

static void resource_die(Resource *resource, gboolean engine_knows)
{
        GList *next;

        resource->opens++;                      /* stays until we are through */
        resource_unname(resource);
        if (resource->is_listed)
                g_queue_unlink(&resource->lockspace->listed, &resource->listing);
        resource->is_listed = FALSE;
        resource->keeper = NULL;
        for (GList *link = resource->locks.head; link; link = next) {
                next = link->next;
                lock_lost(link->data, engine_knows);
        }
        resource->opens--;
        resource_release(resource);
}

/* Whoever has a file of it open finds out: those who wait, those who poll. */
static void tell_handles(Lockspace *lockspace)
{
        uint32_t id = 0;
        Handle *handle;

        while ((handle = id_table_next(&lockspace->tree->handles, &id)))
                if (handle_is_file(handle) && handle->holder.resource->lockspace == lockspace)
                        handle_set_dead(handle);
}

static void fail_postponed(Lockspace *lockspace, int status)
{
        Request *request;

        while ((request = g_queue_peek_head(&lockspace->postponed)))
                request_answer(request, status);
}

void lockspace_shut_down(Lockspace *lockspace)
{
        fail_postponed(lockspace, -ESHUTDOWN);
}

void lockspace_die(Lockspace *lockspace, gboolean engine_knows)
{
        Tree *tree = lockspace->tree;
        g_autoptr(GList) resources = NULL;
        const gboolean is_midway = lockspace->state == LOCKSPACE_SAVING || lockspace->state == LOCKSPACE_DRAINING ||
                                   lockspace->state == LOCKSPACE_RESTORING;

        if (lockspace->state == LOCKSPACE_DEAD)
                return;
        trace("lockspace %s: dead", lockspace->name);
        lockspace->refs++;
        lockspace->state = LOCKSPACE_DEAD;
        g_hash_table_remove(tree->lockspaces, lockspace->name);
        g_hash_table_remove(tree->engine_lockspaces, GUINT_TO_POINTER(lockspace->id));
        tree_remove_node(tree, &lockspace->node);
        users_discharge(tree->users, lockspace->charged_uid, USER_FILE);
        node_touch(&tree->root);
        tree_notify_listing(tree);
        fail_postponed(lockspace, -ESTALE);
        tell_handles(lockspace);
        /* Opens of a mode directory that wait have no handle in the table yet,
         * and a reader none at all: their locks' owners are told by the locks. */
        for (uint32_t id = 0;;) {
                Lock *lock = id_table_next(&tree->locks, &id);

                if (!lock)
                        break;
                if (lock->resource->lockspace == lockspace && lock->done && lock_is_busy(lock) && lock->by != BY_KEEPER)
                        lock->done(lock, -ESTALE, lock->data);
        }
        resources = g_hash_table_get_keys(lockspace->resources);
        for (GList *l = resources; l; l = l->next)
                resource_die(l->data, engine_knows);
        if (is_midway)                          /* the locks that the release waits for are no more */
                release_ended(lockspace, 0);
        lockspace_unref(lockspace);
        lockspace_unref(lockspace);
}

/* Locks that were abandoned in a forced release: the engine has forgotten them. */
static void free_abandoned(Tree *tree, const Lockspace *lockspace)
{
        uint32_t id = 0;
        Lock *lock;

        while ((lock = id_table_next(&tree->locks, &id)))
                if (lock->resource->lockspace == lockspace)
                        lock_free(lock);
}

/* --- release --- */

static void release_ended(Lockspace *lockspace, int status)
{
        LockspaceDone *done = g_steal_pointer(&lockspace->done);
        void *data = g_steal_pointer(&lockspace->done_data);

        lockspace->tree->releasing--;
        trace("lockspace %s: release: %s", lockspace->name, g_strerror(-status));
        if (status < 0 && lockspace->state != LOCKSPACE_DEAD)
                lockspace->state = LOCKSPACE_ACTIVE;
        done(data, status);
        if (lockspace->state == LOCKSPACE_ACTIVE) {
                GQueue postponed = lockspace->postponed;
                Request *request;

                g_queue_init(&lockspace->postponed);
                for (GList *l = postponed.head; l; l = l->next)
                        ((Request *)l->data)->queue = &postponed;
                while ((request = g_queue_peek_head(&postponed))) {
                        g_queue_unlink(&postponed, &request->link);
                        request->queue = NULL;
                        request->start(request);
                }
        }
        lockspace_unref(lockspace);
}

static void restore_finished(Lockspace *lockspace)
{
        Engine *engine = lockspace->tree->engine;

        g_clear_pointer(&lockspace->saved, g_array_unref);
        engine->ops->unseal(engine, lockspace->id);
        release_ended(lockspace, lockspace->status);
}

static void restore_step_done(Lockspace *lockspace)
{
        if (--lockspace->pending == 0)
                restore_finished(lockspace);
}

/* Back in NL with the value written, or only in NL: a keeper again. */
static void restored(Lock *lock, int status, void *data)
{
        Resource *resource = lock->resource;
        Lockspace *lockspace = resource->lockspace;

        if (status < 0)
                resource_warn_not_kept(resource, status);
        lock_set_callbacks(lock, NULL, NULL, NULL);
        if (status == 0 && resource->is_listed)
                resource->keeper = lock;
        else
                lock_drop(lock);
        restore_step_done(lockspace);
}

/* There is a value again: now it can be lost. */
static void restore_written(Lock *lock, int status, void *data)
{
        lock_set_callbacks(lock, restored, NULL, NULL);
        lock_lose_value(lock);
        status = lock_request(lock, MODE_NL, 0);
        if (status < 0)
                restored(lock, status, NULL);
}

/* EX is there, or somebody else has a lock there: then the value lived on with his.
 * A value that was never written is not seen to be lost: first the empty one is. */
static void restore_locked(Lock *lock, int status, void *data)
{
        const SavedValue *saved = data;

        lock_set_callbacks(lock, restored, NULL, NULL);
        if (status == 0) {
                const gboolean is_mine = value_size(lock->value) == 0 && !lock->lost;

                if (is_mine)
                        lock_set_value(lock, saved->value);
                if (is_mine && saved->is_lost)
                        lock_set_callbacks(lock, restore_written, NULL, NULL);
                status = lock_request(lock, is_mine && saved->is_lost ? MODE_EX : MODE_NL, 0);
        } else if (status == -ENOMEM) {         /* nobody has it: once more, with a round through the loop */
                lock_set_callbacks(lock, restore_locked, NULL, data);
                status = lock_request(lock, MODE_EX, DLM_LKF_NOQUEUE);
        } else {
                status = lock_request(lock, MODE_NL, DLM_LKF_EXPEDITE);
        }
        if (status < 0)
                restored(lock, status, NULL);
}

static void restore(Lockspace *lockspace, int status)
{
        lockspace->state = LOCKSPACE_RESTORING;
        lockspace->status = status;
        lockspace->pending = 1;
        for (guint i = 0; i < lockspace->saved->len; i++) {
                SavedValue *saved = &g_array_index(lockspace->saved, SavedValue, i);
                Lock *lock = saved->lock;

                if (!lock->resource->is_listed) {       /* unlinked meanwhile */
                        lock_drop(lock);
                        continue;
                }
                lock_set_callbacks(lock, restore_locked, NULL, saved);
                lockspace->pending++;
                status = lock_request(lock, MODE_EX, DLM_LKF_NOQUEUE);
                if (status < 0)
                        restore_locked(lock, status, saved);
        }
        restore_step_done(lockspace);
}

static void engine_release(Lockspace *lockspace);

static gboolean release_again(void *data)
{
        engine_release(data);
        return G_SOURCE_REMOVE;
}

static void released(void *data, int status, uint32_t id)
{
        Lockspace *lockspace = data;

        if (lockspace->is_forced && status == -ESTALE)
                status = 0;                     /* it went by itself */
        if (lockspace->is_forced && status < 0) {
                trace("lockspace %s: release by force: %s", lockspace->name, g_strerror(-status));
                g_timeout_add(FORCE_RETRY_MS, release_again, lockspace);        /* its locks are the engine's until then */
                return;
        }
        if (lockspace->is_forced)
                free_abandoned(lockspace->tree, lockspace);
        else if (status < 0 && lockspace->state != LOCKSPACE_DEAD)
                return restore(lockspace, status);
        else
                lockspace_die(lockspace, FALSE);
        if (status == 0)
                g_message("lockspace %s is released", lockspace->name);
        release_ended(lockspace, status);
}

static void engine_release(Lockspace *lockspace)
{
        Engine *engine = lockspace->tree->engine;
        int r;

        if (!lockspace->is_forced)
                lockspace->state = LOCKSPACE_RELEASING;
        /* In line behind that one nobody would know for how long; in the end there is nothing else to do. */
        if (!lockspace->is_forced && !lockspace->tree->shutting_down && engine->ops->is_lingering(engine))
                r = -EBUSY;
        else
                r = engine->ops->release(engine, lockspace->id, lockspace->is_forced, released, lockspace);
        if (r < 0)
                released(lockspace, r, lockspace->id);
}

/* The engine has heard of no lock any more. */
static gboolean is_drained(const Lockspace *lockspace)
{
        return lockspace->all_locks == lockspace->saved->len;
}

void lockspace_lock_freed(Lockspace *lockspace)
{
        if (lockspace->state == LOCKSPACE_DRAINING && is_drained(lockspace))
                engine_release(lockspace);
}

static void save_step_done(Lockspace *lockspace)
{
        if (--lockspace->pending > 0)
                return;
        if (lockspace->status < 0)
                return restore(lockspace, lockspace->status);
        lockspace->state = LOCKSPACE_DRAINING;
        if (is_drained(lockspace))
                engine_release(lockspace);
}

static void nothing_to_save(Lock *keeper)
{
        Lockspace *lockspace = keeper->resource->lockspace;

        keeper->resource->keeper = NULL;
        lock_drop(keeper);
        save_step_done(lockspace);
}

static void saved_read(Lock *keeper, int status, void *data)
{
        Resource *resource = keeper->resource;
        Lockspace *lockspace = resource->lockspace;
        SavedValue saved = { .is_lost = keeper->lost || status == -EIO };

        if (!resource->is_listed)               /* unlinked meanwhile */
                return nothing_to_save(keeper);
        if (status != -ENOMEM)
                status = lock_new(resource, BY_KEEPER, 0, 0, &saved.lock) < 0 ? -ENOMEM : status;
        if (status == -ENOMEM) {                /* what it keeps is not known: it stays, and so does the lockspace */
                lock_set_callbacks(keeper, NULL, NULL, NULL);
                lockspace->status = status;
                save_step_done(lockspace);
                return;
        }
        if (!saved.is_lost)
                memcpy(saved.value, keeper->value, VALUE_LEN);
        g_array_append_val(lockspace->saved, saved);
        lock_drop(g_steal_pointer(&resource->keeper));
        save_step_done(lockspace);
}

static void read_keeper(Lock *keeper)
{
        int r;

        lock_set_callbacks(keeper, saved_read, NULL, NULL);
        r = lock_request(keeper, MODE_NL, 0);
        if (r < 0)
                saved_read(keeper, r, NULL);
}

/* The keeper was just being made; a value that its writer published meanwhile is newer than its own. */
static void keeper_made(Lock *keeper, int status, void *data)
{
        if (status < 0) {
                resource_warn_not_kept(keeper->resource, status);
                nothing_to_save(keeper);
        } else {
                read_keeper(keeper);
        }
}

gboolean lockspace_is_saving(const Lock *keeper)
{
        return keeper && (keeper->done == saved_read || keeper->done == keeper_made);
}

static void save(Lockspace *lockspace)
{
        GHashTableIter iter;
        gpointer key;

        lockspace->state = LOCKSPACE_SAVING;
        lockspace->status = 0;
        lockspace->saved = g_array_new(FALSE, FALSE, sizeof(SavedValue));
        lockspace->pending = 1;
        g_hash_table_iter_init(&iter, lockspace->resources);
        while (g_hash_table_iter_next(&iter, &key, NULL)) {
                Resource *resource = key;
                Lock *keeper = resource->keeper;

                if (!keeper)
                        continue;
                lockspace->pending++;
                if (lock_is_busy(keeper))
                        lock_set_callbacks(keeper, keeper_made, NULL, NULL);
                else
                        read_keeper(keeper);
        }
        save_step_done(lockspace);
}

static void sealed(void *data, int status, uint32_t id)
{
        Lockspace *lockspace = data;

        if (lockspace->state == LOCKSPACE_DEAD)
                return release_ended(lockspace, 0);     /* it went by itself */
        if (status < 0)
                return release_ended(lockspace, status);
        if (lockspace->is_forced) {
                lockspace_die(lockspace, TRUE);
                engine_release(lockspace);
        } else {
                save(lockspace);
        }
}

int lockspace_release(Lockspace *lockspace, gboolean force, LockspaceDone *done, void *data)
{
        Engine *engine = lockspace->tree->engine;
        int r;

        if (lockspace->state == LOCKSPACE_DEAD)
                return -ESTALE;
        if (lockspace->state != LOCKSPACE_ACTIVE || (!force && lockspace->locks > 0))
                return -EBUSY;
        r = engine->ops->seal(engine, lockspace->id, force, sealed, lockspace_ref(lockspace));
        if (r < 0) {
                lockspace_unref(lockspace);
                return r;
        }
        lockspace->tree->releasing++;
        lockspace->state = LOCKSPACE_SEALING;
        lockspace->is_forced = force;
        lockspace->done = done;
        lockspace->done_data = data;
        return 0;
}
