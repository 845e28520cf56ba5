/*
 * The id table, the id array, the hash of names, and what users are counted for.
 */
#include "hash.h"
#include "id-array.h"
#include "id-table.h"
#include "user.h"
#include <errno.h>

static void test_ids_are_small_and_come_again(void)
{
        IdTable table;
        int objects[3];

        id_table_init(&table);
        g_assert_null(id_table_find(&table, 0));
        g_assert_null(id_table_find(&table, 1));
        for (int i = 0; i < 3; i++)
                g_assert_cmpuint(id_table_add(&table, &objects[i]), ==, i + 1);
        id_table_remove(&table, 2);
        g_assert_null(id_table_find(&table, 2));
        g_assert_true(id_table_find(&table, 3) == &objects[2]);
        g_assert_cmpuint(id_table_add(&table, &objects[1]), ==, 2);
        id_table_clear(&table);
}

static void test_a_walk_may_remove(void)
{
        IdTable table;
        int objects[100];
        uint32_t id = 0;
        unsigned seen = 0;

        id_table_init(&table);
        for (int i = 0; i < 100; i++)
                id_table_add(&table, &objects[i]);
        while (id_table_next(&table, &id)) {
                seen++;
                id_table_remove(&table, id);
        }
        g_assert_cmpuint(seen, ==, 100);
        id = 0;
        g_assert_null(id_table_next(&table, &id));
        id_table_clear(&table);
}

static void test_an_array_has_what_was_set(void)
{
        IdArray array = { 0 };
        int objects[2];

        g_assert_null(id_array_find(&array, 0));
        g_assert_null(id_array_find(&array, 1000));
        g_assert_true(id_array_add(&array, 1000, &objects[0]));
        g_assert_true(id_array_add(&array, 1, &objects[1]));
        g_assert_true(id_array_find(&array, 1000) == &objects[0]);
        g_assert_true(id_array_find(&array, 1) == &objects[1]);
        g_assert_null(id_array_find(&array, 2));
        g_assert_null(id_array_find(&array, 1001));
        g_assert_null(id_array_find(&array, G_MAXUINT32));
        id_array_remove(&array, 1000);
        g_assert_null(id_array_find(&array, 1000));
        id_array_clear(&array);
}

/* Those of SipHash-1-3 in Rust's standard library: the bytes 0, 1, 2 … under the key 0, 1, 2 … 15. */
static void test_the_hash_has_the_published_values(void)
{
        static const struct {
                gsize len;
                guint64 hash;
        } vectors[] = {
                { 0, 0xabac0158050fc4dc }, { 1, 0xc9f49bf37d57ca93 }, { 7, 0xd3927d989bb11140 }, { 8, 0x369095118d299a8e },
                { 9, 0x25a48eb36c063de4 }, { 15, 0xd320d86d2a519956 }, { 16, 0xcc4fdd1a7d908b66 }, { 63, 0x9d199062b7bbb3a8 },
        };
        static const guint64 key[] = { 0x0706050403020100, 0x0f0e0d0c0b0a0908 };
        uint8_t bytes[64];

        for (unsigned i = 0; i < sizeof(bytes); i++)
                bytes[i] = i;
        for (gsize i = 0; i < G_N_ELEMENTS(vectors); i++)
                g_assert_cmphex(hash_siphash(key, bytes, vectors[i].len), ==, vectors[i].hash);
}

static void test_the_hash_has_a_key(void)
{
        static const guint64 none[2];

        g_assert_cmphex(hash_bytes("job", 3), ==, hash_string("job"));
        g_assert_cmphex(hash_bytes("job", 3), !=, (guint)hash_siphash(none, "job", 3));
}

static void test_limits_are_per_user_and_thing(void)
{
        const Options options = { .max_files = 2, .max_locks = 1, .max_waiters = 0 };
        Users *users = users_new(&options);

        g_assert_cmpint(users_charge(users, 7, USER_FILE), ==, 0);
        g_assert_cmpint(users_charge(users, 7, USER_FILE), ==, 0);
        g_assert_cmpint(users_charge(users, 7, USER_FILE), ==, -ENOSPC);
        g_assert_cmpint(users_charge(users, 8, USER_FILE), ==, 0);
        g_assert_cmpint(users_charge(users, 7, USER_LOCK), ==, 0);
        g_assert_cmpint(users_charge(users, 7, USER_LOCK), ==, -ENOLCK);
        for (int i = 0; i < 100; i++)           /* 0: any number */
                g_assert_cmpint(users_charge(users, 7, USER_WAITER), ==, 0);
        users_discharge(users, 7, USER_FILE);
        g_assert_cmpint(users_charge(users, 7, USER_FILE), ==, 0);
        users_free(users);
}

