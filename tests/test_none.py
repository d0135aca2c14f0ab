# SPDX-License-Identifier: BSD-3-Clause
"""Containment none: no sandbox, for whoever says so twice. What it shows of itself, and what is left of a kernel.

Cells here are processes of the machine: no test does anything to anything but what it has made.
"""

import os
import socket

import conftest
import psutil
import pytest
from test_profiles import start_fails

UNCONFINED = ("--containment", "none", "--unconfined", "yes")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    k = conftest.Kernel(tmp_path_factory.mktemp("bare"), *UNCONFINED)
    yield k
    k.stop()


@pytest.mark.parametrize("options, words", [
    (["--containment", "none"], "containment none is no sandbox: cells could do all that you can"),
    (["--containment", "none", "--unconfined", "no"], "--unconfined 'no' is not yes"),
    (["--unconfined", "yes"], "--unconfined contradicts containment full"),
    (["--containment", "landlock", "--unconfined", "yes"], "--unconfined contradicts containment landlock"),
    ([*UNCONFINED, "--allow", "example.org"], "no network of its own"),
    ([*UNCONFINED, "--network", "none"], "containment none has the machine's own"),
    ([*UNCONFINED, "--hostname", "box"], "no host name of its own"),
    ([*UNCONFINED, "--tmp-size", "1m"], "no private directories in memory"),
    ([*UNCONFINED, "--profile", "image", "--image", "/usr"], "no root file system of its own"),
    ([*UNCONFINED, "--mount", "/usr/share:/data"], "at its own path only")], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_what_is_refused(tmp_path, options, words):
    assert words in start_fails(tmp_path, *options)


def test_it_is_told_everywhere(bare):
    info = bare.control("kernel_info_request")["content"]
    assert info["husk"]["containment"] == "none"
    assert "WITHOUT a sandbox" in info["banner"] and "network: the machine's own" in info["banner"]
    assert "Containment: none (cells can do all that the user who runs husk can)" in info["banner"]
    assert "containment none: cells can do all that you can" in bare.log.read_text()


def test_nothing_is_kept_from_a_cell(bare):
    """As SECURITY.md says: the key, other processes, the network, the user's rights."""
    assert bare.run(f"import json; json.load(open({bare.manager.connection_file!r}))['key'] != ''").value == "True"
    assert bare.run("import os; os.getuid()").value == str(os.getuid())
    assert bare.run(f"import os; os.path.exists('/proc/{os.getpid()}/status')").value == "True"
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert bare.run(f"import socket; socket.create_connection({server.getsockname()}).close()").status == "ok"
    status = bare.run("print(open('/proc/self/status').read())").stdout
    assert "NoNewPrivs:\t0" in status and "Seccomp:\t0" in status


def test_files_are_those_of_the_client(bare):
    assert bare.run("open('made', 'w').write('here')").status == "ok"
    assert (bare.cwd / "made").read_text() == "here" and (bare.cwd / "made").stat().st_uid == os.getuid()


def test_deaths_are_named_and_nothing_lives_on(tmp_path):
    directory = tmp_path / "ends"
    directory.mkdir()
    kernel = conftest.Kernel(directory, *UNCONFINED)
    try:
        child = int(kernel.run("import subprocess; subprocess.Popen(['sleep', '100'], start_new_session=True).pid").value)
        died = kernel.run("import os; os._exit(3)")
        assert died.ename == "InterpreterDied" and "exited with status 3" in died.evalue
        assert kernel.run("6 * 7").value == "42" and conftest.is_gone(child)
        code = "import subprocess, os; subprocess.Popen(['sleep', '100'], start_new_session=True).pid, os.getpid()"
        alive = [psutil.Process(pid) for pid in eval(kernel.run(code).value)]
    finally:
        kernel.stop()
    _, left = psutil.wait_procs(alive, timeout=conftest.TIMEOUT)
    assert not left


def test_an_interrupt_is_heard(bare):
    sent = bare.send("print('on'); import time; time.sleep(100)")
    while bare.client.get_iopub_msg(timeout=conftest.TIMEOUT)["msg_type"] != "stream":
        pass
    bare.interrupt()
    assert bare.result(sent).ename == "KeyboardInterrupt"
