/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "base/base.h"

#define EVENTS 256

struct later {
    struct later *next;
    void (*fn)(void *of);
    void *of;
};

int
loop_init(struct loop *l, struct err *err)
{
    *l = (struct loop){.epoll = epoll_create1(EPOLL_CLOEXEC)};
    return l->epoll < 0 ? err_errno(err, "wait for events") : 0;
}

static void
run_later(struct loop *l)
{
    while (l->later) {
        struct later *all = l->later;
        l->later = NULL;
        while (all) {
            struct later *first = all;
            all = all->next;
            first->fn(first->of);
            free(first);
        }
    }
}

void
loop_release(struct loop *l)
{
    run_later(l);
    fd_close(&l->epoll);
}

int
loop_add(struct loop *l, struct source *s, struct err *err)
{
    struct epoll_event e = {.events = s->events, .data.ptr = s};

    return epoll_ctl(l->epoll, EPOLL_CTL_ADD, s->fd, &e) < 0 ? err_errno(err, "wait for a descriptor") : 0;
}

void
loop_want(struct loop *l, struct source *s, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = s};

    if (events == s->events || s->fd < 0)
        return;
    s->events = events;
    (void)epoll_ctl(l->epoll, EPOLL_CTL_MOD, s->fd, &e);
}

void
loop_remove(struct loop *l, struct source *s)
{
    if (s->fd >= 0)
        (void)epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
    s->fd = -1;
}

void
loop_set(struct loop *l, struct timer *t, int64_t at)
{
    if (t->link) {
        *t->link = t->next;
        if (t->next)
            t->next->link = t->link;
        t->link = NULL;
    }
    t->at = at;
    if (!at)
        return;
    t->next = l->timers;
    t->link = &l->timers;
    if (t->next)
        t->next->link = &t->next;
    l->timers = t;
    if (!l->soonest || at < l->soonest)
        l->soonest = at;
}

void
loop_later(struct loop *l, void (*fn)(void *of), void *of)
{
    struct later *one = malloc(sizeof *one);

    if (!one)
        abort();
    *one = (struct later){NULL, fn, of};
    *(l->later ? l->last : &l->later) = one;
    l->last = &one->next;
}

/* One that fires may set or unset any other, so the list is begun anew after each. */
static void
run_timers(struct loop *l)
{
    int64_t now = now_ms();
    struct timer *t;

    if (!l->soonest || now < l->soonest)
        return;
    do {
        for (t = l->timers; t && t->at > now; t = t->next)
            ;
        if (t) {
            loop_set(l, t, 0);
            t->fire(t->of);
        }
    } while (t);
    l->soonest = 0;
    for (t = l->timers; t; t = t->next)
        if (!l->soonest || t->at < l->soonest)
            l->soonest = t->at;
}

void
loop_turn(struct loop *l, int ms)
{
    struct epoll_event events[EVENTS];
    int64_t left = l->soonest ? l->soonest - now_ms() : -1;
    int n;

    if (l->soonest && (ms < 0 || left < ms))
        ms = left > 0 ? (int)(left < 60000 ? left : 60000) : 0;
    if (l->later)
        ms = 0;
    n = epoll_wait(l->epoll, events, EVENTS, ms);
    for (int i = 0; i < n; i++) {
        struct source *s = events[i].data.ptr;
        if (s->fd >= 0)
            s->ready(s->of, events[i].events);
    }
    run_timers(l);
    run_later(l);
}
