/* SPDX-License-Identifier: BSD-3-Clause
 *
 * freeze.h: the calling process, written down (wall/frozen.h).
 */
#pragma once

#include <stddef.h>

#include "base/err.h"

/* Before the fork whose child is frozen: what tells where the C library keeps the number of a thread. */
void freeze_prepare(void);

/* Writes this process to the descriptor. Returns 0 when that is done, and 1 in each process that was made of
 * it; -1 with err set if it cannot be. It must have one thread, and no descriptor but 0 to 2 and this
 * one whose loss matters. */
int freeze(int fd, struct err *err);

/* In a thawed process: how many arguments it was executed with. */
int freeze_arguments(void);

/* In a thawed process of one thread: gives back its copies of pages that are again as in the file, as most are where
 * only references were counted. Bytes; 0 where nothing can be given back. */
size_t freeze_rest(void);
