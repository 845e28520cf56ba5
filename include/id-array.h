#pragma once
/*
 * An id array finds objects by small numbers that somebody else chose, as an
 * engine finds its locks: an array that grows to the largest number. (Who
 * chooses the numbers has an IdTable.)
 */
#include <glib.h>
#include <stdint.h>

typedef GPtrArray IdArray;

IdArray *id_array_new(void);
void *id_array_find(const IdArray *array, uint32_t id);         /* NULL: nothing is there */
void id_array_set(IdArray *array, uint32_t id, void *object);   /* borrowed; NULL takes it out */
void id_array_free(IdArray *array);
