#include "dlm-mail.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct DlmMailbox {
        gatomicrefcount refs;                   /* the engine's, and one of each thread */
        void *owner;                            /* NULL: closed. Only the main loop looks */
        int fd;
        GMutex lock;                            /* of all below */
        GCond left;
        DlmMail *first;
        DlmMail *last;
        gint is_signalled;                      /* the eventfd has been written; also looked at without the lock */
        gboolean is_closed;
        unsigned threads;
};

int dlm_eventfd_new(void)
{
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

        if (fd >= 0 && fd < 3) {                /* a thread's table has /dev/null there */
                int low = fd;

                fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
                close(low);
        }
        return fd;
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

void dlm_mailbox_post(DlmMailbox *mailbox, DlmMail *mail)
{
        gboolean is_closed;

        mail->next = NULL;
        g_mutex_lock(&mailbox->lock);
        is_closed = mailbox->is_closed;
        if (!is_closed) {
                if (mailbox->last)
                        mailbox->last->next = mail;
                else
                        mailbox->first = mail;
                mailbox->last = mail;
                if (!mailbox->is_signalled) {
                        /* Not g_main_context_wakeup(): its descriptor is not in our table. */
                        eventfd_write(mailbox->fd, 1);
                        g_atomic_int_set(&mailbox->is_signalled, TRUE);
                }
        }
        g_mutex_unlock(&mailbox->lock);
        if (is_closed)
                mail->deliver(mail, NULL);
}

gboolean dlm_mailbox_deliver(DlmMailbox *mailbox)
{
        DlmMail *mail;
        eventfd_t count;

        if (!g_atomic_int_get(&mailbox->is_signalled))
                return FALSE;

        g_mutex_lock(&mailbox->lock);
        eventfd_read(mailbox->fd, &count);
        g_atomic_int_set(&mailbox->is_signalled, FALSE);
        mail = mailbox->first;
        mailbox->first = mailbox->last = NULL;
        g_mutex_unlock(&mailbox->lock);

        while (mail) {
                DlmMail *next = mail->next;

                mail->deliver(mail, mailbox->owner);
                mail = next;
        }
        return TRUE;
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
