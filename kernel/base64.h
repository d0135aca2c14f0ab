/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base64.h: bytes where only text may be (RFC 4648, section 4).
 */
#pragma once

#include "base/base.h"

/* Appends them. -1 without memory. */
int base64_add(struct buf *into, struct bytes bytes);
