/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/stamp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static unsigned long long
modified(const struct stat *st)
{
    return (unsigned long long)st->st_mtim.tv_sec * 1000000000u + (unsigned long long)st->st_mtim.tv_nsec;
}

int
stamp_add(const char *path, struct buf *ret)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return buf_printf(ret, "0 0 0 %s\n", path);
    return buf_printf(ret, "%llu %llu %llu %s\n", modified(&st), (unsigned long long)st.st_size,
                      (unsigned long long)st.st_ino, path);
}

int
stamp_check(const char *line, struct err *err)
{
    unsigned long long then, size, inode;
    struct stat st;
    char *end;

    then = strtoull(line, &end, 10);
    size = strtoull(end, &end, 10);
    inode = strtoull(end, &end, 10);
    if (*end != ' ' || end[1] != '/')
        return err_set(err, EINVAL, "a list of files is damaged");
    if (stat(end + 1, &st) < 0)
        memset(&st, 0, sizeof st);
    if (modified(&st) != then || (then && ((unsigned long long)st.st_size != size || st.st_ino != inode)))
        return err_set(err, ESTALE, "'%s' has changed since", end + 1);
    return 0;
}

int
stamp_check_all(char *text, struct err *err)
{
    char *line;

    while ((line = strsep(&text, "\n")))
        if (*line && stamp_check(line, err) < 0)
            return -1;
    return 0;
}
