/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "sandbox/mounts.h"

#define SHORTEST_MS 10
#define FILLED_IN_A_MS (2 << 20) /* bytes: memory is not filled faster */
#define COST_SHARE 4             /* a look is followed by a pause of so many times what it took */
#define MEASURE_MS 1000          /* who was not measured by then counts whole */
#define GROWN_BYTES (1 << 20)
#define DYING_MS 2000         /* a large process takes its time to give its memory back */
#define FAR_BYTES (256 << 20) /* beyond half as much again */

struct share {
    struct kin who;
    uint64_t bytes;
};

/* What a measurement comes to. */
struct verdict {
    uint64_t total;
    struct kin victim; /* pid 0: none */
};

/*** Looking ***/

static int
open_process(int proc, pid_t pid, const char *file)
{
    char path[48];

    snprintf(path, sizeof path, "%s%d/%s", proc < 0 ? "/proc/" : "", (int)pid, file);
    return openat(proc, path, O_RDONLY | O_CLOEXEC);
}

/* What is shared with others counts whole. 0: it is gone. */
static uint64_t
look_whole(int proc, pid_t pid)
{
    static const char *const rows[] = {"\nRssAnon:", "\nRssShmem:", "\nVmSwap:", "\nVmPTE:"};
    scoped(fd_close) int fd = open_process(proc, pid, "status");
    uint64_t bytes = 0;
    char text[8192], *at;
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    text[n > 0 ? n : 0] = 0;
    for (size_t i = 0; i < countof(rows); i++)
        if ((at = strstr(text, rows[i])))
            bytes += strtoull(at + strlen(rows[i]), NULL, 10) << 10;
    return bytes;
}

static uint64_t
look_at_trees(const struct memory *m)
{
    uint64_t bytes = 0;
    struct statfs s;

    for (size_t i = 0; i < m->ntrees; i++)
        if (fstatfs(m->tree[i], &s) == 0)
            bytes += (uint64_t)(s.f_blocks - s.f_bfree) * (uint64_t)s.f_bsize;
    return bytes;
}

/* All but pid 1, which is ours. Caller frees. */
static struct share *
look(const struct memory *m, size_t *ret_n, uint64_t *ret_total)
{
    size_t n;
    struct kin *all = kin_list(m->proc, m->pid1, &n);
    struct share *shares = calloc(n + 1, sizeof *shares);

    *ret_n = shares && n ? n - 1 : 0;
    *ret_total = look_at_trees(m);
    for (size_t i = 0; i < *ret_n; i++) {
        shares[i] = (struct share){all[i + 1], look_whole(m->proc, all[i + 1].pid)};
        *ret_total += shares[i].bytes;
    }
    free(all);
    return shares;
}

/*** Measuring, in a process of its own ***/

/* What does not fit of a line, as a cell can make its names long, is passed over. */
static int
next_line(FILE *f, char *line, int size)
{
    if (!fgets(line, size, f))
        return 0;
    if (!strchr(line, '\n'))
        for (int c = 0; c != '\n' && c != EOF;)
            c = getc(f);
    return 1;
}

/* Its part of what it shares with others; of files only what it has changed for itself, as the machine takes the
 * rest back, or the trees count it. `shared`: the device of what is memory though it has an inode. -1: it
 * cannot be read, has ended, or takes too long. */
static int64_t
measure_one(int proc, pid_t pid, dev_t shared, int64_t until)
{
    int fd = open_process(proc, pid, "smaps");
    FILE *maps = fd < 0 ? NULL : fdopen(fd, "r");
    uint64_t bytes = 0, part = 0;
    int is_file = 0, whole;
    char line[512];

    while (maps && now_ms() < until && next_line(maps, line, sizeof line)) {
        unsigned major, minor;
        unsigned long long kib;
        if (sscanf(line, "%*x-%*x %*s %*x %x:%x", &major, &minor) == 2) {
            is_file = (major || minor) && makedev(major, minor) != shared;
        } else if (sscanf(line, "Pss: %llu", &kib) == 1) {
            part = kib << 10;
            bytes += is_file ? 0 : part;
        } else if (is_file && sscanf(line, "Anonymous: %llu", &kib) == 1) {
            bytes += kib << 10 < part ? kib << 10 : part;
        } else if (sscanf(line, "SwapPss: %llu", &kib) == 1) {
            bytes += kib << 10;
        }
    }
    whole = maps && feof(maps);
    if (maps)
        fclose(maps);
    else
        fd_close(&fd);
    return whole ? (int64_t)bytes : -1;
}

static int
is_own(const struct memory *m, pid_t pid)
{
    for (size_t i = 0; i < countof(m->own); i++)
        if (m->own[i].pid == pid)
            return 1;
    return 0;
}

