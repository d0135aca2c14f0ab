# SPDX-License-Identifier: BSD-3-Clause
"""Tests of others that speak over the wire, from their source packages, with husk in the place of the kernel."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile

import conftest
import pytest

# {source package: {file of tests: how many there are, all of which pass}}
FILES = {"ipykernel": {"test_debugger.py": 12}}


def fetch_source(name, directory):
    """The tests of the installed version, below `directory`; they import each other as `tests`."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps",
         "--no-binary", name, "--dest", str(directory), f"{name}=={importlib.metadata.version(name)}"],
        check=True, timeout=250,
    )
    with tarfile.open(next(directory.glob("*.tar.gz"))) as tar:
        for member in tar:
            _, _, path = member.name.partition("/")
            # Without their conftest.py: it is about tests inside one process.
            if member.isfile() and re.fullmatch(r"tests/(?!conftest)\w+\.py", path):
                target = directory / path
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())


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
