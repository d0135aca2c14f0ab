/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/agent.h"

#define MS_MAX (INT64_C(1) << 50)

static struct buf out; /* frames that the socket did not take yet */
static size_t out_used;
static int is_aside; /* what is said is kept until the end */

/*** In ***/

int
call_text(const struct call *c, const char *name, struct buf *ret, struct err *err)
{
    struct bytes value;

    if (json_get(c->params, name, &value) != J_STRING)
        return 0;
    if (json_unescape(value, ret) < 0 || !buf_string(ret))
        return err_errno(err, "read '%s'", name);
    if (strlen((char *)ret->data) != ret->len)
        return err_set(err, EINVAL, "'%s' holds a NUL", name);
    return 0;
}

int
call_path(const struct call *c, const char *name, struct buf *ret, struct err *err)
{
    if (call_text(c, name, ret, err) < 0)
        return -1;
    if (!ret->data)
        return 0;
    json_surrogates_to_bytes(ret);
    if (strlen((char *)ret->data) != ret->len)
        return err_set(err, EINVAL, "'%s' holds a NUL", name);
    return ret->len ? 0 : err_set(err, EINVAL, "'%s' is empty", name);
}

int64_t
call_int(const struct call *c, const char *name, int64_t standard)
{
    struct bytes value;
    int64_t n;

    return json_get(c->params, name, &value) == J_NUMBER && json_int64(value, &n) == 0 ? n : standard;
}

int64_t
call_ms(const struct call *c, const char *name, int64_t standard)
{
    int64_t n = call_int(c, name, standard);

    return n < -MS_MAX ? -MS_MAX : n > MS_MAX ? MS_MAX : n;
}

int
call_bool(const struct call *c, const char *name, int standard)
{
    struct bytes value;
    enum json_type type = json_get(c->params, name, &value);

    return type == J_TRUE ? 1 : type == J_FALSE ? 0 : standard;
}

int
call_bytes(const struct call *c, const char *name, struct buf *ret, struct err *err)
{
    struct bytes value;

    if (c->has_buffer)
        return buf_add(ret, c->buffer.data, c->buffer.len) < 0 ? err_errno(err, "take the data") : 0;
    if (json_get(c->params, name, &value) == J_STRING && json_unescape(value, ret) < 0)
        return err_errno(err, "take the data");
    return 0;
}

int
call_data(const struct call *c, const char *name, struct buf *hold, struct bytes *ret, struct err *err)
{
    if (!c->has_buffer && call_bytes(c, name, hold, err) < 0)
        return -1;
    *ret = c->has_buffer ? c->buffer : (struct bytes){hold->data, hold->len};
    return 0;
}

int
call_mode(const struct call *c, unsigned standard, unsigned *ret, struct err *err)
{
    scoped(buf_release) struct buf text = {0};
    char *end;

    *ret = standard;
    if (call_text(c, "mode", &text, err) < 0)
        return -1;
    if (!text.data)
        return 0;
    *ret = (unsigned)strtoul((char *)text.data, &end, 8);
    if (!text.len || *end || *ret > 07777)
        return err_set(err, EINVAL, "'mode' is no octal number up to 7777");
    return 0;
}

/*** Out ***/

static void
must(int r)
{
    if (r < 0)
        _exit(1); /* without memory there is no agent; the supervisor answers for it */
}

void
add_open(struct buf *json)
{
    must(buf_text(json, "{"));
}

void
add_name(struct buf *json, const char *name)
{
    must(buf_printf(json, "%s\"%s\":", json->data[json->len - 1] == '{' ? "" : ",", name));
}

void
add_int(struct buf *json, const char *name, int64_t value)
{
    add_name(json, name);
    must(buf_printf(json, "%lld", (long long)value));
}

void
add_bool(struct buf *json, const char *name, int value)
{
    add_name(json, name);
    must(buf_text(json, value ? "true" : "false"));
}

void
add_null(struct buf *json, const char *name)
{
    add_name(json, name);
    must(buf_text(json, "null"));
}

void
add_text(struct buf *json, const char *name, struct bytes text)
{
    add_name(json, name);
    must(json_quote(text, json));
}

void
add_path(struct buf *json, const char *name, const char *path)
{
    add_name(json, name);
    must(json_quote_path(bytes_of(path), json));
}

void
add_close(struct buf *json)
{
    must(buf_text(json, "}"));
}

