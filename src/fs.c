#include "fs.h"
#include "control.h"
#include "handle.h"
#include "lock.h"
#include "lockspace.h"
#include "memory.h"
#include "metrics.h"
#include "name.h"
#include "permission.h"
#include "process.h"
#include "reply.h"
#include "request.h"
#include "resource.h"
#include "session.h"
#include "trace.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

static Tree *fs_tree(fuse_req_t req)
{
        return fuse_req_userdata(req);
}

/* The object of an inode, for the operations on what is below the root.
 * NULL: it was answered; the VFS looks up again after ESTALE. */
static Node *get_node(fuse_req_t req, const char *what, fuse_ino_t ino)
{
        Node *node = tree_find_node(fs_tree(req), ino);

        if (!node)
                reply_result(req, what, -ESTALE);
        return node;
}

static gboolean is_lockspace_dir(const Node *node, fuse_ino_t ino)
{
        return node->kind == NODE_LOCKSPACE && ino_view(ino) == VIEW_SELF;
}

static gboolean is_mode_view(View view)
{
        return view >= VIEW_MODES && view < VIEW_MODES + MODE_COUNT;
}

static gboolean is_resource(const Node *node)
{
        return node->kind == NODE_RESOURCE;
}

static Handle *get_handle(fuse_req_t req, const struct fuse_file_info *fi)
{
        Handle *handle = id_table_find(&fs_tree(req)->handles, fi->fh);

        g_assert(handle);                       /* the kernel has it until RELEASE */
        return handle;
}

static void fs_init(void *userdata, struct fuse_conn_info *conn)
{
        const Tree *tree = userdata;

        /* Close is throttled by max_background: with the default of 12 a
         * try-lock right after another's close fails. */
        conn->max_background = 65535;
        conn->congestion_threshold = 65535;
        /* A value is one request, and one byte more is too, wherever in its caller's
         * memory each byte is: the kernel makes of max_write a number of pages, and
         * splits what lies on more, reads too. */
        conn->max_write = (VALUE_LEN + 1) * sysconf(_SC_PAGESIZE);
        conn->max_read = tree->options->max_read;
        conn->want &= ~(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
        session_mounted(userdata);
}

/* --- names --- */

static View special_view(const char *name)
{
        LockMode mode;

        if (mode_from_directory(name, &mode))
                return VIEW_MODES + mode;
        if (g_str_equal(name, LOCKSPACEFS_FORCE))
                return VIEW_FORCE;
        if (g_str_equal(name, LOCKSPACEFS_LOCKS))
                return VIEW_LOCKS;
        return VIEW_SELF;
}

static void lookup_in_root(fuse_req_t req, const char *name)
{
        Lockspace *lockspace;

        if (g_str_equal(name, LOCKSPACEFS_STATUS))
                return reply_control_node(req, "lookup", STATUS_INO);
        if (g_str_equal(name, LOCKSPACEFS_METRICS))
                return reply_control_node(req, "lookup", METRICS_INO);
        lockspace = g_hash_table_lookup(fs_tree(req)->lockspaces, name);
        if (lockspace)
                reply_node(req, "lookup", &lockspace->node, VIEW_SELF);
        else
                reply_result(req, "lookup", strlen(name) > LOCKSPACE_NAME_MAX ? -ENAMETOOLONG : -ENOENT);
}

static void lookup_resource(fuse_req_t req, Lockspace *lockspace, View view, const char *name)
{
        uint8_t decoded[RESOURCE_NAME_MAX];
        Resource *resource = NULL;
        size_t len;
        int r;

        r = resource_name_decode(name, decoded, &len);
        if (r == -EINVAL)
                r = -ENOENT;                    /* no resource is written like that */
        if (r == 0 && is_mode_view(view)) {
                r = resource_get(lockspace, decoded, len, fuse_req_ctx(req)->uid, &resource);
        } else if (r == 0) {
                resource = resource_find(lockspace, decoded, len);
                if (!resource || !resource->is_listed)
                        r = -ENOENT;
        }
        if (r < 0)
                reply_result(req, "lookup", r);
        else
                reply_node(req, "lookup", &resource->node, view);
}

static void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        Node *node;

        trace("lookup %s", name);
        if (parent == FUSE_ROOT_ID)
                return lookup_in_root(req, name);
        node = get_node(req, "lookup", parent);
        if (!node)
                return;
        if (is_lockspace_dir(node, parent) && special_view(name) != VIEW_SELF)
                reply_node(req, "lookup", node, special_view(name));
        else
                lookup_resource(req, (Lockspace *)node, ino_view(parent), name);
}

