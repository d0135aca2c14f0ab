/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ring.h: shared memory through which Python's text leaves the interpreter without a system
 * call for each print, and by which the order of everything that a cell emits is kept.
 *
 * A cell emits through four ways: text of sys.stdout and sys.stderr (the ring), what C code
 * and child processes write to descriptors 1 and 2 (two pipes), and frames (interp.def). The
 * ring is the time line that ties them together:
 *
 *   - A TEXT record is text of one stream, for one request.
 *   - Before a record or a frame, the writer learns how many bytes have ever been written to
 *     each pipe: what the reader has taken so far (struct progress), plus what FIONREAD says is
 *     still inside if epoll(7) says that something is. If that has changed since the last time,
 *     a MARK record says it: those bytes come before what follows. One cheap system call, then,
 *     for each write of Python's.
 *   - A frame carries the position of the ring's head: the records below come before it.
 *
 * The reader (kernel/timeline.c) takes in turn: the pipes, then the head, then the socket; it
 * emits records up to each frame's mark, pipes up to each MARK, and what is left over last.
 * For one writing thread and the children it waits for, that is the order of the source.
 *
 * The memory is written by hostile code: the reader copies a record out before it looks at
 * it, checks each length against what is there, and takes a mark that cannot be reached as
 * reached. Only the ring is writable for the interpreter; struct progress is not.
 *
 * The doorbell: when the reader is about to sleep it sets `bell` to a new number. A writer that
 * sees a number for the first time sends one DOORBELL frame. While text flows the reader looks
 * by itself every few milliseconds, and the writer makes no system call for it, unless the ring
 * is full before that: then it rings, and waits for `tail_futex`.
 */
#pragma once

#include <stdint.h>

#define RING_BYTES (256u << 10) /* a power of two */

enum ring_kind { RING_STDOUT = 1, RING_STDERR = 2, RING_MARK = 3 };

struct ring_record {
    uint32_t kind; /* enum ring_kind */
    uint32_t slot; /* the request that the text belongs to */
    uint32_t len;  /* bytes that follow: text, or two uint64_t of a MARK */
};

/* Start of the ring's memfd; the bytes follow at RING_OFFSET and wrap around. */
struct ring {
    uint64_t head;    /* bytes ever written; written by the interpreter */
    uint32_t stalled; /* 1 while a writer waits on progress.tail_futex */
    /* Last words of an interpreter that the system call filter stops: which call it was. Nobody
     * else is told (seccomp(2): only the handler of SIGSYS is). */
    uint32_t refused_abi; /* AUDIT_ARCH_...; 0: none was */
    uint32_t refused_call;
};
#define RING_OFFSET 4096
#define RING_MAP (RING_OFFSET + RING_BYTES)

/* The progress memfd, written by the supervisor only. */
struct progress {
    uint64_t tail;       /* bytes of the ring taken so far */
    uint32_t tail_futex; /* changes when tail does */
    uint32_t seq;        /* odd while `drained` is being changed */
    uint64_t drained[2]; /* bytes taken from the pipes of descriptors 1 and 2 */
    uint32_t bell;       /* 0: the reader is awake */
};
#define PROGRESS_MAP 4096
