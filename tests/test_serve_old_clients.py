# SPDX-License-Identifier: BSD-3-Clause
"""husk serve and the releases of code_sandboxes that call a Jupyter Server `local-jupyter`.

0.0.10 is the last one in which that name works, 0.0.7 the last in which its files and commands do: between them they
read a member that their results no longer have. Each is put into a directory of its own, with the client that it was made for.
"""

import json
import os
import subprocess
import sys

import pytest

from conftest import TIMEOUT
from serving import Server

OLD_CLIENT = "jupyter_kernel_client<1"

CODE = """
@does
def code(s):
    done = s.run_code("x = 40\\nprint('a'); print('b'); x + 2")
    return done.text, done.stdout.splitlines()

@does
def errors(s):
    done = s.run_code("1/0")
    error = getattr(done, "error", None) or done.code_error
    return error.name, error.value, s.run_code("raise SystemExit(3)") and s.run_code("x").text

@does
def variables(s):
    s.set_variable("v", {"a": [1, 2]})
    s.set_variables({"p": 1, "q": "x"})
    return s.get_variable("v"), s.get_variable("q"), s.run_code("p").text

@does
def contexts(s):
    one = s.create_context("one")
    s.run_code("y = 1", context=one)
    return s.run_code("y", context=one).text

@does
def streaming(s):
    return [type(e).__name__ for e in s.run_code_streaming("print(1); 2")]
"""

FILES = """
import tempfile

@does
def files(s):
    f = s.files
    f.write("/workspace/d/a.txt", "h\\xe4")
    f.write_bytes("/workspace/b", b"\\0\\xff")
    f.mkdir("/workspace/e/f")
    f.copy("/workspace/b", "/workspace/c")
    f.move("/workspace/c", "/workspace/e/c")
    seen = [f.read("/workspace/d/a.txt"), list(f.read_bytes("/workspace/b")), f.is_file("/workspace/b"), f.is_dir("/workspace/d"),
            sorted(i.name for i in f.list("/workspace")), f.get_info("/workspace/e/c").size]
    f.rm("/workspace/e", recursive=True)
    return seen + [f.exists("/workspace/e")]

@does
def carried(s):
    with tempfile.TemporaryDirectory() as d:
        open(d + "/up", "w").write("up and down")
        s.files.upload(d + "/up", "/workspace/u")
        s.files.download("/workspace/u", d + "/down")
        return open(d + "/down").read()

@does
def commands(s):
    done = s.commands.run("echo out; echo err >&2; exit 3")
    return (done.exit_code, done.stdout.strip(), done.stderr.strip(), s.commands.exec("sh", "-c", "exit 4").wait(),
            s.commands.run_script("echo hi").stdout)
"""

TIME = """
@does
def time_out(s):
    try:
        s.run_code("import time; time.sleep(100)", timeout=1)
    except TimeoutError:
        pass
    # It never interrupts; the server's own limit does. What is asked until then is aborted with that cell.
    while (text := s.run_code("6 * 7").text) is None:
        pass
    return text
"""

PROGRAM = """
import json, sys
from code_sandboxes import Sandbox
told, asked = {}, []
does = asked.append
%s
with Sandbox.create(variant="local-jupyter", server_url=sys.argv[1], token=sys.argv[2], timeout=30) as sandbox:
    for f in asked:
        told[f.__name__] = f(sandbox)
print(json.dumps(told))
"""

OF_CODE = {"code": ["42", ["a", "b"]], "errors": ["ZeroDivisionError", "division by zero", "40"], "variables": [{"a": [1, 2]}, "x", "1"],
           "contexts": "1", "streaming": ["OutputMessage", "Result"], "time_out": "42"}
OF_FILES = {"files": ["hä", [0, 255], True, True, ["b", "d", "e"], 2, False], "carried": "up and down",
            "commands": [3, "out", "err", 4, "hi\n"]}


@pytest.fixture(scope="module")
def server():
    s = Server("--cell-timeout=3")
    yield s
    s.stop()


@pytest.mark.parametrize("version, program, wanted", [("0.0.10", CODE + TIME, OF_CODE), ("0.0.7", CODE + FILES + TIME, {**OF_CODE, **OF_FILES})],
                         ids=["0.0.10", "0.0.7"])
def test_local_jupyter(server, tmp_path, version, program, wanted):
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", str(tmp_path),
                    f"code_sandboxes=={version}", OLD_CLIENT], check=True, timeout=4 * TIMEOUT)
    done = subprocess.run([sys.executable, "-c", PROGRAM % program, server.url, server.token], capture_output=True, text=True,
                          timeout=2 * TIMEOUT, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wanted
    assert server.get("/api/kernels").json() == []
