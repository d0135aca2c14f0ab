/* SPDX-License-Identifier: BSD-3-Clause
 *
 * loop.h: the one loop of husk-serve, one thread: descriptors with epoll(7), timers, and what is to be done
 * when a turn is over. What a callback is given may be released in that callback only by loop_later(), because
 * another event of the same turn may still point to it.
 */
#pragma once

#include <stdint.h>

#include "base/err.h"

struct source { /* a descriptor that is looked at; owned by whoever it belongs to */
    int fd;     /* borrowed */
    uint32_t events;
    void (*ready)(void *of, uint32_t events);
    void *of;
};

struct timer { /* zeroed: not set */
    struct timer *next, **link;
    int64_t at; /* ms of CLOCK_MONOTONIC */
    void (*fire)(void *of);
    void *of;
};

struct later;
struct loop {
    int epoll;
    struct timer *timers;
    int64_t soonest; /* ms: of all timers; 0: there is none */
    struct later *later, **last; /* where the next one goes */
    int done;
};

int loop_init(struct loop *l, struct err *err);
void loop_release(struct loop *l);

int loop_add(struct loop *l, struct source *s, struct err *err);
void loop_want(struct loop *l, struct source *s, uint32_t events); /* from now on */
void loop_remove(struct loop *l, struct source *s);

/* At `at`, once; again by setting it again. 0: not any more. */
void loop_set(struct loop *l, struct timer *t, int64_t at);

/* Calls fn(of) when all events of this turn have been handled. */
void loop_later(struct loop *l, void (*fn)(void *of), void *of);

/* Waits for at most `ms` (-1: for ever), and handles what is there. */
void loop_turn(struct loop *l, int ms);
