#include "tree.h"
#include "handle.h"
#include "hash.h"
#include "lock.h"
#include "lockspace.h"
#include "resource.h"
#include "trace.h"
#include <string.h>

#define FRESH_US (G_TIME_SPAN_SECOND + (gint64)(REPLY_TIMEOUT_S * G_TIME_SPAN_SECOND))  /* answers take their time, too */

/* --- inodes --- */

fuse_ino_t node_ino(const Node *node, View view)
{
        return node->serial ? (fuse_ino_t)node->serial << VIEW_BITS | view : FUSE_ROOT_ID;
}

View ino_view(fuse_ino_t ino)
{
        return ino & ((1 << VIEW_BITS) - 1);
}

gboolean ino_is_control(fuse_ino_t ino)
{
        return ino == STATUS_INO || ino == METRICS_INO;
}

Node *tree_find_node(Tree *tree, fuse_ino_t ino)
{
        const gint64 serial = ino >> VIEW_BITS;

        return g_hash_table_lookup(tree->nodes, &serial);
}

void tree_add_node(Tree *tree, Node *node)
{
        node->serial = ++tree->last_serial;
        g_hash_table_add(tree->nodes, node);
}

void tree_remove_node(Tree *tree, Node *node)
{
        g_hash_table_remove(tree->nodes, &node->serial);
}

gint64 time_ns(void)
{
        return g_get_real_time() * 1000;
}

gint64 tree_now_us(Tree *tree)
{
        if (tree->now_us == 0)
                tree->now_us = g_get_monotonic_time();
        return tree->now_us;
}

void tree_new_turn(Tree *tree)
{
        tree->now_us = 0;
        tree->thread = tree->process = 0;       /* by the next turn its number may be another's */
}

void node_touch(Node *node)
{
        node->mtime_ns = node->ctime_ns = time_ns();
}

void tree_notify_listing(Tree *tree)
{
        if (tree->listing_changed)
                tree->listing_changed(tree->listing_changed_data);
}

static void notify_views(Tree *tree, const Node *node, unsigned views)
{
        for (unsigned view = 0; views; view++, views >>= 1)
                if (views & 1)
                        tree->notify.attr(tree->notify.data, node_ino(node, view));
}

/* And the names in it that are not listed, which have its permissions. There may be very many: all are looked at, but the
 * kernel is told of those that it has asked for lately, and once of each. */
static void notify_lockspace(Tree *tree, const Lockspace *lockspace)
{
        GHashTableIter iter;
        gpointer key;

        notify_views(tree, &lockspace->node, (1u << VIEW_COUNT) - 1);
        g_hash_table_iter_init(&iter, lockspace->resources);
        while (g_hash_table_iter_next(&iter, &key, NULL)) {
                Resource *resource = key;

                if (resource->is_listed || tree_now_us(tree) - resource->shown_us > FRESH_US)
                        continue;
                resource->shown_us = 0;
                notify_views(tree, &resource->node, resource->views);
        }
}

void tree_notify_attr(Tree *tree, const Node *node)
{
        if (!tree->notify.attr)
                return;
        if (node->kind == NODE_RESOURCE)
                notify_views(tree, node, ((const Resource *)node)->views);
        else
                notify_lockspace(tree, (const Lockspace *)node);
}

/* --- all lockspaces --- */

TreeCounts tree_count(const Tree *tree)
{
        TreeCounts counts = { 0 };
        GHashTableIter iter;
        gpointer value;

        g_hash_table_iter_init(&iter, tree->lockspaces);
        while (g_hash_table_iter_next(&iter, NULL, &value)) {
                const Lockspace *lockspace = value;

                counts.files += lockspace->listed.length;
                counts.held += lockspace->held;
                counts.waiting += lockspace->waiting;
        }
        return counts;
}

static int compare_names(gconstpointer a, gconstpointer b)
{
        return strcmp(((const Lockspace *)a)->name, ((const Lockspace *)b)->name);
}

GList *tree_list_lockspaces(const Tree *tree)
{
        return g_list_sort(g_hash_table_get_values(tree->lockspaces), compare_names);
}

/* --- what the engine says --- */

static void tree_completed(void *data, uint32_t id, int status, unsigned flags, const uint8_t *value)
{
        lock_completed(data, id, status, flags, value);
}

