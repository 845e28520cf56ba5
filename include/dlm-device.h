#pragma once
/*
 * The DLM's devices: requests written and results read as the structs of
 * <linux/dlm_device.h>, since libdlm's calls lose something on the way (the
 * value at an unlock, errors of a release). Locks are known to the kernel by
 * our small numbers, which it hands back in place of a pointer.
 *
 * Every function here that writes may block, uninterruptibly, for as long as
 * the cluster takes: for worker threads only.
 */
#include "engine.h"

typedef enum DlmVerb {
        DLM_VERB_LOCK,
        DLM_VERB_CONVERT,
        DLM_VERB_UNLOCK,
        DLM_VERB_CANCEL,
} DlmVerb;

typedef struct DlmCall {                        /* one request on a lockspace */
        DlmVerb verb;
        uint32_t id;                            /* ours: comes back with each result */
        uint32_t lkid;                          /* the kernel's, of all but new locks */
        LockMode mode;                          /* of lock and convert */
        uint32_t flags;                         /* DLM_LKF_*, but for those that the verb implies */
        uint64_t xid;                           /* shown by debugfs: whose locks these are */
        uint8_t value[VALUE_LEN];               /* zeroes where nothing is written */
        uint8_t name_len;
        uint8_t name[RESOURCE_NAME_MAX];
} DlmCall;

typedef struct DlmResult {
        uint32_t id;
        uint32_t lkid;
        gboolean is_blocking;                   /* a BAST: somebody wants @mode. Else an operation has ended */
        LockMode mode;
        int status;                             /* 0, -errno, -DLM_EUNLOCK or -DLM_ECANCEL */
        unsigned flags;                         /* DLM_SBF_* */
        gboolean has_value;
        uint8_t value[VALUE_LEN];
} DlmResult;

/* Of the errors below, -ENOMEM also means: no descriptors, or no buffers. */

/* A lockspace's device, non-blocking to read. The descriptor, or -errno. */
int dlm_device_open(const char *name);
/* The new lock's lkid, 0 for the other verbs, or -errno: nothing was queued. */
int dlm_device_write(int fd, const DlmCall *call);
/* 1: a result; 0: none can be read now; or -errno: none ever will. -EBADMSG: it was
 * cut, and with it all that was known of a lock. */
int dlm_device_read(int fd, DlmResult *ret_result);

/* The control device. The descriptor, or -errno. */
int dlm_control_open(void);
/* Make a lockspace. Its device's minor number, or -errno. */
int dlm_control_create(int fd, const char *name, uint32_t flags);
/* Count down one of its creations, or with the last release it: then this
 * returns when every opener of the device has closed it, killable by nobody. */
int dlm_control_remove(int fd, unsigned minor, gboolean force);
