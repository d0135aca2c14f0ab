/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/process.h"
#include "kernel/exits.h"

#define GRACE_MS 3000       /* an interrupted cell has so long */
#define CODE_MAX (64u << 20) /* bytes */

static const char usage[] =
    "usage: husk run [options] [sandbox options] FILE.py | - | -c CODE  [ARGUMENT]...\n"
    "       husk run [options] [sandbox options] FILE.ipynb\n"
    "\n"
    "Runs Python in a fresh sandbox and shows what it prints while it runs. Profile strict, if no other\n"
    "is named: it sees nothing of yours but what --mount shows.\n"
    "\n"
    "  -c CODE          the code itself; - reads it from standard input. Arguments are in sys.argv\n"
    "  --timeout S      interrupt it after S seconds, then end it; exit code 124\n"
    "  -o json          one record at the end: what was printed, outputs, error, usage\n"
    "  --output FILE    where an executed notebook goes (default: in place)\n"
    "  --keep           leave the sandbox running; its id is said on stderr\n"
    "  --name NAME      what husk ls calls it\n"
    "\n"
    "Sandbox options: husk kernel --help. Exit code: that of the code (sys.exit), 1 for an error that was\n"
    "not caught, 128 and the signal that ended it, 124 after --timeout, 125 if husk itself failed.\n"
    "\n"
    "  husk run -c 'print(6 * 7)'\n"
    "  husk run --memory 512m --timeout 10 script.py --fast input.csv\n"
    "  husk run --mount ./data --allow pypi.org analysis.ipynb --output done.ipynb\n";

struct run {
    const char *code, *format, *output, *name, *timeout;
    int keep;
    int json;
    struct strv options;
    struct started kernel;
    struct client client;
    int signals;
    /* of the cell that runs */
    char id[80];
    int64_t end;       /* ms: the deadline, then that of the interrupt; 0: none */
    int interrupted, timed_out, signal;
    json_t *outputs;   /* of the cell, as a notebook has them; NULL: none are kept */
    json_t *joining;   /* its last one, if that is a stream: text follows */
    struct buf joined; /* of it */
    struct buf text[2]; /* what was printed, for -o json */
    json_t *error, *usage;
    int count;
    int exit_code;
};

/*** Outputs ***/

static void
write_text(int fd, struct bytes text)
{
    if (fd_write_all(fd, text.data, text.len) == 0)
        return;
    if (errno == EPIPE)
        exit(128 + SIGPIPE); /* the kernel sees that its parent is gone */
    if (fd == STDOUT_FILENO) {
        fprintf(stderr, "husk: write what it prints: %s\n", strerror(errno));
        exit(CLI_FAILURE);
    }
}

/* Colours only for a terminal. */
static void
write_traceback(json_t *lines)
{
    int plain = !isatty(STDERR_FILENO);
    json_t *line;
    size_t i;

    json_array_foreach(lines, i, line) {
        const char *c = json_string_value(line);
        for (; c && *c; c++) {
            if (plain && c[0] == '\033' && c[1] == '[') {
                c += 2;
                while (*c && (*c < '@' || *c > '~'))
                    c++;
                if (!*c)
                    break;
                continue;
            }
            fputc(*c, stderr);
        }
        fputc('\n', stderr);
    }
}

static void
end_stream(struct run *r)
{
    if (r->joining)
        json_object_set_new(r->joining, "text", json_stringn((char *)r->joined.data, r->joined.len));
    r->joining = NULL;
    r->joined.len = 0;
}

/* Pieces of one stream that follow one another are one output, as nbclient writes them. */
static void
join_stream(struct run *r, const char *name, struct bytes text)
{
    if (r->joining && strcmp(json_string_value(json_object_get(r->joining, "name")), name) != 0)
        end_stream(r);
    if (!r->joining) {
        r->joining = json_pack("{ss ss ss}", "output_type", "stream", "name", name, "text", "");
        json_array_append_new(r->outputs, r->joining);
    }
    if (buf_add(&r->joined, text.data, text.len) < 0)
        abort();
}

static void
on_stream(struct run *r, json_t *content)
{
    const char *name = json_string_value(json_object_get(content, "name"));
    json_t *text = json_object_get(content, "text");
    struct bytes bytes = {(const uint8_t *)json_string_value(text), json_string_length(text)};
    int which = name && strcmp(name, "stderr") == 0;

    if (!r->json && !r->outputs)
        write_text(which ? STDERR_FILENO : STDOUT_FILENO, bytes);
    else if (buf_add(&r->text[which], bytes.data, bytes.len) < 0)
        abort();
    if (r->outputs)
        join_stream(r, which ? "stderr" : "stdout", bytes);
}

