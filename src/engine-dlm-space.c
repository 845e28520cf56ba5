#include "engine-dlm.h"
#include "dlm-cluster.h"
#include "dlm-control.h"
#include "dlm-debugfs.h"
#include "dlm-openers.h"
#include "memory.h"
#include "trace.h"

#include <errno.h>
#include <string.h>

/*
 * Lockspaces. /dev says which there are: the kernel makes /dev/dlm_NAME when
 * one has come up and takes it away when it goes, and every event there makes
 * us look at that name again; what is found is compared with the table. A node
 * that went and came again has another inode, so that late events do no harm.
 *
 * A lockspace's device is open only while we have locks in it, and a moment
 * longer: an idle opener would make every release by others hang.
 */

#define LINGER_MS 300                           /* a forced release that takes longer is answered: others hold the device */

typedef struct Outcome {                        /* an EngineDone for the next round of the loop */
        DlmMail mail;
        EngineDone *done;
        void *data;
        int status;
        uint32_t lockspace;
} Outcome;

typedef struct Creation {
        DlmJob job;
        DlmEngine *engine;
        char name[LOCKSPACE_NAME_MAX + 1];
        uint32_t flags;
        DlmNode access;
        EngineDone *done;
        void *data;
        int status;                             /* from here on: what the worker found */
        DlmNode node;
        gboolean is_linked;
} Creation;

typedef struct Inspection {                     /* of a lockspace to be sealed, or of its locks */
        DlmJob job;
        uint32_t lockspace;
        char name[LOCKSPACE_NAME_MAX + 1];
        DlmNode node;
        uint64_t xid;
        gboolean force;
        EngineDone *done;
        EngineForeignDone *foreign_done;
        void *data;
        int status;                             /* from here on: what the worker found */
        GArray *locks;
} Inspection;

struct DlmRelease {
        DlmJob job;
        DlmEngine *engine;
        uint32_t lockspace;
        char name[LOCKSPACE_NAME_MAX + 1];
        DlmNode node;
        DlmNode access;                         /* the device's, when it is left */
        uint64_t xid;
        gboolean force;
        EngineDone *done;
        void *data;
        GSource *linger;
        gboolean is_answered;                   /* and the worker still at it */
        int status;                             /* what the worker found; until then -ECANCELED */
};

static void release_free(DlmRelease *release);
static void release_end(DlmRelease *release, int status);
static gboolean release_linger(gpointer data);

/* --- small parts --- */

static void outcome_deliver(DlmMail *mail, void *owner)
{
        g_autofree Outcome *outcome = (Outcome *)mail;

        if (owner)
                outcome->done(outcome->data, outcome->status, outcome->lockspace);
}

static GSource *add_timeout(unsigned timeout_ms, GSourceFunc func, void *data)
{
        GSource *source = g_timeout_source_new(timeout_ms);

        g_source_set_callback(source, func, data, NULL);
        g_source_attach(source, g_main_context_get_thread_default());
        return source;
}

static void clear_timeout(GSource **source)
{
        if (!*source)
                return;
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
}

/* --- the table of lockspaces --- */

DlmSpace *dlm_space_find(DlmEngine *engine, uint32_t id)
{
        return g_hash_table_lookup(engine->spaces, GUINT_TO_POINTER(id));
}

static DlmSpace *space_find_name(DlmEngine *engine, const char *name)
{
        GHashTableIter iter;
        void *space;

        g_hash_table_iter_init(&iter, engine->spaces);
        while (g_hash_table_iter_next(&iter, NULL, &space))
                if (g_str_equal(((DlmSpace *)space)->name, name))
                        return space;
        return NULL;
}

static DlmSpace *space_new(DlmEngine *engine, const char *name, const DlmNode *node)
{
        DlmSpace *space = g_new0(DlmSpace, 1);

        space->engine = engine;
        space->id = ++engine->last_space;
        space->name = g_strdup(name);
        space->state = DLM_SPACE_OPEN;
        space->node = space->access = *node;
        g_hash_table_insert(engine->spaces, GUINT_TO_POINTER(space->id), space);
        return space;
}

