/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A hostile interpreter: it owns the ring's memory, both pipes and the socket, and writes into
 * them whatever the fuzzer says. The reader may refuse it, but must never read outside, never
 * hang, and never hand on a frame that breaks the table.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel/timeline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum interp_phase now_phase;

static void
on_text(void *self, int stream, uint32_t slot, struct bytes text)
{
    uint8_t sum = 0;

    if (stream != 0 && stream != 1)
        abort();
    for (size_t i = 0; i < text.len; i++)
        sum ^= text.data[i]; /* read all of it: the sanitizer looks */
    *(volatile uint8_t *)self = sum;
}

static int
on_frame(void *self, const struct frame *f, struct err *err)
{
    const struct frame_rule *rule = &interp_rules[f->number];
    struct bytes part;
    size_t at = 0;

    if (!rule->name || !(rule->sender & INTERP_BY_INTERP) || !(rule->when & now_phase) ||
        f->length > rule->max)
        abort();
    while (frame_next(f, &at, &part))
        if (part.data + part.len > f->payload + f->length)
            abort();
    if (f->number == FRAME_HELLO)
        now_phase = INTERP_IDLE;
    return 0;
}

static enum interp_phase
phase(void *self)
{
    return now_phase;
}

static int
full(void *self)
{
    return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t sink;
    struct timeline_sink what = {&sink, on_text, on_frame, phase, full};
    struct timeline_ends ends;
    struct timeline t;
    struct ring *ring;
    struct err err;

    if (size < 24)
        return 0;
    now_phase = INTERP_BOOT;
    if (timeline_open(&t, what, &ends, &err) < 0)
        abort();
    ring = mmap(NULL, RING_MAP, PROT_READ | PROT_WRITE, MAP_SHARED, ends.fd[INTERP_FD_RING - 1], 0);
    if (ring == MAP_FAILED)
        abort();
    /* head, then: length of ring text, of each pipe, the rest for the socket */
    memcpy(&ring->head, data, 8);
    if (data[8] & 1)
        ring->head &= RING_BYTES - 1; /* else nearly all heads are absurd */
    size_t lens[3] = {data[9] * 4u, data[10], data[11]};
    data += 12;
    size -= 12;
    for (int i = 0; i < 3; i++) {
        size_t n = lens[i] < size ? lens[i] : size;
        if (i == 0)
            memcpy((uint8_t *)ring + RING_OFFSET, data, n);
        else if (write(ends.fd[i - 1], data, n) < 0)
            abort();
        data += n;
        size -= n;
    }
    if (size && write(ends.fd[INTERP_FD_SOCKET - 1], data, size) < 0)
        abort();
    munmap(ring, RING_MAP);
    for (size_t i = 0; i < countof(ends.fd); i++)
        fd_close(&ends.fd[i]);
    timeline_finish(&t);
    timeline_close(&t);
    return 0;
}
