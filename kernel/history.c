/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/history.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "kernel/kernel.h"
#include "kernel/paths.h"
#include "kernel/store.h"

enum job_kind { JOB_ADD, JOB_SOURCE, JOB_OUTPUT, JOB_SESSION, JOB_WRITE, JOB_ASK, JOB_END };

struct job {
    struct job *next;
    enum job_kind kind;
    uint32_t number; /* of the line, or of the question's request */
    struct buf data; /* what to add; content of the question, then its answer */
};

static void
free_job(struct job *j)
{
    buf_release(&j->data);
    free(j);
}

/*** The thread ***/

static void
answer(struct history *h, struct store *s, struct job *j)
{
    struct buf list = {0};
    uint64_t one = 1;

    if (!s || store_answer(s, (struct bytes){j->data.data, j->data.len}, &list) < 0)
        list.len = 0;
    buf_release(&j->data);
    j->data = list;
    pthread_mutex_lock(&h->lock);
    j->next = h->done;
    h->done = j;
    pthread_mutex_unlock(&h->lock);
    if (write(h->ready, &one, sizeof one) < 0)
        log_warning("history: an answer is not heard");
}

static void
work(struct history *h, struct store *s, struct job *j)
{
    struct bytes data = {j->data.data, j->data.len};

    switch (s ? j->kind : JOB_END) {
    case JOB_ADD:
        store_add(s, j->number, data);
        break;
    case JOB_SOURCE:
        store_set_source(s, j->number, data);
        break;
    case JOB_OUTPUT:
        store_set_output(s, j->number, data);
        break;
    case JOB_SESSION:
        store_next_session(s);
        break;
    case JOB_WRITE:
        store_write(s);
        break;
    case JOB_ASK:
    case JOB_END:
        break;
    }
}

static struct job *
wait_for_job(struct history *h)
{
    struct job *j;

    pthread_mutex_lock(&h->lock);
    while (!h->first)
        pthread_cond_wait(&h->more, &h->lock);
    j = h->first;
    h->first = j->next;
    if (!h->first)
        h->last = NULL;
    h->bytes -= sizeof *j + j->data.len;
    pthread_mutex_unlock(&h->lock);
    return j;
}

static void *
serve(void *self)
{
    struct history *h = self;
    struct store *s = store_new(h->path);
    int end = 0;

    while (!end) {
        struct job *j = wait_for_job(h);
        end = j->kind == JOB_END;
        if (j->kind == JOB_ASK) {
            answer(h, s, j);
            continue;
        }
        work(h, s, j);
        free_job(j);
    }
    store_free(s);
    pthread_mutex_lock(&h->lock);
    h->ended = 1;
    pthread_cond_broadcast(&h->more);
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/*** The kernel's side ***/

int
history_init(struct history *h, const char *kind, struct err *err)
{
    scoped(str_free) char *directory = NULL;

    h->ready = -1;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->more, NULL);
    h->off = strcmp(kind, "off") == 0;
    if (strcmp(kind, "shared") != 0)
        return 0;
    directory = paths_state("history", err);
    if (!directory)
        return -1;
    if (asprintf(&h->path, "%s/history.sqlite", directory) < 0)
        return err_errno(err, "name the history");
    return 0;
}

static int
start_thread(struct history *h)
{
    if (h->ready >= 0)
        return 0;
    h->ready = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->ready >= 0 && pthread_create(&h->thread, NULL, serve, h) == 0)
        return 0;
    log_warning("history: no thread for it; nothing is kept");
    fd_close(&h->ready);
    h->off = 1;
    return -1;
}

/* Lines wait for each other: the thread is woken by what cannot wait. */
static void
put(struct history *h, enum job_kind kind, uint32_t line, struct bytes data, int wake)
{
    struct job *j;
    int due;

    if (h->off || (wake && start_thread(h) < 0))
        return;
    j = calloc(1, sizeof *j);
    if (!j || buf_add(&j->data, data.data, data.len) < 0)
        abort();
    j->kind = kind;
    j->number = line;
    pthread_mutex_lock(&h->lock);
    if (kind < JOB_SESSION && h->bytes + data.len > HISTORY_QUEUE) {
        pthread_mutex_unlock(&h->lock);
        if (!h->full++)
            log_warning("history: the disk does not keep up; what is entered now is not kept");
        free_job(j);
        return;
    }
    *(h->last ? &h->last->next : &h->first) = j;
    h->last = j;
    h->bytes += sizeof *j + data.len;
    due = kind <= JOB_SESSION && !h->write_due && (h->path || h->bytes > HISTORY_LAZY);
    if (wake)
        pthread_cond_signal(&h->more);
    pthread_mutex_unlock(&h->lock);
    if (due)
        h->write_due = now_ms() + HISTORY_DELAY_MS;
}

