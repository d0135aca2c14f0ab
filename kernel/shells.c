/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/shells.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "kernel/kernel.h"

void
shells_init(struct kernel *k)
{
    k->main = (struct shell){.number = MAIN_SHELL, .next = &k->debugger};
    k->debugger = (struct shell){.number = DEBUGGER_SHELL};
    k->next_shell = FIRST_SUBSHELL;
}

static void
shell_free(struct shell *s)
{
    buf_release(&s->input.content);
    free(s);
}

void
shells_release(struct kernel *k)
{
    while (k->debugger.next) {
        struct shell *s = k->debugger.next;
        k->debugger.next = s->next;
        shell_free(s);
    }
    buf_release(&k->main.input.content);
    buf_release(&k->debugger.input.content);
}

/*** Finding one ***/

static struct shell *
find_subshell(struct kernel *k, struct bytes id)
{
    for (struct shell *s = k->debugger.next; s; s = s->next)
        if (!s->deleted && json_string_is(id, s->id))
            return s;
    return NULL;
}

static int
set_unknown(struct bytes id, struct err *err)
{
    scoped(buf_release) struct buf text = {0};

    if (json_unescape(id, &text) < 0 || !buf_string(&text))
        return err_errno(err, "read a subshell_id");
    return err_set(err, ENOENT, "Unknown subshell_id '%s'", (char *)text.data);
}

struct shell *
shells_of_header(struct kernel *k, struct bytes header, struct err *err)
{
    struct bytes id;
    struct shell *s;

    switch (json_get(header, "subshell_id", &id)) {
    case J_NONE:
    case J_NULL:
        return &k->main;
    case J_STRING:
        s = find_subshell(k, id);
        if (!s)
            set_unknown(id, err);
        return s;
    default:
        err_set(err, EINVAL, "'subshell_id' is neither a string nor null");
        return NULL;
    }
}

static struct request *
find_guest(const struct shell *s, uint32_t slot)
{
    struct request *r = s->guests.first;

    while (r && r->slot != slot)
        r = r->next;
    return r;
}

struct shell *
shells_of_slot(struct kernel *k, uint32_t slot, struct request **ret)
{
    for (struct shell *s = &k->main; s; s = s->next) {
        *ret = s->running && s->running->slot == slot ? s->running : find_guest(s, slot);
        if (*ret)
            return s;
    }
    return NULL;
}

int
shells_busy(const struct kernel *k)
{
    const struct shell *s = &k->main;

    while (s && !s->running && !s->guests.first)
        s = s->next;
    return s != NULL;
}

int
shells_waiting(const struct kernel *k)
{
    const struct shell *s = &k->main;

    while (s && !s->queue.first)
        s = s->next;
    return s != NULL;
}

void
shell_forget(struct shell *s, struct request *r)
{
    if (s->running != r) {
        (void)queue_take_slot(&s->guests, r->slot);
        return;
    }
    s->running = NULL;
    s->awaits = 0;
    s->input.open = 0;
    s->input.retry = 0;
}

/*** JEP 91 ***/

/* A version 4 UUID, RFC 9562. */
static void
make_id(char into[static SHELL_ID])
{
    uint8_t b[16];

    randombytes_buf(b, sizeof b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    snprintf(into, SHELL_ID,
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

void
answer_create_subshell(struct kernel *k, struct request *r)
{
    struct shell *s, *last = &k->debugger;
    char text[96];
    int count = 0;

    for (; last->next; last = last->next)
        count++;
    if (count >= SUBSHELLS) {
        snprintf(text, sizeof text, "there are %d subshells, and no more are possible", SUBSHELLS);
        reply_error(k, r, "TooManySubshells", text);
        return;
    }
    s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->number = k->next_shell++;
    make_id(s->id);
    last->next = s;
    interp_open_shell(k, s);
    snprintf(text, sizeof text, "{\"status\":\"ok\",\"subshell_id\":\"%s\"}", s->id);
    reply_content(k, r, bytes_of(text), "ok");
}

void
answer_delete_subshell(struct kernel *k, struct request *r)
{
    struct bytes id;
    struct request *waiting;
    struct shell *s;
    struct err err;

    if (json_get(request_content(r), "subshell_id", &id) != J_STRING) {
        reply_error(k, r, "InvalidRequest", "'subshell_id' is missing, or no string");
        return;
    }
    /* What came before this was for the subshell. Only from control: no request of shell leads to
     * another one below it on the stack. */
    if (r->channel == CONTROL)
        dispatch_arrived(k);
    s = find_subshell(k, id);
    if (!s) {
        set_unknown(id, &err);
        reply_error(k, r, "UnknownSubshellError", err.text);
        return;
    }
    s->deleted = 1;
    while ((waiting = queue_take(&s->queue))) {
        reply_begin(k, waiting);
        reply_aborted(k, waiting);
    }
    interp_close_shell(k, s);
    shells_sweep(k);
    reply_content(k, r, BYTES("{\"status\":\"ok\"}"), "ok");
}

void
answer_list_subshell(struct kernel *k, struct request *r)
{
    scoped(buf_release) struct buf c = {0};
    int bad = buf_text(&c, "{\"status\":\"ok\",\"subshell_id\":[") < 0, first = 1;

    for (struct shell *s = k->debugger.next; s; s = s->next) {
        if (s->deleted)
            continue;
        bad = bad || buf_printf(&c, "%s\"%s\"", first ? "" : ",", s->id) < 0;
        first = 0;
    }
    if (bad || buf_text(&c, "]}") < 0)
        abort();
    reply_content(k, r, (struct bytes){c.data, c.len}, "ok");
}

void
shells_sweep(struct kernel *k)
{
    struct shell **at = &k->debugger.next;

    while (*at) {
        struct shell *s = *at;
        if (!s->deleted || s->running || s->guests.first) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        shell_free(s);
    }
}
