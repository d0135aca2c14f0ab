/* SPDX-License-Identifier: BSD-3-Clause
 *
 * overlay.h: the root of profile `image`: an unpacked root file system that is never changed, and
 * a layer of the sandbox's own above it (overlayfs).
 *
 * Where husk has root, the root inside is the first of 65536 users of the host that nobody else
 * is, and the image is id-mapped to them. An ordinary user is the root inside, and the others are
 * those of subordinate.h, or there are none.
 */
#pragma once

#include "sandbox/policy.h"

#define OVERLAY_IDS 65536

struct overlay {
    int lower; /* the image, taken; or -1 */
    int layer; /* the directory of the layer, taken; or -1 */
    int no_userns; /* overlay_take failed because no user namespace could be made */
};
#define OVERLAY_EMPTY ((struct overlay){.lower = -1, .layer = -1})

/* Finds the first of OVERLAY_IDS user ids that no sandbox of this state directory has, and keeps
 * them until the calling process ends. */
int overlay_claim_ids(const struct policy *policy, uid_t *ret, struct err *err);

/* Takes both trees. With `map` the ids of the image become those from `base` on, and the layer is
 * given to the first of them. */
int overlay_take(const struct policy *policy, int map, uid_t base, struct overlay *ret, struct err *err);
void overlay_release(struct overlay *overlay);

/* Mounts it below the directory `stage`, an empty tmpfs, with names that say nothing about the
 * host; *ret is the new root. */
int overlay_mount(const struct overlay *overlay, int stage, int *ret, struct err *err);

/* Files of /etc that are husk's, whatever the image has: names and their server; and with
 * `one_user`, that apt does not try to become another. */
int overlay_etc(const struct policy *policy, int root, int one_user, struct err *err);
