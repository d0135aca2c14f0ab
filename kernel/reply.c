/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kernel/kernel.h"

void
reply_begin(struct kernel *k, struct request *r)
{
    clock_text(clock_us(), r->started);
    iopub_status(&k->iopub, "busy", request_header(r));
}

static void
end(struct kernel *k, struct request *r)
{
    iopub_status(&k->iopub, "idle", request_header(r));
    k->last_asked = now_ms();
    request_free(r);
}

int
reply_message(struct kernel *k, enum channel channel, struct request *r, const char *type, struct bytes metadata,
              struct bytes content, const struct bytes *buffers, size_t n)
{
    scoped(buf_release) struct buf header = {0};
    struct bytes part[WIRE_PARTS];
    char sig[WIRE_SIGNATURE];
    void *socket = k->sockets.socket[channel];

    if (wire_header(k->wire, type, &header) < 0)
        abort(); /* a reply must not be lost: without memory there is no kernel */
    part[WIRE_HEADER] = (struct bytes){header.data, header.len};
    part[WIRE_PARENT] = request_header(r);
    part[WIRE_METADATA] = metadata;
    part[WIRE_CONTENT] = content;
    if (r->frames.block) {
        uint32_t caller = callers_number(r);
        if (caller)
            callers_message(k, caller, channel, part, buffers, n);
        else
            front_message(&k->front, get32(r->frames.bytes[0].data), channel, part, buffers, n);
        return 0;
    }
    /* A ROUTER drops what is for a client that has gone, if it is not told otherwise; its queue has no limit. */
    if (r->msg.identities && send_bytes(socket, r->frames.bytes[0], 1) < 0 && channel == STDIN)
        return -1;
    wire_sign(k->wire, part, sig);
    for (size_t i = 1; i < r->msg.identities; i++)
        send_bytes(socket, r->frames.bytes[i], 1);
    send_bytes(socket, BYTES(WIRE_DELIMITER), 1);
    send_bytes(socket, bytes_of(sig), 1);
    for (int i = 0; i < WIRE_PARTS; i++)
        send_bytes(socket, part[i], i + 1 < WIRE_PARTS || n > 0);
    for (size_t i = 0; i < n; i++)
        send_bytes(socket, buffers[i], i + 1 < n);
    return 0;
}

/* Closes the metadata. */
static void
add_cost(const struct cost *c, char *metadata, size_t size)
{
    size_t len = strlen(metadata);

    if (c->wall_us == 0)
        snprintf(metadata + len, size - len, "}");
    else
        snprintf(metadata + len, size - len,
                 ",\"usage\":{\"wall_ms\":%.3f,\"cpu_ms\":%.3f,\"throttled_ms\":%.3f,"
                 "\"peak_memory_bytes\":%llu}}",
                 (double)c->wall_us / 1e3, (double)c->cpu_us / 1e3, (double)c->throttled_us / 1e3,
                 (unsigned long long)c->peak);
}

void
reply_buffers(struct kernel *k, struct request *r, struct bytes content, const char *status,
              const struct bytes *buffers, size_t n)
{
    char metadata[512];

    snprintf(metadata, sizeof metadata,
             "{\"started\":\"%s\",\"dependencies_met\":true,\"engine\":\"%s\",\"status\":\"%s\"",
             r->started, wire_session(k->wire), status);
    add_cost(&r->cost, metadata, sizeof metadata);
    if (r->type->reply)
        (void)reply_message(k, r->channel, r, r->type->reply, bytes_of(metadata), content, buffers, n);
    end(k, r);
}

void
reply_content(struct kernel *k, struct request *r, struct bytes content, const char *status)
{
    reply_buffers(k, r, content, status, NULL, 0);
}

static void
reply_failure(struct kernel *k, struct request *r, const char *status, const char *ename,
              const char *evalue)
{
    scoped(buf_release) struct buf content = {0};
    int bad = buf_printf(&content, "{\"status\":\"%s\",\"ename\":", status) < 0 ||
              json_quote(bytes_of(ename), &content) < 0 || buf_text(&content, ",\"evalue\":") < 0 ||
              json_quote(bytes_of(evalue), &content) < 0 ||
              buf_text(&content, ",\"traceback\":[]") < 0;

    if (r->type->frame == FRAME_EXECUTE)
        bad = bad || buf_printf(&content,
                                ",\"execution_count\":%u,\"user_expressions\":{},\"payload\":[]",
                                r->count ? r->count : k->next_count) < 0;
    if (bad || buf_add(&content, "}", 1) < 0)
        abort();
    reply_content(k, r, (struct bytes){content.data, content.len}, status);
}

void
reply_error(struct kernel *k, struct request *r, const char *ename, const char *evalue)
{
    reply_failure(k, r, "error", ename, evalue);
}

void
reply_aborted(struct kernel *k, struct request *r)
{
    reply_failure(k, r, "aborted", "Aborted", "an earlier cell failed, and this one was not run");
}

void
reply_none(struct kernel *k, struct request *r)
{
    end(k, r);
}
