/*
 * hold WAY DIRECTORY NAME COUNT [numbered]
 *
 * Very many locks held at once, each by an open file of its own: COUNT times
 * the lock of NAME, or with "numbered" those of NAME0, NAME1 and so on. Says
 * "held" when it has them all, and keeps them until the end of its input.
 *
 * A process may not have as many files open as it likes, so there are as many
 * processes as it takes.
 */
#include "way.h"
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SPARE_FILES 64

/* How many files one process may have open besides its own few. */
static long raise_file_limit(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                err(1, "RLIMIT_NOFILE");
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                err(1, "RLIMIT_NOFILE");
        return limit.rlim_cur == RLIM_INFINITY ? 1 << 20 : (long)limit.rlim_cur - SPARE_FILES;
}

static void take(Way way, const char *directory, const char *name, long number)
{
        char numbered[64];

        if (number >= 0) {
                snprintf(numbered, sizeof(numbered), "%s%ld", name, number);
                name = numbered;
        }
        if (way_take(way, directory, name, false) < 0)
                errx(1, "%s: somebody else has it", name);
}

static void wait_for_end_of_input(void)
{
        char c;

        while (read(STDIN_FILENO, &c, 1) > 0)
                ;
}

int main(int argc, char **argv)
{
        bool numbered = argc == 6 && strcmp(argv[5], "numbered") == 0;
        int ready[2], status, failed = 0;
        long count, share, processes = 0;
        Way way;

        if (argc != 5 && !numbered)
                errx(2, "usage: hold WAY DIRECTORY NAME COUNT [numbered]");
        way = way_from_string(argv[1]);
        count = atol(argv[4]);
        share = raise_file_limit();
        if (pipe(ready) < 0)
                err(1, "pipe");
        for (long first = 0; first < count; first += share) {
                processes++;
                switch (fork()) {
                case -1:
                        err(1, "fork");
                case 0:
                        for (long i = first; i < count && i < first + share; i++)
                                take(way, argv[2], argv[3], numbered ? i : -1);
                        if (write(ready[1], "", 1) != 1)
                                err(1, "ready");
                        close(ready[1]);
                        wait_for_end_of_input();
                        _exit(0);
                }
        }
        close(ready[1]);
        for (char c; processes > 0 && read(ready[0], &c, 1) == 1; processes--)
                ;
        if (processes == 0)
                puts("held");
        fflush(stdout);
        while (wait(&status) > 0)
                failed |= status;
        return failed != 0;
}
