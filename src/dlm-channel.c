#include "dlm-channel.h"
#include "dlm-worker.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RETRY_MS 1

typedef struct Line {                           /* a call in line */
        struct Line *next;
        DlmCall call;
} Line;

typedef struct Known {                          /* a lock, as the kernel knows it */
        uint32_t lkid;
        gboolean is_granted;                    /* a later refusal does not end it */
} Known;

struct DlmChannel {
        gatomicrefcount refs;                   /* the owner's, and the thread's */
        char *name;
        uint32_t lockspace;
        DlmMailbox *mailbox;
        void (*deliver)(DlmMail *mail, void *owner);
        unsigned spin_us;
        int wake;                               /* eventfd */

        GMutex lock;                            /* of these */
        Line *first;                            /* the spinning thread looks without the lock */
        Line *last;
        gboolean is_asleep;                     /* has to be woken for the next call */
        gboolean is_closing;

        int device;                             /* only the thread looks: the descriptor, or -errno */
        gboolean is_deaf;                       /* the device has no results to give any more */
        GHashTable *known;                      /* of Known, by id */
};

static void channel_unref(DlmChannel *channel)
{
        if (!g_atomic_ref_count_dec(&channel->refs))
                return;
        while (channel->first) {
                Line *line = channel->first;

                channel->first = line->next;
                g_free(line);
        }
        g_hash_table_unref(channel->known);
        dlm_mailbox_unref(channel->mailbox);
        g_mutex_clear(&channel->lock);
        g_free(channel->name);
        g_free(channel);
}

static void channel_report(DlmChannel *channel, DlmReportKind kind, const DlmResult *result)
{
        DlmReport *report = g_new(DlmReport, 1);

        report->mail.deliver = channel->deliver;
        report->kind = kind;
        report->lockspace = channel->lockspace;
        report->result = *result;
        dlm_mailbox_post(channel->mailbox, &report->mail);
}

/* The call for lock @id could not be made: nothing is queued. */
static void channel_report_failure(DlmChannel *channel, uint32_t id, int status)
{
        DlmResult result = { .id = id };

        /* The device is gone, or somebody who may write to it has unlocked our
         * lock: to the caller the thing he knew is not there any more. */
        if (status == -ENOENT || status == -ENODEV || status == -ENXIO)
                status = -ESTALE;
        result.status = status;
        channel_report(channel, DLM_REPORT_COMPLETED, &result);
}

static void channel_forget(DlmChannel *channel, uint32_t id)
{
        g_hash_table_remove(channel->known, GUINT_TO_POINTER(id));
}

static Known *channel_find(DlmChannel *channel, uint32_t id)
{
        return g_hash_table_lookup(channel->known, GUINT_TO_POINTER(id));
}

static void channel_got(DlmChannel *channel, DlmResult *result)
{
        Known *known = channel_find(channel, result->id);

        if (!known || known->lkid != result->lkid)
                return;                         /* of an id's earlier life */
        if (result->is_blocking) {
                channel_report(channel, DLM_REPORT_BLOCKING, result);
                return;
        }
        if (result->status == -DLM_EUNLOCK || (result->status != 0 && !known->is_granted))
                channel_forget(channel, result->id);
        else if (result->status == 0)
                known->is_granted = TRUE;

        if (result->status == -DLM_EUNLOCK)
                result->status = 0;
        else if (result->status == -DLM_ECANCEL)
                result->status = -ECANCELED;
        channel_report(channel, DLM_REPORT_COMPLETED, result);
}

static void channel_drain(DlmChannel *channel)
{
        DlmResult result;
        int r;

        if (channel->device < 0 || channel->is_deaf)
                return;
        while ((r = dlm_device_read(channel->device, &result)) > 0)
                channel_got(channel, &result);
        channel->is_deaf = r < 0;
}

/* Wait for results or for calls. @timeout_ms -1: without end. */
static void channel_wait(DlmChannel *channel, gboolean for_calls, int timeout_ms)
{
        struct pollfd fds[] = {
                { .fd = channel->is_deaf ? -1 : channel->device, .events = POLLIN },
                { .fd = for_calls ? channel->wake : -1, .events = POLLIN },
        };
        eventfd_t count;

        poll(fds, G_N_ELEMENTS(fds), timeout_ms);
        if (fds[1].revents)
                eventfd_read(channel->wake, &count);
        if (fds[0].revents)
                channel_drain(channel);
}

static gboolean channel_is_closing(DlmChannel *channel)
{
        gboolean is_closing;

        g_mutex_lock(&channel->lock);
        is_closing = channel->is_closing;
        g_mutex_unlock(&channel->lock);
        return is_closing;
}

/* Write @call. A convert or unlock after a cancel that came too late is EBUSY
 * until the master's answer to the cancel is here: some network time, during
 * which the line waits, since its order is a promise. */
static int channel_write(DlmChannel *channel, const DlmCall *call)
{
        int r;

        if (channel->device < 0)
                return channel->device;
        for (;;) {
                r = dlm_device_write(channel->device, call);
                if (r != -EBUSY || call->verb == DLM_VERB_LOCK || channel_is_closing(channel))
                        return r;
                channel_wait(channel, FALSE, RETRY_MS);
        }
}

