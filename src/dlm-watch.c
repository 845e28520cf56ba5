#include "dlm-watch.h"
#include "dlm-node.h"

#include <dirent.h>
#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

struct DlmWatch {
        int fd;
        GSource *source;
        DlmWatchFunc *changed;
        void *data;
        gboolean has_lost;                      /* events: everything may have changed */
};

static void watch_event(DlmWatch *watch, const struct inotify_event *event)
{
        const char *name;

        if (event->mask & IN_Q_OVERFLOW)
                watch->has_lost = TRUE;
        if (event->len == 0)
                return;
        name = dlm_node_lockspace(event->name);
        if (name)
                watch->changed(watch->data, name);
}

/* Say the names that have changed up to now. */
static void dlm_watch_dispatch(DlmWatch *watch)
{
        union {
                struct inotify_event event;     /* for its alignment */
                char bytes[4096];
        } buffer;
        ssize_t n;

        while ((n = read(watch->fd, &buffer, sizeof(buffer))) > 0) {
                const struct inotify_event *event;

                for (char *p = buffer.bytes; p < buffer.bytes + n; p += sizeof(*event) + event->len) {
                        event = (const struct inotify_event *)p;
                        watch_event(watch, event);
                }
        }
        if (watch->has_lost) {
                watch->has_lost = FALSE;
                watch->changed(watch->data, NULL);
        }
}

static gboolean watch_ready(gint fd, GIOCondition condition, gpointer data)
{
        dlm_watch_dispatch(data);
        return G_SOURCE_CONTINUE;
}

DlmWatch *dlm_watch_new(DlmWatchFunc *changed, void *data)
{
        DlmWatch *watch;
        int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

        if (fd < 0)
                return NULL;
        /* The kernel makes and removes the nodes itself, before its uevents. */
        if (inotify_add_watch(fd, "/dev", IN_CREATE | IN_DELETE | IN_ATTRIB | IN_ONLYDIR) < 0) {
                int saved = errno;

                close(fd);
                errno = saved;
                return NULL;
        }
        watch = g_new0(DlmWatch, 1);
        watch->fd = fd;
        watch->changed = changed;
        watch->data = data;
        watch->source = g_unix_fd_source_new(fd, G_IO_IN);
        g_source_set_callback(watch->source, G_SOURCE_FUNC(watch_ready), watch, NULL);
        g_source_attach(watch->source, g_main_context_get_thread_default());
        return watch;
}

void dlm_watch_free(DlmWatch *watch)
{
        if (!watch)
                return;
        g_source_destroy(watch->source);
        g_source_unref(watch->source);
        close(watch->fd);
        g_free(watch);
}

void dlm_watch_list(DlmWatchFunc *func, void *data)
{
        DIR *dir = opendir("/dev");
        struct dirent *entry;

        while (dir && (entry = readdir(dir))) {
                const char *name = dlm_node_lockspace(entry->d_name);

                if (name)
                        func(data, name);
        }
        if (dir)
                closedir(dir);
}

void dlm_watch_now(struct timespec *ret_now)
{
        clock_gettime(CLOCK_REALTIME_COARSE, ret_now);
}

static gboolean is_linked(const char *path, const struct timespec *since)
{
        struct stat st;

        return lstat(path, &st) == 0 &&
               (st.st_ctim.tv_sec > since->tv_sec || (st.st_ctim.tv_sec == since->tv_sec && st.st_ctim.tv_nsec >= since->tv_nsec));
}

gboolean dlm_watch_wait_for_link(const char *name, const struct timespec *since, unsigned timeout_ms)
{
        gint64 end = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;
        char path[sizeof("/dev/misc/dlm_") + LOCKSPACE_NAME_MAX];
        struct pollfd pollfd = { .events = POLLIN };
        gboolean is_there;

        g_snprintf(path, sizeof(path), "/dev/misc/dlm_%s", name);
        pollfd.fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (pollfd.fd < 0)
                return FALSE;
        inotify_add_watch(pollfd.fd, "/dev/misc", IN_CREATE | IN_MOVED_TO | IN_ATTRIB);
        while (!(is_there = is_linked(path, since))) {
                gint64 left = end - g_get_monotonic_time();
                char buffer[4096];

                if (left <= 0)
                        break;
                poll(&pollfd, 1, (int)(left / G_TIME_SPAN_MILLISECOND) + 1);
                while (read(pollfd.fd, buffer, sizeof(buffer)) > 0)
                        ;
        }
        close(pollfd.fd);
        return is_there;
}
