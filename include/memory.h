#pragma once
/*
 * Memory for what comes and goes with somebody's request: zeroed, freed by
 * g_free(), and NULL when there is none, which is then an errno to him and
 * nothing to all others. (GLib would end the daemon, and with it every lock.)
 * Directly by malloc(), which takes what was freed last from the thread's
 * cache; calloc() of glibc looks for it in the arena, at three times the cost.
 * (GLib's slices are slower than that cache, and waste a third.)
 *
 * What each request needs can be kept for the next one instead of being freed,
 * as a few spares: that costs a fifth of what malloc() and free() do. The main
 * loop's alone, like all objects. AddressSanitizer is to see each use of what
 * was freed, and so nothing is kept from it; nor with G_DEBUG=gc-friendly, as
 * GLib has it for valgrind.
 */
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_SPARES 32

#ifdef __SANITIZE_ADDRESS__
#define MEMORY_IS_KEPT FALSE
#else
#define MEMORY_IS_KEPT (!g_mem_gc_friendly)
#endif

typedef struct MemorySpares {                   /* zeroes are none; of objects of one size */
        unsigned count;
        void *objects[MEMORY_SPARES];
} MemorySpares;

#define memory_new0(Type) ((Type *)memory_alloc0(sizeof(Type)))
#define memory_take0(spares, Type) ((Type *)memory_take((spares), sizeof(Type)))

static inline void *memory_zero(void *object, gsize size)
{
        return G_LIKELY(object) ? memset(object, 0, size) : NULL;
}

static inline void *memory_alloc0(gsize size)
{
        return memory_zero(malloc(size), size);
}

static inline char *memory_strdup(const char *text)
{
        const gsize size = strlen(text) + 1;
        char *copy = malloc(size);

        return copy ? memcpy(copy, text, size) : NULL;
}

static inline void *memory_take(MemorySpares *spares, gsize size)
{
        return memory_zero(spares->count > 0 ? spares->objects[--spares->count] : malloc(size), size);
}

static inline void memory_give(MemorySpares *spares, void *object)
{
        if (spares->count < MEMORY_SPARES && MEMORY_IS_KEPT)
                spares->objects[spares->count++] = object;
        else
                g_free(object);
}
