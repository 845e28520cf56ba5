#include "peer.h"
#include <arpa/inet.h>
#include <err.h>
#include <glib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGE_MAX 4096
#define LEASE_S 3600                            /* longer than any measurement */

struct Peer {
        int fd;
        char name[32];                          /* of the lock */
        char lease[32];                         /* etcd: in decimal */
        char message[MESSAGE_MAX];              /* the last that came, NUL-terminated */
        size_t len;
};

static Peer *peer_connect(const char *port, int client)
{
        const struct sockaddr_in address = {
                .sin_family = AF_INET,
                .sin_port = htons((uint16_t)atoi(port)),
                .sin_addr = { htonl(INADDR_LOOPBACK) },
        };
        const int one = 1;
        Peer *peer = g_new0(Peer, 1);

        peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (peer->fd < 0 || connect(peer->fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
                err(1, "port %s", port);
        if (setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
                err(1, "TCP_NODELAY");
        snprintf(peer->name, sizeof(peer->name), "bench-%d", client);
        return peer;
}

static void peer_send(Peer *peer, const char *text, int len)
{
        if (write(peer->fd, text, (size_t)len) != len)
                err(1, "write to the server");
        peer->len = 0;
}

static void peer_receive(Peer *peer)
{
        ssize_t n = read(peer->fd, peer->message + peer->len, MESSAGE_MAX - 1 - peer->len);

        if (n < 0)
                err(1, "read from the server");
        if (n == 0)
                errx(1, "the server has closed the connection, or says too much");
        peer->len += (size_t)n;
        peer->message[peer->len] = 0;
}

/* --- redis: requests are lines, and so are the answers to these --- */

static void redis_call(Peer *peer, const char *request, int len, const char *answer)
{
        peer_send(peer, request, len);
        do
                peer_receive(peer);
        while (peer->message[peer->len - 1] != '\n');
        if (strcmp(peer->message, answer) != 0)
                errx(1, "redis: %s", peer->message);
}

Peer *redis_connect(const char *port, int client)
{
        return peer_connect(port, client);
}

void redis_lock(Peer *peer)
{
        char request[128];
        int len = snprintf(request, sizeof(request), "*6\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$5\r\ntoken\r\n$2\r\nNX\r\n$2\r\nPX\r\n$5\r\n30000\r\n",
                           strlen(peer->name), peer->name);

        redis_call(peer, request, len, "+OK\r\n");
}

void redis_unlock(Peer *peer)
{
        char request[64];
        int len = snprintf(request, sizeof(request), "*2\r\n$3\r\nDEL\r\n$%zu\r\n%s\r\n", strlen(peer->name), peer->name);

        redis_call(peer, request, len, ":1\r\n");
}

/* --- etcd: HTTP that is kept alive, and a little JSON --- */

static const char *http_body(const char *message)
{
        const char *end = strstr(message, "\r\n\r\n");

        return end ? end + 4 : NULL;
}

static gboolean http_is_whole(const Peer *peer)
{
        const char *body = http_body(peer->message), *length;

        if (!body)
                return FALSE;
        length = strcasestr(peer->message, "\r\nContent-Length:");
        if (!length || length > body)
                errx(1, "etcd: an answer without Content-Length: %s", peer->message);
        return peer->len >= (size_t)(body - peer->message) + strtoul(length + strlen("\r\nContent-Length:"), NULL, 10);
}

static void etcd_post(Peer *peer, const char *path, const char *json)
{
        char request[1024];
        int len = snprintf(request, sizeof(request), "POST /v3/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %zu\r\n\r\n%s",
                           path, strlen(json), json);

        peer_send(peer, request, len);
        do
                peer_receive(peer);
        while (!http_is_whole(peer));
        if (!g_str_has_prefix(peer->message, "HTTP/1.1 200 "))
                errx(1, "etcd: %s", peer->message);
}

/* A string of the last answer, which no quote is in. */
static void etcd_get(const Peer *peer, const char *member, char *ret_value, size_t size)
{
        const char *value = strstr(http_body(peer->message), member), *end;

        if (value)
                value += strlen(member);
        end = value ? strchr(value, '"') : NULL;
        if (!end || (size_t)(end - value) >= size)
                errx(1, "etcd: no %s in %s", member, peer->message);
        memcpy(ret_value, value, (size_t)(end - value));
        ret_value[end - value] = 0;
}

Peer *etcd_connect(const char *port, int client)
{
        Peer *peer = peer_connect(port, client);
        g_autofree char *name = g_base64_encode((const guchar *)peer->name, strlen(peer->name));
        char json[64];

        g_strlcpy(peer->name, name, sizeof(peer->name));
        snprintf(json, sizeof(json), "{\"TTL\":\"%d\"}", LEASE_S);
        etcd_post(peer, "lease/grant", json);
        etcd_get(peer, "\"ID\":\"", peer->lease, sizeof(peer->lease));
        return peer;
}

void etcd_lock(Peer *peer)
{
        char json[256];

        snprintf(json, sizeof(json), "{\"name\":\"%s\",\"lease\":\"%s\"}", peer->name, peer->lease);
        etcd_post(peer, "lock/lock", json);
}

/* What is held has a key of its own, which came with the lock. */
void etcd_unlock(Peer *peer)
{
        char key[256], json[512];

        etcd_get(peer, "\"key\":\"", key, sizeof(key));
        snprintf(json, sizeof(json), "{\"key\":\"%s\"}", key);
        etcd_post(peer, "lock/unlock", json);
}
