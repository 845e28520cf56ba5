#pragma once
/*
 * A handle is an open file description: of a lock file, of a name in a mode
 * directory, of a control file, whose text it keeps as of the open, or of a
 * directory, whose listing it keeps. The kernel knows it by its number.
 */
#include "holder.h"

typedef enum HandleKind {
        HANDLE_FILE,                            /* RES: flock and fcntl */
        HANDLE_MODE,                            /* in a mode directory: holds its lock */
        HANDLE_TEXT,
        HANDLE_DIRECTORY,
} HandleKind;

struct Handle {
        uint32_t id;
        HandleKind kind : 8;
        LockBy owner_by : 8;                    /* what .owner is: POSIX or OFD; BY_FLOCK: nobody yet */
        bool may_write : 1;                     /* the opener may lock CW, PW and EX */
        bool is_dead : 1;                       /* its lockspace is gone: POLLERR|POLLHUP */
        bool is_ending : 1;                     /* the daemon is: POLLHUP */
        pid_t thread, process;                  /* who last asked for a lock through it: FUSE names the thread */
        guint64 owner;                          /* who last took an fcntl lock through it */
        Tree *tree;
        struct fuse_pollhandle *poll;           /* NULL: nobody polls */
        union {
                struct {                        /* FILE, MODE */
                        Holder holder;
                        GSList *fcntl;          /* of Holder (of_handle in holder.c): taken through this file */
                };
                struct {                        /* TEXT, DIRECTORY */
                        GString *text;          /* TEXT */
                        GArray *serials;        /* DIRECTORY: gint64; NULL until the first read */
                        uid_t uid;              /* who opened it, and is counted for … */
                        unsigned bytes;         /* … so many of what it keeps */
                };
        };
};

/* NULL: no memory. */
Handle *handle_new_file(Resource *resource, HandleKind kind, gboolean may_write);
Handle *handle_new_text(Tree *tree, uid_t uid);
Handle *handle_new_directory(Tree *tree, uid_t uid);
void handle_free(Handle *handle);               /* lets go of all its locks */

/* What is read, and counted for who opened it, in the place of what was there. Both take it, whatever comes of it:
 * after -EMFILE (he has too much of that) and -ENOMEM nothing is there. */
int handle_set_text(Handle *handle, GString *text);
int handle_set_serials(Handle *handle, GArray *serials);

gboolean handle_is_file(const Handle *handle);
/* The process of a thread that asks for a lock. It is found once as long as the
 * same thread does, through this file or in this turn of the loop, since it costs
 * a system call or more. */
pid_t handle_process(Handle *handle, pid_t thread);
/* Which kind of fcntl lock the caller asks for as @owner. It is found once for
 * each owner: an OFD lock's is this open file, which the kernel keeps apart from
 * all others as long as it is open, so what an owner is does not change. */
LockBy handle_fcntl_by(Handle *handle, guint64 owner, pid_t thread);
/* The lock under which this file is read: the strongest it has; NULL: none. */
Lock *handle_find_lock(Handle *handle);

/* write(2): -ENOLCK without PW or EX, -EFBIG past the value's end, -ESTALE, -ENOMEM. */
int handle_write(Handle *handle, const char *data, size_t size, off_t offset, gboolean append);
/* ftruncate(2) and O_TRUNC: what is behind @size is cut off. */
int handle_truncate(Handle *handle, off_t size);
int handle_truncate_lock(Lock *lock, off_t size);

/* poll(2): what is true now, and remember whom to tell. Takes @poll. */
unsigned handle_poll(Handle *handle, struct fuse_pollhandle *poll);
void handle_notify(Handle *handle);             /* handle_poll() has something new to say */
void handle_set_dead(Handle *handle);           /* its lockspace is gone: ESTALE from now on */
void handle_shut_down(Handle *handle);          /* the daemon is to end: who waits gets ESHUTDOWN, who holds keeps */
