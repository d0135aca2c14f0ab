/* SPDX-License-Identifier: BSD-3-Clause
 *
 * doctor.h: the answer to CHECK: what this machine can do for a sandbox. Found out by building one
 * and starting a process in it; files below /proc only explain what was refused, they never
 * decide.
 */
#pragma once

#include "sandbox/build.h"

/* What came of the throw-away sandbox. */
struct checkup {
    enum containment level;
    int built;
    int usable;                   /* and a process ran in it, bound by everything */
    int64_t process_us;           /* from the order until it was executed */
    struct build_failure failure; /* if not: a step of the build or of the process */
};

/* The parts of REPORT (sandbox.def). */
#define REPORT_CHECKS 32
struct report {
    struct bytes part[1 + 4 * REPORT_CHECKS];
    size_t nparts;
    struct strv text; /* owned; the parts point into it */
    struct buf steps;
};

/* Starts /bin/true in the sandbox whose pid 1 is behind `socket`, and waits for its end. */
void doctor_try_process(int socket, struct checkup *checkup);

/* Writes the report. -1 and errno ENOMEM. */
int doctor_report(const struct checkup *checkup, const struct limits *limits,
                  const struct build_times *times, struct report *ret);
void doctor_release(struct report *report);
