/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What an archive of an image says of itself. An entry that is unpacked stays below its directory,
 * and so does what a whiteout removes; of any manifest at all only names come that can be opened
 * below the layout, or an error with words.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/entry.h"
#include "image/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
climbs(const char *path)
{
    return *path == '/' || strcmp(path, "..") == 0 || strncmp(path, "../", 3) == 0 ||
           strstr(path, "/../") || (strlen(path) >= 3 && strcmp(path + strlen(path) - 3, "/..") == 0);
}

static void
judge(char *text, size_t size)
{
    static const mode_t types[] = {0, S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFCHR, S_IFBLK, S_IFSOCK};
    char directory[ENTRY_NAME_MAX], name[256];
    struct entry e = {.type = types[text[0] & 7], .size = size, .name = text + 1};
    const char *why = NULL;

    if (strlen(e.name) + 2 < size)
        e.link = e.name + strlen(e.name) + 1;
    if (entry_judge(&e, &why) == ENTRY_REFUSE) {
        if (!why)
            abort();
        return;
    }
    if (climbs(e.name) || (e.type == 0 && climbs(e.link)) || strlen(e.name) >= ENTRY_NAME_MAX)
        abort();
    if (entry_whiteout(e.name, directory, name) != ENTRY_IS_NONE &&
        (climbs(directory) || climbs(name) || strchr(name, '/')))
        abort();
}

static char directory[] = "/tmp/husk-fuzz-XXXXXX";
static const char *const manifests[] = {"manifest.json", "index.json"};
static int layout = -1;

static void
clean_up(void)
{
    unlinkat(layout, manifests[0], 0);
    unlinkat(layout, manifests[1], 0);
    rmdir(directory);
}

static void
describe(const uint8_t *data, size_t size)
{
    scoped(strv_release) struct strv layers = {0};
    const char *file = manifests[size && (*data & 1)];
    struct err err = {0};
    int fd;

    if (layout < 0) {
        if (!mkdtemp(directory) || (layout = open(directory, O_PATH | O_DIRECTORY)) < 0)
            abort();
        atexit(clean_up);
    }
    fd = openat(layout, file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || fd_write_all(fd, data, size) < 0)
        abort();
    close(fd);
    if (layout_layers(layout, "an image", &layers, &err) < 0 && !*err.text)
        abort();
    for (size_t i = 0; i < layers.len; i++)
        if ((fd = layout_open(layout, "an image", layers.item[i], &err)) >= 0) {
            if (strcmp(layers.item[i], file) != 0)
                abort(); /* there is no other file */
            close(fd);
        }
    unlinkat(layout, file, 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = calloc(1, size + 2);

    if (!text)
        abort();
    if (size)
        memcpy(text, data, size);
    judge(text, size + 2);
    free(text);
    describe(data, size);
    return 0;
}
