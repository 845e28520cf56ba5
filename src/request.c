#include "request.h"
#include "control.h"
#include "handle.h"
#include "lockspace.h"
#include "memory.h"
#include "name.h"
#include "process.h"
#include "reply.h"
#include "resource.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

/*
 * Two kinds of requests. Those for a lock go to a holder, which answers
 * through request_answer(). The others have a Detail of their own, made here
 * and freed when the work has ended; the caller may have been answered long
 * before (EINTR, EINPROGRESS), and then detail->request is NULL.
 */

typedef struct Detail {
        Request *request;                       /* NULL: answered */
        Tree *tree;
        Resource *resource;                     /* READ, GETXATTR, GETLK: opens is counted */
        Lock *lock;                             /* READ, GETXATTR, GETLK: NULL when there is none */
        Lockspace *lockspace;                   /* RMDIR, LOCKS, SETATTR: a reference */
        size_t size;                            /* READ, GETXATTR */
        off_t offset;
        short type;                             /* GETLK: F_RDLCK, F_WRLCK */
        LockMode probe;                         /* GETLK: the mode that is being tried */
        char *name;                             /* MKDIR */
        mode_t mode;
        uid_t uid;                              /* MKDIR, and LOCKS that was interrupted … */
        gboolean is_charged;                    /* … but goes on: still as a waiter */
        gid_t gid;
        guint timer;                            /* MKDIR, RMDIR: 0: none */
        Handle *handle;                         /* LOCKS: NULL once it is the kernel's */
        struct fuse_file_info fi;               /* LOCKS */
} Detail;

static MemorySpares spares;                     /* of Request */

static void request_restart(Request *request)
{
        holder_lock(request->holder, request);
}

/* Want of memory, as flock(2) and fcntl(2) call it and as others do. */
static int fitting(RequestKind kind, int status)
{
        const gboolean is_locking = kind == REQUEST_FLOCK || kind == REQUEST_SETLK || kind == REQUEST_GETLK;

        return status == -ENOMEM && is_locking ? -ENOLCK : status;
}

/* NULL: no memory, and it was answered. */
static Request *request_new(fuse_req_t req, RequestKind kind)
{
        Request *request = memory_take0(&spares, Request);

        if (!request) {
                reply_result(req, "request", fitting(kind, -ENOMEM));
                return NULL;
        }
        request->req = req;
        request->kind = kind;
        request->link.data = request;
        request->start = request_restart;
        return request;
}

static Tree *request_tree(const Request *request)
{
        return fuse_req_userdata(request->req);
}

/* It waits no longer. Before the reply, which frees the fuse_req_t. */
static void request_settle(Request *request)
{
        Tree *tree = request_tree(request);

        if (tree->fresh == request)
                tree->fresh = NULL;
        if (request->queue)
                g_queue_unlink(request->queue, &request->link);
        request->queue = NULL;
        if (request->is_charged)
                users_discharge(tree->users, fuse_req_ctx(request->req)->uid, USER_WAITER);
        request->is_charged = FALSE;
}

static void enter(Request *request, GQueue *queue)
{
        if (request->since_us == 0)
                request->since_us = tree_now_us(request_tree(request));
        request->queue = queue;
}

void request_enqueue(Request *request, GQueue *queue)
{
        enter(request, queue);
        g_queue_push_tail_link(queue, &request->link);
}

void request_enqueue_first(Request *request, GQueue *queue)
{
        enter(request, queue);
        g_queue_push_head_link(queue, &request->link);
}

/* --- answers --- */

static void answer_open(Request *request, int status)
{
        Handle *handle = request->holder->handle;
        struct fuse_file_info fi = { .flags = request->flags, .fh = handle->id, .direct_io = 1, .nonseekable = 0, .noflush = 1 };

        if (status == 0 && request->is_truncating && mode_is_writer(handle->holder.lock->mode))
                status = handle_truncate_lock(handle->holder.lock, 0);
        if (status < 0) {
                reply_result(request->req, "open", status);
                handle_free(handle);
                return;
        }
        if (reply_open(request->req, &fi) == -ENOENT)   /* the caller was killed meanwhile */
                handle_free(handle);
}

static void detail_free(Detail *detail);

