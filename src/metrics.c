#include "metrics.h"
#include "config.h"
#include "lockspace.h"
#include <errno.h>

static const double bounds_s[METRICS_BOUNDS] = { 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800, 3600 };

static void count_wait(Metrics *metrics, gint64 waited_us)
{
        guint i = 0;

        while (i < METRICS_BOUNDS && waited_us > bounds_s[i] * G_USEC_PER_SEC)
                i++;
        metrics->granted_waits[i]++;
        metrics->granted_waits_us += waited_us;
}

void metrics_count(Metrics *metrics, int status, gint64 waited_us)
{
        if (status == 0)
                metrics->grants++;
        else if (status == -EAGAIN)
                metrics->refusals++;
        else if (status == -EDEADLK)
                metrics->deadlocks++;
        else if (status == -EINTR)
                metrics->cancels++;
        if (waited_us < METRICS_WAIT_US)
                return;
        metrics->waits++;
        if (status == 0)
                count_wait(metrics, waited_us);
}

/* --- the text --- */

#define PREFIX "lockspacefs_"

/* Head of a family. @unit: NULL, or what @name ends in. */
static void add_family(GString *text, const char *name, const char *type, const char *unit, const char *help)
{
        g_string_append_printf(text, "# TYPE " PREFIX "%s %s\n", name, type);
        if (unit)
                g_string_append_printf(text, "# UNIT " PREFIX "%s %s\n", name, unit);
        g_string_append_printf(text, "# HELP " PREFIX "%s %s\n", name, help);
}

/* NAME="VALUE", with what the format wants escaped. */
static void add_label(GString *text, const char *name, const char *value)
{
        g_string_append_printf(text, "%s=\"", name);
        for (const char *p = value; *p; p++) {
                if (*p == '\\' || *p == '"')
                        g_string_append_c(text, '\\');
                if (*p == '\n')
                        g_string_append(text, "\\n");
                else
                        g_string_append_c(text, *p);
        }
        g_string_append_c(text, '"');
}

/* A number as the format has it, whatever the locale. */
static void add_number(GString *text, double number)
{
        char buffer[G_ASCII_DTOSTR_BUF_SIZE];

        g_string_append(text, g_ascii_formatd(buffer, sizeof(buffer), "%.15g", number));
}

static void add_gauge(GString *text, const char *name, const char *unit, const char *help, double number)
{
        add_family(text, name, "gauge", unit, help);
        g_string_append_printf(text, PREFIX "%s ", name);
        add_number(text, number);
        g_string_append_c(text, '\n');
}

static void add_mount(GString *text, const Tree *tree)
{
        Engine *engine = tree->engine;
        g_autofree char *node = g_strdup_printf("%u", engine->ops->node(engine));

        /* A gauge as others' build_info is: the type info is new in OpenMetrics. */
        add_family(text, "mount_info", "gauge", NULL, "The program that serves the mount.");
        g_string_append(text, PREFIX "mount_info{");
        add_label(text, "version", PACKAGE_VERSION);
        g_string_append_c(text, ',');
        add_label(text, "engine", engine->ops->name);
        g_string_append_c(text, ',');
        add_label(text, "node", node);
        g_string_append(text, "} 1\n");
        add_gauge(text, "start_time_seconds", "seconds", "When it was mounted, since the epoch.", (double)tree->start_ns / NS_PER_SECOND);
        add_family(text, "requests", "counter", NULL, "Requests of the kernel that were answered.");
        g_string_append_printf(text, PREFIX "requests_total %" G_GUINT64_FORMAT "\n", tree->requests);
        add_gauge(text, "lockspaces", NULL, "Lockspaces on this node.", g_hash_table_size(tree->lockspaces));
}

/* What is not known is left out. */
static void add_cluster(GString *text, Engine *engine)
{
        EngineCluster cluster;

        if (!engine->ops->cluster(engine, &cluster))
                return;
        add_gauge(text, "cluster_controlled", NULL, "Whether dlm_controld runs on this node.", cluster.is_controlled);
        if (!cluster.members)
                return;
        add_gauge(text, "cluster_members", NULL, "Nodes in the cluster.", cluster.members->len);
        add_gauge(text, "cluster_quorate", NULL, "Whether the cluster has a quorum.", cluster.is_quorate);
}

/* --- of each lockspace --- */

typedef struct Family {
        const char *name;
        gboolean is_counter;
        const char *help;
        guint64 (*get)(const Lockspace *lockspace);
} Family;

static guint64 get_active(const Lockspace *lockspace)
{
        return lockspace_grants_locks(lockspace);
}

