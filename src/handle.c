#include "handle.h"
#include "lockspace.h"
#include "memory.h"
#include "process.h"
#include "resource.h"
#include "trace.h"
#include <errno.h>
#include <poll.h>
#include <string.h>

static MemorySpares spares;                     /* of Handle */

static Handle *handle_new(Tree *tree, HandleKind kind)
{
        Handle *handle = memory_take0(&spares, Handle);

        if (!handle)
                return NULL;
        handle->tree = tree;
        handle->kind = kind;
        handle->id = id_table_add(&tree->handles, handle);
        if (handle->id == 0) {
                memory_give(&spares, handle);
                return NULL;
        }
        return handle;
}

Handle *handle_new_file(Resource *resource, HandleKind kind, gboolean may_write)
{
        Handle *handle = handle_new(resource->lockspace->tree, kind);

        if (!handle)
                return NULL;
        handle->may_write = may_write;
        holder_init(&handle->holder, resource, handle, kind == HANDLE_MODE ? BY_OPEN : BY_FLOCK);
        resource->opens++;
        handle->tree->open_files++;
        return handle;
}

/* What is read through it counts for @uid. */
static Handle *new_for(Tree *tree, HandleKind kind, uid_t uid)
{
        Handle *handle = handle_new(tree, kind);

        if (handle)
                handle->uid = uid;
        return handle;
}

Handle *handle_new_text(Tree *tree, uid_t uid)
{
        return new_for(tree, HANDLE_TEXT, uid);
}

Handle *handle_new_directory(Tree *tree, uid_t uid)
{
        return new_for(tree, HANDLE_DIRECTORY, uid);
}

static void text_clear(Handle *handle)
{
        users_discharge_many(handle->tree->users, handle->uid, USER_TEXT, handle->bytes);
        handle->bytes = 0;
        if (handle->text)
                g_string_free(g_steal_pointer(&handle->text), TRUE);
        g_clear_pointer(&handle->serials, g_array_unref);
}

/* For what was just set. */
static int charge_text(Handle *handle, size_t bytes)
{
        int r = users_charge_many(handle->tree->users, handle->uid, USER_TEXT, bytes);

        if (r < 0)
                text_clear(handle);
        else
                handle->bytes = bytes;
        return r;
}

int handle_set_text(Handle *handle, GString *text)
{
        text_clear(handle);
        handle->text = text;
        return charge_text(handle, text->len);
}

int handle_set_serials(Handle *handle, GArray *serials)
{
        text_clear(handle);
        handle->serials = serials;
        return charge_text(handle, (size_t)serials->len * sizeof(gint64));
}

static void file_clear(Handle *handle)
{
        Resource *resource = handle->holder.resource;
        Tree *tree = handle->tree;

        holder_clear(&handle->holder);
        while (handle->fcntl)
                fcntl_holder_leave_handle(handle->fcntl->data);
        resource->opens--;
        resource_release(resource);
        if (--tree->open_files == 0 && tree->last_closed)
                tree->last_closed(tree->last_closed_data);
}

void handle_free(Handle *handle)
{
        id_table_remove(&handle->tree->handles, handle->id);
        switch (handle->kind) {
        case HANDLE_FILE:
        case HANDLE_MODE:
                file_clear(handle);
                break;
        case HANDLE_TEXT:
        case HANDLE_DIRECTORY:
                text_clear(handle);
                break;
        }
        if (handle->poll)
                fuse_pollhandle_destroy(handle->poll);
        memory_give(&spares, handle);
}

gboolean handle_is_file(const Handle *handle)
{
        return handle->kind == HANDLE_FILE || handle->kind == HANDLE_MODE;
}

pid_t handle_process(Handle *handle, pid_t thread)
{
        Tree *tree = handle->tree;

        if (handle->thread == thread)
                return handle->process;
        if (tree->thread != thread) {
                tree->thread = thread;
                tree->process = process_of_thread(thread);
        }
        handle->thread = thread;
        handle->process = tree->process;
        return handle->process;
}

LockBy handle_fcntl_by(Handle *handle, guint64 owner, pid_t thread)
{
        if (handle->owner_by == BY_FLOCK || handle->owner != owner) {
                handle->owner = owner;
                handle->owner_by = caller_is_ofd(thread) ? BY_OFD : BY_POSIX;
        }
        return handle->owner_by;
}

