/* SPDX-License-Identifier: BSD-3-Clause
 *
 * print.h: the builtin print(), and what it and the streams of husk.c share.
 *
 * Python's print() writes each argument, each space and the end of the line by a call of its own, so that a line of two words is four
 * records of the ring, and four looks at the pipes (wall/ring.h). This one writes what it can be sure of at once: as long as
 * arguments are strings and numbers, whose text no code of anybody is asked for. Before it asks for that of another value it has written
 * what came before, so that nobody, not even who prints in a __str__ or raises there, sees another order. All else that
 * print() can do (a file that is not ours, flush, wrong arguments) Python's own does.
 */
#pragma once

#include "interpreter/encode.h"

/* What our stream would write text as: 1 or 2, or 0 if that is not the write() of one of ours. */
uint32_t stream_of(PyObject *write);
/* The UTF-8 of a string, with lone surrogates as escapes; it lies in the string or in *hold, which the caller gives up. NULL
 * with an exception. */
const char *stream_utf8(PyObject *text, PyObject **hold, Py_ssize_t *ret_len);
/* Writes for this context. -1 with an exception. */
int stream_write(uint32_t stream, const char *utf8, size_t len);

/* make_print(print): a function that to all who look at it is the one that it was given. */
PyObject *make_print(PyObject *self, PyObject *original);