/* --- the channel --- */

static void space_close_channel(DlmSpace *space)
{
        if (space->channel) {
                dlm_channel_close(space->channel);
                space->channel = NULL;
        }
}

void dlm_space_channel_idle(DlmEngine *engine, uint32_t id)
{
        DlmSpace *space = dlm_space_find(engine, id);

        if (!space || space->locks > 0)         /* one has been asked for meanwhile */
                return;
        trace("dlm: %s: closed, no locks left", space->name);
        space_close_channel(space);
}

DlmChannel *dlm_space_channel(DlmSpace *space)
{
        if (!space->channel) {
                space->channel = dlm_channel_new(space->name, space->id, space->engine->options->spin_us,
                                                 space->engine->mailbox, dlm_engine_deliver_report);
                if (space->channel)
                        space->channels++;
        }
        return space->channel;
}

void dlm_space_count_lock(DlmSpace *space, int change)
{
        space->locks += change;
}

/* --- coming and going --- */

/* Its id is dead, its locks are forgotten. */
static void space_drop(DlmSpace *space)
{
        DlmEngine *engine = space->engine;

        dlm_engine_drop_locks(engine, space);
        space_close_channel(space);
        g_hash_table_remove(engine->spaces, GUINT_TO_POINTER(space->id));
        g_assert(space->locks == 0);
        g_free(space->name);
        g_free(space);
}

static void space_vanished(DlmSpace *space)
{
        DlmEngine *engine = space->engine;
        DlmRelease *release = space->release;
        gboolean is_begun = space->state == DLM_SPACE_RELEASING;
        uint32_t id = space->id;

        trace("dlm: %s: its device is gone", space->name);
        space_drop(space);
        if (!release)
                engine->head.events->gone(engine->head.events_data, id);
        else if (!is_begun)
                release_end(release, 0);        /* somebody else was quicker */
        else if (release->force)
                release->linger = add_timeout(LINGER_MS, release_linger, release);
}

static void space_appeared(DlmSpace *space)
{
        DlmEngine *engine = space->engine;
        EngineAttr attr;

        trace("dlm: %s: a device is there", space->name);
        dlm_node_to_attr(&space->access, &attr);
        engine->head.events->appeared(engine->head.events_data, space->id, space->name, &attr);
}

/* Make the device say what space->access does, or while sealed that nobody
 * gets in. */
static int space_apply_access(DlmSpace *space)
{
        DlmNode want = space->access;
        int r;

        if (space->state != DLM_SPACE_OPEN)
                want.mode = 0;
        r = dlm_node_set_access(space->name, &want);
        if (r == 0)
                space->node = want;
        else
                g_debug("dlm: %s: owner and mode of its device cannot be set: %s", space->name, g_strerror(-r));
        return r;
}

static void space_open_door(DlmSpace *space)
{
        space->state = DLM_SPACE_OPEN;
        space_apply_access(space);
}

/* Another mount of this node shuts the door like that, for a release of its own.
 * A chmod to 000 by somebody else cannot be told from it. */
static gboolean is_sealed_by_another(const DlmSpace *space, const DlmNode *now)
{
        return space->state == DLM_SPACE_OPEN && now->mode == 0 && space->access.mode != 0;
}

/* The same device, but maybe another owner or mode. */
static void space_compare_access(DlmSpace *space, const DlmNode *now)
{
        DlmEngine *engine = space->engine;
        gboolean is_reset;
        EngineAttr attr;

        if (dlm_node_has_access_of(now, &space->node))
                return;
        /* A change event makes udev set its mode again, and leaves the owner.
         * A chmod to just that mode by somebody else cannot be told from it. */
        is_reset = now->mode == DLM_NODE_UDEV_MODE && now->uid == space->node.uid && now->gid == space->node.gid;
        if (space->state != DLM_SPACE_OPEN || (is_reset && space->is_set)) {
                space->access.uid = now->uid;
                space->access.gid = now->gid;
                space_apply_access(space);
                return;
        }
        space->node = *now;
        if (is_sealed_by_another(space, now))
                return;
        space->access = *now;
        dlm_node_to_attr(now, &attr);
        engine->head.events->changed(engine->head.events_data, space->id, &attr);
}

