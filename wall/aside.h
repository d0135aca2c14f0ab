/* SPDX-License-Identifier: BSD-3-Clause
 *
 * aside.h: the second socket between supervisor and interpreter; the rows are in aside.def.
 */
#pragma once

#include "wall/frame.h"

#define ASIDE_MESSAGE (16u << 20) /* bytes: the longest question or answer */

enum aside_sender { ASIDE_BY_KERNEL = 1, ASIDE_BY_INTERP = 2 };

enum aside_number {
#define FRAME(name, no, sender, max, min, many, meaning) ASIDE_##name = no,
#include "wall/aside.def"
#undef FRAME
};

extern const struct frame_rule aside_rules[FRAME_LIMIT];
