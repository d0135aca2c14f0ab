/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.h"
#include "kernel/exits.h"
#include "kernel/paths.h"
#include "wall/agent.h"

extern char **environ;

#define END_MS 5000
#define ASK_MS 10000

/*** create ***/

static const char create_usage[] =
    "usage: husk create [--name NAME] [sandbox options]\n"
    "\n"
    "Starts a sandbox with its kernel in the background and prints its id. Profile strict, if no other is\n"
    "named. It stays until husk rm, --idle-timeout or --lifetime.\n"
    "\n"
    "Sandbox options: husk kernel --help.\n"
    "\n"
    "  id=$(husk create --memory 2g)\n"
    "  husk create --name work --profile notebook --workdir .\n";

int
create_command(int argc, char **argv)
{
    scoped(strv_release) struct strv options = {0};
    const char *name = NULL;
    const struct flag flags[] = {{"name", 0, .value = &name}, {0}};
    struct started s = {0};
    struct client c = CLIENT_NONE;
    struct err err;
    int n, has_profile = 0;

    if (wants_help(argc, argv, create_usage))
        return EXIT_OK;
    n = flags_read(argc, argv, flags, &options, "create");
    if (n < 0 || n < argc) {
        if (n >= 0)
            fprintf(stderr, "husk: what is '%s'? see husk create --help\n", argv[n]);
        return EXIT_USAGE;
    }
    if (options_check(&options, name) < 0)
        return EXIT_USAGE;
    for (size_t i = 0; i < options.len; i++)
        has_profile |= strncmp(options.item[i], "--profile", 9) == 0;
    if (!has_profile && (strv_add(&options, "--profile") < 0 || strv_add(&options, "strict") < 0))
        abort();
    if (start_kernel(&options, name, 1, -1, &s, &c, &err) < 0) {
        failed(&err);
        return err.code == EXIT_USAGE ? EXIT_USAGE : CLI_FAILURE;
    }
    puts(s.id);
    client_let_live(&c);
    client_close(&c);
    return EXIT_OK;
}

/*** ls, info ***/

static void
print_table(const struct registry_list *list)
{
    printf("%-12s  %-16s  %-8s  %8s  %-20s  %s\n", "ID", "NAME", "PROFILE", "PID", "CREATED", "DIRECTORY");
    for (size_t i = 0; i < list->len; i++) {
        const struct registry_entry *e = &list->entry[i];
        printf("%-12s  %-16s  %-8s  %8d  %.19sZ  %s\n", e->id, e->name, e->profile, (int)e->pid, e->created,
               e->directory);
    }
}

