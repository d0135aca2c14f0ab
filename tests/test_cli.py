# SPDX-License-Identifier: BSD-3-Clause
"""The command line: husk run, create, exec, ps, logs, cp, ls, info, rm, call, api."""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import pty
import re
import resource
import select
import shlex
import signal
import socket
import struct
import subprocess
import tarfile
import tempfile
import termios
import time

import conftest
import psutil
import pytest

COMMANDS = ["run", "create", "ls", "info", "stats", "diff", "exec", "ps", "logs", "cp", "port", "attach", "rm", "kill", "call", "api",
            "install", "doctor", "warm", "serve", "kernel"]


class Cli:
    """husk with a runtime directory of its own."""

    def __init__(self, directory):
        self.runtime = directory / "run"
        self.runtime.mkdir(mode=0o700)
        self.cwd = directory / "work"
        self.cwd.mkdir()
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(self.runtime)}
        self.started = []

    def argv(self, *words):
        words = [w if isinstance(w, bytes) else str(w) for w in words]
        if words and words[0] in ("run", "create"):
            words[1:1] = ["--python", conftest.PYTHON]
        return [conftest.HUSK, *words]

    def __call__(self, *words, code=0, input=b"", timeout=conftest.TIMEOUT, **options):
        """Runs it; stdout as text, after a look at the exit code."""
        done = self.run(*words, input=input, timeout=timeout, **options)
        assert done.returncode == code, done
        return done.stdout.decode(errors="surrogateescape")

    def run(self, *words, input=b"", timeout=conftest.TIMEOUT, **options):
        return subprocess.run(self.argv(*words), input=input, capture_output=True, timeout=timeout,
                              **{"env": self.env, "cwd": self.cwd, **options})

    def popen(self, *words, **options):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                   "env": self.env, "cwd": self.cwd, **options}
        self.started.append(subprocess.Popen(self.argv(*words), **options))
        return self.started[-1]

    def create(self, *options):
        return self("create", *options).strip()

    def files(self):
        """What lies in the registry."""
        place = self.runtime / "husk"
        return sorted(os.listdir(place)) if place.is_dir() else []

    def kernels(self):
        """Processes of husk with this runtime directory."""
        found = []
        for p in psutil.process_iter():
            try:
                if p.environ().get("XDG_RUNTIME_DIR") == str(self.runtime):
                    found.append(p)
            except psutil.Error:
                pass
        return found

    def end(self):
        for p in self.started:
            if p.poll() is None:
                p.kill()
            p.communicate()
        self.run("rm", "--all")
        for p in self.kernels():
            p.kill()


