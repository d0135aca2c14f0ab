/* SPDX-License-Identifier: BSD-3-Clause */
#include "container/spec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sandbox/loopback.h"

/* What the root of an image keeps, for packages to be installed: as in a local sandbox (build.h). */
static const char *const of_packages[] = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID",
                                          "KILL", "SETGID", "SETUID", "SETFCAP"};

#define NETWORK_MEMORY (64 << 20) /* bytes; engines want some for themselves */

static json_t *
bind_mount(const char *source, const char *target, int writable)
{
    /* Before version 1.44 only the top of a tree becomes read-only: what is mounted below is left out. */
    return json_pack("{ss ss ss sb s{ss sb}}", "Type", "bind", "Source", source, "Target", target, "ReadOnly",
                     !writable, "BindOptions", "Propagation", "rprivate", "NonRecursive", !writable);
}

static json_t *
make_mounts(const struct spec *s)
{
    json_t *mounts = json_array();
    int bad = json_array_append_new(mounts, bind_mount(s->init, s->init, 0)) < 0 ||
              json_array_append_new(mounts, bind_mount(s->directory, SPEC_DIRECTORY, 0)) < 0;

    for (size_t i = 0; !bad && i < s->view->len; i++) {
        const struct mount_entry *e = &s->view->entry[i];
        if (e->tree >= 0)
            bad = json_array_append_new(mounts, bind_mount(e->source, e->target, e->kind == MOUNT_READ_WRITE)) < 0;
    }
    if (!bad)
        return mounts;
    json_decref(mounts);
    return NULL;
}

/* Images keep that directory for root alone, and runc a tmpfs there as well; what root of this machine has below it and
 * shows must be reached all the same. So the tmpfs is the user's, and small. */
#define ROOT_HOME "/root"

static int
hides_in_root(const struct spec *s)
{
    size_t len = strlen(ROOT_HOME "/");
    int hides = strncmp(s->init, ROOT_HOME "/", len) == 0;

    for (size_t i = 0; i < s->view->len; i++) {
        const struct mount_entry *e = &s->view->entry[i];
        if (strcmp(e->target, ROOT_HOME) == 0)
            return 0; /* somebody has said what is there */
        hides |= e->tree >= 0 && strncmp(e->target, ROOT_HOME "/", len) == 0;
    }
    return hides && s->policy->profile != PROFILE_IMAGE;
}

static json_t *
make_tmpfs(const struct spec *s)
{
    json_t *all = json_object();
    char how[192];
    int bad = 0;

    for (size_t i = 0; !bad && i < s->view->len; i++) {
        const struct mount_entry *e = &s->view->entry[i];
        if (e->kind != MOUNT_MEMORY)
            continue;
        /* Inodes cost memory too, and the size option does not count them. runc gives it the mode of the directory
         * that the image has there: so that it can be written, it is the user's. */
        snprintf(how, sizeof how, "rw,exec,nosuid,nodev,mode=%o,uid=%u,gid=%u,size=%llu,nr_inodes=%llu", e->mode,
                 s->policy->uid, s->policy->gid, (unsigned long long)e->size, (unsigned long long)(e->size >> 12) + 1024);
        bad = json_object_set_new(all, e->target, json_string(how)) < 0;
    }
    if (!bad && hides_in_root(s)) {
        snprintf(how, sizeof how, "rw,noexec,nosuid,nodev,mode=755,uid=%u,gid=%u,size=64k", s->policy->uid, s->policy->gid);
        bad = json_object_set_new(all, ROOT_HOME, json_string(how)) < 0;
    }
    if (!bad)
        return all;
    json_decref(all);
    return NULL;
}

static json_t *
make_ulimits(const struct policy *p)
{
    static const struct {
        int resource;
        const char *name; /* the engine's */
    } names[] = {{RLIMIT_CORE, "core"}, {RLIMIT_NOFILE, "nofile"}, {RLIMIT_MEMLOCK, "memlock"},
                 {RLIMIT_RTPRIO, "rtprio"}, {RLIMIT_FSIZE, "fsize"}};
    struct limits_resource r[LIMITS_RESOURCES];
    size_t n = limits_resources(p, LIMITS_ENGINE, r);
    json_t *all = json_array();

    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < countof(names); k++)
            if (names[k].resource == r[i].resource)
                json_array_append_new(all, json_pack("{ss sI sI}", "Name", names[k].name, "Soft",
                                                     (json_int_t)r[i].soft, "Hard", (json_int_t)r[i].hard));
    return all;
}

/* all, a number, or device=ID,ID: as `docker run --gpus` has it. */
static json_t *
make_gpus(const char *gpus)
{
    json_t *request = json_pack("{ss s[[s]]}", "Driver", "", "Capabilities", "gpu");
    char *copy, *rest, *id;
    json_t *ids;

    if (strncmp(gpus, "device=", 7) != 0) {
        json_object_set_new(request, "Count", json_integer(strcmp(gpus, "all") == 0 ? -1 : atoi(gpus)));
        return json_pack("[o]", request);
    }
    ids = json_array();
    rest = copy = strdup(gpus + 7);
    while ((id = strsep(&rest, ",")))
        json_array_append_new(ids, json_string(id));
    free(copy);
    json_object_set_new(request, "DeviceIDs", ids);
    return json_pack("[o]", request);
}

