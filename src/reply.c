#include "reply.h"
#include "lockspace.h"
#include "resource.h"
#include "trace.h"
#include <string.h>

static struct timespec timespec_of(gint64 ns)
{
        const gint64 rest = ns % NS_PER_SECOND;

        /* Before the epoch, too, nanoseconds count upwards. */
        return (struct timespec){ .tv_sec = ns / NS_PER_SECOND - (rest < 0), .tv_nsec = rest < 0 ? rest + NS_PER_SECOND : rest };
}

static void fill_times(const Node *node, struct stat *st)
{
        st->st_atim = timespec_of(node->atime_ns);
        st->st_mtim = timespec_of(node->mtime_ns);
        st->st_ctim = timespec_of(node->ctime_ns);
}

static void fill_lockspace(const Node *node, View view, struct stat *st)
{
        const Tree *tree;

        st->st_uid = node->uid;
        st->st_gid = node->gid;
        if (view == VIEW_FORCE) {
                st->st_mode = S_IFREG | 0600;
                st->st_size = 2;
                st->st_nlink = 1;
        } else if (view == VIEW_LOCKS) {
                st->st_mode = S_IFREG | 0444;
                st->st_nlink = 1;
        } else {
                st->st_mode = S_IFDIR | node->mode;
                st->st_nlink = 2;
                if (node->serial == 0) {
                        tree = (const Tree *)((const char *)node - G_STRUCT_OFFSET(Tree, root));
                        st->st_nlink += g_hash_table_size(tree->lockspaces);
                }
        }
}

static void fill(Node *node, View view, struct stat *st)
{
        memset(st, 0, sizeof(*st));
        st->st_ino = node_ino(node, view);
        st->st_blksize = 4096;
        fill_times(node, st);
        if (node->kind == NODE_LOCKSPACE) {
                fill_lockspace(node, view, st);
        } else {
                Resource *resource = (Resource *)node;

                if (!resource->is_listed)
                        resource->shown_us = tree_now_us(resource->lockspace->tree);
                resource_get_attr(resource, view, &st->st_uid, &st->st_gid, &st->st_mode);
                st->st_mode |= S_IFREG;
                st->st_size = resource->size;
                st->st_nlink = resource->is_listed;
        }
}

static void fill_control(const Tree *tree, fuse_ino_t ino, struct stat *st)
{
        memset(st, 0, sizeof(*st));
        st->st_ino = ino;
        st->st_mode = S_IFREG | 0444;
        st->st_uid = tree->root.uid;
        st->st_gid = tree->root.gid;
        st->st_nlink = 1;
        st->st_blksize = 4096;
        fill_times(&tree->root, st);
}

void reply_result(fuse_req_t req, const char *what, int status)
{
        trace("%s: %s", what, status < 0 ? g_strerror(-status) : "ok");
        fuse_reply_err(req, -status);
}

static int reply_entry(fuse_req_t req, struct fuse_entry_param *entry)
{
        entry->ino = entry->attr.st_ino;
        entry->attr_timeout = entry->entry_timeout = REPLY_TIMEOUT_S;
        return fuse_reply_entry(req, entry);
}

void reply_node(fuse_req_t req, const char *what, Node *node, View view)
{
        struct fuse_entry_param entry = { 0 };

        trace("%s: inode %" G_GINT64_FORMAT " view %d", what, node->serial, view);
        fill(node, view, &entry.attr);
        if (node->kind == NODE_RESOURCE) {      /* the kernel counts; so do we, until its forget */
                Resource *resource = (Resource *)node;

                resource->lookups++;
                resource->views |= 1u << view;
                if (reply_entry(req, &entry) < 0) {
                        resource->lookups--;
                        resource_release(resource);
                }
        } else {
                reply_entry(req, &entry);
        }
}

void reply_control_node(fuse_req_t req, const char *what, fuse_ino_t ino)
{
        struct fuse_entry_param entry = { 0 };

        trace("%s: inode %" G_GUINT64_FORMAT, what, (guint64)ino);
        fill_control(fuse_req_userdata(req), ino, &entry.attr);
        reply_entry(req, &entry);
}

void reply_attr(fuse_req_t req, const char *what, Node *node, View view)
{
        struct stat st;

        trace("%s: inode %" G_GINT64_FORMAT " view %d", what, node->serial, view);
        fill(node, view, &st);
        fuse_reply_attr(req, &st, REPLY_TIMEOUT_S);
}

void reply_control_attr(fuse_req_t req, const char *what, fuse_ino_t ino)
{
        struct stat st;

        trace("%s: inode %" G_GUINT64_FORMAT, what, (guint64)ino);
        fill_control(fuse_req_userdata(req), ino, &st);
        fuse_reply_attr(req, &st, REPLY_TIMEOUT_S);
}

int reply_open(fuse_req_t req, const struct fuse_file_info *fi)
{
        trace("open: file %u", (unsigned)fi->fh);
        return fuse_reply_open(req, fi);
}

void reply_buffer(fuse_req_t req, const char *what, const char *data, size_t size)
{
        trace("%s: %zu bytes", what, size);
        fuse_reply_buf(req, data, size);
}

void reply_part(fuse_req_t req, const char *what, const char *data, size_t data_size, size_t size, off_t offset)
{
        if ((size_t)offset >= data_size)
                reply_buffer(req, what, NULL, 0);
        else
                reply_buffer(req, what, data + offset, MIN(size, data_size - offset));
}

void reply_lock(fuse_req_t req, const struct flock *flock)
{
        trace("getlk: type %d pid %d", flock->l_type, flock->l_pid);
        fuse_reply_lock(req, flock);
}
