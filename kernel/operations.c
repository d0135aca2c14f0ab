/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/operations.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "kernel/kernel.h"
#include "kernel/paths.h"
#include "kernel/registry.h"
#include "kernel/sandboxes.h"
#include "wall/agent.h"

#define BUFFERS_MAX 4
#define SECONDS_MAX 1000000000 /* of sandbox.set */
#define TURN (4u << 20) /* bytes heard before others have their turn */
#define KEEP_MAX (4u << 20) /* bytes: a buffer is kept up to this size: new pages cost more than copies */

/*** Replies ***/

void
operations_refuse(struct kernel *k, struct request *r, int number, const char *text)
{
    struct op_error e = op_error_of(number);
    scoped(buf_release) struct buf c = {0};

    if (buf_printf(&c, "{\"status\":\"error\",\"ename\":\"%s\",\"evalue\":", e.code) < 0 ||
        json_quote(bytes_of(text), &c) < 0 ||
        buf_printf(&c, ",\"traceback\":[],\"code\":\"%s\",\"message\":", e.code) < 0 ||
        json_quote(bytes_of(text), &c) < 0 ||
        buf_printf(&c, ",\"suggestion\":\"%s\"}", e.suggestion) < 0)
        abort();
    reply_content(k, r, (struct bytes){c.data, c.len}, "error");
}

/* exec.run: a command that was killed while the memory limit ended processes. The agent, which lives
 * below that limit, cannot see it; its object is whole, and gets one member more. */
static void
add_oom(struct kernel *k, struct request *r, struct bytes json, struct buf *c)
{
    struct bytes method, killed, name, value;
    int64_t number = 0;
    size_t at = 0;
    int empty;

    if (json_get(request_content(r), "method", &method) != J_STRING || !json_string_is(method, "exec.run"))
        return;
    if (json_get(json, "signal", &killed) == J_NUMBER)
        (void)json_int64(killed, &number);
    empty = json_next(json, &at, &name, &value) == J_NONE;
    while (c->data[c->len - 1] != '}')
        c->len--;
    c->len--;
    if (buf_printf(c, "%s\"oom\":%s}", empty ? "" : ",",
                   number == SIGKILL && usage_oom_kills(k->box.usage) > r->oom_kills ? "true" : "false") < 0)
        abort();
}

void
operations_answer(struct kernel *k, struct request *r, struct bytes json, const struct bytes *buffers, size_t n)
{
    scoped(buf_release) struct buf c = {0};

    if (buf_text(&c, "{\"status\":\"ok\",\"result\":") < 0 || buf_add(&c, json.data, json.len) < 0)
        abort();
    add_oom(k, r, json, &c);
    if (buf_text(&c, "}") < 0)
        abort();
    reply_buffers(k, r, (struct bytes){c.data, c.len}, "ok", buffers, n);
}

/*** Checks ***/

static const char *const type_names[] = {"absent", "an object", "an array", "a string", "a number",
                                         "true", "false", "null"};

static int
is_map(struct bytes map)
{
    struct bytes name, value;
    enum json_type type;
    size_t at = 0;

    while ((type = json_next(map, &at, &name, &value)) != J_NONE)
        if (type != J_STRING && type != J_NULL)
            return 0;
    return 1;
}

static int
is_strings(struct bytes array)
{
    struct bytes value;
    enum json_type type;
    size_t at = 0;

    while ((type = json_element(array, &at, &value)) != J_NONE)
        if (type != J_STRING)
            return 0;
    return 1;
}

static int
fits(const struct parameter *p, enum json_type type, struct bytes value)
{
    int64_t n;

    if (bytes_equal(p->type, "string") || bytes_equal(p->type, "bytes"))
        return type == J_STRING;
    if (bytes_equal(p->type, "int"))
        return type == J_NUMBER && json_int64(value, &n) == 0;
    if (bytes_equal(p->type, "bool"))
        return type == J_TRUE || type == J_FALSE;
    if (bytes_equal(p->type, "map"))
        return type == J_OBJECT && is_map(value);
    return type == J_STRING || (type == J_ARRAY && is_strings(value)); /* command */
}

