/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "kernel/exits.h"

#define ASK_MS 10000   /* an operation that is answered at once */
#define WAIT_MS 5000   /* of one proc.read */
#define PIECE 65536
#define AHEAD (1 << 20)  /* bytes of input that the command has not read: then we wait */
#define LOOK_MS 20        /* between two looks whether it has */

static const char exec_usage[] =
    "usage: husk exec [-i] [-t] [-d] [-w DIR] [-e K=V] [--timeout S] ID -- COMMAND [ARGUMENT...]\n"
    "\n"
    "Runs a command in a sandbox, whatever its cells are doing. Exit code: the command's; 124 after\n"
    "--timeout, 126 and 127 as a shell (126 too without the directory of -w), 128 and the signal that ended\n"
    "it, 125 if husk itself failed. If husk exec is killed, the command ends, too.\n"
    "\n"
    "  -i           give it our standard input\n"
    "  -t           give it a terminal\n"
    "  -d           leave it running; its name is printed (husk ps, husk logs)\n"
    "  -w DIR       start in this directory\n"
    "  -e K=V       a variable (repeat)\n"
    "  --timeout S  end it and all that it started after S seconds\n"
    "\n"
    "  husk exec work -- ls -l\n"
    "  tar -c src | husk exec -i work -- tar -x\n"
    "  husk exec -it work -- bash\n";

struct exec {
    const char *directory, *timeout;
    int in, tty, detach;
    struct strv environment;
    struct client client;
    char id[80];       /* of the process */
    int signals;
    struct termios saved;
    int raw;
    /* the proc.read that is out */
    char reading[80];
    /* the proc.stdin that is out, if `feeding`; one after the other, so that none is refused */
    char writing[80];
    int feeding, waits; /* waits: the command has much to read yet */
    int64_t look_at;    /* ms */
    int in_open;
    int exit_code, ended;
};

/* One operation with parameters that the caller gives away; its result, or NULL with err set. */
static json_t *
call(struct client *c, const char *method, json_t *params, struct err *err)
{
    scoped(str_free) char *text = json_dumps(params, JSON_COMPACT);
    struct message m = {0};
    struct bytes result;
    json_t *json = NULL;

    json_decref(params);
    if (!text)
        err_set(err, EILSEQ, "an argument is no UTF-8");
    else if (client_call(c, method, bytes_of(text), (struct bytes){0}, 0, &m, &result, err) == 0 &&
             !(json = tree_of(result)))
        err_set(err, EPROTO, "the kernel's answer cannot be read");
    message_release(&m);
    return json;
}

static void
end_raw(struct exec *x)
{
    if (x->raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &x->saved);
    x->raw = 0;
}

static void
begin_raw(struct exec *x)
{
    struct termios raw;

    if (!x->tty || tcgetattr(STDIN_FILENO, &x->saved) < 0)
        return;
    raw = x->saved;
    cfmakeraw(&raw);
    x->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static void
window(int *rows, int *cols)
{
    struct winsize size = {0};

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_row) {
        size.ws_row = 24;
        size.ws_col = 80;
    }
    *rows = size.ws_row;
    *cols = size.ws_col;
}

/* Sends without waiting for the answer, which is passed over. */
static int
tell(struct exec *x, const char *method, json_t *params, struct bytes buffer, char id[static 80],
     struct err *err)
{
    json_t *content = json_pack("{ss so}", "method", method, "params", params);
    scoped(str_free) char *text = json_dumps(content, JSON_COMPACT);

    json_decref(content);
    return client_send(&x->client, CONTROL, "sandbox_request", bytes_of(text), &buffer, buffer.data ? 1 : 0, id,
                       err);
}

static int
read_more(struct exec *x, struct err *err)
{
    return tell(x, "proc.read", json_pack("{ss si}", "id", x->id, "wait_ms", WAIT_MS), (struct bytes){0},
                x->reading, err);
}

/* Our input, one piece. */
static int
feed(struct exec *x, struct err *err)
{
    static uint8_t data[PIECE];
    ssize_t n = x->waits ? 0 : read(STDIN_FILENO, data, sizeof data);
    json_t *params = json_pack("{ss}", "id", x->id);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        json_decref(params);
        return 0;
    }
    if (n <= 0 && !x->waits) {
        json_object_set_new(params, "close", json_true());
        x->in_open = 0;
    }
    x->feeding = 1;
    return tell(x, "proc.stdin", params, (struct bytes){data, n > 0 ? (size_t)n : 0}, x->writing, err);
}