static void
print_list(const struct registry_list *list)
{
    json_t *all = json_array();

    for (size_t i = 0; i < list->len; i++) {
        const struct registry_entry *e = &list->entry[i];
        json_array_append_new(all, json_pack("{ss ss ss si ss ss ss}", "id", e->id, "name", e->name, "profile",
                                             e->profile, "pid", (int)e->pid, "created_at", e->created, "directory",
                                             e->directory, "connection_file", e->connection_file));
    }
    json_dumpf(all, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(all);
}

int
ls_command(int argc, char **argv)
{
    const char *format = NULL;
    const struct flag flags[] = {{"format", 'o', .value = &format}, {0}};
    struct registry_list list;
    struct err err;
    int n;

    if (wants_help(argc, argv, "usage: husk ls [-o json]\n\nThe kernels and sandboxes of yours that run.\n"))
        return EXIT_OK;
    n = flags_read_anywhere(argc, argv, flags, "ls");
    if (n < 0 || n < argc || (format && strcmp(format, "json") != 0 && strcmp(format, "table") != 0)) {
        if (n >= 0)
            fputs("husk: husk ls takes -o json or -o table, and nothing else\n", stderr);
        return EXIT_USAGE;
    }
    if (registry_read(&list, &err) < 0)
        return failed(&err);
    if (format && strcmp(format, "json") == 0)
        print_list(&list);
    else
        print_table(&list);
    registry_release(&list);
    return EXIT_OK;
}

/* One operation, its result as it is. */
static int
call_and_print(const char *what, const char *method, struct bytes params, struct bytes buffer, int raw)
{
    struct message m = {0};
    struct bytes result;
    struct client c;
    struct err err;
    int r;

    if (open_sandbox(what, &c) < 0)
        return CLI_FAILURE;
    r = client_call(&c, method, params, buffer, 0, &m, &result, &err);
    if (r == 0 && raw && m.msg.buffers) {
        for (size_t i = 0; i < m.msg.buffers; i++)
            (void)fd_write_all(STDOUT_FILENO, message_buffer(&m, i).data, message_buffer(&m, i).len);
    } else if (r == 0) {
        print_json(result);
    }
    message_release(&m);
    client_let_live(&c); /* the next call may go on with it */
    client_close(&c);
    return r < 0 ? failed(&err) : EXIT_OK;
}

static int
print_members(struct bytes object)
{
    struct bytes name, value;
    size_t at = 0;
    enum json_type type;

    while ((type = json_next(object, &at, &name, &value)) != J_NONE) {
        scoped(buf_release) struct buf text = {0};
        if (type == J_STRING && json_unescape(value, &text) == 0)
            value = (struct bytes){text.data, text.len};
        printf("%-22.*s %.*s\n", (int)name.len - 2, name.data + 1, (int)value.len,
               type == J_NULL ? "-   " : (const char *)value.data);
    }
    return EXIT_OK;
}

int
info_command(int argc, char **argv)
{
    static const char *const methods[] = {"sandbox.info", "sandbox.usage"};
    const char *format = NULL;
    const struct flag flags[] = {{"format", 'o', .value = &format}, {0}};
    struct client c;
    struct err err;
    int n, r = 0;

    if (wants_help(argc, argv, "usage: husk info [-o json] ID\n\nWhat a sandbox is, and what it uses.\n"))
        return EXIT_OK;
    n = flags_read_anywhere(argc, argv, flags, "info");
    if (n < 0 || n + 1 != argc || is_format(format) < 0) {
        if (n >= 0 && n + 1 != argc)
            fputs("husk: say which sandbox; see husk ls\n", stderr);
        return EXIT_USAGE;
    }
    if (format && strcmp(format, "json") == 0)
        return call_and_print(argv[n], methods[0], BYTES("{}"), (struct bytes){0}, 0);
    if (open_sandbox(argv[n], &c) < 0)
        return CLI_FAILURE;
    for (size_t i = 0; r == 0 && i < countof(methods); i++) {
        struct message m = {0};
        struct bytes result;
        r = client_call(&c, methods[i], BYTES("{}"), (struct bytes){0}, now_ms() + ASK_MS, &m, &result, &err);
        if (r == 0)
            print_members(result);
        message_release(&m);
    }
    client_close(&c);
    return r < 0 ? failed(&err) : EXIT_OK;
}

/*** diff ***/

/* In the letters of docker diff. */
static void
print_change(struct bytes entry)
{
    scoped(buf_release) struct buf path = {0};
    struct bytes value;

    if (json_get(entry, "path", &value) != J_STRING || json_unescape(value, &path) < 0 || !buf_string(&path))
        return;
    json_surrogates_to_bytes(&path);
    if (json_get(entry, "change", &value) == J_STRING && value.len > 2)
        printf("%c %.*s\n", value.data[1] == 'r' ? 'D' : value.data[1] == 'a' ? 'A' : 'C', (int)path.len, (const char *)path.data);
}

static void
print_changes(struct bytes result)
{
    struct bytes list, entry;
    size_t at = 0;

    if (json_get(result, "entries", &list) == J_ARRAY)
        while (json_element(list, &at, &entry) == J_OBJECT)
            print_change(entry);
    if (json_get(result, "truncated", &entry) == J_TRUE)
        fputs("husk: there are more; husk call ID sandbox.diff '{\"limit\": N}'\n", stderr);
}

int
diff_command(int argc, char **argv)
{
    const char *format = NULL;
    const struct flag flags[] = {{"format", 'o', .value = &format}, {0}};
    struct message m = {0};
    struct bytes result;
    struct client c;
    struct err err;
    int n, r;

    if (wants_help(argc, argv, "usage: husk diff [-o json] ID\n\n"
                               "What changed in the private directories of a sandbox since its start: A added, C changed, D removed.\n"))
        return EXIT_OK;
    n = flags_read_anywhere(argc, argv, flags, "diff");
    if (n < 0 || n + 1 != argc || is_format(format) < 0) {
        if (n >= 0 && n + 1 != argc)
            fputs("husk: say which sandbox; see husk ls\n", stderr);
        return EXIT_USAGE;
    }
    if (format && strcmp(format, "json") == 0)
        return call_and_print(argv[n], "sandbox.diff", BYTES("{}"), (struct bytes){0}, 0);
    if (open_sandbox(argv[n], &c) < 0)
        return CLI_FAILURE;
    r = client_call(&c, "sandbox.diff", BYTES("{}"), (struct bytes){0}, 0, &m, &result, &err);
    if (r == 0)
        print_changes(result);
    message_release(&m);
    client_close(&c);
    return r < 0 ? failed(&err) : EXIT_OK;
}

/*** kill ***/

static const char kill_usage[] =
    "usage: husk rm ID... | husk rm --all\n"
    "\n"
    "Ends sandboxes, with all that runs in them. One that does not end when it is asked is killed. --all\n"
    "also removes containers that are left of kernels which were killed.\n";

static int
end_one(const struct registry_entry *e)
{
    scoped(fd_close) int pidfd = (int)syscall(SYS_pidfd_open, e->pid, 0);
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    struct client c = CLIENT_NONE;
    struct err err;
    char id[80];
    int asked;

    if (pidfd < 0 || !registry_is_alive(e)) /* after the descriptor: the pid is not another's */
        return 0;
    asked = client_open(e, &c, &err) == 0 &&
            client_send(&c, CONTROL, "shutdown_request", BYTES("{\"restart\":false}"), NULL, 0, id, &err) == 0;
    if (!asked || poll(&ended, 1, END_MS) != 1) {
        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0);
        if (poll(&ended, 1, END_MS) != 1) {
            (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
            (void)poll(&ended, 1, END_MS);
        }
    }
    client_close(&c);
    registry_remove(e->id, e->connection_file); /* what it did not do itself */
    return 0;
}

/* Containers whose broker was killed before it could remove them; prints their ids. */
static void
sweep_containers(void)
{
    char *const argv[] = {(char *)paths_docker(), (char *)"sweep", NULL};
    pid_t pid;

    fflush(stdout);
    if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) == 0)
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
}

