#pragma once
/*
 * An operation is what the benchmark's client times: a call, or the few calls
 * that belong together. A Case is one operation at one place, for one client:
 * every client has a file, a key or a lock of its own, so that they meet at
 * the server and nowhere else. What goes wrong ends the program.
 */
#include "peer.h"
#include <limits.h>

typedef struct Case Case;

typedef struct Operation {
        const char *name;
        void (*begin)(Case *c);                 /* once, not timed */
        void (*call)(Case *c);
} Operation;

struct Case {
        const Operation *operation;
        const char *place;                      /* a path, or the port of a server on loopback */
        char path[PATH_MAX];                    /* this client's file */
        int client;
        int fd;                                 /* open from begin on, if the operation is about an open file */
        Peer *peer;                             /* of the operations on servers */
};

/* NULL: there is no such operation. */
const Operation *operation_find(const char *name);

void case_begin(Case *c, const Operation *operation, const char *place, int client);