static void forget_node(Tree *tree, fuse_ino_t ino, uint64_t n)
{
        Node *node = ino == FUSE_ROOT_ID || ino_is_control(ino) ? NULL : tree_find_node(tree, ino);
        Resource *resource;

        if (!node || !is_resource(node))
                return;
        resource = (Resource *)node;
        resource->lookups -= MIN(n, resource->lookups);
        if (resource->lookups == 0)
                resource->views = 0;
        resource_release(resource);
}

static void fs_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
        forget_node(fs_tree(req), ino, n);
        fuse_reply_none(req);
}

static void fs_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
        for (size_t i = 0; i < count; i++)
                forget_node(fs_tree(req), forgets[i].ino, forgets[i].nlookup);
        fuse_reply_none(req);
}

/* A lock file is made: by mknod(2), and so by open(2) with O_CREAT. */
static int make_resource(fuse_req_t req, Lockspace *lockspace, const char *name, mode_t mode, Resource **ret_resource)
{
        const struct fuse_ctx *ctx = fuse_req_ctx(req);
        const gid_t gid = lockspace->node.mode & S_ISGID ? lockspace->node.gid : ctx->gid;
        uint8_t decoded[RESOURCE_NAME_MAX];
        size_t len;
        int r;

        r = resource_name_decode(name, decoded, &len);
        if (r == 0)
                r = resource_get(lockspace, decoded, len, ctx->uid, ret_resource);
        if (r < 0)
                return r;
        r = resource_list(*ret_resource, ctx->uid, gid, mode & 07777);
        if (r < 0)
                resource_release(*ret_resource);
        return r;
}

static void fs_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
        Resource *resource;
        Node *node;
        int r;

        trace("mknod %s", name);
        if (parent == FUSE_ROOT_ID)
                return reply_result(req, "mknod", -EPERM);      /* mkdir makes lockspaces, nothing else is here */
        node = get_node(req, "mknod", parent);
        if (!node)
                return;
        if (!is_lockspace_dir(node, parent))
                return reply_result(req, "mknod", -EINVAL);     /* every name that can be is there already */
        if ((mode & S_IFMT) != S_IFREG && (mode & S_IFMT) != 0)
                return reply_result(req, "mknod", -EPERM);
        r = make_resource(req, (Lockspace *)node, name, mode, &resource);
        if (r < 0)
                reply_result(req, "mknod", r);
        else
                reply_node(req, "mknod", &resource->node, VIEW_SELF);
}

static void fs_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
        trace("mkdir %s %o", name, mode);
        if (parent == FUSE_ROOT_ID)
                request_mkdir(req, fs_tree(req), name, mode);
        else
                reply_result(req, "mkdir", -EPERM);
}

static void fs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        uint8_t decoded[RESOURCE_NAME_MAX];
        Resource *resource;
        Node *node;
        size_t len;

        trace("unlink %s", name);
        if (parent == FUSE_ROOT_ID)
                return reply_result(req, "unlink", -EPERM);
        node = get_node(req, "unlink", parent);
        if (!node)
                return;
        if (!is_lockspace_dir(node, parent) || special_view(name) != VIEW_SELF)
                return reply_result(req, "unlink", -EPERM);
        if (resource_name_decode(name, decoded, &len) < 0)
                return reply_result(req, "unlink", -ENOENT);
        resource = resource_find((Lockspace *)node, decoded, len);
        if (!resource || !resource->is_listed)
                return reply_result(req, "unlink", -ENOENT);
        resource_unlist(resource);
        resource_release(resource);
        reply_result(req, "unlink", 0);
}

static void fs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        Lockspace *lockspace;

        trace("rmdir %s", name);
        if (parent != FUSE_ROOT_ID)
                return reply_result(req, "rmdir", -EPERM);      /* the mode directories */
        lockspace = g_hash_table_lookup(fs_tree(req)->lockspaces, name);
        if (!lockspace)
                reply_result(req, "rmdir", -ENOENT);
        else if (!is_owner(req, &lockspace->node))
                reply_result(req, "rmdir", -EPERM);
        else
                request_rmdir(req, lockspace);
}

