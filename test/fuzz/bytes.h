#pragma once
/*
 * The input of a fuzz target, taken from its front. At its end there are only
 * zeros and empty strings, so a target need not ask before it takes.
 */
#include <glib.h>
#include <stdint.h>

typedef struct Bytes {
        const uint8_t *at;
        size_t left;
} Bytes;

/* libFuzzer's: run the target on one input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

uint8_t bytes_take(Bytes *bytes);
/* Up to the next @end byte, which goes too, or up to the end of all. What is
 * taken ends at its first NUL, as strings do. */
char *bytes_take_string(Bytes *bytes, uint8_t end);
/* All that is left as words, each up to a newline, after @first: what main()
 * gets. NULL-terminated. */
char **bytes_take_arguments(Bytes *bytes, const char *first);
