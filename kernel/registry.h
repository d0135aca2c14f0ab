/* SPDX-License-Identifier: BSD-3-Clause
 *
 * registry.h: which kernels run, for the command line: one file each in a directory of the user's
 * own (0700), $XDG_RUNTIME_DIR/husk or else husk/run below the state directory. It names the
 * connection file; whoever can read that can speak to the kernel. Entries are told from what a
 * crash left by the pid and the time when that process started (proc_pid_stat(5)).
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

struct registry_entry {
    char *id, *name; /* name: "" if none */
    char *connection_file, *profile, *directory, *created;
    pid_t pid;
    unsigned long long started; /* clock ticks after boot */
};
struct registry_list {
    struct registry_entry *entry;
    size_t len;
};

/* The directory, made if it is not there. Caller frees; NULL with err set. */
char *registry_directory(struct err *err);
/* Writes the entry of the calling process. */
int registry_put(const struct registry_entry *entry, struct err *err);
/* Makes a connection file there, DIRECTORY/RANDOM.connection, of a kernel with socket files beside it, and says
 * its path. libsodium has been started. */
#define REGISTRY_HB_PORT 5 /* in it; bound last */
int registry_connection(char *ret_path, size_t size, struct err *err);
/* The same for one with these ports (by enum channel) at an address. */
int registry_tcp_connection(char *ret_path, size_t size, const char *ip, const int *port, struct err *err);
/* The socket of a kernel's callers (callers.h): DIRECTORY/ID.socket, for its owner only. */
int registry_listen(const char *id, struct err *err);
/* Connects to it. A descriptor whose other end is the process of the entry, and no other; -1 with err set. */
int registry_connect(const struct registry_entry *entry, struct err *err);
/* Removes entry and socket, and its connection file with what lies beside that, if husk itself made it there. */
void registry_remove(const char *id, const char *connection_file);
/* A name that --name and sandbox.set take: nothing that a path or "ID:PATH" would read otherwise. */
int registry_is_name(const char *name);

/* All that run, the oldest first; what is left of others is removed. */
int registry_read(struct registry_list *ret, struct err *err);
void registry_release(struct registry_list *list);
/* The one whose id or name that is, or whose id begins with it and no other's does. */
const struct registry_entry *registry_find(const struct registry_list *list, const char *what,
                                           struct err *err);
/* Whether the process of an entry is there. */
int registry_is_alive(const struct registry_entry *entry);
