#include "dlm-cluster.h"

/* libdlm.h and <linux/dlm_device.h> define the same structs. */
#define BUILDING_LIBDLM
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/dlm_device.h>
#include <libdlm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define DLM_LSFL_FS 0x00000004                  /* of libdlm.h, which hides it together with the structs */
#define DLM_LSFL_NEWEXCL 0x00000008
#define DLM_LSFL_TIMEWARN 0x00000002

#define RECOVERY_DONE 0x40                      /* DLM_RS_DONE of fs/dlm/dlm_internal.h, in recover_status */

#define CONFIGFS "/sys/kernel/config/dlm/cluster"

static gboolean missing(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static gboolean missing(GError **error, const char *format, ...)
{
        va_list args;

        va_start(args, format);
        if (error)
                *error = g_error_new_valist(G_FILE_ERROR, G_FILE_ERROR_NODEV, format, args);
        va_end(args);
        return FALSE;
}

static gboolean has_privilege(void)
{
        struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

        return syscall(SYS_capget, &head, data) == 0 &&
               data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN);
}

/* Does something listen on that abstract socket? */
static gboolean is_answering(const char *name)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        size_t len = strlen(name);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), r;

        if (fd < 0)
                return FALSE;
        memcpy(address.sun_path + 1, name, len);
        r = connect(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + len);
        if (r < 0)
                r = -errno;
        close(fd);
        return r == 0 || r == -EAGAIN;          /* EAGAIN: others stand in line there */
}

static gboolean is_running(const char *command)
{
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        gboolean found = FALSE;

        while (proc && !found && (entry = readdir(proc))) {
                g_autofree char *path = g_strdup_printf("/proc/%s/comm", entry->d_name), *comm = NULL;

                if (g_ascii_isdigit(entry->d_name[0]) && g_file_get_contents(path, &comm, NULL, NULL))
                        found = g_str_equal(g_strchomp(comm), command);
        }
        if (proc)
                closedir(proc);
        return found;
}

/* What dlm_tool says. NULL: it cannot be asked. */
static char *ask_dlm_tool(const char *question)
{
        char *argv[] = { (char *)"dlm_tool", (char *)question, NULL };
        char *answer = NULL;

        g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &answer, NULL, NULL, NULL);
        return answer;
}

/* Without quorum a create hangs, unless dlm_controld was told otherwise. */
static gboolean has_quorum(void)
{
        g_autofree char *status = ask_dlm_tool("status"), *config = NULL;

        if (!status || !strstr(status, "quorate 0"))
                return TRUE;
        config = ask_dlm_tool("dump_config");
        return config && strstr(config, "enable_quorum_lockspace=0");
}

static gboolean check_kernel(GError **error)
{
        uint32_t major, minor, patch;

        if (!has_privilege())
                return missing(error, "the dlm engine needs the capability CAP_SYS_ADMIN: run lockspacefs as root "
                               "(-o engine=local works without, on this machine alone)");
        if (syscall(SYS_close_range, ~0U, ~0U, 0) < 0)
                return missing(error, "the dlm engine needs close_range(2): Linux 5.9 or later");
        if (access("/sys/kernel/dlm", F_OK) < 0)
                return missing(error, "the kernel's dlm module is not loaded: modprobe dlm (and start corosync and dlm_controld)");
        if (access("/dev/dlm-control", F_OK) < 0)
                return missing(error, "the dlm module is loaded, but its control device /dev/dlm-control is not there: "
                               "mount a devtmpfs on /dev");
        if (access("/dev/misc/dlm-control", F_OK) < 0)
                return missing(error, "/dev/misc/dlm-control is not there although /dev/dlm-control is: udev has not linked it. "
                               "Start systemd-udevd, with 51-dlm.rules of the dlm package, and run udevadm trigger");
        if (access("/dev/misc/dlm-control", R_OK | W_OK) < 0)
                return missing(error, "/dev/misc/dlm-control cannot be opened: %s", g_strerror(errno));
        if (dlm_kernel_version(&major, &minor, &patch) < 0)
                return missing(error, "the kernel's DLM does not tell its version: %s", g_strerror(errno));
        if (major != DLM_DEVICE_VERSION_MAJOR)
                return missing(error, "the kernel's DLM has version %u.%u.%u of the device interface, lockspacefs knows %d.x",
                               major, minor, patch, DLM_DEVICE_VERSION_MAJOR);
        return TRUE;
}

