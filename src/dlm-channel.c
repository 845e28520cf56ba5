#include "dlm-channel.h"
#include "dlm-worker.h"
#include "memory.h"
#include "spin.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/*
 * Every system call and every wake-up counts here: they are what a lock costs.
 * Calls that stand in line go in one wake-up. The eventfd is watched for edges,
 * so that it is never read. Results are read as long as some are owed. What does
 * not hurry wakes nobody at once: that a lock is unlocked, since its owner has
 * gone on long before; and that somebody waits for one, which comes just when a
 * lock that many want is granted, and its holder is to have the processor.
 */

#define RETRY_MS 1
#define PUT_MS 2                                /* until the loop is woken for what does not hurry */
#define IDLE_MS 1000                            /* without a lock, until we say so */

typedef struct Line {                           /* a call in line */
        struct Line *next;
        DlmCall call;
} Line;

typedef struct Known {                          /* a lock, as the kernel knows it */
        uint32_t lkid;
        gboolean is_granted;                    /* a later refusal does not end it */
        gboolean is_owed;                       /* a completion … */
        gboolean is_unlocking;                  /* … of its unlock */
        gboolean is_cancelled;                  /* a cancel was written for that … */
        gboolean was_cancelled;                 /* … for what was owed before: that ECANCEL may still come */
        gboolean is_adrift;                     /* the end of a convert was not heard: its mode is not known */
} Known;

struct DlmChannel {
        gatomicrefcount refs;                   /* the owner's, and the thread's */
        char *name;
        uint32_t lockspace;
        DlmMailbox *mailbox;
        void (*deliver)(DlmMail *mail, void *owner);
        unsigned spin_us;
        int wake, epoll;                        /* eventfd, and what the thread sleeps on: both and the device */

        GMutex lock;                            /* of these */
        Line *first;                            /* the spinning thread looks without the lock */
        Line *last;
        gboolean is_asleep;                     /* has to be woken for the next call */
        gboolean is_closing;

        /* Only the thread looks: */
        int device;                             /* the descriptor, or -errno */
        gboolean is_deaf;                       /* the device has no results to give any more */
        gboolean has_missed;                    /* a result, once or for good */
        gboolean has_put;                       /* mail that the loop was not woken for */
        gboolean is_idle;                       /* and the owner has been told */
        unsigned owed;                          /* completions that will come */
        GHashTable *known;                      /* of Known, by id */
};

static void close_both(int wake, int epoll)
{
        if (wake >= 0)
                close(wake);
        if (epoll >= 0)
                close(epoll);
}

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

/* A thread can wait, and what the kernel has to say waits in the kernel. */
static void *wait_for_memory(gsize size)
{
        void *object;

        while (!(object = memory_alloc0(size)))
                poll(NULL, 0, RETRY_MS);
        return object;
}

static void channel_report(DlmChannel *channel, DlmReportKind kind, const DlmResult *result, gboolean is_urgent)
{
        DlmReport *report = wait_for_memory(sizeof(DlmReport));

        report->mail.deliver = channel->deliver;
        report->kind = kind;
        report->lockspace = channel->lockspace;
        report->result = *result;
        channel->has_put = !is_urgent;
        if (is_urgent)
                dlm_mailbox_post(channel->mailbox, &report->mail);
        else
                dlm_mailbox_put(channel->mailbox, &report->mail);
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
        channel_report(channel, DLM_REPORT_COMPLETED, &result, TRUE);
}

static void channel_forget(DlmChannel *channel, uint32_t id)
{
        g_hash_table_remove(channel->known, GUINT_TO_POINTER(id));
}

static Known *channel_find(DlmChannel *channel, uint32_t id)
{
        return g_hash_table_lookup(channel->known, GUINT_TO_POINTER(id));
}

/* Does @result end what is owed? Not if nothing is: then its owner has been told
 * another end. Nor if it is an ECANCEL that is late: a cancel crossed a grant, the
 * master died before it answered the cancel, and the kernel made up that it came in
 * time. That stands in the device before the kernel takes the next call for the lock,
 * but may be read when that was written. Without such a cancel before, ECANCEL is the
 * end whoever asked for it: others may write to the device. */
