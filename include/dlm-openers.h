#pragma once
/*
 * Who has a device open. A release under an opener without a lock lets two
 * nodes hold EX, so that an idle opener counts as a user of a lockspace.
 */
#include <glib.h>
#include <sys/types.h>

/* Has a process other than ours the device open? Looks at each descriptor
 * table of the node, some milliseconds: for a worker. 1, 0, or -errno: it cannot
 * be told. */
int dlm_openers_exist(dev_t rdev);
