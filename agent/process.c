/* SPDX-License-Identifier: BSD-3-Clause */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <regex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"

#define KEPT (256u << 10)   /* bytes of each stream that proc.logs has */
#define ENDED_MAX 128       /* processes that have ended and can be asked about */
#define ID_MAX 64
#define LINE_MAX_BYTES 65536
#define TRY_MS 20           /* between two looks at a port */
#define HTTP_S 2            /* for one answer */
#define PULLED_MAX (1u << 20) /* bytes that wait for proc.read; then its process waits */
#define TEXT_MAX (4u << 20)   /* bytes of each stream in one answer: as text they may be six times as many */
#define PATTERN_MAX 4096      /* bytes */
#define REPEATS_MAX 10000     /* of a pattern: regcomp(3) writes each of them out */
#define TAKE (64u << 10)    /* bytes of a stream in one turn */

extern char **environ;

static const char *const stream_names[] = {"stdout", "stderr"};

/* What one process writes to one descriptor. */
struct stream {
    int fd;           /* -1: at its end */
    struct buf kept;  /* exec.run: the first `max` bytes; else the last KEPT */
    uint64_t dropped;
    struct buf cut;   /* of an event: a character that is not complete */
};

struct process {
    struct process *next;
    char id[ID_MAX];
    char *cmd, *directory;
    uint32_t slot;     /* of the operation that began it */
    uint32_t caller;   /* of that operation */
    int asked;         /* exec.run: its reply is due */
    int keeps_first;   /* exec.run */
    int stream_events, tty, dropping, pull;
    uint32_t reader;   /* proc.read: its slot; 0: nobody waits */
    int64_t read_until, lease; /* ms */
    size_t max;        /* exec.run: bytes kept of each stream */
    pid_t pid;
    int shim;          /* socket; -1: the tree is gone */
    int in;            /* its standard input, or -1 */
    struct buf to_write;
    size_t written;    /* of it */
    int close_in;
    struct stream stream[2];
    int started, exited, told, status, timed_out; /* told: answers and event of the end are out */
    int64_t began, ended; /* ms */
    struct timespec date;
    int64_t deadline, kill_at; /* ms; 0: none */
};

enum until { UNTIL_EXIT, UNTIL_LINE, UNTIL_PORT, UNTIL_HTTP };

struct waiter {
    struct waiter *next;
    uint32_t slot;
    struct process *process; /* NULL: of no process */
    enum until until;
    regex_t pattern;
    struct buf line[2];
    int port, status;
    char *path;
    int64_t deadline, try_at; /* ms */
    int asking;               /* a pipe from whoever asks by HTTP, or -1 */
};

static struct process *processes;
static struct waiter *waiters;
static struct strv variables; /* env.set: NAME=VALUE */
static rlim_t files;          /* soft limit of open files, as a cell has it */
static unsigned counter;

static struct process *
find_process(const char *id)
{
    struct process *p = processes;

    while (p && strcmp(p->id, id) != 0)
        p = p->next;
    return p;
}

void
process_limits(void)
{
    struct rlimit limit = {1024, 1024};

    (void)getrlimit(RLIMIT_NOFILE, &limit);
    files = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max; /* each process takes four */
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/*** Environment ***/

static int
set_variable(struct strv *v, const char *text)
{
    size_t len = strcspn(text, "=") + (strchr(text, '=') != NULL);

    for (size_t i = 0; i < v->len; i++)
        if (strncmp(v->item[i], text, len) == 0 && len) {
            char *copy = strdup(text);
            if (!copy)
                return -1;
            free(v->item[i]);
            v->item[i] = copy;
            return 0;
        }
    return strv_add(v, text);
}

static void
unset_variable(struct strv *v, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < v->len; i++)
        if (strncmp(v->item[i], name, len) == 0 && v->item[i][len] == '=') {
            free(v->item[i]);
            memmove(v->item + i, v->item + i + 1, (v->len - i) * sizeof *v->item);
            v->len--;
            return;
        }
}

/* The members of the map `env` of the call, into v. */
static int
add_map(const struct call *c, struct strv *v, struct err *err)
{
    struct bytes map, name, value;
    enum json_type type;
    size_t at = 0;

    if (json_get(c->params, "env", &map) != J_OBJECT)
        return 0;
    while ((type = json_next(map, &at, &name, &value)) != J_NONE) {
        scoped(buf_release) struct buf text = {0};
        if (json_unescape(name, &text) < 0 || !buf_string(&text))
            return err_errno(err, "read 'env'");
        json_surrogates_to_bytes(&text);
        if (!text.len || strlen((char *)text.data) != text.len || strchr((char *)text.data, '='))
            return err_set(err, EINVAL, "'env' has a name that no variable can have");
        if (type == J_NULL) {
            unset_variable(v, (char *)text.data);
            continue;
        }
        if (buf_text(&text, "=") < 0 || json_unescape(value, &text) < 0 || !buf_string(&text))
            return err_errno(err, "read 'env'");
        json_surrogates_to_bytes(&text);
        if (strlen((char *)text.data) != text.len)
            return err_set(err, EINVAL, "'env' has a value with a NUL");
        if (set_variable(v, (char *)text.data) < 0)
            return err_errno(err, "keep 'env'");
    }
    return 0;
}

static int
make_environment(const struct call *c, struct strv *ret, struct err *err)
{
    for (char **e = environ; *e; e++)
        if (strv_add(ret, *e) < 0)
            return err_errno(err, "make the environment");
    for (size_t i = 0; i < variables.len; i++)
        if (set_variable(ret, variables.item[i]) < 0)
            return err_errno(err, "make the environment");
    return add_map(c, ret, err);
}