/* A command that does not want more of its input is no failure. */
static void
take_fed(struct exec *x, const struct message *m)
{
    json_t *content = tree_of(message_content(m)), *result = json_object_get(content, "result");

    x->feeding = 0;
    x->waits = json_integer_value(json_object_get(result, "waiting")) > AHEAD;
    x->look_at = now_ms() + LOOK_MS;
    if (!result)
        x->in_open = 0;
    json_decref(content);
}

/* As docker and ssh: it is the command that is signalled; with a terminal the keys say so. */
static int
pass_signals(struct exec *x, struct err *err)
{
    struct signalfd_siginfo info;
    char unused[80];
    int rows, cols;

    while (read(x->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        json_t *params;
        if (info.ssi_signo == SIGWINCH) {
            window(&rows, &cols);
            params = json_pack("{ss si si}", "id", x->id, "rows", rows, "cols", cols);
        } else {
            params = json_pack("{ss si}", "id", x->id, "signal", (int)info.ssi_signo);
        }
        if (info.ssi_signo == SIGWINCH && !x->tty)
            json_decref(params);
        else if (tell(x, info.ssi_signo == SIGWINCH ? "proc.resize" : "proc.kill", params, (struct bytes){0},
                      unused, err) < 0)
            return -1;
    }
    return 0;
}

static int
take_piece(struct exec *x, const struct message *m, struct err *err)
{
    json_t *content = tree_of(message_content(m)), *result = json_object_get(content, "result"), *code;

    if (!result) {
        const char *why = json_string_value(json_object_get(content, "evalue"));
        err_set(err, EIO, "%s", why ? why : "the kernel refused");
        json_decref(content);
        return -1;
    }
    for (int i = 0; i < 2; i++) {
        struct bytes data = message_buffer(m, (size_t)i);
        if (fd_write_all(i ? STDERR_FILENO : STDOUT_FILENO, data.data, data.len) < 0) {
            err_errno(err, "write what it prints");
            x->exit_code = err->code == EPIPE ? 128 + SIGPIPE : 0;
            json_decref(content);
            return -1;
        }
    }
    code = json_object_get(result, "exit_code");
    if (json_is_true(json_object_get(result, "eof")) && json_is_integer(code)) {
        x->exit_code = (int)json_integer_value(code);
        x->ended = 1;
    }
    json_decref(content);
    return x->ended ? 0 : read_more(x, err);
}

static int
relay(struct exec *x, struct err *err)
{
    if (read_more(x, err) < 0)
        return -1;
    while (!x->ended) {
        struct message m = {0};
        int wants = x->in_open && !x->feeding && !x->waits;
        struct pollfd ready[2] = {{.fd = x->signals, .events = POLLIN},
                                  {.fd = wants ? STDIN_FILENO : -1, .events = POLLIN}};
        int r = 0, got = client_next(&x->client, 1u << CONTROL, wants ? STDIN_FILENO : x->signals,
                                     now_ms() + (x->waits ? LOOK_MS : 50), &m, err);
        if (got < 0)
            return -1;
        if (got == 1 && message_is_for(&m, x->reading))
            r = take_piece(x, &m, err);
        else if (got == 1 && x->feeding && message_is_for(&m, x->writing))
            take_fed(x, &m);
        message_release(&m);
        if (r == 0 && x->in_open && x->waits && !x->feeding && now_ms() >= x->look_at)
            r = feed(x, err);
        if (r == 0 && poll(ready, 2, 0) > 0) {
            if (ready[0].revents)
                r = pass_signals(x, err);
            if (r == 0 && ready[1].revents)
                r = feed(x, err);
        }
        if (r < 0)
            return -1;
    }
    return 0;
}

/* Words may be any bytes. */
static int
add_words(const struct exec *x, int argc, char **argv, struct buf *b)
{
    int bad = buf_text(b, ",\"cmd\":[") < 0, n = 0;

    for (int i = 0; !bad && i < argc; i++)
        bad = (i && buf_text(b, ",") < 0) || json_quote_path(bytes_of(argv[i]), b) < 0;
    bad = bad || buf_text(b, "],\"env\":{") < 0;
    for (size_t i = 0; !bad && i < x->environment.len; i++) {
        const char *item = x->environment.item[i], *equals = strchr(item, '=');
        const char *value = equals ? equals + 1 : getenv(item);
        if (value)
            bad = (n++ && buf_text(b, ",") < 0) ||
                  json_quote_path((struct bytes){(const uint8_t *)item, strcspn(item, "=")}, b) < 0 ||
                  buf_text(b, ":") < 0 || json_quote_path(bytes_of(value), b) < 0;
    }
    bad = bad || buf_text(b, "}") < 0;
    if (!bad && x->directory)
        bad = buf_text(b, ",\"dir\":") < 0 || json_quote_path(bytes_of(x->directory), b) < 0;
    return bad ? -1 : 0;
}

static void
make_params(const struct exec *x, int argc, char **argv, struct buf *ret)
{
    int64_t timeout = x->timeout ? seconds_read(x->timeout) : 0;
    int rows, cols;

    window(&rows, &cols);
    if (buf_printf(ret, "{\"tty\":%s,\"stdin\":%s,\"pull\":%s,\"stream\":false,\"rows\":%d,\"cols\":%d,"
                        "\"timeout_ms\":%lld", x->tty ? "true" : "false", x->in || x->tty ? "true" : "false",
                   x->detach ? "false" : "true", rows, cols, (long long)timeout) < 0 ||
        add_words(x, argc, argv, ret) < 0 || buf_text(ret, "}") < 0)
        abort();
}

/* exec.start: its id. -1 with err set. */
static int
start_command(struct exec *x, int argc, char **argv, struct err *err)
{
    scoped(buf_release) struct buf params = {0}, id = {0};
    struct message m = {0};
    struct bytes result, value;
    int r;

    make_params(x, argc, argv, &params);
    r = client_call(&x->client, "exec.start", (struct bytes){params.data, params.len}, (struct bytes){0}, 0,
                    &m, &result, err);
    if (r == 0 && json_get(result, "id", &value) == J_STRING && json_unescape(value, &id) == 0 &&
        buf_string(&id))
        snprintf(x->id, sizeof x->id, "%s", (char *)id.data);
    message_release(&m);
    return r;
}

static int
listen_to_signals(struct exec *x, struct err *err)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < countof(numbers); i++)
        sigaddset(&set, numbers[i]);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    x->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return x->signals < 0 ? err_errno(err, "listen to signals") : 0;
}

