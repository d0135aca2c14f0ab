/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/specs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "kernel/options.h"
#include "kernel/paths.h"
#include "serve/handlers.h"

#define SPEC_MAX 65536     /* bytes of a kernel.json */
#define RESOURCE_MAX (1u << 20)

static const char *const resources[] = {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"};

/*** Which there are ***/

static struct spec *
add(struct server *s, const char *name, const char *display_name, const char *directory)
{
    struct spec *spec;

    s->specs = realloc(s->specs, (s->spec_count + 1) * sizeof *s->specs);
    if (!s->specs)
        abort();
    spec = &s->specs[s->spec_count++];
    *spec = (struct spec){.name = strdup(name), .display_name = strdup(display_name), .directory = strdup(directory)};
    if (!spec->name || !spec->display_name || !spec->directory)
        abort();
    return spec;
}

static int
names_profile(const struct strv *options)
{
    for (size_t i = 0; i < options->len; i++)
        if (strncmp(options->item[i], "--profile", 9) == 0)
            return 1;
    return 0;
}

static void
add_own(struct server *s, const char *name, const char *display_name)
{
    struct spec *spec = add(s, name, display_name, paths_logos());

    if (!names_profile(&s->options.kernel) && strv_add(&spec->options, "--profile=strict") < 0)
        abort();
    for (size_t i = 0; i < s->options.kernel.len; i++)
        if (strv_add(&spec->options, s->options.kernel.item[i]) < 0)
            abort();
}

/* argv of `husk install`: husk kernel OPTIONS -f {connection_file}. */
static int
read_argv(struct bytes argv, struct spec *spec, struct err *err)
{
    struct bytes value;
    size_t at = 0, n = 0;
    enum json_type type;

    while ((type = json_element(argv, &at, &value)) != J_NONE) {
        scoped(buf_release) struct buf text = {0};
        if (type != J_STRING || json_unescape(value, &text) < 0 || !buf_string(&text))
            return err_set(err, EINVAL, "'argv' holds something else than texts");
        if (n == 1 && strcmp((char *)text.data, "kernel") != 0)
            break;
        if (n++ > 1 && strcmp((char *)text.data, "-f") != 0 && strcmp((char *)text.data, "{connection_file}") != 0 &&
            strv_add(&spec->options, (char *)text.data) < 0)
            abort();
    }
    return n > 1 ? 0 : err_set(err, EINVAL, "it was not made by `husk install`");
}

static int
read_spec(struct server *s, const char *name, const char *directory, struct err *err)
{
    scoped(buf_release) struct buf text = {0}, display = {0};
    scoped(options_release) struct options parsed = {0};
    struct bytes json, argv, value;
    struct spec *spec;
    char path[PATH_MAX];

    if (snprintf(path, sizeof path, "%s/kernel.json", directory) >= (int)sizeof path)
        return err_set(err, ENAMETOOLONG, "the path of kernelspec '%s' is too long", name);
    if (file_read(AT_FDCWD, path, SPEC_MAX, &text) < 0)
        return err_errno(err, "read '%s'", path);
    json = (struct bytes){text.data, text.len};
    if (json_check_object(json, err) < 0)
        return err_wrap(err, "'%s'", path);
    if (json_get(json, "argv", &argv) != J_ARRAY)
        return err_set(err, EINVAL, "'%s' has no argv", path);
    if (json_get(json, "display_name", &value) == J_STRING && json_unescape(value, &display) < 0)
        abort();
    spec = add(s, name, display.len ? buf_string(&display) : name, directory);
    for (size_t i = 0; i < s->options.kernel.len; i++)
        if (strv_add(&spec->options, s->options.kernel.item[i]) < 0)
            abort();
    if (read_argv(argv, spec, err) < 0 ||
        options_read((int)spec->options.len, spec->options.item, 1, &parsed, err) < 0)
        return err_wrap(err, "'%s'", path);
    return 0;
}

/* Where Jupyter looks for them (jupyter_core.paths), the first one that has it. */
static int
load(struct server *s, const char *name, struct err *err)
{
    const char *list = getenv("JUPYTER_PATH"), *data = getenv("JUPYTER_DATA_DIR"), *venv = getenv("VIRTUAL_ENV");
    scoped(strv_release) struct strv places = {0};
    char path[PATH_MAX];

    while (list && *list) {
        size_t len = strcspn(list, ":");
        if (len && strv_addf(&places, "%.*s", (int)len, list) < 0)
            abort();
        list += len + (list[len] == ':');
    }
    if ((data && strv_add(&places, data) < 0) || strv_addf(&places, "%s/.local/share/jupyter", paths_home()) < 0 ||
        (venv && strv_addf(&places, "%s/share/jupyter", venv) < 0) ||
        strv_add(&places, "/usr/local/share/jupyter") < 0 || strv_add(&places, "/usr/share/jupyter") < 0)
        abort();
    for (size_t i = 0; !strchr(name, '/') && i < places.len; i++) {
        snprintf(path, sizeof path, "%s/kernels/%s", places.item[i], name);
        if (access(path, F_OK) == 0)
            return read_spec(s, name, path, err);
    }
    return err_set(err, ENOENT, "--spec '%s': there is no such kernelspec", name);
}

int
specs_load(struct server *s, struct err *err)
{
    add_own(s, "python3", "Python 3 (husk)");
    add_own(s, "husk", "Python 3 (husk)");
    for (size_t i = 0; i < s->options.specs.len; i++) {
        const char *name = s->options.specs.item[i];
        if (specs_find(s, name))
            return err_set(err, EEXIST, "--spec '%s': there is one of this name already", name);
        if (load(s, name, err) < 0)
            return -1;
    }
    return 0;
}

void
specs_release(struct server *s)
{
    for (size_t i = 0; i < s->spec_count; i++) {
        free(s->specs[i].name);
        free(s->specs[i].display_name);
        free(s->specs[i].directory);
        strv_release(&s->specs[i].options);
    }
    free(s->specs);
    s->specs = NULL;
    s->spec_count = 0;
}

const struct spec *
specs_find(const struct server *s, const char *name)
{
    for (size_t i = 0; i < s->spec_count; i++)
        if (strcmp(s->specs[i].name, name) == 0)
            return &s->specs[i];
    return NULL;
}

/*** Requests ***/

/* Only what is there: not every directory has all of them. */
static void
add_resources(const struct spec *spec, struct buf *b)
{
    char path[PATH_MAX];
    int n = 0;

    for (size_t i = 0; i < countof(resources); i++) {
        snprintf(path, sizeof path, "%s/%s", spec->directory, resources[i]);
        if (access(path, R_OK) == 0 &&
            buf_printf(b, "%s\"%.*s\": \"/kernelspecs/%s/%s\"", n++ ? ", " : "", (int)strcspn(resources[i], "."),
                       resources[i], spec->name, resources[i]) < 0)
            abort();
    }
}

static void
add_model(const struct spec *spec, struct buf *b)
{
    int bad = buf_printf(b, "{\"name\": \"%s\", \"spec\": {\"argv\": [", spec->name) < 0 ||
              json_quote(bytes_of(paths_program()), b) < 0 || buf_text(b, ", \"kernel\"") < 0;

    for (size_t i = 0; !bad && i < spec->options.len; i++)
        bad = buf_text(b, ", ") < 0 || json_quote(bytes_of(spec->options.item[i]), b) < 0;
    bad = bad || buf_text(b, ", \"-f\", \"{connection_file}\"], \"env\": {}, \"display_name\": ") < 0 ||
          json_quote(bytes_of(spec->display_name), b) < 0 ||
          buf_text(b, ", \"language\": \"python\", \"interrupt_mode\": \"message\", \"metadata\": "
                      /* No word of a debugger: front ends then ask the kernel, which knows its Python. */
                      "{}}, \"resources\": {") < 0;
    if (!bad)
        add_resources(spec, b);
    if (bad || buf_text(b, "}}") < 0)
        abort();
}

void
get_kernelspecs(struct server *s, struct exchange *x)
{
    struct buf b = {0};

    if (buf_text(&b, "{\"default\": \"python3\", \"kernelspecs\": {") < 0)
        abort();
    for (size_t i = 0; i < s->spec_count; i++) {
        if (buf_printf(&b, "%s\"%s\": ", i ? ", " : "", s->specs[i].name) < 0)
            abort();
        add_model(&s->specs[i], &b);
    }
    if (buf_text(&b, "}}") < 0)
        abort();
    answer_json(x, 200, &b);
}

void
get_kernelspec(struct server *s, struct exchange *x)
{
    const struct spec *spec = specs_find(s, x->segment[0]);
    struct buf b = {0};

    if (!spec) {
        answer_error(x, 404, "Kernel spec not found: %s", x->segment[0]);
        return;
    }
    add_model(spec, &b);
    answer_json(x, 200, &b);
}

void
get_resource(struct server *s, struct exchange *x)
{
    const struct spec *spec = specs_find(s, x->segment[0]);
    struct MHD_Response *r;
    struct buf b = {0};
    char path[PATH_MAX];

    for (size_t i = 0; spec && i < countof(resources); i++) {
        if (strcmp(resources[i], x->segment[1]) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", spec->directory, resources[i]);
        if (file_read(AT_FDCWD, path, RESOURCE_MAX, &b) < 0)
            break;
        r = MHD_create_response_from_buffer(b.len, b.data, MHD_RESPMEM_MUST_FREE);
        response_header(r, "Content-Type", strstr(path, ".svg") ? "image/svg+xml" : "image/png");
        answer_response(x, 200, r);
        return;
    }
    buf_release(&b);
    answer_error(x, 404, "Kernelspec resource not found: %s/%s", x->segment[0], x->segment[1]);
}
