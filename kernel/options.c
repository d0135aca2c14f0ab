/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/options.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/names.h"

enum kind { TEXT, SIZE, NUMBER, LIST, VARIABLE, MOUNT, CPUS, LEVEL };

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

/* "1.5" as thousandths. At least a hundredth, or nothing would ever run. */
static int
parse_cpus(const char *text, uint64_t *ret)
{
    char *end;
    double value = *text >= '0' && *text <= '9' ? strtod(text, &end) : -1;

    if (!(value >= 0.01 && value <= 100000) || *end || strspn(text, "0123456789.") != strlen(text))
        return -1;
    *ret = (uint64_t)(value * 1000 + 0.5);
    return 0;
}

/* Without "." and doubled slashes, from here if relative. ".." stays, and is refused later: what it
 * means depends on links. */
static int
make_plain(const char *path, size_t len, char into[static PATH_MAX])
{
    char whole[2 * PATH_MAX];
    size_t n = 0;

    if (len == 0 || len >= PATH_MAX)
        return -1;
    if (*path != '/' && !getcwd(whole, PATH_MAX))
        return -1;
    n = *path == '/' ? 0 : strlen(whole);
    snprintf(whole + n, sizeof whole - n, "/%.*s", (int)len, path);
    n = 0;
    for (const char *at = whole; *at;) {
        size_t name = strcspn(at + 1, "/");
        if (name > 0 && !(name == 1 && at[1] == '.')) {
            if (n + 1 + name >= PATH_MAX)
                return -1;
            memcpy(into + n, at, 1 + name);
            n += 1 + name;
        }
        at += 1 + name;
    }
    if (n == 0)
        into[n++] = '/';
    into[n] = 0;
    return 0;
}

char *
options_mount_in_full(const char *value, struct err *err)
{
    const char *mode = strrchr(value, ':'), *colon;
    char source[PATH_MAX], target[PATH_MAX], *full = NULL;
    size_t len = strlen(value);

    if (mode && (strcmp(mode, ":ro") == 0 || strcmp(mode, ":rw") == 0))
        len = (size_t)(mode - value);
    else
        mode = ":ro";
    colon = memchr(value, ':', len);
    if (make_plain(value, colon ? (size_t)(colon - value) : len, source) < 0 ||
        (colon && (colon[1] != '/' ||
                   make_plain(colon + 1, len - (size_t)(colon + 1 - value), target) < 0)) ||
        (colon && memchr(colon + 1, ':', len - (size_t)(colon + 1 - value)))) {
        err_set(err, EINVAL, "--mount '%s' is not SRC[:DST][:ro|rw] with an absolute DST", value);
        return NULL;
    }
    if (asprintf(&full, "%s:%s%s", source, colon ? target : source, mode) < 0) {
        err_errno(err, "keep --mount");
        return NULL;
    }
    return full;
}

/* "NAME" or "NAME=VALUE". */
static int
is_variable(const char *text)
{
    size_t len = strcspn(text, "=");

    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] <= ' ' || text[i] == 0x7f)
            return 0;
    return len > 0;
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
    case CPUS:
        return parse_cpus(value, field) < 0
                   ? err_set(err, EINVAL, "--%s '%s' is no number of processors (as 0.5, 2)", opt->name,
                             value)
                   : 0;
    case VARIABLE:
        if (!is_variable(value))
            return err_set(err, EINVAL, "--%s '%s' does not begin with the name of a variable", opt->name, value);
        /* fall through */
    case LIST:
        return strv_add(field, value) < 0 ? err_errno(err, "keep --%s", opt->name) : 0;
    case MOUNT: {
        scoped(str_free) char *full = options_mount_in_full(value, err);
        if (!full)
            return -1;
        return strv_add(field, full) < 0 ? err_errno(err, "keep --%s", opt->name) : 0;
    }
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

/* What notebook runners say to IPython, so that their cells are not in a person's history. */
static const char *const no_history[] = {"--HistoryManager.hist_file=:memory:",
                                         "--HistoryManager.enabled=False"};

