#pragma once
/*
 * A table for people: columns as wide as their widest cell, two blanks
 * between them, numbers to the right. What would spoil the terminal is
 * written %XX, byte by byte.
 */
#include <glib.h>

typedef struct Columns Columns;

/* @titles: one word for each column; a '>' before it: to the right. */
Columns *columns_new(const char *titles);
void columns_free(Columns *columns);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Columns, columns_free)

/* The next cell, row by row, UTF-8. */
void columns_add(Columns *columns, const char *cell);
void columns_print(const Columns *columns, GString *text);

/* A cell's text alone. */
char *columns_clean(const char *cell);
