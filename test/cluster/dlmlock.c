/*
 * dlmlock: another program that uses a lockspace. It asks the kernel's DLM for
 * locks by hand, as <linux/dlm_device.h> describes, and prints what comes back
 * as it comes. Its locks go with it, so killing it is a way of dropping them.
 */
static const char usage[] =
        "usage: dlmlock LOCKSPACE [COMMAND]...\n"
        "\n"
        "Each argument is a command; then they are read from standard input, one a\n"
        "line. At its end dlmlock holds what it has until it is killed.\n"
        "\n"
        "  lock NAME RESOURCE MODE [FLAG]... [value=TEXT] [bast]\n"
        "                        ask for a lock, called NAME from here on\n"
        "  convert NAME MODE [FLAG]... [value=TEXT] [bast]\n"
        "  unlock NAME [FLAG]... [value=TEXT]\n"
        "  cancel NAME\n"
        "  wait                  until every request so far is answered\n"
        "  sleep SECONDS\n"
        "  quit                  status 1 if any request ended in an error\n"
        "\n"
        "MODE is NL, CR, CW, PR, PW or EX. A FLAG is that of <linux/dlmconstants.h> in\n"
        "lower case: noqueue, valblk, quecvt, ivvalblk, convdeadlk, expedite,\n"
        "noqueuebast, headque, noorder, forceunlock. value= implies valblk.\n"
        "\n"
        "It prints \"SECONDS NAME WHAT\", where WHAT is asked, granted MODE, unlocked,\n"
        "cancelled, blocking MODE, or the name of an errno; after granted, value=TEXT\n"
        "where a value block came, and DEMOTED or VALNOTVALID.\n";

#include <errno.h>
#include <fcntl.h>
#include <linux/dlm.h>
#include <linux/dlm_device.h>
#include <linux/dlmconstants.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOCKS_MAX 1024
#define WORDS_MAX 16
#define IS_AST ((void *) 1)                     /* what the kernel hands back tells a completion … */
#define IS_BAST ((void *) 2)                    /* … from a blocking callback */

typedef struct Lock {                           /* its cookie is its index */
        char name[32];
        uint32_t id;
        int mode;                               /* granted, or wanted while busy */
        bool busy;                              /* asked, not answered */
} Lock;

typedef struct Request {                        /* the arguments of a command, after what it is about */
        int mode;
        uint32_t flags;
        bool bast;
        char value[DLM_USER_LVB_LEN];
} Request;

static const char *const modes[] = { "NL", "CR", "CW", "PR", "PW", "EX" };

static const struct {
        const char *name;
        uint32_t flag;
} flags[] = {
        { "noqueue", DLM_LKF_NOQUEUE },
        { "valblk", DLM_LKF_VALBLK },
        { "quecvt", DLM_LKF_QUECVT },
        { "ivvalblk", DLM_LKF_IVVALBLK },
        { "convdeadlk", DLM_LKF_CONVDEADLK },
        { "expedite", DLM_LKF_EXPEDITE },
        { "noqueuebast", DLM_LKF_NOQUEUEBAST },
        { "headque", DLM_LKF_HEADQUE },
        { "noorder", DLM_LKF_NOORDER },
        { "forceunlock", DLM_LKF_FORCEUNLOCK },
};

static Lock locks[LOCKS_MAX];                   /* number 0 stays empty: a cookie is never 0 */
static size_t n_locks = 1;
static int device;
static double started;
static bool failed;

static double now(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec + t.tv_nsec / 1e9;
}

static const char *errno_name(int error)
{
        const char *name = strerrorname_np(abs(error));

        return name ? name : "unknown error";
}

static void say(const Lock *lock, const char *what, const char *more)
{
        printf("%.4f %s %s%s%s\n", now() - started, lock->name, what, *more ? " " : "", more);
        fflush(stdout);
}

static void say_failed(const Lock *lock, int error)
{
        failed = true;
        say(lock, errno_name(error), "");
}

__attribute__((noreturn))
static void give_up(const char *what, const char *why)
{
        fprintf(stderr, "dlmlock: %s: %s\n", what, why);
        exit(2);
}

/* --- commands --- */

static Lock *find_lock(const char *name)
{
        for (size_t i = 1; i < n_locks; i++)
                if (strcmp(locks[i].name, name) == 0)
                        return &locks[i];
        return NULL;
}

