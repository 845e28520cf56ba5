/*
 * bench-files DIRECTORY
 *
 * Very many lock files. Each line of input is a command, answered with the
 * seconds that it took:
 *
 *   create N    make files until there are N of them, by mknod()
 *   stat N      ask for the attributes of N of them, past the kernel's cache
 *   list N      read the directory, which has N entries
 */
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now_s(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void file_name(long number, char name[32])
{
        snprintf(name, 32, "file-%ld", number);
}

static void create_files(int directory, long first, long count)
{
        char name[32];

        for (long i = first; i < count; i++) {
                file_name(i, name);
                if (mknodat(directory, name, S_IFREG | 0666, 0) < 0)
                        err(1, "%s", name);
        }
}

/* @step apart, so that few of very many are not neighbours. */
static void stat_files(int directory, long step, long count)
{
        struct statx stx;
        char name[32];

        for (long i = 0; i < count; i++) {
                file_name(i * step, name);
                if (statx(directory, name, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &stx) < 0)
                        err(1, "%s", name);
        }
}

static void list_files(const char *path, long count)
{
        DIR *directory = opendir(path);
        long found = 0;

        if (!directory)
                err(1, "%s", path);
        for (struct dirent *entry; (entry = readdir(directory));)
                found += strncmp(entry->d_name, "file-", 5) == 0;
        closedir(directory);
        if (found != count)
                errx(1, "%s has %ld of %ld files", path, found, count);
}

int main(int argc, char **argv)
{
        char line[64], command[16];
        long count, created = 0;
        int directory;

        directory = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;
        if (directory < 0)
                errx(2, "usage: bench-files DIRECTORY");
        while (fgets(line, sizeof(line), stdin)) {
                double start_s = now_s();

                if (sscanf(line, "%15s %ld", command, &count) != 2)
                        errx(2, "%s", line);
                if (strcmp(command, "create") == 0) {
                        create_files(directory, created, count);
                        created = count;
                } else if (strcmp(command, "stat") == 0 && count <= created) {
                        stat_files(directory, created / count, count);
                } else if (strcmp(command, "list") == 0) {
                        list_files(argv[1], count);
                } else {
                        errx(2, "%s", line);
                }
                printf("%.6f\n", now_s() - start_s);
                fflush(stdout);
        }
        return 0;
}
