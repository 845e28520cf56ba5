/*
 * race WAY DIRECTORY PROCESSES ROUNDS [pairs]
 *
 * Once close() has returned, a try-lock by anyone must succeed. ROUNDS times
 * in all, PROCESSES processes at once open a file, try to lock it and close
 * it. Each has a file of its own, so nothing but its own last close can stand
 * in the way; with "pairs" two take turns on each file, so it is the close of
 * the other. Says how many rounds were made and how many were refused.
 */
#include "way.h"
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct Tally {                          /* shared memory: each process writes its own */
        long rounds;
        long refused;
} Tally;

/* A process of a pair waits for its turn in @turn[0] and passes it on to
 * @next[1]; without a partner both are NULL. */
static void run(Way way, const char *directory, const char *name, long rounds, Tally *tally, const int *turn, const int *next)
{
        for (long i = 0; i < rounds; i++) {
                char token;
                int fd;

                if (turn && read(turn[0], &token, 1) != 1)
                        err(1, "turn");
                fd = way_take(way, directory, name, false);
                if (fd < 0)
                        tally->refused++;
                else if (close(fd) < 0)
                        err(1, "close");
                tally->rounds++;
                if (next && write(next[1], "", 1) != 1)
                        err(1, "next");
        }
}

int main(int argc, char **argv)
{
        Tally *tallies, total = { 0 };
        int start[2], pair[2][2], processes, status, failed = 0;
        bool pairs = argc == 6 && strcmp(argv[5], "pairs") == 0;
        long rounds;
        Way way;

        if (argc != 5 && !pairs)
                errx(2, "usage: race WAY DIRECTORY PROCESSES ROUNDS [pairs]");
        way = way_from_string(argv[1]);
        processes = atoi(argv[3]);
        rounds = atol(argv[4]) / processes;
        tallies = mmap(NULL, (size_t)processes * sizeof(Tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (tallies == MAP_FAILED || pipe(start) < 0)
                err(1, "start");

        for (int i = 0; i < processes; i++) {
                if (pairs && i % 2 == 0 && (pipe(pair[0]) < 0 || pipe(pair[1]) < 0 || write(pair[0][1], "", 1) != 1))
                        err(1, "pair");
                switch (fork()) {
                case -1:
                        err(1, "fork");
                case 0: {
                        char name[32], none;

                        snprintf(name, sizeof(name), "race-%d", pairs ? i / 2 : i);
                        close(start[1]);
                        if (read(start[0], &none, 1) != 0)      /* all begin at once, when our parent closes it */
                                err(1, "start");
                        run(way, argv[2], name, rounds, tallies + i, pairs ? pair[i % 2] : NULL, pairs ? pair[1 - i % 2] : NULL);
                        _exit(0);
                }
                }
        }
        close(start[1]);
        while (wait(&status) > 0)
                failed |= status;
        for (int i = 0; i < processes; i++) {
                total.rounds += tallies[i].rounds;
                total.refused += tallies[i].refused;
        }
        printf("rounds %ld\nrefused %ld\n", total.rounds, total.refused);
        return failed != 0;
}
