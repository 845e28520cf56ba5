/*
 * A channel without a device: its line, and what it says when nothing is in it.
 */
#include "dlm-channel.h"
#include <errno.h>

#define TIMEOUT_US (10 * G_USEC_PER_SEC)

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

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/dlm-channel/idle", test_idle_is_said_again);
        return g_test_run();
}
