/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <linux/audit.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/log.h"
#include "kernel/exits.h"
#include "base/json.h"
#include "kernel/kernel.h"
#include "kernel/paths.h"

#define HANG_UP_MS 1000
#define LISTENER_MS 2000 /* who has not subscribed by then does not want to hear */
#define LEAVE_MS 250    /* after exit: clients look at the reply only while the kernel lives */
#define X32_BIT 0x40000000u /* in the numbers of x32: __X32_SYSCALL_BIT of <asm/unistd.h> */
#define DEATH_TEXT 800  /* bytes */
#define RESTART_MS 1500 /* a restarted one has so long to run its atexit handlers */
/* Ignored by who does not expect it, children of cells for instance. See wall/interp.h. */
#define SIGNAL_LOOK SIGWINCH
#define LAST_WORDS 4096 /* bytes kept of what an interpreter prints before HELLO */

/*** What it says ***/

static void
on_text(void *self, int stream, uint32_t slot, struct bytes text)
{
    struct kernel *k = self;
    struct buf *words = &k->interp.last_words;

    if (k->interp.state == INTERP_STARTING) {
        if (words->len + text.len > LAST_WORDS)
            words->len = 0;
        if (text.len <= LAST_WORDS && buf_add(words, text.data, text.len) < 0)
            words->len = 0;
    }
    if (slot == 0)
        slot = k->parents.latest;
    iopub_text(&k->iopub, stream ? STREAM_STDERR : STREAM_STDOUT, slot,
               parents_find(&k->parents, slot), text);
}

static int
on_hello(struct kernel *k, const struct frame *f, struct err *err)
{
    struct bytes about = frame_part(f, 0), why;
    scoped(buf_release) struct buf text = {0};

    if (f->value != INTERP_VERSION)
        return err_set(err, EPROTO, "an interpreter package of version %u, not %u", f->value,
                       INTERP_VERSION);
    if (json_check_object(about, err) < 0)
        return err_wrap(err, "HELLO");
    k->interp.state = INTERP_READY;
    k->interp.failures = 0;
    k->interp.last_words.len = 0;
    k->can_debug = json_get(about, "debugger", &why) == J_TRUE &&
                   strcmp(kernel_containment(k), "full") == 0;
    warm_arrived(k);
    for (struct shell *s = k->debugger.next; s; s = s->next)
        interp_open_shell(k, s);
    if (k->front.socket >= 0) {
        iopub_status(&k->iopub, "idle", (struct bytes){0});
        front_send(&k->front, (struct frame){.number = FRONT_ALIVE}, NULL, 0);
    }
    if (json_get(about, "plain", &why) == J_STRING && json_unescape(why, &text) == 0 &&
        buf_string(&text))
        log_warning("IPython cannot be used in this Python (%s); plain mode: pip install ipython",
                    (char *)text.data);
    return 0;
}

static int
on_doorbell(struct kernel *k, const struct frame *f, struct err *err)
{
    return 0; /* the ring is looked at after every frame anyway */
}

static const char *const publications[FRAME_LIMIT] = {
    [FRAME_DISPLAY_DATA] = "display_data",
    [FRAME_UPDATE_DISPLAY_DATA] = "update_display_data",
    [FRAME_EXECUTE_RESULT] = "execute_result",
    [FRAME_ERROR] = "error",
    [FRAME_CLEAR_OUTPUT] = "clear_output",
    [FRAME_OPEN_COMM] = "comm_open",
    [FRAME_SEND_COMM] = "comm_msg",
    [FRAME_CLOSE_COMM] = "comm_close",
    [FRAME_DEBUG_EVENT] = "debug_event",
};

/* For history_request with output; pictures have a text, too. */
static void
note_output(struct kernel *k, uint32_t slot, struct bytes content)
{
    struct bytes data, text;
    struct request *r;

    if (shells_of_slot(k, slot, &r) && r->store_history &&
        json_get(content, "data", &data) == J_OBJECT &&
        json_get(data, "text/plain", &text) == J_STRING)
        history_set_output(&k->history, r->count, text);
}

static int
on_publish(struct kernel *k, const struct frame *f, struct err *err)
{
    struct bytes content, metadata, few[16], *buffers = few;
    size_t at = 0, n = 0, size = countof(few);

    frame_next(f, &at, &content);
    frame_next(f, &at, &metadata);
    if (json_check_object(content, err) < 0 || json_check_object(metadata, err) < 0)
        return err_wrap(err, "%s", publications[f->number]);
    if (f->number == FRAME_EXECUTE_RESULT)
        note_output(k, f->slot, content);
    while (frame_next(f, &at, &buffers[n]))
        if (++n == size) {
            struct bytes *more = calloc(2 * size, sizeof *more);
            if (!more)
                abort();
            memcpy(more, buffers, n * sizeof *more);
            if (buffers != few)
                free(buffers);
            buffers = more;
            size *= 2;
        }
    iopub_publish(&k->iopub, publications[f->number], parents_find(&k->parents, f->slot), metadata,
                  content, buffers, n);
    if (buffers != few)
        free(buffers);
    return 0;
}

/* The shell in which the frame's request runs; NULL with err set if it runs in none. */
static struct shell *
check_running(struct kernel *k, const struct frame *f, struct request **ret, struct err *err)
{
    struct shell *s = shells_of_slot(k, f->slot, ret);

    if (!s)
        err_set(err, EPROTO, "%s for a request that is not running", interp_rules[f->number].name);
    return s;
}

/* 0 if the question went out, -1 if the client's stdin is not connected. */
static int
send_question(struct kernel *k, struct shell *s)
{
    struct request *r = s->running;

    if (r->msg.identities == 0 ||
        reply_message(k, STDIN, r, "input_request", BYTES("{}"),
                      (struct bytes){s->input.content.data, s->input.content.len}, NULL, 0) < 0)
        return -1;
    snprintf(s->input.msg_id, sizeof s->input.msg_id, "%s", wire_last_id(k->wire));
    return 0;
}

