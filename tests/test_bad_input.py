# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong before a kernel runs: one clear line, a documented exit code, nothing left."""

import ctypes
import errno
import fcntl
import glob
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import time

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
    ("#!/bin/sh\nkill -9 $$\n", ["does not start", "signal 9 (Killed)"]),
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
    kernel = make_kernel(
        arguments=["--HistoryManager.hist_file=:memory:", "--debug", "--colors=NoColor"])
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


# --- as above, but more: the fixture looks at what every test of this file leaves

@pytest.fixture(autouse=True)
def nothing_is_left():
    """No process, no cgroup of one that is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to us
    before, groups = children(), stale_groups()
    yield
    end = time.monotonic() + 30
    while (children() - before or stale_groups() - groups) and time.monotonic() < end:
        time.sleep(0.02)
    assert not children() - before and not stale_groups() - groups


def children():
    """Living children of this process."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as f:
                    fields = f.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid() and fields[0] not in "ZX":
                found.add(int(entry))
    return found


def is_held(path):
    """By the lock of the broker whose cgroup it is; others may run kernels on this machine."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True  # gone meanwhile
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def stale_groups():
    """In the groups of this process, where husk makes its own."""
    found = set()
    for line in open("/proc/self/cgroup"):
        _, controllers, path = line.rstrip("\n").split(":", 2)
        for mount in (controllers, "unified"):
            found.update(glob.glob(f"/sys/fs/cgroup/{mount}/{path}/husk-*"))
    return {path for path in found if not is_held(path)}


def without_override():
    """Root reads any file; not without these two capabilities."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        libc.prctl(24, 1, 0, 0, 0)
        libc.prctl(24, 2, 0, 0, 0)


def start(*arguments, cwd, preexec_fn=None, env=None, command=()):
    return subprocess.run([*command, conftest.HUSK, "kernel", *map(str, arguments)], cwd=cwd,
                          env={**os.environ, **(env or {})}, capture_output=True, text=True,
                          timeout=conftest.TIMEOUT, preexec_fn=preexec_fn)


def test_a_connection_file_that_cannot_be_read(tmp_path):
    path = connection(tmp_path)
    path.chmod(0)
    result = start("-f", path, cwd=tmp_path, preexec_fn=without_override)
    is_one_line(result, 66, "connection.json", "Permission denied")


@pytest.mark.parametrize("text", ['{"transport": "tcp", "ip": "127.0', "null", '"text"', "5", "{} {}", "\ufeff{}", "[" * 10000],
                         ids=lambda t: t[:12])
