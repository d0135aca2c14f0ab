/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client.h: the command line's end of a kernel: a Jupyter client like any other, with the same
 * messages, signed with the key of the connection file.
 */
#pragma once

#include "base/json.h"
#include "kernel/sockets.h"
#include "kernel/wire.h"

struct client {
    struct conn conn;
    struct wire *wire;
    void *context;
    void *socket[CHANNELS]; /* no heartbeat */
    int pidfd;              /* of the kernel: its end is an error; or -1 */
};

/* A message that came. */
struct message {
    enum channel channel;
    struct frames frames;
    struct wire_msg msg;
};

/* Connects. With `listen`, iopub is subscribed to, and that is waited for. */
int client_open(const char *connection_file, pid_t pid, int listen, struct client *ret, struct err *err);
void client_close(struct client *c);

/* Sends a request; the msg_id, without quotes, is put into `id` if that is not NULL. */
int client_send(struct client *c, enum channel channel, const char *type, struct bytes content,
                const struct bytes *buffers, size_t n, char id[static 80], struct err *err);
/* The next message of any channel that the call listens to (bits 1 << channel). 1, 0 when `end` (ms;
 * 0: never) has come or, with `fd` not -1, that is readable; -1 with err set. */
int client_next(struct client *c, unsigned channels, int fd, int64_t end, struct message *ret,
                struct err *err);
void message_release(struct message *m);
/* Whether its parent is the request of that id. */
int message_is_for(const struct message *m, const char *id);
struct bytes message_content(const struct message *m);
struct bytes message_buffer(const struct message *m, size_t i); /* empty if there is none */

/* One operation: its result in *ret (a JSON object, borrowed from *m, which the caller releases).
 * `buffer` may be empty. -1: it failed, or no answer came before `end`. err->code is then that of
 * op_errors.def, or another errno. */
int client_call(struct client *c, const char *method, struct bytes params, struct bytes buffer,
                int64_t end, struct message *m, struct bytes *ret, struct err *err);
