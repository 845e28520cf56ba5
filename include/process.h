#pragma once
/*
 * What /proc tells of a caller, whom FUSE names by the thread that called.
 * Each answers something harmless when the thread is gone, or is not ours to
 * look at. And which processes there are.
 */
#include <glib.h>
#include <sys/types.h>

/* The process of that thread; @tid itself when it is gone. proc_pid_status(5) */
pid_t process_of_thread(pid_t tid);
/* What it runs, "-" when it is gone: proc_pid_comm(5), made fit for one column. */
char *process_command(pid_t pid);
/* Is the thread in a call of fcntl(2) with F_OFD_*? proc_pid_syscall(5): FUSE
 * itself does not say, and a process owns POSIX locks but not OFD locks. */
gboolean caller_is_ofd(pid_t tid);
/* Is the thread, of which an open without O_LARGEFILE came, in a call that
 * opens so, which is open(2) of an old 32-bit program? Else it is in another
 * one, for which the kernel opens the file by itself. */
gboolean caller_is_in_open(pid_t tid);

typedef struct ProcessEntry {                   /* proc_pid_stat(5) */
        pid_t pid, parent, session;
        gboolean is_over;                       /* a zombie: it has nothing and does nothing */
} ProcessEntry;

GArray *process_list(void);                     /* of ProcessEntry: all that we can see */

/* What these make of the text of such a file. Users choose the command in it. */
pid_t process_parse_status(const char *text, pid_t tid);
char *process_parse_command(char *text);        /* which is changed */
gboolean process_parse_is_ofd(const char *text);        /* of "syscall" */
gboolean process_parse_stat(const char *text, ProcessEntry *entry);     /* all of it but the pid. FALSE: it is none */
