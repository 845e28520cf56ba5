#pragma once
/*
 * The device node of a lockspace, /dev/dlm_NAME: it is there while the
 * lockspace is, and its owner and mode say who may use it. /dev is memory:
 * looking and changing never block.
 */
#include "engine.h"

#define DLM_NODE_UDEV_MODE 0660                 /* what udev's rule gives a lockspace's node, and again at each change event */

typedef struct DlmNode {
        dev_t rdev;
        ino_t ino;                              /* with rdev: this very lockspace, not a later one of that name */
        uid_t uid;
        gid_t gid;
        mode_t mode;                            /* permission bits */
} DlmNode;

/* The lockspace's name in a node's: "web" in "dlm_web". NULL: not one. */
const char *dlm_node_lockspace(const char *node_name);
/* -ENOENT: no lockspace of that name has a device. */
int dlm_node_stat(const char *name, DlmNode *ret_node);
gboolean dlm_node_is_same(const DlmNode *a, const DlmNode *b);
gboolean dlm_node_has_access_of(const DlmNode *a, const DlmNode *b);    /* same owner, group and mode */
/* Give the node @want's owner, group and mode. */
int dlm_node_set_access(const char *name, const DlmNode *want);

/* A directory's mode is the device's, with x wherever r or w is. */
void dlm_node_to_attr(const DlmNode *node, EngineAttr *ret_attr);
void dlm_node_from_attr(const EngineAttr *attr, DlmNode *node);         /* rdev and ino stay */
