/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/front.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE (256u << 10)
#define KEEP_SIZE (4u << 20) /* a larger buffer is let go of when it is empty; pieces of files are half of it */
#define FEW 12               /* parts of most messages */

static const struct frame_rule rules[FRAME_LIMIT] = {
#define SERVER FRONT_BY_SERVER
#define KERNEL FRONT_BY_KERNEL
#define CALLER FRONT_BY_CALLER
#define KNOWN FRONT_KNOWN
#define STRANGER FRONT_STRANGER
#define ANY FRAME_ANY_PARTS
#define FRAME(name, no, sender, max, min, many, when, meaning) FRAME_RULE(name, no, sender, max, min, many, when, 0)
#include "kernel/front.def"
#undef FRAME
};

void
front_open(struct front *f, int fd, enum front_sender hears)
{
    *f = (struct front){.socket = fd, .hears = hears, .phase = FRONT_KNOWN};
    frame_widen(fd);
}

void
front_release(struct front *f)
{
    fd_close(&f->socket);
    buf_release(&f->in);
    buf_release(&f->out);
    *f = FRONT_NONE;
}

size_t
front_waiting(const struct front *f)
{
    return f->out.len - f->out_used;
}

void
front_flush(struct front *f)
{
    while (f->socket >= 0 && f->out_used < f->out.len) {
        ssize_t n = send(f->socket, f->out.data + f->out_used, f->out.len - f->out_used,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == ENOBUFS))
            return;
        if (n < 0) { /* gone: nobody hears it */
            f->deaf = 1;
            f->out_used = f->out.len;
            break;
        }
        f->out_used += (size_t)n;
    }
    if (f->out_used == f->out.len) {
        f->out.len = f->out_used = 0;
        if (f->out.size > KEEP_SIZE)
            buf_release(&f->out);
    }
}

void
front_linger(struct front *f, int ms)
{
    int64_t end = now_ms() + ms, left;

    while (f->socket >= 0 && !f->deaf && front_waiting(f) && (left = end - now_ms()) > 0) {
        struct pollfd p = {.fd = f->socket, .events = POLLOUT};
        if (poll(&p, 1, (int)left) > 0)
            front_flush(f);
    }
}

void
front_send(struct front *f, struct frame frame, const struct bytes *parts, size_t n)
{
    size_t payload = frame_payload(parts, n), sent = 0, before;

    if (f->socket < 0 || f->ended || f->deaf)
        return;
    if (payload > FRONT_MESSAGE)
        abort(); /* all that we send came through walls that are lower */
    if (!front_waiting(f)) {
        ssize_t r = frame_send(f->socket, frame, parts, n);
        f->deaf |= r < 0;
        sent = r > 0 ? (size_t)r : 0;
    }
    if (f->deaf || sent == FRAME_HEAD + payload)
        return;
    if (f->out_used && f->out_used >= f->out.len / 2) { /* not each time: what waits would be moved again and again */
        buf_consume(&f->out, f->out_used);
        f->out_used = 0;
    }
    before = f->out.len;
    if (frame_add(&f->out, frame, parts, n) < 0)
        abort();
    if (before == 0)
        f->out_used = sent;
    front_flush(f);
}

void
front_message(struct front *f, uint32_t client, uint32_t channel, const struct bytes part[static 4],
              const struct bytes *buffers, size_t n)
{
    struct frame frame = {.number = f->hears == FRONT_BY_KERNEL ? FRONT_REQUEST : FRONT_MESSAGE_TO,
                          .slot = client, .value = channel};
    struct bytes few[FEW], *all = few;

    if (4 + n > FEW && !(all = calloc(4 + n, sizeof *all)))
        abort();
    memcpy(all, part, 4 * sizeof *all);
    if (n)
        memcpy(all + 4, buffers, n * sizeof *all);
    front_send(f, frame, all, 4 + n);
    if (all != few)
        free(all);
}