int
kill_command(int argc, char **argv)
{
    int all = 0, n, code = EXIT_OK;
    const struct flag flags[] = {{"all", 'a', .on = &all}, {0}};
    struct registry_list list;
    struct err err;

    if (wants_help(argc, argv, kill_usage))
        return EXIT_OK;
    n = flags_read_anywhere(argc, argv, flags, "rm");
    if (n < 0 || (n == argc) != all) {
        if (n >= 0)
            fputs("husk: say which sandboxes, or --all; see husk ls\n", stderr);
        return EXIT_USAGE;
    }
    if (registry_read(&list, &err) < 0)
        return failed(&err);
    for (size_t i = 0; all && i < list.len; i++) {
        end_one(&list.entry[i]);
        puts(list.entry[i].id);
    }
    if (all)
        sweep_containers();
    for (; n < argc; n++) {
        const struct registry_entry *e = registry_find(&list, argv[n], &err);
        if (!e) {
            code = failed(&err);
            continue;
        }
        end_one(e);
        puts(e->id);
    }
    registry_release(&list);
    return code;
}

/*** call, api ***/

int
call_command(int argc, char **argv)
{
    const char *data = NULL;
    scoped(buf_release) struct buf bytes = {0};
    const struct flag flags[] = {{"data", 0, .value = &data}, {0}};
    struct err err;
    int n;

    if (wants_help(argc, argv,
                   "usage: husk call [--data FILE] ID METHOD [PARAMETERS]\n\n"
                   "One operation (husk api lists them) with its parameters as a JSON object; prints the result,\n"
                   "or the bytes if there are some. --data: a file whose bytes go with it.\n\n"
                   "  husk call work files.stat '{\"path\": \"a.txt\"}'\n"))
        return EXIT_OK;
    n = flags_read(argc, argv, flags, NULL, "call");
    if (n < 0 || argc - n < 2 || argc - n > 3) {
        if (n >= 0)
            fputs("husk: say which sandbox and which operation; see husk call --help\n", stderr);
        return EXIT_USAGE;
    }
    if (data && file_read(AT_FDCWD, data, AGENT_READ_MAX, &bytes) < 0) {
        err_errno(&err, "read '%s'", data);
        return failed(&err);
    }
    if (argc - n == 3 && json_check_object(bytes_of(argv[n + 2]), &err) < 0) {
        err_wrap(&err, "the parameters");
        return failed(&err);
    }
    if (!operation_find(bytes_of(argv[n + 1]))) {
        err_set(&err, ENOSYS, "there is no operation '%s'; see husk api", argv[n + 1]);
        return failed(&err);
    }
    return call_and_print(argv[n], argv[n + 1], argc - n == 3 ? bytes_of(argv[n + 2]) : BYTES("{}"),
                          (struct bytes){bytes.data, bytes.len}, 1);
}

