/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-launch, a program of its own: a kernel for who started this program from afar, Enterprise Gateway or a provisioner of
 * gateway_provisioners. It is told where the kernel listens and with which key, and says signals
 * through a port of its own. The ciphers are those of that protocol (AES-128-ECB below RSA with
 * PKCS#1 v1.5), and are used nowhere else. Source: gateway_provisioners, docs "System architecture"
 * and server_listener.py, response payload version 1.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.h"
#include "kernel/base64.h"
#include "kernel/exits.h"
#include "kernel/paths.h"

#define TRIES 5          /* a port that was free may be taken before the kernel has it */
#define RESPONSE_S 10    /* seconds to say where the kernel is */
#define CALLERS 16       /* connections to the port of signals; a new one replaces the oldest */
#define CALLER_MS 5000   /* until a connection has said all */
#define CALLER_BYTES 512
#define AES_BYTES 16
#define COMM CHANNELS    /* the port of signals, behind those of the channels */

static const char usage[] =
    "usage: husk launch [options] [sandbox options]\n"
    "\n"
    "Starts a kernel for Enterprise Gateway or a provisioner of gateway_provisioners: put it in the place\n"
    "of their launcher in kernel.json. It binds free ports, tells the response address where it is, and takes\n"
    "signals on a port of its own. It ends with the kernel, and the kernel with it.\n"
    "\n"
    "  --kernel-id ID           else $KERNEL_ID\n"
    "  --response-address A     ADDRESS:PORT, else $RESPONSE_ADDRESS\n"
    "  --public-key KEY         base64 of an RSA key, else $PUBLIC_KEY\n"
    "  --port-range LOW..HIGH   0..0 is any; else $PORT_RANGE, else any\n"
    "  --ip ADDRESS             where it listens, 0.0.0.0 if nothing is said\n"
    "\n"
    "Each is understood as --RemoteProvisioner.NAME and --RemoteProcessProxy.NAME as well. Whoever reaches the\n"
    "port of signals can interrupt or end the kernel: that protocol signs nothing there. Sandbox options: husk\n"
    "kernel --help. Exit code: that of the kernel, 128 and the signal that ended it, 64 for a wrong command line,\n"
    "125 if husk itself failed.\n"
    "\n"
    "  \"argv\": [\"husk\", \"launch\", \"--kernel-id\", \"{kernel_id}\", \"--response-address\", \"{response_address}\",\n"
    "           \"--public-key\", \"{public_key}\", \"--port-range\", \"{port_range}\"]\n";

/* A connection to the port of signals: one JSON object, until its end. */
struct caller {
    int fd; /* 0: none */
    int64_t end;
    size_t len;
    char text[CALLER_BYTES];
};

struct launch {
    const char *kernel_id, *address, *public_key, *range, *ip;
    struct strv options;
    int low, high; /* 0: any port */
    int port[CHANNELS + 1];
    int comm, signals, pidfd;
    struct started kernel;
    struct caller caller[CALLERS];
};

/*** The command line ***/

static int
read_range(struct launch *l, struct err *err)
{
    int used = 0;

    if (!l->range || !*l->range)
        return 0;
    if (sscanf(l->range, "%d..%d%n", &l->low, &l->high, &used) != 2 || l->range[used] || l->low < 0 ||
        l->high > 65535 || (l->high && l->high - l->low < CHANNELS))
        return err_set(err, EINVAL, "--port-range '%s' is no LOW..HIGH with room for %d ports", l->range,
                       CHANNELS + 1);
    return 0;
}

static int
read_options(struct launch *l, int argc, char **argv)
{
    static const char *const prefixes[] = {"", "RemoteProvisioner.", "RemoteProcessProxy."};
    /* The last two are for Spark and for launchers of their kind. */
    static const char *const names[] = {"kernel-id", "response-address", "public-key", "port-range", "ip",
                                        "spark-context-initialization-mode", "kernel-class-name"};
    static const char *const variables[] = {"KERNEL_ID", "RESPONSE_ADDRESS", "PUBLIC_KEY", "PORT_RANGE"};
    const char *ignored, **values[] = {&l->kernel_id, &l->address, &l->public_key, &l->range, &l->ip,
                                       &ignored, &ignored};
    struct flag flags[countof(prefixes) * countof(names) + 1] = {0};
    char name[countof(prefixes) * countof(names)][64];
    struct err err;
    size_t n = 0;
    int used;

    for (size_t p = 0; p < countof(prefixes); p++)
        for (size_t i = 0; i < countof(names); i++, n++) {
            snprintf(name[n], sizeof name[n], "%s%s", prefixes[p], names[i]);
            flags[n] = (struct flag){.name = name[n], .value = values[i]};
        }
    used = flags_read(argc, argv, flags, &l->options, "launch");
    if (used < 0 || options_check(&l->options, NULL) < 0)
        return EXIT_USAGE;
    if (used < argc) {
        fprintf(stderr, "husk: launch takes no '%s'; see husk launch --help\n", argv[used]);
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < countof(variables); i++) {
        if (!*values[i])
            *values[i] = getenv(variables[i]);
        if (!*values[i] && values[i] != &l->range) {
            fprintf(stderr, "husk: launch needs --%s or $%s\n", names[i], variables[i]);
            return EXIT_USAGE;
        }
    }
    return read_range(l, &err) < 0 ? failed(&err), EXIT_USAGE : EXIT_OK;
}

/*** The ports ***/

/* A listening socket; with port 0 one of the range, or any. -1: it is taken. */
static int
bind_port(const struct launch *l, int port)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    scoped(fd_close) int fd = -1;
    struct addrinfo *found;
    char text[16];
    int r;

    snprintf(text, sizeof text, "%d", port);
    if (getaddrinfo(l->ip, text, &hints, &found) != 0) {
        errno = EINVAL;
        return -1;
    }
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    r = fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, CALLERS) < 0 ? -1 : fd;
    freeaddrinfo(found);
    if (r >= 0)
        fd = -1; /* moved to the caller */
    return r;
}

