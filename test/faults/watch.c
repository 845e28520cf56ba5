/*
 * faults-watch RECORD: who is in the cluster, by the word of this node's
 * corosync, whenever that changes:
 *
 *   TICK members QUORATE I J ...       QUORATE: 0 or 1
 *   TICK gone                          corosync does not answer
 */
#include "record.h"

#include <corosync/corotypes.h>
#include <corosync/quorum.h>
#include <err.h>
#include <stdio.h>
#include <unistd.h>

#define RETRY_US 50000

static Record record;

static void notified(quorum_handle_t handle, uint32_t quorate, uint64_t ring_seq, uint32_t count, uint32_t *nodes)
{
        const uint64_t now = ticks();
        char list[512] = "";
        int length = 0;

        (void) handle;
        (void) ring_seq;
        for (uint32_t i = 0; i < count && length < (int) sizeof(list) - 12; i++)
                length += snprintf(list + length, sizeof(list) - length, " %u", nodes[i]);
        record_at(&record, now, "members %d%s", quorate != 0, list);
        record_push(&record);
}

static void listen_once(void)
{
        quorum_callbacks_t callbacks = { .quorum_notify_fn = notified };
        quorum_handle_t handle;
        uint32_t type;

        if (quorum_initialize(&handle, &callbacks, &type) != CS_OK)
                return;
        if (quorum_trackstart(handle, CS_TRACK_CURRENT | CS_TRACK_CHANGES) == CS_OK)
                quorum_dispatch(handle, CS_DISPATCH_BLOCKING);
        quorum_finalize(handle);
        record_at(&record, ticks(), "gone");
        record_push(&record);
}

int main(int argc, char **argv)
{
        if (argc != 2)
                errx(2, "usage: faults-watch RECORD");
        record_open(&record, argv[1]);
        for (;;) {
                listen_once();
                usleep(RETRY_US);
        }
}
