/*
 * The threads of the engine dlm at full speed: channels, workers and the mailbox
 * as they are, and in place of the kernel's device one of our own. Made for
 * ThreadSanitizer; elsewhere it shows that nothing is lost or told twice.
 *
 * The device: its descriptor is one end of a pair of sockets, and at the other
 * sits a thread that grants, parks, refuses and cancels. It is started by the
 * channel's thread and shares its table of descriptors, and nothing with the
 * main thread: so it puts those two in no order, which is the channel's and the
 * mailbox's to do. It ends when the channel closes its end.
 */
#include "dlm-channel.h"
#include "dlm-worker.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_US (60 * G_USEC_PER_SEC)
#define CHANNELS 4
#define LOCKS 24                                /* of each channel */
#define OPERATIONS 150000
#define LIFE 1500                               /* operations of a channel */
#define BUSY_EVERY 50                           /* writes that are EBUSY at first */
#define CUT_EVERY 500                           /* reads that are cut */
#define JOBS 200

/* --- the device --- */

static uint32_t last_lkid;

static void device_say(int fd, const DlmCall *call, int status)
{
        DlmResult result = { .id = call->id, .lkid = call->lkid, .status = status };

        send(fd, &result, sizeof(result), MSG_NOSIGNAL);
        result.is_blocking = TRUE;
        result.mode = MODE_EX;
        result.status = 0;
        if (status == 0 && call->lkid % 2 == 0)
                send(fd, &result, sizeof(result), MSG_NOSIGNAL);
}

/* A lock or convert is granted, refused, or parked until the next is. A call for one that is parked ends it. */
static void *device_main(void *data)
{
        const int fd = GPOINTER_TO_INT(data);
        DlmCall call, parked = { 0 };
        unsigned n = 0;

        while (recv(fd, &call, sizeof(call), 0) == sizeof(call)) {
                const gboolean is_request = call.verb == DLM_VERB_LOCK || call.verb == DLM_VERB_CONVERT;
                const gboolean is_parked = parked.lkid && parked.lkid == call.lkid;

                if (parked.lkid && (is_parked || (is_request && ++n % 3 == 0))) {
                        if (call.verb != DLM_VERB_UNLOCK || !is_parked)
                                device_say(fd, &parked, is_parked ? -DLM_ECANCEL : 0);
                        parked.lkid = 0;
                }
                if (call.verb == DLM_VERB_UNLOCK)
                        device_say(fd, &call, -DLM_EUNLOCK);
                else if (is_request && call.mode == MODE_EX && !parked.lkid)
                        parked = call;
                else if (is_request)
                        device_say(fd, &call, call.mode == MODE_PW ? -EAGAIN : 0);
        }
        close(fd);
        return NULL;
}