static int
port_of(int fd)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    char port[16];

    if (getsockname(fd, (struct sockaddr *)&at, &len) < 0 ||
        getnameinfo((struct sockaddr *)&at, len, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0)
        return 0;
    return atoi(port);
}

/* All are held until all are found, so that none comes twice. That of signals we keep. */
static int
choose_ports(struct launch *l, struct err *err)
{
    int fd[CHANNELS + 1], n = 0, span = l->high ? l->high - l->low + 1 : 1;
    int first = (int)randombytes_uniform((uint32_t)span);

    for (int i = 0; n <= COMM && i < (l->high ? span : COMM + 1); i++) {
        fd[n] = bind_port(l, l->high ? l->low + (first + i) % span : 0);
        if (fd[n] >= 0)
            n++;
        else if (errno != EADDRINUSE && errno != EACCES)
            break;
    }
    if (n <= COMM)
        err_errno(err, "find %d free ports of '%s' at '%s'", COMM + 1, l->range && *l->range ? l->range : "0..0", l->ip);
    for (int i = 0; i < n; i++) {
        l->port[i] = port_of(fd[i]);
        if (n <= COMM || i != COMM)
            close(fd[i]);
    }
    if (n <= COMM)
        return -1;
    fd_close(&l->comm);
    l->comm = fd[COMM];
    return 0;
}

/* Another may have taken a port meanwhile; then with others. */
static int
start(struct launch *l, struct err *err)
{
    int r = -1;

    for (int i = 0; i < TRIES && r < 0; i++) {
        struct client client;
        l->kernel = (struct started){0};
        if (choose_ports(l, err) < 0 ||
            registry_tcp_connection(l->kernel.file, sizeof l->kernel.file, l->ip, l->port, err) < 0)
            return -1;
        r = start_kernel(&l->options, NULL, 0, -1, &l->kernel, &client, err);
        if (r == 0) {
            client_let_live(&client); /* it ends with us all the same (JPY_PARENT_PID) */
            client_close(&client);
        }
        if (r < 0 && err->code != EXIT_BUSY)
            return -1;
    }
    return r;
}

/*** The response ***/

static void
cipher_free(EVP_CIPHER_CTX **c)
{
    EVP_CIPHER_CTX_free(*c);
    *c = NULL;
}

static void
pkey_free(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
    *key = NULL;
}

static void
pkey_context_free(EVP_PKEY_CTX **c)
{
    EVP_PKEY_CTX_free(*c);
    *c = NULL;
}

/* PKCS#7 fills the last block. */
static int
encrypt_text(const unsigned char key[AES_BYTES], const char *text, struct buf *ret)
{
    scoped(cipher_free) EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    size_t len = strlen(text);
    int n, rest;

    if (!c || buf_reserve(ret, len + AES_BYTES) < 0 ||
        EVP_EncryptInit_ex(c, EVP_aes_128_ecb(), NULL, key, NULL) != 1 ||
        EVP_EncryptUpdate(c, ret->data, &n, (const unsigned char *)text, (int)len) != 1 ||
        EVP_EncryptFinal_ex(c, ret->data + n, &rest) != 1)
        return -1;
    ret->len = (size_t)(n + rest);
    return 0;
}

