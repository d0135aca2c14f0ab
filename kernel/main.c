/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-kernel: kernels, and what has to do with Python and Jupyter: what of husk needs many libraries. `husk` executes
 * it; it is named so to whoever looks.
 */
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/base.h"
#include "base/log.h"
#include "kernel/doctor.h"
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
    if (options_read(argc, argv, 0, &k.options, &err) < 0) {
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

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {{"kernel", kernel_command}, {"install", install_command}, {"warm", warm_command},
                    {"doctor", doctor_command}};
    struct err err;

    prctl(PR_SET_NAME, "husk");
    if (paths_find(&err) < 0) {
        log_error("%s", err.text);
        return EXIT_SYSTEM;
    }
    for (size_t i = 0; argc > 1 && i < countof(commands); i++)
        if (strcmp(commands[i].name, argv[1]) == 0)
            return commands[i].run(argc - 2, argv + 2);
    fputs("husk: this program is a part of husk; see husk --help\n", stderr);
    return EXIT_USAGE;
}
