#include "trace.h"

gboolean trace_is_on;
