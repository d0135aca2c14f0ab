/* SPDX-License-Identifier: BSD-3-Clause
 *
 * digest.h: SHA-256 of a file, which names an image and its layers.
 */
#pragma once

#include "base/err.h"

#define DIGEST_HEX 65 /* with the NUL */

/* Reads from the start; the position of fd stays. */
int digest_of(int fd, char ret[static DIGEST_HEX], struct err *err);
