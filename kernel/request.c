/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/request.h"

#include <stdlib.h>

struct request *
request_new(uint32_t slot, enum channel channel, const struct request_type *type,
            struct frames *frames, const struct wire_msg *msg)
{
    struct request *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->slot = slot;
    r->channel = channel;
    r->type = type;
    r->frames = *frames;
    *frames = (struct frames){0}; /* moved */
    r->msg = *msg;
    clock_text(clock_us(), r->started);
    return r;
}

void
request_free(struct request *r)
{
    if (!r)
        return;
    frames_release(&r->frames);
    free(r);
}

void
request_forget_buffers(struct request *r)
{
    r->msg.buffers = 0;
    r->frames.borrowed = 0;
}

void
queue_put(struct request_queue *q, struct request *r)
{
    frames_keep(&r->frames);
    r->next = NULL;
    *(q->last ? &q->last->next : &q->first) = r;
    q->last = r;
}

struct request *
queue_take(struct request_queue *q)
{
    struct request *r = q->first;

    if (!r)
        return NULL;
    q->first = r->next;
    if (!q->first)
        q->last = NULL;
    r->next = NULL;
    return r;
}

struct request *
queue_take_slot(struct request_queue *q, uint32_t slot)
{
    struct request *before = NULL, *r = q->first;

    while (r && r->slot != slot) {
        before = r;
        r = r->next;
    }
    if (!r)
        return NULL;
    *(before ? &before->next : &q->first) = r->next;
    if (q->last == r)
        q->last = before;
    r->next = NULL;
    return r;
}

void
parents_add(struct parents *p, uint32_t slot, struct bytes header, int latest)
{
    struct buf *kept = &p->entry[slot % PARENTS].header;

    kept->len = 0;
    if (buf_add(kept, header.data, header.len) < 0)
        return; /* late output of this cell will belong to the latest one */
    p->entry[slot % PARENTS].slot = slot;
    if (latest || !p->latest)
        p->latest = slot;
}

struct bytes
parents_find(const struct parents *p, uint32_t slot)
{
    if (p->entry[slot % PARENTS].slot != slot)
        slot = p->latest;
    return (struct bytes){p->entry[slot % PARENTS].header.data,
                          p->entry[slot % PARENTS].header.len};
}

void
parents_release(struct parents *p)
{
    for (size_t i = 0; i < PARENTS; i++)
        buf_release(&p->entry[i].header);
    *p = (struct parents){0};
}
