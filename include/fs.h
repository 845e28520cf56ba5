#pragma once
/*
 * The FUSE operations: what the kernel asks, by inode number and file handle,
 * turned into calls on the tree's objects. Their userdata is the Tree.
 */
#include "tree.h"

extern const struct fuse_lowlevel_ops fs_ops;
