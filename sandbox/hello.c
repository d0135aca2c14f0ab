/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/hello.h"

#include <string.h>

#include "wall/frame.h"

#define RECORD_HEAD 5
#define RECORD_HANDSHAKE 22
#define RECORD_MAX (16384 + 256)
#define VERSION_MAJOR 3
#define CLIENT_HELLO 1
#define EXTENSION_SERVER_NAME 0
#define NAME_TYPE_HOST 0

/* Bytes yet to be read. Taking more than there is makes it `bad`, and all that follows empty. */
struct cursor {
    const uint8_t *at;
    size_t left;
    int bad;
};

static const uint8_t *
take(struct cursor *c, size_t n)
{
    static const uint8_t nothing[4];
    const uint8_t *at = c->at;

    if (n > c->left) {
        c->bad = 1;
        c->left = 0;
        return nothing; /* of the lengths below, which are all that is read through it */
    }
    c->at += n;
    c->left -= n;
    return at;
}

/* A vector: a length of `bytes` bytes, and as much after it. */
static struct cursor
take_vector(struct cursor *c, int bytes)
{
    const uint8_t *head = take(c, (size_t)bytes);
    size_t len = bytes == 1 ? head[0] : get16(head);
    struct cursor in = {.left = len <= c->left ? len : 0};

    in.at = take(c, len);
    in.bad = c->bad;
    return in;
}

/* Puts the payloads of the records together. */
static enum hello
join_records(const uint8_t *data, size_t len, uint8_t into[static HELLO_MAX], size_t *used)
{
    *used = 0;
    while (len >= RECORD_HEAD) {
        size_t record = get16(data + 3), here;
        if (data[0] != RECORD_HANDSHAKE || data[1] != VERSION_MAJOR || record == 0 ||
            record > RECORD_MAX)
            return HELLO_BROKEN;
        here = record <= len - RECORD_HEAD ? record : len - RECORD_HEAD;
        if (here > HELLO_MAX - *used)
            here = HELLO_MAX - *used;
        memcpy(into + *used, data + RECORD_HEAD, here);
        *used += here;
        if (here < record)
            break; /* the rest is not here yet, or is of no interest */
        data += RECORD_HEAD + record;
        len -= RECORD_HEAD + record;
    }
    return HELLO_MORE;
}

static enum hello
read_server_name(struct cursor *extension, char name[static NAME_SIZE])
{
    struct cursor list = take_vector(extension, 2);
    const uint8_t *type = take(&list, 1);
    struct cursor host = take_vector(&list, 2);

    /* One name: a second one would be for whoever reads another than we do. */
    if (host.bad || *type != NAME_TYPE_HOST || list.left || extension->left)
        return HELLO_BROKEN;
    if (name_normalise((struct bytes){host.at, host.left}, name) < 0)
        return HELLO_BROKEN;
    return HELLO_NAMED;
}

static enum hello
read_body(struct cursor c, char name[static NAME_SIZE])
{
    enum hello found = HELLO_UNNAMED;
    struct cursor extensions;

    take(&c, 2 + 32);      /* version, random */
    take_vector(&c, 1);    /* session */
    take_vector(&c, 2);    /* cipher suites */
    take_vector(&c, 1);    /* compression */
    if (c.bad)
        return HELLO_BROKEN;
    if (c.left == 0)
        return HELLO_UNNAMED;
    extensions = take_vector(&c, 2);
    while (!extensions.bad && extensions.left) {
        unsigned type = get16(take(&extensions, 2));
        struct cursor extension = take_vector(&extensions, 2);
        if (extensions.bad)
            break;
        if (type != EXTENSION_SERVER_NAME)
            continue;
        if (found != HELLO_UNNAMED)
            return HELLO_BROKEN;
        found = read_server_name(&extension, name);
    }
    return extensions.bad || c.left ? HELLO_BROKEN : found;
}

enum hello
hello_read(const uint8_t *data, size_t len, char name[static NAME_SIZE])
{
    uint8_t joined[HELLO_MAX];
    size_t used, body;

    if (len && data[0] != RECORD_HANDSHAKE)
        return HELLO_OTHER;
    if (len >= 2 && data[1] != VERSION_MAJOR)
        return HELLO_OTHER;
    if (join_records(data, len, joined, &used) == HELLO_BROKEN)
        return HELLO_BROKEN;
    if (used && joined[0] != CLIENT_HELLO)
        return HELLO_BROKEN;
    if (used < 4)
        return HELLO_MORE;
    body = (size_t)joined[1] << 16 | get16(joined + 2);
    if (body > HELLO_MAX - 4)
        return HELLO_BROKEN;
    if (used - 4 < body)
        return len < HELLO_MAX ? HELLO_MORE : HELLO_BROKEN;
    return read_body((struct cursor){.at = joined + 4, .left = body}, name);
}
