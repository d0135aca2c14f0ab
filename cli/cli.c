/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/process.h"
#include "kernel/exits.h"
#include "kernel/options.h"
#include "kernel/paths.h"

#define END_MS 5000
#define FRONT_FD 3 /* in the kernel */

extern char **environ;

/*** The command line ***/

int
wants_help(int argc, char **argv, const char *text)
{
    if (argc < 1 || (strcmp(argv[0], "-h") != 0 && strcmp(argv[0], "--help") != 0))
        return 0;
    fputs(text, stdout);
    return 1;
}

static const struct flag *
find_flag(const struct flag *flags, const char *word, const char **value)
{
    size_t len = strcspn(word, "=");

    *value = word[len] == '=' ? word + len + 1 : NULL;
    for (; flags->name; flags++)
        if (strncmp(word, "--", 2) == 0 && strlen(flags->name) == len - 2 &&
            strncmp(word + 2, flags->name, len - 2) == 0)
            return flags;
        else if (word[0] == '-' && word[1] == flags->letter && flags->letter && !word[2])
            return flags;
    return NULL;
}

/* -it: letters of switches together. */
static int
take_letters(const char *word, const struct flag *flags)
{
    if (word[0] != '-' || word[1] == '-' || !word[1])
        return 0;
    for (const char *c = word + 1; *c; c++) {
        const struct flag *f = flags;
        while (f->name && f->letter != *c)
            f++;
        if (!f->name || !f->on)
            return 0;
        *f->on = 1;
    }
    return 1;
}

int
flags_read(int argc, char **argv, const struct flag *flags, struct strv *rest, const char *command)
{
    int i = 0;

    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        const char *value;
        const struct flag *f = find_flag(flags, argv[i], &value);
        if (strcmp(argv[i], "--") == 0)
            return i + 1;
        if (!f && take_letters(argv[i], flags))
            continue;
        if (!f && !rest) {
            fprintf(stderr, "husk: there is no option '%s'; see husk %s --help\n", argv[i], command);
            return -1;
        }
        if (f && f->on && !value) {
            *f->on = 1;
            continue;
        }
        if (!f && strv_add(rest, argv[i]) < 0)
            abort();
        if (!value && (f || !strchr(argv[i], '=')) && i + 1 < argc) {
            value = argv[++i];
            if (!f && strv_add(rest, value) < 0)
                abort();
        } else if (!value) {
            fprintf(stderr, "husk: option '%s' needs a value\n", argv[i]);
            return -1;
        }
        if (f && f->value)
            *f->value = value;
        else if (f && f->list && strv_add(f->list, value) < 0)
            abort();
    }
    return i;
}

int
flags_read_anywhere(int argc, char **argv, const struct flag *flags, const char *command)
{
    int operands = 0, i = 0;

    for (; i < argc; i++, operands++) {
        char **from = argv + i;
        int n = flags_read(argc - i, from, flags, NULL, command);
        if (n < 0)
            return -1;
        for (int k = 0; k < n; k++) { /* in front of the operands that came before */
            char *word = from[k];
            memmove(from + k - operands + 1, from + k - operands, (size_t)operands * sizeof *from);
            from[k - operands] = word;
        }
        i += n;
        if (i == argc || (n && strcmp(argv[i - operands - 1], "--") == 0))
            break;
    }
    return i - operands;
}

int
options_check(const struct strv *options, const char *name)
{
    struct options o;
    struct err err;
    int r = options_read((int)options->len, options->item, 1, &o, &err);

    if (r == 0)
        options_release(&o);
    if (r == 0 && name && !registry_is_name(name))
        r = err_set(&err, EINVAL, "--name '%s' is no name of letters, digits, '.', '_' and '-'", name);
    if (r < 0)
        failed(&err);
    return r;
}

int
is_format(const char *format)
{
    if (!format || strcmp(format, "json") == 0 || strcmp(format, "table") == 0)
        return 0;
    fprintf(stderr, "husk: -o knows json and table, not '%s'\n", format);
    return -1;
}

