/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/image.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "base/process.h"
#include "kernel/paths.h"

extern char **environ;

/*** An archive ***/

static int
start_unpack(const char *path, const char *images, int out, pid_t *ret, struct err *err)
{
    char *const argv[] = {(char *)paths_unpack(), (char *)path, (char *)images, NULL};
    const struct process_fd fds[] = {PROCESS_NO_INPUT, {.as = 1, .fd = out}, PROCESS_END};

    return process_spawn(argv, environ, fds, PROCESS_OURS, ret, err);
}

/* One line: "=NAME", the directory below `images`, or what was wrong. */
static int
read_answer(int fd, const char *images, char **ret, struct err *err)
{
    char answer[1024];
    size_t len = 0;
    ssize_t n;

    while (len < sizeof answer - 1 && (n = read(fd, answer + len, sizeof answer - 1 - len)) != 0)
        if (n > 0)
            len += (size_t)n;
        else if (errno != EINTR)
            return err_errno(err, "hear from '%s'", paths_unpack());
    answer[len] = 0;
    answer[strcspn(answer, "\n")] = 0;
    if (*answer != '=')
        return err_set(err, EINVAL, "%s", *answer ? answer : "the image could not be unpacked");
    return asprintf(ret, "%s/%s", images, answer + 1) < 0 ? err_errno(err, "name the image") : 0;
}

static int
unpack(const char *path, char **ret, struct err *err)
{
    scoped(str_free) char *images = paths_state("images", err);
    int out[2], r;
    pid_t pid;

    if (!images)
        return -1;
    if (pipe2(out, O_CLOEXEC) < 0)
        return err_errno(err, "make a pipe");
    r = start_unpack(path, images, out[1], &pid, err);
    fd_close(&out[1]);
    if (r == 0) {
        r = read_answer(out[0], images, ret, err);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    fd_close(&out[0]);
    return r;
}

int
image_find(const char *path, char **ret, struct err *err)
{
    scoped(fd_close) int fd = open(path, O_PATH | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, "find the image '%s'", path);
    if (S_ISREG(st.st_mode) || (S_ISDIR(st.st_mode) && faccessat(fd, "oci-layout", F_OK, 0) == 0))
        return unpack(path, ret, err);
    if (!S_ISDIR(st.st_mode))
        return err_set(err, EINVAL, "the image '%s' is neither a directory nor a file", path);
    *ret = strdup(path);
    return *ret ? 0 : err_errno(err, "keep --image");
}

/*** Its Python ***/

/* Links are followed as they are inside. */
static int
is_program(int root, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    scoped(fd_close) int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111);
}

int
image_python(const char *root, const char *wanted, char **ret, struct err *err)
{
    static const char *const directories[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin",
                                              "/usr/bin", "/sbin", "/bin"};
    scoped(fd_close) int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    const char *name = wanted ? wanted : "python3";
    char path[PATH_MAX];

    if (fd < 0)
        return err_errno(err, "open the image '%s'", root);
    if (strchr(name, '/')) {
        if (*name != '/' || !is_program(fd, name))
            return err_set(err, ENOENT, "the image has no program '%s'; --python names one by its "
                                        "path inside", name);
        *ret = strdup(name);
        return *ret ? 0 : err_errno(err, "keep --python");
    }
    for (size_t i = 0; i < countof(directories); i++)
        if (snprintf(path, sizeof path, "%s/%s", directories[i], name) < (int)sizeof path &&
            is_program(fd, path)) {
            *ret = strdup(path);
            return *ret ? 0 : err_errno(err, "keep '%s'", path);
        }
    return err_set(err, ENOENT, "the image has no %s in /usr/local/bin, /usr/bin or /bin; install "
                                "one into it, or name another by --python", name);
}
