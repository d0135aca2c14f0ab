/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/kernels.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "kernel/conn.h"
#include "kernel/exits.h"
#include "kernel/paths.h"
#include "kernel/registry.h"
#include "serve/channels.h"
#include "serve/specs.h"
#include "serve/websocket.h"

#define FRONT_FD 3         /* the kernel finds its socket there */
#define START_MS 60000     /* an interpreter has so long to start */
#define RESTART_MS 60000
#define STOP_MS 6000       /* a kernel has so long to end before it is killed */
#define PROTOCOL "5.6"     /* in headers of what is said for a dead kernel */

extern char **environ;

/* A request that was sent and has no reply yet. */
struct open_request {
    struct open_request *next;
    uint32_t party, channel;
    struct buf header;
};

struct waiter {
    struct waiter *next;
    void (*fn)(void *of, struct served *k);
    void *of;
};

static void begin(struct served *k);

/*** Parties ***/

void
party_join(struct served *k, struct party *p)
{
    if (!p->number) {
        if (++k->server->next_number == 0)
            k->server->next_number = 1;
        p->number = k->server->next_number;
    }
    p->kernel = k;
    p->next = k->parties;
    k->parties = p;
}

void
party_leave(struct party *p)
{
    struct party **at;

    if (!p->kernel)
        return;
    for (at = &p->kernel->parties; *at && *at != p; at = &(*at)->next)
        ;
    if (*at)
        *at = p->next;
    p->kernel = NULL;
}

/* A party may leave while it hears; only itself. */
static void
deliver(struct served *k, uint32_t party, struct heard *h)
{
    struct party *next;

    for (struct party *p = k->parties; p; p = next) {
        next = p->next;
        if (party ? p->number == party : p->listens && h->channel == IOPUB)
            p->hear(p, h);
    }
    message_drop(h->made[0]);
    message_drop(h->made[1]);
}

/*** What is open ***/

static int
has_end(struct bytes quoted, const char *end)
{
    size_t len = strlen(end);

    return quoted.len > len + 2 && memcmp(quoted.data + quoted.len - 1 - len, end, len) == 0;
}

static void
note_request(struct served *k, const struct party *p, uint32_t channel, struct bytes header)
{
    struct open_request *one, **end = &k->open;
    struct bytes type;

    if ((channel != SHELL && channel != CONTROL) || json_get(header, "msg_type", &type) != J_STRING ||
        !has_end(type, "_request"))
        return;
    one = calloc(1, sizeof *one);
    if (!one || buf_add(&one->header, header.data, header.len) < 0)
        abort();
    one->party = p->number;
    one->channel = channel;
    while (*end)
        end = &(*end)->next;
    *end = one;
}

static void
forget_request(struct open_request **at)
{
    struct open_request *one = *at;

    *at = one->next;
    buf_release(&one->header);
    free(one);
}

static void
note_reply(struct served *k, uint32_t party, struct bytes parent)
{
    struct bytes id, other;

    if (json_get(parent, "msg_id", &id) != J_STRING)
        return;
    for (struct open_request **at = &k->open; *at; at = &(*at)->next) {
        struct bytes header = {(*at)->header.data, (*at)->header.len};
        if ((*at)->party == party && json_get(header, "msg_id", &other) == J_STRING && other.len == id.len &&
            memcmp(other.data, id.data, id.len) == 0) {
            forget_request(at);
            return;
        }
    }
}

/* A message in the kernel's place. */
static void
say(struct served *k, uint32_t party, uint32_t channel, const char *type, struct bytes parent, const char *content)
{
    scoped(buf_release) struct buf header = {0};
    char id[37], date[32];
    struct heard h = {.channel = channel};

    uuid_new(id);
    if (buf_printf(&header,
                   "{\"msg_id\":\"%s\",\"msg_type\":\"%s\",\"username\":\"husk\",\"session\":\"%s\","
                   "\"date\":\"%s\",\"version\":\"" PROTOCOL "\"}",
                   id, type, k->id, clock_text(clock_us(), date)) < 0)
        abort();
    h.message = (struct framing){.channel = bytes_of(channel_names[channel]),
                                 .part = {{header.data, header.len}, parent, BYTES("{}"), bytes_of(content)}};
    deliver(k, party, &h);
}

