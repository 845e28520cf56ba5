#pragma once
/*
 * A lockspace is what a directory of the root is. The engine has it; here is
 * its name, owner and mode, its resources, and the life of its release:
 *
 *   ACTIVE -> SEALING -> SAVING -> DRAINING -> RELEASING -> DEAD
 *
 * rmdir first seals it, so that nobody new of the node gets in, then takes the
 * values that only this mount keeps alive, drops those NL locks and releases.
 * What comes for the lockspace meanwhile is postponed; when the release says
 * EBUSY the values are put back and everything goes on as if nothing had been.
 *
 * A dead one is in no table; it lives on while files in it are open, whose
 * every call says ESTALE.
 */
#include "metrics.h"

typedef enum LockspaceState {
        LOCKSPACE_ACTIVE,
        LOCKSPACE_SEALING,
        LOCKSPACE_SAVING,                       /* reads what keepers keep, then drops them */
        LOCKSPACE_DRAINING,                     /* the last unlocks are on their way */
        LOCKSPACE_RELEASING,
        LOCKSPACE_RESTORING,                    /* EBUSY: puts the values back */
        LOCKSPACE_DEAD,
} LockspaceState;

typedef void LockspaceDone(void *data, int status);

struct Lockspace {
        Node node;
        Tree *tree;
        char *name;
        uint32_t id;                            /* the engine's */
        LockspaceState state;
        unsigned refs;                          /* resources, and one of the tree's */
        unsigned locks;                         /* for which lock_counts() */
        unsigned held, waiting;                 /* of these; a converting one is both */
        unsigned all_locks;                     /* that the engine may know, or soon will */
        uid_t charged_uid;                      /* who made it here, and is counted for it until it is dead; 0: nobody */
        Metrics metrics;
        bool is_created : 1;                /* by this mount */
        bool is_force : 1;                  /* .force */
        bool is_forced : 1;                 /* the release under way is */
        GHashTable *resources;                  /* of Resource, by name: listed or looked up */
        GQueue listed;                          /* of these, in the order in which they were */
        GQueue postponed;                       /* of Request: until the release has ended */
        GArray *saved;                          /* of SavedValue (lockspace.c), during a release; after SAVING it does not move */
        unsigned pending;                       /* locks that saving or restoring waits for */
        int status;                             /* of the release, while restoring */
        LockspaceDone *done;                    /* of the release */
        void *done_data;
};

/* Put it into the tree. */
Lockspace *lockspace_new(Tree *tree, const char *name, uint32_t id, const EngineAttr *attr);
Lockspace *lockspace_ref(Lockspace *lockspace);
void lockspace_unref(Lockspace *lockspace);

/* Is a release reading what @keeper, which may be NULL, keeps? */
gboolean lockspace_is_saving(const Lock *keeper);
gboolean lockspace_is_usable(const Lockspace *lockspace);       /* ACTIVE: requests need not be postponed */
gboolean lockspace_grants_locks(const Lockspace *lockspace);    /* its state is "active" */
/* "active", "recovering", "stopped", "releasing" */
const char *lockspace_state_to_string(const Lockspace *lockspace);

/* Release it. -EBUSY at once when a lock is held or waited for here (without
 * @force), or a release is under way already; 0: @done runs once, later. */
int lockspace_release(Lockspace *lockspace, gboolean force, LockspaceDone *done, void *data);
/* Who waits for its release to end is told ESHUTDOWN. */
void lockspace_shut_down(Lockspace *lockspace);
/* From lock_free(): one less of all_locks. */
void lockspace_lock_freed(Lockspace *lockspace);
/* It is gone: whoever waits gets ESTALE, whoever holds POLLERR|POLLHUP.
 * @engine_knows: the engine still has its locks, their memory stays for now. */
void lockspace_die(Lockspace *lockspace, gboolean engine_knows);
