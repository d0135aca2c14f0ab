/* SPDX-License-Identifier: BSD-3-Clause
 *
 * options.h: the command line of `husk kernel`, read by the table options.def.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

struct options {
    char *connection_file;
    uint64_t front; /* the socket of front.h; 0: there is none */
    char *python;
    uint64_t memory;   /* bytes */
    uint64_t tmp_size; /* bytes; 0: by memory */
    uint64_t cpus; /* thousandths; 0: no limit */
    uint64_t pids;
    uint64_t files;
    uint64_t disk; /* bytes */
    uint64_t output_rate; /* bytes of text a second; 0: by who started us */
    uint64_t cell_timeout; /* seconds; 0: none */
    uint64_t interrupt_timeout; /* seconds; 0: none */
    uint64_t idle_timeout; /* seconds; 0: none */
    uint64_t lifetime;     /* seconds; 0: none */
    char *profile; /* NULL: notebook */
    char *network;
    struct strv allow; /* rules of base/names.h */
    char *resolver;
    char *backend; /* NULL: local */
    char *image;   /* absolute, or with backend docker a name; NULL: none */
    char *pull, *runtime, *gpus; /* backend docker only */
    char *containment; /* NULL: full */
    char *unconfined;  /* said beside containment none */
    char *workdir;
    char *hostname;
    char *name;
    char *history; /* NULL: by profile */
    char *ipython; /* NULL: by profile */
    struct strv mounts; /* each SRC:DST:ro or SRC:DST:rw, absolute */
    struct strv environment;
    char *start; /* NULL: warm */
    struct strv preload; /* names of modules */
    int log_level;
};

/* Reads argv. With `strict`, what is not ours is refused. Otherwise arguments that are meant for
 * another kernel (nbclient and others add some: --HistoryManager.hist_file=:memory:, --debug) are
 * passed over with a word on stderr; one that is nearly one of ours is refused, so that a limit
 * is not lost by a slip.
 * Returns 0, or -1 with err set. */
int options_read(int argc, char **argv, int strict, struct options *ret, struct err *err);
void options_release(struct options *o);
/* Whether the sandbox is a container of an engine. */
int options_in_container(const struct options *o);
/* `--mount` in full: absolute paths without "." or doubled slashes, both always there, and a mode.
 * Caller frees; NULL with err set. */
char *options_mount_in_full(const char *value, struct err *err);
/* Prints the table. */
void options_help(void);
