/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/feed.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BLOCK (256u << 10) /* bytes that libmicrohttpd asks for at a time */

static void
resume(struct feed *f)
{
    if (!f->suspended)
        return;
    f->suspended = 0;
    loop_set(&f->server->loop, &f->look, 0);
    MHD_resume_connection(f->connection);
    f->server->run_http = 1;
}

static void
look(void *of)
{
    struct feed *f = of;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(f->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    char byte;

    if (recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        feed_end(f, 1);
        return;
    }
    loop_set(&f->server->loop, &f->look, now_ms() + FEED_LOOK_MS);
}

static ssize_t
read_feed(void *of, uint64_t at, char *into, size_t max)
{
    struct feed *f = of;
    size_t n = feed_waiting(f);

    if (n == 0 && f->ended)
        return f->broken ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
    if (n == 0) {
        f->suspended = 1;
        loop_set(&f->server->loop, &f->look, now_ms() + FEED_LOOK_MS);
        MHD_suspend_connection(f->connection);
        return 0;
    }
    if (n > max)
        n = max;
    memcpy(into, f->data.data + f->used, n);
    f->used += n;
    if (f->used == f->data.len)
        f->used = f->data.len = 0;
    if (f->taken)
        f->taken(f->of);
    return (ssize_t)n;
}

static void
release(void *of)
{
    struct feed *f = of;

    loop_set(&f->server->loop, &f->look, 0);
    if (f->gone)
        f->gone(f->of);
    buf_release(&f->data);
    free(f);
}

struct feed *
feed_answer(struct exchange *x, unsigned status, uint64_t size, const char *type,
            void (*headers)(struct MHD_Response *r, void *of), void (*taken)(void *of), void (*gone)(void *of), void *of)
{
    struct feed *f = calloc(1, sizeof *f);
    struct MHD_Response *r;

    if (!f)
        abort();
    *f = (struct feed){.server = x->server, .connection = x->connection, .taken = taken, .gone = gone, .of = of};
    f->look = (struct timer){.fire = look, .of = f};
    r = MHD_create_response_from_callback(size == FEED_ENDLESS ? MHD_SIZE_UNKNOWN : size, BLOCK, read_feed, f, release);
    if (!r)
        abort();
    response_header(r, "Content-Type", type);
    if (headers)
        headers(r, of);
    answer_response(x, status, r);
    return f;
}

void
feed_add(struct feed *f, const void *data, size_t len)
{
    if (f->used && f->used >= f->data.len / 2) {
        buf_consume(&f->data, f->used);
        f->used = 0;
    }
    if (buf_add(&f->data, data, len) < 0)
        abort();
    resume(f);
}

void
feed_end(struct feed *f, int broken)
{
    f->ended = 1;
    f->broken = f->broken || broken;
    resume(f);
}

size_t
feed_waiting(const struct feed *f)
{
    return f->data.len - f->used;
}
