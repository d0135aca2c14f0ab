/* SPDX-License-Identifier: BSD-3-Clause
 *
 * server.h: the state of `husk serve`, and who does what with it. One thread; each kernel is a child of its own
 * (`husk kernel`), which has the sandbox; this process holds the token and the connections, and runs nothing.
 *
 *   main.c       the command line; starts and stops it
 *   loop.c       descriptors and timers
 *   http.c       requests in, replies out; who may ask (routes.def says what there is)
 *   tls.c        TLS in front of it
 *   login.c      a form and a cookie for clients that want them
 *   kernels.c    the kernels: starts, feeds, hears, ends them
 *   specs.c      what kernels can be started
 *   channels.c   WebSockets of /api/kernels/ID/channels
 *   framing.c    their messages; pure
 *   websocket.c  WebSockets
 *   sessions.c   /api/sessions
 *   terminals.c  /api/terminals
 *   contents.c   /api/contents: errand.c, checkpoints.c, entries.c
 *   operations.c what wall/operations.def lists; files.c: bytes of files; describe.c: what there is
 */
#pragma once

#include <microhttpd.h>

#include "serve/loop.h"
#include "serve/marks.h"
#include "serve/options.h"

struct served;
struct session;
struct spec;
struct tls;

struct server {
    struct serve_options options;
    char token[256];         /* "": everybody who reaches us */
    char session[49];        /* what the cookie of who logged in says (login.h) */
    struct loop loop;
    struct MHD_Daemon *http;
    struct tls *tls;         /* NULL: without */
    struct source http_source, signals;
    int listener;
    int loopback;            /* it listens where only this machine can reach it */
    char url[512];           /* without the token */
    int port;
    int run_http;            /* MHD has something to do */
    int64_t http_at;         /* ms: when it wants to be called at the latest; 0: it does not */
    struct served *kernels;
    size_t kernel_count;
    uint32_t next_number;    /* of parties (kernels.h) */
    struct session *sessions;
    struct spec *specs;
    size_t spec_count;
    char started[32];
    int64_t last_activity;   /* microseconds of CLOCK_REALTIME */
    int64_t draining;        /* ms: SIGTERM has come; when to end whatever goes on; 0: no */
    struct {
        uint64_t requests, refused, kernels_started, kernels_failed, kernels_died, websockets, messages_in,
            messages_out, bytes_out, slow_clients;
        size_t sockets; /* open WebSockets */
    } count;
};

/* Something was asked. */
static inline void
server_active(struct server *s)
{
    s->last_activity = clock_us();
}
