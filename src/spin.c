#include "spin.h"
#include <sched.h>

#define CROWDED_US 3                            /* a sched_yield() longer than this went to somebody */

Spin spin_begin(unsigned spin_us)
{
        Spin spin = { .is_over = spin_us == 0 };

        if (!spin.is_over) {
                spin.now_us = g_get_monotonic_time();
                spin.end_us = spin.now_us + spin_us;
        }
        return spin;
}

gboolean spin_yield(Spin *spin)
{
        const gint64 before_us = spin->now_us;

        if (spin->is_over)
                return FALSE;
        sched_yield();
        spin->now_us = g_get_monotonic_time();
        spin->is_over = spin->now_us >= spin->end_us || spin->now_us - before_us > CROWDED_US;
        return TRUE;
}
