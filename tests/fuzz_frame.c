/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fuzz_frame.c: a stream of any bytes at each wall. The first byte of the input says which,
 * who sends and in which phase; the rest is read as the readers of husk read it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wall/agent.h"
#include "wall/aside.h"
#include "wall/interp.h"
#include "wall/sandbox.h"

#define must(claim)                                                                        \
    do {                                                                                   \
        if (!(claim)) {                                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #claim);                    \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct wall {
    const struct frame_rule *rules;
    unsigned sender, phase;
};

static struct wall
choose(uint8_t byte)
{
    static const struct frame_rule *const tables[] = {interp_rules, agent_rules, sandbox_rules, aside_rules};

    return (struct wall){.rules = tables[byte >> 6],
                         .sender = byte & 7,
                         .phase = byte >> 3 & 7};
}

static ssize_t
parse(const struct wall *wall, const uint8_t *at, size_t len, struct frame *ret,
      struct err *err)
{
    return frame_parse(at, len, wall->rules, wall->sender, wall->phase, ret, err);
}

/* What was accepted keeps every promise of its row. */
static void
try_row(const struct wall *wall, const struct frame *f, size_t nparts)
{
    const struct frame_rule *rule = &wall->rules[f->number];

    must(f->number < FRAME_LIMIT && rule->name);
    must(rule->sender & wall->sender);
    must(rule->when & wall->phase);
    must(f->length <= rule->max);
    must(nparts >= rule->min_parts);
    must(rule->max_parts == FRAME_ANY_PARTS || nparts <= rule->max_parts);
}

/* The parts lie inside, one behind the other, and make the same frame again. */
static void
try_parts(const struct wall *wall, const uint8_t *at, size_t used, const struct frame *f)
{
    scoped(buf_release) struct buf again = {0};
    struct bytes parts[256], part;
    size_t walk = 0, n = 0;
    const uint8_t *end = f->payload;

    must(f->payload == at + FRAME_HEAD && f->length == used - FRAME_HEAD);
    while (frame_next(f, &walk, &part)) {
        must(part.data == end + FRAME_PART_HEAD);
        end = part.data + part.len;
        must(end <= at + used);
        if (n < countof(parts))
            parts[n] = part;
        n++;
    }
    must(end == at + used);
    must(frame_part(f, n).len == 0);
    try_row(wall, f, n);
    if (n > countof(parts))
        return;
    if (n)
        must(frame_part(f, n - 1).data == parts[n - 1].data);
    must(frame_payload(parts, n) == f->length);
    must(frame_add(&again, *f, parts, n) == 0);
    must(again.len == used && memcmp(again.data, at, used) == 0);
}

/* Less than the frame is not complete, and never a fault or another frame. */
static void
try_cuts(const struct wall *wall, const uint8_t *at, size_t used)
{
    const size_t cuts[] = {0, 1, FRAME_HEAD - 1, FRAME_HEAD, used / 2, used - 1};
    struct frame f;

    for (size_t i = 0; i < countof(cuts); i++)
        if (cuts[i] < used)
            must(parse(wall, at, cuts[i], &f, &(struct err){0}) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wall wall;
    size_t at = 1;

    if (size == 0)
        return 0;
    wall = choose(data[0]);
    for (;;) {
        struct frame head, f;
        struct err err = {0};
        size_t left = size - at;
        int h = frame_head(data + at, left, wall.rules, wall.sender, wall.phase, &head,
                           &err);
        ssize_t r = parse(&wall, data + at, left, &f, &err);
        must(h >= 0 || r < 0);
        must(h != 0 || r == 0);
        must((r < 0) == (err.code != 0) && (r < 0) == (err.text[0] != 0));
        if (r <= 0)
            return 0;
        must((size_t)r <= left && (size_t)r >= FRAME_HEAD);
        must(head.number == f.number && head.length == f.length && head.slot == f.slot);
        try_parts(&wall, data + at, (size_t)r, &f);
        try_cuts(&wall, data + at, (size_t)r);
        at += (size_t)r;
    }
}
