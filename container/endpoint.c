/* SPDX-License-Identifier: BSD-3-Clause
 *
 * endpoint.c: where the daemon is, as the command `docker` finds it.
 */
#include "container/engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_MAX (1 << 20) /* bytes */

static json_t *
load(const char *path)
{
    scoped(buf_release) struct buf text = {0};

    if (file_read(AT_FDCWD, path, CONFIG_MAX, &text) < 0)
        return NULL;
    return json_loadb((const char *)text.data, text.len, 0, NULL);
}

static const char *
config_directory(char into[static PATH_MAX])
{
    const char *said = getenv("DOCKER_CONFIG"), *home = getenv("HOME");

    snprintf(into, PATH_MAX, "%s%s", said && *said ? said : home ? home : "", said && *said ? "" : "/.docker");
    return into;
}

/* "unix:///run/docker.sock" -> the path. */
static char *
path_of(const char *host, const char *origin, struct err *err)
{
    char *copy;

    if (strncmp(host, "unix://", 7) != 0 || host[7] != '/') {
        err_set(err, ENOTSUP, "%s is '%s': husk uses an engine on this machine only, by its socket "
                              "(unix:///path), as its container shares directories with husk", origin, host);
        return NULL;
    }
    copy = strdup(host + 7);
    if (!copy)
        err_errno(err, "keep '%s'", host);
    return copy;
}

/* Below contexts/meta is a directory for each context, named by a hash of its name. */
static char *
find_context(const char *name, struct err *err)
{
    char config[PATH_MAX], path[2 * PATH_MAX], origin[PATH_MAX];
    char *found = NULL;
    struct dirent *d;
    DIR *dir;

    snprintf(path, sizeof path, "%s/contexts/meta", config_directory(config));
    dir = opendir(path);
    snprintf(origin, sizeof origin, "the Docker context '%.200s'", name);
    err->code = 0;
    while (dir && !found && !err->code && (d = readdir(dir))) {
        snprintf(path, sizeof path, "%s/contexts/meta/%s/meta.json", config, d->d_name);
        json_t *meta = is_dots(d->d_name) ? NULL : load(path);
        const char *its = json_string_value(json_object_get(meta, "Name"));
        const char *host = json_string_value(json_object_get(
            json_object_get(json_object_get(meta, "Endpoints"), "docker"), "Host"));
        if (its && host && strcmp(its, name) == 0)
            found = path_of(host, origin, err);
        json_decref(meta);
    }
    if (dir)
        closedir(dir);
    if (!found && !err->code)
        err_set(err, ENOENT, "there is no Docker context '%s'; see: docker context ls", name);
    return found;
}

static char *
find_usual(struct err *err)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    const char *const places[][2] = {{"", "/var/run/docker.sock"}, {runtime, "/docker.sock"},
                                     {runtime, "/podman/podman.sock"}, {"", "/run/podman/podman.sock"}};
    char *path = NULL;

    for (size_t i = 0; i < countof(places); i++) {
        if (!places[i][0])
            continue;
        if (asprintf(&path, "%s%s", places[i][0], places[i][1]) < 0)
            break;
        if (access(path, F_OK) == 0)
            return path;
        free(path);
        path = NULL;
    }
    path = strdup(places[0][1]); /* which is missing: the error names it */
    if (!path)
        err_errno(err, "find the container engine");
    return path;
}

char *
engine_find(struct err *err)
{
    const char *host = getenv("DOCKER_HOST"), *context = getenv("DOCKER_CONTEXT");
    char config[PATH_MAX], path[PATH_MAX + 16];
    json_t *settings;
    char *found;

    if (host && *host)
        return path_of(host, "DOCKER_HOST", err);
    snprintf(path, sizeof path, "%s/config.json", config_directory(config));
    settings = load(path);
    if (!context || !*context)
        context = json_string_value(json_object_get(settings, "currentContext"));
    found = context && *context && strcmp(context, "default") != 0 ? find_context(context, err) : find_usual(err);
    json_decref(settings);
    return found;
}
