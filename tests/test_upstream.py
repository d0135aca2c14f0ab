# SPDX-License-Identifier: BSD-3-Clause
"""Tests of others that speak over the wire, from their source packages, with husk in the place of the kernel."""

import os
import re
import subprocess
import sys

import conftest
import pytest
from packages import download, unpack

# {source package: {file of tests: how many there are, all of which pass}}
FILES = {"ipykernel": {"test_debugger.py": 12}}


def fetch_source(name, directory):
    """The tests of the installed version, below `directory`; they import each other as `tests`. Without their
    conftest.py: it is about tests inside one process."""
    unpack(download(name, directory), directory,
           wanted=lambda path: re.fullmatch(r"tests/(?!conftest)\w+\.py", path))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", FILES)
def test_tests_of_others_pass(name, tmp_path):
    fetch_source(name, tmp_path)
    specs = conftest.spec_directory(tmp_path / "spec", "--history", "session", name="python3")
    for file, number in FILES[name].items():
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "60", "-rfEs",
             "--no-flaky-report", f"tests/{file}"],
            cwd=tmp_path, env={**os.environ, "JUPYTER_PATH": str(specs.parent), "PYTEST_ADDOPTS": ""},
            capture_output=True, text=True, timeout=300,
        )
        last = result.stdout.splitlines()[-1]
        assert re.match(rf"{number} passed in ", last), result.stdout + result.stderr
