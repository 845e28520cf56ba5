#include "engine.h"
#include "config.h"

const EngineOps *engine_find(const char *name)
{
        static const EngineOps *const all[] = {
#ifdef HAVE_DLM
                &engine_dlm_ops,
#endif
                &engine_local_ops,
        };

        for (size_t i = 0; i < G_N_ELEMENTS(all); i++)
                if (g_str_equal(all[i]->name, name))
                        return all[i];
        return NULL;
}
