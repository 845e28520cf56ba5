#pragma once
/*
 * An id table gives objects small numbers: what we hand to the kernel in place
 * of a pointer. Numbers that were removed are used again, the last one first; 0
 * is never used. Lookups of numbers that are not in use find NULL.
 */
#include <glib.h>
#include <stdint.h>

typedef struct IdTable {
        void **slots;                           /* an object, or where the next free number is, tagged by bit 0 */
        uint32_t size;                          /* slots in memory */
        uint32_t used;                          /* slots ever used: the first unused one */
        uint32_t free;                          /* head of the list of free numbers, 0: none */
} IdTable;

void id_table_init(IdTable *table);
/* @object: at least 2-aligned, not NULL. 0: no memory. */
uint32_t id_table_add(IdTable *table, void *object);
void *id_table_find(const IdTable *table, uint32_t id);
void id_table_remove(IdTable *table, uint32_t id);
/* Walk: start with id 0; NULL ends. Objects may be removed on the way. */
void *id_table_next(const IdTable *table, uint32_t *id);
void id_table_clear(IdTable *table);
