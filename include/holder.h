#pragma once
/*
 * A holder is somebody whom locks exclude: an open file for flock(2), an open
 * file of a mode directory, or an owner of fcntl(2) locks on one resource. It
 * has at most one lock. Requests for it are served one at a time, in order; a
 * request answers exactly once.
 *
 * An unlock never waits: the lock is let go of to finish by itself, and the
 * next request starts with a new one (the engine keeps the order).
 *
 * Dead-locks. Waiting POSIX locks of this node that form a cycle by owner are
 * refused with EDEADLK, as the kernel does (fs/locks.c,
 * posix_locks_deadlock(), though without its limit of ten steps); OFD locks take
 * no part, since a file is not somebody who waits.
 */
#include "lock.h"

struct Holder {
        Resource *resource;
        Handle *handle;                         /* of flock and open; of fcntl: where it was taken */
        guint64 owner;                          /* of fcntl locks */
        Lock *lock;                             /* NULL: nothing held or wanted */
        Request *active;                        /* waits for that lock, or NULL */
        GQueue *waiting;                        /* of Request: for their turn; NULL: none */
        LockBy by : 8;
        bool is_dead : 1;                   /* the lockspace went: ESTALE */
        unsigned modes : MODE_COUNT;            /* a set: what must become possible first, as of the last search here */
};

void holder_init(Holder *holder, Resource *resource, Handle *handle, LockBy by);
void holder_clear(Holder *holder);              /* lets go of the lock; no request may be left */

/* Serve @request (request.h: mode, wait): it is answered, now or later. */
void holder_lock(Holder *holder, Request *request);
/* flock(LOCK_UN), F_UNLCK, close: at once. A waiting request goes on waiting. */
void holder_unlock(Holder *holder);
/* Publish what was written: fsync(2). */
void holder_sync(Holder *holder, Request *request);
/* The caller of @request was interrupted: it leaves; the answer is request's. */
void holder_leave(Holder *holder, Request *request);
/* The lockspace is gone, or @status else: everybody who waits is told. */
void holder_fail(Holder *holder, int status);

/* fcntl: the holder of @owner on the resource; NULL: none. */
Holder *fcntl_holder_find(Resource *resource, guint64 owner);
/* … made if need be, and remembered by @handle until its release. NULL: no memory. */
Holder *fcntl_holder_get(Resource *resource, guint64 owner, LockBy by, Handle *handle);
/* Unlock and free it, unless somebody still waits as it. */
void fcntl_holder_put(Holder *holder);
/* The file that it is remembered by is closed: the same, for good. */
void fcntl_holder_leave_handle(Holder *holder);
guint fcntl_holder_hash(gconstpointer holder);
gboolean fcntl_holder_equal(gconstpointer a, gconstpointer b);
