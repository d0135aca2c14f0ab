/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/json.h"
#include "kernel/exits.h"
#include "kernel/kernel.h"

#define TURN 64 /* messages of one channel before the others have their turn */

/*** Checks of content: what the specification asks for, no more ***/

static int
want(struct request *r, const char *name, enum json_type type, struct bytes *ret, struct err *err)
{
    static const char *const names[] = {"absent", "an object", "an array", "a string", "a number",
                                        "true", "false", "null"};
    enum json_type got = json_get(request_content(r), name, ret);

    if (got == type)
        return 0;
    if (got == J_NONE)
        return err_set(err, EINVAL, "'%s' is missing", name);
    return err_set(err, EINVAL, "'%s' is %s and should be %s", name, names[got], names[type]);
}

static int
want_bool(struct request *r, const char *name, int standard, int *ret, struct err *err)
{
    struct bytes value;

    switch (json_get(request_content(r), name, &value)) {
    case J_NONE:
    case J_NULL:
        *ret = standard;
        return 0;
    case J_TRUE:
        *ret = 1;
        return 0;
    case J_FALSE:
        *ret = 0;
        return 0;
    default:
        return err_set(err, EINVAL, "'%s' is neither true nor false", name);
    }
}

static int
check_nothing(struct request *r, struct err *err)
{
    return 0;
}

static int
check_code(struct request *r, struct err *err)
{
    struct bytes code;

    return want(r, "code", J_STRING, &code, err);
}

static int
check_execute(struct request *r, struct err *err)
{
    struct bytes value, name, expression;
    enum json_type type, each;
    size_t at = 0;

    if (check_code(r, err) < 0 || want_bool(r, "silent", 0, &r->silent, err) < 0 ||
        want_bool(r, "store_history", !r->silent, &r->store_history, err) < 0 ||
        want_bool(r, "allow_stdin", 1, &r->allow_stdin, err) < 0 ||
        want_bool(r, "stop_on_error", 1, &r->stop_on_error, err) < 0)
        return -1;
    if (r->silent)
        r->store_history = 0;
    type = json_get(request_content(r), "user_expressions", &value);
    if (type != J_NONE && type != J_NULL && type != J_OBJECT)
        return err_set(err, EINVAL, "'user_expressions' is no object");
    while (type == J_OBJECT && (each = json_next(value, &at, &name, &expression)) != J_NONE)
        if (each != J_STRING)
            return err_set(err, EINVAL, "user expression %.*s is no string", (int)name.len,
                           name.data);
    return 0;
}

/* Positions count code points (messaging.rst since 5.2). */
static int
check_cursor(struct request *r, struct err *err)
{
    scoped(buf_release) struct buf text = {0};
    struct bytes code, value;
    int64_t cursor, length = 0;
    enum json_type type;

    if (want(r, "code", J_STRING, &code, err) < 0)
        return -1;
    type = json_get(request_content(r), "cursor_pos", &value);
    if (type == J_NONE || type == J_NULL)
        return type == J_NULL || strcmp(r->type->name, "complete_request") == 0
                   ? 0
                   : err_set(err, EINVAL, "'cursor_pos' is missing");
    if (type != J_NUMBER || json_int64(value, &cursor) < 0)
        return err_set(err, EINVAL, "'cursor_pos' is no whole number");
    if (json_unescape(code, &text) < 0)
        return err_errno(err, "read the code");
    for (size_t i = 0; i < text.len; i++)
        length += (text.data[i] & 0xc0) != 0x80;
    if (cursor < 0 || cursor > length)
        return err_set(err, EINVAL, "'cursor_pos' %lld is outside of code of %lld characters",
                       (long long)cursor, (long long)length);
    type = json_get(request_content(r), "detail_level", &value);
    if (type != J_NONE && type != J_NULL && type != J_NUMBER)
        return err_set(err, EINVAL, "'detail_level' is no number");
    return 0;
}

static int
check_comm(struct request *r, struct err *err)
{
    struct bytes value;

    return want(r, "comm_id", J_STRING, &value, err);
}

static int
check_comm_open(struct request *r, struct err *err)
{
    struct bytes value;

    return check_comm(r, err) < 0 ? -1 : want(r, "target_name", J_STRING, &value, err);
}

