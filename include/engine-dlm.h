#pragma once
/*
 * The engine `dlm`, on the inside: what engine-dlm.c (the engine and its
 * locks) and engine-dlm-space.c (its lockspaces) share. All of it belongs to
 * the main loop; what may block is a job of a worker or a call of a channel,
 * and its outcome comes back as mail.
 */
#include "dlm-channel.h"
#include "dlm-node.h"
#include "dlm-quorum.h"
#include "dlm-watch.h"
#include "dlm-worker.h"
#include "engine.h"
#include "id-array.h"

typedef struct DlmEngine DlmEngine;
typedef struct DlmSpace DlmSpace;
typedef struct DlmRelease DlmRelease;           /* engine-dlm-space.c */

typedef enum DlmSpaceState {
        DLM_SPACE_OPEN,
        DLM_SPACE_SEALING,                      /* nobody new gets in; a worker looks who is there */
        DLM_SPACE_SEALED,
        DLM_SPACE_CLOSING,                      /* release: our channel first */
        DLM_SPACE_RELEASING,                    /* the control worker is at it */
} DlmSpaceState;

struct DlmSpace {                               /* a lockspace: the table's alone, others know its id */
        DlmEngine *engine;
        uint32_t id;
        char *name;
        DlmSpaceState state;
        DlmNode node;                           /* the device, as we last set or saw it */
        DlmNode access;                         /* as it is to be: differs from node while sealed */
        gboolean is_set;                        /* that access, by us or somebody before: udev's resets are undone */
        DlmChannel *channel;                    /* NULL: not open. It is while there are locks, and a moment longer */
        unsigned channels;                      /* whose device is not closed yet: this one, and earlier ones */
        unsigned locks;                         /* in it, in whatever state */
        DlmRelease *release;                    /* CLOSING, RELEASING */
};

struct DlmEngine {
        Engine head;
        const Options *options;
        uint32_t creation_flags;
        uint64_t xid;                           /* on each of our locks, for debugfs */
        uint32_t node;
        IdArray locks;                          /* of DlmLock (engine-dlm.c), by id */
        GQueue owed;                            /* of DlmLock: to be given back when there is memory for it */
        GHashTable *spaces;                     /* of DlmSpace, by id */
        uint32_t last_space;                    /* the highest id given out */
        GHashTable *names;                      /* of names under way: being made, or released */
        GPtrArray *releases;                    /* of DlmRelease: under way */
        unsigned lingering;                     /* of them: answered, and waiting for others' descriptors */
        DlmMailbox *mailbox;
        DlmMail *later;                         /* mail from ourselves: what must not run inside a call */
        DlmMail **later_end;
        GSource *source;
        DlmWatch *watch;
        DlmWorker *control;                     /* makes and releases: hangs as long as the cluster does */
        DlmWorker *scout;                       /* looks into /proc and debugfs */
        DlmQuorum *quorum;
};

/* --- engine-dlm.c --- */

/* Deliver @mail in the next round of the loop. */
void dlm_engine_post_later(DlmEngine *engine, DlmMail *mail);
/* A channel's report. */
void dlm_engine_deliver_report(DlmMail *mail, void *owner);
/* Forget the locks of a lockspace that is gone: nothing is said of them. */
void dlm_engine_drop_locks(DlmEngine *engine, DlmSpace *space);

/* --- engine-dlm-space.c --- */

DlmSpace *dlm_space_find(DlmEngine *engine, uint32_t id);       /* NULL: gone, or never was */
/* The open channel; opens it if need be. NULL and errno: no thread. */
DlmChannel *dlm_space_channel(DlmSpace *space);
void dlm_space_count_lock(DlmSpace *space, int change);         /* one more, one less */
void dlm_space_channel_idle(DlmEngine *engine, uint32_t id);
void dlm_space_channel_closed(DlmEngine *engine, uint32_t id);
/* Look at a name again: has it come, gone, or changed? NULL: at all. */
void dlm_space_look_again(void *engine, const char *name);
/* appeared() for each that is there, in the next round of the loop. */
void dlm_space_find_all(DlmEngine *engine);
void dlm_space_free_all(DlmEngine *engine);

int dlm_create(Engine *engine, const char *name, const EngineAttr *attr, EngineDone *done, void *data);
int dlm_set_attr(Engine *engine, uint32_t lockspace, const EngineAttr *attr, EngineDone *done, void *data);
int dlm_seal(Engine *engine, uint32_t lockspace, gboolean force, EngineDone *done, void *data);
void dlm_unseal(Engine *engine, uint32_t lockspace);
int dlm_release(Engine *engine, uint32_t lockspace, gboolean force, EngineDone *done, void *data);
gboolean dlm_is_lingering(Engine *engine);
EngineSpaceState dlm_state(Engine *engine, uint32_t lockspace);
int dlm_foreign_locks(Engine *engine, uint32_t lockspace, EngineForeignDone *done, void *data);
