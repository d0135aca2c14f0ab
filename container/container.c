/* SPDX-License-Identifier: BSD-3-Clause */
#include "container/container.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "wall/sandbox.h"

#define CONNECT_MS 30000 /* from a started container to its husk-init: the machine may be busy */
#define LOOK_MS 250      /* between two looks whether it still runs */
#define REMOVE_MS 10000
#define PROFILE_MAX (1 << 20)
#define MOUNTS_MAX 256
#define ENVIRONMENT_MAX 5000 /* bytes: BUILT has no room for more */

/*** The image ***/

struct pull {
    const char *image;
    char last[80];
};

/* One line of progress: what is under way is told once, not for each percent. */
static int
hear_pull(void *arg, json_t *line, struct err *err)
{
    struct pull *p = arg;
    const char *failed = json_string_value(json_object_get(line, "error"));
    const char *status = json_string_value(json_object_get(line, "status"));
    const char *layer = json_string_value(json_object_get(line, "id"));
    char text[80];

    if (failed)
        return err_set(err, strstr(failed, "no space left on device") ? ENOSPC : EIO,
                       "pull image '%s': %s", p->image, failed);
    snprintf(text, sizeof text, "%s%s%s", layer ? layer : "", layer ? ": " : "", status ? status : "");
    if (status && strcmp(text, p->last) != 0)
        fprintf(stderr, "husk: %s: %s\n", p->image, text);
    snprintf(p->last, sizeof p->last, "%s", text);
    return 0;
}

/* "debian" is not all of its tags: the engine would pull each. */
static int
has_tag(const char *image)
{
    const char *slash = strrchr(image, '/'), *name = slash ? slash + 1 : image;

    return strchr(name, ':') || strchr(name, '@');
}

static int
pull(struct container *c, const char *image, struct err *err)
{
    scoped(buf_release) struct buf path = {0};
    struct pull p = {.image = image};

    if (buf_text(&path, "/images/create?fromImage=") < 0 || engine_escape(&path, image) < 0 ||
        (!has_tag(image) && buf_text(&path, "&tag=latest") < 0))
        return err_errno(err, "pull image '%s'", image);
    fprintf(stderr, "husk: the image '%s' is being pulled\n", image);
    if (engine_stream(&c->engine, "POST", buf_string(&path), hear_pull, &p, err) == 0)
        return 0;
    return err->code == ENOENT ? err_set(err, ENOENT, "there is no image '%s', neither here nor where the engine "
                                                      "pulls from: %.200s", image, err->text)
                               : -1;
}

static json_t *
inspect_image(struct container *c, const char *image, struct err *err)
{
    scoped(buf_release) struct buf path = {0};

    if (buf_text(&path, "/images/") < 0 || engine_escape(&path, image) < 0 || buf_text(&path, "/json") < 0) {
        err_errno(err, "look at image '%s'", image);
        return NULL;
    }
    return engine_call(&c->engine, "GET", buf_string(&path), NULL, err);
}

static int
take_environment(json_t *image, const char *name, struct buf *ret, struct err *err)
{
    json_t *all = json_object_get(json_object_get(image, "Config"), "Env"), *one;
    size_t i;

    json_array_foreach(all, i, one) {
        const char *text = json_string_value(one);
        if (text && buf_add(ret, text, strlen(text) + 1) < 0)
            return err_errno(err, "keep the environment of image '%s'", name);
    }
    return ret->len > ENVIRONMENT_MAX
               ? err_set(err, E2BIG, "the environment of image '%s' is longer than %d bytes", name, ENVIRONMENT_MAX)
               : 0;
}