static gboolean is_end(const Known *known, const DlmResult *result)
{
        if (result->status == -DLM_EUNLOCK)
                return TRUE;
        if (!known->is_owed || known->is_unlocking)
                return FALSE;
        return result->status != -DLM_ECANCEL || known->is_cancelled || !known->was_cancelled;
}

static void channel_got(DlmChannel *channel, DlmResult *result)
{
        Known *known = channel_find(channel, result->id);
        gboolean is_unlocked;

        if (!known || known->lkid != result->lkid)
                return;                         /* of an id's earlier life */
        if (result->is_blocking) {
                channel_report(channel, DLM_REPORT_BLOCKING, result, FALSE);
                return;
        }
        if (!is_end(known, result))
                return;
        if (channel->owed > 0)
                channel->owed--;
        known->is_owed = FALSE;
        is_unlocked = result->status == -DLM_EUNLOCK;
        if (is_unlocked || (result->status != 0 && !known->is_granted))
                channel_forget(channel, result->id);
        else if (result->status == 0)
                known->is_granted = TRUE;

        if (is_unlocked)
                result->status = 0;
        else if (result->status == -DLM_ECANCEL)
                result->status = -ECANCELED;
        channel_report(channel, DLM_REPORT_COMPLETED, result, !is_unlocked);
}

/* What is owed for this lock may never be heard. A new lock is taken back. */
static void channel_give_up(DlmChannel *channel, uint32_t id, Known *known)
{
        const DlmCall back = { .verb = DLM_VERB_UNLOCK, .id = id, .lkid = known->lkid, .flags = DLM_LKF_FORCEUNLOCK };
        const gboolean is_unlocking = known->is_unlocking;

        known->is_owed = FALSE;
        known->is_adrift = TRUE;
        if (!known->is_granted && !is_unlocking)
                dlm_device_write(channel->device, &back);
        if (!known->is_granted || is_unlocking)
                channel_forget(channel, id);
        channel_report_failure(channel, id, is_unlocking ? 0 : -EIO);
}

/* A result is lost, and nobody knows whose: all that is in flight fails. @is_deaf:
 * no other will come, from here on locks can only be unlocked. */
static void channel_missed(DlmChannel *channel, gboolean is_deaf)
{
        g_autoptr(GList) ids = g_hash_table_get_keys(channel->known);

        channel->has_missed = TRUE;
        channel->owed = 0;
        channel->is_deaf = is_deaf;
        if (is_deaf)
                epoll_ctl(channel->epoll, EPOLL_CTL_DEL, channel->device, NULL);
        for (GList *l = ids; l; l = l->next) {
                const uint32_t id = GPOINTER_TO_UINT(l->data);
                Known *known = channel_find(channel, id);

                if (known->is_owed)
                        channel_give_up(channel, id, known);
        }
}

/* Has the lock whose call this is been given up? Then it can only be unlocked. */
static gboolean channel_is_adrift(DlmChannel *channel, const DlmCall *call)
{
        const Known *known;

        if (!channel->has_missed)
                return FALSE;
        known = channel_find(channel, call->id);
        return channel->is_deaf || (known && known->is_adrift);
}

/* Read a result, and more while some are owed: what comes unasked is told by
 * epoll, too. */
static void channel_read(DlmChannel *channel)
{
        DlmResult result;
        int r;

        if (channel->device < 0 || channel->is_deaf)
                return;
        do {
                r = dlm_device_read(channel->device, &result);
                if (r > 0)
                        channel_got(channel, &result);
        } while (r > 0 && channel->owed > 0);
        if (r < 0)
                channel_missed(channel, r != -EBADMSG);
}

static gboolean channel_is_closing(DlmChannel *channel)
{
        gboolean is_closing;

        g_mutex_lock(&channel->lock);
        is_closing = channel->is_closing;
        g_mutex_unlock(&channel->lock);
        return is_closing;
}