static void
ask(struct kernel *k, struct shell *s, int64_t now)
{
    struct input *input = &s->input;

    if (!input->open || !input->retry || now < input->retry || !s->running)
        return;
    if (send_question(k, s) == 0)
        input->retry = 0;
    else if (now >= input->give_up)
        interp_answer_input(k, s, BYTES("the client has no stdin channel"), 1);
    else
        input->retry = now + INPUT_RETRY_MS;
}

void
interp_ask(struct kernel *k)
{
    int64_t now = now_ms();

    for (struct shell *s = &k->main; s; s = s->next)
        ask(k, s, now);
}

static int
on_input(struct kernel *k, const struct frame *f, struct err *err)
{
    struct bytes content = frame_part(f, 0);
    struct request *r;
    struct shell *s = check_running(k, f, &r, err);

    if (!s)
        return -1;
    if (r != s->running)
        return err_set(err, EPROTO, "INPUT_REQUEST for a comm message");
    if (json_check_object(content, err) < 0)
        return err_wrap(err, "INPUT_REQUEST");
    if (!r->allow_stdin) {
        interp_answer_input(k, s, BYTES("this client takes no questions"), 1);
        return 0;
    }
    iopub_flush(&k->iopub, 1);
    s->input.content.len = 0;
    if (buf_add(&s->input.content, content.data, content.len) < 0)
        abort();
    s->input.open = 1;
    s->input.retry = now_ms();
    s->input.give_up = s->input.retry + INPUT_PATIENCE_MS;
    interp_ask(k);
    return 0;
}

/* The cell's number is the supervisor's to say: it goes into the reply here. */
static int
add_count(struct request *r, struct bytes content, int timed_out, struct buf *ret)
{
    struct bytes value;

    if (r->type->frame != FRAME_EXECUTE || content.len < 3 ||
        json_get(content, "execution_count", &value) != J_NONE)
        return buf_add(ret, content.data, content.len);
    while (content.data[0] != '{') {
        content.data++;
        content.len--;
    }
    if (buf_printf(ret, "{\"execution_count\":%u,%s", r->count,
                   timed_out ? "\"timed_out\":true," : "") < 0)
        return -1;
    return buf_add(ret, content.data + 1, content.len - 1);
}

static void
finish_execute(struct kernel *k, struct shell *s, struct request *r, const char *status,
               uint32_t next)
{
    if (r->store_history && next == r->count + 1 && next > k->next_count)
        k->next_count = next;
    aside_cell_ended(k, r->count);
    if (strcmp(status, "ok") != 0 && r->stop_on_error && !r->silent)
        dispatch_abort_arrived(k, s);
}

static void
begin_cost(struct kernel *k, struct request *r)
{
    struct usage now;

    r->began = now_us();
    usage_reset_peak(k->box.usage);
    now = usage_read(k->box.usage);
    r->cost.throttled_us = now.throttled_us;
    r->oom_kills = now.oom_kills;
}

/* `said` is the interpreter's own account, an object; a dead one says nothing. */
static void
end_cost(struct kernel *k, struct request *r, struct bytes said)
{
    struct usage now;
    struct bytes value;
    int64_t number;

    if (!r->began)
        return; /* no cell: nothing is read for it */
    now = usage_read(k->box.usage);
    r->cost.wall_us = now_us() - r->began;
    r->cost.throttled_us = now.throttled_us < 0 ? 0 : now.throttled_us - r->cost.throttled_us;
    r->cost.peak = now.peak;
    r->cost.oom_kills = now.oom_kills - r->oom_kills;
    if (json_get(said, "cpu_us", &value) == J_NUMBER && json_int64(value, &number) == 0 && number > 0)
        r->cost.cpu_us = number;
    /* Looks now and then miss much. */
    if ((!now.peak || strcmp(k->limits, "sampled") == 0) && json_get(said, "peak", &value) == J_NUMBER &&
        json_int64(value, &number) == 0 && number > 0 && (uint64_t)number > r->cost.peak)
        r->cost.peak = (uint64_t)number;
}

/* Its interpreter lives: then it was something else that the memory limit ended, and a status of -9 says little. */
static void
tell_oom_kills(struct kernel *k, const struct request *r)
{
    char text[160], limit[24];

    if (!r->cost.oom_kills || r->type->frame != FRAME_EXECUTE)
        return;
    snprintf(text, sizeof text, "[husk: the memory limit of %s was reached, and ended %s (option --memory)]\n",
             size_format(k->options.memory, limit),
             r->cost.oom_kills == 1 ? "a process that is not the interpreter" : "processes that are not the interpreter");
    log_info("%.*s", (int)strcspn(text + 7, "]"), text + 7); /* "[husk: " */
    iopub_text(&k->iopub, STREAM_STDERR, r->slot, request_header(r), bytes_of(text));
}

static int
on_reply(struct kernel *k, const struct frame *f, struct err *err)
{
    scoped(buf_release) struct buf content = {0};
    struct request *r;
    struct shell *s = check_running(k, f, &r, err);
    struct bytes said = frame_part(f, 0), value;
    const char *status = "ok";
    int timed_out = s && r == s->running && s->watch.limit_struck, beside = s == &k->debugger && !f->value;

    if (!s)
        return -1;
    if (json_check_object(said, err) < 0 || json_check_object(frame_part(f, 1), err) < 0)
        return err_wrap(err, "REPLY");
    end_cost(k, r, frame_part(f, 1));
    tell_oom_kills(k, r);
    if (r->store_history && json_get(frame_part(f, 1), "source", &value) == J_STRING)
        history_set_source(&k->history, r->count, value);
    if (r == s->running)
        watch_stop(s);
    if (json_get(said, "status", &value) == J_STRING && json_string_is(value, "error"))
        status = "error";
    shell_forget(s, r);
    if (r->type->frame == FRAME_EXECUTE)
        finish_execute(k, s, r, status, f->value);
    if (r->type->reply == NULL) {
        iopub_flush(&k->iopub, 1);
        reply_none(k, r);
    } else {
        if (add_count(r, said, timed_out, &content) < 0)
            abort();
        reply_content(k, r, (struct bytes){content.data, content.len}, status);
    }
    if (beside)
        aside_say_busy(k);
    if (k->leave && !k->keep_after_leave)
        k->leave_at = now_ms() + LEAVE_MS;
    k->leave = 0;
    shells_sweep(k);
    interp_feed(k);
    return 0;
}

