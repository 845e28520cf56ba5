#pragma once
/*
 * A spin is looking on for a moment, before going to sleep: waking up costs
 * more than most of what one is woken for. Others have their turn between the
 * looks, and when one of them took it the processor is wanted: it ends early,
 * since who was to bring something has had his chance, and each sched_yield()
 * that another takes sets us back in the scheduler's order.
 *
 *      Spin spin = spin_begin(spin_us);
 *      while (!has_something() && spin_yield(&spin))
 *              ;
 */
#include <glib.h>

typedef struct Spin {
        gint64 now_us;                          /* monotonic, of the last look */
        gint64 end_us;
        gboolean is_over;
} Spin;

Spin spin_begin(unsigned spin_us);              /* 0: no look at all */
/* Let others run. TRUE: look again; FALSE: it is over, and nobody was let. */
gboolean spin_yield(Spin *spin);