/* sendfile(2), also where the file system has nothing for it: how many bytes, 0 when the file has ended; or -1 and errno. */
static ssize_t
send_some(int socket, int file, size_t size)
{
    char some[65536];
    ssize_t n = sendfile(socket, file, NULL, size);

    if (n >= 0 || errno != EINVAL)
        return n;
    n = pread(file, some, size < sizeof some ? size : sizeof some, lseek(file, 0, SEEK_CUR));
    if (n > 0 && (n = send(socket, some, (size_t)n, MSG_NOSIGNAL)) > 0)
        (void)lseek(file, n, SEEK_CUR);
    return n;
}

static void
send_zeros(struct front *f, size_t size)
{
    if (buf_reserve(&f->out, size) < 0)
        abort();
    memset(f->out.data + f->out.len, 0, size);
    f->out.len += size;
    front_flush(f);
}

int
front_message_file(struct front *f, uint32_t client, uint32_t channel, const struct bytes part[static 4], int file,
                   size_t size, struct err *err)
{
    struct frame frame = {.number = FRONT_REQUEST, .slot = client, .value = channel};
    uint8_t part_head[FRAME_PART_HEAD];
    size_t at = f->out.len;
    int r = 0;

    put32(part_head, (uint32_t)size);
    if (frame_add(&f->out, frame, part, 4) < 0 || buf_add(&f->out, part_head, sizeof part_head) < 0)
        abort();
    put32(f->out.data + at, (uint32_t)(f->out.len - at - FRAME_HEAD + size)); /* its length */
    front_linger(f, INT_MAX);
    while (size && !f->deaf && f->socket >= 0) {
        struct pollfd p = {.fd = f->socket, .events = POLLOUT};
        ssize_t n = send_some(f->socket, file, size);
        if (n > 0) {
            size -= (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            (void)poll(&p, 1, -1);
        } else if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            f->deaf = 1; /* which is heard from it */
        } else if (n == 0 || errno != EINTR) {
            r = n < 0 ? err_errno(err, "read it") : err_set(err, ENODATA, "it became shorter meanwhile");
            send_zeros(f, size);
            size = 0;
        }
    }
    return r;
}

/* Room for what is missing of the frame that has begun. -1 if it can never become valid. */
static int
make_room(struct front *f, struct err *err)
{
    size_t have, want = READ_SIZE;
    struct frame head;
    int r;

    if (f->in_used) {
        buf_consume(&f->in, f->in_used);
        f->in_used = 0;
    }
    if (f->in.len == 0 && f->in.size > KEEP_SIZE)
        buf_release(&f->in);
    have = f->in.len;
    r = frame_head(f->in.data, have, rules, f->hears, f->phase, &head, err);
    if (r < 0)
        return -1;
    if (r > 0 && FRAME_HEAD + (size_t)head.length > have + want)
        want = FRAME_HEAD + (size_t)head.length - have;
    return buf_reserve(&f->in, want) < 0 ? err_errno(err, "receive %zu bytes", want) : 0;
}

int
front_next(struct front *f, struct frame *ret, struct err *err)
{
    for (;;) {
        ssize_t n = f->in.len ? frame_parse(f->in.data + f->in_used, f->in.len - f->in_used, rules, f->hears, f->phase,
                                            ret, err)
                              : 0;
        if (n != 0) {
            f->in_used += n > 0 ? (size_t)n : 0;
            return n > 0 ? 1 : -1;
        }
        if (f->socket < 0 || f->ended)
            return 0;
        if (make_room(f, err) < 0)
            return -1;
        n = recv(f->socket, f->in.data + f->in.len, f->in.size - f->in.len, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0 || (n < 0 && errno != EAGAIN))
            f->ended = 1;
        if (n <= 0)
            return 0;
        f->in.len += (size_t)n;
    }
}

int
front_await(struct front *f, int ms, struct frame *ret, struct err *err)
{
    int64_t end = now_ms() + ms, left;
    int r;

    while ((r = front_next(f, ret, err)) == 0 && !f->ended && (left = end - now_ms()) > 0) {
        struct pollfd p = {.fd = f->socket, .events = POLLIN};
        (void)poll(&p, 1, (int)left);
    }
    return r;
}
