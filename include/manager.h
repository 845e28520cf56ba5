#pragma once
/*
 * The manager is what we tell the service manager that has started us, by
 * sd_notify(3): that the mount answers, a line about it for `systemctl
 * status`, that the loop still turns (WatchdogSec=), that we are ending.
 * Where there is none, or the build has no libsystemd, nobody is told.
 *
 * It also keeps for us, in a memory file, the names of the lockspaces that we
 * made. If we are killed and started again, they are ours again, to be
 * released in the end: one left behind keeps dlm_controld from stopping.
 */
#include "tree.h"

typedef struct Manager Manager;

Manager *manager_new(Tree *tree);               /* the mount answers; @tree is borrowed */
/* The end has begun. @status: what it waits for. */
void manager_stopping(Manager *manager, const char *status);
void manager_free(Manager *manager);            /* NULL is fine */