static void fs_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
        reply_result(req, "symlink", -EPERM);
}

static void fs_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
        reply_result(req, "rename", -EPERM);
}

static void fs_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
        reply_result(req, "link", -EPERM);
}

/* --- attributes --- */

static void fs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        Node *node;

        if (ino == FUSE_ROOT_ID)
                return reply_attr(req, "getattr", &fs_tree(req)->root, VIEW_SELF);
        if (ino_is_control(ino))
                return reply_control_attr(req, "getattr", ino);
        node = get_node(req, "getattr", ino);
        if (node)
                reply_attr(req, "getattr", node, ino_view(ino));
}

/* The years 1677 to 2262; what is beyond becomes the nearest, as in other file systems. */
static gint64 timespec_to_ns(const struct timespec *time)
{
        return CLAMP(time->tv_sec, G_MININT64 / NS_PER_SECOND, G_MAXINT64 / NS_PER_SECOND - 1) * NS_PER_SECOND + time->tv_nsec;
}

static void set_times(Node *node, const struct stat *attr, int to_set)
{
        const gint64 now_ns = time_ns();

        if (to_set & FUSE_SET_ATTR_ATIME_NOW)
                node->atime_ns = now_ns;
        else if (to_set & FUSE_SET_ATTR_ATIME)
                node->atime_ns = timespec_to_ns(&attr->st_atim);
        if (to_set & FUSE_SET_ATTR_MTIME_NOW)
                node->mtime_ns = now_ns;
        else if (to_set & FUSE_SET_ATTR_MTIME)
                node->mtime_ns = timespec_to_ns(&attr->st_mtim);
        node->ctime_ns = now_ns;
}

#define SET_OWNER (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)

static EngineAttr new_owner(const Node *node, const struct stat *attr, int to_set)
{
        return (EngineAttr){
                .mode = to_set & FUSE_SET_ATTR_MODE ? attr->st_mode & 07777 : node->mode,
                .uid = to_set & FUSE_SET_ATTR_UID ? attr->st_uid : node->uid,
                .gid = to_set & FUSE_SET_ATTR_GID ? attr->st_gid : node->gid,
        };
}

static void set_owner(Tree *tree, Node *node, const EngineAttr *owner)
{
        node->mode = owner->mode;
        node->uid = owner->uid;
        node->gid = owner->gid;
        tree_notify_attr(tree, node);           /* the mode directories show it too */
}

static int set_resource_attr(fuse_req_t req, Resource *resource, View view, const struct stat *attr, int to_set,
                             const struct fuse_file_info *fi)
{
        EngineAttr owner;

        /* Without a file it is truncate(2), which takes no lock and so changes nothing. */
        if (to_set & FUSE_SET_ATTR_SIZE && fi) {
                int r = handle_truncate(get_handle(req, fi), attr->st_size);
                if (r < 0)
                        return r;
        }
        if (to_set & SET_OWNER) {
                if (view != VIEW_SELF)
                        return -EPERM;          /* chmod and chown go by RES */
                owner = new_owner(&resource->node, attr, to_set);
                set_owner(fs_tree(req), &resource->node, &owner);
        }
        set_times(&resource->node, attr, to_set);
        return 0;
}

static void setattr_root(fuse_req_t req, const struct stat *attr, int to_set)
{
        Node *root = &fs_tree(req)->root;
        const EngineAttr owner = new_owner(root, attr, to_set);

        set_times(root, attr, to_set);
        root->mode = owner.mode;
        root->uid = owner.uid;
        root->gid = owner.gid;
        reply_attr(req, "setattr", root, VIEW_SELF);
}

static void fs_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
        const View view = ino_view(ino);
        EngineAttr owner;
        Node *node;
        int r = 0;

        if (ino == FUSE_ROOT_ID)
                return setattr_root(req, attr, to_set);
        if (ino_is_control(ino))
                return reply_result(req, "setattr", to_set & FUSE_SET_ATTR_SIZE ? -EACCES : -EPERM);
        node = get_node(req, "setattr", ino);
        if (!node)
                return;
        if (is_resource(node)) {
                r = set_resource_attr(req, (Resource *)node, view, attr, to_set, fi);
        } else if (view != VIEW_SELF) {
                r = to_set & SET_OWNER ? -EPERM : to_set & FUSE_SET_ATTR_SIZE && view == VIEW_LOCKS ? -EACCES : 0;
        } else {
                set_times(node, attr, to_set);
                owner = new_owner(node, attr, to_set);
                if (to_set & SET_OWNER)
                        return request_set_attr(req, (Lockspace *)node, &owner);
        }
        if (r < 0)
                reply_result(req, "setattr", r);
        else
                reply_attr(req, "setattr", node, view);
}

