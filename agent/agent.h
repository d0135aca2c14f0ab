/* SPDX-License-Identifier: BSD-3-Clause
 *
 * agent.h: husk-agent, the process of a sandbox that does what wall/operations.def lists.
 *
 * It is started as any process of the sandbox is (sandbox/join.h): the same user, the same limits,
 * Landlock and filter. So no path is looked up and no command is started with any right that a
 * cell does not have, and whoever should take it over has gained nothing. One thread; nothing in it
 * waits, but for the disk.
 *
 *   agent.c    the loop, the table of operations
 *   call.c     parameters in, answers out
 *   files.c    files.*
 *   watch.c    files.watch
 *   process.c  exec.*, proc.*: processes, what they print, who waits for what
 *   shim.c     the parent of one command: knows its whole tree
 *
 * What waits for whoever asked alone ends without it: a process with pull whose end has not been read, an exec.run
 * that is not answered, an upload that is not done. A command (husk exec, husk cp) is seen to go, and they end at once (GONE);
 * other clients may be away for a while, and have a lease: LEASE_MS without a word about the process, or the upload.
 */
#pragma once

#include <poll.h>
#include <signal.h>
#include <stdarg.h>

#include "base/base.h"
#include "base/err.h"
#include "base/json.h"
#include "wall/agent.h"

#define LEASE_MS 30000

/*** call.c ***/

#define KEEP_MAX (4u << 20) /* bytes: a buffer for what comes and goes is kept up to this size; new pages cost more than copies */

/* An operation that was asked for. Everything is borrowed until it returns. */
struct call {
    uint32_t slot;
    uint32_t caller;       /* 0: nobody would say that it has gone */
    struct bytes params;   /* a JSON object, checked against its row by the supervisor */
    struct bytes buffer;   /* the first of the message */
    int has_buffer;
};

/* The value of a parameter, as its row says what stands in. Text: 0 and *ret empty (data NULL) if it
 * is not there; -1 with err set when it cannot be: a NUL in it, no memory. */
int call_text(const struct call *c, const char *name, struct buf *ret, struct err *err);
int call_path(const struct call *c, const char *name, struct buf *ret, struct err *err);
int64_t call_int(const struct call *c, const char *name, int64_t standard);
/* Milliseconds: as call_int(), but never so many that the clock could not reach them. */
int64_t call_ms(const struct call *c, const char *name, int64_t standard);
int call_bool(const struct call *c, const char *name, int standard);
/* The buffer, or the string of that name: a copy. */
int call_bytes(const struct call *c, const char *name, struct buf *ret, struct err *err);
/* The same; the buffer is borrowed, a string lies in `hold`. */
int call_data(const struct call *c, const char *name, struct buf *hold, struct bytes *ret, struct err *err);
/* A mode as "644"; `standard` if it is not there. -1 with err set. */
int call_mode(const struct call *c, unsigned standard, unsigned *ret, struct err *err);

/* Members of an object that is being written: {"a":1,"b":"x"}. add_open() begins one. */
void add_open(struct buf *json);
void add_int(struct buf *json, const char *name, int64_t value);
void add_bool(struct buf *json, const char *name, int value);
void add_null(struct buf *json, const char *name);
void add_text(struct buf *json, const char *name, struct bytes text);
/* A path, which may be any bytes: those that are no UTF-8 become \udc80 to \udcff, as Python's
 * file names have them. */
void add_path(struct buf *json, const char *name, const char *path);
void add_name(struct buf *json, const char *name); /* "name": and nothing after it */
void add_close(struct buf *json);

/* Each call is answered once, by one of these. */
void answer(uint32_t slot, const struct buf *json, const struct bytes *buffers, size_t n);
void answer_nothing(uint32_t slot);
void refuse(uint32_t slot, const struct err *why);
void tell_event(uint32_t slot, const struct buf *json, const struct bytes *buffers, size_t n);
void tell_pong(void);
/* Does what may take long (a walk through a tree) in a child, so that nobody waits for it: what it
 * answers is passed on. */
void call_aside(const struct call *c, void (*run)(const struct call *c));
size_t asides_list_polls(struct pollfd **polls, size_t *size, size_t at);
void asides_run(const struct pollfd *polls, size_t first, size_t n);
/* What waits to be sent: sends what the socket takes. */
void out_flush(void);
size_t out_waiting(void);

/*** files.c ***/
void files_read(const struct call *c);
void files_read_text(const struct call *c);
void files_download(const struct call *c);
void files_write(const struct call *c);
void files_append(const struct call *c);
void files_upload(const struct call *c);
void files_list(const struct call *c);
void files_stat(const struct call *c);
void files_exists(const struct call *c);
void files_move(const struct call *c);
void files_copy(const struct call *c);
void files_remove(const struct call *c);
void files_mkdir(const struct call *c);
void files_chmod(const struct call *c);
/* Uploads that nobody goes on with are dropped; ms when the next one may be, 0: none. */
int64_t uploads_tick(int64_t now);
void uploads_gone(uint32_t caller);

/*** watch.c ***/
void files_watch(const struct call *c);
void files_unwatch(const struct call *c);
int watch_descriptor(void); /* to be polled; or -1 */
void watch_run(void);

/*** process.c ***/
void exec_run(const struct call *c);
void exec_start(const struct call *c);
void proc_list(const struct call *c);
void proc_get(const struct call *c);
void proc_logs(const struct call *c);
void proc_read(const struct call *c);
void proc_stdin(const struct call *c);
void proc_resize(const struct call *c);
void proc_kill(const struct call *c);
void proc_kill_all(const struct call *c);
void proc_wait(const struct call *c);
void process_limits(void); /* room for as many open files as may be; commands get what was before */
void env_set(const struct call *c);
void env_get(const struct call *c);

/* Appends what is to be polled; `at` is how many there are already. Returns the new count, and in
 * *deadline when to come back anyway (ms, 0: never). */
size_t process_list_polls(struct pollfd **polls, size_t *size, size_t at, int64_t *deadline);
void process_run(const struct pollfd *polls, size_t first, size_t n);
void process_gone(uint32_t caller);
/* One more entry at `at`, unless fd is -1. Returns the new count. */
size_t add_poll(struct pollfd **polls, size_t *size, size_t at, int fd, short events);
int is_ready(const struct pollfd *polls, size_t first, size_t n, int fd);

/*** shim.c ***/
enum shim_says { SHIM_STARTED, SHIM_FAILED, SHIM_NO_DIRECTORY, SHIM_EXITED, SHIM_SIGNAL };
struct shim_word {
    int32_t kind;  /* shim_says; SHIM_SIGNAL goes down */
    int32_t value; /* pid, errno, wait status, signal */
};
/* By the agent: a file past the limit of the disk is an error, and no end; and a shim says itself what became of
 * its command. A command has them as any process has. */
static const int shim_ignored[] = {SIGPIPE, SIGXFSZ, SIGCHLD};

struct shim {
    char *const *argv, *const *environment;
    const char *directory;
    int in, out, err;     /* of the command; equal for a terminal's slave */
    int tty;
    uint64_t files;       /* its soft limit of open files */
    int socket;           /* its end */
};
void shim_run(struct shim *s) __attribute__((noreturn));
