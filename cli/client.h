/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client.h: the command line's end of a kernel: the messages of any Jupyter client, over the stream of
 * kernel/front.def. The command that starts a kernel has its end of a pair of sockets, and hears iopub too; others
 * connect (kernel/callers.h).
 */
#pragma once

#include "base/json.h"
#include "kernel/conn.h"
#include "kernel/front.h"
#include "kernel/message.h"
#include "kernel/registry.h"

#define MESSAGE_BUFFERS 8 /* that are looked at; operations have fewer */

struct client {
    struct front front;
    struct sender sender;
};
#define CLIENT_NONE ((struct client){.front = {.socket = -1}})

/* A message that came. What client_next() gives is borrowed until the next one. */
struct message {
    enum channel channel;
    struct wire_msg msg;
    struct bytes buffer[MESSAGE_BUFFERS];
    struct buf kept; /* what all of it lies in, if it is not borrowed */
};

/* Connects. */
int client_open(const struct registry_entry *entry, struct client *ret, struct err *err);
/* Takes a socket whose other end a kernel was started with. */
void client_take(int fd, struct client *ret);
void client_close(struct client *c);
/* A kernel that we started is to live on when this is closed; of one that we have called, what waits for us alone
 * (agent.h): it has its lease. */
void client_let_live(struct client *c);

/* Sends a request; the msg_id, without quotes, is put into `id`. */
int client_send(struct client *c, enum channel channel, const char *type, struct bytes content,
                const struct bytes *buffers, size_t n, char id[static 80], struct err *err);
/* With one buffer, the next `size` bytes of a file; -1 as front_message_file(). */
int client_send_file(struct client *c, enum channel channel, const char *type, struct bytes content, int file, size_t size,
                     char id[static 80], struct err *err);
/* The next message of any channel that the call listens to (bits 1 << channel); others are passed over. 1, 0 when
 * `end` (ms; 0: never) has come or, with `fd` not -1, that is readable; -1 with err set. */
int client_next(struct client *c, unsigned channels, int fd, int64_t end, struct message *ret,
                struct err *err);
void message_release(struct message *m);
/* Whether its parent is the request of that id. */
int message_is_for(const struct message *m, const char *id);
struct bytes message_content(const struct message *m);
struct bytes message_buffer(const struct message *m, size_t i); /* empty if there is none */

/* The result of an operation in its answer, borrowed; -1: it failed, err->code as below. */
int message_result(const struct message *m, struct bytes *ret, struct err *err);

/* One operation: its result in *ret (a JSON object, borrowed from *m, which is kept and which the caller
 * releases). `buffer` may be empty. -1: it failed, or no answer came before `end`. err->code is then that of
 * op_errors.def, or another errno. */
int client_call(struct client *c, const char *method, struct bytes params, struct bytes buffer,
                int64_t end, struct message *m, struct bytes *ret, struct err *err);
