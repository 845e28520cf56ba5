#pragma once
/*
 * The mailbox is the one way from the worker threads back to the main loop: a
 * list under a mutex, and an eventfd that the loop polls. Mail is delivered by
 * the loop in the order in which it was posted. Workers have descriptor tables
 * of their own, in which the eventfd has the same number.
 *
 * The eventfd is written only when the loop sleeps, or is about to: waking it
 * costs more than most of what it is woken for. The loop says when that is.
 */
#include <glib.h>

typedef struct DlmMail DlmMail;
typedef struct DlmMailbox DlmMailbox;

struct DlmMail {                                /* the head of every letter */
        DlmMail *next;
        /* Called once, from the main loop, and frees the letter. @owner NULL:
         * the engine has stopped, nothing else is to be done. */
        void (*deliver)(DlmMail *mail, void *owner);
};

/* Descriptors that threads may keep: not 0, 1 or 2. -1 and errno. */
int dlm_eventfd_new(void);
int dlm_epoll_new(void);

DlmMailbox *dlm_mailbox_new(void *owner);       /* NULL and errno: no eventfd */
DlmMailbox *dlm_mailbox_ref(DlmMailbox *mailbox);
void dlm_mailbox_unref(DlmMailbox *mailbox);

int dlm_mailbox_fd(const DlmMailbox *mailbox);
/* Hand @mail over, and wake the loop. From any thread. */
void dlm_mailbox_post(DlmMailbox *mailbox, DlmMail *mail);
/* Hand it over; somebody else will wake the loop, or dlm_mailbox_wake() does, soon. */
void dlm_mailbox_put(DlmMailbox *mailbox, DlmMail *mail);
void dlm_mailbox_wake(DlmMailbox *mailbox);             /* if there is mail that it has not seen */

/* From the main loop: it is about to sleep, FALSE: it must not, mail is here. */
gboolean dlm_mailbox_sleep(DlmMailbox *mailbox);
void dlm_mailbox_awake(DlmMailbox *mailbox);            /* it sleeps no longer */
gboolean dlm_mailbox_has_mail(DlmMailbox *mailbox);
/* Deliver what is there. TRUE: there was something. */
gboolean dlm_mailbox_deliver(DlmMailbox *mailbox);

/* Wait up to @timeout_ms for mail, and deliver it. Where waiting does no harm. */
void dlm_mailbox_wait(DlmMailbox *mailbox, int timeout_ms);

/* Threads that post: counted, so that the end can wait for them a while. */
void dlm_mailbox_enter(DlmMailbox *mailbox);
void dlm_mailbox_leave(DlmMailbox *mailbox);
/* No owner any more: wait up to @timeout_ms for all threads to leave (a thread
 * that the cluster keeps in the kernel is left behind), close our eventfd. */
void dlm_mailbox_close(DlmMailbox *mailbox, unsigned timeout_ms);