static void test_who_has_given_up_as_many_as_he_may_have_gets_no_more(void)
{
        const Options options = { .max_locks = 2 };
        Users *users = users_new(&options);

        g_assert_cmpint(users_charge_many(users, 7, USER_GIVEN_UP, 1 + USER_GIVEN_UP_MORE), ==, 0);
        g_assert_cmpint(users_charge(users, 7, USER_LOCK), ==, 0);
        g_assert_cmpint(users_check_given_up(users, 7), ==, 0);
        for (int i = 0; i < 3; i++) {           /* to give up never fails */
                g_assert_cmpint(users_charge(users, 7, USER_GIVEN_UP), ==, 0);
                g_assert_cmpint(users_charge(users, 7, USER_LOCK), ==, -ENOLCK);
                g_assert_cmpint(users_check_given_up(users, 7), ==, -ENOLCK);
        }
        g_assert_cmpint(users_charge(users, 8, USER_LOCK), ==, 0);
        g_assert_cmpint(users_check_given_up(users, 0), ==, 0);
        users_discharge_many(users, 7, USER_GIVEN_UP, 3);
        g_assert_cmpint(users_check_given_up(users, 7), ==, 0);
        g_assert_cmpint(users_charge(users, 7, USER_LOCK), ==, 0);
        g_assert_cmpint(users_charge(users, 7, USER_LOCK), ==, -ENOLCK);
        users_free(users);
}

static void test_the_first_text_may_be_larger_than_all_may_be_together(void)
{
        const Options options = { 0 };
        Users *users = users_new(&options);

        g_assert_cmpint(users_charge_many(users, 7, USER_TEXT, 3 * USER_TEXT_MAX), ==, 0);
        g_assert_cmpint(users_charge(users, 7, USER_TEXT), ==, -EMFILE);
        g_assert_cmpint(users_charge(users, 8, USER_TEXT), ==, 0);
        users_discharge_many(users, 7, USER_TEXT, 3 * USER_TEXT_MAX);
        g_assert_cmpint(users_charge_many(users, 7, USER_TEXT, USER_TEXT_MAX), ==, 0);
        g_assert_cmpint(users_charge(users, 7, USER_TEXT), ==, -EMFILE);
        users_discharge(users, 7, USER_TEXT);
        g_assert_cmpint(users_charge(users, 7, USER_TEXT), ==, 0);
        users_free(users);
}

static void test_root_is_not_counted(void)
{
        const Options options = { .max_files = 1, .max_locks = 1, .max_waiters = 1 };
        Users *users = users_new(&options);

        for (int i = 0; i < 10; i++)
                g_assert_cmpint(users_charge(users, 0, USER_LOCK), ==, 0);
        users_discharge(users, 0, USER_LOCK);
        users_free(users);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/tables/ids-are-small-and-come-again", test_ids_are_small_and_come_again);
        g_test_add_func("/tables/a-walk-may-remove", test_a_walk_may_remove);
        g_test_add_func("/tables/an-array-has-what-was-set", test_an_array_has_what_was_set);
        g_test_add_func("/tables/the-hash-has-the-published-values", test_the_hash_has_the_published_values);
        g_test_add_func("/tables/the-hash-has-a-key", test_the_hash_has_a_key);
        g_test_add_func("/tables/limits-are-per-user-and-thing", test_limits_are_per_user_and_thing);
        g_test_add_func("/tables/who-has-given-up-as-many-as-he-may-have-gets-no-more",
                        test_who_has_given_up_as_many_as_he_may_have_gets_no_more);
        g_test_add_func("/tables/the-first-text-may-be-larger-than-all-may-be-together", test_the_first_text_may_be_larger_than_all_may_be_together);
        g_test_add_func("/tables/root-is-not-counted", test_root_is_not_counted);
        return g_test_run();
}
