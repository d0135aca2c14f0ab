/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/install.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "base/log.h"
#include "kernel/exits.h"
#include "kernel/options.h"
#include "kernel/paths.h"
#include "kernel/python.h"
#include "kernel/wire.h"

struct install {
    const char *prefix;  /* --prefix */
    int user, sys_prefix;
    const char *name;    /* of the kernelspec */
    const char *display; /* what people see */
    char **rest;         /* options for `husk kernel`, from the command line */
    int nrest;
    struct strv sandbox; /* the same, as they go into the kernelspec */
    int debugger;        /* a kernel of this Python can debug, as far as can be told now */
};

static void
help(void)
{
    puts("usage: husk install [--user | --sys-prefix | --prefix DIR] [--name NAME]\n"
         "                    [--display-name TEXT] [--python PATH] [sandbox options]\n"
         "\n"
         "Makes husk known to Jupyter as a kernel; replaces an older one of the same name.\n"
         "\n"
         "  --user               for this user (default)\n"
         "  --sys-prefix         in the active virtual environment or conda environment\n"
         "  --prefix DIR         below DIR/share/jupyter\n"
         "  --name NAME          name of the kernelspec (default: husk)\n"
         "  --display-name TEXT  name in menus (default: Python 3 (husk))\n"
         "\n"
         "Sandbox options are written into the kernelspec; see: husk kernel --help");
}

static int
value_of(int argc, char **argv, int *i, const char *name, const char **ret)
{
    size_t len = strlen(name);

    if (strncmp(argv[*i], name, len) != 0 || (argv[*i][len] != 0 && argv[*i][len] != '='))
        return 0;
    if (argv[*i][len] == '=') {
        *ret = argv[*i] + len + 1;
        return 1;
    }
    if (*i + 1 >= argc)
        return -1;
    *ret = argv[++*i];
    return 1;
}

static int
read_arguments(int argc, char **argv, struct install *in, struct err *err)
{
    for (int i = 0; i < argc; i++) {
        int r = 0;
        if (strcmp(argv[i], "--user") == 0)
            in->user = r = 1;
        else if (strcmp(argv[i], "--sys-prefix") == 0)
            in->sys_prefix = r = 1;
        if (r == 0)
            r = value_of(argc, argv, &i, "--prefix", &in->prefix);
        if (r == 0)
            r = value_of(argc, argv, &i, "--name", &in->name);
        if (r == 0)
            r = value_of(argc, argv, &i, "--display-name", &in->display);
        if (r < 0)
            return err_set(err, EINVAL, "%s needs a value", argv[i]);
        if (r == 0)
            in->rest[in->nrest++] = argv[i];
    }
    for (int i = 0; i < argc; i++) {
        json_t *text = json_string(argv[i]);
        if (!text)
            return err_set(err, EINVAL, "argument %d is not UTF-8", i + 1);
        json_decref(text);
    }
    if (in->prefix && !*in->prefix)
        return err_set(err, EINVAL, "--prefix is empty");
    if (in->user + in->sys_prefix + (in->prefix != NULL) > 1)
        return err_set(err, EINVAL, "only one of --user, --sys-prefix and --prefix");
    if (!*in->name || *in->name == '.' || strspn(in->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                       "0123456789-_.") != strlen(in->name))
        return err_set(err, EINVAL, "'%s' is no name for a kernelspec (letters, digits, - _ .)",
                       in->name);
    return 0;
}

/* A path that is relative to where the user types it means nothing where a client starts us. Not
 * resolved: a virtual environment's python is a link, and must stay one. Caller frees. */
static char *
keep_value(const char *name, int len, const char *value, int in_container, struct err *err)
{
    int python = len == 8 && strncmp(name, "--python", 8) == 0;
    int workdir = (len == 9 && strncmp(name, "--workdir", 9) == 0) ||
                  (len == 7 && !in_container && strncmp(name, "--image", 7) == 0);
    char here[PATH_MAX], *kept = NULL;

    if (len == 7 && strncmp(name, "--mount", 7) == 0)
        return options_mount_in_full(value, err);
    if ((!python && !workdir) || *value == '/' || (python && !strchr(value, '/')))
        kept = strdup(value);
    else if (getcwd(here, sizeof here) && asprintf(&kept, "%s/%s", here, value) < 0)
        kept = NULL;
    if (!kept)
        err_errno(err, "keep '%s'", value);
    return kept;
}

