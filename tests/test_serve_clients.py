# SPDX-License-Identifier: BSD-3-Clause
"""What jupyter_kernel_client and code_sandboxes do with husk through a stock Jupyter Server, they do with husk serve."""

import pathlib
import re
import subprocess
import sys

import conftest
import pytest
import test_clients
from code_sandboxes import Sandbox
from serving import Server
from test_clients import client, sandbox  # noqa: F401 (fixtures)

README = pathlib.Path(__file__).parent.parent / "README.md"

# Those are about Jupyter Server itself.
ABOUT_THE_OTHER = {"test_the_server_offers_it_with_its_name_and_logos", "test_the_server_replaces_a_kernel_that_was_killed",
                   "test_a_flood_passes_the_server_whole"}
FIXTURES = {"client", "sandbox", "server"}

globals().update({
    name: value for name, value in vars(test_clients).items()
    if name.startswith("test_") and callable(value) and name not in ABOUT_THE_OTHER and
    FIXTURES & set(value.__code__.co_varnames[:value.__code__.co_argcount])})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    s = Server("--profile=notebook", f"--workdir={root}")
    s.root = root
    yield s
    s.stop()


def test_tests_are_here():
    assert len([name for name in globals() if name.startswith("test_a_sandbox")]) > 8


def test_a_server_url_as_it_is_printed_with_its_token(server):
    """The client cuts the query and keeps the slash: it asks for //api/status."""
    with Sandbox.create(variant="jupyter-server", server_url=f"{server.url}/?token={server.token}", token=server.token,
                        reuse_kernel=False, timeout=conftest.TIMEOUT) as s:
        assert s.run_code("6 * 7").text == "42"


def test_the_program_of_the_readme_runs_as_printed(server):
    program, = [p for p in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "code_sandboxes" in p]
    program = program.replace("http://127.0.0.1:8888", server.url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=conftest.TIMEOUT)
    assert done.stdout == "42\n", done.stderr


def test_a_sandbox_of_the_servers_own_profile(tmp_path):
    """Without options: strict. Nothing of the host's, and a private workspace."""
    s = Server()
    try:
        with Sandbox.create(variant="jupyter-server", server_url=s.url, token=s.token, timeout=conftest.TIMEOUT) as box:
            box.files.write("/workspace/a/b.txt", "kept")
            assert box.files.read("/workspace/a/b.txt") == "kept"
            assert box.run_code("import os; os.getcwd(), os.path.exists(%r)" % str(tmp_path)).text == "('/workspace', False)"
            assert box.restart_kernel()
            assert box.files.read("/workspace/a/b.txt") == "kept"
        assert s.get("/api/kernels").json() == []
    finally:
        s.stop()
