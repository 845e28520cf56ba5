#include "command.h"
#include "mount-look.h"
#include "status-look.h"
#include "status-text.h"
#include <errno.h>
#include <gio/gunixmounts.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * A call into a mount whose daemon hangs may not even end by SIGKILL, and a
 * process with such a thread does not end either. So a child looks at each
 * mount and writes what it found, as JSON, into a pipe. The parent waits for
 * all of them, up to a time, prints, and leaves a child that hangs to itself:
 * it has nothing of ours open, and is killed as soon as the kernel lets it.
 */

typedef struct Task {                           /* one mount */
        char *mountpoint;
        pid_t pid;                              /* negative: there is no child */
        int fd;                                 /* -1: read to the end */
        GString *said;
} Task;

typedef struct StatusOptions {
        gboolean json;
        gboolean quiet;
        int wait_s;
        GStrv mountpoints;
} StatusOptions;

#define WAIT_S 10                               /* longer than a mkdir holds the root: -o wait= */

/* --- looking, each in a child --- */

static G_NORETURN void look(const Task *task, gboolean with_locks)
{
        g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
        g_autofree char *text = NULL;
        size_t done = 0, size;
        ssize_t n;

        json_node_take_object(root, status_look(task->mountpoint, with_locks));
        text = json_to_string(root, FALSE);
        size = strlen(text);
        while (done < size && (n = write(task->fd, text + done, size - done)) > 0)
                done += n;
        _exit(EXIT_SUCCESS);
}

static Task *task_new(const char *mountpoint, gboolean with_locks)
{
        Task *task = g_new0(Task, 1);

        task->mountpoint = g_strdup(mountpoint);
        task->said = g_string_new(NULL);
        task->fd = -1;
        task->pid = mount_look_fork(&task->fd);
        if (task->pid == 0)
                look(task, with_locks);
        return task;
}

static void task_free(Task *task)
{
        const gboolean hangs = task->fd >= 0;

        if (hangs)
                close(task->fd);
        if (task->pid > 0) {
                kill(task->pid, SIGKILL);
                waitpid(task->pid, NULL, hangs ? WNOHANG : 0);
        }
        g_string_free(task->said, TRUE);
        g_free(task->mountpoint);
        g_free(task);
}

static void task_read(Task *task)
{
        char buffer[65536];
        const ssize_t n = read(task->fd, buffer, sizeof(buffer));

        if (n > 0) {
                g_string_append_len(task->said, buffer, n);
        } else if (n == 0 || errno != EINTR) {
                close(task->fd);
                task->fd = -1;
        }
}

/* Until all have said what they have to say, or the time is over. */
static void gather(const GPtrArray *tasks, int wait_s)
{
        const gint64 end_us = g_get_monotonic_time() + wait_s * G_USEC_PER_SEC;
        g_autofree struct pollfd *fds = g_new0(struct pollfd, tasks->len);

        for (;;) {
                const gint64 left_us = end_us - g_get_monotonic_time();
                guint open = 0;

                for (guint i = 0; i < tasks->len; i++) {
                        fds[i] = (struct pollfd){ .fd = ((Task *)tasks->pdata[i])->fd, .events = POLLIN };
                        open += fds[i].fd >= 0;
                }
                if (open == 0 || left_us <= 0)
                        return;
                if (poll(fds, tasks->len, left_us / 1000 + 1) <= 0)
                        continue;
                for (guint i = 0; i < tasks->len; i++)
                        if (fds[i].revents)
                                task_read(tasks->pdata[i]);
        }
}

/* What the child found; or that it did not. */
static JsonObject *task_result(const Task *task, int wait_s)
{
        g_autoptr(JsonNode) root = NULL;
        g_autofree char *problem = NULL;

        if (task->fd < 0)
                root = json_from_string(task->said->str, NULL);
        if (root)
                return json_node_dup_object(root);
        problem = task->fd < 0 ? g_strdup("the look at it failed") : g_strdup_printf("no answer within %d s", wait_s);
        return status_look_failed(task->mountpoint, task->fd < 0 ? HEALTH_UNKNOWN : HEALTH_DOWN, problem);
}

/* --- which mounts --- */

/* All of them, in the order of /proc/self/mountinfo, which no mount can make hang. */
static GStrv find_mountpoints(void)
{
        GList *mounts = g_unix_mounts_get(NULL);
        g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
        g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

        for (GList *l = mounts; l; l = l->next) {
                const char *path = g_unix_mount_get_mount_path(l->data), *root = g_unix_mount_get_root_path(l->data);

                if (!g_str_equal(g_unix_mount_get_fs_type(l->data), "fuse.lockspacefs") || g_strcmp0(root, "/") != 0)
                        continue;               /* another one, or a lockspace that was bound somewhere */
                if (g_hash_table_add(seen, (char *)path))       /* one over the other: the upper one is seen */
                        g_strv_builder_add(builder, path);
        }
        g_list_free_full(mounts, (GDestroyNotify)g_unix_mount_free);
        return g_strv_builder_end(builder);
}

