/* SPDX-License-Identifier: BSD-3-Clause */
#include "interpreter/encode.h"

#include <math.h>
#include <string.h>

#include "base/json.h"

/* In every Python since 3.3 and in the limited API since 3.10: declared here for 3.9. */
#if Py_LIMITED_API < 0x030a0000
extern const char *PyUnicode_AsUTF8AndSize(PyObject *unicode, Py_ssize_t *size);
#endif

struct encoder {
    PyObject *fallback;
    struct buf *out;
    int depth;
};

static int put_value(struct encoder *e, PyObject *value);

static int
put(struct encoder *e, const char *text, size_t len)
{
    if (buf_add(e->out, text, len) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

#define PUT(e, literal) put(e, literal, sizeof(literal) - 1)

static int
put_ascii(struct encoder *e, PyObject *text)
{
    Py_ssize_t len;
    const char *utf8 = text ? PyUnicode_AsUTF8AndSize(text, &len) : NULL;

    return utf8 ? put(e, utf8, (size_t)len) : -1;
}

/* Lone surrogates have no UTF-8, but JSON has an escape for them, and Python's json knows it. */
static int
put_surrogates(struct encoder *e, PyObject *text)
{
    PyObject *json = PyImport_ImportModule("json.encoder");
    PyObject *quoted = json ? PyObject_CallMethod(json, "encode_basestring_ascii", "O", text) : NULL;
    int r = put_ascii(e, quoted);

    Py_XDECREF(quoted);
    Py_XDECREF(json);
    return r;
}

static int
put_string(struct encoder *e, PyObject *text)
{
    Py_ssize_t len;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &len); /* no copy of what is ASCII */

    if (!utf8) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            return -1;
        PyErr_Clear();
        return put_surrogates(e, text);
    }
    if (json_quote((struct bytes){(const uint8_t *)utf8, (size_t)len}, e->out) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* The decimal digits, also of a subclass that prints itself differently (IntEnum). */
static int
put_int(struct encoder *e, PyObject *value)
{
    PyObject *digits = PyNumber_ToBase(value, 10);
    int r = put_ascii(e, digits);

    Py_XDECREF(digits);
    return r;
}

static int
put_float(struct encoder *e, PyObject *value)
{
    double number = PyFloat_AsDouble(value);
    char *text;
    int r;

    if (number == -1.0 && PyErr_Occurred())
        return -1;
    if (isnan(number))
        return PUT(e, "\"nan\"");
    if (isinf(number))
        return number > 0 ? PUT(e, "\"inf\"") : PUT(e, "\"-inf\"");
    text = PyOS_double_to_string(number, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    if (!text)
        return -1;
    r = put(e, text, strlen(text));
    PyMem_Free(text);
    return r;
}

static int
put_list(struct encoder *e, PyObject *value)
{
    PyObject *items = PySequence_Tuple(value); /* the fallback may change the list */
    int r = items ? PUT(e, "[") : -1;

    for (Py_ssize_t i = 0, n = items ? PyTuple_Size(items) : 0; r == 0 && i < n; i++)
        if ((i > 0 && PUT(e, ",") < 0) || put_value(e, PyTuple_GetItem(items, i)) < 0)
            r = -1;
    Py_XDECREF(items);
    return r < 0 ? -1 : PUT(e, "]");
}

static int
put_name(struct encoder *e, PyObject *name)
{
    PyObject *text;
    int r;

    if (PyUnicode_Check(name))
        return put_string(e, name);
    if (name == Py_True)
        return PUT(e, "\"true\"");
    if (name == Py_False)
        return PUT(e, "\"false\"");
    if (name == Py_None)
        return PUT(e, "\"null\"");
    text = PyObject_Str(name);
    r = text ? put_string(e, text) : -1;
    Py_XDECREF(text);
    return r;
}

static int
put_dict(struct encoder *e, PyObject *value)
{
    PyObject *items = PyMapping_Items(value);
    int r = items ? PUT(e, "{") : -1;

    for (Py_ssize_t i = 0; r == 0 && i < PyList_Size(items); i++) {
        PyObject *pair = PyList_GetItem(items, i);
        if (!pair || !PyTuple_Check(pair) || PyTuple_Size(pair) != 2) {
            PyErr_SetString(PyExc_ValueError, "items() of a mapping must be pairs");
            r = -1;
        } else if ((i > 0 && PUT(e, ",") < 0) || put_name(e, PyTuple_GetItem(pair, 0)) < 0 ||
                   PUT(e, ":") < 0 || put_value(e, PyTuple_GetItem(pair, 1)) < 0) {
            r = -1;
        }
    }
    Py_XDECREF(items);
    return r < 0 ? -1 : PUT(e, "}");
}

static int
put_other(struct encoder *e, PyObject *value)
{
    PyObject *known = PyObject_CallFunctionObjArgs(e->fallback, value, NULL);
    int r = known ? put_value(e, known) : -1;

    Py_XDECREF(known);
    return r;
}

/* Those that hold others, or may. */
static int
put_nested(struct encoder *e, PyObject *value)
{
    int r;

    if (e->depth >= JSON_DEPTH) {
        PyErr_Format(PyExc_ValueError, "values nested more than %d deep, or in a circle", JSON_DEPTH);
        return -1;
    }
    if (Py_EnterRecursiveCall(" while encoding JSON"))
        return -1;
    e->depth++;
    if (PyDict_Check(value))
        r = put_dict(e, value);
    else if (PyList_Check(value) || PyTuple_Check(value))
        r = put_list(e, value);
    else
        r = put_other(e, value);
    e->depth--;
    Py_LeaveRecursiveCall();
    return r;
}

static int
put_value(struct encoder *e, PyObject *value)
{
    if (PyUnicode_Check(value))
        return put_string(e, value);
    if (value == Py_None)
        return PUT(e, "null");
    if (value == Py_True)
        return PUT(e, "true");
    if (value == Py_False)
        return PUT(e, "false");
    if (PyLong_Check(value))
        return put_int(e, value);
    if (PyFloat_Check(value))
        return put_float(e, value);
    return put_nested(e, value);
}

int
encode_json(PyObject *value, PyObject *fallback, struct buf *ret)
{
    struct encoder e = {.fallback = fallback, .out = ret};

    return put_value(&e, value);
}
