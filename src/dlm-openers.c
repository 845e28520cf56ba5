#include "dlm-openers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* opendir(3), by directory descriptor. */
static DIR *open_folder(int parent, const char *name)
{
        int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);

        if (!dir && fd >= 0)
                close(fd);
        return dir;
}

static int next_number(DIR *dir, const char **ret_name)
{
        struct dirent *entry;

        while ((entry = readdir(dir)))
                if (g_ascii_isdigit(entry->d_name[0])) {
                        *ret_name = entry->d_name;
                        return atoi(entry->d_name);
                }
        return -1;
}

static gboolean is_descriptor_of(int folder, const char *number, dev_t rdev)
{
        struct statx stx;
        char first;

        /* Sockets and the like have no path. */
        if (readlinkat(folder, number, &first, 1) != 1 || first != '/')
                return FALSE;
        /* What the kernel knows: a dead file server must not hold us up. */
        return statx(folder, number, AT_STATX_DONT_SYNC, STATX_TYPE, &stx) == 0 && S_ISCHR(stx.stx_mode) &&
               makedev(stx.stx_rdev_major, stx.stx_rdev_minor) == rdev;
}

static gboolean has_table_open(int tasks, const char *task, dev_t rdev)
{
        char path[32];
        const char *number;
        gboolean is_open = FALSE;
        DIR *fds;

        g_snprintf(path, sizeof(path), "%s/fd", task);
        fds = open_folder(tasks, path);
        while (fds && !is_open && next_number(fds, &number) >= 0)
                is_open = is_descriptor_of(dirfd(fds), number, rdev);
        if (fds)
                closedir(fds);
        return is_open;
}

/* A thread may have a table of its own, as ours have. */
static gboolean has_process_open(int proc, const char *name, pid_t pid, dev_t rdev)
{
        char path[32];
        const char *task;
        gboolean is_open = FALSE;
        DIR *tasks;
        pid_t tid;

        g_snprintf(path, sizeof(path), "%s/task", name);
        tasks = open_folder(proc, path);
        while (tasks && !is_open && (tid = next_number(tasks, &task)) >= 0)
                if (tid == pid || syscall(SYS_kcmp, pid, tid, KCMP_FILES, 0, 0) != 0)
                        is_open = has_table_open(dirfd(tasks), task, rdev);
        if (tasks)
                closedir(tasks);
        return is_open;
}

gboolean dlm_openers_exist(dev_t rdev)
{
        DIR *proc = opendir("/proc");
        const char *name;
        gboolean exist = FALSE;
        pid_t pid;

        while (proc && !exist && (pid = next_number(proc, &name)) >= 0)
                if (pid != getpid())
                        exist = has_process_open(dirfd(proc), name, pid, rdev);
        if (proc)
                closedir(proc);
        return exist;
}