static void
answer_for_the_dead(struct served *k)
{
    scoped(buf_release) struct buf text = {0}, error = {0}, reply = {0};
    const char *why = *k->failure ? k->failure : "the kernel has ended";

    if (json_quote(bytes_of(why), &text) < 0 ||
        buf_printf(&error, "{\"ename\":\"KernelDied\",\"evalue\":%s,\"traceback\":[%s]}", buf_string(&text),
                   buf_string(&text)) < 0 ||
        buf_printf(&reply,
                   "{\"status\":\"error\",\"ename\":\"KernelDied\",\"evalue\":%s,\"traceback\":[],"
                   "\"execution_count\":0,\"user_expressions\":{},\"payload\":[]}", buf_string(&text)) < 0)
        abort();
    while (k->open) {
        struct open_request *one = k->open;
        struct bytes header = {one->header.data, one->header.len}, type;
        char name[64] = "";

        k->open = one->next;
        if (json_get(header, "msg_type", &type) == J_STRING && type.len - 2 - 7 < sizeof name - 8)
            snprintf(name, sizeof name, "%.*sreply", (int)(type.len - 2 - 7), (const char *)type.data + 1);
        if (strcmp(name, "execute_reply") == 0)
            say(k, 0, IOPUB, "error", header, buf_string(&error));
        say(k, one->party, one->channel, name, header, buf_string(&reply));
        say(k, 0, IOPUB, "status", header, "{\"execution_state\":\"idle\"}");
        buf_release(&one->header);
        free(one);
    }
}

void
party_send(struct party *p, uint32_t channel, const struct framing *m)
{
    struct served *k = p->kernel;
    struct bytes type, value;

    if (!k)
        return;
    k->last_activity = clock_us();
    k->server->count.messages_in++;
    note_request(k, p, channel, m->part[0]);
    if (k->front.socket < 0) {
        answer_for_the_dead(k);
        return;
    }
    /* Who asks for a restart with a message means the kernel to be there afterwards. */
    if (json_get(m->part[0], "msg_type", &type) == J_STRING && json_string_is(type, "shutdown_request"))
        k->again = json_get(m->part[3], "restart", &value) == J_TRUE;
    front_message(&k->front, p->number, channel, m->part, m->buffer, m->buffers);
    loop_want(&k->server->loop, &k->front_source, EPOLLIN | (front_waiting(&k->front) ? EPOLLOUT : 0));
}

void
served_pause(struct served *k, int on)
{
    if (k->paused == on || k->front.socket < 0)
        return;
    k->paused = on;
    front_send(&k->front, (struct frame){.number = on ? FRONT_PAUSE : FRONT_RESUME}, NULL, 0);
    loop_want(&k->server->loop, &k->front_source, EPOLLIN | (front_waiting(&k->front) ? EPOLLOUT : 0));
}

/*** Waiting for a state ***/

void
served_wait(struct served *k, void (*fn)(void *of, struct served *k), void *of)
{
    struct waiter *w = malloc(sizeof *w);

    if (!w)
        abort();
    *w = (struct waiter){k->waiters, fn, of};
    k->waiters = w;
}

void
served_forget_wait(struct served *k, void *of)
{
    for (struct waiter **at = &k->waiters; *at;) {
        struct waiter *w = *at;
        if (w->of == of) {
            *at = w->next;
            free(w);
        } else {
            at = &w->next;
        }
    }
}

static void
wake_waiters(struct served *k)
{
    while (k->waiters) {
        struct waiter *w = k->waiters;
        k->waiters = w->next;
        w->fn(w->of, k);
        free(w);
    }
}

/*** The end ***/

static void
release(void *of)
{
    struct served *k = of;

    free(k->spec);
    strv_release(&k->options);
    strv_release(&k->environment);
    buf_release(&k->tags);
    front_release(&k->front);
    free(k);
}

/* It is listed no longer, and nobody has it any more. */
static void
remove_kernel(struct served *k)
{
    struct served **at;

    for (at = &k->server->kernels; *at && *at != k; at = &(*at)->next)
        ;
    if (*at)
        *at = k->next;
    k->server->kernel_count -= !k->hidden;
    k->removed = 1;
    loop_set(&k->server->loop, &k->deadline, 0);
    wake_waiters(k);
    channels_end(k);
    while (k->parties) {
        struct party *p = k->parties;
        party_leave(p);
        if (p->ended)
            p->ended(p);
    }
    loop_later(&k->server->loop, release, k);
}