static void
print_operation(const struct operation *op)
{
    const char *at = NULL;
    struct parameter p;

    printf("\n%s\n    %s\n", op->name, op->meaning);
    while (parameter_next(op, &at, &p))
        printf("      %-12.*s %.*s%s%s%.*s\n", (int)p.name.len, p.name.data, (int)p.type.len, p.type.data,
               p.required ? ", must be there" : "", p.standard.len ? ", else " : "", (int)p.standard.len,
               p.standard.len ? (const char *)p.standard.data : "");
    if (*op->result)
        printf("    -> %s\n", op->result);
}

int
api_command(int argc, char **argv)
{
    static const struct op_error errors[] = {
#define OP_ERROR(number, code, suggestion) {number, code, suggestion},
#include "wall/op_errors.def"
#undef OP_ERROR
    };

    if (wants_help(argc, argv, "usage: husk api\n\nThe operations of a sandbox, their parameters and errors.\n"))
        return EXIT_OK;
    puts("Operations of a sandbox. As a Jupyter message: sandbox_request on the control channel with the\n"
         "content {\"method\": NAME, \"params\": {...}} and bytes as its buffers; the answer is sandbox_reply\n"
         "with {\"status\": \"ok\", \"result\": {...}}, or \"error\" with code, message and suggestion; events are\n"
         "sandbox_event on iopub. As a command: husk call.");
    for (size_t i = 0; i < operations_count; i++)
        print_operation(&operations[i]);
    puts("\nErrors: code, and what can be done");
    for (size_t i = 0; i < countof(errors); i++)
        if (i == 0 || strcmp(errors[i].code, errors[i - 1].code) != 0)
            printf("    %-18s %s\n", errors[i].code, errors[i].suggestion);
    return EXIT_OK;
}

/*** port ***/

static const char port_usage[] =
    "usage: husk port ID                          the ports that are exposed\n"
    "       husk port ID PORT [[HOST:]HOST_PORT]  expose one; prints where it can be reached\n"
    "       husk port ID PORT SOCKET              the same, on a UNIX socket (a path with a /)\n"
    "       husk port --close ID PORT\n"
    "\n"
    "A TCP port of the sandbox's 127.0.0.1 on an address of this machine: 127.0.0.1 and a free port, if\n"
    "nothing is said.\n"
    "\n"
    "  husk exec -d work -- python3 -m http.server 8000\n"
    "  curl $(husk port work 8000)\n";

static int
read_place(const char *place, json_t *params, struct err *err)
{
    const char *colon = strrchr(place, ':');
    char *end;
    long port = strtol(colon ? colon + 1 : place, &end, 10);

    if (strchr(place, '/'))
        return json_object_set_new(params, "socket", json_string(place));
    if (*end || port < 0 || port > 65535)
        return err_set(err, EINVAL, "'%s' is no [HOST:]PORT", place);
    if (colon && json_object_set_new(params, "host", json_stringn(place, (size_t)(colon - place))) < 0)
        return err_set(err, EILSEQ, "'%s' is no UTF-8", place);
    return json_object_set_new(params, "host_port", json_integer(port));
}

static int
print_place(json_t *port)
{
    const char *url = json_string_value(json_object_get(port, "url"));
    const char *socket = json_string_value(json_object_get(port, "socket"));

    return puts(url ? url : socket ? socket : "");
}

static int
expose(struct client *c, int close, const char *port, const char *place, struct err *err)
{
    json_t *params = json_pack("{si}", "port", atoi(port)), *result;
    scoped(str_free) char *text = NULL;
    struct message m = {0};
    struct bytes answer;
    int r = place ? read_place(place, params, err) : 0;

    text = json_dumps(params, JSON_COMPACT);
    json_decref(params);
    if (r < 0 || client_call(c, close ? "ports.close" : "ports.expose", bytes_of(text), (struct bytes){0},
                             now_ms() + ASK_MS, &m, &answer, err) < 0)
        return -1;
    result = json_loadb((const char *)answer.data, answer.len, 0, NULL);
    if (!close)
        print_place(result);
    json_decref(result);
    message_release(&m);
    return 0;
}

static int
list_ports(struct client *c, struct err *err)
{
    struct message m = {0};
    struct bytes answer;
    json_t *result, *port;
    size_t i;

    if (client_call(c, "ports.list", BYTES("{}"), (struct bytes){0}, now_ms() + ASK_MS, &m, &answer, err) < 0)
        return -1;
    result = json_loadb((const char *)answer.data, answer.len, 0, NULL);
    json_array_foreach(json_object_get(result, "ports"), i, port) {
        printf("%-6d ", (int)json_integer_value(json_object_get(port, "port")));
        print_place(port);
    }
    json_decref(result);
    message_release(&m);
    return 0;
}