static void tree_blocking(void *data, uint32_t id, LockMode mode)
{
        lock_blocking(data, id);
}

static void tree_appeared(void *data, uint32_t id, const char *name, const EngineAttr *attr)
{
        Tree *tree = data;

        if (g_hash_table_contains(tree->lockspaces, name)) {
                g_warning("lockspace %s appeared twice", name);
                return;
        }
        g_message("lockspace %s is there", name);
        lockspace_new(tree, name, id, attr);
        node_touch(&tree->root);
}

static void tree_changed(void *data, uint32_t id, const EngineAttr *attr)
{
        Tree *tree = data;
        Lockspace *lockspace = g_hash_table_lookup(tree->engine_lockspaces, GUINT_TO_POINTER(id));

        if (!lockspace)
                return;
        lockspace->node.uid = attr->uid;
        lockspace->node.gid = attr->gid;
        lockspace->node.mode = (lockspace->node.mode & 07000) | (attr->mode & 0777);
        lockspace->node.ctime_ns = time_ns();
        tree_notify_attr(tree, &lockspace->node);
}

static void tree_gone(void *data, uint32_t id)
{
        Tree *tree = data;
        Lockspace *lockspace = g_hash_table_lookup(tree->engine_lockspaces, GUINT_TO_POINTER(id));

        if (!lockspace)
                return;
        g_message("lockspace %s is gone", lockspace->name);
        lockspace_die(lockspace, FALSE);
}

static const EngineEvents tree_events = {
        .completed = tree_completed,
        .blocking = tree_blocking,
        .appeared = tree_appeared,
        .changed = tree_changed,
        .gone = tree_gone,
};

/* --- life --- */

gboolean tree_new(const Options *options, const EngineOps *ops, Tree **ret_tree, GError **error)
{
        g_autoptr(Tree) tree = g_new0(Tree, 1);

        tree->options = options;
        tree->users = users_new(options);
        tree->nodes = g_hash_table_new(g_int64_hash, g_int64_equal);
        tree->lockspaces = g_hash_table_new(hash_string, g_str_equal);
        tree->engine_lockspaces = g_hash_table_new(NULL, NULL);
        tree->making = g_hash_table_new(hash_string, g_str_equal);
        tree->owners = g_hash_table_new(g_int64_hash, g_int64_equal);
        tree->fcntl_holders = g_hash_table_new(fcntl_holder_hash, fcntl_holder_equal);
        id_table_init(&tree->locks);
        id_table_init(&tree->handles);
        tree->start_us = g_get_monotonic_time();
        tree->start_ns = time_ns();
        tree->root = (Node){ .kind = NODE_LOCKSPACE, .mode = options->mode, .uid = options->uid, .gid = options->gid };
        node_touch(&tree->root);
        tree->root.atime_ns = tree->root.mtime_ns;
        if (!ops->start(options, &tree_events, tree, &tree->engine, error))
                return FALSE;
        *ret_tree = g_steal_pointer(&tree);
        return TRUE;
}

void tree_free(Tree *tree)
{
        uint32_t id = 0;
        GHashTableIter iter;
        gpointer lockspace;
        Handle *handle;

        if (!tree)
                return;
        tree->notify.attr = NULL;
        tree->last_closed = NULL;
        while ((handle = id_table_next(&tree->handles, &id)))
                handle_free(handle);
        g_hash_table_iter_init(&iter, tree->engine_lockspaces);
        while (g_hash_table_iter_next(&iter, NULL, &lockspace)) {
                lockspace_die(lockspace, TRUE);         /* takes it out of the table */
                g_hash_table_iter_init(&iter, tree->engine_lockspaces);
        }
        if (tree->engine)
                tree->engine->ops->stop(tree->engine);
        for (id = 0; id_table_next(&tree->locks, &id);)
                lock_free(id_table_find(&tree->locks, id));
        g_assert(g_hash_table_size(tree->nodes) == 0);
        g_hash_table_unref(tree->nodes);
        g_hash_table_unref(tree->lockspaces);
        g_hash_table_unref(tree->engine_lockspaces);
        g_hash_table_unref(tree->making);
        g_hash_table_unref(tree->owners);
        g_hash_table_unref(tree->fcntl_holders);
        id_table_clear(&tree->locks);
        id_table_clear(&tree->handles);
        users_free(tree->users);
        g_free(tree);
}
