/* SPDX-License-Identifier: BSD-3-Clause
 *
 * policy.h: what one sandbox may see and use, read from the options of BUILD.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"
#include "wall/frame.h"

#define POLICY_UID 1000 /* the user inside, whoever it is outside */
#define POLICY_USER "user"

struct policy {
    char *id;
    char *workdir;
    char *state;
    char *home;
    char *hosthome;
    struct strv paths;
    struct strv hide;
    struct strv masks;
    struct strv own;
    struct strv guards;
    uint64_t memory;   /* bytes */
    uint64_t tmp_size; /* bytes */
    uint64_t pids;
    uint64_t files;
    int private_workdir; /* 1: `state` is what appears at workdir */
    char why_private[160]; /* for people, if so */
};

/* Reads the parts of BUILD; fills in what was not said. Refuses relative and unclean paths.
 * On failure *ret is released. */
int policy_read(const struct frame *build, struct policy *ret, struct err *err);
void policy_release(struct policy *policy);

/* Whether `path` is `dir` or lies below it. Both absolute and clean. */
int path_within(const char *path, const char *dir);
