#include "dlm-quorum.h"
#include "dlm-worker.h"

#include <corosync/corotypes.h>
#include <corosync/quorum.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RETRY_MS 1000                           /* until corosync is asked again */

typedef struct Listener {                       /* the thread's */
        gatomicrefcount refs;                   /* the owner's, and the thread's */
        DlmMailbox *mailbox;
        DlmQuorum *quorum;                      /* only the main loop looks; NULL: freed */
        int stop_fd;                            /* an eventfd; the thread has its own copy */
} Listener;

struct DlmQuorum {
        Listener *listener;
        GArray *members;                        /* NULL: not known */
        gboolean is_quorate;
};

typedef struct News {
        DlmMail mail;
        Listener *listener;                     /* a reference */
        GArray *members;
        gboolean is_quorate;
} News;

static void listener_unref(Listener *listener)
{
        if (!g_atomic_ref_count_dec(&listener->refs))
                return;
        dlm_mailbox_unref(listener->mailbox);
        g_free(listener);
}

/* --- news: from the thread to the loop --- */

static void news_deliver(DlmMail *mail, void *owner)
{
        News *news = (News *)mail;
        DlmQuorum *quorum = owner ? news->listener->quorum : NULL;

        if (quorum) {
                g_clear_pointer(&quorum->members, g_array_unref);
                quorum->members = g_steal_pointer(&news->members);
                quorum->is_quorate = news->is_quorate;
        }
        g_clear_pointer(&news->members, g_array_unref);
        listener_unref(news->listener);
        g_free(news);
}

/* @members: NULL: corosync has nothing to say. Takes it. */
static void post(Listener *listener, GArray *members, gboolean is_quorate)
{
        News *news = g_new0(News, 1);

        news->mail.deliver = news_deliver;
        news->listener = listener;
        g_atomic_ref_count_inc(&listener->refs);
        news->members = members;
        news->is_quorate = is_quorate;
        dlm_mailbox_post(listener->mailbox, &news->mail);
}

/* --- the thread --- */

static int compare_nodes(gconstpointer a, gconstpointer b)
{
        const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return (x > y) - (x < y);
}

static void quorum_notified(quorum_handle_t handle, uint32_t quorate, uint64_t ring_seq, uint32_t count, uint32_t *nodes)
{
        GArray *members = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        const void *listener;

        g_array_append_vals(members, nodes, count);
        g_array_sort(members, compare_nodes);
        if (quorum_context_get(handle, &listener) == CS_OK)
                post((Listener *)listener, members, quorate != 0);
        else
                g_array_unref(members);
}

/* Until there is something to read, or @timeout_ms are over. FALSE: stop. */
static gboolean wait_for(const Listener *listener, int fd, int timeout_ms)
{
        struct pollfd fds[] = { { .fd = listener->stop_fd, .events = POLLIN }, { .fd = fd, .events = POLLIN } };

        poll(fds, fd < 0 ? 1 : 2, timeout_ms);
        return fds[0].revents == 0;
}

/* One connection to corosync, until it breaks. FALSE: stop. */
static gboolean listen_once(Listener *listener)
{
        quorum_callbacks_t callbacks = { .quorum_notify_fn = quorum_notified };
        gboolean goes_on = TRUE;
        quorum_handle_t handle;
        uint32_t type;
        int fd;

        if (quorum_initialize(&handle, &callbacks, &type) != CS_OK)
                return TRUE;
        if (quorum_context_set(handle, listener) == CS_OK && quorum_fd_get(handle, &fd) == CS_OK &&
            quorum_trackstart(handle, CS_TRACK_CURRENT | CS_TRACK_CHANGES) == CS_OK)
                while (quorum_dispatch(handle, CS_DISPATCH_ALL) == CS_OK && goes_on)
                        goes_on = wait_for(listener, fd, -1);
        quorum_finalize(handle);
        return goes_on;
}

static void listen_main(void *data)
{
        Listener *listener = data;

        while (listen_once(listener)) {
                post(listener, NULL, FALSE);
                if (!wait_for(listener, -1, RETRY_MS))
                        break;
        }
        listener_unref(listener);
}

/* --- the loop's side --- */

DlmQuorum *dlm_quorum_new(DlmMailbox *mailbox)
{
        DlmQuorum *quorum = g_new0(DlmQuorum, 1);
        Listener *listener = g_new0(Listener, 1);

        g_atomic_ref_count_init(&listener->refs);
        listener->mailbox = dlm_mailbox_ref(mailbox);
        listener->quorum = quorum;
        listener->stop_fd = dlm_eventfd_new();
        quorum->listener = listener;
        if (listener->stop_fd < 0)
                return quorum;
        g_atomic_ref_count_inc(&listener->refs);
        if (dlm_thread_start("dlm-quorum", mailbox, (const int[]) { listener->stop_fd, -1 }, listen_main, listener) < 0)
                listener_unref(listener);
        return quorum;
}

void dlm_quorum_free(DlmQuorum *quorum)
{
        if (!quorum)
                return;
        if (quorum->listener->stop_fd >= 0) {
                eventfd_write(quorum->listener->stop_fd, 1);
                close(quorum->listener->stop_fd);
        }
        quorum->listener->quorum = NULL;
        listener_unref(quorum->listener);
        if (quorum->members)
                g_array_unref(quorum->members);
        g_free(quorum);
}

const GArray *dlm_quorum_get(const DlmQuorum *quorum, gboolean *ret_is_quorate)
{
        *ret_is_quorate = quorum->is_quorate;
        return quorum->members;
}
