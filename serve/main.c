/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-serve: the Jupyter kernels API over HTTP and WebSocket. `husk serve` executes it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "kernel/exits.h"
#include "kernel/paths.h"
#include "serve/channels.h"
#include "serve/http.h"
#include "serve/kernels.h"
#include "serve/login.h"
#include "serve/sessions.h"
#include "serve/specs.h"
#include "serve/terminals.h"

#define BACKLOG 1024
#define DRAIN_MS 5000 /* after SIGTERM cells have so long to come to their end */
#define END_MS 8000   /* and kernels, to end */

static const char usage[] =
    "usage: husk serve [options] [sandbox options]\n"
    "\n"
    "Serves kernels to whoever speaks Jupyter's REST and WebSocket API: jupyter-kernel-client, code_sandboxes,\n"
    "JupyterLab (--gateway-url), VS Code, or any HTTP program. Each kernel has a sandbox of its own; profile strict, if\n"
    "no other is named. Options that are not listed here are those of husk kernel, for every kernel.\n\n";

static const char examples[] =
    "\n  husk serve\n"
    "  JUPYTER_TOKEN=secret husk serve --ip 0.0.0.0 --memory 2g --cell-timeout 60\n"
    "  husk serve --port 0 --print-url -o json\n"
    "  jupyter lab --gateway-url http://127.0.0.1:8888 --GatewayClient.auth_token=TOKEN\n";

/*** Small things ***/

/*** Where it listens ***/

static int
listen_at_path(struct server *s, struct err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;
    mode_t mask;
    int r;

    if (strlen(s->options.sock) >= sizeof a.sun_path)
        return err_set(err, ENAMETOOLONG, "--sock '%s' is longer than %zu bytes", s->options.sock, sizeof a.sun_path - 1);
    memcpy(a.sun_path, s->options.sock, strlen(s->options.sock) + 1);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listener < 0)
        return err_errno(err, "make a socket");
    /* One that a crash left is in the way of nobody: nobody answers on it. */
    if (lstat(a.sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
        connect(s->listener, (struct sockaddr *)&a, sizeof a) < 0 && errno == ECONNREFUSED)
        unlink(a.sun_path);
    mask = umask(077);
    r = bind(s->listener, (struct sockaddr *)&a, sizeof a);
    umask(mask);
    if (r < 0 || listen(s->listener, BACKLOG) < 0)
        return err_errno(err, "listen on '%s'", s->options.sock);
    s->loopback = 1;
    snprintf(s->url, sizeof s->url, "http+unix://%s", s->options.sock);
    return 0;
}

static int
is_loopback(const struct sockaddr *a)
{
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)a;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)a;

    return a->sa_family == AF_INET ? ntohl(four->sin_addr.s_addr) >> 24 == 127
                                   : IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

static int
listen_at(struct server *s, const struct addrinfo *a, struct err *err)
{
    struct sockaddr_storage got;
    socklen_t len = sizeof got;
    int on = 1;

    s->listener = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listener < 0 || setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(s->listener, a->ai_addr, a->ai_addrlen) < 0 || listen(s->listener, BACKLOG) < 0 ||
        getsockname(s->listener, (struct sockaddr *)&got, &len) < 0)
        return err_errno(err, "listen on %s, port %llu", s->options.ip, (unsigned long long)s->options.port);
    s->loopback = is_loopback((struct sockaddr *)&got);
    s->port = ntohs(got.ss_family == AF_INET ? ((struct sockaddr_in *)&got)->sin_port
                                             : ((struct sockaddr_in6 *)&got)->sin6_port);
    return 0;
}

