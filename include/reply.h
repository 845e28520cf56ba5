#pragma once
/*
 * Answers to the kernel: each takes the fuse_req_t, traces it, and flips the
 * sign of an error, here and nowhere else. @what is the operation's name.
 */
#include "tree.h"

void reply_result(fuse_req_t req, const char *what, int status);        /* 0 or a negative errno */
void reply_node(fuse_req_t req, const char *what, Node *node, View view);       /* an entry: one more lookup */
void reply_control_node(fuse_req_t req, const char *what, fuse_ino_t ino);      /* of .status or .metrics */
void reply_attr(fuse_req_t req, const char *what, Node *node, View view);
void reply_control_attr(fuse_req_t req, const char *what, fuse_ino_t ino);
int reply_open(fuse_req_t req, const struct fuse_file_info *fi);        /* -ENOENT: nobody is there to have it */
void reply_buffer(fuse_req_t req, const char *what, const char *data, size_t size);
/* What of @data is at @offset, @size bytes at most. */
void reply_part(fuse_req_t req, const char *what, const char *data, size_t data_size, size_t size, off_t offset);
void reply_lock(fuse_req_t req, const struct flock *flock);
