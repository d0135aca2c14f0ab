/* SPDX-License-Identifier: BSD-3-Clause
 *
 * store.h: the history of what was entered, in SQLite (sqlite.org). One file for all kernels of a user,
 * outside of every sandbox; or none.
 *
 * - What this session enters is kept in memory first, and from there in the file. A file that cannot be
 *   written (a full disk, another kernel at it) is tried again with the next line, and loses none; one
 *   that is damaged is put aside, as history.sqlite.damaged, and a new one is begun. Each is said
 *   once, as a warning. Nothing here fails for the caller.
 * - Sessions are numbered over all kernels, lines within a session, as IPython does: session 0 is the
 *   present one, -1 the one before.
 * - Bounded: STORE_LINES and STORE_BYTES of the file, the oldest lines go first; of this session
 *   STORE_SESSION_LINES in memory; a line longer than STORE_LINE is not kept; an answer has at most
 *   STORE_ANSWER bytes, of the latest lines.
 *
 * Calls may take as long as the disk does: they belong into a thread of their own (history.c).
 */
#pragma once

#include "base/base.h"

#define STORE_LINES 100000
#define STORE_BYTES (64u << 20)
#define STORE_SESSION_LINES 10000
#define STORE_LINE (1u << 20)     /* bytes of JSON */
#define STORE_ANSWER (32u << 20)  /* bytes of JSON */
#define STORE_OUTPUT 65536        /* bytes of JSON: what a line showed, kept in memory only */

struct store;

/* path: the file; NULL: this session only. NULL without memory. */
struct store *store_new(const char *path);
void store_free(struct store *s); /* writes what it can */

/* A line of this session; `code` and so on are accepted JSON strings. */
void store_add(struct store *s, uint32_t line, struct bytes code);
void store_set_source(struct store *s, uint32_t line, struct bytes code); /* after IPython's transformation */
void store_set_output(struct store *s, uint32_t line, struct bytes text);
/* Brings what was added to the file. */
void store_write(struct store *s);
/* Lines count from 1 again. */
void store_next_session(struct store *s);

/* Appends the list of a history_reply for an accepted history_request content. -1: without memory. */
int store_answer(struct store *s, struct bytes request, struct buf *ret);
