/*
 * int80 open|openat|flags PATH
 *
 * Calls of an old 32-bit program, which knows no O_LARGEFILE; int 0x80 makes
 * them of a 64-bit program, too. Opens the file for reading, says "opened" and
 * keeps it until the end of its input. Or opens it to read and write, like any
 * program of today, and asks for its flags. Says the errno when that fails.
 */
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { OPEN = 5, IOCTL = 54, OPENAT = 295 };    /* of i386 */
#define FS_IOC32_GETFLAGS 0x80046601

static void no_such_calls(int signal)
{
        static const char message[] = "int80: this kernel has no calls of 32-bit programs (CONFIG_IA32_EMULATION)\n";

        if (write(STDERR_FILENO, message, sizeof(message) - 1) < 0)
                _exit(3);
        _exit(2);
}

/* Negative: an errno. */
static int call(int number, int a, const void *b, int c)
{
        int result;

        __asm__ volatile("int $0x80"
                         : "=a"(result)
                         : "a"(number), "b"(a), "c"((int)(long)b), "d"(c)
                         : "memory", "r8", "r9", "r10", "r11");
        return result;
}

int main(int argc, char **argv)
{
        char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        int result, fd;

        if (argc != 3 || low == MAP_FAILED)
                errx(2, "usage: int80 open|openat|flags PATH");
        signal(SIGSEGV, no_such_calls);
        strncpy(low, argv[2], 4095);
        if (strcmp(argv[1], "open") == 0) {
                result = call(OPEN, (int)(long)low, (void *)O_RDONLY, 0);
        } else if (strcmp(argv[1], "openat") == 0) {
                result = call(OPENAT, AT_FDCWD, low, O_RDONLY);
        } else {
                fd = open(argv[2], O_RDWR);
                if (fd < 0)
                        err(1, "%s", argv[2]);
                result = call(IOCTL, fd, (void *)FS_IOC32_GETFLAGS, (int)(long)low);
        }
        if (result < 0)
                printf("%s\n", strerrorname_np(-result));
        else
                puts("opened");
        fflush(stdout);
        while (getchar() != EOF)
                ;
        return 0;
}
