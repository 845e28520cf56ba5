/*
 * hold WAY DIRECTORY NAME COUNT [numbered]
 *
 * Very many locks held at once, each by an open file of its own: COUNT times
 * the lock of NAME, or with "numbered" those of NAME0, NAME1 and so on. Says
 * "held" when it has them all, and keeps them until the end of its input.
 */
#include "way.h"
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

int main(int argc, char **argv)
{
        bool numbered = argc == 6 && strcmp(argv[5], "numbered") == 0;
        char line[16];
        long count;
        Way way;

        if (argc != 5 && !numbered)
                errx(2, "usage: hold WAY DIRECTORY NAME COUNT [numbered]");
        way = way_from_string(argv[1]);
        count = atol(argv[4]);
        if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){ (rlim_t)count + 64, (rlim_t)count + 64 }) < 0)
                err(1, "RLIMIT_NOFILE");
        for (long i = 0; i < count; i++) {
                char name[64];

                if (numbered)
                        snprintf(name, sizeof(name), "%s%ld", argv[3], i);
                else
                        snprintf(name, sizeof(name), "%s", argv[3]);
                if (way_take(way, argv[2], name, false) < 0)
                        errx(1, "%s: somebody else has it", name);
        }
        puts("held");
        fflush(stdout);
        while (fgets(line, sizeof(line), stdin))
                ;
        return 0;
}
