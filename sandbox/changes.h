/* SPDX-License-Identifier: BSD-3-Clause
 *
 * changes.h: what changed in the private directories of a sandbox since it was built. Those that lie
 * on disk began empty, so that all in them was added; the root of an image is an overlay, whose upper
 * directory says what was changed and removed as well (overlayfs: Documentation/filesystems/overlayfs.rst,
 * "whiteouts and opaque directories"). What is shared with the host or lies in memory is named, not looked at.
 *
 * A process of its own looks, as for the disk limit, and writes records into a file in memory. Each is
 * words with a tab behind them, and then text that ends in NUL:
 *     added|changed|removed TYPE SIZE PATH     TYPE: file, directory, symlink, other; SIZE in bytes
 *     elsewhere - 0 PATH                       a place that was not compared
 *     sums ADDED CHANGED REMOVED BYTES         the last one; then PATH is "all", or "some" when there were
 *                                              more entries than were asked for
 */
#pragma once

#include "sandbox/layers.h"

struct changes {
    pid_t walker;  /* 0: none */
    int ended;     /* pidfd of it, or -1 */
    int file;      /* what it writes, or -1 */
    uint32_t slot; /* of the request */
};
#define CHANGES_EMPTY ((struct changes){.ended = -1, .file = -1})

/* At most `limit` entries; the sums are those of all. */
int changes_start(struct changes *c, const struct policy *policy, const struct layers *layers,
                  pid_t pid1, uint32_t slot, uint32_t limit, struct err *err);
/* When `ended` is readable. The file, which the caller owns; -1 with err if it could not be done. */
int changes_take(struct changes *c, struct err *err);
void changes_end(struct changes *c);