static const char *
wanted(const struct parameter *p)
{
    return bytes_equal(p->type, "string") || bytes_equal(p->type, "bytes") ? "a string"
         : bytes_equal(p->type, "int")    ? "a whole number"
         : bytes_equal(p->type, "bool")   ? "true or false"
         : bytes_equal(p->type, "map")    ? "an object of strings"
                                          : "a string or an array of strings";
}

static int
is_known(const struct operation *op, struct bytes quoted)
{
    const char *at = NULL;
    struct parameter p;
    char name[32];

    while (parameter_next(op, &at, &p)) {
        snprintf(name, sizeof name, "%.*s", (int)p.name.len, p.name.data);
        if (json_string_is(quoted, name))
            return 1;
    }
    return 0;
}

/* All that is there is known and fits, and all that must be there is. null is as absent. */
static int
check_params(const struct operation *op, struct bytes params, int has_buffer, struct err *err)
{
    struct bytes name, value;
    struct parameter p;
    const char *walk = NULL;
    size_t at = 0;
    char text[32];

    while (json_next(params, &at, &name, &value) != J_NONE)
        if (!is_known(op, name))
            return err_set(err, EINVAL, "%s has no parameter %.*s; it has: %s", op->name,
                           (int)(name.len > 80 ? 80 : name.len), name.data, op->parameters);
    while (parameter_next(op, &walk, &p)) {
        enum json_type type;
        snprintf(text, sizeof text, "%.*s", (int)p.name.len, p.name.data);
        type = json_get(params, text, &value);
        if ((type == J_NONE || type == J_NULL) && p.required)
            return err_set(err, EINVAL, "%s: '%s' is missing; it should be %s", op->name, text, wanted(&p));
        if (type != J_NONE && type != J_NULL && !fits(&p, type, value))
            return err_set(err, EINVAL, "%s: '%s' is %s and should be %s", op->name, text,
                           type == J_NUMBER && bytes_equal(p.type, "int") ? "a number of another kind" : type_names[type], wanted(&p));
    }
    (void)has_buffer;
    return 0;
}

/*** What the supervisor answers itself ***/

static void
add_string(struct buf *b, const char *name, const char *text)
{
    if (buf_printf(b, "%s\"%s\":", b->data[b->len - 1] == '{' ? "" : ",", name) < 0 ||
        (text ? json_quote(bytes_of(text), b) : buf_text(b, "null")) < 0)
        abort();
}

static void
add_number(struct buf *b, const char *name, int64_t value)
{
    if (buf_printf(b, "%s\"%s\":%lld", b->data[b->len - 1] == '{' ? "" : ",", name, (long long)value) < 0)
        abort();
}

static void
add_tags(const struct kernel *k, struct buf *b)
{
    if (buf_text(b, ",\"tags\":") < 0 ||
        (k->tags.len ? buf_add(b, k->tags.data, k->tags.len) : buf_text(b, "{}")) < 0)
        abort();
}

static void
tell_info(struct kernel *k, struct request *r, struct bytes params)
{
    static const char *const states[] = {"starting", "idle", "starting", "starting", "idle", "starting"};
    scoped(buf_release) struct buf b = {0};
    char id[16];

    snprintf(id, sizeof id, "%.12s", wire_session(k->wire));
    if (buf_text(&b, "{") < 0)
        abort();
    add_string(&b, "id", id);
    add_string(&b, "name", k->options.name);
    add_number(&b, "pid", getpid());
    add_string(&b, "profile", k->options.profile ? k->options.profile : "notebook");
    add_string(&b, "network",
               k->options.network     ? k->options.network
               : k->options.allow.len ? "allow"
                                      : "none");
    add_string(&b, "directory", k->directory);
    add_string(&b, "home", k->home);
    add_string(&b, "python", k->python.executable);
    add_string(&b, "start", k->warm.file >= 0 ? "warm" : "cold");
    add_string(&b, "start_reason", *k->warm.why ? k->warm.why : NULL);
    add_string(&b, "state", k->interp.state == INTERP_READY && shells_busy(k) ? "busy" : states[k->interp.state]);
    add_string(&b, "limits", k->sandbox_text);
    add_string(&b, "memory_limit", k->limits);
    add_string(&b, "created_at", k->created);
    add_tags(k, &b);
    if (buf_text(&b, "}") < 0)
        abort();
    operations_answer(k, r, (struct bytes){b.data, b.len}, NULL, 0);
}