/* The time that it took; nothing within one turn of the loop. */
static gint64 waited_us(const Request *request, int status)
{
        const Lock *lock = request->holder->lock;

        if (!request->wait || request->since_us == 0)
                return 0;
        if (status == 0 && lock && lock->since_us >= request->since_us)
                return lock->since_us - request->since_us;
        return tree_now_us(request_tree(request)) - request->since_us;
}

void request_answer(Request *request, int status)
{
        fuse_req_t req = request->req;
        Detail *idle = request->queue ? request->detail : NULL; /* nothing is under way for it that could free it */

        if (status == -EAGAIN && request->is_over_limit && request->wait)
                status = -ENOLCK;               /* counts as no refusal: it was no try */
        if (request->holder && request->kind != REQUEST_FSYNC)
                metrics_count(&request->holder->resource->lockspace->metrics, status, waited_us(request, status));
        status = fitting(request->kind, status);
        request_settle(request);
        switch (request->kind) {
        case REQUEST_OPEN:
                answer_open(request, status);
                break;
        case REQUEST_FLOCK:
                reply_result(req, "flock", status);
                break;
        case REQUEST_SETLK:
                reply_result(req, "setlk", status);
                break;
        case REQUEST_FSYNC:
                reply_result(req, "fsync", status);
                break;
        case REQUEST_READ:
        case REQUEST_GETXATTR:
        case REQUEST_GETLK:
        case REQUEST_LOCKS:
        case REQUEST_MKDIR:
        case REQUEST_RMDIR:
        case REQUEST_SETATTR:
                if (request->detail)
                        request->detail->request = NULL;
                reply_result(req, "request", status);
                break;
        }
        memory_give(&spares, request);
        if (idle)
                detail_free(idle);
}

/* --- signals and limits --- */

static void detail_interrupted(Detail *detail);

static void request_interrupted(fuse_req_t req, void *data)
{
        Request *request = data;

        if (request->detail)
                detail_interrupted(request->detail);
        else if (request->holder)
                holder_leave(request->holder, request);
        request_answer(request, -EINTR);
}

void request_begin_wait(Request *request)
{
        Tree *tree = request_tree(request);

        if (request->is_waiting)
                return;
        if (request->wait) {
                request->is_charged = users_charge(tree->users, fuse_req_ctx(request->req)->uid, USER_WAITER) == 0;
                request->is_over_limit = !request->is_charged;
        }
        request->is_waiting = TRUE;
        tree->fresh = request;
}

void request_let_signals_through(Tree *tree)
{
        Request *request = g_steal_pointer(&tree->fresh);

        if (!request)
                return;
        /* The signal may have come before the request. (The callback must not be
         * set then: libfuse would call it at once, and use the request after it.) */
        if (fuse_req_interrupted(request->req))
                request_interrupted(request->req, request);
        else
                fuse_req_interrupt_func(request->req, request_interrupted, request);
}

/* --- through a holder --- */

void request_flock(fuse_req_t req, Handle *handle, int op)
{
        Request *request = request_new(req, REQUEST_FLOCK);

        if (!request)
                return;
        request->mode = (op & ~LOCK_NB) == LOCK_EX ? MODE_EX : MODE_PR;
        request->wait = !(op & LOCK_NB);
        holder_lock(&handle->holder, request);
}

void request_setlk(fuse_req_t req, Handle *handle, guint64 owner, const struct flock *flock, gboolean wait)
{
        Resource *resource = handle->holder.resource;
        Holder *holder = fcntl_holder_find(resource, owner);
        LockBy by = holder ? holder->by : handle_fcntl_by(handle, owner, fuse_req_ctx(req)->pid);
        Request *request = request_new(req, REQUEST_SETLK);

        if (!request)
                return;
        request->mode = flock->l_type == F_WRLCK ? MODE_EX : MODE_PR;
        request->wait = wait;
        request->handle = handle;
        request->pid = flock->l_pid;
        holder = fcntl_holder_get(resource, owner, by, handle);
        if (holder)
                holder_lock(holder, request);
        else
                request_answer(request, -ENOMEM);
}

