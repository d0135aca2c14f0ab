/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A connection file is written by the client, who may be wrong: any bytes give a connection or
 * one line of reason, and nothing leaks (LeakSanitizer looks).
 */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/conn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1);
    struct conn conn = {0};
    struct err err = {0};
    char address[512];

    if (!copy || sodium_init() < 0)
        abort();
    memcpy(copy, data, size);
    if (conn_parse(copy, size, &conn, &err) == 0) {
        for (int c = 0; c < CHANNELS; c++) {
            if (conn.port[c] < !conn.registration.port || conn.port[c] > 65535)
                abort();
            conn_address(&conn, c, address, sizeof address);
        }
    } else if (err.text[0] == 0) {
        abort(); /* refused without a reason */
    }
    conn_release(&conn);
    free(copy);
    return 0;
}
