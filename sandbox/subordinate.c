/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/subordinate.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

#define WANTED 65535 /* with the user itself as many as a uid of 16 bits */

/* A row "NAME:START:COUNT" of this user that is long enough. */
static int
find_row(const char *file, unsigned *first)
{
    scoped(buf_release) struct buf text = {0};
    struct passwd *p = getpwuid(geteuid());
    char *rest, *line, number[16];

    snprintf(number, sizeof number, "%u", (unsigned)geteuid());
    if (file_read(AT_FDCWD, file, 1 << 20, &text) < 0 || !buf_string(&text))
        return 0;
    rest = (char *)text.data;
    while ((line = strsep(&rest, "\n"))) {
        char *range = strchr(line, ':');
        unsigned count;
        if (!range || sscanf(range + 1, "%u:%u", first, &count) != 2 || count < WANTED)
            continue;
        *range = 0;
        if (strcmp(line, number) == 0 || (p && strcmp(line, p->pw_name) == 0))
            return 1;
    }
    return 0;
}

/* 0 if the helper did it. */
static int
run(const char *name, pid_t pid, unsigned root, unsigned first)
{
    static const char *const places[] = {"/usr/bin", "/usr/local/bin"};
    static char *const environment[] = {NULL};
    char process[16], own[16], from[16], count[16], path[64];
    char *const argv[] = {(char *)name, process, (char *)"0", own,   (char *)"1",
                          (char *)"1",  from,    count,       NULL};
    int status = -1, null;
    pid_t child;

    snprintf(process, sizeof process, "%d", (int)pid);
    snprintf(own, sizeof own, "%u", root);
    snprintf(from, sizeof from, "%u", first);
    snprintf(count, sizeof count, "%d", WANTED);
    child = fork();
    if (child == 0) {
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int fd = 0; fd < 3; fd++)
            dup2(null, fd);
        for (size_t i = 0; i < countof(places); i++) {
            snprintf(path, sizeof path, "%s/%s", places[i], name);
            execve(path, argv, environment);
        }
        _exit(127);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return status == 0 ? 0 : -1;
}

int
subordinate_map(const struct subordinate *ids, pid_t pid, struct err *err)
{
    if (run("newuidmap", pid, geteuid(), ids->uid) < 0)
        return err_set(err, EPERM, "newuidmap refused the users of /etc/subuid");
    if (run("newgidmap", pid, getegid(), ids->gid) < 0)
        return err_set(err, EPERM, "newgidmap refused the groups of /etc/subgid");
    return 0;
}

int
subordinate_enter(const struct subordinate *ids)
{
    pid_t me = getpid(), mapper;
    int gate[2], status = -1, r;
    struct err err;
    char end;

    if (!ids->count || pipe2(gate, O_CLOEXEC) < 0)
        return -1;
    /* Somebody who stays outside writes the maps. */
    mapper = fork();
    if (mapper == 0) {
        close(gate[1]);
        (void)!read(gate[0], &end, 1);
        _exit(subordinate_map(ids, me, &err) < 0);
    }
    close(gate[0]);
    r = mapper < 0 ? -1 : unshare(CLONE_NEWUSER);
    close(gate[1]);
    while (mapper > 0 && waitpid(mapper, &status, 0) < 0 && errno == EINTR)
        ;
    return r == 0 && status == 0 ? 0 : -1;
}

void
subordinate_find(struct subordinate *ret)
{
    struct subordinate ids = {.count = WANTED};
    int status = -1;
    pid_t child;

    *ret = (struct subordinate){0};
    if (!find_row("/etc/subuid", &ids.uid) || !find_row("/etc/subgid", &ids.gid))
        return;
    child = fork();
    if (child == 0)
        _exit(subordinate_enter(&ids) < 0);
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (status == 0)
        *ret = ids;
}
