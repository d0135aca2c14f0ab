/* SPDX-License-Identifier: BSD-3-Clause
 *
 * aliases.h: addresses of 198.18.0.0/15 that stand for names inside a sandbox.
 *
 * A name keeps its address while it is in the table. The table is bounded: the name that was
 * not used for the longest time makes room. An address is not given to another name before all
 * the others have been: a program that still holds it does not meet the wrong host.
 */
#pragma once

#include "base/names.h"

#define ALIASES 1024

struct alias {
    char name[NAME_SIZE];
    uint32_t hash;    /* of the name: most comparisons end here */
    uint32_t address; /* host order; 0: free */
    uint64_t used;    /* counts uses of the table */
};

/* Zero it to start. */
struct aliases {
    struct alias item[ALIASES];
    uint32_t last; /* offset in the network of the address that was given last */
    uint64_t uses;
};

/* The address of a normalised name, which gets one if it has none. */
uint32_t aliases_address(struct aliases *aliases, const char *name);
/* The name of an address; NULL if it stands for none. Borrowed until the next call. */
const char *aliases_name(struct aliases *aliases, uint32_t address);