static int
is_port(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);

    return end != text && !*end && n >= 1 && n <= 65535;
}

int
port_command(int argc, char **argv)
{
    int close = 0, n, r;
    const struct flag flags[] = {{"close", 0, .on = &close}, {0}};
    struct client c;
    struct err err;

    if (wants_help(argc, argv, port_usage))
        return EXIT_OK;
    n = flags_read_anywhere(argc, argv, flags, "port");
    if (n >= 0 && argc - n > 1 && !is_port(argv[n + 1])) {
        fprintf(stderr, "husk: '%s' is no port, a number from 1 to 65535\n", argv[n + 1]);
        return EXIT_USAGE;
    }
    if (n < 0 || argc - n < 1 + close || argc - n > 3 - close) {
        if (n >= 0)
            fputs("husk: say which sandbox and which port; see husk port --help\n", stderr);
        return EXIT_USAGE;
    }
    if (open_sandbox(argv[n], &c) < 0)
        return CLI_FAILURE;
    r = argc - n == 1 ? list_ports(&c, &err)
                      : expose(&c, close, argv[n + 1], argc - n == 3 ? argv[n + 2] : NULL, &err);
    client_close(&c);
    return r < 0 ? failed(&err) : EXIT_OK;
}

/*** attach ***/

static const char attach_usage[] =
    "usage: husk attach ID\n"
    "\n"
    "A console on its kernel: jupyter console, which must be installed. Ctrl-C interrupts the cell that runs; the\n"
    "console says then that it cannot do so itself. Ctrl-D leaves, and the sandbox stays; exit ends it.\n"
    "\n"
    "  husk attach work\n";

/* jupyter console interrupts only kernels that it has started. */
static void
interrupt_kernel(const struct registry_entry *e)
{
    struct client c = CLIENT_NONE;
    struct err err;
    char id[80];

    if (client_open(e, &c, &err) < 0 || client_send(&c, CONTROL, "interrupt_request", BYTES("{}"), NULL, 0, id, &err) < 0)
        failed(&err);
    client_close(&c);
}

/* Until the console ends: its exit code. Ctrl-C reaches both of us. */
static int
stay_beside(const struct registry_entry *e, pid_t console, int pidfd, int signals)
{
    int status;

    for (;;) {
        struct pollfd p[] = {{.fd = pidfd, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
        struct signalfd_siginfo info;
        if (poll(p, countof(p), -1) < 0)
            continue;
        if (p[0].revents)
            break;
        if (read(signals, &info, sizeof info) != sizeof info)
            continue;
        if (info.ssi_signo == SIGINT)
            interrupt_kernel(e);
        else
            kill(console, (int)info.ssi_signo);
    }
    while (waitpid(console, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int
attach(const struct registry_entry *e, int *ret_code, struct err *err)
{
    char *const argv[] = {(char *)"jupyter", (char *)"console", (char *)"--existing", e->connection_file, NULL};
    scoped(fd_close) int signals = -1, pidfd = -1;
    pid_t console;

    if (process_signals(&signals, err) < 0)
        return -1;
    if (process_spawn(argv, environ, (struct process_fd[]){PROCESS_END}, PROCESS_OURS, &console, err) < 0)
        return err_wrap(err, "'jupyter console' (pip install jupyter-console)");
    pidfd = (int)syscall(SYS_pidfd_open, console, 0);
    if (pidfd < 0) {
        kill(console, SIGTERM);
        return err_errno(err, "watch 'jupyter console'");
    }
    *ret_code = stay_beside(e, console, pidfd, signals);
    return 0;
}

int
attach_command(int argc, char **argv)
{
    struct registry_list list;
    const struct registry_entry *e;
    struct err err;
    int code = EXIT_OK, r = -1;

    if (wants_help(argc, argv, attach_usage))
        return EXIT_OK;
    if (argc != 1) {
        fputs("husk: say which sandbox; see husk ls\n", stderr);
        return EXIT_USAGE;
    }
    if (registry_read(&list, &err) < 0)
        return failed(&err);
    e = registry_find(&list, argv[0], &err);
    if (e)
        r = attach(e, &code, &err);
    registry_release(&list);
    return r < 0 ? failed(&err) : code;
}
