/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/warm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/process.h"
#include "kernel/kernel.h"
#include "kernel/paths.h"
#include "kernel/stamp.h"
#include "wall/frozen.h"

#define NAME_BYTES 16

extern char **environ;

/*** Which file ***/

/* Variables that decide what is imported, or how. Others are an interpreter's own: it takes them when it is
 * thawed. Beginnings of names. */
static const char *const matters[] = {
    "PYTHON",  "LC_",  "LANG", "TZ",   "HOME=",    "PATH=",     "USER=",     "SHELL=", "TERM=", "VIRTUAL_ENV", "CONDA_",
    "JUPYTER", "IPY",  "MPL",  "OMP_", "OPENBLAS", "MKL_",      "NUMEXPR_",  "BLIS_",  "XDG_",  "LD_",         "GLIBC_",
    "MALLOC_", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "DEBUG"};

static int
does_matter(const char *variable)
{
    for (size_t i = 0; i < countof(matters); i++)
        if (strncmp(variable, matters[i], strlen(matters[i])) == 0)
            return 1;
    return 0;
}

static void
add_text(crypto_generichash_state *state, const char *text)
{
    crypto_generichash_update(state, (const unsigned char *)text, strlen(text) + 1);
}

static int
hash_all(struct kernel *k, char ret[static 2 * NAME_BYTES + 1], struct err *err)
{
    scoped(buf_release) struct buf boot = {0};
    scoped(strv_release) struct strv environment = {0};
    unsigned char hash[NAME_BYTES];
    crypto_generichash_state state;

    if (file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &boot) < 0 || !buf_string(&boot))
        return err_errno(err, "read the number of this boot");
    if (interp_environment(k, &environment) < 0)
        return err_errno(err, "look at the environment");
    crypto_generichash_init(&state, NULL, 0, sizeof hash);
    add_text(&state, HUSK_VERSION);
    add_text(&state, (const char *)boot.data);
    add_text(&state, k->python.executable);
    add_text(&state, paths_glue());
    for (size_t i = 0; i < environment.len; i++)
        if (does_matter(environment.item[i]))
            add_text(&state, environment.item[i]);
    for (size_t i = 0; i < k->options.preload.len; i++) {
        add_text(&state, "preload");
        add_text(&state, k->options.preload.item[i]);
    }
    crypto_generichash_final(&state, hash, sizeof hash);
    sodium_bin2hex(ret, 2 * NAME_BYTES + 1, hash, sizeof hash);
    return 0;
}

int
warm_name(struct kernel *k, char ret[static PATH_MAX], struct err *err)
{
    scoped(str_free) char *directory = paths_state("warm", err);
    char name[2 * NAME_BYTES + 1];
    struct stat st;

    if (!directory)
        return -1;
    if (lstat(directory, &st) < 0)
        return err_errno(err, "look at '%s'", directory);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        return err_set(err, EPERM, "'%s' is not a directory that only this user can write", directory);
    if (hash_all(k, name, err) < 0)
        return -1;
    if (snprintf(ret, PATH_MAX, "%s/%s", directory, name) >= PATH_MAX - 32)
        return err_set(err, ENAMETOOLONG, "'%s' is too long", directory);
    return 0;
}

/*** Whether it can be used ***/

static int
check_files(int fd, const struct stat *st, struct err *err)
{
    scoped(buf_release) struct buf list = {0};
    struct frozen_head head;
    size_t len;

    if (pread(fd, &head, sizeof head, 0) != (ssize_t)sizeof head || head.magic != FROZEN_MAGIC ||
        head.size > FROZEN_SIZE || (uint64_t)st->st_size <= head.size ||
        (len = (size_t)((uint64_t)st->st_size - head.size)) > WARM_LISTED || buf_reserve(&list, len + 1) < 0 ||
        pread(fd, list.data, len, (off_t)head.size) != (ssize_t)len)
        return err_set(err, EINVAL, "the frozen interpreter is damaged");
    list.data[len] = 0;
    return stamp_check_all((char *)list.data, err);
}

int
warm_open(const char *base, struct err *err)
{
    char path[PATH_MAX + 16];
    scoped(fd_close) int fd = -1;
    struct stat st;
    int r;

    snprintf(path, sizeof path, "%s.frozen", base);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return err_errno(err, "open '%s'", path);
    if (fstat(fd, &st) < 0)
        return err_errno(err, "look at '%s'", path);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        return err_set(err, EPERM, "'%s' is not a file that only this user can write", path);
    if (check_files(fd, &st, err) < 0)
        return -1;
    (void)futimens(fd, NULL); /* used: the others go first */
    r = fd;
    fd = -1; /* moved to the caller */
    return r;
}

/* Why it could not be made, if that was tried not long ago. */
static int
was_refused(const char *base, char *into, size_t size)
{
    scoped(buf_release) struct buf text = {0};
    char path[PATH_MAX + 16];
    struct stat st;
    time_t age;

    snprintf(path, sizeof path, "%s.refused", base);
    if (stat(path, &st) < 0)
        return 0;
    age = time(NULL) - st.st_mtime;
    if (age < 0 || age > WARM_RETRY_S || file_read(AT_FDCWD, path, ERR_TEXT - 64, &text) < 0 || !buf_string(&text))
        return 0;
    snprintf(into, size, "it cannot be frozen: %s", (char *)text.data);
    return 1;
}