void request_open_mode(fuse_req_t req, Resource *resource, LockMode mode, const struct fuse_file_info *fi)
{
        Handle *handle = handle_new_file(resource, HANDLE_MODE, TRUE);
        Request *request;

        if (!handle)
                return reply_result(req, "open", -ENOMEM);
        request = request_new(req, REQUEST_OPEN);
        if (!request)
                return handle_free(handle);
        request->mode = mode;
        request->wait = !(fi->flags & O_NONBLOCK);
        request->flags = fi->flags;
        request->is_truncating = (fi->flags & O_TRUNC) != 0;
        holder_lock(&handle->holder, request);
}

/* The holder of the lock under which this file is written. */
void request_fsync(fuse_req_t req, Handle *handle)
{
        Request *request = request_new(req, REQUEST_FSYNC);
        Lock *lock = handle_find_lock(handle);

        if (!request)
                return;
        request->wait = TRUE;
        request->handle = handle;
        holder_sync(lock ? lock->data : &handle->holder, request);
}

/* --- details --- */

/* NULL: no memory, and it was answered. */
static Detail *detail_new(fuse_req_t req, RequestKind kind, void (*start)(Request *request))
{
        Detail *detail = memory_new0(Detail);

        if (!detail) {
                reply_result(req, "request", fitting(kind, -ENOMEM));
                return NULL;
        }
        detail->tree = fuse_req_userdata(req);
        detail->request = request_new(req, kind);
        if (!detail->request) {
                g_free(detail);
                return NULL;
        }
        detail->request->detail = detail;
        detail->request->wait = TRUE;
        detail->request->start = start;
        return detail;
}

static void detail_free(Detail *detail)
{
        g_assert(!detail->request);
        if (detail->lock) {
                lock_set_callbacks(detail->lock, NULL, NULL, NULL);
                lock_drop(detail->lock);
        }
        if (detail->resource) {
                detail->resource->opens--;
                resource_release(detail->resource);
        }
        if (detail->lockspace)
                lockspace_unref(detail->lockspace);
        if (detail->is_charged)
                users_discharge(detail->tree->users, detail->uid, USER_WAITER);
        g_clear_handle_id(&detail->timer, g_source_remove);
        if (detail->handle)
                handle_free(detail->handle);
        g_free(detail->name);
        g_free(detail);
}

/* Answer with an error, and the work is over. */
static void detail_fail(Detail *detail, int status)
{
        request_answer(detail->request, status);
        detail_free(detail);
}

/* The request is about to be answered otherwise: the fuse_req_t is ours. */
static fuse_req_t detail_take_req(Detail *detail)
{
        Request *request = g_steal_pointer(&detail->request);
        fuse_req_t req = request->req;

        request_settle(request);
        memory_give(&spares, request);
        return req;
}

/* The caller is about to be told EINTR; what is under way in the engine ends
 * behind his back, what is not is given up. */
static void detail_interrupted(Detail *detail)
{
        switch (detail->request->kind) {
        case REQUEST_READ:
        case REQUEST_GETXATTR:
        case REQUEST_GETLK:
                detail->request->detail = NULL;         /* answered as a bare one: see below */
                detail->request = NULL;
                detail_free(detail);
                break;
        case REQUEST_LOCKS:
                detail->uid = fuse_req_ctx(detail->request->req)->uid;
                detail->is_charged = detail->request->is_charged;
                detail->request->is_charged = FALSE;
                break;
        case REQUEST_MKDIR:
        case REQUEST_RMDIR:
        case REQUEST_SETATTR:
        case REQUEST_FLOCK:
        case REQUEST_SETLK:
        case REQUEST_OPEN:
        case REQUEST_FSYNC:
                break;
        }
}

/* Ready to go? FALSE: postponed, or answered because it cannot. */
static gboolean detail_begin(Detail *detail, Lockspace *lockspace)
{
        Request *request = detail->request;

        if (lockspace->state == LOCKSPACE_DEAD) {
                detail_fail(detail, -ESTALE);
                return FALSE;
        }
        request_begin_wait(request);
        if (request->is_over_limit && !lockspace_grants_locks(lockspace)) {
                detail_fail(detail, -ENOLCK);
                return FALSE;
        }
        if (lockspace_is_usable(lockspace))
                return TRUE;
        if (lockspace->tree->shutting_down)
                detail_fail(detail, -ESHUTDOWN);
        else
                request_enqueue(request, &lockspace->postponed);
        return FALSE;
}

