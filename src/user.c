#include "user.h"
#include "memory.h"
#include <errno.h>

#define THINGS (USER_WAITER + 1)

typedef struct User {
        gint uid;                               /* the key, first: the table is a set */
        unsigned has[THINGS];
} User;

struct Users {
        unsigned limits[THINGS];
        GHashTable *users;                      /* of User */
};

Users *users_new(const Options *options)
{
        Users *users = g_new0(Users, 1);

        users->limits[USER_FILE] = options->max_files;
        users->limits[USER_LOCK] = options->max_locks;
        users->limits[USER_WAITER] = options->max_waiters;
        users->users = g_hash_table_new_full(g_int_hash, g_int_equal, g_free, NULL);
        return users;
}

int users_charge(Users *users, uid_t uid, UserThing thing)
{
        const gint key = uid;
        User *user;

        if (uid == 0)
                return 0;
        user = g_hash_table_lookup(users->users, &key);
        if (!user) {
                user = memory_new0(User);
                if (!user)
                        return -ENOMEM;
                user->uid = key;
                g_hash_table_add(users->users, user);
        }
        if (users->limits[thing] && user->has[thing] >= users->limits[thing])
                return thing == USER_FILE ? -ENOSPC : -ENOLCK;
        user->has[thing]++;
        return 0;
}

void users_discharge(Users *users, uid_t uid, UserThing thing)
{
        const gint key = uid;
        User *user;

        if (uid == 0)
                return;
        user = g_hash_table_lookup(users->users, &key);
        g_assert(user && user->has[thing] > 0);
        user->has[thing]--;
        if (!user->has[USER_FILE] && !user->has[USER_LOCK] && !user->has[USER_WAITER])
                g_hash_table_remove(users->users, &key);
}

void users_free(Users *users)
{
        if (!users)
                return;
        g_hash_table_unref(users->users);
        g_free(users);
}
