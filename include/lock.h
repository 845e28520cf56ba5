#pragma once
/*
 * A lock is one DLM lock of this mount: asked for, held, converted, given up.
 * Every one carries the value block, so that a value is read with the grant
 * and travels back with the unlock. It belongs to who made it until
 * lock_drop(); from then on it finishes by itself and frees itself.
 *
 * One operation is in flight at a time (include/engine.h); who wants the next
 * one waits for the LockDone of the first.
 */
#include "tree.h"

typedef enum LockBy {
        BY_FLOCK,
        BY_POSIX,
        BY_OFD,
        BY_OPEN,                                /* a mode directory */
        BY_KEEPER,                              /* NL, keeps a value alive */
        BY_READER,                              /* in NL, for one look at the value; in PR or EX, a probe for F_GETLK */
} LockBy;

typedef enum LockState {
        LOCK_NEW,                               /* the engine has not heard of it, or would not have it */
        LOCK_LOCKING,                           /* asked for, or held up: one completion will come */
        LOCK_HELD,
        LOCK_CONVERTING,                        /* still held in the old mode: one completion will come */
        LOCK_UNLOCKING,                         /* given up: freed when its completion comes */
        LOCK_ABANDONED,                         /* its lockspace was forced away: freed with that */
} LockState;

/* The operation ended as EngineEvents.completed() says. */
typedef void LockDone(Lock *lock, int status, void *data);
/* Somebody waits for what this lock holds. */
typedef void LockBlocking(Lock *lock, void *data);

struct Lock {
        uint32_t id;                            /* in Tree.locks */
        uid_t uid;                              /* charged for it */
        pid_t pid;                              /* the process that asked */
        LockState state : 8;
        LockBy by : 8;
        LockMode mode : 8;                      /* held; NL when nothing is */
        LockMode wanted : 8;                    /* of LOCKING and CONVERTING */
        LockMode back : 8;                      /* of one that is_cancelled: what it had before */
        bool lost : 1;                          /* the value: VALNOTVALID, and not written since */
        bool dirty : 1;                         /* the value: written, and not yet given to the engine … */
        bool is_rewritten : 1;                  /* … since the convert in flight, which gave it another */
        bool dropping : 1;                      /* to be unlocked when the operation in flight has ended */
        bool is_charged : 1;                    /* for USER_LOCK, or when @dropping for USER_GIVEN_UP */
        bool is_asked : 1;                      /* somebody has waited for it since it was granted or converted */
        bool is_cancelled : 1;                  /* CONVERTING upwards, or back from that: nobody waits for it any more */
        bool is_held_up : 1;                    /* its operation waits for other locks' (lock.c); HELD: that is its unlock */
        bool is_passing : 1;                    /* nobody wants what is in flight */
        bool is_paired : 1;                     /* given up, or the lead for that: @data is the other of the two */
        unsigned flags;                         /* of the lock_request() that is_held_up */
        uint8_t value[VALUE_LEN];               /* as of the grant, or as written since */
        gint64 since_us;                        /* monotonic: in this state */
        Resource *resource;                     /* kept alive by its locks */
        GList link;                             /* in Resource.locks */
        LockDone *done;
        LockBlocking *blocking;
        void *data;
};

/* -ENOLCK: the user has enough of them; -ENOMEM. @pid and @uid: whose it is. */
int lock_new(Resource *resource, LockBy by, uid_t uid, pid_t pid, Lock **ret_lock);
void lock_set_callbacks(Lock *lock, LockDone *done, LockBlocking *blocking, void *data);

/* Ask for @mode, or convert to it. 0: @done will run; else nothing was queued. */
int lock_request(Lock *lock, LockMode mode, unsigned flags);
/* Ask that the request in flight ends early; its LockDone still comes. A convert
 * upwards leaves what was held: a grant that crossed this is given back before that. */
void lock_cancel(Lock *lock);
/* Give it up, in whatever state; no callback comes any more. NULL is fine. */
void lock_drop(Lock *lock);
/* Its lockspace is going by force: no operation any more, the memory stays. */
void lock_abandon(Lock *lock);
void lock_free(Lock *lock);                     /* the engine must not know it any more */

/* write(2) under it, in PW or EX. */
void lock_set_value(Lock *lock, const uint8_t *value);
/* Held in EX: for those who come after it the value is lost. */
void lock_lose_value(Lock *lock);

gboolean lock_is_busy(const Lock *lock);        /* an operation is in flight */
gboolean lock_has(const Lock *lock);            /* it holds a mode, converting or not */
LockMode lock_kept_mode(const Lock *lock);      /* that, without what a change brought that was given up */
gboolean lock_counts(const Lock *lock);         /* a person's: held or waited for, not given up, not a keeper */
/* Is a value still on its way, though nobody can write it (any more)? It goes back
 * with the lock, written or not, and is lost if the engine ends before that. */
gboolean locks_are_publishing(Tree *tree);
const char *lock_by_to_string(LockBy by);

/* From the engine. */
void lock_completed(Tree *tree, uint32_t id, int status, unsigned flags, const uint8_t *value);
void lock_blocking(Tree *tree, uint32_t id);