static int
check_comm_info(struct request *r, struct err *err)
{
    struct bytes value;
    enum json_type type = json_get(request_content(r), "target_name", &value);

    if (type == J_NONE || type == J_NULL || type == J_STRING)
        return 0;
    return err_set(err, EINVAL, "'target_name' is no string");
}

static int
check_history(struct request *r, struct err *err)
{
    static const char *const numbers[] = {"session", "start", "stop", "n"};
    struct bytes value;

    if (want(r, "hist_access_type", J_STRING, &value, err) < 0)
        return -1;
    if (!json_string_is(value, "range") && !json_string_is(value, "tail") &&
        !json_string_is(value, "search"))
        return err_set(err, EINVAL, "'hist_access_type' is not one of range, tail and search");
    for (size_t i = 0; i < countof(numbers); i++) {
        enum json_type type = json_get(request_content(r), numbers[i], &value);
        if (type != J_NONE && type != J_NULL && type != J_NUMBER)
            return err_set(err, EINVAL, "'%s' is no number", numbers[i]);
    }
    if (json_get(request_content(r), "pattern", &value) > J_NONE && *value.data != '"' &&
        *value.data != 'n')
        return err_set(err, EINVAL, "'pattern' is no string");
    return 0;
}

/* DAP, base protocol. */
static int
check_debug(struct request *r, struct err *err)
{
    struct bytes value;
    int64_t number;
    enum json_type type;

    if (want(r, "command", J_STRING, &value, err) < 0 || want(r, "seq", J_NUMBER, &value, err) < 0)
        return -1;
    if (json_int64(value, &number) < 0)
        return err_set(err, EINVAL, "'seq' is no whole number");
    type = json_get(request_content(r), "arguments", &value);
    if (type != J_NONE && type != J_NULL && type != J_OBJECT)
        return err_set(err, EINVAL, "'arguments' is no object");
    return 0;
}

static int
check_shutdown(struct request *r, struct err *err)
{
    int restart;

    return want_bool(r, "restart", 0, &restart, err);
}

/*** Answers at once ***/

static void
answer_text(struct kernel *k, struct request *r, const char *content)
{
    reply_content(k, r, bytes_of(content), "ok");
}

static const char *
describe_level(const char *name)
{
    if (strcmp(name, "landlock") == 0)
        return " (no namespaces: processes, host name and /dev/shm are shared with others)";
    return strcmp(name, "none") == 0 ? " (cells can do all that the user who runs husk can)" : "";
}

static void
answer_kernel_info(struct kernel *k, struct request *r)
{
    scoped(buf_release) struct buf c = {0}, banner = {0};

    const char *level = kernel_containment(k);
    int built = *k->limits != 0;

    if (buf_printf(&banner,
                   "Python %s %s (husk " HUSK_VERSION ")\nContainment: %s%s%s%s\n", k->python.version,
                   strcmp(level, "none") == 0 ? "WITHOUT a sandbox" : "in a sandbox", level, describe_level(level),
                   *k->sandbox_text ? "; " : "", k->sandbox_text) < 0 ||
        buf_printf(&c,
                   "{\"status\":\"ok\",\"protocol_version\":\"" WIRE_PROTOCOL "\","
                   "\"implementation\":\"husk\",\"implementation_version\":\"" HUSK_VERSION "\","
                   "\"language_info\":{\"name\":\"python\",\"version\":\"%s\","
                   "\"mimetype\":\"text/x-python\",\"file_extension\":\".py\","
                   "\"pygments_lexer\":\"ipython3\",\"codemirror_mode\":{\"name\":\"ipython\","
                   "\"version\":3},\"nbconvert_exporter\":\"python\"},\"help_links\":["
                   "{\"text\":\"Python\",\"url\":\"https://docs.python.org/3\"},"
                   "{\"text\":\"IPython\",\"url\":\"https://ipython.org/documentation.html\"}],"
                   "\"supported_features\":[\"kernel subshells\"%s],\"debugger\":%s,"
                   "\"husk\":{\"containment\":\"%s\"%s%s%s},\"banner\":",
                   k->python.version, k->can_debug ? ",\"debugger\"" : "",
                   k->can_debug ? "true" : "false", level,
                   built ? ",\"memory_limit\":\"" : "", k->limits, built ? "\"" : "") < 0 ||
        json_quote((struct bytes){banner.data, banner.len}, &c) < 0 || buf_add(&c, "}", 1) < 0)
        abort();
    reply_content(k, r, (struct bytes){c.data, c.len}, "ok");
}