static int
pass_over(struct options *o, const char *word, size_t len, struct err *err)
{
    char name[WIDTH_MAX + 1];

    for (size_t i = 0; i < countof(no_history); i++)
        if (strcmp(word, no_history[i]) == 0 && !o->history && !(o->history = strdup("session")))
            return err_errno(err, "keep '%s'", word);

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

/* Names go to an import statement, and into the name of a file. */
static int
check_start(const struct options *o, struct err *err)
{
    if (o->start && strcmp(o->start, "warm") != 0 && strcmp(o->start, "cold") != 0)
        return err_set(err, EINVAL, "--start '%s' is not one of warm, cold", o->start);
    for (size_t i = 0; i < o->preload.len; i++) {
        const char *name = o->preload.item[i];
        if (!*name || (*name >= '0' && *name <= '9') || strstr(name, "..") || *name == '.' ||
            name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")])
            return err_set(err, EINVAL, "--preload '%s' is no name of a module", name);
    }
    return 0;
}

/* What a person believes to have is what there is: nothing is guessed from half a wish. */
static int
check_network(const struct options *o, struct err *err)
{
    scoped(rules_release) struct rules rules = {0};
    const char *kind = o->network ? o->network : o->allow.len ? "allow" : "none";

    if (strcmp(kind, "none") != 0 && strcmp(kind, "allow") != 0 && strcmp(kind, "all") != 0)
        return err_set(err, EINVAL, "--network '%s' is not one of none, allow, all", kind);
    if (strcmp(kind, "none") == 0 && o->allow.len)
        return err_set(err, EINVAL, "--network none contradicts --allow '%s'", o->allow.item[0]);
    if (strcmp(kind, "allow") == 0 && !o->allow.len)
        return err_set(err, EINVAL, "--network allow needs an --allow HOST[:PORT] for each host");
    for (size_t i = 0; i < o->allow.len; i++) {
        if (rules_add(&rules, o->allow.item[i], err) < 0)
            return err_wrap(err, "--allow");
        if (rules.all)
            return err_set(err, EINVAL, "--allow '" RULES_ALL "' is said as --network all");
        if (strcmp(kind, "all") == 0 && rules.item[i].kind != RULE_NETWORK)
            return err_set(err, EINVAL,
                           "--network all contradicts --allow '%s': that name is allowed as every "
                           "other; with it, --allow lists private addresses",
                           o->allow.item[i]);
    }
    if (o->resolver && strcmp(kind, "none") == 0)
        return err_set(err, EINVAL, "--resolver means nothing without --allow or --network all");
    return o->resolver && resolver_check(o->resolver, err) < 0 ? err_wrap(err, "--resolver") : 0;
}

int
options_in_container(const struct options *o)
{
    return o->backend && strcmp(o->backend, "docker") == 0;
}

/* An image is a path, or with an engine a name. */
static int
check_backend(struct options *o, struct err *err)
{
    const struct {
        const char *name, *value;
    } of_engine[] = {{"pull", o->pull}, {"runtime", o->runtime}, {"gpus", o->gpus}};
    char plain[PATH_MAX], *copy;

    if (o->backend && !options_in_container(o) && strcmp(o->backend, "local") != 0)
        return err_set(err, EINVAL, "--backend '%s' is not one of local, docker", o->backend);
    if (options_in_container(o) && (!o->image || !*o->image))
        return err_set(err, EINVAL, "--backend docker needs --image NAME, an image of the engine");
    if (options_in_container(o))
        return 0;
    for (size_t i = 0; i < countof(of_engine); i++)
        if (of_engine[i].value)
            return err_set(err, EINVAL, "--%s means nothing without --backend docker", of_engine[i].name);
    if (!o->image)
        return 0;
    if (make_plain(o->image, strlen(o->image), plain) < 0)
        return err_set(err, EINVAL, "--image '%s' is no path", o->image);
    copy = strdup(plain);
    if (!copy)
        return err_errno(err, "keep --image");
    free(o->image);
    o->image = copy;
    return 0;
}

int
options_read(int argc, char **argv, int strict, struct options *ret, struct err *err)
{
    scoped(options_release) struct options o = {.pids = 1024, .files = 4096, .disk = 10ull << 30, .log_level = LOG_WARNING};

    for (int i = 0; i < argc; i++) {
        const char *word = argv[i], *equals = strchr(word, '=');
        size_t len = equals ? (size_t)(equals - word) : strlen(word);
        const struct option *opt = find_option(word, len);
        const char *value = equals ? equals + 1 : NULL;

        if (!opt) {
            if (pass_over(&o, word, len, err) < 0)
                return -1;
            if (strict)
                return err_set(err, EINVAL, "there is no option '%s'", word);
            continue;
        }
        if (!value && ++i < argc)
            value = argv[i];
        if (!value)
            return err_set(err, EINVAL, "%s needs a value: %s", word, opt->argument);
        if (set_option(&o, opt, value, err) < 0)
            return -1;
    }
    if (check_network(&o, err) < 0 || check_start(&o, err) < 0 || check_backend(&o, err) < 0)
        return -1;
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
    free(o->profile);
    free(o->image);
    free(o->backend);
    free(o->pull);
    free(o->runtime);
    free(o->gpus);
    free(o->containment);
    free(o->unconfined);
    free(o->hostname);
    free(o->name);
    free(o->history);
    free(o->ipython);
    strv_release(&o->mounts);
    free(o->network);
    free(o->resolver);
    strv_release(&o->allow);
    strv_release(&o->environment);
    free(o->start);
    strv_release(&o->preload);
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
