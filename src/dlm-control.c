#include "dlm-control.h"
#include "dlm-debugfs.h"
#include "dlm-device.h"
#include "dlm-openers.h"
#include "dlm-watch.h"

#include <errno.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LINK_TIMEOUT_MS 3000
#define BUSY_TRIES 50                           /* an unlock just made is in the way for some network time */
#define BUSY_PAUSE_MS 2

/* As engine.h has it. */
static int translate(int r)
{
        return r == -EUNATCH ? -ENOTCONN : r;   /* dlm_controld ended while in use; never was there */
}

/* REMOVE goes by the minor alone, and that of a lockspace that has gone is given
 * to the next one: so each time we look whether it is still there. */
static gboolean is_there(const char *name, const DlmNode *node)
{
        DlmNode now;

        return dlm_node_stat(name, &now) == 0 && dlm_node_is_same(&now, node);
}

int dlm_control_make(const char *name, uint32_t flags, const DlmNode *access, DlmNode *ret_node, gboolean *ret_is_linked)
{
        DlmNode node;
        struct timespec begin;
        gboolean is_known, is_linked;
        int fd, minor, r;

        fd = dlm_control_open();
        if (fd < 0)
                return fd;
        dlm_watch_now(&begin);
        minor = dlm_control_create(fd, name, flags | DLM_LSFL_NEWEXCL);
        if (minor < 0) {
                close(fd);
                return translate(minor);
        }
        is_known = dlm_node_stat(name, &node) == 0;
        /* udev sets its own mode before it makes the link: ours comes after. */
        is_linked = dlm_watch_wait_for_link(name, &begin, LINK_TIMEOUT_MS);
        r = dlm_node_set_access(name, access);
        if (r == 0)
                r = dlm_node_stat(name, &node);
        while (r < 0 && (!is_known || is_there(name, &node)) && dlm_control_remove(fd, minor, FALSE) == -ENOMEM)
                g_usleep(BUSY_PAUSE_MS * 1000);
        close(fd);
        if (r < 0)
                return r;
        *ret_node = node;
        *ret_is_linked = is_linked;
        return 0;
}

/* Made more than once (libdlm's create without NEWEXCL), it only counts down, and says 0. */
static int remove_all(int fd, const char *name, const DlmNode *node, gboolean force)
{
        int r = 0;

        while (r == 0 && is_there(name, node))
                r = dlm_control_remove(fd, minor(node->rdev), force);
        return r;
}

/* REMOVE said EBUSY, and says no more than that. */
static int judge(const char *name, const DlmNode *node, uint64_t xid)
{
        if (dlm_openers_exist(node->rdev) != 0 || dlm_debugfs_judge(name, xid) == -EBUSY)
                return -EBUSY;
        return -EREMOTE;
}

int dlm_control_release(const char *name, const DlmNode *node, uint64_t xid, gboolean force)
{
        int fd, r, tries = 0;

        fd = dlm_control_open();
        if (fd < 0)
                return fd;
        do {
                if (tries > 0)
                        g_usleep(BUSY_PAUSE_MS * 1000);
                r = remove_all(fd, name, node, force);
        } while (r == -EBUSY && ++tries < BUSY_TRIES);
        close(fd);

        if (r == -ENOENT && !is_there(name, node))
                return 0;                       /* somebody else was quicker */
        return r == -EBUSY ? judge(name, node, xid) : r;
}