void
history_add(struct history *h, uint32_t line, struct bytes code)
{
    if (code.len <= STORE_LINE)
        put(h, JOB_ADD, line, code, 0);
}

void
history_set_source(struct history *h, uint32_t line, struct bytes code)
{
    if (code.len <= STORE_LINE)
        put(h, JOB_SOURCE, line, code, 0);
}

void
history_set_output(struct history *h, uint32_t line, struct bytes text)
{
    if (text.len <= STORE_OUTPUT)
        put(h, JOB_OUTPUT, line, text, 0);
}

void
history_next_session(struct history *h)
{
    put(h, JOB_SESSION, 0, BYTES(""), 0);
}

static void
reply(struct kernel *k, struct request *r, struct bytes list)
{
    scoped(buf_release) struct buf c = {0};

    if (buf_text(&c, "{\"status\":\"ok\",\"history\":") < 0 ||
        buf_add(&c, list.len ? list.data : (const uint8_t *)"[]", list.len ? list.len : 2) < 0 ||
        buf_text(&c, "}") < 0)
        abort();
    reply_content(k, r, (struct bytes){c.data, c.len}, "ok");
}

void
history_ask(struct kernel *k, struct request *r)
{
    struct history *h = &k->history;

    if (h->off || start_thread(h) < 0) {
        reply(k, r, BYTES(""));
        return;
    }
    r->waits_until = now_ms() + HISTORY_PATIENCE_MS;
    put(h, JOB_ASK, r->slot, request_content(r), 1);
    queue_put(&h->open, r);
}

void
history_run(struct kernel *k)
{
    struct history *h = &k->history;
    struct job *done, *next;
    struct request *r;
    uint64_t count;

    if (h->ready < 0 || read(h->ready, &count, sizeof count) < 0)
        return;
    pthread_mutex_lock(&h->lock);
    done = h->done;
    h->done = NULL;
    pthread_mutex_unlock(&h->lock);
    for (; done; done = next) {
        next = done->next;
        r = queue_take_slot(&h->open, done->number);
        if (r) /* else it was late */
            reply(k, r, (struct bytes){done->data.data, done->data.len});
        free_job(done);
    }
}

void
history_tick(struct kernel *k, int64_t now)
{
    struct history *h = &k->history;

    if (h->write_due && now >= h->write_due) {
        h->write_due = 0;
        put(h, JOB_WRITE, 0, BYTES(""), 1);
    }
    while (h->open.first && now >= h->open.first->waits_until) {
        log_warning("history: the disk does not answer; the client is told that there is none");
        reply(k, queue_take(&h->open), BYTES(""));
    }
}

int64_t
history_deadline(const struct kernel *k)
{
    const struct history *h = &k->history;

    if (h->open.first && (!h->write_due || h->open.first->waits_until < h->write_due))
        return h->open.first->waits_until;
    return h->write_due;
}

/* Waits until the thread has left, but not for ever: a disk may hang. */
static int
thread_leaves(struct history *h)
{
    struct timespec until;
    int r = 0, ended;

    put(h, JOB_END, 0, BYTES(""), 1);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += HISTORY_END_MS / 1000;
    pthread_mutex_lock(&h->lock);
    while (!h->ended && r == 0)
        r = pthread_cond_timedwait(&h->more, &h->lock, &until);
    ended = h->ended;
    pthread_mutex_unlock(&h->lock);
    if (ended)
        pthread_join(h->thread, NULL);
    else
        log_warning("history: the disk does not answer; the last lines are not kept");
    return ended;
}

void
history_release(struct kernel *k)
{
    struct history *h = &k->history;
    struct request *r;
    struct job *j;

    while ((r = queue_take(&h->open)))
        reply(k, r, BYTES(""));
    /* Lines that are for the file, and came so lately that nobody was started for them. */
    if (!h->off && h->path && h->first)
        (void)start_thread(h);
    if (h->ready >= 0 && !thread_leaves(h))
        return; /* what it uses stays until the process ends */
    while ((j = h->first ? h->first : h->done)) {
        *(h->first ? &h->first : &h->done) = j->next;
        free_job(j);
    }
    fd_close(&h->ready);
    str_free(&h->path);
}
