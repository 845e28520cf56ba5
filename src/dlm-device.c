#include "dlm-device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dlm_device.h>
#include <string.h>
#include <unistd.h>

/* The kernel calls nobody: these only tell one kind of result from the other,
 * and must not be NULL. */
#define COMPLETION ((void *)1)
#define BLOCKING ((void *)2)

typedef union Request {                         /* a request, and the name that follows it */
        struct dlm_write_request head;
        char bytes[sizeof(struct dlm_write_request) + MAX(RESOURCE_NAME_MAX, LOCKSPACE_NAME_MAX)];
} Request;

static void request_init(Request *request, int command)
{
        memset(request, 0, sizeof(*request));
        request->head.version[0] = DLM_DEVICE_VERSION_MAJOR;
        request->head.version[1] = DLM_DEVICE_VERSION_MINOR;
        request->head.version[2] = DLM_DEVICE_VERSION_PATCH;
        request->head.cmd = command;
        request->head.is64bit = sizeof(long) == 8;
}

/* Callers do the same about too little memory and too few descriptors. */
static int failure(void)
{
        return errno == ENFILE || errno == EMFILE || errno == ENOBUFS ? -ENOMEM : -errno;
}

static int request_write(const Request *request, int fd, size_t name_len)
{
        ssize_t n;

        do
                n = write(fd, request, sizeof(request->head) + name_len);
        while (n < 0 && errno == EINTR);
        return n < 0 ? failure() : (int)n;
}

int dlm_device_open(const char *name)
{
        char path[sizeof("/dev/dlm_") + LOCKSPACE_NAME_MAX];
        int fd;

        g_snprintf(path, sizeof(path), "/dev/dlm_%s", name);
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        return fd < 0 ? failure() : fd;
}

int dlm_device_write(int fd, const DlmCall *call)
{
        Request request;
        struct dlm_lock_params *lock = &request.head.i.lock;
        gboolean is_request = call->verb == DLM_VERB_LOCK || call->verb == DLM_VERB_CONVERT;
        int r;

        request_init(&request, is_request ? DLM_USER_LOCK : DLM_USER_UNLOCK);
        lock->flags = call->flags;
        lock->lkid = call->lkid;
        lock->castparam = GUINT_TO_POINTER(call->id);
        lock->castaddr = COMPLETION;
        lock->lksb = lock->castparam;
        memcpy(lock->lvb, call->value, VALUE_LEN);
        if (is_request) {
                lock->mode = call->mode;
                lock->xid = call->xid;
                lock->bastparam = lock->castparam;
                lock->bastaddr = BLOCKING;
        }
        switch (call->verb) {
        case DLM_VERB_LOCK:
                lock->namelen = call->name_len;
                memcpy(request.bytes + offsetof(struct dlm_write_request, i.lock.name), call->name, call->name_len);
                return request_write(&request, fd, call->name_len);
        case DLM_VERB_CONVERT:
                lock->flags |= DLM_LKF_CONVERT;
                break;
        case DLM_VERB_CANCEL:
                lock->flags |= DLM_LKF_CANCEL;
                break;
        case DLM_VERB_UNLOCK:
                break;
        }
        r = request_write(&request, fd, 0);
        return MIN(r, 0);
}

int dlm_device_read(int fd, DlmResult *ret_result)
{
        union {
                struct dlm_lock_result head;
                char bytes[sizeof(struct dlm_lock_result) + VALUE_LEN];
        } result;
        ssize_t n = read(fd, &result, sizeof(result));

        if (n < 0)
                return errno == EAGAIN || errno == EINTR || errno == ENOMEM ? 0 : -errno;       /* it comes again */
        if ((size_t)n < sizeof(result.head) || (result.head.lvb_offset != 0 && result.head.lvb_offset > (size_t)n - VALUE_LEN))
                return -EBADMSG;                /* a value that is cut is none */

        *ret_result = (DlmResult) {
                .id = GPOINTER_TO_UINT(result.head.user_astparam),
                .lkid = result.head.lksb.sb_lkid,
                .is_blocking = result.head.user_astaddr == BLOCKING,
                .mode = result.head.bast_mode,
                .status = result.head.lksb.sb_status > 0 ? -result.head.lksb.sb_status : result.head.lksb.sb_status,
                .flags = (unsigned char)result.head.lksb.sb_flags,
                .has_value = result.head.lvb_offset != 0,
        };
        if (ret_result->has_value)
                memcpy(ret_result->value, result.bytes + result.head.lvb_offset, VALUE_LEN);
        return 1;
}

int dlm_control_open(void)
{
        int fd = open("/dev/misc/dlm-control", O_RDWR | O_CLOEXEC);

        return fd < 0 ? failure() : fd;
}

int dlm_control_create(int fd, const char *name, uint32_t flags)
{
        Request request;
        size_t len = strlen(name);

        request_init(&request, DLM_USER_CREATE_LOCKSPACE);
        request.head.i.lspace.flags = flags;
        memcpy(request.bytes + offsetof(struct dlm_write_request, i.lspace.name), name, len);
        return request_write(&request, fd, len);
}

int dlm_control_remove(int fd, unsigned minor, gboolean force)
{
        Request request;
        int r;

        request_init(&request, DLM_USER_REMOVE_LOCKSPACE);
        request.head.i.lspace.flags = force ? DLM_USER_LSFLG_FORCEFREE : 0;
        request.head.i.lspace.minor = minor;
        r = request_write(&request, fd, 0);
        return MIN(r, 0);
}
