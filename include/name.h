#pragma once
/*
 * Names. A lockspace's name is its directory's name. A resource's name is any
 * 1 to 64 bytes, and has exactly one file name: bytes that a file name cannot
 * have, or that would hide it or spoil a terminal, are written %XX, upper
 * case: a leading dot, 1–31, 127, '/', NUL and a '%' that two hex digits
 * follow. No other byte is.
 */
#include "engine.h"

#define FILE_NAME_MAX LOCKSPACEFS_FILE_NAME_MAX

/* 0, -EINVAL, or -ENAMETOOLONG: see lockspacefs(5). */
int lockspace_name_check(const char *name);

/* The resource of a file name. -EINVAL: no resource is written like that
 * (look-ups make it ENOENT); -ENAMETOOLONG: over 64 bytes when decoded. */
int resource_name_decode(const char *file_name, uint8_t ret_name[static RESOURCE_NAME_MAX], size_t *ret_len);
/* The file name, NUL-terminated. */
void resource_name_encode(const uint8_t *name, size_t len, char ret_file_name[static FILE_NAME_MAX + 1]);