static void channel_make_call(DlmChannel *channel, DlmCall *call)
{
        Known *known = channel_find(channel, call->id);
        int r;

        switch (call->verb) {
        case DLM_VERB_LOCK:
                r = channel_write(channel, call);
                if (r < 0) {
                        channel_report_failure(channel, call->id, r);
                        break;
                }
                known = g_new0(Known, 1);
                known->lkid = r;
                g_hash_table_insert(channel->known, GUINT_TO_POINTER(call->id), known);
                break;
        case DLM_VERB_CANCEL:
                if (known) {
                        call->lkid = known->lkid;
                        channel_write(channel, call);
                }
                break;
        case DLM_VERB_CONVERT:
        case DLM_VERB_UNLOCK:
                r = -ENOENT;
                if (known) {
                        call->lkid = known->lkid;
                        r = channel_write(channel, call);
                }
                if (r < 0) {
                        if (call->verb == DLM_VERB_UNLOCK)
                                channel_forget(channel, call->id);
                        channel_report_failure(channel, call->id, r);
                }
                break;
        }
}

/* The next call in line. NULL: none, and whoever brings one wakes us, or no
 * more are to be made. */
static Line *channel_next(DlmChannel *channel, gboolean *ret_is_closing)
{
        Line *line;

        g_mutex_lock(&channel->lock);
        *ret_is_closing = channel->is_closing;
        line = channel->is_closing ? NULL : channel->first;
        if (line)
                g_atomic_pointer_set(&channel->first, line->next);
        if (!channel->first)
                channel->last = NULL;
        channel->is_asleep = !line;
        g_mutex_unlock(&channel->lock);
        return line;
}

/* Calls come in twos and threes, and waking up costs more than they do. */
static void channel_spin(DlmChannel *channel)
{
        gint64 end_us = g_get_monotonic_time() + channel->spin_us;

        while (channel->spin_us > 0 && !g_atomic_pointer_get(&channel->first) && g_get_monotonic_time() < end_us)
                sched_yield();
}

static void channel_main(void *data)
{
        DlmChannel *channel = data;
        gboolean is_closing = FALSE;

        channel->device = dlm_device_open(channel->name);
        while (!is_closing) {
                Line *line = channel_next(channel, &is_closing);

                if (line) {
                        channel_make_call(channel, &line->call);
                        g_free(line);
                        channel_drain(channel);
                        channel_spin(channel);
                } else if (!is_closing) {
                        channel_wait(channel, TRUE, -1);
                }
        }
        if (channel->device >= 0)
                close(channel->device);
        close(channel->wake);
        channel_report(channel, DLM_REPORT_CLOSED, &(DlmResult) { 0 });
        channel_unref(channel);
}

DlmChannel *dlm_channel_new(const char *name, uint32_t lockspace, unsigned spin_us, DlmMailbox *mailbox,
                            void (*deliver)(DlmMail *mail, void *owner))
{
        DlmChannel *channel;
        int wake, r;

        wake = dlm_eventfd_new();
        if (wake < 0)
                return NULL;
        channel = g_new0(DlmChannel, 1);
        g_atomic_ref_count_init(&channel->refs);
        g_mutex_init(&channel->lock);
        channel->name = g_strdup(name);
        channel->lockspace = lockspace;
        channel->spin_us = spin_us;
        channel->mailbox = dlm_mailbox_ref(mailbox);
        channel->deliver = deliver;
        channel->wake = wake;
        channel->known = g_hash_table_new_full(NULL, NULL, NULL, g_free);

        g_atomic_ref_count_inc(&channel->refs);
        r = dlm_thread_start("dlm-lockspace", mailbox, wake, channel_main, channel);
        if (r < 0) {
                close(wake);
                channel_unref(channel);
                channel_unref(channel);
                errno = -r;
                return NULL;
        }
        return channel;
}

void dlm_channel_push(DlmChannel *channel, const DlmCall *call)
{
        Line *line = g_new(Line, 1);
        gboolean was_asleep;

        line->next = NULL;
        line->call = *call;
        g_mutex_lock(&channel->lock);
        was_asleep = channel->is_asleep;
        channel->is_asleep = FALSE;
        if (channel->last)
                channel->last->next = line;
        else
                g_atomic_pointer_set(&channel->first, line);
        channel->last = line;
        g_mutex_unlock(&channel->lock);
        if (was_asleep)
                eventfd_write(channel->wake, 1);
}

gboolean dlm_channel_withdraw(DlmChannel *channel, uint32_t id)
{
        Line *line, *before = NULL;

        g_mutex_lock(&channel->lock);
        /* An older cancel of the same lock may stand in line too. */
        for (line = channel->first; line && (line->call.id != id || line->call.verb == DLM_VERB_CANCEL); line = line->next)
                before = line;
        if (line) {
                if (before)
                        before->next = line->next;
                else
                        g_atomic_pointer_set(&channel->first, line->next);
                if (channel->last == line)
                        channel->last = before;
        }
        g_mutex_unlock(&channel->lock);
        g_free(line);
        return line != NULL;
}

void dlm_channel_close(DlmChannel *channel)
{
        g_mutex_lock(&channel->lock);
        channel->is_closing = TRUE;
        g_mutex_unlock(&channel->lock);
        eventfd_write(channel->wake, 1);
        close(channel->wake);
        channel_unref(channel);
}