static void fs_statfs(fuse_req_t req, fuse_ino_t ino)
{
        const Tree *tree = fs_tree(req);
        const struct statvfs st = {
                .f_bsize = 4096,
                .f_frsize = 4096,
                .f_files = (fsfilcnt_t)g_hash_table_size(tree->nodes) + G_MAXUINT32,
                .f_ffree = G_MAXUINT32,         /* memory is the limit, and each user's max_files */
                .f_favail = G_MAXUINT32,
                .f_namemax = FILE_NAME_MAX,
        };

        fuse_reply_statfs(req, &st);
}

/* --- files --- */

static void open_text(fuse_req_t req, struct fuse_file_info *fi, GString *text)
{
        Handle *handle = handle_new_text(fs_tree(req), fuse_req_ctx(req)->uid);
        int r;

        if (!handle) {
                g_string_free(text, TRUE);
                return reply_result(req, "open", -ENOMEM);
        }
        r = handle_set_text(handle, text);
        if (r < 0) {
                reply_result(req, "open", r);
                return handle_free(handle);
        }
        fi->fh = handle->id;
        fi->direct_io = 1;
        fi->noflush = 1;
        if (reply_open(req, fi) == -ENOENT)
                handle_free(handle);
}

static void open_file(fuse_req_t req, Resource *resource, struct fuse_file_info *fi)
{
        Handle *handle = handle_new_file(resource, HANDLE_FILE, caller_may_write(req, resource, fi->flags));

        if (!handle)
                return reply_result(req, "open", -ENOMEM);
        fi->fh = handle->id;
        fi->direct_io = 1;
        if (reply_open(req, fi) == -ENOENT)
                handle_free(handle);
}

/* For ioctl(2) of file flags, as by lsattr(1), and for file_getattr(2) the kernel opens a file by itself, without
 * O_LARGEFILE, and for the latter without a look at its permissions. Such an open takes no lock: it could wait for its
 * caller's own. New calls may come that do the same, so what counts is who opens like that on purpose. */
static void open_mode(fuse_req_t req, Resource *resource, View view, struct fuse_file_info *fi)
{
        if (fi->flags == 0 && !caller_may_read(req, resource, view))
                reply_result(req, "open", -EACCES);
        else if (fi->flags == 0 && !caller_is_in_open(fuse_req_ctx(req)->pid))
                reply_result(req, "open", -ENOTTY);
        else
                request_open_mode(req, resource, view - VIEW_MODES, fi);
}

static void open_control(fuse_req_t req, Lockspace *lockspace, View view, struct fuse_file_info *fi)
{
        if (view == VIEW_FORCE)
                open_text(req, fi, g_string_new(lockspace->is_force ? "1\n" : "0\n"));
        else if ((fi->flags & O_ACCMODE) != O_RDONLY)
                reply_result(req, "open", -EACCES);
        else
                request_open_locks(req, lockspace, fi);
}

static void fs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        Tree *tree = fs_tree(req);
        const View view = ino_view(ino);
        Node *node;

        if (ino_is_control(ino) && (fi->flags & O_ACCMODE) != O_RDONLY)
                return reply_result(req, "open", -EACCES);
        if (ino_is_control(ino))
                return open_text(req, fi, ino == STATUS_INO ? control_status(tree) : metrics_text(tree));
        node = get_node(req, "open", ino);
        if (!node)
                return;
        if (!is_resource(node))
                open_control(req, (Lockspace *)node, view, fi);
        else if (tree->shutting_down)
                reply_result(req, "open", -ESHUTDOWN);
        else if (view == VIEW_SELF)
                open_file(req, (Resource *)node, fi);
        else
                open_mode(req, (Resource *)node, view, fi);
}

