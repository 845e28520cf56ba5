#pragma once
/*
 * A channel is an open lockspace device, and the thread that owns it: the
 * thread alone has the descriptor, writes the calls in the order in which they
 * were pushed, and reads the results between them. So the last close, which
 * blocks while the lockspace is stopped, is never the main loop's, not even
 * when the daemon is killed.
 *
 * What happens is reported by mail. Each call but a cancel is ended by one
 * report, whatever the kernel says too late. An id is the caller's until a
 * report ends it (a refused lock, an unlock) and may be used again at once:
 * results that an earlier lock of that id left behind are known by their lkid
 * and dropped.
 */
#include "dlm-device.h"
#include "dlm-mail.h"

typedef struct DlmChannel DlmChannel;

typedef enum DlmReportKind {
        DLM_REPORT_COMPLETED,
        DLM_REPORT_BLOCKING,
        DLM_REPORT_IDLE,                        /* no lock for a while, and nothing in line */
        DLM_REPORT_CLOSED,                      /* the device is closed: the channel's last */
} DlmReportKind;

typedef struct DlmReport {
        DlmMail mail;
        DlmReportKind kind;
        uint32_t lockspace;                     /* as given to dlm_channel_new() */
        DlmResult result;                       /* .status: 0 or -errno, as engine.h has it */
} DlmReport;

/* @deliver gets every DlmReport and frees it with g_free(). @spin_us: how long
 * the thread looks for the next call before it sleeps. NULL and errno: there is
 * no thread to be had. The device is opened by the thread; when it cannot be,
 * each call completes with that error. */
DlmChannel *dlm_channel_new(const char *name, uint32_t lockspace, unsigned spin_us, DlmMailbox *mailbox,
                            void (*deliver)(DlmMail *mail, void *owner));
int dlm_channel_push(DlmChannel *channel, const DlmCall *call);          /* 0 or -ENOMEM */
/* Take back lock @id's call that is in line. FALSE: it has been begun. */
gboolean dlm_channel_withdraw(DlmChannel *channel, uint32_t id);
/* Close the device, and with it drop all locks left: what is held in PW or EX
 * loses its value. Of the calls in line unlocks are made before, each tried
 * once, and no others. The pointer is dead at once; the thread ends in its own
 * time. */
void dlm_channel_close(DlmChannel *channel);
