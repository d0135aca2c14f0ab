/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/recall.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/paths.h"
#include "kernel/pyenv.h"
#include "kernel/stamp.h"

#define ANSWER_BYTES (1 << 20)
#define NAME_BYTES 16
#define DIVIDER "\n--\n" /* stamps, then the answer */

/* Of the environment probe.py and what it is run with look at these. */
static const char *const variables[] = {"HOME", "PATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONPATH", "LD_LIBRARY_PATH",
                                        "LD_PRELOAD", "LANG", "LC_ALL", "LC_CTYPE", "PYENV_VERSION"};

static int
is_program(const char *path)
{
    char magic[4];
    scoped(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    return fd >= 0 && read(fd, magic, sizeof magic) == sizeof magic && memcmp(magic, "\177ELF", 4) == 0;
}

/* Whether an answer can be kept at all; *ret is what it depends on besides the program and what that looked at. */
static int
can_be_kept(const char *python, struct strv *ret)
{
    return *python == '/' && (is_program(python) || pyenv_shim(python, ret));
}

static int
name_file(const char *python, const struct strv *chosen_by, char ret[static PATH_MAX])
{
    struct err unused;
    scoped(str_free) char *directory = paths_state("python", &unused);
    crypto_generichash_state state;
    unsigned char hash[NAME_BYTES];
    char name[2 * NAME_BYTES + 1];
    struct stat st;

    if (!directory || lstat(directory, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        return -1;
    crypto_generichash_init(&state, NULL, 0, sizeof hash);
    crypto_generichash_update(&state, (const unsigned char *)HUSK_VERSION, sizeof HUSK_VERSION);
    crypto_generichash_update(&state, (const unsigned char *)python, strlen(python) + 1);
    for (size_t i = 0; i < countof(variables); i++) {
        const char *value = getenv(variables[i]);
        crypto_generichash_update(&state, (const unsigned char *)(value ? "=" : "-"), 1);
        if (value)
            crypto_generichash_update(&state, (const unsigned char *)value, strlen(value) + 1);
    }
    for (size_t i = 0; i < chosen_by->len; i++)
        crypto_generichash_update(&state, (const unsigned char *)chosen_by->item[i], strlen(chosen_by->item[i]) + 1);
    crypto_generichash_final(&state, hash, sizeof hash);
    sodium_bin2hex(name, sizeof name, hash, sizeof hash);
    return snprintf(ret, PATH_MAX, "%s/%s", directory, name) < PATH_MAX - 16 ? 0 : -1;
}

int
recall_load(const char *python, struct buf *ret)
{
    scoped(buf_release) struct buf text = {0};
    scoped(strv_release) struct strv chosen_by = {0};
    scoped(fd_close) int fd = -1;
    char path[PATH_MAX], *divider;
    struct stat st;
    struct err unused;

    if (!can_be_kept(python, &chosen_by) || name_file(python, &chosen_by, path) < 0)
        return -1;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) ||
        st.st_size > ANSWER_BYTES || buf_reserve(&text, (size_t)st.st_size + 1) < 0 ||
        read(fd, text.data, (size_t)st.st_size) != st.st_size)
        return -1;
    text.data[st.st_size] = 0;
    divider = strstr((char *)text.data, DIVIDER);
    if (!divider)
        return -1;
    *divider = 0;
    divider += strlen(DIVIDER);
    if (stamp_check_all((char *)text.data, &unused) < 0)
        return -1;
    return buf_text(ret, divider);
}

static int
write_file(const char *path, const struct buf *text)
{
    char fresh[PATH_MAX + 32];
    scoped(fd_close) int fd = -1;

    snprintf(fresh, sizeof fresh, "%s.%d", path, (int)getpid());
    fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0 && fd_write_all(fd, text->data, text->len) == 0 && rename(fresh, path) == 0)
        return 0;
    if (fd >= 0)
        (void)unlink(fresh);
    return -1;
}

/* A shim's answer counts only together with the Python that it chose. */
static int
add_choice(const char *python, const char *executable, const struct strv *chosen_by, struct buf *stamps)
{
    int bad = !pyenv_has(python, executable) || stamp_add(executable, stamps) < 0;

    for (size_t i = 0; !bad && i < chosen_by->len; i++)
        bad = stamp_add(chosen_by->item[i], stamps) < 0;
    return bad ? -1 : 0;
}

void
recall_save(const char *python, struct bytes answer)
{
    scoped(buf_release) struct buf text = {0}, lines = {0};
    scoped(strv_release) struct strv chosen_by = {0};
    char path[PATH_MAX], *rest, *line;
    int bad = !can_be_kept(python, &chosen_by) || name_file(python, &chosen_by, path) < 0 || stamp_add(python, &text) < 0 ||
              buf_add(&lines, answer.data, answer.len) < 0 || !buf_string(&lines);

    if (bad)
        return;
    rest = (char *)lines.data;
    while (!bad && (line = strsep(&rest, "\n")))
        if (strncmp(line, "looked=/", 8) == 0)
            bad = stamp_add(line + 7, &text) < 0;
        else if (chosen_by.len && strncmp(line, "executable=", 11) == 0)
            bad = add_choice(python, line + 11, &chosen_by, &text) < 0;
    bad = bad || buf_text(&text, &DIVIDER[1]) < 0 || buf_add(&text, answer.data, answer.len) < 0;
    if (!bad)
        (void)write_file(path, &text);
}
