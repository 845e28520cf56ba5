#include "mode.h"
#include "lockspacefs.h"

/* The DLM's matrix: __dlm_compat_matrix in fs/dlm/lock.c. */
static const gboolean compatible[MODE_COUNT][MODE_COUNT] = {
        /*             NL     CR     CW     PR     PW     EX */
        [MODE_NL] = { TRUE,  TRUE,  TRUE,  TRUE,  TRUE,  TRUE  },
        [MODE_CR] = { TRUE,  TRUE,  TRUE,  TRUE,  TRUE,  FALSE },
        [MODE_CW] = { TRUE,  TRUE,  TRUE,  FALSE, FALSE, FALSE },
        [MODE_PR] = { TRUE,  TRUE,  FALSE, TRUE,  FALSE, FALSE },
        [MODE_PW] = { TRUE,  TRUE,  FALSE, FALSE, FALSE, FALSE },
        [MODE_EX] = { TRUE,  FALSE, FALSE, FALSE, FALSE, FALSE },
};

static const char *const names[MODE_COUNT] = { "NL", "CR", "CW", "PR", "PW", "EX" };
static const char *const directories[MODE_COUNT] = {
        [MODE_NL] = LOCKSPACEFS_NL, [MODE_CR] = LOCKSPACEFS_CR, [MODE_CW] = LOCKSPACEFS_CW,
        [MODE_PR] = LOCKSPACEFS_PR, [MODE_PW] = LOCKSPACEFS_PW, [MODE_EX] = LOCKSPACEFS_EX,
};

gboolean mode_is_compatible(LockMode a, LockMode b)
{
        return compatible[a][b];
}

gboolean mode_is_writer(LockMode mode)
{
        return mode >= MODE_PW;
}

const char *mode_to_string(LockMode mode)
{
        return names[mode];
}

gboolean mode_from_directory(const char *name, LockMode *ret_mode)
{
        for (LockMode m = MODE_NL; m < MODE_COUNT; m++)
                if (g_str_equal(name, directories[m])) {
                        *ret_mode = m;
                        return TRUE;
                }
        return FALSE;
}

const char *mode_to_directory(LockMode mode)
{
        return directories[mode];
}