int
container_find_image(struct container *c, const struct policy *p, struct buf *environment, struct err *err)
{
    const char *how = p->pull ? p->pull : "missing";
    json_t *image = NULL;
    int r;

    if (strcmp(how, "always") == 0) {
        if (pull(c, p->container, err) < 0)
            return -1;
    } else if (!(image = inspect_image(c, p->container, err))) {
        if (err->code != ENOENT)
            return -1;
        if (strcmp(how, "never") == 0)
            return err_set(err, ENOENT, "the container engine has no image '%s'", p->container);
        if (pull(c, p->container, err) < 0)
            return -1;
    }
    if (!image && !(image = inspect_image(c, p->container, err)))
        return -1;
    r = take_environment(image, p->container, environment, err);
    json_decref(image);
    return r;
}

/*** The socket ***/

/* Named by a descriptor: the path of a layer may be longer than that of a socket. The directory is made
 * with the first one. */
static int
listen_in(const struct layers *layers, const char *name, int *ret, struct err *err)
{
    scoped(fd_close) int dir = -1;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (fd < 0 || (mkdirat(layers->lock, SPEC_SOCKET, 0755) < 0 && errno != EEXIST) ||
        (dir = openat(layers->lock, SPEC_SOCKET, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 || fchmod(dir, 0755) < 0) {
        err_errno(err, "make a socket for the container");
        fd_close(&fd);
        return -1;
    }
    snprintf(at.sun_path, sizeof at.sun_path, "/proc/self/fd/%d/%s", dir, name);
    /* Whoever the container's user is; nobody else comes through the directories above. */
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || fchmodat(dir, name, 0666, 0) < 0 ||
        listen(fd, 1) < 0) {
        err_errno(err, "make a socket for the container");
        fd_close(&fd);
        return -1;
    }
    *ret = fd;
    return 0;
}

/* Nothing else ever connects: the name goes as soon as the one is there. */
static void
hang_up(struct container *c, const struct layers *layers, const char *name)
{
    char path[64];

    snprintf(path, sizeof path, SPEC_SOCKET "/%s", name);
    unlinkat(layers->lock, path, 0);
    fd_close(&c->listener);
}

static void
name_directory(const struct policy *policy, const struct layers *layers, char into[static 4200])
{
    snprintf(into, 4200, "%s/%s/" SPEC_SOCKET, policy->layers, layers->name);
}

/*** Making ***/

int
container_installed(const char *name, char into[static PATH_MAX], struct err *err)
{
    ssize_t len = readlink("/proc/self/exe", into, PATH_MAX - 1);

    into[len > 0 ? len : 0] = 0;
    for (int up = 0; up < 3 && strrchr(into, '/'); up++) /* PREFIX/libexec/husk/husk-docker */
        *strrchr(into, '/') = 0;
    if (strlen(into) + strlen(name) + 2 > PATH_MAX)
        return err_set(err, ENAMETOOLONG, "husk is installed too deep");
    strcat(strcat(into, "/"), name);
    return 0;
}

static int
read_profile(struct buf *ret, struct err *err)
{
    char path[PATH_MAX];

    if (container_installed("share/husk/seccomp.json", path, err) < 0)
        return -1;
    return file_read(AT_FDCWD, path, PROFILE_MAX, ret) < 0 || !buf_string(ret) ? err_errno(err, "read '%s'", path) : 0;
}

/* When a process began, of /proc/PID/stat: with its number that names it, until the machine stops. */
static int
describe_owner(pid_t pid, char *into, size_t size)
{
    scoped(buf_release) struct buf text = {0};
    char path[40], start[24];
    const char *at;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (file_read(AT_FDCWD, path, 4096, &text) < 0 || !buf_string(&text) ||
        !(at = strrchr((const char *)text.data, ')')) ||
        sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %23s", start) != 1)
        return -1;
    snprintf(into, size, "%d %s", (int)pid, start);
    return 0;
}

/* `body` is what spec_make() gave, or NULL with err set; `name` tells those of one sandbox apart. */
static int
create(struct container *c, const struct policy *policy, const char *name, json_t *body, struct err *err)
{
    json_auto_t *owned = body;
    json_auto_t *answer = NULL;
    scoped(buf_release) struct buf path = {0};
    const char *id;

    if (!owned)
        return -1;
    if (buf_printf(&path, "/containers/create?name=husk-%s%s-%d", policy->id, name, (int)getpid()) < 0)
        return err_errno(err, "name the container");
    answer = engine_call(&c->engine, "POST", buf_string(&path), body, err);
    if (!answer)
        return -1;
    id = json_string_value(json_object_get(answer, "Id"));
    if (!id || strlen(id) >= sizeof c->id || strspn(id, "0123456789abcdef") != strlen(id))
        return err_set(err, EPROTO, "the container engine names the container in a way that husk does not know");
    strcpy(c->id, id);
    return 0;
}

static json_t *
ask(struct container *c, const char *method, const char *format, struct err *err)
{
    scoped(buf_release) struct buf path = {0};

    if (buf_printf(&path, "/containers/%s%s", c->id, format) < 0) {
        err_errno(err, "ask for the container");
        return NULL;
    }
    return engine_call(&c->engine, method, buf_string(&path), NULL, err);
}

/* Why it is not there any more, if the engine still knows. */
static int
look_whether_it_runs(struct container *c, struct err *err)
{
    struct err why;
    json_auto_t *answer = ask(c, "GET", "/json", &why);
    json_t *state = json_object_get(answer, "State");
    const char *said = json_string_value(json_object_get(state, "Error"));

    if (!answer && why.code != ENOENT)
        return err_set(err, why.code, "%s", why.text);
    if (answer && json_is_true(json_object_get(state, "Running")))
        return 0;
    return err_set(err, ECHILD, "the container ended before it was heard%s%s", said && *said ? ": " : "",
                   said ? said : "");
}

static int
await_caller(struct container *c, struct err *err)
{
    int64_t end = now_ms() + CONNECT_MS;

    for (;;) {
        struct pollfd p[] = {{.fd = c->listener, .events = POLLIN}, {.fd = c->engine.stop}};
        int n = poll(p, countof(p), LOOK_MS);
        if (p[1].revents & (POLLHUP | POLLERR))
            return err_set(err, ECANCELED, "the supervisor is gone");
        if (n > 0 && (p[0].revents & POLLIN))
            return 0;
        if (n == 0 && look_whether_it_runs(c, err) < 0)
            return -1;
        if (now_ms() > end)
            return err_set(err, ETIMEDOUT, "nobody in the container finds the socket of husk");
    }
}

static int
meet(struct container *c, struct sandbox *s, struct err *err)
{
    struct ucred peer;
    socklen_t len = sizeof peer;

    s->socket = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);
    if (s->socket < 0 || getsockopt(s->socket, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return err_errno(err, "meet husk-init");
    if (peer.pid <= 0)
        return err_set(err, ESRCH, "the processes of the container cannot be seen from here");
    s->pid = peer.pid;
    s->pidfd = (int)syscall(SYS_pidfd_open, s->pid, 0);
    return s->pidfd < 0 ? err_errno(err, "watch husk-init") : 0;
}

static int
compare_mounts(const struct mount_view *view, struct sandbox *s, struct err *err)
{
    scoped(buf_release) struct buf all = {0}, packet = {0};
    struct bytes parts[MOUNTS_MAX];
    int fds[SANDBOX_FDS], r;
    size_t n = 0, start[MOUNTS_MAX + 1];
    struct frame f;

    for (size_t i = 0; i < view->len; i++) {
        const struct mount_entry *e = &view->entry[i];
        uint8_t head[16];
        struct stat st;
        if (e->tree < 0)
            continue;
        if (n == countof(parts))
            return err_set(err, E2BIG, "more than %d directories and files are mounted", MOUNTS_MAX);
        if (fstat(e->tree, &st) < 0)
            return err_errno(err, "look at '%s'", e->source);
        put64(head, st.st_dev);
        put64(head + 8, st.st_ino);
        start[n++] = all.len;
        if (buf_add(&all, head, sizeof head) < 0 || buf_text(&all, e->target) < 0)
            return err_errno(err, "compare the mounts");
    }
    start[n] = all.len;
    for (size_t i = 0; i < n; i++)
        parts[i] = (struct bytes){all.data + start[i], start[i + 1] - start[i]};
    if (packet_send(s->socket, (struct frame){.number = SANDBOX_MOUNTS}, parts, n, NULL, 0, err) < 0)
        return -1;
    r = packet_recv(s->socket, &packet, SANDBOX_BY_INIT, SANDBOX_NEW, &f, fds, err);
    if (r == 1 && f.number == SANDBOX_ALIVE)
        return 0;
    if (r == 1)
        return err_set(err, (int)f.value, "%.*s", (int)frame_part(&f, 1).len, frame_part(&f, 1).data);
    return r < 0 ? -1 : err_set(err, ECHILD, "husk-init ended at once");
}

static int
fail(struct build_failure *failure, const char *step)
{
    snprintf(failure->step, sizeof failure->step, "%s", step);
    return -1;
}

int
container_start(struct container *c, const struct policy *policy, struct mount_view *view,
                const struct layers *layers, const char *init, struct sandbox *ret,
                struct build_failure *failure)
{
    scoped(buf_release) struct buf profile = {0};
    char directory[4200];
    struct spec spec = {.policy = policy, .view = view, .init = init, .directory = directory, .owner = c->owner};
    struct err *err = &failure->err;
    json_t *answer;

    if (read_profile(&profile, err) < 0)
        return fail(failure, "seccomp");
    if (listen_in(layers, SPEC_SOCKET, &c->listener, err) < 0)
        return fail(failure, "socket");
    spec.profile = buf_string(&profile);
    name_directory(policy, layers, directory);
    if (describe_owner(getpid(), c->owner, sizeof c->owner) < 0)
        return err_errno(err, "look at my own process"), fail(failure, "container");
    if (create(c, policy, "", spec_make(&spec, err), err) < 0)
        return fail(failure, "container");
    answer = ask(c, "POST", "/start", err);
    json_decref(answer);
    if (!answer)
        return fail(failure, "start");
    if (await_caller(c, err) < 0 || meet(c, ret, err) < 0)
        return fail(failure, "init");
    hang_up(c, layers, SPEC_SOCKET);
    return compare_mounts(view, ret, err) < 0 ? fail(failure, "mounts") : 0;
}

/*** The network ***/

/* Sockets wait in `from`, or the text of an error. */
static int
await_sockets(struct container *c, int from, struct err *err)
{
    struct pollfd p[] = {{.fd = from, .events = POLLIN}, {.fd = c->engine.stop}};
    char text[ERR_TEXT];
    ssize_t n;

    if (poll(p, countof(p), CONNECT_MS) <= 0)
        return err_set(err, ETIMEDOUT, "husk-loopback says nothing");
    if (p[1].revents & (POLLHUP | POLLERR))
        return err_set(err, ECANCELED, "the supervisor is gone");
    n = recv(from, text, sizeof text - 1, MSG_PEEK | MSG_DONTWAIT);
    if (n <= 0)
        return err_set(err, ECHILD, "husk-loopback ended at once");
    text[n] = 0;
    return n == 1 ? 0 : err_set(err, EPERM, "%s", text);
}

int
container_make_network(struct container *cells, const struct policy *policy, const struct layers *layers,
                       struct sandbox *sandbox, struct build_failure *failure)
{
    char directory[4200], program[PATH_MAX];
    const struct spec spec = {.policy = policy, .directory = directory, .owner = cells->owner};
    struct container c = *cells; /* another one of the same engine */
    struct err *err = &failure->err;
    json_t *answer = NULL;
    int r = -1;

    fail(failure, "network");
    name_directory(policy, layers, directory);
    if (container_installed("libexec/husk/husk-loopback", program, err) < 0 ||
        listen_in(layers, SPEC_NETWORK, &c.listener, err) < 0)
        return -1;
    if (create(&c, policy, "-network", spec_make_network(&spec, program, cells->id, err), err) == 0 &&
        (answer = ask(&c, "POST", "/start", err)) && await_caller(&c, err) == 0) {
        fd_close(&sandbox->sockets);
        sandbox->sockets = accept4(c.listener, NULL, NULL, SOCK_CLOEXEC);
        r = sandbox->sockets < 0 ? err_errno(err, "meet husk-loopback") : await_sockets(&c, sandbox->sockets, err);
    }
    json_decref(answer);
    hang_up(&c, layers, SPEC_NETWORK);
    return r;
}

/*** The end ***/

void
container_explain_end(struct container *c, struct err *err)
{
    struct err why;
    json_auto_t *answer = *c->id ? ask(c, "GET", "/json", &why) : NULL;
    json_t *state = json_object_get(answer, "State");

    if (answer && json_is_true(json_object_get(state, "OOMKilled")))
        err_set(err, ECHILD, "the memory limit of the container was reached, and nothing was left of it");
    else if (answer || why.code == ENOENT)
        err_set(err, ECHILD, "the container was ended from outside (by docker kill or rm, or by a restart of the "
                             "engine)");
    else if (*c->id)
        err_set(err, ECHILD, "the container ended with the container engine: %.300s", why.text);
}

void
container_remove(struct container *c)
{
    int64_t end = now_ms() + REMOVE_MS;
    struct err err = {0};

    c->engine.stop = -1;
    if (*c->id)
        json_decref(ask(c, "DELETE", "?force=1&v=1", &err));
    /* It removes itself, too: whoever comes second is told so, and it is waited for. */
    while (*c->id && now_ms() < end) {
        json_t *answer = ask(c, "GET", "/json", &err);
        json_decref(answer);
        if (!answer)
            break;
        poll(NULL, 0, 20);
    }
    if (*c->id && err.code && err.code != ENOENT)
        log_warning("the container %.12s may be left: %s; husk rm --all removes it", c->id, err.text);
    *c->id = 0;
    fd_close(&c->listener);
    engine_close(&c->engine);
}

static int
is_owned(const char *label)
{
    int pid = label ? atoi(label) : 0;
    char now[48];

    return pid > 0 && describe_owner(pid, now, sizeof now) == 0 && strcmp(now, label) == 0;
}

int
container_sweep(struct engine *engine, FILE *tell, struct err *err)
{
    scoped(buf_release) struct buf path = {0};
    struct container c = {.engine = *engine, .listener = -1};
    json_auto_t *all = NULL;
    json_t *one;
    size_t i;

    /* {"label":["org.husk.user=UID"]} */
    if (buf_printf(&path, "/containers/json?all=1&filters=%%7B%%22label%%22%%3A%%5B%%22" SPEC_LABEL_USER
                          "%%3D%u%%22%%5D%%7D", (unsigned)geteuid()) < 0)
        return err_errno(err, "list the containers");
    all = engine_call(engine, "GET", buf_string(&path), NULL, err);
    if (!all)
        return -1;
    json_array_foreach(all, i, one) {
        const char *id = json_string_value(json_object_get(one, "Id"));
        json_t *labels = json_object_get(one, "Labels");
        const char *owner = json_string_value(json_object_get(labels, SPEC_LABEL_OWNER));
        const char *name = json_string_value(json_object_get(labels, SPEC_LABEL_ID));
        if (!id || strlen(id) >= sizeof c.id || is_owned(owner))
            continue;
        strcpy(c.id, id);
        json_decref(ask(&c, "DELETE", "?force=1&v=1", err));
        if (tell)
            fprintf(tell, "%s\n", name ? name : id);
    }
    return 0;
}
