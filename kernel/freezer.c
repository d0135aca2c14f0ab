/* SPDX-License-Identifier: BSD-3-Clause
 *
 * `husk warm`: freezes an interpreter (warm.h). In a sandbox that has no network, shares nothing and sees what
 * cells will see of the Python; what comes out of it is not trusted: bytes that are counted, put into a file, and tried
 * once in the same sandbox before anybody else may use them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "kernel/exits.h"
#include "kernel/intake.h"
#include "kernel/kernel.h"
#include "kernel/paths.h"

#define MAKE_MS 120000 /* with --preload much may be imported */
#define TRY_MS 20000
#define WORDS 8192 /* bytes kept of what it says */
#define FIRST_SLOT 1
#define TRIAL_SLOT 2

struct freezer {
    struct kernel *k;
    struct box box;
    char base[PATH_MAX], fresh[PATH_MAX + 32];
    int lock;
    int file;          /* that is written */
    struct intake intake;
    struct buf words;
};

static void
freezer_release(struct freezer *f)
{
    box_end(&f->box);
    fd_close(&f->file);
    fd_close(&f->lock);
    intake_release(&f->intake);
    buf_release(&f->words);
    if (*f->fresh)
        (void)unlink(f->fresh);
}

/*** What it says ***/

static void
hear(struct freezer *f, int fd)
{
    char text[1024];
    ssize_t n = read(fd, text, sizeof text);

    if (n > 0 && f->words.len + (size_t)n < WORDS)
        (void)buf_add(&f->words, text, (size_t)n);
}

static const char *
last_words(struct freezer *f)
{
    char *line;

    while (f->words.len && f->words.data[f->words.len - 1] == '\n')
        f->words.len--;
    if (!f->words.len || !buf_string(&f->words))
        return "it said nothing";
    line = strrchr((char *)f->words.data, '\n');
    return line ? line + 1 : (char *)f->words.data;
}

/*** The sandbox ***/

static int
ask_for_sandbox(struct freezer *f, struct err *err)
{
    struct kernel *k = f->k;
    scoped(strv_release) struct strv o = {0};
    scoped(str_free) char *state = paths_state("workspace", err);
    int bad;

    if (!state)
        return -1;
    bad = strv_addf(&o, "id=warm%d", (int)getpid()) < 0 || strv_add(&o, "profile=strict") < 0 ||
          strv_add(&o, "containment=full") < 0 || strv_add(&o, "workdir=/workspace") < 0 ||
          strv_addf(&o, "state=%s", state) < 0 ||
          strv_addf(&o, "home=%s", k->home) < 0 || strv_addf(&o, "hosthome=%s", paths_home()) < 0 ||
          strv_addf(&o, "memory=%llu", 4ull << 30) < 0 || strv_add(&o, "pids=256") < 0 ||
          strv_addf(&o, "tmp-size=%llu", 64ull << 20) < 0 || strv_addf(&o, "files=%llu", (unsigned long long)k->options.files) < 0 ||
          strv_addf(&o, "path=%s", paths_interpreter()) < 0;
    for (size_t i = 0; !bad && i < k->python.paths.len; i++)
        bad = strv_addf(&o, "path=%s", k->python.paths.item[i]) < 0;
    *strrchr(state, '/') = 0;
    bad = bad || strv_addf(&o, "hide=%s", state) < 0;
    return bad ? err_errno(err, "ask for the sandbox") : box_build(&f->box, &o, err);
}

/* 1: the event that is waited for, 0: another; -1. */
static int
take_event(struct freezer *f, int wanted, uint32_t slot, uint32_t *value, struct err *err)
{
    struct frame e;
    int r = box_event(&f->box, &e, err);

    if (r <= 0)
        return r;
    if (e.number == SANDBOX_FAILED)
        return err_set(err, (int)e.value, "step '%.*s': %.*s", (int)frame_part(&e, 0).len, frame_part(&e, 0).data,
                       (int)frame_part(&e, 1).len, frame_part(&e, 1).data);
    if (e.number != wanted || (wanted == SANDBOX_EXITED && e.slot != slot))
        return 0;
    *value = e.value;
    return 1;
}

