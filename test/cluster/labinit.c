/*
 * labinit is PID 1 of a lab node. It makes a machine of its own out of the
 * host's root, starts the cluster stack, and then runs what the host asks for.
 *
 * The root: the kernel mounts the host's root read-only through hostfs. We put
 * a tmpfs in its place and bind the host's folders into it, so that /dlm, or
 * any other mount point, can be made, and whatever a node has to write lies on
 * small file systems of its own. One folder is shared with the host and
 * writable: the share, named by share=DIR on the kernel command line. What
 * else the host has to say is in its file "options", NAME=VALUE a line, which
 * becomes our environment:
 *
 *   LAB_NODE LAB_NODES   this node's number, the cluster's size
 *   LAB_DIRS             folders of the host to see, read-only, even where a
 *                        file system of ours hides them; with colons between
 *   LAB_MODULES          further modules for a kernel that has any: paths
 *                        below its kernel/ folder without .ko, with commas
 *   LAB_CLUSTER          none, corosync or dlm: how far to go; or systemd: that
 *                        takes our place as PID 1, in a machine whose /usr,
 *                        /etc and /var can be written to, and we stay to obey.
 *                        It has corosync.service and dlm.service to start
 *   LAB_AWAIT            members to wait for before the node is ready
 *   LAB_TOKEN            corosync's token timeout in milliseconds
 *   LAB_QUORUM           dlm_controld's --enable_quorum_lockspace, 0 or 1
 *
 * When the node is ready a file "ready" appears, and "failed" with the reason
 * if something went wrong. From then on files are orders:
 *
 *   ID.cmd        a shell script: /bin/sh runs it in a session of its own. In
 *                 the folder jobs are then ID.run, the script; ID.pid; its
 *                 output, ID.out and ID.err; and in the end ID.rc, its status
 *   ID.pipe       the same, with a standard input that stays open
 *   ID.N.in       the Nth piece of that input, counting from 0; removed when
 *                 the pipe has taken it
 *   ID.eof        the end of that input; to be given when the pieces are gone
 *   ID.SIG.kill   send signal number SIG to the script's process group
 *
 * An order is gone when it has been taken, so that there are few to look at.
 * Polling readdir() is what works: hostfs asks the host each time, whereas it
 * never looks again at the size of a file that is in use. In the other
 * direction a page that a job wrote reaches the host when we say so.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS_MAX 256
#define ID_MAX 64
#define INPUT_MAX 4096                          /* PIPE_BUF: a pipe takes such a piece whole or not at all */

static const char *share;

static const char *option(const char *name, const char *fallback)
{
        const char *value = getenv(name);

        return value && *value ? value : fallback;
}

static double uptime(void)
{
        struct timespec t;

        clock_gettime(CLOCK_BOOTTIME, &t);
        return t.tv_sec + t.tv_nsec / 1e9;
}

__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
        va_list args;

        printf("node%s: %6.2f s: ", option("LAB_NODE", "?"), uptime());
        va_start(args, format);
        vprintf(format, args);
        va_end(args);
        putchar('\n');
        fflush(stdout);
}

/* --- files --- */

static bool put(const char *path, const char *text)
{
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t) strlen(text);

        if (!written)
                say("%s: %s", path, strerror(errno));
        if (fd >= 0)
                close(fd);
        return written;
}

/* The beginning of a file, valid until the next call; empty if there is none. */
static char *get(const char *path)
{
        static char content[32768];
        ssize_t n, length = 0;
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        while (fd >= 0 && (n = read(fd, content + length, sizeof(content) - 1 - length)) > 0)
                length += n;
        if (fd >= 0)
                close(fd);
        content[length] = '\0';
        return content;
}

/* Tell the host that the node will not come up. */
__attribute__((format(printf, 1, 2)))
static void fail(const char *format, ...)
{
        char why[1024], path[PATH_MAX];
        va_list args;

        va_start(args, format);
        vsnprintf(why, sizeof(why), format, args);
        va_end(args);
        say("FAILED: %s", why);
        snprintf(path, sizeof(path), "%s/failed", share);
        put(path, why);
}

/* --- file systems --- */

static void mount_on(const char *type, const char *where, const char *data)
{
        mkdir(where, 0755);
        if (mount(type, where, type, 0, data) < 0)
                say("mount %s on %s: %s", type, where, strerror(errno));
}

