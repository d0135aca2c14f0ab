/* SPDX-License-Identifier: BSD-3-Clause
 *
 * options.h: the command line of `husk serve`, read by the table options.def.
 */
#pragma once

#include "base/base.h"
#include "base/err.h"

struct serve_options {
    char *ip, *sock, *token, *token_file, *certfile, *keyfile, *allow_origin, *ready_file, *output, *log_format;
    struct strv allow_host, specs, grants;
    uint64_t port, max_kernels, max_connections, max_body;
    uint64_t print_url;
    int log_level;
    struct strv kernel; /* the rest: options of every kernel, checked */
};

/* Reads argv and the environment. -1 with err set. */
int serve_options_read(int argc, char **argv, struct serve_options *ret, struct err *err);
void serve_options_release(struct serve_options *o);
void serve_options_help(void);