def test_more_connection_files_that_are_none(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    is_one_line(start("-f", "c.json", cwd=tmp_path), 65, "c.json")


def test_a_connection_file_that_is_endless(tmp_path):
    is_one_line(start("-f", "/dev/zero", cwd=tmp_path), 66, "/dev/zero", "too large")


def test_a_connection_file_that_never_answers(tmp_path):
    """A FIFO without a writer would wait for ever."""
    os.mkfifo(tmp_path / "fifo")
    result = start("-f", "fifo", cwd=tmp_path)
    assert result.returncode in (65, 66) and result.stderr.count("\n") == 1


@pytest.mark.parametrize("fields, word", [
    ({"shell_port": -1}, "'shell_port' is no port"), ({"shell_port": 0}, "'shell_port' is no port"),
    ({"shell_port": 65536}, "'shell_port' is no port"), ({"shell_port": 1 << 70}, "connection.json"),
    ({"shell_port": 4.5}, "'shell_port' is no port"), ({"shell_port": "12x"}, "'shell_port' is no port"),
    ({"shell_port": ""}, "'shell_port' is no port"), ({"shell_port": None}, "'shell_port' is no port"),
    ({"shell_port": True}, "'shell_port' is no port"), ({"transport": 5}, "'transport' is no text"),
    ({"ip": None}, "'ip' is no text"), ({"key": None}, "'key' is missing"),
    ({"signature_scheme": "hmac-"}, "hmac-"), ({"signature_scheme": ""}, "scheme"),
    ({"transport": "TCP"}, "transport 'TCP'"), ({"transport": ""}, "transport ''"),
], ids=str)
def test_more_wrong_fields(tmp_path, fields, word):
    is_one_line(start("-f", connection(tmp_path, **fields), cwd=tmp_path), 65, word)


@pytest.mark.parametrize("ip", ["256.1.1.1", "not a host", "192.0.2.1", ""])
def test_an_address_that_is_not_this_machine_s(tmp_path, ip):
    is_one_line(start("-f", connection(tmp_path, ip=ip), "--python", conftest.PYTHON, cwd=tmp_path), 69, "bind")


@pytest.mark.parametrize("channel", ["shell", "control", "iopub", "stdin", "hb"])
def test_each_port_may_be_busy(tmp_path, channel):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = connection(tmp_path, **{f"{channel}_port": taken.getsockname()[1]})
        is_one_line(start("-f", path, "--python", conftest.PYTHON, cwd=tmp_path), 69, f"bind {channel}", "in use")


def test_two_ports_that_are_one(tmp_path):
    path = connection(tmp_path, shell_port=47113, control_port=47113)
    is_one_line(start("-f", path, "--python", conftest.PYTHON, cwd=tmp_path), 69, "47113", "in use")


def test_a_socket_path_that_is_too_long(tmp_path):
    path = connection(tmp_path, transport="ipc", ip=str(tmp_path / ("x" * 150)))
    is_one_line(start("-f", path, "--python", conftest.PYTHON, cwd=tmp_path), 69)


def test_a_kernel_that_fails_leaves_no_socket_file(tmp_path):
    (tmp_path / "ipc").mkdir()
    path = connection(tmp_path, transport="ipc", ip=str(tmp_path / "ipc" / "kernel"))
    tools = tmp_path / "tools"
    tools.mkdir()
    text = ("#!/bin/sh\ncase $1 in\n-I) exec " + sys.executable + ' "$@" | sed "s#^executable=.*#executable=$0#" ;;\n'
            "*) echo cannot go on >&2; exit 3 ;;\nesac\n")
    is_one_line(start("-f", path, "--python", script(tools, text), cwd=tmp_path), 72, "status 3")
    assert os.listdir(tmp_path / "ipc") == []


def test_a_file_of_somebody_else_in_place_of_a_socket_stays(tmp_path):
    (tmp_path / "ipc-1").write_text("precious")
    path = connection(tmp_path, transport="ipc", ip=str(tmp_path / "ipc"), shell_port=1)
    is_one_line(start("-f", path, "--python", conftest.PYTHON, cwd=tmp_path), 69, "ipc-1")
    assert (tmp_path / "ipc-1").read_text() == "precious"


@pytest.mark.parametrize("text, words", [
    ("#!/bin/sh\nexit 1\n", ["does not start", "printed nothing"]),
    ("#!/bin/sh\nexit 0\n", ["does not answer like a Python"]),
    ("#!/nowhere/sh\n", []),
    ("no program at all", []),
    ("#!/bin/sh\necho version=2.7.18; echo executable=$0\n", ["2.7.18", "3.9 or newer"]),
    ("#!/bin/sh\necho version=3.8.0; echo executable=$0\n", ["3.8.0", "3.9 or newer"]),
    ("#!/bin/sh\necho version=4.0.0; echo executable=$0\n", ["4.0.0"]),
    ("#!/bin/sh\necho version=3.12.0; echo executable=relative/python\n", []),
    ("#!/bin/sh\necho version=3.12.0; echo executable=python\n", []),
    ("#!/bin/sh\necho version=3.12.0; echo executable=\n", []),
    ("#!/bin/sh\necho version=3.12.0; echo executable=$0; echo path=relative\n", []),
    ("#!/bin/sh\nexec head -c 5000000 /dev/zero\n", []),
    ("#!/bin/sh\nkill -SEGV $$\n", ["does not start", "signal 11"]),
], ids=["fails silently", "says nothing", "no interpreter", "no program", "2.7", "3.8", "4.0", "relative", "bare name", "no name",
        "relative path", "floods", "crashes"])
def test_more_pythons_that_are_none(tmp_path, text, words):
    result = start("-f", connection(tmp_path), "--python", script(tmp_path, text), cwd=tmp_path)
    is_one_line(result, 72, *words)


@pytest.mark.parametrize("entry", ["", ".", "bin"], ids=repr)
def test_a_relative_entry_of_path_does_not_find_a_python_that_a_cell_wrote(tmp_path, entry):
    """PATH=$UNSET:$PATH is enough for an empty entry, which means the working directory."""
    (tmp_path / "tools").mkdir()
    script(tmp_path / "tools", "#!/bin/sh\necho the right one >&2; exit 1\n").rename(tmp_path / "tools" / "python3")
    (tmp_path / "work" / entry).mkdir(parents=True, exist_ok=True)
    planted = tmp_path / "work" / entry / "python3"
    script(tmp_path / "work", f"#!/bin/sh\ntouch {tmp_path}/marker\nexit 1\n").rename(planted)
    result = start("-f", connection(tmp_path), cwd=tmp_path / "work", env={
        "PATH": f"{entry}:{tmp_path}/tools:/usr/bin:/bin", "VIRTUAL_ENV": "", "CONDA_PREFIX": ""})
    assert not (tmp_path / "marker").exists()
    is_one_line(result, 72, "the right one")


def test_a_python_that_may_not_be_run(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    is_one_line(start("-f", connection(tmp_path), "--python", python, cwd=tmp_path), 72, "Permission denied")


def test_a_python_that_is_a_directory(tmp_path):
    is_one_line(start("-f", connection(tmp_path), "--python", tmp_path, cwd=tmp_path), 72)


@pytest.mark.parametrize("option", [
    "--memmory=1g", "--memory=", "--memory=0", "--memory=1x", "--memory=1.5g", "--memory=99999999999999999999", "--memory=1g2",
    "--pids=", "--pids=-1", "--pids=many", "--files=0", "--tmp-size=-1", "--tmp-sise=5", "--cell-timeout=-3",
    "--log-level=", "--log-levl=info", "--workdirr=.", "--envv=A"])
def test_more_options_that_are_wrong_are_refused(tmp_path, option):
    is_one_line(start("-f", connection(tmp_path), option, cwd=tmp_path), 64)


def test_an_option_without_its_value(tmp_path):
    is_one_line(start("-f", connection(tmp_path), "--memory", cwd=tmp_path), 64, "--memory", "value")


def test_a_working_directory_that_is_not_there(tmp_path):
    is_one_line(start("-f", connection(tmp_path), "--python", conftest.PYTHON, "--workdir", "/nowhere", cwd=tmp_path), 71, "/nowhere")


def test_a_working_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    result = start("-f", connection(tmp_path), "--python", conftest.PYTHON, "--workdir", "file", cwd=tmp_path)
    assert result.returncode in (71, 78) and result.stderr.count("\n") == 1 and "file" in result.stderr


def test_a_working_directory_that_was_removed(tmp_path):
    path = connection(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    result = start("-f", path, "--python", conftest.PYTHON, cwd=gone, preexec_fn=lambda: os.rmdir(gone))
    is_one_line(result, 71, "working directory")


@pytest.mark.parametrize("name", [b"with space", b"a=b", b"a:b", b"new\nline", b"\xff\xfe", b"back\\slash", b"#", b"%s", "\N{SNOWMAN}".encode()],
                         ids=repr)
def test_a_working_directory_with_an_odd_name_is_shared(make_kernel, tmp_path, name):
    directory = os.path.join(tmp_path, os.fsdecode(name))
    kernel = make_kernel(cwd=directory)
    assert kernel.run("import os; os.getcwdb()").value == repr(os.fsencode(directory))
    assert kernel.run("open('made', 'w').write('x')").value == "1"
    assert os.path.exists(os.path.join(directory, "made"))


def test_a_python_whose_ipython_is_missing_says_so_and_works(make_kernel, tmp_path):
    """A throw-away environment without any package."""
    subprocess.run([conftest.PYTHON, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=120)
    kernel = make_kernel("--python", str(tmp_path / "venv" / "bin" / "python"))
    assert kernel.run("a = 6\nprint('text')\na * 7").value == "42"
    assert kernel.run("1 / 0").ename == "ZeroDivisionError"
    assert "IPython" in kernel.log.read_text() and "pip install ipython" in kernel.log.read_text()


# --- a sandbox that cannot be built is an error: each step, refused once

X86 = os.uname().machine == "x86_64"


def refuse(*calls):
    """For preexec_fn: from now on each (number, errno, flags) fails as on a machine that refuses it. flags: refused only
    if the first argument has one of them."""
    program = b""
    for number, code, flags in calls:
        skip = 4 if flags else 1
        program += struct.pack("=HBBI", 0x15, 0, skip, number)
        if flags:
            program += struct.pack("=HBBI", 0x20, 0, 0, 16)
            program += struct.pack("=HBBI", 0x45, 0, 1, flags)
        program += struct.pack("=HBBI", 0x06, 0, 0, 0x50000 | code)
        if flags:
            program += struct.pack("=HBBI", 0x20, 0, 0, 0)
    return load(struct.pack("=HBBI", 0x20, 0, 0, 0) + program + struct.pack("=HBBI", 0x06, 0, 0, 0x7fff0000))


def load(program):
    def enter():
        libc = ctypes.CDLL(None, use_errno=True)
        text = ctypes.create_string_buffer(program, len(program))
        filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(text)))
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filters, 0, 0):
            os._exit(99)
    return enter


def refuse_netlink(protocol):
    """As refuse(), for socket(AF_NETLINK, _, protocol): a kernel that was built without it."""
    number = 41 if X86 else 198
    return load(b"".join(struct.pack("=HBBI", *row) for row in (
        (0x20, 0, 0, 0), (0x15, 0, 5, number), (0x20, 0, 0, 16), (0x15, 0, 3, 16), (0x20, 0, 0, 32),
        (0x15, 0, 1, protocol), (0x06, 0, 0, 0x50000 | errno.EPROTONOSUPPORT), (0x06, 0, 0, 0x7fff0000))))


# A command in front of another: from there on there is no nftables.
NO_NFTABLES = [sys.executable, "-c", f"""
import os, sys
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
import test_bad_input
test_bad_input.refuse_netlink(12)()
os.execvp(sys.argv[1], sys.argv[1:])
"""]

NEWUSER, NEWCGROUP = 0x10000000, 0x2000000
EPERM, ENOSYS = errno.EPERM, errno.ENOSYS
STEPS = {  # (x86-64, generic), errno, flags
    "clone, as in Docker": [((435, 435), ENOSYS, 0), ((56, 220), EPERM, NEWUSER)],
    "unshare": [((272, 97), EPERM, 0)],
    "sethostname": [((170, 161), EPERM, 0)],
    "openat2": [((437, 437), ENOSYS, 0)],
    "open_tree": [((428, 428), EPERM, 0)],
    "open_tree, as on an old kernel": [((428, 428), ENOSYS, 0)],
    "mount_setattr": [((442, 442), ENOSYS, 0)],
    "move_mount": [((429, 429), EPERM, 0)],
    "mount": [((165, 40), EPERM, 0)],
    "pivot_root": [((155, 41), EPERM, 0)],
    "umount2": [((166, 39), EPERM, 0)],
    "setresuid": [((117, 147), EPERM, 0)],
    "capset": [((126, 91), EPERM, 0)],
    "keyctl": [((250, 219), EPERM, 0)],
    "execveat": [((322, 281), EPERM, 0)],
    "landlock_create_ruleset": [((444, 444), ENOSYS, 0)],
    "landlock_add_rule": [((445, 445), EPERM, 0)],
    "landlock_restrict_self": [((446, 446), EPERM, 0)],
    "seccomp": [((317, 277), EPERM, 0)],
    "seccomp, as on an old kernel": [((317, 277), ENOSYS, 0)],
    "close_range": [((436, 436), ENOSYS, 0)],
    "memfd_create": [((319, 279), EPERM, 0)],
}


@pytest.mark.parametrize("step", STEPS)
def test_a_sandbox_that_cannot_be_built_is_an_error(tmp_path, step):
    calls = [(pair[0 if X86 else 1], code, flags) for pair, code, flags in STEPS[step]]
    result = start("-f", connection(tmp_path), "--python", conftest.PYTHON, cwd=tmp_path, preexec_fn=refuse(*calls))
    is_one_line(result, 78, "step '")


def test_docker_s_refusal_is_answered_with_docker_s_option(tmp_path):
    calls = [(pair[0 if X86 else 1], code, flags) for pair, code, flags in STEPS["clone, as in Docker"]]
    result = start("-f", connection(tmp_path), "--python", conftest.PYTHON, cwd=tmp_path, preexec_fn=refuse(*calls))
    is_one_line(result, 78, "namespace", "seccomp=unconfined")


# A /proc of the machine's that lies elsewhere (of a chroot, say) would serve instead of a masked one.
NO_OTHER_PROC = ("for p in $(awk '$3 == \"proc\" && $2 != \"/proc\" { print $2 }' /proc/mounts); "
                 "do mount --bind /dev/null $p/version || exit; done; ")
MASKED_PROC = NO_OTHER_PROC + "mount --bind /dev/null /proc/version && exec \"$@\""


def test_a_masked_proc_is_answered_with_docker_s_option(tmp_path):
    """In a container that masks parts of /proc no new one can be mounted."""
    result = start("-f", connection(tmp_path), "--python", conftest.PYTHON, cwd=tmp_path,
                   command=["unshare", "-Urm", "sh", "-c", MASKED_PROC, "sh"])
    is_one_line(result, 78, "proc", "systempaths=unconfined")


# --- a disk that is full

FULL = ('mkdir -p "$1"; mount -t tmpfs -o size=64k none "$1"; chmod 700 "$1"; dd if=/dev/zero of="$1/fill" bs=4k 2>&1 | tail -n 1; '
        'df --output=avail "$1" | grep -q " 0$"; shift; exec "$@"')
AS_ROOT_INSIDE = ["unshare", "-Urm", "sh", "-ec"]


def with_full(variable, tmp_path, *words):
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "XDG_RUNTIME_DIR": str(tmp_path / "run"),
           variable: str(tmp_path / "full")}
    for name in ("state", "run"):
        (tmp_path / name).mkdir(mode=0o700, exist_ok=True)
    return subprocess.run([*AS_ROOT_INSIDE, FULL, "sh", tmp_path / "full", conftest.HUSK, *words], cwd=tmp_path, env=env,
                          capture_output=True, text=True, timeout=conftest.TIMEOUT)


