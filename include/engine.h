#pragma once
/*
 * An engine is a lock manager: lockspaces, and in them locks on named
 * resources with the semantics of the DLM (Documentation: dlm_lock(3),
 * fs/dlm/lock.c in Linux). Two exist, engine-local.c and engine-dlm.c, behind
 * the one table EngineOps.
 *
 * What is always true:
 * - Identities are small numbers. The caller chooses a lock's id (unique in
 *   this engine from lock() to the completion that ends it); the engine
 *   chooses a lockspace's (never used again). No pointer is handed over.
 * - Nothing here blocks and nothing calls back from inside an operation:
 *   every result arrives later, from the main loop, through EngineEvents or
 *   an EngineDone. Both run in the order in which things happened.
 * - One operation at a time on a lock: after lock(), convert() or unlock()
 *   the next of these waits for completed(). Only cancel() may cross.
 * - Operations of one lockspace take effect in the order of the calls, so an
 *   unlock() before a NOQUEUE lock() always lets that one through.
 *
 * Modes, flags and limits are the kernel's, of <linux/dlmconstants.h>:
 * DLM_LKF_NOQUEUE, _VALBLK, _IVVALBLK, _QUECVT, _CONVDEADLK, _EXPEDITE,
 * _NOQUEUEBAST, _HEADQUE, _NOORDER are understood; lock() and convert()
 * refuse what dlm_lock() refuses with EINVAL.
 */
#include "lockspacefs.h"
#include "mode.h"
#include "options.h"
#include "sandbox.h"
#include <glib.h>
#include <linux/dlm.h>                          /* DLM_SBF_* */
#include <stdint.h>
#include <sys/types.h>

#define VALUE_LEN LOCKSPACEFS_VALUE_LEN         /* bytes of a value block: DLM_USER_LVB_LEN */
#define RESOURCE_NAME_MAX LOCKSPACEFS_NAME_MAX  /* bytes of a resource's name, any bytes */
#define LOCKSPACE_NAME_MAX LOCKSPACEFS_NAME_MAX /* bytes of a lockspace's name */
G_STATIC_ASSERT(RESOURCE_NAME_MAX == DLM_RESNAME_MAXLEN && LOCKSPACE_NAME_MAX == DLM_LOCKSPACE_LEN);

typedef struct Engine Engine;

typedef struct EngineLock {                     /* a new lock, borrowed for the call */
        uint32_t lockspace;
        uint32_t id;                            /* non-zero, the caller's choice */
        LockMode mode;
        uint32_t flags;                         /* DLM_LKF_* */
        const uint8_t *name;                    /* the resource: 1 to RESOURCE_NAME_MAX bytes */
        size_t name_len;
} EngineLock;

typedef struct EngineAttr {                     /* who may use a lockspace */
        uid_t uid;
        gid_t gid;
        mode_t mode;                            /* permission bits as of a directory: rwxrwxrwx */
} EngineAttr;

typedef enum EngineLockState {
        ENGINE_LOCK_HELD,
        ENGINE_LOCK_WAITING,
        ENGINE_LOCK_CONVERTING,
} EngineLockState;

typedef struct EngineForeign {                  /* a lock that this engine's caller did not make */
        uint8_t name[RESOURCE_NAME_MAX];
        size_t name_len;
        EngineLockState state;
        LockMode mode;                          /* granted mode; MODE_NL while waiting */
        LockMode wanted;                        /* of waiting and converting ones */
        uint32_t node;
        pid_t pid;                              /* on that node */
        gboolean is_local;                      /* that node is this one */
        double seconds;                         /* since it was asked for; -1: not known */
} EngineForeign;

typedef struct EngineCluster {                  /* as last heard; to look at it costs nothing */
        const GArray *members;                  /* of uint32_t, ascending; NULL: not known now */
        gboolean is_quorate;                    /* when the members are known */
        gboolean is_controlled;                 /* lockspaces can be made, and recover */
} EngineCluster;

