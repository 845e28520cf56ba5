#pragma once
/*
 * A resource is what a lock file is: a name in a lockspace that locks can be
 * taken on. It exists while it is listed, or the kernel knows an inode of it,
 * or somebody has it open, or a lock is on it; only listed ones are seen by a
 * directory listing. An unlisted one has the lockspace's owner, group and
 * mode without x.
 *
 * What is only known to the kernel, which forgets nothing while it has memory,
 * is forgotten here when its user has too many such names, or needs room for
 * another: then the kernel finds a dead inode, and looks the name up again.
 *
 * A resource whose value was written here has a keeper, an NL lock that keeps
 * the value alive, while it is listed.
 */
#include "tree.h"

struct Resource {
        Node node;                              /* mode, uid, gid: of a listed one */
        Lockspace *lockspace;                   /* owned by a reference */
        guint64 lookups;                        /* the kernel's references, all views together */
        unsigned opens;
        uid_t charged_uid;                      /* who is counted for the file */
        bool is_listed : 1;
        bool is_made : 1;                       /* listed by who made it, not only by a write */
        bool was_listed : 1;                    /* node's mode and owner still show through open files */
        bool is_named : 1;                      /* in Lockspace.resources and Tree.nodes */
        bool has_newer : 1;                     /* value than the engine: one of its locks is dirty, only one can be */
        bool is_queued : 1;                     /* to be forgotten, if nobody uses it when it is its turn */
        unsigned views : 8;                     /* bit VIEW: that inode was looked up */
        uint8_t size;                           /* of the value, as this mount last saw it */
        uint8_t name_len;
        unsigned held_up;                       /* of its locks: is_held_up */
        gint64 shown_us;                        /* when the kernel last had its permissions, not listed: tree_now_us() */
        Lock *keeper;                           /* NULL: nothing to keep */
        GQueue locks;                           /* of Lock */
        GList listing;                          /* in Lockspace.listed, if is_listed; or in users_get_names(), if is_queued */
        guint64 search : 64 - MODE_COUNT;       /* the last one for a dead-lock that came here (holder.c) … */
        guint64 searched : MODE_COUNT;          /* … and the set of held modes that it has looked for */
        unsigned passing;                       /* of its locks: is_passing */
        uint8_t name[];                         /* begins right here: there are very many resources */
};

/* @uid has one file more, or lockspace. -ENOSPC: he has too many that are listed or in use; -ENOMEM. */
int resource_charge(Tree *tree, uid_t uid);
/* Find or make the resource of that name; made for @uid, unlisted.
 * -ENOSPC: the user has enough of them; -ENOMEM. */
int resource_get(Lockspace *lockspace, const uint8_t *name, size_t len, uid_t uid, Resource **ret_resource);
Resource *resource_find(Lockspace *lockspace, const uint8_t *name, size_t len);
/* Free it if nothing holds it any more. Call after giving anything back. */
void resource_release(Resource *resource);

/* If it is not listed: now @uid is counted for it, and no more who looked it up. -ENOSPC. */
int resource_claim(Resource *resource, uid_t uid);
/* Put it into the listing; @uid is counted for it. -EEXIST, -ENOSPC. */
int resource_list(Resource *resource, uid_t uid, gid_t gid, mode_t mode);
/* A value was written by who has claimed it: list it, if it is not, as it was seen unlisted. */
void resource_list_written(Resource *resource);
void resource_unlist(Resource *resource);
/* No name, no inode any more: its lockspace is dead, or it is forgotten. */
void resource_unname(Resource *resource);

/* Keep the value that is about to be written. -ENOMEM: it would not outlive its writer. */
int resource_keep(Resource *resource);
void resource_warn_not_kept(const Resource *resource, int status);      /* its keeper was refused, and there is no caller to tell */
/* The value was seen, or written: the file's size follows. */
void resource_saw_value(Resource *resource, const uint8_t *value);

/* Owner, group and mode as seen through @view. */
void resource_get_attr(const Resource *resource, View view, uid_t *ret_uid, gid_t *ret_gid, mode_t *ret_mode);

unsigned value_size(const uint8_t *value);      /* the position of the last byte that is not zero */

/* The set in Lockspace.resources. */
guint resource_name_hash(gconstpointer resource);
gboolean resource_name_equal(gconstpointer a, gconstpointer b);