/* Where nothing could be thawed, whatever there is. */
static const char *
never(const struct kernel *k)
{
    if (k->options.start && strcmp(k->options.start, "cold") == 0)
        return "--start cold";
    if (kernel_has_root(k))
        return "the Python of an image is known inside only";
    if (strcmp(kernel_containment(k), "full") != 0)
        return "without namespaces each sandbox has other directories";
    if (access(paths_thaw(), X_OK) < 0)
        return "husk was built for a machine where interpreters cannot be frozen";
    return NULL;
}

void
warm_look(struct kernel *k)
{
    struct warm *w = &k->warm;
    const char *reason = never(k);
    struct err err;

    if (reason) {
        snprintf(w->why, sizeof w->why, "%s", reason);
        return;
    }
    if (warm_name(k, w->base, &err) < 0) {
        *w->base = 0;
        snprintf(w->why, sizeof w->why, "%s", err.text);
        return;
    }
    *w->why = 0;
    w->file = warm_open(w->base, &err);
    if (w->file >= 0)
        return;
    if (was_refused(w->base, w->why, sizeof w->why))
        return;
    w->wanted = 1;
    snprintf(w->why, sizeof w->why, "%s", err.code == ENOENT ? "none was frozen yet: the next start is warm" : err.text);
}

/*** Starting from it ***/

unsigned
warm_prepare(struct kernel *k, struct strv *argv, int socket)
{
    struct warm *w = &k->warm;

    w->served = 0;
    w->give_up = 0;
    if (w->file < 0)
        return 0;
    if (fd_send(socket, w->file) < 0 || strv_add(argv, paths_thaw()) < 0) {
        snprintf(w->why, sizeof w->why, "the frozen interpreter cannot be passed on: %s", strerror(errno));
        fd_close(&w->file);
        return 0;
    }
    w->served = 1;
    w->give_up = now_ms() + WARM_START_MS;
    return BOX_NAMED;
}

int
warm_failed(struct kernel *k, const char *how)
{
    struct warm *w = &k->warm;
    char path[PATH_MAX + 16];

    if (!w->served)
        return 0;
    snprintf(w->why, sizeof w->why, "what was frozen does not start: %s", how);
    log_info("%s; a cold start", w->why);
    snprintf(path, sizeof path, "%s.frozen", w->base);
    (void)unlink(path); /* the next one may do better */
    fd_close(&w->file);
    w->served = 0;
    w->give_up = 0;
    w->wanted = 1;
    return 1;
}

/*** Making it ***/

/* Names have no "=" behind them, and the table may want one. */
static int
matters_to(const char *item)
{
    char named[256];

    snprintf(named, sizeof named, "%s%s", item, strchr(item, '=') ? "" : "=");
    return does_matter(named);
}

/* Ours, and in its place what the options say: values are on nobody's command line. */
static int
add_environment(const struct kernel *k, struct strv *ret)
{
    const struct strv *mine = &k->options.environment;
    int bad = 0;

    for (char **e = environ; !bad && *e; e++) {
        int replaced = 0;
        for (size_t i = 0; i < mine->len; i++) {
            size_t len = strcspn(mine->item[i], "=");
            replaced |= mine->item[i][len] && strncmp(*e, mine->item[i], len + 1) == 0;
        }
        bad = !replaced && strv_add(ret, *e) < 0;
    }
    for (size_t i = 0; !bad && i < mine->len; i++)
        if (strchr(mine->item[i], '=') && matters_to(mine->item[i]))
            bad = strv_add(ret, mine->item[i]) < 0;
    return bad ? -1 : 0;
}

static int
add_options(const struct kernel *k, struct strv *argv)
{
    int bad = strv_add(argv, paths_program()) < 0 || strv_add(argv, "warm") < 0 || strv_add(argv, "--quiet") < 0 ||
              strv_addf(argv, "--python=%s", k->python.executable) < 0;

    if (k->options.profile)
        bad = bad || strv_addf(argv, "--profile=%s", k->options.profile) < 0;
    for (size_t i = 0; !bad && i < k->options.environment.len; i++) {
        const char *item = k->options.environment.item[i];
        if (matters_to(item))
            bad = strv_addf(argv, "--env=%.*s", (int)strcspn(item, "="), item) < 0;
    }
    for (size_t i = 0; !bad && i < k->options.preload.len; i++)
        bad = strv_addf(argv, "--preload=%s", k->options.preload.item[i]) < 0;
    return bad ? -1 : 0;
}

void
warm_arrived(struct kernel *k)
{
    struct warm *w = &k->warm;
    scoped(strv_release) struct strv argv = {0}, environment = {0};
    struct err err; /* goes unsaid: the next start is a cold one, too, and says so */

    w->give_up = 0;
    if (!w->wanted || w->maker > 0 || add_options(k, &argv) < 0 || add_environment(k, &environment) < 0)
        return;
    w->wanted = 0;
    process_spawn(argv.item, environment.item, (struct process_fd[]){PROCESS_END}, PROCESS_OF_ITS_OWN,
                  &w->maker, &err);
}

void
warm_tick(struct kernel *k, int64_t now)
{
    struct warm *w = &k->warm;
    struct err err;

    if (w->maker > 0 && waitpid(w->maker, NULL, WNOHANG) == w->maker)
        w->maker = 0;
    if (!w->give_up || now < w->give_up)
        return;
    w->give_up = 0; /* its end is heard, and the next one is cold */
    if (box_signal(&k->box, k->interp.slot, SIGKILL, &err) < 0)
        log_warning("%s", err.text);
}

/* Who makes one goes on: it is of use to others. */
void
warm_release(struct kernel *k)
{
    fd_close(&k->warm.file);
}
