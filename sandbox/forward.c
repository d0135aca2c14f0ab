/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/forward.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUNDS 16    /* of splicing in and out, before others have their turn */
#define SPARE_MAX 8  /* empty pipes that are kept: what a user may have in pipes is bounded */

/* Most directions are empty most of the time, and a pipe costs two descriptors and memory. */
static struct {
    int pipe[SPARE_MAX][2];
    size_t len;
} spare;

static int
take_pipe(int into[static 2])
{
    if (spare.len) {
        spare.len--;
        into[0] = spare.pipe[spare.len][0];
        into[1] = spare.pipe[spare.len][1];
        return 0;
    }
    if (pipe2(into, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    /* Beyond what a user may have in pipes the kernel says no: then it stays a small one. */
    (void)fcntl(into[1], F_SETPIPE_SZ, FORWARD_PIPE);
    return 0;
}

/* Only an empty one may be used by others. */
static void
give_pipe(int pipe[static 2], int empty)
{
    if (pipe[0] >= 0 && empty && spare.len < SPARE_MAX) {
        spare.pipe[spare.len][0] = pipe[0];
        spare.pipe[spare.len++][1] = pipe[1];
        pipe[0] = pipe[1] = -1;
    }
    fd_close(&pipe[0]);
    fd_close(&pipe[1]);
}

/* 1: go on; 0: nothing can be done now; -1: a socket failed. */
static int
fill(struct forward *f)
{
    ssize_t n;

    if (f->pipe[0] < 0 && take_pipe(f->pipe) < 0)
        return -1;
    /* The pipe is empty, so EAGAIN can only mean the socket. */
    n = splice(f->from, NULL, f->pipe[1], NULL, FORWARD_PIPE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n > 0) {
        f->held = (size_t)n;
        return 1;
    }
    if (n < 0)
        return errno == EINTR ? 1 : errno == EAGAIN ? 0 : -1;
    f->ended = 1;
    /* ENOTCONN: it was reset just now, which the other direction will see. */
    return shutdown(f->to, SHUT_WR) < 0 && errno != ENOTCONN ? -1 : 0;
}

static int
drain(struct forward *f)
{
    ssize_t n = splice(f->pipe[0], NULL, f->to, NULL, f->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

    if (n < 0)
        return errno == EINTR ? 1 : errno == EAGAIN ? 0 : -1;
    f->held -= (size_t)n;
    return 1;
}

int
forward_run(struct forward *f)
{
    int r = 1;

    for (int round = 0; r > 0 && round < 2 * ROUNDS && (f->held || !f->ended); round++)
        r = f->held ? drain(f) : fill(f);
    if (r >= 0 && f->held == 0)
        give_pipe(f->pipe, 1);
    return r < 0 ? -1 : 0;
}

int
forward_wants_from(const struct forward *f)
{
    return !f->ended && f->held == 0;
}

int
forward_wants_to(const struct forward *f)
{
    return f->held > 0;
}

void
forward_release(struct forward *f)
{
    give_pipe(f->pipe, f->held == 0);
    *f = FORWARD_EMPTY;
}