/* A folder of the host at its own path, unless it is to be seen there already. */
static void mount_host(const char *directory, unsigned long flags)
{
        char path[PATH_MAX];

        if ((flags & MS_RDONLY) && access(directory, F_OK) == 0)
                return;
        for (size_t i = 1; directory[i - 1]; i++)
                if (directory[i] == '/' || !directory[i]) {
                        snprintf(path, sizeof(path), "%.*s", (int) i, directory);
                        mkdir(path, 0755);
                }
        if (mount("host", directory, "hostfs", flags, directory) < 0)
                say("mount the host's %s: %s", directory, strerror(errno));
}

/* These get a file system of the node's own at the top of the tree. */
static bool is_own(const char *name)
{
        static const char *const own[] = { "dev", "proc", "sys", "run", "tmp", "mnt", "root", "dlm", "lost+found" };

        for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
                if (strcmp(own[i], name) == 0)
                        return true;
        return false;
}

static void bind_host(const char *name)
{
        char path[NAME_MAX + 2], here[NAME_MAX + 8], target[PATH_MAX];
        struct stat st;
        ssize_t n;

        snprintf(path, sizeof(path), "/%s", name);
        snprintf(here, sizeof(here), "/mnt/%s", name);
        if (lstat(path, &st) < 0)
                return;
        if (S_ISLNK(st.st_mode)) {
                n = readlink(path, target, sizeof(target) - 1);
                if (n < 0)
                        return;
                target[n] = '\0';
                if (symlink(target, here) < 0)
                        say("symlink %s: %s", here, strerror(errno));
        } else if (S_ISDIR(st.st_mode)) {
                mkdir(here, 0755);
                if (!is_own(name) && mount(path, here, NULL, MS_BIND, NULL) < 0)
                        say("bind %s: %s", path, strerror(errno));
        }
}

