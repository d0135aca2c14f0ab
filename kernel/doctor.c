/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/process.h"
#include "kernel/box.h"
#include "kernel/exits.h"
#include "kernel/paths.h"
#include "kernel/python.h"

#define ANSWER_MS 60000  /* the broker, and then Python in the sandbox, have so long */
#define VERSION_MAX 64   /* bytes of what Python prints: IPython's version */
#define PYTHON_SLOT 1
#define ENGINE_MS 10000 /* and so long has an engine of containers */
#define ENGINE_BYTES 4096
#define EXIT_NOT_HERE 1 /* a full sandbox cannot be built; the README says so */

extern char **environ;

struct doctor {
    int steps, json;      /* --steps, -o json */
    int ok;               /* a full sandbox can be built here */
    int landlock;         /* one with containment landlock can */
    char no_landlock[1024]; /* why not */
    struct box box;
    struct python python; /* executable NULL: none that can be used */
    struct err no_python;
    char *state;          /* what the throw-away sandbox gets as its working directory */
    int state_is_ours;    /* and it is removed */
    struct err no_state;
    json_t *checks;       /* array of {name, status, found, repair} */
    json_t *took;         /* array of {name, microseconds, meaning} */
};

static void
help(void)
{
    puts("usage: husk doctor [--steps] [-o text|json]\n"
         "\n"
         "Builds a sandbox, starts a process in it and takes it down. Says what this machine can do\n"
         "for husk, what is missing, and the command or file that repairs it.\n"
         "\n"
         "  --steps       also the steps of the build, and the microseconds that each took\n"
         "  -o text|json  the form of the output (default: text)\n"
         "\n"
         "Exit codes:\n"
         "   0  a full sandbox can be built here\n"
         "   1  it cannot\n"
         "  64  the command line is wrong");
}

static int
read_arguments(int argc, char **argv, struct doctor *d, struct err *err)
{
    for (int i = 0; i < argc; i++) {
        const char *form = NULL;
        if (strcmp(argv[i], "--steps") == 0) {
            d->steps = 1;
            continue;
        }
        if (strcmp(argv[i], "-o") != 0)
            return err_set(err, EINVAL, "there is no option '%s'", argv[i]);
        if (++i < argc)
            form = argv[i];
        if (!form || (strcmp(form, "text") != 0 && strcmp(form, "json") != 0))
            return err_set(err, EINVAL, "-o wants text or json%s%s%s", form ? ", not '" : "",
                           form ? form : "", form ? "'" : "");
        d->json = strcmp(form, "json") == 0;
    }
    return 0;
}

/*** Findings ***/

/* Any bytes as text that can be shown: control characters are replaced, but for the ends of lines
 * where there may be some; and what is not ASCII, if it is not UTF-8. */
static json_t *
make_text(struct bytes raw, int lines)
{
    scoped(buf_release) struct buf plain = {0};
    json_t *text;

    if (buf_add(&plain, raw.data, raw.len) < 0 || !buf_string(&plain))
        return NULL;
    for (size_t i = 0; i < plain.len; i++)
        if ((plain.data[i] < 0x20 && !(lines && plain.data[i] == '\n')) || plain.data[i] == 0x7f)
            plain.data[i] = '?';
    text = json_stringn((const char *)plain.data, plain.len);
    if (text)
        return text;
    for (size_t i = 0; i < plain.len; i++)
        if (plain.data[i] & 0x80)
            plain.data[i] = '?';
    return json_stringn((const char *)plain.data, plain.len);
}

static int
add_check(struct doctor *d, struct bytes name, struct bytes status, struct bytes found,
          struct bytes repair)
{
    while (repair.len && repair.data[repair.len - 1] == '\n')
        repair.len--;
    return json_array_append_new(
        d->checks, json_pack("{s:o, s:o, s:o, s:o}", "name", make_text(name, 0), "status",
                             make_text(status, 0), "found", make_text(found, 0), "repair",
                             make_text(repair, 1)));
}

