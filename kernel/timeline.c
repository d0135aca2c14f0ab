/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/timeline.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PIPE_BYTES (256 << 10) /* asked for; a user's quota may give less */
#define PIPE_HELD (1u << 20)   /* bytes of one pipe held before they are emitted */
#define PIPE_PIECE (64u << 10) /* bytes that are emitted before it is asked whether more may be */
#define SOCKET_BYTES (1 << 20)

/*** Open and close ***/

static void *
map_memory(const char *name, size_t size, int *ret_fd, struct err *err)
{
    void *at = MAP_FAILED;
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        err_errno(err, "make shared memory '%s'", name);
        fd_close(&fd);
        return NULL;
    }
    *ret_fd = fd;
    return at;
}

/* A descriptor for reading that shares nothing with `fd` but the memory or the pipe behind it:
 * not its mode, and not its flags. A dup would let the sandbox take O_NONBLOCK from ours. */
static int
reopen(int fd, struct err *err)
{
    char path[48];
    int again;

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    again = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return again < 0 ? err_errno(err, "open '%s' again", path) : again;
}

static int
open_memory(struct timeline *t, struct timeline_ends *ends, struct err *err)
{
    void *ring = map_memory("husk-ring", RING_MAP, &ends->fd[INTERP_FD_RING - 1], err);
    int fd;

    if (!ring)
        return -1;
    t->ring = ring;
    t->ring_data = (const uint8_t *)ring + RING_OFFSET;
    t->progress = map_memory("husk-progress", PROGRESS_MAP, &ends->fd[INTERP_FD_PROGRESS - 1], err);
    if (!t->progress)
        return -1;
    fd = reopen(ends->fd[INTERP_FD_PROGRESS - 1], err);
    if (fd < 0)
        return -1;
    fd_close(&ends->fd[INTERP_FD_PROGRESS - 1]);
    ends->fd[INTERP_FD_PROGRESS - 1] = fd;
    return 0;
}

static int
open_socket(int *ours, int *theirs, struct err *err)
{
    int pair[2], size = SOCKET_BYTES;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "make a socket");
    *ours = pair[0];
    *theirs = pair[1];
    for (int i = 0; i < 2; i++)
        (void)setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return fd_nonblock(*ours) < 0 ? err_errno(err, "make a socket") : 0;
}

static int
open_pipes(struct timeline *t, struct timeline_ends *ends, struct err *err)
{
    int pair[2];

    for (int i = 0; i < 2; i++) {
        if (pipe2(pair, O_CLOEXEC) < 0)
            return err_errno(err, "make a pipe");
        t->pipe[i] = pair[0];
        ends->fd[i] = pair[1];
        ends->fd[INTERP_FD_PIPES - 1 + i] = reopen(pair[0], err);
        if (ends->fd[INTERP_FD_PIPES - 1 + i] < 0)
            return -1;
        (void)fcntl(pair[0], F_SETPIPE_SZ, PIPE_BYTES);
        if (fd_nonblock(pair[0]) < 0)
            return err_errno(err, "make a pipe");
    }
    if (open_socket(&t->side, &ends->fd[INTERP_FD_SIDE - 1], err) < 0)
        return -1;
    return open_socket(&t->socket, &ends->fd[INTERP_FD_SOCKET - 1], err);
}

static void
arm(struct timeline *t)
{
    if (++t->bell == 0)
        t->bell = 1;
    __atomic_store_n(&t->progress->bell, t->bell, __ATOMIC_SEQ_CST);
    t->look_again = 0;
}

int
timeline_open(struct timeline *t, struct timeline_sink sink, struct timeline_ends *ret,
              struct err *err)
{
    *t = (struct timeline){.sink = sink, .socket = -1, .side = -1, .pipe = {-1, -1}};
    *ret = (struct timeline_ends){{-1, -1, -1, -1, -1, -1, -1, -1, -1}};
    if (open_memory(t, ret, err) < 0 || open_pipes(t, ret, err) < 0) {
        for (size_t i = 0; i < countof(ret->fd); i++)
            fd_close(&ret->fd[i]);
        timeline_close(t);
        return -1;
    }
    arm(t);
    return 0;
}

void
timeline_close(struct timeline *t)
{
    fd_close(&t->socket);
    fd_close(&t->side);
    fd_close(&t->pipe[0]);
    fd_close(&t->pipe[1]);
    if (t->ring)
        munmap((void *)t->ring, RING_MAP);
    if (t->progress)
        munmap(t->progress, PROGRESS_MAP);
    buf_release(&t->held[0]);
    buf_release(&t->held[1]);
    buf_release(&t->in);
    buf_release(&t->scratch);
    *t = (struct timeline){.socket = -1, .side = -1, .pipe = {-1, -1}};
}

