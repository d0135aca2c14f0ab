/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/exits.h"

#define CONN_FILE_MAX 65536 /* bytes */

const char *const channel_names[CHANNELS] = {
    [SHELL] = "shell", [CONTROL] = "control", [IOPUB] = "iopub", [STDIN] = "stdin", [HB] = "hb"};

static const char *
port_name(enum channel channel, char into[static 32])
{
    snprintf(into, 32, "%s_port", channel_names[channel]);
    return into;
}

/* A number, or a string that holds one (JEP 106 allows both). */
static int
read_port(json_t *root, const char *name, int *ret, struct err *err)
{
    json_t *value = json_object_get(root, name);
    json_int_t port = -1;
    char *end;

    if (!value)
        return err_set(err, EINVAL, "'%s' is missing", name);
    if (json_is_integer(value))
        port = json_integer_value(value);
    else if (json_is_string(value)) {
        port = strtol(json_string_value(value), &end, 10);
        if (*end)
            port = -1;
    }
    if (port < 1 || port > 65535)
        return err_set(err, EINVAL, "'%s' is no port", name);
    *ret = (int)port;
    return 0;
}

static int
read_string(json_t *root, const char *name, const char *standard, char **ret, struct err *err)
{
    json_t *value = json_object_get(root, name);

    if (!value && !standard)
        return err_set(err, EINVAL, "'%s' is missing", name);
    if (value && !json_is_string(value))
        return err_set(err, EINVAL, "'%s' is no text", name);
    *ret = strdup(value ? json_string_value(value) : standard);
    return *ret ? 0 : err_errno(err, "keep '%s'", name);
}

/* jansson's copy is freed with the tree: nothing of a secret is left in the heap. */
static void
wipe(json_t *value)
{
    if (json_is_string(value))
        sodium_memzero((char *)json_string_value(value), json_string_length(value));
}

static int
read_secret(json_t *root, const char *name, char **ret, size_t *ret_len, struct err *err)
{
    json_t *value = json_object_get(root, name);

    if (!value || !json_is_string(value))
        return err_set(err, EINVAL, "'%s' is missing", name);
    *ret_len = json_string_length(value);
    *ret = sodium_malloc(*ret_len + 1);
    if (!*ret)
        return err_errno(err, "keep '%s'", name);
    memcpy(*ret, json_string_value(value), *ret_len + 1);
    wipe(value);
    return 0;
}

static int
read_curve(json_t *root, struct conn *conn, struct err *err)
{
    size_t len;

    if (!json_object_get(root, "curve_publickey") && !json_object_get(root, "curve_secretkey"))
        return 0;
    if (read_string(root, "curve_publickey", NULL, &conn->curve_public, err) < 0 ||
        read_secret(root, "curve_secretkey", &conn->curve_secret, &len, err) < 0)
        return -1;
    if (strlen(conn->curve_public) != CURVE_Z85)
        return err_set(err, EINVAL, "'curve_publickey' is no key of %d characters", CURVE_Z85);
    if (len != CURVE_Z85 || strlen(conn->curve_secret) != len)
        return err_set(err, EINVAL, "'curve_secretkey' is no key of %d characters", CURVE_Z85);
    return 0;
}

/* Where the file has no ports, they are the kernel's to choose and to tell. */
static int
read_registration(json_t *root, struct conn *conn, struct err *err)
{
    if (!json_object_get(root, "registration_port"))
        return 0;
    return read_port(root, "registration_port", &conn->registration.port, err) < 0 ||
                   read_string(root, "registration_ip", NULL, &conn->registration.ip, err) < 0 ||
                   read_string(root, "kernel_id", NULL, &conn->registration.kernel_id, err) < 0
               ? -1
               : 0;
}

static int
read_all(json_t *root, struct conn *conn, struct err *err)
{
    if (!json_is_object(root))
        return err_set(err, EINVAL, "it is no JSON object");
    if (read_string(root, "transport", "tcp", &conn->transport, err) < 0 ||
        read_registration(root, conn, err) < 0 ||
        read_string(root, "ip", conn->registration.ip, &conn->ip, err) < 0 ||
        read_string(root, "signature_scheme", "hmac-sha256", &conn->scheme, err) < 0 ||
        read_secret(root, "key", &conn->key, &conn->key_len, err) < 0 ||
        read_curve(root, conn, err) < 0)
        return -1;
    if (strcmp(conn->transport, "tcp") != 0 && strcmp(conn->transport, "ipc") != 0)
        return err_set(err, ENOTSUP, "transport '%s' is not one of tcp and ipc", conn->transport);
    for (int c = 0; c < CHANNELS; c++) {
        char name[32];
        port_name(c, name);
        if (conn->registration.port && !json_object_get(root, name))
            continue;
        if (read_port(root, name, &conn->port[c], err) < 0)
            return -1;
    }
    return 0;
}

