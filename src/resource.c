#include "resource.h"
#include "hash.h"
#include "lock.h"
#include "lockspace.h"
#include "memory.h"
#include <errno.h>
#include <string.h>

#define NAMES_MAX 16384                         /* of a user, to be forgotten */

guint resource_name_hash(gconstpointer pointer)
{
        const Resource *resource = pointer;

        return hash_bytes(resource->name, resource->name_len);
}

gboolean resource_name_equal(gconstpointer a, gconstpointer b)
{
        const Resource *x = a, *y = b;

        return x->name_len == y->name_len && memcmp(x->name, y->name, x->name_len) == 0;
}

Resource *resource_find(Lockspace *lockspace, const uint8_t *name, size_t len)
{
        /* Only the name counts for the table; the rest of a Resource is there for its offset. */
        union {
                Resource resource;
                uint8_t space[sizeof(Resource) + RESOURCE_NAME_MAX];
        } key;

        key.resource.name_len = len;
        memcpy(key.space + G_STRUCT_OFFSET(Resource, name), name, len);
        return g_hash_table_lookup(lockspace->resources, &key);
}

/* --- names that may be forgotten --- */

static gboolean is_in_use(const Resource *resource)
{
        return resource->is_listed || resource->opens || resource->locks.length;
}

static GQueue *queue_of(const Resource *resource)
{
        return users_get_names(resource->lockspace->tree->users, resource->charged_uid);
}

static void queue(Resource *resource)
{
        if (!resource->is_queued)
                g_queue_push_tail_link(queue_of(resource), &resource->listing);
        resource->is_queued = TRUE;
}

static void unqueue(Resource *resource)
{
        if (resource->is_queued)
                g_queue_unlink(queue_of(resource), &resource->listing);
        resource->is_queued = FALSE;
}

/* FALSE: there is none. Those that are in use come back into the queue when they are not any more. */
static gboolean forget_one(GQueue *names)
{
        Resource *resource;

        while ((resource = g_queue_peek_head(names))) {
                unqueue(resource);
                if (!is_in_use(resource)) {
                        resource_unname(resource);
                        resource_release(resource);
                        return TRUE;
                }
        }
        return FALSE;
}

int resource_charge(Tree *tree, uid_t uid)
{
        GQueue *names;
        int r;

        while ((r = users_charge(tree->users, uid, USER_FILE)) == -ENOSPC)
                if (!forget_one(users_get_names(tree->users, uid)))
                        return r;
        if (r < 0)
                return r;
        names = users_get_names(tree->users, uid);
        if (names->length >= NAMES_MAX)
                forget_one(names);
        return 0;
}

/* --- life --- */

int resource_get(Lockspace *lockspace, const uint8_t *name, size_t len, uid_t uid, Resource **ret_resource)
{
        Resource *resource = resource_find(lockspace, name, len);
        int r;

        if (!resource) {
                r = resource_charge(lockspace->tree, uid);
                if (r < 0)
                        return r;
                resource = memory_alloc0(G_STRUCT_OFFSET(Resource, name) + len);
                if (!resource) {
                        users_discharge(lockspace->tree->users, uid, USER_FILE);
                        return -ENOMEM;
                }
                resource->node.kind = NODE_RESOURCE;
                resource->lockspace = lockspace_ref(lockspace);
                resource->charged_uid = uid;
                resource->name_len = len;
                memcpy(resource->name, name, len);
                resource->is_named = TRUE;
                node_touch(&resource->node);
                resource->node.atime_ns = resource->node.mtime_ns;
                resource->listing.data = resource;
                g_hash_table_add(lockspace->resources, resource);
                tree_add_node(lockspace->tree, &resource->node);
                queue(resource);
        }
        *ret_resource = resource;
        return 0;
}

void resource_unname(Resource *resource)
{
        Lockspace *lockspace = resource->lockspace;

        if (!resource->is_named)
                return;
        unqueue(resource);
        resource->is_named = FALSE;
        resource->lookups = 0;
        g_hash_table_remove(lockspace->resources, resource);
        tree_remove_node(lockspace->tree, &resource->node);
        users_discharge(lockspace->tree->users, resource->charged_uid, USER_FILE);
}

void resource_release(Resource *resource)
{
        if (is_in_use(resource))
                return;
        if (resource->lookups)
                return queue(resource);
        resource_unname(resource);
        lockspace_unref(resource->lockspace);
        g_free(resource);
}

static void show(Resource *resource, uid_t uid, gid_t gid, mode_t mode)
{
        if (!resource->is_listed) {
                unqueue(resource);
                g_queue_push_tail_link(&resource->lockspace->listed, &resource->listing);
        }
        resource->is_listed = resource->was_listed = TRUE;
        resource->node.uid = uid;
        resource->node.gid = gid;
        resource->node.mode = mode;
        node_touch(&resource->lockspace->node);
}

