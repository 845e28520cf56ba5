#include "user.h"
#include "memory.h"
#include <errno.h>

#define THINGS (USER_TEXT + 1)

typedef struct User {
        gint uid;                               /* the key, first: the table is a set */
        unsigned has[THINGS];
        GQueue names;
} User;

struct Users {
        unsigned limits[THINGS];
        GHashTable *users;                      /* of User */
        User root;                              /* not in the table: nothing is counted */
};

Users *users_new(const Options *options)
{
        Users *users = g_new0(Users, 1);

        users->limits[USER_FILE] = options->max_files;
        users->limits[USER_LOCK] = options->max_locks;
        users->limits[USER_GIVEN_UP] = 0;       /* to give up must not fail */
        users->limits[USER_WAITER] = options->max_waiters;
        users->limits[USER_TEXT] = USER_TEXT_MAX;
        users->users = g_hash_table_new_full(g_int_hash, g_int_equal, g_free, NULL);
        return users;
}

static gboolean has_given_up_too_many(const Users *users, const User *user)
{
        return users->limits[USER_LOCK] && user->has[USER_GIVEN_UP] >= (guint64)users->limits[USER_LOCK] + USER_GIVEN_UP_MORE;
}

int users_charge_many(Users *users, uid_t uid, UserThing thing, unsigned n)
{
        static const int beyond[THINGS] = {
                [USER_FILE] = -ENOSPC, [USER_LOCK] = -ENOLCK, [USER_WAITER] = -ENOLCK, [USER_TEXT] = -EMFILE,
        };
        const gint key = uid;
        gboolean is_alone;
        User *user;

        if (uid == 0 || n == 0)
                return 0;
        user = g_hash_table_lookup(users->users, &key);
        if (!user) {
                user = memory_new0(User);
                if (!user)
                        return -ENOMEM;
                user->uid = key;
                g_hash_table_add(users->users, user);
        }
        is_alone = thing == USER_TEXT && user->has[thing] == 0;
        if (users->limits[thing] && !is_alone && (guint64)user->has[thing] + n > users->limits[thing])
                return beyond[thing];
        if (thing == USER_LOCK && has_given_up_too_many(users, user))
                return beyond[thing];
        user->has[thing] += n;
        return 0;
}

int users_check_given_up(Users *users, uid_t uid)
{
        const gint key = uid;
        const User *user = uid == 0 ? NULL : g_hash_table_lookup(users->users, &key);

        return user && has_given_up_too_many(users, user) ? -ENOLCK : 0;
}

GQueue *users_get_names(Users *users, uid_t uid)
{
        const gint key = uid;
        User *user = uid == 0 ? &users->root : g_hash_table_lookup(users->users, &key);

        return &user->names;
}

int users_charge(Users *users, uid_t uid, UserThing thing)
{
        return users_charge_many(users, uid, thing, 1);
}

static gboolean has_any(const User *user)
{
        for (int thing = 0; thing < THINGS; thing++)
                if (user->has[thing])
                        return TRUE;
        return FALSE;
}

void users_discharge_many(Users *users, uid_t uid, UserThing thing, unsigned n)
{
        const gint key = uid;
        User *user;

        if (uid == 0 || n == 0)
                return;
        user = g_hash_table_lookup(users->users, &key);
        g_assert(user && user->has[thing] >= n);
        user->has[thing] -= n;
        if (!has_any(user))
                g_hash_table_remove(users->users, &key);
}

void users_discharge(Users *users, uid_t uid, UserThing thing)
{
        users_discharge_many(users, uid, thing, 1);
}

void users_free(Users *users)
{
        if (!users)
                return;
        g_hash_table_unref(users->users);
        g_free(users);
}