/* --- the value, without a lock --- */

static void value_done(Lock *lock, int status, void *data)
{
        Detail *detail = data;
        const RequestKind kind = detail->request->kind;
        fuse_req_t req;

        if (status == 0 && lock->lost)
                status = -EIO;
        if (status < 0)
                return detail_fail(detail, status);
        req = detail_take_req(detail);
        if (kind == REQUEST_GETXATTR)
                reply_buffer(req, "getxattr", (const char *)lock->value, VALUE_LEN);
        else
                reply_part(req, "read", (const char *)lock->value, value_size(lock->value), detail->size, detail->offset);
        detail_free(detail);
}

static void value_start(Request *request)
{
        Detail *detail = request->detail;
        const struct fuse_ctx *ctx = fuse_req_ctx(request->req);
        int r;

        if (!detail_begin(detail, detail->resource->lockspace))
                return;
        r = lock_new(detail->resource, BY_READER, ctx->uid, ctx->pid, &detail->lock);
        if (r == 0) {
                lock_set_callbacks(detail->lock, value_done, NULL, detail);
                r = lock_request(detail->lock, MODE_NL, DLM_LKF_EXPEDITE);
        }
        if (r < 0)
                detail_fail(detail, r);
}

static Detail *detail_new_resource(fuse_req_t req, RequestKind kind, Resource *resource, void (*start)(Request *request))
{
        Detail *detail = detail_new(req, kind, start);

        if (!detail)
                return NULL;
        detail->resource = resource;
        resource->opens++;
        return detail;
}

void request_read(fuse_req_t req, Resource *resource, size_t size, off_t offset)
{
        Detail *detail = detail_new_resource(req, REQUEST_READ, resource, value_start);

        if (!detail)
                return;
        detail->size = size;
        detail->offset = offset;
        value_start(detail->request);
}

void request_getxattr_value(fuse_req_t req, Resource *resource)
{
        Detail *detail = detail_new_resource(req, REQUEST_GETXATTR, resource, value_start);

        if (detail)
                value_start(detail->request);
}

/* --- F_GETLK --- */

static void getlk_reply(Detail *detail, short type, pid_t pid)
{
        const struct flock flock = { .l_type = type, .l_whence = SEEK_SET, .l_pid = pid };

        reply_lock(detail_take_req(detail), &flock);
        detail_free(detail);
}

static void getlk_try(Detail *detail, LockMode mode);

/* Others have locks that are not in our table: what a try says is all there is to know. */
static void getlk_tried(Lock *lock, int status, void *data)
{
        Detail *detail = data;

        if (status == -EAGAIN && detail->probe == MODE_EX) {
                lock_set_callbacks(g_steal_pointer(&detail->lock), NULL, NULL, NULL);
                getlk_try(detail, MODE_PR);     /* are they readers? */
                lock_drop(lock);                /* last: a release waits for the last one to go */
        } else if (status == -EAGAIN) {
                getlk_reply(detail, F_WRLCK, 0);
        } else if (status < 0) {
                detail_fail(detail, status);
        } else {
                getlk_reply(detail, detail->type == F_WRLCK && detail->probe == MODE_PR ? F_RDLCK : F_UNLCK, 0);
        }
}

static void getlk_try(Detail *detail, LockMode mode)
{
        const struct fuse_ctx *ctx = fuse_req_ctx(detail->request->req);
        int r;

        detail->probe = mode;
        r = lock_new(detail->resource, BY_READER, ctx->uid, ctx->pid, &detail->lock);
        if (r == 0) {
                lock_set_callbacks(detail->lock, getlk_tried, NULL, detail);
                r = lock_request(detail->lock, mode, DLM_LKF_NOQUEUE);
        }
        if (r < 0)
                detail_fail(detail, r);
}

static void getlk_start(Request *request)
{
        Detail *detail = request->detail;

        if (detail_begin(detail, detail->resource->lockspace))
                getlk_try(detail, detail->type == F_WRLCK ? MODE_EX : MODE_PR);
}

