/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/aside.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/json.h"
#include "base/log.h"
#include "kernel/exits.h"
#include "kernel/kernel.h"
#include "kernel/names.h"

#define ASIDE_LONG_US 1000000
#define OUT_MAX (32u << 20)    /* bytes on their way to a thread that does not read */

/*** What may be answered so ***/

static const struct row {
    int frame; /* of interp.def: how it is asked when nothing runs */
    int ask;   /* of aside.def; 0: only a sign of a client that will ask such things */
    int (*guess)(struct bytes names, struct bytes content, const char *about, struct buf *ret);
} rows[] = {
    {FRAME_COMPLETE, ASIDE_COMPLETE, names_complete},
    {FRAME_INSPECT, ASIDE_INSPECT, names_inspect},
    {FRAME_IS_COMPLETE, ASIDE_IS_COMPLETE, names_is_complete},
    {FRAME_COMM_INFO, 0, NULL},
};

static const struct row *
find_row(const struct request *r)
{
    for (size_t i = 0; i < countof(rows); i++)
        if (rows[i].frame == r->type->frame)
            return &rows[i];
    return NULL;
}

/* Something runs there that takes as long as it likes. */
static int
is_busy(const struct shell *s)
{
    return s->running && !find_row(s->running);
}

/* The cell of which a client is told that it runs; where the debugger is at work, it works on one. */
static const struct request *
running(const struct kernel *k)
{
    for (const struct shell *s = &k->main; s; s = s->next)
        if (is_busy(s) && s != &k->debugger)
            return s->running;
    return NULL;
}

void
aside_expect(struct kernel *k, struct shell *s, struct request *r)
{
    const struct row *row = find_row(r);

    if (!row)
        return;
    k->aside.wanted = 1;
    if (!row->ask)
        return;
    /* A cell that has run for long will not end just now. */
    r->waits_until = now_ms() + ASIDE_WAIT_MS;
    if (is_busy(s) && !s->queue.first && now_us() - s->running->began > ASIDE_LONG_US)
        r->waits_until -= ASIDE_WAIT_MS;
    if (!k->aside.look || k->aside.look > r->waits_until)
        k->aside.look = r->waits_until;
}

/*** The socket ***/

int
aside_open(struct kernel *k, struct err *err)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "make a socket");
    if (fd_nonblock(pair[0]) < 0) {
        fd_close(&pair[0]);
        fd_close(&pair[1]);
        return err_errno(err, "make a socket");
    }
    k->aside.socket = pair[0];
    k->aside.listening = 0;
    k->aside.late = 0;
    return pair[1];
}

void
aside_close(struct kernel *k)
{
    struct aside *a = &k->aside;
    struct request *r;

    fd_close(&a->socket);
    a->in.len = a->out.len = a->names.len = 0;
    a->names_due = 0;
    a->cell = a->names_cell = 0;
    while ((r = queue_take(&a->open)))
        reply_error(k, r, "InterpreterDied", "the interpreter died before it answered");
}

