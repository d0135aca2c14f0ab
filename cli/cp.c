/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cp.c: files in and out. What comes out is named by whoever runs inside: each name is one name, not
 * a path, and is made below a directory that is open here, never through a link.
 */
#include "cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/exits.h"

#define PIECE (256u << 10) /* bytes in one message: what a socket holds where nobody has raised its limit */
#define AHEAD 16         /* pieces that are under way at a time */
#define DEPTH_MAX 256
#define SHOW_MS 200      /* between two lines of progress */

static const char usage[] =
    "usage: husk cp SOURCE DESTINATION\n"
    "\n"
    "Copies a file or a directory; one of the two is ID:PATH, in a sandbox. - is a tar on standard input\n"
    "or output. A destination that is a directory gets the source under its own name.\n"
    "\n"
    "  husk cp data.csv work:/workspace/\n"
    "  husk cp work:/workspace/out ./results\n"
    "  tar -c src | husk cp - work:/workspace\n";

struct copy {
    struct client client;
    int64_t bytes, files, shown;
};

/*** Operations ***/

/* {"NAME":"VALUE"... as the beginning of parameters; values may be any bytes. */
static void
add_string(struct buf *b, const char *name, const char *value)
{
    if (buf_printf(b, "%s\"%s\":", b->len ? "," : "{", name) < 0 || json_quote_path(bytes_of(value), b) < 0)
        abort();
}

static void
add_number(struct buf *b, const char *name, int64_t value)
{
    if (buf_printf(b, "%s\"%s\":%lld", b->len ? "," : "{", name, (long long)value) < 0)
        abort();
}

static void
add_true(struct buf *b, const char *name, int value)
{
    if (buf_printf(b, "%s\"%s\":%s", b->len ? "," : "{", name, value ? "true" : "false") < 0)
        abort();
}

/* The answer is borrowed from *m, which the caller releases. */
static int
call(struct copy *c, const char *method, struct buf *params, struct bytes buffer, struct message *m,
     struct bytes *ret, struct err *err)
{
    if (buf_text(params, "}") < 0)
        abort();
    return client_call(&c->client, method, (struct bytes){params->data, params->len}, buffer, 0, m, ret, err);
}

/* When it is of no interest what the answer is. */
static int
tell(struct copy *c, const char *method, struct buf *params, struct bytes buffer, struct err *err)
{
    struct message m = {0};
    struct bytes unused;
    int r = call(c, method, params, buffer, &m, &unused, err);

    message_release(&m);
    return r;
}

/* A string of an answer, as the bytes it stands for. NULL: there is none, or it holds a NUL. */
static char *
string_of(struct bytes object, const char *name)
{
    scoped(buf_release) struct buf text = {0};
    struct bytes value;

    if (json_get(object, name, &value) != J_STRING)
        return NULL;
    if (json_unescape(value, &text) < 0 || !buf_string(&text))
        abort();
    json_surrogates_to_bytes(&text);
    return strlen((char *)text.data) == text.len ? strdup((char *)text.data) : NULL;
}

static void
show(struct copy *c, int last)
{
    int64_t now = now_ms();
    char size[24];

    if (!isatty(STDERR_FILENO) || (!last && now - c->shown < SHOW_MS))
        return;
    c->shown = now;
    fprintf(stderr, "\r%lld files, %s        %s", (long long)c->files, size_format((uint64_t)c->bytes, size),
            last ? "\n" : "");
}

/*** In ***/

/* How many bytes of the file went; 0: it is whole, and that is said. -1 with err set. `left`: by its size; files that have none, as
 * those of /proc, are read until they end. */