static int
listen_at_address(struct server *s, struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    const char *host;
    char port[8];
    int r, any;

    if (!s->options.ip && !(s->options.ip = strdup("127.0.0.1")))
        return err_errno(err, "listen");
    any = !*s->options.ip || strcmp(s->options.ip, "*") == 0; /* as Jupyter says it */
    snprintf(port, sizeof port, "%u", (unsigned)s->options.port);
    r = getaddrinfo(any ? "0.0.0.0" : s->options.ip, port, &hints, &found);
    if (r != 0)
        return err_set(err, EINVAL, "--ip '%s': %s", s->options.ip, gai_strerror(r));
    r = listen_at(s, found, err);
    freeaddrinfo(found);
    host = any || strcmp(s->options.ip, "0.0.0.0") == 0 || strcmp(s->options.ip, "::") == 0 ? "127.0.0.1" : s->options.ip;
    snprintf(s->url, sizeof s->url, strchr(host, ':') ? "%s://[%s]:%d" : "%s://%s:%d",
             s->options.certfile ? "https" : "http", host, s->port);
    return r;
}

/*** The token ***/

static int
read_token(struct server *s, struct err *err)
{
    scoped(buf_release) struct buf text = {0};
    uint8_t random[24];

    if (s->options.token_file) {
        if (file_read(AT_FDCWD, s->options.token_file, 4096, &text) < 0 || !buf_string(&text))
            return err_errno(err, "read the token from '%s'", s->options.token_file);
        text.data[strcspn((char *)text.data, "\r\n")] = 0;
        if (!*text.data)
            return err_set(err, EINVAL, "the token in '%s' is empty", s->options.token_file);
        str_free(&s->options.token);
        s->options.token = strdup((char *)text.data);
    }
    if (!s->options.token) {
        randombytes_buf(random, sizeof random);
        sodium_bin2hex(s->token, sizeof s->token, random, sizeof random);
        return 0;
    }
    if (strlen(s->options.token) >= sizeof s->token)
        return err_set(err, EINVAL, "the token is longer than %zu bytes", sizeof s->token - 1);
    memcpy(s->token, s->options.token, strlen(s->options.token) + 1);
    return 0;
}

/* Whoever reaches it may run what they want, in a sandbox, and use up the machine: not everybody in a network. */
static int
check_token(const struct server *s, struct err *err)
{
    return *s->token || s->loopback
               ? 0
               : err_set(err, EINVAL, "without a token it serves loopback addresses only, and %s is none", s->options.ip);
}

/*** Saying where it is ***/

static void
describe(const struct server *s, struct buf *b)
{
    if (buf_text(b, "{\"url\": ") < 0 || json_quote(bytes_of(s->url), b) < 0 || buf_text(b, ", \"token\": ") < 0 ||
        json_quote(bytes_of(s->token), b) < 0 ||
        buf_printf(b, ", \"port\": %d, \"pid\": %d}\n", s->port, (int)getpid()) < 0)
        abort();
}

static int
write_ready_file(const struct server *s, struct err *err)
{
    scoped(buf_release) struct buf b = {0};
    char fresh[4400];
    scoped(fd_close) int fd = -1;

    describe(s, &b);
    snprintf(fresh, sizeof fresh, "%s.new", s->options.ready_file);
    fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || fd_write_all(fd, b.data, b.len) < 0 || rename(fresh, s->options.ready_file) < 0)
        return err_errno(err, "write '%s'", s->options.ready_file);
    return 0;
}

static int
announce(const struct server *s, struct err *err)
{
    scoped(buf_release) struct buf b = {0};
    char query[300] = "";

    if (*s->token)
        snprintf(query, sizeof query, "/?token=%s", s->token);
    if (s->options.output)
        describe(s, &b);
    else if (s->options.print_url && buf_printf(&b, "%s%s\n", s->url, query) < 0)
        abort();
    if (s->options.ready_file && write_ready_file(s, err) < 0)
        return -1;
    if (b.len && fd_write_all(STDOUT_FILENO, b.data, b.len) < 0)
        return err_errno(err, "say the URL");
    if (!b.len) /* a token that was given is known, and need not be in a log */
        fprintf(stderr, "husk: serving at %s%s\n", s->url, s->options.token ? "" : query);
    return 0;
}

/*** Start and stop ***/

