/* SPDX-License-Identifier: BSD-3-Clause
 *
 * encode.h: a Python value as JSON, straight into the buffer that is sent.
 *
 * What comes out is what the supervisor accepts (base/json.h): UTF-8, never NaN, at most
 * JSON_DEPTH deep. A displayed picture is one string of megabytes: it is looked at once and
 * copied once, which Python's own json cannot.
 */
#pragma once

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x03090000
#include <Python.h>

#include "base/base.h"

/* Appends `value`. Numbers that JSON has not become their text, names that are not strings
 * become strings as Python's json makes them, lone surrogates become escapes. Anything else is
 * given to fallback(value), whose result is encoded in its place. Returns 0, or -1 with a
 * Python exception; *ret is then of no use. */
int encode_json(PyObject *value, PyObject *fallback, struct buf *ret);
