/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/log.h"
#include "kernel/exits.h"
#include "kernel/json.h"
#include "kernel/kernel.h"
#include "kernel/paths.h"

#define HANG_UP_MS 1000
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
    if (json_get(about, "plain", &why) == JSON_STRING && json_unescape(why, &text) == 0 &&
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
};

static int
on_publish(struct kernel *k, const struct frame *f, struct err *err)
{
    struct bytes content, metadata, few[16], *buffers = few;
    size_t at = 0, n = 0, size = countof(few);

    frame_next(f, &at, &content);
    frame_next(f, &at, &metadata);
    if (json_check_object(content, err) < 0 || json_check_object(metadata, err) < 0)
        return err_wrap(err, "%s", publications[f->number]);
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

static int
check_running(struct kernel *k, const struct frame *f, struct err *err)
{
    if (!k->interp.running || f->slot != k->interp.running->slot)
        return err_set(err, EPROTO, "%s for a request that is not running",
                       interp_rules[f->number].name);
    return 0;
}

static int
on_input(struct kernel *k, const struct frame *f, struct err *err)
{
    struct bytes content = frame_part(f, 0), part[WIRE_PARTS];
    scoped(buf_release) struct buf header = {0};
    struct request *r = k->interp.running;
    void *socket = k->sockets.socket[STDIN];
    char sig[WIRE_SIGNATURE];

    if (check_running(k, f, err) < 0)
        return -1;
    if (json_check_object(content, err) < 0)
        return err_wrap(err, "INPUT_REQUEST");
    if (!r->allow_stdin) {
        interp_answer_input(k, BYTES("this client takes no questions"), 1);
        return 0;
    }
    iopub_flush(&k->iopub, 1);
    if (wire_header(k->wire, "input_request", &header) < 0)
        abort();
    snprintf(k->input.msg_id, sizeof k->input.msg_id, "%s", wire_last_id(k->wire));
    k->input.open = 1;
    part[WIRE_HEADER] = (struct bytes){header.data, header.len};
    part[WIRE_PARENT] = request_header(r);
    part[WIRE_METADATA] = BYTES("{}");
    part[WIRE_CONTENT] = content;
    wire_sign(k->wire, part, sig);
    for (size_t i = 0; i < r->msg.identities; i++)
        send_bytes(socket, r->frames.bytes[i], 1);
    send_bytes(socket, BYTES(WIRE_DELIMITER), 1);
    send_bytes(socket, bytes_of(sig), 1);
    for (int i = 0; i < WIRE_PARTS; i++)
        send_bytes(socket, part[i], i + 1 < WIRE_PARTS);
    return 0;
}

/* The cell's number is the supervisor's to say: it goes into the reply here. */
static int
add_count(struct request *r, struct bytes content, int timed_out, struct buf *ret)
{
    struct bytes value;

    if (r->type->frame != FRAME_EXECUTE || content.len < 3 ||
        json_get(content, "execution_count", &value) != JSON_NONE)
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
finish_execute(struct kernel *k, struct request *r, const char *status, uint32_t next)
{
    struct bytes code;

    if (r->store_history) {
        if (next == r->count + 1)
            k->next_count = next;
        if (json_get(request_content(r), "code", &code) == JSON_STRING)
            (void)history_add(&k->history, r->count, code);
    }
    if (strcmp(status, "ok") != 0 && r->stop_on_error && !r->silent)
        dispatch_abort_arrived(k);
}

static int
on_reply(struct kernel *k, const struct frame *f, struct err *err)
{
    scoped(buf_release) struct buf content = {0};
    struct request *r = k->interp.running;
    struct bytes said = frame_part(f, 0), value;
    const char *status = "ok";
    int timed_out = k->interp.watch.limit_struck;

    if (check_running(k, f, err) < 0)
        return -1;
    if (json_check_object(said, err) < 0)
        return err_wrap(err, "REPLY");
    watch_stop(k);
    if (json_get(said, "status", &value) == JSON_STRING && json_string_is(value, "error"))
        status = "error";
    k->interp.running = NULL;
    k->interp.state = INTERP_READY;
    k->input.open = 0;
    if (r->type->frame == FRAME_EXECUTE)
        finish_execute(k, r, status, f->value);
    if (r->type->reply == NULL) {
        iopub_flush(&k->iopub, 1);
        reply_none(k, r);
    } else {
        if (add_count(r, said, timed_out, &content) < 0)
            abort();
        reply_content(k, r, (struct bytes){content.data, content.len}, status);
    }
    if (k->leave && !k->keep_after_leave)
        kernel_end(k);
    k->leave = 0;
    if (!k->ending)
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

    switch (k->interp.state) {
    case INTERP_STARTING:
        return INTERP_BOOT;
    case INTERP_RUNNING:
        return INTERP_BUSY;
    default:
        return INTERP_IDLE;
    }
}

static int
is_full(void *self)
{
    const struct kernel *k = self;

    return iopub_blocked(&k->iopub);
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

void
interp_flush(struct kernel *k)
{
    struct interp *in = &k->interp;

    while (in->out_used < in->out.len) {
        ssize_t n = send(in->timeline.socket, in->out.data + in->out_used,
                         in->out.len - in->out_used, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return; /* full: later; gone: its death is on the way */
        in->out_used += (size_t)n;
    }
    in->out.len = in->out_used = 0;
    if (in->out.size > 1 << 20)
        buf_release(&in->out);
}

static void
tell(struct kernel *k, struct frame f, const struct bytes *parts, size_t n)
{
    if (frame_add(&k->interp.out, f, parts, n) < 0)
        abort();
    interp_flush(k);
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

/* The request goes first and is announced while the interpreter wakes up: what it answers is
 * not looked at before we are through here. */
static void
give(struct kernel *k, struct request *r)
{
    struct bytes few[16], *parts = few;
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
        r->count = k->next_count;
        f.value = (r->count & EXECUTE_COUNT) | (r->silent ? EXECUTE_SILENT : 0) |
                  (r->store_history ? EXECUTE_STORE : 0);
    }
    if (frame_payload(parts, n) > WALL_MESSAGE) {
        refuse_too_large(k, r, frame_payload(parts, n));
    } else {
        parents_add(&k->parents, r->slot, request_header(r));
        k->interp.running = r;
        k->interp.state = INTERP_RUNNING;
        tell(k, f, parts, n);
        announce(k, r);
        if (r->type->frame == FRAME_EXECUTE)
            watch_start(k);
    }
    if (parts != few)
        free(parts);
}

void
interp_feed(struct kernel *k)
{
    struct request *r;

    /* Before the interpreter is there requests wait; those that an error aborted need none. */
    while (((k->interp.state == INTERP_READY && !k->interp.gone && !k->interp.broken.code) ||
            (k->queue.first && k->queue.first->aborted)) &&
           (r = queue_take(&k->queue))) {
        if (r->aborted) {
            reply_begin(k, r);
            reply_aborted(k, r);
        } else {
            give(k, r);
        }
    }
}

void
interp_answer_input(struct kernel *k, struct bytes text, int refused)
{
    struct frame f = {.number = FRAME_INPUT_REPLY, .slot = k->interp.running->slot,
                      .value = refused ? 1 : 0};

    k->input.open = 0;
    tell(k, f, &text, 1);
}

void
interp_interrupt(struct kernel *k)
{
    struct err err;

    if (k->interp.state != INTERP_RUNNING)
        return;
    /* A cell that stopped itself would not hear it. */
    if (box_signal(&k->box, k->interp.slot, SIGINT, &err) < 0 ||
        box_signal(&k->box, k->interp.slot, SIGCONT, &err) < 0)
        log_warning("interrupt: %s", err.text);
    watch_interrupted(k);
}

void
interp_shutdown(struct kernel *k)
{
    if (k->interp.state < INTERP_STARTING || k->interp.state == INTERP_DEAD)
        return;
    interp_interrupt(k);
    tell(k, (struct frame){.number = FRAME_SHUTDOWN}, NULL, 0);
}

/*** Birth ***/

/* Variables that cells see. Everything else stays outside: tokens and keys live in variables. */
static const char *const passed_on[] = {"LANG",         "LANGUAGE",   "TZ",
                                        "PYTHONPATH",   "VIRTUAL_ENV", "CONDA_PREFIX",
                                        "CONDA_DEFAULT_ENV", "PYTHONHASHSEED", "PYTHONUTF8",
                                        "PYTHONWARNINGS", "MPLBACKEND", "OMP_NUM_THREADS",
                                        "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                                        "PYTHONNOUSERSITE", "COLUMNS", "LINES",
                                        "JPY_SESSION_NAME"};
extern char **environ;

static int
add_environment(struct kernel *k, struct strv *v)
{
    const char *home = paths_home(), *base = getenv("PYTHONUSERBASE");
    scoped(str_free) char *directory = strdup(k->python.executable);
    int bad = !directory;

    if (!bad)
        *strrchr(directory, '/') = 0;
    bad = bad || strv_addf(v, "PATH=%s:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                           directory) < 0 ||
          strv_addf(v, "HOME=%s", home) < 0 || strv_add(v, "USER=user") < 0 ||
          strv_add(v, "LOGNAME=user") < 0 || strv_add(v, "SHELL=/bin/bash") < 0 ||
          strv_add(v, "HUSK=" HUSK_VERSION) < 0 || strv_add(v, "PYTHONDONTWRITEBYTECODE=1") < 0 ||
          strv_add(v, "TERM=xterm-color") < 0 ||
          strv_add(v, "GIT_OPTIONAL_LOCKS=0") < 0; /* .git is read-only: status need not write */
    if (base)
        bad = bad || strv_addf(v, "PYTHONUSERBASE=%s", base) < 0;
    if (!getenv("MPLBACKEND"))
        bad = bad || strv_add(v, "MPLBACKEND=module://matplotlib_inline.backend_inline") < 0;
    for (size_t i = 0; !bad && i < countof(passed_on); i++)
        if (getenv(passed_on[i]))
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
    return bad ? -1 : 0;
}

void
interp_start(struct kernel *k)
{
    scoped(strv_release) struct strv argv = {0}, environment = {0};
    struct timeline_sink sink = {k, on_text, on_frame, phase, is_full};
    struct timeline_ends ends;
    struct interp *in = &k->interp;
    struct err err;
    int r;

    if (strv_add(&argv, k->python.executable) < 0 || strv_add(&argv, paths_glue()) < 0 ||
        add_environment(k, &environment) < 0) {
        err_errno(&err, "start the interpreter");
        kernel_fail(k, EXIT_SYSTEM, &err);
        return;
    }
    if (timeline_open(&in->timeline, sink, &ends, &err) < 0) {
        kernel_fail(k, EXIT_SYSTEM, &err);
        return;
    }
    in->slot++;
    in->broken.code = 0;
    in->gone = 0;
    in->hung_up = 0;
    in->last_words.len = 0;
    in->out.len = in->out_used = 0;
    r = box_spawn(&k->box, in->slot, k->directory, &argv, &environment, ends.fd, &err);
    for (size_t i = 0; i < countof(ends.fd); i++)
        fd_close(&ends.fd[i]);
    if (r < 0)
        kernel_fail(k, EXIT_SYSTEM, &err);
    else
        in->state = INTERP_STARTING;
}

/*** Death ***/

static void
describe_death(const struct kernel *k, int status, struct bytes cause, char *into, size_t size)
{
    if (k->interp.broken.code)
        snprintf(into, size, "%s", k->interp.broken.text);
    else if (cause.len)
        snprintf(into, size, "%.*s", (int)cause.len, cause.data);
    else if (WIFSIGNALED(status))
        snprintf(into, size, "killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(into, size, "it exited with status %d", WEXITSTATUS(status));
}

static void
publish_death(struct kernel *k, struct request *r, const char *text)
{
    scoped(buf_release) struct buf c = {0};

    if (buf_text(&c, "{\"ename\":\"InterpreterDied\",\"evalue\":") < 0 ||
        json_quote(bytes_of(text), &c) < 0 || buf_text(&c, ",\"traceback\":[") < 0 ||
        json_quote(bytes_of(text), &c) < 0 || buf_text(&c, "]}") < 0)
        abort();
    iopub_publish(&k->iopub, "error", request_header(r), (struct bytes){0},
                  (struct bytes){c.data, c.len}, NULL, 0);
}

/* Every request that it had gets its answer; the cells that came after are not run, as after
 * any error. */
static void
answer_for_the_dead(struct kernel *k, const char *why)
{
    struct request *r = k->interp.running;
    char text[800], where[32] = "";

    if (r && r->type->frame == FRAME_EXECUTE)
        snprintf(where, sizeof where, " in cell %u", r->count);
    snprintf(text, sizeof text,
             "the interpreter died%s: %s. A new one is started: variables are gone, files are kept.",
             where, why);
    log_warning("%s", text);
    if (!r) {
        char line[820];
        snprintf(line, sizeof line, "[husk: %s]\n", text);
        iopub_text(&k->iopub, STREAM_STDERR, k->parents.latest,
                   parents_find(&k->parents, k->parents.latest), bytes_of(line));
        iopub_flush(&k->iopub, 1);
        return;
    }
    k->interp.running = NULL;
    publish_death(k, r, text);
    if (r->type->frame == FRAME_EXECUTE && r->stop_on_error && !r->silent)
        dispatch_abort_arrived(k);
    if (r->type->reply)
        reply_error(k, r, "InterpreterDied", text);
    else
        reply_none(k, r);
}

static void
fail_at_start(struct kernel *k, const char *why)
{
    struct err err;
    struct buf *words = &k->interp.last_words;
    const char *line = "";

    while (words->len && words->data[words->len - 1] == '\n')
        words->len--;
    if (words->len && buf_string(words)) {
        line = strrchr((char *)words->data, '\n');
        line = line ? line + 1 : (char *)words->data;
    }
    err_set(&err, ECHILD, "'%s' does not start: %s%s%s", k->python.executable, why,
            *line ? "; it said: " : "", line);
    kernel_fail(k, EXIT_PYTHON, &err);
}

static void
on_exited(struct kernel *k, int status, struct bytes cause)
{
    struct interp *in = &k->interp;
    char why[640];
    struct err err;
    int starting;

    in->hung_up = 0;
    in->gone = 1; /* what it said is heard to the end; it is given nothing more */
    if (!in->broken.code)
        timeline_finish(&in->timeline);
    iopub_flush(&k->iopub, 1);
    starting = in->state == INTERP_STARTING;
    in->state = INTERP_DEAD;
    k->input.open = 0;
    watch_stop(k);
    describe_death(k, status, cause, why, sizeof why);
    timeline_close(&in->timeline);
    if (k->ending) {
        k->done = 1;
        return;
    }
    if (starting && (in->slot == 1 || ++in->failures >= INTERP_TRIES)) {
        fail_at_start(k, why);
        return;
    }
    if (!starting)
        answer_for_the_dead(k, why);
    k->next_count = 1; /* a new interpreter has no In[1] */
    in->state = INTERP_SWEEPING;
    if (box_sweep(&k->box, &err) < 0)
        kernel_fail(k, EXIT_SYSTEM, &err);
}

static void
on_failed(struct kernel *k, const struct frame *f)
{
    struct bytes step = frame_part(f, 0), text = frame_part(f, 1), advice = frame_part(f, 2);
    struct err err;

    err_set(&err, (int)f->value, "%s: step '%.*s': %.*s%s%.*s",
            f->slot ? "the interpreter cannot be started in the sandbox"
                    : "the sandbox cannot be built",
            (int)step.len, step.data, (int)text.len, text.data, advice.len ? "; " : "",
            (int)advice.len, advice.data);
    kernel_fail(k, f->slot && bytes_equal(step, "execute") ? EXIT_PYTHON : EXIT_SANDBOX, &err);
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
    }
}

void
interp_release(struct kernel *k)
{
    struct request *r;

    if (k->interp.running) {
        reply_error(k, k->interp.running, "ShuttingDown", "the kernel ended while this was running");
        k->interp.running = NULL;
    }
    while ((r = queue_take(&k->queue))) {
        reply_begin(k, r);
        reply_aborted(k, r);
    }
    timeline_close(&k->interp.timeline);
    buf_release(&k->interp.out);
    buf_release(&k->interp.last_words);
}
