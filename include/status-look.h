#pragma once
/*
 * One look at a mount, through its own files: a JSON object that says all
 * there is to say, as `lockspacefs status --json` prints it for each mount.
 *
 *   mountpoint, health, problems       always; the rest when it answers
 *   version, engine, node, members, quorum, control, ending,
 *   files, held, waiting, requests, seconds       as in .status
 *   lockspaces: each with name, state, files, held, waiting,
 *       uid, owner, gid, group, mode, and locks: each line of its .locks
 *
 * null: not known, or there is none. Bytes that are not UTF-8 are written %XX.
 *
 * Looking may hang as long as the mount does: command-status.c does it in a
 * process that nobody waits for.
 */
#include <json-glib/json-glib.h>

typedef enum Health {                           /* also the exit status, as monitoring plugins have it */
        HEALTH_HEALTHY = 0,
        HEALTH_DEGRADED = 1,                    /* it answers, but not all locks can be had */
        HEALTH_DOWN = 2,                        /* not mounted, dead, or no answer */
        HEALTH_UNKNOWN = 3,                     /* we may not look, or were asked wrongly */
} Health;

const char *health_to_string(Health health);

/* @with_locks: read .locks, too. */
JsonObject *status_look(const char *mountpoint, gboolean with_locks);
/* What is said of a mount that cannot be looked at. */
JsonObject *status_look_failed(const char *mountpoint, Health health, const char *problem);
