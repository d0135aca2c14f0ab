/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernel/conn.h"
#include "kernel/paths.h"

#define ENTRY_MAX 65536

char *
registry_directory(struct err *err)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    char *path;

    if (!base || *base != '/' || stat(base, &st) < 0 || st.st_uid != geteuid())
        return paths_state("run", err);
    if (asprintf(&path, "%s/husk", base) < 0) {
        err_errno(err, "name the runtime directory");
        return NULL;
    }
    if ((mkdir(path, 0700) < 0 && errno != EEXIST) || lstat(path, &st) < 0)
        err_errno(err, "make '%s'", path);
    else if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        err_set(err, EPERM, "'%s' is no directory that is yours alone", path);
    else
        return path;
    free(path);
    return NULL;
}

int
registry_is_name(const char *name)
{
    size_t len = strlen(name);

    return len > 0 && len <= 64 && *name != '-' && *name != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

/* Clock ticks after boot when that process started; 0: there is none. */
static unsigned long long
start_of(pid_t pid)
{
    scoped(buf_release) struct buf text = {0};
    unsigned long long ticks = 0;
    char path[64], *at;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (file_read(AT_FDCWD, path, 4096, &text) < 0 || !buf_string(&text) ||
        !(at = strrchr((char *)text.data, ')')))
        return 0;
    if (at[1] && at[2] == 'Z')
        return 0;
    return sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                  &ticks) == 1 ? ticks : 0;
}

int
registry_is_alive(const struct registry_entry *e)
{
    return start_of(e->pid) == e->started;
}

int
registry_put(const struct registry_entry *e, struct err *err)
{
    scoped(str_free) char *directory = registry_directory(err), *text = NULL;
    char path[4400], fresh[4420];
    scoped(fd_close) int fd = -1;
    json_t *json;

    if (!directory)
        return -1;
    json = json_pack("{ss ss ss ss ss ss sI sI}", "id", e->id, "name", e->name ? e->name : "",
                     "connection_file", e->connection_file, "profile", e->profile, "directory", e->directory,
                     "created_at", e->created, "pid", (json_int_t)getpid(), "started",
                     (json_int_t)start_of(getpid()));
    text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text) /* a path that is no UTF-8: no command finds this kernel, and it runs all the same */
        return err_set(err, EILSEQ, "this kernel has a path that is no UTF-8");
    snprintf(path, sizeof path, "%s/%s.json", directory, e->id);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0 || rename(fresh, path) < 0)
        return err_errno(err, "write '%s'", path);
    return 0;
}

#define CONNECTION ".connection"

static int
name_connection(char *ret_path, size_t size, struct err *err)
{
    scoped(str_free) char *directory = registry_directory(err);
    unsigned char random[6];
    char name[13];

    if (!directory)
        return -1;
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(name, sizeof name, random, sizeof random);
    snprintf(ret_path, size, "%s/%s" CONNECTION, directory, name);
    return 0;
}

/* `where`: transport, ip and ports, as they stand in the file. */
static int
write_connection(const char *path, const char *where, struct err *err)
{
    scoped(fd_close) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    unsigned char random[32];
    char key[65], text[5000];

    randombytes_buf(random, sizeof random);
    sodium_bin2hex(key, sizeof key, random, sizeof random);
    snprintf(text, sizeof text, "{%s,\"signature_scheme\":\"hmac-sha256\",\"key\":\"%s\"}\n", where, key);
    if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0)
        return err_errno(err, "write '%s'", path);
    sodium_memzero(random, sizeof random);
    sodium_memzero(key, sizeof key);
    sodium_memzero(text, sizeof text);
    return 0;
}

int
registry_connection(char *ret_path, size_t size, struct err *err)
{
    char where[4700];

    if (name_connection(ret_path, size, err) < 0)
        return -1;
    snprintf(where, sizeof where,
             "\"transport\":\"ipc\",\"ip\":\"%.*s\",\"shell_port\":1,\"iopub_port\":2,\"stdin_port\":3,"
             "\"control_port\":4,\"hb_port\":%d",
             (int)(strlen(ret_path) - strlen(CONNECTION)), ret_path, REGISTRY_HB_PORT);
    return write_connection(ret_path, where, err);
}

int
registry_tcp_connection(char *ret_path, size_t size, const char *ip, const int *port, struct err *err)
{
    char where[512];
    int len = snprintf(where, sizeof where, "\"transport\":\"tcp\",\"ip\":\"%.200s\"", ip);

    for (int c = 0; c < CHANNELS; c++)
        len += snprintf(where + len, sizeof where - (size_t)len, ",\"%s_port\":%d", channel_names[c], port[c]);
    return name_connection(ret_path, size, err) < 0 ? -1 : write_connection(ret_path, where, err);
}

/* Where it is: by the open directory, as a socket's address has room for 107 characters. */
static int
socket_at(const char *id, struct sockaddr_un *ret, int *ret_directory, struct err *err)
{
    scoped(str_free) char *directory = registry_directory(err);

    if (!directory)
        return -1;
    *ret_directory = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*ret_directory < 0)
        return err_errno(err, "open '%s'", directory);
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (snprintf(ret->sun_path, sizeof ret->sun_path, "%s/%s.socket", directory, id) >= (int)sizeof ret->sun_path)
        snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d/%s.socket", *ret_directory, id);
    return 0;
}

int
registry_listen(const char *id, struct err *err)
{
    scoped(fd_close) int directory = -1;
    struct sockaddr_un at;
    mode_t mask;
    int fd, r;

    if (socket_at(id, &at, &directory, err) < 0)
        return -1;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mask = umask(077);
    r = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&at, sizeof at);
    umask(mask);
    if (r < 0 || listen(fd, SOMAXCONN) < 0) {
        err_errno(err, "listen on '%s'", at.sun_path);
        fd_close(&fd);
        return -1;
    }
    return fd;
}

