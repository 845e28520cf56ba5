#pragma once
/*
 * An id array finds objects by small numbers that somebody else chose, as an
 * engine finds its locks: an array that grows to the largest number. (Who
 * chooses the numbers has an IdTable.)
 */
#include <glib.h>
#include <stdint.h>

typedef struct IdArray {                        /* zeroes are an empty one */
        void **objects;
        gsize len;                              /* all ids in it are below */
} IdArray;

void *id_array_find(const IdArray *array, uint32_t id);         /* NULL: nothing is there */
gboolean id_array_add(IdArray *array, uint32_t id, void *object);       /* borrowed. FALSE: no memory */
void id_array_remove(IdArray *array, uint32_t id);
void id_array_clear(IdArray *array);
