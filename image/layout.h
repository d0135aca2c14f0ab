/* SPDX-License-Identifier: BSD-3-Clause
 *
 * layout.h: which layers make an image, in a directory as docker save or the OCI image layout
 * describes it: manifest.json, or oci-layout, index.json and blobs/.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

/* Appends the names of its layers, the lowest first. */
int layout_layers(int layout, const char *what, struct strv *ret, struct err *err);

/* Opens a file of the layout, below it whatever links say. If its name is a digest, the content is
 * compared with it. */
int layout_open(int layout, const char *what, const char *name, struct err *err);
