/* SPDX-License-Identifier: BSD-3-Clause
 *
 * kernel.h: the state of one kernel, and who does what with it.
 *
 *   kernel.c    starts and stops it; the one loop, one thread
 *   dispatch.c  messages in: accepts, answers at once or queues (requests.def)
 *   reply.c     messages out: replies, errors, busy and idle
 *   interp.c    the interpreter: starts, feeds, hears, interrupts, replaces it
 *   shells.c    what runs side by side in it: the main shell, subshells, the debugger
 *   warm.c      what it is thawed from, if it is; freezer.c makes that
 *   aside.c     questions about names, while a cell runs
 *   operations.c  files, commands and processes beside the interpreter
 *   callers.c   commands of the command line that speak to it
 */
#pragma once

#include "kernel/account.h"
#include "kernel/aside.h"
#include "kernel/box.h"
#include "kernel/callers.h"
#include "kernel/front.h"
#include "kernel/history.h"
#include "kernel/iopub.h"
#include "kernel/operations.h"
#include "kernel/options.h"
#include "kernel/ports.h"
#include "kernel/python.h"
#include "kernel/request.h"
#include "kernel/shells.h"
#include "kernel/sockets.h"
#include "kernel/timeline.h"
#include "kernel/warm.h"
#include "kernel/wire.h"

/* Starting and stopping again without ever getting as far as HELLO: then the kernel gives up. */
#define INTERP_TRIES 3

enum interp_state {
    INTERP_NONE,     /* the sandbox is not built yet */
    INTERP_ABSENT,   /* the image has no Python: commands and files is all there is */
    INTERP_SWEEPING, /* what the last one left behind is being killed */
    INTERP_STARTING, /* started, no HELLO yet */
    INTERP_READY,    /* takes requests */
    INTERP_DEAD,     /* gone; its successor is on the way */
};

/* Frames for the interpreter that did not fit into a socket yet. */
struct outbox {
    struct buf buf;
    size_t used;
};

struct interp {
    enum interp_state state;
    uint32_t slot;          /* its name for the broker: counts the interpreters */
    struct timeline timeline;
    struct outbox out, side; /* to its main thread; to its side thread, see wall/interp.h */
    int failures;           /* in a row, before HELLO */
    int gone;               /* its process has ended */
    int64_t hung_up;        /* ms: it closed its socket; when it is ended if it lives on; or 0 */
    struct err broken;      /* why it was killed by us, if it was */
    struct buf last_words;  /* what it printed before HELLO: why it did not start */
};

struct kernel {
    struct options options;
    struct conn conn;
    struct wire *wire;
    struct sockets sockets;
    int doors[CHANNELS];    /* with a front, listening until somebody comes with ZeroMQ; or -1 */
    struct front front;     /* husk serve or the command that started us, if one did */
    int stays;              /* it may go */
    struct callers callers;
    struct iopub iopub;
    struct box box;
    struct python python;
    char *image; /* the root file system of profile image, or NULL */
    char container_path[4096]; /* PATH of the container's image; "": it has none */
    struct strv container_environment; /* and its other variables */
    struct interp interp;
    struct warm warm;
    struct shell main, debugger; /* and subshells behind them */
    int can_debug;          /* its Python has what the debugger needs, as far as is known */
    uint32_t next_shell;    /* number of the next subshell */
    struct aside aside;
    struct account account;
    struct agent agent;
    struct ports ports;
    struct request_queue comparing; /* sandbox.diff, until the broker has answered */
    struct parents parents;
    struct history history;
    uint32_t next_slot;
    uint32_t next_count;    /* number of the next cell */
    char sandbox_text[1024]; /* what limits are in force, for people */
    char limits[16];         /* how memory is limited, in a word */
    char directory[4096];   /* the working directory */
    char home[4096];        /* the home directory inside */
    char tmp[4096];         /* where temporary files go inside; "": /tmp */
    struct buf tags;        /* sandbox.set: a JSON object, or empty */
    char created[32];       /* date */
    int registered;         /* husk ls knows it */
    int signals;            /* signalfd */
    int parent;             /* pidfd of the client that started us, or -1 */
    int64_t restarting;     /* ms: when the interpreter is killed for another to start; 0: it is not */
    int64_t ending;         /* ms: when to stop waiting for the interpreter; 0: not ending */
    int keep_after_leave;   /* exit(keep_kernel=True) */
    int leave;              /* the cell asked to end the kernel */
    struct {
        int awaited;   /* the first cell was asked for */
        int64_t until; /* ms: it waits so long for a subscriber; 0: it does not */
    } listener;
    int64_t hold_until;     /* ms: a restart: clients are still connecting; 0: cells are run */
    int64_t leave_at;       /* ms: when it ends; clients read the reply while it lives */
    int64_t last_asked;     /* ms: when a request came or was answered */
    int64_t life_over;      /* ms: --lifetime; 0: no end */
    int done;               /* leave the loop */
    int exit_code;
};