static int
add_own(struct doctor *d, const char *name, const char *status, const char *found,
        const char *repair)
{
    return add_check(d, bytes_of(name), bytes_of(status), bytes_of(found), bytes_of(repair));
}

/* One line "name TAB microseconds TAB meaning". */
static int
add_step(struct doctor *d, char *line)
{
    char *rest = line, *name = strsep(&rest, "\t"), *number = strsep(&rest, "\t"), *end = NULL;
    long long us = number ? strtoll(number, &end, 10) : -1;

    if (us < 0 || !rest || end == number || *end)
        return -1;
    return json_array_append_new(
        d->took, json_pack("{s:o, s:I, s:o}", "name", make_text(bytes_of(name), 0),
                           "microseconds", (json_int_t)us, "meaning",
                           make_text(bytes_of(rest), 0)));
}

static int
is_status(struct bytes status)
{
    return bytes_equal(status, "ok") || bytes_equal(status, "missing") ||
           bytes_equal(status, "note");
}

static int
take_report(struct doctor *d, const struct frame *f, struct err *err)
{
    scoped(buf_release) struct buf lines = {0};
    struct bytes part[4], steps;
    size_t at = 0, n = 0;
    char *rest, *line;

    frame_next(f, &at, &steps);
    if (buf_add(&lines, steps.data, steps.len) < 0 || !buf_string(&lines))
        return err_errno(err, "read the report");
    rest = (char *)lines.data;
    while ((line = strsep(&rest, "\n")))
        if (*line && add_step(d, line) < 0)
            return err_set(err, EPROTO, "REPORT with a step that is none");
    while (frame_next(f, &at, &part[n])) {
        if (++n < countof(part))
            continue;
        if (!is_status(part[1]))
            return err_set(err, EPROTO, "REPORT with a status that is none");
        if (add_check(d, part[0], part[1], part[2], part[3]) < 0)
            return err_set(err, ENOMEM, "read the report");
        n = 0;
    }
    if (n)
        return err_set(err, EPROTO, "REPORT with a check that is cut off");
    d->ok = f->value == 1;
    return 0;
}

/*** The throw-away sandbox ***/

static int
await(struct box *box, int64_t end, struct frame *ret, struct err *err)
{
    struct pollfd p = {.fd = box->socket, .events = POLLIN};
    int r;

    while ((r = box_event(box, ret, err)) == 0) {
        int64_t left = end - now_ms();
        if (left <= 0)
            return err_set(err, ETIMEDOUT, "no answer in %d s", ANSWER_MS / 1000);
        poll(&p, 1, (int)left);
    }
    return r < 0 ? -1 : 0;
}

/* Husk's own state directory stands in for a working directory, as it does for a kernel that is
 * started in a home directory: so no directory of the user's is shown to what runs here. */
static int
find_state(struct doctor *d, struct err *err)
{
    char temporary[] = "/tmp/husk-doctor-XXXXXX";

    d->state = paths_state("workspace", &d->no_state);
    if (d->state)
        return 0;
    if (!mkdtemp(temporary))
        return err_errno(err, "make a directory below '/tmp'");
    d->state = strdup(temporary);
    d->state_is_ours = 1;
    return d->state ? 0 : err_errno(err, "make a directory below '/tmp'");
}

static int
add_options(const struct doctor *d, struct strv *o)
{
    int bad = strv_add(o, "id=doctor") < 0 || strv_addf(o, "workdir=%s", d->state) < 0 ||
              strv_addf(o, "state=%s", d->state) < 0 || strv_addf(o, "hide=%s", d->state) < 0 ||
              strv_addf(o, "home=%s", paths_home()) < 0 ||
              strv_addf(o, "hosthome=%s", paths_home()) < 0 || strv_add(o, "memory=2g") < 0 ||
              strv_addf(o, "path=%s", paths_interpreter()) < 0;

    for (size_t i = 0; !bad && i < d->python.paths.len; i++)
        bad = strv_addf(o, "path=%s", d->python.paths.item[i]) < 0;
    return bad ? -1 : 0;
}