static void
describe_end(struct served *k, int status)
{
    if (*k->failure)
        return;
    if (WIFSIGNALED(status))
        snprintf(k->failure, sizeof k->failure, "the kernel was killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status))
        snprintf(k->failure, sizeof k->failure, "the kernel exited with status %d", WEXITSTATUS(status));
    else
        snprintf(k->failure, sizeof k->failure, "the kernel has ended");
}

/* The process is gone, and all that it said has been heard. */
static void
on_end(struct served *k, int status)
{
    int was_started = k->husk_id[0] && k->state != SERVED_STARTING, orderly = WIFEXITED(status) && !WEXITSTATUS(status);

    loop_remove(&k->server->loop, &k->front_source);
    loop_remove(&k->server->loop, &k->process);
    loop_set(&k->server->loop, &k->deadline, 0);
    front_release(&k->front);
    fd_close(&k->pidfd);
    k->pid = 0;
    describe_end(k, status);
    registry_remove(*k->husk_id ? k->husk_id : "none", k->connection_file); /* what a killed one left */
    answer_for_the_dead(k);
    if (orderly && k->again && !k->stopping) {
        begin(k);
        return;
    }
    if (!was_started)
        k->server->count.kernels_failed++;
    else if (!orderly && !k->stopping)
        k->server->count.kernels_died++;
    k->state = SERVED_DEAD;
    if (!k->stopping && !orderly)
        log_warning("kernel %s: %s", k->id, k->failure);
    say(k, 0, IOPUB, "status", BYTES("{}"), "{\"execution_state\":\"dead\"}");
    if (k->stopping || orderly || !was_started)
        remove_kernel(k);
    else
        wake_waiters(k);
}

static void hear_all(struct served *k);

static void
on_process(void *of, uint32_t events)
{
    struct served *k = of;
    int status = 0;

    if (k->pid <= 0 || waitpid(k->pid, &status, WNOHANG) != k->pid)
        return;
    hear_all(k); /* when it is gone, not before: why it ends is the last that it says */
    on_end(k, status);
}

static void
on_deadline(void *of)
{
    struct served *k = of;

    if (!*k->failure)
        snprintf(k->failure, sizeof k->failure, "the kernel did not %s in time",
                 k->stopping ? "end" : k->state == SERVED_STARTING ? "start" : "restart");
    log_warning("kernel %s: %s", k->id, k->failure);
    if (k->pid > 0)
        kill(k->pid, SIGKILL);
}

void
served_stop(struct served *k)
{
    struct framing m = {.part = {BYTES("{}"), BYTES("{}"), BYTES("{}"), BYTES("{\"restart\":false}")}};
    char header[256], id[37], date[32];

    if (k->stopping)
        return;
    k->stopping = 1;
    if (k->pid <= 0) {
        remove_kernel(k);
        return;
    }
    uuid_new(id);
    snprintf(header, sizeof header,
             "{\"msg_id\":\"%s\",\"msg_type\":\"shutdown_request\",\"username\":\"husk\",\"session\":\"%s\","
             "\"date\":\"%s\",\"version\":\"" PROTOCOL "\"}", id, k->id, clock_text(clock_us(), date));
    m.part[0] = bytes_of(header);
    front_message(&k->front, 0, CONTROL, m.part, NULL, 0);
    loop_set(&k->server->loop, &k->deadline, now_ms() + STOP_MS);
}

void
served_stop_all(struct server *s)
{
    struct served *next;

    for (struct served *k = s->kernels; k; k = next) {
        next = k->next;
        served_stop(k);
    }
}

/*** What a kernel says ***/

/* Several cells may run side by side (subshells), and what is answered beside them makes no cell idle. */
static void
note_status(struct served *k, const struct frame *f)
{
    struct bytes header = frame_part(f, 0), parent = frame_part(f, 1), content = frame_part(f, 3), value;
    int busy;

    if (json_get(header, "msg_type", &value) != J_STRING || !json_string_is(value, "status") ||
        json_get(parent, "msg_type", &value) != J_STRING || !json_string_is(value, "execute_request") ||
        json_get(content, "execution_state", &value) != J_STRING)
        return;
    busy = json_string_is(value, "busy");
    if (busy)
        k->cells++;
    else if (k->cells)
        k->cells--;
    if (k->state == SERVED_IDLE || k->state == SERVED_BUSY)
        k->state = k->cells ? SERVED_BUSY : SERVED_IDLE;
}

static void
on_message(struct served *k, const struct frame *f)
{
    static struct bytes buffers[FRAMING_BUFFERS];
    struct heard h = {.channel = f->value < CHANNELS ? f->value : IOPUB};
    struct bytes part;
    size_t at = 0, n = 0;

    h.message.channel = bytes_of(channel_names[h.channel]);
    h.message.buffer = buffers;
    while (frame_next(f, &at, &part)) {
        if (n < FRAMING_PARTS)
            h.message.part[n++] = part;
        else if (h.message.buffers < FRAMING_BUFFERS)
            buffers[h.message.buffers++] = part;
    }
    k->last_activity = clock_us();
    if (h.channel == IOPUB)
        note_status(k, f);
    else if (h.channel != STDIN)
        note_reply(k, f->slot, h.message.part[1]);
    deliver(k, f->slot, &h);
}

static void
on_built(struct served *k, const struct frame *f)
{
    struct bytes id = frame_part(f, 0), directory = frame_part(f, 1), home = frame_part(f, 2);

    snprintf(k->husk_id, sizeof k->husk_id, "%.*s", (int)id.len, (const char *)id.data);
    snprintf(k->directory, sizeof k->directory, "%.*s", (int)directory.len, (const char *)directory.data);
    snprintf(k->home, sizeof k->home, "%.*s", (int)home.len, (const char *)home.data);
}

static void
on_frame(struct served *k, const struct frame *f)
{
    struct bytes text = frame_part(f, 0);

    switch (f->number) {
    case FRONT_MESSAGE_TO:
        on_message(k, f);
        break;
    case FRONT_BUILT:
        on_built(k, f);
        break;
    case FRONT_ALIVE:
        k->cells = 0;
        k->state = SERVED_IDLE;
        if (!k->stopping)
            loop_set(&k->server->loop, &k->deadline, 0);
        wake_waiters(k);
        break;
    case FRONT_FAILED:
        snprintf(k->failure, sizeof k->failure, "%.*s", (int)text.len, (const char *)text.data);
        break;
    }
}

static void
hear_all(struct served *k)
{
    struct frame f;
    struct err err;
    int r;

    if (k->front.socket < 0)
        return;
    front_flush(&k->front);
    while ((r = front_next(&k->front, &f, &err)) > 0)
        on_frame(k, &f);
    if (r < 0) {
        snprintf(k->failure, sizeof k->failure, "%s", err.text);
        kill(k->pid, SIGKILL);
        k->front.ended = 1;
    }
    if (k->front.ended)
        loop_remove(&k->server->loop, &k->front_source); /* its process is heard of, too */
    else
        loop_want(&k->server->loop, &k->front_source, EPOLLIN | (front_waiting(&k->front) ? EPOLLOUT : 0));
}

static void
on_front(void *of, uint32_t events)
{
    hear_all(of);
}

/*** The start ***/

static int
spawn(struct served *k, int fd, struct err *err)
{
    scoped(strv_release) struct strv argv = {0};
    const struct process_fd fds[] = {
        PROCESS_NO_INPUT, PROCESS_NO_OUTPUT, {.as = FRONT_FD, .fd = fd}, PROCESS_END};
    int bad = strv_add(&argv, paths_kernel()) < 0 || strv_add(&argv, "kernel") < 0 ||
                 strv_add(&argv, "-f") < 0 || strv_add(&argv, k->connection_file) < 0 ||
                 strv_addf(&argv, "--front=%d", FRONT_FD) < 0;

    for (size_t i = 0; !bad && i < k->options.len; i++)
        bad = strv_add(&argv, k->options.item[i]) < 0;
    if (bad)
        return err_errno(err, "start a kernel");
    return process_spawn(argv.item, environ, fds, PROCESS_OF_ITS_OWN, &k->pid, err);
}

static void
send_environment(struct served *k)
{
    struct bytes *parts = calloc(k->environment.len + 1, sizeof *parts);

    if (!parts)
        abort();
    for (size_t i = 0; i < k->environment.len; i++)
        parts[i] = bytes_of(k->environment.item[i]);
    front_send(&k->front, (struct frame){.number = FRONT_ENVIRONMENT}, parts, k->environment.len);
    free(parts);
}

static int
try_begin(struct served *k, struct err *err)
{
    int pair[2];

    *k->failure = 0;
    k->again = k->cells = k->paused = 0;
    if (registry_connection(k->connection_file, sizeof k->connection_file, err) < 0)
        return -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "start a kernel");
    front_open(&k->front, pair[0], FRONT_BY_KERNEL);
    if (spawn(k, pair[1], err) < 0) {
        close(pair[1]);
        return -1;
    }
    close(pair[1]);
    k->pidfd = (int)syscall(SYS_pidfd_open, k->pid, 0);
    if (k->pidfd < 0)
        return err_errno(err, "watch a kernel");
    k->front_source = (struct source){.fd = pair[0], .events = EPOLLIN, .ready = on_front, .of = k};
    k->process = (struct source){.fd = k->pidfd, .events = EPOLLIN, .ready = on_process, .of = k};
    if (loop_add(&k->server->loop, &k->front_source, err) < 0 || loop_add(&k->server->loop, &k->process, err) < 0)
        return -1;
    send_environment(k);
    loop_want(&k->server->loop, &k->front_source, EPOLLIN | (front_waiting(&k->front) ? EPOLLOUT : 0));
    return 0;
}