typedef enum EngineSpaceState {
        ENGINE_SPACE_ACTIVE,
        ENGINE_SPACE_RECOVERING,                /* a node came or went: locks are being put in order */
        ENGINE_SPACE_STOPPED,                   /* waits for the cluster: a quorum, a fencing */
} EngineSpaceState;

/* How an operation on a lockspace ended: 0 or a negative errno. @lockspace is
 * that of create(), else the one asked for. */
typedef void EngineDone(void *data, int status, uint32_t lockspace);

/* @locks: EngineForeign, borrowed for the call; NULL when status is negative
 * (-EOPNOTSUPP: this machine cannot tell, debugfs is not mounted). */
typedef void EngineForeignDone(void *data, int status, const GArray *locks);

/* What an engine tells its caller. All run from the main loop. */
typedef struct EngineEvents {
        /* The operation in flight on lock @id has ended.
         *   0            granted (lock, convert) or unlocked (unlock)
         *   -EAGAIN      refused, NOQUEUE; a convert keeps its old mode
         *   -EDEADLK     a conversion dead-lock; the old mode is kept
         *   -ECANCELED   cancel() came in time; a convert keeps its old mode,
         *                or may have NL when it had CONVDEADLK: nobody
         *                can tell, and all there is to do is unlock()
         *   other        the lock manager would not (ENOMEM, EINVAL, ENODEV …);
         *                a convert keeps its old mode
         * A lock() that ends in anything but 0 has left no lock, and an
         * unlock() neither, whatever its status: the id is free again.
         * @flags: DLM_SBF_DEMOTED (CONVDEADLK took the granted mode down to NL
         * before it waited), DLM_SBF_VALNOTVALID (the value block is lost: its
         * last writer died). @value the VALUE_LEN bytes of the value block
         * when the request had VALBLK and its direction reads it, else NULL. */
        void (*completed)(void *data, uint32_t id, int status, unsigned flags, const uint8_t *value);
        /* Somebody waits for what lock @id holds, and wants @mode: the DLM's
         * blocking AST. A latch: once for each higher mode since the lock was
         * last granted or converted; nothing says that he gave up. */
        void (*blocking)(void *data, uint32_t id, LockMode mode);
        /* A lockspace that somebody else made is there, or was there at start. */
        void (*appeared)(void *data, uint32_t lockspace, const char *name, const EngineAttr *attr);
        /* Somebody else changed who may use it. */
        void (*changed)(void *data, uint32_t lockspace, const EngineAttr *attr);
        /* A lockspace is gone, not by our release(): no completion will come
         * any more for any of its locks, their ids are free. */
        void (*gone)(void *data, uint32_t lockspace);
} EngineEvents;

