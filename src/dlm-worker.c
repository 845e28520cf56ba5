#include "dlm-worker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct Start {                          /* what a new thread is told */
        DlmMailbox *mailbox;
        int keep[DLM_THREAD_FDS + 1];           /* descriptors; -1: none */
        DlmThreadMain *run;
        void *data;
        GMutex lock;
        GCond ready;
        gboolean is_ready;
        int status;                             /* 0: it runs */
} Start;

struct DlmWorker {
        gatomicrefcount refs;                   /* the owner's, and the thread's */
        char *name;
        DlmMailbox *mailbox;
        gboolean is_started;                    /* only the owner looks */
        GMutex lock;                            /* of all below */
        GCond wake;
        GQueue jobs;
        gboolean is_ending;
};

static int compare_fds(const void *a, const void *b)
{
        return *(const int *)b - *(const int *)a;
}

/* Leave the common table, with what we keep. Standard input, output and error
 * become /dev/null: an assertion's text must not reach a device. -errno: there
 * was no memory for a table, and the common one is as it was. */
static int leave_table(int keep[DLM_THREAD_FDS + 1])
{
        unsigned above;                         /* the highest that is still open */

        qsort(keep, DLM_THREAD_FDS + 1, sizeof(*keep), compare_fds);
        if (close_range(keep[0] + 1, ~0U, CLOSE_RANGE_UNSHARE) < 0)
                return -errno;
        above = keep[0] - 1;
        for (int i = 1; i <= DLM_THREAD_FDS && keep[i] >= 0; i++) {
                if (above > (unsigned)keep[i])
                        close_range(keep[i] + 1, above, 0);
                above = keep[i] - 1;
        }
        if (above >= 3)
                close_range(3, above, 0);
        for (int i = 0; i < 3; i++) {
                int fd = open("/dev/null", O_RDWR);

                if (fd >= 0 && fd != i) {
                        dup2(fd, i);
                        close(fd);
                }
        }
        return 0;
}

static gpointer thread_main(gpointer data)
{
        Start *start = data;
        DlmMailbox *mailbox = start->mailbox;
        DlmThreadMain *run = start->run;
        void *run_data = start->data;
        const int r = leave_table(start->keep);

        g_mutex_lock(&start->lock);
        start->status = r;
        start->is_ready = TRUE;
        g_cond_signal(&start->ready);
        g_mutex_unlock(&start->lock);           /* start is gone from here on */

        if (r == 0)
                run(run_data);
        dlm_mailbox_leave(mailbox);
        dlm_mailbox_unref(mailbox);
        return NULL;
}

int dlm_thread_start(const char *name, DlmMailbox *mailbox, const int fds[DLM_THREAD_FDS], DlmThreadMain *run, void *data)
{
        Start start = { .mailbox = mailbox, .keep = { dlm_mailbox_fd(mailbox), fds[0], fds[1] }, .run = run, .data = data,
                        .status = -ENOMEM };
        sigset_t all, old;
        GThread *thread;

        g_mutex_init(&start.lock);
        g_cond_init(&start.ready);
        dlm_mailbox_ref(mailbox);
        dlm_mailbox_enter(mailbox);
        sigfillset(&all);                       /* signals are for the main loop */
        pthread_sigmask(SIG_SETMASK, &all, &old);
        thread = g_thread_try_new(name, thread_main, &start, NULL);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (!thread) {
                dlm_mailbox_leave(mailbox);
                dlm_mailbox_unref(mailbox);
        } else {
                /* Until it has its own table we must not close anything that
                 * it is to keep. Nothing blocks on that way. */
                g_mutex_lock(&start.lock);
                while (!start.is_ready)
                        g_cond_wait(&start.ready, &start.lock);
                g_mutex_unlock(&start.lock);
                g_thread_unref(thread);         /* never joined: it may hang */
        }
        g_mutex_clear(&start.lock);
        g_cond_clear(&start.ready);
        return start.status < 0 ? -ENOMEM : 0;  /* EAGAIN would say that somebody else has the lock */
}

static void worker_unref(DlmWorker *worker)
{
        if (!g_atomic_ref_count_dec(&worker->refs))
                return;
        dlm_mailbox_unref(worker->mailbox);
        g_mutex_clear(&worker->lock);
        g_cond_clear(&worker->wake);
        g_free(worker->name);
        g_free(worker);
}

static void worker_main(void *data)
{
        DlmWorker *worker = data;

        for (;;) {
                DlmJob *job;

                g_mutex_lock(&worker->lock);
                while (g_queue_is_empty(&worker->jobs) && !worker->is_ending)
                        g_cond_wait(&worker->wake, &worker->lock);
                job = worker->is_ending ? NULL : g_queue_pop_head(&worker->jobs);
                g_mutex_unlock(&worker->lock);
                if (!job)
                        break;
                job->run(job);
                dlm_mailbox_post(worker->mailbox, &job->mail);
        }
        worker_unref(worker);
}

DlmWorker *dlm_worker_new(const char *name, DlmMailbox *mailbox)
{
        DlmWorker *worker = g_new0(DlmWorker, 1);

        g_atomic_ref_count_init(&worker->refs);
        g_mutex_init(&worker->lock);
        g_cond_init(&worker->wake);
        g_queue_init(&worker->jobs);
        worker->name = g_strdup(name);
        worker->mailbox = dlm_mailbox_ref(mailbox);
        return worker;
}

int dlm_worker_push(DlmWorker *worker, DlmJob *job)
{
        int r;

        if (!worker->is_started) {
                g_atomic_ref_count_inc(&worker->refs);
                r = dlm_thread_start(worker->name, worker->mailbox, (const int[]) { -1, -1 }, worker_main, worker);
                if (r < 0) {
                        worker_unref(worker);
                        return r;
                }
                worker->is_started = TRUE;
        }
        g_mutex_lock(&worker->lock);
        if (job->is_urgent)
                g_queue_push_head(&worker->jobs, job);
        else
                g_queue_push_tail(&worker->jobs, job);
        g_cond_signal(&worker->wake);
        g_mutex_unlock(&worker->lock);
        return 0;
}

void dlm_worker_free(DlmWorker *worker)
{
        DlmJob *job;

        if (!worker)
                return;
        g_mutex_lock(&worker->lock);
        worker->is_ending = TRUE;
        while ((job = g_queue_pop_head(&worker->jobs)))
                job->mail.deliver(&job->mail, NULL);
        g_cond_signal(&worker->wake);
        g_mutex_unlock(&worker->lock);
        worker_unref(worker);
}