static void
answer_connect(struct kernel *k, struct request *r)
{
    char text[256];

    snprintf(text, sizeof text,
             "{\"status\":\"ok\",\"shell_port\":%d,\"iopub_port\":%d,\"stdin_port\":%d,"
             "\"hb_port\":%d,\"control_port\":%d}",
             k->conn.port[SHELL], k->conn.port[IOPUB], k->conn.port[STDIN], k->conn.port[HB],
             k->conn.port[CONTROL]);
    answer_text(k, r, text);
}

static void
answer_history(struct kernel *k, struct request *r)
{
    k->aside.wanted = 1; /* somebody types here */
    history_ask(k, r);
}

static void
answer_interrupt(struct kernel *k, struct request *r)
{
    interp_interrupt(k);
    answer_text(k, r, "{\"status\":\"ok\"}");
}

static void
answer_shutdown(struct kernel *k, struct request *r)
{
    struct bytes value;
    int restart = json_get(request_content(r), "restart", &value) == J_TRUE;
    char text[64];

    snprintf(text, sizeof text, "{\"status\":\"ok\",\"restart\":%s}", restart ? "true" : "false");
    iopub_publish(&k->iopub, "shutdown_reply", request_header(r), (struct bytes){0},
                  bytes_of(text), NULL, 0);
    answer_text(k, r, text);
    kernel_end(k);
}

/*** The table ***/

static const struct request_type types[] = {
#define REQUEST(type, reply, check, frame, answer) {#type, reply, check, frame, answer},
#include "kernel/requests.def"
#undef REQUEST
};

/* What is in no row: busy and idle, no reply. */
static const struct request_type unknown_type = {"unknown", NULL, check_nothing, 0, reply_none};

static const struct request_type *
find_type(struct bytes name)
{
    for (size_t i = 0; i < countof(types); i++)
        if (json_string_is(name, types[i].name))
            return &types[i];
    return &unknown_type;
}

static int
check_request(struct request *r, struct err *err)
{
    if (json_check_object(request_content(r), err) < 0)
        return err_wrap(err, "content");
    return r->type->check(r, err);
}

/* A verified message becomes an open request: refused, answered or queued. */
static void
admit(struct kernel *k, enum channel channel, struct frames *frames, const struct wire_msg *msg)
{
    struct shell *shell = &k->main;
    struct request *r;
    struct err why;

    if (++k->next_slot == 0)
        k->next_slot = 1;
    r = request_new(k->next_slot, channel, find_type(msg->msg_type), frames, msg);
    if (!r)
        abort();
    if (check_request(r, &why) < 0) {
        log_debug("refused %s: %s", r->type->name, why.text);
        reply_begin(k, r);
        reply_error(k, r, "InvalidRequest", why.text);
    } else if (channel == SHELL && !(shell = shells_of_header(k, request_header(r), &why))) {
        reply_begin(k, r);
        reply_error(k, r, why.code == ENOENT ? "UnknownSubshellError" : "InvalidRequest", why.text);
    } else if (k->ending) {
        reply_begin(k, r);
        if (strcmp(r->type->name, "shutdown_request") == 0 || r->type == &unknown_type)
            r->type->answer(k, r);
        else
            reply_error(k, r, "ShuttingDown", "the kernel is ending");
    } else if (r->type->frame) {
        if (r->type->frame == FRAME_DEBUG)
            shell = &k->debugger;
        aside_expect(k, shell, r);
        queue_put(&shell->queue, r);
    } else {
        reply_begin(k, r);
        r->type->answer(k, r);
    }
}

/* Takes one message. 0 when none is there. */
static int
take(struct kernel *k, enum channel channel)
{
    struct frames frames = {0};
    struct wire_msg msg;
    struct err why;

    if (!k->sockets.socket[channel] || !frames_recv(&frames, k->sockets.socket[channel])) {
        frames_release(&frames);
        return 0;
    }
    if (wire_open(k->wire, frames.bytes, frames.n, &msg, &why) < 0)
        log_warning("dropped a message on %s: %s", channel_names[channel], why.text);
    else
        admit(k, channel, &frames, &msg);
    k->last_asked = now_ms();
    frames_release(&frames);
    return 1;
}