gboolean dlm_cluster_check(GError **error)
{
        if (!check_kernel(error))
                return FALSE;
        if (!dlm_cluster_is_controlled()) {
                if (!is_running("corosync"))
                        return missing(error, "corosync is not running on this node: start corosync, then dlm_controld "
                                       "(systemctl start corosync dlm)");
                return missing(error, "dlm_controld is not running on this node: start it (systemctl start dlm)");
        }
        if (dlm_cluster_node() == 0)
                return missing(error, "dlm_controld is running but has not told the kernel this node's id yet "
                               "(" CONFIGFS "/comms): is corosync still starting? See dlm_tool status");
        if (!has_quorum())
                return missing(error, "the cluster has no quorum, so that no lockspace can be made or joined: "
                               "bring up more nodes; see corosync-quorumtool and dlm_tool status");
        return TRUE;
}

gboolean dlm_cluster_is_controlled(void)
{
        return is_answering("dlmc_query_sock");
}

EngineSpaceState dlm_cluster_space_state(const char *name)
{
        g_autofree char *path = g_strdup_printf("/sys/kernel/dlm/%s/recover_status", name), *text = NULL;
        unsigned long status;

        if (!g_file_get_contents(path, &text, NULL, NULL))
                return ENGINE_SPACE_ACTIVE;     /* it is just going */
        status = strtoul(text, NULL, 16);
        if (status == 0)                        /* dlm_ls_stop() clears it */
                return ENGINE_SPACE_STOPPED;
        return status & RECOVERY_DONE ? ENGINE_SPACE_ACTIVE : ENGINE_SPACE_RECOVERING;
}

static long read_number(const char *folder, const char *file)
{
        g_autofree char *path = g_strdup_printf(CONFIGFS "/comms/%s/%s", folder, file), *text = NULL;

        return g_file_get_contents(path, &text, NULL, NULL) ? strtol(text, NULL, 10) : 0;
}

uint32_t dlm_cluster_node(void)
{
        DIR *dir = opendir(CONFIGFS "/comms");
        struct dirent *entry;
        uint32_t node = 0;

        while (dir && node == 0 && (entry = readdir(dir)))
                if (entry->d_name[0] != '.' && read_number(entry->d_name, "local") == 1)
                        node = read_number(entry->d_name, "nodeid");
        if (dir)
                closedir(dir);
        return node;
}

gboolean dlm_cluster_parse_flags(const char *names, uint32_t *ret_flags, GError **error)
{
        static const struct {
                const char *name;
                uint32_t flag;
                const char *needs;              /* a file that kernels which have it show; NULL: all have it */
                const char *why_not;
        } table[] = {
                { "fs", DLM_LSFL_FS, NULL, NULL },
                { "newexcl", DLM_LSFL_NEWEXCL, NULL, NULL },    /* always set */
                { "timewarn", DLM_LSFL_TIMEWARN, CONFIGFS "/timewarn_cs",
                  "this kernel was built without it (CONFIG_DLM_DEPRECATED_API, gone since Linux 6.4)" },
                { "nodir", 0, "", "it is no creation flag any more: set nodir for the lockspace in dlm.conf(5)" },
        };
        g_auto(GStrv) list = g_strsplit(names ? names : "", ":", -1);
        uint32_t flags = 0;

        for (char **name = list; *name; name++) {
                size_t i = 0;

                if (**name == '\0')
                        continue;
                while (i < G_N_ELEMENTS(table) && g_ascii_strcasecmp(*name, table[i].name) != 0)
                        i++;
                if (i == G_N_ELEMENTS(table)) {
                        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                                    "lockspace_flags: there is no flag “%s”; known are fs, newexcl and timewarn", *name);
                        return FALSE;
                }
                if (table[i].needs && access(table[i].needs, F_OK) < 0) {
                        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                                    "lockspace_flags: “%s” cannot be had: %s", *name, table[i].why_not);
                        return FALSE;
                }
                flags |= table[i].flag;
        }
        *ret_flags = flags;
        return TRUE;
}