static Lock *get_lock(const char *name)
{
        Lock *lock = find_lock(name);

        if (lock)
                return lock;
        if (n_locks == LOCKS_MAX || strlen(name) >= sizeof(lock->name))
                give_up(name, "no such lock can be made");
        lock = &locks[n_locks++];
        strcpy(lock->name, name);
        return lock;
}

static int parse_mode(const char *word)
{
        for (int i = 0; i < 6; i++)
                if (strcmp(modes[i], word) == 0)
                        return i;
        give_up(word, "no such mode");
}

static void parse_argument(Request *request, const char *word)
{
        if (strcmp(word, "bast") == 0) {
                request->bast = true;
                return;
        }
        if (strncmp(word, "value=", 6) == 0) {
                memcpy(request->value, word + 6, strnlen(word + 6, sizeof(request->value)));
                request->flags |= DLM_LKF_VALBLK;
                return;
        }
        for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
                if (strcmp(flags[i].name, word) == 0) {
                        request->flags |= flags[i].flag;
                        return;
                }
        give_up(word, "no such flag");
}

/* Write a request for @lock to the device: what it says at once, or an id. */
static ssize_t ask(Lock *lock, int command, const Request *request, const char *resource)
{
        char buffer[sizeof(struct dlm_write_request) + DLM_RESNAME_MAXLEN] = { 0 };
        struct dlm_write_request *message = (struct dlm_write_request *) buffer;
        struct dlm_lock_params *params = &message->i.lock;
        void *cookie = (void *) (lock - locks);
        size_t name_len = strlen(resource);

        if (name_len > DLM_RESNAME_MAXLEN)
                give_up(resource, "too long for a resource");
        message->version[0] = DLM_DEVICE_VERSION_MAJOR;
        message->cmd = command;
        message->is64bit = sizeof(long) == 8;
        params->mode = request->mode;
        params->flags = request->flags;
        params->lkid = lock->id;
        params->castparam = params->bastparam = cookie;
        params->castaddr = IS_AST;
        params->bastaddr = request->bast ? IS_BAST : NULL;
        params->lksb = cookie;
        params->namelen = name_len;
        memcpy(params->lvb, request->value, sizeof(request->value));
        memcpy(params->name, resource, name_len);
        return write(device, buffer, sizeof(struct dlm_write_request) + name_len) < 0 ? -errno : 0;
}

static void send_request(Lock *lock, int command, Request *request, const char *resource)
{
        int r;

        say(lock, "asked", "");
        r = ask(lock, command, request, resource);
        if (r < 0) {
                say_failed(lock, r);
                return;
        }
        if (command == DLM_USER_LOCK)
                lock->mode = request->mode;
        lock->busy = true;
}

static void command_lock(char *words[], int n)
{
        Request request = { 0 };
        Lock *lock = get_lock(words[1]);

        lock->id = 0;
        request.mode = parse_mode(words[3]);
        for (int i = 4; i < n; i++)
                parse_argument(&request, words[i]);
        send_request(lock, DLM_USER_LOCK, &request, words[2]);
}

static void command_convert(char *words[], int n)
{
        Request request = { .flags = DLM_LKF_CONVERT };

        request.mode = parse_mode(words[2]);
        for (int i = 3; i < n; i++)
                parse_argument(&request, words[i]);
        send_request(get_lock(words[1]), DLM_USER_LOCK, &request, "");
}

static void command_unlock(char *words[], int n)
{
        Request request = { 0 };

        for (int i = 2; i < n; i++)
                parse_argument(&request, words[i]);
        send_request(get_lock(words[1]), DLM_USER_UNLOCK, &request, "");
}

/* The answer is that of the request that is cancelled. */
static void command_cancel(char *words[], int n)
{
        Request request = { .flags = DLM_LKF_CANCEL };
        Lock *lock = get_lock(words[1]);
        int r = ask(lock, DLM_USER_UNLOCK, &request, "");

        if (r < 0)
                say_failed(lock, r);
}

/* --- results --- */

static void say_granted(const Lock *lock, const struct dlm_lock_result *result)
{
        char text[128];
        int n = snprintf(text, sizeof(text), "%s", modes[lock->mode]);

        if (result->lvb_offset)
                n += snprintf(text + n, sizeof(text) - n, " value=%.*s", DLM_USER_LVB_LEN,
                              (const char *) result + result->lvb_offset);
        if (result->lksb.sb_flags & DLM_SBF_DEMOTED)
                n += snprintf(text + n, sizeof(text) - n, " DEMOTED");
        if (result->lksb.sb_flags & DLM_SBF_VALNOTVALID)
                snprintf(text + n, sizeof(text) - n, " VALNOTVALID");
        say(lock, "granted", text);
}

