#pragma once
/*
 * A record is a file of lines, each "TICK WORD...", on a file system of the
 * host's. TICK is the processor's counter: guests read the same one. What has
 * been pushed is on the host, and survives the node.
 */
#include <stdint.h>

#define RECORD_MAX 8192

typedef struct Record {
        int fd;
        int length;
        char text[RECORD_MAX];                  /* not pushed yet */
} Record;

uint64_t ticks(void);

void record_open(Record *record, const char *path);             /* or the program ends */
__attribute__((format(printf, 3, 4)))
void record_at(Record *record, uint64_t tick, const char *format, ...);
void record_push(Record *record);
