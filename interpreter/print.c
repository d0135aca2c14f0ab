/* SPDX-License-Identifier: BSD-3-Clause */
#include "interpreter/print.h"

#include <stdio.h>
#include <stdlib.h>

#define LINE_MAX_BYTES 65536 /* gathered before it is written */

#ifndef METH_FASTCALL /* in every Python since 3.7 and in the limited API since 3.10 */
#define METH_FASTCALL 0x0080
#endif

static PyObject *original;   /* Python's own */
static PyObject *write_name; /* "write" */

struct line {
    uint32_t stream;
    PyObject *sep, *end; /* borrowed; NULL: as usual */
    struct buf gathered;
};

/* What print(*args, **names) does, by Python. */
static PyObject *
pass_on(PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    PyObject *tuple = PyTuple_New(n), *dict = PyDict_New(), *result = NULL;

    for (Py_ssize_t i = 0; tuple && i < n; i++) {
        Py_INCREF(args[i]);
        PyTuple_SetItem(tuple, i, args[i]);
    }
    for (Py_ssize_t i = 0; dict && i < named; i++)
        if (PyDict_SetItem(dict, PyTuple_GetItem(names, i), args[n + i]) < 0)
            Py_CLEAR(dict);
    if (tuple && dict)
        result = PyObject_Call(original, tuple, dict);
    Py_XDECREF(tuple);
    Py_XDECREF(dict);
    return result;
}

static int
take_text(PyObject *value, PyObject **ret)
{
    *ret = value == Py_None ? NULL : value;
    return value == Py_None || PyUnicode_CheckExact(value);
}

/* 0: it is Python's to do, or to refuse. */
static int
take_names(PyObject *const *values, PyObject *names, struct line *l, PyObject **file)
{
    Py_ssize_t n = names ? PyTuple_Size(names) : 0;
    int ours = 1;

    for (Py_ssize_t i = 0; ours && i < n; i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        if (PyUnicode_CompareWithASCIIString(name, "sep") == 0)
            ours = take_text(values[i], &l->sep);
        else if (PyUnicode_CompareWithASCIIString(name, "end") == 0)
            ours = take_text(values[i], &l->end);
        else if (PyUnicode_CompareWithASCIIString(name, "file") == 0)
            *file = values[i] == Py_None ? *file : values[i];
        else
            ours = 0;
    }
    return ours;
}

static uint32_t
stream_of_file(PyObject *file)
{
    PyObject *write = NULL;
    uint32_t stream = 0;

    Py_XINCREF(file); /* its attributes may be anybody's code, which may take it out of sys */
    if (file && file != Py_None)
        write = PyObject_GetAttr(file, write_name);
    if (write)
        stream = stream_of(write);
    Py_XDECREF(write);
    Py_XDECREF(file);
    if (PyErr_Occurred())
        PyErr_Clear();
    return stream;
}

static int
write_gathered(struct line *l)
{
    size_t len = l->gathered.len;

    l->gathered.len = 0;
    return stream_write(l->stream, (char *)l->gathered.data, len);
}

static int
gather(struct line *l, const char *text, size_t len)
{
    if (l->gathered.len && l->gathered.len + len > LINE_MAX_BYTES && write_gathered(l) < 0)
        return -1;
    if (len > LINE_MAX_BYTES)
        return stream_write(l->stream, text, len);
    if (buf_add(&l->gathered, text, len) == 0)
        return 0;
    PyErr_NoMemory();
    return -1;
}

static int
gather_text(struct line *l, PyObject *text)
{
    PyObject *hold = NULL;
    Py_ssize_t len;
    const char *utf8 = stream_utf8(text, &hold, &len);
    int r = utf8 ? gather(l, utf8, (size_t)len) : -1;

    Py_XDECREF(hold);
    return r;
}

/* Nobody's code makes the text of these. */
static int
is_plain(PyObject *value)
{
    return PyUnicode_CheckExact(value) || PyLong_CheckExact(value) || PyFloat_CheckExact(value) || value == Py_None ||
           PyBool_Check(value);
}

static int
gather_value(struct line *l, PyObject *value)
{
    PyObject *text;
    int r;

    if (!is_plain(value) && l->gathered.len && write_gathered(l) < 0)
        return -1;
    text = PyObject_Str(value);
    r = text ? gather_text(l, text) : -1;
    Py_XDECREF(text);
    return r;
}

static int
gather_all(struct line *l, PyObject *const *args, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        if (i && (l->sep ? gather_text(l, l->sep) : gather(l, " ", 1)) < 0)
            return -1;
        if (gather_value(l, args[i]) < 0)
            return -1;
    }
    return l->end ? gather_text(l, l->end) : gather(l, "\n", 1);
}

/* What came before an error has been printed. */
static void
write_before_error(struct line *l)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    if (l->gathered.len && write_gathered(l) < 0)
        PyErr_Clear();
    PyErr_Restore(type, value, traceback);
}

static PyObject *
print(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    struct line l = {0};
    PyObject *file = PySys_GetObject("stdout");
    int r;

    if (!take_names(args + n, names, &l, &file) || !(l.stream = stream_of_file(file)))
        return pass_on(args, n, names);
    r = gather_all(&l, args, n);
    if (r < 0)
        write_before_error(&l);
    else
        r = write_gathered(&l);
    buf_release(&l.gathered);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* What a function says about itself, as it stands in its definition: its signature, if it has one, and its text. */
static char *
copy_doc(PyObject *function)
{
    PyObject *signature = PyObject_GetAttrString(function, "__text_signature__");
    PyObject *doc = signature ? PyObject_GetAttrString(function, "__doc__") : NULL, *whole = NULL, *utf8 = NULL;
    char *ret = NULL;

    if (doc)
        whole = signature == Py_None ? PyUnicode_FromFormat("%S", doc)
                                     : PyUnicode_FromFormat("print%U\n--\n\n%S", signature, doc);
    if (whole && (utf8 = PyUnicode_AsUTF8String(whole)) && !(ret = strdup(PyBytes_AsString(utf8))))
        PyErr_NoMemory();
    Py_XDECREF(signature);
    Py_XDECREF(doc);
    Py_XDECREF(whole);
    Py_XDECREF(utf8);
    return ret;
}

PyObject *
make_print(PyObject *self, PyObject *function)
{
    static PyMethodDef definition = {"print", (PyCFunction)(void (*)(void))print, METH_FASTCALL | METH_KEYWORDS, NULL};
    PyObject *builtins, *name, *made = NULL;
    char *doc;

    if (original) {
        PyErr_SetString(PyExc_RuntimeError, "there is one print()");
        return NULL;
    }
    builtins = PyImport_ImportModule("builtins");
    name = PyUnicode_FromString("builtins");
    doc = builtins && name ? copy_doc(function) : NULL;
    write_name = PyUnicode_InternFromString("write");
    definition.ml_doc = doc;
    if (doc && write_name)
        made = PyCFunction_NewEx(&definition, builtins, name);
    if (made) {
        Py_INCREF(function);
        original = function;
    }
    Py_XDECREF(builtins);
    Py_XDECREF(name);
    return made;
}
