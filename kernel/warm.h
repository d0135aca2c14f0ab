/* SPDX-License-Identifier: BSD-3-Clause
 *
 * warm.h: interpreters that start from a frozen one (wall/frozen.h) instead of importing everything.
 *
 * There is one file for each Python, environment and user, below husk's state, where no sandbox sees it.
 * Its name says what it is for: the machine's boot, the version, the Python, and each variable of the
 * environment that Python or what is imported looks at. Behind what husk-thaw maps, it lists every file that
 * was looked at, with its time, size and inode: one that has changed since makes it worthless. It is written
 * under another name, tried, and renamed; never changed, so that who has mapped it is not disturbed.
 *
 * Where there is none that can be used the start is cold, and `why` says so to people (husk info). Then
 * `husk warm` is started once the interpreter is there, which makes one for the next time.
 */
#pragma once

#include <limits.h>

#include "base/base.h"
#include "base/err.h"

#define WARM_RETRY_S 600    /* what could not be frozen is not tried again sooner */
#define WARM_KEPT 8         /* files of one user; the one that was not used for longest goes */
#define WARM_LISTED (4u << 20) /* bytes of the list of files */
#define WARM_START_MS 15000 /* a thawed interpreter that says nothing for so long is replaced by a cold one */

struct kernel;

struct warm {
    int file;            /* open for reading, as long as it is of use; -1: cold */
    int served;          /* the present interpreter was thawed */
    int wanted;          /* a file is to be made */
    int64_t give_up;     /* ms: WARM_START_MS after its start; 0: it is there, or cold */
    pid_t maker;         /* 0: none */
    char base[PATH_MAX]; /* of the files' names; "": not known */
    char why[ERR_TEXT];  /* why it is cold; "": it is not */
};
#define WARM_EMPTY ((struct warm){.file = -1})

/* Looks for a file; whatever comes of it is said by k->warm, and no error. */
void warm_look(struct kernel *k);
/* The name of what this kernel could start from, without its ending. */
int warm_name(struct kernel *k, char ret[static PATH_MAX], struct err *err);
/* Opens BASE.frozen if it can still be used. -1 with err set; ENOENT: there is none. */
int warm_open(const char *base, struct err *err);

/* Before the interpreter is started: adds what is executed in place of Python, and sends the file.
 * Returns the flags of box_spawn(). */
unsigned warm_prepare(struct kernel *k, struct strv *argv, int socket);
/* It is there. Begins to make what was missed. */
void warm_arrived(struct kernel *k);
/* What was thawed ended, or could not begin, before it was there: 1, and the next start is cold. */
int warm_failed(struct kernel *k, const char *how);
void warm_tick(struct kernel *k, int64_t now);
void warm_release(struct kernel *k);

/* `husk warm`: makes one now. Returns an exit code. */
int warm_command(int argc, char **argv);