/* Until the event has come; what is written meanwhile is taken, or nothing is if out is -1. */
static int
await(struct freezer *f, int wanted, uint32_t slot, int out, int words, int64_t end, uint32_t *value, struct err *err)
{
    static uint8_t piece[1 << 16];
    int open = out >= 0, seen = 0;

    while (!seen || open) {
        struct pollfd wait[] = {{.fd = seen ? -1 : f->box.socket, .events = POLLIN},
                                {.fd = open ? out : -1, .events = POLLIN},
                                {.fd = words, .events = POLLIN}};
        int64_t left = end - now_ms();
        ssize_t n;

        if (left <= 0)
            return err_set(err, ETIMEDOUT, "it takes too long");
        if (poll(wait, countof(wait), (int)left) < 0 && errno != EINTR)
            return err_errno(err, "wait");
        if (wait[2].revents & POLLIN)
            hear(f, words);
        if (wait[1].revents) {
            n = read(out, piece, sizeof piece);
            if (n > 0 && intake_take(&f->intake, piece, (size_t)n, err) < 0)
                return -1;
            open = n > 0;
        }
        if (wait[0].revents && (seen = take_event(f, wanted, slot, value, err)) < 0)
            return -1;
    }
    if (words >= 0 && poll(&(struct pollfd){.fd = words, .events = POLLIN}, 1, 0) > 0)
        hear(f, words);
    return 0;
}

/* Descriptor 3 is `to`, 1 and 2 are `words`. */
static int
spawn(struct freezer *f, uint32_t slot, unsigned how, const struct strv *argv, int to, int words, struct err *err)
{
    scoped(strv_release) struct strv environment = {0};
    scoped(fd_close) int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    int fds[SANDBOX_FDS] = {words, words, to};

    for (size_t i = 3; i < countof(fds); i++)
        fds[i] = nothing;
    if (nothing < 0 || interp_environment(f->k, &environment) < 0)
        return err_errno(err, "start the interpreter");
    return box_spawn(&f->box, slot, how, "/", argv, &environment, fds, err);
}

/*** The way there ***/

static int
lies_below(const char *path, const char *top)
{
    size_t len = strlen(top);

    return strncmp(path, top, len) == 0 && (path[len] == '/' || path[len] == 0 || (len > 0 && top[len - 1] == '/'));
}

/* Each start looks at the files of the list, so it names none but those that were shown: what else it says is left out. */
static int
keep_what_was_shown(struct freezer *f, struct err *err)
{
    const struct strv *shown = &f->k->python.paths;
    scoped(buf_release) struct buf kept = {0}, all = {0};
    char *rest, *line;

    if (buf_add(&all, f->intake.list.data, f->intake.list.len) < 0 || !buf_string(&all))
        return err_errno(err, "keep the list of files");
    rest = (char *)all.data;
    while ((line = strsep(&rest, "\n"))) {
        const char *path = strchr(line, '/');
        int good = path && !strstr(path, "/../") && lies_below(path, paths_interpreter());
        for (size_t i = 0; path && !strstr(path, "/../") && !good && i < shown->len; i++)
            good = lies_below(path, shown->item[i]);
        if (good && buf_printf(&kept, "%s\n", line) < 0)
            return err_errno(err, "keep the list of files");
    }
    f->intake.list.len = 0;
    return buf_add(&f->intake.list, kept.data, kept.len) < 0 ? err_errno(err, "keep the list of files") : 0;
}

