/*
 * A channel without the kernel: its line, what it says when nothing is in it, which
 * results it takes for the end of what, and what becomes of the line in the end.
 *
 * The device: each write is told beforehand what it returns, and what can be read
 * after it. Its descriptors are one pair of sockets, which the channel's thread has.
 */
#include "dlm-channel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_US (10 * G_USEC_PER_SEC)
#define LKID 7
#define END 1                                   /* no status: nothing more can be read */

/* --- the device --- */

typedef struct Write {                          /* one that is expected */
        DlmVerb verb;
        int status;                             /* of the write: 0 or -errno */
        int results[3];                         /* their status, up to END */
        gboolean is_stopped;                    /* it waits until somebody lets it go on */
} Write;

static const Write *writes;                     /* the next one; the thread's while a channel is open */
static int kernel;                              /* its end of the pair */
static GMutex lock;                             /* of: */
static GCond changed;
static enum State { RUNS, STANDS, GOES_ON } state;

static void set_state(enum State to)
{
        g_mutex_lock(&lock);
        state = to;
        g_cond_broadcast(&changed);
        g_mutex_unlock(&lock);
}

static void wait_for_state(enum State wanted)
{
        const gint64 end_us = g_get_monotonic_time() + TIMEOUT_US;

        g_mutex_lock(&lock);
        while (state != wanted && g_cond_wait_until(&changed, &lock, end_us))
                ;
        g_assert_cmpint(state, ==, wanted);
        g_mutex_unlock(&lock);
}