static void
flush(struct aside *a)
{
    while (a->socket >= 0 && a->out.len) {
        ssize_t n = send(a->socket, a->out.data, a->out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return; /* full: later; gone: its death is on the way */
        buf_consume(&a->out, (size_t)n);
    }
}

static void
tell(struct aside *a, struct frame f, const struct bytes *part, size_t n)
{
    if (frame_add(&a->out, f, part, n) < 0)
        abort();
    flush(a);
}

/*** Questions ***/

void
aside_say_busy(struct kernel *k)
{
    const struct request *cell = running(k);

    if (cell)
        iopub_status(&k->iopub, "busy", request_header(cell));
}

/* What is known here, at once. */
static void
guess(struct kernel *k, struct request *r)
{
    scoped(buf_release) struct buf content = {0};
    struct bytes names = {k->aside.names.data, k->aside.names.len};
    const struct request *cell = running(k);
    char about[160];

    snprintf(about, sizeof about,
             "{\"source\":\"snapshot\",\"stale\":true,\"running\":%u,\"cell\":%u}",
             cell ? cell->count : k->aside.cell, k->aside.names_cell);
    if (find_row(r)->guess(names, request_content(r), about, &content) < 0)
        abort();
    reply_content(k, r, (struct bytes){content.data, content.len}, "ok");
    aside_say_busy(k);
}

static void
ask(struct kernel *k, struct request *r)
{
    struct aside *a = &k->aside;
    struct bytes content = request_content(r);
    const struct request *cell = running(k);

    reply_begin(k, r);
    /* A thread that has not answered in time is not asked more: the cell holds the GIL. */
    if (a->socket < 0 || a->late || frame_payload(&content, 1) > ASIDE_MESSAGE ||
        a->out.len > OUT_MAX) {
        guess(k, r);
        return;
    }
    tell(a, (struct frame){.number = (uint16_t)find_row(r)->ask, .slot = r->slot,
                           .value = cell ? cell->count : 0},
         &content, 1);
    r->waits_until = now_ms() + ASIDE_TIME_MS;
    queue_put(&a->open, r);
}

/* Takes what has waited long enough behind a cell out of the queue. */
static void
look_into(struct kernel *k, struct shell *s, int64_t now)
{
    struct request_queue kept = {0};
    int64_t *next = &k->aside.look;
    struct request *r;

    if (!is_busy(s)) {
        *next = s->queue.first ? now + ASIDE_WAIT_MS : *next;
        return;
    }
    while ((r = queue_take(&s->queue))) {
        if (r->waits_until && now >= r->waits_until) {
            ask(k, r);
            continue;
        }
        if (r->waits_until && (!*next || r->waits_until < *next))
            *next = r->waits_until;
        queue_put(&kept, r);
    }
    s->queue = kept;
}

/*** Answers ***/

static int
on_answer(struct kernel *k, const struct frame *f, struct err *err)
{
    struct request *r = queue_take_slot(&k->aside.open, f->slot);
    struct bytes content = frame_part(f, 0), status;

    if (json_check_object(content, err) < 0) {
        if (r)
            guess(k, r);
        return -1;
    }
    if (!r) {
        k->aside.late -= k->aside.late > 0;
        if (!k->aside.late)
            k->aside.names_due = now_ms(); /* for want of time it was not asked */
        return 0;
    }
    reply_content(k, r, content, json_get(content, "status", &status) == J_STRING &&
                                         json_string_is(status, "error") ? "error" : "ok");
    aside_say_busy(k);
    return 0;
}

static int
take_frame(struct kernel *k, const struct frame *f, struct err *err)
{
    struct aside *a = &k->aside;
    struct bytes names = frame_part(f, 0);

    switch (f->number) {
    case ASIDE_LISTENING:
        a->listening = 1;
        a->names_due = now_ms();
        return 0;
    case ASIDE_NAMES:
        if (json_check_object(names, err) < 0)
            return -1;
        a->names.len = 0;
        a->names_cell = f->value;
        return buf_add(&a->names, names.data, names.len) < 0 ? err_errno(err, "keep names") : 0;
    default:
        return on_answer(k, f, err);
    }
}

/* As for a broken rule of interp.def: the interpreter ends, and its death names the rule. */
static void
end_broken(struct kernel *k, const struct err *why)
{
    struct err err;

    log_warning("the interpreter broke the protocol: %s", why->text);
    k->interp.broken = *why;
    err_wrap(&k->interp.broken, "it broke the protocol and was killed");
    if (box_signal(&k->box, k->interp.slot, SIGKILL, &err) < 0)
        kernel_fail(k, EXIT_SYSTEM, &err);
    fd_close(&k->aside.socket);
}

void
aside_run(struct kernel *k)
{
    struct aside *a = &k->aside;
    struct frame f;
    struct err err;
    size_t used = 0;
    ssize_t n;

    if (a->socket < 0)
        return;
    flush(a);
    if (buf_reserve(&a->in, 65536) < 0)
        abort();
    n = recv(a->socket, a->in.data + a->in.len, a->in.size - a->in.len, MSG_DONTWAIT);
    if (n == 0) {
        fd_close(&a->socket); /* a cell may close it: then nobody listens */
        a->listening = 0;
        return;
    }
    if (n < 0)
        return;
    a->in.len += (size_t)n;
    while ((n = frame_parse(a->in.data + used, a->in.len - used, aside_rules, ASIDE_BY_INTERP, 1, &f,
                            &err)) > 0) {
        used += (size_t)n;
        if (take_frame(k, &f, &err) < 0) {
            n = -1;
            break;
        }
    }
    if (n < 0)
        end_broken(k, &err);
    buf_consume(&a->in, used);
}

/*** Time ***/

/* The thread is called once for each interpreter. */
static void
call_thread(struct kernel *k)
{
    k->aside.listening = -1;
    interp_call_aside(k);
}

void
aside_cell_ended(struct kernel *k, uint32_t count)
{
    k->aside.cell = count;
    if (k->aside.listening == 1)
        k->aside.names_due = now_ms() + ASIDE_NAMES_MS;
}

void
aside_tick(struct kernel *k, int64_t now)
{
    struct aside *a = &k->aside;

    if (a->wanted && a->listening == 0 && a->socket >= 0 && k->interp.state == INTERP_READY)
        call_thread(k);
    while (a->open.first && now >= a->open.first->waits_until) {
        a->late++;
        guess(k, queue_take(&a->open));
    }
    if (a->look && now >= a->look) {
        a->look = 0;
        for (struct shell *s = &k->main; s; s = s->next)
            look_into(k, s, now);
    }
    if (a->names_due && now >= a->names_due) {
        a->names_due = 0;
        if (k->interp.state == INTERP_READY && !shells_busy(k) && !a->late && a->out.len <= OUT_MAX)
            tell(a, (struct frame){.number = ASIDE_TELL_NAMES, .value = a->cell}, NULL, 0);
    }
}

int64_t
aside_deadline(const struct kernel *k)
{
    const struct aside *a = &k->aside;
    int64_t at = a->look;

    if (a->open.first && (!at || a->open.first->waits_until < at))
        at = a->open.first->waits_until;
    if (a->names_due && (!at || a->names_due < at))
        at = a->names_due;
    return at;
}

void
aside_release(struct kernel *k)
{
    struct request *r;

    while ((r = queue_take(&k->aside.open)))
        reply_error(k, r, "ShuttingDown", "the kernel ended while this was under way");
    fd_close(&k->aside.socket);
    buf_release(&k->aside.in);
    buf_release(&k->aside.out);
    buf_release(&k->aside.names);
}
