/*
 * labswitch DIR: the network between the lab's nodes. It speaks to the guests
 * as uml_switch does, and can pull a node's cable, which uml_switch cannot:
 * taking the interface down inside the node is not the same, since corosync
 * sees that, and moves to the loopback address.
 *
 *   DIR/switch.ctl   where guests introduce themselves; each gets told of
 *   DIR/switch.data  where they send their frames, one a datagram
 *   DIR/switch.cmd   "cut I", "heal I", "side I N": datagrams from the host,
 *                    answered "ok". Frames reach those on the same side; all
 *                    are on side 0 at first
 *
 * A node is known by its MAC address, fe:fd:00:00:00:I, and the first frame it
 * sends shows the socket that it listens on. Nothing is kept for a guest that
 * went away: its successor's first frame takes the place.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NODES_MAX 256
#define GREETING_MAGIC 0xfeedface
#define GREETING_VERSION 3

typedef struct Greeting {                       /* what arch/um/drivers/daemon_user.c sends */
        uint32_t magic;
        uint32_t version;
        int type;
        struct sockaddr_un sock;
} Greeting;

typedef struct Node {
        struct sockaddr_un address;
        socklen_t address_len;                  /* 0: it has not sent anything yet */
        bool cut;
        int side;
} Node;

static Node nodes[NODES_MAX];

static int open_socket(int type, const char *directory, const char *name, struct sockaddr_un *ret_address)
{
        int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

        memset(ret_address, 0, sizeof(*ret_address));
        ret_address->sun_family = AF_UNIX;
        if ((size_t) snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "%s/%s", directory, name) >=
            sizeof(ret_address->sun_path)) {
                errno = ENAMETOOLONG;
                return -1;
        }
        if (fd < 0 || bind(fd, (struct sockaddr *) ret_address, sizeof(*ret_address)) < 0)
                return -1;
        return fd;
}

static void greet(int ctl, const struct sockaddr_un *data_address)
{
        int fd = accept(ctl, NULL, NULL);
        Greeting greeting;

        if (fd < 0)
                return;
        if (read(fd, &greeting, sizeof(greeting)) == sizeof(greeting) && greeting.magic == GREETING_MAGIC &&
            greeting.version == GREETING_VERSION &&
            write(fd, data_address, sizeof(*data_address)) != sizeof(*data_address))
                perror("labswitch: greeting");
        close(fd);
}

/* The node with that address; 0: none of ours, or a group of nodes. */
static int node_of(const uint8_t *mac)
{
        static const uint8_t ours[] = { 0xfe, 0xfd, 0, 0, 0 };

        return memcmp(mac, ours, sizeof(ours)) == 0 ? mac[5] : 0;
}

static void send_frame(int data, int from, int to, const uint8_t *frame, size_t length)
{
        Node *node = &nodes[to];

        if (!node->address_len || node->cut || node->side != nodes[from].side)
                return;
        /* a node that does not listen loses frames, as on any wire */
        if (sendto(data, frame, length, MSG_DONTWAIT, (struct sockaddr *) &node->address, node->address_len) < 0 &&
            errno == ECONNREFUSED)
                node->address_len = 0;
}

static void pass_frame(int data)
{
        uint8_t frame[65536];
        struct sockaddr_un address;
        socklen_t address_len = sizeof(address);
        ssize_t n = recvfrom(data, frame, sizeof(frame), 0, (struct sockaddr *) &address, &address_len);
        int from, to;

        if (n < 14)
                return;
        from = node_of(frame + 6);
        if (from == 0)
                return;
        nodes[from].address = address;
        nodes[from].address_len = address_len;
        if (nodes[from].cut)
                return;
        to = node_of(frame);
        if (to != 0)
                send_frame(data, from, to, frame, n);
        else
                for (to = 1; to < NODES_MAX; to++)
                        if (to != from)
                                send_frame(data, from, to, frame, n);
}

static void obey(int cmd)
{
        char order[64], what[8];
        struct sockaddr_un address;
        socklen_t address_len = sizeof(address);
        ssize_t n = recvfrom(cmd, order, sizeof(order) - 1, 0, (struct sockaddr *) &address, &address_len);
        const char *answer = "what?";
        int node, side;

        if (n < 0)
                return;
        order[n] = '\0';
        if (sscanf(order, "%7s %d", what, &node) == 2 && node > 0 && node < NODES_MAX &&
            (strcmp(what, "cut") == 0 || strcmp(what, "heal") == 0)) {
                nodes[node].cut = strcmp(what, "cut") == 0;
                answer = "ok";
        } else if (sscanf(order, "side %d %d", &node, &side) == 2 && node > 0 && node < NODES_MAX) {
                nodes[node].side = side;
                answer = "ok";
        }
        sendto(cmd, answer, strlen(answer), MSG_DONTWAIT, (struct sockaddr *) &address, address_len);
}

int main(int argc, char **argv)
{
        struct sockaddr_un address, data_address;
        int data, cmd, ctl;

        if (argc != 2) {
                fprintf(stderr, "usage: labswitch DIR\n");
                return 2;
        }
        data = open_socket(SOCK_DGRAM, argv[1], "switch.data", &data_address);
        cmd = open_socket(SOCK_DGRAM, argv[1], "switch.cmd", &address);
        ctl = open_socket(SOCK_STREAM, argv[1], "switch.new", &address);
        if (data < 0 || cmd < 0 || ctl < 0 || listen(ctl, 64) < 0) {
                perror("labswitch");
                return 1;
        }
        if (chdir(argv[1]) < 0 || rename("switch.new", "switch.ctl") < 0) {     /* there only when it listens */
                perror("labswitch: switch.ctl");
                return 1;
        }
        for (;;) {
                struct pollfd fds[] = {
                        { .fd = data, .events = POLLIN },
                        { .fd = cmd, .events = POLLIN },
                        { .fd = ctl, .events = POLLIN },
                };

                if (poll(fds, 3, -1) < 0)
                        continue;
                if (fds[0].revents)
                        pass_frame(data);
                if (fds[1].revents)
                        obey(cmd);
                if (fds[2].revents)
                        greet(ctl, &data_address);
        }
}
