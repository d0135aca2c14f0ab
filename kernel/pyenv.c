/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/pyenv.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCRIPT_BYTES 4096 /* a shim has some hundred */

/* Bytes of ROOT in ROOT/shims/NAME; 0: it has another form. */
static size_t
root_of(const char *python)
{
    const char *end = strrchr(python, '/');
    size_t len = end ? (size_t)(end - python) : 0;

    return *python == '/' && len > 6 && strncmp(end - 6, "/shims", 6) == 0 ? len - 6 : 0;
}

static int
is_script_of(const char *python, size_t root)
{
    scoped(buf_release) struct buf text = {0};
    char names[PATH_MAX + 32];

    if (file_read(AT_FDCWD, python, SCRIPT_BYTES, &text) < 0 || !buf_string(&text) ||
        snprintf(names, sizeof names, "PYENV_ROOT=\"%.*s\"", (int)root, python) >= (int)sizeof names)
        return 0;
    return strncmp((char *)text.data, "#!", 2) == 0 && strstr((char *)text.data, names) &&
           strstr((char *)text.data, "pyenv\" exec \"$program\"");
}

/* .python-version in the working directory and in each one above it. */
static int
add_local_files(struct strv *ret)
{
    char here[PATH_MAX];

    if (!getcwd(here, sizeof here) || *here != '/')
        return -1;
    for (;;) {
        char *slash = strrchr(here, '/');
        if (strv_addf(ret, "%s/.python-version", strcmp(here, "/") == 0 ? "" : here) < 0)
            return -1;
        if (slash == here)
            break;
        *slash = 0;
    }
    return strv_add(ret, "/.python-version");
}

int
pyenv_shim(const char *python, struct strv *ret)
{
    /* The directories change when a version, a hook or a plugin comes or goes. */
    static const char *const files[] = {"version", "versions", "plugins", "pyenv.d", "libexec", "libexec/pyenv"};
    size_t root = root_of(python);
    int bad;

    if (!root || getenv("PYENV_DIR") || getenv("PYENV_HOOK_PATH") || !is_script_of(python, root))
        return 0;
    bad = add_local_files(ret) < 0;
    for (size_t i = 0; !bad && i < countof(files); i++)
        bad = strv_addf(ret, "%.*s/%s", (int)root, python, files[i]) < 0;
    return !bad;
}

int
pyenv_has(const char *python, const char *executable)
{
    size_t root = root_of(python);

    return root && strncmp(executable, python, root) == 0 && strncmp(executable + root, "/versions/", 10) == 0;
}