static ssize_t
send_piece(struct copy *c, int fd, int64_t left, const char *upload, char *data, char id[static 80], struct err *err)
{
    scoped(buf_release) struct buf params = {0}, content = {0};
    ssize_t n = left >= PIECE ? PIECE : read(fd, data, PIECE);
    struct bytes piece = {(uint8_t *)data, n > 0 ? (size_t)n : 0}, what;
    int r;

    if (n < 0)
        return err_errno(err, "read it");
    add_string(&params, "upload", upload);
    add_true(&params, "done", n == 0);
    if (buf_printf(&content, "{\"method\":\"files.upload\",\"params\":%.*s}}", (int)params.len, params.data) < 0)
        abort();
    what = (struct bytes){content.data, content.len};
    r = left >= PIECE ? client_send_file(&c->client, CONTROL, "sandbox_request", what, fd, PIECE, id, err)
                      : client_send(&c->client, CONTROL, "sandbox_request", what, &piece, 1, id, err);
    return r < 0 ? -1 : n;
}

static int
await_taken(struct copy *c, const char *id, struct err *err)
{
    struct message m = {0};
    struct bytes unused;

    do
        if (client_next(&c->client, 1u << CONTROL, -1, 0, &m, err) < 0)
            return -1;
    while (!message_is_for(&m, id));
    return message_result(&m, &unused, err);
}

/* The next pieces are on their way while the first of them is written. */
static int
send_pieces(struct copy *c, int fd, int64_t size, const char *name, const char *upload, struct err *err)
{
    scoped(str_free) char *data = malloc(PIECE);
    char ids[AHEAD][80];
    unsigned next = 0, out = 0;
    ssize_t n = 1;

    if (!data)
        return err_errno(err, "read '%s'", name);
    while (n > 0 || out > 0) {
        for (; n > 0 && out < AHEAD; out++) {
            if ((n = send_piece(c, fd, size, upload, data, ids[(next + out) % AHEAD], err)) < 0)
                return err_wrap(err, "copy '%s'", name);
            c->bytes += n;
            size -= n;
        }
        if (await_taken(c, ids[next], err) < 0)
            return -1;
        next = (next + 1) % AHEAD;
        out--;
        show(c, 0);
    }
    c->files++;
    return 0;
}

static int
send_file(struct copy *c, int dir, const char *name, const char *to, struct err *err)
{
    scoped(fd_close) int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    scoped(buf_release) struct buf params = {0}, abort_it = {0};
    scoped(str_free) char *id = NULL;
    struct message m = {0};
    struct bytes begun;
    struct err unused;
    char mode[16];
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, "read '%s'", name);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "'%s' is neither a file nor a directory", name);
    snprintf(mode, sizeof mode, "%03o", (unsigned)st.st_mode & 0777);
    add_string(&params, "path", to);
    add_string(&params, "mode", mode);
    if (call(c, "files.upload", &params, (struct bytes){0}, &m, &begun, err) < 0)
        return -1;
    id = string_of(begun, "upload");
    message_release(&m);
    if (!id)
        return err_set(err, EPROTO, "the kernel's answer cannot be read");
    if (send_pieces(c, fd, st.st_size, name, id, err) == 0)
        return 0;
    add_string(&abort_it, "upload", id);
    add_true(&abort_it, "abort", 1);
    (void)tell(c, "files.upload", &abort_it, (struct bytes){0}, &unused);
    return -1;
}

static int
send_link(struct copy *c, int dir, const char *name, const char *to, struct err *err)
{
    scoped(buf_release) struct buf params = {0};
    struct message m = {0};
    struct bytes result, ok;
    char target[PATH_MAX];
    ssize_t n = readlinkat(dir, name, target, sizeof target - 1);
    int r;

    if (n < 0)
        return err_errno(err, "read '%s'", name);
    target[n] = 0;
    if (buf_text(&params, "{\"cmd\":[\"ln\",\"-sfn\",\"--\",") < 0 ||
        json_quote_path(bytes_of(target), &params) < 0 || buf_text(&params, ",") < 0 ||
        json_quote_path(bytes_of(to), &params) < 0 || buf_text(&params, "]") < 0)
        abort();
    r = call(c, "exec.run", &params, (struct bytes){0}, &m, &result, err);
    if (r == 0 && json_get(result, "ok", &ok) != J_TRUE)
        r = err_set(err, EIO, "'%s' cannot be made: ln failed", to);
    message_release(&m);
    return r;
}

static int send_entry(struct copy *c, int dir, const char *name, const char *to, int depth, struct err *err);

