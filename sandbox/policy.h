/* SPDX-License-Identifier: BSD-3-Clause
 *
 * policy.h: what one sandbox may see and use, read from the options of BUILD.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"
#include "base/names.h"
#include "sandbox/level.h"
#include "sandbox/subordinate.h"
#include "wall/frame.h"

#define POLICY_UID 1000 /* the user inside, whoever it is outside; in an image it is 0 */
#define POLICY_USER "user"

/* Who it is for decides what the working directory is. */
enum profile {
    PROFILE_NOTEBOOK, /* the user's, shared read-write at its own path if that is safe */
    PROFILE_STRICT,   /* a private one, gone with the sandbox */
    PROFILE_IMAGE,    /* as strict, in a root file system of its own, as its root */
};

struct policy_mount {
    char *source;
    char *target;
    int writable;
};
/* Where husk has root, each of its processes that needs none is a user of the host that nobody
 * else is: this plus a pid. */
#define PRIVILEGED_UID_BASE 1879048192u /* 0x70000000 */

struct policy {
    char *id;
    char *profile_name;
    enum profile profile;
    char *level_name;
    char *unconfined; /* "yes": said beside containment none, and never otherwise */
    enum containment level;
    char *hostname;
    char *workdir;
    char *state;
    char *layers;
    char *home;
    char *container;  /* an image of a container engine, or NULL */
    char *pull;       /* NULL: missing */
    char *runtime;    /* NULL: the engine's choice */
    char *gpus;       /* NULL: none */
    char *image;      /* an unpacked root file system, or NULL */
    struct subordinate subordinate; /* other users of the image, if any. Set by the broker. */
    char *root_layer; /* on disk: what is changed in it. Set by layers_make(). */
    char *home_layer; /* on disk; NULL: in memory. Set by layers_make(). */
    char *tmp_layer;  /* likewise; LEVEL_LANDLOCK only */
    char *hosthome;
    struct strv paths;
    struct strv hide;
    struct strv masks;
    struct strv own;
    struct strv guards;
    struct policy_mount *mounts; /* sorted by nothing; targets differ */
    size_t nmounts;
    uint64_t memory;   /* bytes */
    uint64_t tmp_size; /* bytes */
    uint64_t cpus;     /* thousandths; 0: no limit */
    uint64_t pids;
    uint64_t files;
    uint64_t disk; /* bytes; 0: no limit */
    struct strv allow;  /* the network's rules as text */
    struct rules rules; /* the same, read; none: no network */
    char *resolver;     /* NULL: the machine's */
    int private_workdir; /* 1: `state` is what appears at workdir */
    char why_private[160]; /* for people, if so */
    uid_t uid; /* who the sandbox is on the host, if policy_has_user(); see build_choose_user() */
    gid_t gid;
};

/* Reads the parts of BUILD; fills in what was not said. Refuses relative and unclean paths, and
 * mounts that would show what must stay hidden, or stand where the system stands. On failure
 * *ret is released. */
int policy_read(const struct frame *build, struct policy *ret, struct err *err);
void policy_release(struct policy *policy);

/* Looks at the sources of the mounts on the disk: each must be a directory or a regular file,
 * and no symbolic link on the way. */
int policy_look_at_mounts(const struct policy *policy, struct err *err);

/* The same for the image: a directory that no link leads to, that holds a root file system, and
 * that belongs to whoever runs husk: the owners of its files are mapped from there. */
int policy_look_at_image(const struct policy *policy, struct err *err);

/* The user inside. */
uid_t policy_uid(const struct policy *policy);

/* Whether the user on the host is known before, and nothing is id-mapped to it: where there are no
 * namespaces, and in a container. */
static inline int
policy_has_user(const struct policy *p)
{
    return p->level != LEVEL_FULL || p->container;
}

/* Whether the system that is seen is not this machine's: an image, or a container. */
static inline int
policy_has_root(const struct policy *p)
{
    return p->image || p->container;
}

/* Whether a directory of the host can be written. */
int policy_shares(const struct policy *policy);

/* Whether `path` is `dir` or lies below it. Both absolute and clean. */
int path_within(const char *path, const char *dir);
