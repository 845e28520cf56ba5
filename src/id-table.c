#include "id-table.h"
#include <stdlib.h>

void id_table_init(IdTable *table)
{
        *table = (IdTable){ .used = 1 };
}

static void *free_slot(uint32_t next)
{
        return GSIZE_TO_POINTER((gsize)next << 1 | 1);
}

static gboolean is_free(const void *slot)
{
        return GPOINTER_TO_SIZE(slot) & 1;
}

static gboolean grow(IdTable *table)
{
        const uint32_t size = MAX(64, table->size * 2);
        void **slots = realloc(table->slots, size * sizeof(*slots));

        if (!slots)
                return FALSE;
        table->slots = slots;
        table->size = size;
        return TRUE;
}

uint32_t id_table_add(IdTable *table, void *object)
{
        uint32_t id = table->free;

        g_assert(object && !is_free(object));
        if (id) {
                table->free = GPOINTER_TO_SIZE(table->slots[id]) >> 1;
        } else {
                if (table->used >= table->size && !grow(table))
                        return 0;
                id = table->used++;
        }
        table->slots[id] = object;
        return id;
}

void *id_table_find(const IdTable *table, uint32_t id)
{
        if (id == 0 || id >= table->used || is_free(table->slots[id]))
                return NULL;
        return table->slots[id];
}

void id_table_remove(IdTable *table, uint32_t id)
{
        g_assert(id_table_find(table, id));
        table->slots[id] = free_slot(table->free);
        table->free = id;
}

void *id_table_next(const IdTable *table, uint32_t *id)
{
        while (++*id < table->used)
                if (!is_free(table->slots[*id]))
                        return table->slots[*id];
        return NULL;
}

void id_table_clear(IdTable *table)
{
        g_free(table->slots);
        id_table_init(table);
}