static int
send_directory(struct copy *c, int dir, const char *name, const char *to, int depth, struct err *err)
{
    scoped(buf_release) struct buf params = {0};
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d) {
        fd_close(&fd);
        return err_errno(err, "open '%s'", name);
    }
    add_string(&params, "path", to);
    r = tell(c, "files.mkdir", &params, (struct bytes){0}, err);
    while (r == 0 && (e = readdir(d))) {
        scoped(str_free) char *below = NULL;
        if (is_dots(e->d_name))
            continue;
        if (asprintf(&below, "%s/%s", to, e->d_name) < 0)
            abort();
        r = send_entry(c, dirfd(d), e->d_name, below, depth + 1, err);
    }
    closedir(d);
    return r;
}

static int
send_entry(struct copy *c, int dir, const char *name, const char *to, int depth, struct err *err)
{
    struct stat st;

    if (depth > DEPTH_MAX)
        return err_set(err, ELOOP, "'%s' lies too deep", to);
    if (fstatat(dir, name, &st, depth ? AT_SYMLINK_NOFOLLOW : 0) < 0)
        return err_errno(err, "look at '%s'", name);
    if (S_ISDIR(st.st_mode))
        return send_directory(c, dir, name, to, depth, err);
    return S_ISLNK(st.st_mode) ? send_link(c, dir, name, to, err) : send_file(c, dir, name, to, err);
}

/*** Out ***/

static int
ask_piece(struct copy *c, const char *from, int64_t offset, char id[static 80], struct err *err)
{
    scoped(buf_release) struct buf params = {0}, content = {0};

    add_string(&params, "path", from);
    add_number(&params, "offset", offset);
    add_number(&params, "length", PIECE);
    if (buf_printf(&content, "{\"method\":\"files.download\",\"params\":%.*s}}", (int)params.len,
                   params.data) < 0)
        abort();
    return client_send(&c->client, CONTROL, "sandbox_request", (struct bytes){content.data, content.len},
                       NULL, 0, id, err);
}

/* How many bytes came; -1 with err set. */
static ssize_t
take_piece(struct copy *c, const struct message *m, int fd, const char *name, struct err *err)
{
    struct bytes piece = message_buffer(m, 0), unused;

    if (message_result(m, &unused, err) < 0)
        return -1;
    if (piece.len > PIECE)
        return err_set(err, EPROTO, "more came than was asked for");
    if (fd_write_sparse(fd, piece.data, piece.len) < 0)
        return err_errno(err, "write '%s'", name);
    c->bytes += (int64_t)piece.len;
    show(c, 0);
    return (ssize_t)piece.len;
}

/* Asks for the next pieces while the first of them is on its way; one that is shorter is the last. */
static int
receive_pieces(struct copy *c, const char *from, int fd, const char *name, struct err *err)
{
    char ids[AHEAD][80];
    int64_t asked = 0;
    unsigned next = 0, out = 0;
    int end = 0;

    for (;;) {
        struct message m = {0};
        ssize_t n = 0;
        for (; !end && out < AHEAD; out++, asked += PIECE)
            if (ask_piece(c, from, asked, ids[(next + out) % AHEAD], err) < 0)
                return -1;
        if (!out)
            return 0;
        if (client_next(&c->client, 1u << CONTROL, -1, 0, &m, err) < 0)
            return -1;
        if (message_is_for(&m, ids[next])) {
            next = (next + 1) % AHEAD;
            out--;
            /* Of a file that grows meanwhile, what lay behind its end is none of it. */
            n = end ? 0 : take_piece(c, &m, fd, name, err);
            end |= n < (ssize_t)PIECE;
        }
        message_release(&m);
        if (n < 0)
            return -1;
    }
}

