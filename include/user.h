#pragma once
/*
 * What each user has of the things that one user could use up: lock files
 * (looked-up names included), locks and waiting calls. Root is not counted.
 * A user is in the table while he has anything.
 */
#include "options.h"

typedef enum UserThing {
        USER_FILE,                              /* -o max_files=   beyond: -ENOSPC */
        USER_LOCK,                              /* -o max_locks=   beyond: -ENOLCK */
        USER_WAITER,                            /* -o max_waiters= beyond: -ENOLCK */
} UserThing;

typedef struct Users Users;

Users *users_new(const Options *options);       /* borrows @options */
int users_charge(Users *users, uid_t uid, UserThing thing);       /* or -ENOMEM */
void users_discharge(Users *users, uid_t uid, UserThing thing);
void users_free(Users *users);