static void
on_output(struct run *r, const char *type, json_t *content)
{
    json_t *data = json_object_get(content, "data"), *output;
    const char *text = json_string_value(json_object_get(data, "text/plain"));

    if (!r->outputs) {
        if (!r->json && strcmp(type, "display_data") == 0 && text) {
            write_text(STDOUT_FILENO, bytes_of(text));
            write_text(STDOUT_FILENO, BYTES("\n"));
        }
        return;
    }
    end_stream(r);
    output = json_pack("{ss sO sO}", "output_type", type, "data", data, "metadata", json_object_get(content, "metadata"));
    if (strcmp(type, "execute_result") == 0)
        json_object_set(output, "execution_count", json_object_get(content, "execution_count"));
    json_array_append_new(r->outputs, output);
}

static void
on_error(struct run *r, json_t *content)
{
    const char *name = json_string_value(json_object_get(content, "ename"));
    int is_exit = name && strcmp(name, "SystemExit") == 0;

    json_decref(r->error);
    r->error = json_incref(content);
    if (!r->json && !r->outputs && !is_exit)
        write_traceback(json_object_get(content, "traceback"));
    end_stream(r);
    if (r->outputs)
        json_array_append_new(r->outputs, json_pack("{ss sO sO sO}", "output_type", "error", "ename",
                                                    json_object_get(content, "ename"), "evalue",
                                                    json_object_get(content, "evalue"), "traceback",
                                                    json_object_get(content, "traceback")));
}

static void
take_iopub(struct run *r, const struct message *m)
{
    scoped(buf_release) struct buf type = {0};
    json_t *content = tree_of(message_content(m));

    if (json_unescape(m->msg.msg_type, &type) < 0 || !buf_string(&type))
        abort();
    if (strcmp((char *)type.data, "stream") == 0)
        on_stream(r, content);
    else if (strcmp((char *)type.data, "display_data") == 0 || strcmp((char *)type.data, "execute_result") == 0)
        on_output(r, (char *)type.data, content);
    else if (strcmp((char *)type.data, "error") == 0)
        on_error(r, content);
    json_decref(content);
}

/*** A cell ***/

static void
interrupt(struct run *r, int64_t now)
{
    char id[80];
    struct err unused;

    (void)client_send(&r->client, CONTROL, "interrupt_request", BYTES("{}"), NULL, 0, id, &unused);
    r->interrupted = 1;
    r->end = now + GRACE_MS;
}

