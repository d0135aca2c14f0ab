/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/python.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.h"
#include "kernel/recall.h"

#define PROBE_MS 10000
#define PROBE_BYTES (1 << 20)

extern char **environ;

/* A name without a slash is looked for on PATH, in absolute directories only: an empty or a
 * relative entry means the working directory, where a cell may have put a python3. */
static int
search_path(const char *name, char *into, size_t size)
{
    const char *at = getenv("PATH");

    while (at && *at) {
        size_t len = strcspn(at, ":");
        if (*at == '/' && snprintf(into, size, "%.*s/%s", (int)len, at, name) < (int)size &&
            access(into, X_OK) == 0)
            return 0;
        at += len + (at[len] == ':');
    }
    errno = ENOENT;
    return -1;
}

static int
find_candidate(const char *wanted, char *into, size_t size, struct err *err)
{
    const char *prefix = getenv("VIRTUAL_ENV");

    if (!wanted) {
        if (!prefix || !*prefix)
            prefix = getenv("CONDA_PREFIX");
        if (prefix && *prefix == '/' &&
            snprintf(into, size, "%s/bin/python", prefix) < (int)size && access(into, X_OK) == 0)
            return 0;
        wanted = "python3";
    }
    if (!strchr(wanted, '/'))
        return search_path(wanted, into, size) < 0 ? err_errno(err, "find Python '%s' on PATH", wanted) : 0;
    if (snprintf(into, size, "%s", wanted) >= (int)size)
        return err_set(err, ENAMETOOLONG, "the name of Python is too long");
    return 0;
}

static int
start_probe(const char *python, const char *probe, int out, int errors, pid_t *ret, struct err *err)
{
    char *const argv[] = {(char *)python, (char *)"-I", (char *)"-S", (char *)"-B", (char *)probe, NULL};
    const struct process_fd fds[] = {
        PROCESS_NO_INPUT, {.as = 1, .fd = out}, {.as = 2, .fd = errors}, PROCESS_END};

    return process_spawn(argv, environ, fds, PROCESS_OURS, ret, err);
}

/* The last line that a failing Python printed usually says why. */
static const char *
last_line(struct buf *text)
{
    char *line;

    while (text->len && text->data[text->len - 1] == '\n')
        text->len--;
    if (!text->len || !buf_string(text))
        return "it printed nothing";
    line = strrchr((char *)text->data, '\n');
    return line ? line + 1 : (char *)text->data;
}

static int
parse_answer(struct buf *text, struct python *ret)
{
    char *rest = (char *)buf_string(text), *line;

    if (!rest)
        return -1;
    while ((line = strsep(&rest, "\n"))) {
        char *value = strchr(line, '=');
        if (!value)
            continue;
        *value++ = 0;
        if (strcmp(line, "executable") == 0 && !ret->executable)
            ret->executable = strdup(value);
        else if (strcmp(line, "version") == 0 && !ret->version)
            ret->version = strdup(value);
        else if (strcmp(line, "debugger") == 0)
            ret->debugger = 1;
        else if (*value != '/')
            return -1;
        else if (strcmp(line, "path") == 0 && !strv_has(&ret->paths, value) &&
                 strv_add(&ret->paths, value) < 0)
            return -1;
        else if (strcmp(line, "own") == 0 && !strv_has(&ret->own, value) &&
                 strv_add(&ret->own, value) < 0)
            return -1;
    }
    return ret->executable && *ret->executable == '/' && ret->version ? 0 : -1;
}

int
python_find(const char *wanted, const char *probe, struct python *ret, struct err *err)
{
    scoped(python_release) struct python python = {0};
    scoped(buf_release) struct buf answer = {0}, said = {0};
    char name[4096];
    int out[2], status = 0, r, major = 0, minor = 0;
    pid_t pid;

    if (find_candidate(wanted, name, sizeof name, err) < 0)
        return -1;
    if (recall_load(name, &answer) == 0 && parse_answer(&answer, &python) == 0) {
        *ret = python;
        python = (struct python){0}; /* moved to the caller */
        return 0;
    }
    python_release(&python);
    answer.len = 0;
    if (pipe2(out, O_CLOEXEC) < 0)
        return err_errno(err, "make a pipe");
    if (start_probe(name, probe, out[1], out[1], &pid, err) < 0) {
        close(out[0]);
        close(out[1]);
        return -1;
    }
    close(out[1]);
    r = process_hear(out[0], PROBE_MS, PROBE_BYTES, &answer);
    close(out[0]);
    if (r < 0)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (r < 0)
        return err_set(err, ETIMEDOUT, "Python '%s' gave no answer in %d s", name, PROBE_MS / 1000);
    if (WIFSIGNALED(status))
        return err_set(err, ENOEXEC, "Python '%s' does not start: signal %d (%s) ended it", name,
                       WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) != 0)
        return err_set(err, ENOEXEC, "Python '%s' does not start: %s", name, last_line(&answer));
    if (buf_add(&said, answer.data, answer.len) < 0)
        return err_errno(err, "keep what Python '%s' said", name);
    if (parse_answer(&answer, &python) < 0)
        return err_set(err, ENOEXEC, "'%s' does not answer like a Python: %s", name,
                       last_line(&answer));
    if (sscanf(python.version, "%d.%d", &major, &minor) != 2 || major != 3 || minor < 9)
        return err_set(err, ENOTSUP, "'%s' is Python %s; husk needs 3.9 or newer", name,
                       python.version);
    recall_save(name, (struct bytes){said.data, said.len});
    *ret = python;
    python = (struct python){0}; /* moved to the caller */
    return 0;
}

void
python_release(struct python *p)
{
    free(p->executable);
    free(p->version);
    strv_release(&p->paths);
    strv_release(&p->own);
    *p = (struct python){0};
}
