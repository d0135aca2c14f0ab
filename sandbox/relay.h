/* SPDX-License-Identifier: BSD-3-Clause
 *
 * relay.h: what a broker does once its sandbox is there, however it was built: it passes orders of
 * the supervisor to pid 1 and what comes back, with the cause of a death added, looks after limits,
 * layers, network and ports, and takes everything down when the supervisor's end of the socket
 * closes. husk-sandbox and husk-docker differ in what they do before that, and in the few functions
 * of struct relay_kind.
 */
#pragma once

#include "sandbox/build.h"
#include "sandbox/changes.h"
#include "sandbox/disk.h"
#include "sandbox/layers.h"
#include "sandbox/memory.h"
#include "sandbox/ports.h"
#include "sandbox/uplink.h"
#include "wall/frame.h"

struct relay;

struct relay_kind {
    const char *program; /* its name, for the log */
    /* Ends every process of the sandbox and waits for it. */
    void (*end)(struct relay *b);
    /* Once the supervisor waits no longer: removes what takes its time. May be NULL. */
    void (*remove)(struct relay *b);
    /* In a process of its own: what brokers that were killed left, beside layers. May be NULL. */
    void (*sweep)(const struct relay *b);
    /* The path of husk-ports inside the sandbox, where it must be started there. May be NULL. */
    const char *(*ports_inside)(const struct relay *b);
    /* What a person can do about a step that failed, or "". */
    const char *(*advice)(const struct relay *b, const char *step, int code);
    /* Pid 1 is gone: why, if that is known. May be NULL. */
    void (*explain_end)(const struct relay *b, struct err *err);
};

struct relay {
    const struct relay_kind *kind;
    struct policy policy;
    struct limits limits;
    struct layers layers;
    struct disk disk;
    struct memory memory;
    struct changes changes;
    struct sandbox sandbox;
    struct uplink uplink;
    struct ports ports;
    const char *ports_program;
    pid_t sweeper;    /* 0: none, or done */
    struct buf rules; /* of Landlock, as parts of POLICY */
    size_t nrules;
    int pretends; /* the third program is that of PRETEND (syscalls.def) */
    int partly;             /* the working directory is not given whole */
    struct buf environment; /* of a container's image: NAME=VALUE, each ends in NUL */
    struct buf packet;
};
#define RELAY_EMPTY                                                                            \
    ((struct relay){.limits = LIMITS_EMPTY, .layers = LAYERS_EMPTY, .disk = DISK_EMPTY,        \
                    .memory = MEMORY_EMPTY, .changes = CHANGES_EMPTY, .sandbox = SANDBOX_EMPTY, .uplink = UPLINK_EMPTY, \
                    .ports = PORTS_EMPTY})

/* The beginning of main(): descriptor 3 is the supervisor's, signals, a session of its own. -1: this
 * program was not started by husk. */
int relay_begin(const struct relay_kind *kind, struct relay *ret);

/* The first frame, BUILD or CHECK: 1 with *ret, which is borrowed from b->packet. */
int relay_hear_order(struct relay *b, struct frame *ret, struct err *err);

/* Whether the rules fit into POLICY. */
int relay_check_rules(const struct relay *b, struct err *err);
/* POLICY for pid 1. */
int relay_send_policy(struct relay *b, struct err *err);

/* The answers to BUILD. */
int relay_tell_built(struct relay *b, struct err *err);
int relay_tell_failure(const struct relay *b, const struct build_failure *failure, struct err *err);

/* Until one of both ends is gone, which is told as an error: with code 0 if it is the supervisor's. */
int relay_serve(struct relay *b, struct err *err);

/* The end of main(): `r` and *err are what relay_serve() or what came before it said. Returns the
 * exit status. */
int relay_end(struct relay *b, int r, const struct err *err);
