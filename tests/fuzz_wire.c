/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Messages from anybody who can reach a port. The input is cut into frames by its own bytes.
 * Without a key every message is parsed; with one, none that the fuzzer makes can be accepted.
 */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kernel/wire.h"

#define FRAMES 12

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One byte of length, 255: the delimiter; then so many bytes. */
static size_t
cut(const uint8_t *data, size_t size, struct bytes frame[FRAMES])
{
    size_t n = 0;

    while (size && n < FRAMES) {
        size_t len = *data;
        data++;
        size--;
        if (len == 255) {
            frame[n++] = BYTES(WIRE_DELIMITER);
            continue;
        }
        if (len > size)
            len = size;
        frame[n++] = (struct bytes){data, len};
        data += len;
        size -= len;
    }
    return n;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct wire *open_wire, *keyed;
    struct bytes frame[FRAMES];
    struct wire_msg msg;
    struct err err;
    size_t n;

    if (!open_wire) {
        if (sodium_init() < 0)
            abort();
        open_wire = wire_new("hmac-sha256", "", 0, &err);
        keyed = wire_new("hmac-sha256", "key", 3, &err);
    }
    n = cut(data, size, frame);
    if (wire_open(open_wire, frame, n, &msg, &err) == 0) {
        if (msg.first_buffer + msg.buffers != n || msg.identities + 2 + WIRE_PARTS > n)
            abort();
        for (int i = 0; i < WIRE_CONTENT; i++)
            if (json_check_object(msg.part[i], &err) < 0)
                abort();
    }
    if (wire_open(keyed, frame, n, &msg, &err) == 0)
        abort(); /* a forged signature */
    return 0;
}
