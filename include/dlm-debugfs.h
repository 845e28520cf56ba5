#pragma once
/*
 * The kernel's own list of a lockspace's locks, from debugfs. Reading it does
 * not wait for a stopped lockspace, but may take milliseconds: for a worker.
 * Our own locks are those with our xid.
 */
#include "engine.h"

/* The locks in the text of such a file, but for ours: a new array of
 * EngineForeign. @text is cut into lines. @node: this one. @now_ns: of
 * CLOCK_MONOTONIC. */
GArray *dlm_debugfs_parse(char *text, uint64_t xid, uint32_t node, guint64 now_ns);

/* The locks that others made: ours are left out. @ret_locks: of EngineForeign.
 * -EOPNOTSUPP: debugfs is not mounted or not for us, or this kernel has none.
 * -ENOENT: no such lockspace. -ENOMEM: not now. */
int dlm_debugfs_read(const char *name, uint64_t xid, GArray **ret_locks);

/* Whose locks stand in the way of a release? -EBUSY: other processes' of this
 * node; -EREMOTE: other nodes' alone; 0: nobody's; else as above. */
int dlm_debugfs_judge(const char *name, uint64_t xid);
