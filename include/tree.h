#pragma once
/*
 * The tree is everything that is mounted: the engine, the lockspaces by name,
 * every inode by number, and the tables of locks and open files. One object,
 * owned by main; all of it is touched from the main loop alone.
 *
 * Inodes. A lockspace and a resource each take one serial, never used again;
 * an inode number is the serial and, in the low bits, the view of that object
 * (a resource is seen as RES and in six mode directories). So a number that
 * outlives its object finds nothing, and the caller gets ESTALE.
 */
#include "engine.h"
#include "id-table.h"
#include "user.h"
#include <fuse_lowlevel.h>
#include <stdbool.h>

typedef struct Handle Handle;
typedef struct Holder Holder;
typedef struct Lock Lock;
typedef struct Lockspace Lockspace;
typedef struct Request Request;
typedef struct Resource Resource;
typedef struct Tree Tree;

typedef enum NodeKind {
        NODE_LOCKSPACE,
        NODE_RESOURCE,
} NodeKind;

typedef struct Node {                           /* the head of Lockspace and Resource */
        gint64 serial;                          /* the key in Tree.nodes, first: that table is a set */
        NodeKind kind : 8;
        mode_t mode : 16;                       /* permission bits, with set-id and sticky ones */
        uid_t uid;
        gid_t gid;
        gint64 atime_ns, mtime_ns, ctime_ns;    /* since the epoch */
} Node;

typedef enum View {
        VIEW_SELF,                              /* a lockspace's directory, a resource's RES */
        VIEW_MODES,                             /* VIEW_MODES + LockMode: the mode directory, or what is in it */
        VIEW_FORCE = VIEW_MODES + MODE_COUNT,   /* a lockspace's .force */
        VIEW_LOCKS,                             /* a lockspace's .locks */
        VIEW_COUNT,
} View;

#define VIEW_BITS 4
/* How long the kernel may believe: a directory's entry and the attributes that
 * we notify when they change. */
#define REPLY_TIMEOUT_S 1.0
#define STATUS_INO 2                            /* .status; FUSE_ROOT_ID is 1 */
#define METRICS_INO 3                           /* .metrics */

/* Telling the kernel, by whoever owns the session. attr NULL: nobody does. */
typedef struct TreeNotify {
        void (*attr)(void *data, fuse_ino_t ino);       /* attributes changed behind the kernel's back */
        void *data;
} TreeNotify;

struct Tree {
        const Options *options;                 /* borrowed */
        Engine *engine;                         /* NULL until started */
        Users *users;
        TreeNotify notify;

        Node root;                              /* serial 0 */
        GHashTable *nodes;                      /* of Node, by serial: what an inode number may name */
        gint64 last_serial;
        GHashTable *lockspaces;                 /* char * to Lockspace: the listing of the root */
        GHashTable *engine_lockspaces;          /* the engine's number to Lockspace, dying ones too */
        GHashTable *making;                     /* set of char *, borrowed: mkdir is on its way */
        unsigned releasing;                     /* releases on their way */
        GHashTable *owners;                     /* guint64 to Owner (holder.c): who has fcntl locks */
        GHashTable *fcntl_holders;              /* of Holder, by resource and owner (holder.c) */
        guint64 searches;                       /* for dead-locks: the number of the last one (holder.c) */

        IdTable locks;                          /* of Lock: the ids that the engine knows */
        IdTable handles;                        /* of Handle: fuse_file_info.fh */
        unsigned open_files;                    /* handles on lock files */

        gboolean shutting_down;                 /* SIGTERM came: no new lock, keep what is held */
        void (*last_closed)(void *data);        /* the last lock file was closed; NULL: nobody asks */
        void *last_closed_data;
        void (*listing_changed)(void *data);    /* a lockspace came or went; NULL: nobody asks */
        void *listing_changed_data;

        guint64 requests;                       /* answered */
        gint64 start_us;                        /* monotonic */
        gint64 start_ns;                        /* since the epoch */
        Request *fresh;                         /* begins to wait, within the request being read; or NULL */
        pid_t thread, process;                  /* who last asked for a lock in this turn of the loop; thread 0: nobody */
        gint64 now_us;                          /* monotonic, of this turn of the loop; 0: nobody has looked yet */
};

typedef struct TreeCounts {                     /* of all lockspaces */
        unsigned files, held, waiting;
} TreeCounts;

/* @options is borrowed. FALSE: the engine would not start. */
gboolean tree_new(const Options *options, const EngineOps *ops, Tree **ret_tree, GError **error);
void tree_free(Tree *tree);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Tree, tree_free)

TreeCounts tree_count(const Tree *tree);
GList *tree_list_lockspaces(const Tree *tree);          /* by name; free the list */

/* --- inodes --- */
fuse_ino_t node_ino(const Node *node, View view);
View ino_view(fuse_ino_t ino);
gboolean ino_is_control(fuse_ino_t ino);                /* a control file of the root */
Node *tree_find_node(Tree *tree, fuse_ino_t ino);       /* NULL: dead */
void tree_add_node(Tree *tree, Node *node);             /* gives it a serial */
void tree_remove_node(Tree *tree, Node *node);          /* harmless when it is not there */
#define NS_PER_SECOND G_GINT64_CONSTANT(1000000000)
gint64 time_ns(void);                                   /* now, since the epoch */
gint64 tree_now_us(Tree *tree);                         /* monotonic, as of this turn of the loop */
void tree_new_turn(Tree *tree);                         /* the loop has turned */
void node_touch(Node *node);                            /* mtime and ctime: now */
void tree_notify_listing(Tree *tree);                   /* that of the root */
/* Each view of it, and of what shows its permissions: not for the root. */
void tree_notify_attr(Tree *tree, const Node *node);
