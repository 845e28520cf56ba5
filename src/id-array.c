#include "id-array.h"

IdArray *id_array_new(void)
{
        return g_ptr_array_new();
}

void *id_array_find(const IdArray *array, uint32_t id)
{
        return id < array->len ? g_ptr_array_index(array, id) : NULL;
}

void id_array_set(IdArray *array, uint32_t id, void *object)
{
        if (id >= array->len)
                g_ptr_array_set_size(array, MAX(id + 1, MIN(2 * array->len, G_MAXINT / 2)));
        g_ptr_array_index(array, id) = object;
}

void id_array_free(IdArray *array)
{
        g_ptr_array_unref(array);
}