int
registry_connect(const struct registry_entry *e, struct err *err)
{
    scoped(fd_close) int directory = -1;
    int fd, r;
    struct sockaddr_un at;
    struct ucred peer;
    socklen_t size = sizeof peer;

    if (socket_at(e->id, &at, &directory, err) < 0)
        return -1;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    r = fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) < 0 ||
                getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0
            ? err_errno(err, "connect to '%s'", at.sun_path)
        : peer.pid != e->pid ? err_set(err, EPERM, "'%s' is the socket of another process", at.sun_path)
                             : 0;
    if (r < 0)
        fd_close(&fd);
    return r < 0 ? -1 : fd;
}

/* DIRECTORY/NAME.connection and NAME.log, and its sockets NAME-1 to -5, which a crash leaves. */
static void
remove_connection(const char *directory, const char *file)
{
    size_t len = strlen(directory), end = strlen(file);
    char path[4400];

    if (strncmp(file, directory, len) != 0 || file[len] != '/' || strchr(file + len + 1, '/') || end < 11 ||
        strcmp(file + end - 11, ".connection") != 0)
        return;
    unlink(file);
    snprintf(path, sizeof path, "%.*s.log", (int)(end - 11), file);
    unlink(path);
    for (int i = 1; i <= 5; i++) {
        snprintf(path, sizeof path, "%.*s-%d", (int)(end - 11), file, i);
        unlink(path);
    }
}

void
registry_remove(const char *id, const char *connection_file)
{
    struct err unused;
    scoped(str_free) char *directory = registry_directory(&unused);
    char path[4400];

    if (!directory)
        return;
    snprintf(path, sizeof path, "%s/%s.json", directory, id);
    unlink(path);
    snprintf(path, sizeof path, "%s/%s.socket", directory, id);
    unlink(path);
    if (connection_file)
        remove_connection(directory, connection_file);
}

static void
release_entry(struct registry_entry *e)
{
    free(e->id);
    free(e->name);
    free(e->connection_file);
    free(e->profile);
    free(e->directory);
    free(e->created);
}

static int
read_entry(int dir, const char *file, struct registry_entry *ret)
{
    scoped(buf_release) struct buf text = {0};
    const char *id, *name, *connection, *profile, *directory, *created;
    json_int_t pid, started;
    json_t *json;
    int r;

    if (file_read(dir, file, ENTRY_MAX, &text) < 0)
        return -1;
    json = json_loadb((char *)text.data, text.len, 0, NULL);
    r = json ? json_unpack(json, "{ss ss ss ss ss ss sI sI}", "id", &id, "name", &name, "connection_file",
                           &connection, "profile", &profile, "directory", &directory, "created_at", &created,
                           "pid", &pid, "started", &started) : -1;
    if (r == 0) {
        *ret = (struct registry_entry){strdup(id), strdup(name), strdup(connection), strdup(profile),
                                       strdup(directory), strdup(created), (pid_t)pid,
                                       (unsigned long long)started};
        if (!ret->id || !ret->name || !ret->connection_file || !ret->profile || !ret->directory ||
            !ret->created)
            abort();
    }
    json_decref(json);
    return r;
}

static int
by_age(const void *a, const void *b)
{
    return strcmp(((const struct registry_entry *)a)->created, ((const struct registry_entry *)b)->created);
}

int
registry_read(struct registry_list *ret, struct err *err)
{
    scoped(str_free) char *directory = registry_directory(err);
    struct dirent *e;
    DIR *d;

    *ret = (struct registry_list){0};
    if (!directory)
        return -1;
    d = opendir(directory);
    if (!d)
        return err_errno(err, "open '%s'", directory);
    while ((e = readdir(d))) {
        size_t len = strlen(e->d_name);
        struct registry_entry entry;
        if (len < 5 || strcmp(e->d_name + len - 5, ".json") != 0 || read_entry(dirfd(d), e->d_name, &entry) < 0)
            continue;
        if (!registry_is_alive(&entry)) {
            unlinkat(dirfd(d), e->d_name, 0);
            registry_remove(entry.id, entry.connection_file);
            release_entry(&entry);
            continue;
        }
        ret->entry = realloc(ret->entry, (ret->len + 1) * sizeof *ret->entry);
        if (!ret->entry)
            abort();
        ret->entry[ret->len++] = entry;
    }
    closedir(d);
    if (ret->len)
        qsort(ret->entry, ret->len, sizeof *ret->entry, by_age);
    return 0;
}

void
registry_release(struct registry_list *list)
{
    for (size_t i = 0; i < list->len; i++)
        release_entry(&list->entry[i]);
    free(list->entry);
    *list = (struct registry_list){0};
}

const struct registry_entry *
registry_find(const struct registry_list *list, const char *what, struct err *err)
{
    const struct registry_entry *found = NULL;
    size_t n = 0;

    for (size_t i = 0; i < list->len; i++)
        if (strcmp(list->entry[i].id, what) == 0 || strcmp(list->entry[i].name, what) == 0)
            return &list->entry[i];
    for (size_t i = 0; *what && i < list->len; i++)
        if (strncmp(list->entry[i].id, what, strlen(what)) == 0) {
            found = &list->entry[i];
            n++;
        }
    if (n == 1)
        return found;
    err_set(err, n ? EINVAL : ENOENT, n ? "'%s' is the beginning of %zu ids" : "there is no sandbox '%s'", what, n);
    return NULL;
}
