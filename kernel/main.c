/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk: the command line. One row a command.
 */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/log.h"
#include "kernel/exits.h"
#include "kernel/install.h"
#include "kernel/kernel.h"
#include "kernel/paths.h"

static int
kernel_command(int argc, char **argv)
{
    static struct kernel k;
    struct err err = {0};
    int r;

    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            puts("usage: husk kernel -f FILE [options]\n\n"
                 "Runs one Jupyter kernel; Jupyter clients start it. Cells run in a sandbox.\n");
            options_help();
            puts("\nExit codes:");
#define X(name, code, meaning) printf("  %2d  %s\n", code, meaning);
            EXITS(X)
#undef X
            return EXIT_OK;
        }
    if (options_read(argc, argv, &k.options, &err) < 0) {
        log_error("%s", err.text);
        return EXIT_USAGE;
    }
    log_open("husk", (enum log_level)k.options.log_level);
    r = kernel_run(&k, &err);
    if (err.code)
        log_error("%s", err.text);
    options_release(&k.options);
    return r;
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"kernel", kernel_command, "run a kernel (Jupyter clients do this)"},
    {"install", install_command, "make husk known to Jupyter clients"},
};

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

int
main(int argc, char **argv)
{
    struct err err;

    if (argc < 2)
        return help(EXIT_USAGE);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return help(EXIT_OK);
    if (strcmp(argv[1], "--version") == 0) {
        puts("husk " HUSK_VERSION);
        return EXIT_OK;
    }
    if (paths_find(&err) < 0) {
        log_error("%s", err.text);
        return EXIT_SYSTEM;
    }
    for (size_t i = 0; i < countof(commands); i++)
        if (strcmp(commands[i].name, argv[1]) == 0)
            return commands[i].run(argc - 2, argv + 2);
    fprintf(stderr, "husk: there is no command '%s'\n\n", argv[1]);
    return help(EXIT_USAGE);
}