static void fs_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
        Handle *handle = get_handle(req, fi);
        const Lock *lock;

        if (handle->kind == HANDLE_TEXT)
                return reply_part(req, "read", handle->text->str, handle->text->len, size, offset);
        if (handle->holder.is_dead)
                return reply_result(req, "read", -ESTALE);
        lock = handle_find_lock(handle);
        if (!lock)
                request_read(req, handle->holder.resource, size, offset);
        else if (lock->lost)
                reply_result(req, "read", -EIO);
        else
                reply_part(req, "read", (const char *)lock->value, value_size(lock->value), size, offset);
}

static int write_force(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size)
{
        Node *node = tree_find_node(fs_tree(req), ino);
        gboolean force;
        int r;

        if (!node)
                return -ESTALE;
        r = control_parse_force(data, size, &force);
        if (r < 0)
                return r;
        ((Lockspace *)node)->is_force = force;
        return 0;
}

static void fs_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
        Handle *handle = get_handle(req, fi);
        int r;

        if (handle->kind == HANDLE_TEXT)
                r = write_force(req, ino, data, size);
        else
                r = handle_write(handle, data, size, offset, (fi->flags & O_APPEND) != 0);
        if (r < 0)
                return reply_result(req, "write", r);
        trace("write: %zu bytes", size);
        fuse_reply_write(req, size);
}

static void fs_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        Handle *handle = get_handle(req, fi);
        Holder *holder;

        if (handle->kind == HANDLE_FILE) {
                holder = fcntl_holder_find(handle->holder.resource, fi->lock_owner);
                if (holder)
                        fcntl_holder_put(holder);
        }
        reply_result(req, "flush", 0);
}

static void fs_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        handle_free(get_handle(req, fi));
        reply_result(req, "release", 0);
}

static void fs_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
        Handle *handle = get_handle(req, fi);

        if (handle_is_file(handle))
                request_fsync(req, handle);
        else
                reply_result(req, "fsync", 0);
}

static void fs_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *poll)
{
        fuse_reply_poll(req, handle_poll(get_handle(req, fi), poll));
}

/* --- locks --- */

static void fs_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op)
{
        Handle *handle = get_handle(req, fi);

        trace("flock %d", op);
        if (handle->kind != HANDLE_FILE)
                reply_result(req, "flock", -EOPNOTSUPP);
        else if (op & LOCK_UN) {
                holder_unlock(&handle->holder);         /* first: others may wait for it, the caller has time */
                reply_result(req, "flock", handle->holder.is_dead ? -ESTALE : 0);
        } else if (op & LOCK_EX && !handle->may_write)
                reply_result(req, "flock", -EACCES);
        else
                request_flock(req, handle, op);
}

/* Whole files only: to the largest offset, however that is written. */
static gboolean is_whole_file(const struct flock *flock)
{
        return flock->l_start == 0 && (flock->l_len == 0 || flock->l_len == G_MAXINT64);
}

static int check_fcntl(const Handle *handle, const struct flock *flock)
{
        if (handle->kind != HANDLE_FILE || !is_whole_file(flock))
                return -EOPNOTSUPP;
        return handle->holder.is_dead ? -ESTALE : 0;
}

static void fs_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *flock)
{
        Handle *handle = get_handle(req, fi);
        int r = check_fcntl(handle, flock);

        if (r < 0)
                reply_result(req, "getlk", r);
        else
                request_getlk(req, handle, fi->lock_owner, flock);
}

static void fs_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *flock, int sleep)
{
        Handle *handle = get_handle(req, fi);
        Holder *holder;
        int r = check_fcntl(handle, flock);

        trace("setlk type %d owner %" G_GINT64_MODIFIER "x", flock->l_type, (guint64)fi->lock_owner);
        if (r < 0)
                return reply_result(req, "setlk", r);
        if (flock->l_type != F_UNLCK)
                return request_setlk(req, handle, fi->lock_owner, flock, sleep);
        holder = fcntl_holder_find(handle->holder.resource, fi->lock_owner);
        if (holder)
                fcntl_holder_put(holder);
        reply_result(req, "setlk", 0);
}

/* --- directories --- */

static void fs_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        Handle *handle;

        if (ino != FUSE_ROOT_ID && !get_node(req, "opendir", ino))
                return;
        handle = handle_new_directory(fs_tree(req), fuse_req_ctx(req)->uid);
        if (!handle)
                return reply_result(req, "opendir", -ENOMEM);
        fi->fh = handle->id;
        if (reply_open(req, fi) == -ENOENT)
                handle_free(handle);
}