void request_getlk(fuse_req_t req, Handle *handle, guint64 owner, const struct flock *flock)
{
        Resource *resource = handle->holder.resource;
        const Holder *self = fcntl_holder_find(resource, owner);
        const LockMode mode = flock->l_type == F_WRLCK ? MODE_EX : MODE_PR;
        struct flock answer = { .l_type = F_UNLCK };
        Detail *detail;

        for (GList *l = resource->locks.head; l; l = l->next) {
                const Lock *lock = l->data;

                if (!lock_counts(lock) || !lock_has(lock) || mode_is_compatible(mode, lock_kept_mode(lock)) || lock->data == self)
                        continue;
                answer = (struct flock){ .l_type = lock_kept_mode(lock) <= MODE_PR ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET, .l_pid = lock->pid };
                break;
        }
        /* Our own lock would refuse the try, and it keeps out what it conflicts with. */
        if (answer.l_type != F_UNLCK || !handle->tree->engine->ops->has_others || (self && self->lock)) {
                reply_lock(req, &answer);
                return;
        }
        detail = detail_new_resource(req, REQUEST_GETLK, resource, getlk_start);
        if (!detail)
                return;
        detail->type = flock->l_type;
        getlk_start(detail->request);
}

/* --- open of .locks --- */

static void locks_done(void *data, int status, const GArray *locks)
{
        Detail *detail = data;
        GString *text;
        int r = status == -ENOMEM ? status : 0; /* a part would look like all there is */

        if (!detail->request)                   /* interrupted */
                return detail_free(detail);
        if (r == 0 && locks) {
                text = g_steal_pointer(&detail->handle->text);
                control_locks_add_foreign(text, locks);
                r = handle_set_text(detail->handle, text);
        }
        if (r < 0)
                return detail_fail(detail, r);
        detail->fi.fh = detail->handle->id;
        detail->fi.direct_io = 1;
        detail->fi.noflush = 1;
        if (reply_open(detail_take_req(detail), &detail->fi) == 0)
                detail->handle = NULL;
        detail_free(detail);
}

void request_open_locks(fuse_req_t req, Lockspace *lockspace, const struct fuse_file_info *fi)
{
        Detail *detail = detail_new(req, REQUEST_LOCKS, NULL);
        Engine *engine = lockspace->tree->engine;
        int r;

        if (!detail)
                return;
        request_begin_wait(detail->request);
        if (engine->ops->has_others && detail->request->is_over_limit)
                return detail_fail(detail, -ENOLCK);
        detail->lockspace = lockspace_ref(lockspace);
        detail->fi = *fi;
        detail->handle = handle_new_text(detail->tree, fuse_req_ctx(req)->uid);
        r = detail->handle ? handle_set_text(detail->handle, control_locks(lockspace)) : -ENOMEM;
        if (r < 0)
                return detail_fail(detail, r);
        r = engine->ops->has_others ? engine->ops->foreign_locks(engine, lockspace->id, locks_done, detail) : -EOPNOTSUPP;
        if (r < 0)
                locks_done(detail, r, NULL);
}

/* --- mkdir, rmdir, chmod and chown: the cluster's time --- */

static gboolean too_slow(void *data)
{
        Detail *detail = data;

        detail->timer = 0;
        if (detail->request)
                request_answer(detail->request, -EINPROGRESS);
        return G_SOURCE_REMOVE;
}

/* Then a call would stand in line for nobody knows how long. */
static gboolean is_lingering(const Tree *tree)
{
        return tree->engine->ops->is_lingering(tree->engine);
}

static void mkdir_done(void *data, int status, uint32_t id)
{
        Detail *detail = data;
        Tree *tree = detail->tree;
        Lockspace *lockspace;

        g_hash_table_remove(tree->making, detail->name);
        if (status < 0) {
                users_discharge(tree->users, detail->uid, USER_FILE);
                if (detail->request)
                        return detail_fail(detail, status);
                if (status == -EEXIST)          /* as its caller wanted it */
                        g_message("lockspace %s was made by somebody else meanwhile", detail->name);
                else
                        g_warning("mkdir of lockspace %s: %s", detail->name, g_strerror(-status));
                return detail_free(detail);
        }
        lockspace = lockspace_new(tree, detail->name, id, &(EngineAttr){ .uid = detail->uid, .gid = detail->gid, .mode = detail->mode });
        lockspace->is_created = TRUE;
        lockspace->charged_uid = detail->uid;
        node_touch(&tree->root);
        g_message("lockspace %s is made", detail->name);
        if (detail->request)
                reply_node(detail_take_req(detail), "mkdir", &lockspace->node, VIEW_SELF);
        detail_free(detail);
}

