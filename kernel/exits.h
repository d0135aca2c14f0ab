/* SPDX-License-Identifier: BSD-3-Clause
 *
 * exits.h: exit codes of husk, those of sysexits.h. Documented in the README.
 */
#pragma once

#define EXITS(X)                                                                               \
    X(EXIT_OK, 0, "done")                                                                      \
    X(EXIT_USAGE, 64, "the command line is wrong")                                             \
    X(EXIT_DATA, 65, "the connection file is no connection file")                              \
    X(EXIT_INPUT, 66, "the connection file cannot be read")                                    \
    X(EXIT_BUSY, 69, "an address cannot be bound, or nobody acknowledges the ports")                                             \
    X(EXIT_SYSTEM, 71, "the operating system refused something")                               \
    X(EXIT_PYTHON, 72, "no Python that can be used")                                           \
    X(EXIT_SANDBOX, 78, "the sandbox cannot be built on this machine")

enum exit_code {
#define X(name, code, meaning) name = code,
    EXITS(X)
#undef X
};