static json_t *
make_host(const struct spec *s)
{
    const struct policy *p = s->policy;
    int image = p->profile == PROFILE_IMAGE;
    json_t *added = json_array();
    scoped(str_free) char *profile = NULL;
    json_t *host;

    for (size_t i = 0; image && i < countof(of_packages); i++)
        json_array_append_new(added, json_string(of_packages[i]));
    if (asprintf(&profile, "seccomp=%s", s->profile) < 0)
        profile = NULL;
    host = json_pack("{sb ss sb s[s] so s[ss] sI sI sI sI sI so so so s{ss} ss ss s{ss}}", "AutoRemove", 1,
                     "NetworkMode", "none", "ReadonlyRootfs", !image, "CapDrop", "ALL", "CapAdd", added,
                     "SecurityOpt", "no-new-privileges", profile ? profile : "", "PidsLimit", (json_int_t)p->pids,
                     "Memory", (json_int_t)p->memory, "MemorySwap", (json_int_t)p->memory, "NanoCpus",
                     (json_int_t)p->cpus * 1000000, "ShmSize", (json_int_t)p->tmp_size, "Mounts", make_mounts(s),
                     "Tmpfs", make_tmpfs(s), "Ulimits", make_ulimits(p), "LogConfig", "Type", "none", "IpcMode",
                     "private", "CgroupnsMode", "private", "RestartPolicy", "Name", "no");
    if (!profile) {
        json_decref(host);
        return NULL;
    }
    if (host && p->runtime)
        json_object_set_new(host, "Runtime", json_string(p->runtime));
    /* /etc/resolv.conf: without a network that of the machine would be there. */
    if (host)
        json_object_set_new(host, "Dns", json_pack("[s]", LOOPBACK_RESOLVER));
    /* Engines switch IPv6 off where they gave no address of it. */
    if (host && rules_any(&p->rules))
        json_object_set_new(host, "Sysctls", json_pack("{ss}", "net.ipv6.conf.all.disable_ipv6", "0"));
    if (host && p->gpus)
        json_object_set_new(host, "DeviceRequests", make_gpus(p->gpus));
    return host;
}

json_t *
spec_make(const struct spec *s, struct err *err)
{
    const struct policy *p = s->policy;
    char user[32], id[16];
    json_t *spec;

    snprintf(user, sizeof user, "%u:%u", p->uid, p->gid);
    snprintf(id, sizeof id, "%u", (unsigned)geteuid());
    spec = json_pack("{ss s[s] s[ss] ss si ss ss ss s[] s{s[s]} s{ss ss ss} so}", "Image", p->container, "Entrypoint",
                     s->init, "Cmd", "connect", SPEC_DIRECTORY "/" SPEC_SOCKET, "StopSignal", "SIGKILL", "StopTimeout", 1, "User", user, "WorkingDir",
                     p->profile == PROFILE_IMAGE ? p->workdir : "/", "Hostname", p->hostname, "Env", "Healthcheck",
                     "Test", "NONE", "Labels", SPEC_LABEL_USER, id, SPEC_LABEL_OWNER, s->owner, SPEC_LABEL_ID, p->id,
                     "HostConfig", make_host(s));
    if (!spec)
        err_set(err, EINVAL, "describe the container: out of memory, or a path that is no UTF-8");
    return spec;
}

/* Root of the engine in the network of another container, and in nothing else of it; of capabilities only
 * what routes, and a socket at port 53, take. */
json_t *
spec_make_network(const struct spec *s, const char *program, const char *container, struct err *err)
{
    const struct policy *p = s->policy;
    json_t *command = json_pack("[s]", SPEC_DIRECTORY "/" SPEC_NETWORK), *spec;
    char id[16], network[96];

    for (size_t i = 0; i < p->allow.len; i++)
        json_array_append_new(command, json_string(p->allow.item[i]));
    snprintf(id, sizeof id, "%u", (unsigned)geteuid());
    snprintf(network, sizeof network, "container:%s", container);
    spec = json_pack("{ss s[s] so ss ss s[] s{s[s]} s{ss ss ss} s{sb ss sb s[s] s[ss] s[s] si sI s[oo] s{ss}}}", "Image", p->container,
                     "Entrypoint", program, "Cmd", command, "User", "0:0", "WorkingDir", "/", "Env", "Healthcheck",
                     "Test", "NONE", "Labels", SPEC_LABEL_USER, id, SPEC_LABEL_OWNER, s->owner, SPEC_LABEL_ID, p->id,
                     "HostConfig", "AutoRemove", 1, "NetworkMode", network, "ReadonlyRootfs", 1, "CapDrop", "ALL",
                     "CapAdd", "NET_ADMIN", "NET_BIND_SERVICE", "SecurityOpt", "no-new-privileges", "PidsLimit", 8,
                     "Memory", (json_int_t)NETWORK_MEMORY, "Mounts", bind_mount(program, program, 0),
                     bind_mount(s->directory, SPEC_DIRECTORY, 0), "LogConfig", "Type", "none");
    if (!spec)
        err_set(err, ENOMEM, "describe the container of the network");
    return spec;
}