static void take_result(const struct dlm_lock_result *result)
{
        uintptr_t cookie = (uintptr_t) result->user_astparam;
        int status = abs(result->lksb.sb_status);
        Lock *lock;

        if (cookie == 0 || cookie >= n_locks)
                give_up("the kernel", "a result for nobody");
        lock = &locks[cookie];
        if (result->user_astaddr == IS_BAST) {
                say(lock, "blocking", modes[result->bast_mode]);
                return;
        }
        lock->busy = false;
        lock->id = result->lksb.sb_lkid;
        if (status == 0)
                say_granted(lock, result);
        else if (status == DLM_EUNLOCK)
                say(lock, "unlocked", "");
        else if (status == DLM_ECANCEL)
                say(lock, "cancelled", "");
        else
                say_failed(lock, status);
}

/* Print results until @deadline (-1: none), until @wake_fd can be read (-1:
 * none), or until no answer is owed, if @until_idle. */
static void take_results(double deadline, bool until_idle, int wake_fd)
{
        union {
                struct dlm_lock_result result;
                char bytes[sizeof(struct dlm_lock_result) + DLM_USER_LVB_LEN];
        } buffer;

        for (;;) {
                struct pollfd fds[] = { { .fd = device, .events = POLLIN }, { .fd = wake_fd, .events = POLLIN } };
                double left = deadline - now();
                bool busy = false;

                for (size_t i = 1; i < n_locks; i++)
                        busy |= locks[i].busy;
                if (until_idle && !busy)
                        return;
                if (deadline >= 0 && left <= 0)
                        return;
                poll(fds, 2, deadline < 0 ? -1 : (int) (left * 1000) + 1);
                if (fds[0].revents) {
                        if (read(device, &buffer, sizeof(buffer)) >= (ssize_t) sizeof(buffer.result))
                                take_result(&buffer.result);
                        else if (errno != EAGAIN)
                                give_up("the lockspace", strerror(errno));
                }
                if (fds[1].revents)
                        return;
        }
}

/* --- main --- */

static void obey(char *line)
{
        static const struct {
                const char *name;
                int words;                      /* at least */
                void (*run)(char *words[], int n);
        } commands[] = {
                { "lock", 4, command_lock },
                { "convert", 3, command_convert },
                { "unlock", 2, command_unlock },
                { "cancel", 2, command_cancel },
        };
        char *words[WORDS_MAX];
        int n = 0;

        for (char *word = strtok(line, " \t\n"); word && n < WORDS_MAX; word = strtok(NULL, " \t\n"))
                words[n++] = word;
        if (n == 0)
                return;
        if (strcmp(words[0], "quit") == 0)
                exit(failed);
        if (strcmp(words[0], "wait") == 0) {
                take_results(-1, true, -1);
                return;
        }
        if (strcmp(words[0], "sleep") == 0 && n == 2) {
                take_results(now() + atof(words[1]), false, -1);
                return;
        }
        for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
                if (strcmp(commands[i].name, words[0]) == 0 && n >= commands[i].words) {
                        commands[i].run(words, n);
                        return;
                }
        give_up(words[0], "no such command, or words missing");
}

static void obey_input(void)
{
        char buffer[8192], *end;
        size_t length = 0;
        ssize_t n;

        for (;;) {
                take_results(-1, false, 0);
                n = read(0, buffer + length, sizeof(buffer) - 1 - length);
                if (n <= 0)
                        return;
                length += n;
                buffer[length] = '\0';
                while ((end = strchr(buffer, '\n'))) {
                        *end = '\0';
                        obey(buffer);
                        length -= end + 1 - buffer;
                        memmove(buffer, end + 1, length + 1);
                }
        }
}

int main(int argc, char **argv)
{
        char path[256];

        if (argc < 2) {
                fputs(usage, stderr);
                return 2;
        }
        started = now();
        snprintf(path, sizeof(path), "/dev/misc/dlm_%s", argv[1]);
        device = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (device < 0)
                give_up(path, strerror(errno));
        for (int i = 2; i < argc; i++)
                obey(argv[i]);
        obey_input();
        take_results(-1, false, -1);
}
