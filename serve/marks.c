/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/marks.h"

#include <sodium.h>
#include <stdio.h>
#include <time.h>

int64_t
clock_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

const char *
date_of(int64_t us, char into[static 32])
{
    time_t seconds = us / 1000000;
    struct tm tm;
    size_t len;

    gmtime_r(&seconds, &tm);
    len = strftime(into, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(into + len, 32 - len, ".%06ldZ", (long)(us % 1000000));
    return into;
}

void
uuid_new(char into[static 37])
{
    uint8_t b[16];

    randombytes_buf(b, sizeof b);
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    snprintf(into, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3],
             b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}
