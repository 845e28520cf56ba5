#include "local-events.h"

#define SIZE_MIN 64
#define SIZE_KEPT 4096                          /* an empty ring larger than this is given back */

static LocalEvent *event_at(const LocalEvents *events, unsigned i)
{
        return &events->ring[(events->first + i) & (events->size - 1)];
}

static void grow(LocalEvents *events)
{
        LocalEvents larger = { .size = MAX(events->size * 2, SIZE_MIN), .used = events->used };

        larger.ring = g_new(LocalEvent, larger.size);
        for (unsigned i = 0; i < events->used; i++)
                larger.ring[i] = *event_at(events, i);
        g_free(events->ring);
        *events = larger;
}

LocalEvent *local_events_push(LocalEvents *events, LocalEventKind kind, uint32_t lockspace)
{
        LocalEvent *event;

        if (events->used == events->size)
                grow(events);
        event = event_at(events, events->used++);
        *event = (LocalEvent){ .kind = kind, .lockspace = lockspace };
        return event;
}

gboolean local_events_pop(LocalEvents *events, LocalEvent *ret_event)
{
        if (events->used == 0)
                return FALSE;
        *ret_event = *event_at(events, 0);
        events->first = (events->first + 1) & (events->size - 1);
        events->used--;
        if (events->used == 0 && events->size > SIZE_KEPT)
                local_events_clear(events);
        return TRUE;
}

void local_events_purge(LocalEvents *events, uint32_t lockspace, void (*forget)(const LocalEvent *event, void *data), void *data)
{
        for (unsigned i = 0; i < events->used; i++) {
                LocalEvent *event = event_at(events, i);

                if (event->lockspace != lockspace)
                        continue;
                if (event->kind != LOCAL_EVENT_COMPLETED && event->kind != LOCAL_EVENT_BLOCKING)
                        continue;
                forget(event, data);
                event->kind = LOCAL_EVENT_PURGED;
        }
}

void local_events_clear(LocalEvents *events)
{
        g_free(events->ring);
        *events = (LocalEvents){ 0 };
}