/* A command that is not there is no failure of husk. */
static int
code_of_start(const struct err *err)
{
    if (err->code == ENOENT)
        return 127;
    return err->code == EACCES || err->code == ENOEXEC || err->code == ENOTDIR ? 126 : CLI_FAILURE;
}

static int
execute(struct exec *x, int argc, char **argv)
{
    struct err err = {0}, unused;
    char id[80];

    if (listen_to_signals(x, &err) < 0)
        return failed(&err);
    if (start_command(x, argc, argv, &err) < 0) {
        failed(&err);
        return code_of_start(&err);
    }
    if (x->detach) {
        puts(x->id);
        return 0;
    }
    x->in_open = x->in;
    begin_raw(x);
    if (relay(x, &err) < 0) {
        end_raw(x);
        (void)tell(x, "proc.kill", json_pack("{ss si}", "id", x->id, "signal", SIGKILL), (struct bytes){0}, id,
                   &unused);
        return x->exit_code ? x->exit_code : failed(&err);
    }
    end_raw(x);
    return x->exit_code;
}

int
exec_command(int argc, char **argv)
{
    struct exec x = {0};
    const struct flag flags[] = {{"interactive", 'i', .on = &x.in},
                                 {"tty", 't', .on = &x.tty},
                                 {"detach", 'd', .on = &x.detach},
                                 {"workdir", 'w', .value = &x.directory},
                                 {"env", 'e', .list = &x.environment},
                                 {"timeout", 0, .value = &x.timeout},
                                 {0}};
    int n, code;

    if (wants_help(argc, argv, exec_usage))
        return EXIT_OK;
    n = flags_read(argc, argv, flags, NULL, "exec");
    if (n < 0)
        return EXIT_USAGE;
    if (n + 1 < argc && strcmp(argv[n + 1], "--") == 0) {
        char *what = argv[n];
        argv[++n] = what;
    }
    if (n + 1 >= argc || (x.timeout && seconds_read(x.timeout) < 0)) {
        fputs(x.timeout && seconds_read(x.timeout) < 0 ? "husk: --timeout wants seconds\n"
                             : "husk: say which sandbox and which command; see husk exec --help\n", stderr);
        return EXIT_USAGE;
    }
    if (open_sandbox(argv[n], &x.client) < 0)
        return CLI_FAILURE;
    code = execute(&x, argc - n - 1, argv + n + 1);
    client_close(&x.client);
    strv_release(&x.environment);
    return code;
}

