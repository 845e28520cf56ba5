#pragma once
/*
 * The command of `lockspacefs run`: a child that has the signal mask, the
 * ignored signals and the process group of whoever called us, and none of our
 * descriptors.
 *
 * Signals that were sent to us go on to it. Those that the terminal makes have
 * reached it already, being in the same process group. When job control stops
 * it, we stop with it, so that the shell sees it. It is killed when we are.
 */
#include <glib.h>
#include <sys/types.h>

typedef struct RunChild RunChild;

/* From now on no signal but SIGKILL and those of faults ends us. The message
 * of an @error is for a person, its code the exit status: 127 for a command
 * that is not there, 126 for one that cannot be executed. */
gboolean run_child_new(char **argv, RunChild **ret_child, GError **error);

/* Readable when there is a signal; then serve. */
int run_child_signal_fd(const RunChild *child);
void run_child_serve(RunChild *child);
gboolean run_child_has_ended(const RunChild *child);
/* Once it has ended: its exit status, or 128 and the signal that killed it. */
int run_child_exit_status(const RunChild *child);

void run_child_signal(const RunChild *child, int number);
/* To it and to all that descends from it, but for what made itself a session
 * of its own. From the first call on it has not ended until all these have. */
void run_child_signal_all(RunChild *child, int number);

void run_child_free(RunChild *child);           /* of one that has ended; NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RunChild, run_child_free)
