/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_frame.c: what may cross a wall of husk, and what may not. First single claims, then
 * a walk over every row of interp.def and sandbox.def from every side and in every phase.
 * Refusals are compared with their reason.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wall/interp.h"
#include "wall/sandbox.h"

#define KERNEL INTERP_BY_KERNEL
#define INTERP INTERP_BY_INTERP

/*** tools ***/

/* Memory that ends where the frame ends, so that sanitizers see any look beyond. */
static uint8_t *
exact(const void *data, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);

    assert_non_null(copy);
    if (len)
        memcpy(copy, data, len);
    return copy;
}

static void
drop(uint8_t **copy)
{
    free(*copy);
    *copy = NULL;
}

/* `reason` is NULL if the frame is complete, "" if more is needed. */
static void
expect_parse(const char *claim, const void *data, size_t len,
             const struct frame_rule *rules, unsigned sender, unsigned phase,
             const char *reason)
{
    scoped(drop) uint8_t *copy = exact(data, len);
    struct frame f = {.number = 4711}, before = f;
    struct err err = {0};
    ssize_t r = frame_parse(copy, len, rules, sender, phase, &f, &err);
    ssize_t want = !reason ? (ssize_t)len : *reason ? -1 : 0;

    if (r != want)
        fail_msg("%s: %zd instead of %zd (%s)", claim, r, want, err.text);
    if (strcmp(err.text, reason ? reason : "") != 0)
        fail_msg("%s: '%s' instead of '%s'", claim, err.text, reason ? reason : "");
    if (r <= 0 && memcmp(&f, &before, sizeof f) != 0)
        fail_msg("%s: the result was touched", claim);
    if (r < 0 && err.code != EPROTO && err.code != EMSGSIZE)
        fail_msg("%s: code %d", claim, err.code);
}

/* A frame of `nparts` parts of no bytes. */
static void
add_frame(struct buf *buf, unsigned number, size_t nparts)
{
    struct frame f = {.number = (uint16_t)number, .slot = 0x01020304, .value = 0xa0b0c0d0,
                      .mark = 0x1122334455667788};
    uint8_t head[FRAME_HEAD];

    f.length = (uint32_t)(nparts * FRAME_PART_HEAD);
    frame_put_head(head, &f);
    assert_int_equal(buf_add(buf, head, sizeof head), 0);
    for (size_t i = 0; i < nparts; i++)
        assert_int_equal(buf_add(buf, "\0\0\0\0", FRAME_PART_HEAD), 0);
}

/*** single claims ***/

/* length, number, reserved; slot, value, mark are zero */
#define HEAD(l3, l2, l1, l0, number, reserved) \
    l3, l2, l1, l0, 0, number, 0, reserved, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
#define EMPTY 0, 0, 0, 0

