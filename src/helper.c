#include "helper.h"
#include "lockspacefs.h"
#include "mount-look.h"
#include "mount-table.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_S 2                              /* for a mount to say whose it is */
#define KILL_S 1                                /* for a process to end that is killed */
#define END_S 60                                /* for the daemon to release its lockspaces and end */

Helper helper_of(const char *program)
{
        g_autofree char *name = g_path_get_basename(program);

        return g_str_has_prefix(name, "mount.") ? HELPER_MOUNT : g_str_has_prefix(name, "umount.") ? HELPER_UMOUNT : HELPER_NONE;
}

/* --- mount --- */

/* fsname= takes a comma and a backslash after a backslash. */
static char *fsname_option(const char *source)
{
        GString *option = g_string_new("-ofsname=");

        for (; *source; source++) {
                if (*source == ',' || *source == '\\')
                        g_string_append_c(option, '\\');
                g_string_append_c(option, *source);
        }
        return g_string_free(option, FALSE);
}

gboolean helper_mount_arguments(int argc, char **argv, char ***ret_argv, gboolean *ret_fake, GError **error)
{
        g_autoptr(GPtrArray) ours = g_ptr_array_new_with_free_func(g_free);
        gboolean fake = FALSE;
        int c;

        g_ptr_array_add(ours, g_strdup(argv[0]));
        g_ptr_array_add(ours, NULL);            /* the place of the source, which options may override */
        opterr = 0;
        while ((c = getopt(argc, argv, "fnsvho:t:V")) >= 0)
                switch (c) {
                case 'f':
                        fake = TRUE;
                        break;
                case 'n': case 's': case 'v': case 't':
                        break;                  /* no mtab, sloppy, verbose, a type that we know */
                case 'o':
                        g_ptr_array_add(ours, g_strdup("-o"));
                        g_ptr_array_add(ours, g_strdup(optarg));
                        break;
                case 'h': case 'V':
                        g_ptr_array_add(ours, g_strdup_printf("-%c", c));
                        break;
                default:
                        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_UNKNOWN_OPTION,
                                    "unknown option \"-%c\": mount(8) gives its helpers -f, -n, -s, -v, -o and -t", optopt);
                        return FALSE;
                }
        if (argc - optind > 2) {
                g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "one source and one mount point only, not \"%s\" as well",
                            argv[optind + 2]);
                return FALSE;
        }
        ours->pdata[1] = fsname_option(argc - optind == 2 ? argv[optind++] : "none");
        if (optind < argc)
                g_ptr_array_add(ours, g_strdup(argv[optind]));
        g_ptr_array_add(ours, NULL);
        *ret_argv = (char **)g_ptr_array_free(g_steal_pointer(&ours), FALSE);
        *ret_fake = fake;
        return TRUE;
}

/* --- umount --- */

typedef struct Mounted {                        /* what a mount says of itself */
        pid_t pid;                              /* of its daemon; 0: it does not say */
        dev_t device;
} Mounted;