static void
tell_usage(struct kernel *k, struct request *r, struct bytes params)
{
    struct usage u = usage_read(k->box.usage);
    struct account_total total = account_total();
    scoped(buf_release) struct buf b = {0};

    if (buf_text(&b, "{") < 0)
        abort();
    add_number(&b, "cpu_ms", (int64_t)total.cpu_ms);
    add_number(&b, "memory_bytes", (int64_t)total.memory);
    add_number(&b, "processes", (int64_t)total.processes);
    if (u.peak)
        add_number(&b, "peak_memory_bytes", (int64_t)u.peak);
    else
        add_string(&b, "peak_memory_bytes", NULL);
    add_number(&b, "memory_limit_bytes", (int64_t)k->options.memory);
    if (u.throttled_us >= 0)
        add_number(&b, "throttled_ms", u.throttled_us / 1000);
    else
        add_string(&b, "throttled_ms", NULL);
    if (buf_text(&b, "}") < 0)
        abort();
    operations_answer(k, r, (struct bytes){b.data, b.len}, NULL, 0);
}

/* *ret stays what it is if there is no such parameter. -1 with err set. */
static int
take_time(struct bytes params, const char *name, uint64_t *ret, struct err *err)
{
    struct bytes value;
    int64_t n;

    if (json_get(params, name, &value) != J_NUMBER || json_int64(value, &n) < 0)
        return 0;
    if (n < 0 || n > SECONDS_MAX)
        return err_set(err, EINVAL, "sandbox.set: '%s' is no number from 0 to %d", name, SECONDS_MAX);
    *ret = (uint64_t)n;
    return 0;
}

static void
set_sandbox(struct kernel *k, struct request *r, struct bytes params)
{
    scoped(buf_release) struct buf b = {0}, name = {0};
    uint64_t idle = k->options.idle_timeout, life = k->options.lifetime;
    struct bytes value;
    struct err err;

    if (json_get(params, "name", &value) == J_STRING &&
        (json_unescape(value, &name) < 0 || !buf_string(&name)))
        abort();
    if (take_time(params, "idle_timeout_s", &idle, &err) < 0 ||
        take_time(params, "lifetime_s", &life, &err) < 0 ||
        (name.data && (strlen((char *)name.data) != name.len || !registry_is_name((char *)name.data)) &&
         err_set(&err, EINVAL, "sandbox.set: 'name' is no name of letters, digits, '.', '_' and '-'") < 0)) {
        operations_refuse(k, r, EINVAL, err.text);
        return;
    }
    if (name.data) {
        str_free(&k->options.name);
        k->options.name = strdup((char *)name.data);
        kernel_register(k);
    }
    if (json_get(params, "tags", &value) == J_OBJECT) {
        k->tags.len = 0;
        if (buf_add(&k->tags, value.data, value.len) < 0)
            abort();
    }
    k->options.idle_timeout = idle;
    if (json_get(params, "lifetime_s", &value) == J_NUMBER) {
        k->options.lifetime = life;
        k->life_over = k->options.lifetime ? now_ms() + (int64_t)k->options.lifetime * 1000 : 0;
    }
    if (buf_text(&b, "{") < 0)
        abort();
    add_string(&b, "name", k->options.name);
    add_tags(k, &b);
    add_number(&b, "idle_timeout_s", (int64_t)k->options.idle_timeout);
    add_number(&b, "lifetime_s", (int64_t)k->options.lifetime);
    if (buf_text(&b, "}") < 0)
        abort();
    operations_answer(k, r, (struct bytes){b.data, b.len}, NULL, 0);
}

static const struct {
    const char *name;
    void (*answer)(struct kernel *k, struct request *r, struct bytes params);
} own[] = {{"sandbox.info", tell_info}, {"sandbox.usage", tell_usage}, {"sandbox.set", set_sandbox},
         {"ports.expose", ports_expose}, {"ports.list", ports_list}, {"ports.close", ports_close},
         {"sandbox.list", sandboxes_list}, {"sandbox.diff", sandboxes_compare}};