static const struct {
    const char *claim;
    uint8_t bytes[64];
    size_t len;
    unsigned sender, phase;
    const char *reason; /* NULL: complete, "": more is needed */
} claims[] = {
    {"nothing is not complete", {0}, 0, INTERP, INTERP_BUSY, ""},
    {"one byte is not complete", {0xff}, 1, INTERP, INTERP_BUSY, ""},
    {"a head but one byte is not complete", {HEAD(0xff, 0xff, 0xff, 0xff, 99, 9)}, 23, INTERP, INTERP_BUSY, ""},
    {"a bell is only a head", {HEAD(0, 0, 0, 0, FRAME_DOORBELL, 0)}, 24, INTERP, INTERP_BUSY, NULL},
    {"a bell rings in every phase: boot", {HEAD(0, 0, 0, 0, FRAME_DOORBELL, 0)}, 24, INTERP, INTERP_BOOT, NULL},
    {"a bell rings in every phase: idle", {HEAD(0, 0, 0, 0, FRAME_DOORBELL, 0)}, 24, INTERP, INTERP_IDLE, NULL},
    {"a bell carries nothing", {HEAD(0, 0, 0, 1, FRAME_DOORBELL, 0)}, 24, INTERP, INTERP_BUSY, "DOORBELL of 1 bytes, at most 0 allowed"},
    {"a number of zero", {HEAD(0, 0, 0, 0, 0, 0)}, 24, INTERP, INTERP_BUSY, "no frame has number 0"},
    {"a number between rows", {HEAD(0, 0, 0, 0, 12, 0)}, 24, KERNEL, INTERP_BUSY, "no frame has number 12"},
    {"the last number of the table", {HEAD(0, 0, 0, 0, 63, 0)}, 24, INTERP, INTERP_BUSY, "no frame has number 63"},
    {"the first number beyond the table", {HEAD(0, 0, 0, 0, 64, 0)}, 24, INTERP, INTERP_BUSY, "no frame has number 64"},
    {"a number in the high byte", {0, 0, 0, 0, 1, FRAME_DOORBELL}, 24, INTERP, INTERP_BUSY, "no frame has number 289"},
    {"the largest number", {0, 0, 0, 0, 0xff, 0xff}, 24, INTERP, INTERP_BUSY, "no frame has number 65535"},
    {"the reserved field, low byte", {HEAD(0, 0, 0, 0, FRAME_DOORBELL, 1)}, 24, INTERP, INTERP_BUSY, "DOORBELL with a reserved field that is not zero"},
    {"the reserved field, high byte", {0, 0, 0, 0, 0, FRAME_DOORBELL, 0x80, 0}, 24, INTERP, INTERP_BUSY, "DOORBELL with a reserved field that is not zero"},
    {"the interpreter cannot send a request", {HEAD(0, 0, 0, 12, FRAME_EXECUTE, 0), EMPTY, EMPTY, EMPTY}, 36, INTERP, INTERP_IDLE, "EXECUTE from the wrong side"},
    {"the supervisor cannot reply", {HEAD(0, 0, 0, 8, FRAME_REPLY, 0), EMPTY, EMPTY}, 32, KERNEL, INTERP_BUSY, "REPLY from the wrong side"},
    {"a request while one of another shell runs", {HEAD(0, 0, 0, 12, FRAME_EXECUTE, 0), EMPTY, EMPTY, EMPTY}, 36, KERNEL, INTERP_BUSY, NULL},
    {"a request before HELLO", {HEAD(0, 0, 0, 12, FRAME_EXECUTE, 0), EMPTY, EMPTY, EMPTY}, 36, KERNEL, INTERP_BOOT, "EXECUTE at the wrong time"},
    {"HELLO again", {HEAD(0, 0, 0, 4, FRAME_HELLO, 0), EMPTY}, 28, INTERP, INTERP_IDLE, "HELLO at the wrong time"},
    {"a reply without a request", {HEAD(0, 0, 0, 8, FRAME_REPLY, 0), EMPTY, EMPTY}, 32, INTERP, INTERP_IDLE, "REPLY at the wrong time"},
    {"a question without a cell", {HEAD(0, 0, 0, 4, FRAME_INPUT_REQUEST, 0), EMPTY}, 28, INTERP, INTERP_IDLE, "INPUT_REQUEST at the wrong time"},
    {"a display while idle, by a thread", {HEAD(0, 0, 0, 8, FRAME_DISPLAY_DATA, 0), EMPTY, EMPTY}, 32, INTERP, INTERP_IDLE, NULL},
    {"a display with buffers", {HEAD(0, 0, 0, 16, FRAME_DISPLAY_DATA, 0), EMPTY, EMPTY, EMPTY, EMPTY}, 40, INTERP, INTERP_BUSY, NULL},
    {"a display without its metadata", {HEAD(0, 0, 0, 4, FRAME_DISPLAY_DATA, 0), EMPTY}, 28, INTERP, INTERP_BUSY, "DISPLAY_DATA with 1 parts"},
    {"a display without anything", {HEAD(0, 0, 0, 0, FRAME_DISPLAY_DATA, 0)}, 24, INTERP, INTERP_BUSY, "DISPLAY_DATA with 0 parts"},
    {"HELLO with a part too many", {HEAD(0, 0, 0, 8, FRAME_HELLO, 0), EMPTY, EMPTY}, 32, INTERP, INTERP_BOOT, "HELLO with 2 parts"},
    {"a part that the frame cannot hold", {HEAD(0, 0, 0, 5, FRAME_HELLO, 0), 0, 0, 0, 2, 'a'}, 29, INTERP, INTERP_BOOT, "HELLO with a part that is longer than the frame"},
    {"a part of 4 GiB", {HEAD(0, 0, 0, 5, FRAME_HELLO, 0), 0xff, 0xff, 0xff, 0xff, 'a'}, 29, INTERP, INTERP_BOOT, "HELLO with a part that is longer than the frame"},
    {"a part whose end wraps to the beginning", {HEAD(0, 0, 0, 5, FRAME_HELLO, 0), 0xff, 0xff, 0xff, 0xfc, 'a'}, 29, INTERP, INTERP_BOOT, "HELLO with a part that is longer than the frame"},
    {"a part head that is cut off", {HEAD(0, 0, 0, 3, FRAME_HELLO, 0), 0, 0, 0}, 27, INTERP, INTERP_BOOT, "HELLO with a part that is longer than the frame"},
    {"a byte behind the last part", {HEAD(0, 0, 0, 6, FRAME_HELLO, 0), 0, 0, 0, 1, 'a', 'b'}, 30, INTERP, INTERP_BOOT, "HELLO with a part that is longer than the frame"},
    {"a part that fits", {HEAD(0, 0, 0, 6, FRAME_HELLO, 0), 0, 0, 0, 2, 'a', 'b'}, 30, INTERP, INTERP_BOOT, NULL},
    {"a part that waits for a byte", {HEAD(0, 0, 0, 6, FRAME_HELLO, 0), 0, 0, 0, 2, 'a'}, 29, INTERP, INTERP_BOOT, ""},
    {"a part is not judged before it is there", {HEAD(0, 0, 0, 6, FRAME_HELLO, 0), 0xff, 0xff, 0xff, 0xff, 'a'}, 29, INTERP, INTERP_BOOT, ""},
    {"4 GiB are refused from the head alone", {HEAD(0xff, 0xff, 0xff, 0xff, FRAME_HELLO, 0)}, 24, INTERP, INTERP_BOOT, "HELLO of 4294967295 bytes, at most 65536 allowed"},
    {"4 GiB of a display, too", {HEAD(0xff, 0xff, 0xff, 0xff, FRAME_DISPLAY_DATA, 0)}, 24, INTERP, INTERP_BUSY, "DISPLAY_DATA of 4294967295 bytes, at most 268435456 allowed"},
    {"a byte more than the limit", {HEAD(0, 1, 0, 1, FRAME_HELLO, 0)}, 24, INTERP, INTERP_BOOT, "HELLO of 65537 bytes, at most 65536 allowed"},
    {"the limit waits for its bytes", {HEAD(0, 1, 0, 0, FRAME_HELLO, 0)}, 24, INTERP, INTERP_BOOT, ""},
    {"all wrong: the number counts", {HEAD(0xff, 0, 0, 0, 12, 1)}, 24, INTERP, INTERP_BUSY, "no frame has number 12"},
    {"all but the number: the reserved field counts", {HEAD(0xff, 0, 0, 0, FRAME_EXECUTE, 1)}, 24, INTERP, INTERP_BUSY, "EXECUTE with a reserved field that is not zero"},
    {"side, phase and length: the side counts", {HEAD(0xff, 0, 0, 0, FRAME_EXECUTE, 0)}, 24, INTERP, INTERP_BUSY, "EXECUTE from the wrong side"},
    {"phase and length: the phase counts", {HEAD(0xff, 0, 0, 0, FRAME_EXECUTE, 0)}, 24, KERNEL, INTERP_BOOT, "EXECUTE at the wrong time"},
    {"no side at all", {HEAD(0, 0, 0, 0, FRAME_DOORBELL, 0)}, 24, 0, INTERP_BUSY, "DOORBELL from the wrong side"},
    {"no phase at all", {HEAD(0, 0, 0, 0, FRAME_DOORBELL, 0)}, 24, INTERP, 0, "DOORBELL at the wrong time"},
};

