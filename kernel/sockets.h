/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sockets.h: the five ZeroMQ sockets of a kernel, and whole messages over them.
 *
 * ZeroMQ has threads of its own from sockets_open() on: nothing forks after it.
 */
#pragma once

#include "kernel/conn.h"
#include "kernel/zeromq.h"
#include "wall/frame.h"

#define IOPUB_HWM 16384 /* messages queued for one subscriber before it counts as stopped */

struct sockets {
    void *context;
    void *socket[CHANNELS];
    struct strv files; /* of ipc sockets, to remove */
};

/* The socket files of an ipc connection, listening, without any ZeroMQ: for a kernel that others may speak
 * to, and until one does. */
int sockets_listen(const struct conn *conn, int ret[static CHANNELS], struct err *err);
/* Binds all, or takes those of sockets_listen() (else NULL), and sets them to -1; ports that are 0 are chosen and written into `conn`. A busy address is tried again for a second: the kernel before us may still be on
 * its way out. *ret_exit is what the program should exit with on failure. */
int sockets_open(struct conn *conn, int *listening, struct sockets *ret, int *ret_exit, struct err *err);
/* Sends what is queued for at most `linger_ms`, closes, removes socket files. */
void sockets_close(struct sockets *sockets, int linger_ms);

/* A received message of any number of frames. */
struct frames {
    zmq_msg_t *msg; /* owned */
    struct bytes *bytes; /* of each frame, borrowed from msg, or from `block` */
    size_t n, size;
    void *block; /* owned: of a message that came over the front (front.h); NULL: over ZeroMQ */
    size_t borrowed; /* from this frame on they lie in what they were made of, until frames_keep(); 0: none does */
    void *kept;  /* owned: of those */
};
/* A message of the front as one of ZeroMQ: the client as its identity, the delimiter, no signature. Buffers, which may be
 * pieces of files, are borrowed. */
void frames_of_front(struct frames *f, const struct frame *from);
/* Copies what is borrowed. */
void frames_keep(struct frames *f);
/* Receives a whole message. 1, or 0 when nothing is there. */
int frames_recv(struct frames *f, void *socket);
void frames_release(struct frames *f);

/* Sends one frame; copies. -1 with errno EAGAIN when the socket would block. */
int send_bytes(void *socket, struct bytes data, int more);