static int
on_awaits(struct kernel *k, const struct frame *f, struct err *err)
{
    struct request *r;
    struct shell *s = check_running(k, f, &r, err);

    if (!s)
        return -1;
    s->awaits = r == s->running;
    interp_feed(k);
    return 0;
}

static int
on_leave(struct kernel *k, const struct frame *f, struct err *err)
{
    k->leave = 1;
    k->keep_after_leave = f->value == 1;
    return 0;
}

/* As ipykernel's %connect_info, without the key. */
static int
on_connect_info(struct kernel *k, const struct frame *f, struct err *err)
{
    scoped(buf_release) struct buf text = {0};
    struct request *r;
    int bad;

    if (!check_running(k, f, &r, err))
        return -1;
    bad = buf_text(&text, "{\n  \"transport\": ") < 0 ||
          json_quote(bytes_of(k->conn.transport), &text) < 0 || buf_text(&text, ",\n  \"ip\": ") < 0 ||
          json_quote(bytes_of(k->conn.ip), &text) < 0;
    for (int i = 0; i < CHANNELS; i++)
        bad = bad || buf_printf(&text, ",\n  \"%s_port\": %d", channel_names[i], k->conn.port[i]) < 0;
    if (bad ||
        buf_printf(&text, ",\n  \"signature_scheme\": \"%s\"\n}\n\nThe key is not shown, as no cell may "
                          "know it. Connect with:\n    $> jupyter <app> --existing %s\n",
                   k->conn.scheme, k->options.connection_file) < 0)
        abort();
    iopub_text(&k->iopub, STREAM_STDOUT, r->slot, request_header(r), (struct bytes){text.data, text.len});
    return 0;
}

/* A row of interp.def that the interpreter may send and that has no function above does not
 * compile. */
static int (*const handlers[FRAME_LIMIT])(struct kernel *, const struct frame *, struct err *) = {
#define FRAME(name, handler, no, sender, max, min, many, when, meaning) [no] = handler,
#include "wall/interp.def"
#undef FRAME
};

static int
on_frame(void *self, const struct frame *f, struct err *err)
{
    log_debug("interpreter -> husk %s slot=%u %u bytes", interp_rules[f->number].name, f->slot,
              f->length);
    return handlers[f->number](self, f, err);
}

static enum interp_phase
phase(void *self)
{
    const struct kernel *k = self;

    if (k->interp.state == INTERP_STARTING)
        return INTERP_BOOT;
    return shells_busy(k) ? INTERP_BUSY : INTERP_IDLE;
}

static int
is_full(void *self)
{
    const struct kernel *k = self;

    /* What a dead one left is taken to its end: it is not much. */
    return !k->interp.gone && iopub_blocked(&k->iopub);
}

/* The interpreter is broken or hostile: it ends, and its death will name the rule. */
static void
end_broken(struct kernel *k, const struct err *why)
{
    struct err err;

    k->interp.broken = *why;
    err_wrap(&k->interp.broken, "it broke the protocol and was killed");
    log_warning("the interpreter broke the protocol: %s", why->text);
    if (box_signal(&k->box, k->interp.slot, SIGKILL, &err) < 0)
        kernel_fail(k, EXIT_SYSTEM, &err);
}

void
interp_run(struct kernel *k)
{
    struct err why;

    if (k->interp.state < INTERP_STARTING || k->interp.broken.code)
        return;
    if (timeline_run(&k->interp.timeline, &why) < 0) {
        end_broken(k, &why);
    } else if (k->interp.timeline.ended && !k->interp.hung_up) {
        /* A process that dies closes its socket first: its own end is the better reason. */
        k->interp.hung_up = now_ms() + HANG_UP_MS;
    } else if (k->interp.hung_up && now_ms() >= k->interp.hung_up) {
        err_set(&why, EPIPE, "it closed its socket and went on");
        end_broken(k, &why);
    }
}

/*** What it is told ***/