/* What a listing shows, as of now. Dot names, and names in mode directories, never. */
static GArray *list_serials(Tree *tree, const Node *node, fuse_ino_t ino)
{
        GArray *serials = g_array_new(FALSE, FALSE, sizeof(gint64));
        GHashTableIter iter;
        gpointer value;

        if (ino == FUSE_ROOT_ID) {
                g_hash_table_iter_init(&iter, tree->lockspaces);
                while (g_hash_table_iter_next(&iter, NULL, &value))
                        g_array_append_val(serials, ((Node *)value)->serial);
        } else if (is_lockspace_dir(node, ino)) {
                for (const GList *link = ((const Lockspace *)node)->listed.head; link; link = link->next)
                        g_array_append_val(serials, ((const Node *)link->data)->serial);
        }
        return serials;
}

/* The name under which a node is listed now; NULL: it no longer is. */
static const char *listed_name(Tree *tree, gint64 serial, char buffer[static FILE_NAME_MAX + 1], mode_t *ret_type)
{
        const Node *node = g_hash_table_lookup(tree->nodes, &serial);
        const Resource *resource = (const Resource *)node;

        if (!node)
                return NULL;
        if (!is_resource(node)) {
                *ret_type = S_IFDIR;
                return ((const Lockspace *)node)->name;
        }
        if (!resource->is_listed)
                return NULL;
        *ret_type = S_IFREG;
        resource_name_encode(resource->name, resource->name_len, buffer);
        return buffer;
}

/* The entry at @position: two dots, then what was there at the first read. */
static const char *entry_at(Tree *tree, const GArray *serials, fuse_ino_t ino, size_t position, char *buffer, struct stat *ret_st)
{
        gint64 serial;

        *ret_st = (struct stat){ .st_mode = S_IFDIR, .st_ino = ino };
        if (position == 0)
                return ".";
        if (position == 1) {
                ret_st->st_ino = FUSE_ROOT_ID;
                return "..";
        }
        serial = g_array_index(serials, gint64, position - 2);
        ret_st->st_ino = (fuse_ino_t)serial << VIEW_BITS;
        return listed_name(tree, serial, buffer, &ret_st->st_mode);
}

static void fs_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
        Handle *handle = get_handle(req, fi);
        Tree *tree = fs_tree(req);
        g_autofree char *buffer = memory_alloc0(size);
        Node *node = NULL;
        size_t used = 0;
        int r = 0;

        if (ino != FUSE_ROOT_ID) {
                node = get_node(req, "readdir", ino);
                if (!node)
                        return;
        }
        if (!buffer)
                return reply_result(req, "readdir", -ENOMEM);
        if (offset == 0 || !handle->serials)
                r = handle_set_serials(handle, list_serials(tree, node, ino));
        if (r < 0)
                return reply_result(req, "readdir", r);
        for (size_t position = offset; position < handle->serials->len + 2; position++) {
                char name_buffer[FILE_NAME_MAX + 1];
                struct stat st;
                const char *name = entry_at(tree, handle->serials, ino, position, name_buffer, &st);
                size_t need;

                if (!name)
                        continue;
                need = fuse_add_direntry(req, buffer + used, size - used, name, &st, position + 1);
                if (need > size - used)
                        break;
                used += need;
        }
        reply_buffer(req, "readdir", buffer, used);
}

static void fs_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
        reply_result(req, "fsyncdir", 0);
}

/* --- extended attributes --- */

/* The one that the inode has, or NULL. @node: NULL for the root and its control files. */
static const char *xattr_of(const Node *node, fuse_ino_t ino)
{
        if (!node)
                return NULL;
        if (is_lockspace_dir(node, ino))
                return LOCKSPACEFS_XATTR_FORCE;
        return is_resource(node) ? LOCKSPACEFS_XATTR_VALUE : NULL;
}

static gboolean has_xattr(const Node *node, fuse_ino_t ino, const char *name)
{
        return g_strcmp0(xattr_of(node, ino), name) == 0;
}

