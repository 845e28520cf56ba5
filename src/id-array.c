#include "id-array.h"
#include <stdlib.h>
#include <string.h>

#define LEN_MIN 64

void *id_array_find(const IdArray *array, uint32_t id)
{
        return id < array->len ? array->objects[id] : NULL;
}

static gboolean grow(IdArray *array, uint32_t id)
{
        const gsize len = MAX((gsize)id + 1, MAX(LEN_MIN, 2 * (gsize)array->len));
        void **objects = realloc(array->objects, len * sizeof(*objects));

        if (!objects)
                return FALSE;
        memset(objects + array->len, 0, (len - array->len) * sizeof(*objects));
        array->objects = objects;
        array->len = len;
        return TRUE;
}

gboolean id_array_add(IdArray *array, uint32_t id, void *object)
{
        if (id >= array->len && !grow(array, id))
                return FALSE;
        array->objects[id] = object;
        return TRUE;
}

void id_array_remove(IdArray *array, uint32_t id)
{
        array->objects[id] = NULL;
}

void id_array_clear(IdArray *array)
{
        g_free(array->objects);
        *array = (IdArray){ 0 };
}