static void look_again_at_all(DlmEngine *engine)
{
        g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
        GHashTableIter iter;
        void *space;

        g_hash_table_iter_init(&iter, engine->spaces);
        while (g_hash_table_iter_next(&iter, NULL, &space))
                g_ptr_array_add(names, g_strdup(((DlmSpace *)space)->name));
        for (guint i = 0; i < names->len; i++)
                dlm_space_look_again(engine, g_ptr_array_index(names, i));
        dlm_watch_list(dlm_space_look_again, engine);
}

void dlm_space_look_again(void *data, const char *name)
{
        DlmEngine *engine = data;
        DlmSpace *space;
        DlmNode now;
        gboolean is_there;

        if (!name) {
                look_again_at_all(engine);
                return;
        }
        is_there = dlm_node_stat(name, &now) == 0;
        space = space_find_name(engine, name);
        if (space && (!is_there || !dlm_node_is_same(&now, &space->node))) {
                space_vanished(space);
                space = space_find_name(engine, name);  /* found anew on the way, maybe */
        }
        /* A name that we are making is looked at when that has ended. */
        if (!is_there || (!space && g_hash_table_contains(engine->names, name)))
                return;
        if (space)
                space_compare_access(space, &now);
        else
                space_appeared(space_new(engine, name, &now));
}

/* Somebody has set the mode of a lockspace that was there at the start, when it is
 * neither udev's nor a seal. That of one that appears later may be the kernel's own,
 * before udev has come. */
static void found_deliver(DlmMail *mail, void *owner)
{
        DlmEngine *engine = owner;
        GHashTableIter iter;
        void *space;

        g_free(mail);
        if (!engine)
                return;
        dlm_space_look_again(engine, NULL);
        g_hash_table_iter_init(&iter, engine->spaces);
        while (g_hash_table_iter_next(&iter, NULL, &space)) {
                const mode_t mode = ((DlmSpace *)space)->access.mode;

                if (mode != 0 && mode != DLM_NODE_UDEV_MODE)
                        ((DlmSpace *)space)->is_set = TRUE;
        }
}

void dlm_space_find_all(DlmEngine *engine)
{
        DlmMail *mail = g_new0(DlmMail, 1);

        mail->deliver = found_deliver;
        dlm_engine_post_later(engine, mail);
}

/* We end before its release has begun: it stays, for others to use. */
static void space_leave(DlmSpace *space)
{
        if (space->state != DLM_SPACE_OPEN && space->state != DLM_SPACE_RELEASING)
                space_open_door(space);
}

void dlm_space_free_all(DlmEngine *engine)
{
        GHashTableIter iter;
        void *space;

        for (;;) {
                g_hash_table_iter_init(&iter, engine->spaces);
                if (!g_hash_table_iter_next(&iter, NULL, &space))
                        break;
                space_leave(space);
                space_drop(space);
        }
        /* Those whose job has begun are freed with it, should it ever end. */
        for (guint i = 0; i < engine->releases->len; i++) {
                DlmRelease *release = g_ptr_array_index(engine->releases, i);

                clear_timeout(&release->linger);
                if (!release->job.run)
                        release_free(release);
        }
}

/* --- create and set_attr --- */

static void creation_run(DlmJob *job)
{
        Creation *creation = (Creation *)job;

        creation->status = dlm_control_make(creation->name, creation->flags, &creation->access, &creation->node, &creation->is_linked);
}

