#ifndef LOCKSPACEFS_H
#define LOCKSPACEFS_H
/*
 * For programs that use a mounted lockspacefs: the names, the limits and the
 * extended attributes of lockspacefs(5). There is no library: the files are
 * the interface. Fits C89 and C++.
 *
 *      int fd = open("/dlm/web/" LOCKSPACEFS_EX "/deploy", O_RDWR | O_CLOEXEC);
 */
#include <stddef.h>

/* --- limits, in bytes --- */

#define LOCKSPACEFS_NAME_MAX 64                 /* of a lockspace, and of a resource: DLM_LOCKSPACE_LEN, DLM_RESNAME_MAXLEN */
#define LOCKSPACEFS_FILE_NAME_MAX (3 * LOCKSPACEFS_NAME_MAX)    /* a resource of which each byte is written %XX */
#define LOCKSPACEFS_VALUE_LEN 32                /* of a value block: DLM_USER_LVB_LEN */

/* --- mode directories, in a lockspace: to open a file there is to lock it --- */

#define LOCKSPACEFS_NL ".nl"                    /* null */
#define LOCKSPACEFS_CR ".cr"                    /* concurrent read */
#define LOCKSPACEFS_CW ".cw"                    /* concurrent write */
#define LOCKSPACEFS_PR ".pr"                    /* protected read: shared */
#define LOCKSPACEFS_PW ".pw"                    /* protected write */
#define LOCKSPACEFS_EX ".ex"                    /* exclusive */

/* --- control files --- */

#define LOCKSPACEFS_STATUS ".status"            /* in the root */
#define LOCKSPACEFS_METRICS ".metrics"          /* in the root: OpenMetrics */
#define LOCKSPACEFS_LOCKS ".locks"              /* in a lockspace */
#define LOCKSPACEFS_FORCE ".force"              /* in a lockspace */

/* --- extended attributes --- */

#define LOCKSPACEFS_XATTR_VALUE "user.value"    /* of a lock file: LOCKSPACEFS_VALUE_LEN bytes, always */
#define LOCKSPACEFS_XATTR_FORCE "user.force"    /* of a lockspace: "0" or "1" */

/* --- which file system is it? --- */

#define LOCKSPACEFS_TYPE "fuse.lockspacefs"     /* in proc_pid_mountinfo(5) and getmntent(3) */
#define LOCKSPACEFS_STATFS_TYPE 0x65735546      /* f_type of statfs(2): FUSE_SUPER_MAGIC, as of every FUSE file system */

/* --- names of resources --- */

static __inline__ int lockspacefs_is_hex(unsigned char c)
{
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f');
}

/* The one file name of the resource whose name is the @len bytes at @name, 1
 * to LOCKSPACEFS_NAME_MAX of any value. @file_name gets it with a NUL, and has
 * room for LOCKSPACEFS_FILE_NAME_MAX + 1 bytes. Returns its length. */
static __inline__ size_t lockspacefs_file_name(const void *name, size_t len, char *file_name)
{
        static const char hex[] = "0123456789ABCDEF";
        const unsigned char *p = (const unsigned char *)name;
        char *out = file_name;
        size_t i;

        for (i = 0; i < len; i++) {
                int is_escape = p[i] == '%' && len - i > 2 && lockspacefs_is_hex(p[i + 1]) && lockspacefs_is_hex(p[i + 2]);

                if (p[i] < 32 || p[i] == 127 || p[i] == '/' || (p[i] == '.' && i == 0) || is_escape) {
                        *out++ = '%';
                        *out++ = hex[p[i] >> 4];
                        *out++ = hex[p[i] & 15];
                } else {
                        *out++ = (char)p[i];
                }
        }
        *out = '\0';
        return (size_t)(out - file_name);
}

#endif
