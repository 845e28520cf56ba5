#include "process.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOOKS 100                               /* at a caller that is not asleep yet, or again */

/* The first bytes of /proc/@pid/@name, NUL-terminated. */
static gboolean read_proc(pid_t pid, const char *name, char *ret_text, size_t size)
{
        char path[64];
        ssize_t n;
        int fd;

        g_snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return FALSE;
        n = read(fd, ret_text, size - 1);
        close(fd);
        if (n <= 0)
                return FALSE;
        ret_text[n] = '\0';
        return TRUE;
}

pid_t process_parse_status(const char *text, pid_t tid)
{
        const char *line = strstr(text, "\nTgid:");

        return line ? atoi(line + strlen("\nTgid:")) : tid;
}

pid_t process_of_thread(pid_t tid)
{
        char text[512];

        /* Mostly the caller is its process's first thread, whose ids are the
         * same; the kernel knows without the cost of /proc. */
        if (syscall(SYS_tgkill, tid, tid, 0) == 0 || errno != ESRCH)
                return tid;
        return read_proc(tid, "status", text, sizeof(text)) ? process_parse_status(text, tid) : tid;
}

char *process_parse_command(char *text)
{
        g_strchomp(text);
        for (char *p = text; *p; p++)
                if (g_ascii_iscntrl(*p))
                        *p = '?';
        return g_strdup(*text ? text : "-");
}

char *process_command(pid_t pid)
{
        char text[64];

        return read_proc(pid, "comm", text, sizeof(text)) ? process_parse_command(text) : g_strdup("-");
}

/* The number of the system call, and its arguments. A caller waits for our answer, but for a moment he may be on his way
 * into sleep, or a signal has just woken him: then it says "running". FALSE: it is not for us to see. */
static gboolean read_syscall(pid_t tid, char *ret_text, size_t size)
{
        for (unsigned looks = 0; looks < LOOKS; looks++) {
                if (!read_proc(tid, "syscall", ret_text, size))
                        return FALSE;
                if (!g_str_has_prefix(ret_text, "running"))
                        return TRUE;
                sched_yield();
        }
        return FALSE;
}

gboolean process_parse_is_ofd(const char *text)
{
        unsigned long long fd, command;

        return sscanf(text, "%*d %llx %llx", &fd, &command) == 2 &&
               (command == F_OFD_SETLK || command == F_OFD_SETLKW || command == F_OFD_GETLK);
}

gboolean caller_is_ofd(pid_t tid)
{
        char text[256];

        return read_syscall(tid, text, sizeof(text)) && process_parse_is_ofd(text);
}

/* The calls that open without O_LARGEFILE. A 64-bit kernel adds it to all that can open but those of old 32-bit programs,
 * which have numbers of their own. */
static const long small_opens[] = {
#if defined(__x86_64__)
        5, 295, 342,                            /* i386: open, openat, open_by_handle_at */
#elif defined(__aarch64__)
        5, 322, 371,                            /* arm: the same */
#else                                           /* we are such a program, or know no other numbers */
#ifdef SYS_open
        SYS_open,
#endif
        SYS_openat, SYS_openat2, SYS_open_by_handle_at,
#endif
};

gboolean caller_is_in_open(pid_t tid)
{
        char text[256];

        if (!read_syscall(tid, text, sizeof(text)))
                return sizeof(long) == 4;       /* it is not for us to see: with 64 bits such programs are rare */
        for (size_t i = 0; i < G_N_ELEMENTS(small_opens); i++)
                if (atol(text) == small_opens[i])
                        return TRUE;
        return FALSE;
}

gboolean process_parse_stat(const char *text, ProcessEntry *entry)
{
        const char *rest = strrchr(text, ')');  /* the command before it may have any bytes */
        char state;

        if (!rest || sscanf(rest, ") %c %d %*d %d", &state, &entry->parent, &entry->session) != 3)
                return FALSE;
        entry->is_over = state == 'Z' || state == 'X';
        return TRUE;
}

GArray *process_list(void)
{
        GArray *list = g_array_new(FALSE, FALSE, sizeof(ProcessEntry));
        g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
        const char *name;

        while (proc && (name = g_dir_read_name(proc))) {
                ProcessEntry entry = { .pid = atoi(name) };
                char text[512];

                if (entry.pid > 0 && read_proc(entry.pid, "stat", text, sizeof(text)) && process_parse_stat(text, &entry))
                        g_array_append_val(list, entry);
        }
        return list;
}
