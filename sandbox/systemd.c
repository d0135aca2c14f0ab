/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-scope: asks systemd for a cgroup that husk may divide. The broker starts it with
 *
 *     husk-scope PID NAME
 *
 * It has the user's systemd (the machine's, if root asks) make the scope NAME with that process in it, and
 * ends with 0 when the process is there; else it prints one line that says why not. A program of its own,
 * so that a broker is not loaded with libsystemd where nobody needs it.
 *
 * Ref: org.freedesktop.systemd1(5), StartTransientUnit() and JobRemoved; systemd.scope(5).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "base/base.h"

#define PATIENCE_US (8 * 1000000ull)
#define SYSTEMD "org.freedesktop.systemd1"
#define SYSTEMD_PATH "/org/freedesktop/systemd1"
#define MANAGER SYSTEMD ".Manager"

struct job {
    char *path;   /* NULL until systemd has said which it is */
    char *result; /* "done", or what went wrong; NULL while it runs */
};

static void
release_bus(sd_bus **bus)
{
    sd_bus_flush_close_unref(*bus);
}

static void
release_message(sd_bus_message **message)
{
    sd_bus_message_unref(*message);
}

static int
on_removed(sd_bus_message *m, void *data, sd_bus_error *error)
{
    const char *path, *unit, *result;
    struct job *job = data;
    uint32_t id;

    (void)error;
    if (sd_bus_message_read(m, "uoss", &id, &path, &unit, &result) >= 0 && job->path &&
        strcmp(path, job->path) == 0 && !job->result)
        job->result = strdup(result);
    return 0;
}

static int
ask(sd_bus *bus, uint32_t pid, const char *name, struct job *job, sd_bus_error *error)
{
    scoped(release_message) sd_bus_message *reply = NULL;
    const char *path;
    int r = sd_bus_call_method(bus, SYSTEMD, SYSTEMD_PATH, MANAGER, "StartTransientUnit", error, &reply,
                               "ssa(sv)a(sa(sv))", name, "fail", 4,
                               "Description", "s", "a sandbox of husk",
                               "PIDs", "au", 1, pid,
                               "Delegate", "b", 1,
                               "CollectMode", "s", "inactive-or-failed", 0);

    if (r >= 0)
        r = sd_bus_message_read(reply, "o", &path);
    if (r >= 0 && !(job->path = strdup(path)))
        r = -ENOMEM;
    return r;
}

static int
await(sd_bus *bus, const struct job *job)
{
    int64_t end = now_ms() + (int64_t)(PATIENCE_US / 1000);

    while (!job->result) {
        int r = sd_bus_process(bus, NULL);
        if (r < 0)
            return r;
        if (r == 0 && (r = sd_bus_wait(bus, PATIENCE_US)) < 0)
            return r;
        if (now_ms() > end)
            return -ETIMEDOUT;
    }
    return 0;
}

int
main(int argc, char **argv)
{
    scoped(release_bus) sd_bus *bus = NULL;
    scoped(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    struct job job = {0};
    int r;

    if (argc != 3) {
        fprintf(stderr, "husk-scope is started by husk-sandbox and not by hand\n");
        return 100;
    }
    r = geteuid() == 0 ? sd_bus_open_system(&bus) : sd_bus_open_user(&bus);
    if (r < 0)
        printf("no way to the %s systemd: %s", geteuid() == 0 ? "machine's" : "user's", strerror(-r));
    if (r >= 0 &&
        ((r = sd_bus_set_method_call_timeout(bus, PATIENCE_US)) < 0 ||
         (r = sd_bus_match_signal(bus, NULL, SYSTEMD, SYSTEMD_PATH, MANAGER, "JobRemoved", on_removed, &job)) < 0 ||
         (r = ask(bus, (uint32_t)strtoul(argv[1], NULL, 10), argv[2], &job, &error)) < 0 || (r = await(bus, &job)) < 0))
        printf("systemd makes no scope: %s", error.message ? error.message : strerror(-r));
    if (r >= 0 && strcmp(job.result, "done") != 0) {
        printf("systemd makes no scope: %s", job.result);
        r = -1;
    }
    free(job.path);
    free(job.result);
    return r < 0;
}