static void creation_deliver(DlmMail *mail, void *owner)
{
        Creation *creation = (Creation *)mail;
        DlmEngine *engine = owner;
        uint32_t id = 0;

        if (!engine) {
                g_free(creation);
                return;
        }
        trace("dlm: create %s: %s", creation->name, g_strerror(-creation->status));
        g_hash_table_remove(engine->names, creation->name);
        if (creation->status == 0) {
                DlmSpace *space = space_new(engine, creation->name, &creation->node);

                id = space->id;
                space->is_set = TRUE;
                space->access = creation->access;
                space->access.rdev = creation->node.rdev;
                space->access.ino = creation->node.ino;
                space->node = space->access;
                if (!creation->is_linked)
                        g_message("udev has not made /dev/misc/dlm_%s: other programs will not find that lockspace", creation->name);
        }
        creation->done(creation->data, creation->status, id);
        /* Reset by udev, gone again, or somebody else's. */
        dlm_space_look_again(engine, creation->name);
        g_free(creation);
}

int dlm_create(Engine *base, const char *name, const EngineAttr *attr, EngineDone *done, void *data)
{
        DlmEngine *engine = (DlmEngine *)base;
        Creation *creation;
        int r;

        if (g_hash_table_contains(engine->names, name))
                return -EBUSY;
        if (space_find_name(engine, name))
                return -EEXIST;

        creation = memory_new0(Creation);
        if (!creation)
                return -ENOMEM;
        g_strlcpy(creation->name, name, sizeof(creation->name));
        creation->job.mail.deliver = creation_deliver;
        creation->job.run = creation_run;
        creation->engine = engine;
        creation->flags = engine->creation_flags;
        dlm_node_from_attr(attr, &creation->access);
        creation->done = done;
        creation->data = data;
        r = dlm_worker_push(engine->control, &creation->job);
        if (r < 0)
                g_free(creation);
        else
                g_hash_table_add(engine->names, g_strdup(name));
        return r;
}

int dlm_set_attr(Engine *base, uint32_t lockspace, const EngineAttr *attr, EngineDone *done, void *data)
{
        DlmEngine *engine = (DlmEngine *)base;
        DlmSpace *space = dlm_space_find(engine, lockspace);
        Outcome *outcome;
        DlmNode old;

        if (!space)
                return -ESTALE;
        outcome = memory_new0(Outcome);
        if (!outcome)
                return -ENOMEM;
        outcome->mail.deliver = outcome_deliver;
        outcome->done = done;
        outcome->data = data;
        outcome->lockspace = lockspace;
        old = space->access;
        dlm_node_from_attr(attr, &space->access);
        space->is_set = TRUE;
        outcome->status = space_apply_access(space);
        if (outcome->status < 0)
                space->access = old;
        dlm_engine_post_later(engine, &outcome->mail);
        return 0;
}

/* --- seal, unseal, foreign locks: a scout looks --- */

static void inspection_free(Inspection *inspection)
{
        if (inspection->locks)
                g_array_unref(inspection->locks);
        g_free(inspection);
}

static void seal_run(DlmJob *job)
{
        Inspection *inspection = (Inspection *)job;
        int r;

        if (inspection->force)
                return;
        r = dlm_openers_exist(inspection->node.rdev);
        if (r != 0) {                           /* a release under an opener whom we do not see would let two hold EX */
                inspection->status = r > 0 ? -EBUSY : -ENOMEM;
                return;
        }
        r = dlm_debugfs_judge(inspection->name, inspection->xid);
        if (r == -EBUSY || r == -EREMOTE)       /* else we cannot tell: the release will */
                inspection->status = r;
}

static void seal_deliver(DlmMail *mail, void *owner)
{
        Inspection *inspection = (Inspection *)mail;
        DlmSpace *space = owner ? dlm_space_find(owner, inspection->lockspace) : NULL;

        if (!space)
                inspection->status = -ESTALE;
        else if (inspection->status < 0)
                space_open_door(space);
        else
                space->state = DLM_SPACE_SEALED;
        trace("dlm: %s: seal: %s", inspection->name, g_strerror(-inspection->status));
        if (owner)
                inspection->done(inspection->data, inspection->status, inspection->lockspace);
        inspection_free(inspection);
}

