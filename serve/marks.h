/* SPDX-License-Identifier: BSD-3-Clause
 *
 * marks.h: what tells one thing of the API from another.
 */
#pragma once

#include <stdint.h>

void uuid_new(char into[static 37]); /* RFC 9562, version 4; libsodium has been started */