@pytest.fixture
def cli(tmp_path):
    c = Cli(tmp_path)
    yield c
    c.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One runtime directory for the tests of a module, with a sandbox in it."""
    c = Cli(tmp_path_factory.mktemp("cli"))
    c.id = c.create("--name", "work")
    yield c
    c.end()


def until(condition, timeout=conftest.TIMEOUT):
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


# --- run


@pytest.mark.parametrize("code, expected", [
    ("pass", 0), ("import sys; sys.exit(7)", 7), ("import sys; sys.exit()", 0), ("import sys; sys.exit(None)", 0),
    ("raise SystemExit(300)", 300 & 255), ("import sys; sys.exit('why')", 1), ("1/0", 1), ("import os; os._exit(9)", 9),
    ("import os; os.kill(os.getpid(), 9)", 137), ("import os; os.kill(os.getpid(), 11)", 139), ("def", 1)])
def test_the_exit_code_is_that_of_the_code(cli, code, expected):
    assert cli.run("run", "-c", code).returncode == expected


def test_streams_are_streams(cli):
    done = cli.run("run", "-c", "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6*7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 0)
    done = cli.run("run", "-c", "print('before')\n1/0")
    assert done.stdout == b"before\n" and done.returncode == 1
    assert b"ZeroDivisionError" in done.stderr and b"\033" not in done.stderr
    assert cli.run("run", "-c", "import sys; sys.exit('why')").stderr == b"why\n"
    assert cli.run("run", "-c", "import sys; sys.exit(3)").stderr == b""


def test_output_comes_while_it_runs(cli):
    p = cli.popen("run", "-c", "print('first', flush=True)\nimport time; time.sleep(1000)")
    assert p.stdout.readline() == b"first\n"
    assert p.poll() is None


def test_a_file_standard_input_and_a_missing_file(cli):
    (cli.cwd / "a.py").write_text("print(__name__)")
    assert cli("run", "a.py") == "__main__\n"
    assert cli("run", "-", input=b"print('in')") == "in\n"
    done = cli.run("run", "no.py")
    assert done.returncode == 125 and b"no.py" in done.stderr and done.stdout == b""


def test_input_is_asked_for(cli):
    assert cli("run", "-c", "print(input('name? ') * 2)", input=b"ab\n") == "abab\n"


def test_a_record(cli):
    text = cli("run", "-o", "json", "-c", "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6*7")
    r = json.loads(text)
    assert text.count("\n") == 1
    assert (r["status"], r["exit_code"], r["stdout"], r["stderr"], r["error"]) == ("ok", 0, "out\n", "err\n", None)
    (result,) = [o for o in r["outputs"] if o["output_type"] == "execute_result"]
    assert result["data"]["text/plain"] == "42"
    assert [o["text"] for o in r["outputs"] if o["output_type"] == "stream"] == ["out\n", "err\n"]
    done = cli.run("run", "-o", "json", "-c", "1/0")
    r = json.loads(done.stdout)
    assert done.returncode == 1 and r["error"]["ename"] == "ZeroDivisionError" and done.stderr == b""
    assert r["status"] == "error" and r["timed_out"] is False
    r = json.loads(cli("run", "-o", "json", "-c", "import sys; sys.exit(4)", code=4))
    assert r["exit_code"] == 4


def test_a_record_of_text_that_is_none(cli):
    """Lone surrogates, NULs, a megabyte in small pieces."""
    r = json.loads(cli("run", "-o", "json", "-c", "from IPython.display import display\n"
                       "display({'text/plain': 'a\\ud800b'}, raw=True)\nprint('x\\0y')\n"
                       "for i in range(20000): print('z' * 50, flush=True)"))
    assert r["stdout"].startswith("x\0y\n") and len(r["stdout"]) == 4 + 51 * 20000
    assert "".join(o["text"] for o in r["outputs"] if o["output_type"] == "stream") == r["stdout"]


def test_the_time_out(cli):
    done = cli.run("run", "--timeout", "1", "-c", "print('x', flush=True)\nimport time; time.sleep(1000)")
    assert done.returncode == 124 and done.stdout == b"x\n"
    done = cli.run("run", "--timeout", "0.5", "-c",
                   "while True:\n    try:\n        while True: pass\n    except BaseException: pass")
    assert done.returncode == 124
    assert until(lambda: not cli.kernels()) and cli.files() == []


NOTEBOOK = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
    {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# x"]},
    {"cell_type": "code", "id": "b", "metadata": {}, "source": ["print('hello')\n", "x = 6"], "outputs": [],
     "execution_count": None},
    {"cell_type": "code", "id": "c", "metadata": {}, "source": "x * 7", "outputs": [], "execution_count": None}]}


def test_a_notebook_in_place_and_elsewhere(cli):
    path = cli.cwd / "a.ipynb"
    path.write_text(json.dumps(NOTEBOOK))
    assert cli("run", "--output", "b.ipynb", "a.ipynb") == ""
    assert json.loads(path.read_text()) == NOTEBOOK
    done = json.loads((cli.cwd / "b.ipynb").read_text())
    assert done["cells"][1]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "hello\n"}]
    assert done["cells"][2]["outputs"][0]["data"]["text/plain"] == "42"
    assert [c.get("execution_count") for c in done["cells"]] == [None, 1, 2]
    cli("run", "a.ipynb")
    assert json.loads(path.read_text()) == done
    assert sorted(os.listdir(cli.cwd)) == ["a.ipynb", "b.ipynb"]


def test_a_notebook_ends_with_its_first_error_and_is_written(cli):
    notebook = json.loads(json.dumps(NOTEBOOK))
    notebook["cells"][1]["source"] = "1/0"
    (cli.cwd / "a.ipynb").write_text(json.dumps(notebook))
    done = cli.run("run", "a.ipynb")
    assert done.returncode == 1 and b"ZeroDivisionError" in done.stderr and done.stdout == b""
    cells = json.loads((cli.cwd / "a.ipynb").read_text())["cells"]
    assert cells[1]["outputs"][0]["ename"] == "ZeroDivisionError" and cells[2]["outputs"] == []
    (cli.cwd / "bad.ipynb").write_text("{}")
    done = cli.run("run", "bad.ipynb")
    assert done.returncode == 125 and b"bad.ipynb" in done.stderr
    assert (cli.cwd / "bad.ipynb").read_text() == "{}"


def test_nothing_is_left_of_a_run(cli):
    cli("run", "-c", "import os; os.system('setsid sleep 1000 &')")
    assert cli.files() == [] and until(lambda: not cli.kernels())


def test_a_sandbox_may_be_kept(cli):
    done = cli.run("run", "--keep", "--name", "kept", "-c", "x = 5; open('f', 'w').write('5')")
    assert done.returncode == 0 and done.stdout == b""
    (entry,) = json.loads(cli("ls", "-o", "json"))
    assert entry["name"] == "kept" and entry["id"].encode() in done.stderr
    assert cli("exec", "kept", "--", "cat", "f") == "5"
    assert cli("rm", "kept").strip() == entry["id"]
    assert cli.files() == []


def test_options_of_the_sandbox_are_passed_on(cli):
    (cli.cwd / "data").write_text("of the host")
    assert cli("run", "--mount", cli.cwd / "data", "--env", "A=1", "-c",
               f"import os; print(open({str(cli.cwd / 'data')!r}).read(), os.environ['A'])") == "of the host 1\n"
    done = cli.run("run", "-c", f"open({str(cli.cwd / 'data')!r})")
    assert done.returncode == 1 and b"FileNotFoundError" in done.stderr


def test_cells_have_the_signals_of_any_process(cli):
    """What husk itself blocks or ignores does not go down."""
    assert cli("run", "-c", "import os\nprint([l for l in open('/proc/self/status') if l.startswith('SigBlk')][0], "
               "end='')") == "SigBlk:\t0000000000000000\n"


# --- signals and ends


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_run(cli, number, code):
    p = cli.popen("run", "-c", "print('go', flush=True)\nimport time; time.sleep(1000)")
    p.stdout.readline()
    p.send_signal(number)
    assert p.wait(conftest.TIMEOUT) == code
    assert until(lambda: not cli.kernels()) and cli.files() == []


def test_an_interrupt_is_the_code_s_to_handle(cli):
    p = cli.popen("run", "-c", "import time\ntry:\n    print('go', flush=True); time.sleep(1000)\n"
                  "except KeyboardInterrupt: print('handled')")
    p.stdout.readline()
    p.send_signal(signal.SIGINT)
    assert p.communicate(timeout=conftest.TIMEOUT)[0] == b"handled\n" and p.returncode == 0


def test_a_second_interrupt_ends_it(cli):
    p = cli.popen("run", "-c", "print('go', flush=True)\nwhile True:\n    try:\n        while True: pass\n"
                  "    except BaseException: pass")
    p.stdout.readline()
    p.send_signal(signal.SIGINT)
    time.sleep(0.3)
    p.send_signal(signal.SIGINT)
    assert p.wait(conftest.TIMEOUT) == 130
    assert until(lambda: not cli.kernels()) and cli.files() == []


def test_nobody_reads_what_a_run_prints(cli):
    p = cli.popen("run", "-c", "while True: print('x' * 1000)")
    p.stdout.read(10)
    p.stdout.close()
    assert p.wait(conftest.TIMEOUT) == 141
    p.stdout = None
    assert until(lambda: not cli.kernels()) and until(lambda: cli.files() == [])


def test_closed_descriptors(cli):
    for fds in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(["sh", "-c", f'"$@" {fds}', "sh", *cli.argv("run", "-c", "open('/tmp/x', 'w')")],
                              env=cli.env, cwd=cli.cwd, capture_output=True, timeout=conftest.TIMEOUT)
        assert done.returncode == 0, (fds, done)
    assert cli.files() == []


@pytest.mark.parametrize("words", [["ls"], ["api"], ["--version"], ["info", "work"], ["exec", "work", "--", "echo", "x"],
                                   ["run", "-c", "print(1)"]], ids=lambda w: w[0])
@pytest.mark.parametrize("where, why", [(">/dev/full", b"No space left"), (">&-", b"Bad file descriptor")], ids=["full", "closed"])
def test_what_cannot_be_written_is_said(shared, words, where, why):
    """Also where a socket of husk could have taken the place of a descriptor that is closed."""
    done = subprocess.run(["sh", "-c", f'"$@" {where}', "sh", *shared.argv(*words)], env=shared.env, cwd=shared.cwd,
                          capture_output=True, timeout=conftest.TIMEOUT)
    assert done.returncode == 125 and done.stderr.startswith(b"husk: ") and why in done.stderr, done


def test_a_run_that_is_killed_leaves_nothing(cli):
    p = cli.popen("run", "-c", "print('go', flush=True)\nimport os; os.system('setsid sleep 1000 & sleep 1000')")
    p.stdout.readline()
    p.kill()
    p.wait()
    assert until(lambda: not cli.kernels())
    assert until(lambda: cli.files() == [])


# --- what it says


@pytest.mark.parametrize("words", [
    ["nothing"], [], ["run"], ["run", "a.ipynb", "b"], ["run", "-c"], ["run", "-o", "xml", "-c", "1"],
    ["run", "--timeout", "x", "-c", "1"], ["run", "--timeout", "-1", "-c", "1"], ["run", "--nothing", "x", "-c", "1"],
    ["run", "--memory", "lots", "-c", "1"], ["create", "x"], ["create", "--memory", "lots"], ["create", "--name", "a/b"],
    ["ls", "x"], ["ls", "-x"], ["ls", "-o", "xml"], ["info"], ["info", "a", "b"], ["diff"], ["diff", "-o", "xml", "a"], ["stats", "-o", "xml"], ["stats", "--often"], ["exec"], ["exec", "a"], ["exec", "a", "--"],
    ["exec", "-x", "a", "b"], ["exec", "--timeout", "x", "a", "b"], ["ps"], ["ps", "a", "b"], ["ps", "-o", "xml", "a"],
    ["logs"], ["logs", "a", "b", "c"], ["cp", "a"], ["cp", "a", "b"], ["cp", "a:b", "c:d"], ["rm"], ["rm", "--all", "x"], ["call", "a"], ["attach"],
    ["port"], ["port", "a", "x"], ["port", "a", "0"], ["port", "a", "65536"]])
def test_a_wrong_command_line(shared, words):
    done = shared.run(*words)
    assert done.returncode == 64 and done.stdout == b"" and done.stderr.startswith((b"husk: ", b"usage: ")), done


@pytest.mark.parametrize("command", COMMANDS)
def test_help(shared, command):
    for word in ("--help", "-h"):
        done = subprocess.run([conftest.HUSK, command, word], env=shared.env, capture_output=True, timeout=20)
        assert done.returncode == 0 and done.stderr == b"" and b"usage: husk " in done.stdout
    assert f"  {command}".encode() in subprocess.run([conftest.HUSK, "--help"], capture_output=True).stdout


@pytest.mark.parametrize("words", [["info"], ["stats"], ["diff"], ["exec", "--", "true"], ["ps"], ["logs", "p1"], ["rm"], ["attach"],
                                   ["call", "files.list"]])
def test_a_sandbox_that_is_not_there(shared, words):
    words = [words[0], "nobody", *words[1:]]
    done = shared.run(*words)
    assert done.returncode == 125 and done.stdout == b"" and b"'nobody'" in done.stderr
    done = shared.run("cp", "nobody:/x", "y")
    assert done.returncode == 125 and b"'nobody'" in done.stderr


def test_api_lists_every_row(shared):
    tests = pathlib.Path(__file__).parent
    rows = re.findall(r'^OPERATION\("([^"]+)", \w+, "([^"]*)"', (tests.parent / "wall/operations.def").read_text(), re.M)
    codes = re.findall(r'^OP_ERROR\(\w+, "([^"]+)"', (tests.parent / "wall/op_errors.def").read_text(), re.M)
    text = shared("api")
    assert len(rows) >= 30
    for name, parameters in rows:
        part = text.split(f"\n{name}\n")[1].split("\n\n")[0]
        for p in parameters.split():
            assert re.search(rf"^ +{p.split(':')[0]} ", part, re.M), (name, p)
    for code in codes:
        assert re.search(rf"^ +{code} ", text, re.M), code


# --- create, ls, info, rm, call


def test_create_ls_info_rm(cli):
    id = cli.create("--name", "work", "--memory", "512m")
    assert re.fullmatch("[0-9a-f]{12}", id)
    other = cli.create()
    entries = json.loads(cli("ls", "-o", "json"))
    assert [e["id"] for e in entries] == [id, other] and entries[0]["name"] == "work"
    lines = cli("ls").splitlines()
    assert len(lines) == 3 and lines[1].split()[:3] == [id, "work", "strict"]
    info = json.loads(cli("info", "-o", "json", "work"))
    assert info["id"] == id and info["profile"] == "strict" and info["pid"] == entries[0]["pid"]
    assert re.search(r"^memory_limit_bytes +536870912$", cli("info", id), re.M)
    prefix = next(id[:n] for n in range(1, 13) if not other.startswith(id[:n]))
    assert json.loads(cli("info", "-o", "json", prefix))["id"] == id
    assert cli("rm", prefix, "nobody", code=125) == id + "\n"
    assert [e["id"] for e in json.loads(cli("ls", "-o", "json"))] == [other]
    assert cli("rm", "--all") == other + "\n"
    assert cli("ls", "-o", "json") == "[]\n" and cli.files() == []
    assert until(lambda: not cli.kernels())
    assert cli("rm", "--all") == ""


def test_stats(cli):
    assert cli("stats", "--no-stream", "-o", "json") == "" and len(cli("stats", "--no-stream").splitlines()) == 1
    id, other = cli.create("--name", "busy", "--memory", "512m"), cli.create()
    cli("exec", "-d", id, "--", "sh", "-c", "while :; do :; done")
    usage = {u["id"]: u for u in map(json.loads, cli("stats", "--no-stream", "-o", "json").splitlines())}
    assert list(usage) == [id, other] and usage[id]["memory_limit_bytes"] == 512 << 20
    assert usage[id]["cpu_percent"] > 5 * usage[other]["cpu_percent"] and usage[id]["processes"] > usage[other]["processes"]
    assert all(1 << 20 < u["memory_bytes"] < 512 << 20 for u in usage.values())
    assert [line.split()[0] for line in cli("stats", "--no-stream", "busy").splitlines()] == ["ID", id]
    watching = cli.popen("stats", "-o", "json", "busy")
    first, second = json.loads(watching.stdout.readline()), json.loads(watching.stdout.readline())
    assert first["id"] == second["id"] == id
    cli("rm", "busy")
    watching.stdout.read()
    assert watching.wait(conftest.TIMEOUT) == 0, "it ends with the last"


def test_diff(cli):
    id = cli.create()
    cli("exec", id, "--", "sh", "-c", "echo x >new; mkdir -p dir/in")
    changes = [line for line in cli("diff", id).splitlines() if "/workspace" in line]  # IPython writes to its home
    assert sorted(changes) == ["A /workspace/dir", "A /workspace/dir/in", "A /workspace/new"]
    assert json.loads(cli("diff", "-o", "json", id))["added"] >= 3


def test_a_prefix_of_two_is_refused(cli):
    ids = [cli.create() for i in range(2)]
    while ids[0][0] != ids[1][0] and len({i[0] for i in ids}) == len(ids) and len(ids) < 17:
        ids.append(cli.create("--idle-timeout", "60"))
    first = next(i[0] for i in ids if [j[0] for j in ids].count(i[0]) > 1)
    done = cli.run("info", first)
    assert done.returncode == 125 and b"is the beginning of" in done.stderr


def test_two_of_one_name(cli):
    cli.create("--name", "work")
    done = cli.run("create", "--name", "work")
    assert done.returncode == 125 and b"'work'" in done.stderr and done.stdout == b""
    assert len(json.loads(cli("ls", "-o", "json"))) == 1


def test_an_entry_of_a_kernel_that_was_killed_is_none(cli):
    id = cli.create()
    (entry,) = json.loads(cli("ls", "-o", "json"))
    os.kill(entry["pid"], signal.SIGKILL)
    assert until(lambda: conftest.is_gone(entry["pid"]))
    done = cli.run("info", id)
    assert done.returncode == 125 and b"there is no sandbox" in done.stderr, done
    assert cli("ls", "-o", "json") == "[]\n"
    assert until(lambda: cli.files() == []), cli.files()


def test_an_entry_is_not_believed_for_its_pid(cli):
    """Another process has it now; and what is no entry is none."""
    cli("ls")
    place = cli.runtime / "husk"
    entry = {"id": "0" * 12, "name": "old", "connection_file": "/etc/passwd", "profile": "strict", "directory": "/",
             "created_at": "x", "pid": os.getpid(), "started": 1}
    (place / "old.json").write_text(json.dumps(entry))
    (place / "bad.json").write_text("{")
    (place / "empty.json").write_text("")
    assert cli("ls", "-o", "json") == "[]\n"
    assert "old.json" not in cli.files()
    assert os.path.exists("/etc/passwd")
    assert cli("rm", "--all") == ""


def test_the_registry_is_its_user_s_alone(cli):
    cli("ls")
    assert (cli.runtime / "husk").stat().st_mode & 0o777 == 0o700
    cli.create()
    assert all((cli.runtime / "husk" / f).stat().st_mode & 0o077 == 0 for f in cli.files() if "." in f)
    (cli.runtime / "husk").chmod(0o755)
    done = cli.run("ls")
    assert done.returncode == 125 and b"yours alone" in done.stderr
    (cli.runtime / "husk").chmod(0o700)


def test_a_kernel_of_jupyter_is_there_too(cli, make_kernel):
    k = make_kernel(env={"XDG_RUNTIME_DIR": str(cli.runtime)})
    (entry,) = json.loads(cli("ls", "-o", "json"))
    assert entry["pid"] == k.pid and entry["profile"] == "notebook"
    k.run("open('f', 'w').write('from a cell')")
    assert cli("exec", entry["id"], "--", "cat", "f") == "from a cell"
    k.manager.shutdown_kernel()
    assert cli.files() == []


HELLO, REQUEST = 7, 1  # of kernel/front.def


def frame(number, *parts, length=None):
    payload = b"".join(struct.pack(">I", len(p)) + p for p in parts)
    return struct.pack(">IHHIIQ", len(payload) if length is None else length, number, 0, 0, 1, 0) + payload


def request(method, **params):
    """To control."""
    header = {"msg_id": "1", "msg_type": "sandbox_request", "session": "s", "username": "u", "version": "5.3", "date": ""}
    return frame(REQUEST, json.dumps(header).encode(), b"{}", b"{}", json.dumps({"method": method, "params": params}).encode())


@pytest.fixture
def call_up(shared):
    """Connections to the socket of the commands."""
    (path,) = shared.runtime.glob("husk/*.socket")
    (entry,) = json.loads(shared("ls", "-o", "json"))
    key = json.loads(pathlib.Path(entry["connection_file"]).read_text())["key"].encode()
    opened = []

    def connect(*frames):
        s = socket.socket(socket.AF_UNIX)
        opened.append(s)
        s.settimeout(conftest.TIMEOUT)
        s.connect(str(path))
        with contextlib.suppress(BrokenPipeError):  # put out at once: is_put_out() sees it
            s.sendall(b"".join(frames))
        return s

    connect.key, connect.pid = key, entry["pid"]
    yield connect
    for s in opened:
        s.close()


def is_put_out(s):
    try:
        return s.recv(1) == b""
    except ConnectionResetError: # what it had sent was not read
        return True


def test_a_caller_shows_the_key_first(shared, call_up):
    info = request("sandbox.info")
    assert b'"name":"work"' in call_up(frame(HELLO, call_up.key), info).recv(65536)
    assert is_put_out(call_up(info))
    assert is_put_out(call_up(frame(HELLO, call_up.key[:-1] + b"-"), info))
    assert is_put_out(call_up(frame(HELLO, b""), info))
    assert is_put_out(call_up(frame(HELLO, length=1 << 20)))
    assert is_put_out(call_up(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    assert shared("exec", "work", "--", "echo", "here") == "here\n"


def test_callers_that_say_nothing_keep_nobody_out(shared, call_up):
    silent = [call_up() for _ in range(100)]
    assert shared("exec", "work", "--", "echo", "here") == "here\n"
    assert is_put_out(silent[0])


def test_more_callers_than_there_may_be_are_put_out_and_leave_room(shared, call_up):
    """Each is a descriptor, of which a process may usually have 1024."""
    first = call_up(frame(HELLO, call_up.key))
    known = [call_up(frame(HELLO, call_up.key)) for _ in range(600)]
    assert is_put_out(known[-1])
    assert len(os.listdir(f"/proc/{call_up.pid}/fd")) < 600
    first.sendall(request("sandbox.info"))
    assert b'"name":"work"' in first.recv(65536)
    for s in [first, *known]:
        s.close()
    assert until(lambda: shared("exec", "work", "--", "echo", "here") == "here\n")


def test_without_descriptors_a_kernel_rests_and_who_comes_waits(shared, call_up):
    def used():
        return {int(fd) for fd in os.listdir(f"/proc/{call_up.pid}/fd")}

    before = resource.prlimit(call_up.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(call_up.pid, resource.RLIMIT_NOFILE, (max(used()) + 1, before[1]))
    try:
        calls = [call_up(frame(HELLO, call_up.key), request("sandbox.info")) for _ in range(40)]
        assert until(lambda: len(used()) == max(used()) + 1), "it has taken whom it could"
        states = []
        for _ in range(50):
            states.append(pathlib.Path(f"/proc/{call_up.pid}/stat").read_text().rsplit(")", 1)[1].split()[0])
            time.sleep(0.01)
        assert states.count("S") > 25, "it asks again and again"
    finally:
        resource.prlimit(call_up.pid, resource.RLIMIT_NOFILE, before)
    assert all(b'"name":"work"' in s.recv(65536) for s in calls)


def test_a_caller_that_does_not_read_is_not_read(shared, call_up):
    shared("exec", "work", "--", "sh", "-c", "head -c 1000000 /dev/zero > million")
    rude = call_up(frame(HELLO, call_up.key))
    rude.settimeout(1)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 20000:
            rude.sendall(request("files.read", path="million"))
            sent += 1
    assert sent < 20000
    assert shared("exec", "work", "--", "echo", "here") == "here\n"


def test_a_kernel_that_only_commands_speak_to_has_no_zeromq(shared):
    """It would have threads; it begins with the first client that comes with it."""
    (entry,) = json.loads(shared("ls", "-o", "json"))
    names = {p.read_text().strip() for p in pathlib.Path(f"/proc/{entry['pid']}/task").glob("*/comm")}
    assert not {n for n in names if "ZMQ" in n}, names


def test_a_sandbox_that_ends_by_itself_leaves_nothing(cli):
    cli.create("--idle-timeout", "1")
    assert until(lambda: cli.files() == []) and until(lambda: not cli.kernels())


def test_call(shared):
    assert json.loads(shared("call", "work", "files.write", '{"path": "call", "data": "x\\u00e9"}')) == \
        {"path": "call", "size": 3}
    assert shared("call", "work", "files.read", '{"path": "call"}') == "xé"
    (shared.cwd / "bytes").write_bytes(b"\xff\0")
    shared("call", "--data", "bytes", "work", "files.write", '{"path": "call"}')
    assert shared.run("call", "work", "files.read", '{"path": "call"}').stdout == b"\xff\0"
    for words in (["files.read", '{"path": "/nowhere"}'], ["files.read", "{}"], ["files.read", "{"], ["no.such"],
                  ["files.read", "[]"]):
        done = shared.run("call", "work", *words)
        assert done.returncode == 125 and done.stdout == b"" and done.stderr.startswith(b"husk: "), done


# --- exec


@pytest.mark.parametrize("command, code", [
    (["true"], 0), (["sh", "-c", "exit 9"], 9), (["sh", "-c", "kill -9 $$"], 137), (["sh", "-c", "kill -TERM $$"], 143),
    (["no-such-command"], 127), (["/etc/passwd"], 126), (["/"], 126)])
def test_the_exit_code_is_that_of_the_command(shared, command, code):
    assert shared.run("exec", "work", "--", *command).returncode == code
    done = shared.run("exec", "work", *command)
    assert done.returncode == code
    if code in (126, 127):
        assert done.stderr.startswith(f"husk: start '{command[0]}': ".encode()) and done.stderr.count(b"\n") == 1, done


def test_exec_streams_and_bytes(shared):
    done = shared.run("exec", "work", "--", "sh", "-c", r"printf 'a\377\0b'; echo e >&2")
    assert (done.stdout, done.stderr, done.returncode) == (b"a\xff\0b", b"e\n", 0)
    assert shared.run("exec", "work", "--", "printf", "%s|", b"a\xff b", "", "-x", "ü").stdout == \
        b"a\xff b||-x|" + "ü|".encode()


def test_exec_options(shared):
    assert shared("exec", "-w", "/tmp", "-e", "A=1 2", "-e", "HOME", "work", "--", "sh", "-c", "pwd; echo $A $HOME") == \
        f"/tmp\n1 2 {shared.env['HOME']}\n"
    done = shared.run("exec", "-w", "/nowhere", "work", "--", "true")
    assert (done.returncode, done.stderr) == (126, b"husk: start in '/nowhere': No such file or directory\n")
    began = time.monotonic()
    assert shared.run("exec", "--timeout", "0.5", "work", "--", "sh", "-c", "sleep 1000 & sleep 1000").returncode == 124
    assert time.monotonic() - began < 40


def test_exec_takes_input_only_when_asked(shared):
    assert shared("exec", "work", "--", "cat", input=b"x") == ""
    assert shared("exec", "-i", "work", "--", "cat", input=b"x\xff\0y".replace(b"\xff", b"z")) == "xz\0y"
    assert shared("exec", "-i", "work", "--", "true", input=b"x" * 1000000) == ""


def test_a_large_input_to_a_slow_reader_arrives(shared):
    data = os.urandom(1 << 20) * 48
    done = shared.run("exec", "-i", "work", "--", "sh", "-c", "sleep 2; cksum", input=data)
    assert done.stdout.split() == subprocess.run(["cksum"], input=data, capture_output=True).stdout.split()


def test_a_large_output_to_a_slow_reader_arrives(shared):
    p = shared.popen("exec", "work", "--", "seq", "1", "2000000")
    time.sleep(2)
    assert p.communicate(timeout=conftest.TIMEOUT)[0] == b"".join(b"%d\n" % i for i in range(1, 2000001))


def test_what_exec_leaves_in_the_background_keeps_nobody(shared):
    assert shared("exec", "work", "--", "sh", "-c", "setsid sleep 1000 & echo done") == "done\n"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_goes_to_the_command(shared, number, code):
    p = shared.popen("exec", "work", "--", "sh", "-c", "echo go; exec sleep 1000")
    p.stdout.readline()
    p.send_signal(number)
    assert p.wait(conftest.TIMEOUT) == code
    p = shared.popen("exec", "work", "--", "sh", "-c", "trap 'echo handled; exit 3' INT TERM; echo go; while :; do sleep 0.1; done")
    p.stdout.readline()
    p.send_signal(number)
    assert p.communicate(timeout=conftest.TIMEOUT)[0] == b"handled\n" and p.returncode == 3


def test_nobody_reads_what_exec_prints(shared):
    mark = f"yes-{time.monotonic_ns()}"
    p = shared.popen("exec", "work", "--", "yes", mark)
    p.stdout.read(10)
    p.stdout.close()
    p.stdout = None
    assert p.wait(conftest.TIMEOUT) == 141
    until(lambda: mark not in shared("exec", "work", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
          .replace("cat /proc", ""))


def test_exec_and_a_kernel_that_ends(cli):
    id = cli.create()
    p = cli.popen("exec", id, "--", "sh", "-c", "echo go; exec sleep 1000")
    p.stdout.readline()
    cli("rm", id)
    out, err = p.communicate(timeout=conftest.TIMEOUT)
    assert p.returncode == 125 and err.startswith(b"husk: ")


def test_exec_while_a_cell_runs(cli, make_kernel):
    k = make_kernel(env={"XDG_RUNTIME_DIR": str(cli.runtime)})
    k.send("sum(range(10**12))")
    (entry,) = json.loads(cli("ls", "-o", "json"))
    assert cli("exec", entry["id"], "--", "echo", "here") == "here\n"


LEASE = 30  # seconds: what waits for another client lives for so long without it (agent/agent.h)


def runs(cli, mark):
    return [q for q in json.loads(cli("ps", "-o", "json", "work")) if mark in str(q["cmd"]) and q["tree_alive"]]


@pytest.mark.parametrize("words", [["exec", "work", "--", "sh", "-c", "echo > SEEN; setsid sleep 7654 & sleep 7654"],
                                   ["call", "work", "exec.run", '{"cmd": "echo > SEEN; setsid sleep 7654 & sleep 7654"}']],
                         ids=["exec", "exec.run"])
def test_a_command_that_is_killed_leaves_nothing(shared, words):
    """The tree ends at once, not when a lease has passed."""
    seen = f"seen-{time.monotonic_ns()}"
    p = shared.popen(*(w.replace("SEEN", seen) for w in words))
    until(lambda: shared.run("exec", "work", "--", "test", "-e", seen).returncode == 0)
    assert runs(shared, seen)
    p.kill()
    until(lambda: not runs(shared, seen), LEASE - 5)
    assert "sleep 7654" not in shared("exec", "work", "--", "ps", "axww")


def test_what_a_command_left_on_purpose_stays(shared):
    """In the background of one that ended, detached, or begun by husk call, whose next call reads it."""
    shared("exec", "work", "--", "sh", "-c", "sleep 7655 >/dev/null 2>&1 &")
    shared("exec", "-d", "work", "--", "sleep", "7655")
    p = json.loads(shared("call", "work", "exec.start", '{"cmd": "echo here; exec sleep 7655", "pull": true}'))["id"]
    assert shared("call", "work", "proc.read", json.dumps({"id": p, "wait_ms": 60000})) == "here\n"
    assert len(runs(shared, "7655")) == 3
    shared("call", "work", "proc.kill_all")
    until(lambda: not runs(shared, "7655"))


def test_an_upload_of_a_caller_that_is_gone_leaves_nothing(shared, call_up):
    def parts():
        return shared("exec", "work", "--", "sh", "-c", "ls -a | grep husk- || :")

    s = call_up(frame(HELLO, call_up.key), request("files.upload", path="half"))
    assert b'"status":"ok"' in s.recv(65536) and parts()
    s.close()
    until(lambda: not parts(), LEASE - 5)


# --- a terminal


class Terminal:
    """husk on a pty of ours."""

    def __init__(self, cli, *words, rows=30, cols=90):
        self.master, slave = pty.openpty()
        self.size(rows, cols)
        self.before = termios.tcgetattr(slave)
        self.process = cli.popen(*words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                 preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.slave, self.seen = slave, b""

    def size(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def write(self, data):
        os.write(self.master, data)

    def expect(self, pattern, timeout=conftest.TIMEOUT):
        end = time.monotonic() + timeout
        while not (m := re.search(pattern, self.seen, re.S)):
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 65536)
        self.seen = self.seen[m.end():]
        return m

    def close(self):
        after = termios.tcgetattr(self.slave)
        os.close(self.slave)
        os.close(self.master)
        return after


def test_a_shell_on_a_terminal(shared):
    t = Terminal(shared, "exec", "-it", "-e", "PS1=ready> ", "work", "--", "sh")
    t.expect(rb"ready> ")
    t.write(b"stty size\n")
    t.expect(rb"30 90\r\n.*ready> ")
    t.size(40, 100)
    t.write(b"sleep 0.5; stty size\n")
    t.expect(rb"40 100\r\n.*ready> ")
    t.write(b"sleep 1000\n")
    t.expect(rb"sleep 1000\r\n")
    time.sleep(0.3)
    t.write(b"\x03")  # the key: for the command, not for husk
    t.expect(rb"ready> ")
    t.write(b"echo a | tr a b; tty\n")
    t.expect(rb"\nb\r\n/dev/pts/")
    t.write(b"exit 5\n")
    assert t.process.wait(conftest.TIMEOUT) == 5
    assert t.close() == t.before  # as it was


class Tmux:
    """As a person sees it: a terminal of another's making, which says what is on its screen."""

    def __init__(self, cli, place, *words, **env):
        self.ended = place / "ended"
        self.directory = tempfile.TemporaryDirectory(dir="/tmp")
        self.env = {**cli.env, "LANG": "C.UTF-8", "SHELL": "/bin/sh", **env}
        command = f"{shlex.join(cli.argv(*words))}; echo $? > {shlex.quote(str(self.ended))}; read wait"
        self("new-session", "-d", "-x", "90", "-y", "30", f"trap : INT; {command}")  # Ctrl-C reaches this shell as well

    def __call__(self, *words):
        done = subprocess.run(["tmux", "-S", f"{self.directory.name}/s", "-f", "/dev/null", *words], capture_output=True, text=True,
                              timeout=conftest.TIMEOUT, env=self.env)
        assert done.returncode == 0, done
        return done.stdout

    def keys(self, *keys):
        self("send-keys", *keys)

    def shows(self, pattern):
        return until(lambda: re.search(pattern, self("capture-pane", "-p")))

    def code(self):
        return int(until(lambda: self.ended.exists() and self.ended.read_text()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self("kill-server")
        self.directory.cleanup()


def test_a_shell_under_tmux(shared, tmp_path):
    with Tmux(shared, tmp_path, "exec", "-it", "-e", "PS1=ready> ", "work", "--", "bash", "--norc") as tmux:
        tmux.shows(r"^ready>")
        tmux.keys("stty sizes", "BSpace", "Enter")
        tmux.shows(r"\n30 90\n")
        tmux("resize-window", "-x", "70", "-y", "20")
        tmux.keys("clear; until stty size | grep '20 70'; do sleep 0.1; done", "Enter")
        tmux.shows(r"^20 70\nready>")
        tmux.keys("-l", "clear; printf '\\033[5;9H%s\\n' grüße")
        tmux.keys("Enter")
        tmux.shows(r"^\n\n\n\n {8}grüße\nready>")
        tmux.keys("exit 5", "Enter")
        assert tmux.code() == 5


def test_a_console_is_attached_and_interrupts(shared, tmp_path):
    scripts = pathlib.Path(conftest.PYTHON).parent
    with Tmux(shared, tmp_path, "attach", "work", PATH=f"{scripts}:{os.environ['PATH']}") as tmux:
        tmux.shows(r"In \[\d+\]:")
        tmux.keys("import time; print('be' + 'gun'); time.sleep(100)", "Enter")
        tmux.shows(r"\nbegun")
        tmux.keys("C-c")
        tmux.shows(r"\nKeyboardInterrupt.*\s+In \[\d+\]:")  # what is typed before the prompt is there is thrown away
        tmux.keys("6 * 7", "Enter")
        tmux.shows(r"Out\[\d+\]: 42\s+In \[\d+\]:")
        tmux.keys("C-d")
        tmux.shows(r"exit \(\[y\]/n\)")
        tmux.keys("y", "Enter")
        assert tmux.code() == 0
    assert shared("exec", "work", "--", "echo", "stays") == "stays\n"


def test_no_console_is_installed(shared):
    done = shared.run("attach", "work", env={**shared.env, "PATH": "/nowhere"})
    assert done.returncode == 125 and b"pip install jupyter-console" in done.stderr


def test_the_end_of_a_terminal_is_passed_on(shared):
    t = Terminal(shared, "exec", "-i", "-t", "work", "--", "sh", "-c", "echo ready; cat; echo over")
    t.expect(rb"ready")
    t.write(b"x\n\x04")
    t.expect(rb"over")
    assert t.process.wait(conftest.TIMEOUT) == 0
    t.close()


def test_a_terminal_without_input(shared):
    assert shared("exec", "-t", "work", "--", "sh", "-c", "test -t 1 && stty size") == "24 80\r\n"


def test_colours_are_for_terminals(cli):
    t = Terminal(cli, "run", "-c", "1/0")
    t.expect(rb"\x1b\[.*ZeroDivisionError")
    assert t.process.wait(conftest.TIMEOUT) == 1
    t.close()


# --- ps, logs


def test_detached(shared):
    p = shared("exec", "-d", "work", "--", "sh", "-c", "echo one; echo two >&2; exec sleep 1000").strip()
    (one,) = [q for q in json.loads(shared("ps", "-o", "json", "work")) if q["id"] == p]
    assert one["state"] == "running"
    (line,) = [line for line in shared("ps", "work").splitlines() if line.split()[0] == p]
    assert "sleep 1000" in line and "running" in line
    done = until(lambda: (d := shared.run("logs", "work", p)).stdout and d.stderr and d)
    assert (done.stdout, done.stderr) == (b"one\n", b"two\n")
    shared("call", "work", "proc.kill", json.dumps({"id": p}))
    assert until(lambda: [q for q in json.loads(shared("ps", "-o", "json", "work"))
                          if q["id"] == p and q["exit_code"] == 143])
    done = shared.run("logs", "work", "nobody")
    assert done.returncode == 125 and b"nobody" in done.stderr


def test_ps_of_a_command_that_is_no_text(shared):
    shared("exec", "-d", "work", "--", "sleep", "0.01", b"\xff")
    assert "sleep" in shared("ps", "work")
    json.loads(shared("ps", "-o", "json", "work"))


def test_logs_are_followed_to_the_end(shared):
    p = shared("exec", "-d", "work", "--", "sh", "-c", r"for i in 1 2 3 4 5; do echo $i; sleep 0.3; done; printf '\377'").strip()
    f = shared.popen("logs", "-f", "work", p)
    assert f.communicate(timeout=conftest.TIMEOUT)[0] == b"1\n2\n3\n4\n5\n\xff" and f.returncode == 0


def test_logs_of_all_processes(cli):
    cli.create("--name", "two")
    assert cli("logs", "two") == ""
    one = cli("exec", "-d", "two", "--", "sh", "-c", "echo first; exec sleep 1000").strip()
    two = cli("exec", "-d", "two", "--", "echo", "second").strip()
    wanted = f'==> {one}: ["sh","-c","echo first; exec sleep 1000"] <==\nfirst\n\n==> {two}: ["echo","second"] <==\nsecond\n'
    assert until(lambda: cli("logs", "two") == wanted)
    f = cli.popen("logs", "-f", "two")
    got = b"".join(f.stdout.readline() for _ in wanted.splitlines())
    cli("exec", "-d", "two", "--", "echo", "third")
    assert got.decode() == wanted and f.stdout.readline() == b"\n"
    assert b"third" in f.stdout.readline() and f.stdout.readline() == b"third\n"
    f.send_signal(signal.SIGINT)
    assert f.wait(conftest.TIMEOUT) in (-signal.SIGINT, 130)


def test_who_follows_logs_can_be_interrupted(shared):
    p = shared("exec", "-d", "work", "--", "sh", "-c", "echo x; exec sleep 1000").strip()
    f = shared.popen("logs", "-f", "work", p)
    f.stdout.readline()
    f.send_signal(signal.SIGINT)
    assert f.wait(conftest.TIMEOUT) in (-signal.SIGINT, 130)
    f = shared.popen("logs", "-f", "work", shared("exec", "-d", "work", "--", "sh", "-c", "while :; do echo y; sleep 0.05; done").strip())
    f.stdout.readline()
    f.stdout.close()
    f.stdout = None
    f.wait(conftest.TIMEOUT)
    shared("call", "work", "proc.kill_all")


# --- cp


@pytest.fixture
def place(shared):
    """A fresh directory: its path inside."""
    path = f"/workspace/cp-{time.monotonic_ns()}"
    shared("exec", "work", "--", "mkdir", path)
    return path


@pytest.mark.parametrize("size", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 30 << 20])
def test_a_file_goes_in_and_out(shared, place, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "a").chmod(0o640)
    done = shared.run("cp", tmp_path / "a", f"work:{place}")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert shared("exec", "work", "--", "stat", "-c", "%s %a", f"{place}/a") == f"{size} 640\n"
    shared("cp", f"work:{place}/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data and (tmp_path / "b").stat().st_mode & 0o777 == 0o640
    (tmp_path / "d").mkdir()
    shared("cp", f"work:{place}/a", tmp_path / "d")
    assert (tmp_path / "d" / "a").read_bytes() == data
    assert os.listdir(tmp_path / "d") == ["a"]


def test_holes_stay_holes(shared, place, tmp_path):
    shared("exec", "work", "--", "sh", "-c", f"cd {place} && printf begin > f && truncate -s 40000001 f && "
           "printf middle | dd of=f bs=1 seek=20000000 conv=notrunc 2>/dev/null")
    shared("cp", f"work:{place}/f", tmp_path / "f")
    found = (tmp_path / "f").read_bytes()
    assert len(found) == 40000001 and found[:5] == b"begin" and found[20000000:20000006] == b"middle"
    assert found.count(0) == len(found) - 11
    assert (tmp_path / "f").stat().st_blocks * 512 < 1000000
    shared("cp", tmp_path / "f", f"work:{place}/g")
    shared("exec", "work", "--", "cmp", f"{place}/f", f"{place}/g")
    size, blocks = shared("exec", "work", "--", "stat", "-c", "%s %b", f"{place}/g").split()
    assert int(size) == 40000001 and int(blocks) * 512 < 1000000


def test_a_shorter_file_replaces_a_longer_one(shared, place, tmp_path):
    (tmp_path / "a").write_text("short")
    (tmp_path / "b").write_text("much longer than that")
    shared("cp", tmp_path / "a", f"work:{place}/a")
    shared("cp", f"work:{place}/a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "short"


def tree(top):
    return {os.path.relpath(os.path.join(d, n), top): (os.readlink(p) if os.path.islink(p := os.path.join(d, n)) else
                                                       open(p, "rb").read() if os.path.isfile(p) else None)
            for d, ds, fs in os.walk(top) for n in ds + fs}


def test_trees_go_in_and_out(shared, place, tmp_path):
    top = tmp_path / "s"
    (top / "d/e").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a b").write_text("1")
    (top / "d/e/-x").write_bytes(b"\xff" * 100000)
    (top / "d/link").symlink_to("../a b")
    (top / "dangling").symlink_to("/nowhere")
    open(os.fsencode(top) + b"/no \xff utf-8\n", "w").write("2")
    shared("cp", top, f"work:{place}")
    shared("cp", f"work:{place}/s", tmp_path / "t")
    assert tree(tmp_path / "t") == tree(top)
    shared("cp", f"work:{place}/s", tmp_path / "t")  # there now: below it
    assert tree(tmp_path / "t" / "s") == tree(top)


HOSTILE = r"""
import os, socket
os.makedirs('h/sub'); os.chdir('h')
open('new\nline', 'w').write('1'); open('\x1b[31mred', 'w').write('2'); open(b'\xff\xfe', 'w').write('3')
open('-rf', 'w').write('4'); open('...', 'w').write('5'); open('\\', 'w').write('6')
os.symlink('/etc', 'etc'); os.symlink('..', 'up'); os.mkfifo('fifo')
socket.socket(socket.AF_UNIX).bind('socket')
open('mode', 'w').close(); os.chmod('mode', 0o751)
"""


def test_hostile_names_come_out_as_names(shared, place, tmp_path):
    shared("exec", "-w", place, "work", "--", conftest.PYTHON, "-c", HOSTILE)
    done = shared.run("cp", f"work:{place}/h", tmp_path)
    assert done.returncode == 0, done
    names = set(os.listdir(os.fsencode(tmp_path / "h")))
    assert names == {b"new\nline", b"\x1b[31mred", b"\xff\xfe", b"-rf", b"...", b"\\", b"etc", b"up", b"sub", b"mode"}
    assert os.readlink(tmp_path / "h/etc") == "/etc"
    assert (tmp_path / "h/mode").stat().st_mode & 0o7777 == 0o751
    assert b"\x1b" not in done.stderr
    assert done.stderr.count(b"left out") == 2
    done = shared.run("cp", "work:/dev/null", tmp_path / "null")
    assert done.returncode == 125 and b"neither a file nor a directory" in done.stderr
    (tmp_path / "file").write_text("x")
    done = shared.run("cp", tmp_path / "file", "work:/dev/null")
    assert done.returncode == 125 and b"'/dev/null': Not a regular file" in done.stderr


def test_a_link_of_the_host_is_not_followed_below(shared, place, tmp_path):
    """The first copy leaves a link; a file below the same name comes next."""
    aim = tmp_path / "aim"
    aim.mkdir()
    shared("exec", "-w", place, "work", "--", "sh", "-c", f"mkdir t; ln -s {aim} t/x; ln -s {aim}/f t/y")
    shared("cp", f"work:{place}/t", tmp_path)
    shared("exec", "-w", place, "work", "--", "sh", "-c", "rm t/*; mkdir t/x; echo evil >t/x/f; echo evil >t/y")
    done = shared.run("cp", f"work:{place}/t", tmp_path)
    assert done.returncode == 125 and done.stderr.startswith(b"husk: ")
    assert os.listdir(aim) == []
    assert os.path.islink(tmp_path / "t/x") and os.path.islink(tmp_path / "t/y")


def test_what_cannot_be_copied_is_said(shared, place, tmp_path):
    for words in ([tmp_path / "no", f"work:{place}"], [f"work:{place}/no", tmp_path], ["/dev/null", f"work:{place}/n"],
                  [f"work:{place}/..", tmp_path / "x" / "y"], [f"work:{place}/.", tmp_path]):
        done = shared.run("cp", *words)
        assert done.returncode == 125 and done.stderr.startswith(b"husk: ") and done.stdout == b"", words
    assert os.listdir(tmp_path) == []
    (tmp_path / "f").write_text("x")
    assert shared.run("cp", tmp_path / "f", f"work:{place}/no/f").returncode == 125
    assert shared("exec", "work", "--", "ls", "-A", place) == ""


def test_a_tar_goes_in_and_out(shared, place, tmp_path):
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as t:
        for name in ("d/a", "-x"):
            info = tarfile.TarInfo(name)
            info.size = 3
            t.addfile(info, io.BytesIO(b"abc"))
    shared("cp", "-", f"work:{place}", input=into.getvalue())
    assert shared("exec", "work", "--", "cat", f"{place}/d/a") == "abc"
    for what, names in ((f"{place}/d", {"d", "d/a"}), (f"{place}/-x", {"-x"})):
        out = shared.run("cp", f"work:{what}", "-")
        assert out.returncode == 0, out
        assert set(tarfile.open(fileobj=io.BytesIO(out.stdout)).getnames()) == names
    assert shared.run("cp", "-", f"work:{place}", input=b"no tar").returncode not in (0, 125)


def test_a_copy_that_is_killed_leaves_the_old_file(shared, place, tmp_path):
    shared("call", "work", "files.write", json.dumps({"path": f"{place}/a", "data": "old"}))
    os.mkfifo(tmp_path / "f")
    with open(tmp_path / "big", "wb") as f:
        f.truncate(2 << 30)
    p = shared.popen("cp", tmp_path / "big", f"work:{place}/a")
    until(lambda: int(shared("exec", "work", "--", "sh", "-c", f"ls -A {place} | wc -l")) > 1)
    p.kill()
    p.wait()
    assert shared("exec", "work", "--", "cat", f"{place}/a") == "old"


@pytest.fixture
def copying(shared, place, tmp_path):
    """A copy that takes long, over a file of three bytes, begun."""
    shared("call", "work", "files.write", json.dumps({"path": f"{place}/a", "data": "old"}))
    with open(tmp_path / "big", "wb") as f:
        f.truncate(100 << 30)
    p = shared.popen("cp", tmp_path / "big", f"work:{place}/a")
    until(lambda: int(shared("exec", "work", "--", "sh", "-c", f"ls -A {place} | wc -l")) > 1)
    yield p
    p.kill()
    p.communicate()


def test_a_file_that_becomes_shorter_meanwhile_is_no_copy(shared, place, tmp_path, copying):
    os.truncate(tmp_path / "big", 5000)
    said = copying.communicate(timeout=conftest.TIMEOUT)[1].decode()
    assert (copying.returncode, said) == (125, f"husk: copy '{tmp_path}/big': it became shorter meanwhile\n")
    assert shared("exec", "work", "--", "sh", "-c", f"cat {place}/a; ls -A {place}") == "olda\n"


def test_a_copy_whose_sandbox_ends_says_so(cli, tmp_path):
    cli("create", "--name", "short")
    with open(tmp_path / "big", "wb") as f:
        f.truncate(100 << 30)
    p = cli.popen("cp", tmp_path / "big", "short:a")
    until(lambda: int(cli("exec", "short", "--", "sh", "-c", "ls -A | wc -l")) > 0)
    cli("kill", "short")
    said = p.communicate(timeout=conftest.TIMEOUT)[1].decode()
    assert p.returncode == 125 and "kernel" in said


def test_a_file_that_says_no_size_goes_in(shared, place):
    shared("cp", "/proc/self/mounts", f"work:{place}/m")
    assert "proc /proc" in shared("exec", "work", "--", "cat", f"{place}/m")


COMPLETED = {
    "a command": (["husk", "exe"], "exec"),
    "an option": (["husk", "run", "--mem"], "--memory"),
    "of the command that runs inside": (["husk", "exec", "work", "--", "ls", "--rec"], ""),
    "a sandbox": (["husk", "info", "wor"], "work"),
    "a file": (["husk", "run", "one.p"], "one.py"),
}


@pytest.mark.parametrize("what", COMPLETED)
def test_words_are_completed(shared, what):
    words, expected = COMPLETED[what]
    (shared.cwd / "one.py").write_text("")
    script = ('eval "$(husk completion bash)"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _husk; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "-c", script, "bash", *words], cwd=shared.cwd, capture_output=True, text=True,
                          env={**shared.env, "PATH": f"{os.path.dirname(conftest.HUSK)}:{os.environ['PATH']}"},
                          timeout=conftest.TIMEOUT)
    assert done.stdout.strip() == expected and not done.stderr


@pytest.mark.parametrize("words", [["info", "-o", "json", "work"], ["info", "work", "-o", "json"], ["info", "work", "-ojson"],
                                   ["info", "-o", "json", "--", "work"], ["info", "work", "-o", "json", "--"]], ids=" ".join)
def test_options_stand_where_they_like(shared, words):
    if "-ojson" in words:
        done = shared.run(*words)
        assert done.returncode == 64 and b"'-ojson'" in done.stderr
    else:
        assert json.loads(shared(*words))["name"] == "work"


ARGUMENTS = {"of a file": (["a.py", "x", "--fast", "z q", b"\xff\xc3\xa9\""], ["a.py", "x", "--fast", "z q", "\udcff\u00e9\""]),
             "of -c": (["-c", "import sys; print(ascii(sys.argv))", "1"], ["-c", "1"]),
             "of standard input": (["-", "1"], ["-", "1"]), "none": (["a.py"], ["a.py"])}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_arguments_are_the_code_s(cli, what):
    words, expected = ARGUMENTS[what]
    code = "import os, sys\nprint(ascii(sys.argv))\nassert 'HUSK_RUN' not in os.environ\n"
    (cli.cwd / "a.py").write_text(code)
    assert cli("run", *words, input=code.encode()) == ascii(expected) + "\n"


def test_a_notebook_takes_no_arguments(cli):
    done = cli.run("run", "a.ipynb", "x")
    assert done.returncode == 64 and b"a notebook takes no arguments" in done.stderr
