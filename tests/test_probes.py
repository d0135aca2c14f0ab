# SPDX-License-Identifier: BSD-3-Clause
"""The table of the probes is made from the tests, and is that of the tests as they are."""

import pathlib
import platform
import subprocess
import sys

import conftest

PROBES = pathlib.Path(__file__).with_name("probes.py")


def test_the_table_of_the_probes_is_up_to_date():
    done = subprocess.run([sys.executable, str(PROBES), "--check"], capture_output=True, text=True,
                          timeout=conftest.TIMEOUT)
    # Some claims are of x86-64 alone, where the table is written.
    assert done.returncode == 0 or platform.machine() != "x86_64", done.stdout + done.stderr
