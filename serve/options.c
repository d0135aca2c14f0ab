/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/options.h"

#define BODY_MOST (512ull << 20) /* below FRONT_MESSAGE: a body is the most of one message to a kernel */

enum kind { TEXT, NUMBER, SIZE, LIST, FLAG };

static const struct option {
    const char *name;
    enum kind kind;
    size_t offset;
    const char *environment, *argument, *help;
} options[] = {
#define OPTION(name, kind, field, environment, argument, help)                                  \
    {name, kind, offsetof(struct serve_options, field), environment, argument, help},
#include "serve/options.def"
#undef OPTION
};

static int
set(struct serve_options *o, const struct option *opt, const char *from, const char *value, struct err *err)
{
    void *field = (char *)o + opt->offset;
    char *end, *copy;

    switch (opt->kind) {
    case TEXT:
        if (!(copy = strdup(value)))
            return err_errno(err, "keep %s", from);
        free(*(char **)field);
        *(char **)field = copy;
        return 0;
    case NUMBER:
        *(uint64_t *)field = strtoull(value, &end, 10);
        return !*value || *end || *value == '-' || *(uint64_t *)field > 1000000
                   ? err_set(err, EINVAL, "%s '%s' is no number", from, value)
                   : 0;
    case SIZE:
        return size_parse(value, field) < 0 ? err_set(err, EINVAL, "%s '%s' is no size (as 512m, 2g)", from, value) : 0;
    case LIST:
        return strv_add(field, value) < 0 ? err_errno(err, "keep %s", from) : 0;
    case FLAG:
        *(uint64_t *)field = 1;
        return 0;
    }
    return 0;
}

static int
read_environment(struct serve_options *o, struct err *err)
{
    for (size_t i = 0; i < countof(options); i++) {
        const char *at = options[i].environment;
        while (at && *at) {
            size_t len = strcspn(at, " ");
            char name[40];
            const char *value;
            snprintf(name, sizeof name, "%.*s", (int)len, at);
            value = getenv(name);
            if (value && (*value || options[i].kind == TEXT)) {
                if (set(o, &options[i], name, value, err) < 0)
                    return -1;
                break;
            }
            at += len + (at[len] == ' ');
        }
    }
    return 0;
}

static const struct option *
find(const char *word, size_t len)
{
    if (len == 2 && strncmp(word, "-o", 2) == 0)
        return find("--output", 8);
    for (size_t i = 0; i < countof(options); i++)
        if (len > 2 && strncmp(word, "--", 2) == 0 && strlen(options[i].name) == len - 2 &&
            strncmp(word + 2, options[i].name, len - 2) == 0)
            return &options[i];
    return NULL;
}

/* What is left is for kernels: refused now, and not when the first one is to start. */
static int
check_kernel(struct strv *rest, int *ret_level, struct err *err)
{
    scoped(options_release) struct options parsed = {0};

    if (options_read((int)rest->len, rest->item, 1, &parsed, err) < 0)
        return -1;
    if (parsed.connection_file || parsed.front || parsed.name)
        return err_set(err, EINVAL, "--connection-file, --front and --name are for the server to give");
    *ret_level = parsed.log_level;
    return 0;
}

static int
check(struct serve_options *o, struct err *err)
{
    static const char *const grants[] = {"network", "mounts", "images"};

    for (size_t i = 0; i < o->grants.len; i++) {
        size_t j = 0;
        while (j < countof(grants) && strcmp(grants[j], o->grants.item[i]) != 0)
            j++;
        if (j == countof(grants))
            return err_set(err, EINVAL, "--grant '%s' is not one of network, mounts, images", o->grants.item[i]);
    }
    if (o->output && strcmp(o->output, "json") != 0)
        return err_set(err, EINVAL, "--output '%s' is not json", o->output);
    if (o->log_format && strcmp(o->log_format, "json") != 0 && strcmp(o->log_format, "text") != 0)
        return err_set(err, EINVAL, "--log-format '%s' is not one of text, json", o->log_format);
    if (!o->certfile != !o->keyfile)
        return err_set(err, EINVAL, "--certfile and --keyfile go together");
    if (o->port > 65535)
        return err_set(err, EINVAL, "--port %llu is no port", (unsigned long long)o->port);
    if (o->max_kernels == 0 || o->max_connections == 0)
        return err_set(err, EINVAL, "--max-kernels and --max-connections are at least 1");
    if (o->max_body > BODY_MOST)
        return err_set(err, EINVAL, "--max-body is at most 512m: no message to a kernel is longer");
    return check_kernel(&o->kernel, &o->log_level, err);
}

int
serve_options_read(int argc, char **argv, struct serve_options *ret, struct err *err)
{
    scoped(serve_options_release) struct serve_options o = {
        .port = 8888, .max_kernels = 1000, .max_connections = 20000, .max_body = 64u << 20};

    if (read_environment(&o, err) < 0)
        return -1;
    for (int i = 0; i < argc; i++) {
        const char *equals = strchr(argv[i], '=');
        size_t len = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        const struct option *opt = find(argv[i], len);
        const char *word = argv[i], *value = equals ? equals + 1 : NULL;

        if (!opt) {
            if (strv_add(&o.kernel, argv[i]) < 0)
                return err_errno(err, "keep '%s'", argv[i]);
            if (!equals && i + 1 < argc && strv_add(&o.kernel, argv[++i]) < 0)
                return err_errno(err, "keep '%s'", argv[i]);
            continue;
        }
        if (opt->kind == FLAG)
            value = "";
        else if (!value && ++i < argc)
            value = argv[i];
        if (!value)
            return err_set(err, EINVAL, "%s needs a value: %s", word, opt->argument);
        if (set(&o, opt, word, value, err) < 0)
            return -1;
    }
    if (check(&o, err) < 0)
        return -1;
    *ret = o;
    o = (struct serve_options){0}; /* moved to the caller */
    return 0;
}

void
serve_options_release(struct serve_options *o)
{
    for (size_t i = 0; i < countof(options); i++) {
        void *field = (char *)o + options[i].offset;
        if (options[i].kind == TEXT)
            str_free(field);
        else if (options[i].kind == LIST)
            strv_release(field);
    }
    strv_release(&o->kernel);
    *o = (struct serve_options){0};
}

void
serve_options_help(void)
{
    for (size_t i = 0; i < countof(options); i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s %s", options[i].name, options[i].argument);
        printf("  %-26s %s\n", left, options[i].help);
        if (options[i].environment)
            printf("  %-26s environment: %s\n", "", options[i].environment);
    }
}
