/* SPDX-License-Identifier: BSD-3-Clause
 *
 * entries.h: files as Jupyter's contents API describes them: models, names, notebooks as text. Pure; all abort
 * without memory.
 */
#pragma once

#include "base/base.h"

enum entry_kind { ENTRY_DIRECTORY, ENTRY_FILE, ENTRY_NOTEBOOK, ENTRY_OTHER };

/* What there is to say of one beside what files.stat said. */
struct entry {
    enum entry_kind kind;
    const char *path;     /* as clients name it: relative, without slashes at its ends */
    struct bytes stat;    /* the object that files.stat or files.list gave */
    int whole;            /* with its content; then format and mimetype are not null */
    const char *format;   /* "json", "text", "base64" */
    const char *mimetype; /* NULL: it has none */
    struct bytes content; /* JSON */
    const char *hash;     /* SHA-256 in hex; NULL: it was not asked for */
};

/* By what files.stat said, and by the name. */
enum entry_kind entry_kind_of(const char *path, struct bytes stat);
const char *entry_kind_name(enum entry_kind kind);
void entry_add_model(const struct entry *e, struct buf *ret);
/* "text/plain", or what its name says. */
const char *entry_mimetype(const char *path, int is_text);

/* The models of a directory's `entries`, but for hidden ones and what is neither file nor directory. */
void entry_add_list(const char *directory, struct bytes entries, struct buf *ret);

/* A name that is not among `entries`: "Untitled", ".ipynb" and "" make Untitled.ipynb, then Untitled1.ipynb; `insert` stands
 * before the number. */
void entry_free_name(struct bytes entries, const char *stem, const char *insert, const char *suffix, struct buf *ret);
/* Where the suffix of a file's name begins: as Jupyter Server has it, the first dot, of notebooks the last. */
const char *entry_suffix(const char *name);

/* JSON that was accepted, each member and element on a line of its own, as nbformat writes notebooks; what it
 * says is untouched. -1: it would have more than `most` bytes, as each line is indented: what is nested deeply grows by
 * hundreds of times. */
int entry_lay_out(struct bytes json, size_t most, struct buf *ret);
