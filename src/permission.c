#include "permission.h"
#include "memory.h"
#include "resource.h"
#include <fcntl.h>

gboolean is_owner(fuse_req_t req, const Node *node)
{
        const uid_t uid = fuse_req_ctx(req)->uid;

        return uid == 0 || uid == node->uid;
}

/* Is the caller in that group? -1: his groups cannot be told. */
static int in_group(fuse_req_t req, gid_t gid)
{
        g_autofree gid_t *groups = NULL;
        int n;

        if (fuse_req_ctx(req)->gid == gid)
                return 1;
        n = fuse_req_getgroups(req, 0, NULL);
        if (n < 0)
                return -1;
        groups = memory_alloc0((n + 1) * sizeof(*groups));
        if (!groups)
                return -1;
        n = MIN(n, fuse_req_getgroups(req, n, groups));
        for (int i = 0; i < n; i++)
                if (groups[i] == gid)
                        return 1;
        return n < 0 ? -1 : 0;
}

/* @bit: of others, 4 to read and 2 to write. */
static gboolean caller_may(fuse_req_t req, const Resource *resource, View view, mode_t bit)
{
        const uid_t caller = fuse_req_ctx(req)->uid;
        gboolean group_may, others_may;
        mode_t mode;
        uid_t uid;
        gid_t gid;

        if (caller == 0)
                return TRUE;
        resource_get_attr(resource, view, &uid, &gid, &mode);
        if (caller == uid)
                return (mode & bit << 6) != 0;
        group_may = (mode & bit << 3) != 0;
        others_may = (mode & bit) != 0;
        if (group_may == others_may)            /* no need to read /proc */
                return others_may;
        switch (in_group(req, gid)) {
        case 1:
                return group_may;
        case 0:
                return others_may;
        default:
                return FALSE;                   /* in another pid namespace: the safe answer */
        }
}

gboolean caller_may_write(fuse_req_t req, const Resource *resource, int open_flags)
{
        return (open_flags & O_ACCMODE) != O_RDONLY || caller_may(req, resource, VIEW_SELF, 02);
}

gboolean caller_may_read(fuse_req_t req, const Resource *resource, View view)
{
        return caller_may(req, resource, view, 04);
}