/*** ps, logs ***/

static int
print_processes(json_t *list)
{
    json_t *p;
    size_t i;

    printf("%-12s %8s %-8s %9s %10s  %s\n", "ID", "PID", "STATE", "EXIT CODE", "SECONDS", "COMMAND");
    json_array_foreach(list, i, p) {
        json_t *cmd = json_object_get(p, "cmd"), *code = json_object_get(p, "exit_code");
        scoped(str_free) char *text = json_is_string(cmd) ? strdup(json_string_value(cmd)) : json_dumps(cmd, JSON_COMPACT);
        char number[16] = "";
        if (json_is_integer(code))
            snprintf(number, sizeof number, "%d", (int)json_integer_value(code));
        printf("%-12s %8lld %-8s %9s %10.1f  %.60s\n", json_string_value(json_object_get(p, "id")),
               (long long)json_integer_value(json_object_get(p, "pid")),
               json_string_value(json_object_get(p, "state")), number,
               (double)json_integer_value(json_object_get(p, "duration_ms")) / 1000, text);
    }
    return EXIT_OK;
}

int
ps_command(int argc, char **argv)
{
    const char *format = NULL;
    const struct flag flags[] = {{"format", 'o', .value = &format}, {0}};
    struct client c;
    struct err err;
    json_t *result;
    int n;

    if (wants_help(argc, argv, "usage: husk ps [-o json] ID\n\nWhat husk exec -d and exec.start began there.\n"))
        return EXIT_OK;
    n = flags_read_anywhere(argc, argv, flags, "ps");
    if (n < 0 || n + 1 != argc || is_format(format) < 0) {
        if (n >= 0 && n + 1 != argc)
            fputs("husk: say which sandbox; see husk ls\n", stderr);
        return EXIT_USAGE;
    }
    if (format && strcmp(format, "table") == 0)
        format = NULL;
    if (open_sandbox(argv[n], &c) < 0)
        return CLI_FAILURE;
    result = call(&c, "proc.list", json_object(), &err);
    client_close(&c);
    if (!result)
        return failed(&err);
    if (format)
        json_dumpf(json_object_get(result, "processes"), stdout, JSON_COMPACT);
    else
        print_processes(json_object_get(result, "processes"));
    if (format)
        putchar('\n');
    json_decref(result);
    return EXIT_OK;
}

/* The bytes of a stream: as text, or exactly, in the buffer that "buffers" names. */
static struct bytes
output_of(json_t *result, const struct message *m, const char *name)
{
    json_t *text = json_object_get(result, name), *names = json_object_get(result, "buffers"), *n;
    size_t i;

    json_array_foreach(names, i, n)
        if (strcmp(json_string_value(n), name) == 0)
            return message_buffer(m, i);
    return (struct bytes){(const uint8_t *)json_string_value(text), json_string_length(text)};
}

struct followed {
    char *id;
    long long seen[2]; /* bytes of stdout and stderr */
    int ended;
};

/* With several, a line says whose output comes next, as tail(1) does. */
static void
head(const char *id, json_t *cmd, const char **last)
{
    scoped(str_free) char *text = json_is_string(cmd) ? strdup(json_string_value(cmd)) : json_dumps(cmd, JSON_COMPACT);

    if (*last == id)
        return;
    printf("%s==> %s: %.60s <==\n", *last ? "\n" : "", id, text ? text : "");
    fflush(stdout);
    *last = id;
}