static void
answer_environment(const struct call *c, const struct strv *v, const char *only)
{
    scoped(buf_release) struct buf json = {0};

    add_open(&json);
    add_name(&json, "env");
    add_open(&json);
    for (size_t i = 0; i < v->len; i++) {
        char *equals = strchr(v->item[i], '=');
        scoped(buf_release) struct buf name = {0};
        if (!equals || (only && (strncmp(v->item[i], only, strlen(only)) != 0 ||
                                 v->item[i][strlen(only)] != '=')))
            continue;
        if (json.data[json.len - 1] != '{' && buf_text(&json, ",") < 0)
            _exit(1);
        if (json_quote_path((struct bytes){(uint8_t *)v->item[i], (size_t)(equals - v->item[i])},
                            &json) < 0 ||
            buf_text(&json, ":") < 0 || json_quote_path(bytes_of(equals + 1), &json) < 0)
            _exit(1);
    }
    add_close(&json);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

void
env_set(const struct call *c)
{
    struct err err;

    if (add_map(c, &variables, &err) < 0)
        refuse(c->slot, &err);
    else
        answer_environment(c, &variables, NULL);
}

void
env_get(const struct call *c)
{
    scoped(strv_release) struct strv all = {0};
    scoped(buf_release) struct buf name = {0};
    struct err err;

    if (call_text(c, "name", &name, &err) < 0 ||
        make_environment(&(struct call){.params = BYTES("{}")}, &all, &err) < 0)
        refuse(c->slot, &err);
    else
        answer_environment(c, &all, (char *)name.data);
}

/*** Start ***/

static int
make_command(const struct call *c, struct strv *ret, struct err *err)
{
    struct bytes cmd, word;
    size_t at = 0;
    int list = json_get(c->params, "cmd", &cmd) == J_ARRAY;

    if (!list && (strv_add(ret, "/bin/sh") < 0 || strv_add(ret, "-c") < 0))
        return err_errno(err, "make the command");
    word = cmd;
    while (!list || json_element(cmd, &at, &word) != J_NONE) {
        scoped(buf_release) struct buf text = {0};
        if (json_unescape(word, &text) < 0 || !buf_string(&text))
            return err_errno(err, "make the command");
        json_surrogates_to_bytes(&text);
        if (strlen((char *)text.data) != text.len)
            return err_set(err, EINVAL, "'cmd' holds a NUL");
        if (strv_add(ret, (char *)text.data) < 0)
            return err_errno(err, "make the command");
        if (!list)
            break;
    }
    return ret->len ? 0 : err_set(err, EINVAL, "'cmd' is empty");
}

/* Descriptors of a new process: its ends go to the shim, ours stay in p. */
static int
make_pipes(struct process *p, int with_in, int theirs[3], struct err *err)
{
    int ends[2];

    if (!with_in && (theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
        return err_errno(err, "open '/dev/null'");
    if (with_in) {
        if (pipe2(ends, O_CLOEXEC) < 0)
            return err_errno(err, "make a pipe");
        theirs[0] = ends[0];
        p->in = ends[1];
    }
    for (int i = 0; i < 2; i++) {
        if (pipe2(ends, O_CLOEXEC) < 0)
            return err_errno(err, "make a pipe");
        p->stream[i].fd = ends[0];
        theirs[1 + i] = ends[1];
    }
    return 0;
}

static int
make_terminal(struct process *p, const struct call *c, int theirs[3], struct err *err)
{
    struct winsize size = {.ws_row = (unsigned short)call_int(c, "rows", 24),
                           .ws_col = (unsigned short)call_int(c, "cols", 80)};
    int master = p->stream[0].fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    char name[64];

    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 ||
        ptsname_r(master, name, sizeof name) != 0)
        return err_errno(err, "make a terminal");
    theirs[0] = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (theirs[0] < 0)
        return err_errno(err, "open the terminal");
    (void)ioctl(master, TIOCSWINSZ, &size);
    p->in = fcntl(master, F_DUPFD_CLOEXEC, 3);
    if (p->in < 0)
        return err_errno(err, "open the terminal");
    theirs[1] = theirs[2] = theirs[0];
    return 0;
}

static void
release_process(struct process *p)
{
    for (int i = 0; i < 2; i++) {
        fd_close(&p->stream[i].fd);
        buf_release(&p->stream[i].kept);
        buf_release(&p->stream[i].cut);
    }
    fd_close(&p->in);
    fd_close(&p->shim);
    buf_release(&p->to_write);
    free(p->cmd);
    free(p->directory);
    free(p);
}

static void
drop_process(struct process *p)
{
    for (struct process **at = &processes; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            release_process(p);
            return;
        }
}

/* The oldest that have ended are forgotten. */
static void
forget_some(void)
{
    struct process *oldest = NULL;
    int n = 0;

    for (struct process *p = processes; p; p = p->next)
        if (p->shim < 0 && !p->asked) {
            n++;
            if (!oldest)
                oldest = p;
        }
    if (n > ENDED_MAX)
        drop_process(oldest);
}

static int
fork_shim(struct process *p, const struct strv *argv, const struct strv *environment, int theirs[3],
          struct err *err)
{
    struct shim s = {.argv = argv->item, .environment = environment->item, .directory = p->directory,
                     .in = theirs[0], .out = theirs[1], .err = theirs[2], .tty = p->tty, .files = files};
    int pair[2], r = 0;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "make a socket");
    s.socket = pair[1];
    pid = fork();
    if (pid == 0)
        shim_run(&s);
    if (pid < 0)
        r = err_errno(err, "start a process");
    close(pair[1]);
    p->shim = pair[0];
    return r;
}

static struct process *
new_process(const struct call *c, struct err *err)
{
    scoped(buf_release) struct buf id = {0}, directory = {0};
    struct process *p = calloc(1, sizeof *p);
    struct bytes cmd;

    if (!p) {
        err_errno(err, "start a process");
        return NULL;
    }
    p->shim = p->in = p->stream[0].fd = p->stream[1].fd = -1;
    p->slot = c->slot;
    p->caller = c->caller;
    p->began = now_ms();
    clock_gettime(CLOCK_REALTIME, &p->date);
    json_get(c->params, "cmd", &cmd);
    if (call_text(c, "id", &id, err) < 0 || call_path(c, "dir", &directory, err) < 0) {
        release_process(p);
        return NULL;
    }
    snprintf(p->id, sizeof p->id, "%s", id.data ? (char *)id.data : "");
    if (!id.data)
        do
            snprintf(p->id, sizeof p->id, "p%u", ++counter);
        while (find_process(p->id));
    p->directory = strdup(directory.data ? (char *)directory.data : ".");
    p->cmd = strndup((const char *)cmd.data, cmd.len);
    if (!p->directory || !p->cmd)
        err_errno(err, "start a process");
    else if (id.len >= ID_MAX || !*p->id || strchr(p->id, '/'))
        err_set(err, EINVAL, "'id' has at most %d bytes and no '/'", ID_MAX - 1);
    else if (find_process(p->id))
        err_set(err, EEXIST, "there is already a process '%s'", p->id);
    else
        return p;
    release_process(p);
    return NULL;
}

static struct process *
start(const struct call *c, int tty, int with_in, struct err *err)
{
    scoped(strv_release) struct strv argv = {0}, environment = {0};
    struct process *p, **last = &processes;
    int theirs[3] = {-1, -1, -1}, r;
    int64_t timeout = call_ms(c, "timeout_ms", 0);

    if (make_command(c, &argv, err) < 0 || make_environment(c, &environment, err) < 0 ||
        !(p = new_process(c, err)))
        return NULL;
    p->tty = tty;
    r = tty ? make_terminal(p, c, theirs, err) : make_pipes(p, with_in, theirs, err);
    if (r == 0 && tty)
        r = set_variable(&environment, "TERM=xterm-256color") < 0 ? err_errno(err, "make a terminal") : 0;
    r = r < 0 ? r : fork_shim(p, &argv, &environment, theirs, err);
    for (int i = 0; i < 3; i++)
        if (theirs[i] >= 0 && (i == 0 || !tty))
            close(theirs[i]);
    if (r < 0) {
        release_process(p);
        return NULL;
    }
    for (int i = 0; i < 2; i++)
        if (p->stream[i].fd >= 0)
            (void)fd_nonblock(p->stream[i].fd);
    if (p->in >= 0)
        (void)fd_nonblock(p->in);
    p->deadline = timeout > 0 ? p->began + timeout : 0;
    while (*last)
        last = &(*last)->next;
    *last = p;
    forget_some();
    return p;
}

void
exec_run(const struct call *c)
{
    scoped(buf_release) struct buf in = {0};
    struct bytes unused;
    struct process *p;
    struct err err;
    int64_t most;
    int with_in = c->has_buffer || json_get(c->params, "stdin", &unused) == J_STRING;

    if (call_bytes(c, "stdin", &in, &err) < 0 || !(p = start(c, 0, with_in, &err))) {
        refuse(c->slot, &err);
        return;
    }
    p->asked = p->keeps_first = 1;
    most = call_int(c, "max_output", 1 << 20);
    p->max = most < 0 ? 0 : most > TEXT_MAX ? TEXT_MAX : (size_t)most;
    p->stream_events = call_bool(c, "stream", 0);
    p->to_write = in;
    in = (struct buf){0};
    p->close_in = 1;
}

void
exec_start(const struct call *c)
{
    int tty = call_bool(c, "tty", 0);
    struct process *p;
    struct err err;

    p = start(c, tty, call_bool(c, "stdin", 0), &err);
    if (!p) {
        refuse(c->slot, &err);
        return;
    }
    p->asked = 1; /* until the shim says that it runs */
    p->pull = call_bool(c, "pull", 0);
    p->stream_events = call_bool(c, "stream", 1) && !p->pull;
    p->lease = p->pull ? now_ms() + LEASE_MS : 0;
}

/*** What is said of one ***/

static void
add_state(struct buf *json, const struct process *p)
{
    add_text(json, "state", p->exited ? BYTES("exited") : BYTES("running"));
    if (!p->exited) {
        add_null(json, "exit_code");
        add_null(json, "signal");
        return;
    }
    add_int(json, "exit_code", p->timed_out ? 124 : WIFEXITED(p->status) ? WEXITSTATUS(p->status)
                                                                        : 128 + WTERMSIG(p->status));
    if (WIFSIGNALED(p->status))
        add_int(json, "signal", WTERMSIG(p->status));
    else
        add_null(json, "signal");
}

static void
add_process(struct buf *json, const struct process *p)
{
    char date[64];
    struct tm tm;

    gmtime_r(&p->date.tv_sec, &tm);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &tm);
    add_text(json, "id", bytes_of(p->id));
    add_int(json, "pid", p->pid);
    add_name(json, "cmd");
    if (buf_text(json, p->cmd) < 0)
        _exit(1);
    add_path(json, "dir", p->directory);
    add_state(json, p);
    add_bool(json, "tree_alive", p->shim >= 0);
    add_text(json, "started_at", bytes_of(date));
    add_int(json, "duration_ms", (p->exited ? p->ended : now_ms()) - p->began);
    add_bool(json, "tty", p->tty);
    add_bool(json, "timed_out", p->timed_out);
}

