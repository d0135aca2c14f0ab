/* SPDX-License-Identifier: BSD-3-Clause
 *
 * json.h: JSON as husk meets it: bytes that are checked once and passed on as they are.
 *
 * Requests are read and rich output is accepted without building a tree: json_check() accepts
 * exactly one RFC 8259 value in valid UTF-8, and json_get() finds a member of an object in bytes
 * that were accepted before. Everything here is a pure function of its arguments, never
 * allocates (but for an output buffer of the caller's) and never looks beyond the bytes given.
 *
 * Differences from a tree parser, on purpose: numbers of any size and precision pass as text;
 * "\ud800" (a lone surrogate) is accepted as RFC 8259 allows; of duplicate names the last one
 * counts; NaN and Infinity are not JSON. Depth is bounded by JSON_DEPTH, without recursion.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

#define JSON_DEPTH 512 /* arrays and objects inside each other */

enum json_type { J_NONE, J_OBJECT, J_ARRAY, J_STRING, J_NUMBER, J_TRUE, J_FALSE, J_NULL };

/* Accepts `text` if it is one JSON value and nothing else but white space around it.
 * Returns its type, or -1 with err set: "byte 12: a string is not closed". */
int json_check(struct bytes text, struct err *err);

/* As json_check, but the value must be an object. Returns 0 or -1. */
int json_check_object(struct bytes text, struct err *err);

/* The value of member `name` of an object that json_check() accepted; `name` is plain ASCII.
 * Returns its type and, in *ret, the bytes of the value (a string with its quotes), or
 * J_NONE if there is no such member or `object` is no object. A name written with escapes
 * is compared by what it means. */
enum json_type json_get(struct bytes object, const char *name, struct bytes *ret);

/* Walks the members of an accepted object: *at starts at 0. Returns the value's type with its
 * raw name (with quotes) and bytes, or J_NONE at the end. */
enum json_type json_next(struct bytes object, size_t *at, struct bytes *ret_name,
                         struct bytes *ret_value);

/* Walks the elements of an accepted array in the same way. */
enum json_type json_element(struct bytes array, size_t *at, struct bytes *ret_value);

/* Appends what an accepted string (with its quotes) means. Lone surrogates become three bytes,
 * as Python's "surrogatepass" reads and writes them. -1 and errno ENOMEM. */
int json_unescape(struct bytes string, struct buf *ret);

/* True if an accepted string means exactly `text`. */
int json_string_is(struct bytes string, const char *text);

/* An accepted number as a 64-bit integer. -1 if it is not one, exactly. */
int json_int64(struct bytes number, int64_t *ret);

/* Appends `text`, which may be any bytes, as a JSON string with quotes. Invalid UTF-8 becomes
 * U+FFFD, one for each maximal part (Unicode 3.9, as Python and browsers do); text that is
 * valid comes out as it was, with only quote, backslash and control characters escaped. */
int json_quote(struct bytes text, struct buf *ret);

/* Whether json_quote() would change nothing of it. */
int json_is_utf8(struct bytes text);

/* As json_quote(), but invalid bytes become \udc80 to \udcff, as Python's file names have them, so that
 * a path comes back as it was. */
int json_quote_path(struct bytes path, struct buf *ret);
/* The way back, in what json_unescape() made and buf_string() ended. */
void json_surrogates_to_bytes(struct buf *text);

/* How many bytes at the end of text begin a UTF-8 sequence that is not complete but may become
 * valid: 0 to 3. Text that arrives in pieces is cut there. */
size_t json_utf8_tail(struct bytes text);

