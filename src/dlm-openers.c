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

/* What is gone meanwhile has nothing open; nor has, as far as we may know, what we
 * may not see. Else we cannot tell, and must not say that nobody is there. */
static int result_of(int error)
{
        return error == ENOENT || error == ESRCH || error == EACCES || error == EPERM || error == ENOTDIR ? 0 : -error;
}

/* opendir(3), by directory descriptor. 0: @ret_dir, NULL when there is none; or -errno. */
static int open_folder(int parent, const char *name, DIR **ret_dir)
{
        int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

        *ret_dir = fd < 0 ? NULL : fdopendir(fd);
        if (*ret_dir)
                return 0;
        r = result_of(errno);
        if (fd >= 0)
                close(fd);
        return r;
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

/* These say 1 or 0, or -errno: it cannot be told. */

static int has_table_open(int tasks, const char *task, dev_t rdev)
{
        char path[32];
        const char *number;
        DIR *fds;
        int r;

        g_snprintf(path, sizeof(path), "%s/fd", task);
        r = open_folder(tasks, path, &fds);
        while (fds && r == 0 && next_number(fds, &number) >= 0)
                r = is_descriptor_of(dirfd(fds), number, rdev);
        if (fds)
                closedir(fds);
        return r;
}

/* A thread may have a table of its own, as ours have. */
static int has_process_open(int proc, const char *name, pid_t pid, dev_t rdev)
{
        char path[32];
        const char *task;
        DIR *tasks;
        pid_t tid;
        int r;

        g_snprintf(path, sizeof(path), "%s/task", name);
        r = open_folder(proc, path, &tasks);
        while (tasks && r == 0 && (tid = next_number(tasks, &task)) >= 0)
                if (tid == pid || syscall(SYS_kcmp, pid, tid, KCMP_FILES, 0, 0) != 0)
                        r = has_table_open(dirfd(tasks), task, rdev);
        if (tasks)
                closedir(tasks);
        return r;
}

int dlm_openers_exist(dev_t rdev)
{
        const char *name;
        pid_t pid;
        DIR *proc;
        int r;

        r = open_folder(AT_FDCWD, "/proc", &proc);
        while (proc && r == 0 && (pid = next_number(proc, &name)) >= 0)
                if (pid != getpid())
                        r = has_process_open(dirfd(proc), name, pid, rdev);
        if (proc)
                closedir(proc);
        return r;
}
