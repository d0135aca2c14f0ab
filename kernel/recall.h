/* SPDX-License-Identifier: BSD-3-Clause
 *
 * recall.h: what a Python said the last time that it was asked what it needs to see (interpreter/probe.py).
 *
 * Kept below husk's state, with a stamp of each file that the answer was made from. A Python that
 * is a program is not asked again as long as they and some variables are as they were. A script in its place may choose
 * another one each time, and is always asked; but of a shim of pyenv it is known what it decides by (kernel/pyenv.h).
 */
#pragma once

#include "base/base.h"

/* Appends the answer. -1: it has to be asked. */
int recall_load(const char *python, struct buf *ret);
/* What cannot be kept is asked again the next time: no error. */
void recall_save(const char *python, struct bytes answer);
