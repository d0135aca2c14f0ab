/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { NAME, PATH, PATHS, SIZE };

static const struct option {
    const char *name;
    enum kind kind;
    size_t offset;
} options[] = {
#define OPTION(name, kind, field, meaning) {name, kind, offsetof(struct policy, field)},
#include "sandbox/options.def"
#undef OPTION
};

/* Directories that belong to the system or to everybody: a working directory that is one of
 * them, or contains one, is not given to a sandbox. */
static const char *const system_directories[] = {
    "/bin", "/boot", "/dev",  "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys",  "/tmp", "/usr",   "/var",   "/var/tmp"};

/* Below these nothing is shared read-write, at any depth. */
static const char *const system_trees[] = {"/bin", "/boot", "/dev", "/etc",  "/lib", "/lib64",
                                           "/proc", "/run", "/sbin", "/sys", "/usr"};

int
path_within(const char *path, const char *dir)
{
    size_t len = strlen(dir);

    if (strcmp(dir, "/") == 0)
        return 1;
    return strncmp(path, dir, len) == 0 && (path[len] == 0 || path[len] == '/');
}

/* Absolute, no empty or dot components, no slash at the end: then a prefix is an ancestor. */
static int
path_is_clean(const char *path)
{
    if (*path != '/' || strlen(path) >= 4096)
        return 0;
    if (path[1] == 0)
        return 1;
    for (const char *at = path; *at;) {
        size_t len = strcspn(at + 1, "/");
        if (len == 0 || (len == 1 && at[1] == '.') || (len == 2 && at[1] == '.' && at[2] == '.'))
            return 0;
        at += 1 + len;
    }
    return 1;
}

static int
set_option(struct policy *p, const struct option *o, const char *value, struct err *err)
{
    void *field = (char *)p + o->offset;

    switch (o->kind) {
    case PATH:
    case PATHS:
        if (!path_is_clean(value))
            return err_set(err, EINVAL, "%s '%s' is not an absolute path in its plain form",
                           o->name, value);
        if (o->kind == PATHS)
            return strv_add(field, value) < 0 ? err_errno(err, "keep %s", o->name) : 0;
        break;
    case NAME:
        if (!*value || strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(value) ||
            strlen(value) > 60)
            return err_set(err, EINVAL, "%s '%s' is no name", o->name, value);
        break;
    case SIZE:
        if (size_parse(value, field) < 0 || *(uint64_t *)field == 0)
            return err_set(err, EINVAL, "%s '%s' is no size", o->name, value);
        return 0;
    }
    free(*(char **)field);
    *(char **)field = strdup(value);
    return *(char **)field ? 0 : err_errno(err, "keep %s", o->name);
}

static int
read_option(struct policy *p, struct bytes part, struct err *err)
{
    char text[4200], *value;

    if (part.len >= sizeof text || memchr(part.data, 0, part.len))
        return err_set(err, EINVAL, "an option that is too long or has a NUL");
    memcpy(text, part.data, part.len);
    text[part.len] = 0;
    value = strchr(text, '=');
    if (!value)
        return err_set(err, EINVAL, "option '%s' has no value", text);
    *value++ = 0;
    for (size_t i = 0; i < countof(options); i++)
        if (strcmp(options[i].name, text) == 0)
            return set_option(p, &options[i], value, err);
    return err_set(err, EINVAL, "there is no sandbox option '%s'", text);
}

