/*
 * cycles WAY DIRECTORY NAME
 *
 * The life of a lock, over and over: open, lock, close. Each line of input is
 * a number; that many rounds are made, and answered with the microseconds that
 * one of them took.
 */
#include "way.h"
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
        char line[32];
        Way way;

        if (argc != 4)
                errx(2, "usage: cycles WAY DIRECTORY NAME");
        way = way_from_string(argv[1]);
        while (fgets(line, sizeof(line), stdin)) {
                long rounds = atol(line);
                double start_us = now_us();

                for (long i = 0; i < rounds; i++)
                        if (close(way_take(way, argv[2], argv[3], true)) < 0)
                                err(1, "close");
                printf("%.3f\n", (now_us() - start_us) / (double)(rounds > 0 ? rounds : 1));
                fflush(stdout);
        }
        return 0;
}
