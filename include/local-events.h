#pragma once
/*
 * What has happened in the local engine and has not been told yet: one ring,
 * first in, first out, for all lockspaces together. It only remembers; the
 * engine tells. Locks in it are borrowed: whoever frees a lock whose events are
 * still here purges them first.
 */
#include "engine.h"

typedef struct LocalLock LocalLock;

typedef enum LocalEventKind {
        LOCAL_EVENT_PURGED,                     /* its lockspace went by force: nobody is told */
        LOCAL_EVENT_COMPLETED,
        LOCAL_EVENT_BLOCKING,
        LOCAL_EVENT_DONE,
        LOCAL_EVENT_FOREIGN,
} LocalEventKind;

typedef struct LocalEvent {
        LocalEventKind kind;
        uint32_t lockspace;
        int status;
        uint8_t flags;                          /* completed: DLM_SBF_* */
        uint8_t mode;                           /* blocking: the mode somebody wants */
        uint8_t has_value;                      /* completed: value was read */
        union {
                struct {
                        LocalLock *lock;
                        uint8_t value[VALUE_LEN];
                };
                struct {
                        EngineDone *done;
                        EngineForeignDone *foreign_done;
                        void *data;
                };
        };
} LocalEvent;

typedef struct LocalEvents {                    /* zeroes are an empty ring */
        LocalEvent *ring;
        unsigned size;                          /* a power of two, or 0 */
        unsigned first;
        unsigned used;
} LocalEvents;

/* A new last event of @kind, to be filled in; valid until the next push. */
LocalEvent *local_events_push(LocalEvents *events, LocalEventKind kind, uint32_t lockspace);
/* Take the first. FALSE: there is none. */
gboolean local_events_pop(LocalEvents *events, LocalEvent *ret_event);
/* Forget what happened to the locks of @lockspace; @forget sees each such event
 * first, in order. EngineDone callbacks are still told. */
void local_events_purge(LocalEvents *events, uint32_t lockspace, void (*forget)(const LocalEvent *event, void *data), void *data);
void local_events_clear(LocalEvents *events);
