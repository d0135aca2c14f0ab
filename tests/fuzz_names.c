/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fuzz_names.c: any account of names, and any word: what is answered is JSON. The input is the account,
 * a NUL, and the content of a request.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kernel/names.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, 0, size);
    struct bytes names, content, code;
    struct err err;

    if (!end)
        return 0;
    names = (struct bytes){data, (size_t)(end - data)};
    content = (struct bytes){end + 1, size - names.len - 1};
    if (json_check_object(names, &err) < 0 || json_check_object(content, &err) < 0 ||
        json_get(content, "code", &code) != J_STRING)
        return 0;
    for (int i = 0; i < 2; i++) {
        scoped(buf_release) struct buf answer = {0};
        if ((i ? names_inspect : names_complete)(names, content, "{}", &answer) < 0 ||
            json_check_object((struct bytes){answer.data, answer.len}, &err) < 0)
            abort();
    }
    return 0;
}
