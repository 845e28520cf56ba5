#include "dlm-node.h"
#include "name.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "dlm_"

typedef char NodePath[sizeof("/dev/" PREFIX) + LOCKSPACE_NAME_MAX];

static const char *node_path(const char *name, NodePath path)
{
        g_snprintf(path, sizeof(NodePath), "/dev/" PREFIX "%s", name);
        return path;
}

const char *dlm_node_lockspace(const char *node_name)
{
        const char *name = node_name + strlen(PREFIX);

        /* dlm-control and dlm-monitor differ by the dash; plock is no valid name. */
        if (!g_str_has_prefix(node_name, PREFIX) || lockspace_name_check(name) < 0)
                return NULL;
        return name;
}

int dlm_node_stat(const char *name, DlmNode *ret_node)
{
        NodePath path;
        struct stat st;

        if (lstat(node_path(name, path), &st) < 0)
                return -errno;
        if (!S_ISCHR(st.st_mode))
                return -ENOENT;
        *ret_node = (DlmNode) {
                .rdev = st.st_rdev,
                .ino = st.st_ino,
                .uid = st.st_uid,
                .gid = st.st_gid,
                .mode = st.st_mode & 0777,
        };
        return 0;
}

gboolean dlm_node_is_same(const DlmNode *a, const DlmNode *b)
{
        return a->rdev == b->rdev && a->ino == b->ino;
}

gboolean dlm_node_has_access_of(const DlmNode *a, const DlmNode *b)
{
        return a->uid == b->uid && a->gid == b->gid && a->mode == b->mode;
}

int dlm_node_set_access(const char *name, const DlmNode *want)
{
        NodePath path;
        DlmNode now;
        int r;

        node_path(name, path);
        r = dlm_node_stat(name, &now);
        if (r < 0)
                return r;
        if (dlm_node_has_access_of(&now, want))
                return 0;
        /* Between the two calls nobody may what neither owner meant. */
        if (chmod(path, now.mode & want->mode) < 0 ||
            chown(path, want->uid, want->gid) < 0 ||
            chmod(path, want->mode) < 0)
                return -errno;
        return 0;
}

void dlm_node_to_attr(const DlmNode *node, EngineAttr *ret_attr)
{
        mode_t mode = node->mode & 0666;

        ret_attr->uid = node->uid;
        ret_attr->gid = node->gid;
        ret_attr->mode = mode | (mode & 0444) >> 2 | (mode & 0222) >> 1;
}

void dlm_node_from_attr(const EngineAttr *attr, DlmNode *node)
{
        node->uid = attr->uid;
        node->gid = attr->gid;
        node->mode = attr->mode & 0666;
}
