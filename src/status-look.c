#include "status-look.h"
#include "mount-look.h"
#include "name.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

typedef struct Look {
        JsonObject *object;
        JsonArray *problems;
        GHashTable *status;                     /* .status: name to value */
        int root;                               /* the mount's root, O_PATH */
        size_t left;                            /* to be read */
        gboolean with_locks;
} Look;

const char *health_to_string(Health health)
{
        static const char *const names[] = { "healthy", "degraded", "down", "unknown" };

        return names[health];
}

/* --- strings --- */

/* Names are bytes, JSON is UTF-8: a byte that is none becomes %XX, which no
 * file name of ours has otherwise, since a true "%XX" is written "%25XX". */
static char *to_utf8(const char *bytes)
{
        GString *text = g_string_new(NULL);
        const char *end;

        while (!g_utf8_validate(bytes, -1, &end)) {
                g_string_append_len(text, bytes, end - bytes);
                g_string_append_printf(text, "%%%02X", (guchar)*end);
                bytes = end + 1;
        }
        g_string_append(text, bytes);
        return g_string_free(text, FALSE);
}

static void set_text(JsonObject *object, const char *name, const char *value)
{
        g_autofree char *text = to_utf8(value);

        json_object_set_string_member(object, name, text);
}

/* "-" and NULL are null. */
static void set_word(JsonObject *object, const char *name, const char *value)
{
        if (!value || g_str_equal(value, "-"))
                json_object_set_null_member(object, name);
        else
                set_text(object, name, value);
}

static void set_number(JsonObject *object, const char *name, const char *value)
{
        gint64 number;

        if (value && g_ascii_string_to_signed(value, 10, G_MININT64, G_MAXINT64, &number, NULL))
                json_object_set_int_member(object, name, number);
        else
                json_object_set_null_member(object, name);
}

static void set_answer(JsonObject *object, const char *name, const char *value)
{
        if (!value || g_str_equal(value, "-"))
                json_object_set_null_member(object, name);
        else
                json_object_set_boolean_member(object, name, g_str_equal(value, "yes"));
}

/* --- how it is --- */

