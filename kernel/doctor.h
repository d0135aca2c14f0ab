/* SPDX-License-Identifier: BSD-3-Clause
 *
 * doctor.h: `husk doctor`: what this machine can do for husk, what is missing, and what repairs
 * it. The broker finds it out (CHECK and REPORT in sandbox.def); here it is shown.
 */
#pragma once

int doctor_command(int argc, char **argv);