/* Bytes as text; where they are no text, they are in a buffer as well, and "buffers" names it. */
static void
add_output(struct buf *json, const char *name, struct bytes data, struct bytes *buffers, size_t *n,
           struct buf *names)
{
    struct err unused;
    scoped(buf_release) struct buf quoted = {0}, back = {0};

    add_text(json, name, data);
    if (json_quote(data, &quoted) < 0 ||
        json_unescape((struct bytes){quoted.data, quoted.len}, &back) < 0)
        _exit(1);
    (void)unused;
    if (back.len == data.len && (!data.len || memcmp(back.data, data.data, data.len) == 0))
        return;
    buffers[(*n)++] = data;
    if (buf_printf(names, "%s\"%s\"", names->len ? "," : "", name) < 0)
        _exit(1);
}

static void
add_buffer_names(struct buf *json, const struct buf *names)
{
    if (!names->len)
        return;
    add_name(json, "buffers");
    if (buf_text(json, "[") < 0 || buf_add(json, names->data, names->len) < 0 || buf_text(json, "]") < 0)
        _exit(1);
}

static void
answer_run(struct process *p)
{
    scoped(buf_release) struct buf json = {0}, names = {0};
    struct bytes buffers[2];
    size_t n = 0;
    int code = p->timed_out ? 124 : WIFEXITED(p->status) ? WEXITSTATUS(p->status)
                                                         : 128 + WTERMSIG(p->status);

    add_open(&json);
    for (int i = 0; i < 2; i++)
        add_output(&json, stream_names[i], (struct bytes){p->stream[i].kept.data, p->stream[i].kept.len},
                   buffers, &n, &names);
    add_int(&json, "exit_code", code);
    add_bool(&json, "ok", code == 0);
    add_int(&json, "duration_ms", p->ended - p->began);
    add_bool(&json, "timed_out", p->timed_out);
    if (WIFSIGNALED(p->status))
        add_int(&json, "signal", WTERMSIG(p->status));
    else
        add_null(&json, "signal");
    add_bool(&json, "truncated", p->stream[0].dropped || p->stream[1].dropped);
    add_text(&json, "id", bytes_of(p->id));
    add_buffer_names(&json, &names);
    add_close(&json);
    answer(p->slot, &json, buffers, n);
    p->asked = 0;
    p->dropping = 1; /* what lives on in the background may print; nobody asked for it */
}

