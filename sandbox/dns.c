/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/dns.h"

#include <string.h>

#include "wall/frame.h"

#define HEAD 12
#define FLAG_ANSWER 0x80 /* in byte 2 */
#define FLAG_RECURSE 0x01
#define FLAG_CAN_RECURSE 0x80 /* in byte 3 */
#define OPCODE 0x78
#define NAME_WIRE_MAX 255
#define LABEL_KIND 0xc0 /* not 0: a pointer, or what nobody uses */

/* The name at the start of `at`, as text. Returns its bytes in the packet, or 0 if it is cut off,
 * compressed or too long. Text that holds other bytes than names do is made empty. */
static size_t
read_name(const uint8_t *at, size_t len, char name[static NAME_SIZE])
{
    char text[NAME_WIRE_MAX];
    size_t used = 0, out = 0;
    int dotted = 0;

    for (;;) {
        size_t label;
        if (used >= len || (at[used] & LABEL_KIND))
            return 0;
        label = at[used++];
        if (label == 0)
            break;
        if (label > len - used || used + label >= NAME_WIRE_MAX) /* the end needs one, too */
            return 0;
        dotted |= memchr(at + used, '.', label) != NULL; /* would become two labels */
        memcpy(text + out, at + used, label);
        out += label;
        text[out++] = '.';
        used += label;
    }
    if (dotted || name_normalise((struct bytes){(const uint8_t *)text, out}, name) < 0)
        *name = 0;
    return used;
}

int
dns_read(const uint8_t *packet, size_t len, struct dns_query *ret)
{
    struct dns_query q = {0};
    size_t name;

    if (len < HEAD || (packet[2] & FLAG_ANSWER))
        return -1;
    memcpy(q.head, packet, sizeof q.head);
    *ret = q;
    if (packet[2] & OPCODE)
        return DNS_NOT_IMPLEMENTED;
    if (get16(packet + 4) != 1 || get16(packet + 6) != 0 || get16(packet + 8) != 0)
        return DNS_FORMAT_ERROR;
    name = read_name(packet + HEAD, len - HEAD, q.name);
    if (name == 0 || len - HEAD - name < 4)
        return DNS_FORMAT_ERROR;
    q.question = (struct bytes){packet + HEAD, name + 4};
    q.type = get16(packet + HEAD + name);
    q.class = get16(packet + HEAD + name + 2);
    *ret = q;
    return q.class == 1 ? DNS_OK : DNS_NOT_IMPLEMENTED;
}

size_t
dns_answer(const struct dns_query *q, int code, uint32_t address, uint8_t into[static DNS_PACKET])
{
    /* The name by a pointer to the question, A, IN, TTL, four bytes. */
    uint8_t record[16] = {0xc0, HEAD, 0, DNS_A, 0, 1, 0, 0, 0, DNS_TTL, 0, 4};
    size_t len = HEAD;

    memset(into, 0, HEAD);
    memcpy(into, q->head, 2);
    into[2] = (uint8_t)(FLAG_ANSWER | (q->head[2] & (OPCODE | FLAG_RECURSE)));
    into[3] = (uint8_t)(FLAG_CAN_RECURSE | code);
    into[5] = q->question.len > 0;
    into[7] = address != 0;
    memcpy(into + len, q->question.data ? q->question.data : record, q->question.len);
    len += q->question.len;
    if (address) {
        put32(record + 12, address);
        memcpy(into + len, record, sizeof record);
        len += sizeof record;
    }
    return len;
}