int dlm_device_open(const char *name)
{
        int fds[2];

        if (strcmp(name, "fake") != 0)
                return -ENOENT;
        g_assert_no_errno(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
        kernel = fds[1];
        return fds[0];
}

int dlm_device_write(int fd, const DlmCall *call)
{
        const Write *now = writes++;

        g_assert_cmpint(call->verb, ==, now->verb);
        if (now->is_stopped) {
                set_state(STANDS);
                wait_for_state(GOES_ON);
        }
        for (const int *status = now->results; *status != END; status++) {
                DlmResult result = { .id = call->id, .lkid = LKID, .status = *status };

                g_assert_cmpint(send(kernel, &result, sizeof(result), MSG_NOSIGNAL), ==, sizeof(result));
        }
        return call->verb == DLM_VERB_LOCK ? LKID : now->status;
}

int dlm_device_read(int fd, DlmResult *ret_result)
{
        return recv(fd, ret_result, sizeof(*ret_result), MSG_DONTWAIT) < 0 ? 0 : 1;
}

/* --- reports --- */

typedef struct Seen {                           /* reports, by kind */
        unsigned reports[DLM_REPORT_CLOSED + 1];
        int status;                             /* of the last completion */
} Seen;

static void deliver(DlmMail *mail, void *owner)
{
        g_autofree DlmReport *report = (DlmReport *)mail;
        Seen *seen = owner;

        if (!seen)
                return;
        seen->reports[report->kind]++;
        if (report->kind == DLM_REPORT_COMPLETED)
                seen->status = report->result.status;
}

static void wait_for(DlmMailbox *mailbox, Seen *seen, DlmReportKind kind)
{
        const gint64 end_us = g_get_monotonic_time() + TIMEOUT_US;

        while (seen->reports[kind] == 0 && g_get_monotonic_time() < end_us)
                dlm_mailbox_wait(mailbox, 100);
        g_assert_cmpuint(seen->reports[kind], ==, 1);
        seen->reports[kind] = 0;
}

/* --- the line --- */

/* Else its owner would never close the device, and releases elsewhere hang. */
static void test_idle_is_said_again(void)
{
        const DlmCall call = { .verb = DLM_VERB_LOCK, .id = 1, .name = "r", .name_len = 1 };
        Seen seen = { 0 };
        DlmMailbox *mailbox = dlm_mailbox_new(&seen);
        DlmChannel *channel = dlm_channel_new("there-is-none", 1, 0, mailbox, deliver);

        wait_for(mailbox, &seen, DLM_REPORT_IDLE);
        dlm_channel_push(channel, &call);
        wait_for(mailbox, &seen, DLM_REPORT_COMPLETED);
        g_assert_cmpint(seen.status, ==, -ESTALE);
        wait_for(mailbox, &seen, DLM_REPORT_IDLE);
        for (int i = 0; i < 3; i++) {           /* now and then before the thread has taken it */
                dlm_channel_push(channel, &call);
                dlm_channel_withdraw(channel, call.id);
                wait_for(mailbox, &seen, DLM_REPORT_IDLE);
        }

        dlm_channel_close(channel);
        wait_for(mailbox, &seen, DLM_REPORT_CLOSED);
        dlm_mailbox_close(mailbox, 1000);
        dlm_mailbox_unref(mailbox);
}

/* --- what ends what --- */

typedef struct Step {                           /* a call, and a cancel that crosses its end; @status: that end */
        DlmVerb verb;
        gboolean cancels;
        int status;
} Step;

/* Each call has one end, and nothing is said beyond that. */
static void take(const Write *expected, const Step *steps, unsigned n)
{
        Seen seen = { 0 };
        DlmMailbox *mailbox = dlm_mailbox_new(&seen);
        DlmChannel *channel;

        writes = expected;
        channel = dlm_channel_new("fake", 1, 0, mailbox, deliver);
        for (unsigned i = 0; i < n; i++) {
                const DlmCall call = { .verb = steps[i].verb, .id = 1, .name = "r", .name_len = 1 };
                const DlmCall cancel = { .verb = DLM_VERB_CANCEL, .id = 1 };

                dlm_channel_push(channel, &call);
                if (steps[i].cancels)
                        dlm_channel_push(channel, &cancel);
                wait_for(mailbox, &seen, DLM_REPORT_COMPLETED);
                g_assert_cmpint(seen.status, ==, steps[i].status);
        }
        dlm_channel_close(channel);
        wait_for(mailbox, &seen, DLM_REPORT_CLOSED);
        g_assert_cmpuint(seen.reports[DLM_REPORT_COMPLETED], ==, 0);
        dlm_mailbox_close(mailbox, 1000);
        dlm_mailbox_unref(mailbox);
}

/* The master has granted, and dies before it answers the cancel: the kernel says ECANCEL for it. */
static const Step late[] = {
        { DLM_VERB_LOCK, FALSE, 0 },
        { DLM_VERB_CONVERT, TRUE, 0 },
        { DLM_VERB_CONVERT, FALSE, 0 },
        { DLM_VERB_UNLOCK, FALSE, 0 },
};

static void test_late_cancel_is_read_with_the_next_end(void)
{
        static const Write expected[] = {
                { DLM_VERB_LOCK, 0, { 0, END } },
                { DLM_VERB_CONVERT, 0, { END } },
                { DLM_VERB_CANCEL, 0, { 0, END } },
                { DLM_VERB_CONVERT, 0, { -DLM_ECANCEL, 0, END } },
                { DLM_VERB_UNLOCK, 0, { -DLM_EUNLOCK, END } },
        };

        take(expected, late, G_N_ELEMENTS(late));
}

static void test_late_cancel_is_read_before_the_next_write(void)
{
        static const Write expected[] = {
                { DLM_VERB_LOCK, 0, { 0, END } },
                { DLM_VERB_CONVERT, 0, { END } },
                { DLM_VERB_CANCEL, 0, { 0, END } },
                { DLM_VERB_CONVERT, -EBUSY, { -DLM_ECANCEL, END } },
                { DLM_VERB_CONVERT, 0, { 0, END } },
                { DLM_VERB_UNLOCK, 0, { -DLM_EUNLOCK, END } },
        };

        take(expected, late, G_N_ELEMENTS(late));
}

static void test_late_cancel_ends_no_unlock(void)
{
        static const Write expected[] = {
                { DLM_VERB_LOCK, 0, { END } },
                { DLM_VERB_CANCEL, 0, { 0, END } },
                { DLM_VERB_UNLOCK, 0, { -DLM_ECANCEL, -DLM_EUNLOCK, END } },
                { DLM_VERB_LOCK, 0, { 0, END } },
        };
        static const Step steps[] = { { DLM_VERB_LOCK, TRUE, 0 }, { DLM_VERB_UNLOCK, FALSE, 0 }, { DLM_VERB_LOCK, FALSE, 0 } };

        take(expected, steps, G_N_ELEMENTS(steps));
}

/* In time, also after one that was too late; and by somebody else. */
static void test_cancel_ends_what_it_was_for(void)
{
        static const Write expected[] = {
                { DLM_VERB_LOCK, 0, { 0, END } },
                { DLM_VERB_CONVERT, 0, { END } },
                { DLM_VERB_CANCEL, 0, { -DLM_ECANCEL, END } },
                { DLM_VERB_CONVERT, 0, { END } },
                { DLM_VERB_CANCEL, 0, { 0, END } },
                { DLM_VERB_CONVERT, 0, { END } },
                { DLM_VERB_CANCEL, 0, { -DLM_ECANCEL, END } },
                { DLM_VERB_CONVERT, 0, { 0, END } },
                { DLM_VERB_CONVERT, 0, { -DLM_ECANCEL, END } },
                { DLM_VERB_UNLOCK, 0, { -DLM_EUNLOCK, END } },
                { DLM_VERB_LOCK, 0, { END } },
                { DLM_VERB_CANCEL, 0, { -DLM_ECANCEL, END } },
        };
        static const Step steps[] = {
                { DLM_VERB_LOCK, FALSE, 0 },
                { DLM_VERB_CONVERT, TRUE, -ECANCELED },
                { DLM_VERB_CONVERT, TRUE, 0 },
                { DLM_VERB_CONVERT, TRUE, -ECANCELED },
                { DLM_VERB_CONVERT, FALSE, 0 },
                { DLM_VERB_CONVERT, FALSE, -ECANCELED },
                { DLM_VERB_UNLOCK, FALSE, 0 },
                { DLM_VERB_LOCK, TRUE, -ECANCELED },
        };

        take(expected, steps, G_N_ELEMENTS(steps));
}

/* --- the end --- */

static void push(DlmChannel *channel, DlmVerb verb, uint32_t id)
{
        const DlmCall call = { .verb = verb, .id = id, .name = "r", .name_len = 1 };

        g_assert_cmpint(dlm_channel_push(channel, &call), ==, 0);
}

/* Else the kernel drops those locks with the device, and marks their values lost. */
static void test_unlocks_are_made_before_the_end(void)
{
        static const Write expected[] = {
                { DLM_VERB_LOCK, 0, { 0, END } },
                { DLM_VERB_LOCK, 0, { 0, END } },
                { DLM_VERB_LOCK, 0, { 0, END } },
                { DLM_VERB_CONVERT, 0, { END }, .is_stopped = TRUE },
                { DLM_VERB_UNLOCK, 0, { END } },
                { DLM_VERB_UNLOCK, 0, { END } },
        };
        Seen seen = { 0 };
        DlmMailbox *mailbox = dlm_mailbox_new(&seen);
        DlmChannel *channel;

        writes = expected;
        channel = dlm_channel_new("fake", 1, 0, mailbox, deliver);
        for (uint32_t id = 1; id <= 3; id++) {
                push(channel, DLM_VERB_LOCK, id);
                wait_for(mailbox, &seen, DLM_REPORT_COMPLETED);
        }
        push(channel, DLM_VERB_CONVERT, 1);
        wait_for_state(STANDS);
        push(channel, DLM_VERB_LOCK, 4);
        push(channel, DLM_VERB_UNLOCK, 2);
        push(channel, DLM_VERB_CANCEL, 1);
        push(channel, DLM_VERB_UNLOCK, 3);
        push(channel, DLM_VERB_LOCK, 5);
        dlm_channel_close(channel);
        set_state(GOES_ON);
        wait_for(mailbox, &seen, DLM_REPORT_CLOSED);
        g_assert_true(writes == expected + G_N_ELEMENTS(expected));

        dlm_mailbox_close(mailbox, 1000);
        dlm_mailbox_unref(mailbox);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/dlm-channel/idle", test_idle_is_said_again);
        g_test_add_func("/dlm-channel/late-cancel/with-the-next-end", test_late_cancel_is_read_with_the_next_end);
        g_test_add_func("/dlm-channel/late-cancel/before-the-next-write", test_late_cancel_is_read_before_the_next_write);
        g_test_add_func("/dlm-channel/late-cancel/unlock", test_late_cancel_ends_no_unlock);
        g_test_add_func("/dlm-channel/cancel", test_cancel_ends_what_it_was_for);
        g_test_add_func("/dlm-channel/end", test_unlocks_are_made_before_the_end);
        return g_test_run();
}
