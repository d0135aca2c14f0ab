/* SPDX-License-Identifier: BSD-3-Clause
 *
 * mounts.h: what a sandbox sees of the file system.
 *
 * The view is a list of entries, sorted so that a directory comes before what lies in it.
 * A tree of the host is taken once by descriptor (open_tree), gets its attributes while nobody
 * can see it, and is attached by descriptor: no path is looked up twice. Where husk has root,
 * the trees are taken before the namespaces exist, because only there may a tree be id-mapped:
 * the owner of a shared directory on disk appears as the user of the sandbox.
 */
#pragma once

#include "sandbox/policy.h"

enum mount_kind {
    MOUNT_READ_ONLY,  /* a tree of the host */
    MOUNT_READ_WRITE, /* a tree of the host */
    MOUNT_MEMORY,     /* a private tmpfs */
};

struct mount_entry {
    enum mount_kind kind;
    char *source; /* host path; NULL for MOUNT_MEMORY */
    char *target; /* path inside */
    uint64_t size;  /* bytes, MOUNT_MEMORY */
    unsigned mode;  /* MOUNT_MEMORY */
    int optional;   /* a source that does not exist is left out */
    int mapped;     /* id-map the owner on disk to the user of the sandbox */
    int no_symlinks; /* source lies where a sandbox can write: follow nothing */
    int tree;       /* descriptor of the taken tree, or of what view_look() found; or -1 */
};

struct mount_view {
    struct mount_entry *entry;
    size_t len;
    struct strv links; /* "target", "path" pairs: symbolic links of the root */
    int no_userns; /* view_take failed because no user namespace could be made for an id-mapping */
};

/* The whole view of a policy. */
int view_make(const struct policy *policy, struct mount_view *ret, struct err *err);
void view_release(struct mount_view *view);

/* What a sandbox may read of the system, /usr first; and the names that are guarded in a directory
 * that it shares. NULL after the last. */
const char *mounts_system(size_t i);
const char *mounts_guarded(size_t i);

/* Takes the trees of all entries. `uid`, `gid`: who the user of the sandbox is on the host;
 * trees are id-mapped to it if `map` (needs CAP_SYS_ADMIN on the host). */
int view_take(struct mount_view *view, int map, uid_t uid, gid_t gid, struct err *err);

/* For a container, whose engine takes them by path: opens the sources of all entries and leaves -1 for
 * those that are left out, so that what the engine mounted can be compared with it. */
int view_look(struct mount_view *view, struct err *err);

/* Attaches everything below the directory `root`, which is an empty tmpfs. */
int view_attach(const struct mount_view *view, int root, struct err *err);

/* proc with its masks, /dev, /etc's made files; root is the same directory. */
int mounts_proc(int root, struct err *err);
int mounts_dev(int root, uint64_t shm_size, struct err *err);
/* What name look-ups need, also in an image. */
struct names_of_etc {
    char hosts[160], hostname[80];
    const char *resolv_conf;
};
void mounts_names(const struct policy *policy, struct names_of_etc *ret);
int mounts_etc(const struct policy *policy, int root, struct err *err);
/* Mounts the tmpfs that becomes the root and returns its directory in *ret. */
int mounts_stage(int *ret, struct err *err);
/* Makes `root` the root of the mount namespace and lets go of the old one. */
int mounts_pivot(int root, struct err *err);
int mounts_seal(struct err *err); /* the root tmpfs becomes read-only */
