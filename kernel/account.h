/* SPDX-License-Identifier: BSD-3-Clause
 *
 * account.h: usage_request, in the form that ipykernel gave it and jupyter-resource-usage reads: what
 * this kernel and all that runs in its sandbox take of the machine. The processes are the descendants
 * of this one, as proc(5) lists them; nothing inside is asked, and nothing can leave the list:
 * orphans become children of pid 1 inside.
 *
 * kernel_cpu is percent of one processor since the last answer (the first one: since the start), with
 * processes that have ended meanwhile. kernel_memory is bytes, the shared ones divided among who
 * shares them (PSS) where that can be read, else resident ones.
 */
#pragma once

#include <stdint.h>

struct kernel;
struct request;

struct account {
    int64_t began;                 /* ms */
    int64_t asked;                 /* ms: the last answer; 0: none yet */
    uint64_t ticks;                /* of the processes, then */
    uint64_t host_busy, host_all;  /* ticks of the machine, then */
};

void answer_usage(struct kernel *k, struct request *r);

/* The same for who reckons for himself: until now, all processes together. */
struct account_total {
    uint64_t cpu_ms; /* never less than before, as long as the kernel lives */
    uint64_t memory; /* bytes */
    uint64_t processes;
};
struct account_total account_total(void);