/*** The agent ***/

static void
flush(struct kernel *k)
{
    struct agent *a = &k->agent;

    while (a->socket >= 0 && a->out_used < a->out.len) {
        ssize_t n = send(a->socket, a->out.data + a->out_used, a->out.len - a->out_used,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return; /* full; or it is gone, which is heard from the broker */
        a->out_used += (size_t)n;
    }
    if (a->out_used == a->out.len) {
        a->out.len = a->out_used = 0;
        if (a->out.size > KEEP_MAX)
            buf_release(&a->out);
    }
}

static struct request *
take_open(struct agent *a, uint32_t slot)
{
    struct request *r = queue_take_slot(&a->open, slot);

    if (r)
        a->count--;
    return r;
}

static void
fail_all(struct kernel *k, int number, const char *text)
{
    struct request *r;

    while ((r = k->agent.open.first)) {
        take_open(&k->agent, r->slot);
        operations_refuse(k, r, number, text);
    }
}

static void
hang_up(struct agent *a)
{
    fd_close(&a->socket);
    a->in.len = a->out.len = a->out_used = 0;
    a->asked = 0;
}

static int
spawn(struct kernel *k, struct err *err)
{
    scoped(strv_release) struct strv argv = {0}, environment = {0};
    scoped(fd_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct agent *a = &k->agent;
    int pair[2], fds[SANDBOX_FDS], r;

    if (null < 0 || strv_add(&argv, paths_agent()) < 0 || interp_environment(k, &environment) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "start husk-agent");
    frame_widen(pair[0]);
    frame_widen(pair[1]);
    for (int i = 0; i < SANDBOX_FDS; i++)
        fds[i] = null;
    fds[AGENT_FD - 1] = pair[1];
    a->slot = a->slot ? a->slot + 1 : AGENT_SLOTS;
    r = box_spawn(&k->box, a->slot, BOX_STAYS, k->directory, &argv, &environment, fds, err);
    close(pair[1]);
    a->socket = pair[0];
    a->heard = now_ms();
    if (r < 0)
        hang_up(a);
    return r;
}

void
operations_start(struct kernel *k)
{
    struct agent *a = &k->agent;
    struct err err;

    if (a->socket >= 0 || !a->open.first || k->interp.state == INTERP_NONE)
        return;
    if (spawn(k, &err) < 0) {
        log_warning("%s", err.text);
        fail_all(k, ECHILD, err.text);
        a->out.len = a->out_used = 0;
    }
    flush(k);
}

/* Sends, or keeps what does not fit for flush(). */
static void
put_out(struct agent *a, struct frame f, const struct bytes *parts, size_t n)
{
    ssize_t sent = 0;

    if (a->socket >= 0 && a->out_used == a->out.len)
        sent = frame_send(a->socket, f, parts, n); /* its end is heard from the broker */
    if (sent > 0 && (size_t)sent == FRAME_HEAD + frame_payload(parts, n))
        return;
    if (a->out_used) {
        buf_consume(&a->out, a->out_used);
        a->out_used = 0;
    }
    if (frame_add(&a->out, f, parts, n) < 0)
        abort();
    a->out_used = sent > 0 ? (size_t)sent : 0;
}

static void
ask_agent(struct kernel *k, struct request *r, const struct operation *op, struct bytes params)
{
    struct agent *a = &k->agent;
    struct bytes parts[2 + BUFFERS_MAX] = {bytes_of(op->name), params};
    size_t n = 2;

    for (size_t i = 0; i < r->msg.buffers && n < countof(parts); i++)
        parts[n++] = r->frames.bytes[r->msg.first_buffer + i];
    if (a->count >= AGENT_OPEN_MAX || a->out.len - a->out_used > AGENT_OUT_MAX) {
        operations_refuse(k, r, EAGAIN, "too many operations are under way");
        return;
    }
    if (frame_payload(parts, n) > AGENT_MESSAGE) {
        operations_refuse(k, r, EFBIG, "the message is too large: send it in pieces, with files.upload");
        return;
    }
    put_out(a, (struct frame){.number = AGENT_CALL, .slot = r->slot, .value = callers_number(r)}, parts, n);
    if (!a->open.first)
        a->heard = now_ms();
    if (strncmp(op->name, "exec.", 5) == 0 || strcmp(op->name, "files.watch") == 0) /* have events */
        parents_add(&a->parents, r->slot, request_header(r), 1);
    if (strcmp(op->name, "exec.run") == 0) /* which says whether it was one of them */
        r->oom_kills = usage_oom_kills(k->box.usage);
    request_forget_buffers(r); /* they are sent, or in what waits */
    queue_put(&a->open, r);
    a->count++;
    operations_start(k);
    flush(k);
}

void
operations_gone(struct kernel *k, uint32_t caller)
{
    if (k->agent.socket >= 0 || k->agent.out.len) /* else nothing of anybody is there */
        put_out(&k->agent, (struct frame){.number = AGENT_GONE, .value = caller}, NULL, 0);
}

/* A command is ended with all that it started by looking into /proc, which Landlock does not show to
 * those who are inside: there what cannot be ended is not begun. */
static const char *
why_not_here(const struct kernel *k, const struct operation *op)
{
    if (strcmp(kernel_containment(k), "full") == 0)
        return NULL;
    if (strncmp(op->name, "exec.", 5) == 0 || strncmp(op->name, "proc.", 5) == 0)
        return "without namespaces commands run in cells only: what they start beside could not be ended";
    if (strncmp(op->name, "ports.", 6) == 0)
        return "without namespaces there are no ports: the network would be the host's";
    return NULL;
}

void
operations_request(struct kernel *k, struct request *r)
{
    scoped(buf_release) struct buf name = {0};
    struct bytes method, params = BYTES("{}");
    const struct operation *op;
    const char *why;
    enum json_type type;
    struct err err;

    if (json_get(request_content(r), "method", &method) != J_STRING) {
        operations_refuse(k, r, EINVAL, "'method' is missing, or no string");
        return;
    }
    type = json_get(request_content(r), "params", &params);
    if (type != J_OBJECT && type != J_NONE && type != J_NULL) {
        operations_refuse(k, r, EINVAL, "'params' is no object");
        return;
    }
    if (type != J_OBJECT)
        params = BYTES("{}");
    if (json_unescape(method, &name) < 0)
        abort();
    op = operation_find((struct bytes){name.data, name.len});
    if (!op) {
        err_set(&err, ENOSYS, "there is no operation %.*s", (int)(method.len > 80 ? 80 : method.len),
                method.data);
        operations_refuse(k, r, ENOSYS, err.text);
    } else if (check_params(op, params, r->msg.buffers > 0, &err) < 0) {
        operations_refuse(k, r, EINVAL, err.text);
    } else if ((why = why_not_here(k, op))) {
        operations_refuse(k, r, EOPNOTSUPP, why);
    } else if (op->by_agent) {
        ask_agent(k, r, op, params);
    } else {
        for (size_t i = 0; i < countof(own); i++)
            if (strcmp(own[i].name, op->name) == 0)
                own[i].answer(k, r, params);
    }
}

/*** What it says ***/

static int
take_frame(struct kernel *k, const struct frame *f, struct err *err)
{
    struct bytes json = frame_part(f, 0), buffers[BUFFERS_MAX], part;
    size_t at = 0, n = 0;
    struct request *r;

    while (frame_next(f, &at, &part))
        if (n++ > 0 && n - 2 < BUFFERS_MAX)
            buffers[n - 2] = part;
    n = n > 1 + BUFFERS_MAX ? BUFFERS_MAX : n ? n - 1 : 0;
    if (f->number == AGENT_PONG)
        return 0;
    if (f->number != AGENT_FAILURE && json_check_object(json, err) < 0)
        return err_wrap(err, "husk-agent");
    if (f->number == AGENT_EVENT) {
        for (r = k->agent.open.first; r && r->slot != f->slot; r = r->next)
            ;
        iopub_publish(&k->iopub, "sandbox_event",
                      r ? request_header(r) : parents_find(&k->agent.parents, f->slot), (struct bytes){0},
                      json, buffers, n);
        return 0;
    }
    r = take_open(&k->agent, f->slot);
    if (!r)
        return err_set(err, EPROTO, "husk-agent answered what was not asked");
    k->agent.failed = 0;
    if (f->number == AGENT_FAILURE) {
        char text[ERR_TEXT];
        snprintf(text, sizeof text, "%.*s", (int)json.len, json.data);
        operations_refuse(k, r, (int)f->value, text);
    } else {
        operations_answer(k, r, json, buffers, n);
    }
    return 0;
}

/* It broke a rule, or does not answer. The broker says when it is gone. */
static void
end_agent(struct kernel *k, const char *why)
{
    struct err err;

    log_warning("husk-agent is ended: %s", why);
    (void)box_signal(&k->box, k->agent.slot, SIGKILL, &err);
    hang_up(&k->agent);
    fail_all(k, ECHILD, why);
}

static void
hear(struct kernel *k)
{
    struct agent *a = &k->agent;
    struct frame f;
    struct err err;
    size_t used = 0, taken = 0;
    ssize_t n;

    while (taken < TURN) {
        if (buf_reserve(&a->in, 256 << 10) < 0)
            abort();
        n = recv(a->socket, a->in.data + a->in.len, a->in.size - a->in.len, MSG_DONTWAIT);
        if (n <= 0)
            break; /* its end is heard from the broker */
        a->in.len += (size_t)n;
        taken += (size_t)n;
        a->heard = now_ms();
        a->asked = 0;
    }
    while ((n = frame_parse(a->in.data + used, a->in.len - used, agent_rules, AGENT_BY_AGENT, 1, &f,
                            &err)) > 0) {
        used += (size_t)n;
        if (take_frame(k, &f, &err) < 0) {
            n = -1;
            break;
        }
    }
    if (n < 0) {
        end_agent(k, err.text);
        return;
    }
    buf_consume(&a->in, used);
    if (a->in.len == 0 && a->in.size > KEEP_MAX)
        buf_release(&a->in);
}

void
operations_run(struct kernel *k)
{
    if (k->agent.socket < 0)
        return;
    flush(k);
    if (!iopub_blocked(&k->iopub))
        hear(k);
}

void
operations_event(struct kernel *k, const struct frame *event)
{
    struct agent *a = &k->agent;
    struct bytes cause = frame_part(event, event->number == SANDBOX_FAILED ? 1 : 0);
    char why[ERR_TEXT];

    if (event->slot != a->slot || event->number == SANDBOX_SPAWNED)
        return;
    if (a->socket >= 0)
        hear(k); /* what it said before */
    snprintf(why, sizeof why, "husk-agent, which does this in the sandbox, %s%s%.*s",
             event->number == SANDBOX_FAILED ? "cannot be started" : "ended", cause.len ? ": " : "",
             (int)cause.len, cause.data);
    hang_up(a);
    fail_all(k, ECHILD, why);
}

int64_t
operations_deadline(const struct kernel *k)
{
    const struct agent *a = &k->agent;

    if (a->socket < 0 || !a->open.first)
        return 0;
    return (a->asked ? a->asked : a->heard) + AGENT_QUIET_MS;
}

void
operations_tick(struct kernel *k, int64_t now)
{
    struct agent *a = &k->agent;
    int64_t at = operations_deadline(k);

    if (!at || now < at || iopub_blocked(&k->iopub))
        return;
    if (a->asked) {
        end_agent(k, "husk-agent, which does this in the sandbox, does not answer");
        return;
    }
    a->asked = now;
    if (frame_add(&a->out, (struct frame){.number = AGENT_PING}, NULL, 0) < 0)
        abort();
    flush(k);
}

void
operations_release(struct kernel *k)
{
    fail_all(k, ESHUTDOWN, "the kernel ended while this was under way");
    hang_up(&k->agent);
    buf_release(&k->agent.in);
    buf_release(&k->agent.out);
    parents_release(&k->agent.parents);
}