static void
on_signal(void *of, uint32_t events)
{
    struct server *s = of;
    struct signalfd_siginfo info;

    while (read(s->signals.fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (s->draining)
            s->draining = now_ms(); /* the second time: now */
        else
            s->draining = now_ms() + (info.ssi_signo == SIGTERM ? DRAIN_MS : 0);
    }
}

static int
open_signals(struct server *s, struct err *err)
{
    int fd;

    if (process_signals(&fd, err) < 0)
        return -1;
    s->signals = (struct source){.fd = fd, .events = EPOLLIN, .ready = on_signal, .of = s};
    return loop_add(&s->loop, &s->signals, err);
}

/* Each connection and each kernel is a descriptor or four. */
static void
raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int
start(struct server *s, struct err *err)
{
    static const char *const ours[] = {"JUPYTER_TOKEN", "JUPYTER_TOKEN_FILE", "JPY_PARENT_PID", "JPY_SESSION_NAME"};

    if (sodium_init() < 0)
        return err_set(err, EIO, "libsodium does not start"), EXIT_SYSTEM;
    if (read_token(s, err) < 0)
        return EXIT_INPUT;
    for (size_t i = 0; i < countof(ours); i++)
        unsetenv(ours[i]); /* kernels need not know */
    login_start(s);
    raise_file_limit();
    if (specs_load(s, err) < 0)
        return EXIT_USAGE;
    if (loop_init(&s->loop, err) < 0 || open_signals(s, err) < 0)
        return EXIT_SYSTEM;
    if ((s->options.sock ? listen_at_path(s, err) : listen_at_address(s, err)) < 0)
        return EXIT_BUSY;
    if (check_token(s, err) < 0)
        return EXIT_USAGE;
    if (http_start(s, err) < 0)
        return EXIT_SYSTEM;
    s->last_activity = clock_us();
    clock_text(s->last_activity, s->started);
    return announce(s, err) < 0 ? EXIT_SYSTEM : EXIT_OK;
}

static int
is_busy(const struct server *s)
{
    for (const struct served *k = s->kernels; k; k = k->next)
        if (k->state == SERVED_BUSY && !k->stopping)
            return 1;
    return 0;
}

/* 1: all is over. */
static int
drain(struct server *s, int64_t *end)
{
    int64_t now = now_ms();

    if (!s->draining)
        return 0;
    if (!*end && (now >= s->draining || !is_busy(s))) {
        *end = now + END_MS;
        served_stop_all(s);
        channels_close_all(s, 1001, "the server is ending");
    }
    return *end && ((!s->kernels && !s->count.sockets) || now >= *end);
}

static void
run(struct server *s)
{
    int64_t end = 0;

    while (!drain(s, &end)) {
        int ms = http_run(s);
        if (s->draining && (ms < 0 || ms > 20))
            ms = 20;
        loop_turn(&s->loop, ms);
    }
}

static void
stop(struct server *s)
{
    http_stop(s);
    if (s->options.sock && s->listener >= 0)
        unlink(s->options.sock);
    if (s->options.ready_file)
        unlink(s->options.ready_file);
    for (struct served *k = s->kernels; k; k = k->next)
        if (k->pid > 0)
            kill(k->pid, SIGKILL);
    terminals_release(s);
    sessions_release(s);
    specs_release(s);
    loop_release(&s->loop);
    sodium_memzero(s->token, sizeof s->token);
    serve_options_release(&s->options);
}

int
main(int argc, char **argv)
{
    static struct server s = {.listener = -1};
    struct err err = {0};
    int r;

    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            serve_options_help();
            fputs(examples, stdout);
            return EXIT_OK;
        }
    log_open("husk", LOG_WARNING);
    if (paths_find(&err) < 0) {
        log_error("%s", err.text);
        return EXIT_SYSTEM;
    }
    if (serve_options_read(argc - 1, argv + 1, &s.options, &err) < 0) {
        log_error("%s", err.text);
        return EXIT_USAGE;
    }
    log_open("husk", (enum log_level)s.options.log_level);
    if (s.options.log_format && strcmp(s.options.log_format, "json") == 0)
        log_as_json();
    r = start(&s, &err);
    if (r == EXIT_OK)
        run(&s);
    else
        log_error("%s", err.text);
    stop(&s);
    return r;
}
