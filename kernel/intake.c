/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/intake.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "wall/frame.h"
#include "wall/frozen.h"

#define PAGE 4096
#define LENGTH 8 /* bytes in front of the list */

static int
put(struct intake *in, const uint8_t *data, size_t len, struct err *err)
{
    if (len > in->expected - in->written)
        return err_set(err, EPROTO, "it is longer than it said");
    while (len) {
        size_t n = PAGE - in->written % PAGE;

        if (n > len)
            n = len;
        if (!is_zero(data, n) && pwrite(in->file, data, n, (off_t)in->written) != (ssize_t)n)
            return err_errno(err, "write the frozen interpreter");
        data += n;
        len -= n;
        in->written += n;
    }
    return 0;
}

int
intake_take(struct intake *in, const uint8_t *data, size_t len, struct err *err)
{
    struct frozen_head head;
    uint64_t listed;
    size_t before;

    if (in->expected)
        return put(in, data, len, err);
    if (buf_add(&in->head, data, len) < 0)
        return err_errno(err, "keep what it wrote");
    if (in->head.len < LENGTH)
        return 0;
    listed = get64(in->head.data);
    if (listed > WARM_LISTED)
        return err_set(err, EPROTO, "it lists too many files");
    before = LENGTH + (size_t)listed;
    if (in->head.len < before + sizeof head)
        return 0;
    memcpy(&head, in->head.data + before, sizeof head);
    if (head.magic != FROZEN_MAGIC || head.size < sizeof head || head.size > FROZEN_SIZE)
        return err_set(err, EPROTO, "it wrote something else");
    if (buf_add(&in->list, in->head.data + LENGTH, (size_t)listed) < 0)
        return err_errno(err, "keep the list of files");
    in->expected = head.size;
    return put(in, in->head.data + before, in->head.len - before, err);
}

int
intake_finish(struct intake *in, struct err *err)
{
    if (!in->expected || in->written != in->expected)
        return err_set(err, ENODATA, "it ended before it was whole");
    if (pwrite(in->file, in->list.data, in->list.len, (off_t)in->expected) != (ssize_t)in->list.len)
        return err_errno(err, "write the list of files");
    return 0;
}

void
intake_release(struct intake *in)
{
    buf_release(&in->head);
    buf_release(&in->list);
}
