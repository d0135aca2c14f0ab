/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fuzz_intake.c: what an interpreter that is frozen writes, in pieces of any size, and the list of files
 * that stands behind it: nothing is written beyond what was said, and what was whole can be read again.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/intake.h"
#include "kernel/stamp.h"
#include "wall/frozen.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte is the size of pieces; the second says whether the magic is put where it belongs. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int file = -1;
    scoped(intake_release) struct intake in = {0};
    scoped(buf_release) struct buf all = {0};
    const uint64_t magic = FROZEN_MAGIC;
    struct err err;
    struct stat st;
    size_t piece, at;

    if (size < 2 || buf_add(&all, data + 2, size - 2) < 0)
        return 0;
    if (file < 0 && (file = memfd_create("intake", MFD_CLOEXEC)) < 0)
        abort();
    if (ftruncate(file, 0) < 0)
        abort();
    piece = data[0] + 1u;
    if (data[1] & 1 && all.len > 8 + 16 && all.data[7] < all.len - 24) {
        memset(all.data, 0, 7);
        memcpy(all.data + 8 + all.data[7], &magic, sizeof magic);
        if (data[1] & 2) /* a size that fits */
            memcpy(all.data + 16 + all.data[7], &(uint64_t){all.len - 8 - all.data[7]}, 8);
    }
    in.file = file;
    for (at = 0; at < all.len; at += piece)
        if (intake_take(&in, all.data + at, all.len - at < piece ? all.len - at : piece, &err) < 0)
            break;
    if (in.written > in.expected || in.expected > FROZEN_SIZE || in.list.len > WARM_LISTED || fstat(file, &st) < 0 ||
        (uint64_t)st.st_size > in.expected)
        abort();
    if (at >= all.len && intake_finish(&in, &err) == 0) {
        scoped(buf_release) struct buf list = {0};
        if (in.written != in.expected || buf_add(&list, in.list.data, in.list.len) < 0 || !buf_string(&list))
            abort();
        for (char *c = (char *)list.data; *c; c++)
            if (*c == '/')
                c[0] = c[1] && c[1] != '\n' ? '/' : '.'; /* nobody's files are looked at by chance */
        (void)stamp_check_all((char *)list.data, &err);
    }
    return 0;
}
