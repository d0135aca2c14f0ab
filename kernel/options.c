/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum kind { TEXT, SIZE, NUMBER, LIST, LEVEL };

static const struct option {
    const char *name;
    char letter;
    enum kind kind;
    size_t offset;
    const char *argument, *help;
} options[] = {
#define OPTION(name, letter, kind, field, argument, help)                                      \
    {name, letter, kind, offsetof(struct options, field), argument, help},
#include "kernel/options.def"
#undef OPTION
};

#define WIDTH_MAX 40 /* longer words are not compared for a slip */

/* Levenshtein's distance of two short words. */
static size_t
distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b), row[WIDTH_MAX + 1];

    if (la > WIDTH_MAX || lb > WIDTH_MAX)
        return WIDTH_MAX;
    for (size_t j = 0; j <= lb; j++)
        row[j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (up + 1 < best)
                best = up + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = up;
            row[j] = best;
        }
    }
    return row[lb];
}

static int
set_option(struct options *o, const struct option *opt, const char *value, struct err *err)
{
    void *field = (char *)o + opt->offset;
    char *copy;

    switch (opt->kind) {
    case TEXT:
        copy = strdup(value);
        if (!copy)
            return err_errno(err, "keep --%s", opt->name);
        free(*(char **)field);
        *(char **)field = copy;
        return 0;
    case SIZE:
    case NUMBER:
        if (size_parse(value, field) < 0 || *(uint64_t *)field == 0)
            return err_set(err, EINVAL, "--%s '%s' is no %s", opt->name, value,
                           opt->kind == SIZE ? "size (as 512m, 2g)" : "number");
        return 0;
    case LIST:
        return strv_add(field, value) < 0 ? err_errno(err, "keep --%s", opt->name) : 0;
    case LEVEL:
        *(int *)field = log_level_parse(value);
        if (*(int *)field < 0)
            return err_set(err, EINVAL, "--%s '%s' is not one of error, warning, info, debug",
                           opt->name, value);
        return 0;
    }
    return 0;
}

static const struct option *
find_option(const char *word, size_t len)
{
    for (size_t i = 0; i < countof(options); i++) {
        if (len == 2 && word[0] == '-' && word[1] == options[i].letter && options[i].letter)
            return &options[i];
        if (len > 2 && word[0] == '-' && word[1] == '-' && strlen(options[i].name) == len - 2 &&
            strncmp(word + 2, options[i].name, len - 2) == 0)
            return &options[i];
    }
    return NULL;
}

static int
pass_over(const char *word, size_t len, struct err *err)
{
    char name[WIDTH_MAX + 1];

    if (len > 2 && len - 2 <= WIDTH_MAX && strncmp(word, "--", 2) == 0) {
        snprintf(name, sizeof name, "%.*s", (int)len - 2, word + 2);
        for (size_t i = 0; i < countof(options); i++)
            if (distance(name, options[i].name) <= 2)
                return err_set(err, EINVAL, "there is no option '--%s'; did you mean --%s?", name,
                               options[i].name);
    }
    log_info("argument '%s' is not for husk, passed over", word);
    return 0;
}

int
options_read(int argc, char **argv, struct options *ret, struct err *err)
{
    scoped(options_release) struct options o = {.pids = 1024, .files = 4096, .log_level = LOG_WARNING};

    for (int i = 0; i < argc; i++) {
        const char *word = argv[i], *equals = strchr(word, '=');
        size_t len = equals ? (size_t)(equals - word) : strlen(word);
        const struct option *opt = find_option(word, len);
        const char *value = equals ? equals + 1 : NULL;

        if (!opt) {
            if (pass_over(word, len, err) < 0)
                return -1;
            continue;
        }
        if (!value && ++i < argc)
            value = argv[i];
        if (!value)
            return err_set(err, EINVAL, "%s needs a value: %s", word, opt->argument);
        if (set_option(&o, opt, value, err) < 0)
            return -1;
    }
    *ret = o;
    o = (struct options){0}; /* moved to the caller */
    return 0;
}

void
options_release(struct options *o)
{
    free(o->connection_file);
    free(o->python);
    free(o->workdir);
    strv_release(&o->environment);
    *o = (struct options){0};
}

void
options_help(void)
{
    for (size_t i = 0; i < countof(options); i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%c%s--%s %s", options[i].letter ? "-" : " ",
                 options[i].letter ? options[i].letter : ' ', options[i].letter ? ", " : "  ",
                 options[i].name, options[i].argument);
        printf("  %-30s %s\n", left, options[i].help);
    }
}