static void foreign_run(DlmJob *job)
{
        Inspection *inspection = (Inspection *)job;

        inspection->status = dlm_debugfs_read(inspection->name, inspection->xid, &inspection->locks);
}

static void foreign_deliver(DlmMail *mail, void *owner)
{
        Inspection *inspection = (Inspection *)mail;

        if (owner)
                inspection->foreign_done(inspection->data, inspection->status == -ENOENT ? -ESTALE : inspection->status, inspection->locks);
        inspection_free(inspection);
}

/* NULL: no memory. */
static Inspection *inspection_new(DlmSpace *space, void (*run)(DlmJob *job), void (*deliver)(DlmMail *mail, void *owner), void *data)
{
        Inspection *inspection = memory_new0(Inspection);

        if (!inspection)
                return NULL;
        g_strlcpy(inspection->name, space->name, sizeof(inspection->name));
        inspection->job.mail.deliver = deliver;
        inspection->job.run = run;
        inspection->lockspace = space->id;
        inspection->node = space->node;
        inspection->xid = space->engine->xid;
        inspection->data = data;
        return inspection;
}

int dlm_seal(Engine *base, uint32_t lockspace, gboolean force, EngineDone *done, void *data)
{
        DlmEngine *engine = (DlmEngine *)base;
        DlmSpace *space = dlm_space_find(engine, lockspace);
        Inspection *inspection;
        int r;

        if (!space)
                return -ESTALE;
        if (space->state != DLM_SPACE_OPEN)
                return -EBUSY;

        inspection = inspection_new(space, seal_run, seal_deliver, data);
        if (!inspection)
                return -ENOMEM;
        inspection->force = force;
        inspection->done = done;
        inspection->job.is_urgent = TRUE;       /* not behind those who only look */
        /* First the door, then the look round: nobody comes in between. */
        space->state = DLM_SPACE_SEALING;
        r = space_apply_access(space);
        if (r == 0)
                r = dlm_worker_push(engine->scout, &inspection->job);
        if (r < 0) {
                inspection_free(inspection);
                space_open_door(space);
        }
        return r;
}

void dlm_unseal(Engine *base, uint32_t lockspace)
{
        DlmSpace *space = dlm_space_find((DlmEngine *)base, lockspace);

        if (space && space->state == DLM_SPACE_SEALED)
                space_open_door(space);
}

EngineSpaceState dlm_state(Engine *base, uint32_t lockspace)
{
        const DlmSpace *space = dlm_space_find((DlmEngine *)base, lockspace);

        return space ? dlm_cluster_space_state(space->name) : ENGINE_SPACE_ACTIVE;
}

int dlm_foreign_locks(Engine *base, uint32_t lockspace, EngineForeignDone *done, void *data)
{
        DlmEngine *engine = (DlmEngine *)base;
        DlmSpace *space = dlm_space_find(engine, lockspace);
        Inspection *inspection;
        int r;

        if (!space)
                return -ESTALE;
        inspection = inspection_new(space, foreign_run, foreign_deliver, data);
        if (!inspection)
                return -ENOMEM;
        inspection->foreign_done = done;
        r = dlm_worker_push(engine->scout, &inspection->job);
        if (r < 0)
                inspection_free(inspection);
        return r;
}

/* --- release --- */

static void release_free(DlmRelease *release)
{
        clear_timeout(&release->linger);
        g_free(release);
}

/* Answer, unless that is done, and forget it. */
static void release_end(DlmRelease *release, int status)
{
        DlmEngine *engine = release->engine;

        trace("dlm: %s: release: %s", release->name, g_strerror(-status));
        g_ptr_array_remove_fast(engine->releases, release);
        g_hash_table_remove(engine->names, release->name);
        if (release->is_answered)
                engine->lingering--;
        else
                release->done(release->data, status, release->lockspace);
        dlm_space_look_again(engine, release->name);    /* somebody may have made it anew */
        release_free(release);
}

