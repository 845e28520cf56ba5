#pragma once
/*
 * A resource is what the locks of one name share: who holds it in which mode,
 * who waits, and its value block. It decides by the DLM's rules who gets what
 * and writes the outcome into the ring of events; it never calls back.
 *
 * The engine owns resources and locks. A resource is used while it has locks:
 * after a call that may have taken the last one away, the engine looks.
 */
#include "local-events.h"

typedef struct LocalResource LocalResource;

typedef enum LocalLockState {
        LOCAL_LOCK_NONE,                        /* on no queue: not yet asked for, or gone */
        LOCAL_LOCK_GRANTED,
        LOCAL_LOCK_CONVERTING,
        LOCAL_LOCK_WAITING,
} LocalLockState;

#define LOCAL_MODE_NONE (-1)

struct LocalLock {
        LocalLock *next;                        /* on the queue that state tells */
        LocalLock *prev;
        LocalResource *resource;                /* NULL: gone, and its last event is in the ring */
        uint32_t id;
        uint32_t flags;                         /* DLM_LKF_* of its last operation */
        int8_t granted;                         /* a mode, or LOCAL_MODE_NONE; kept while converting */
        int8_t wanted;                          /* of the operation, while it is queued */
        uint8_t told;                           /* the highest mode it was told that somebody wants */
        uint8_t status_flags;                   /* DLM_SBF_* of its operation */
        uint8_t state;                          /* LocalLockState */
        uint8_t busy;                           /* an operation is in flight: the engine's mark */
};

typedef struct LocalName {                      /* the key of a table of resources: any bytes */
        const uint8_t *bytes;
        size_t len;
} LocalName;

guint local_name_hash(const void *name);
gboolean local_name_equal(const void *a, const void *b);

/* NULL: no memory. */
LocalResource *local_resource_new(uint32_t lockspace, const LocalName *name, LocalEvents *events);
const LocalName *local_resource_name(const LocalResource *resource);
GList *local_resource_link(LocalResource *resource);    /* for a list of the engine's */
uint32_t local_resource_lockspace(const LocalResource *resource);
gboolean local_resource_is_unused(const LocalResource *resource);

/* Each of these ends in one LOCAL_EVENT_COMPLETED, now or when its turn comes.
 * Flags that make no sense in themselves were refused before; these refuse
 * what depends on the lock, with -EINVAL, and have then done nothing. */
void local_resource_request(LocalResource *resource, LocalLock *lock, LockMode mode, uint32_t flags);
int local_resource_convert(LocalLock *lock, LockMode mode, uint32_t flags, const uint8_t *value);
int local_resource_unlock(LocalLock *lock, uint32_t flags, const uint8_t *value);
/* End a request or conversion that is still queued; nothing to do if none is. */
void local_resource_cancel(LocalLock *lock);

void local_resource_forget_value(LocalResource *resource);      /* as never written */
void local_resource_free(LocalResource *resource);      /* its locks are the engine's to free */
