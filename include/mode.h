#pragma once
/*
 * The six lock modes of the DLM, weakest first, and what each lets others do.
 * The numbers are the kernel's DLM_LOCK_* of <linux/dlmconstants.h>, so a mode
 * goes to the kernel and comes back as it is.
 */
#include <glib.h>
#include <linux/dlmconstants.h>

typedef enum LockMode {
        MODE_NL = DLM_LOCK_NL,                  /* null: keeps the resource, excludes nobody */
        MODE_CR = DLM_LOCK_CR,                  /* concurrent read */
        MODE_CW = DLM_LOCK_CW,                  /* concurrent write */
        MODE_PR = DLM_LOCK_PR,                  /* protected read: shared */
        MODE_PW = DLM_LOCK_PW,                  /* protected write: one writer, CR readers */
        MODE_EX = DLM_LOCK_EX,                  /* exclusive */
} LockMode;

#define MODE_COUNT 6

/* May @a and @b be granted on one resource at the same time? Symmetric. */
gboolean mode_is_compatible(LockMode a, LockMode b);

/* Is the value block written when a lock goes from @mode down (PW, EX)? */
gboolean mode_is_writer(LockMode mode);

/* "NL", "CR", "CW", "PR", "PW", "EX" */
const char *mode_to_string(LockMode mode);

/* The mode of a mode directory's name: ".nl" … ".ex". FALSE: no such directory. */
gboolean mode_from_directory(const char *name, LockMode *ret_mode);
const char *mode_to_directory(LockMode mode);
