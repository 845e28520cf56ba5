#include "control.h"
#include "config.h"
#include "lock.h"
#include "lockspace.h"
#include "name.h"
#include "process.h"
#include "resource.h"
#include <errno.h>
#include <unistd.h>

/* --- .status --- */

static const char *yes_no(gboolean is_known, gboolean answer)
{
        return !is_known ? "-" : answer ? "yes" : "no";
}

static void add_cluster(GString *text, Engine *engine)
{
        EngineCluster cluster = { 0 };
        const gboolean is_there = engine->ops->cluster(engine, &cluster);

        g_string_append(text, "members");
        for (guint i = 0; cluster.members && i < cluster.members->len; i++)
                g_string_append_printf(text, " %u", g_array_index(cluster.members, uint32_t, i));
        g_string_append_printf(text, "%s\n", cluster.members ? "" : " -");
        g_string_append_printf(text, "quorum %s\n", yes_no(cluster.members != NULL, cluster.is_quorate));
        g_string_append_printf(text, "control %s\n", yes_no(is_there, cluster.is_controlled));
}

GString *control_status(Tree *tree)
{
        const TreeCounts counts = tree_count(tree);
        g_autoptr(GList) lockspaces = tree_list_lockspaces(tree);
        GString *text = g_string_new(NULL);

        g_string_append_printf(text, "version %s\n", PACKAGE_VERSION);
        g_string_append_printf(text, "pid %d\n", (int)getpid());
        g_string_append_printf(text, "engine %s\n", tree->engine->ops->name);
        g_string_append_printf(text, "node %u\n", tree->engine->ops->node(tree->engine));
        add_cluster(text, tree->engine);
        g_string_append_printf(text, "ending %s\n", tree->shutting_down ? "yes" : "no");
        g_string_append_printf(text, "lockspaces %u\n", g_hash_table_size(tree->lockspaces));
        g_string_append_printf(text, "files %u\n", counts.files);
        g_string_append_printf(text, "held %u\n", counts.held);
        g_string_append_printf(text, "waiting %u\n", counts.waiting);
        g_string_append_printf(text, "requests %" G_GUINT64_FORMAT "\n", tree->requests);
        g_string_append_printf(text, "seconds %" G_GINT64_FORMAT "\n", (g_get_monotonic_time() - tree->start_us) / G_USEC_PER_SEC);
        for (GList *l = lockspaces; l; l = l->next) {
                const Lockspace *lockspace = l->data;

                g_string_append_printf(text, "%s/state %s\n", lockspace->name, lockspace_state_to_string(lockspace));
                g_string_append_printf(text, "%s/files %u\n", lockspace->name, lockspace->listed.length);
                g_string_append_printf(text, "%s/held %u\n", lockspace->name, lockspace->held);
                g_string_append_printf(text, "%s/waiting %u\n", lockspace->name, lockspace->waiting);
        }
        return text;
}

/* --- .locks --- */

typedef struct Line {                           /* of .locks */
        const uint8_t *name;
        size_t name_len;
        EngineLockState state;
        LockMode mode, wanted;
        uint32_t node;
        pid_t pid;
        const char *command;
        const char *by;
        double seconds;                         /* negative: not known */
} Line;

static void add_line(GString *text, const Line *line)
{
        static const char *const states[] = {
                [ENGINE_LOCK_HELD] = "held",
                [ENGINE_LOCK_WAITING] = "waiting",
                [ENGINE_LOCK_CONVERTING] = "converting",
        };
        char file_name[FILE_NAME_MAX + 1];

        resource_name_encode(line->name, line->name_len, file_name);
        g_string_append_printf(text, "%s\t%s\t%s\t%s\t%u\t%d\t%s\t%s\t", file_name, states[line->state],
                               line->state == ENGINE_LOCK_WAITING ? "-" : mode_to_string(line->mode),
                               line->state == ENGINE_LOCK_HELD ? "-" : mode_to_string(line->wanted), line->node,
                               (int)line->pid, line->command, line->by);
        if (line->seconds < 0)
                g_string_append(text, "-\n");
        else
                g_string_append_printf(text, "%.0f\n", line->seconds);
}

/* The command of a process, asked of /proc once per text. */
static const char *find_command(GHashTable *commands, pid_t pid)
{
        const char *command = g_hash_table_lookup(commands, GINT_TO_POINTER(pid));

        if (!command) {
                command = process_command(pid);
                g_hash_table_insert(commands, GINT_TO_POINTER(pid), (char *)command);
        }
        return command;
}

static GHashTable *commands_new(void)
{
        return g_hash_table_new_full(NULL, NULL, NULL, g_free);
}

GString *control_locks(Lockspace *lockspace)
{
        g_autoptr(GHashTable) commands = commands_new();
        Engine *engine = lockspace->tree->engine;
        const gint64 now_us = g_get_monotonic_time();
        GString *text = g_string_new("resource\tstate\tmode\twanted\tnode\tpid\tcommand\tby\tseconds\n");
        GHashTableIter iter;
        gpointer key;

        g_hash_table_iter_init(&iter, lockspace->resources);
        while (g_hash_table_iter_next(&iter, &key, NULL)) {
                const Resource *resource = key;

                for (GList *l = resource->locks.head; l; l = l->next) {
                        const Lock *lock = l->data;
                        Line line = { .name = resource->name, .name_len = resource->name_len, .mode = lock->mode, .wanted = lock->wanted };

                        if (!lock_counts(lock))
                                continue;
                        line.state = lock->state == LOCK_HELD ? ENGINE_LOCK_HELD :
                                     lock->state == LOCK_LOCKING ? ENGINE_LOCK_WAITING : ENGINE_LOCK_CONVERTING;
                        line.node = engine->ops->node(engine);
                        line.pid = lock->pid;
                        line.command = find_command(commands, line.pid);
                        line.by = lock_by_to_string(lock->by);
                        line.seconds = (double)(now_us - lock->since_us) / G_USEC_PER_SEC;
                        add_line(text, &line);
                }
        }
        return text;
}

void control_locks_add_foreign(GString *text, const GArray *locks)
{
        g_autoptr(GHashTable) commands = commands_new();

        for (guint i = 0; i < locks->len; i++) {
                const EngineForeign *lock = &g_array_index(locks, EngineForeign, i);
                const Line line = {
                        .name = lock->name, .name_len = lock->name_len, .state = lock->state, .mode = lock->mode, .wanted = lock->wanted,
                        .node = lock->node, .pid = lock->pid, .by = "other", .seconds = lock->seconds,
                        .command = lock->is_local ? find_command(commands, lock->pid) : "-",
                };

                add_line(text, &line);
        }
}

int control_parse_force(const char *data, size_t size, gboolean *ret_force)
{
        if (size == 2 && data[1] == '\n')
                size = 1;
        if (size != 1 || (data[0] != '0' && data[0] != '1'))
                return -EINVAL;
        *ret_force = data[0] == '1';
        return 0;
}
