#include "record.h"

#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <x86intrin.h>

/* Nothing before it is still to be done, and nothing behind it has begun. */
uint64_t ticks(void)
{
        unsigned cpu;
        uint64_t tick;

        _mm_mfence();
        tick = __rdtscp(&cpu);
        _mm_lfence();
        return tick;
}

void record_open(Record *record, const char *path)
{
        record->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        record->length = 0;
        if (record->fd < 0)
                err(1, "%s", path);
}

void record_at(Record *record, uint64_t tick, const char *format, ...)
{
        const int room = RECORD_MAX - record->length;
        va_list args;
        int n;

        n = snprintf(record->text + record->length, room, "%" PRIu64 " ", tick);
        va_start(args, format);
        if (n < room)
                n += vsnprintf(record->text + record->length + n, room - n, format, args);
        va_end(args);
        if (n + 1 >= room)
                errx(1, "too much that was not pushed");
        record->text[record->length + n] = '\n';
        record->length += n + 1;
}

/* hostfs writes to the host's file when the pages are told to go, and at no other time. */
void record_push(Record *record)
{
        if (record->length == 0)
                return;
        if (write(record->fd, record->text, record->length) != record->length)
                err(1, "record");
        record->length = 0;
        if (sync_file_range(record->fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) < 0)
                err(1, "record: sync_file_range");
}
