#pragma once
/*
 * The sequences that make and release a lockspace. They take as long as the
 * cluster takes, minutes or for ever, and the kernel does one at a time: for
 * the one worker that does nothing else.
 */
#include "dlm-node.h"

/* Make @name, exclusively, with @access's owner, group and mode. A failed one
 * is released again. @ret_node: its device. @ret_is_linked: udev has made
 * /dev/misc/dlm_NAME, by which libdlm finds it. */
int dlm_control_make(const char *name, uint32_t flags, const DlmNode *access, DlmNode *ret_node, gboolean *ret_is_linked);

/* Release @name, whose device is @node: returns when it has gone from this
 * node and the last opener with it; at once when it went before. Without
 * @force: -EBUSY, somebody of this node uses it; -EREMOTE, only other nodes'
 * locks stand in the way. @xid: of our own locks, which do not matter here. */
int dlm_control_release(const char *name, const DlmNode *node, uint64_t xid, gboolean force);