static int
freeze(struct freezer *f, struct err *err)
{
    scoped(strv_release) struct strv argv = {0};
    scoped(fd_close) int out = -1, words = -1;
    int stream[2], said[2], r;
    uint32_t value = 0;

    if (pipe2(stream, O_CLOEXEC) < 0 || pipe2(said, O_CLOEXEC) < 0)
        return err_errno(err, "make a pipe");
    out = stream[0];
    words = said[0];
    r = strv_add(&argv, f->k->python.executable) < 0 || strv_add(&argv, paths_glue()) < 0 ||
                strv_add(&argv, "--freeze") < 0
            ? err_errno(err, "start the interpreter")
            : 0;
    for (size_t i = 0; r == 0 && i < f->k->options.preload.len; i++)
        r = strv_add(&argv, f->k->options.preload.item[i]) < 0 ? err_errno(err, "start the interpreter") : 0;
    if (r == 0)
        r = spawn(f, FIRST_SLOT, 0, &argv, stream[1], said[1], err);
    close(stream[1]);
    close(said[1]);
    if (r < 0 || await(f, SANDBOX_EXITED, FIRST_SLOT, out, words, now_ms() + MAKE_MS, &value, err) < 0)
        return -1;
    if (value != 0)
        return err_set(err, ENOTSUP, "%s", last_words(f));
    return keep_what_was_shown(f, err) < 0 ? -1 : intake_finish(&f->intake, err);
}

static int
try(struct freezer *f, struct err *err)
{
    scoped(strv_release) struct strv argv = {0};
    scoped(fd_close) int words = -1;
    struct warm *w = &f->k->warm;
    int pair[2], said[2], r;
    uint32_t value = 0;
    unsigned how;

    f->words.len = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 || pipe2(said, O_CLOEXEC) < 0)
        return err_errno(err, "make a socket");
    words = said[0];
    w->file = open(f->fresh, O_RDONLY | O_CLOEXEC);
    how = warm_prepare(f->k, &argv, pair[0]);
    r = !how || strv_add(&argv, f->k->python.executable) < 0 || strv_add(&argv, paths_glue()) < 0 ||
                strv_add(&argv, "--trial") < 0
            ? err_errno(err, "start the interpreter")
            : spawn(f, TRIAL_SLOT, how, &argv, pair[1], said[1], err);
    close(pair[0]);
    close(pair[1]);
    close(said[1]);
    if (r < 0 || await(f, SANDBOX_EXITED, TRIAL_SLOT, -1, words, now_ms() + TRY_MS, &value, err) < 0)
        return -1;
    return value == 0 ? 0 : err_set(err, ENOTSUP, "what was frozen does not start (status %x): %s", value, last_words(f));
}

static int
ends_with(const char *name, const char *end)
{
    size_t len = strlen(name);

    return len > strlen(end) && strcmp(name + len - strlen(end), end) == 0;
}

/* The one that was not used for longest, until there are few; and all else that is old. */
static void
tidy(const char *base)
{
    char directory[PATH_MAX];
    DIR *d;
    struct dirent *e;

    snprintf(directory, sizeof directory, "%s", base);
    *strrchr(directory, '/') = 0;
    for (;;) {
        char oldest[PATH_MAX] = "";
        struct timespec when = {0};
        struct stat st;
        size_t n = 0;

        d = opendir(directory);
        while (d && (e = readdir(d))) {
            if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
                continue;
            if (!ends_with(e->d_name, ".frozen")) {
                if (time(NULL) - st.st_mtime > 7 * 24 * 3600)
                    (void)unlinkat(dirfd(d), e->d_name, 0);
                continue;
            }
            n++;
            if (!*oldest || st.st_mtim.tv_sec < when.tv_sec) {
                snprintf(oldest, sizeof oldest, "%s", e->d_name);
                when = st.st_mtim;
            }
        }
        if (n > WARM_KEPT && d)
            (void)unlinkat(dirfd(d), oldest, 0);
        if (d)
            closedir(d);
        if (n <= WARM_KEPT)
            return;
    }
}

