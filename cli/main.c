/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk: the command line. One row a command.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/log.h"
#include "kernel/exits.h"
#include "cli/cli.h"
#include "kernel/paths.h"

/* A program of its own: it links what most commands do not need. `words`: in front of its arguments. */
static int
become(const char *program, const char *const words[], int argc, char **argv)
{
    scoped(strv_release) struct strv v = {0};
    struct err err;

    for (; *words; words++)
        if (strv_add(&v, *words) < 0)
            abort();
    for (int i = 0; i < argc; i++)
        if (strv_add(&v, argv[i]) < 0)
            abort();
    execv(program, v.item);
    err_errno(&err, "start '%s'", program);
    log_error("%s", err.text);
    return EXIT_SYSTEM;
}

static int
serve_command(int argc, char **argv)
{
    return become(paths_server(), (const char *const[]){"husk-serve", NULL}, argc, argv);
}

static int
launch_command(int argc, char **argv)
{
    return become(paths_launch(), (const char *const[]){"husk-launch", NULL}, argc, argv);
}

#define OF_KERNEL(name)                                                                        \
    static int                                                                                 \
    name##_command(int argc, char **argv)                                                      \
    {                                                                                          \
        return become(paths_kernel(), (const char *const[]){"husk", #name, NULL}, argc, argv); \
    }
OF_KERNEL(kernel)
OF_KERNEL(install)
OF_KERNEL(warm)
OF_KERNEL(doctor)

static int completion_command(int argc, char **argv);

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"kernel", kernel_command, "run a kernel (Jupyter clients do this)"},
    {"serve", serve_command, "serve kernels over HTTP and WebSocket"},
    {"run", run_command, "run Python in a fresh sandbox"},
    {"create", create_command, "start a sandbox that stays"},
    {"ls", ls_command, "the sandboxes that run"},
    {"stats", stats_command, "what sandboxes use of the machine"},
    {"info", info_command, "what a sandbox is, and what it uses"},
    {"diff", diff_command, "what changed in one since its start"},
    {"exec", exec_command, "run a command in a sandbox"},
    {"ps", ps_command, "the processes that exec began"},
    {"logs", logs_command, "what one of them printed"},
    {"cp", cp_command, "copy files and directories in or out"},
    {"port", port_command, "a port of a sandbox on this machine"},
    {"attach", attach_command, "a console on its kernel"},
    {"rm", kill_command, "end sandboxes"},
    {"kill", kill_command, "the same"},
    {"call", call_command, "one operation, by its name"},
    {"api", api_command, "the operations and their parameters"},
    {"completion", completion_command, "completion for bash or zsh, as text"},
    {"launch", launch_command, "run a kernel for Enterprise Gateway or gateway_provisioners"},
    {"install", install_command, "make husk known to Jupyter clients"},
    {"warm", warm_command, "freeze an interpreter, so that kernels start in milliseconds"},
    {"doctor", doctor_command, "say what this machine can do for husk, and how to repair what is missing"},
};

/* A script of bash, which zsh reads too. The first word is one of the commands; options are those that --help names,
 * up to the `--` behind which the words are of another command; other words are ids and names of what runs, or files. */
static const char completion_script[] =
    "    elif [[ $word == -* && \" ${COMP_WORDS[*]:0:COMP_CWORD} \" != *' -- '* ]]; then\n"
    "        COMPREPLY=($(compgen -W \"$(husk \"${COMP_WORDS[1]}\" --help 2>/dev/null |\n"
    "            grep -Eo -e '--[a-z][a-z-]*' | sort -u)\" -- \"$word\"))\n"
    "    elif [[ ${COMP_WORDS[1]} =~ ^(info|stats|diff|exec|ps|logs|port|attach|rm|kill|call|cp)$ ]]; then\n"
    "        COMPREPLY=($(compgen -W \"$(husk ls 2>/dev/null | awk 'NR > 1 { print $1; "
    "if ($3 ~ /^(strict|notebook|image)$/) print $2 }')\" -- \"$word\") $(compgen -f -- \"$word\"))\n"
    "    else\n        COMPREPLY=($(compgen -f -- \"$word\"))\n    fi\n}\ncomplete -F _husk husk\n";

static int
completion_command(int argc, char **argv)
{
    if (argc != 1 || (strcmp(argv[0], "bash") != 0 && strcmp(argv[0], "zsh") != 0)) {
        fputs("usage: husk completion bash|zsh\n\n"
              "  eval \"$(husk completion bash)\"     in ~/.bashrc; likewise zsh in ~/.zshrc\n", stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[0], "zsh") == 0)
        puts("autoload -Uz bashcompinit && bashcompinit");
    fputs("_husk() {\n    local word=${COMP_WORDS[COMP_CWORD]}\n    if ((COMP_CWORD == 1)); then\n"
          "        COMPREPLY=($(compgen -W '", stdout);
    for (size_t i = 0; i < countof(commands); i++)
        printf("%s%s", i ? " " : "", commands[i].name);
    fputs("' -- \"$word\"))\n", stdout);
    fputs(completion_script, stdout);
    return EXIT_OK;
}

static int
help(int exit_code)
{
    FILE *to = exit_code == EXIT_OK ? stdout : stderr;

    fputs("usage: husk COMMAND [options]\n\n"
          "A Jupyter kernel whose interpreter lives in a sandbox.\n\n", to);
    for (size_t i = 0; i < countof(commands); i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    fputs("\nhusk COMMAND --help says more. husk --version: the version.\n", to);
    return exit_code;
}

/* Where one of these is closed, a socket of ours must not take its place: what is written there fails. */
static void
hold_standard_descriptors(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* Of what was printed, all must have come to where it should. */
static int
end(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    fprintf(stderr, "husk: write to standard output: %s\n", strerror(errno));
    return code == EXIT_OK ? CLI_FAILURE : code;
}

int
main(int argc, char **argv)
{
    struct err err;

    hold_standard_descriptors();
    if (argc < 2)
        return help(EXIT_USAGE);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return end(help(EXIT_OK));
    if (strcmp(argv[1], "--version") == 0) {
        puts("husk " HUSK_VERSION);
        return end(EXIT_OK);
    }
    if (paths_find(&err) < 0) {
        log_error("%s", err.text);
        return EXIT_SYSTEM;
    }
    for (size_t i = 0; i < countof(commands); i++)
        if (strcmp(commands[i].name, argv[1]) == 0)
            return end(commands[i].run(argc - 2, argv + 2));
    fprintf(stderr, "husk: there is no command '%s'; see husk --help\n", argv[1]);
    return EXIT_USAGE;
}