/* A root that can be written to takes the place of the host's. */
static void make_root(void)
{
        struct dirent *entry;
        DIR *root;

        mount_on("tmpfs", "/mnt", "mode=0755");
        root = opendir("/");
        while (root && (entry = readdir(root)))
                if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                        bind_host(entry->d_name);
        if (root)
                closedir(root);
        mkdir("/mnt/dlm", 0755);
        mkdir("/mnt/dev", 0755);
        if (mount("/dev", "/mnt/dev", NULL, MS_MOVE, NULL) < 0)
                mount_on("devtmpfs", "/mnt/dev", "");
        if (chdir("/mnt") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
                fail("a root of its own: %s", strerror(errno));
}

static void make_devices(void)
{
        mount_on("devpts", "/dev/pts", "mode=620,gid=5");
        mount_on("tmpfs", "/dev/shm", "mode=1777");
        mount("mqueue", "/dev/mqueue", "mqueue", 0, "");        /* needs its folder: not there, not missed */
        if (symlink("/proc/self/fd", "/dev/fd") < 0 || symlink("fd/0", "/dev/stdin") < 0 ||
            symlink("fd/1", "/dev/stdout") < 0 || symlink("fd/2", "/dev/stderr") < 0)
                say("links in /dev: %s", strerror(errno));
}

static void load_module(const char *name);

static bool is_for_systemd(void)
{
        return strcmp(option("LAB_CLUSTER", "dlm"), "systemd") == 0;
}

/* What is written to a folder of the host's stays in the node. */
static void make_writable(const char *name)
{
        char lower[64], upper[64], work[64], data[256];

        snprintf(lower, sizeof(lower), "/%s", name);
        snprintf(upper, sizeof(upper), "/overlay/%s", name);
        snprintf(work, sizeof(work), "/overlay/%s.work", name);
        mkdir("/overlay", 0755);
        mkdir(upper, 0755);
        mkdir(work, 0755);
        snprintf(data, sizeof(data), "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
        if (mount("overlay", lower, "overlay", 0, data) < 0)
                fail("overlay on %s: %s", lower, strerror(errno));
}

/* As just installed: the host's mounts and enabled services are none of ours. */
static void make_machine(void)
{
        char path[PATH_MAX], target[PATH_MAX];
        struct utsname u;

        if (access("/proc/modules", F_OK) == 0)
                load_module("fs/overlayfs/overlay");
        make_writable("usr");
        make_writable("etc");
        make_writable("var");
        uname(&u);
        snprintf(target, sizeof(target), "/usr/lib/uml/modules/%s", u.release);
        snprintf(path, sizeof(path), "/usr/lib/modules/%s", u.release);
        mkdir("/usr/lib/modules", 0755);
        if (symlink(target, path) < 0)
                say("%s: %s", path, strerror(errno));
        mount_on("tmpfs", "/etc/systemd/system", "mode=0755");
        put("/etc/fstab", "");
        put("/etc/tmpfiles.d/tmp.conf", "");                    /* would empty /tmp, and the share is there */
        put("/etc/default/dlm", "DLM_CONTROLD_OPTS=\"--enable_fencing 0\"\n");
}

static void make_file_systems(void)
{
        static const struct {
                const char *path, *options;
        } own[] = {
                { "/run", "mode=0755" },
                { "/tmp", "mode=1777" },
                { "/mnt", "mode=0755" },
                { "/root", "mode=0755" },
                { "/var/tmp", "mode=1777" },
                { "/var/log", "mode=0755" },
                { "/var/lib/corosync", "mode=0755" },
                { "/etc/corosync", "mode=0755" },
                { "/lib/udev/rules.d", "mode=0755" },
        };
        char *rule, *dirs, *next;

        make_root();
        mount_on("proc", "/proc", "");
        mount_on("sysfs", "/sys", "");
        make_devices();
        if (is_for_systemd())
                make_machine();

        rule = strdup(get("/lib/udev/rules.d/51-dlm.rules"));
        for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
                mount_on("tmpfs", own[i].path, own[i].options);
        put("/lib/udev/rules.d/51-dlm.rules", rule);            /* libdlm's, and no other: the rest costs a second */
        free(rule);

        mount_host(share, 0);                                  
        if (chdir(share) < 0)
                fail("%s: %s", share, strerror(errno));
        dirs = strdup(option("LAB_DIRS", ""));
        for (char *dir = strtok_r(dirs, ":", &next); dir; dir = strtok_r(NULL, ":", &next))
                mount_host(dir, MS_RDONLY);
        free(dirs);
}

/* The share is still to be seen in the host's root. */
static void read_options(void)
{
        char path[PATH_MAX], *next;

        snprintf(path, sizeof(path), "%s/options", share);
        for (char *line = strtok_r(strdup(get(path)), "\n", &next); line; line = strtok_r(NULL, "\n", &next))
                putenv(line);                                   /* lives as long as we do */
}

/* --- the network --- */

static void set_address(const char *device, const char *address)
{
        struct ifreq request = { 0 };
        struct sockaddr_in *in = (struct sockaddr_in *) &request.ifr_addr;
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        strcpy(request.ifr_name, device);
        in->sin_family = AF_INET;
        inet_pton(AF_INET, address, &in->sin_addr);
        if (ioctl(fd, SIOCSIFADDR, &request) < 0)
                fail("%s: %s", device, strerror(errno));
        inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
        ioctl(fd, SIOCSIFNETMASK, &request);
        request.ifr_flags = IFF_UP | IFF_RUNNING;
        ioctl(fd, SIOCSIFFLAGS, &request);
        close(fd);
}

static void make_network(void)
{
        char text[64];

        snprintf(text, sizeof(text), "node%s", option("LAB_NODE", "1"));
        sethostname(text, strlen(text));
        set_address("lo", "127.0.0.1");
        snprintf(text, sizeof(text), "10.99.0.%s", option("LAB_NODE", "1"));
        set_address("eth0", text);
}

/* --- programs --- */

/* Run one to its end. @output, when given, gets what it printed. */
static int run(char *output, size_t size, const char *const argv[])
{
        int status, pipe_fds[2] = { -1, -1 };
        size_t length = 0;
        ssize_t n;
        pid_t pid;

        if (output && pipe2(pipe_fds, O_CLOEXEC) < 0)
                return -1;
        pid = vfork();
        if (pid == 0) {
                /* corosync raises the priority of its whole process group; ours
                 * has the kernel's threads and all that is started later */
                setpgid(0, 0);
                if (output) {
                        dup2(pipe_fds[1], 1);
                        dup2(pipe_fds[1], 2);
                }
                execv(argv[0], (char *const *) argv);
                _exit(127);
        }
        if (output) {
                close(pipe_fds[1]);
                while (length < size - 1 && (n = read(pipe_fds[0], output + length, size - 1 - length)) > 0)
                        length += n;
                output[length] = '\0';
                close(pipe_fds[0]);
        }
        if (pid < 0)
                return -1;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define RUN(...) run(NULL, 0, (const char *const []) { __VA_ARGS__, NULL })

/* --- the kernel's part --- */

static void load_module(const char *name)
{
        char path[PATH_MAX];
        struct utsname u;
        int fd;

        uname(&u);
        snprintf(path, sizeof(path), "/usr/lib/uml/modules/%s/kernel/%s.ko", u.release, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
                fail("module %s: %s", path, strerror(errno));
        if (fd >= 0)
                close(fd);
}

static void load_modules(void)
{
        char *modules, *next;

        load_module("fs/configfs/configfs");
        load_module("fs/dlm/dlm");
        load_module("fs/fuse/fuse");
        modules = strdup(option("LAB_MODULES", ""));
        for (char *module = strtok_r(modules, ",", &next); module; module = strtok_r(NULL, ",", &next))
                load_module(module);
        free(modules);
}

/* udevd runs before the modules come, so that it hears of their devices; of
 * those a kernel has built in it must be told. */
static void make_kernel(void)
{
        RUN("/lib/systemd/systemd-udevd", "--daemon");
        if (access("/proc/modules", F_OK) == 0)
                load_modules();
        else
                RUN("/bin/udevadm", "trigger", "--action=add", "--subsystem-match=misc");
        mount_on("configfs", "/sys/kernel/config", "");
        mount_on("fusectl", "/sys/fs/fuse/connections", "");
        if (access("/sys/kernel/debug", F_OK) == 0)
                mount_on("debugfs", "/sys/kernel/debug", "");
        if (chmod("/dev/fuse", 0666) < 0)                       /* as udev's own rules would */
                fail("/dev/fuse: %s", strerror(errno));
}

/* --- the cluster --- */

static void write_corosync_conf(int nodes)
{
        FILE *f = fopen("/etc/corosync/corosync.conf", "we");

        if (!f) {
                fail("corosync.conf: %s", strerror(errno));
                return;
        }
        /* Without the coefficient, corosync adds 650 ms to the token for each
         * node from the third on. With its real-time priority it starves, on
         * the one CPU that a node has, the ksoftirqd that it gets its own
         * messages from: one start in three ended in endless elections. */
        fprintf(f,
                "totem {\n  version: 2\n  cluster_name: lab\n  transport: udpu\n  token: %s\n  token_coefficient: 0\n"
                "  crypto_cipher: none\n  crypto_hash: none\n}\nsystem {\n  sched_rr: no\n  priority: max\n}\n",
                option("LAB_TOKEN", "500"));
        fprintf(f, "quorum {\n  provider: corosync_votequorum\n  expected_votes: %d\n%s}\n", nodes,
                nodes == 2 ? "  two_node: 1\n  wait_for_all: 0\n" : "");
        fprintf(f, "logging {\n  to_logfile: yes\n  logfile: /var/log/corosync.log\n  to_syslog: no\n"
                   "  to_stderr: no\n  timestamp: hires\n}\nnodelist {\n");
        for (int i = 1; i <= nodes; i++)
                fprintf(f, "  node {\n    ring0_addr: 10.99.0.%d\n    name: node%d\n    nodeid: %d\n  }\n", i, i, i);
        fprintf(f, "}\n");
        fclose(f);
}

static pid_t start_controld(void)
{
        const char *const quorum = option("LAB_QUORUM", "1");
        pid_t pid = fork();

        if (pid == 0) {
                execl("/usr/sbin/dlm_controld", "dlm_controld", "--foreground", "1", "--enable_fencing", "0",
                      "--enable_quorum_lockspace", quorum, NULL);
                _exit(127);
        }
        say("dlm_controld");
        return pid;
}

/* The members that `dlm_tool status` shows: lines "node I M …". */
static int count_members(const char *status)
{
        int members = 0;

        for (const char *line = status; (line = strstr(line, "\nnode ")); line++) {
                const char *member = strstr(line, " M ");

                if (member && member < strchrnul(line + 1, '\n'))
                        members++;
        }
        return members;
}

/* FALSE: it did not come up. */
static bool start_corosync(void)
{
        if (RUN("/usr/sbin/corosync") != 0) {
                fail("corosync did not start");
                return false;
        }
        say("corosync");
        return true;
}

/* We are its parent, as it is a daemon. */
static bool corosync_has_ended(void)
{
        const pid_t pid = atoi(get("/run/corosync.pid"));

        return pid > 0 && waitpid(pid, NULL, WNOHANG) == pid;
}

static bool corosync_serves(void)
{
        return strstr(get("/var/log/corosync.log"), "ready to provide service") && access("/dev/misc/dlm_plock", F_OK) == 0;
}

static void make_cluster(void)
{
        static const char *const dlm_tool[] = { "/usr/sbin/dlm_tool", "status", NULL };
        const char *cluster = option("LAB_CLUSTER", "dlm");
        int wanted = atoi(option("LAB_AWAIT", "1"));
        char status[4096] = "";
        pid_t controld = -1;

        write_corosync_conf(atoi(option("LAB_NODES", "1")));
        if (strcmp(cluster, "none") == 0)
                return;
        if (!start_corosync() || strcmp(cluster, "corosync") == 0)
                return;

        /* corosync returns before it serves, and udev may be slower yet: started
         * now, dlm_controld would die of the one and sleep a second for the other */
        for (int i = 0; i < 2000 && !corosync_serves(); i++)
                usleep(5000);
        say("corosync serves, udev is done");
        for (int i = 0; i < 400; i++) {
                /* the others end a node's corosync when they throw it out, and their
                 * word for that may come as late as now, after a quick start */
                if (corosync_has_ended() && !start_corosync())
                        return;
                if (controld > 0 && waitpid(controld, NULL, WNOHANG) == controld)
                        controld = -1;
                if (controld < 0)
                        controld = start_controld();
                usleep(50000);
                if (run(status, sizeof(status), dlm_tool) == 0 && strstr(status, "quorate 1") &&
                    count_members(status) >= wanted) {
                        say("the DLM is ready\n%s", status);
                        return;
                }
        }
        fail("the DLM is not ready: %s", status);
}

/* It becomes PID 1, and its child waits until it has started everything. */
static void start_systemd(void)
{
        static const char *const is_up[] = { "/bin/systemctl", "is-system-running", NULL };
        char state[256] = "";
        pid_t agent;

        write_corosync_conf(atoi(option("LAB_NODES", "1")));
        agent = fork();
        if (agent != 0) {
                execle("/lib/systemd/systemd", "systemd", "--unit=basic.target", NULL,
                       (char *[]) { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL });
                fail("systemd: %s", strerror(errno));
                _exit(1);
        }
        setsid();
        for (int i = 0; i < 3000; i++) {
                if (run(state, sizeof(state), is_up) == 0 || strncmp(state, "degraded", 8) == 0) {
                        say("systemd: %s", state);
                        return;
                }
                usleep(50000);
        }
        fail("systemd did not come up: %s", state);
}

/* --- the host's orders --- */

typedef struct Job {
        pid_t pid;                              /* 0: the place is free */
        int out, err;
        int input;                              /* the writing end of its stdin, -1: none */
        unsigned next_input;
        char id[ID_MAX];
} Job;

static Job jobs[JOBS_MAX];

static Job *find_job(const char *id)
{
        for (size_t i = 0; i < JOBS_MAX; i++)
                if (jobs[i].pid && strcmp(jobs[i].id, id) == 0)
                        return &jobs[i];
        return NULL;
}

static Job *find_place(void)
{
        for (size_t i = 0; i < JOBS_MAX; i++)
                if (!jobs[i].pid)
                        return &jobs[i];
        return NULL;
}

static int create_file(const char *id, const char *suffix)
{
        char path[ID_MAX + 16];

        snprintf(path, sizeof(path), "jobs/%s.%s", id, suffix);
        return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
}

/* Dirty pages to the host's file, without the fsync(2) that the host would do. */
static void flush(int fd)
{
        sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
}

static void report(const char *id, const char *what, int number)
{
        char unfinished[ID_MAX + 16], path[ID_MAX + 16];
        int fd = create_file(id, "new");

        if (fd >= 0) {
                dprintf(fd, "%d\n", number);
                close(fd);
        }
        snprintf(unfinished, sizeof(unfinished), "jobs/%s.new", id);
        snprintf(path, sizeof(path), "jobs/%s.%s", id, what);
        rename(unfinished, path);
}

static void run_job(const Job *job, int input, const char *script)
{
        setsid();
        dup2(input, 0);
        dup2(job->out, 1);
        dup2(job->err, 2);
        if (chdir("/tmp") == 0)
                execl("/bin/sh", "sh", script, NULL);
        _exit(127);
}

/* Without a free place the order stays where it is, until there is one. */
static void start_job(const char *id, const char *order, bool piped)
{
        char script[PATH_MAX];
        int ends[2] = { -1, -1 };
        Job *job = find_place();

        if (!job)
                return;
        snprintf(script, sizeof(script), "%s/jobs/%s.run", share, id);
        if (rename(order, script) < 0)
                return;
        if (!piped || pipe2(ends, O_CLOEXEC) < 0)
                ends[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        else
                fcntl(ends[1], F_SETFL, O_NONBLOCK);
        *job = (Job) { .input = ends[1] };
        snprintf(job->id, sizeof(job->id), "%s", id);
        job->out = create_file(id, "out");
        job->err = create_file(id, "err");
        job->pid = vfork();
        if (job->pid == 0)
                run_job(job, ends[0], script);
        close(ends[0]);
        if (job->pid < 0) {
                job->pid = 0;
                report(id, "rc", 126);
        } else
                report(id, "pid", job->pid);
}

static void end_input(Job *job)
{
        if (job->input >= 0)
                close(job->input);
        job->input = -1;
}

static void feed_job(Job *job, const char *order, unsigned piece)
{
        char text[INPUT_MAX];
        ssize_t length = 0;
        int fd;

        if (piece != job->next_input)
                return;                         /* its turn comes */
        fd = open(order, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
                length = read(fd, text, sizeof(text));
                close(fd);
        }
        if (job->input >= 0 && length > 0 && write(job->input, text, length) < 0 && errno == EAGAIN)
                return;                         /* it does not read just now */
        job->next_input++;
        unlink(order);
}

static void end_job(Job *job, int status)
{
        flush(job->out);
        flush(job->err);
        close(job->out);
        close(job->err);
        end_input(job);
        report(job->id, "rc", WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
        job->pid = 0;
}

static void reap(void)
{
        int status;
        pid_t pid;

        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
                for (size_t i = 0; i < JOBS_MAX; i++)
                        if (jobs[i].pid == pid)
                                end_job(&jobs[i], status);
}

/* @order is ID.WHAT or ID.NUMBER.WHAT */
static void obey(const char *order)
{
        char id[ID_MAX], what[8];
        unsigned number;
        Job *job;

        if (sscanf(order, "%63[^.].%u.%7[a-z]", id, &number, what) == 3) {
                job = find_job(id);
                if (strcmp(what, "in") == 0 && job)
                        feed_job(job, order, number);
                else if (strcmp(what, "kill") == 0) {
                        unlink(order);          /* before it acts: the next one has the same name */
                        if (job)
                                kill(-job->pid, number);
                }
        } else if (sscanf(order, "%63[^.].%7[a-z]", id, what) == 2) {
                if (strcmp(what, "cmd") == 0 || strcmp(what, "pipe") == 0)
                        start_job(id, order, strcmp(what, "pipe") == 0);
                else if (strcmp(what, "eof") == 0 && (job = find_job(id))) {
                        end_input(job);
                        unlink(order);
                }
        }
}

static bool serve_once(void)
{
        DIR *directory = opendir(".");
        struct dirent *entry;
        bool busy = false;

        while (directory && (entry = readdir(directory)))
                obey(entry->d_name);
        if (directory)
                closedir(directory);
        reap();
        for (size_t i = 0; i < JOBS_MAX; i++)
                if (jobs[i].pid) {
                        flush(jobs[i].out);
                        flush(jobs[i].err);
                        busy = true;
                }
        return busy;
}

int main(void)
{
        static const struct rlimit files = { .rlim_cur = 65536, .rlim_max = 65536 };
        char now[32];

        share = option("share", "/mnt");
        setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
        setenv("HOME", "/root", 1);
        setenv("LC_ALL", "C.UTF-8", 1);
        unsetenv("TERM");
        umask(022);
        setrlimit(RLIMIT_NOFILE, &files);
        signal(SIGPIPE, SIG_IGN);

        read_options();
        make_file_systems();
        make_network();
        say("file systems and network");
        if (is_for_systemd())
                start_systemd();
        else {
                make_kernel();
                say("udev and modules");
                make_cluster();
        }

        snprintf(now, sizeof(now), "%.2f\n", uptime());
        put("ready.new", now);
        rename("ready.new", "ready");
        for (;;)
                usleep(serve_once() ? 5000 : 10000);
}
