# SPDX-License-Identifier: BSD-3-Clause
"""jupyter_kernel_client through a stock Jupyter Server, and code_sandboxes on top of it."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request

import conftest
import pytest

jupyter_kernel_client = pytest.importorskip("jupyter_kernel_client")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A stock server whose kernels are husk, also under the name python3."""
    directory = tmp_path_factory.mktemp("server")
    specs = conftest.spec_directory(directory / "spec")
    conftest.spec_directory(directory / "spec", name="python3")
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    token = secrets.token_hex(8)
    root = directory / "root"
    root.mkdir()
    env = {**os.environ, "JUPYTER_PATH": str(specs.parent), "JUPYTER_CONFIG_DIR": str(directory / "config"),
           "JUPYTER_RUNTIME_DIR": str(directory / "runtime"), "JUPYTER_PREFER_ENV_PATH": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter_server", "--allow-root", "--ServerApp.ip=127.0.0.1",
         f"--ServerApp.port={port}", f"--IdentityProvider.token={token}",
         f"--ServerApp.root_dir={root}", "--ServerApp.disable_check_xsrf=True"],
        env=env, cwd=root, stderr=open(directory / "log", "w"))
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + conftest.TIMEOUT
    while True:
        try:
            urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=5).read()
            break
        except OSError:
            assert time.monotonic() < end and process.poll() is None, (directory / "log").read_text()
            time.sleep(0.1)
    yield url, token
    process.terminate()
    process.wait(conftest.TIMEOUT)


@pytest.fixture
def client(server):
    url, token = server
    with jupyter_kernel_client.JupyterKernelClient(server_url=url, token=token) as client:
        yield client


def test_execute(client):
    reply = client.execute("print('hi'); 6 * 7")
    assert reply["status"] == "ok" and reply["execution_count"] == 1
    kinds = {o["output_type"]: o for o in reply["outputs"]}
    assert kinds["stream"]["text"] == "hi\n"
    assert kinds["execute_result"]["data"]["text/plain"] == "42"
    assert client.execute("1 / 0")["status"] == "error"


def test_variables(client):
    client.execute("a = [1, 2]\nb = 'text'")
    names = {v["name"] for v in client.list_variables()}
    assert {"a", "b"} <= names
    client.set_variable("c", 5)
    assert client.get_variable("c") == 5


def test_interrupt(client):
    import threading

    threading.Timer(1.5, client.interrupt).start()
    reply = client.execute("import time; time.sleep(60)", timeout=conftest.TIMEOUT)
    assert reply["status"] == "error"
    assert client.execute("1 + 1")["outputs"][0]["data"]["text/plain"] == "2"


def test_restart(client):
    client.execute("a = 1")
    client.restart()
    end = time.monotonic() + conftest.TIMEOUT
    while time.monotonic() < end:
        try:
            reply = client.execute("'a' in globals()", timeout=10)
        except TimeoutError:  # sent while the server changed its connections
            continue
        if reply["outputs"] and reply["outputs"][0]["data"]["text/plain"] == "False":
            break
    else:
        raise AssertionError(reply)


def test_a_death_is_answered(client):
    reply = client.execute("import os; os._exit(1)", timeout=conftest.TIMEOUT)
    assert reply["status"] == "error"
    assert reply["outputs"][0]["ename"] == "InterpreterDied"
    assert client.execute("1 + 1")["outputs"][0]["data"]["text/plain"] == "2"


def test_code_sandboxes(server):
    from code_sandboxes import Sandbox

    url, token = server
    with Sandbox.create(variant="jupyter-server", server_url=url, token=token, reuse_kernel=False) as sandbox:
        sandbox.run_code("x = 40")
        result = sandbox.run_code("print('a\\nb'); x + 2")
        assert result.text == "42" and result.stdout.rstrip("\n") == "a\nb"
        assert not sandbox.run_code("1 / 0").success
        sandbox.files.write("note.txt", "hello")
        assert sandbox.files.read("note.txt") == "hello"
        assert "note.txt" in sandbox.commands.run("ls").stdout
