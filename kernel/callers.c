/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/callers.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "kernel/kernel.h"
#include "kernel/registry.h"

#define EVENTS 32
#define TURN 64       /* frames of one caller before others have their turn */
#define LINGER_MS 200 /* in all: what was said last is on its way */
#define REST_MS 100   /* without descriptors: the listener stays readable, and would be asked without end */

struct caller {
    struct caller *next;
    uint32_t number;
    uint32_t events; /* that are waited for */
    int lets_live;   /* what it began */
    struct front front;
};

void
callers_open(struct kernel *k, const char *id)
{
    struct callers *c = &k->callers;
    struct epoll_event event = {.events = EPOLLIN};
    struct err err;

    if (c->listener >= 0)
        return;
    c->listener = registry_listen(id, &err);
    c->epoll = c->listener < 0 ? -1 : epoll_create1(EPOLL_CLOEXEC);
    if (c->epoll >= 0 && epoll_ctl(c->epoll, EPOLL_CTL_ADD, c->listener, &event) == 0)
        return;
    if (c->listener >= 0)
        err_errno(&err, "listen for commands");
    log_warning("commands cannot speak to this kernel: %s", err.text);
    fd_close(&c->listener);
    fd_close(&c->epoll);
}

static void
wait_for(struct callers *c, struct caller *p)
{
    size_t waiting = front_waiting(&p->front);
    uint32_t events = (waiting ? EPOLLOUT : 0) | (waiting > CALLERS_OUT_MAX ? 0 : EPOLLIN);
    struct epoll_event event = {.events = events, .data.ptr = p};

    if (events != p->events && epoll_ctl(c->epoll, EPOLL_CTL_MOD, p->front.socket, &event) == 0)
        p->events = events;
}

static int
is_stranger(const struct caller *p)
{
    return p->front.phase == FRONT_STRANGER;
}

static void
drop(struct callers *c, struct caller *p)
{
    struct caller **link = &c->first;

    while (*link != p)
        link = &(*link)->next;
    *link = p->next;
    c->count--;
    c->strangers -= is_stranger(p) ? 1 : 0;
    front_release(&p->front);
    free(p);
}

static void
drop_oldest_stranger(struct callers *c)
{
    struct caller *oldest = NULL;

    for (struct caller *p = c->first; p; p = p->next)
        if (is_stranger(p))
            oldest = p;
    if (oldest)
        drop(c, oldest);
}

static void
heed_listener(struct callers *c, int on)
{
    struct epoll_event event = {.events = on ? EPOLLIN : 0};

    (void)epoll_ctl(c->epoll, EPOLL_CTL_MOD, c->listener, &event);
    c->rest = on ? 0 : now_ms() + REST_MS;
}

/* One a turn: what epoll said about others stays true. */
static void
let_in(struct callers *c)
{
    int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct caller *p = fd < 0 || c->count >= CALLERS_MAX ? NULL : calloc(1, sizeof *p);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};

    if (fd < 0 && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
        heed_listener(c, 0);
    if (!p || epoll_ctl(c->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        fd_close(&fd);
        free(p);
        return;
    }
    front_open(&p->front, fd, FRONT_BY_CALLER);
    p->front.phase = FRONT_STRANGER;
    p->events = EPOLLIN;
    p->number = c->last = c->last < CALLERS_FIRST || c->last == UINT32_MAX ? CALLERS_FIRST : c->last + 1;
    p->next = c->first;
    c->first = p;
    c->count++;
    if (++c->strangers > CALLERS_STRANGERS_MAX)
        drop_oldest_stranger(c);
}

static int
hear_frame(struct kernel *k, struct caller *p, struct frame *f, struct err *err)
{
    struct bytes key;

    if (f->number == FRONT_REQUEST) {
        f->slot = p->number;
        dispatch_request(k, f);
        return 0;
    }
    if (f->number == FRONT_STAY) {
        p->lets_live = 1;
        return 0;
    }
    key = frame_part(f, 0);
    if (!wire_is_key(k->wire, key))
        return err_set(err, EACCES, "a wrong key");
    sodium_memzero((uint8_t *)key.data, key.len);
    p->front.phase = FRONT_KNOWN;
    k->callers.strangers--;
    return 0;
}

/* -1: it is to be dropped. */
static int
hear(struct kernel *k, struct caller *p)
{
    struct frame f;
    struct err err;
    int r = 0;

    for (int i = 0; i < TURN && front_waiting(&p->front) <= CALLERS_OUT_MAX; i++) {
        r = front_next(&p->front, &f, &err);
        if (r > 0)
            r = hear_frame(k, p, &f, &err) < 0 ? -1 : 1;
        if (r <= 0)
            break;
    }
    if (r < 0)
        log_warning("a caller is put out: %s", err.text);
    k->callers.again |= r > 0 && front_waiting(&p->front) <= CALLERS_OUT_MAX;
    return r < 0 || (p->front.ended && r == 0) ? -1 : 0;
}

static void
run_one(struct kernel *k, struct caller *p)
{
    front_flush(&p->front);
    if (hear(k, p) == 0) {
        wait_for(&k->callers, p);
        return;
    }
    if (!p->lets_live)
        operations_gone(k, p->number);
    drop(&k->callers, p);
}

/* The frames of these have been read from their sockets, so that epoll does not tell of them. */
static void
run_again(struct kernel *k)
{
    struct caller *next;

    k->callers.again = 0;
    for (struct caller *p = k->callers.first; p; p = next) {
        next = p->next;
        if (p->front.in.len > p->front.in_used)
            run_one(k, p);
    }
}

void
callers_run(struct kernel *k)
{
    struct epoll_event events[EVENTS];
    int n;

    if (k->callers.rest && now_ms() >= k->callers.rest)
        heed_listener(&k->callers, 1);
    if (k->callers.again)
        run_again(k);
    n = epoll_wait(k->callers.epoll, events, EVENTS, 0);
    for (int i = 0; i < n; i++)
        if (events[i].data.ptr)
            run_one(k, events[i].data.ptr);
    for (int i = 0; i < n; i++) /* last: who comes may put another out */
        if (!events[i].data.ptr)
            let_in(&k->callers);
}

uint32_t
callers_number(const struct request *r)
{
    uint32_t number = r->frames.block ? get32(r->frames.bytes[0].data) : 0;

    return number < CALLERS_FIRST ? 0 : number;
}

void
callers_message(struct kernel *k, uint32_t number, uint32_t channel, const struct bytes part[static 4],
                const struct bytes *buffers, size_t n)
{
    struct caller *p = k->callers.first;

    while (p && p->number != number)
        p = p->next;
    if (!p)
        return;
    front_message(&p->front, 0, channel, part, buffers, n);
    wait_for(&k->callers, p);
}

void
callers_release(struct kernel *k)
{
    struct callers *c = &k->callers;
    int64_t end = now_ms() + LINGER_MS;

    while (c->first) {
        front_linger(&c->first->front, (int)(end - now_ms()));
        drop(c, c->first);
    }
    fd_close(&c->listener);
    fd_close(&c->epoll);
}
