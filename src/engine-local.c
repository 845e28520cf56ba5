/*
 * The engine for one machine: lockspaces and locks live in this process and
 * nobody else can reach them. Here are names, ids and the telling; who gets
 * what is decided in local-resource.c.
 *
 * An operation takes effect inside its call and leaves events in one ring, so
 * their order is the order in which things happened. dispatch() tells them,
 * and so does a source of the main loop that is ready while the ring is not
 * empty. The id of a lock that is gone stays taken until that has been told.
 */
#include "engine.h"
#include "hash.h"
#include "id-array.h"
#include "local-resource.h"
#include "memory.h"
#include <errno.h>

typedef struct LocalLockspace {
        uint32_t id;
        char *name;
        GHashTable *resources;                  /* LocalName in a LocalResource => LocalResource, owned */
} LocalLockspace;

typedef struct LocalEngine {
        Engine engine;
        GHashTable *lockspaces;                 /* id => LocalLockspace, owned */
        GHashTable *names;                      /* name => LocalLockspace */
        uint32_t last_lockspace;
        IdArray locks;                          /* of LocalLock, owned; also those gone but not told */
        GQueue idle;                            /* of LocalResource: unused, but kept; the longest unused first */
        LocalEvents events;
        GSource *source;
} LocalEngine;

typedef struct LocalSource {
        GSource source;
        LocalEngine *engine;
} LocalSource;

#define IDLE_MAX 64                             /* unused resources that are kept */

#define REQUEST_FLAGS (DLM_LKF_NOQUEUE | DLM_LKF_VALBLK | DLM_LKF_IVVALBLK | DLM_LKF_EXPEDITE | \
                       DLM_LKF_NOQUEUEBAST | DLM_LKF_HEADQUE | DLM_LKF_NOORDER)
#define CONVERT_FLAGS (DLM_LKF_NOQUEUE | DLM_LKF_VALBLK | DLM_LKF_IVVALBLK | DLM_LKF_QUECVT | DLM_LKF_CONVDEADLK | \
                       DLM_LKF_NOQUEUEBAST | DLM_LKF_HEADQUE | DLM_LKF_NOORDER)
#define UNLOCK_FLAGS (DLM_LKF_VALBLK | DLM_LKF_IVVALBLK)

static MemorySpares spares;                     /* of LocalLock */

static LocalEngine *local_engine(Engine *engine)
{
        return (LocalEngine *)engine;
}

/* --- lockspaces --- */

static LocalLockspace *lockspace_new(uint32_t id, const char *name)
{
        LocalLockspace *ls = g_new0(LocalLockspace, 1);

        ls->id = id;
        ls->name = g_strdup(name);
        ls->resources = g_hash_table_new_full(local_name_hash, local_name_equal, NULL, (GDestroyNotify)local_resource_free);
        return ls;
}

static void lockspace_free(void *data)
{
        LocalLockspace *ls = data;

        g_hash_table_unref(ls->resources);
        g_free(ls->name);
        g_free(ls);
}

static LocalLockspace *find_lockspace(LocalEngine *e, uint32_t id)
{
        return g_hash_table_lookup(e->lockspaces, GUINT_TO_POINTER(id));
}

/* NULL: no memory. */
static LocalResource *get_resource(LocalEngine *e, LocalLockspace *ls, const uint8_t *bytes, size_t len)
{
        LocalName name = { .bytes = bytes, .len = len };
        LocalResource *resource = g_hash_table_lookup(ls->resources, &name);

        if (resource && local_resource_is_unused(resource))
                g_queue_unlink(&e->idle, local_resource_link(resource));
        if (!resource) {
                resource = local_resource_new(ls->id, &name, &e->events);
                if (!resource)
                        return NULL;
                g_hash_table_insert(ls->resources, (void *)local_resource_name(resource), resource);
        }
        return resource;
}

static void drop_idle_resource(LocalEngine *e)
{
        LocalResource *resource = g_queue_pop_head_link(&e->idle)->data;
        LocalLockspace *ls = find_lockspace(e, local_resource_lockspace(resource));

        g_hash_table_remove(ls->resources, local_resource_name(resource));
}