static int
receive_file(struct copy *c, const char *from, int dir, const char *name, unsigned mode, struct err *err)
{
    const int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    scoped(fd_close) int fd = openat(dir, name, flags, 0600);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, "write '%s'", name);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EEXIST, "'%s' is there, and no file", name);
    if (ftruncate(fd, 0) < 0)
        return err_errno(err, "write '%s'", name);
    if (receive_pieces(c, from, fd, name, err) < 0)
        return -1;
    c->files++;
    return ftruncate(fd, lseek(fd, 0, SEEK_CUR)) < 0 || fchmod(fd, mode & 0777) < 0 ? err_errno(err, "write '%s'", name) : 0;
}

static int receive_entry(struct copy *c, struct bytes entry, const char *from, int dir, const char *name,
                         int depth, struct err *err);

static int
is_one_name(const char *name)
{
    return name && *name && !strchr(name, '/') && !is_dots(name) && strlen(name) <= NAME_MAX;
}

static int
receive_entries(struct copy *c, struct bytes listing, const char *from, int dir, int depth, struct err *err)
{
    struct bytes entries, entry;
    size_t at = 0;
    int r = 0;

    if (json_get(listing, "entries", &entries) != J_ARRAY ||
        json_get(listing, "truncated", &entry) != J_FALSE)
        return err_set(err, EFBIG, "'%s' has too many entries: copy it as a tar (-)", from);
    while (r == 0 && json_element(entries, &at, &entry) == J_OBJECT) {
        scoped(str_free) char *name = string_of(entry, "name"), *below = NULL;
        if (!is_one_name(name))
            return err_set(err, EPROTO, "the sandbox named a file '%.100s'", name ? name : "");
        if (asprintf(&below, "%s/%s", from, name) < 0)
            abort();
        r = receive_entry(c, entry, below, dir, name, depth + 1, err);
    }
    return r;
}