static void
test_claims(void **state)
{
    for (size_t i = 0; i < countof(claims); i++)
        expect_parse(claims[i].claim, claims[i].bytes, claims[i].len, interp_rules,
                     claims[i].sender, claims[i].phase, claims[i].reason);
}

/*** the rows ***/

static const struct wall {
    const char *name;
    const struct frame_rule *rules;
    unsigned senders, phases; /* sets of all bits */
} walls[] = {
    {"interp", interp_rules, INTERP_BY_KERNEL | INTERP_BY_INTERP,
     INTERP_BOOT | INTERP_IDLE | INTERP_BUSY},
    {"sandbox", sandbox_rules, SANDBOX_BY_KERNEL | SANDBOX_BY_BROKER | SANDBOX_BY_INIT | SANDBOX_BY_NETWORK,
     SANDBOX_NEW | SANDBOX_READY},
};

/* Every wall, sender, phase and number, whether there is such a row or not. */
typedef void visitor(const char *claim, const struct wall *wall, unsigned sender,
                     unsigned phase, unsigned number);

static void
walk(visitor *visit)
{
    for (size_t i = 0; i < countof(walls); i++)
        for (unsigned sender = 1; sender & walls[i].senders; sender <<= 1)
            for (unsigned phase = 1; phase & walls[i].phases; phase <<= 1)
                for (unsigned number = 0; number < FRAME_LIMIT; number++) {
                    const char *name = walls[i].rules[number].name;
                    char claim[96];
                    snprintf(claim, sizeof claim, "%s.def: %u %s from %u in phase %u",
                             walls[i].name, number, name ? name : "(none)", sender, phase);
                    visit(claim, &walls[i], sender, phase, number);
                }
}

