/* SPDX-License-Identifier: BSD-3-Clause
 *
 * intake.h: bytes of an interpreter that is being frozen, into a file. They are not trusted: they are counted, and nothing
 * is done with them here but writing. In this order, all in one stream:
 *
 *     length of the list (8 bytes, big-endian) | list of files (stamp.h) | the frozen interpreter (wall/frozen.h)
 *
 * The list goes behind the interpreter in the file. Pages of zeros are left out of it.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"
#include "kernel/warm.h"

struct intake {
    int file;          /* borrowed */
    uint64_t written;  /* bytes of the frozen interpreter that came */
    uint64_t expected; /* of them; 0: its head is not there yet */
    struct buf head;   /* until then: what came */
    struct buf list;
};

/* The next bytes. -1 with err set if they cannot be what is expected, or not be written. */
int intake_take(struct intake *in, const uint8_t *data, size_t len, struct err *err);
/* That was all: writes the list. ENODATA: it was not all. */
int intake_finish(struct intake *in, struct err *err);
void intake_release(struct intake *in);
