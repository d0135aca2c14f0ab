/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cli.h: what the commands share. stdout is data only; what went wrong is one line on stderr. Exit
 * codes: the command's own where one ran; 124 time-out, 125 husk's own failure (a sandbox that is
 * not there, an operation that failed), 126 and 127 as a shell; 64 for a wrong command line.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"
#include "cli/client.h"
#include "kernel/registry.h"

#define CLI_TIMEOUT 124
#define CLI_FAILURE 125

/* Options of a command: a table of these, ended by one without a name. */
struct flag {
    const char *name; /* "timeout" for --timeout; one letter for -t as well */
    char letter;      /* or 0 */
    int *on;          /* a switch */
    const char **value;
    struct strv *list; /* may be said again */
};
/* Takes options off the front of argv until the first word that is none, or after "--". Returns how
 * many words are used, or -1 when it has said what is wrong. With `rest`, options that are not in
 * the table are not errors: they go there (those of `husk kernel`). */
int flags_read(int argc, char **argv, const struct flag *flags, struct strv *rest, const char *command);
/* The same where no word begins another command: options may stand behind the other words, which are moved behind them. */
int flags_read_anywhere(int argc, char **argv, const struct flag *flags, const char *command);
/* Prints `text` and returns 1 if the first word is -h or --help. */
int wants_help(int argc, char **argv, const char *text);

/* Options of the sandbox, and the name that it is to have or NULL: -1 when it has said what is wrong. A
 * word that `husk kernel` would pass over, as a front end may have added it, is a slip here. */
int options_check(const struct strv *options, const char *name);
/* -o: json, or table, which is NULL as well. -1 when it has said that it is neither. */
int is_format(const char *format);

/* "10", "1.5": seconds as ms; -1: it is none. */
int64_t seconds_read(const char *text);

/* Says it on stderr; returns CLI_FAILURE. */
int failed(const struct err *err);

/* Finds a sandbox and connects to it. 0, or -1 when it has said what is wrong. */
int open_sandbox(const char *what, struct client *ret);

/* As a tree; what stands for bytes that are no UTF-8 (\udc80 to \udcff) becomes U+FFFD: for people. */
json_t *tree_of(struct bytes json);

/* JSON on stdout, with a line end. */
void print_json(struct bytes json);

/* Starts `husk kernel` with these options: a child that ends when *client is closed, or with `stays` one that lives
 * on. Waits until its sandbox is there, or `signals` (or -1) is readable: then err->code is EINTR. */
struct started {
    pid_t pid;
    char id[64];
    char file[4400]; /* the connection file; if one is named before the start, that of the caller's */
    /* stays: what it says goes there. Our stderr may be a pipe that somebody reads to its end. */
    char log[4400];
};
/* err->code EXIT_USAGE: the options are wrong, and it has said how. */
int start_kernel(const struct strv *options, const char *name, int stays, int signals, struct started *ret,
                 struct client *client, struct err *err);
/* What one that stays has said until now, on stderr: why it did not start. */
void show_log(const struct started *s);
/* Asks it to end and waits; then ends it. */
void end_kernel(struct started *s, struct client *c);

int run_command(int argc, char **argv);
int create_command(int argc, char **argv);
int exec_command(int argc, char **argv);
int ls_command(int argc, char **argv);
int ps_command(int argc, char **argv);
int logs_command(int argc, char **argv);
int cp_command(int argc, char **argv);
int diff_command(int argc, char **argv);
int stats_command(int argc, char **argv);
int info_command(int argc, char **argv);
int kill_command(int argc, char **argv);
int call_command(int argc, char **argv);
int api_command(int argc, char **argv);
int port_command(int argc, char **argv);
int attach_command(int argc, char **argv);
