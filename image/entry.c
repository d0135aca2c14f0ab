/* SPDX-License-Identifier: BSD-3-Clause */
#include "image/entry.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* How far below the top a path ends, "." and empty names aside; -1 if it climbs above it at any
 * place. `from`: where it begins. */
static int
depth(const char *path, int from)
{
    for (const char *at = path; *at;) {
        size_t len = strcspn(at, "/");
        if (len == 2 && strncmp(at, "..", 2) == 0)
            from--;
        else if (len > 0 && !(len == 1 && *at == '.'))
            from++;
        if (from < 0)
            return -1;
        at += len + (at[len] == '/');
    }
    return from;
}

static int
has_parent(const char *path)
{
    for (const char *at = path; *at;) {
        size_t len = strcspn(at, "/");
        if (len == 2 && strncmp(at, "..", 2) == 0)
            return 1;
        at += len + (at[len] == '/');
    }
    return 0;
}

static const char *
why_no_name(const char *name)
{
    if (!name || !*name)
        return "it has no name";
    if (strlen(name) >= ENTRY_NAME_MAX)
        return "its name is too long";
    if (*name == '/')
        return "its name is absolute";
    return has_parent(name) ? "its name has '..'" : NULL;
}

/* An absolute symbolic link begins at the root that is unpacked here. */
static const char *
why_no_link(const struct entry *e)
{
    if (!e->link || !*e->link || strlen(e->link) >= ENTRY_NAME_MAX)
        return "its link names nothing";
    if (e->type == 0)
        return *e->link == '/' || has_parent(e->link) ? "its hard link leads outside" : NULL;
    return *e->link != '/' && depth(e->link, depth(e->name, 0) - 1) < 0
               ? "its link leads outside" : NULL;
}

static int
is_below_dev(const char *name)
{
    while (strncmp(name, "./", 2) == 0)
        name += 2;
    return strncmp(name, "dev/", 4) == 0 && name[4];
}

enum entry_verdict
entry_judge(const struct entry *e, const char **why)
{
    *why = why_no_name(e->name);
    if (!*why && (e->size < 0 || e->size > ENTRY_BYTES_MAX))
        *why = "its size is beyond all measure";
    if (!*why && (e->type == 0 || S_ISLNK(e->type)))
        *why = why_no_link(e);
    if (*why)
        return ENTRY_REFUSE;
    if (is_below_dev(e->name))
        return ENTRY_LEAVE_OUT;
    if (e->type != 0 && !S_ISREG(e->type) && !S_ISDIR(e->type) && !S_ISLNK(e->type) &&
        !S_ISFIFO(e->type))
        *why = S_ISCHR(e->type) || S_ISBLK(e->type) ? "it is a device" : "it is no file";
    return *why ? ENTRY_REFUSE : ENTRY_UNPACK;
}

enum entry_whiteout
entry_whiteout(const char *path, char directory[static ENTRY_NAME_MAX], char name[static 256])
{
    const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path;

    if (strncmp(last, ".wh.", 4) != 0 || strlen(last) >= 256)
        return ENTRY_IS_NONE;
    snprintf(directory, ENTRY_NAME_MAX, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    snprintf(name, 256, "%s", last + 4);
    if (strcmp(last, ".wh..wh..opq") == 0)
        return ENTRY_IS_OPAQUE;
    /* ".wh.", ".wh..", ".wh...": nothing that can be removed; names of aufs: nothing to unpack */
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strncmp(name, ".wh.", 4) == 0)
        *name = 0;
    return ENTRY_IS_WHITEOUT;
}