static void
tell_exit(const struct process *p)
{
    scoped(buf_release) struct buf json = {0};

    if (!p->stream_events)
        return;
    add_open(&json);
    add_text(&json, "event", BYTES("exit"));
    add_process(&json, p);
    add_close(&json);
    tell_event(p->slot, &json, NULL, 0);
}

/*** Who waits ***/

static void
end_waiter(struct waiter *w, const char *line, const struct err *why)
{
    scoped(buf_release) struct buf json = {0};

    if (why) {
        refuse(w->slot, why);
    } else {
        add_open(&json);
        if (w->process)
            add_state(&json, w->process);
        if (line)
            add_text(&json, "line", bytes_of(line));
        add_close(&json);
        answer(w->slot, &json, NULL, 0);
    }
    for (struct waiter **at = &waiters; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    if (w->until == UNTIL_LINE)
        regfree(&w->pattern);
    for (int i = 0; i < 2; i++)
        buf_release(&w->line[i]);
    fd_close(&w->asking);
    free(w->path);
    free(w);
}

/* New output: 1 if a line of it matched, and the waiter is gone. */
static int
feed_waiter(struct waiter *w, int stream, struct bytes data)
{
    struct buf *line = &w->line[stream];
    size_t from = 0;
    uint8_t *end;

    if (buf_add(line, data.data, data.len) < 0)
        return 0;
    while (from < line->len && (end = memchr(line->data + from, '\n', line->len - from))) {
        *end = 0;
        if (end > line->data + from && end[-1] == '\r') /* of a terminal */
            end[-1] = 0;
        if (regexec(&w->pattern, (char *)line->data + from, 0, NULL, 0) == 0) {
            end_waiter(w, (char *)line->data + from, NULL);
            return 1;
        }
        from = (size_t)(end - line->data) + 1;
    }
    buf_consume(line, from);
    if (line->len > LINE_MAX_BYTES)
        line->len = 0;
    return 0;
}

static void
feed_waiters(struct process *p, int stream, struct bytes data)
{
    struct waiter *next;

    for (struct waiter *w = waiters; w; w = next) {
        next = w->next;
        if (w->process == p && w->until == UNTIL_LINE)
            feed_waiter(w, stream, data);
    }
}

/* proc.read: what there is, or the end. */
static void
serve_reader(struct process *p, int64_t now)
{
    scoped(buf_release) struct buf json = {0};
    int open = p->stream[0].fd >= 0 || p->stream[1].fd >= 0, any = 0, eof;
    struct bytes buffers[2];

    for (int i = 0; i < 2; i++) {
        buffers[i] = (struct bytes){p->stream[i].kept.data, p->stream[i].kept.len};
        any |= buffers[i].len > 0;
    }
    if (!p->reader || (!any && !p->told && now < p->read_until))
        return;
    add_open(&json);
    add_state(&json, p);
    eof = p->told && (!open || !any);
    add_bool(&json, "eof", eof);
    add_close(&json);
    answer(p->reader, &json, buffers, 2);
    p->reader = 0;
    p->read_until = 0;
    for (int i = 0; i < 2; i++)
        p->stream[i].kept.len = 0;
    if (eof) { /* what it left in the background lives on, as that of exec.run does */
        p->lease = 0;
        p->dropping = 1;
    }
}

static void
waiters_of_exit(struct process *p)
{
    struct waiter *next;
    struct err why;

    for (int i = 0; i < 2; i++) /* a last line may have no end */
        feed_waiters(p, i, BYTES("\n"));
    for (struct waiter *w = waiters; w; w = next) {
        next = w->next;
        if (w->process != p || (w->until > UNTIL_LINE && p->shim >= 0))
            continue; /* a server may be what it left in the background */
        err_set(&why, ECANCELED, "the process '%s' ended before that", p->id);
        end_waiter(w, NULL, w->until == UNTIL_EXIT ? NULL : &why);
    }
}

static int
connect_port(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t len = sizeof error;

    if (fd < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 &&
        (errno != EINPROGRESS || poll(&p, 1, TRY_MS) != 1 ||
         getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error))
        fd_close(&fd);
    return fd;
}

/* In a child, as a server may never answer: the number of the status goes into the pipe. */
static void
ask_http(struct waiter *w)
{
    char request[4400], reply[64] = "";
    int ends[2], fd, status = 0;
    ssize_t n;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return;
    if (fork() == 0) {
        alarm(HTTP_S);
        signal(SIGALRM, SIG_DFL);
        fd = connect_port(w->port);
        if (fd < 0)
            _exit(1);
        fcntl(fd, F_SETFL, 0);
        snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n",
                 w->path, w->port);
        (void)fd_write_all(fd, request, strlen(request));
        n = recv(fd, reply, sizeof reply - 1, MSG_WAITALL);
        reply[n > 0 ? n : 0] = 0;
        if (sscanf(reply, "HTTP/%*d.%*d %d", &status) == 1)
            (void)!write(ends[1], &status, sizeof status);
        _exit(0);
    }
    close(ends[1]);
    w->asking = ends[0];
}

