#pragma once
/*
 * A request is one file operation that may have to wait. It owns the
 * fuse_req_t until it answers, and it answers exactly once; a signal to the
 * caller answers it at once with EINTR, and what it waited for is finished
 * behind its back.
 */
#include "holder.h"

typedef enum RequestKind {
        REQUEST_FLOCK,
        REQUEST_SETLK,
        REQUEST_OPEN,                           /* in a mode directory */
        REQUEST_FSYNC,
        REQUEST_READ,                           /* of a value, without a lock */
        REQUEST_GETXATTR,                       /* user.value */
        REQUEST_GETLK,
        REQUEST_LOCKS,                          /* open of .locks */
        REQUEST_MKDIR,
        REQUEST_RMDIR,
        REQUEST_SETATTR,                        /* of a lockspace */
} RequestKind;

struct Request {
        fuse_req_t req;                         /* to be answered */
        RequestKind kind : 8;
        LockMode mode : 8;                      /* wanted */
        bool wait : 1;                      /* else NOQUEUE */
        bool is_waiting : 1;                /* signals get through */
        bool is_charged : 1;                /* as a waiter */
        bool is_over_limit : 1;             /* may not wait: granted at once, or ENOLCK */
        bool is_truncating : 1;             /* OPEN with O_TRUNC */
        gint64 since_us;                        /* monotonic: when it was asked for; 0: it did not come to that */
        pid_t pid;                              /* SETLK: the caller's process; 0: not told */
        int flags;                              /* OPEN: of fuse_file_info */
        Holder *holder;                         /* FLOCK, SETLK, OPEN, FSYNC: whom it is for */
        Handle *handle;                         /* SETLK, FSYNC: through which file; cannot be closed before the answer */
        GList link;                             /* in Holder.waiting or Lockspace.postponed */
        GQueue *queue;                          /* that queue, NULL: in none */
        void (*start)(Request *request);        /* what a postponed one does when its time has come */
        struct Detail *detail;                  /* of those without a holder: request.c */
};

/* flock, fcntl and open in a mode directory, through their holder. */
void request_flock(fuse_req_t req, Handle *handle, int op);
void request_setlk(fuse_req_t req, Handle *handle, guint64 owner, const struct flock *flock, gboolean wait);
void request_getlk(fuse_req_t req, Handle *handle, guint64 owner, const struct flock *flock);
void request_open_mode(fuse_req_t req, Resource *resource, LockMode mode, const struct fuse_file_info *fi);
void request_fsync(fuse_req_t req, Handle *handle);

/* The value without a lock: the last that a writer released. */
void request_read(fuse_req_t req, Resource *resource, size_t size, off_t offset);
void request_getxattr_value(fuse_req_t req, Resource *resource);

/* What takes the cluster's time. */
void request_mkdir(fuse_req_t req, Tree *tree, const char *name, mode_t mode);
void request_rmdir(fuse_req_t req, Lockspace *lockspace);
void request_set_attr(fuse_req_t req, Lockspace *lockspace, const EngineAttr *attr);
void request_open_locks(fuse_req_t req, Lockspace *lockspace, const struct fuse_file_info *fi);

/* Called by holders and lockspaces: end it. 0 or a negative errno. */
void request_answer(Request *request, int status);
/* Its wait begins, or goes on. It is Tree.fresh until whoever read it from the
 * kernel has given the engine a chance to answer it at once, as most are, … */
void request_begin_wait(Request *request);
/* … and if it was not, signals get through from then on. */
void request_let_signals_through(Tree *tree);
/* It waits in @queue, Holder.waiting or Lockspace.postponed, until it is taken out or answered. */
void request_enqueue(Request *request, GQueue *queue);
void request_enqueue_first(Request *request, GQueue *queue);
