/* SPDX-License-Identifier: BSD-3-Clause
 *
 * conn.h: the connection file (jupyter_client docs/kernels.rst, JEP 106).
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

enum channel { SHELL, CONTROL, IOPUB, STDIN, HB, CHANNELS };
extern const char *const channel_names[CHANNELS];

struct conn {
    char *transport; /* "tcp" or "ipc" */
    char *ip;        /* an address, or the start of the socket files' names */
    char *scheme;    /* "hmac-sha256", ... */
    int port[CHANNELS];
    char *key;       /* in guarded memory (sodium_malloc); conn_forget_key() frees it */
    size_t key_len;  /* 0: messages are not signed */
};

/* Reads the file. *ret_exit is what the program should exit with on failure. */
int conn_load(const char *path, struct conn *ret, int *ret_exit, struct err *err);
/* As conn_load, from the text of a file; the key's bytes in `text` are wiped. */
int conn_parse(uint8_t *text, size_t len, struct conn *ret, struct err *err);
/* The address of a channel as ZeroMQ wants it. */
int conn_address(const struct conn *conn, enum channel channel, char *into, size_t size);
void conn_forget_key(struct conn *conn);
void conn_release(struct conn *conn);
