/* SPDX-License-Identifier: BSD-3-Clause
 *
 * grants.h: what a sandbox without mounts may reach of the file system: the rules of Landlock when
 * they are all that there is (containment landlock).
 *
 * A rule gives rights for everything below a path, and no rule takes one away. So what must stay
 * read-only in a shared directory is kept so by leaving the directory itself out:
 *
 *     work/              list and read; nothing is made, renamed or removed here
 *     work/.git/         read
 *     work/data/         everything
 *     work/plan.ipynb    read and write
 *
 * A directory that holds nothing to be guarded is given whole.
 */
#pragma once

#include "sandbox/policy.h"

/* The rules, as the parts of POLICY want them (landlock.h). *partly: the working directory could not
 * be given whole. */
int grants_make(const struct policy *policy, struct buf *ret, size_t *nparts, int *partly,
                struct err *err);