static int
receive_directory(struct copy *c, const char *from, int dir, const char *name, int depth, struct err *err)
{
    scoped(buf_release) struct buf params = {0};
    scoped(fd_close) int fd = -1;
    struct message m = {0};
    struct bytes listing;
    int r;

    add_string(&params, "path", from);
    add_number(&params, "limit", 1000000);
    if (call(c, "files.list", &params, (struct bytes){0}, &m, &listing, err) < 0)
        return -1;
    if ((mkdirat(dir, name, 0777) < 0 && errno != EEXIST) ||
        (fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
        r = err_errno(err, "make '%s'", name);
    else
        r = receive_entries(c, listing, from, fd, depth, err);
    message_release(&m);
    return r;
}

static int
receive_entry(struct copy *c, struct bytes entry, const char *from, int dir, const char *name, int depth,
              struct err *err)
{
    scoped(str_free) char *type = string_of(entry, "type"), *mode = string_of(entry, "mode");
    scoped(str_free) char *target = string_of(entry, "target");

    if (depth > DEPTH_MAX)
        return err_set(err, ELOOP, "'%s' lies too deep", from);
    if (type && strcmp(type, "directory") == 0)
        return receive_directory(c, from, dir, name, depth, err);
    if (type && strcmp(type, "file") == 0)
        return receive_file(c, from, dir, name, mode ? (unsigned)strtoul(mode, NULL, 8) : 0644, err);
    if (type && strcmp(type, "symlink") == 0 && target) {
        if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
            return err_errno(err, "replace '%s'", name);
        return symlinkat(target, dir, name) < 0 ? err_errno(err, "make '%s'", name) : 0;
    }
    if (depth == 0)
        return err_set(err, EINVAL, "'%s' is a %s: neither a file nor a directory", from, type ? type : "thing");
    fprintf(stderr, "husk: '%s' is a %s, and left out\n", from, type ? type : "thing");
    return 0;
}

/*** The two sides ***/

/* "ID:PATH" -> its parts, in place; NULL: a path of ours. */
static char *
split(char *word)
{
    char *colon = strchr(word, ':');

    if (!colon || colon == word || memchr(word, '/', (size_t)(colon - word)))
        return NULL;
    *colon = 0;
    return colon + 1;
}

static const char *
last_name(char *path)
{
    size_t len = strlen(path);
    char *slash;

    while (len > 1 && path[len - 1] == '/')
        path[--len] = 0;
    slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static int
copy_in(struct copy *c, char *from, const char *to, struct err *err)
{
    scoped(str_free) char *place = strdup(*to ? to : "."), *type = NULL;
    scoped(buf_release) struct buf params = {0};
    struct message m = {0};
    struct bytes st;

    add_string(&params, "path", place);
    add_true(&params, "follow", 1);
    if (call(c, "files.stat", &params, (struct bytes){0}, &m, &st, err) == 0)
        type = string_of(st, "type");
    else if (err->code != ENOENT)
        return -1;
    message_release(&m);
    if (type && strcmp(type, "directory") == 0) {
        char *below = NULL;
        if (asprintf(&below, "%s%s%s", place, place[strlen(place) - 1] == '/' ? "" : "/", last_name(from)) < 0)
            abort();
        str_free(&place);
        place = below;
    }
    return send_entry(c, AT_FDCWD, from, place, 0, err);
}

static int
copy_out(struct copy *c, char *from, char *to, struct err *err)
{
    scoped(buf_release) struct buf params = {0};
    scoped(fd_close) int dir = -1;
    const char *name;
    struct message m = {0};
    struct bytes entry;
    struct stat st;
    int r;

    add_string(&params, "path", *from ? from : ".");
    add_true(&params, "follow", 1);
    if (call(c, "files.stat", &params, (struct bytes){0}, &m, &entry, err) < 0)
        return -1;
    name = last_name(from);
    if (stat(to, &st) == 0 && S_ISDIR(st.st_mode)) {
        dir = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    } else { /* under a new name, in the directory before it */
        char *slash;
        name = last_name(to);
        slash = strrchr(to, '/');
        if (slash) {
            *slash = 0;
            dir = open(*to ? to : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        } else {
            dir = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        }
    }
    if (dir < 0)
        r = err_errno(err, "open '%s'", to);
    else if (!is_one_name(name))
        r = err_set(err, EINVAL, "say under which name '%s' is to come", from);
    else
        r = receive_entry(c, entry, from, dir, name, 0, err);
    message_release(&m);
    return r;
}

/* A tar is made and unpacked inside, by the sandbox's own tar. */
static int
copy_tar(const char *id, char *path, int in)
{
    const char *name = in ? NULL : last_name(path);
    char *slash = in ? NULL : strrchr(path, '/');
    char *argv[] = {(char *)"-i", (char *)id, (char *)"--", (char *)"tar", (char *)"-C", path,
                    (char *)(in ? "-xf" : "-cf"), (char *)"-", (char *)"--", (char *)name, NULL};

    if (slash && slash[1])
        *slash = 0;
    if (!in)
        argv[5] = !slash ? (char *)"." : slash == path ? (char *)"/" : path;
    else if (!*path)
        argv[5] = (char *)".";
    return exec_command(in ? 8 : 10, argv);
}

int
cp_command(int argc, char **argv)
{
    struct copy c = {0};
    struct err err;
    char *from_path, *to_path;
    int r;

    if (wants_help(argc, argv, usage))
        return EXIT_OK;
    if (argc == 3 && strcmp(argv[0], "--") == 0) {
        argv++;
        argc--;
    }
    from_path = argc == 2 ? split(argv[0]) : NULL;
    to_path = argc == 2 ? split(argv[1]) : NULL;
    if (argc != 2 || !from_path == !to_path) {
        fputs("husk: one of the two is ID:PATH; see husk cp --help\n", stderr);
        return EXIT_USAGE;
    }
    if (strcmp(from_path ? argv[1] : argv[0], "-") == 0)
        return from_path ? copy_tar(argv[0], from_path, 0) : copy_tar(argv[1], to_path, 1);
    if (open_sandbox(from_path ? argv[0] : argv[1], &c.client) < 0)
        return CLI_FAILURE;
    signal(SIGPIPE, SIG_IGN); /* sendfile(2) has no flag */
    r = from_path ? copy_out(&c, from_path, argv[1], &err) : copy_in(&c, argv[0], to_path, &err);
    show(&c, 1);
    client_close(&c.client);
    return r < 0 ? failed(&err) : EXIT_OK;
}