/* The sandbox options as they were typed, but with absolute paths. */
static int
check_sandbox_options(struct install *in, const struct options *o, struct err *err)
{
    if (o->connection_file)
        return err_set(err, EINVAL, "the connection file is the client's to give");
    for (int i = 0; i < in->nrest; i++) {
        const char *word = in->rest[i], *equals = strchr(word, '=');
        int len = equals ? (int)(equals - word) : (int)strlen(word), bad;
        const char *value = equals ? equals + 1 : in->rest[++i];
        scoped(str_free) char *kept = keep_value(word, len, value, options_in_container(o), err);

        if (!kept)
            return -1;
        if (equals)
            bad = strv_addf(&in->sandbox, "%.*s=%s", len, word, kept) < 0;
        else
            bad = strv_add(&in->sandbox, word) < 0 || strv_add(&in->sandbox, kept) < 0;
        if (bad)
            return err_errno(err, "keep '%s'", word);
    }
    return 0;
}

/* Where Jupyter looks (jupyter_core.paths): the data directory of the user, or a prefix. */
static int
find_directory(const struct install *in, char *into, size_t size, struct err *err)
{
    const char *prefix = in->prefix, *data = getenv("JUPYTER_DATA_DIR"), *xdg = getenv("XDG_DATA_HOME");
    int len;

    if (in->sys_prefix) {
        prefix = getenv("VIRTUAL_ENV");
        if (!prefix || !*prefix)
            prefix = getenv("CONDA_PREFIX");
        if (!prefix || !*prefix)
            return err_set(err, ENOENT, "--sys-prefix: no virtual environment is active "
                                        "(neither VIRTUAL_ENV nor CONDA_PREFIX is set)");
    }
    if (prefix)
        len = snprintf(into, size, "%s/share/jupyter/kernels/%s", prefix, in->name);
    else if (data && *data)
        len = snprintf(into, size, "%s/kernels/%s", data, in->name);
    else if (xdg && *xdg)
        len = snprintf(into, size, "%s/jupyter/kernels/%s", xdg, in->name);
    else
        len = snprintf(into, size, "%s/.local/share/jupyter/kernels/%s", paths_home(), in->name);
    return len < (int)size ? 0 : err_set(err, ENAMETOOLONG, "the path is too long");
}

static json_t *
make_spec(const struct install *in)
{
    json_t *argv = json_array();

    json_array_append_new(argv, json_string(paths_program()));
    json_array_append_new(argv, json_string("kernel"));
    for (size_t i = 0; i < in->sandbox.len; i++)
        json_array_append_new(argv, json_string(in->sandbox.item[i]));
    json_array_append_new(argv, json_string("-f"));
    json_array_append_new(argv, json_string("{connection_file}"));
    return json_pack("{s:o, s:s, s:s, s:s, s:s, s:{}, s:{s:b, s:[s]}}", "argv", argv, "display_name",
                     in->display, "language", "python", "interrupt_mode", "message",
                     "kernel_protocol_version", WIRE_PROTOCOL ".0", "env", "metadata", "debugger", in->debugger,
                     "supported_encryption", "curve");
}

static int
make_parents(const char *path, struct err *err)
{
    char copy[PATH_MAX];

    snprintf(copy, sizeof copy, "%s", path);
    for (char *at = copy + 1; *at; at++) {
        if (*at != '/')
            continue;
        *at = 0;
        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
            return err_errno(err, "make '%s'", copy);
        *at = '/';
    }
    if (mkdir(copy, 0755) < 0 && errno != EEXIST)
        return err_errno(err, "make '%s'", copy);
    return 0;
}

