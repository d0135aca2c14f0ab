/* SPDX-License-Identifier: BSD-3-Clause
 *
 * watch.c: what happens to files, by inotify(7). A recursive watch follows directories as they are
 * made; what is made in one before it is watched is told from a look into it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent.h"

#define PLACES 4096 /* directories and files that are watched, of all watches */
#define DEPTH_MAX 64
#define MASK (IN_CREATE | IN_MOVED_TO | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_DELETE | IN_MOVED_FROM | IN_DELETE_SELF)

/* One directory or file. Two watches of one place share its number (inotify gives one). */
struct place {
    int number;      /* of inotify; 0: free */
    unsigned watch;
    uint32_t slot;
    int recursive;
    char *path;
};

static struct place places[PLACES];
static int descriptor = -1;
static unsigned counter;

int
watch_descriptor(void)
{
    return descriptor;
}

static void
tell_file(const struct place *p, const char *kind, const char *name)
{
    scoped(buf_release) struct buf json = {0}, path = {0};
    char watch[16];

    if (buf_printf(&path, "%s%s%s", p->path, name && *name ? "/" : "", name ? name : "") < 0 || !buf_string(&path))
        _exit(1);
    snprintf(watch, sizeof watch, "w%u", p->watch);
    add_open(&json);
    add_text(&json, "event", BYTES("file"));
    add_text(&json, "watch", bytes_of(watch));
    add_text(&json, "kind", bytes_of(kind));
    add_path(&json, "path", (char *)path.data);
    add_close(&json);
    tell_event(p->slot, &json, NULL, 0);
}

/* -1 and errno. */
static int
add_place(const char *path, unsigned watch, uint32_t slot, int recursive, int depth, int tell)
{
    struct place *p = places;
    struct dirent *e;
    DIR *d;
    int number;

    while (p < places + PLACES && p->number)
        p++;
    if (p == places + PLACES) {
        errno = EMFILE;
        return -1;
    }
    number = inotify_add_watch(descriptor, path, MASK | (depth ? IN_DONT_FOLLOW | IN_ONLYDIR : 0));
    if (number < 0)
        return -1;
    *p = (struct place){number, watch, slot, recursive, strdup(path)};
    if (!p->path)
        _exit(1);
    d = recursive && depth < DEPTH_MAX ? opendir(path) : NULL;
    while (d && (e = readdir(d))) {
        scoped(buf_release) struct buf below = {0};
        if (is_dots(e->d_name))
            continue;
        if (tell)
            tell_file(p, "created", e->d_name);
        if (buf_printf(&below, "%s/%s", path, e->d_name) < 0 || !buf_string(&below))
            _exit(1);
        (void)add_place((char *)below.data, watch, slot, 1, depth + 1, tell); /* a file is none */
    }
    if (d)
        closedir(d);
    return 0;
}

static void
free_place(struct place *p)
{
    free(p->path);
    *p = (struct place){0};
}

static int
is_watched(int number)
{
    for (struct place *p = places; p < places + PLACES; p++)
        if (p->number == number)
            return 1;
    return 0;
}

static int
remove_watch(unsigned watch)
{
    int n = 0;

    for (struct place *p = places; p < places + PLACES; p++)
        if (p->number && p->watch == watch) {
            int number = p->number;
            free_place(p);
            if (!is_watched(number))
                (void)inotify_rm_watch(descriptor, number);
            n++;
        }
    return n;
}

void
files_watch(const struct call *c)
{
    scoped(buf_release) struct buf path = {0}, json = {0};
    struct err err;
    char name[16];

    if (call_path(c, "path", &path, &err) < 0) {
        refuse(c->slot, &err);
        return;
    }
    if (descriptor < 0)
        descriptor = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (descriptor < 0 || add_place((char *)path.data, counter + 1, c->slot, call_bool(c, "recursive", 0), 0, 0) < 0) {
        err_errno(&err, "watch '%s'", (char *)path.data);
        refuse(c->slot, &err);
        return;
    }
    snprintf(name, sizeof name, "w%u", ++counter);
    add_open(&json);
    add_text(&json, "watch", bytes_of(name));
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

void
files_unwatch(const struct call *c)
{
    scoped(buf_release) struct buf name = {0};
    struct err err;

    if (call_text(c, "watch", &name, &err) < 0) {
        refuse(c->slot, &err);
        return;
    }
    if (*name.data != 'w' || remove_watch((unsigned)atoi((char *)name.data + 1)) == 0) {
        err_set(&err, ESRCH, "there is no watch '%s'", (char *)name.data);
        refuse(c->slot, &err);
        return;
    }
    answer_nothing(c->slot);
}

static void
on_event(const struct inotify_event *e)
{
    const char *kind = e->mask & (IN_CREATE | IN_MOVED_TO) ? "created"
                     : e->mask & (IN_DELETE | IN_MOVED_FROM | IN_DELETE_SELF) ? "removed" : "changed";

    for (struct place *p = places; p < places + PLACES; p++) {
        if (!p->number || (p->number != e->wd && !(e->mask & IN_Q_OVERFLOW)))
            continue;
        if (e->mask & IN_IGNORED) {
            free_place(p);
            continue;
        }
        tell_file(p, e->mask & IN_Q_OVERFLOW ? "overflow" : kind, e->len ? e->name : NULL);
        if (p->recursive && (e->mask & IN_ISDIR) && (e->mask & (IN_CREATE | IN_MOVED_TO))) {
            scoped(buf_release) struct buf below = {0};
            if (buf_printf(&below, "%s/%s", p->path, e->name) < 0 || !buf_string(&below))
                _exit(1);
            (void)add_place((char *)below.data, p->watch, p->slot, 1, 1, 1);
        }
    }
}

void
watch_run(void)
{
    char data[64 << 10] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n = read(descriptor, data, sizeof data);

    for (char *at = data; n > 0 && at < data + n;) {
        const struct inotify_event *e = (const struct inotify_event *)at;
        at += sizeof *e + e->len;
        on_event(e);
    }
}
