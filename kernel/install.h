/* SPDX-License-Identifier: BSD-3-Clause
 *
 * install.h: `husk install`: writes the kernelspec by which Jupyter clients find husk.
 */
#pragma once

int install_command(int argc, char **argv);