void request_mkdir(fuse_req_t req, Tree *tree, const char *name, mode_t mode)
{
        const struct fuse_ctx *ctx = fuse_req_ctx(req);
        const EngineAttr attr = { .uid = ctx->uid, .gid = ctx->gid, .mode = mode & 0777 };
        Detail *detail = detail_new(req, REQUEST_MKDIR, NULL);
        int r = lockspace_name_check(name);

        if (!detail)
                return;
        if (r == 0 && tree->shutting_down)
                r = -ESHUTDOWN;
        if (r == 0 && g_hash_table_contains(tree->lockspaces, name))
                r = -EEXIST;
        if (r == 0 && (g_hash_table_contains(tree->making, name) || is_lingering(tree)))
                r = -EBUSY;
        if (r == 0 && !(detail->name = memory_strdup(name)))
                r = -ENOMEM;
        if (r == 0)
                r = resource_charge(tree, ctx->uid);
        if (r < 0)
                return detail_fail(detail, r);
        request_begin_wait(detail->request);
        detail->mode = mode & 07777;
        detail->uid = ctx->uid;
        detail->gid = ctx->gid;
        g_hash_table_add(tree->making, detail->name);
        detail->timer = g_timeout_add(tree->options->wait_s * 1000, too_slow, detail);
        r = tree->engine->ops->create(tree->engine, name, &attr, mkdir_done, detail);
        if (r < 0)
                mkdir_done(detail, r, 0);
}

static void rmdir_done(void *data, int status)
{
        Detail *detail = data;

        if (status == -EREMOTE)
                status = -EBUSY;
        if (detail->request)
                request_answer(detail->request, status);
        else if (status < 0)
                g_warning("rmdir of lockspace %s: %s", detail->lockspace->name, g_strerror(-status));
        detail_free(detail);
}

void request_rmdir(fuse_req_t req, Lockspace *lockspace)
{
        Detail *detail = detail_new(req, REQUEST_RMDIR, NULL);
        int r;

        if (!detail)
                return;
        request_begin_wait(detail->request);
        detail->lockspace = lockspace_ref(lockspace);
        detail->timer = g_timeout_add(detail->tree->options->wait_s * 1000, too_slow, detail);
        r = is_lingering(detail->tree) ? -EBUSY : lockspace_release(lockspace, lockspace->is_force, rmdir_done, detail);
        if (r < 0)
                rmdir_done(detail, r);
}

static void set_attr_done(void *data, int status, uint32_t id)
{
        Detail *detail = data;
        Node *node = &detail->lockspace->node;

        if (status == 0) {
                node->mode = detail->mode;
                node->uid = detail->uid;
                node->gid = detail->gid;
                node->ctime_ns = time_ns();
                tree_notify_attr(detail->tree, node);
        }
        if (detail->request && status == 0)
                reply_attr(detail_take_req(detail), "setattr", node, VIEW_SELF);
        else if (detail->request)
                request_answer(detail->request, status);
        detail_free(detail);
}

void request_set_attr(fuse_req_t req, Lockspace *lockspace, const EngineAttr *attr)
{
        Detail *detail = detail_new(req, REQUEST_SETATTR, NULL);
        Engine *engine = lockspace->tree->engine;
        const EngineAttr device = { .uid = attr->uid, .gid = attr->gid, .mode = attr->mode & 0777 };
        int r;

        if (!detail)
                return;
        request_begin_wait(detail->request);
        detail->lockspace = lockspace_ref(lockspace);
        detail->mode = attr->mode;
        detail->uid = attr->uid;
        detail->gid = attr->gid;
        r = engine->ops->set_attr(engine, lockspace->id, &device, set_attr_done, detail);
        if (r < 0)
                set_attr_done(detail, r, lockspace->id);
}
