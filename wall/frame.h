/* SPDX-License-Identifier: BSD-3-Clause
 *
 * frame.h: the form of everything that crosses a wall of husk.
 *
 * A frame is 24 bytes of head and a payload of parts:
 *
 *     0        4        6      8      12      16       24
 *     | length | number | zero | slot | value | mark   | part, part, ...
 *
 *     part:  | length (4 bytes) | bytes |
 *
 * All integers are big-endian. `length` counts the payload only. `slot` is the request (or the
 * process) that the frame belongs to: the trusted side chose it, the other side only echoes
 * it. What `value` and `mark` mean, which numbers exist, who may send them, when, how long
 * and with how many parts, is said by one table for each wall: interp.def and sandbox.def.
 *
 * Parsing is pure: it never allocates and never looks beyond the bytes it was given. A frame
 * that breaks a rule is not skipped: the peer is broken or hostile, and the caller ends it,
 * naming the rule.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

#define FRAME_HEAD 24            /* bytes */
#define FRAME_PART_HEAD 4        /* bytes in front of every part */
#define FRAME_ANY_PARTS UINT16_MAX
#define FRAME_LIMIT 64           /* numbers are below this */

struct frame {
    uint16_t number;
    uint32_t slot;
    uint32_t value;
    uint64_t mark;
    const uint8_t *payload; /* borrowed from the buffer that was parsed */
    uint32_t length;        /* bytes of payload */
};

/* One row of a table. A zeroed row is a number that does not exist. */
struct frame_rule {
    const char *name;
    uint32_t max;       /* bytes of payload */
    uint16_t min_parts; /* of the payload */
    uint16_t max_parts; /* FRAME_ANY_PARTS: no limit but max */
    uint8_t sender;     /* set of the table's sender bits */
    uint8_t when;       /* set of the table's phase bits */
    uint8_t fds;        /* descriptors that travel with it (sandbox.def only) */
};

/* A row of a table, from its row in a .def. */
#define FRAME_RULE(name_, no, sender_, max_, min, many, when_, fds_)                             \
    [no] = {.name = #name_,                                                                    \
            .max = max_,                                                                       \
            .min_parts = min,                                                                  \
            .max_parts = many,                                                                 \
            .sender = sender_,                                                                 \
            .when = when_,                                                                     \
            .fds = fds_},

/* Checks the head at the start of buf against the table: number, the field that is zero,
 * sender, phase, length, in this order and before a payload is looked at or room is made for it.
 * Returns 0 if buf is shorter than a head, 1 with *ret filled (its payload pointer is NULL),
 * or -1 with err set if it can never become valid. */
int frame_head(const uint8_t *buf, size_t len, const struct frame_rule rules[FRAME_LIMIT],
               unsigned sender, unsigned phase, struct frame *ret, struct err *err);

/* As frame_head, then the parts. Returns the bytes used, 0 if the frame is not complete yet,
 * or -1 with err set. */
ssize_t frame_parse(const uint8_t *buf, size_t len, const struct frame_rule rules[FRAME_LIMIT],
                    unsigned sender, unsigned phase, struct frame *ret, struct err *err);

/* Walks the parts of a parsed frame: *at starts at 0. Returns 1 with *ret, 0 at the end. */
int frame_next(const struct frame *frame, size_t *at, struct bytes *ret);

/* The part with this index; an empty one if there is none. */
struct bytes frame_part(const struct frame *frame, size_t index);

/* Writes head and part heads. The payload of `frame` is not used; its length is the sum. */
void frame_put_head(uint8_t into[static FRAME_HEAD], const struct frame *frame);
size_t frame_payload(const struct bytes *parts, size_t nparts);
/* Appends a whole frame. -1 and errno ENOMEM or EMSGSIZE. */
int frame_add(struct buf *buf, struct frame frame, const struct bytes *parts, size_t nparts);

/* Lets a stream socket hold about a megabyte, or what the system allows, that the other side has not read yet: a piece of a file
 * then goes in one step, not in many, each of which wakes the other side up. */
void frame_widen(int socket);
/* Sends what a stream socket takes at once, from where the parts are: how many bytes of the whole frame; 0 also if there
 * are too many parts. -1: the other side is gone. */
ssize_t frame_send(int socket, struct frame frame, const struct bytes *parts, size_t nparts);

uint16_t get16(const uint8_t *at);
uint32_t get32(const uint8_t *at);
uint64_t get64(const uint8_t *at);
void put32(uint8_t *at, uint32_t value);
void put64(uint8_t *at, uint64_t value);
