/* SPDX-License-Identifier: BSD-3-Clause
 *
 * image.h: what --image names, before the sandbox exists. Nothing of an image is ever executed
 * here: names are looked up in it, and that is all.
 */
#pragma once

#include "base/err.h"

/* The root file system that --image means: `path` itself, or where husk-unpack put the archive
 * or the layers that lie there. Can take long the first time. Caller frees *ret. */
int image_find(const char *path, char **ret, struct err *err);

/* The Python of an image, as a path inside: `wanted` is --python, a path inside or a name, or
 * NULL for python3. Caller frees *ret. */
int image_python(const char *root, const char *wanted, char **ret, struct err *err);