/* From now on @uid is counted for it. */
static int charge_to(Resource *resource, uid_t uid)
{
        Tree *tree = resource->lockspace->tree;
        int r;

        if (uid == resource->charged_uid)
                return 0;
        r = resource_charge(tree, uid);
        if (r < 0)
                return r;
        unqueue(resource);
        users_discharge(tree->users, resource->charged_uid, USER_FILE);
        resource->charged_uid = uid;
        return 0;
}

int resource_claim(Resource *resource, uid_t uid)
{
        return resource->is_listed || !resource->is_named ? 0 : charge_to(resource, uid);
}

/* The kernel asks only for what it has just looked up and not found. Listed all
 * the same, it was written since: as if it had been made first, since open(2)
 * with O_CREAT, which may be what this is, knows no EEXIST. */
int resource_list(Resource *resource, uid_t uid, gid_t gid, mode_t mode)
{
        Lockspace *lockspace = resource->lockspace;
        int r;

        if (resource->is_listed && resource->is_made)
                return -EEXIST;
        r = charge_to(resource, uid);
        if (r < 0)
                return r;
        node_touch(&resource->node);
        show(resource, uid, gid, mode);
        resource->is_made = TRUE;
        tree_notify_attr(lockspace->tree, &resource->node);     /* the mode directories showed the lockspace's permissions */
        return 0;
}

/* Of a name that is not listed: x makes no sense on a file. */
static mode_t unlisted_mode(const Lockspace *lockspace)
{
        return lockspace->node.mode & 0666;
}

void resource_list_written(Resource *resource)
{
        const Lockspace *lockspace = resource->lockspace;

        if (!resource->is_listed && resource->is_named)
                show(resource, lockspace->node.uid, lockspace->node.gid, unlisted_mode(lockspace));
}

void resource_unlist(Resource *resource)
{
        if (!resource->is_listed)
                return;
        resource->is_listed = resource->is_made = FALSE;
        resource->node.ctime_ns = time_ns();
        node_touch(&resource->lockspace->node);
        g_queue_unlink(&resource->lockspace->listed, &resource->listing);
        if (!lockspace_is_saving(resource->keeper))     /* then the release drops it */
                lock_drop(g_steal_pointer(&resource->keeper));
        tree_notify_attr(resource->lockspace->tree, &resource->node);
}

void resource_warn_not_kept(const Resource *resource, int status)
{
        g_warning("cannot keep the value of a resource in %s: %s", resource->lockspace->name, g_strerror(-status));
}

static void keeper_done(Lock *keeper, int status, void *data)
{
        Resource *resource = data;

        if (status == 0)
                return;
        resource_warn_not_kept(resource, status);
        lock_drop(g_steal_pointer(&resource->keeper));
}

int resource_keep(Resource *resource)
{
        Lock *keeper;
        int r;

        if (resource->keeper || !resource->is_named)
                return 0;
        /* NL with EXPEDITE is granted whoever holds or waits. What publishes the
         * value waits for that: lock.c. */
        r = lock_new(resource, BY_KEEPER, 0, 0, &keeper);
        if (r < 0)
                return r;
        lock_set_callbacks(keeper, keeper_done, NULL, resource);
        r = lock_request(keeper, MODE_NL, DLM_LKF_EXPEDITE);
        if (r < 0)
                lock_drop(keeper);
        else
                resource->keeper = keeper;
        return r;
}

unsigned value_size(const uint8_t *value)
{
        static const uint8_t empty[VALUE_LEN];
        unsigned size = VALUE_LEN;

        if (memcmp(value, empty, VALUE_LEN) == 0)       /* as of most locks, which are there to lock */
                return 0;
        while (size > 0 && value[size - 1] == 0)
                size--;
        return size;
}

void resource_saw_value(Resource *resource, const uint8_t *value)
{
        const unsigned size = value_size(value);

        if (size == resource->size)
                return;
        resource->size = size;
        resource->node.mtime_ns = time_ns();
        tree_notify_attr(resource->lockspace->tree, &resource->node);
}

void resource_get_attr(const Resource *resource, View view, uid_t *ret_uid, gid_t *ret_gid, mode_t *ret_mode)
{
        const gboolean is_own = resource->is_listed || (view == VIEW_SELF && resource->was_listed);
        const Node *owner = is_own ? &resource->node : &resource->lockspace->node;
        mode_t mode = is_own ? owner->mode : unlisted_mode(resource->lockspace);

        /* CW, PW and EX are for those who may write, whichever way they open:
         * the kernel sees an r only beside a w. */
        if (view == VIEW_MODES + MODE_CW || view == VIEW_MODES + MODE_PW || view == VIEW_MODES + MODE_EX)
                mode &= ~0444 | (mode & 0222) << 1;
        *ret_uid = owner->uid;
        *ret_gid = owner->gid;
        *ret_mode = mode;
}