/* 0, or -1 if the other end is closed. */
static int
flush(struct outbox *out, int socket)
{
    while (out->used < out->buf.len) {
        ssize_t n = send(socket, out->buf.data + out->used, out->buf.len - out->used,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        out->used += (size_t)n;
    }
    out->buf.len = out->used = 0;
    if (out->buf.size > 1 << 20)
        buf_release(&out->buf);
    return 0;
}

void
interp_flush(struct kernel *k)
{
    struct interp *in = &k->interp;

    if (in->timeline.socket < 0)
        return;
    (void)flush(&in->out, in->timeline.socket); /* gone: its death is on the way */
    if (flush(&in->side, in->timeline.side) < 0) {
        in->side.buf.len = in->side.used = 0;
        if (!in->hung_up)
            in->hung_up = now_ms() + HANG_UP_MS; /* as for the other one, see interp_run() */
    }
}

static void
tell_through(struct kernel *k, struct outbox *out, struct frame f, const struct bytes *parts, size_t n)
{
    if (frame_add(&out->buf, f, parts, n) < 0)
        abort();
    interp_flush(k);
}

/* To the thread that serves the shell. */
static void
tell(struct kernel *k, const struct shell *s, struct frame f, const struct bytes *parts, size_t n)
{
    f.mark = s->number;
    tell_through(k, s->number == MAIN_SHELL ? &k->interp.out : &k->interp.side, f, parts, n);
}

/* Signals the interpreter's process group. */
static void
signal_interp(struct kernel *k, int number)
{
    struct err err;

    if (box_signal(&k->box, k->interp.slot, number, &err) < 0)
        log_warning("signal %d: %s", number, err.text);
}

/* The main thread hears it when it comes to its socket; one that runs a cell is asked to. Who is
 * there already, the thread beside it, hears it at once. */
void
interp_open_shell(struct kernel *k, struct shell *s)
{
    struct frame f = {.number = FRAME_OPEN_SHELL, .value = s->number, .mark = s->number};
    struct bytes id = bytes_of(s->id);

    if (k->interp.state != INTERP_READY || s->deleted)
        return;
    s->opened = 1;
    tell_through(k, &k->interp.side, f, &id, 1);
    tell_through(k, &k->interp.out, f, &id, 1);
    if (k->main.running)
        signal_interp(k, SIGNAL_LOOK);
}

void
interp_close_shell(struct kernel *k, struct shell *s)
{
    struct frame f = {.number = FRAME_CLOSE_SHELL, .value = s->number, .mark = s->number};

    if (k->interp.state != INTERP_READY)
        return;
    tell_through(k, &k->interp.side, f, NULL, 0);
    if (!s->running && !s->guests.first)
        tell_through(k, &k->interp.out, f, NULL, 0);
}

/* The same for the thread of aside.c. */
void
interp_call_aside(struct kernel *k)
{
    tell(k, &k->main, (struct frame){.number = FRAME_LISTEN}, NULL, 0);
    if (k->main.running)
        signal_interp(k, SIGNAL_LOOK);
}

/* busy and execute_input. */
static void
announce(struct kernel *k, struct request *r)
{
    scoped(buf_release) struct buf input = {0};
    struct bytes code;

    reply_begin(k, r);
    if (r->type->frame != FRAME_EXECUTE || r->silent)
        return;
    json_get(request_content(r), "code", &code);
    if (buf_printf(&input, "{\"execution_count\":%u,\"code\":", r->count) < 0 ||
        buf_add(&input, code.data, code.len) < 0 || buf_add(&input, "}", 1) < 0)
        abort();
    iopub_publish(&k->iopub, "execute_input", request_header(r), (struct bytes){0},
                  (struct bytes){input.data, input.len}, NULL, 0);
}

static void
refuse_too_large(struct kernel *k, struct request *r, size_t size)
{
    char text[120];

    snprintf(text, sizeof text, "a request of %zu bytes; at most %u are taken", size, WALL_MESSAGE);
    reply_begin(k, r);
    reply_error(k, r, "RequestTooLarge", text);
}

/* Cells of several shells that run at the same time have numbers of their own. */
static uint32_t
next_number(const struct kernel *k)
{
    uint32_t next = k->next_count;

    for (const struct shell *s = &k->main; s; s = s->next)
        if (s->running && s->running->type->frame == FRAME_EXECUTE && s->running->store_history &&
            s->running->count >= next)
            next = s->running->count + 1;
    return next;
}

static int
is_comm(const struct request *r)
{
    return r->type->frame == FRAME_COMM_OPEN || r->type->frame == FRAME_COMM_MSG ||
           r->type->frame == FRAME_COMM_CLOSE;
}

/* The request goes first and is announced while the interpreter wakes up: what it answers is
 * not looked at before we are through here. */
static void
give(struct kernel *k, struct shell *s, struct request *r)
{
    struct bytes few[16], *parts = few, code;
    struct frame f = {.number = (uint16_t)r->type->frame, .slot = r->slot};
    size_t n = 3 + r->msg.buffers;

    if (n > countof(few) && !(parts = calloc(n, sizeof *parts)))
        abort();
    parts[0] = r->msg.part[WIRE_HEADER];
    parts[1] = r->msg.part[WIRE_METADATA];
    parts[2] = r->msg.part[WIRE_CONTENT];
    for (size_t i = 0; i < r->msg.buffers; i++)
        parts[3 + i] = r->frames.bytes[r->msg.first_buffer + i];
    if (r->type->frame == FRAME_EXECUTE) {
        r->count = next_number(k);
        f.value = (r->count & EXECUTE_COUNT) | (r->silent ? EXECUTE_SILENT : 0) |
                  (r->store_history ? EXECUTE_STORE : 0);
    }
    if (r->type->frame == FRAME_DEBUG)
        f.value = strcmp(kernel_containment(k), "full") == 0;
    if (frame_payload(parts, n) > WALL_MESSAGE) {
        refuse_too_large(k, r, frame_payload(parts, n));
    } else {
        /* What C code writes, and threads of nobody, belongs to the cell that people look at. */
        parents_add(&k->parents, r->slot, request_header(r),
                    s == &k->main || (s != &k->debugger && !k->main.running));
        if (s->running)
            queue_put(&s->guests, r);
        else
            s->running = r;
        if (r->type->frame == FRAME_EXECUTE)
            begin_cost(k, r);
        if (r->store_history && json_get(request_content(r), "code", &code) == J_STRING)
            history_add(&k->history, r->count, code);
        tell(k, s, f, parts, n);
        announce(k, r);
        if (r->type->frame == FRAME_EXECUTE)
            watch_start(k, s);
    }
    if (parts != few)
        free(parts);
}

static void
publish_error(struct kernel *k, struct request *r, const char *name, const char *text)
{
    scoped(buf_release) struct buf c = {0};

    if (buf_printf(&c, "{\"ename\":\"%s\",\"evalue\":", name) < 0 ||
        json_quote(bytes_of(text), &c) < 0 || buf_text(&c, ",\"traceback\":[") < 0 ||
        json_quote(bytes_of(text), &c) < 0 || buf_text(&c, "]}") < 0)
        abort();
    iopub_publish(&k->iopub, "error", request_header(r), (struct bytes){0},
                  (struct bytes){c.data, c.len}, NULL, 0);
}

/* A container whose image has no Python. */
static void
refuse_absent(struct kernel *k, struct request *r)
{
    char text[DEATH_TEXT];

    snprintf(text, sizeof text, "the image '%.300s' has no %.200s, so no cell runs here; commands and files work "
             "(husk exec, husk cp)", k->options.image, k->python.executable);
    reply_begin(k, r);
    if (r->type->frame == FRAME_EXECUTE)
        publish_error(k, r, "NoInterpreter", text);
    if (r->type->reply)
        reply_error(k, r, "NoInterpreter", text);
    else
        reply_none(k, r);
}

static void
feed(struct kernel *k, struct shell *s)
{
    int absent = k->interp.state == INTERP_ABSENT;
    int ready = k->interp.state == INTERP_READY && !k->interp.gone && !k->interp.broken.code;
    struct request *r;

    /* Before the interpreter is there requests wait; those that an error aborted need none. */
    while (((ready && !s->running) || absent || (s->queue.first && s->queue.first->aborted)) &&
           (r = queue_take(&s->queue))) {
        if (r->aborted) {
            reply_begin(k, r);
            reply_aborted(k, r);
        } else if (absent) {
            refuse_absent(k, r);
        } else {
            give(k, s, r);
        }
    }
}

/* Comm messages of a shell whose cell awaits go past the cells that wait. */
static void
feed_guests(struct kernel *k, struct shell *s)
{
    struct request *r = s->queue.first, *next;

    for (; r && s->running && s->awaits && k->interp.state == INTERP_READY && !k->interp.gone &&
           !k->interp.broken.code; r = next) {
        next = r->next;
        if (is_comm(r)) {
            (void)queue_take_slot(&s->queue, r->slot);
            give(k, s, r);
        }
    }
}

/* A client connects its sockets one after the other, in any order. What the first cell brings before anybody has
 * subscribed is lost, its idle too, for which some clients wait for ever: so it waits for the first subscription. */
static void
await_listener(struct kernel *k)
{
    if (k->listener.awaited || !k->main.queue.first)
        return;
    k->listener.awaited = 1;
    if (!k->iopub.announced && k->iopub.socket && k->front.socket < 0)
        k->listener.until = now_ms() + LISTENER_MS;
}

void
interp_feed(struct kernel *k)
{
    await_listener(k);
    if (k->ending || k->leave_at || k->restarting || k->hold_until || k->listener.until)
        return; /* what waits is answered at the end; or it is for the next one */
    if (k->debugger.queue.first && !k->debugger.opened)
        interp_open_shell(k, &k->debugger); /* for who asks for it, and no others */
    for (struct shell *s = &k->main; s; s = s->next) {
        feed(k, s);
        feed_guests(k, s);
    }
}

void
interp_answer_input(struct kernel *k, struct shell *s, struct bytes text, int refused)
{
    struct frame f = {.number = FRAME_INPUT_REPLY, .slot = s->running->slot,
                      .value = refused ? 1 : 0};

    s->input.open = 0;
    s->input.retry = 0;
    tell(k, s, f, &text, 1);
}

void
interp_interrupt_shell(struct kernel *k, struct shell *s)
{
    if (k->interp.state != INTERP_READY || !s->running)
        return;
    if (s->number == MAIN_SHELL) {
        signal_interp(k, SIGINT);
        signal_interp(k, SIGCONT); /* a cell that stopped itself would not hear it */
    } else {
        tell(k, s, (struct frame){.number = FRAME_INTERRUPT}, NULL, 0);
    }
    watch_interrupted(s);
}

/* The button stops what a person looks at. Only if that is nothing, what runs beside it. */
void
interp_interrupt(struct kernel *k)
{
    if (k->main.running) {
        interp_interrupt_shell(k, &k->main);
        return;
    }
    for (struct shell *s = k->debugger.next; s; s = s->next)
        interp_interrupt_shell(k, s);
}

void
interp_shutdown(struct kernel *k)
{
    if (k->interp.state < INTERP_STARTING || k->interp.state == INTERP_DEAD)
        return;
    interp_interrupt(k);
    tell(k, &k->main, (struct frame){.number = FRAME_SHUTDOWN}, NULL, 0);
}

/* A cell that runs is interrupted, atexit handlers have their time, then it is killed. One that is not there
 * yet is new enough. */
void
interp_restart(struct kernel *k)
{
    if (k->ending || k->restarting || k->interp.state != INTERP_READY || k->interp.gone)
        return;
    k->restarting = now_ms() + RESTART_MS;
    for (struct shell *s = &k->main; s; s = s->next) {
        struct request *r, *next;
        for (r = s->queue.first; r; r = next) {
            next = r->next;
            (void)queue_take_slot(&s->queue, r->slot);
            reply_begin(k, r);
            reply_aborted(k, r);
        }
    }
    interp_shutdown(k);
}

void
interp_tick(struct kernel *k, int64_t now)
{
    if (!k->restarting || now < k->restarting)
        return;
    err_set(&k->interp.broken, ECANCELED, "it is restarted");
    signal_interp(k, SIGKILL);
    k->restarting = now + RESTART_MS;
}

/*** Birth ***/

/* Variables that cells see. Everything else stays outside: tokens and keys live in variables. */
static const char *const passed_on[] = {"LANG",         "LANGUAGE",   "TZ",
                                        "VIRTUAL_ENV",  "CONDA_PREFIX",
                                        "CONDA_DEFAULT_ENV", "PYTHONHASHSEED", "PYTHONUTF8",
                                        "PYTHONWARNINGS", "MPLBACKEND", "OMP_NUM_THREADS",
                                        "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                                        "PYTHONNOUSERSITE", "COLUMNS", "LINES",
                                        "JPY_SESSION_NAME"};
extern char **environ;

/* Python looks for the user's own packages below HOME; where HOME is another one inside, it is told
 * where they are. */
static int
add_python_path(const struct kernel *k, struct strv *v)
{
    const char *said = getenv("PYTHONPATH"), *home = paths_home();
    scoped(buf_release) struct buf all = {0};
    int bad = said && buf_text(&all, said) < 0;

    for (size_t i = 0; !bad && strcmp(k->home, home) != 0 && i < k->python.paths.len; i++) {
        const char *path = k->python.paths.item[i];
        size_t len = strlen(home);
        if (strncmp(path, home, len) == 0 && strncmp(path + len, "/.local/", 8) == 0)
            bad = buf_printf(&all, "%s%s", all.len ? ":" : "", path) < 0;
    }
    if (bad || all.len == 0)
        return bad ? -1 : 0;
    return strv_addf(v, "PYTHONPATH=%s", buf_string(&all));
}

/* A place of the host, that is another one in an image or none. */
static int
names_a_place(const char *variable)
{
    return strcmp(variable, "VIRTUAL_ENV") == 0 || strcmp(variable, "CONDA_PREFIX") == 0 ||
           strcmp(variable, "CONDA_DEFAULT_ENV") == 0;
}

/* The directory of the Python first, then those of the image, or the usual ones. */
static int
add_path(const struct kernel *k, struct strv *v)
{
    const char *python = k->python.executable, *slash = strrchr(python, '/');

    return strv_addf(v, "PATH=%.*s%s%s", slash ? (int)(slash - python) : 0, python, slash ? ":" : "",
                     *k->container_path ? k->container_path
                                        : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
}

/* What a container's image has as environment and husk does not say. */
static int
add_environment_of_image(const struct kernel *k, struct strv *v)
{
    int bad = 0;

    for (size_t i = 0; !bad && i < k->container_environment.len; i++) {
        const char *item = k->container_environment.item[i];
        size_t name = strcspn(item, "=") + 1, n = 0;
        while (n < v->len && strncmp(v->item[n], item, name) != 0)
            n++;
        bad = n == v->len && strv_add(v, item) < 0;
    }
    return bad ? -1 : 0;
}

/* What runs `!command`: the user's own shell where the sandbox has it, which is one of the system's.
 * Else none is named, and each takes the one that every system has. */
static int
add_shell(const struct kernel *k, struct strv *v)
{
    static const char *const systems[] = {"/bin/", "/usr/bin/"};
    const char *shell = getenv("SHELL");
    int there = 0;

    for (size_t i = 0; shell && i < countof(systems); i++)
        there |= strncmp(shell, systems[i], strlen(systems[i])) == 0;
    return !there || kernel_has_root(k) || access(shell, X_OK) < 0 ? 0 : strv_addf(v, "SHELL=%s", shell);
}

static const char *
network_kind(const struct kernel *k)
{
    if (strcmp(kernel_containment(k), "none") == 0)
        return "host";
    return k->options.network ? k->options.network : k->options.allow.len ? "allow" : "none";
}

int
interp_environment(struct kernel *k, struct strv *v)
{
    int image = kernel_has_root(k);
    const char *base = image ? NULL : getenv("PYTHONUSERBASE");
    const char *user = k->options.profile && strcmp(k->options.profile, "image") == 0 ? "root" : "user";
    int bad = add_path(k, v) < 0;

    bad = bad || strv_addf(v, "HOME=%s", k->home) < 0 || strv_addf(v, "USER=%s", user) < 0 ||
          strv_addf(v, "LOGNAME=%s", user) < 0 || add_shell(k, v) < 0 ||
          strv_add(v, "HUSK=" HUSK_VERSION) < 0 || strv_add(v, "PYTHONDONTWRITEBYTECODE=1") < 0 ||
          strv_addf(v, "HUSK_LIMITS=memory=%llu,pids=%llu,files=%llu,disk=%llu,network=%s",
                    (unsigned long long)k->options.memory, (unsigned long long)k->options.pids,
                    (unsigned long long)k->options.files, (unsigned long long)k->options.disk, network_kind(k)) < 0 ||
          strv_add(v, "TERM=xterm-color") < 0 ||
          strv_add(v, "GIT_OPTIONAL_LOCKS=0") < 0; /* .git is read-only: status need not write */
    if (k->options.ipython && kernel_ipython(k))
        bad = bad || strv_addf(v, "HUSK_IPYTHON=%s", kernel_ipython(k)) < 0;
    if (*k->tmp)
        bad = bad || strv_addf(v, "TMPDIR=%s", k->tmp) < 0;
    if (base)
        bad = bad || strv_addf(v, "PYTHONUSERBASE=%s", base) < 0;
    if (!getenv("MPLBACKEND"))
        bad = bad || strv_add(v, "MPLBACKEND=module://matplotlib_inline.backend_inline") < 0;
    bad = bad || (!image && add_python_path(k, v) < 0);
    for (size_t i = 0; !bad && i < countof(passed_on); i++)
        if (getenv(passed_on[i]) && !(image && names_a_place(passed_on[i])))
            bad = strv_addf(v, "%s=%s", passed_on[i], getenv(passed_on[i])) < 0;
    for (char **e = environ; !bad && *e; e++)
        if (strncmp(*e, "LC_", 3) == 0)
            bad = strv_add(v, *e) < 0;
    for (size_t i = 0; !bad && i < k->options.environment.len; i++) {
        const char *item = k->options.environment.item[i];
        if (strchr(item, '='))
            bad = strv_add(v, item) < 0;
        else if (getenv(item))
            bad = strv_addf(v, "%s=%s", item, getenv(item)) < 0;
    }
    return bad || add_environment_of_image(k, v) < 0 ? -1 : 0;
}

void
interp_start(struct kernel *k)
{
    scoped(strv_release) struct strv argv = {0}, environment = {0};
    struct timeline_sink sink = {k, on_text, on_frame, phase, is_full};
    struct timeline_ends ends;
    struct interp *in = &k->interp;
    struct err err;
    unsigned how;
    int r;

    if (timeline_open(&in->timeline, sink, &ends, &err) < 0 ||
        (ends.fd[INTERP_FD_ASIDE - 1] = aside_open(k, &err)) < 0) {
        kernel_fail(k, EXIT_SYSTEM, &err);
        return;
    }
    how = warm_prepare(k, &argv, in->timeline.socket);
    if (strv_add(&argv, k->python.executable) < 0 || strv_add(&argv, paths_glue()) < 0 ||
        interp_environment(k, &environment) < 0) {
        err_errno(&err, "start the interpreter");
        kernel_fail(k, EXIT_SYSTEM, &err);
        return;
    }
    in->slot++;
    in->broken.code = 0;
    in->gone = 0;
    in->hung_up = 0;
    in->last_words.len = 0;
    in->out.buf.len = in->out.used = in->side.buf.len = in->side.used = 0;
    r = box_spawn(&k->box, in->slot, how, k->directory, &argv, &environment, ends.fd, &err);
    for (size_t i = 0; i < countof(ends.fd); i++)
        fd_close(&ends.fd[i]);
    if (r < 0)
        kernel_fail(k, EXIT_SYSTEM, &err);
    else
        in->state = INTERP_STARTING;
}

/*** Death ***/

/* The call that the filter stopped, as the interpreter told it: numbers, and shown as such. */
static int
describe_refused_call(const struct ring *ring, char *into, size_t size)
{
    static const struct {
        uint32_t abi, bit;
        const char *name;
    } abis[] = {{AUDIT_ARCH_X86_64, X32_BIT, "x32"},
                {AUDIT_ARCH_X86_64, 0, "x86-64"},
                {AUDIT_ARCH_I386, 0, "i386"},
                {AUDIT_ARCH_AARCH64, 0, "arm64"},
                {AUDIT_ARCH_ARM, 0, "arm"}};
    uint32_t abi = ring->refused_abi, call = ring->refused_call;

    for (size_t i = 0; abi && i < countof(abis); i++)
        if (abi == abis[i].abi && (call & abis[i].bit) == abis[i].bit)
            return snprintf(into, size, "it made system call %u of the ABI %s, which no sandboxed "
                            "process may use (signal %d, SIGSYS)",
                            call & ~abis[i].bit, abis[i].name, SIGSYS);
    return 0;
}

static void
describe_death(const struct kernel *k, int status, struct bytes cause, char *into, size_t size)
{
    if (k->interp.broken.code)
        snprintf(into, size, "%s", k->interp.broken.text);
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS &&
             describe_refused_call(k->interp.timeline.ring, into, size))
        return;
    else if (cause.len)
        snprintf(into, size, "%.*s", (int)cause.len, cause.data);
    else if (WIFSIGNALED(status))
        snprintf(into, size, "killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(into, size, "it exited with status %d", WEXITSTATUS(status));
}

/* r: what it was doing, or NULL. */
static void
describe_loss(const struct request *r, int restarted, const char *why, char into[static DEATH_TEXT])
{
    char where[32] = "";

    if (restarted) {
        snprintf(into, DEATH_TEXT, "the kernel was restarted: variables are gone, files are kept");
        return;
    }
    if (r && r->type->frame == FRAME_EXECUTE)
        snprintf(where, sizeof where, " in cell %u", r->count);
    snprintf(into, DEATH_TEXT,
             "the interpreter died%s: %s. A new one is started: variables are gone, files are kept.",
             where, why);
}

static void
answer_dead(struct kernel *k, struct shell *s, struct request *r, const char *why)
{
    char text[DEATH_TEXT];

    describe_loss(r, k->restarting != 0, why, text);
    log_warning("%s", text);
    shell_forget(s, r);
    watch_stop(s);
    end_cost(k, r, BYTES("{}"));
    publish_error(k, r, k->restarting ? "KernelRestarted" : "InterpreterDied", text);
    if (r->type->frame == FRAME_EXECUTE && r->stop_on_error && !r->silent && !k->restarting)
        dispatch_abort_arrived(k, s);
    if (r->type->reply)
        reply_error(k, r, k->restarting ? "KernelRestarted" : "InterpreterDied", text);
    else
        reply_none(k, r);
}

/* Every request that it had gets its answer; the cells that came after are not run, as after
 * any error. */
static void
answer_for_the_dead(struct kernel *k, const char *why)
{
    char text[DEATH_TEXT], line[DEATH_TEXT + 16];

    if (!shells_busy(k) && !k->restarting) {
        describe_loss(NULL, 0, why, text);
        log_warning("%s", text);
        snprintf(line, sizeof line, "[husk: %s]\n", text);
        iopub_text(&k->iopub, STREAM_STDERR, k->parents.latest,
                   parents_find(&k->parents, k->parents.latest), bytes_of(line));
        iopub_flush(&k->iopub, 1);
    }
    for (struct shell *s = &k->main; s; s = s->next) {
        while (s->guests.first)
            answer_dead(k, s, s->guests.first, why);
        if (s->running)
            answer_dead(k, s, s->running, why);
    }
    shells_sweep(k);
}

/* The last line that it printed before it was there, or "". */
static const char *
last_line(struct interp *in)
{
    struct buf *words = &in->last_words;
    const char *line;

    while (words->len && words->data[words->len - 1] == '\n')
        words->len--;
    if (!words->len || !buf_string(words))
        return "";
    line = strrchr((char *)words->data, '\n');
    return line ? line + 1 : (char *)words->data;
}

static void
fail_at_start(struct kernel *k, const char *why)
{
    const char *line = last_line(&k->interp);
    struct err err;

    err_set(&err, ECHILD, "'%s' does not start: %s%s%s", k->python.executable, why,
            *line ? "; it said: " : "", line);
    kernel_fail(k, EXIT_PYTHON, &err);
}

/* What the last one left behind ends first. */
static void
start_again(struct kernel *k)
{
    struct err err;

    k->interp.state = INTERP_SWEEPING;
    if (box_sweep(&k->box, &err) < 0)
        kernel_fail(k, EXIT_SYSTEM, &err);
}

static void
on_exited(struct kernel *k, int status, struct bytes cause)
{
    struct interp *in = &k->interp;
    char why[640];
    int starting;

    in->hung_up = 0;
    in->gone = 1; /* what it said is heard to the end; it is given nothing more */
    if (!in->broken.code)
        timeline_finish(&in->timeline);
    iopub_flush(&k->iopub, 1);
    starting = in->state == INTERP_STARTING;
    in->state = INTERP_DEAD;
    describe_death(k, status, cause, why, sizeof why);
    timeline_close(&in->timeline);
    aside_close(k);
    k->debugger.opened = 0;
    if (k->ending) {
        k->done = 1;
        return;
    }
    if (starting && warm_failed(k, *last_line(in) ? last_line(in) : why)) {
        start_again(k);
        return;
    }
    if (starting && (in->slot == 1 || ++in->failures >= INTERP_TRIES)) {
        fail_at_start(k, why);
        return;
    }
    if (!starting)
        answer_for_the_dead(k, why);
    if (k->restarting)
        iopub_status(&k->iopub, "starting", (struct bytes){0});
    k->restarting = 0;
    k->next_count = 1; /* a new interpreter has no In[1] */
    history_next_session(&k->history);
    start_again(k);
}

static void
on_failed(struct kernel *k, const struct frame *f)
{
    struct bytes step = frame_part(f, 0), text = frame_part(f, 1), advice = frame_part(f, 2);
    struct err err;

    if (kernel_in_container(k) && strcmp(k->python.executable, "python3") == 0 && f->slot == k->interp.slot && f->slot &&
        f->value == ENOENT && bytes_equal(step, "execute")) {
        log_warning("the image '%s' has no python3: no cell can run, commands and files work", k->options.image);
        timeline_close(&k->interp.timeline);
        aside_close(k);
        k->interp.state = INTERP_ABSENT;
        return;
    }
    snprintf(err.text, sizeof err.text, "step '%.*s': %.*s", (int)step.len, step.data, (int)text.len, text.data);
    if (f->slot && f->slot == k->interp.slot && warm_failed(k, err.text)) {
        timeline_close(&k->interp.timeline);
        aside_close(k);
        start_again(k);
        return;
    }
    err_set(&err, (int)f->value, "%s: step '%.*s': %.*s%s%.*s",
            f->slot ? "the interpreter cannot be started in the sandbox"
                    : "the sandbox cannot be built",
            (int)step.len, step.data, (int)text.len, text.data, advice.len ? "; " : "",
            (int)advice.len, advice.data);
    kernel_fail(k, f->slot && bytes_equal(step, "execute") ? EXIT_PYTHON : EXIT_SANDBOX, &err);
}

/* For whoever looks at the cell that runs. If it has just ended, or a thread of an older one is
 * meant, the latest cell is where a person looks. */
static void
on_notice(struct kernel *k, struct bytes text)
{
    uint32_t slot = k->main.running ? k->main.running->slot : k->parents.latest;
    char line[ERR_TEXT + 16];

    log_warning("%.*s", (int)text.len, text.data);
    snprintf(line, sizeof line, "husk: %.*s\n", (int)text.len, text.data);
    iopub_text(&k->iopub, STREAM_STDERR, slot, parents_find(&k->parents, slot), bytes_of(line));
}

/* Of the image of a container: strings that each end in NUL. */
static void
take_environment(struct kernel *k, struct bytes all)
{
    for (size_t at = 0; at < all.len;) {
        const char *item = (const char *)all.data + at;
        size_t len = strnlen(item, all.len - at);

        if (at + len == all.len)
            return; /* not whole */
        if (strncmp(item, "PATH=", 5) == 0)
            snprintf(k->container_path, sizeof k->container_path, "%s", item + 5);
        else if (strchr(item, '=') && strv_add(&k->container_environment, item) < 0)
            abort();
        at += len + 1;
    }
}

void
interp_event(struct kernel *k, const struct frame *event)
{
    struct bytes text = frame_part(event, 0);

    switch (event->number) {
    case SANDBOX_BUILT:
        snprintf(k->sandbox_text, sizeof k->sandbox_text, "%.*s", (int)text.len, text.data);
        text = frame_part(event, 1);
        snprintf(k->directory, sizeof k->directory, "%.*s", (int)text.len, text.data);
        text = frame_part(event, 2);
        if (text.len) {
            snprintf(k->home, sizeof k->home, "%.*s/home", (int)text.len, text.data);
            snprintf(k->tmp, sizeof k->tmp, "%.*s/tmp", (int)text.len, text.data);
        }
        take_environment(k, frame_part(event, 3));
        text = frame_part(event, 4);
        snprintf(k->limits, sizeof k->limits, "%.*s", (int)text.len, text.data);
        if (strcmp(kernel_containment(k), "none") == 0)
            log_warning("containment none: cells can do all that you can");
        log_info("sandbox built in %u us: %s", event->value, k->sandbox_text);
        interp_start(k);
        break;
    case SANDBOX_SWEPT:
        interp_start(k);
        break;
    case SANDBOX_EXITED:
        if (event->slot == k->interp.slot && k->interp.state >= INTERP_STARTING &&
            k->interp.state != INTERP_DEAD)
            on_exited(k, (int)event->value, text);
        break;
    case SANDBOX_FAILED:
        on_failed(k, event);
        break;
    case SANDBOX_NOTICE:
        on_notice(k, text);
        break;
    }
}

void
interp_release(struct kernel *k)
{
    struct request *r;

    for (struct shell *s = &k->main; s; s = s->next) {
        while ((r = s->guests.first ? s->guests.first : s->running)) {
            shell_forget(s, r);
            reply_error(k, r, "ShuttingDown", "the kernel ended while this was running");
        }
        while ((r = queue_take(&s->queue))) {
            reply_begin(k, r);
            reply_aborted(k, r);
        }
    }
    timeline_close(&k->interp.timeline);
    buf_release(&k->interp.out.buf);
    buf_release(&k->interp.side.buf);
    buf_release(&k->interp.last_words);
    shells_release(k);
}