static int
await_report(struct doctor *d, struct box *box, const struct strv *options, struct frame *ret,
             struct err *err)
{
    if (box_start(paths_broker(), box, err) < 0 || box_check(box, options, err) < 0 ||
        await(box, now_ms() + ANSWER_MS, ret, err) < 0)
        return -1;
    if (ret->number != SANDBOX_REPORT)
        return err_set(err, EPROTO, "the broker did not answer with a report");
    return 0;
}

static int
check_sandbox(struct doctor *d, struct err *err)
{
    scoped(strv_release) struct strv o = {0};
    struct frame report;

    if (add_options(d, &o) < 0)
        return err_errno(err, "ask for a sandbox");
    if (await_report(d, &d->box, &o, &report, err) < 0)
        return -1;
    return take_report(d, &report, err);
}

/* What the report of the second sandbox says that is missing. */
static void
find_reason(struct doctor *d, const struct frame *report)
{
    struct bytes part[4];
    size_t at = 0, n = 0;

    frame_next(report, &at, &part[0]); /* the steps */
    while (frame_next(report, &at, &part[n])) {
        if (++n < countof(part))
            continue;
        n = 0;
        if ((bytes_equal(part[0], "sandbox") || bytes_equal(part[0], "process")) &&
            bytes_equal(part[1], "missing"))
            snprintf(d->no_landlock, sizeof d->no_landlock, "%.*s", (int)part[2].len, part[2].data);
    }
}

/* The next rung, found out in the same way: by a throw-away sandbox. It needs a directory on disk. */
static int
check_landlock(struct doctor *d, struct err *err)
{
    scoped(strv_release) struct strv o = {0};
    scoped(box_end) struct box box = BOX_EMPTY;
    struct err no_layers = {0};
    scoped(str_free) char *layers = paths_layers("landlock", &no_layers);
    struct frame report;

    if (!layers) {
        snprintf(d->no_landlock, sizeof d->no_landlock, "%s", no_layers.text);
        return 0;
    }
    if (add_options(d, &o) < 0 || strv_add(&o, "containment=landlock") < 0 ||
        strv_addf(&o, "layers=%s", layers) < 0)
        return err_errno(err, "ask for a sandbox");
    if (await_report(d, &box, &o, &report, err) < 0)
        return -1;
    d->landlock = report.value == 1;
    find_reason(d, &report);
    return 0;
}

#define NO_SANDBOX "; none is no sandbox, and had with --unconfined yes only"

static int
check_containment(struct doctor *d)
{
    char found[1200];

    if (d->ok && d->landlock)
        return add_own(d, "containment", "ok", "full; also landlock" NO_SANDBOX, "");
    snprintf(found, sizeof found, "%s; not landlock: %s" NO_SANDBOX,
             d->ok ? "full" : "none of the levels", d->no_landlock);
    if (!d->ok && d->landlock)
        return add_own(d, "containment", "note", "landlock; not full" NO_SANDBOX,
                       "husk install --containment landlock   (weaker: SECURITY.md says how much)");
    return add_own(d, "containment", d->ok ? "ok" : "note", found, "");
}

/*** Python, in the sandbox ***/

static const char ask_for_ipython[] =
    "try:\n"
    "    from IPython import __version__\n"
    "except ImportError:\n"
    "    __version__ = '-'\n"
    "print(__version__, end='', flush=True)";

/* What Python prints is not trusted: it ran code of packages. */
static int
is_version(const char *text)
{
    return *text && strlen(text) == strspn(text, "0123456789abcdefghijklmnopqrstuvwxyz.+-");
}

