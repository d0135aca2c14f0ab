/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The first bytes of a client inside: any bytes give a verdict; one that is final does not change
 * with what comes after; and a name has its one form.
 */
#include <stdlib.h>
#include <string.h>

#include "sandbox/hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;
    char name[NAME_SIZE] = "", half[NAME_SIZE] = "", again[NAME_SIZE];
    enum hello whole, part;

    if (size > HELLO_MAX)
        size = HELLO_MAX;
    copy = malloc(size ? size : 1);
    if (!copy)
        abort();
    memcpy(copy, data, size);
    whole = hello_read(copy, size, name);
    part = hello_read(copy, size / 2, half);
    if (part != HELLO_MORE && part != HELLO_BROKEN && part != whole && whole != HELLO_BROKEN)
        abort();
    if (part == HELLO_NAMED && whole == HELLO_NAMED && strcmp(name, half) != 0)
        abort();
    if (whole == HELLO_NAMED &&
        (name_normalise(bytes_of(name), again) < 0 || strcmp(name, again) != 0))
        abort();
    free(copy);
    return 0;
}