/* The value block dies with the last lock. The resource stays for a while:
 * mostly the next locks are on the same few names. */
static void drop_resource_if_unused(LocalEngine *e, LocalResource *resource)
{
        if (!local_resource_is_unused(resource))
                return;
        local_resource_forget_value(resource);
        g_queue_push_tail_link(&e->idle, local_resource_link(resource));
        if (e->idle.length > IDLE_MAX)
                drop_idle_resource(e);
}

static void queue_done(LocalEngine *e, EngineDone *done, void *data, int status, uint32_t lockspace)
{
        LocalEvent *event = local_events_push(&e->events, LOCAL_EVENT_DONE, lockspace);

        event->done = done;
        event->data = data;
        event->status = status;
}

/* --- locks --- */

static LocalLock *find_lock(LocalEngine *e, uint32_t id)
{
        return id_array_find(&e->locks, id);
}

/* NULL: no memory. */
static LocalLock *lock_new(LocalEngine *e, uint32_t id)
{
        LocalLock *lock = memory_take0(&spares, LocalLock);

        if (!lock)
                return NULL;
        lock->id = id;
        lock->busy = TRUE;
        if (!id_array_add(&e->locks, id, lock)) {
                memory_give(&spares, lock);
                return NULL;
        }
        return lock;
}

static void forget_lock(LocalEngine *e, LocalLock *lock)
{
        id_array_remove(&e->locks, lock->id);
        memory_give(&spares, lock);
}

/* Those of @lockspace; 0: all. */
static void forget_locks(LocalEngine *e, uint32_t lockspace)
{
        for (uint32_t id = 0; id < e->locks.len; id++) {
                LocalLock *lock = find_lock(e, id);

                if (lock && (lockspace == 0 || (lock->resource && local_resource_lockspace(lock->resource) == lockspace)))
                        forget_lock(e, lock);
        }
}

/* What dlm_lock() refuses without looking at any lock. */
static int check_request(LockMode mode, uint32_t flags)
{
        if ((unsigned)mode >= MODE_COUNT || (flags & ~REQUEST_FLAGS))
                return -EINVAL;
        if ((flags & DLM_LKF_EXPEDITE) && (mode != MODE_NL || (flags & DLM_LKF_NOQUEUE)))
                return -EINVAL;
        return 0;
}

static int check_convert(LockMode mode, uint32_t flags)
{
        if ((unsigned)mode >= MODE_COUNT || (flags & ~CONVERT_FLAGS))
                return -EINVAL;
        if ((flags & DLM_LKF_CONVDEADLK) && (flags & DLM_LKF_NOQUEUE))
                return -EINVAL;
        return 0;
}

/* --- telling --- */

static void tell_completed(LocalEngine *e, const LocalEvent *event)
{
        LocalLock *lock = event->lock;
        uint32_t id = lock->id;

        lock->busy = FALSE;
        if (!lock->resource)
                forget_lock(e, lock);
        e->engine.events->completed(e->engine.events_data, id, event->status, event->flags, event->has_value ? event->value : NULL);
}

static void tell_foreign_locks(const LocalEvent *event)
{
        g_autoptr(GArray) none = g_array_new(FALSE, FALSE, sizeof(EngineForeign));

        event->foreign_done(event->data, 0, none);
}

static void local_dispatch(Engine *engine)
{
        LocalEngine *e = local_engine(engine);
        LocalEvent event;

        while (local_events_pop(&e->events, &event))
                switch (event.kind) {
                case LOCAL_EVENT_PURGED:
                        break;
                case LOCAL_EVENT_COMPLETED:
                        tell_completed(e, &event);
                        break;
                case LOCAL_EVENT_BLOCKING:
                        engine->events->blocking(engine->events_data, event.lock->id, event.mode);
                        break;
                case LOCAL_EVENT_DONE:
                        event.done(event.data, event.status, event.lockspace);
                        break;
                case LOCAL_EVENT_FOREIGN:
                        tell_foreign_locks(&event);
                        break;
                }
}