int
conn_parse(uint8_t *text, size_t len, struct conn *ret, struct err *err)
{
    scoped(conn_release) struct conn conn = {0};
    json_error_t why;
    json_t *root;
    int r;

    root = json_loadb((char *)text, len, 0, &why);
    sodium_memzero(text, len);
    if (!root)
        return err_set(err, EINVAL, "line %d: %s", why.line, why.text);
    r = read_all(root, &conn, err);
    json_decref(root);
    if (r < 0)
        return -1;
    *ret = conn;
    conn = (struct conn){0}; /* moved to the caller */
    return 0;
}

int
conn_load(const char *path, struct conn *ret, int *ret_exit, struct err *err)
{
    scoped(buf_release) struct buf text = {0};

    *ret_exit = EXIT_INPUT;
    if (file_read(AT_FDCWD, path, CONN_FILE_MAX, &text) < 0)
        return err_errno(err, "read connection file '%s'", path);
    *ret_exit = EXIT_DATA;
    if (conn_parse(text.data, text.len, ret, err) < 0)
        return err_wrap(err, "connection file '%s'", path);
    return 0;
}

static int
write_json(json_t *root, const char *path, struct err *err)
{
    scoped(fd_close) int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    char *text = json_dumps(root, JSON_INDENT(2));
    int r = fd >= 0 && text ? fd_write_all(fd, text, strlen(text)) : -1;

    if (r < 0)
        err_errno(err, "write '%s'", path);
    if (text)
        sodium_memzero(text, strlen(text));
    free(text);
    return r;
}

int
conn_save(const struct conn *conn, const char *path, struct err *err)
{
    scoped(buf_release) struct buf text = {0};
    json_error_t why;
    json_t *root;
    int r = 0;

    if (file_read(AT_FDCWD, path, CONN_FILE_MAX, &text) < 0)
        return err_errno(err, "read '%s'", path);
    root = json_loadb((char *)text.data, text.len, 0, &why);
    sodium_memzero(text.data, text.len);
    if (!root)
        return err_set(err, EINVAL, "'%s': line %d: %s", path, why.line, why.text);
    for (int c = 0; r == 0 && c < CHANNELS; c++) {
        char name[32];
        r = json_object_set_new(root, port_name(c, name), json_integer(conn->port[c]));
    }
    if (r < 0 || json_object_set_new(root, "ip", json_string(conn->ip)) < 0)
        r = err_errno(err, "add the ports to '%s'", path);
    if (r == 0)
        r = write_json(root, path, err);
    wipe(json_object_get(root, "key"));
    wipe(json_object_get(root, "curve_secretkey"));
    json_decref(root);
    return r;
}

static int
make_address(const struct conn *conn, const char *ip, int port, char *into, size_t size)
{
    int v6 = strchr(ip, ':') != NULL, len;

    if (strcmp(conn->transport, "ipc") == 0)
        len = snprintf(into, size, "ipc://%s-%d", ip, port);
    else if (port == 0)
        len = snprintf(into, size, "tcp://%s%s%s:*", v6 ? "[" : "", ip, v6 ? "]" : "");
    else
        len = snprintf(into, size, "tcp://%s%s%s:%d", v6 ? "[" : "", ip, v6 ? "]" : "", port);
    return len < (int)size ? 0 : -1;
}

int
conn_address(const struct conn *conn, enum channel channel, char *into, size_t size)
{
    return make_address(conn, conn->ip, conn->port[channel], into, size);
}

int
conn_registration_address(const struct conn *conn, char *into, size_t size)
{
    return make_address(conn, conn->registration.ip, conn->registration.port, into, size);
}

void
conn_forget_key(struct conn *conn)
{
    sodium_free(conn->key); /* wipes it */
    conn->key = NULL;
}

void
conn_forget_curve(struct conn *conn)
{
    sodium_free(conn->curve_secret);
    conn->curve_secret = NULL;
}

void
conn_release(struct conn *conn)
{
    conn_forget_key(conn);
    conn_forget_curve(conn);
    free(conn->curve_public);
    free(conn->registration.kernel_id);
    free(conn->registration.ip);
    free(conn->transport);
    free(conn->ip);
    free(conn->scheme);
    *conn = (struct conn){0};
}