void
out_flush(void)
{
    while (out_used < out.len && !is_aside) {
        ssize_t n = send(AGENT_FD, out.data + out_used, out.len - out_used, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            _exit(0); /* the supervisor is gone */
        out_used += (size_t)n;
    }
    if (is_aside)
        return;
    out.len = out_used = 0;
    if (out.size > KEEP_MAX)
        buf_release(&out);
}

size_t
out_waiting(void)
{
    return out.len - out_used;
}

static void
tell(enum agent_number what, uint32_t slot, uint32_t value, struct bytes first,
     const struct bytes *buffers, size_t n)
{
    const struct frame f = {.number = (uint16_t)what, .slot = slot, .value = value};
    struct bytes parts[1 + 4] = {first};
    ssize_t sent = 0;

    for (size_t i = 0; i < n; i++)
        parts[1 + i] = buffers[i];
    n = what == AGENT_PONG ? 0 : 1 + n;
    if (!out_waiting() && !is_aside && (sent = frame_send(AGENT_FD, f, parts, n)) < 0)
        _exit(0); /* the supervisor is gone */
    if ((size_t)sent == FRAME_HEAD + frame_payload(parts, n))
        return;
    must(frame_add(&out, f, parts, n));
    out_used += (size_t)sent; /* nothing waited, if it is not 0 */
    out_flush();
}

void
answer(uint32_t slot, const struct buf *json, const struct bytes *buffers, size_t n)
{
    size_t size = json->len;
    struct err err;

    for (size_t i = 0; i < n; i++)
        size += buffers[i].len;
    if (size > AGENT_MESSAGE - 4096) { /* with what the frame adds */
        err_set(&err, EFBIG, "the answer has %zu bytes, and a message at most %u", size, AGENT_MESSAGE);
        refuse(slot, &err);
        return;
    }
    tell(AGENT_RESULT, slot, 0, (struct bytes){json->data, json->len}, buffers, n);
}

void
answer_nothing(uint32_t slot)
{
    tell(AGENT_RESULT, slot, 0, BYTES("{}"), NULL, 0);
}

void
refuse(uint32_t slot, const struct err *why)
{
    tell(AGENT_FAILURE, slot, (uint32_t)why->code, bytes_of(why->text), NULL, 0);
}

void
tell_event(uint32_t slot, const struct buf *json, const struct bytes *buffers, size_t n)
{
    tell(AGENT_EVENT, slot, 0, (struct bytes){json->data, json->len}, buffers, n);
}

void
tell_pong(void)
{
    tell(AGENT_PONG, 0, 0, (struct bytes){0}, NULL, 0);
}

/*** Aside ***/

/* A child that does one operation: its frames come through a pipe, and go on when it is done. */
struct aside {
    struct aside *next;
    uint32_t slot;
    int fd;
    struct buf said;
};
static struct aside *asides;

static void __attribute__((noreturn))
run_aside(const struct call *c, void (*run)(const struct call *c), int to)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(to, AGENT_FD) < 0) /* whoever was told before is the parent's affair */
        _exit(1);
    syscall(SYS_close_range, AGENT_FD + 1, ~0u, 0); /* else inputs that we hold do not end meanwhile */
    out.len = out_used = 0;
    is_aside = 1;
    run(c);
    _exit(fd_write_all(AGENT_FD, out.data, out.len) < 0);
}

void
call_aside(const struct call *c, void (*run)(const struct call *c))
{
    struct aside *a = calloc(1, sizeof *a);
    int ends[2] = {-1, -1};
    pid_t pid = -1;

    if (a && pipe2(ends, O_CLOEXEC) == 0)
        pid = fork();
    if (pid == 0)
        run_aside(c, run, ends[1]);
    fd_close(&ends[1]);
    if (pid < 0) { /* no room for one more: here, then */
        fd_close(&ends[0]);
        free(a);
        run(c);
        return;
    }
    (void)fd_nonblock(ends[0]);
    *a = (struct aside){asides, c->slot, ends[0], {0}};
    asides = a;
}

size_t
asides_list_polls(struct pollfd **polls, size_t *size, size_t at)
{
    for (struct aside *a = asides; a; a = a->next)
        at = add_poll(polls, size, at, a->fd, POLLIN);
    return at;
}

static void
end_aside(struct aside **at)
{
    struct aside *a = *at;
    struct err err;

    if (a->said.len) {
        must(buf_add(&out, a->said.data, a->said.len));
        out_flush();
    } else {
        err_set(&err, ECHILD, "the process that did this was killed");
        refuse(a->slot, &err);
    }
    *at = a->next;
    buf_release(&a->said);
    fd_close(&a->fd);
    free(a);
}

void
asides_run(const struct pollfd *polls, size_t first, size_t n)
{
    for (struct aside **at = &asides; *at;) {
        struct aside *a = *at;
        ssize_t got;
        if (!is_ready(polls, first, n, a->fd)) {
            at = &a->next;
            continue;
        }
        must(buf_reserve(&a->said, 65536));
        got = read(a->fd, a->said.data + a->said.len, a->said.size - a->said.len);
        if (got > 0)
            a->said.len += (size_t)got;
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            end_aside(at);
        else
            at = &a->next;
    }
}
