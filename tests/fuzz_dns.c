/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A DNS query comes from inside a sandbox: any bytes give an answer that fits, or none; and a
 * name that has its one form.
 */
#include <stdlib.h>
#include <string.h>

#include "sandbox/dns.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1), answer[DNS_PACKET]; /* exact: ASan sees one byte more */
    struct dns_query q;
    char again[NAME_SIZE];
    int code;

    if (!copy)
        abort();
    memcpy(copy, data, size);
    code = dns_read(copy, size, &q);
    if (code >= 0) {
        size_t len = dns_answer(&q, code, code == DNS_OK ? 0xc6120001 : 0, answer);
        if (len < 12 || len > sizeof answer || memcmp(answer, copy, 2) != 0 || !(answer[2] & 0x80))
            abort();
        if (*q.name && (name_normalise(bytes_of(q.name), again) < 0 || strcmp(q.name, again) != 0))
            abort();
    }
    free(copy);
    return 0;
}
