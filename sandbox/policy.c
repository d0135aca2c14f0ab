/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES_LEAST 64 /* open files: Python has a dozen before it has read a line */

enum kind { NAME, TEXT, PATH, PATHS, MOUNTS, SIZE, RULE, SERVER };

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

/* "SOURCE:TARGET:ro". A colon cannot be in either path. */
static int
add_mount(struct policy *p, const char *value, struct err *err)
{
    struct policy_mount *m = realloc(p->mounts, (p->nmounts + 1) * sizeof *m);
    const char *target = strchr(value, ':'), *mode = target ? strchr(target + 1, ':') : NULL;

    if (!m)
        return err_errno(err, "keep mount");
    p->mounts = m;
    if (!mode || (strcmp(mode, ":ro") != 0 && strcmp(mode, ":rw") != 0))
        return err_set(err, EINVAL, "mount '%s' is not SOURCE:TARGET:ro or :rw", value);
    m += p->nmounts;
    m->source = strndup(value, (size_t)(target - value));
    m->target = strndup(target + 1, (size_t)(mode - target - 1));
    m->writable = strcmp(mode, ":rw") == 0;
    p->nmounts++;
    if (!m->source || !m->target)
        return err_errno(err, "keep mount");
    if (!path_is_clean(m->source) || !path_is_clean(m->target))
        return err_set(err, EINVAL, "mount '%s' has a path that is not absolute and in its plain form",
                       value);
    return 0;
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
    case MOUNTS:
        return add_mount(p, value, err);
    case NAME:
        if (!*value || strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(value) ||
            strlen(value) > 60)
            return err_set(err, EINVAL, "%s '%s' is no name", o->name, value);
        break;
    case TEXT:
        if (!*value || strlen(value) > 255 || *value == '-')
            return err_set(err, EINVAL, "%s '%s' is no name", o->name, value);
        for (const char *c = value; *c; c++)
            if (*c <= ' ' || *c > '~')
                return err_set(err, EINVAL, "%s has a character that no name has", o->name);
        break;
    case SIZE:
        if (size_parse(value, field) < 0 || *(uint64_t *)field == 0)
            return err_set(err, EINVAL, "%s '%s' is no size", o->name, value);
        return 0;
    case RULE:
        if (rules_add(&p->rules, value, err) < 0)
            return -1;
        return strv_add(field, value) < 0 ? err_errno(err, "keep %s", o->name) : 0;
    case SERVER:
        if (resolver_check(value, err) < 0)
            return -1;
        break;
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

    if (p->profile != PROFILE_NOTEBOOK) {
        p->private_workdir = 1; /* as asked: there is nothing to explain */
        return;
    }
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

static const char *const level_names[] = LEVEL_NAMES;

static int
find_level(struct policy *p, struct err *err)
{
    size_t i = 0;

    while (p->level_name && i < countof(level_names) && strcmp(p->level_name, level_names[i]) != 0)
        i++;
    if (i == countof(level_names))
        return err_set(err, EINVAL, "there is no containment '%s'; there are full, landlock and none",
                       p->level_name);
    p->level = (enum containment)i;
    if (p->unconfined && strcmp(p->unconfined, "yes") != 0)
        return err_set(err, EINVAL, "--unconfined '%s' is not yes", p->unconfined);
    if (p->level == LEVEL_NONE && !p->unconfined)
        return err_set(err, EPERM, "containment none is no sandbox: cells could do all that you can, read your "
                                   "keys and end your processes; if that is meant, say '--unconfined yes' "
                                   "as well");
    if (p->level != LEVEL_NONE && p->unconfined)
        return err_set(err, EINVAL, "--unconfined contradicts containment %s", level_names[p->level]);
    return 0;
}

/* What is asked for and needs a mount or a name of the sandbox's own is refused, not left out. */
static int
judge_level(const struct policy *p, struct err *err)
{
    const char *name = level_names[p->level];

    if (p->level == LEVEL_FULL)
        return 0;
    if (!p->layers)
        return err_set(err, EINVAL, "containment %s needs a directory for layers", name);
    if (p->profile == PROFILE_IMAGE)
        return err_set(err, ENOTSUP, "--profile image: containment %s has no root file system of its own", name);
    if (p->allow.len)
        return err_set(err, ENOTSUP, "--network, --allow: containment %s has no network of its own%s", name,
                       p->level == LEVEL_NONE ? "" : ", and gives none");
    if (p->hostname)
        return err_set(err, ENOTSUP, "--hostname: containment %s has no host name of its own", name);
    if (p->tmp_size)
        return err_set(err, ENOTSUP, "--tmp-size: containment %s has no private directories in memory; --disk "
                                     "limits those on disk", name);
    for (size_t i = 0; i < p->nmounts; i++)
        if (strcmp(p->mounts[i].source, p->mounts[i].target) != 0)
            return err_set(err, ENOTSUP, "'%s' is not mounted at '%s': containment %s shows a directory at its "
                                         "own path only", p->mounts[i].source, p->mounts[i].target, name);
    return 0;
}

static int
find_profile(struct policy *p, struct err *err)
{
    static const char *const names[] = {[PROFILE_NOTEBOOK] = "notebook", [PROFILE_STRICT] = "strict",
                                        [PROFILE_IMAGE] = "image"};

    for (size_t i = 0; p->profile_name && i < countof(names); i++)
        if (strcmp(p->profile_name, names[i]) == 0) {
            p->profile = (enum profile)i;
            return 0;
        }
    return p->profile_name ? err_set(err, EINVAL, "there is no profile '%s'; there are notebook, strict and image",
                                     p->profile_name)
                           : 0;
}

/* Where husk unpacks images: beside the layers, and the only place of husk's that may be shown. */
static int
is_unpacked_image(const struct policy *p, const char *path)
{
    const char *slash = p->layers ? strrchr(p->layers, '/') : NULL;
    size_t len = slash ? (size_t)(slash - p->layers) : 0;

    return slash && strncmp(path, p->layers, len) == 0 && strncmp(path + len, "/images/", 8) == 0;
}

/* The image is shown whole, so nothing of the host's may be in it. */
static const char *
why_no_image(const struct policy *p, const char *image)
{
    if (p->hosthome && path_within(p->hosthome, image))
        return strcmp(p->hosthome, image) == 0 ? "it is your home directory"
                                               : "it contains your home directory";
    for (size_t i = 0; i < countof(system_directories); i++)
        if (path_within(system_directories[i], image))
            return "it is a directory of the system";
    for (size_t i = 0; i < countof(system_trees); i++)
        if (path_within(image, system_trees[i]))
            return "it belongs to the system";
    for (size_t i = 0; i < p->hide.len; i++)
        if (path_within(p->hide.item[i], image) ||
            (path_within(image, p->hide.item[i]) && !is_unpacked_image(p, image)))
            return "it holds state of husk or of kernels, which stays hidden";
    for (size_t i = 0; i < p->masks.len; i++)
        if (path_within(p->masks.item[i], image))
            return "the connection file lies there";
    return NULL;
}

static int
judge_image(const struct policy *p, struct err *err)
{
    const char *why;

    if (p->image && p->profile != PROFILE_IMAGE)
        return err_set(err, EINVAL, "an image needs profile image");
    if (p->profile != PROFILE_IMAGE)
        return 0;
    if (p->container)
        return 0;
    if (!p->image)
        return err_set(err, EINVAL, "profile image needs an image");
    if (!p->layers)
        return err_set(err, EINVAL, "profile image needs a directory for layers");
    why = why_no_image(p, p->image);
    return why ? err_set(err, EACCES, "'%s' is not used as an image: %s", p->image, why) : 0;
}

/* The directory that a mount stands for may not be one that the sandbox makes itself, nor what
 * holds the system. Below the home and the working directory anything may be. */
static const char *
why_no_target(const struct policy *p, const char *target)
{
    for (size_t i = 0; i < countof(system_trees); i++)
        if (path_within(target, system_trees[i]) || path_within(system_trees[i], target))
            return "the system stands there";
    if (path_within("/tmp", target) || path_within("/var/tmp", target))
        return "a private directory stands there";
    for (size_t i = 0; i < p->paths.len; i++)
        if (path_within(p->paths.item[i], target) && !is_forbidden(p, p->paths.item[i]))
            return "it would hide the Python that runs";
    if (path_within(p->home, target))
        return "the private home directory stands there";
    if (path_within(p->workdir, target))
        return "the working directory stands there";
    return NULL;
}

static const char *
why_no_source(const struct policy *p, const char *source, int writable)
{
    if (p->hosthome && path_within(p->hosthome, source))
        return strcmp(p->hosthome, source) == 0 ? "it is your home directory"
                                                : "it contains your home directory";
    for (size_t i = 0; i < countof(hidden_trees); i++)
        if (path_within(source, hidden_trees[i]) || path_within(hidden_trees[i], source))
            return "it shows processes, devices or sockets of the host";
    for (size_t i = 0; i < p->hide.len; i++)
        if (path_within(source, p->hide.item[i]) || path_within(p->hide.item[i], source))
            return "it holds state of husk or of kernels, which stays hidden";
    for (size_t i = 0; i < p->masks.len; i++)
        if (path_within(p->masks.item[i], source))
            return "the connection file lies there";
    for (size_t i = 0; writable && i < countof(system_directories); i++)
        if (path_within(system_directories[i], source))
            return "it is a directory of the system, and to be written";
    for (size_t i = 0; writable && i < countof(system_trees); i++)
        if (path_within(source, system_trees[i]))
            return "it belongs to the system, and is to be written";
    for (size_t i = 0; writable && i < p->own.len; i++)
        if (path_within(p->own.item[i], source))
            return "the Python itself lies there, and it is to be written";
    return NULL;
}

static int
judge_mounts(const struct policy *p, struct err *err)
{
    for (size_t i = 0; i < p->nmounts; i++) {
        const struct policy_mount *m = &p->mounts[i];
        const char *why = why_no_source(p, m->source, m->writable);
        if (why)
            return err_set(err, EACCES, "'%s' is not mounted: %s", m->source, why);
        why = why_no_target(p, m->target);
        if (why)
            return err_set(err, EEXIST, "nothing is mounted at '%s': %s", m->target, why);
        for (size_t k = 0; k < i; k++)
            if (strcmp(p->mounts[k].target, m->target) == 0)
                return err_set(err, EEXIST, "two mounts have the target '%s'", m->target);
    }
    return 0;
}

int
policy_look_at_mounts(const struct policy *p, struct err *err)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};

    for (size_t i = 0; i < p->nmounts; i++) {
        const char *source = p->mounts[i].source;
        scoped(fd_close) int fd = (int)syscall(SYS_openat2, AT_FDCWD, source, &how, sizeof how);
        struct stat st;

        if (fd < 0 && errno == ELOOP)
            return err_set(err, ELOOP, "'%s' is not mounted: a part of it is a symbolic link; "
                                       "name the place itself", source);
        if (fd < 0 || fstat(fd, &st) < 0)
            return err_errno(err, "mount '%s'", source);
        if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
            return err_set(err, EINVAL, "'%s' is not mounted: it is neither a directory nor a "
                                        "regular file", source);
    }
    return 0;
}

