/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-docker: the broker of a sandbox that is a container. The supervisor starts it in the place of
 * husk-sandbox and speaks the same sandbox.def with it; which of both it has it does not know. It asks
 * a container engine for the container (container.h), whose pid 1 is husk-init, and from then on does
 * what any broker does (sandbox/relay.h): husk-init has come to it over a socket in a directory that
 * both see, and descriptors are passed over that.
 *
 *     husk-docker INIT NETWORK PORTS SCOPE    as husk-sandbox
 *     husk-docker check                  says whether there is an engine: ok or note, what was found, what repairs it
 *     husk-docker sweep                  removes what brokers that were killed left; prints their ids
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "container/container.h"
#include "sandbox/landlock.h"
#include "sandbox/uplink.h"
#include "wall/sandbox.h"

#define END_MS 5000 /* pid 1 has so long when its socket closes; then the engine kills it */

static struct container container;

static int
list(struct relay *b, struct mount_view *view, struct err *err)
{
    if (view_make(&b->policy, view, err) < 0 || view_look(view, err) < 0)
        return -1;
    if (landlock_rules(&b->policy, view, &b->rules, &b->nrules) < 0)
        return err_errno(err, "list what may be reached");
    return relay_check_rules(b, err);
}

/* One for all that is seen: the owner of a shared directory; root in a system of its own. */
static int
choose_user(struct policy *p, struct err *err)
{
    struct stat st;

    if (p->profile == PROFILE_IMAGE)
        return 0; /* 0 and 0 */
    if (geteuid() == 0 && !p->private_workdir && stat(p->workdir, &st) == 0 && st.st_uid != 0) {
        p->uid = st.st_uid;
        p->gid = st.st_gid;
        return 0;
    }
    return build_choose_user(p, err);
}

static int
check(const struct policy *p, struct err *err)
{
    if (!p->container)
        return err_set(err, EINVAL, "no image was named");
    if (!p->layers)
        return err_set(err, EINVAL, "a container needs a directory for layers");
    if (p->pull && strcmp(p->pull, "missing") != 0 && strcmp(p->pull, "always") != 0 && strcmp(p->pull, "never") != 0)
        return err_set(err, EINVAL, "--pull '%s' is not one of missing, always, never", p->pull);
    if (p->profile == PROFILE_IMAGE && policy_shares(p))
        return err_set(err, EACCES, "--mount: in profile image a container runs as root, which must not write into "
                                    "directories of this machine");
    return 0;
}

