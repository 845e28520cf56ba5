#pragma once
/*
 * The hash of tables whose keys are names that users choose. It has a key of
 * its own in each process: who does not know that cannot choose names which
 * collide, and would make each look-up a walk through all of them.
 *
 * SipHash (Aumasson and Bernstein, 2012), with one round for each word and
 * three at the end, as the tables of Rust and of Python have it. GLib's
 * hashes have no key. (A start at random for a simpler one does not do: what
 * collides in FNV depends on few bits of its state.)
 */
#include <glib.h>

guint hash_bytes(const void *bytes, gsize len);
guint hash_string(gconstpointer string);        /* for g_hash_table_new(), with g_str_equal() */

guint64 hash_siphash(const guint64 key[static 2], const void *bytes, gsize len);