void
dispatch_socket(struct kernel *k, enum channel channel)
{
    for (int i = 0; i < TURN && take(k, channel); i++)
        ;
}

void
dispatch_arrived(struct kernel *k)
{
    while (take(k, SHELL))
        ;
    if (k->front.socket >= 0)
        dispatch_front(k);
}

void
dispatch_abort_arrived(struct kernel *k, struct shell *s)
{
    dispatch_arrived(k);
    for (struct request *r = s->queue.first; r; r = r->next)
        if (r->type->frame == FRAME_EXECUTE)
            r->aborted = 1;
}

/* The shell whose question this message answers: one that is open, of this client, and the very one
 * that the message names, if it names one. */
static struct shell *
find_question(struct kernel *k, const struct frames *frames, const struct wire_msg *msg)
{
    struct bytes parent;
    int named = json_get(msg->part[WIRE_PARENT], "msg_id", &parent) == J_STRING;

    for (struct shell *s = &k->main; s && msg->identities; s = s->next) {
        const struct request *r = s->running;
        if (!r || !s->input.open || r->msg.identities == 0 ||
            (named && !json_string_is(parent, s->input.msg_id)) || !frames->block != !r->frames.block)
            continue;
        if (frames->bytes[0].len == r->frames.bytes[0].len &&
            memcmp(frames->bytes[0].data, r->frames.bytes[0].data, frames->bytes[0].len) == 0)
            return s;
    }
    return NULL;
}

/* An answer of the user. A late one to another question, or of another client, is passed over. */
static void
take_answer(struct kernel *k, const struct frames *frames, const struct wire_msg *msg)
{
    scoped(buf_release) struct buf text = {0};
    struct bytes value;
    struct shell *s;
    struct err why;

    if (!json_string_is(msg->msg_type, "input_reply") || !(s = find_question(k, frames, msg)))
        return;
    if (json_check_object(msg->part[WIRE_CONTENT], &why) < 0 ||
        json_get(msg->part[WIRE_CONTENT], "value", &value) != J_STRING ||
        json_unescape(value, &text) < 0)
        return;
    interp_answer_input(k, s, (struct bytes){text.data, text.len}, 0);
}

void
dispatch_stdin(struct kernel *k)
{
    scoped(frames_release) struct frames frames = {0};
    struct wire_msg msg;
    struct err why;

    if (!frames_recv(&frames, k->sockets.socket[STDIN]))
        return;
    if (wire_open(k->wire, frames.bytes, frames.n, &msg, &why) < 0)
        log_warning("dropped a message on stdin: %s", why.text);
    else
        take_answer(k, &frames, &msg);
}

/*** Who started us, and commands ***/

void
dispatch_request(struct kernel *k, const struct frame *f)
{
    scoped(frames_release) struct frames frames = {0};
    struct wire_msg msg;
    struct err why;

    frames_of_front(&frames, f);
    if (wire_read(frames.bytes, frames.n, &msg, &why) < 0)
        log_warning("dropped a message: %s", why.text);
    else if (f->value == STDIN)
        take_answer(k, &frames, &msg);
    else
        admit(k, f->value == CONTROL ? CONTROL : SHELL, &frames, &msg);
    k->last_asked = now_ms();
}

/* All that has arrived: an error aborts the cells that had by then. */
void
dispatch_front(struct kernel *k)
{
    struct frame f;
    struct err err;
    int r;

    front_flush(&k->front);
    while ((r = front_next(&k->front, &f, &err)) > 0) {
        if (f.number == FRONT_REQUEST)
            dispatch_request(k, &f);
        else if (f.number == FRONT_RESTART)
            interp_restart(k);
        else if (f.number == FRONT_STAY)
            k->stays = 1;
        else if (f.number != FRONT_ENVIRONMENT) /* that one is heard at the start */
            k->front.paused = f.number == FRONT_PAUSE;
    }
    if (r < 0)
        kernel_fail(k, EXIT_SYSTEM, &err);
    else if (k->front.ended && k->stays)
        front_release(&k->front);
    else if (k->front.ended)
        k->done = 1; /* as a kernel without its client */
}
