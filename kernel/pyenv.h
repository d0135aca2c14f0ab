/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pyenv.h: what a shim of pyenv decides by.
 *
 * A shim is a script in ROOT/shims that takes a tenth of a second to find out which Python of ROOT/versions is
 * meant: by PYENV_VERSION, or by the first .python-version in the working directory and those above, or by ROOT/version
 * (pyenv's README, "Understanding Python version selection"). As long as all of them are as they were it would say the
 * same again. Who runs hooks of pyenv's, or is told another directory, asks each time.
 */
#pragma once

#include "base/base.h"

/* Whether `python` is such a shim: 1 with the files that it looks at in *ret, whether or not they are there; else 0. */
int pyenv_shim(const char *python, struct strv *ret);
/* Whether `executable` is one of the Pythons that this shim chooses from. */
int pyenv_has(const char *python, const char *executable);
