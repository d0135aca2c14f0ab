/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/base64.h"

#include <sodium.h>

int
base64_add(struct buf *into, struct bytes bytes)
{
    size_t size = sodium_base64_encoded_len(bytes.len, sodium_base64_VARIANT_ORIGINAL);

    if (buf_reserve(into, size) < 0)
        return -1;
    sodium_bin2base64((char *)into->data + into->len, size, bytes.data, bytes.len, sodium_base64_VARIANT_ORIGINAL);
    into->len += size - 1; /* without the NUL */
    return 0;
}