static int
encrypt_key(const char *public_key, const unsigned char key[AES_BYTES], struct buf *ret, struct err *err)
{
    unsigned char der[4096];
    const unsigned char *at = der;
    size_t len = 0;
    scoped(pkey_free) EVP_PKEY *rsa = NULL;
    scoped(pkey_context_free) EVP_PKEY_CTX *c = NULL;

    if (sodium_base642bin(der, sizeof der, public_key, strlen(public_key), "\r\n ", &len, NULL,
                          sodium_base64_VARIANT_ORIGINAL) < 0 ||
        !(rsa = d2i_PUBKEY(NULL, &at, (long)len)) || EVP_PKEY_base_id(rsa) != EVP_PKEY_RSA)
        return err_set(err, EINVAL, "the public key is no RSA key in base64");
    c = EVP_PKEY_CTX_new(rsa, NULL);
    if (!c || EVP_PKEY_encrypt_init(c) != 1 || EVP_PKEY_CTX_set_rsa_padding(c, RSA_PKCS1_PADDING) != 1 ||
        EVP_PKEY_encrypt(c, NULL, &len, key, AES_BYTES) != 1 || buf_reserve(ret, len) < 0 ||
        EVP_PKEY_encrypt(c, ret->data, &len, key, AES_BYTES) != 1)
        return err_set(err, EIO, "libcrypto does not encrypt with the public key");
    ret->len = len;
    return 0;
}

/* The connection file and who we are. The caller wipes it. */
static char *
describe(const struct launch *l, struct err *err)
{
    scoped(buf_release) struct buf file = {0};
    json_t *root;
    char *text = NULL;

    if (file_read(AT_FDCWD, l->kernel.file, 1 << 16, &file) < 0) {
        err_errno(err, "read '%s'", l->kernel.file);
        return NULL;
    }
    root = json_loadb((char *)file.data, file.len, 0, NULL);
    sodium_memzero(file.data, file.len);
    if (root && json_object_set_new(root, "pid", json_integer(getpid())) == 0 &&
        json_object_set_new(root, "pgid", json_integer(getpgrp())) == 0 &&
        json_object_set_new(root, "comm_port", json_integer(l->port[COMM])) == 0 &&
        json_object_set_new(root, "kernel_id", json_string(l->kernel_id)) == 0)
        text = json_dumps(root, JSON_COMPACT);
    if (!text)
        err_set(err, ENOMEM, "no memory for the response");
    json_decref(root);
    return text;
}

static int
make_response(const struct launch *l, struct buf *ret, struct err *err)
{
    scoped(str_free) char *text = describe(l, err);
    scoped(buf_release) struct buf key = {0}, info = {0}, json = {0};
    unsigned char secret[AES_BYTES];
    int r;

    if (!text)
        return -1;
    randombytes_buf(secret, sizeof secret);
    r = encrypt_key(l->public_key, secret, &key, err);
    if (r == 0 && encrypt_text(secret, text, &info) < 0)
        r = err_set(err, EIO, "libcrypto does not encrypt the response");
    sodium_memzero(secret, sizeof secret);
    sodium_memzero(text, strlen(text));
    if (r == 0 && (buf_text(&json, "{\"version\":1,\"key\":\"") < 0 || base64_add(&json, (struct bytes){key.data, key.len}) < 0 ||
                   buf_text(&json, "\",\"conn_info\":\"") < 0 || base64_add(&json, (struct bytes){info.data, info.len}) < 0 ||
                   buf_text(&json, "\"}") < 0 || base64_add(ret, (struct bytes){json.data, json.len}) < 0))
        r = err_errno(err, "write the response");
    return r;
}

/* ADDRESS:PORT. */
static int
connect_to(const char *address, struct err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const struct timeval patience = {.tv_sec = RESPONSE_S};
    const char *colon = strrchr(address, ':');
    scoped(str_free) char *host = NULL;
    struct addrinfo *found;
    int fd = -1, r;

    if (!colon || colon == address || !colon[1])
        return err_set(err, EINVAL, "the response address '%s' is no ADDRESS:PORT", address);
    host = *address == '[' && colon[-1] == ']' ? strndup(address + 1, (size_t)(colon - address - 2))
                                                : strndup(address, (size_t)(colon - address));
    r = host ? getaddrinfo(host, colon + 1, &hints, &found) : EAI_MEMORY;
    if (r != 0)
        return err_set(err, EINVAL, "the response address '%s': %s", address, gai_strerror(r));
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0 ||
                        connect(fd, a->ai_addr, a->ai_addrlen) < 0)) {
            err_errno(err, "connect to the response address '%s'", address);
            fd_close(&fd);
        }
    }
    freeaddrinfo(found);
    return fd;
}

