/* SPDX-License-Identifier: BSD-3-Clause
 *
 * conn.h: the connection file (jupyter_client docs/kernels.rst, JEP 106), and the registration
 * file, which a launcher gives instead if the kernel is to choose its ports (JEP 66).
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
    int port[CHANNELS]; /* 0: to be chosen when bound (only with a registration) */
    char *key;       /* in guarded memory (sodium_malloc); conn_forget_key() frees it */
    size_t key_len;  /* 0: messages are not signed */
    struct {
        char *kernel_id, *ip;
        int port; /* 0: this is a connection file */
    } registration; /* where the ports are told, see handshake.h */
    /* CurveZMQ, in Z85; NULL: not encrypted. The secret lies in guarded memory. */
    char *curve_public, *curve_secret;
};
#define CURVE_Z85 40 /* characters of a key (zmq_curve_keypair(3)) */

/* Reads the file. *ret_exit is what the program should exit with on failure. */
int conn_load(const char *path, struct conn *ret, int *ret_exit, struct err *err);
/* As conn_load, from the text of a file; the key's bytes in `text` are wiped. */
int conn_parse(uint8_t *text, size_t len, struct conn *ret, struct err *err);
/* The address of a channel as ZeroMQ wants it. */
int conn_address(const struct conn *conn, enum channel channel, char *into, size_t size);
int conn_registration_address(const struct conn *conn, char *into, size_t size);
/* Writes address and ports into the registration file, so that other clients can use it as a
 * connection file. In place: what covers it in the sandbox covers this very file. */
int conn_save(const struct conn *conn, const char *path, struct err *err);
void conn_forget_key(struct conn *conn);
void conn_forget_curve(struct conn *conn);
void conn_release(struct conn *conn);