static void
hear_http(struct waiter *w)
{
    int status = 0;
    ssize_t n = read(w->asking, &status, sizeof status);

    if (n < 0 && errno == EINTR)
        return;
    fd_close(&w->asking);
    w->try_at = now_ms() + TRY_MS;
    if (n == (ssize_t)sizeof status && status == w->status)
        end_waiter(w, NULL, NULL);
}

/* Its time has come: it is over, or the port is looked at again. */
static void
turn_waiter(struct waiter *w, int64_t now)
{
    struct err why;
    int fd;

    if (w->deadline && now >= w->deadline) {
        err_set(&why, ETIMEDOUT, "it did not happen in time");
        end_waiter(w, NULL, &why);
    } else if (w->until == UNTIL_PORT && now >= w->try_at) {
        w->try_at = now + TRY_MS;
        fd = connect_port(w->port);
        if (fd >= 0) {
            close(fd);
            end_waiter(w, NULL, NULL);
        }
    } else if (w->until == UNTIL_HTTP && w->asking < 0 && now >= w->try_at) {
        ask_http(w);
    }
}

/* How large the counts of a pattern make it at most, one in another: a{9}, (a{9}){9}. */
static long
repeats_of(const char *pattern)
{
    long product = 1;

    for (const char *at = pattern; (at = strchr(at, '{')) && product <= REPEATS_MAX; at++) {
        const char *comma = at + 1 + strspn(at + 1, "0123456789");
        long n = strtol(at + 1, NULL, 10), most = *comma == ',' ? strtol(comma + 1, NULL, 10) : 0;
        n = n > most ? n : most;
        product *= n > 1 ? (n > REPEATS_MAX ? REPEATS_MAX + 1 : n) : 1;
    }
    return product;
}

static int
read_waiter(const struct call *c, struct waiter *w, struct err *err)
{
    static const char *const names[] = {"exit", "line", "port", "http"};
    scoped(buf_release) struct buf id = {0}, until = {0}, pattern = {0}, path = {0};
    int64_t timeout = call_ms(c, "timeout_ms", 0);
    char why[128];
    int r;

    if (call_text(c, "id", &id, err) < 0 || call_text(c, "until", &until, err) < 0 ||
        call_text(c, "pattern", &pattern, err) < 0 || call_text(c, "path", &path, err) < 0)
        return -1;
    while (until.data && w->until < (int)countof(names) && strcmp((char *)until.data, names[w->until]) != 0)
        w->until++;
    w->port = (int)call_int(c, "port", 0);
    w->status = (int)call_int(c, "status", 200);
    w->path = strdup(path.data ? (char *)path.data : "/");
    w->deadline = timeout > 0 ? now_ms() + timeout : 0;
    w->process = id.data ? find_process((char *)id.data) : NULL;
    if (!w->path)
        return err_errno(err, "wait");
    if (w->until == (int)countof(names))
        return err_set(err, EINVAL, "'until' is none of exit, line, port and http");
    if (id.data && !w->process)
        return err_set(err, ESRCH, "there is no process '%s'", id.data);
    if (w->until <= UNTIL_LINE && !w->process)
        return err_set(err, EINVAL, "'id' is missing");
    if (w->until == UNTIL_LINE && !pattern.data)
        return err_set(err, EINVAL, "'pattern' is missing");
    if (w->until >= UNTIL_PORT && (w->port < 1 || w->port > 65535))
        return err_set(err, EINVAL, "'port' is no number from 1 to 65535");
    if (strpbrk(w->path, " \r\n") || strlen(w->path) > 4000 || *w->path != '/')
        return err_set(err, EINVAL, "'path' is none of HTTP");
    if (w->until != UNTIL_LINE)
        return 0;
    if (pattern.len > PATTERN_MAX || repeats_of((char *)pattern.data) > REPEATS_MAX) {
        w->until = UNTIL_EXIT;
        return err_set(err, EINVAL, "'pattern' is too long, or repeats too much");
    }
    r = regcomp(&w->pattern, (char *)pattern.data, REG_EXTENDED | REG_NOSUB);
    if (r != 0) {
        regerror(r, &w->pattern, why, sizeof why);
        w->until = UNTIL_EXIT; /* nothing to free */
        return err_set(err, EINVAL, "'pattern': %s", why);
    }
    return 0;
}