typedef struct EngineOps {
        const char *name;                       /* as in -o engine=NAME */
        gboolean has_others;                    /* others than our caller may hold locks here */
        SandboxNeeds needs;                     /* what it goes on needing of the kernel once the mount answers */

        /* Start the engine and find the lockspaces that are there: appeared()
         * comes for each, from the main loop. @options and @events are borrowed
         * and outlive the engine. FALSE and @error: what is missing on this
         * machine and what to do about it, for a person. */
        gboolean (*start)(const Options *options, const EngineEvents *events, void *data, Engine **ret_engine, GError **error);
        /* Stop. Locks still held go as if their process had died, and so may
         * those whose unlock() has not been completed(): the value of one in PW
         * or EX is lost. Lockspaces stay unless release() was called. Nothing
         * calls back any more. */
        void (*stop)(Engine *engine);

        /* This node's id in the cluster; 0 where there is no cluster. */
        uint32_t (*node)(Engine *engine);
        /* Who else is there. FALSE: there is no cluster. @ret_cluster is borrowed. */
        gboolean (*cluster)(Engine *engine, EngineCluster *ret_cluster);

        /* --- lockspaces: @done runs once, unless the call itself fails --- */

        /* Make one, exclusively. A valid name is the caller's duty (name.h).
         * Its errors: -EEXIST; -EBUSY: one of that name is being made or
         * released; -EPERM; -ENOTCONN: the cluster is not running; others of
         * dlm_create_lockspace(3). A failed one is not left behind. */
        int (*create)(Engine *engine, const char *name, const EngineAttr *attr, EngineDone *done, void *data);
        /* Give it to another owner, or other permissions. */
        int (*set_attr)(Engine *engine, uint32_t lockspace, const EngineAttr *attr, EngineDone *done, void *data);
        /* The first half of a release: let no new user of this node in, and see
         * whether anybody else is there. 0: sealed, now unlock what you have and
         * release(), or unseal(). -EBUSY: another process of this node has it
         * open. -EREMOTE: only other nodes' locks, mastered here, stand in the
         * way. On an error nothing has changed. With @force these two do not
         * count. */
        int (*seal)(Engine *engine, uint32_t lockspace, gboolean force, EngineDone *done, void *data);
        /* Undo seal(). */
        void (*unseal)(Engine *engine, uint32_t lockspace);
        /* The second half, after seal() has succeeded, and without @force only
         * when each of our unlocks has been completed(). 0: nobody can get in any
         * more and the lockspace's id is dead; with @force every lock of ours
         * went with it, no completion will come for them and their ids are free.
         * -EBUSY: locks are left after all (only without @force); it is still
         * sealed. -EREMOTE: as in seal(). */
        int (*release)(Engine *engine, uint32_t lockspace, gboolean force, EngineDone *done, void *data);
        /* Does a release with @force that was answered still go on, since others
         * have that lockspace open, or the cluster takes its time? Nobody knows
         * how long; all that is made or released stands in line behind it. */
        gboolean (*is_lingering)(Engine *engine);

        /* --- locks: 0, and completed() comes once; or a negative errno, and
         * nothing was queued: -ESTALE when the lockspace is gone --- */

        int (*lock)(Engine *engine, const EngineLock *lock);
        /* @value: VALUE_LEN bytes, written when the request has VALBLK and the
         * direction writes (from PW or EX to the same or a lower mode); may be
         * NULL when it does not. */
        int (*convert)(Engine *engine, uint32_t id, LockMode mode, uint32_t flags, const uint8_t *value);
        /* @flags: 0 (leave the value alone), VALBLK (write @value, when PW or EX
         * is held) or VALBLK|IVVALBLK (mark the value lost); they count when the
         * lock's last request had VALBLK. IVVALBLK of that request counts here,
         * too, as if it had been said again. A lock in PW without VALBLK whose
         * convert() with VALBLK was refused knows no value, and flags 0 may
         * write zeros: then say VALBLK, or VALBLK|IVVALBLK. */
        int (*unlock)(Engine *engine, uint32_t id, uint32_t flags, const uint8_t *value);
        /* Ask that the lock() or convert() in flight ends: it does, with
         * -ECANCELED or with what crossed. Harmless when nothing is in flight. */
        void (*cancel)(Engine *engine, uint32_t id);
        /* The same for a lock() in flight. FALSE: not yet, or its resource may
         * hang; but by cancel(), when an NL lock that is asked for from now on
         * in the same resource has ended. NULL: cancel() will always do. */
        gboolean (*cancel_new)(Engine *engine, uint32_t id);

        /* --- looking, and the loop --- */

        /* Are locks granted in it now? */
        EngineSpaceState (*state)(Engine *engine, uint32_t lockspace);
        /* The locks in @lockspace that others made: other processes of this
         * node, and other nodes' as far as they are mastered here. */
        int (*foreign_locks)(Engine *engine, uint32_t lockspace, EngineForeignDone *done, void *data);
        /* Deliver what is ready now, without waiting. The loop does so by
         * itself; the file system also calls it after each request, which saves
         * a round through the loop. Never called from inside a callback. */
        void (*dispatch)(Engine *engine);
} EngineOps;

struct Engine {                                 /* the head of each engine's own struct */
        const EngineOps *ops;
        const EngineEvents *events;
        void *events_data;
};

/* The engine of that name; NULL: none such in this build. */
const EngineOps *engine_find(const char *name);

extern const EngineOps engine_local_ops;
extern const EngineOps engine_dlm_ops;          /* where the build has HAVE_DLM */
