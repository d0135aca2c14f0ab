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

/* A number, or a string that holds one (JEP 106 allows both). */
static int
read_port(json_t *root, enum channel channel, int *ret, struct err *err)
{
    char name[32];
    json_t *value;
    json_int_t port = -1;
    char *end;

    snprintf(name, sizeof name, "%s_port", channel_names[channel]);
    value = json_object_get(root, name);
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

static int
read_key(json_t *root, struct conn *conn, struct err *err)
{
    json_t *value = json_object_get(root, "key");

    if (!value || !json_is_string(value))
        return err_set(err, EINVAL, "'key' is missing");
    conn->key_len = json_string_length(value);
    conn->key = sodium_malloc(conn->key_len + 1);
    if (!conn->key)
        return err_errno(err, "keep the key");
    memcpy(conn->key, json_string_value(value), conn->key_len + 1);
    /* jansson's copy is freed with the tree: leave nothing of the key in the heap. */
    sodium_memzero((char *)json_string_value(value), conn->key_len);
    return 0;
}

static int
read_all(json_t *root, struct conn *conn, struct err *err)
{
    if (!json_is_object(root))
        return err_set(err, EINVAL, "it is no JSON object");
    if (read_string(root, "transport", "tcp", &conn->transport, err) < 0 ||
        read_string(root, "ip", NULL, &conn->ip, err) < 0 ||
        read_string(root, "signature_scheme", "hmac-sha256", &conn->scheme, err) < 0 ||
        read_key(root, conn, err) < 0)
        return -1;
    if (strcmp(conn->transport, "tcp") != 0 && strcmp(conn->transport, "ipc") != 0)
        return err_set(err, ENOTSUP, "transport '%s' is not one of tcp and ipc", conn->transport);
    for (int c = 0; c < CHANNELS; c++)
        if (read_port(root, c, &conn->port[c], err) < 0)
            return -1;
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

int
conn_address(const struct conn *conn, enum channel channel, char *into, size_t size)
{
    const char *format = strcmp(conn->transport, "ipc") == 0 ? "ipc://%s-%d"
                         : strchr(conn->ip, ':')             ? "tcp://[%s]:%d"
                                                             : "tcp://%s:%d";
    /* the formats are the three literals above */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    return snprintf(into, size, format, conn->ip, conn->port[channel]) < (int)size ? 0 : -1;
#pragma GCC diagnostic pop
}

void
conn_forget_key(struct conn *conn)
{
    sodium_free(conn->key); /* wipes it */
    conn->key = NULL;
}

void
conn_release(struct conn *conn)
{
    conn_forget_key(conn);
    free(conn->transport);
    free(conn->ip);
    free(conn->scheme);
    *conn = (struct conn){0};
}
