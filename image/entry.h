/* SPDX-License-Identifier: BSD-3-Clause
 *
 * entry.h: which entries of an archive are unpacked. Somebody else made it: what could lead
 * outside of the directory, or is no part of a file system, is refused, and with it the archive.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#define ENTRY_BYTES_MAX (64ll << 30)
#define ENTRY_NAME_MAX 4096

struct entry {
    const char *name; /* as in the archive */
    mode_t type;      /* S_IFMT; 0: a hard link */
    const char *link; /* of a symbolic or hard link, else NULL */
    int64_t size;     /* bytes */
};

enum entry_verdict {
    ENTRY_UNPACK,
    ENTRY_LEAVE_OUT, /* husk has its own: what lies below /dev */
    ENTRY_REFUSE,
};

/* *why is set for ENTRY_REFUSE. */
enum entry_verdict entry_judge(const struct entry *entry, const char **why);

/* OCI image layers: an entry whose last name begins with .wh. removes what lower layers have there;
 * .wh..wh..opq removes all that they have in its directory. */
enum entry_whiteout { ENTRY_IS_NONE, ENTRY_IS_WHITEOUT, ENTRY_IS_OPAQUE };

/* `directory` becomes its directory ("." for the top), `name` what is removed in it. */
enum entry_whiteout entry_whiteout(const char *path, char directory[static ENTRY_NAME_MAX],
                                   char name[static 256]);
