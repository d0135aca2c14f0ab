/* SPDX-License-Identifier: BSD-3-Clause */
#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define TURN 16 /* calls, before processes have their turn and what is answered goes out */
#define OUT_MAX (8u << 20) /* bytes that wait to be sent: until they are, nothing more is taken */

static const struct {
    const char *name;
    void (*run)(const struct call *c);
} table[] = {
    {"exec.run", exec_run},           {"exec.start", exec_start},     {"proc.list", proc_list},
    {"proc.get", proc_get},           {"proc.logs", proc_logs},       {"proc.stdin", proc_stdin},
    {"proc.resize", proc_resize},     {"proc.read", proc_read},       {"proc.kill", proc_kill},
    {"proc.kill_all", proc_kill_all},
    {"proc.wait", proc_wait},         {"files.read", files_read},     {"files.readText", files_read_text},
    {"files.download", files_download},  {"files.write", files_write},   {"files.append", files_append},
    {"files.upload", files_upload},   {"files.list", files_list},     {"files.stat", files_stat},
    {"files.exists", files_exists},   {"files.move", files_move},     {"files.copy", files_copy},
    {"files.remove", files_remove},   {"files.mkdir", files_mkdir},   {"files.chmod", files_chmod},
    {"files.watch", files_watch},   {"files.unwatch", files_unwatch}, {"env.set", env_set},             {"env.get", env_get},
};

/* Those that may walk through a tree of any size. */
static int
may_take_long(void (*run)(const struct call *c))
{
    return run == files_copy || run == files_move || run == files_remove || run == files_list;
}

static void
run_call(const struct frame *f)
{
    struct bytes name = frame_part(f, 0), part;
    struct call c = {.slot = f->slot, .caller = f->value, .params = frame_part(f, 1)};
    struct err err;
    size_t at = 0, n = 0;

    while (frame_next(f, &at, &part))
        if (n++ == 2) {
            c.buffer = part;
            c.has_buffer = 1;
        }
    for (size_t i = 0; i < countof(table); i++)
        if (bytes_equal(name, table[i].name)) {
            if (may_take_long(table[i].run))
                call_aside(&c, table[i].run);
            else
                table[i].run(&c);
            return;
        }
    err_set(&err, ENOSYS, "there is no operation '%.*s'", (int)name.len, name.data);
    refuse(f->slot, &err);
}

/* Does what is whole, a turn of it. 1: there is more. */
static int
do_calls(struct buf *in)
{
    struct frame f;
    struct err err;
    size_t used = 0;
    ssize_t n = 0;
    int left = TURN;

    while (left-- > 0 && (n = frame_parse(in->data + used, in->len - used, agent_rules,
                                          AGENT_BY_KERNEL, 1, &f, &err)) > 0) {
        used += (size_t)n;
        if (f.number == AGENT_PING) {
            tell_pong();
        } else if (f.number == AGENT_GONE) {
            process_gone(f.value);
            uploads_gone(f.value);
        } else {
            run_call(&f);
        }
    }
    if (n < 0)
        _exit(1);
    buf_consume(in, used);
    if (in->len == 0 && in->size > KEEP_MAX)
        buf_release(in);
    return n > 0 && in->len > 0;
}

static void
hear(struct buf *in)
{
    ssize_t n;

    if (buf_reserve(in, 256 << 10) < 0)
        _exit(1);
    n = recv(AGENT_FD, in->data + in->len, in->size - in->len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        _exit(0); /* the supervisor is gone; each shim sees that its parent is, and ends its tree */
    in->len += (size_t)n;
}

int
main(void)
{
    struct buf in = {0};
    struct pollfd *polls = NULL;
    size_t size = 0;
    int more = 0; /* calls that have come and are not done */

    /* Whoever may signal this process may do all that it can; its memory is no secret either, but
     * need not be written to. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_NAME, "husk-agent", 0, 0, 0);
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL);
    for (size_t i = 0; i < countof(shim_ignored); i++)
        signal(shim_ignored[i], SIG_IGN);
    process_limits();
    if (fcntl(AGENT_FD, F_SETFD, FD_CLOEXEC) < 0)
        return 1;
    for (;;) {
        int64_t deadline = 0, now, tick, wait = -1;
        size_t n;

        if (size == 0 && !(polls = malloc((size = 64) * sizeof *polls)))
            return 1;
        polls[0] = (struct pollfd){.fd = AGENT_FD, .events = out_waiting() ? POLLOUT : 0};
        if (out_waiting() < OUT_MAX && !more)
            polls[0].events |= POLLIN;
        n = 1;
        if (watch_descriptor() >= 0)
            polls[n++] = (struct pollfd){.fd = watch_descriptor(), .events = POLLIN};
        n = process_list_polls(&polls, &size, n, &deadline);
        n = asides_list_polls(&polls, &size, n);
        if (out_waiting() >= OUT_MAX)
            n = 1; /* what processes print waits, too */
        now = now_ms();
        tick = uploads_tick(now);
        if (tick && (!deadline || tick < deadline))
            deadline = tick;
        if (more && out_waiting() < OUT_MAX)
            wait = 0;
        else if (deadline)
            wait = deadline > now ? deadline - now : 0;
        if (poll(polls, n, (int)wait) < 0 && errno != EINTR)
            return 1;
        if (polls[0].revents & POLLOUT)
            out_flush();
        if (polls[0].revents & (POLLIN | POLLHUP | POLLERR))
            hear(&in);
        if (watch_descriptor() >= 0 && n > 1 && polls[1].fd == watch_descriptor() && polls[1].revents)
            watch_run();
        if (out_waiting() < OUT_MAX)
            more = do_calls(&in);
        process_run(polls, 1, n);
        asides_run(polls, 1, n);
    }
}