int dlm_device_open(const char *name)
{
        pthread_t thread;
        int fds[2];

        g_assert_no_errno(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
        g_assert_cmpint(pthread_create(&thread, NULL, device_main, GINT_TO_POINTER(fds[1])), ==, 0);
        pthread_detach(thread);
        return fds[0];
}

int dlm_device_write(int fd, const DlmCall *call)
{
        static __thread unsigned writes;
        DlmCall numbered = *call;

        if (call->verb != DLM_VERB_CANCEL && call->verb != DLM_VERB_LOCK && ++writes % BUSY_EVERY == 0)
                return -EBUSY;
        if (call->verb == DLM_VERB_LOCK)        /* relaxed: puts nothing in order */
                numbered.lkid = __atomic_add_fetch(&last_lkid, 1, __ATOMIC_RELAXED);
        if (send(fd, &numbered, sizeof(numbered), MSG_NOSIGNAL) < 0)
                return -errno;
        return call->verb == DLM_VERB_LOCK ? (int)numbered.lkid : 0;
}

int dlm_device_read(int fd, DlmResult *ret_result)
{
        static __thread unsigned reads;
        const ssize_t n = recv(fd, ret_result, sizeof(*ret_result), MSG_DONTWAIT);

        if (n < 0)
                return errno == EAGAIN ? 0 : -errno;
        return ++reads % CUT_EVERY == 0 ? -EBADMSG : 1;
}

/* --- locks --- */

typedef struct Lock {
        gboolean is_held;
        gboolean is_in_flight;
        DlmVerb verb;                           /* of the operation in flight */
} Lock;

typedef struct Space {
        DlmChannel *channel;
        uint32_t lockspace;                     /* 0: closed */
        unsigned operations;
        Lock locks[LOCKS];
} Space;

typedef struct Storm {
        DlmMailbox *mailbox;
        Space spaces[CHANNELS];
        uint32_t last_lockspace;
        unsigned operations;
        unsigned completed;
        unsigned blocking;
        unsigned withdrawn;
        unsigned cut;
        unsigned closed;
} Storm;

static void storm_deliver(DlmMail *mail, void *owner);

static void space_open(Storm *storm, Space *space)
{
        static const unsigned spins_us[CHANNELS] = { 0, 20, 100, 1000 };

        memset(space, 0, sizeof(*space));
        space->lockspace = ++storm->last_lockspace;
        space->channel = dlm_channel_new("fake", space->lockspace, spins_us[space - storm->spaces], storm->mailbox, storm_deliver);
        g_assert_nonnull(space->channel);
}

static void space_close(Space *space)
{
        dlm_channel_close(space->channel);
        space->lockspace = 0;
}

static void push(Space *space, uint32_t id, DlmVerb verb)
{
        DlmCall call = { .verb = verb, .id = id, .mode = g_test_rand_int_range(0, MODE_COUNT), .name = "r", .name_len = 1 };

        dlm_channel_push(space->channel, &call);
}

static void lock_operate(Storm *storm, Space *space, uint32_t id)
{
        Lock *lock = &space->locks[id];

        storm->operations++;
        space->operations++;
        lock->is_in_flight = TRUE;
        lock->verb = !lock->is_held ? DLM_VERB_LOCK : g_test_rand_bit() ? DLM_VERB_CONVERT : DLM_VERB_UNLOCK;
        push(space, id, lock->verb);
}

/* Something that crosses what is in flight. */
static void lock_disturb(Storm *storm, Space *space, uint32_t id)
{
        Lock *lock = &space->locks[id];

        if (!lock->is_in_flight)
                return;
        if (g_test_rand_bit()) {
                push(space, id, DLM_VERB_CANCEL);
        } else if (dlm_channel_withdraw(space->channel, id)) {
                storm->withdrawn++;
                lock->is_in_flight = FALSE;
        }
}

static void lock_completed(Storm *storm, Space *space, const DlmResult *result)
{
        Lock *lock = &space->locks[result->id];

        g_assert_true(lock->is_in_flight);
        lock->is_in_flight = FALSE;
        if (lock->verb == DLM_VERB_LOCK)
                lock->is_held = result->status == 0;
        else if (lock->verb == DLM_VERB_UNLOCK)
                lock->is_held = FALSE;
        storm->completed++;
        storm->cut += result->status == -EIO;
        g_assert_true(result->status == 0 || result->status == -EAGAIN || result->status == -ECANCELED || result->status == -EIO);
}

static void storm_deliver(DlmMail *mail, void *owner)
{
        g_autofree DlmReport *report = (DlmReport *)mail;
        Storm *storm = owner;

        if (report->kind == DLM_REPORT_CLOSED)
                storm->closed++;
        for (Space *space = storm->spaces; space < storm->spaces + CHANNELS; space++) {
                if (space->lockspace != report->lockspace)
                        continue;
                g_assert_cmpint(report->kind, !=, DLM_REPORT_CLOSED);
                if (report->kind == DLM_REPORT_COMPLETED)
                        lock_completed(storm, space, &report->result);
                else if (report->kind == DLM_REPORT_BLOCKING)
                        storm->blocking++;
        }
}

static void storm_turn(Storm *storm)
{
        for (Space *space = storm->spaces; space < storm->spaces + CHANNELS; space++) {
                if (space->operations > LIFE) {         /* with locks held, in flight and in line */
                        space_close(space);
                        space_open(storm, space);
                }
                for (uint32_t id = 0; id < LOCKS; id++)
                        if (!space->locks[id].is_in_flight)
                                lock_operate(storm, space, id);
                lock_disturb(storm, space, g_test_rand_int_range(0, LOCKS));
                lock_disturb(storm, space, g_test_rand_int_range(0, LOCKS));
        }
        if (g_test_rand_int_range(0, 4) == 0)   /* as the loop does, and as it does on its way */
                dlm_mailbox_wait(storm->mailbox, 5);
        else
                dlm_mailbox_deliver(storm->mailbox);
}

/* Every operation ends: what may be parked is cancelled. */
static void storm_calm(Storm *storm, gint64 end_us)
{
        for (Space *space = storm->spaces; space < storm->spaces + CHANNELS; space++) {
                for (uint32_t id = 0; id < LOCKS; id++)
                        if (space->locks[id].is_in_flight)
                                push(space, id, DLM_VERB_CANCEL);
                for (uint32_t id = 0; id < LOCKS; id++) {
                        while (space->locks[id].is_in_flight && g_get_monotonic_time() < end_us)
                                dlm_mailbox_wait(storm->mailbox, 100);
                        g_assert_false(space->locks[id].is_in_flight);
                }
        }
}

static void test_channels(void)
{
        const gint64 end_us = g_get_monotonic_time() + TIMEOUT_US;
        Storm storm = { 0 };

        storm.mailbox = dlm_mailbox_new(&storm);
        for (int i = 0; i < CHANNELS; i++)
                space_open(&storm, &storm.spaces[i]);
        while (storm.operations < OPERATIONS && g_get_monotonic_time() < end_us)
                storm_turn(&storm);
        storm_calm(&storm, end_us);
        for (int i = 0; i < CHANNELS; i++)
                space_close(&storm.spaces[i]);
        while (storm.closed < storm.last_lockspace && g_get_monotonic_time() < end_us)
                dlm_mailbox_wait(storm.mailbox, 100);

        g_test_message("%u operations, %u completed, %u blocking, %u withdrawn, %u cut, %u channels", storm.operations,
                       storm.completed, storm.blocking, storm.withdrawn, storm.cut, storm.closed);
        g_assert_cmpuint(storm.operations, >=, OPERATIONS);
        g_assert_cmpuint(storm.closed, ==, storm.last_lockspace);
        g_assert_cmpuint(storm.blocking, >, 0);
        g_assert_cmpuint(storm.withdrawn, >, 0);
        g_assert_cmpuint(storm.cut, >, 0);
        dlm_mailbox_close(storm.mailbox, TIMEOUT_US / 1000);
        dlm_mailbox_unref(storm.mailbox);
}

/* --- workers --- */

typedef struct Square {
        DlmJob job;
        unsigned number;
        unsigned square;
        gboolean *may_end;                      /* atomic; NULL: at once */
} Square;

static unsigned done, left;                     /* jobs delivered; those of them without an owner: atomic */

static void square_run(DlmJob *job)
{
        Square *square = (Square *)job;

        while (square->may_end && !g_atomic_int_get(square->may_end))
                g_thread_yield();
        square->square = square->number * square->number;
}

static void square_deliver(DlmMail *mail, void *owner)
{
        g_autofree Square *square = (Square *)mail;

        if (owner)
                g_assert_cmpuint(square->square, ==, square->number * square->number);
        else
                g_atomic_int_inc(&left);
        g_atomic_int_inc(&done);
}

static void square_push(DlmWorker *worker, unsigned number, gboolean *may_end)
{
        Square *square = g_new0(Square, 1);

        square->job.run = square_run;
        square->job.mail.deliver = square_deliver;
        square->number = number;
        square->may_end = may_end;
        g_assert_cmpint(dlm_worker_push(worker, &square->job), ==, 0);
}

static void wait_until_done(DlmMailbox *mailbox, unsigned jobs)
{
        const gint64 end_us = g_get_monotonic_time() + TIMEOUT_US;

        while (g_atomic_int_get(&done) < (int)jobs && g_get_monotonic_time() < end_us)
                if (mailbox)
                        dlm_mailbox_wait(mailbox, 100);
                else
                        g_thread_yield();
        g_assert_cmpuint(g_atomic_int_get(&done), ==, jobs);
}

/* Each job is delivered once, also those that were in line when their worker was freed. */
static void test_workers(void)
{
        DlmMailbox *mailbox = dlm_mailbox_new(&done);

        done = left = 0;
        for (unsigned round = 0; round < 20; round++) {
                DlmWorker *workers[] = { dlm_worker_new("one", mailbox), dlm_worker_new("other", mailbox) };

                for (unsigned i = 0; i < JOBS; i++) {
                        square_push(workers[i % 2], i, NULL);
                        dlm_mailbox_deliver(mailbox);
                }
                if (round % 2)
                        wait_until_done(mailbox, JOBS * (round + 1));
                dlm_worker_free(workers[0]);
                dlm_worker_free(workers[1]);
                wait_until_done(mailbox, JOBS * (round + 1));
        }
        dlm_mailbox_close(mailbox, TIMEOUT_US / 1000);
        dlm_mailbox_unref(mailbox);
}

/* The engine ends while the kernel keeps a job: it is freed when it comes back. */
static void test_left_behind(void)
{
        DlmMailbox *mailbox = dlm_mailbox_new(&done);
        DlmWorker *worker = dlm_worker_new("hangs", mailbox);
        static gboolean may_end;

        done = left = 0;
        square_push(worker, 1, NULL);
        wait_until_done(mailbox, 1);
        square_push(worker, 2, &may_end);
        dlm_mailbox_close(mailbox, 1);
        dlm_mailbox_unref(mailbox);
        g_atomic_int_set(&may_end, TRUE);
        wait_until_done(NULL, 2);
        g_assert_cmpuint(g_atomic_int_get(&left), ==, 1);
        dlm_worker_free(worker);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/dlm-threads/channels", test_channels);
        g_test_add_func("/dlm-threads/workers", test_workers);
        g_test_add_func("/dlm-threads/left-behind", test_left_behind);
        return g_test_run();
}