/* Again, after its end. */
static void
begin(struct served *k)
{
    struct err err;

    k->state = SERVED_RESTARTING;
    *k->husk_id = 0;
    say(k, 0, IOPUB, "status", BYTES("{}"), "{\"execution_state\":\"restarting\"}");
    if (try_begin(k, &err) < 0) {
        snprintf(k->failure, sizeof k->failure, "%s", err.text);
        log_warning("kernel %s: %s", k->id, err.text);
        if (k->pid > 0)
            pid_end(&k->pid);
        front_release(&k->front);
        unlink(k->connection_file);
        k->state = SERVED_DEAD;
        wake_waiters(k);
        return;
    }
    k->state = SERVED_STARTING;
    loop_set(&k->server->loop, &k->deadline, now_ms() + START_MS);
}

struct served *
served_start(struct server *s, struct served_wish *wish, struct err *err)
{
    struct served *k = calloc(1, sizeof *k);

    if (!k)
        abort();
    *k = (struct served){.server = s, .spec = strdup(wish->spec->name), .options = wish->options,
                         .environment = wish->environment, .tags = wish->tags, .hidden = wish->hidden,
                         .front = FRONT_NONE, .pidfd = -1};
    if (!k->spec)
        abort();
    wish->options = wish->environment = (struct strv){0};
    wish->tags = (struct buf){0};
    k->deadline = (struct timer){.fire = on_deadline, .of = k};
    k->front_source.fd = k->process.fd = -1;
    k->last_activity = clock_us();
    if (*wish->id)
        memcpy(k->id, wish->id, sizeof k->id);
    else
        uuid_new(k->id);
    if (try_begin(k, err) < 0) {
        loop_remove(&s->loop, &k->front_source);
        loop_remove(&s->loop, &k->process);
        if (k->pid > 0)
            pid_end(&k->pid);
        fd_close(&k->pidfd);
        if (*k->connection_file)
            unlink(k->connection_file);
        release(k);
        return NULL;
    }
    loop_set(&s->loop, &k->deadline, now_ms() + START_MS);
    k->next = s->kernels;
    s->kernels = k;
    s->kernel_count += !k->hidden;
    s->count.kernels_started++;
    return k;
}

