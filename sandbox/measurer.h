/* SPDX-License-Identifier: BSD-3-Clause
 *
 * measurer.h: a child that measures what would keep the broker waiting, and says one value.
 *
 * The child ends with the broker (PR_SET_PDEATHSIG). Who starts one looks at it now and then; it
 * never waits for the value.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct measurer {
    pid_t pid;       /* 0: there is none */
    int result;      /* its pipe, or -1 */
    int64_t started; /* ms */
};
#define MEASURER_NONE ((struct measurer){.result = -1})

/* Runs in the child; what it leaves in `into` is the value. */
typedef void measure_fn(void *with, void *into);

#define MEASURER_VALUE 64 /* bytes, at most */

/* One that cannot be started is none: the next look tries again. */
void measurer_start(struct measurer *m, int64_t now, measure_fn *measure, void *with, size_t size);

enum measured { MEASURER_WORKS, MEASURER_SAID, MEASURER_FAILED };
enum measured measurer_take(struct measurer *m, void *into, size_t size);

void measurer_end(struct measurer *m);
