/* SPDX-License-Identifier: BSD-3-Clause
 *
 * layers.h: the private directories of a sandbox that lie on disk, and how they go again.
 *
 * Each sandbox has a directory of its own below `layers` (husk's state, mode 0700), and holds a
 * lock on it while it lives. What a broker that was killed left behind is found by its lock being
 * free, and removed by the next one. Nothing in a layer is ever named by a path from outside but
 * its top: a tree in there is whatever a hostile process made it.
 */
#pragma once

#include "sandbox/policy.h"

struct layers {
    int base; /* directory of all of them, or -1 */
    int lock; /* this one's directory, locked, or -1 */
    char name[96];
};
#define LAYERS_EMPTY ((struct layers){.base = -1, .lock = -1})

/* Makes `home` or, for an image, `root`; and `workspace`. Tells the policy where they are. Without a
 * directory for layers in the policy nothing is made, and the private directories are in memory.
 * Without namespaces `tmp` is made, too, all of it belongs to the user of the sandbox, and the paths
 * in the policy become those of the layer: nothing can appear at another place. */
int layers_make(struct policy *policy, struct layers *ret, struct err *err);

/* Removes what other brokers left. Takes as long as it takes: for a process of its own. */
void layers_sweep(const struct layers *layers);

/* Removes this one. No process of the sandbox may be alive. */
void layers_release(struct layers *layers);

/* Removes directory `name` of `base` and everything in it, however deep, whatever its modes: no
 * symbolic link is followed, no more than three descriptors are open, no path is built. Returns
 * 0, or -1 with errno if something is left. */
int tree_remove(int base, const char *name);
