#include "manager.h"
#include "config.h"
#include "lockspace.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#define MADE "made"                             /* the memory file's name with systemd */
#define NAMES_MAX 8                             /* of lockspaces in the status line */

struct Manager {
        Tree *tree;
        int made_fd;                            /* -1: nobody keeps it */
        guint status_source, watchdog_source;   /* 0: none */
};

/* FALSE: nobody is there to be told. */
static gboolean notify(const char *state)
{
#ifdef HAVE_SYSTEMD
        const int r = sd_notify(0, state);

        if (r < 0)
                g_debug("sd_notify: %s", g_strerror(-r));
        return r != 0;
#else
        return FALSE;
#endif
}

/* In microseconds; 0: nobody waits for a sign of life. */
static guint64 watchdog_interval(void)
{
        guint64 usec = 0;
#ifdef HAVE_SYSTEMD
        uint64_t found;

        if (sd_watchdog_enabled(0, &found) > 0)
                usec = found;
#endif
        return usec;
}

/* --- the names that outlive us --- */

/* What our predecessor has left, or a new one that our successor will find. */
static int find_made(void)
{
        int fd = -1;
#ifdef HAVE_SYSTEMD
        char **names = NULL;
        const int n = sd_listen_fds_with_names(1, &names);

        for (int i = 0; i < n; i++)
                if (fd < 0 && g_str_equal(names[i], MADE))
                        fd = SD_LISTEN_FDS_START + i;
        for (int i = 0; i < n; i++)
                free(names[i]);
        free(names);
        if (fd >= 0)
                return fd;
        fd = memfd_create(MADE, MFD_CLOEXEC);
        if (fd >= 0 && sd_pid_notify_with_fds(0, 0, "FDSTORE=1\nFDNAME=" MADE, &fd, 1) <= 0) {
                close(fd);                      /* no manager */
                fd = -1;
        }
#endif
        return fd;
}

/* Those that are still there are ours again. */
static void read_made(Manager *manager)
{
        g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", manager->made_fd), *text = NULL;
        g_auto(GStrv) names = NULL;

        if (manager->made_fd < 0 || !g_file_get_contents(path, &text, NULL, NULL))
                return;
        names = g_strsplit(text, "\n", -1);
        for (char **name = names; *name; name++) {
                Lockspace *lockspace = g_hash_table_lookup(manager->tree->lockspaces, *name);

                if (lockspace) {
                        g_message("lockspace %s was made before a restart, and will be released in the end", *name);
                        lockspace->is_created = TRUE;
                }
        }
}

static void write_made(Manager *manager)
{
        g_autoptr(GString) text = g_string_new(NULL);
        GHashTableIter iter;
        gpointer name, lockspace;

        if (manager->made_fd < 0)
                return;
        g_hash_table_iter_init(&iter, manager->tree->lockspaces);
        while (g_hash_table_iter_next(&iter, &name, &lockspace))
                if (((Lockspace *)lockspace)->is_created)
                        g_string_append_printf(text, "%s\n", (char *)name);
        if (ftruncate(manager->made_fd, 0) < 0 || pwrite(manager->made_fd, text->str, text->len, 0) < 0)
                g_warning("the names of the lockspaces cannot be kept for a restart");
}

/* --- the status line --- */

/* In order, and how many. There may be very many more, of which no list is made. */
static unsigned first_names(Tree *tree, const char *ret_names[static NAMES_MAX])
{
        GHashTableIter iter;
        gpointer name;
        unsigned n = 0, place;

        g_hash_table_iter_init(&iter, tree->lockspaces);
        while (g_hash_table_iter_next(&iter, &name, NULL)) {
                if (n < NAMES_MAX)
                        n++;
                else if (strcmp(ret_names[n - 1], name) < 0)
                        continue;
                for (place = n - 1; place > 0 && strcmp(ret_names[place - 1], name) > 0; place--)
                        ret_names[place] = ret_names[place - 1];
                ret_names[place] = name;
        }
        return n;
}

static char *status_line(Tree *tree)
{
        Engine *engine = tree->engine;
        GString *line = g_string_new(NULL);
        const char *names[NAMES_MAX];
        const unsigned n = first_names(tree, names);

        g_string_printf(line, "engine %s, node %u, lockspaces:", engine->ops->name, engine->ops->node(engine));
        for (unsigned i = 0; i < n; i++)
                g_string_append_printf(line, " %s", names[i]);
        if (n == 0)
                g_string_append(line, " none");
        if (n < g_hash_table_size(tree->lockspaces))
                g_string_append_printf(line, " and %u more", g_hash_table_size(tree->lockspaces) - n);
        return g_string_free(line, FALSE);
}

static gboolean tell_status(void *data)
{
        Manager *manager = data;
        g_autofree char *line = status_line(manager->tree);
        g_autofree char *state = g_strconcat("STATUS=", line, NULL);

        write_made(manager);
        notify(state);
        manager->status_source = 0;
        return G_SOURCE_REMOVE;
}

/* Told in the next turn of the loop: once for many changes. */
static void manager_listing_changed(void *data)
{
        Manager *manager = data;

        if (manager->status_source == 0)
                manager->status_source = g_idle_add_full(G_PRIORITY_DEFAULT, tell_status, manager, NULL);
}

static gboolean tell_life(void *data)
{
        notify("WATCHDOG=1");
        return G_SOURCE_CONTINUE;
}

Manager *manager_new(Tree *tree)
{
        Manager *manager = g_new0(Manager, 1);
        g_autofree char *line = status_line(tree);
        g_autofree char *state = g_strconcat("READY=1\nSTATUS=", line, NULL);
        const guint64 usec = watchdog_interval();

        manager->tree = tree;
        manager->made_fd = find_made();
        read_made(manager);
        write_made(manager);
        if (usec > 0)
                manager->watchdog_source = g_timeout_add(MAX(usec / 2000, 1), tell_life, NULL);
        if (notify(state)) {
                tree->listing_changed = manager_listing_changed;
                tree->listing_changed_data = manager;
        }
        return manager;
}

void manager_stopping(Manager *manager, const char *status)
{
        g_autofree char *state = g_strconcat("STOPPING=1\nSTATUS=", status, NULL);

        manager->tree->listing_changed = NULL;  /* how it ends is what the line is for now */
        g_clear_handle_id(&manager->status_source, g_source_remove);
        notify(state);
}

void manager_free(Manager *manager)
{
        if (!manager)
                return;
        manager->tree->listing_changed = NULL;
        g_clear_handle_id(&manager->status_source, g_source_remove);
        g_clear_handle_id(&manager->watchdog_source, g_source_remove);
        if (manager->made_fd >= 0)
                close(manager->made_fd);
        g_free(manager);
}
