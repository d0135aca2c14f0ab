/* SPDX-License-Identifier: BSD-3-Clause
 *
 * usage.h: what a sandbox uses, read from files that the broker opened and passed with BUILT.
 * The supervisor reads them itself, twice for each cell: asking the broker would cost more than
 * a short cell does. Where the machine counts nothing the descriptors are of /dev/null.
 */
#pragma once

#include <stdint.h>

enum usage_file {
    USAGE_PEAK, /* most bytes of memory since it was last written to (memory.peak of v2 from Linux
                   6.12 on, memory.max_usage_in_bytes of v1), else since the sandbox began */
    USAGE_CPU,  /* cpu.stat, if there is a limit */
    USAGE_OOM,  /* memory.events of v2, memory.oom_control of v1 */
    USAGE_FILES
};

struct usage {
    uint64_t peak;        /* bytes; 0: not counted */
    uint64_t oom_kills;   /* processes that the memory limit ended, ever */
    int64_t throttled_us; /* microseconds of waiting for the CPU limit, ever; -1: no limit */
};

void usage_reset_peak(const int fds[static USAGE_FILES]);
uint64_t usage_oom_kills(const int fds[static USAGE_FILES]);
struct usage usage_read(const int fds[static USAGE_FILES]);