/* What is new of each stream. With `last`, under a head. */
static int
show_new(struct client *c, struct followed *f, json_t *cmd, const char **last, int again, struct err *err)
{
    struct message m = {0};
    struct bytes result;
    json_t *json = json_pack("{ss}", "id", f->id);
    scoped(str_free) char *text = json_dumps(json, 0);
    int r = 0;

    json_decref(json);
    if (client_call(c, "proc.logs", bytes_of(text), (struct bytes){0}, now_ms() + ASK_MS, &m, &result, err) < 0)
        return -1;
    json = tree_of(result);
    for (int i = 0; json && i < 2 && r == 0; i++) {
        struct bytes part = output_of(json, &m, i ? "stderr" : "stdout");
        long long dropped = json_integer_value(json_object_get(json, i ? "stderr_dropped" : "stdout_dropped"));
        long long len = (long long)part.len, skip = f->seen[i] - dropped;
        if (skip < 0 && again)
            fprintf(stderr, "husk: %lld bytes of %s are not kept any more\n", -skip, i ? "stderr" : "stdout");
        skip = skip < 0 ? 0 : skip > len ? len : skip;
        if (last && len > skip)
            head(f->id, cmd, last);
        if (fd_write_all(i ? STDERR_FILENO : STDOUT_FILENO, part.data + skip, (size_t)(len - skip)) < 0)
            r = err_errno(err, "write what it printed");
        f->seen[i] = dropped + len;
    }
    f->ended = strcmp(json_string_value(json_object_get(json, "state")) ?: "", "running") != 0;
    if (!json)
        r = err_set(err, EPROTO, "the kernel's answer cannot be read");
    json_decref(json);
    message_release(&m);
    return r;
}

static int
follow(struct client *c, const char *id, int again, struct err *err)
{
    struct followed f = {.id = (char *)id};

    do
        if (show_new(c, &f, NULL, NULL, again, err) < 0)
            return err->code == EPIPE ? 0 : -1; /* who read it has seen enough */
    while (again && !f.ended && poll(NULL, 0, 200) == 0);
    return 0;
}

static struct followed *
followed_of(struct followed **list, size_t *n, const char *id)
{
    struct followed *more;

    for (size_t i = 0; i < *n; i++)
        if (strcmp((*list)[i].id, id) == 0)
            return &(*list)[i];
    more = realloc(*list, (*n + 1) * sizeof *more);
    if (!more)
        abort();
    *list = more;
    more[*n] = (struct followed){.id = strdup(id)};
    return &more[(*n)++];
}

/* All of them; again, those that begin later as well, until it is interrupted. */
static int
follow_all(struct client *c, int again, struct err *err)
{
    struct followed *list = NULL;
    const char *last = NULL;
    size_t n = 0, i;
    int r = 0;

    do {
        json_t *result = call(c, "proc.list", json_object(), err), *p;
        r = result ? 0 : -1;
        json_array_foreach(json_object_get(result, "processes"), i, p) {
            struct followed *f = followed_of(&list, &n, json_string_value(json_object_get(p, "id")) ?: "");
            if (r == 0 && !f->ended)
                r = show_new(c, f, json_object_get(p, "cmd"), &last, again, err);
        }
        json_decref(result);
    } while (r == 0 && again && poll(NULL, 0, 200) == 0);
    for (i = 0; i < n; i++)
        free(list[i].id);
    free(list);
    return r < 0 && err->code == EPIPE ? 0 : r;
}

static const char logs_usage[] =
    "usage: husk logs [-f] ID [PROCESS]\n"
    "\n"
    "The end of what a process printed, or of what each did, under a line with its name. -f: goes on until it\n"
    "ends; without PROCESS, until it is interrupted.\n"
    "\n"
    "  husk logs -f work p1\n";

int
logs_command(int argc, char **argv)
{
    int again = 0;
    const struct flag flags[] = {{"follow", 'f', .on = &again}, {0}};
    struct client c;
    struct err err;
    int n, r;

    if (wants_help(argc, argv, logs_usage))
        return EXIT_OK;
    n = flags_read_anywhere(argc, argv, flags, "logs");
    if (n < 0 || argc - n < 1 || argc - n > 2) {
        if (n >= 0)
            fputs("husk: say which sandbox, and which process if not all; see husk ps\n", stderr);
        return EXIT_USAGE;
    }
    signal(SIGPIPE, SIG_IGN);
    if (open_sandbox(argv[n], &c) < 0)
        return CLI_FAILURE;
    r = argc - n == 2 ? follow(&c, argv[n + 1], again, &err) : follow_all(&c, again, &err);
    client_close(&c);
    return r < 0 ? failed(&err) : EXIT_OK;
}
