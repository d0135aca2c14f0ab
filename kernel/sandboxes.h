/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sandboxes.h: operations about sandboxes as a whole: which there are (registry.h), and what changed in
 * this one since its start, which the broker looks at (sandbox/changes.h).
 */
#pragma once

#include "kernel/request.h"
#include "wall/frame.h"

struct kernel;

void sandboxes_list(struct kernel *k, struct request *r, struct bytes params);
void sandboxes_compare(struct kernel *k, struct request *r, struct bytes params);
void sandboxes_compared(struct kernel *k, const struct frame *event); /* DIFFED */
void sandboxes_release(struct kernel *k);