@pytest.mark.parametrize("variable, words", [
    ("XDG_RUNTIME_DIR", ("run", "-c", "print(1)")), ("XDG_RUNTIME_DIR", ("create",)),
    ("XDG_STATE_HOME", ("run", "-c", "print(1)")), ("XDG_STATE_HOME", ("run", "-o", "json", "-c", "1")),
], ids=["run", "create", "run on full state", "json"])
def test_a_command_on_a_full_disk_says_so(tmp_path, variable, words):
    done = with_full(variable, tmp_path, *words)
    if variable == "XDG_STATE_HOME" and done.returncode == 0:  # an ordinary user inside has a home in memory
        assert done.stdout.endswith("\n1\n") or '"status":"ok"' in done.stdout, done.stdout
        return
    assert done.returncode == 125, (done.stdout, done.stderr)
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_kernel_on_a_full_runtime_directory_runs(make_kernel, tmp_path):
    """Commands do not find it, and its clients lack nothing."""
    (tmp_path / "full").mkdir()
    kernel = make_kernel(within=(*AS_ROOT_INSIDE, FULL, "sh", str(tmp_path / "full")), env={"XDG_RUNTIME_DIR": str(tmp_path / "full")})
    assert kernel.run("1 + 1").value == "2"
    assert "No space left on device" in kernel.log.read_text()
