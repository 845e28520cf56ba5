#pragma once
/*
 * The permission checks that the kernel (default_permissions) cannot make.
 */
#include "tree.h"

/* Root, or the owner of that lockspace. */
gboolean is_owner(fuse_req_t req, const Node *node);
/* May the caller, who opens RES with @open_flags, write to it? The kernel has
 * checked what the flags ask for; flock(1) opens read-only and takes EX. */
gboolean caller_may_write(fuse_req_t req, const Resource *resource, int open_flags);
/* May the caller read it, as it is seen through @view? For an open that the
 * kernel makes by itself, and has not checked. */
gboolean caller_may_read(fuse_req_t req, const Resource *resource, View view);