static int
start_python(struct doctor *d, int out, struct err *err)
{
    scoped(strv_release) struct strv argv = {0}, environment = {0};
    scoped(fd_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    const char *base = getenv("PYTHONUSERBASE"), *path = getenv("PYTHONPATH");
    int fds[SANDBOX_FDS] = {out};
    int bad = strv_add(&argv, d->python.executable) < 0 || strv_add(&argv, "-c") < 0 ||
              strv_add(&argv, ask_for_ipython) < 0 ||
              strv_addf(&environment, "HOME=%s", paths_home()) < 0 ||
              strv_add(&environment, "PYTHONDONTWRITEBYTECODE=1") < 0;

    if (base)
        bad = bad || strv_addf(&environment, "PYTHONUSERBASE=%s", base) < 0;
    if (path)
        bad = bad || strv_addf(&environment, "PYTHONPATH=%s", path) < 0;
    if (bad || null < 0)
        return err_errno(err, "ask Python");
    for (size_t i = 1; i < countof(fds); i++)
        fds[i] = null;
    return box_spawn(&d->box, PYTHON_SLOT, 0, "/", &argv, &environment, fds, err);
}

/* Runs it in the sandbox, never outside: packages are not to be trusted with more. Returns 0
 * with what it printed. */
static int
ask_python(struct doctor *d, char into[static VERSION_MAX], struct err *err)
{
    scoped(fd_close) int in = -1;
    int64_t end = now_ms() + ANSWER_MS;
    struct frame f;
    ssize_t n;
    int pipes[2], r;

    if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK) < 0)
        return err_errno(err, "make a pipe");
    in = pipes[0];
    r = start_python(d, pipes[1], err);
    close(pipes[1]);
    if (r < 0 || await(&d->box, end, &f, err) < 0)
        return -1;
    if (f.number != SANDBOX_SPAWNED) {
        struct bytes why = frame_part(&f, 1);
        return err_set(err, ENOEXEC, "%.*s", (int)why.len, why.data);
    }
    if (await(&d->box, end, &f, err) < 0)
        return -1;
    /* It has ended, and a pipe holds more than this. */
    n = read(in, into, VERSION_MAX - 1);
    into[n > 0 && n < VERSION_MAX - 1 ? n : 0] = 0;
    if (f.number == SANDBOX_EXITED && f.value == 0 && is_version(into))
        return 0;
    return err_set(err, ENOEXEC, "it does not work in the sandbox: it ended with %s %d",
                   WIFSIGNALED(f.value) ? "signal" : "status",
                   WIFSIGNALED(f.value) ? WTERMSIG(f.value) : WEXITSTATUS(f.value));
}

static int
check_python(struct doctor *d)
{
    char found[PATH_MAX + 256], repair[PATH_MAX + 64], version[VERSION_MAX];
    const char *python = d->python.executable;
    struct err err = {0};
    const char *status = "ok";

    if (!python)
        return add_own(d, "python", "missing", d->no_python.text,
                       "sudo apt install python3, or activate a virtual environment, or say "
                       "--python PATH to husk install");
    *repair = 0;
    if (!d->ok) {
        status = "note";
        snprintf(found, sizeof found, "Python %s, '%s'; IPython: not tried, there is no sandbox",
                 d->python.version, python);
    } else if (ask_python(d, version, &err) < 0) {
        status = "missing";
        snprintf(found, sizeof found, "Python %s, '%s': %s", d->python.version, python, err.text);
        snprintf(repair, sizeof repair, "'%s' -c 'import IPython' says more", python);
    } else if (strcmp(version, "-") == 0) {
        status = "note";
        snprintf(found, sizeof found, "Python %s, '%s'; without IPython: cells run in a plain mode",
                 d->python.version, python);
        snprintf(repair, sizeof repair, "'%s' -m pip install ipython", python);
    } else {
        snprintf(found, sizeof found, "Python %s, '%s'; IPython %s", d->python.version, python,
                 version);
    }
    return add_own(d, "python", status, found, repair);
}

/*** What is on disk ***/