/* Some front ends look for it here. A Python that is not found now is no error before a kernel starts. */
static int
has_debugger(const struct options *o)
{
    scoped(python_release) struct python python = {0};
    struct err err;

    return !o->image && (!o->containment || strcmp(o->containment, "full") == 0) &&
           python_find(o->python, paths_probe(), &python, &err) == 0 && python.debugger;
}

/* Whole or not at all: written beside it and renamed. */
static int
write_file(const char *directory, const char *name, const void *data, size_t len, struct err *err)
{
    char temporary[PATH_MAX], path[PATH_MAX];
    scoped(fd_close) int fd = -1;

    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path ||
        snprintf(temporary, sizeof temporary, "%s/.%s.XXXXXX", directory, name) >=
            (int)sizeof temporary)
        return err_set(err, ENAMETOOLONG, "the path is too long");
    fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, "write into '%s'", directory);
    if (fd_write_all(fd, data, len) < 0 || fchmod(fd, 0644) < 0 || rename(temporary, path) < 0) {
        err_errno(err, "write '%s'", path);
        unlink(temporary);
        return -1;
    }
    return 0;
}

static int
copy_logos(const char *directory, struct err *err)
{
    static const char *const names[] = {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"};

    for (size_t i = 0; i < countof(names); i++) {
        scoped(buf_release) struct buf data = {0};
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", paths_logos(), names[i]);
        if (file_read(AT_FDCWD, path, 1 << 20, &data) < 0)
            return err_errno(err, "read '%s'", path);
        if (write_file(directory, names[i], data.data, data.len, err) < 0)
            return -1;
    }
    return 0;
}

/* What an older kernelspec of the name had and this one has not. */
static void
remove_others(const char *directory)
{
    static const char *const ours[] = {".", "..", "kernel.json", "logo-32x32.png", "logo-64x64.png",
                                       "logo-svg.svg"};
    DIR *dir = opendir(directory);
    struct dirent *d;

    while (dir && (d = readdir(dir))) {
        int keep = 0;
        for (size_t i = 0; i < countof(ours); i++)
            keep |= strcmp(ours[i], d->d_name) == 0;
        if (!keep)
            unlinkat(dirfd(dir), d->d_name, 0); /* a directory in it is not ours to judge */
    }
    if (dir)
        closedir(dir);
}

static int
install(const struct install *in, struct err *err)
{
    char directory[PATH_MAX];
    scoped(str_free) char *text = NULL;
    json_auto_t *spec = make_spec(in);

    text = spec ? json_dumps(spec, JSON_INDENT(1) | JSON_ENSURE_ASCII) : NULL;
    if (!text)
        return err_set(err, ENOMEM, "make the kernelspec");
    if (find_directory(in, directory, sizeof directory, err) < 0 ||
        make_parents(directory, err) < 0 || copy_logos(directory, err) < 0 ||
        write_file(directory, "kernel.json", text, strlen(text), err) < 0)
        return -1;
    remove_others(directory);
    printf("Installed kernelspec %s in %s\n", in->name, directory);
    return 0;
}

int
install_command(int argc, char **argv)
{
    struct install in = {.name = "husk", .display = "Python 3 (husk)"};
    struct options checked = {0};
    struct err err;
    int r = EXIT_USAGE;

    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            help();
            return EXIT_OK;
        }
    in.rest = calloc((size_t)argc + 1, sizeof *in.rest);
    if (!in.rest)
        return EXIT_SYSTEM;
    /* The sandbox options must be right now, not when a notebook is opened. */
    if (read_arguments(argc, argv, &in, &err) == 0 &&
        options_read(in.nrest, in.rest, 1, &checked, &err) == 0 &&
        check_sandbox_options(&in, &checked, &err) == 0) {
        in.debugger = has_debugger(&checked);
        r = install(&in, &err) < 0 ? EXIT_SYSTEM : EXIT_OK;
    }
    if (r != EXIT_OK)
        log_error("%s", err.text);
    options_release(&checked);
    strv_release(&in.sandbox);
    free(in.rest);
    return r;
}
