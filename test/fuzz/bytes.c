#include "bytes.h"
#include <string.h>

uint8_t bytes_take(Bytes *bytes)
{
        if (bytes->left == 0)
                return 0;
        bytes->left--;
        return *bytes->at++;
}

char *bytes_take_string(Bytes *bytes, uint8_t end)
{
        const uint8_t *found = bytes->left ? memchr(bytes->at, end, bytes->left) : NULL;
        size_t len = found ? (size_t)(found - bytes->at) : bytes->left;
        char *string = g_strndup((const char *)bytes->at, len);

        bytes->at += len + (found != NULL);
        bytes->left -= len + (found != NULL);
        return string;
}

char **bytes_take_arguments(Bytes *bytes, const char *first)
{
        g_autoptr(GPtrArray) words = g_ptr_array_new();

        g_ptr_array_add(words, g_strdup(first));
        while (bytes->left > 0)
                g_ptr_array_add(words, bytes_take_string(bytes, '\n'));
        g_ptr_array_add(words, NULL);
        return (char **)g_ptr_array_free(g_steal_pointer(&words), FALSE);
}
