/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/aliases.h"

#include <stdio.h>
#include <string.h>

static struct alias *
find_address(struct aliases *a, uint32_t address)
{
    for (size_t i = 0; i < ALIASES; i++)
        if (a->item[i].address == address)
            return &a->item[i];
    return NULL;
}

/* The next one that nobody has. There are more addresses than entries, so there is one. */
static uint32_t
next_address(struct aliases *a)
{
    uint32_t address;

    do {
        a->last = (a->last + 1) & ~ALIAS_MASK;
        address = ALIAS_NETWORK | a->last;
        /* .0 and .255 are ordinary here, but some programs take them for something else. */
    } while ((address & 0xff) == 0 || (address & 0xff) == 0xff || find_address(a, address));
    return address;
}

uint32_t
aliases_address(struct aliases *a, const char *name)
{
    uint32_t h = text_hash(name);
    struct alias *oldest = &a->item[0];

    for (size_t i = 0; i < ALIASES; i++) {
        struct alias *at = &a->item[i];
        if (at->address && at->hash == h && strcmp(at->name, name) == 0) {
            at->used = ++a->uses;
            return at->address;
        }
        if (at->used < oldest->used)
            oldest = at;
    }
    snprintf(oldest->name, sizeof oldest->name, "%s", name);
    oldest->hash = h;
    oldest->used = ++a->uses;
    oldest->address = next_address(a);
    return oldest->address;
}

const char *
aliases_name(struct aliases *a, uint32_t address)
{
    struct alias *at = address ? find_address(a, address) : NULL;

    if (!at)
        return NULL;
    at->used = ++a->uses;
    return at->name;
}
