/* The clock of the records, for Python on the host. */
#include "record.h"

uint64_t faults_ticks(void);

uint64_t faults_ticks(void)
{
        return ticks();
}
