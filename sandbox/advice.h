/* SPDX-License-Identifier: BSD-3-Clause
 *
 * advice.h: what a person can do about a step that failed, by the table advice.def. The start of
 * a kernel and `husk doctor` say the same.
 */
#pragma once

#include "sandbox/policy.h"

/* step: of HOST_STEPS, BUILD_STEPS or JOIN_STEPS. One line, or "" where nothing is known. */
const char *advice_for(enum containment level, const char *step, int code);