static void release_run(DlmJob *job)
{
        DlmRelease *release = (DlmRelease *)job;

        release->status = dlm_control_release(release->name, &release->node, release->xid, release->force);
}

/* We end, and it was in line or in vain: the same as space_leave(). */
static void release_leave(const DlmRelease *release)
{
        DlmNode now;

        if (release->status < 0 && dlm_node_stat(release->name, &now) == 0 && dlm_node_is_same(&now, &release->node))
                dlm_node_set_access(release->name, &release->access);
}

static void release_deliver(DlmMail *mail, void *owner)
{
        DlmRelease *release = (DlmRelease *)mail;
        DlmSpace *space;

        if (!owner) {
                release_leave(release);
                release_free(release);
                return;
        }
        space = dlm_space_find(owner, release->lockspace);
        if (!space) {
                release->status = 0;            /* the device went before the kernel had finished */
        } else if (release->status == 0) {
                space_drop(space);
        } else {
                space->state = DLM_SPACE_SEALED;
                space->release = NULL;
        }
        release_end(release, release->status);
}

/* Nobody new gets in, but the kernel waits for those who are. */
static gboolean release_linger(gpointer data)
{
        DlmRelease *release = data;

        clear_timeout(&release->linger);
        trace("dlm: %s: released, but others still hold its device", release->name);
        release->is_answered = TRUE;
        release->engine->lingering++;
        release->done(release->data, 0, release->lockspace);
        return G_SOURCE_REMOVE;
}

static int space_begin_release(DlmSpace *space)
{
        DlmRelease *release = space->release;
        int r;

        release->job.run = release_run;
        r = dlm_worker_push(space->engine->control, &release->job);
        space->state = r < 0 ? DLM_SPACE_SEALED : DLM_SPACE_RELEASING;
        if (r < 0)
                space->release = NULL;
        return r;
}

void dlm_space_channel_closed(DlmEngine *engine, uint32_t id)
{
        DlmSpace *space = dlm_space_find(engine, id);
        DlmRelease *release;
        int r = 0;

        if (!space)
                return;
        space->channels--;
        release = space->release;
        if (space->state == DLM_SPACE_CLOSING && space->channels == 0)
                r = space_begin_release(space);
        if (r < 0)
                release_end(release, r);
}

/* With @force the kernel drops our locks, takes the device away, and waits for
 * our channel too, which is closed when that is seen. Else the channel, empty,
 * is closed first: with it go unread callbacks, which the kernel counts as
 * locks. */
int dlm_release(Engine *base, uint32_t lockspace, gboolean force, EngineDone *done, void *data)
{
        DlmEngine *engine = (DlmEngine *)base;
        DlmSpace *space = dlm_space_find(engine, lockspace);
        DlmRelease *release;
        int r = 0;

        if (!space)
                return -ESTALE;
        if (space->state != DLM_SPACE_SEALED)
                return -EINVAL;
        if (!force && space->locks > 0)
                return -EBUSY;

        release = memory_new0(DlmRelease);
        if (!release)
                return -ENOMEM;
        g_strlcpy(release->name, space->name, sizeof(release->name));
        release->job.mail.deliver = release_deliver;
        release->engine = engine;
        release->lockspace = lockspace;
        release->node = space->node;
        release->access = space->access;
        release->status = -ECANCELED;
        release->xid = engine->xid;
        release->force = force;
        release->done = done;
        release->data = data;
        space->release = release;
        space->state = DLM_SPACE_CLOSING;
        if (!force)
                space_close_channel(space);
        if (force || space->channels == 0)
                r = space_begin_release(space);
        if (r < 0) {
                release_free(release);
                return r;
        }
        g_ptr_array_add(engine->releases, release);
        g_hash_table_add(engine->names, g_strdup(space->name));
        return 0;
}

gboolean dlm_is_lingering(Engine *engine)
{
        return ((DlmEngine *)engine)->lingering > 0;
}
