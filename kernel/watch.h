/* SPDX-License-Identifier: BSD-3-Clause
 *
 * watch.h: the time of the running cell of a shell: its limit, and what happens when it does not hear an
 * interrupt.
 *
 *     running --limit--> interrupted --1 s--> asked where it hangs
 *                            ^                     |
 *        interrupt_request --'                     | if the limit struck, or with --interrupt-timeout:
 *                                                  +--grace--> interrupted again --grace--> killed
 *
 * Each stage is told to the user. Without that option an interrupt alone never kills: the user may wait,
 * or restart.
 */
#pragma once

#include <stdint.h>

#define WATCH_ASK_MS 1000   /* after an interrupt, until the cell is asked where it hangs */
#define WATCH_GRACE_MS 2000 /* between the stages of a time limit */

enum watch_stage { WATCH_OFF, WATCH_LIMIT, WATCH_ASK, WATCH_AGAIN, WATCH_KILL };

struct watch {
    enum watch_stage stage; /* what happens at `at` */
    int64_t at;             /* ms of CLOCK_MONOTONIC; 0: nothing */
    int limit_struck;       /* 1: the cell is over its time limit */
};

struct kernel;
struct shell;
void watch_start(struct kernel *k, struct shell *s); /* a cell begins in this shell */
void watch_interrupted(struct shell *s);             /* it was interrupted by the user */
void watch_stop(struct shell *s);                    /* it is over */
void watch_tick(struct kernel *k, int64_t now);
int64_t watch_deadline(const struct kernel *k); /* ms; 0: none */