/* --- the answer --- */

/* The worst of all, in this order. */
static Health worse(Health a, Health b)
{
        static const int rank[] = { [HEALTH_HEALTHY] = 0, [HEALTH_UNKNOWN] = 1, [HEALTH_DEGRADED] = 2, [HEALTH_DOWN] = 3 };

        return rank[a] > rank[b] ? a : b;
}

static Health look_health(JsonObject *look)
{
        const char *said = json_object_get_string_member(look, "health");

        for (Health health = HEALTH_HEALTHY; health < HEALTH_UNKNOWN; health++)
                if (g_strcmp0(said, health_to_string(health)) == 0)
                        return health;
        return HEALTH_UNKNOWN;
}

static void print_json(JsonArray *looks)
{
        g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
        g_autofree char *text = NULL;
        JsonObject *object = json_object_new();

        json_object_set_array_member(object, "mounts", json_array_ref(looks));
        json_node_take_object(root, object);
        text = json_to_string(root, TRUE);
        printf("%s\n", text);
}

static void print_text(JsonArray *looks, gboolean is_brief)
{
        g_autoptr(GString) text = g_string_new(NULL);

        for (guint i = 0; i < json_array_get_length(looks); i++) {
                if (i > 0 && !is_brief)
                        g_string_append_c(text, '\n');
                status_text_add(text, json_array_get_object_element(looks, i), is_brief);
        }
        if (json_array_get_length(looks) == 0)
                g_string_append(text, "down: no lockspacefs is mounted on this machine\n");
        fputs(text->str, stdout);
}

static Health show(const StatusOptions *options, char **mountpoints)
{
        g_autoptr(GPtrArray) tasks = g_ptr_array_new_with_free_func((GDestroyNotify)task_free);
        g_autoptr(JsonArray) looks = json_array_new();
        Health health = *mountpoints ? HEALTH_HEALTHY : HEALTH_DOWN;

        for (char **mountpoint = mountpoints; *mountpoint; mountpoint++)
                g_ptr_array_add(tasks, task_new(*mountpoint, !options->quiet));
        gather(tasks, options->wait_s);
        for (guint i = 0; i < tasks->len; i++) {
                JsonObject *result = task_result(tasks->pdata[i], options->wait_s);

                health = worse(health, look_health(result));
                json_array_add_object_element(looks, result);
        }
        if (options->json)
                print_json(looks);
        else
                print_text(looks, options->quiet);
        if (fflush(stdout) == 0)
                return health;
        fprintf(stderr, "lockspacefs status: cannot write: %s\n", g_strerror(errno));
        return HEALTH_UNKNOWN;
}

static gboolean parse(int argc, char **argv, StatusOptions *options, GError **error)
{
        const GOptionEntry entries[] = {
                { "json", 'J', 0, G_OPTION_ARG_NONE, &options->json, "Print JSON: all there is to say", NULL },
                { "quiet", 'q', 0, G_OPTION_ARG_NONE, &options->quiet, "One line for each mount; with --json: no locks", NULL },
                { "wait", 'w', 0, G_OPTION_ARG_INT, &options->wait_s, "A mount that does not answer by then is down (10)", "SECONDS" },
                { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->mountpoints, NULL, "[MOUNTPOINT...]" },
                { 0 },
        };
        g_autoptr(GOptionContext) context = g_option_context_new(NULL);

        g_option_context_set_summary(context, "Say how mounts of lockspacefs are, who holds locks and who waits for them.\n"
                                              "Without MOUNTPOINT: all mounts of this machine.");
        g_option_context_set_description(context, "Exit status: 0 healthy, 1 degraded, 2 down, 3 it cannot be told. See lockspacefs-status(1).\n");
        g_option_context_add_main_entries(context, entries, NULL);
        if (!g_option_context_parse(context, &argc, &argv, error))
                return FALSE;
        if (options->wait_s >= 1 && options->wait_s <= 3600)
                return TRUE;
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "--wait=%d: write a number of seconds from 1 to 3600", options->wait_s);
        return FALSE;
}

int command_status(int argc, char **argv)
{
        StatusOptions options = { .wait_s = WAIT_S };
        g_autoptr(GError) error = NULL;
        Health health;

        setlocale(LC_CTYPE, "");
        g_set_prgname("lockspacefs status");
        if (!parse(argc, argv, &options, &error)) {
                fprintf(stderr, "lockspacefs status: %s; see --help\n", error->message);
                health = HEALTH_UNKNOWN;
        } else if (options.mountpoints) {
                health = show(&options, options.mountpoints);
        } else {
                g_auto(GStrv) mountpoints = find_mountpoints();

                health = show(&options, mountpoints);
        }
        g_strfreev(options.mountpoints);
        return health;
}
