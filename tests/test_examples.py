# SPDX-License-Identifier: BSD-3-Clause
"""What is printed in the README for programs runs as printed; and what users of other sandboxes
write, one to one, as husk commands and as operations."""

import json
import os
import pathlib
import re
import subprocess
import sys

import conftest
import pytest

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    runtime = tmp_path_factory.mktemp("runtime")
    runtime.chmod(0o700)
    return {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}


def husk(environment, *arguments, **options):
    return subprocess.run([conftest.HUSK, *arguments], capture_output=True, text=True, timeout=conftest.TIMEOUT,
                          env=environment, **options)


@pytest.fixture(scope="module")
def sandbox(environment):
    made = husk(environment, "create", "--name", "work", "--python", conftest.PYTHON)
    assert made.returncode == 0, made.stderr
    yield made.stdout.strip()
    assert husk(environment, "rm", "work").returncode == 0


def test_the_program_of_the_readme_runs_as_printed(environment, sandbox):
    program, = [p for p in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "CONNECTION_FILE" in p]
    listed = json.loads(husk(environment, "ls", "-o", "json").stdout)
    file = next(e["connection_file"] for e in listed if e["id"] == sandbox)
    done = subprocess.run([sys.executable, "-c", program.replace("CONNECTION_FILE", repr(file), 1)],
                          capture_output=True, text=True, timeout=conftest.TIMEOUT)
    assert done.stdout.strip() == "hello", done.stderr


def call(environment, method, expect=0, **params):
    done = husk(environment, "call", "work", method, json.dumps(params))
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout


def test_commands_as_operations(environment, sandbox):
    result = call(environment, "exec.run", cmd='echo "Hello, World!"')
    assert (result["stdout"], result["stderr"], result["exit_code"], result["ok"]) == ("Hello, World!\n", "", 0, True)
    assert result["duration_ms"] >= 0
    result = call(environment, "exec.run", cmd=["python3", "-c", "import os,sys; print(os.getcwd(), os.environ['DEBUG'], sys.stdin.read())"],
                  dir="/tmp", env={"DEBUG": "true"}, timeout_ms=60000, stdin="input data")
    assert result["stdout"] == "/tmp true input data\n"
    result = call(environment, "exec.run", cmd=["sleep", "60"], timeout_ms=200)
    assert result["timed_out"] and not result["ok"]


def test_files_as_operations(environment, sandbox):
    assert call(environment, "files.write", path="/workspace/app/config.json", data='{"temperature": 0.7}', parents=True)["size"] == 20
    call(environment, "files.write", path="/workspace/app/run.sh", data="#!/bin/sh\necho hello", mode="0755")
    assert call(environment, "exec.run", cmd=["/workspace/app/run.sh"])["stdout"] == "hello\n"
    assert call(environment, "files.readText", path="/workspace/app/config.json")["text"] == '{"temperature": 0.7}'
    entries = call(environment, "files.list", path="/workspace/app")["entries"]
    assert {(e["name"], e["type"]) for e in entries} == {("config.json", "file"), ("run.sh", "file")}
    assert call(environment, "files.exists", path="/workspace/app/data.csv") == {"exists": False, "type": None}
    info = call(environment, "files.stat", path="/workspace/app/run.sh")
    assert info["size"] == 20 and info["mode"] == "755" and info["modified_at"].endswith("Z")
    call(environment, "files.write", path="/tmp/result.txt", data="x")
    call(environment, "files.move", source="/tmp/result.txt", destination="/workspace/app/result.txt")
    call(environment, "files.mkdir", path="/workspace/app/data/deep", parents=True)
    assert call(environment, "files.remove", path="/workspace/app", recursive=True)["removed"] == 6


def test_the_same_as_commands(environment, sandbox, tmp_path):
    (tmp_path / "local.txt").write_text("Hello World")
    assert husk(environment, "cp", str(tmp_path / "local.txt"), "work:/workspace/test.txt").returncode == 0
    assert husk(environment, "exec", "work", "--", "cat", "/workspace/test.txt").stdout == "Hello World"
    assert husk(environment, "cp", "work:/workspace/test.txt", str(tmp_path / "downloaded.txt")).returncode == 0
    assert (tmp_path / "downloaded.txt").read_text() == "Hello World"
    assert husk(environment, "exec", "work", "--", "ls", "-la", "/workspace").returncode == 0


def test_a_server_inside_is_waited_for_exposed_fetched_and_killed_with_its_children(environment, sandbox):
    started = husk(environment, "exec", "-d", "work", "--", "sh", "-c", "python3 -m http.server 8000 & wait")
    process = started.stdout.strip()
    call(environment, "proc.wait", until="http", port=8000, timeout_ms=30000)
    url = husk(environment, "port", "work", "8000").stdout.strip()
    fetched = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url, url],
                             capture_output=True, text=True, timeout=conftest.TIMEOUT)
    assert fetched.stdout.startswith("200")
    assert call(environment, "proc.list")["processes"][-1]["state"] == "running"
    call(environment, "proc.kill", id=process)
    call(environment, "proc.wait", id=process)
    call(environment, "exec.run", cmd="sleep 0.1")
    gone = subprocess.run(["curl", "-s", url], capture_output=True, timeout=conftest.TIMEOUT)
    assert gone.returncode != 0
    assert husk(environment, "port", "--close", "work", "8000").returncode == 0


def test_run_shows_prints_values_and_errors(environment):
    options = ["--python", conftest.PYTHON]
    assert husk(environment, "run", *options, "-c", "print(6 * 7)").stdout == "42\n"
    done = husk(environment, "run", *options, "-o", "json", "-c", "for i in range(3): print(f'Step {i}')\ni * 21")
    record = json.loads(done.stdout)
    assert record["stdout"] == "Step 0\nStep 1\nStep 2\n" and record["status"] == "ok"
    assert record["outputs"][-1]["data"]["text/plain"] == "42"
    failed = husk(environment, "run", *options, "-c", "1 / 0")
    assert failed.returncode == 1 and "ZeroDivisionError" in failed.stderr and failed.stdout == ""
    assert husk(environment, "run", *options, "-c", "import sys; sys.exit(7)").returncode == 7