/* Where it fails for want of something, the next call tries again. */
static void channel_open(DlmChannel *channel)
{
        struct epoll_event readable = { .events = EPOLLIN };

        channel->device = dlm_device_open(channel->name);
        if (channel->device < 0)
                return;
        readable.data.fd = channel->device;
        if (epoll_ctl(channel->epoll, EPOLL_CTL_ADD, channel->device, &readable) < 0) {
                int r = -errno;

                close(channel->device);
                channel->device = r;
        }
}

/* Is @call to be written again? A convert or unlock after a cancel that came too
 * late is EBUSY until the master's answer to the cancel is here: some network
 * time. What gives something back must not fail because memory is short: nobody
 * would do it later, and others would wait for ever. Nor must what keeps a value
 * alive, which is an NL lock with EXPEDITE: the unlock behind it would lose it. */
static gboolean is_to_be_repeated(const DlmCall *call, int r)
{
        switch (r) {
        case -EAGAIN:
                return TRUE;
        case -EBUSY:
                return call->verb != DLM_VERB_LOCK;
        case -ENOMEM:
                return call->verb == DLM_VERB_UNLOCK || call->verb == DLM_VERB_CANCEL || call->flags & DLM_LKF_EXPEDITE;
        default:
                return FALSE;
        }
}

/* Write @call. While it is repeated the line waits, since its order is a promise. */
static int channel_write(DlmChannel *channel, DlmCall *call)
{
        int r;

        if (channel->device == -ENOMEM)
                channel_open(channel);
        if (channel->device < 0)
                return channel->device;
        for (;;) {
                if (channel_is_adrift(channel, call)) {
                        if (call->verb != DLM_VERB_UNLOCK)
                                return -EIO;
                        call->flags |= DLM_LKF_FORCEUNLOCK;     /* whatever is in flight */
                }
                r = dlm_device_write(channel->device, call);
                if (!is_to_be_repeated(call, r) || channel_is_closing(channel))
                        break;
                poll(&(struct pollfd){ .fd = channel->is_deaf ? -1 : channel->device, .events = POLLIN }, 1, RETRY_MS);
                channel_read(channel);
        }
        return r;
}

/* @call for it was made: a completion will come. */
static void channel_owe(DlmChannel *channel, Known *known, const DlmCall *call)
{
        known->is_owed = TRUE;
        known->is_unlocking = call->verb == DLM_VERB_UNLOCK;
        known->was_cancelled = known->is_cancelled;
        known->is_cancelled = FALSE;
        if (channel->is_deaf)
                channel_give_up(channel, call->id, known);
        else
                channel->owed++;
}

static void channel_make_call(DlmChannel *channel, DlmCall *call)
{
        Known *known = channel_find(channel, call->id);
        int r = -ENOENT;

        switch (call->verb) {
        case DLM_VERB_LOCK:
                r = channel_write(channel, call);
                if (r < 0) {
                        channel_report_failure(channel, call->id, r);
                        break;
                }
                known = wait_for_memory(sizeof(Known));
                known->lkid = r;
                g_hash_table_insert(channel->known, GUINT_TO_POINTER(call->id), known);
                channel_owe(channel, known, call);
                break;
        case DLM_VERB_CANCEL:                   /* only hurries what is owed already */
                if (known && known->is_owed) {
                        known->is_cancelled = TRUE;
                        call->lkid = known->lkid;
                        channel_write(channel, call);
                }
                break;
        case DLM_VERB_CONVERT:
        case DLM_VERB_UNLOCK:
                if (known) {
                        call->lkid = known->lkid;
                        r = channel_write(channel, call);
                }
                if (r >= 0) {
                        channel_owe(channel, known, call);
                        break;
                }
                if (call->verb == DLM_VERB_UNLOCK)
                        channel_forget(channel, call->id);
                channel_report_failure(channel, call->id, r);
                break;
        }
}

/* The next call in line. NULL: none, and whoever brings one wakes us, or no
 * more are to be made. At the end unlocks still are: what is locked then loses
 * its value. */
