/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/sandboxes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "kernel/kernel.h"
#include "kernel/registry.h"

#define CHANGES_MAX (64u << 20) /* bytes; the broker stops before */
#define ENTRIES_MAX 1000000

static int
add_sandbox(const struct registry_entry *e, struct buf *b)
{
    const struct {
        const char *name, *value;
    } texts[] = {{"id", e->id}, {"name", *e->name ? e->name : NULL}, {"profile", e->profile},
                 {"directory", e->directory}, {"created_at", e->created}};

    if (buf_printf(b, "%s{\"pid\":%d", b->data[b->len - 1] == '[' ? "" : ",", (int)e->pid) < 0)
        return -1;
    for (size_t i = 0; i < countof(texts); i++)
        if (buf_printf(b, ",\"%s\":", texts[i].name) < 0 ||
            (texts[i].value ? json_quote_path(bytes_of(texts[i].value), b) : buf_text(b, "null")) < 0)
            return -1;
    return buf_text(b, "}");
}

void
sandboxes_list(struct kernel *k, struct request *r, struct bytes params)
{
    scoped(registry_release) struct registry_list list = {0};
    scoped(buf_release) struct buf b = {0};
    struct err err;

    if (registry_read(&list, &err) < 0) {
        operations_refuse(k, r, err.code, err.text);
        return;
    }
    if (buf_text(&b, "{\"sandboxes\":[") < 0)
        abort();
    for (size_t i = 0; i < list.len; i++)
        if (add_sandbox(&list.entry[i], &b) < 0)
            abort();
    if (buf_text(&b, "]}") < 0)
        abort();
    operations_answer(k, r, (struct bytes){b.data, b.len}, NULL, 0);
}

void
sandboxes_compare(struct kernel *k, struct request *r, struct bytes params)
{
    int64_t limit = 10000;
    struct bytes value;
    struct err err;
    int bad = 0;

    if (json_get(params, "limit", &value) == J_NUMBER &&
        (json_int64(value, &limit) < 0 || limit < 0 || limit > ENTRIES_MAX))
        bad = err_set(&err, EINVAL, "sandbox.diff: 'limit' is no number from 0 to %d", ENTRIES_MAX);
    else if (k->interp.state == INTERP_NONE)
        bad = err_set(&err, EAGAIN, "the sandbox is not there yet");
    else
        bad = box_diff(&k->box, r->slot, (uint32_t)limit, &err);
    if (bad)
        operations_refuse(k, r, err.code, err.text);
    else
        queue_put(&k->comparing, r);
}

/* One record of sandbox/changes.h as words; the last is the text. -1: it is none. */
static int
split(char *record, char *word[static 6])
{
    int n = 0, words = strncmp(record, "sums\t", 5) == 0 ? 6 : 4;
    char *more;

    word[n++] = record;
    while (n < words) {
        more = strchr(word[n - 1], '\t');
        if (!more)
            return -1;
        *more = 0;
        word[n++] = more + 1;
    }
    return n;
}

/* What the records say, as the operation's result. */
static int
to_json(char *at, char *end, struct buf *entries)
{
    scoped(buf_release) struct buf elsewhere = {0};
    char *word[6];

    if (buf_text(entries, "{\"entries\":[") < 0 || buf_text(&elsewhere, "[") < 0)
        return -1;
    for (char *next; at < end; at = next) {
        next = at + strlen(at) + 1;
        if (split(at, word) < 0)
            return -1;
        if (strcmp(word[0], "sums") == 0)
            return buf_printf(entries, "],\"added\":%lld,\"changed\":%lld,\"removed\":%lld,\"bytes\":%lld,"
                              "\"truncated\":%s,\"not_compared\":%.*s]}", atoll(word[1]), atoll(word[2]),
                              atoll(word[3]), atoll(word[4]), strcmp(word[5], "some") == 0 ? "true" : "false",
                              (int)elsewhere.len, (char *)elsewhere.data);
        if (strcmp(word[0], "elsewhere") == 0) {
            if (buf_text(&elsewhere, elsewhere.len > 1 ? "," : "") < 0 ||
                json_quote_path(bytes_of(word[3]), &elsewhere) < 0)
                return -1;
        } else if (buf_printf(entries, "%s{\"path\":", entries->data[entries->len - 1] == '[' ? "" : ",") < 0 ||
                   json_quote_path(bytes_of(word[3]), entries) < 0 ||
                   buf_printf(entries, ",\"change\":\"%s\",\"type\":\"%s\",\"size\":%lld}", word[0], word[1],
                              atoll(word[2])) < 0) {
            return -1;
        }
    }
    return -1; /* without sums it is not whole */
}

void
sandboxes_compared(struct kernel *k, const struct frame *event)
{
    struct request *r = queue_take_slot(&k->comparing, event->slot);
    scoped(buf_release) struct buf records = {0}, json = {0};
    struct bytes why = frame_part(event, 0);
    char path[32], text[ERR_TEXT];

    if (!r)
        return;
    if (event->value) {
        snprintf(text, sizeof text, "%.*s", (int)why.len, why.data);
        operations_refuse(k, r, (int)event->value, text);
        return;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", k->box.diff); /* from its beginning */
    if (file_read(AT_FDCWD, path, CHANGES_MAX, &records) < 0 || !buf_string(&records) ||
        to_json((char *)records.data, (char *)records.data + records.len, &json) < 0)
        operations_refuse(k, r, EIO, "what changed cannot be read");
    else
        operations_answer(k, r, (struct bytes){json.data, json.len}, NULL, 0);
}

void
sandboxes_release(struct kernel *k)
{
    struct request *r;

    while ((r = queue_take(&k->comparing)))
        operations_refuse(k, r, ESHUTDOWN, "the kernel ended while this was under way");
}