/* A signal, or the deadline: first an interrupt, the second time the end. 1: it is over. */
static int
in_time(struct run *r)
{
    struct signalfd_siginfo info;
    int64_t now = now_ms();
    int again = 0;

    while (read(r->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        again = r->signal != 0 || info.ssi_signo != SIGINT;
        r->signal = (int)info.ssi_signo;
        if (!r->interrupted)
            interrupt(r, now);
    }
    if (again)
        return 1;
    if (!r->end || now < r->end)
        return 0;
    if (r->interrupted)
        return 1;
    r->timed_out = 1;
    interrupt(r, now);
    return 0;
}

/* What a person at a terminal is asked; others get an end of file. */
static int
answer_input(struct run *r, const struct message *m, struct err *err)
{
    scoped(buf_release) struct buf content = {0}, prompt = {0};
    scoped(str_free) char *line = NULL;
    struct bytes value;
    size_t size = 0;
    char id[80];
    ssize_t n;

    if (json_get(message_content(m), "prompt", &value) == J_STRING && json_unescape(value, &prompt) == 0)
        write_text(STDERR_FILENO, (struct bytes){prompt.data, prompt.len});
    n = getline(&line, &size, stdin);
    if (n > 0 && line[n - 1] == '\n')
        n--;
    if (buf_text(&content, "{\"value\":") < 0 ||
        json_quote((struct bytes){(uint8_t *)line, n > 0 ? (size_t)n : 0}, &content) < 0 ||
        buf_text(&content, "}") < 0)
        abort();
    return client_send(&r->client, STDIN, "input_reply", (struct bytes){content.data, content.len}, NULL, 0, id,
                       err);
}

static int
status_of_exit(const char *value)
{
    char *end;
    long n;

    if (!value || !*value || strcmp(value, "None") == 0)
        return 0;
    n = strtol(value, &end, 10);
    if (*end) { /* sys.exit("text"): as Python, the text and 1 */
        fprintf(stderr, "%s\n", value);
        return 1;
    }
    return (int)(n & 255);
}

/* From the words of the kernel; what they do not say was killed (by a limit). */
static int
status_of_death(const char *value)
{
    const char *status = strstr(value, "exited with status "), *number = strstr(value, "killed by signal ");

    return status ? atoi(status + 19) : 128 + (number ? atoi(number + 17) : SIGKILL);
}

static void
take_reply(struct run *r, const struct message *m)
{
    json_t *content = tree_of(message_content(m)), *metadata = tree_of(m->msg.part[WIRE_METADATA]);
    const char *status = json_string_value(json_object_get(content, "status"));
    const char *name = json_string_value(json_object_get(content, "ename"));
    const char *value = json_string_value(json_object_get(content, "evalue"));

    r->count = (int)json_integer_value(json_object_get(content, "execution_count"));
    json_decref(r->usage);
    r->usage = json_incref(json_object_get(metadata, "usage"));
    if (status && strcmp(status, "ok") == 0)
        r->exit_code = 0;
    else if (name && strcmp(name, "SystemExit") == 0)
        r->exit_code = status_of_exit(value);
    else if (name && strcmp(name, "InterpreterDied") == 0)
        r->exit_code = status_of_death(value ? value : "");
    else if ((status && strcmp(status, "aborted") == 0) || (name && strcmp(name, "ShuttingDown") == 0))
        r->exit_code = CLI_FAILURE; /* the kernel ended; it says why */
    else
        r->exit_code = 1;
    if (r->timed_out)
        r->exit_code = CLI_TIMEOUT;
    else if (r->signal && r->exit_code)
        r->exit_code = 128 + r->signal;
    json_decref(content);
    json_decref(metadata);
}

/* Until reply and idle have come. 0, or -1 with err set. */
static int
await_cell(struct run *r, struct err *err)
{
    int replied = 0, idle = 0;

    while (!replied || !idle) {
        struct message m = {0};
        struct bytes state;
        int got = client_next(&r->client, 1u << SHELL | 1u << IOPUB | 1u << STDIN, r->signals, r->end, &m, err);
        if (got < 0)
            return -1;
        if (got == 0 && in_time(r)) {
            r->exit_code = r->timed_out ? CLI_TIMEOUT : 128 + r->signal;
            return err_set(err, ETIMEDOUT, "it did not obey, and was ended");
        }
        if (got == 1 && message_is_for(&m, r->id)) {
            if (m.channel == STDIN && answer_input(r, &m, err) < 0)
                return -1;
            if (m.channel == SHELL) {
                take_reply(r, &m);
                replied = 1;
            } else if (json_string_is(m.msg.msg_type, "status")) {
                idle = json_get(message_content(&m), "execution_state", &state) == J_STRING &&
                       json_string_is(state, "idle");
            } else if (m.channel == IOPUB) {
                take_iopub(r, &m);
            }
        }
        message_release(&m);
    }
    return 0;
}

static int
run_cell(struct run *r, struct bytes code, struct err *err)
{
    scoped(buf_release) struct buf content = {0};
    int status;

    if (buf_text(&content, "{\"code\":") < 0 || json_quote(code, &content) < 0 ||
        buf_printf(&content, ",\"silent\":false,\"store_history\":true,\"user_expressions\":{},"
                             "\"allow_stdin\":%s,\"stop_on_error\":true}",
                   strcmp(r->code, "-") == 0 ? "false" : "true") < 0)
        return err_errno(err, "run the code");
    if (client_send(&r->client, SHELL, "execute_request", (struct bytes){content.data, content.len}, NULL, 0,
                    r->id, err) < 0)
        return -1;
    status = await_cell(r, err);
    end_stream(r);
    return status;
}

/*** What to run ***/

static int
read_code(const struct run *r, int is_text, struct buf *ret, struct err *err)
{
    char piece[65536];
    size_t n;

    if (is_text)
        return buf_text(ret, r->code) < 0 ? err_errno(err, "read the code") : 0;
    if (strcmp(r->code, "-") != 0)
        return file_read(AT_FDCWD, r->code, CODE_MAX, ret) < 0 ? err_errno(err, "read '%s'", r->code) : 0;
    while ((n = fread(piece, 1, sizeof piece, stdin)) > 0)
        if (buf_add(ret, piece, n) < 0)
            return err_errno(err, "read the code");
    return 0;
}

static int
join_source(json_t *source, struct buf *ret)
{
    json_t *line;
    size_t i;

    if (json_is_string(source))
        return buf_add(ret, json_string_value(source), json_string_length(source));
    json_array_foreach(source, i, line)
        if (buf_add(ret, json_string_value(line), json_string_length(line)) < 0)
            return -1;
    return 0;
}

static int
write_notebook(const struct run *r, json_t *notebook, struct err *err)
{
    const char *path = r->output ? r->output : r->code;
    scoped(str_free) char *fresh = NULL;

    if (asprintf(&fresh, "%s.new", path) < 0)
        return err_errno(err, "write '%s'", path);
    if (json_dump_file(notebook, fresh, JSON_INDENT(1) | JSON_ENSURE_ASCII) < 0 || rename(fresh, path) < 0) {
        unlink(fresh);
        return err_errno(err, "write '%s'", path);
    }
    return 0;
}

/* Cell by cell, as nbclient: it ends with the first error, and what ran is written all the same. */
static int
run_notebook(struct run *r, struct bytes text, struct err *err)
{
    json_error_t why;
    json_t *notebook = json_loadb((const char *)text.data, text.len, JSON_ALLOW_NUL, &why), *cells, *cell;
    size_t i, n, code = 0, done = 0;
    int status = 0;

    cells = json_object_get(notebook, "cells");
    if (!json_is_array(cells)) {
        json_decref(notebook);
        return err_set(err, EINVAL, "'%s' is no notebook (nbformat 4)", r->code);
    }
    n = json_array_size(cells);
    json_array_foreach(cells, i, cell)
        code += strcmp(json_string_value(json_object_get(cell, "cell_type")) ?: "", "code") == 0;
    for (i = 0; i < n && status == 0 && r->exit_code == 0; i++) {
        scoped(buf_release) struct buf source = {0};
        const char *type;
        cell = json_array_get(cells, i);
        type = json_string_value(json_object_get(cell, "cell_type"));
        if (!type || strcmp(type, "code") != 0)
            continue;
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\rcell %zu of %zu", ++done, code);
        if (join_source(json_object_get(cell, "source"), &source) < 0)
            abort();
        r->outputs = json_array();
        status = run_cell(r, (struct bytes){source.data, source.len}, err);
        json_object_set_new(cell, "outputs", r->outputs);
        json_object_set_new(cell, "execution_count", r->count ? json_integer(r->count) : json_null());
    }
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
    r->outputs = NULL;
    if (r->error && r->exit_code && !r->json)
        write_traceback(json_object_get(r->error, "traceback"));
    if (status == 0)
        status = write_notebook(r, notebook, err);
    json_decref(notebook);
    return status;
}

static void
print_record(struct run *r, int64_t took)
{
    json_t *record = json_pack("{ss si sI}", "status", r->exit_code == 0 ? "ok" : "error", "exit_code", r->exit_code,
                               "duration_ms", (json_int_t)took);

    json_object_set_new(record, "timed_out", json_boolean(r->timed_out));
    for (int i = 0; i < 2; i++)
        json_object_set_new(record, i ? "stderr" : "stdout",
                            json_stringn(r->text[i].data ? (char *)r->text[i].data : "", r->text[i].len));
    json_object_set(record, "outputs", r->outputs);
    json_object_set_new(record, "error", r->error ? json_incref(r->error) : json_null());
    json_object_set_new(record, "usage", r->usage ? json_incref(r->usage) : json_null());
    json_dumpf(record, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
    putchar('\n');
    json_decref(record);
}

static int
ends_with(const char *text, const char *end)
{
    return strlen(text) >= strlen(end) && strcmp(text + strlen(text) - strlen(end), end) == 0;
}

static int
is_option(const struct strv *v, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < v->len; i++)
        if (strncmp(v->item[i], name, len) == 0 && (!v->item[i][len] || v->item[i][len] == '='))
            return 1;
    return 0;
}

/* While the sandbox was being made. */
static int
say_signal(struct run *r)
{
    struct signalfd_siginfo info;

    if (read(r->signals, &info, sizeof info) == (ssize_t)sizeof info)
        r->signal = (int)info.ssi_signo;
    r->exit_code = 128 + r->signal;
    return -1;
}

static int
run_all(struct run *r, int is_text, struct err *err)
{
    scoped(buf_release) struct buf code = {0};
    int64_t timeout = r->timeout ? seconds_read(r->timeout) : 0, began;
    int status;

    if (read_code(r, is_text, &code, err) < 0 || process_signals(&r->signals, err) < 0 ||
        start_kernel(&r->options, r->name, r->keep, r->signals, &r->kernel, &r->client, err) < 0)
        return err->code == EINTR ? say_signal(r) : -1;
    if (r->keep)
        client_let_live(&r->client);
    began = now_ms();
    r->end = timeout ? began + timeout : 0;
    if (!is_text && ends_with(r->code, ".ipynb")) {
        status = run_notebook(r, (struct bytes){code.data, code.len}, err);
    } else {
        r->outputs = r->json ? json_array() : NULL;
        status = run_cell(r, (struct bytes){code.data, code.len}, err);
    }
    if (r->json && (status == 0 || r->exit_code))
        print_record(r, now_ms() - began);
    return status;
}

/* sys.argv of the code, as a variable that the interpreter takes away; and the sign that sys.exit() is meant here, so
 * that IPython has no advice for whoever types at it. */
static int
add_arguments(struct run *r, const char *name, char *const rest[], size_t n)
{
    scoped(buf_release) struct buf text = {0};

    if (buf_text(&text, "--env=HUSK_RUN=[") < 0 || json_quote_path(bytes_of(name), &text) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (buf_text(&text, ",") < 0 || json_quote_path(bytes_of(rest[i]), &text) < 0)
            return -1;
    return buf_text(&text, "]") < 0 ? -1 : strv_add(&r->options, buf_string(&text));
}

static void
release_run(struct run *r)
{
    strv_release(&r->options);
    json_decref(r->outputs);
    json_decref(r->error);
    json_decref(r->usage);
    for (int i = 0; i < 2; i++)
        buf_release(&r->text[i]);
    buf_release(&r->joined);
    fd_close(&r->signals);
}

int
run_command(int argc, char **argv)
{
    scoped(release_run) struct run r = {.signals = -1, .client = CLIENT_NONE};
    const char *code = NULL;
    const struct flag flags[] = {{"code", 'c', .value = &code},
                                 {"timeout", 0, .value = &r.timeout},
                                 {"format", 'o', .value = &r.format},
                                 {"output", 0, .value = &r.output},
                                 {"name", 0, .value = &r.name},
                                 {"keep", 0, .on = &r.keep},
                                 {0}};
    struct err err = {0};
    int n, status;

    if (wants_help(argc, argv, usage))
        return EXIT_OK;
    n = flags_read(argc, argv, flags, &r.options, "run");
    if (n < 0)
        return EXIT_USAGE;
    if ((!code && n == argc) || (!code && ends_with(argv[n], ".ipynb") && argc > n + 1) ||
        (r.format && strcmp(r.format, "json") != 0) ||
        (r.timeout && seconds_read(r.timeout) < 0)) {
        fputs(r.timeout && seconds_read(r.timeout) < 0 ? "husk: --timeout wants seconds\n"
              : r.format && strcmp(r.format, "json") != 0 ? "husk: -o knows json only\n"
              : n < argc ? "husk: a notebook takes no arguments; options stand before it\n"
                                 : "husk: say what to run: a file, -c CODE, or -; see husk run --help\n", stderr);
        return EXIT_USAGE;
    }
    if (options_check(&r.options, r.name) < 0)
        return EXIT_USAGE;
    r.code = code ? code : argv[n];
    r.json = r.format != NULL;
    if (!is_option(&r.options, "--profile") && (strv_add(&r.options, "--profile") < 0 ||
                                                strv_add(&r.options, "strict") < 0))
        abort();
    if (!is_option(&r.options, "--log-level") && strv_add(&r.options, "--log-level=error") < 0)
        abort();
    if (add_arguments(&r, code ? "-c" : argv[n], argv + n + !code, (size_t)(argc - n - !code)) < 0)
        abort();
    status = run_all(&r, code != NULL, &err);
    fflush(stdout);
    if (status < 0) {
        if (!r.exit_code)
            r.exit_code = err.code == EXIT_USAGE && !r.kernel.pid ? EXIT_USAGE : CLI_FAILURE;
        if (!r.signal)
            failed(&err);
    }
    if (r.keep && r.kernel.pid && status == 0)
        fprintf(stderr, "husk: the sandbox stays: %s\n", r.kernel.id);
    else if (r.kernel.pid)
        end_kernel(&r.kernel, &r.client);
    client_close(&r.client);
    return r.exit_code;
}
