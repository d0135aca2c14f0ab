/* SPDX-License-Identifier: BSD-3-Clause
 *
 * options.h: the command line of `husk kernel`, read by the table options.def.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

struct options {
    char *connection_file;
    char *python;
    uint64_t memory;   /* bytes */
    uint64_t tmp_size; /* bytes; 0: by memory */
    uint64_t pids;
    uint64_t files;
    uint64_t cell_timeout; /* seconds; 0: none */
    char *workdir;
    struct strv environment;
    int log_level;
};

/* Reads argv. Arguments that are meant for another kernel (nbclient and others add some:
 * --HistoryManager.hist_file=:memory:, --debug) are passed over with a word on stderr; one
 * that is nearly one of ours is refused, so that a limit is not lost by a slip.
 * Returns 0, or -1 with err set. */
int options_read(int argc, char **argv, struct options *ret, struct err *err);
void options_release(struct options *o);
/* Prints the table. */
void options_help(void);