/* Why a frame cannot come, whatever is in it; NULL if it can. */
static const char *
barred(const struct frame_rule *rule, unsigned sender, unsigned phase, unsigned number,
       char into[static 128])
{
    if (!rule->name)
        snprintf(into, 128, "no frame has number %u", number);
    else if (!(rule->sender & sender))
        snprintf(into, 128, "%s from the wrong side", rule->name);
    else if (!(rule->when & phase))
        snprintf(into, 128, "%s at the wrong time", rule->name);
    else
        return NULL;
    return into;
}

static void
visit_right(const char *claim, const struct wall *wall, unsigned sender, unsigned phase,
            unsigned number)
{
    const struct frame_rule *rule = &wall->rules[number];
    scoped(buf_release) struct buf buf = {0};
    char text[128];

    add_frame(&buf, number, rule->min_parts);
    expect_parse(claim, buf.data, buf.len, wall->rules, sender, phase,
                 barred(rule, sender, phase, number, text));
}

static void
test_right_side_and_time(void **state)
{
    walk(visit_right);
}

static void
visit_reserved(const char *claim, const struct wall *wall, unsigned sender, unsigned phase,
               unsigned number)
{
    const struct frame_rule *rule = &wall->rules[number];
    char text[128];

    for (int bit = 0; rule->name && bit < 16; bit++) {
        scoped(buf_release) struct buf buf = {0};
        add_frame(&buf, number, rule->min_parts);
        buf.data[6 + bit / 8] = (uint8_t)(1 << bit % 8);
        snprintf(text, sizeof text, "%s with a reserved field that is not zero",
                 rule->name);
        expect_parse(claim, buf.data, buf.len, wall->rules, sender, phase, text);
    }
}

static void
test_reserved(void **state)
{
    walk(visit_reserved);
}

/* The head alone decides, before there is any payload. */
static void
visit_length(const char *claim, const struct wall *wall, unsigned sender, unsigned phase,
             unsigned number)
{
    const struct frame_rule *rule = &wall->rules[number];
    const uint64_t lengths[] = {rule->max, (uint64_t)rule->max + 1, UINT32_MAX};
    scoped(buf_release) struct buf buf = {0};
    struct frame f;
    struct err err;
    char text[128];

    if (barred(rule, sender, phase, number, text))
        return;
    add_frame(&buf, number, 0);
    for (size_t i = 0; i < countof(lengths); i++) {
        int r;
        put32(buf.data, (uint32_t)lengths[i]);
        r = frame_head(buf.data, FRAME_HEAD, wall->rules, sender, phase, &f, &err);
        if (r != (i == 0 ? 1 : -1))
            fail_msg("%s: %d for %u bytes", claim, r, (unsigned)lengths[i]);
        if (i == 0)
            continue;
        snprintf(text, sizeof text, "%s of %u bytes, at most %u allowed", rule->name,
                 (unsigned)lengths[i], rule->max);
        expect_parse(claim, buf.data, FRAME_HEAD, wall->rules, sender, phase, text);
    }
}

