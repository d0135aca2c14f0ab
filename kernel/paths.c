/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/paths.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

static char program[PATH_MAX], broker[PATH_MAX], init[PATH_MAX], network[PATH_MAX], ports[PATH_MAX], scope[PATH_MAX],
    unpack[PATH_MAX], server[PATH_MAX], docker[PATH_MAX], kernel[PATH_MAX], launch[PATH_MAX],
    interpreter[PATH_MAX], glue[PATH_MAX], thaw[PATH_MAX], agent[PATH_MAX], probe[PATH_MAX], logos[PATH_MAX], home[PATH_MAX];

static int
place(char into[static PATH_MAX], const char *prefix, const char *rest, struct err *err)
{
    if (snprintf(into, PATH_MAX, "%s%s", prefix, rest) >= PATH_MAX)
        return err_set(err, ENAMETOOLONG, "husk is installed too deep: '%s'", prefix);
    return 0;
}

static void
find_home(void)
{
    const char *said = getenv("HOME");
    struct passwd *user;

    if (!said || *said != '/') {
        user = getpwuid(getuid());
        said = user ? user->pw_dir : "/";
    }
    if (!realpath(said, home))
        snprintf(home, sizeof home, "%s", said);
}

int
paths_find(struct err *err)
{
    char prefix[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    char *slash;

    if (len < 0)
        return err_errno(err, "find my own program");
    program[len] = 0;
    snprintf(prefix, sizeof prefix, "%s", program);
    /* PREFIX/bin/husk, or PREFIX/libexec/husk/husk-kernel */
    for (int up = strstr(prefix, "/libexec/husk/") ? -1 : 0; up < 2; up++) {
        slash = strrchr(prefix, '/');
        if (slash)
            *slash = 0;
    }
    if (strstr(program, "/libexec/husk/") && place(program, prefix, "/bin/husk", err) < 0)
        return -1;
    find_home();
    if (place(broker, prefix, "/libexec/husk/husk-sandbox", err) < 0 ||
        place(docker, prefix, "/libexec/husk/husk-docker", err) < 0 ||
        place(init, prefix, "/libexec/husk/husk-init", err) < 0 ||
        place(ports, prefix, "/libexec/husk/husk-ports", err) < 0 ||
        place(scope, prefix, "/libexec/husk/husk-scope", err) < 0 ||
        place(network, prefix, "/libexec/husk/husk-network", err) < 0 ||
        place(kernel, prefix, "/libexec/husk/husk-kernel", err) < 0 ||
        place(launch, prefix, "/libexec/husk/husk-launch", err) < 0 ||
        place(server, prefix, "/libexec/husk/husk-serve", err) < 0 ||
        place(unpack, prefix, "/libexec/husk/husk-unpack", err) < 0 ||
        place(interpreter, prefix, "/lib/husk/interpreter", err) < 0 ||
        place(agent, prefix, "/lib/husk/interpreter/husk-agent", err) < 0 ||
        place(thaw, prefix, "/lib/husk/interpreter/husk-thaw", err) < 0 ||
        place(glue, prefix, "/lib/husk/interpreter/husk_interpreter/__main__.py", err) < 0 ||
        place(probe, prefix, "/lib/husk/interpreter/probe.py", err) < 0 ||
        place(logos, prefix, "/share/husk/logos", err) < 0)
        return -1;
    return 0;
}

const char *
paths_program(void)
{
    return program;
}

const char *
paths_kernel(void)
{
    return kernel;
}

const char *
paths_launch(void)
{
    return launch;
}

const char *
paths_broker(void)
{
    return broker;
}

const char *
paths_docker(void)
{
    return docker;
}

const char *
paths_init(void)
{
    return init;
}

const char *
paths_network(void)
{
    return network;
}

const char *
paths_server(void)
{
    return server;
}

const char *
paths_ports(void)
{
    return ports;
}

const char *
paths_scope(void)
{
    return scope;
}

const char *
paths_unpack(void)
{
    return unpack;
}

const char *
paths_interpreter(void)
{
    return interpreter;
}

const char *
paths_agent(void)
{
    return agent;
}

const char *
paths_thaw(void)
{
    return thaw;
}

const char *
paths_glue(void)
{
    return glue;
}

const char *
paths_probe(void)
{
    return probe;
}

const char *
paths_logos(void)
{
    return logos;
}

const char *
paths_home(void)
{
    return home;
}

static int
make_directories(char *path, struct err *err)
{
    for (char *at = path + 1;; at++) {
        if (*at != '/' && *at != 0)
            continue;
        char kept = *at;
        *at = 0;
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
            return err_errno(err, "make '%s'", path);
        *at = kept;
        if (!kept)
            return 0;
    }
}

char *
paths_state(const char *name, struct err *err)
{
    const char *base = getenv("XDG_STATE_HOME");
    char *path = NULL;
    int len = base && *base == '/' ? asprintf(&path, "%s/husk/%s", base, name)
                                   : asprintf(&path, "%s/.local/state/husk/%s", home, name);

    if (len < 0) {
        err_errno(err, "name the state directory");
        return NULL;
    }
    if (make_directories(path, err) < 0) {
        free(path);
        return NULL;
    }
    return path;
}

/* Others may go through it, and nobody but root may have made it. */
static int
make_passage(const char *path, struct err *err)
{
    struct stat st;

    if (mkdir(path, 0711) < 0 && errno != EEXIST)
        return err_errno(err, "make '%s'", path);
    if (lstat(path, &st) < 0)
        return err_errno(err, "look at '%s'", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != 0 || (st.st_mode & 022))
        return err_set(err, EPERM, "'%s' is not a directory that only root can write", path);
    return (st.st_mode & 0777) != 0711 && chmod(path, 0711) < 0 ? err_errno(err, "open '%s'", path) : 0;
}

char *
paths_layers(const char *containment, struct err *err)
{
    char *path;

    if (geteuid() != 0 || strcmp(containment, "landlock") != 0)
        return paths_state("sandboxes", err);
    if (make_passage("/var/lib/husk", err) < 0 || make_passage("/var/lib/husk/sandboxes", err) < 0)
        return NULL;
    path = strdup("/var/lib/husk/sandboxes");
    if (!path)
        err_errno(err, "name the directory for layers");
    return path;
}