/*** Pipes ***/

/* Takes what is in a pipe. The sequence number is odd meanwhile, see ring.h. */
static void
drain_pipe(struct timeline *t, int i)
{
    struct buf *held = &t->held[i];

    while (t->pipe[i] >= 0 && held->len < PIPE_HELD) {
        ssize_t n;
        if (buf_reserve(held, 65536) < 0)
            return;
        __atomic_fetch_add(&t->progress->seq, 1, __ATOMIC_SEQ_CST);
        n = read(t->pipe[i], held->data + held->len, 65536);
        if (n > 0) {
            held->len += (size_t)n;
            t->drained[i] += (uint64_t)n;
            __atomic_store_n(&t->progress->drained[i], t->drained[i], __ATOMIC_RELAXED);
        }
        __atomic_fetch_add(&t->progress->seq, 1, __ATOMIC_SEQ_CST);
        if (n == 0)
            fd_close(&t->pipe[i]);
        if (n < 65536)
            return;
    }
}

/* Emits the bytes of a pipe up to position `upto` since its start, as far as they are held. */
static void
emit_pipe(struct timeline *t, int i, uint64_t upto)
{
    struct buf *held = &t->held[i];
    uint64_t want = upto > t->emitted[i] ? upto - t->emitted[i] : 0;
    size_t n = want < held->len ? (size_t)want : held->len;

    if (n == 0)
        return;
    t->sink.text(t->sink.self, i, 0, (struct bytes){held->data, n});
    buf_consume(held, n);
    t->emitted[i] += n;
}

/* A MARK: what was written to the pipes before it comes now. What cannot be had is not waited
 * for: the sandbox may have taken it out of its own pipe. */
static void
reach_mark(struct timeline *t, const uint64_t mark[2])
{
    for (int i = 0; i < 2; i++) {
        while (t->emitted[i] < mark[i]) {
            if (t->held[i].len == 0)
                drain_pipe(t, i);
            if (t->held[i].len == 0)
                break;
            emit_pipe(t, i, mark[i]);
        }
    }
}

/*** The ring ***/

static void
ring_read(const struct timeline *t, uint64_t at, void *into, size_t len)
{
    size_t start = at & (RING_BYTES - 1);
    size_t first = len < RING_BYTES - start ? len : RING_BYTES - start;

    memcpy(into, t->ring_data + start, first);
    memcpy((uint8_t *)into + first, t->ring_data, len - first);
}

static void
tell_tail(struct timeline *t)
{
    __atomic_store_n(&t->progress->tail, t->tail, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&t->progress->tail_futex, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&t->ring->stalled, __ATOMIC_SEQ_CST)) {
        __atomic_store_n((uint32_t *)&t->ring->stalled, 0, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &t->progress->tail_futex, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }
}

/* Takes the record at the tail; copies it before looking at it. */
static int
take_record(struct timeline *t, uint64_t head, struct err *err)
{
    struct ring_record r;
    uint64_t mark[2];

    if (head - t->tail < sizeof r)
        return err_set(err, EPROTO, "a ring whose last record is cut");
    ring_read(t, t->tail, &r, sizeof r);
    if (r.len > head - t->tail - sizeof r)
        return err_set(err, EPROTO, "a ring record of %u bytes, longer than the ring's text", r.len);
    switch (r.kind) {
    case RING_STDOUT:
    case RING_STDERR:
        if (r.len == 0)
            break;
        t->scratch.len = 0;
        if (buf_reserve(&t->scratch, r.len) < 0)
            return err_errno(err, "take text");
        ring_read(t, t->tail + sizeof r, t->scratch.data, r.len);
        t->sink.text(t->sink.self, r.kind == RING_STDERR, r.slot,
                     (struct bytes){t->scratch.data, r.len});
        break;
    case RING_MARK:
        if (r.len != sizeof mark)
            return err_set(err, EPROTO, "a ring mark of %u bytes", r.len);
        ring_read(t, t->tail + sizeof r, mark, sizeof mark);
        reach_mark(t, mark);
        break;
    default:
        return err_set(err, EPROTO, "a ring record of kind %u", r.kind);
    }
    t->tail += sizeof r + r.len;
    return 0;
}

static int
load_head(struct timeline *t, uint64_t *ret, struct err *err)
{
    uint64_t head = __atomic_load_n(&t->ring->head, __ATOMIC_SEQ_CST);

    if (head - t->tail > RING_BYTES)
        return err_set(err, EPROTO, "a ring that holds more than it can");
    *ret = head;
    return 0;
}

