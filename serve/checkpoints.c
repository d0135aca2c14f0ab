/* SPDX-License-Identifier: BSD-3-Clause
 *
 * checkpoints.c: one of each file, in a directory beside it, as Jupyter Server keeps them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/entries.h"
#include "serve/errand.h"

#define CHECKPOINT "checkpoint" /* its id */

static void
add_text(struct buf *b, const char *text)
{
    if (buf_text(b, text) < 0)
        abort();
}

/* "a/x.ipynb" -> "a/.ipynb_checkpoints/x-checkpoint.ipynb". */
char *
checkpoint_path(const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');
    size_t stem = dot && dot != base ? (size_t)(dot - base) : strlen(base);
    scoped(buf_release) struct buf b = {0};

    if (buf_printf(&b, "%.*s" CHECKPOINTS "/%.*s-" CHECKPOINT "%s", (int)(base - path), path, (int)stem, base, base + stem) < 0)
        abort();
    return strdup(buf_string(&b));
}

static void
add_checkpoint(struct bytes stat, struct buf *b)
{
    struct bytes date = BYTES("null");

    (void)json_get(stat, "modified_at", &date);
    if (buf_printf(b, "{\"id\": \"" CHECKPOINT "\", \"last_modified\": %.*s}", (int)date.len, (const char *)date.data) < 0)
        abort();
}

static void
answer_checkpoints(struct errand *e, struct bytes result, struct bytes data)
{
    struct buf b = {0};

    add_text(&b, "[");
    if (result.len)
        add_checkpoint(result, &b);
    add_text(&b, "]");
    answer_json(e->x, 200, &b);
    errand_finish(e);
}

static int
answer_no_checkpoints(struct errand *e, struct bytes code)
{
    if (!errand_is_missing(code))
        return 0;
    answer_checkpoints(e, (struct bytes){0}, (struct bytes){0});
    return 1;
}

void
list_checkpoints(struct errand *e)
{
    e->other = checkpoint_path(e->path);
    errand_ask_about(e, "files.stat", e->other, "", NULL, answer_checkpoints, answer_no_checkpoints);
}

static void
on_checkpoint(struct errand *e, struct bytes result, struct bytes data)
{
    struct buf b = {0};

    add_checkpoint(result, &b);
    errand_answer_at(e, 201, &b, e->path, "/checkpoints/" CHECKPOINT);
}

static void
look_at_checkpoint(struct errand *e, struct bytes result, struct bytes data)
{
    errand_ask_about(e, "files.stat", e->other, "", NULL, on_checkpoint, NULL);
}

static void
copy_to_checkpoint(struct errand *e, struct bytes result, struct bytes data)
{
    errand_ask_with_two(e, "files.copy", e->path, e->other, "", look_at_checkpoint, NULL);
}

static void
on_file_for_checkpoint(struct errand *e, struct bytes result, struct bytes data)
{
    scoped(str_free) char *directory = NULL;

    errand_note_stat(e, e->path, result);
    if (e->kind != ENTRY_FILE && e->kind != ENTRY_NOTEBOOK) {
        errand_fail(e, 400, "%s is no file", e->path);
        return;
    }
    e->other = checkpoint_path(e->path);
    directory = strndup(e->other, (size_t)(strrchr(e->other, '/') - e->other));
    errand_ask_about(e, "files.mkdir", directory, "", NULL, copy_to_checkpoint, NULL);
}

void
make_checkpoint(struct errand *e)
{
    errand_ask_about(e, "files.stat", e->path, ",\"follow\":true", NULL, on_file_for_checkpoint, errand_say_missing);
}

static int
say_no_checkpoint(struct errand *e, struct bytes code)
{
    if (!errand_is_missing(code))
        return 0;
    errand_fail(e, 404, "There is no checkpoint of %s", e->path);
    return 1;
}

static int
knows_checkpoint(struct errand *e)
{
    if (strcmp(e->checkpoint, CHECKPOINT) != 0) {
        errand_fail(e, 404, "There is no checkpoint '%s'", e->checkpoint);
        return 0;
    }
    e->other = checkpoint_path(e->path);
    return 1;
}

void
restore_checkpoint(struct errand *e)
{
    if (knows_checkpoint(e))
        errand_ask_with_two(e, "files.copy", e->other, e->path, "", errand_say_done, say_no_checkpoint);
}

void
remove_checkpoint(struct errand *e)
{
    if (knows_checkpoint(e))
        errand_ask_about(e, "files.remove", e->other, "", NULL, errand_say_done, say_no_checkpoint);
}
