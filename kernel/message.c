/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/message.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <time.h>

#include "base/json.h"

int
wire_parse(const struct bytes *frames, size_t delimiter, size_t n, struct wire_msg *m, struct err *err)
{
    static const char *const names[] = {"header", "parent_header", "metadata", "content"};
    struct err why;

    m->first_identity = 0;
    m->identities = delimiter;
    m->first_buffer = delimiter + 2 + WIRE_PARTS;
    m->buffers = n - m->first_buffer;
    for (int i = 0; i < WIRE_PARTS; i++) {
        m->part[i] = frames[delimiter + 2 + (size_t)i];
        if (i != WIRE_CONTENT && json_check_object(m->part[i], &why) < 0)
            return err_set(err, EBADMSG, "%s: %s", names[i], why.text);
    }
    if (json_get(m->part[WIRE_HEADER], "msg_id", &m->msg_id) != J_STRING ||
        json_get(m->part[WIRE_HEADER], "msg_type", &m->msg_type) != J_STRING)
        return err_set(err, EBADMSG, "a header without msg_id and msg_type");
    return 0;
}

int
wire_delimiter(const struct bytes *frames, size_t n, size_t *ret, struct err *err)
{
    size_t delimiter = 0;

    while (delimiter < n && !bytes_equal(frames[delimiter], WIRE_DELIMITER))
        delimiter++;
    if (delimiter == n)
        return err_set(err, EBADMSG, "%zu frames without a delimiter", n);
    if (n - delimiter < 2 + WIRE_PARTS)
        return err_set(err, EBADMSG, "%zu frames after the delimiter", n - delimiter - 1);
    *ret = delimiter;
    return 0;
}

int
wire_read(const struct bytes *frames, size_t n, struct wire_msg *ret, struct err *err)
{
    struct wire_msg m = {0};
    size_t delimiter;

    if (wire_delimiter(frames, n, &delimiter, err) < 0 || wire_parse(frames, delimiter, n, &m, err) < 0)
        return -1;
    *ret = m;
    return 0;
}

void
sender_init(struct sender *s)
{
    uint8_t random[16];

    *s = (struct sender){0};
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(s->session, sizeof s->session, random, sizeof random);
}

const char *
wire_date(char into[static 32])
{
    struct timespec t;
    struct tm tm;
    size_t len;

    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    len = strftime(into, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(into + len, 32 - len, ".%06ldZ", t.tv_nsec / 1000);
    return into;
}

int
sender_header(struct sender *s, const char *type, struct buf *ret)
{
    char date[32];

    snprintf(s->last_id, sizeof s->last_id, "%s_%llu", s->session, (unsigned long long)s->count++);
    return buf_printf(ret,
                      "{\"msg_id\":\"%s\",\"msg_type\":\"%s\",\"username\":\"husk\","
                      "\"session\":\"%s\",\"date\":\"%s\",\"version\":\"" WIRE_PROTOCOL "\"}",
                      s->last_id, type, s->session, wire_date(date));
}