/* The mount, at a place that is ours alone if we may make one: a look that hangs at the real one makes it busy. */
static int open_mount(const char *mountpoint)
{
        const int fd = open_tree(AT_FDCWD, mountpoint, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);

        return fd >= 0 ? fd : open(mountpoint, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* In a process of its own, which may hang in a mount that does not answer. */
static int look(const char *mountpoint, int fd)
{
        const int root = open_mount(mountpoint);
        g_autofree char *text = NULL;
        Mounted mounted = { 0 };
        size_t left = MOUNT_LOOK_MAX;
        const char *line;
        struct stat st;

        if (root < 0)
                return EXIT_FAILURE;
        if (fstat(root, &st) == 0 && mount_look_read(root, LOCKSPACEFS_STATUS, &left, &text) == 0 && (line = strstr(text, "\npid "))) {
                mounted.pid = atoi(line + strlen("\npid "));
                mounted.device = st.st_dev;
        }
        close(root);
        return write(fd, &mounted, sizeof(mounted)) == sizeof(mounted) ? EXIT_SUCCESS : EXIT_FAILURE;
}

static gboolean wait_for_end(int pidfd, int seconds)
{
        struct pollfd event = { .fd = pidfd, .events = POLLIN };
        int r;

        do
                r = poll(&event, 1, seconds * 1000);
        while (r < 0 && errno == EINTR);
        return r > 0;
}

/* FALSE: it says nothing. */
static gboolean ask_mount(const char *mountpoint, Mounted *ret_mounted)
{
        Mounted mounted;
        gboolean ok;
        int fd, pidfd;
        pid_t child;

        child = mount_look_fork(&fd);
        if (child == 0)
                _exit(look(mountpoint, fd));
        if (child < 0)
                return FALSE;
        pidfd = syscall(SYS_pidfd_open, child, 0);
        ok = wait_for_end(pidfd, ANSWER_S);
        if (!ok) {
                kill(child, SIGKILL);
                wait_for_end(pidfd, KILL_S);
        }
        waitpid(child, NULL, WNOHANG);
        ok = ok && read(fd, &mounted, sizeof(mounted)) == sizeof(mounted);
        if (ok)
                *ret_mounted = mounted;
        close(pidfd);
        close(fd);
        return ok;
}

/* It was bound to another place as well, or is there in another mount namespace:
 * the kernel's list of connections has it until the last of them is gone. */
static gboolean is_mounted_elsewhere(dev_t device)
{
        g_autofree char *connection = g_strdup_printf("/sys/fs/fuse/connections/%u", minor(device));

        return access(connection, F_OK) == 0 || mount_table_has(device);
}

/* A pidfd of the daemon behind a mount; negative: not to be found. */
static int open_daemon(const char *mountpoint, dev_t *ret_device)
{
        g_autofree char *comm_path = NULL, *comm = NULL;
        Mounted mounted;
        int fd;

        if (!ask_mount(mountpoint, &mounted) || mounted.pid <= 0)
                return -1;
        fd = syscall(SYS_pidfd_open, mounted.pid, 0);
        /* It may be in other namespaces, or lie: what has another name is not waited for. */
        comm_path = g_strdup_printf("/proc/%d/comm", (int)mounted.pid);
        if (fd >= 0 && (!g_file_get_contents(comm_path, &comm, NULL, NULL) || !g_str_equal(comm, "lockspacefs\n"))) {
                close(fd);
                return -1;
        }
        *ret_device = mounted.device;
        return fd;
}

static int wait_for_daemon(int pidfd, const char *mountpoint)
{
        if (wait_for_end(pidfd, END_S))
                return EXIT_SUCCESS;
        fprintf(stderr, "umount: %s is unmounted, but after %d seconds lockspacefs is still releasing its lockspaces\n", mountpoint, END_S);
        return EXIT_HELPER_FAILURE;
}

/* An ordinary user's mount is fusermount3's, with its own words for what is wrong. */
static int unmount_by_fusermount(const char *mountpoint, gboolean lazy)
{
        const char *argv[] = { "fusermount3", "-u", lazy ? "-z" : "--", mountpoint, NULL };
        g_autoptr(GError) error = NULL;
        int status;

        if (g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status, &error))
                return g_spawn_check_wait_status(status, NULL) ? EXIT_SUCCESS : EXIT_HELPER_FAILURE;
        fprintf(stderr, "umount: %s: %s\n", mountpoint, error->message);
        return EXIT_HELPER_FAILURE;
}

static int unmount(const char *mountpoint, int flags)
{
        if (getuid() != 0)
                return unmount_by_fusermount(mountpoint, (flags & MNT_DETACH) != 0);
        if (umount2(mountpoint, flags) == 0)
                return EXIT_SUCCESS;
        fprintf(stderr, "umount: %s: %s\n", mountpoint,
                errno == EBUSY ? "files are open there, their locks may be held; fuser -m tells whose" : g_strerror(errno));
        return EXIT_HELPER_FAILURE;
}

int helper_umount(int argc, char **argv)
{
        int flags = UMOUNT_NOFOLLOW, c, pidfd, status;
        dev_t device = 0;

        opterr = 0;
        while ((c = getopt(argc, argv, "flnrvt:")) >= 0)
                switch (c) {
                case 'f':
                        flags |= MNT_FORCE;
                        break;
                case 'l':
                        flags |= MNT_DETACH;
                        break;
                case 'n': case 'r': case 'v': case 't':
                        break;
                default:
                        fprintf(stderr, "%s: unknown option \"-%c\"\n", argv[0], optopt);
                        return EXIT_HELPER_USAGE;
                }
        if (argc - optind != 1) {
                fprintf(stderr, "Usage: %s MOUNTPOINT [-fl]\n", argv[0]);
                return EXIT_HELPER_USAGE;
        }
        /* After a lazy one the daemon stays as long as files are open, after a forced one who knows. */
        pidfd = flags & (MNT_DETACH | MNT_FORCE) ? -1 : open_daemon(argv[optind], &device);
        status = unmount(argv[optind], flags);
        if (status == EXIT_SUCCESS && pidfd >= 0 && !is_mounted_elsewhere(device))
                status = wait_for_daemon(pidfd, argv[optind]);
        return status;
}