static int
check_state(struct doctor *d)
{
    if (d->state_is_ours)
        return add_own(d, "state", "missing", d->no_state.text,
                       "export XDG_STATE_HOME=DIR   (a directory that you can write to)");
    return add_own(d, "state", "ok", d->state, "");
}

/* The names of kernelspecs below `directory` whose program is a husk. */
static void
find_specs(const char *directory, const char *below, struct buf *names, struct buf *broken)
{
    char pattern[PATH_MAX];
    glob_t found;

    if (snprintf(pattern, sizeof pattern, "%s%s/kernels/*/kernel.json", directory, below) >=
            (int)sizeof pattern || glob(pattern, 0, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        json_auto_t *spec = json_load_file(found.gl_pathv[i], 0, NULL);
        const char *program = json_string_value(json_array_get(json_object_get(spec, "argv"), 0));
        const char *name = program ? strrchr(program, '/') : NULL;
        if (!program || strcmp(name ? name + 1 : program, "husk") != 0)
            continue;
        if (*program == '/' && access(program, X_OK) < 0)
            (void)buf_printf(broken, "%s'%s'", broken->len ? ", " : "", found.gl_pathv[i]);
        else
            (void)buf_printf(names, "%s'%s'", names->len ? ", " : "", found.gl_pathv[i]);
    }
    globfree(&found);
}

/* Where Jupyter looks (jupyter_core.paths). */
static int
check_kernelspecs(struct doctor *d)
{
    const char *data = getenv("JUPYTER_DATA_DIR"), *xdg = getenv("XDG_DATA_HOME");
    const char *venv = getenv("VIRTUAL_ENV"), *conda = getenv("CONDA_PREFIX");
    scoped(buf_release) struct buf names = {0}, broken = {0}, text = {0};

    if (data && *data)
        find_specs(data, "", &names, &broken);
    else if (xdg && *xdg)
        find_specs(xdg, "/jupyter", &names, &broken);
    else
        find_specs(paths_home(), "/.local/share/jupyter", &names, &broken);
    if (venv && *venv)
        find_specs(venv, "/share/jupyter", &names, &broken);
    if (conda && *conda)
        find_specs(conda, "/share/jupyter", &names, &broken);
    find_specs("/usr/local", "/share/jupyter", &names, &broken);
    find_specs("/usr", "/share/jupyter", &names, &broken);
    if (!names.len && !broken.len)
        return add_own(d, "kernelspec", "note", "none installed: Jupyter does not know husk",
                       "husk install --user");
    if (buf_printf(&text, "%.*s%s%.*s%s", (int)names.len, names.len ? (char *)names.data : "",
                   names.len && broken.len ? "; " : "", (int)broken.len,
                   broken.len ? (char *)broken.data : "",
                   broken.len ? ": its program is not there" : "") < 0 || !buf_string(&text))
        return -1;
    return add_own(d, "kernelspec", broken.len ? "note" : "ok", buf_string(&text),
                   broken.len ? "husk install --user" : "");
}

/*** The container engine ***/

/* husk-docker prints three lines. Somebody else's program may answer at that socket, so they are but text. */
static int
check_engine(struct doctor *d)
{
    char *const argv[] = {(char *)paths_docker(), (char *)"check", NULL};
    scoped(buf_release) struct buf answer = {0};
    char *line[3] = {"note", "husk-docker does not answer", ""}, *rest;
    struct err err;
    pid_t pid = 0;
    int out[2];

    if (pipe2(out, O_CLOEXEC) < 0)
        return -1;
    const struct process_fd fds[] = {PROCESS_NO_INPUT, {.as = 1, .fd = out[1]}, PROCESS_END};
    if (process_spawn(argv, environ, fds, PROCESS_OURS, &pid, &err) < 0)
        line[1] = err.text;
    close(out[1]);
    if (pid > 0 && process_hear(out[0], ENGINE_MS, ENGINE_BYTES, &answer) == 0 && (rest = (char *)buf_string(&answer)))
        for (size_t i = 0; i < countof(line) && rest && *rest; i++)
            line[i] = strsep(&rest, "\n");
    close(out[0]);
    pid_end(&pid);
    return add_own(d, "container-engine", strcmp(line[0], "ok") == 0 ? "ok" : "note", line[1], line[2]);
}

/*** Showing ***/

/* With the steps in any case: a program takes what it wants. */
static int
show_json(const struct doctor *d)
{
    json_auto_t *all = json_pack("{s:b, s:s, s:O, s:O}", "ok", d->ok, "version", HUSK_VERSION,
                                 "checks", d->checks, "steps", d->took);

    if (!all || json_dumpf(all, stdout, JSON_INDENT(1) | JSON_ENSURE_ASCII) < 0)
        return -1;
    return putchar('\n') == EOF ? -1 : 0;
}

static const char *
member(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static void
show_text(const struct doctor *d)
{
    const json_t *row;
    size_t i, missing = 0;

    json_array_foreach(d->checks, i, row) {
        scoped(str_free) char *repair = strdup(member(row, "repair"));
        char *rest = repair, *line;
        printf("%-8s %-26s %s\n", member(row, "status"), member(row, "name"), member(row, "found"));
        while (repair && *repair && (line = strsep(&rest, "\n")))
            printf("%*s%s\n", 9, "", line);
        missing += strcmp(member(row, "status"), "missing") == 0;
    }
    if (d->steps)
        printf("\n%-18s %8s  %s\n", "step", "us", "meaning");
    json_array_foreach(d->took, i, row) {
        if (d->steps)
            printf("%-18s %8lld  %s\n", member(row, "name"),
                   (long long)json_integer_value(json_object_get(row, "microseconds")),
                   member(row, "meaning"));
    }
    if (d->steps)
        putchar('\n');
    if (!d->ok && d->landlock)
        puts("A full sandbox cannot be built here; --containment landlock can.");
    else if (!d->ok)
        puts("A full sandbox cannot be built here: husk runs no kernel until what is missing is "
             "repaired.");
    else if (missing)
        puts("A full sandbox can be built here, but something else is missing.");
    else
        puts("A full sandbox can be built here.");
}

/*** All of it ***/

static int
examine(struct doctor *d, struct err *err)
{
    d->checks = json_array();
    d->took = json_array();
    if (!d->checks || !d->took)
        return err_set(err, ENOMEM, "begin");
    signal(SIGPIPE, SIG_IGN);
    (void)python_find(NULL, paths_probe(), &d->python, &d->no_python);
    if (find_state(d, err) < 0 || check_sandbox(d, err) < 0 || check_landlock(d, err) < 0)
        return -1;
    if (check_containment(d) < 0 || check_python(d) < 0 || check_state(d) < 0 || check_kernelspecs(d) < 0 || check_engine(d) < 0)
        return err_set(err, ENOMEM, "write the report");
    d->ok = d->ok && !d->state_is_ours;
    return 0;
}

static void
release(struct doctor *d)
{
    box_end(&d->box);
    if (d->state_is_ours && d->state)
        rmdir(d->state);
    free(d->state);
    python_release(&d->python);
    json_decref(d->checks);
    json_decref(d->took);
}

int
doctor_command(int argc, char **argv)
{
    struct doctor d = {.box = BOX_EMPTY};
    struct err err = {0};
    int r;

    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            help();
            return EXIT_OK;
        }
    if (read_arguments(argc, argv, &d, &err) < 0) {
        log_error("%s", err.text);
        return EXIT_USAGE;
    }
    r = examine(&d, &err);
    if (r == 0 && d.json)
        r = show_json(&d);
    else if (r == 0)
        show_text(&d);
    if (r == 0 && fflush(stdout) == EOF)
        r = err_errno(&err, "write");
    if (r < 0)
        log_error("%s", *err.text ? err.text : "write: failed");
    release(&d);
    return r < 0 ? EXIT_SYSTEM : d.ok ? EXIT_OK : EXIT_NOT_HERE;
}