/* A working directory is shared only if nothing but the user's notebooks can be meant by it. */
static void
judge_workdir(struct policy *p)
{
    const char *why = NULL;

    if (p->hosthome && path_within(p->hosthome, p->workdir))
        why = strcmp(p->hosthome, p->workdir) == 0 ? "it is your home directory"
                                                   : "it contains your home directory";
    for (size_t i = 0; !why && i < countof(system_directories); i++)
        if (path_within(system_directories[i], p->workdir))
            why = "it is a directory of the system";
    for (size_t i = 0; !why && i < countof(system_trees); i++)
        if (path_within(p->workdir, system_trees[i]))
            why = "it belongs to the system";
    for (size_t i = 0; !why && i < p->hide.len; i++)
        if (path_within(p->workdir, p->hide.item[i]) || path_within(p->hide.item[i], p->workdir))
            why = "it holds state that stays hidden";
    if (!why && strv_has(&p->own, p->workdir))
        why = "the Python itself lies there";
    p->private_workdir = why != NULL;
    snprintf(p->why_private, sizeof p->why_private, "%s", why ? why : "");
}

/* A private directory appears at the path that the client named, unless the system or the Python
 * is there: then it is the home directory. */
static int
place_workdir(struct policy *p, struct err *err)
{
    int taken = strcmp(p->workdir, "/") == 0 || strv_has(&p->own, p->workdir);

    for (size_t i = 0; !taken && i < countof(system_trees); i++)
        taken = path_within(p->workdir, system_trees[i]) || path_within(system_trees[i], p->workdir);
    if (!p->private_workdir || !taken)
        return 0;
    free(p->workdir);
    p->workdir = strdup(p->home);
    return p->workdir ? 0 : err_errno(err, "keep workdir");
}

/* What has a face of its own inside: the host's must not take its place, nor stand around it. */
static const char *const own_faces[] = {"/tmp", "/var/tmp", "/etc/passwd"};
/* Nothing of these trees of the host is ever shown. */
static const char *const hidden_trees[] = {"/proc", "/sys", "/dev", "/run"};

static int
is_forbidden(const struct policy *p, const char *path)
{
    if (p->hosthome && path_within(p->hosthome, path))
        return 1;
    for (size_t i = 0; i < countof(own_faces); i++)
        if (path_within(own_faces[i], path))
            return 1;
    for (size_t i = 0; i < countof(hidden_trees); i++)
        if (path_within(path, hidden_trees[i]) || path_within(hidden_trees[i], path))
            return 1;
    for (size_t i = 0; i < p->hide.len; i++)
        if (path_within(path, p->hide.item[i]) || path_within(p->hide.item[i], path))
            return 1;
    return 0;
}

/* A Python may have anything on its path. What would show the home directory, a directory that
 * must stay hidden, or the host's /tmp is left out: less is seen, nothing is weaker. */
static void
drop_forbidden_paths(struct policy *p)
{
    size_t kept = 0;

    for (size_t i = 0; i < p->paths.len; i++) {
        if (is_forbidden(p, p->paths.item[i]))
            free(p->paths.item[i]);
        else
            p->paths.item[kept++] = p->paths.item[i];
    }
    p->paths.len = kept;
    if (p->paths.item)
        p->paths.item[kept] = NULL;
}

int
policy_read(const struct frame *build, struct policy *ret, struct err *err)
{
    scoped(policy_release) struct policy p = {
        .memory = 2ull << 30, .pids = 1024, .files = 4096};
    struct bytes part;
    size_t at = 0;

    while (frame_next(build, &at, &part))
        if (read_option(&p, part, err) < 0)
            return -1;
    if (!p.id || !p.home || !p.workdir || !p.state)
        return err_set(err, EINVAL, "id, home, workdir and state must be given");
    if (!p.tmp_size)
        p.tmp_size = p.memory / 4;
    judge_workdir(&p);
    if (place_workdir(&p, err) < 0)
        return -1;
    drop_forbidden_paths(&p);
    *ret = p;
    p = (struct policy){0}; /* moved to the caller */
    return 0;
}

void
policy_release(struct policy *policy)
{
    int saved = errno;

    free(policy->id);
    free(policy->workdir);
    free(policy->state);
    free(policy->home);
    free(policy->hosthome);
    strv_release(&policy->paths);
    strv_release(&policy->hide);
    strv_release(&policy->guards);
    strv_release(&policy->masks);
    strv_release(&policy->own);
    *policy = (struct policy){0};
    errno = saved;
}