static void
test_length(void **state)
{
    walk(visit_length);
}

static void
expect_parts(const char *claim, const struct wall *wall, unsigned sender, unsigned phase,
             unsigned number, size_t nparts)
{
    const struct frame_rule *rule = &wall->rules[number];
    scoped(buf_release) struct buf buf = {0};
    char text[128] = "";

    add_frame(&buf, number, nparts);
    if (nparts * FRAME_PART_HEAD > rule->max)
        snprintf(text, sizeof text, "%s of %zu bytes, at most %u allowed", rule->name,
                 nparts * FRAME_PART_HEAD, rule->max);
    else if (nparts < rule->min_parts ||
             (nparts > rule->max_parts && rule->max_parts != FRAME_ANY_PARTS))
        snprintf(text, sizeof text, "%s with %zu parts", rule->name, nparts);
    expect_parse(claim, buf.data, buf.len, wall->rules, sender, phase, *text ? text : NULL);
}

static void
visit_parts(const char *claim, const struct wall *wall, unsigned sender, unsigned phase,
            unsigned number)
{
    const struct frame_rule *rule = &wall->rules[number];
    char text[128];

    if (barred(rule, sender, phase, number, text))
        return;
    for (size_t n = 0; n <= 8; n++)
        expect_parts(claim, wall, sender, phase, number, n);
    if (rule->max_parts == FRAME_ANY_PARTS) /* also what 16 bits do not count */
        expect_parts(claim, wall, sender, phase, number, rule->max < 400000 ? 1000 : 70000);
    else if (rule->max_parts > 8)
        for (size_t n = 0; n < 2; n++)
            expect_parts(claim, wall, sender, phase, number, rule->max_parts + n);
}

static void
test_parts(void **state)
{
    walk(visit_parts);
}

static void
visit_part_length(const char *claim, const struct wall *wall, unsigned sender,
                  unsigned phase, unsigned number)
{
    const struct frame_rule *rule = &wall->rules[number];
    size_t nparts = rule->min_parts;
    char text[128];

    if (barred(rule, sender, phase, number, text) || nparts == 0)
        return;
    snprintf(text, sizeof text, "%s with a part that is longer than the frame", rule->name);
    for (size_t i = 0; i < nparts; i++) {
        scoped(buf_release) struct buf buf = {0};
        uint8_t *length;
        add_frame(&buf, number, nparts);
        length = buf.data + FRAME_HEAD + i * FRAME_PART_HEAD;
        put32(length, (uint32_t)((nparts - i - 1) * FRAME_PART_HEAD + 1));
        expect_parse(claim, buf.data, buf.len, wall->rules, sender, phase, text);
        put32(length, UINT32_MAX);
        expect_parse(claim, buf.data, buf.len, wall->rules, sender, phase, text);
    }
    for (size_t cut = 1; cut < FRAME_PART_HEAD; cut++) {
        scoped(buf_release) struct buf buf = {0};
        add_frame(&buf, number, nparts);
        buf.len -= cut;
        put32(buf.data, (uint32_t)(buf.len - FRAME_HEAD));
        expect_parse(claim, buf.data, buf.len, wall->rules, sender, phase, text);
    }
}

static void
test_part_length(void **state)
{
    walk(visit_part_length);
}

