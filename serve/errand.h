/* SPDX-License-Identifier: BSD-3-Clause
 *
 * errand.h: a request of HTTP that takes several operations in a sandbox, one after the other. Each step asks for one and names
 * the next; the last one answers, and ends the errand. One whose client is gone ends where it is.
 */
#pragma once

#include "serve/calls.h"
#include "serve/entries.h"

struct errand;
/* `result` is the object that an operation gave, `data` its buffer. */
typedef void errand_step(struct errand *e, struct bytes result, struct bytes data);
/* `code` of an operation that failed. 1: something was done about it; 0: let it be answered. */
typedef int errand_refusal(struct errand *e, struct bytes code);

struct errand {
    struct exchange *x;
    struct call *call;
    char kernel[37];
    char *top;          /* of the sandbox: where paths begin */
    char *path;         /* as clients name it: without slashes at its ends */
    char *other;        /* a second one, of what is made or moved to; NULL */
    char *checkpoint;   /* NULL: it is not about checkpoints; "": about all of the file's; else an id */
    struct bytes body;  /* an object */
    int exists;         /* there is such a thing, of this kind */
    enum entry_kind kind;
    struct buf stat;    /* what files.stat said of it */
    struct buf data;    /* what was read, or is to be written */
    errand_step *then;
    errand_refusal *otherwise; /* or NULL */
};

/* In the sandbox of this kernel; has the exchange from now on. */
struct errand *errand_new(struct exchange *x, const struct served *k);
/* It is answered. Each of those below that answers ends it, too. */
void errand_finish(struct errand *e);
void errand_fail(struct errand *e, unsigned status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Asks for an operation on a path. `more`: further members of its parameters, each with a comma before it. */
void errand_ask_about(struct errand *e, const char *method, const char *path, const char *more, const struct bytes *data,
                      errand_step *then, errand_refusal *otherwise);
void errand_ask_with_two(struct errand *e, const char *method, const char *from, const char *to, const char *more,
                         errand_step *then, errand_refusal *otherwise);
void errand_note_stat(struct errand *e, const char *path, struct bytes result);

/* Steps and refusals that answer. `other`, if it is set, is what they tell of. */
errand_step errand_say_made, errand_say_changed, errand_on_changed, errand_say_done;
errand_refusal errand_say_missing;
void errand_answer_at(struct errand *e, unsigned status, struct buf *json, const char *path, const char *more);
int errand_is_missing(struct bytes code);

/* A text of the body, as the caller's to free; NULL: there is none. */
char *errand_text(const struct errand *e, const char *name);
/* Without slashes at its ends, or doubled ones; the caller frees. NULL: it leads out of where it begins. */
char *errand_path(const char *given);

/* checkpoints.c */
#define CHECKPOINTS ".ipynb_checkpoints"
char *checkpoint_path(const char *path); /* the caller frees */
void list_checkpoints(struct errand *e);
void make_checkpoint(struct errand *e);
void restore_checkpoint(struct errand *e);
void remove_checkpoint(struct errand *e);
