/* SPDX-License-Identifier: BSD-3-Clause
 *
 * kernels.h: the kernels of a server. Each is a child process, `husk kernel --front`, which speaks
 * frames (kernel/front.h) over a socket that it inherited; that socket is its life: when the server is gone, in
 * whatever way, the kernel ends, and its sandbox with it.
 *
 * A party is whoever speaks to a kernel: a WebSocket, or an operation of the server's own. The number of a party
 * goes with what it asks, and comes back with the answer. What a kernel publishes goes to every
 * party that listens.
 *
 * Requests are noted until they are answered, so that a kernel that is killed from outside leaves none open:
 * the server then says error, reply and idle in its place.
 */
#pragma once

#include "kernel/front.h"
#include "serve/framing.h"
#include "serve/http.h"

enum served_state { SERVED_STARTING, SERVED_IDLE, SERVED_BUSY, SERVED_RESTARTING, SERVED_DEAD };

/* What a kernel said. The frames that WebSockets get are made once, when the first asks (channels.c). */
struct heard {
    uint32_t channel;
    struct framing message;
    struct message *made[2]; /* legacy, v1 */
};

struct party {
    struct party *next;
    uint32_t number;
    int listens; /* to iopub */
    void (*hear)(struct party *p, struct heard *h);
    void (*ended)(struct party *p); /* the kernel is gone for good; the party has been removed */
    struct served *kernel;          /* NULL: it has none (any more) */
};

struct open_request;
struct waiter;
struct backlog;
struct served {
    struct served *next;
    struct server *server;
    char id[37];
    char *spec;              /* its name */
    struct strv options;     /* of `husk kernel` */
    struct strv environment; /* NAME=VALUE */
    struct buf tags;         /* of sandbox.set, said once it is built */
    enum served_state state;
    int64_t last_activity; /* microseconds of CLOCK_REALTIME */
    size_t connections;
    char husk_id[16];      /* as husk ls has it; "" before the sandbox is built */
    char directory[4096], home[4096]; /* inside */
    pid_t pid;
    int pidfd;
    struct front front;
    struct source front_source, process;
    struct timer deadline; /* of a start, a restart, an end */
    char connection_file[4400];
    int paused;            /* PAUSE was sent */
    int stopping;          /* DELETE, or the server ends */
    int again;             /* it ends by a message that asks for a restart */
    unsigned cells;        /* that run */
    int removed;           /* no longer listed */
    int hidden;            /* the server's own: it has files and runs no cells (files_for()) */
    char failure[ERR_TEXT];
    struct party *parties;
    struct open_request *open;
    struct waiter *waiters;
    struct backlog *backlog; /* channels.c: what nobody heard */
};

/* What a client may choose; each is checked. */
struct served_wish {
    const struct spec *spec;
    struct strv options, environment;
    struct buf tags; /* an object, or empty */
    int hidden;
};

/* Starts one; takes what the wish has. NULL with err set: it could not even be begun. */
struct served *served_start(struct server *s, struct served_wish *wish, struct err *err);
struct served *served_find(struct server *s, const char *id);
/* The next one that clients may see, after k or of all (NULL). */
struct served *served_next(struct server *s, const struct served *k);
/* Answers 404 and returns NULL if there is none of this id. */
struct served *served_of(struct server *s, struct exchange *x, const char *id);
/* Appends its model. */
void served_model(const struct served *k, struct buf *ret);
const char *served_state_name(const struct served *k);
/* Asks it to end; it is listed until it has. */
void served_stop(struct served *k);
void served_stop_all(struct server *s);
/* A new interpreter in the same sandbox; of a dead kernel, a new one. served_wait() says when it is there. */
void served_restart(struct served *k);

/* Calls fn(of, k) when the kernel is ready (again), or has failed or ended: see its state and failure. */
void served_wait(struct served *k, void (*fn)(void *of, struct served *k), void *of);
void served_forget_wait(struct served *k, void *of);

void party_join(struct served *k, struct party *p); /* gives it its number */
void party_leave(struct party *p);
void party_send(struct party *p, uint32_t channel, const struct framing *m);

/* Cells wait while some client is slow. */
void served_pause(struct served *k, int on);

/* Reads the body of a request for a kernel (POST /api/kernels, "kernel" of a session, also with `name` of its own).
 * -1: answered. */
int wish_read(struct exchange *x, struct bytes object, struct served_wish *ret);
/* What the server wishes itself: a sandbox as that of kernels, hidden, for as long as it lives. */
void wish_of_server(struct server *s, struct served_wish *ret);
void wish_release(struct served_wish *w);
