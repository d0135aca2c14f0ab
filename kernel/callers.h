/* SPDX-License-Identifier: BSD-3-Clause
 *
 * callers.h: commands of the command line that speak to a kernel: connections to the socket beside its entry
 * in the registry (registry_listen()), each a stream of frames (front.def).
 *
 * The directory is its owner's alone. With containment landlock cells are processes of the owner too, and
 * nothing keeps them from connecting: so who connects shows the key of the connection file first, which no
 * cell can read, and until then nothing else of it is read, and not much. After that its requests are what those of
 * any client are. Callers hear replies and nothing of iopub.
 *
 * One that does not read its replies is not read any more, so that they cannot fill the memory. When one has hung up
 * without STAY, husk-agent hears of it (operations_gone()).
 */
#pragma once

#include <stdint.h>

#include "base/base.h"

struct kernel;
struct request;

#define CALLERS_FIRST 0x40000000u      /* they are numbered from here on; clients of husk serve below */
#define CALLERS_MAX 512                /* connections: of 1024 descriptors that a process usually may have the rest is left */
#define CALLERS_STRANGERS_MAX 16       /* that have not shown the key: the oldest is put out for another */
#define CALLERS_OUT_MAX (8u << 20)     /* bytes of replies that wait: then it is not read */

struct caller;

struct callers {
    int epoll, listener; /* -1: closed */
    struct caller *first; /* the newest */
    size_t count, strangers;
    uint32_t last;       /* number that was given last */
    int again;           /* frames have come that had no turn yet */
    int64_t rest;        /* ms: there was no descriptor for who comes, who waits until then; 0: let in */
};
#define CALLERS_NONE ((struct callers){.epoll = -1, .listener = -1})

/* A kernel whose socket cannot be opened runs all the same, and says so. */
void callers_open(struct kernel *k, const char *id);
/* Call when `epoll` is readable, `again`, or when `rest` is over. */
void callers_run(struct kernel *k);
/* Of who asked so; 0: it came another way. */
uint32_t callers_number(const struct request *r);
/* To one that has gone: nothing. */
void callers_message(struct kernel *k, uint32_t number, uint32_t channel, const struct bytes part[static 4],
                     const struct bytes *buffers, size_t n);
void callers_release(struct kernel *k);