Lock *handle_find_lock(Handle *handle)
{
        Lock *best = handle->holder.lock && lock_has(handle->holder.lock) ? handle->holder.lock : NULL;

        for (GSList *l = handle->fcntl; l; l = l->next) {
                Lock *lock = ((Holder *)l->data)->lock;

                if (lock && lock_has(lock) && (!best || lock->mode > best->mode))
                        best = lock;
        }
        return best;
}

/* The lock under which this file is written: PW or EX, and not on its way down: that has given its value already. */
static int find_writer(Handle *handle, Lock **ret_lock)
{
        Lock *lock = handle_find_lock(handle);

        if (handle->holder.is_dead)
                return -ESTALE;
        if (!lock || !mode_is_writer(lock->mode) || (lock->state == LOCK_CONVERTING && !mode_is_writer(lock->wanted)))
                return -ENOLCK;
        *ret_lock = lock;
        return 0;
}

static int lock_write(Lock *lock, const uint8_t *value)
{
        Resource *resource = lock->resource;
        int r;

        r = resource_claim(resource, lock->uid);
        if (r == 0)
                r = resource_keep(resource);
        if (r < 0)
                return r;
        lock_set_value(lock, value);
        resource_list_written(resource);
        resource->node.mtime_ns = time_ns();
        resource_saw_value(resource, lock->value);
        return 0;
}

int handle_write(Handle *handle, const char *data, size_t size, off_t offset, gboolean append)
{
        uint8_t value[VALUE_LEN] = { 0 };
        Lock *lock;
        int r;

        r = find_writer(handle, &lock);
        if (r < 0)
                return r;
        if (!lock->lost)                        /* what was lost is not to be mixed in */
                memcpy(value, lock->value, VALUE_LEN);
        if (append)
                offset = value_size(value);
        if (offset > VALUE_LEN || size > (size_t)(VALUE_LEN - offset))
                return -EFBIG;
        if (size == 0)
                return 0;
        memcpy(value + offset, data, size);
        return lock_write(lock, value);
}

int handle_truncate(Handle *handle, off_t size)
{
        Lock *lock;
        int r;

        r = find_writer(handle, &lock);
        if (r < 0)
                return r;
        if (size < 0 || size > VALUE_LEN)
                return -EFBIG;
        return handle_truncate_lock(lock, size);
}

int handle_truncate_lock(Lock *lock, off_t size)
{
        uint8_t value[VALUE_LEN] = { 0 };

        if (!lock->lost && value_size(lock->value) <= size)
                return 0;                       /* nothing is there to be cut: nothing is written */
        if (!lock->lost)
                memcpy(value, lock->value, size);
        return lock_write(lock, value);
}

/* --- poll --- */

void handle_notify(Handle *handle)
{
        if (handle->poll)
                fuse_lowlevel_notify_poll(handle->poll);
}

static gboolean holder_is_asked(const Holder *holder)
{
        return holder->lock && lock_has(holder->lock) && holder->lock->is_asked;
}

static gboolean is_asked(const Handle *handle)
{
        if (holder_is_asked(&handle->holder))
                return TRUE;
        for (GSList *l = handle->fcntl; l; l = l->next)
                if (holder_is_asked(l->data))
                        return TRUE;
        return FALSE;
}

unsigned handle_poll(Handle *handle, struct fuse_pollhandle *poll)
{
        if (poll) {                             /* the newest is as good as all of them */
                if (handle->poll)
                        fuse_pollhandle_destroy(handle->poll);
                handle->poll = poll;
        }
        return POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | (handle_is_file(handle) && is_asked(handle) ? POLLPRI : 0) |
               (handle->is_dead ? POLLERR | POLLHUP : 0) | (handle->is_ending ? POLLHUP : 0);
}

/* @status: what those who wait through this file are told. */
static void fail_holders(Handle *handle, int status)
{
        GSList *next;

        for (GSList *l = handle->fcntl; l; l = next) {
                next = l->next;
                holder_fail(l->data, status);
        }
        holder_fail(&handle->holder, status);   /* last: an open that fails frees the handle */
}

void handle_set_dead(Handle *handle)
{
        handle->is_dead = TRUE;
        handle_notify(handle);
        fail_holders(handle, -ESTALE);
}

void handle_shut_down(Handle *handle)
{
        handle->is_ending = TRUE;
        handle_notify(handle);
        fail_holders(handle, -ESHUTDOWN);
}