void
proc_wait(const struct call *c)
{
    struct waiter *w = calloc(1, sizeof *w);
    struct err err;

    if (!w) {
        err_errno(&err, "wait");
        refuse(c->slot, &err);
        return;
    }
    w->slot = c->slot;
    w->asking = -1;
    if (read_waiter(c, w, &err) < 0) {
        end_waiter(w, NULL, &err);
        return;
    }
    w->next = waiters;
    waiters = w;
    if (w->until == UNTIL_LINE)
        for (int i = 0; i < 2; i++)
            if (feed_waiter(w, i, (struct bytes){w->process->stream[i].kept.data,
                                                 w->process->stream[i].kept.len}))
                return;
    if (w->process && (w->until <= UNTIL_LINE ? w->process->told : w->process->told && w->process->shim < 0))
        waiters_of_exit(w->process);
    else
        turn_waiter(w, now_ms());
}

/*** Output ***/

static void
tell_output(struct process *p, int stream, struct bytes data, int last)
{
    struct buf *cut = &p->stream[stream].cut;
    scoped(buf_release) struct buf json = {0}, names = {0};
    struct bytes buffers[1], whole;
    size_t n = 0, tail;

    if (!p->stream_events || buf_add(cut, data.data, data.len) < 0 || !cut->len)
        return;
    tail = last ? 0 : json_utf8_tail((struct bytes){cut->data, cut->len});
    whole = (struct bytes){cut->data, cut->len - tail};
    if (!whole.len)
        return;
    add_open(&json);
    add_text(&json, "event", bytes_of(stream_names[stream]));
    add_text(&json, "id", bytes_of(p->id));
    add_output(&json, "text", whole, buffers, &n, &names);
    add_buffer_names(&json, &names);
    add_close(&json);
    tell_event(p->slot, &json, buffers, n);
    buf_consume(cut, whole.len);
}

static void
keep_output(struct process *p, int stream, struct bytes data)
{
    struct stream *s = &p->stream[stream];
    size_t fits = data.len;

    if (p->keeps_first) {
        fits = s->kept.len < p->max ? p->max - s->kept.len : 0;
        fits = fits < data.len ? fits : data.len;
        s->dropped += data.len - fits;
    }
    if (buf_add(&s->kept, data.data, fits) < 0)
        s->dropped += fits;
    if (!p->keeps_first && !p->pull && s->kept.len > 2 * KEPT) {
        s->dropped += s->kept.len - KEPT;
        buf_consume(&s->kept, s->kept.len - KEPT);
    }
}

/* Reads what is there, a turn's worth. */
static void
take_output(struct process *p, int stream)
{
    static uint8_t data[TAKE];
    struct stream *s = &p->stream[stream];
    ssize_t n = read(s->fd, data, sizeof data);
    struct bytes got = {data, n > 0 ? (size_t)n : 0};

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) { /* a terminal says EIO at its end */
        fd_close(&s->fd);
        tell_output(p, stream, got, 1);
        return;
    }
    if (p->dropping)
        return;
    keep_output(p, stream, got);
    tell_output(p, stream, got, 0);
    feed_waiters(p, stream, got);
}

/* What has been printed until now, and no more: somebody in the background may print for ever. */
static void
take_rest(struct process *p)
{
    for (int i = 0; i < 2; i++) {
        struct stream *s = &p->stream[i];
        int left = 0;
        if (s->fd < 0 || ioctl(s->fd, FIONREAD, &left) < 0)
            continue;
        for (; left > 0 && s->fd >= 0; left -= (int)TAKE)
            take_output(p, i);
    }
}

static size_t
waiting_input(const struct process *p)
{
    return p->to_write.len - p->written;
}

static void
give_input(struct process *p)
{
    while (waiting_input(p)) {
        ssize_t n = write(p->in, p->to_write.data + p->written, waiting_input(p));
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) { /* it closed its input: what is left is nobody's */
            p->close_in = 1;
            break;
        }
        p->written += (size_t)n;
    }
    p->to_write.len = p->written = 0;
    if (p->close_in) {
        buf_release(&p->to_write);
        fd_close(&p->in);
    }
}

/*** The shim ***/