static guint64 get_files(const Lockspace *lockspace)
{
        return lockspace->listed.length;
}

static guint64 get_held(const Lockspace *lockspace)
{
        return lockspace->held;
}

static guint64 get_waiting(const Lockspace *lockspace)
{
        return lockspace->waiting;
}

static guint64 get_grants(const Lockspace *lockspace)
{
        return lockspace->metrics.grants;
}

static guint64 get_waits(const Lockspace *lockspace)
{
        return lockspace->metrics.waits;
}

static guint64 get_refusals(const Lockspace *lockspace)
{
        return lockspace->metrics.refusals;
}

static guint64 get_deadlocks(const Lockspace *lockspace)
{
        return lockspace->metrics.deadlocks;
}

static guint64 get_cancels(const Lockspace *lockspace)
{
        return lockspace->metrics.cancels;
}

static const Family families[] = {
        { "lockspace_active", FALSE, "Whether locks are granted in the lockspace: it is not stopped, recovering or being released.", get_active },
        { "files", FALSE, "Lock files that are listed.", get_files },
        { "locks_held", FALSE, "Locks that are held through this mount.", get_held },
        { "locks_waiting", FALSE, "Locks that are waited for through this mount.", get_waiting },
        { "grants", TRUE, "Requests for a lock that were granted.", get_grants },
        { "waits", TRUE, "Requests that had to wait, a millisecond or longer, and are over: granted or not.", get_waits },
        { "refusals", TRUE, "Tries that were refused with EAGAIN.", get_refusals },
        { "deadlocks", TRUE, "Requests that were refused with EDEADLK.", get_deadlocks },
        { "cancels", TRUE, "Waits that a signal has ended, with EINTR.", get_cancels },
};

static void add_families(GString *text, GList *lockspaces)
{
        for (const Family *family = families; family < families + G_N_ELEMENTS(families); family++) {
                add_family(text, family->name, family->is_counter ? "counter" : "gauge", NULL, family->help);
                for (GList *l = lockspaces; l; l = l->next) {
                        const Lockspace *lockspace = l->data;

                        g_string_append_printf(text, PREFIX "%s%s{", family->name, family->is_counter ? "_total" : "");
                        add_label(text, "lockspace", lockspace->name);
                        g_string_append_printf(text, "} %" G_GUINT64_FORMAT "\n", family->get(lockspace));
                }
        }
}

/* A line of the histogram begins: @bound NULL, or the label le. */
static void begin_wait_line(GString *text, const Lockspace *lockspace, const char *suffix, const char *bound)
{
        g_string_append_printf(text, PREFIX "wait_seconds_%s{", suffix);
        add_label(text, "lockspace", lockspace->name);
        if (bound) {
                g_string_append_c(text, ',');
                add_label(text, "le", bound);
        }
        g_string_append(text, "} ");
}

static void add_histogram(GString *text, const Lockspace *lockspace)
{
        const Metrics *metrics = &lockspace->metrics;
        guint64 count = 0;

        for (guint i = 0; i <= METRICS_BOUNDS; i++) {
                char bound[G_ASCII_DTOSTR_BUF_SIZE] = "+Inf";

                if (i < METRICS_BOUNDS)         /* "1.0", as OpenMetrics prefers it to "1" */
                        g_ascii_formatd(bound, sizeof(bound), bounds_s[i] < 1 ? "%g" : "%.1f", bounds_s[i]);
                count += metrics->granted_waits[i];
                begin_wait_line(text, lockspace, "bucket", bound);
                g_string_append_printf(text, "%" G_GUINT64_FORMAT "\n", count);
        }
        begin_wait_line(text, lockspace, "count", NULL);
        g_string_append_printf(text, "%" G_GUINT64_FORMAT "\n", count);
        begin_wait_line(text, lockspace, "sum", NULL);
        add_number(text, (double)metrics->granted_waits_us / G_USEC_PER_SEC);
        g_string_append_c(text, '\n');
}

GString *metrics_text(Tree *tree)
{
        g_autoptr(GList) lockspaces = tree_list_lockspaces(tree);
        GString *text = g_string_new(NULL);

        add_mount(text, tree);
        add_cluster(text, tree->engine);
        add_families(text, lockspaces);
        add_family(text, "wait_seconds", "histogram", "seconds", "How long requests had to wait until they were granted.");
        for (GList *l = lockspaces; l; l = l->next)
                add_histogram(text, l->data);
        g_string_append(text, "# EOF\n");
        return text;
}