static int
build(struct relay *b, const char *init, const char *network, const struct frame *f, struct build_failure *failure)
{
    scoped(view_release) struct mount_view view = {0};

    snprintf(failure->step, sizeof failure->step, "options");
    if (policy_read(f, &b->policy, &failure->err) < 0 || check(&b->policy, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "engine");
    if (engine_open(&container.engine, &failure->err) < 0)
        return -1;
    container.engine.stop = SANDBOX_FD;
    snprintf(failure->step, sizeof failure->step, "image");
    if (container_find_image(&container, &b->policy, &b->environment, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "mounts");
    if (policy_look_at_mounts(&b->policy, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "user");
    if (choose_user(&b->policy, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "layers");
    if (layers_make(&b->policy, &b->layers, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "mounts");
    if (list(b, &view, &failure->err) < 0)
        return -1;
    if (container_start(&container, &b->policy, &view, &b->layers, init, &b->sandbox, failure) < 0)
        return -1;
    if (rules_any(&b->policy.rules) &&
        (container_make_network(&container, &b->policy, &b->layers, &b->sandbox, failure) < 0 ||
         uplink_start(network, &b->policy, &b->sandbox, &b->uplink, failure) < 0))
        return -1;
    limits_adopt(&b->policy, b->sandbox.pid, &b->limits);
    return 0;
}

static int
run(struct relay *b, const char *init, const char *network, struct err *err)
{
    struct build_failure failure = {0};
    int64_t start = now_us();
    struct frame f;

    if (relay_hear_order(b, &f, err) < 0)
        return -1;
    if (build(b, init, network, &f, &failure) < 0) {
        if (failure.err.code == ECANCELED) /* nobody is there to be told */
            return err_set(err, 0, "%s", failure.err.text);
        if (relay_tell_failure(b, &failure, err) < 0)
            return -1;
        return err_set(err, ECANCELED, "the sandbox was not built");
    }
    b->sandbox.took = now_us() - start;
    if (relay_send_policy(b, err) < 0 || relay_tell_built(b, err) < 0)
        return -1;
    return relay_serve(b, err);
}

/*** What a broker of containers does in its own way ***/

/* Pid 1 ends with its socket, and with it every process; what hangs the engine kills. */
static void
end(struct relay *b)
{
    struct pollfd gone = {.fd = b->sandbox.pidfd, .events = POLLIN};

    fd_close(&b->sandbox.socket);
    if (gone.fd >= 0 && poll(&gone, 1, END_MS) == 0)
        container_remove(&container);
    fd_close(&b->sandbox.pidfd);
    b->sandbox = SANDBOX_EMPTY;
}

static void
remove_it(struct relay *b)
{
    container_remove(&container);
}

static void
sweep(const struct relay *b)
{
    struct engine engine;
    struct err err;

    if (engine_open(&engine, &err) < 0) /* of its own: this is another process */
        return;
    (void)container_sweep(&engine, NULL, &err);
    engine_close(&engine);
}

/* Beside the interpreter's parts, which are seen inside at their own place. */
static const char *
ports_inside(const struct relay *b)
{
    static char path[PATH_MAX];
    struct err ignored;

    return container_installed("lib/husk/interpreter/husk-ports", path, &ignored) < 0 ? "" : path;
}

static void
explain_end(const struct relay *b, struct err *err)
{
    container_explain_end(&container, err);
}

static const char *
advice(const struct relay *b, const char *step, int code)
{
    static const struct {
        const char *step;
        int code; /* 0: any */
        const char *text;
    } table[] = {
#define ADVICE(step, code, text) {#step, code, text},
#include "container/advice.def"
#undef ADVICE
    };

    for (size_t i = 0; i < countof(table); i++)
        if (strcmp(table[i].step, step) == 0 && (!table[i].code || table[i].code == code))
            return table[i].text;
    return "";
}

static int
sweep_by_hand(void)
{
    struct engine engine;
    struct err err;
    int r;

    log_open("husk-docker", LOG_WARNING);
    if (engine_open(&engine, &err) < 0)
        return 0; /* no engine, no container */
    r = container_sweep(&engine, stdout, &err);
    engine_close(&engine);
    if (r < 0)
        log_error("%s", err.text);
    return r < 0;
}

/* Three lines; the last may be empty. */
static int
check_by_hand(void)
{
    struct engine engine = ENGINE_EMPTY;
    struct err err = {0};
    json_auto_t *version = NULL;
    const char *api, *own;

    if (engine_open(&engine, &err) == 0)
        version = engine_call(&engine, "GET", "/version", NULL, &err);
    api = json_string_value(json_object_get(version, "ApiVersion"));
    own = json_string_value(json_object_get(version, "Version"));
    if (!version)
        printf("note\n%s\nfor --backend docker only: %s\n", err.text, advice(NULL, "engine", err.code));
    else
        printf("ok\n'%s', version %s, API %s\n\n", engine.socket, own ? own : "unknown", api ? api : "unknown");
    engine_close(&engine);
    return 0;
}

int
main(int argc, char **argv)
{
    static const struct relay_kind kind = {.program = "husk-docker", .end = end, .remove = remove_it, .sweep = sweep,
                                           .ports_inside = ports_inside, .advice = advice,
                                           .explain_end = explain_end};
    struct relay b;
    struct err err = {0};

    if (argc == 2 && strcmp(argv[1], "sweep") == 0)
        return sweep_by_hand();
    if (argc == 2 && strcmp(argv[1], "check") == 0)
        return check_by_hand();
    if (argc != 5 || relay_begin(&kind, &b) < 0) {
        fprintf(stderr, "husk-docker is started by husk and not by hand\n");
        return 100;
    }
    container = CONTAINER_EMPTY;
    b.ports_program = argv[3];
    return relay_end(&b, run(&b, argv[1], argv[2], &err), &err);
}