static struct kin
choose_victim(const struct memory *m, const struct share *share, size_t n)
{
    const struct share *largest = NULL, *other = NULL;
    uint64_t all = 0;

    for (size_t i = 0; i < n; i++) {
        all += share[i].bytes;
        if (!largest || share[i].bytes > largest->bytes)
            largest = &share[i];
        if (!is_own(m, share[i].who.pid) && (!other || share[i].bytes > other->bytes))
            other = &share[i];
    }
    if (largest && other && is_own(m, largest->who.pid) && largest->bytes < all / 2)
        largest = other;
    return largest ? largest->who : (struct kin){0};
}

static void
measure(void *with, void *into)
{
    const struct memory *m = with;
    scoped(fd_close) int file = memfd_create("husk", MFD_CLOEXEC);
    int64_t until = now_ms() + MEASURE_MS;
    struct verdict v = {0};
    struct stat st;
    size_t n;
    struct share *share = look(m, &n, &v.total);

    if (file >= 0 && fstat(file, &st) == 0)
        for (size_t i = 0; i < n; i++) {
            int64_t bytes = measure_one(m->proc, share[i].who.pid, st.st_dev, until);
            if (bytes < 0)
                continue;
            v.total -= share[i].bytes;
            v.total += share[i].bytes = (uint64_t)bytes;
        }
    v.victim = choose_victim(m, share, n);
    free(share);
    memcpy(into, &v, sizeof v);
}

/*** Ending ***/

static void
note_kill(struct memory *m, pid_t pid)
{
    char text[48];

    for (size_t i = 0; i < countof(m->own); i++)
        m->own[i].killed |= m->own[i].pid == pid;
    m->kills++;
    snprintf(text, sizeof text, "oom_kill %llu\n", (unsigned long long)m->kills);
    (void)!pwrite(m->files[USAGE_OOM], text, strlen(text), 0);
}

static void
kill_all(struct memory *m)
{
    size_t n;
    struct kin *all = kin_list(m->proc, m->pid1, &n);

    for (size_t i = 1; i < n; i++)
        if (kin_kill_listed(m->proc, &all[i]) == 0)
            note_kill(m, all[i].pid);
    free(all);
}

/* Whether the last victim is still on its way out. */
static int
is_dying(const struct memory *m, int64_t now)
{
    return m->victim.pid && now - m->struck < DYING_MS && look_whole(m->proc, m->victim.pid) > 0;
}

static void
judge(struct memory *m, const struct verdict *v, int64_t now)
{
    m->over = v->total > m->limit ? m->over + 1 : 0;
    if (m->over < 2 || is_dying(m, now)) /* once: one that is about to execute has its parent's pages, too */
        return;
    if (v->total > m->limit + m->limit / 2 + FAR_BYTES) {
        kill_all(m);
    } else if (v->victim.pid && kin_kill_listed(m->proc, &v->victim) == 0) {
        note_kill(m, v->victim.pid);
        m->victim = v->victim;
    }
    m->struck = now;
    m->over = 0;
}

/*** When ***/

static void
tell_peak(struct memory *m, uint64_t total)
{
    char text[32] = "";

    if (total > m->peak)
        m->peak = total;
    if (pread(m->files[USAGE_PEAK], text, sizeof text - 1, 0) >= 0 && strtoull(text, NULL, 10) >= total)
        return;
    snprintf(text, sizeof text, "%020llu\n", (unsigned long long)total);
    (void)!pwrite(m->files[USAGE_PEAK], text, strlen(text), 0);
}

static void
choose_pause(struct memory *m, uint64_t total)
{
    int64_t left = total < m->limit ? (int64_t)((m->limit - total) / FILLED_IN_A_MS / 2) : 0;

    if (total <= m->before + GROWN_BYTES && left < 2 * m->pause)
        left = 2 * m->pause;
    m->before = total;
    m->pause = left < SHORTEST_MS ? SHORTEST_MS : left > MEMORY_LOOK_MS ? MEMORY_LOOK_MS : left;
}

/* 0: it is not done yet. */
static int
take_result(struct memory *m, int64_t now, uint64_t *ret_total)
{
    struct verdict v;
    enum measured r = measurer_take(&m->measurer, &v, sizeof v);

    if (r == MEASURER_WORKS)
        return 0;
    if (r == MEASURER_FAILED)
        v = (struct verdict){.total = m->before};
    judge(m, &v, now);
    *ret_total = v.total;
    return 1;
}

