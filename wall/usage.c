/* SPDX-License-Identifier: BSD-3-Clause */
#include "wall/usage.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The text of a small file of the kernel's. */
static size_t
look(int fd, char *into, size_t size)
{
    ssize_t n = fd < 0 ? -1 : pread(fd, into, size - 1, 0);

    into[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

void
usage_reset_peak(const int fds[static USAGE_FILES])
{
    if (fds[USAGE_PEAK] >= 0)
        (void)!pwrite(fds[USAGE_PEAK], "0\n", 2, 0); /* where it cannot be, it stays */
}

uint64_t
usage_oom_kills(const int fds[static USAGE_FILES])
{
    char text[1024], *at;

    return look(fds[USAGE_OOM], text, sizeof text) && (at = strstr(text, "oom_kill ")) ? strtoull(at + 9, NULL, 10) : 0;
}

struct usage
usage_read(const int fds[static USAGE_FILES])
{
    struct usage u = {.throttled_us = -1};
    char text[1024], *at;

    if (look(fds[USAGE_PEAK], text, sizeof text))
        u.peak = strtoull(text, NULL, 10);
    if (look(fds[USAGE_CPU], text, sizeof text)) {
        if ((at = strstr(text, "throttled_usec "))) /* v2 */
            u.throttled_us = strtoll(at + 15, NULL, 10);
        else if ((at = strstr(text, "throttled_time "))) /* v1: nanoseconds */
            u.throttled_us = strtoll(at + 15, NULL, 10) / 1000;
    }
    u.oom_kills = usage_oom_kills(fds);
    return u;
}
