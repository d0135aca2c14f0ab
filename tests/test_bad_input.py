# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong before a kernel runs: one clear line, a documented exit code, nothing left."""

import json
import os
import socket
import stat
import subprocess
import sys

import conftest
import pytest

FIELDS = {"transport": "tcp", "ip": "127.0.0.1", "key": "k", "signature_scheme": "hmac-sha256",
          "shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}


def run(*arguments, cwd, env=None, command=()):
    return subprocess.run([*command, conftest.HUSK, "kernel", *map(str, arguments)], cwd=cwd,
                          env={**os.environ, **(env or {})}, capture_output=True, text=True,
                          timeout=conftest.TIMEOUT)


def connection(tmp_path, **fields):
    with_ports = dict(FIELDS)
    sockets = [socket.socket() for _ in range(5)]
    for name, s in zip(("shell", "iopub", "stdin", "control", "hb"), sockets):
        s.bind(("127.0.0.1", 0))
        with_ports[f"{name}_port"] = s.getsockname()[1]
    for s in sockets:
        s.close()
    with_ports.update(fields)
    path = tmp_path / "connection.json"
    path.write_text(json.dumps({k: v for k, v in with_ports.items() if v is not ...}))
    return path


def is_one_line(result, code, *words):
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == code, result.stderr
    assert len(lines) == 1 and lines[0].startswith("husk: "), result.stderr
    for word in words:
        assert word in lines[0]


def test_no_connection_file(tmp_path):
    is_one_line(run(cwd=tmp_path), 64, "no connection file")


def test_a_connection_file_that_is_not_there(tmp_path):
    is_one_line(run("-f", "nowhere.json", cwd=tmp_path), 66, "nowhere.json", "No such file")


def test_a_connection_file_that_is_a_directory(tmp_path):
    is_one_line(run("-f", tmp_path, cwd=tmp_path), 66, "directory")


@pytest.mark.parametrize("text, word", [("", "line"), ("{", "line"), ("[]", "no JSON object"), ("\0\xff", "line")])
def test_a_connection_file_that_is_none(tmp_path, text, word):
    (tmp_path / "c.json").write_text(text)
    is_one_line(run("-f", "c.json", cwd=tmp_path), 65, "c.json", word)


@pytest.mark.parametrize("fields, word", [
    ({"key": ...}, "'key' is missing"), ({"key": 5}, "'key' is missing"),
    ({"shell_port": ...}, "'shell_port' is missing"), ({"hb_port": 0}, "'hb_port' is no port"),
    ({"hb_port": 99999}, "'hb_port' is no port"), ({"hb_port": [1]}, "'hb_port' is no port"),
    ({"transport": "udp"}, "transport 'udp'"), ({"ip": ...}, "'ip' is missing"),
    ({"signature_scheme": "hmac-crc32"}, "hmac-crc32"), ({"signature_scheme": "sha256"}, "sha256"),
], ids=str)
def test_wrong_fields(tmp_path, fields, word):
    is_one_line(run("-f", connection(tmp_path, **fields), cwd=tmp_path), 65, word)


def test_a_busy_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = connection(tmp_path, shell_port=taken.getsockname()[1])
        is_one_line(run("-f", path, "--python", conftest.PYTHON, cwd=tmp_path), 69, "bind shell", "in use")


def test_a_directory_in_place_of_a_socket(tmp_path):
    (tmp_path / "ipc-1").mkdir()
    path = connection(tmp_path, transport="ipc", ip=str(tmp_path / "ipc"), shell_port=1)
    is_one_line(run("-f", path, "--python", conftest.PYTHON, cwd=tmp_path), 69, "ipc-1", "no socket")
    assert (tmp_path / "ipc-1").is_dir()


def script(tmp_path, text):
    path = tmp_path / "python"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path


@pytest.mark.parametrize("text, words", [
    ("#!/bin/sh\necho broken >&2; exit 1\n", ["does not start", "broken"]),
    ("#!/bin/sh\necho version=3.8.20; echo executable=$0\n", ["3.8.20", "3.9 or newer"]),
    ("#!/bin/sh\necho hello\n", ["does not answer like a Python"]),
    ("#!/bin/sh\nkill -9 $$\n", ["does not start"]),
], ids=["fails", "too old", "something else", "killed"])
def test_pythons_that_are_none(tmp_path, text, words):
    result = run("-f", connection(tmp_path), "--python", script(tmp_path, text), cwd=tmp_path)
    is_one_line(result, 72, *words)


def test_a_python_that_is_not_there(tmp_path):
    is_one_line(run("-f", connection(tmp_path), "--python", "/nowhere/python", cwd=tmp_path), 72, "/nowhere/python")


def test_a_python_that_crashes_at_start(tmp_path):
    text = ("#!/bin/sh\ncase $1 in\n-I) exec " + sys.executable + ' "$@" | sed "s#^executable=.*#executable=$0#" ;;\n'
            "*) echo cannot go on >&2; exit 3 ;;\nesac\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    result = run("-f", connection(tmp_path), "--python", script(tools, text), cwd=tmp_path)
    is_one_line(result, 72, "does not start", "status 3", "cannot go on")


@pytest.mark.parametrize("option", ["--memmory=1g", "--pyhton=x", "--memory=lots", "--memory=-5",
                                    "--pids=0", "--log-level=loud", "--cell-timeout=soon"])
def test_options_that_are_wrong_are_refused(tmp_path, option):
    is_one_line(run("-f", connection(tmp_path), option, cwd=tmp_path), 64)


def test_options_of_other_kernels_are_passed_over(make_kernel):
    kernel = make_kernel("--HistoryManager.hist_file=:memory:", "--debug", "--colors=NoColor")
    assert kernel.run("6 * 7").value == "42"


def test_a_python_without_ipython_runs_in_plain_mode(make_kernel, tmp_path):
    broken = tmp_path / "broken" / "IPython"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('this IPython is broken')")
    kernel = make_kernel(env={"PYTHONPATH": str(broken.parent)})
    assert kernel.run("a = 6\na * 7").value == "42"
    assert kernel.run("print('hi')").stdout == "hi\n"
    error = kernel.run("1 / 0")
    assert error.ename == "ZeroDivisionError" and error.of("error")
    assert "pip install ipython" in kernel.run("%timeit 1").evalue
    assert "this IPython is broken" in kernel.log.read_text()


REFUSE = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\""


def test_a_machine_that_refuses_user_namespaces(tmp_path):
    """A throw-away user namespace in which no further one may be made."""
    result = run("-f", connection(tmp_path), "--python", conftest.PYTHON, cwd=tmp_path,
                 command=["unshare", "-Ur", "sh", "-c", REFUSE, "sh"])
    is_one_line(result, 78, "the sandbox cannot be built", "namespaces", "max_user_namespaces")