static void
signal_tree(struct process *p, int signal)
{
    struct shim_word word = {SHIM_SIGNAL, signal};

    if (p->shim >= 0)
        (void)!send(p->shim, &word, sizeof word, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* What could not be started, as a person names it: the first word, or the shell's text. */
static int
name_command(const struct process *p, struct buf *ret)
{
    struct bytes word = bytes_of(p->cmd);
    size_t at = 0;

    if (*p->cmd == '[')
        json_element(bytes_of(p->cmd), &at, &word);
    if (json_unescape(word, ret) < 0)
        return -1;
    json_surrogates_to_bytes(ret);
    return buf_string(ret) ? 0 : -1;
}

static void
failed_to_start(struct process *p, int why, int of_directory)
{
    scoped(buf_release) struct buf command = {0};
    struct err err;

    if (name_command(p, &command) < 0)
        _exit(1);
    /* As a shell: a result, if it is the command that is wrong. */
    if (p->keeps_first && !of_directory && (why == ENOENT || why == EACCES || why == ENOEXEC)) {
        scoped(buf_release) struct buf text = {0};
        if (buf_printf(&text, "husk: '%s': %s\n", (char *)command.data, strerror(why)) == 0)
            keep_output(p, 1, (struct bytes){text.data, text.len});
        p->status = (why == ENOENT ? 127 : 126) << 8;
        p->exited = p->told = 1;
        p->ended = now_ms();
        answer_run(p);
        return;
    }
    errno = why;
    if (of_directory) {
        err_errno(&err, "start in '%s'", p->directory);
        err.code = why == ENOENT ? ENOTDIR : why; /* else it would seem to be the command that is not there */
    } else {
        err_errno(&err, "start '%s'", (char *)command.data);
    }
    refuse(p->slot, &err);
    p->asked = 0;
    p->exited = p->told = 1;
    p->status = 127 << 8;
    p->ended = now_ms();
    waiters_of_exit(p);
}

static void
answer_start(struct process *p)
{
    scoped(buf_release) struct buf json = {0};

    add_open(&json);
    add_text(&json, "id", bytes_of(p->id));
    add_int(&json, "pid", p->pid);
    add_close(&json);
    answer(p->slot, &json, NULL, 0);
    p->asked = 0;
}

/* Its command is gone: what it has printed until now belongs to it. */
static void
on_exit_of(struct process *p, int status)
{
    p->status = status;
    p->exited = 1;
    p->ended = now_ms();
    take_rest(p);
    for (int i = 0; i < 2; i++)
        tell_output(p, i, (struct bytes){0}, 1);
    if (p->timed_out && p->shim >= 0)
        return; /* the answer comes when the whole tree is gone */
    p->told = 1;
    tell_exit(p); /* before the answer: with that the request is over */
    if (p->keeps_first && p->asked)
        answer_run(p);
    waiters_of_exit(p);
    serve_reader(p, now_ms());
}

static void
hear_shim(struct process *p)
{
    struct shim_word word;
    ssize_t n = recv(p->shim, &word, sizeof word, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n == (ssize_t)sizeof word) {
        if (word.kind == SHIM_STARTED) {
            p->pid = word.value;
            p->started = 1;
            if (!p->keeps_first)
                answer_start(p);
        } else if (word.kind == SHIM_FAILED || word.kind == SHIM_NO_DIRECTORY) {
            failed_to_start(p, word.value, word.kind == SHIM_NO_DIRECTORY);
        } else if (word.kind == SHIM_EXITED) {
            on_exit_of(p, word.value);
        }
        return;
    }
    fd_close(&p->shim); /* the tree is gone, or somebody killed the shim */
    fd_close(&p->in);
    p->kill_at = p->deadline = 0;
    if (!p->told)
        on_exit_of(p, p->exited ? p->status : SIGKILL);
    take_rest(p);
    for (int i = 0; i < 2; i++)
        fd_close(&p->stream[i].fd);
    serve_reader(p, now_ms());
    waiters_of_exit(p);
    if (!p->started || p->keeps_first)
        drop_process(p);
}

/*** Operations on them ***/

static struct process *
wanted(const struct call *c)
{
    scoped(buf_release) struct buf id = {0};
    struct process *p = NULL;
    struct err err;

    /* Whoever asks lives. */
    if (call_text(c, "id", &id, &err) < 0) {
        refuse(c->slot, &err);
        return NULL;
    }
    p = id.data ? find_process((char *)id.data) : NULL;
    if (!p) {
        err_set(&err, ESRCH, "there is no process '%s'", id.data ? (char *)id.data : "");
        refuse(c->slot, &err);
    } else if (p->pull && !p->dropping) {
        p->lease = now_ms() + LEASE_MS;
    }
    return p;
}

void
proc_list(const struct call *c)
{
    scoped(buf_release) struct buf json = {0};

    add_open(&json);
    add_name(&json, "processes");
    if (buf_text(&json, "[") < 0)
        _exit(1);
    for (struct process *p = processes; p; p = p->next) {
        if (json.data[json.len - 1] != '[' && buf_text(&json, ",") < 0)
            _exit(1);
        add_open(&json);
        add_process(&json, p);
        add_close(&json);
    }
    if (buf_text(&json, "]") < 0)
        _exit(1);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

void
proc_get(const struct call *c)
{
    scoped(buf_release) struct buf json = {0};
    struct process *p = wanted(c);

    if (!p)
        return;
    add_open(&json);
    add_process(&json, p);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

void
proc_logs(const struct call *c)
{
    scoped(buf_release) struct buf json = {0}, names = {0};
    struct bytes buffers[2];
    struct process *p = wanted(c);
    int64_t most = call_int(c, "max_bytes", KEPT);
    uint64_t dropped[2];
    size_t n = 0;

    if (!p)
        return;
    add_open(&json);
    for (int i = 0; i < 2; i++) {
        struct bytes kept = {p->stream[i].kept.data, p->stream[i].kept.len};
        size_t skip = most >= 0 && kept.len > (size_t)most ? kept.len - (size_t)most : 0;
        dropped[i] = p->stream[i].dropped + skip;
        add_output(&json, stream_names[i], (struct bytes){kept.data + skip, kept.len - skip}, buffers, &n,
                   &names);
    }
    add_int(&json, "stdout_dropped", (int64_t)dropped[0]);
    add_int(&json, "stderr_dropped", (int64_t)dropped[1]);
    add_state(&json, p);
    add_buffer_names(&json, &names);
    add_close(&json);
    answer(c->slot, &json, buffers, n);
}

void
proc_read(const struct call *c)
{
    struct process *p = wanted(c);
    struct err err;

    if (!p)
        return;
    if (!p->pull || p->reader) {
        err_set(&err, EINVAL, p->pull ? "somebody reads '%s' already" : "'%s' was not started with pull", p->id);
        refuse(c->slot, &err);
        return;
    }
    p->reader = c->slot;
    p->read_until = now_ms() + call_ms(c, "wait_ms", 0);
    serve_reader(p, now_ms());
}

void
proc_stdin(const struct call *c)
{
    scoped(buf_release) struct buf data = {0}, json = {0};
    struct process *p = wanted(c);
    struct err err;

    if (!p)
        return;
    if (p->in < 0 || p->close_in) {
        err_set(&err, EPIPE, "the standard input of '%s' is closed", p->id);
        refuse(c->slot, &err);
        return;
    }
    if (p->written) {
        buf_consume(&p->to_write, p->written);
        p->written = 0;
    }
    if (call_bytes(c, "data", &data, &err) < 0 || p->to_write.len + data.len > AGENT_READ_MAX ||
        buf_add(&p->to_write, data.data, data.len) < 0) {
        err_set(&err, EAGAIN, "'%s' does not read its input: %zu bytes wait", p->id, p->to_write.len);
        refuse(c->slot, &err);
        return;
    }
    if (p->tty && call_bool(c, "close", 0)) { /* as a person at a terminal */
        if (buf_add(&p->to_write, "\4", 1) < 0)
            _exit(1);
    } else {
        p->close_in = call_bool(c, "close", 0);
    }
    give_input(p);
    add_open(&json);
    add_int(&json, "written", (int64_t)data.len);
    add_int(&json, "waiting", (int64_t)waiting_input(p));
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

void
proc_resize(const struct call *c)
{
    struct process *p = wanted(c);
    struct winsize size = {.ws_row = (unsigned short)call_int(c, "rows", 24),
                           .ws_col = (unsigned short)call_int(c, "cols", 80)};
    struct err err;

    if (!p)
        return;
    if (!p->tty || ioctl(p->stream[0].fd, TIOCSWINSZ, &size) < 0) {
        err_set(&err, EINVAL, "'%s' has no terminal", p->id);
        refuse(c->slot, &err);
        return;
    }
    answer_nothing(c->slot);
}

static void
answer_killed(uint32_t slot, int n)
{
    scoped(buf_release) struct buf json = {0};

    add_open(&json);
    add_int(&json, "killed", n);
    add_close(&json);
    answer(slot, &json, NULL, 0);
}

void
proc_kill(const struct call *c)
{
    struct process *p = wanted(c);
    int64_t signal = call_int(c, "signal", SIGTERM), grace = call_ms(c, "grace_ms", 2000);
    struct err err;

    if (!p)
        return;
    if (signal < 1 || signal > 64) {
        err_set(&err, EINVAL, "'signal' is no number from 1 to 64");
        refuse(c->slot, &err);
        return;
    }
    if (signal == SIGTERM && p->shim >= 0)
        p->kill_at = now_ms() + (grace > 0 ? grace : 0);
    signal_tree(p, (int)signal);
    answer_killed(c->slot, p->shim >= 0);
}

void
proc_kill_all(const struct call *c)
{
    int n = 0;

    for (struct process *p = processes; p; p = p->next)
        if (p->shim >= 0) {
            signal_tree(p, SIGKILL);
            n++;
        }
    answer_killed(c->slot, n);
}

/*** The loop's part ***/

static void
sooner(int64_t *at, int64_t other)
{
    if (other && (!*at || other < *at))
        *at = other;
}

static struct pollfd *
next_poll(struct pollfd **polls, size_t *size, size_t at)
{
    if (at + 1 > *size) {
        struct pollfd *more = realloc(*polls, 2 * *size * sizeof **polls);
        if (!more)
            _exit(1);
        *polls = more;
        *size *= 2;
    }
    return &(*polls)[at];
}

size_t
add_poll(struct pollfd **polls, size_t *size, size_t at, int fd, short events)
{
    if (fd < 0)
        return at;
    *next_poll(polls, size, at) = (struct pollfd){.fd = fd, .events = events};
    return at + 1;
}

size_t
process_list_polls(struct pollfd **polls, size_t *size, size_t at, int64_t *deadline)
{
    for (struct process *p = processes; p; p = p->next) {
        at = add_poll(polls, size, at, p->shim, POLLIN);
        for (int i = 0; i < 2; i++)
            if (!p->pull || p->stream[i].kept.len < PULLED_MAX)
                at = add_poll(polls, size, at, p->stream[i].fd, POLLIN);
        if (waiting_input(p) || p->close_in)
            at = add_poll(polls, size, at, p->in, POLLOUT);
        sooner(deadline, p->deadline);
        sooner(deadline, p->kill_at);
        sooner(deadline, p->reader ? p->read_until : 0);
        sooner(deadline, p->shim >= 0 ? p->lease : 0);
    }
    for (struct waiter *w = waiters; w; w = w->next) {
        at = add_poll(polls, size, at, w->asking, POLLIN);
        sooner(deadline, w->deadline);
        if (w->asking < 0)
            sooner(deadline, w->try_at);
    }
    return at;
}

int
is_ready(const struct pollfd *polls, size_t first, size_t n, int fd)
{
    for (size_t i = first; fd >= 0 && i < n; i++)
        if (polls[i].fd == fd)
            return polls[i].revents;
    return 0;
}

void
process_gone(uint32_t caller)
{
    for (struct process *p = processes; p; p = p->next)
        if (p->caller == caller && ((p->pull && !p->dropping) || (p->keeps_first && p->asked)))
            signal_tree(p, SIGKILL);
}

static void
in_time(struct process *p, int64_t now)
{
    if (p->deadline && now >= p->deadline) {
        p->deadline = 0;
        if (!p->exited)
            p->timed_out = 1;
        if (p->timed_out)
            signal_tree(p, SIGKILL);
    }
    if (p->lease && now >= p->lease && p->shim >= 0) {
        p->lease = 0;
        signal_tree(p, SIGKILL);
    }
    if (p->kill_at && now >= p->kill_at) {
        p->kill_at = 0;
        signal_tree(p, SIGKILL);
    }
}

void
process_run(const struct pollfd *polls, size_t first, size_t n)
{
    struct process *next;
    struct waiter *w, *next_waiter;
    int64_t now = now_ms();

    for (struct process *p = processes; p; p = next) {
        next = p->next;
        for (int i = 0; i < 2; i++)
            if (is_ready(polls, first, n, p->stream[i].fd))
                take_output(p, i);
        if (is_ready(polls, first, n, p->in))
            give_input(p);
        in_time(p, now);
        if (is_ready(polls, first, n, p->shim))
            hear_shim(p);
        else
            serve_reader(p, now);
    }
    for (w = waiters; w; w = next_waiter) {
        next_waiter = w->next;
        if (is_ready(polls, first, n, w->asking))
            hear_http(w);
        else
            turn_waiter(w, now);
    }
}