static Line *channel_next(DlmChannel *channel, gboolean *ret_is_over)
{
        Line *line;

        g_mutex_lock(&channel->lock);
        while ((line = channel->first)) {
                g_atomic_pointer_set(&channel->first, line->next);
                if (!channel->is_closing || line->call.verb == DLM_VERB_UNLOCK)
                        break;
                g_free(line);
        }
        if (!channel->first)
                channel->last = NULL;
        channel->is_asleep = !line;
        *ret_is_over = channel->is_closing && !line;
        g_mutex_unlock(&channel->lock);
        return line;
}

/* Calls come in twos and threes, and waking up costs more than they do. */
static void channel_spin(DlmChannel *channel)
{
        Spin spin = spin_begin(channel->spin_us);

        while (!g_atomic_pointer_get(&channel->first) && spin_yield(&spin))
                ;
}

static int channel_timeout_ms(const DlmChannel *channel)
{
        if (channel->has_put)
                return PUT_MS;
        if (channel->is_idle || g_hash_table_size(channel->known) > 0)
                return -1;
        return channel->is_deaf ? 0 : IDLE_MS;
}

static void channel_sleep(DlmChannel *channel)
{
        struct epoll_event events[2];
        const int n = epoll_wait(channel->epoll, events, G_N_ELEMENTS(events), channel_timeout_ms(channel));

        if (n > 0)
                channel->is_idle = FALSE;       /* also when what woke us was withdrawn */
        for (int i = 0; i < n; i++)
                if (events[i].data.fd == channel->device)
                        channel_read(channel);
        if (n == 0 && channel->has_put) {
                channel->has_put = FALSE;
                dlm_mailbox_wake(channel->mailbox);
        } else if (n == 0) {
                channel->is_idle = TRUE;
                channel_report(channel, DLM_REPORT_IDLE, &(DlmResult) { 0 }, TRUE);
        }
}

static void channel_main(void *data)
{
        DlmChannel *channel = data;
        gboolean is_over = FALSE;

        channel_open(channel);
        while (!is_over) {
                Line *line = channel_next(channel, &is_over);

                if (line) {
                        channel_make_call(channel, &line->call);
                        g_free(line);
                        if (channel->owed > 0)
                                channel_read(channel);
                        channel_spin(channel);
                } else if (!is_over) {
                        channel_sleep(channel);
                }
        }
        if (channel->device >= 0)
                close(channel->device);
        close_both(channel->wake, channel->epoll);
        channel_report(channel, DLM_REPORT_CLOSED, &(DlmResult) { 0 }, TRUE);
        channel_unref(channel);
}

DlmChannel *dlm_channel_new(const char *name, uint32_t lockspace, unsigned spin_us, DlmMailbox *mailbox,
                            void (*deliver)(DlmMail *mail, void *owner))
{
        DlmChannel *channel;
        struct epoll_event edge = { .events = EPOLLIN | EPOLLET };
        int wake, epoll, r;

        wake = dlm_eventfd_new();
        epoll = dlm_epoll_new();
        edge.data.fd = wake;
        if (wake < 0 || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, wake, &edge) < 0) {
                r = errno;
                close_both(wake, epoll);
                errno = r;
                return NULL;
        }
        channel = g_new0(DlmChannel, 1);
        g_atomic_ref_count_init(&channel->refs);
        g_mutex_init(&channel->lock);
        channel->name = g_strdup(name);
        channel->lockspace = lockspace;
        channel->spin_us = spin_us;
        channel->mailbox = dlm_mailbox_ref(mailbox);
        channel->deliver = deliver;
        channel->wake = wake;
        channel->epoll = epoll;
        channel->known = g_hash_table_new_full(NULL, NULL, NULL, g_free);

        g_atomic_ref_count_inc(&channel->refs);
        r = dlm_thread_start("dlm-lockspace", mailbox, (const int[]) { wake, epoll }, channel_main, channel);
        if (r < 0) {
                close_both(wake, epoll);
                channel_unref(channel);
                channel_unref(channel);
                errno = -r;
                return NULL;
        }
        return channel;
}

int dlm_channel_push(DlmChannel *channel, const DlmCall *call)
{
        Line *line = memory_new0(Line);
        gboolean was_asleep;

        if (!line)
                return -ENOMEM;
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
        return 0;
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
        close_both(channel->wake, channel->epoll);
        channel_unref(channel);
}