static void add_problem(Look *look, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void add_problem(Look *look, const char *format, ...)
{
        g_autofree char *bytes = NULL, *text = NULL;
        va_list args;

        va_start(args, format);
        bytes = g_strdup_vprintf(format, args);
        va_end(args);
        text = to_utf8(bytes);
        json_array_add_string_element(look->problems, text);
}

static JsonObject *look_new(const char *mountpoint, Look *ret_look)
{
        ret_look->object = json_object_new();
        ret_look->problems = json_array_new();
        set_text(ret_look->object, "mountpoint", mountpoint);
        json_object_set_null_member(ret_look->object, "health");        /* in this place; known in the end */
        json_object_set_array_member(ret_look->object, "problems", ret_look->problems);
        return ret_look->object;
}

JsonObject *status_look_failed(const char *mountpoint, Health health, const char *problem)
{
        Look look = { 0 };

        look_new(mountpoint, &look);
        add_problem(&look, "%s", problem);
        json_object_set_string_member(look.object, "health", health_to_string(health));
        return look.object;
}

static JsonObject *failed_by_errno(const char *mountpoint, int e)
{
        switch (e) {
        case ENOTCONN:
        case ECONNABORTED:
                return status_look_failed(mountpoint, HEALTH_DOWN, "the daemon is gone; umount -l takes the dead mount away");
        case EACCES:
        case EPERM:
                return status_look_failed(mountpoint, HEALTH_UNKNOWN, "we may not look: ask as the user who mounted it, or mount with -o allow_other");
        case ENOENT:
                return status_look_failed(mountpoint, HEALTH_DOWN, "no lockspacefs is mounted there");
        case EMFILE:
        case ENFILE:
        case ENOMEM:
                return status_look_failed(mountpoint, HEALTH_UNKNOWN, g_strerror(e));
        default:
                return status_look_failed(mountpoint, HEALTH_DOWN, g_strerror(e));
        }
}

static const char *value_of(const Look *look, const char *name)
{
        return g_hash_table_lookup(look->status, name);
}

static gboolean says(const Look *look, const char *name, const char *value)
{
        return g_strcmp0(value_of(look, name), value) == 0;
}

static void judge_cluster(Look *look)
{
        if (says(look, "ending", "yes"))
                add_problem(look, "the daemon was told to end, and waits for the files that are open");
        if (says(look, "control", "-"))
                return;                         /* the engine knows no cluster */
        if (says(look, "quorum", "no"))
                add_problem(look, "the cluster has no quorum");
        if (says(look, "quorum", "-"))
                add_problem(look, "corosync does not answer");
        if (says(look, "control", "no"))
                add_problem(look, "dlm_controld does not run");
}

static void read_status(Look *look, const char *text)
{
        g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

        look->status = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        for (char **line = lines; *line; line++) {
                const char *blank = strchr(*line, ' ');

                if (blank)
                        g_hash_table_insert(look->status, g_strndup(*line, blank - *line), g_strdup(blank + 1));
        }
}

/* --- locks --- */

typedef struct Column {
        const char *name;
        void (*set)(JsonObject *object, const char *name, const char *value);
} Column;

static const Column lock_columns[] = {          /* of .locks */
        { "resource", set_text }, { "state", set_text }, { "mode", set_word }, { "wanted", set_word }, { "node", set_number },
        { "pid", set_number }, { "command", set_word }, { "by", set_text }, { "seconds", set_number },
};

/* By resource, and holders before those who wait for them. */
static int compare_locks(gconstpointer a, gconstpointer b)
{
        JsonObject *x = *(JsonObject *const *)a, *y = *(JsonObject *const *)b;
        int r = strcmp(json_object_get_string_member(x, "resource"), json_object_get_string_member(y, "resource"));

        if (r == 0)
                r = g_str_equal(json_object_get_string_member(x, "state"), "waiting") -
                    g_str_equal(json_object_get_string_member(y, "state"), "waiting");
        return r;
}

static JsonArray *parse_locks(const char *text)
{
        g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
        g_autoptr(GPtrArray) locks = g_ptr_array_new();
        JsonArray *array = json_array_new();

        for (char **line = lines + 1; *lines && *line; line++) {        /* after the header */
                g_auto(GStrv) cells = g_strsplit(*line, "\t", -1);
                JsonObject *lock;

                if (g_strv_length(cells) < G_N_ELEMENTS(lock_columns))
                        continue;
                lock = json_object_new();
                for (size_t i = 0; i < G_N_ELEMENTS(lock_columns); i++)
                        lock_columns[i].set(lock, lock_columns[i].name, cells[i]);
                g_ptr_array_add(locks, lock);
        }
        g_ptr_array_sort(locks, compare_locks); /* keeps the order of equals */
        for (guint i = 0; i < locks->len; i++)
                json_array_add_object_element(array, locks->pdata[i]);
        return array;
}

/* --- lockspaces --- */

static void set_owner(JsonObject *lockspace, const struct stat *st)
{
        const struct passwd *user = getpwuid(st->st_uid);
        const struct group *group = getgrgid(st->st_gid);
        char mode[8];

        g_snprintf(mode, sizeof(mode), "%04o", st->st_mode & 07777);
        json_object_set_int_member(lockspace, "uid", st->st_uid);
        set_word(lockspace, "owner", user ? user->pw_name : NULL);
        json_object_set_int_member(lockspace, "gid", st->st_gid);
        set_word(lockspace, "group", group ? group->gr_name : NULL);
        json_object_set_string_member(lockspace, "mode", mode);
}

/* @directory: negative when there is none. */
static void set_locks(Look *look, JsonObject *lockspace, int directory)
{
        g_autofree char *text = NULL;

        if (directory >= 0 && mount_look_read(directory, LOCKSPACEFS_LOCKS, &look->left, &text) == 0)
                json_object_set_array_member(lockspace, "locks", parse_locks(text));
        else                                    /* we may not, it has just gone, or there are too many */
                json_object_set_null_member(lockspace, "locks");
}

static void set_field(const Look *look, JsonObject *lockspace, const char *name, const char *field,
                      void (*set)(JsonObject *object, const char *name, const char *value))
{
        g_autofree char *key = g_strdup_printf("%s/%s", name, field);

        set(lockspace, field, value_of(look, key));
}

static JsonObject *look_at_lockspace(Look *look, const char *name)
{
        JsonObject *lockspace = json_object_new();
        const int directory = mount_look_open(look->root, name);
        const char *state;
        struct stat st;

        set_text(lockspace, "name", name);
        set_field(look, lockspace, name, "state", set_text);
        if (directory >= 0 && fstat(directory, &st) == 0)
                set_owner(lockspace, &st);
        set_field(look, lockspace, name, "files", set_number);
        set_field(look, lockspace, name, "held", set_number);
        set_field(look, lockspace, name, "waiting", set_number);
        if (look->with_locks)
                set_locks(look, lockspace, directory);
        if (directory >= 0)
                close(directory);
        state = json_object_get_string_member(lockspace, "state");
        if (g_str_equal(state, "stopped"))
                add_problem(look, "lockspace %s is stopped", name);
        else if (g_str_equal(state, "recovering"))
                add_problem(look, "lockspace %s is recovering", name);
        return lockspace;
}

static JsonArray *look_at_lockspaces(Look *look)
{
        static const char suffix[] = "/state";
        g_autoptr(GList) keys = g_list_sort(g_hash_table_get_keys(look->status), (GCompareFunc)strcmp);
        JsonArray *array = json_array_new();

        for (GList *l = keys; l; l = l->next) {
                g_autofree char *name = NULL;

                if (!g_str_has_suffix(l->data, suffix))
                        continue;
                name = g_strndup(l->data, strlen(l->data) - strlen(suffix));
                if (lockspace_name_check(name) == 0)
                        json_array_add_object_element(array, look_at_lockspace(look, name));
        }
        return array;
}

/* --- the mount --- */

static void set_members(Look *look)
{
        g_auto(GStrv) words = g_strsplit(value_of(look, "members") ? value_of(look, "members") : "-", " ", -1);
        JsonArray *members;

        if (g_strcmp0(words[0], "-") == 0) {
                json_object_set_null_member(look->object, "members");
                return;
        }
        members = json_array_new();
        for (char **word = words; *word; word++)
                json_array_add_int_element(members, g_ascii_strtoll(*word, NULL, 10));
        json_object_set_array_member(look->object, "members", members);
}

static void look_at_mount(Look *look)
{
        static const Column before[] = { { "version", set_text }, { "engine", set_text }, { "node", set_number } };
        static const Column after[] = {
                { "quorum", set_answer }, { "control", set_answer }, { "ending", set_answer }, { "files", set_number },
                { "held", set_number }, { "waiting", set_number }, { "requests", set_number }, { "seconds", set_number },
        };
        JsonArray *lockspaces;

        for (size_t i = 0; i < G_N_ELEMENTS(before); i++)
                before[i].set(look->object, before[i].name, value_of(look, before[i].name));
        set_members(look);
        for (size_t i = 0; i < G_N_ELEMENTS(after); i++)
                after[i].set(look->object, after[i].name, value_of(look, after[i].name));
        judge_cluster(look);
        lockspaces = look_at_lockspaces(look);
        json_object_set_array_member(look->object, "lockspaces", lockspaces);
        json_object_set_string_member(look->object, "health",
                                      health_to_string(json_array_get_length(look->problems) ? HEALTH_DEGRADED : HEALTH_HEALTHY));
}

JsonObject *status_look(const char *mountpoint, gboolean with_locks)
{
        g_autofree char *text = NULL;
        struct statfs fs;
        Look look = { .root = open(mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC), .left = MOUNT_LOOK_MAX, .with_locks = with_locks };
        JsonObject *failed = NULL;
        int r;

        if (look.root < 0 || fstatfs(look.root, &fs) < 0)
                failed = failed_by_errno(mountpoint, errno);
        else if (fs.f_type != FUSE_SUPER_MAGIC)
                failed = failed_by_errno(mountpoint, ENOENT);
        else if ((r = mount_look_read(look.root, LOCKSPACEFS_STATUS, &look.left, &text)) < 0)
                failed = failed_by_errno(mountpoint, -r);
        if (failed && look.root >= 0 && faccessat(look.root, LOCKSPACEFS_LOCKS, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
                json_object_unref(failed);
                failed = status_look_failed(mountpoint, HEALTH_DOWN, "no lockspacefs is mounted there, it is a lockspace of one: name the mount point");
        }
        if (!failed) {
                read_status(&look, text);
                if (!value_of(&look, "engine") || !value_of(&look, "version"))
                        failed = failed_by_errno(mountpoint, ENOENT);
        }
        if (!failed) {
                look_new(mountpoint, &look);
                look_at_mount(&look);
        }
        g_clear_pointer(&look.status, g_hash_table_unref);
        if (look.root >= 0)
                close(look.root);
        return failed ? failed : look.object;
}
