/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-sandbox: the broker. The supervisor starts one for each sandbox, before it has any
 * thread, and speaks sandbox.def with it over descriptor 3. It builds the sandbox, passes
 * orders to its pid 1 and what comes back, with the cause of a death added, and takes
 * everything down when the supervisor's end of the socket closes, however that came about.
 *
 * It holds no key and knows nothing of Jupyter.
 */
#include <errno.h>
#include <stdio.h>

#include "sandbox/advice.h"
#include "sandbox/doctor.h"
#include "sandbox/grants.h"
#include "sandbox/landlock.h"
#include "sandbox/relay.h"
#include "wall/sandbox.h"

struct broker {
    struct relay relay;
    struct build_times times;
};

/* Before the build: what cannot be listed ends it. */
static int
list_rules(struct relay *b, struct err *err)
{
    scoped(view_release) struct mount_view view = {0};

    if (b->policy.level == LEVEL_NONE)
        return 0;
    if (b->policy.level == LEVEL_LANDLOCK) {
        if (grants_make(&b->policy, &b->rules, &b->nrules, &b->partly, err) < 0)
            return -1;
    } else if (view_make(&b->policy, &view, err) < 0) {
        return -1;
    } else if (landlock_rules(&b->policy, &view, &b->rules, &b->nrules) < 0) {
        return err_errno(err, "list what may be reached");
    }
    return relay_check_rules(b, err);
}

static int
build(struct broker *broker, char **programs, const struct frame *f, struct build_failure *failure)
{
    scoped(fd_close) int program = -1;
    struct relay *b = &broker->relay;

    snprintf(failure->step, sizeof failure->step, "options");
    if (policy_read(f, &b->policy, &failure->err) < 0)
        return -1;
    if (b->policy.container)
        return err_set(&failure->err, ENOTSUP, "a container is not made here");
    snprintf(failure->step, sizeof failure->step, "init");
    if ((program = build_init_program(programs[0], &failure->err)) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "mounts");
    if (policy_look_at_mounts(&b->policy, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "image");
    if (policy_look_at_image(&b->policy, &failure->err) < 0)
        return -1;
    /* In a shared directory they would own files that the user cannot remove. */
    if (b->policy.image && !build_is_privileged() && !policy_shares(&b->policy))
        subordinate_find(&b->policy.subordinate);
    b->pretends = b->policy.image && !build_is_privileged() && !b->policy.subordinate.count;
    snprintf(failure->step, sizeof failure->step, "user");
    if (build_choose_user(&b->policy, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "layers");
    if (layers_make(&b->policy, &b->layers, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "landlock");
    if (list_rules(b, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "limits");
    if (limits_make(&b->policy, programs[3], &b->limits, &failure->err) < 0)
        return -1;
    if (build_sandbox(&b->policy, &b->limits, program, &broker->times, &b->sandbox, failure) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "limits");
    if (memory_start(&b->policy, &b->limits, &b->sandbox, &b->memory, &failure->err) < 0)
        return -1;
    if (rules_any(&b->policy.rules) &&
        uplink_start(programs[1], &b->policy, &b->sandbox, &b->uplink, failure) < 0)
        return -1;
    fd_close(&b->sandbox.sockets);
    return 0;
}

/* The answer to CHECK. A sandbox that could be built stays, and takes orders as any other. */
static int
report(struct broker *b, struct checkup *checkup, struct err *err)
{
    scoped(doctor_release) struct report r = {0};

    if (checkup->built)
        doctor_try_process(b->relay.sandbox.socket, checkup);
    if (doctor_report(checkup, &b->relay.limits, &b->times, &r) < 0)
        return err_errno(err, "write the report");
    return packet_send(SANDBOX_FD,
                       (struct frame){.number = SANDBOX_REPORT, .value = (uint32_t)checkup->usable},
                       r.part, r.nparts, NULL, 0, err);
}

static int
answer(struct broker *b, char **programs, const struct frame *f, struct err *err)
{
    struct checkup checkup = {0};
    int check = f->number == SANDBOX_CHECK, r;

    checkup.built = build(b, programs, f, &checkup.failure) == 0;
    checkup.level = b->relay.policy.level;
    if (checkup.built && relay_send_policy(&b->relay, err) < 0)
        return -1;
    if (check)
        r = report(b, &checkup, err);
    else
        r = checkup.built ? relay_tell_built(&b->relay, err)
                          : relay_tell_failure(&b->relay, &checkup.failure, err);
    if (r == 0 && !checkup.built)
        r = err_set(err, ECANCELED, "the sandbox was not built");
    return r;
}

static int
run(struct broker *b, char **programs, struct err *err)
{
    struct frame f;

    if (relay_hear_order(&b->relay, &f, err) < 0 || answer(b, programs, &f, err) < 0)
        return -1;
    return relay_serve(&b->relay, err);
}

static void
end(struct relay *b)
{
    sandbox_end(&b->sandbox);
}

static const char *
advice(const struct relay *b, const char *step, int code)
{
    return advice_for(b->policy.level, step, code);
}

int
main(int argc, char **argv)
{
    static const struct relay_kind kind = {.program = "husk-sandbox", .end = end, .advice = advice};
    struct broker b = {0};
    struct err err = {0};

    if (argc != 5 || relay_begin(&kind, &b.relay) < 0) {
        fprintf(stderr, "husk-sandbox is started by husk and not by hand\n");
        return 100;
    }
    b.relay.ports_program = argv[3];
    return relay_end(&b.relay, run(&b, argv + 1, &err), &err);
}