/* Of the root and its control files: NULL, TRUE. */
static gboolean get_xattr_node(fuse_req_t req, const char *what, fuse_ino_t ino, Node **ret_node)
{
        *ret_node = NULL;
        if (ino == FUSE_ROOT_ID || ino_is_control(ino))
                return TRUE;
        *ret_node = get_node(req, what, ino);
        return *ret_node != NULL;
}

static void reply_xattr(fuse_req_t req, const char *what, const char *data, size_t len, size_t size)
{
        if (size == 0)
                fuse_reply_xattr(req, len);
        else if (size < len)
                reply_result(req, what, -ERANGE);
        else
                reply_buffer(req, what, data, len);
}

static void fs_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
        Node *node;

        if (!get_xattr_node(req, "getxattr", ino, &node))
                return;
        if (!has_xattr(node, ino, name))
                reply_result(req, "getxattr", g_str_has_prefix(name, "system.") ? -EOPNOTSUPP : -ENODATA);
        else if (is_resource(node) && (size == 0 || size < VALUE_LEN))
                reply_xattr(req, "getxattr", NULL, VALUE_LEN, size);
        else if (is_resource(node))
                request_getxattr_value(req, (Resource *)node);
        else if (!is_owner(req, node))
                reply_result(req, "getxattr", -EPERM);
        else
                reply_xattr(req, "getxattr", ((Lockspace *)node)->is_force ? "1" : "0", 1, size);
}

static void fs_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
        const char *name;
        Node *node;

        if (!get_xattr_node(req, "listxattr", ino, &node))
                return;
        name = xattr_of(node, ino);
        if (name && !is_resource(node) && !is_owner(req, node))
                name = NULL;                    /* not for him */
        reply_xattr(req, "listxattr", name, name ? strlen(name) + 1 : 0, size);
}

static void fs_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
        gboolean force;
        Node *node;
        int r;

        if (!get_xattr_node(req, "setxattr", ino, &node))
                return;
        if (!has_xattr(node, ino, name)) {
                r = -EOPNOTSUPP;
        } else if (is_resource(node)) {
                r = -EPERM;                     /* a value is written under a lock, by write(2) */
        } else if (!is_owner(req, node)) {
                r = -EPERM;
        } else if (flags & XATTR_CREATE) {
                r = -EEXIST;
        } else {
                r = control_parse_force(value, size, &force);
                if (r == 0)
                        ((Lockspace *)node)->is_force = force;
        }
        reply_result(req, "setxattr", r);
}

static void fs_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
        Node *node;

        if (get_xattr_node(req, "removexattr", ino, &node))
                reply_result(req, "removexattr", has_xattr(node, ino, name) ? -EPERM : -ENODATA);
}

/* --- what a lock file cannot do --- */

static void fs_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned command, void *arg, struct fuse_file_info *fi, unsigned flags,
                     const void *in, size_t in_size, size_t out_size)
{
        reply_result(req, "ioctl", -ENOTTY);
}

static void fs_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length, struct fuse_file_info *fi)
{
        reply_result(req, "fallocate", -EOPNOTSUPP);
}

/* No create: CREATE would hold the directory's mutex while it waits for a
 * lock; MKNOD is answered at once, and the OPEN after it may wait. */
const struct fuse_lowlevel_ops fs_ops = {
        .init = fs_init,
        .lookup = fs_lookup,
        .forget = fs_forget,
        .forget_multi = fs_forget_multi,
        .mknod = fs_mknod,
        .mkdir = fs_mkdir,
        .unlink = fs_unlink,
        .rmdir = fs_rmdir,
        .symlink = fs_symlink,
        .rename = fs_rename,
        .link = fs_link,
        .getattr = fs_getattr,
        .setattr = fs_setattr,
        .statfs = fs_statfs,
        .open = fs_open,
        .read = fs_read,
        .write = fs_write,
        .flush = fs_flush,
        .release = fs_release,
        .fsync = fs_fsync,
        .poll = fs_poll,
        .flock = fs_flock,
        .getlk = fs_getlk,
        .setlk = fs_setlk,
        .opendir = fs_opendir,
        .readdir = fs_readdir,
        .releasedir = fs_release,
        .fsyncdir = fs_fsyncdir,
        .getxattr = fs_getxattr,
        .listxattr = fs_listxattr,
        .setxattr = fs_setxattr,
        .removexattr = fs_removexattr,
        .ioctl = fs_ioctl,
        .fallocate = fs_fallocate,
};
