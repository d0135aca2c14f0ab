/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which entries of somebody else's archive are unpacked: a table of cases.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "image/entry.h"

static void
entries_that_could_lead_outside_are_refused(void **state)
{
    static const struct {
        struct entry entry;
        const char *why; /* NULL: unpacked; "": left out */
    } cases[] = {
        {{"etc/passwd", S_IFREG, NULL, 10}, NULL},
        {{"./etc/passwd", S_IFREG, NULL, 10}, NULL},
        {{"./", S_IFDIR, NULL, 0}, NULL},
        {{"etc/", S_IFDIR, NULL, 0}, NULL},
        {{"a..b/..c", S_IFREG, NULL, 0}, NULL},
        {{"run/fifo", S_IFIFO, NULL, 0}, NULL},
        {{NULL, S_IFREG, NULL, 0}, "no name"},
        {{"", S_IFREG, NULL, 0}, "no name"},
        {{"/etc/passwd", S_IFREG, NULL, 0}, "absolute"},
        {{"../etc/passwd", S_IFREG, NULL, 0}, "'..'"},
        {{"a/../b", S_IFREG, NULL, 0}, "'..'"},
        {{"a/..", S_IFDIR, NULL, 0}, "'..'"},
        {{"big", S_IFREG, NULL, ENTRY_BYTES_MAX}, NULL},
        {{"big", S_IFREG, NULL, ENTRY_BYTES_MAX + 1}, "beyond all measure"},
        {{"big", S_IFREG, NULL, -1}, "beyond all measure"},
        {{"bin", S_IFLNK, "usr/bin", 0}, NULL},
        {{"etc/mtab", S_IFLNK, "/proc/mounts", 0}, NULL},
        {{"a/b/c", S_IFLNK, "../../d", 0}, NULL},
        {{"a/b/c", S_IFLNK, "../../../d", 0}, "leads outside"},
        {{"./a/./b", S_IFLNK, "../..", 0}, "leads outside"},
        {{"a", S_IFLNK, "b/../../c", 0}, "leads outside"},
        {{"a", S_IFLNK, "", 0}, "names nothing"},
        {{"a", 0, "b", 0}, NULL},
        {{"a", 0, "/etc/shadow", 0}, "leads outside"},
        {{"a", 0, "../etc/shadow", 0}, "leads outside"},
        {{"x/sda", S_IFBLK, NULL, 0}, "device"},
        {{"x/mem", S_IFCHR, NULL, 0}, "device"},
        {{"dev", S_IFCHR, NULL, 0}, "device"},
        {{"devil/x", S_IFCHR, NULL, 0}, "device"},
        {{"a", S_IFSOCK, NULL, 0}, "no file"},
        {{"dev/null", S_IFCHR, NULL, 0}, ""},
        {{"./dev/pts/0", S_IFCHR, NULL, 0}, ""},
        {{"dev/../etc/x", S_IFREG, NULL, 0}, "'..'"},
    };

    for (size_t i = 0; i < countof(cases); i++) {
        const char *want = cases[i].why, *why = NULL;
        enum entry_verdict is = entry_judge(&cases[i].entry, &why);
        enum entry_verdict should = !want ? ENTRY_UNPACK : *want ? ENTRY_REFUSE : ENTRY_LEAVE_OUT;

        if (is != should || (is == ENTRY_REFUSE && !strstr(why, want)))
            fail_msg("case %zu, '%s': %d, '%s'", i, cases[i].entry.name, is, why ? why : "");
    }
}

static void
whiteouts_are_told_from_files(void **state)
{
    static const struct {
        const char *path;
        enum entry_whiteout kind;
        const char *directory, *name;
    } cases[] = {
        {"etc/passwd", ENTRY_IS_NONE, NULL, NULL},
        {".wh.d/file", ENTRY_IS_NONE, NULL, NULL},
        {"etc/.wh.passwd", ENTRY_IS_WHITEOUT, "etc", "passwd"},
        {".wh.etc", ENTRY_IS_WHITEOUT, ".", "etc"},
        {"a/b/.wh..wh..opq", ENTRY_IS_OPAQUE, "a/b", NULL},
        {".wh..wh..opq", ENTRY_IS_OPAQUE, ".", NULL},
        {"a/.wh.", ENTRY_IS_WHITEOUT, "a", ""},
        {"a/.wh..", ENTRY_IS_WHITEOUT, "a", ""},
        {"a/.wh...", ENTRY_IS_WHITEOUT, "a", ""},
        {"a/.wh..wh.plnk", ENTRY_IS_WHITEOUT, "a", ""},
    };

    for (size_t i = 0; i < countof(cases); i++) {
        char directory[ENTRY_NAME_MAX], name[256];
        enum entry_whiteout kind = entry_whiteout(cases[i].path, directory, name);

        if (kind != cases[i].kind || (cases[i].directory && strcmp(directory, cases[i].directory) != 0) ||
            (cases[i].name && strcmp(name, cases[i].name) != 0))
            fail_msg("'%s': %d", cases[i].path, kind);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_that_could_lead_outside_are_refused),
        cmocka_unit_test(whiteouts_are_told_from_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
