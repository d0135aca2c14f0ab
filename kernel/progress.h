/* SPDX-License-Identifier: BSD-3-Clause
 *
 * progress.h: text in which a line is written again and again, each time after a carriage return, as
 * progress bars do. What nobody would have seen any more is left out.
 */
#pragma once

#include "base/base.h"

#define PROGRESS_STATES 4 /* states of one line that are left alone */

/* Leaves out the states of each line that later ones cover, where it has more than
 * PROGRESS_STATES. What a terminal shows after `text` stays the same: a state goes only if a later one is
 * at least as wide, or erases the line; the first one of a line stays, as it may go on with what was
 * there; and nothing goes across a control character. A pure function. */
void progress_collapse(struct buf *text);