struct served *
served_find(struct server *s, const char *id)
{
    for (struct served *k = s->kernels; k; k = k->next)
        if (strcmp(k->id, id) == 0)
            return k;
    return NULL;
}

struct served *
served_next(struct server *s, const struct served *k)
{
    struct served *next = k ? k->next : s->kernels;

    while (next && next->hidden)
        next = next->next;
    return next;
}

struct served *
served_of(struct server *s, struct exchange *x, const char *id)
{
    struct served *k = served_find(s, id);

    if (k && k->hidden)
        k = NULL;
    if (!k)
        answer_error(x, 404, "Kernel does not exist: %s", id);
    return k;
}

const char *
served_state_name(const struct served *k)
{
    static const char *const names[] = {"starting", "idle", "busy", "restarting", "dead"};

    return names[k->state];
}

void
served_model(const struct served *k, struct buf *ret)
{
    char date[32];

    if (buf_printf(ret,
                   "{\"id\": \"%s\", \"name\": \"%s\", \"last_activity\": \"%s\", \"execution_state\": \"%s\", "
                   "\"connections\": %zu, \"sandbox\": ",
                   k->id, k->spec, clock_text(k->last_activity, date), served_state_name(k), k->connections) < 0 ||
        (*k->husk_id ? buf_printf(ret, "\"%s\"", k->husk_id) : buf_text(ret, "null")) < 0)
        abort();
    if (*k->failure && (buf_text(ret, ", \"reason\": ") < 0 || json_quote(bytes_of(k->failure), ret) < 0))
        abort();
    if (buf_text(ret, "}") < 0)
        abort();
}

void
served_restart(struct served *k)
{
    if (k->front.socket < 0) {
        begin(k);
        return;
    }
    k->state = SERVED_RESTARTING;
    front_send(&k->front, (struct frame){.number = FRONT_RESTART}, NULL, 0);
    loop_set(&k->server->loop, &k->deadline, now_ms() + RESTART_MS);
}