static gboolean source_is_ready(GSource *source)
{
        return ((LocalSource *)source)->engine->events.used > 0;
}

static gboolean source_prepare(GSource *source, int *ret_timeout_ms)
{
        *ret_timeout_ms = -1;
        return source_is_ready(source);
}

static gboolean source_dispatch(GSource *source, GSourceFunc unused_callback, void *unused_data)
{
        local_dispatch(&((LocalSource *)source)->engine->engine);
        return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = { .prepare = source_prepare, .check = source_is_ready, .dispatch = source_dispatch };

/* --- the table's functions --- */

static gboolean local_start(const Options *options, const EngineEvents *events, void *data, Engine **ret_engine, GError **error)
{
        LocalEngine *e = g_new0(LocalEngine, 1);

        e->engine = (Engine){ .ops = &engine_local_ops, .events = events, .events_data = data };
        e->lockspaces = g_hash_table_new_full(NULL, NULL, NULL, lockspace_free);
        e->names = g_hash_table_new(hash_string, g_str_equal);
        e->source = g_source_new(&source_funcs, sizeof(LocalSource));
        ((LocalSource *)e->source)->engine = e;
        g_source_set_static_name(e->source, "engine-local");
        g_source_set_can_recurse(e->source, TRUE);
        g_source_attach(e->source, NULL);
        *ret_engine = &e->engine;
        return TRUE;
}

static void local_stop(Engine *engine)
{
        LocalEngine *e = local_engine(engine);

        g_source_destroy(e->source);
        g_source_unref(e->source);
        local_events_clear(&e->events);
        g_hash_table_unref(e->names);
        g_hash_table_unref(e->lockspaces);
        forget_locks(e, 0);
        id_array_clear(&e->locks);
        g_free(e);
}

static uint32_t local_node(Engine *engine)
{
        return 0;
}

static gboolean local_cluster(Engine *engine, EngineCluster *ret_cluster)
{
        return FALSE;
}

static int local_create(Engine *engine, const char *name, const EngineAttr *attr, EngineDone *done, void *data)
{
        LocalEngine *e = local_engine(engine);
        LocalLockspace *ls;

        if (g_hash_table_contains(e->names, name)) {
                queue_done(e, done, data, -EEXIST, 0);
                return 0;
        }
        ls = lockspace_new(++e->last_lockspace, name);
        g_hash_table_insert(e->lockspaces, GUINT_TO_POINTER(ls->id), ls);
        g_hash_table_insert(e->names, ls->name, ls);
        queue_done(e, done, data, 0, ls->id);
        return 0;
}

/* There is no device for others to open: @attr has nowhere to go. */
static int local_set_attr(Engine *engine, uint32_t lockspace, const EngineAttr *attr, EngineDone *done, void *data)
{
        LocalEngine *e = local_engine(engine);

        if (!find_lockspace(e, lockspace))
                return -ESTALE;
        queue_done(e, done, data, 0, lockspace);
        return 0;
}

static int local_seal(Engine *engine, uint32_t lockspace, gboolean force, EngineDone *done, void *data)
{
        LocalEngine *e = local_engine(engine);

        if (!find_lockspace(e, lockspace))
                return -ESTALE;
        queue_done(e, done, data, 0, lockspace);
        return 0;
}

static void local_unseal(Engine *engine, uint32_t lockspace)
{
}

static void forget_event(const LocalEvent *event, void *engine)
{
        if (event->kind == LOCAL_EVENT_COMPLETED && !event->lock->resource)
                forget_lock(engine, event->lock);
}

static int local_release(Engine *engine, uint32_t lockspace, gboolean force, EngineDone *done, void *data)
{
        LocalEngine *e = local_engine(engine);
        LocalLockspace *ls = find_lockspace(e, lockspace);

        if (!ls)
                return -ESTALE;
        while (e->idle.length > 0)
                drop_idle_resource(e);
        if (!force && g_hash_table_size(ls->resources) > 0) {
                queue_done(e, done, data, -EBUSY, lockspace);
                return 0;
        }
        if (force) {                            /* first what is gone already, then what is there */
                local_events_purge(&e->events, lockspace, forget_event, e);
                forget_locks(e, lockspace);
        }
        g_hash_table_remove(e->names, ls->name);
        g_hash_table_remove(e->lockspaces, GUINT_TO_POINTER(lockspace));
        queue_done(e, done, data, 0, lockspace);
        return 0;
}

static gboolean local_is_lingering(Engine *engine)
{
        return FALSE;
}

static int local_lock(Engine *engine, const EngineLock *lock)
{
        LocalEngine *e = local_engine(engine);
        LocalLockspace *ls = find_lockspace(e, lock->lockspace);
        LocalResource *resource;
        LocalLock *l;
        int r;

        if (!ls)
                return -ESTALE;
        r = check_request(lock->mode, lock->flags);
        if (r < 0)
                return r;
        if (lock->name_len < 1 || lock->name_len > RESOURCE_NAME_MAX)
                return -EINVAL;
        g_assert(lock->id != 0 && !find_lock(e, lock->id));

        l = lock_new(e, lock->id);
        if (!l)
                return -ENOMEM;
        resource = get_resource(e, ls, lock->name, lock->name_len);
        if (!resource) {
                forget_lock(e, l);
                return -ENOMEM;
        }
        local_resource_request(resource, l, lock->mode, lock->flags);
        drop_resource_if_unused(e, resource);
        return 0;
}

static int local_convert(Engine *engine, uint32_t id, LockMode mode, uint32_t flags, const uint8_t *value)
{
        LocalLock *l = find_lock(local_engine(engine), id);
        int r;

        if (!l)
                return -ESTALE;
        r = check_convert(mode, flags);
        if (r < 0)
                return r;
        if (l->busy)
                return -EBUSY;
        r = local_resource_convert(l, mode, flags, value);
        if (r < 0)
                return r;
        l->busy = TRUE;
        return 0;
}

static int local_unlock(Engine *engine, uint32_t id, uint32_t flags, const uint8_t *value)
{
        LocalEngine *e = local_engine(engine);
        LocalLock *l = find_lock(e, id);
        LocalResource *resource;
        int r;

        if (!l)
                return -ESTALE;
        if (flags & ~UNLOCK_FLAGS)
                return -EINVAL;
        if (l->busy)
                return -EBUSY;
        resource = l->resource;
        r = local_resource_unlock(l, flags, value);
        if (r < 0)
                return r;
        l->busy = TRUE;
        drop_resource_if_unused(e, resource);
        return 0;
}

static void local_cancel(Engine *engine, uint32_t id)
{
        LocalEngine *e = local_engine(engine);
        LocalLock *l = find_lock(e, id);
        LocalResource *resource = l ? l->resource : NULL;

        if (!resource)
                return;
        local_resource_cancel(l);
        drop_resource_if_unused(e, resource);
}

static EngineSpaceState local_state(Engine *engine, uint32_t lockspace)
{
        return ENGINE_SPACE_ACTIVE;
}

/* Nobody else can get in. */
static int local_foreign_locks(Engine *engine, uint32_t lockspace, EngineForeignDone *done, void *data)
{
        LocalEngine *e = local_engine(engine);
        LocalEvent *event;

        if (!find_lockspace(e, lockspace))
                return -ESTALE;
        event = local_events_push(&e->events, LOCAL_EVENT_FOREIGN, lockspace);
        event->foreign_done = done;
        event->data = data;
        return 0;
}

const EngineOps engine_local_ops = {
        .name = "local",
        .start = local_start,
        .stop = local_stop,
        .node = local_node,
        .cluster = local_cluster,
        .create = local_create,
        .set_attr = local_set_attr,
        .seal = local_seal,
        .unseal = local_unseal,
        .release = local_release,
        .is_lingering = local_is_lingering,
        .lock = local_lock,
        .convert = local_convert,
        .unlock = local_unlock,
        .cancel = local_cancel,
        .state = local_state,
        .foreign_locks = local_foreign_locks,
        .dispatch = local_dispatch,
};