/* The rows themselves: what must hold whatever is added to a table. */
static void
visit_row(const char *claim, const struct wall *wall, unsigned sender, unsigned phase,
          unsigned number)
{
    const struct frame_rule *rule = &wall->rules[number];
    int up;

    if (!rule->name)
        return;
    if (number == 0)
        fail_msg("%s: zero is no number", claim);
    if (!rule->sender || rule->sender & ~wall->senders)
        fail_msg("%s: nobody sends it", claim);
    if (!rule->when || rule->when & ~wall->phases)
        fail_msg("%s: there is no time for it", claim);
    if (rule->min_parts > rule->max_parts || rule->min_parts * FRAME_PART_HEAD > rule->max)
        fail_msg("%s: its parts have no room", claim);
    if (wall->rules == interp_rules) {
        up = number >= 32;
        if (rule->sender != (up ? INTERP_BY_INTERP : INTERP_BY_KERNEL) || rule->fds)
            fail_msg("%s: one direction, and no descriptors", claim);
        if (rule->max > WALL_MESSAGE)
            fail_msg("%s: longer than a message", claim);
    } else {
        up = number >= 16;
        if (up ? (rule->sender & SANDBOX_BY_KERNEL) : (rule->sender & (SANDBOX_BY_INIT | SANDBOX_BY_NETWORK)))
            fail_msg("%s: up or down", claim);
        if (up && rule->max > (number == SANDBOX_REPORT ? 65536 : 8192))
            fail_msg("%s: what comes up is small", claim);
        if (up && rule->fds && ((number != SANDBOX_BUILT && number != SANDBOX_DIFFED) || rule->sender != SANDBOX_BY_BROKER))
            fail_msg("%s: nothing but the broker's BUILT and DIFFED has descriptors", claim);
        if (FRAME_HEAD + rule->max > SANDBOX_PACKET || rule->fds > SANDBOX_FDS)
            fail_msg("%s: does not fit into a datagram", claim);
    }
}

static void
test_rows(void **state)
{
    walk(visit_row);
}

/* Written again by hand, so that a row cannot change its side or its time unnoticed. */
static const struct {
    const char *claim;
    const struct frame_rule *rules;
    unsigned number, sender, when;
} promises[] = {
    {"a cell runs beside those of other shells", interp_rules, FRAME_EXECUTE, KERNEL, INTERP_IDLE | INTERP_BUSY},
    {"a completion runs beside cells of other shells", interp_rules, FRAME_COMPLETE, KERNEL, INTERP_IDLE | INTERP_BUSY},
    {"an inspection runs beside cells of other shells", interp_rules, FRAME_INSPECT, KERNEL, INTERP_IDLE | INTERP_BUSY},
    {"a comm message comes beside a cell that awaits", interp_rules, FRAME_COMM_MSG, KERNEL, INTERP_IDLE | INTERP_BUSY},
    {"a debugger is spoken to beside cells", interp_rules, FRAME_DEBUG, KERNEL, INTERP_IDLE | INTERP_BUSY},
    {"a debugger tells only of an interpreter that is there", interp_rules, FRAME_DEBUG_EVENT, INTERP, INTERP_IDLE | INTERP_BUSY},
    {"a cell awaits only while it runs", interp_rules, FRAME_AWAITS, INTERP, INTERP_BUSY},
    {"an answer comes while a cell asks", interp_rules, FRAME_INPUT_REPLY, KERNEL, INTERP_BUSY},
    {"the interpreter says hello once", interp_rules, FRAME_HELLO, INTERP, INTERP_BOOT},
    {"a result belongs to a cell", interp_rules, FRAME_EXECUTE_RESULT, INTERP, INTERP_BUSY},
    {"a question belongs to a cell", interp_rules, FRAME_INPUT_REQUEST, INTERP, INTERP_BUSY},
    {"a reply belongs to a request", interp_rules, FRAME_REPLY, INTERP, INTERP_BUSY},
    {"only the supervisor has a sandbox built", sandbox_rules, SANDBOX_BUILD, SANDBOX_BY_KERNEL, SANDBOX_NEW},
    {"only the broker says what is confined", sandbox_rules, SANDBOX_POLICY, SANDBOX_BY_BROKER, SANDBOX_NEW},
    {"only the supervisor asks what changed", sandbox_rules, SANDBOX_DIFF, SANDBOX_BY_KERNEL, SANDBOX_READY},
    {"only the broker says what changed", sandbox_rules, SANDBOX_DIFFED, SANDBOX_BY_BROKER, SANDBOX_READY},
    {"only the supervisor has the machine examined", sandbox_rules, SANDBOX_CHECK, SANDBOX_BY_KERNEL, SANDBOX_NEW},
    {"only the broker reports on the machine", sandbox_rules, SANDBOX_REPORT, SANDBOX_BY_BROKER, SANDBOX_READY},
    {"only pid 1 and the network say that they run", sandbox_rules, SANDBOX_ALIVE, SANDBOX_BY_INIT | SANDBOX_BY_NETWORK, SANDBOX_NEW},
    {"pid 1 sends no notices of the network", sandbox_rules, SANDBOX_NOTICE, SANDBOX_BY_BROKER | SANDBOX_BY_NETWORK, SANDBOX_READY},
    {"pid 1 starts nothing by itself", sandbox_rules, SANDBOX_SPAWN, SANDBOX_BY_KERNEL | SANDBOX_BY_BROKER, SANDBOX_READY},
    {"pid 1 cannot say that all is built", sandbox_rules, SANDBOX_BUILT, SANDBOX_BY_BROKER, SANDBOX_READY},
    {"nothing is spawned before all is built", sandbox_rules, SANDBOX_SPAWNED, SANDBOX_BY_INIT | SANDBOX_BY_BROKER, SANDBOX_READY},
};

