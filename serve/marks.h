/* SPDX-License-Identifier: BSD-3-Clause
 *
 * marks.h: what tells one thing of the API from another: when it was, and its id.
 */
#pragma once

#include <stdint.h>

int64_t clock_us(void); /* CLOCK_REALTIME, microseconds */
const char *date_of(int64_t us, char into[static 32]); /* "2026-11-24T10:00:00.123456Z" */
void uuid_new(char into[static 37]); /* RFC 9562, version 4; libsodium has been started */
