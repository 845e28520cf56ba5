#pragma once
/*
 * A peer is one warm connection to a lock server on loopback: redis-server,
 * spoken to in its own protocol, and etcd, through its JSON gateway. Each
 * takes and drops the one lock of this client. Requests are written in one
 * piece, and nothing is allocated while the clock runs.
 */
typedef struct Peer Peer;

/* SET NX PX and DEL of one key. */
Peer *redis_connect(const char *port, int client);
void redis_lock(Peer *peer);
void redis_unlock(Peer *peer);

/* /v3/lock/lock and /v3/lock/unlock, under a lease that is granted here. */
Peer *etcd_connect(const char *port, int client);
void etcd_lock(Peer *peer);
void etcd_unlock(Peer *peer);
