/* SPDX-License-Identifier: BSD-3-Clause
 *
 * python.h: which Python runs the cells, and what must be visible for it.
 *
 * The question is put to that Python itself by interpreter/probe.py, started with -I -S: so no
 * code of site-packages, of a working directory or of PYTHONPATH runs outside of the sandbox.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

struct python {
    char *executable; /* absolute; a virtual environment's own name for it */
    char *version;    /* "3.11.7" */
    struct strv paths; /* directories and files it needs to see, absolute, existing */
    int debugger;      /* debugpy lies where it would be imported from */
    struct strv own;   /* of them: where the interpreter itself lies */
};

/* wanted: what --python said, or NULL: then the active virtual environment, the active conda
 * environment, python3 on PATH. Refuses a Python older than 3.9. */
int python_find(const char *wanted, const char *probe, struct python *ret, struct err *err);
void python_release(struct python *python);
