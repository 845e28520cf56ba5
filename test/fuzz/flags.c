/* The list of -o lockspace_flags=. */
#include "bytes.h"
#include "dlm-cluster.h"

#define KNOWN (0x2u | 0x4u | 0x8u)              /* DLM_LSFL_TIMEWARN, _FS, _NEWEXCL: libdlm.h cannot stand beside engine.h */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        g_autofree char *text = g_strndup((const char *)data, size);
        g_autoptr(GError) error = NULL;
        uint32_t flags = G_MAXUINT32;
        gboolean ok = dlm_cluster_parse_flags(text, &flags, &error);

        g_assert_true(ok == !error);
        if (ok)
                g_assert_cmpuint(flags & ~KNOWN, ==, 0);
        else
                g_assert_cmpuint(flags, ==, G_MAXUINT32);
        return 0;
}
