/* SPDX-License-Identifier: BSD-3-Clause
 *
 * frozen.h: a frozen interpreter: a file from which husk-thaw makes a running one.
 *
 * A Python of one thread, in which everything is imported that cells need and no code of a user ever
 * ran, writes its memory into a stream (interpreter/freeze.c). The supervisor makes a file of it. Later,
 * in a sandbox that is like any other, husk-init executes husk-thaw where it would execute Python; that
 * receives the file over the interpreter's socket, maps it where it was, and goes on from there. What
 * is not written to is shared by all that were thawed from one file, as pages of the page cache.
 *
 * So a thawed interpreter has the namespaces, credentials, filters, limits and descriptors of a cold one because
 * it took the same steps (sandbox/join.h), and nobody trusts what is in the file: it is mapped only by a
 * process that may do no more than the code in it could have done anyway.
 *
 *     head | regions | patches | names | contents, at page boundaries
 *
 * Numbers are of this machine: the file never leaves it, nor outlives its boot.
 */
#pragma once

#include <stdint.h>

#define FROZEN_MAGIC 0x315a4f52464b5348ull /* "HSKFROZ1" */
#define FROZEN_TABLES (512u << 10) /* bytes: head, regions, patches and names together */
#define FROZEN_REGIONS 4096
#define FROZEN_PATCHES 4096
#define FROZEN_SIZE (1ull << 30) /* bytes: no interpreter that is worth it is larger */
#define FROZEN_STACK (128u << 10) /* bytes below what is used of the stack; it grows from there */

enum frozen_kind {
    FROZEN_DATA,  /* private pages of the file */
    FROZEN_ZERO,  /* nothing was ever written there */
    FROZEN_STACK_BELOW, /* the same, and it grows downwards */
    FROZEN_FILE,  /* unchanged pages of another file, whose name is at `name` */
};

struct frozen_region {
    uint64_t start, size; /* bytes, page boundaries */
    uint64_t at;          /* offset in the file that it comes from */
    uint32_t kind, prot;  /* PROT_* of <sys/mman.h> */
    uint32_t name, shared; /* of FROZEN_FILE: offset among the names; mapped MAP_SHARED */
    uint64_t inode, length, modified; /* of that file: it must be the same; nanoseconds */
};

/* rip, rsp, rbp, rbx, r12 to r15 */
#define FROZEN_REGISTERS 8

struct frozen_head {
    uint64_t magic, size; /* of the file, bytes */
    uint32_t regions, patches, names, unused; /* two counts; bytes */
    uint64_t contents;  /* offset of the first page */
    uint64_t registers[FROZEN_REGISTERS];
    uint64_t thread;    /* base of the thread's own storage */
    uint64_t vdso, vdso_size; /* where it was; each patch is the address of a pointer into it */
    uint64_t told;      /* the address of a struct frozen_told */
};

/* What husk-thaw leaves for the interpreter. */
struct frozen_told {
    uint64_t environment; /* of execve: a vector that ends in NULL */
    uint64_t start, end;  /* of husk-thaw itself, which nobody needs any more */
    uint64_t arguments;   /* how many there were */
    uint64_t image;       /* all of the file once more, to read; where no page of it was looked at it costs nothing */
};