static void
test_promises(void **state)
{
    for (size_t i = 0; i < countof(promises); i++) {
        const struct frame_rule *rule = &promises[i].rules[promises[i].number];
        if (rule->sender != promises[i].sender || rule->when != promises[i].when)
            fail_msg("%s: not any more", promises[i].claim);
    }
    assert_int_equal(sandbox_rules[SANDBOX_SPAWN].fds, SANDBOX_FDS);
}

/*** making and taking apart ***/

static ssize_t
parse(const uint8_t *at, size_t len, struct frame *ret)
{
    struct err err;

    return frame_parse(at, len, interp_rules, INTERP, INTERP_BUSY, ret, &err);
}

static struct frame
sample(struct buf *buf)
{
    struct bytes parts[] = {BYTES("{}"), BYTES(""), BYTES("\0\xff"),
                            BYTES("a longer buffer")};
    struct frame f = {.number = FRAME_DISPLAY_DATA, .slot = 0x01020304, .value = 0xfffefdfc,
                      .mark = 0x0102030405060708, .length = 99};

    assert_int_equal(frame_add(buf, f, parts, countof(parts)), 0);
    return f;
}

static void
test_round_trip(void **state)
{
    static const char *const want[] = {"{}", "", "\0\xff", "a longer buffer"};
    static const size_t lens[] = {2, 0, 2, 15};
    scoped(buf_release) struct buf buf = {0};
    struct frame made = sample(&buf), f;
    struct bytes part;
    size_t at = 0;

    assert_int_equal(buf.len, FRAME_HEAD + 4 * FRAME_PART_HEAD + 19);
    assert_int_equal(parse(buf.data, buf.len, &f), buf.len);
    assert_int_equal(f.number, made.number);
    assert_int_equal(f.slot, made.slot);
    assert_int_equal(f.value, made.value);
    assert_true(f.mark == made.mark);
    assert_int_equal(f.length, buf.len - FRAME_HEAD);
    assert_ptr_equal(f.payload, buf.data + FRAME_HEAD);
    for (size_t i = 0; i < countof(want); i++) {
        assert_int_equal(frame_next(&f, &at, &part), 1);
        assert_int_equal(part.len, lens[i]);
        assert_memory_equal(part.data, want[i], lens[i]);
        part = frame_part(&f, i);
        assert_int_equal(part.len, lens[i]);
        assert_memory_equal(part.data, want[i], lens[i]);
    }
    assert_int_equal(frame_next(&f, &at, &part), 0);
    assert_int_equal(frame_next(&f, &at, &part), 0);
    assert_int_equal(frame_part(&f, 4).len, 0);
    assert_non_null(frame_part(&f, SIZE_MAX).data);
}