int64_t
seconds_read(const char *text)
{
    char *end;
    double s = strtod(text, &end);

    return end == text || *end || !(s > 0) || s > 1e9 ? -1 : (int64_t)(s * 1000);
}

int
failed(const struct err *err)
{
    fprintf(stderr, "husk: %s\n", err->text);
    return CLI_FAILURE;
}

/* Is there \uXXXX at text, and which? -1: there is not. */
static long
escape_at(const char *text, size_t len)
{
    char hex[5] = "";

    if (len < 6 || text[0] != '\\' || text[1] != 'u')
        return -1;
    memcpy(hex, text + 2, 4);
    return strtol(hex, NULL, 16);
}

json_t *
tree_of(struct bytes json)
{
    scoped(buf_release) struct buf copy = {0};
    char *text;

    if (buf_add(&copy, json.data, json.len) < 0 || !buf_string(&copy))
        abort();
    text = (char *)copy.data;
    for (size_t i = 0; i < copy.len; i++) {
        long unit = escape_at(text + i, copy.len - i), low;
        if (text[i] != '\\')
            continue;
        low = unit >= 0xd800 && unit < 0xdc00 ? escape_at(text + i + 6, copy.len - i - 6) : -1;
        if (low >= 0xdc00 && low < 0xe000)
            i += 11;
        else if (unit >= 0xd800 && unit < 0xe000)
            memcpy(text + i + 2, "fffd", 4);
        else
            i++;
    }
    return json_loadb(text, copy.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
}

void
print_json(struct bytes json)
{
    fwrite(json.data, 1, json.len, stdout);
    putchar('\n');
}

/*** Sandboxes ***/

int
open_sandbox(const char *what, struct client *ret)
{
    struct registry_list list;
    const struct registry_entry *e;
    struct err err;
    int r = -1;

    if (registry_read(&list, &err) < 0) {
        failed(&err);
        return -1;
    }
    e = registry_find(&list, what, &err);
    if (e && client_open(e, ret, &err) == 0)
        r = 0;
    else if (e)
        err_wrap(&err, "%s", e->id);
    if (r < 0)
        failed(&err);
    registry_release(&list);
    return r;
}

static int
spawn_kernel(const struct strv *options, const char *name, int stays, int front, struct started *s, struct err *err)
{
    scoped(strv_release) struct strv argv = {0};
    const struct process_fd fds[] = {
        PROCESS_NO_INPUT, PROCESS_NO_OUTPUT, {.as = FRONT_FD, .fd = front},
        stays ? (struct process_fd){.as = 2, .path = s->log, .flags = O_WRONLY | O_CREAT | O_EXCL | O_APPEND}
              : (struct process_fd)PROCESS_END,
        PROCESS_END};
    char parent[32];
    int bad = strv_add(&argv, paths_kernel()) < 0 || strv_add(&argv, "kernel") < 0 ||
              strv_add(&argv, "-f") < 0 || strv_add(&argv, s->file) < 0 || strv_addf(&argv, "--front=%d", FRONT_FD) < 0;

    for (size_t i = 0; !bad && i < options->len; i++)
        bad = strv_add(&argv, options->item[i]) < 0;
    if (!bad && name)
        bad = strv_addf(&argv, "--name=%s", name) < 0;
    if (bad)
        return err_errno(err, "start a kernel");
    snprintf(parent, sizeof parent, "%d", (int)getpid());
    if (stays)
        unsetenv("JPY_PARENT_PID");
    else
        setenv("JPY_PARENT_PID", parent, 1);
    if (stays)
        snprintf(s->log, sizeof s->log, "%.*s.log", (int)(strlen(s->file) - strlen(".connection")), s->file);
    return process_spawn(argv.item, environ, fds, PROCESS_OF_ITS_OWN, &s->pid, err);
}

/* Waits for its end, then ends it. Its status, or -1. */
static int
await_end(struct started *s)
{
    scoped(fd_close) int pidfd = s->pid > 0 ? (int)syscall(SYS_pidfd_open, s->pid, 0) : -1;
    struct pollfd gone = {.fd = pidfd, .events = POLLIN};
    int64_t end = now_ms() + END_MS;
    int status = -1;

    while (s->pid > 0 && now_ms() < end) {
        if (waitpid(s->pid, &status, WNOHANG) != 0)
            s->pid = 0;
        else
            poll(&gone, 1, pidfd >= 0 ? 100 : 2);
    }
    if (s->pid > 0)
        pid_end(&s->pid);
    return status;
}

/* It ends, and says why on stderr. */
static int
tell_end(struct started *s, struct err *err)
{
    int status = await_end(s);

    return err_set(err, status != -1 && WIFEXITED(status) ? WEXITSTATUS(status) : CLI_FAILURE,
                   "the sandbox did not start");
}

static int
await_built(struct started *s, struct client *c, int signals, struct err *err)
{
    for (;;) {
        struct pollfd p[2] = {{.fd = c->front.socket, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
        struct frame f;
        int r = front_next(&c->front, &f, err);

        if (r < 0)
            return -1;
        if (r > 0 && f.number == FRONT_BUILT) {
            struct bytes id = frame_part(&f, 0);
            snprintf(s->id, sizeof s->id, "%.*s", (int)id.len, (const char *)id.data);
            return 0;
        }
        if (r > 0)
            continue;
        if (c->front.ended)
            return tell_end(s, err);
        if (poll(p, 2, -1) > 0 && p[1].revents)
            return err_set(err, EINTR, "it was interrupted before the sandbox was there");
    }
}

void
show_log(const struct started *s)
{
    scoped(buf_release) struct buf text = {0};

    if (*s->log && file_read(AT_FDCWD, s->log, 1 << 20, &text) == 0)
        (void)fd_write_all(STDERR_FILENO, text.data, text.len);
}

static int
is_taken(const char *name, struct err *err)
{
    struct registry_list list;
    int taken = registry_read(&list, err) < 0;

    for (size_t i = 0; !taken && i < list.len; i++)
        if (strcmp(list.entry[i].name, name) == 0 || strcmp(list.entry[i].id, name) == 0) {
            err_set(err, EEXIST, "there is a sandbox '%s' already", name);
            taken = 1;
        }
    registry_release(&list);
    return taken;
}

/* What it was started with, and what is to be said first. */
static int
begin_kernel(const struct strv *options, const char *name, int stays, struct started *s, struct client *c,
             struct err *err)
{
    int pair[2], r;

    if ((name && is_taken(name, err)) ||
        (!*s->file && registry_connection(s->file, sizeof s->file, err) < 0))
        return -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "start a kernel");
    client_take(pair[0], c);
    r = spawn_kernel(options, name, stays, pair[1], s, err);
    close(pair[1]);
    front_send(&c->front, (struct frame){.number = FRONT_ENVIRONMENT}, NULL, 0);
    return r;
}

int
start_kernel(const struct strv *options, const char *name, int stays, int signals, struct started *ret,
             struct client *client, struct err *err)
{
    struct started s = *ret;
    struct client c = CLIENT_NONE;

    if (sodium_init() < 0)
        return err_set(err, EIO, "libsodium does not start");
    if (begin_kernel(options, name, stays, &s, &c, err) < 0 || await_built(&s, &c, signals, err) < 0) {
        client_close(&c); /* which ends it */
        (void)await_end(&s);
        show_log(&s);
        unlink(s.file);
        if (*s.log)
            unlink(s.log);
        return -1;
    }
    *ret = s;
    *client = c;
    return 0;
}

void
end_kernel(struct started *s, struct client *c)
{
    struct err unused;
    char id[80];

    if (c)
        (void)client_send(c, CONTROL, "shutdown_request", BYTES("{\"restart\":false}"), NULL, 0, id, &unused);
    (void)await_end(s);
    unlink(s->file);
    if (*s->log)
        unlink(s->log);
}