static int
check_image(const struct policy *p, int dir, struct err *err)
{
    struct stat st;

    if (fstat(dir, &st) < 0)
        return err_errno(err, "look at '%s'", p->image);
    if (faccessat(dir, "usr", F_OK, AT_SYMLINK_NOFOLLOW) < 0 &&
        faccessat(dir, "bin", F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set(err, EINVAL, "'%s' is not used as an image: it holds no root file system, neither "
                                    "'usr' nor 'bin'", p->image);
    if (st.st_uid != geteuid())
        return err_set(err, EPERM, "'%s' is not used as an image: it belongs to user %u, and husk runs "
                                   "as %u; make a copy of your own", p->image, st.st_uid, geteuid());
    return 0;
}

int
policy_look_at_image(const struct policy *p, struct err *err)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    scoped(fd_close) int fd = -1;

    if (!p->image)
        return 0;
    fd = (int)syscall(SYS_openat2, AT_FDCWD, p->image, &how, sizeof how);
    if (fd < 0 && errno == ELOOP)
        return err_set(err, ELOOP, "'%s' is not used as an image: a part of it is a symbolic link; "
                                   "name the place itself", p->image);
    if (fd < 0)
        return err_errno(err, "use '%s' as an image", p->image);
    return check_image(p, fd, err);
}

uid_t
policy_uid(const struct policy *p)
{
    return p->profile == PROFILE_IMAGE ? 0 : POLICY_UID;
}

int
policy_shares(const struct policy *p)
{
    int shares = !p->private_workdir;

    for (size_t i = 0; i < p->nmounts; i++)
        shares |= p->mounts[i].writable;
    return shares;
}

static int
judge_sizes(const struct policy *p, struct err *err)
{
    char size[24], memory[24];

    if (p->files < FILES_LEAST)
        return err_set(err, EINVAL, "--files %llu: a process needs %d at least", (unsigned long long)p->files, FILES_LEAST);
    if (p->tmp_size > p->memory)
        return err_set(err, EINVAL, "--tmp-size %s is more than --memory %s, which it counts in",
                       size_format(p->tmp_size, size), size_format(p->memory, memory));
    return 0;
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
    if (find_level(&p, err) < 0 || find_profile(&p, err) < 0 || judge_level(&p, err) < 0)
        return -1;
    if (!p.tmp_size)
        p.tmp_size = p.memory / 4;
    if (judge_sizes(&p, err) < 0)
        return -1;
    if (!p.hostname && !(p.hostname = strdup("husk")))
        return err_errno(err, "keep hostname");
    if (judge_image(&p, err) < 0)
        return -1;
    judge_workdir(&p);
    if (place_workdir(&p, err) < 0 || judge_mounts(&p, err) < 0)
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

    for (size_t i = 0; i < policy->nmounts; i++) {
        free(policy->mounts[i].source);
        free(policy->mounts[i].target);
    }
    free(policy->mounts);
    free(policy->id);
    free(policy->profile_name);
    free(policy->hostname);
    free(policy->layers);
    free(policy->image);
    free(policy->container);
    free(policy->pull);
    free(policy->runtime);
    free(policy->gpus);
    free(policy->root_layer);
    free(policy->home_layer);
    free(policy->tmp_layer);
    free(policy->level_name);
    free(policy->unconfined);
    free(policy->workdir);
    free(policy->state);
    free(policy->home);
    free(policy->hosthome);
    strv_release(&policy->paths);
    strv_release(&policy->hide);
    strv_release(&policy->guards);
    strv_release(&policy->masks);
    strv_release(&policy->own);
    strv_release(&policy->allow);
    rules_release(&policy->rules);
    free(policy->resolver);
    *policy = (struct policy){0};
    errno = saved;
}