/* The form is a contract with an interpreter that may be of another build. */
static void
test_form(void **state)
{
    static const uint8_t want[] = {
        0, 0, 0, 9, 0, 33, 0, 0, 0x01, 0x02, 0x03, 0x04, 0xa0, 0xb0, 0xc0, 0xd0,
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 1, 'x', 0, 0, 0, 0};
    struct frame f = {.number = 33, .slot = 0x01020304, .value = 0xa0b0c0d0,
                      .mark = 0x1122334455667788};
    struct bytes parts[] = {BYTES("x"), {NULL, 0}};
    scoped(buf_release) struct buf buf = {0};

    assert_int_equal(frame_payload(parts, 2), 9);
    assert_int_equal(frame_payload(NULL, 0), 0);
    assert_int_equal(buf_text(&buf, "before"), 0);
    assert_int_equal(frame_add(&buf, f, parts, 2), 0);
    assert_int_equal(buf.len, 6 + sizeof want);
    assert_memory_equal(buf.data, "before", 6);
    assert_memory_equal(buf.data + 6, want, sizeof want);
}

static void
test_integers(void **state)
{
    static const uint8_t bytes[] = {0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10};
    uint8_t into[8];

    assert_int_equal(get16(bytes), 0xfedc);
    assert_int_equal(get32(bytes), 0xfedcba98);
    assert_true(get64(bytes) == 0xfedcba9876543210);
    put32(into, 0xfedcba98);
    assert_memory_equal(into, bytes, 4);
    put64(into, 0xfedcba9876543210);
    assert_memory_equal(into, bytes, 8);
}

static void
test_cut_everywhere(void **state)
{
    scoped(buf_release) struct buf buf = {0};

    sample(&buf);
    for (size_t len = 0; len < buf.len; len++)
        expect_parse("cut", buf.data, len, interp_rules, INTERP, INTERP_BUSY, "");
    expect_parse("whole", buf.data, buf.len, interp_rules, INTERP, INTERP_BUSY, NULL);
}

/* What follows a frame is the next frame: not looked at, not counted. */
static void
test_stream(void **state)
{
    scoped(buf_release) struct buf buf = {0};
    struct frame f;
    size_t at = 0, first;

    sample(&buf);
    first = buf.len;
    assert_int_equal(frame_add(&buf, (struct frame){.number = FRAME_DOORBELL}, NULL, 0), 0);
    assert_int_equal(buf_add(&buf, "\xff\xff\xff\xff", 4), 0);
    at += (size_t)parse(buf.data, buf.len, &f);
    assert_int_equal(at, first);
    assert_int_equal(f.number, FRAME_DISPLAY_DATA);
    at += (size_t)parse(buf.data + at, buf.len - at, &f);
    assert_int_equal(at, first + FRAME_HEAD);
    assert_int_equal(f.number, FRAME_DOORBELL);
    assert_int_equal(parse(buf.data + at, buf.len - at, &f), 0);
}

static void
test_head_alone(void **state)
{
    scoped(buf_release) struct buf buf = {0};
    struct frame f;
    struct err err = {0};

    sample(&buf);
    for (size_t len = 0; len < FRAME_HEAD; len++)
        assert_int_equal(
            frame_head(buf.data, len, interp_rules, INTERP, INTERP_BUSY, &f, &err), 0);
    assert_int_equal(
        frame_head(buf.data, FRAME_HEAD, interp_rules, INTERP, INTERP_BUSY, &f, &err), 1);
    assert_int_equal(f.number, FRAME_DISPLAY_DATA);
    assert_int_equal(f.length, buf.len - FRAME_HEAD);
    assert_null(f.payload);
}

/* 4 GiB do not fit into the length, and a buffer that cannot grow stays what it was. */
static void
test_too_long(void **state)
{
    struct bytes large = {(const uint8_t *)"", UINT32_MAX - 3};
    struct buf buf = {0}, full = {.len = SIZE_MAX - 8};
    struct frame f = {.number = FRAME_DOORBELL};

    errno = 0;
    assert_int_equal(frame_add(&buf, f, &large, 1), -1);
    assert_int_equal(errno, EMSGSIZE);
    assert_int_equal(buf.len, 0);
    errno = 0;
    assert_int_equal(frame_add(&full, f, NULL, 0), -1);
    assert_int_equal(errno, ENOMEM);
    assert_true(full.len == SIZE_MAX - 8);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_right_side_and_time),
        cmocka_unit_test(test_reserved),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_part_length),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_promises),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_cut_everywhere),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_head_alone),
        cmocka_unit_test(test_too_long),
    };

    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