/* kernel.c */
int kernel_find_directory(struct kernel *k, struct err *err); /* where cells start, and home */
int kernel_run(struct kernel *k, struct err *err); /* returns an exit code */
void kernel_end(struct kernel *k);                 /* begins an orderly end */
void kernel_fail(struct kernel *k, int exit_code, const struct err *err); /* ends now, says why */

/* The IPython profile of the user that cells see; NULL: none. */
const char *kernel_ipython(const struct kernel *k);
const char *kernel_containment(const struct kernel *k); /* the level that was asked for, by name */
int kernel_in_container(const struct kernel *k);        /* --backend docker */
int kernel_has_root(const struct kernel *k); /* the system that cells see is not this machine's */
void kernel_register(struct kernel *k); /* anew, after a change of its name */

/* dispatch.c */
struct request_type {
    const char *name;
    const char *reply; /* NULL: none */
    int (*check)(struct request *r, struct err *err);
    int frame; /* of interp.def; 0: answered at once */
    void (*answer)(struct kernel *k, struct request *r);
};
void dispatch_socket(struct kernel *k, enum channel channel);
void dispatch_stdin(struct kernel *k);
void dispatch_front(struct kernel *k);
/* REQUEST of front.def. */
void dispatch_request(struct kernel *k, const struct frame *f);
/* Takes what has arrived on shell by now. */
void dispatch_arrived(struct kernel *k);
/* The same, and marks the cells of this shell that an error just aborted (stop_on_error: by order
 * of arrival, not by a timer). */
void dispatch_abort_arrived(struct kernel *k, struct shell *s);

/* reply.c: */
/* One message to the client that sent r. -1: its stdin is not connected yet. */
int reply_message(struct kernel *k, enum channel channel, struct request *r, const char *type, struct bytes metadata,
                  struct bytes content, const struct bytes *buffers, size_t n);
/* Each also publishes idle and frees the request. */
void reply_begin(struct kernel *k, struct request *r); /* busy */
void reply_content(struct kernel *k, struct request *r, struct bytes content,
                   const char *status);
/* As reply_content, with buffers behind it. */
void reply_buffers(struct kernel *k, struct request *r, struct bytes content, const char *status,
                   const struct bytes *buffers, size_t n);
void reply_error(struct kernel *k, struct request *r, const char *ename, const char *evalue);
void reply_aborted(struct kernel *k, struct request *r);
void reply_none(struct kernel *k, struct request *r);

/* interp.c */
void interp_feed(struct kernel *k);     /* gives each shell its next request, if it waits for one */
void interp_start(struct kernel *k);    /* in a built sandbox */
void interp_run(struct kernel *k);      /* hears what it says */
void interp_flush(struct kernel *k);    /* goes on sending what did not fit */
void interp_event(struct kernel *k, const struct frame *event);
/* What runs in the main shell, else what runs in subshells. */
void interp_interrupt(struct kernel *k);
void interp_interrupt_shell(struct kernel *k, struct shell *s);
/* A subshell, or the debugger, begins and ends in the interpreter. */
void interp_open_shell(struct kernel *k, struct shell *s);
void interp_close_shell(struct kernel *k, struct shell *s);
void interp_call_aside(struct kernel *k); /* starts its thread */
void interp_shutdown(struct kernel *k);
/* A new one, in the same sandbox; what is open and what waits is answered. */
void interp_restart(struct kernel *k);
void interp_tick(struct kernel *k, int64_t now);
void interp_ask(struct kernel *k);      /* sends the questions that wait, if it can */
void interp_answer_input(struct kernel *k, struct shell *s, struct bytes text, int refused);
void interp_release(struct kernel *k);
/* Appends the environment of everything that runs in the sandbox. */
int interp_environment(struct kernel *k, struct strv *v);
