/* SPDX-License-Identifier: BSD-3-Clause
 *
 * stats.c: husk stats. A sandbox says what it has used since its start; the difference of two answers is what it uses.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "kernel/exits.h"

#define ROUND_MS 1000
#define FIRST_MS 500 /* until there is a difference to show */
#define ANSWER_MS 2000 /* one that says nothing for so long is left out */

static const char stats_usage[] =
    "usage: husk stats [--no-stream] [-o json] [ID...]\n"
    "\n"
    "What sandboxes use of the machine, husk's own processes with them, once a second until Ctrl-C or until none is left;\n"
    "all of yours, if none is named. CPU is percent of one processor. With -o json a line for each sandbox.\n"
    "\n"
    "  husk stats --no-stream           once\n";

struct seat {
    struct registry_entry *of; /* borrowed from the list of the round */
    char id[64];
    struct client client;
    int64_t at; /* ms: its last answer; 0: none yet */
    int64_t cpu, memory, limit, processes, peak; /* peak -1: not counted here */
    double percent;
};

struct view {
    struct seat *seat;
    size_t len;
    int json, once, terminal;
};

static int64_t
number(struct bytes result, const char *name)
{
    struct bytes value;
    int64_t n;

    return json_get(result, name, &value) == J_NUMBER && json_int64(value, &n) == 0 ? n : -1;
}

static int
ask(struct seat *s, struct err *err)
{
    struct message m = {0};
    struct bytes result;
    int64_t now, cpu;

    if (client_call(&s->client, "sandbox.usage", BYTES("{}"), (struct bytes){0}, now_ms() + ANSWER_MS, &m, &result, err) < 0) {
        message_release(&m);
        return -1;
    }
    now = now_ms();
    cpu = number(result, "cpu_ms");
    if (cpu < 0) { /* of a husk that does not count it */
        message_release(&m);
        return err_set(err, EPROTO, "the kernel does not say what it uses");
    }
    s->percent = s->at && now > s->at ? 100.0 * (double)(cpu - s->cpu) / (double)(now - s->at) : 0;
    s->at = now;
    s->cpu = cpu;
    s->memory = number(result, "memory_bytes");
    s->limit = number(result, "memory_limit_bytes");
    s->peak = number(result, "peak_memory_bytes");
    s->processes = number(result, "processes");
    message_release(&m);
    return 0;
}

static struct seat *
seat_of(struct view *v, struct registry_entry *e)
{
    struct seat *grown, *s;
    struct err err;

    for (size_t i = 0; i < v->len; i++)
        if (strcmp(v->seat[i].id, e->id) == 0)
            return &v->seat[i];
    grown = realloc(v->seat, (v->len + 1) * sizeof *grown);
    if (!grown)
        abort();
    v->seat = grown;
    s = &v->seat[v->len];
    *s = (struct seat){0};
    snprintf(s->id, sizeof s->id, "%s", e->id);
    if (client_open(e, &s->client, &err) < 0)
        return NULL; /* it has just ended */
    v->len++;
    return s;
}

static void
leave(struct view *v, struct seat *s)
{
    client_close(&s->client);
    *s = v->seat[--v->len];
}

static void
print_seat(const struct view *v, const struct seat *s)
{
    char memory[24], limit[24], peak[24] = "-";

    if (v->json) {
        json_t *o = json_pack("{ss ss sf sI sI sI}", "id", s->of->id, "name", s->of->name, "cpu_percent", s->percent, "memory_bytes",
                              (json_int_t)s->memory, "memory_limit_bytes", (json_int_t)s->limit, "processes", (json_int_t)s->processes);
        if (s->peak >= 0)
            json_object_set_new(o, "peak_memory_bytes", json_integer(s->peak));
        json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(o);
        return;
    }
    if (s->peak >= 0)
        size_format((uint64_t)s->peak, peak);
    printf("%-12s  %-16s  %7.1f  %10s / %-10s  %10s  %9lld\n", s->of->id, s->of->name, s->percent,
           size_format((uint64_t)s->memory, memory), size_format((uint64_t)s->limit, limit), peak, (long long)s->processes);
}

/* Whom the words name, or all. */
static int
is_wanted(const struct registry_list *list, const struct registry_entry *e, int argc, char **argv)
{
    struct err err;

    for (int i = 0; i < argc; i++)
        if (registry_find(list, argv[i], &err) == e)
            return 1;
    return argc == 0;
}

static int
print_all(const struct view *v)
{
    if (v->terminal && !v->once)
        fputs("\033[H\033[J", stdout);
    if (!v->json)
        printf("%-12s  %-16s  %7s  %10s / %-10s  %10s  %9s\n", "ID", "NAME", "CPU %", "MEMORY", "LIMIT", "PEAK", "PROCESSES");
    for (size_t i = 0; i < v->len; i++)
        print_seat(v, &v->seat[i]);
    return fflush(stdout);
}

/* How many there are; -1: said. */
static int
take_round(struct view *v, int argc, char **argv, int show)
{
    scoped(registry_release) struct registry_list list = {0};
    struct err err;

    if (registry_read(&list, &err) < 0)
        return failed(&err), -1;
    for (size_t i = 0; i < v->len; i++)
        v->seat[i].of = NULL;
    for (size_t i = 0; i < list.len; i++) {
        struct seat *s = is_wanted(&list, &list.entry[i], argc, argv) ? seat_of(v, &list.entry[i]) : NULL;
        if (s)
            s->of = &list.entry[i];
    }
    for (size_t i = v->len; i-- > 0;)
        if (!v->seat[i].of || ask(&v->seat[i], &err) < 0)
            leave(v, &v->seat[i]);
    return show && print_all(v) != 0 ? -1 : (int)v->len;
}

/* An ID that names none is an error at once, and not an empty table. */
static int
check_names(int argc, char **argv)
{
    scoped(registry_release) struct registry_list list = {0};
    struct err err;

    if (registry_read(&list, &err) < 0)
        return failed(&err);
    for (int i = 0; i < argc; i++)
        if (!registry_find(&list, argv[i], &err))
            return failed(&err);
    return 0;
}

int
stats_command(int argc, char **argv)
{
    const char *format = NULL;
    struct view v = {0};
    const struct flag flags[] = {{"format", 'o', .value = &format}, {"no-stream", 0, .on = &v.once}, {0}};
    int n, r;

    if (wants_help(argc, argv, stats_usage))
        return EXIT_OK;
    n = flags_read_anywhere(argc, argv, flags, "stats");
    if (n < 0 || is_format(format) < 0)
        return EXIT_USAGE;
    argc -= n;
    argv += n;
    r = check_names(argc, argv);
    if (r)
        return r;
    v.json = format && strcmp(format, "json") == 0;
    v.terminal = !v.json && isatty(STDOUT_FILENO);
    r = take_round(&v, argc, argv, 0);
    for (int wait = FIRST_MS; r > 0 && poll(NULL, 0, wait) == 0; wait = ROUND_MS) {
        r = take_round(&v, argc, argv, 1);
        if (v.once)
            break;
    }
    if (r == 0 && v.once && !v.json)
        r = print_all(&v);
    while (v.len)
        leave(&v, &v.seat[v.len - 1]);
    free(v.seat);
    return r < 0 ? CLI_FAILURE : EXIT_OK;
}
