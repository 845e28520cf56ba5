#include "dlm-mail.h"

#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct DlmMailbox {
        gatomicrefcount refs;                   /* the engine's, and one of each thread */
        void *owner;                            /* NULL: closed. Only the main loop looks */
        int fd;
        GMutex lock;                            /* of all below */
        GCond left;
        DlmMail *first;                         /* also looked at without the lock */
        DlmMail *last;
        gboolean is_signalled;                  /* the eventfd has been written */
        gboolean is_asleep;                     /* the loop: it has to be woken */
        gboolean is_closed;
        unsigned threads;
};

static int above_stdio(int fd)
{
        if (fd >= 0 && fd < 3) {                /* a thread's table has /dev/null there */
                int low = fd;

                fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
                close(low);
        }
        return fd;
}

int dlm_eventfd_new(void)
{
        return above_stdio(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

int dlm_epoll_new(void)
{
        return above_stdio(epoll_create1(EPOLL_CLOEXEC));
}

DlmMailbox *dlm_mailbox_new(void *owner)
{
        int fd = dlm_eventfd_new();
        DlmMailbox *mailbox;

        if (fd < 0)
                return NULL;
        mailbox = g_new0(DlmMailbox, 1);
        g_atomic_ref_count_init(&mailbox->refs);
        g_mutex_init(&mailbox->lock);
        g_cond_init(&mailbox->left);
        mailbox->owner = owner;
        mailbox->fd = fd;
        return mailbox;
}

DlmMailbox *dlm_mailbox_ref(DlmMailbox *mailbox)
{
        g_atomic_ref_count_inc(&mailbox->refs);
        return mailbox;
}

void dlm_mailbox_unref(DlmMailbox *mailbox)
{
        if (!g_atomic_ref_count_dec(&mailbox->refs))
                return;
        g_mutex_clear(&mailbox->lock);
        g_cond_clear(&mailbox->left);
        g_free(mailbox);
}

int dlm_mailbox_fd(const DlmMailbox *mailbox)
{
        return mailbox->fd;
}

/* With the lock held. */
static void wake(DlmMailbox *mailbox)
{
        if (!mailbox->is_asleep || mailbox->is_signalled)
                return;
        /* Not g_main_context_wakeup(): its descriptor is not in our table. */
        eventfd_write(mailbox->fd, 1);
        mailbox->is_signalled = TRUE;
}

static void post(DlmMailbox *mailbox, DlmMail *mail, gboolean is_urgent)
{
        gboolean is_closed;

        mail->next = NULL;
        g_mutex_lock(&mailbox->lock);
        is_closed = mailbox->is_closed;
        if (!is_closed) {
                if (mailbox->last)
                        mailbox->last->next = mail;
                else
                        g_atomic_pointer_set(&mailbox->first, mail);
                mailbox->last = mail;
                if (is_urgent)
                        wake(mailbox);
        }
        g_mutex_unlock(&mailbox->lock);
        if (is_closed)
                mail->deliver(mail, NULL);
}

void dlm_mailbox_post(DlmMailbox *mailbox, DlmMail *mail)
{
        post(mailbox, mail, TRUE);
}

void dlm_mailbox_put(DlmMailbox *mailbox, DlmMail *mail)
{
        post(mailbox, mail, FALSE);
}

void dlm_mailbox_wake(DlmMailbox *mailbox)
{
        g_mutex_lock(&mailbox->lock);
        if (mailbox->first && !mailbox->is_closed)
                wake(mailbox);
        g_mutex_unlock(&mailbox->lock);
}

gboolean dlm_mailbox_sleep(DlmMailbox *mailbox)
{
        gboolean may_sleep;

        g_mutex_lock(&mailbox->lock);
        may_sleep = mailbox->is_asleep = !mailbox->first;
        g_mutex_unlock(&mailbox->lock);
        return may_sleep;
}

void dlm_mailbox_awake(DlmMailbox *mailbox)
{
        eventfd_t count;

        g_mutex_lock(&mailbox->lock);
        mailbox->is_asleep = FALSE;
        if (mailbox->is_signalled)
                eventfd_read(mailbox->fd, &count);
        mailbox->is_signalled = FALSE;
        g_mutex_unlock(&mailbox->lock);
}

gboolean dlm_mailbox_has_mail(DlmMailbox *mailbox)
{
        return g_atomic_pointer_get(&mailbox->first) != NULL;
}

gboolean dlm_mailbox_deliver(DlmMailbox *mailbox)
{
        DlmMail *mail;

        if (!dlm_mailbox_has_mail(mailbox))
                return FALSE;

        g_mutex_lock(&mailbox->lock);
        mail = mailbox->first;
        g_atomic_pointer_set(&mailbox->first, NULL);
        mailbox->last = NULL;
        g_mutex_unlock(&mailbox->lock);

        while (mail) {
                DlmMail *next = mail->next;

                mail->deliver(mail, mailbox->owner);
                mail = next;
        }
        return TRUE;
}

void dlm_mailbox_wait(DlmMailbox *mailbox, int timeout_ms)
{
        struct pollfd fd = { .fd = mailbox->fd, .events = POLLIN };

        if (dlm_mailbox_sleep(mailbox))
                poll(&fd, 1, timeout_ms);
        dlm_mailbox_awake(mailbox);
        dlm_mailbox_deliver(mailbox);
}

void dlm_mailbox_enter(DlmMailbox *mailbox)
{
        g_mutex_lock(&mailbox->lock);
        mailbox->threads++;
        g_mutex_unlock(&mailbox->lock);
}

void dlm_mailbox_leave(DlmMailbox *mailbox)
{
        g_mutex_lock(&mailbox->lock);
        mailbox->threads--;
        g_cond_signal(&mailbox->left);
        g_mutex_unlock(&mailbox->lock);
}

void dlm_mailbox_close(DlmMailbox *mailbox, unsigned timeout_ms)
{
        gint64 end = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;

        mailbox->owner = NULL;
        g_mutex_lock(&mailbox->lock);
        mailbox->is_closed = TRUE;
        while (mailbox->threads > 0 && g_cond_wait_until(&mailbox->left, &mailbox->lock, end))
                ;
        g_mutex_unlock(&mailbox->lock);

        dlm_mailbox_deliver(mailbox);
        close(mailbox->fd);
}
