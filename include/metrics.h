#pragma once
/*
 * What has happened in a lockspace since it is here, counted: plain increments
 * at the answer to each request for a lock. And the text of /.metrics, in
 * which these counts are read: OpenMetrics, but only with the types that the
 * older Prometheus format has too (counter, gauge, histogram), so that either
 * kind of reader takes it.
 *
 * The DLM does not say whether somebody was in the way. So a request that may
 * wait counts as one that had to when its answer took a millisecond.
 */
#include "tree.h"

#define METRICS_WAIT_US 1000                    /* from here on it was a wait */
#define METRICS_BOUNDS 12                       /* of the histogram, +Inf apart */

typedef struct Metrics {
        guint64 grants;
        guint64 waits;                          /* that have ended, granted or not */
        guint64 refusals;                       /* EAGAIN */
        guint64 deadlocks;                      /* EDEADLK */
        guint64 cancels;                        /* EINTR */
        guint64 granted_waits[METRICS_BOUNDS + 1];      /* by how long they took; the last: longer than all bounds */
        guint64 granted_waits_us;               /* their sum */
} Metrics;

/* A request for a lock was answered with @status, 0 or a negative errno. */
void metrics_count(Metrics *metrics, int status, gint64 waited_us);

GString *metrics_text(Tree *tree);