static int
respond(const struct launch *l, struct err *err)
{
    scoped(buf_release) struct buf text = {0};
    scoped(fd_close) int fd = -1;

    if (make_response(l, &text, err) < 0 || (fd = connect_to(l->address, err)) < 0)
        return -1;
    if (fd_write_all(fd, text.data, text.len) < 0)
        return err_errno(err, "tell the response address '%s' where the kernel is", l->address);
    return 0;
}

/*** Signals ***/

static void
take_caller(struct launch *l)
{
    struct caller *c = &l->caller[0];
    int fd = accept4(l->comm, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    for (int i = 1; i < CALLERS && c->fd; i++)
        if (!l->caller[i].fd || l->caller[i].end < c->end)
            c = &l->caller[i];
    if (c->fd)
        close(c->fd);
    *c = (struct caller){.fd = fd, .end = now_ms() + CALLER_MS};
}

/* {"signum": N}: 0 only asks whether we are there. {"shutdown": 1} */
static void
obey(const struct launch *l, const struct caller *c)
{
    json_t *root = json_loadb(c->text, c->len, 0, NULL), *number = json_object_get(root, "signum"),
           *end = json_object_get(root, "shutdown");
    json_int_t n = json_integer_value(number);

    if (n > 0 && n <= SIGRTMAX)
        kill(l->kernel.pid, (int)n);
    if (json_integer_value(end) != 0 || json_is_true(end))
        kill(l->kernel.pid, SIGTERM);
    json_decref(root);
}

/* What does not fit is nothing that we know. */
static void
hear_caller(struct launch *l, struct caller *c, int64_t now)
{
    ssize_t n = read(c->fd, c->text + c->len, sizeof c->text - c->len);

    if (n > 0)
        c->len += (size_t)n;
    else if (n == 0 && c->len < sizeof c->text)
        obey(l, c);
    if (n == 0 || (n < 0 && errno != EAGAIN) || c->len == sizeof c->text || now > c->end) {
        close(c->fd);
        *c = (struct caller){0};
    }
}

/* Those that say it to us: an interrupt is for the cell, all else is the end. */
static void
pass_signals(struct launch *l)
{
    struct signalfd_siginfo info;

    while (read(l->signals, &info, sizeof info) == sizeof info)
        kill(l->kernel.pid, info.ssi_signo == SIGINT ? SIGINT : SIGTERM);
}

/* Until the kernel has ended: its exit code. */
static int
serve(struct launch *l)
{
    int status;

    while (waitpid(l->kernel.pid, &status, WNOHANG) != l->kernel.pid) {
        struct pollfd p[3 + CALLERS] = {{.fd = l->pidfd, .events = POLLIN},
                                        {.fd = l->signals, .events = POLLIN},
                                        {.fd = l->comm, .events = POLLIN}};
        int64_t now, patience = -1;
        for (int i = 0; i < CALLERS; i++) {
            p[3 + i] = (struct pollfd){.fd = l->caller[i].fd ? l->caller[i].fd : -1, .events = POLLIN};
            if (l->caller[i].fd)
                patience = CALLER_MS;
        }
        if (poll(p, countof(p), (int)patience) < 0)
            continue;
        now = now_ms();
        pass_signals(l);
        for (int i = 0; i < CALLERS; i++)
            if (l->caller[i].fd && (p[3 + i].revents || now > l->caller[i].end))
                hear_caller(l, &l->caller[i], now);
        if (p[2].revents)
            take_caller(l);
    }
    l->kernel.pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int
launch_command(int argc, char **argv)
{
    struct launch l = {.ip = "0.0.0.0", .comm = -1, .signals = -1, .pidfd = -1};
    struct err err;
    int code;

    if (wants_help(argc, argv, usage))
        return EXIT_OK;
    code = read_options(&l, argc, argv);
    if (code == EXIT_OK && (sodium_init() < 0 || process_signals(&l.signals, &err) < 0 || start(&l, &err) < 0))
        code = failed(&err);
    if (code == EXIT_OK) {
        l.pidfd = (int)syscall(SYS_pidfd_open, l.kernel.pid, 0);
        code = l.pidfd < 0 ? err_errno(&err, "watch the kernel"), failed(&err)
               : respond(&l, &err) < 0 ? failed(&err)
                                       : serve(&l);
        if (l.kernel.pid > 0)
            kill(l.kernel.pid, SIGTERM);
        end_kernel(&l.kernel, NULL);
    }
    strv_release(&l.options);
    return code;
}

/* As `husk launch`, which executes it. */
int
main(int argc, char **argv)
{
    struct err err;

    return paths_find(&err) < 0 ? failed(&err) : launch_command(argc - 1, argv + 1);
}
