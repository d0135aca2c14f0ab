/* SPDX-License-Identifier: BSD-3-Clause
 *
 * stamp.h: what a file was like: "TIME SIZE INODE PATH", of its last change in nanoseconds; three zeros if nothing
 * was there. Whoever keeps something that was made from files keeps these lines with it.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

int stamp_add(const char *path, struct buf *ret); /* a line, with its end; -1 without memory */
/* One line without its end. ESTALE: it is another one now; EINVAL: it is no such line. */
int stamp_check(const char *line, struct err *err);
/* All lines; the text is taken apart. */
int stamp_check_all(char *text, struct err *err);
