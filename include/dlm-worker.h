#pragma once
/*
 * Threads for calls that may block in the kernel, unkillably, until the
 * cluster lets go. Each has a descriptor table of its own with nothing in it
 * but what it was given: a daemon killed while one of them hangs still lets
 * go of the mount, and of the lockspaces that the others serve.
 *
 * So a worker must not use what lives in descriptors of the main table: no
 * g_log(), no main context, no file that the main thread opened.
 *
 * A worker does jobs, one after the other, each reported by mail. Its thread
 * is started with the first job.
 */
#include "dlm-mail.h"

typedef struct DlmWorker DlmWorker;
typedef struct DlmJob DlmJob;

struct DlmJob {                                 /* the head of every job */
        DlmMail mail;                           /* .deliver: the job is done */
        void (*run)(DlmJob *job);               /* in the worker */
        gboolean is_urgent;                     /* before all that stand in line */
};

typedef void DlmThreadMain(void *data);

#define DLM_THREAD_FDS 2

/* Start a thread that keeps only the mailbox's descriptor and those of @fds (-1:
 * none), under the same numbers. It has its table when this returns. -ENOMEM: it does
 * not run. The thread ends when @run returns. */
int dlm_thread_start(const char *name, DlmMailbox *mailbox, const int fds[DLM_THREAD_FDS], DlmThreadMain *run, void *data);

DlmWorker *dlm_worker_new(const char *name, DlmMailbox *mailbox);
/* 0, or -errno: no thread could be started, and the job is still the caller's. */
int dlm_worker_push(DlmWorker *worker, DlmJob *job);
/* Let the job that runs end, in its own time; those in line are not done, and
 * delivered without an owner. NULL is fine. */
void dlm_worker_free(DlmWorker *worker);