void
memory_tick(struct memory *m, int64_t now)
{
    int64_t began = now;
    uint64_t total;
    size_t n;

    if (!m->limit || now < m->next)
        return;
    m->next = now + SHORTEST_MS;
    if (m->measurer.pid) {
        if (!take_result(m, now, &total))
            return;
        began = m->measurer.started;
    } else {
        free(look(m, &n, &total));
        if (total > m->limit) {
            measurer_start(&m->measurer, now, measure, m, sizeof(struct verdict));
            return;
        }
        m->over = 0;
    }
    tell_peak(m, total);
    choose_pause(m, m->over ? m->limit : total);
    now = now_ms();
    m->next = now + m->pause;
    if (m->next < now + COST_SHARE * (now - began))
        m->next = now + COST_SHARE * (now - began);
}

int
memory_timeout(const struct memory *m, int64_t now)
{
    if (!m->limit)
        return -1;
    return m->next > now ? (int)(m->next - now) : 0;
}

/*** Beginning and end ***/

static int
open_below(const char *root, const char *path)
{
    char full[4400];

    snprintf(full, sizeof full, "%s%s", root, path);
    return open(full, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Its own /proc and what it has in memory, by the root of its pid 1: nobody is in there yet. */
static int
find_sandbox(struct memory *m, const struct policy *p, const struct sandbox *s, struct err *err)
{
    scoped(view_release) struct mount_view view = {0};
    char root[40];

    snprintf(root, sizeof root, "/proc/%d/root", (int)s->pid);
    m->proc = open_below(root, "/proc");
    if (m->proc < 0)
        return err_errno(err, "look at the processes of the sandbox");
    m->pid1 = 1;
    if (view_make(p, &view, err) < 0)
        return -1;
    m->tree[m->ntrees++] = open_below(root, "/dev/shm");
    for (size_t i = 0; i < view.len && m->ntrees < countof(m->tree); i++)
        if (view.entry[i].kind == MOUNT_MEMORY)
            m->tree[m->ntrees++] = open_below(root, view.entry[i].target);
    for (size_t i = 0; i < m->ntrees; i++)
        if (m->tree[i] < 0)
            return err_errno(err, "look at what the sandbox has in memory");
    return 0;
}

int
memory_start(const struct policy *policy, const struct limits *limits, const struct sandbox *sandbox,
             struct memory *ret, struct err *err)
{
    struct memory m = MEMORY_EMPTY;
    int r = 0;

    *ret = m;
    if (limits->kind != LIMITS_SAMPLED)
        return 0;
    m.pid1 = sandbox->pid;
    m.files[USAGE_PEAK] = memfd_create("memory", MFD_CLOEXEC);
    m.files[USAGE_OOM] = memfd_create("memory", MFD_CLOEXEC);
    if (m.files[USAGE_PEAK] < 0 || m.files[USAGE_OOM] < 0)
        r = err_errno(err, "make files for what is counted");
    if (r == 0 && !sandbox->alone)
        r = find_sandbox(&m, policy, sandbox, err);
    if (r < 0) {
        memory_end(&m);
        return -1;
    }
    m.limit = limits->memory;
    m.next = now_ms() + MEMORY_LOOK_MS;
    *ret = m;
    return 0;
}

void
memory_end(struct memory *m)
{
    measurer_end(&m->measurer);
    fd_close(&m->proc);
    for (size_t i = 0; i < m->ntrees; i++)
        fd_close(&m->tree[i]);
    for (size_t i = 0; i < countof(m->files); i++)
        fd_close(&m->files[i]);
    *m = MEMORY_EMPTY;
}

void
memory_spawned(struct memory *m, uint32_t slot, pid_t pid)
{
    size_t i = 0;

    while (i + 1 < countof(m->own) && m->own[i].pid && m->own[i].slot != slot)
        i++;
    m->own[i].slot = slot;
    m->own[i].pid = pid;
    m->own[i].killed = 0;
}

void
memory_exited(struct memory *m, uint32_t slot, char *into, size_t size, uint64_t *peak)
{
    char limit[24], most[24];

    if (m->limit)
        *peak = m->peak;
    for (size_t i = 0; i < countof(m->own); i++) {
        if (!m->own[i].pid || m->own[i].slot != slot)
            continue;
        if (m->own[i].killed)
            snprintf(into, size, LIMITS_MEMORY_CAUSE, size_format(m->limit, limit), size_format(m->peak, most));
        m->own[i].pid = 0;
    }
}

int
memory_open_usage(const struct memory *m, int fds[static USAGE_FILES], struct err *err)
{
    for (size_t i = 0; i < USAGE_FILES; i++) {
        if (m->files[i] < 0)
            continue;
        fd_close(&fds[i]);
        fds[i] = fcntl(m->files[i], F_DUPFD_CLOEXEC, 0);
        if (fds[i] < 0)
            return err_errno(err, "share what is counted");
    }
    return 0;
}
