#pragma once
/*
 * gcov writes its counts when exit() runs. Children that end without it would
 * lose theirs: in a build with b_coverage, which puts this before every file of
 * src/, they write them first.
 */
#include <unistd.h>

void __gcov_dump(void);

#define _exit(status)                                                            \
        do {                                                                    \
                const int exit_status = (status);                               \
                                                                                \
                __gcov_dump();                                                  \
                _exit(exit_status);                                             \
        } while (0)