static int
take_ring(struct timeline *t, uint64_t upto, struct err *err)
{
    uint64_t start = t->tail;
    int r = 0;

    while (r == 0 && t->tail < upto && !t->sink.full(t->sink.self))
        r = take_record(t, upto, err);
    if (t->tail != start) {
        tell_tail(t);
        t->look_again = now_ms() + TIMELINE_LOOK_MS;
        __atomic_store_n(&t->progress->bell, 0, __ATOMIC_SEQ_CST);
    }
    return r;
}

/*** Frames ***/

/* Reads the socket until it is empty. A long frame gets room for all of it at once, after its
 * head was checked. Returns 1 if the socket is known to be empty. */
static int
fill(struct timeline *t, struct err *err)
{
    if (t->in_used) {
        buf_consume(&t->in, t->in_used);
        t->in_used = 0;
    }
    for (;;) {
        struct frame f;
        size_t want = 65536;
        ssize_t n;

        switch (frame_head(t->in.data, t->in.len, interp_rules, INTERP_BY_INTERP,
                           INTERP_BOOT | INTERP_IDLE | INTERP_BUSY, &f, err)) {
        case -1:
            return -1;
        case 1:
            if (FRAME_HEAD + (size_t)f.length > t->in.len)
                want = FRAME_HEAD + (size_t)f.length - t->in.len;
            else if (t->in.len > 4u << 20)
                return 0; /* enough whole frames for one round */
        }
        if (buf_reserve(&t->in, want) < 0)
            return err_errno(err, "take a frame");
        n = recv(t->socket, t->in.data + t->in.len, t->in.size - t->in.len, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 1;
        if (n <= 0) {
            t->ended = 1;
            return 1;
        }
        t->in.len += (size_t)n;
    }
}

/* Handles whole frames, each after the text that it came after. Returns 1 if none is left
 * half, 0 if the rest must wait. */
static int
take_frames(struct timeline *t, struct err *err)
{
    while (t->in_used < t->in.len) {
        struct frame f;
        ssize_t used;

        if (t->sink.full(t->sink.self))
            return 0;
        used = frame_parse(t->in.data + t->in_used, t->in.len - t->in_used, interp_rules,
                           INTERP_BY_INTERP, t->sink.phase(t->sink.self), &f, err);
        if (used <= 0)
            return (int)used;
        if (f.mark > t->tail) {
            uint64_t head = 0;
            if (load_head(t, &head, err) < 0)
                return -1;
            if (f.mark > head)
                return err_set(err, EPROTO, "%s after text that does not exist",
                               interp_rules[f.number].name);
            if (take_ring(t, f.mark, err) < 0)
                return -1;
            if (t->tail < f.mark)
                return 0;
        }
        if (t->sink.frame(t->sink.self, &f, err) < 0)
            return -1;
        t->in_used += (size_t)used;
    }
    return 1;
}

int
timeline_run(struct timeline *t, struct err *err)
{
    uint64_t head = 0, limit[2];
    int empty, done;

    if (t->sink.full(t->sink.self))
        return 0;
    /* This order is what makes the result exact; ring.h says why. */
    for (int i = 0; i < 2; i++) {
        drain_pipe(t, i);
        limit[i] = t->drained[i];
    }
    if (load_head(t, &head, err) < 0)
        return -1;
    empty = fill(t, err);
    if (empty < 0 || (done = take_frames(t, err)) < 0)
        return -1;
    if (!empty || !done)
        return 0;
    if (take_ring(t, head, err) < 0)
        return -1;
    if (t->tail >= head)
        for (int i = 0; i < 2; i++)
            while (t->held[i].len && t->emitted[i] < limit[i] && !t->sink.full(t->sink.self))
                emit_pipe(t, i, t->emitted[i] + PIPE_PIECE < limit[i] ? t->emitted[i] + PIPE_PIECE
                                                                      : limit[i]);
    if (t->look_again && now_ms() >= t->look_again) {
        arm(t);
        /* A writer that came between our look and the bell did not ring it. */
        if (__atomic_load_n(&t->ring->head, __ATOMIC_SEQ_CST) != t->tail)
            t->look_again = now_ms();
    }
    return 0;
}

void
timeline_finish(struct timeline *t)
{
    struct err err;

    for (int rounds = 0; rounds < 1000; rounds++) {
        uint64_t before = t->tail + t->emitted[0] + t->emitted[1] + t->in_used;
        if (timeline_run(t, &err) < 0)
            break;
        if (before == t->tail + t->emitted[0] + t->emitted[1] + t->in_used && t->ended)
            break;
    }
}
