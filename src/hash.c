#include "hash.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

static inline guint64 rotate(guint64 word, unsigned bits)
{
        return word << bits | word >> (64 - bits);
}

static inline void stir(guint64 v[static 4])
{
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
}

static inline void add(guint64 v[static 4], guint64 word)
{
        v[3] ^= word;
        stir(v);
        v[0] ^= word;
}

guint64 hash_siphash(const guint64 key[static 2], const void *bytes, gsize len)
{
        guint64 v[] = {                         /* "somepseudorandomlygeneratedbytes" */
                key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573,
        };
        const char *p = bytes, *words_end = p + len / sizeof(guint64) * sizeof(guint64);
        guint64 word, last = 0;

        for (; p < words_end; p += sizeof(word)) {
                memcpy(&word, p, sizeof(word));
                add(v, GUINT64_FROM_LE(word));
        }
        memcpy(&last, p, len % sizeof(last));
        add(v, GUINT64_FROM_LE(last) | (guint64)len << 56);
        v[2] ^= 0xff;
        for (int i = 0; i < 3; i++)
                stir(v);
        return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Made at the first use. */
static const guint64 *own_key(void)
{
        static guint64 key[2];
        static gboolean has_key;

        if (G_UNLIKELY(!has_key)) {
                if (getentropy(key, sizeof(key)) < 0)
                        g_error("no random numbers: %s", g_strerror(errno));
                has_key = TRUE;
        }
        return key;
}

guint hash_bytes(const void *bytes, gsize len)
{
        return hash_siphash(own_key(), bytes, len);
}

guint hash_string(gconstpointer string)
{
        return hash_bytes(string, strlen(string));
}
