/* SPDX-License-Identifier: BSD-3-Clause */
#include "image/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "image/digest.h"

#define JSON_MAX (4 << 20)
#define LAYERS_MAX 512
#define NESTED_MAX 4
#define BLOBS "blobs/sha256/"

int
layout_open(int layout, const char *what, const char *name, struct err *err)
{
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    scoped(fd_close) int fd = (int)syscall(SYS_openat2, layout, name, &how, sizeof how);
    char digest[DIGEST_HEX];
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, "'%s': open '%s'", what, name);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EBADMSG, "'%s': '%s' is no file", what, name);
    if (strncmp(name, BLOBS, strlen(BLOBS)) == 0) {
        if (digest_of(fd, digest, err) < 0)
            return -1;
        if (strcmp(digest, name + strlen(BLOBS)) != 0)
            return err_set(err, EBADMSG, "'%s': '%s' has another digest than its name", what, name);
    }
    r = fd;
    fd = -1; /* moved to the caller */
    return r;
}

static json_t *
load(int layout, const char *what, const char *name, struct err *err)
{
    scoped(fd_close) int fd = layout_open(layout, what, name, err);
    scoped(buf_release) struct buf text = {0};
    json_error_t why;
    json_t *json;
    ssize_t n = 1;

    if (fd < 0)
        return NULL;
    while (n > 0 && text.len <= JSON_MAX && buf_reserve(&text, 1 << 16) == 0)
        if ((n = read(fd, text.data + text.len, 1 << 16)) > 0)
            text.len += (size_t)n;
    if (n != 0) {
        err_set(err, EBADMSG, "'%s': '%s' cannot be read or is too long", what, name);
        return NULL;
    }
    json = json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        err_set(err, EBADMSG, "'%s': '%s': %s", what, name, why.text);
    return json;
}

/* "sha256:HEX" -> its file; other digests are not known here. */
static int
blob_name(json_t *object, char into[static 96])
{
    const char *digest = json_string_value(json_object_get(object, "digest"));

    if (!digest || strncmp(digest, "sha256:", 7) != 0 || strlen(digest) != 7 + 64 ||
        strspn(digest + 7, "0123456789abcdef") != 64)
        return -1;
    memcpy(into, BLOBS, strlen(BLOBS));
    memcpy(into + strlen(BLOBS), digest + 7, 65);
    return 0;
}

static int
bad(const char *what, struct err *err)
{
    return err_set(err, EBADMSG, "'%s' describes no image that husk knows", what);
}

/* Of docker save: one image, its layers by name. */
static int
layers_of_docker(json_t *manifest, const char *what, struct strv *ret, struct err *err)
{
    json_t *layers = json_object_get(json_array_get(manifest, 0), "Layers"), *layer;
    size_t i;

    if (json_array_size(manifest) > 1)
        return err_set(err, EINVAL, "'%s' holds %zu images; save one", what, json_array_size(manifest));
    if (json_array_size(layers) == 0 || json_array_size(layers) > LAYERS_MAX)
        return bad(what, err);
    json_array_foreach(layers, i, layer) {
        if (!json_is_string(layer))
            return bad(what, err);
        if (strv_add(ret, json_string_value(layer)) < 0)
            return err_errno(err, "keep the layers");
    }
    return 0;
}

static int
layers_of_manifest(json_t *manifest, const char *what, struct strv *ret, struct err *err)
{
    json_t *layers = json_object_get(manifest, "layers"), *layer;
    char name[96];
    size_t i;

    if (json_array_size(layers) == 0 || json_array_size(layers) > LAYERS_MAX)
        return bad(what, err);
    json_array_foreach(layers, i, layer) {
        if (blob_name(layer, name) < 0)
            return bad(what, err);
        if (strv_add(ret, name) < 0)
            return err_errno(err, "keep the layers");
    }
    return 0;
}

/* Whether this is for this machine; what does not say is. */
static int
fits(json_t *entry)
{
    static const char *const names[][2] = {{"x86_64", "amd64"}, {"aarch64", "arm64"}};
    json_t *platform = json_object_get(entry, "platform");
    const char *has = json_string_value(json_object_get(platform, "architecture"));
    struct utsname u;

    if (!has)
        return 1;
    uname(&u);
    for (size_t i = 0; i < countof(names); i++)
        if (strcmp(u.machine, names[i][0]) == 0)
            return strcmp(has, names[i][1]) == 0;
    return strcmp(has, u.machine) == 0;
}

/* An index names manifests, or other indices. */
static int
layers_of_index(int layout, const char *what, const char *file, int depth, struct strv *ret,
                struct err *err)
{
    json_auto_t *json = load(layout, what, file, err);
    json_t *manifests = json_object_get(json, "manifests"), *entry;
    char name[96];
    size_t i;

    if (!json)
        return -1;
    if (!manifests)
        return layers_of_manifest(json, what, ret, err);
    json_array_foreach(manifests, i, entry)
        if (fits(entry) && depth < NESTED_MAX && blob_name(entry, name) == 0)
            return layers_of_index(layout, what, name, depth + 1, ret, err);
    return err_set(err, ENOTSUP, "'%s' holds no image for this machine", what);
}

int
layout_layers(int layout, const char *what, struct strv *ret, struct err *err)
{
    json_auto_t *manifest = NULL;

    if (faccessat(layout, "manifest.json", F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return layers_of_index(layout, what, "index.json", 0, ret, err);
    manifest = load(layout, what, "manifest.json", err);
    return manifest ? layers_of_docker(manifest, what, ret, err) : -1;
}
