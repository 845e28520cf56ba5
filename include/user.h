#pragma once
/*
 * What each user has of the things that one user could use up: lock files
 * (looked-up names and the lockspaces that he made included), locks, waiting
 * calls, and the memory of what he reads. Root is not counted. A user is in
 * the table while he has anything.
 */
#include "options.h"

typedef enum UserThing {
        USER_FILE,                              /* -o max_files=   beyond: -ENOSPC */
        USER_LOCK,                              /* -o max_locks=   beyond: -ENOLCK */
        USER_GIVEN_UP,                          /* locks that the engine still has: never refused, but see below */
        USER_WAITER,                            /* -o max_waiters= beyond: -ENOLCK */
        USER_TEXT,                              /* bytes of open control files and listings; beyond USER_TEXT_MAX: -EMFILE */
} UserThing;

/* Eight tables of 100,000 locks. A single one may be larger: who could never read it could not look at all. */
#define USER_TEXT_MAX (64u << 20)

/* Who has given up this many more than max_locks that the engine still has is refused a USER_LOCK:
 * -ENOLCK. So many more, since who may have few may give up and try again at once. */
#define USER_GIVEN_UP_MORE 100

typedef struct Users Users;

Users *users_new(const Options *options);       /* borrows @options */
int users_charge(Users *users, uid_t uid, UserThing thing);       /* or -ENOMEM */
int users_charge_many(Users *users, uid_t uid, UserThing thing, unsigned n);
void users_discharge(Users *users, uid_t uid, UserThing thing);
void users_discharge_many(Users *users, uid_t uid, UserThing thing, unsigned n);
int users_check_given_up(Users *users, uid_t uid);      /* 0, or -ENOLCK: too many for what needs no USER_LOCK, too */
/* Of the files that count for @uid, who has one: those that may be forgotten (resource.c), the oldest first. */
GQueue *users_get_names(Users *users, uid_t uid);
void users_free(Users *users);