static int
make(struct freezer *f, struct err *err)
{
    char path[PATH_MAX + 32];
    uint32_t took;

    snprintf(f->fresh, sizeof f->fresh, "%s.fresh-%d", f->base, (int)getpid());
    f->file = open(f->fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (f->file < 0)
        return err_errno(err, "make '%s'", f->fresh);
    f->intake.file = f->file;
    if (box_start(paths_broker(), &f->box, err) < 0 || ask_for_sandbox(f, err) < 0 ||
        await(f, SANDBOX_BUILT, 0, -1, -1, now_ms() + TRY_MS, &took, err) < 0)
        return -1;
    if (freeze(f, err) < 0 || try(f, err) < 0)
        return -1;
    snprintf(path, sizeof path, "%s.frozen", f->base);
    if (rename(f->fresh, path) < 0)
        return err_errno(err, "rename '%s'", f->fresh);
    *f->fresh = 0;
    snprintf(path, sizeof path, "%s.refused", f->base);
    (void)unlink(path);
    return 0;
}

static void
note_refusal(const char *base, const struct err *why)
{
    char path[PATH_MAX + 16];
    scoped(fd_close) int fd = -1;

    snprintf(path, sizeof path, "%s.refused", base);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0)
        (void)!write(fd, why->text, strlen(why->text));
}

/* One at a time: who comes second finds what the first has made, or its reason. 1: another one is at it. */
static int
take_turn(struct freezer *f, int quiet, struct err *err)
{
    char path[PATH_MAX + 16];

    snprintf(path, sizeof path, "%s.lock", f->base);
    f->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (f->lock < 0)
        return err_errno(err, "open '%s'", path);
    if (flock(f->lock, LOCK_EX | (quiet ? LOCK_NB : 0)) < 0)
        return errno == EWOULDBLOCK ? 1 : err_errno(err, "lock '%s'", path);
    return 0;
}

static int
run(struct freezer *f, int quiet, struct err *err)
{
    struct kernel *k = f->k;
    scoped(fd_close) int there = -1;
    int r;

    if (sodium_init() < 0)
        return err_set(err, EIO, "libsodium does not start");
    if (k->options.image || strcmp(kernel_containment(k), "full") != 0 || access(paths_thaw(), X_OK) < 0)
        return err_set(err, ENOTSUP, "such kernels start cold: an image, another --containment than full, or a "
                                     "machine that is not x86-64");
    if (python_find(k->options.python, paths_probe(), &k->python, err) < 0 || kernel_find_directory(k, err) < 0 ||
        warm_name(k, f->base, err) < 0)
        return -1;
    r = take_turn(f, quiet, err);
    if (r != 0)
        return r < 0 ? -1 : 0;
    if ((there = warm_open(f->base, err)) >= 0)
        return 0;
    r = make(f, err);
    if (r < 0)
        note_refusal(f->base, err);
    tidy(f->base);
    return r;
}

static const char usage[] =
    "usage: husk warm [--python PATH] [--profile NAME] [--preload MODULE]... [--env K=V]...\n\n"
    "Freezes an interpreter that has imported what cells need, so that kernels of this Python start in\n"
    "milliseconds. Kernels do so by themselves after their first cold start. Options as of husk kernel.\n";

int
warm_command(int argc, char **argv)
{
    static struct kernel k;
    struct freezer f = {.k = &k, .box = BOX_EMPTY, .lock = -1, .file = -1};
    struct err err = {0};
    int quiet = argc > 0 && strcmp(argv[0], "--quiet") == 0, r;
    int64_t began = now_ms();

    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return EXIT_OK;
        }
    k.warm = WARM_EMPTY;
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error as any other */
    signal(SIGPIPE, SIG_IGN);
    if (options_read(argc - quiet, argv + quiet, 1, &k.options, &err) < 0) {
        log_error("%s", err.text);
        return EXIT_USAGE;
    }
    if (quiet)
        (void)setpriority(PRIO_PROCESS, 0, 10);
    r = run(&f, quiet, &err);
    if (r < 0 && !quiet)
        log_error("nothing was frozen: %s", err.text);
    if (r == 0 && !quiet)
        printf("frozen: kernels of '%s' start warm (%lld ms)\n", k.python.executable, (long long)(now_ms() - began));
    freezer_release(&f);
    warm_release(&k);
    python_release(&k.python);
    options_release(&k.options);
    return r < 0 ? EXIT_SYSTEM : EXIT_OK;
}
