# SPDX-License-Identifier: BSD-3-Clause
"""Interpreters that start from a frozen one: what they are must not tell, and what goes wrong must not show."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import HUSK, PREFIX, PYTHON, START, TIMEOUT, Kernel

pytestmark = pytest.mark.skipif(
    START is not None or not (PREFIX / "lib/husk/interpreter/husk-thaw").exists(),
    reason="nothing is to start warm, or this is no x86-64",
)


def warm(state, *options, env=None):
    return subprocess.run(
        [HUSK, "warm", "--python", PYTHON, *options], capture_output=True, text=True, timeout=TIMEOUT * 2,
        env={**os.environ, "XDG_STATE_HOME": str(state), **(env or {})},
    )


@pytest.fixture(scope="session")
def frozen(tmp_path_factory):
    """A state directory with a frozen interpreter of profile notebook; not changed by tests."""
    state = tmp_path_factory.mktemp("state")
    made = warm(state)
    assert made.returncode == 0, made.stderr
    return state


@contextlib.contextmanager
def started(directory, state, *options, env=None, **more):
    kernel = Kernel(directory, *options, env={"XDG_STATE_HOME": str(state), **(env or {})}, **more)
    try:
        yield kernel
    finally:
        kernel.stop()


def info(kernel):
    content = kernel.control("sandbox_request", {"method": "sandbox.info", "params": {}})["content"]
    return content["result"]


def is_warm(kernel):
    said = info(kernel)
    assert (said["start"], said["start_reason"]) == ("warm", None)
    return True


def copy_of(frozen, directory):
    shutil.copytree(frozen / "husk" / "warm", directory / "state" / "husk" / "warm", copy_function=shutil.copy2)
    (directory / "state" / "husk" / "warm").chmod(0o700)
    return directory / "state"


def the_file(state):
    (found,) = (state / "husk" / "warm").glob("*.frozen")
    return found


LOOK = r"""
import asyncio, ctypes, gc, json, locale, os, resource, signal, stat, sys, tempfile, threading, time, warnings
import faulthandler, random, socket

def kind(fd):
    st = os.fstat(fd)
    name = [n for n in ("SOCK", "REG", "CHR", "FIFO", "DIR") if getattr(stat, "S_IS" + n)(st.st_mode)]
    import fcntl
    target = os.readlink(f"/proc/self/fd/{fd}").split(":")[0]
    return [fd, name, target, fcntl.fcntl(fd, fcntl.F_GETFD), fcntl.fcntl(fd, fcntl.F_GETFL)]

def descriptors():
    found = []
    for name in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            found.append(kind(name))
        except OSError:
            pass
    return found

def status():
    keep = ("Umask", "Uid", "Gid", "Groups", "NStgid", "NSpid", "NSpgid", "NSsid", "Threads", "SigQ", "SigPnd", "ShdPnd",
            "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
            "Seccomp_filters", "Cpus_allowed", "Tgid", "PPid", "Name", "TracerPid", "CoreDumping", "THP_enabled")
    lines = open("/proc/self/status").read().splitlines()
    return {k: v.split() for k, _, v in (line.partition(":") for line in lines) if k in keep and k != "SigQ"}

def tree(top):
    found = [os.path.join(d, n) for d, ds, fs in os.walk(top) for n in ds + fs]
    return sorted([p[len(top):], os.stat(p).st_mode, os.stat(p).st_size if os.path.isfile(p) else 0] for p in found + [top])

shell = get_ipython()
here = os.getcwd()
seen = {
    "environ": dict(os.environ), "environb": len(os.environb),
    "libc environ": ctypes.CDLL(None).getenv and [ctypes.string_at(p).decode() if p else None for p in [
        (lambda f: (setattr(f, "restype", ctypes.c_void_p), f(b"HOME"))[1])(ctypes.CDLL(None).getenv)]],
    "proc environ": open("/proc/self/environ").read(), "cmdline": open("/proc/self/cmdline").read(),
    "comm": open("/proc/self/comm").read(), "status": status(), "descriptors": descriptors(),
    "argv": sys.argv, "orig_argv": getattr(sys, "orig_argv", None), "path": sys.path, "flags": repr(sys.flags),
    "prefix": [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.executable], "warnoptions": sys.warnoptions,
    "meta_path": [type(f).__name__ + getattr(f, "__name__", "") for f in sys.meta_path], "path_hooks": len(sys.path_hooks),
    "recursion": sys.getrecursionlimit(), "switch": sys.getswitchinterval(), "trace": [sys.gettrace(), sys.getprofile()],
    "directory": here, "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getgroups()], "pid": os.getpid(),
    "parent": os.getppid(), "group": [os.getpgid(0), os.getsid(0)], "native": threading.main_thread().native_id,
    "threads": [t.name for t in threading.enumerate()], "main": threading.current_thread() is threading.main_thread(),
    "limits": {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")},
    "nice": os.getpriority(os.PRIO_PROCESS, 0), "policy": os.sched_getscheduler(0), "cpus": sorted(os.sched_getaffinity(0)),
    "signals": {int(s): (getattr(signal.getsignal(s), "__qualname__", None) or repr(signal.getsignal(s))) for s in signal.valid_signals()
                if s not in (signal.SIGKILL, signal.SIGSTOP)},
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "timer": signal.getitimer(signal.ITIMER_REAL),
    "locale": [locale.setlocale(c) for c in (locale.LC_CTYPE, locale.LC_COLLATE, locale.LC_NUMERIC)],
    "encodings": [sys.getfilesystemencoding(), sys.stdin.encoding, sys.stdout.encoding, sys.getdefaultencoding()],
    "streams": [type(s).__name__ for s in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__)],
    "collector": [gc.isenabled(), gc.get_threshold(), gc.get_debug()], "faults": faulthandler.is_enabled(),
    "warnings": [[f[0], f[2].__name__, f[4]] for f in warnings.filters],
    "oom": open("/proc/self/oom_score_adj").read(), "timezone": time.tzname, "personality": ctypes.CDLL(None).personality(0xffffffff),
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), "deathsig": ctypes.CDLL(None).prctl(2, ctypes.byref(ctypes.c_int()), 0, 0, 0),
    "tty": [os.isatty(i) for i in range(3)], "host": socket.gethostname(), "tempdir": tempfile.gettempdir(),
    "home": os.path.expanduser("~"), "tree of .ipython": tree(os.path.expanduser("~/.ipython")), "here": sorted(os.listdir(".")),
    "shell": [shell.starting_dir, shell.ipython_dir, shell.profile_dir.location, shell.home_dir, shell.execution_count,
              type(shell).__name__, shell.user_ns["_dh"] == [here], len(shell.user_ns["In"]), sorted(shell.magics_manager.magics["line"])],
    "cells": [len(shell.user_ns["Out"]), shell.last_execution_succeeded, str(shell.last_execution_result),
              len(shell.history_manager.input_hist_raw), shell.payload_manager.read_payload(), {k: len(v) for k, v in shell.events.callbacks.items()}],
    "files of cells": [n for c in (__import__("linecache").cache, __import__("inspect").modulesbyfile) for n in c if "ipykernel" in n],
    "names": sorted(n for n in globals() if not n.startswith("_i")),
    "hidden names": sorted(shell.user_ns_hidden), "app": [shell.kernel.app.config_file_paths, shell.kernel.app.profile,
              repr(shell.kernel.app.config), shell.extension_manager.loaded and sorted(shell.extension_manager.loaded)],
    "loop": type(asyncio.get_event_loop()).__name__, "kernel": type(shell.kernel).__name__, "hash": hash("husk"),
    "mounts": sorted(line.split()[4] for line in open("/proc/self/mountinfo")),
    "cgroup": len(open("/proc/self/cgroup").readlines()), "thread attr": threading.stack_size(),
    "vdso": any("[vdso]" in line for line in open("/proc/self/maps")), "limits of husk": os.environ["HUSK_LIMITS"],
}
print(json.dumps(seen, default=str))
"""


def test_warm_is_as_cold(tmp_path, frozen):
    """Every attribute of the process and of Python that could tell them apart does not."""
    env = {"PYTHONHASHSEED": "7", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"}
    state = tmp_path / "state"
    assert warm(state, env=env).returncode == 0
    seen = {}
    for how in ("cold", "warm"):
        (tmp_path / how).mkdir()
        with started(tmp_path / how, state, "--start", how, "--env", "MINE=1", env=env, cwd=tmp_path / "work") as kernel:
            assert info(kernel)["start"] == how
            seen[how] = json.loads(kernel.run(LOOK).stdout)
            seen[how]["modules"] = set(json.loads(kernel.run(
                "import sys, json; print(json.dumps(sorted(sys.modules)))").stdout))
    modules = {how: seen[how].pop("modules") for how in seen}
    assert {k: (v, seen["warm"][k]) for k, v in seen["cold"].items() if v != seen["warm"][k]} == {}
    assert modules["cold"] - modules["warm"] == set()
    assert modules["warm"] - modules["cold"] == {"husk_interpreter.frozen"}


PROFILE = {
    "startup/1.py": "first = 'of startup'",
    "startup/2.ipy": "second = first + '!'",
    "ipython_config.py": "c.InteractiveShellApp.exec_lines = ['third = 3']",
    "ipython_kernel_config.json": '{"PlainTextFormatter": {"float_precision": "%.3f"}}',
}


@pytest.mark.parametrize("names", [list(PROFILE), *([name] for name in PROFILE)], ids=lambda names: "+".join(names))
def test_a_profile_is_loaded_as_in_a_cold_start(tmp_path, names):
    """Who was frozen has looked for one where there was none."""
    env, state, seen = {"HOME": str(tmp_path / "home")}, tmp_path / "state", {}
    (tmp_path / "home").mkdir()
    assert warm(state, env=env).returncode == 0
    for name in names:
        path = tmp_path / "home" / ".ipython" / "profile_default" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROFILE[name])
    for how in ("cold", "warm"):
        (tmp_path / how).mkdir()
        with started(tmp_path / how, state, "--start", how, env=env, cwd=tmp_path / "work") as kernel:
            assert info(kernel)["start"] == how
            seen[how] = [kernel.run(code).value for code in (
                "globals().get('first')", "globals().get('second')", "globals().get('third')", "1 / 3",
                "get_ipython().kernel.app.config_file_paths, get_ipython().config")]
    assert seen["warm"] == seen["cold"]
    expected = ["'of startup'", "'of startup!'", "3", "0.333"]
    if len(names) == len(PROFILE):
        assert seen["warm"][:4] == expected
    else:
        assert sum(a == b for a, b in zip(seen["warm"], expected)) == (0 if names == ["startup/2.ipy"] else 1)


SECRETS = r"""
import ctypes, hashlib, json, os, random, socket, sqlite3, ssl, sys, tempfile, uuid
print(json.dumps({
    "random": random.random(), "urandom": os.urandom(8).hex(), "uuid1": str(uuid.uuid1()), "uuid4": str(uuid.uuid4()),
    "ssl": ssl.RAND_bytes(8).hex(), "sqlite": sqlite3.connect(":memory:").execute("select hex(randomblob(8))").fetchone(),
    "of the history": get_ipython().history_manager.db.execute("select hex(randomblob(8))").fetchone(),
    "temporary": os.path.basename(tempfile.mktemp()), "namespaces": [os.readlink(f"/proc/self/ns/{n}") for n in
        ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")],
    "descriptors": [os.readlink(f"/proc/self/fd/{i}") for i in (1, 2, 3, 6, 7, 8, 9)],
    "key of multiprocessing": __import__("multiprocessing").current_process().authkey.hex(),
}))
"""


def test_two_of_one_file_share_nothing_that_can_be_written(tmp_path, frozen):
    before = the_file(frozen).read_bytes()
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(started(tmp_path / n, frozen, cwd=(tmp_path / n / "work")))
                    for n in ("one", "two") if not (tmp_path / n).mkdir())
        assert is_warm(one) and is_warm(two)
        a, b = (json.loads(k.run(SECRETS).stdout) for k in (one, two))
        assert [k for k in a if a[k] == b[k] and k != "namespaces"] == []
        assert [x for x, y in zip(a["namespaces"], b["namespaces"], strict=True) if x == y] == []
        # Memory of the file, in C and in Python; environment; files; names in the network.
        written = one.run("""
import ctypes, os, socket, sys, IPython
IPython.__version__ = sys.mine = "changed"
text = b"husk looks whether this is seen"
for line in open("/proc/self/maps"):
    where, bits, *_ = line.split()
    if ".frozen" in line and bits.startswith("rw"):
        start, end = (int(x, 16) for x in where.split("-"))
        data = ctypes.string_at(start, end - start)
        at = data.find(bytes(64))
        if at >= 0:
            ctypes.memmove(start + at, text, len(text))
            print(start + at)
os.environ["LEAK"] = "1"
open("/tmp/leak", "w").write("1")
leak = socket.socket(socket.AF_UNIX); leak.bind("\\0leak"); leak.listen()
shm = __import__("multiprocessing.shared_memory").shared_memory.SharedMemory("leak", create=True, size=10)
""").stdout.split()
        assert written
        (tmp_path / "three").mkdir()
        three = stack.enter_context(started(tmp_path / "three", frozen))
        assert is_warm(three)
        for other in (two, three):
            assert other.run(f"""
import ctypes, os, socket, sys, IPython
found = [IPython.__version__ == "changed", hasattr(sys, "mine"), "LEAK" in os.environ, os.path.exists("/tmp/leak"),
         os.path.exists("/dev/shm/leak")]
found += [ctypes.string_at(at, 10) == b"husk looks" for at in {list(map(int, written))}]
s = socket.socket(socket.AF_UNIX); s.bind("\\0leak")
print(any(found))
""").stdout == "False\n"
    assert the_file(frozen).read_bytes() == before


def test_the_file_cannot_be_reached_from_inside(tmp_path, frozen):
    with started(tmp_path, frozen) as kernel:
        assert is_warm(kernel)
        result = kernel.run(f"""
import os
name = {str(the_file(frozen))!r}
for how in (os.O_RDONLY, os.O_RDWR):
    for path in (name, *("/proc/self/map_files/" + n for n in os.listdir("/proc/self/map_files"))):
        try:
            print(os.open(path, how))
        except OSError as e:
            pass
print([n for n in os.listdir("/proc/self/fd") if "frozen" in (os.readlink("/proc/self/fd/" + n) if os.path.islink("/proc/self/fd/" + n) else "")])
""" if os.geteuid() else f"""
import os
try:
    print(os.open({str(the_file(frozen))!r}, os.O_RDONLY))
except OSError:
    pass
links = [os.path.join("/proc/self/fd", n) for n in os.listdir("/proc/self/fd")]
print([os.readlink(n) for n in links if os.path.islink(n) and "frozen" in os.readlink(n)])
""")
        assert result.status == "ok" or result.ename == "PermissionError", result.evalue
        assert result.stdout in ("[]\n", "")


def test_a_new_interpreter_of_the_same_kernel_is_warm_too(tmp_path, frozen):
    with started(tmp_path, frozen) as kernel:
        kernel.run("x = 1")
        assert kernel.run("import os; os._exit(3)").ename == "InterpreterDied"
        assert kernel.run("'x' in globals()").value == "False"
        assert is_warm(kernel)


def test_the_first_start_is_cold_and_makes_the_second_one_warm(tmp_path):
    state = tmp_path / "state"
    (tmp_path / "one").mkdir()
    with started(tmp_path / "one", state) as kernel:
        said = info(kernel)
        assert (said["start"], "none was frozen yet" in said["start_reason"]) == ("cold", True)
        end = time.monotonic() + TIMEOUT
        while not list((state / "husk" / "warm").glob("*.frozen")):
            assert time.monotonic() < end
            time.sleep(0.1)
    (tmp_path / "two").mkdir()
    with started(tmp_path / "two", state) as kernel:
        assert is_warm(kernel)
        assert kernel.run("1 + 1").value == "2"


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def empty(file):
    os.truncate(file, 0)


def overwrite(file):
    """The tables are as they were, and what they describe is not."""
    size = file.stat().st_size
    with open(file, "r+b") as f:
        f.seek(4096 * 8)
        f.write(os.urandom(min(size // 2, 4 << 20)))


def lie(file):
    """Tables that put everything elsewhere: at addresses that no process has."""
    with open(file, "r+b") as f:
        f.seek(8 * 20)
        f.write(b"\xff" * 2000)


def link(file):
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def fifo(file):
    file.unlink()
    os.mkfifo(file)


def directory(file):
    file.unlink()
    file.mkdir()


def open_to_all(file):
    file.chmod(0o666)


def give_away(file):
    os.chown(file, 12345, 12345)


SWAPS = [truncate, empty, overwrite, lie, link, fifo, directory, open_to_all,
         *([give_away] if os.geteuid() == 0 else [])]


@pytest.mark.parametrize("swap", SWAPS, ids=lambda f: f.__name__)
def test_what_is_no_frozen_interpreter_costs_a_cold_start(tmp_path, frozen, swap):
    state = copy_of(frozen, tmp_path)
    swap(the_file(state))
    with started(tmp_path, state) as kernel:
        assert kernel.run("6 * 7").value == "42"
        said = info(kernel)
        assert (said["start"], bool(said["start_reason"])) == ("cold", True)


def test_the_directory_of_somebody_else_is_not_used(tmp_path, frozen):
    state = copy_of(frozen, tmp_path)
    (state / "husk" / "warm").chmod(0o777)
    with started(tmp_path, state) as kernel:
        assert kernel.run("6 * 7").value == "42"
        assert "not a directory that only this user can write" in info(kernel)["start_reason"]


def test_what_changed_on_the_disk_is_imported_anew(tmp_path):
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "sitecustomize.py").write_text("import sys; sys.version_of_mine = 1\n")
    env = {"PYTHONPATH": str(packages)}
    state = tmp_path / "state"
    assert warm(state, env=env).returncode == 0
    for version, how in ((1, "warm"), (2, "cold")):
        (packages / "sitecustomize.py").write_text(f"import sys; sys.version_of_mine = {version}\n") if version > 1 else None
        (tmp_path / how).mkdir()
        with started(tmp_path / how, state, env=env) as kernel:
            said = info(kernel)
            assert said["start"] == how
            assert kernel.run("import sys; sys.version_of_mine").value == str(version)
    assert "has changed since" in said["start_reason"]


def test_another_environment_has_another_file(tmp_path, frozen):
    state = copy_of(frozen, tmp_path)
    with started(tmp_path, state, env={"PYTHONOPTIMIZE": "", "PYTHONWARNINGS": "error"}) as kernel:
        assert info(kernel)["start"] == "cold"
        assert kernel.run("import sys; sys.warnoptions").value == "['error']"


THREADS = "import threading\nthreading.Thread(target=threading.Event().wait, name='of-mine', daemon=True).start()\n"


def test_values_of_variables_are_on_no_command_line(tmp_path):
    """Neither of those that matter to what is imported, which the maker gets, nor of others, which it does not."""
    state = tmp_path / "state"
    seen, over = set(), threading.Event()

    def watch():
        while not over.is_set():
            for name in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    seen.add(pathlib.Path(f"/proc/{name}/cmdline").read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()  # before the maker is: it may have ended before anybody looks
    with started(tmp_path, state, "--env", "JUPYTER_SECRET", "--env", "TOKEN",
                 env={"JUPYTER_SECRET": "key-of-mine", "TOKEN": "token-of-mine"}) as kernel:
        try:
            assert info(kernel)["start"] == "cold"
            end = time.monotonic() + TIMEOUT
            while not list((state / "husk" / "warm").glob("*.frozen")):
                assert time.monotonic() < end
                time.sleep(0.05)
        finally:
            over.set()
            watcher.join()
        assert kernel.run("import os; os.environ['JUPYTER_SECRET'], os.environ['TOKEN']").value == \
            "('key-of-mine', 'token-of-mine')"
    assert [c for c in seen if b"warm" in c and b"--env=JUPYTER_SECRET\0" in c]
    assert not [c for c in seen if b"of-mine" in c]
    (tmp_path / "again").mkdir()
    with started(tmp_path / "again", state, "--env", "JUPYTER_SECRET=key-of-mine", "--env", "TOKEN=another") as kernel:
        assert is_warm(kernel)
        assert kernel.run("import os; os.environ['JUPYTER_SECRET'], os.environ['TOKEN']").value == \
            "('key-of-mine', 'another')"


def test_threads_are_named_and_nothing_is_frozen(tmp_path):
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "sitecustomize.py").write_text(THREADS)
    env = {"PYTHONPATH": str(packages)}
    made = warm(tmp_path / "state", env=env)
    assert made.returncode == 71 and "threads of Python: of-mine" in made.stderr
    with started(tmp_path, tmp_path / "state", env=env) as kernel:
        said = info(kernel)
        assert (said["start"], "of-mine" in said["start_reason"]) == ("cold", True)


def test_preload(tmp_path):
    state = tmp_path / "state"
    assert warm(state, "--preload", "numpy", "--preload", "decimal").returncode == 0
    values = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with started(tmp_path / name, state, "--preload", "numpy", "--preload", "decimal") as kernel:
            assert is_warm(kernel)
            assert kernel.run("import sys; 'numpy' in sys.modules, 'decimal' in sys.modules").value == "(True, True)"
            assert kernel.run("import numpy; float((numpy.ones((500, 500)) @ numpy.ones((500, 500))).sum())").value == "125000000.0"
            values.add(kernel.run("numpy.random.rand(), numpy.random.default_rng().random()").value)
    assert len(values) == 2
    refused = warm(state, "--preload", "no_such_module")
    assert refused.returncode == 71 and "--preload no_such_module: ModuleNotFoundError" in refused.stderr
    assert warm(state, "--preload", "os; print()").returncode == 64


@pytest.mark.rights("root")
def test_a_full_disk_is_a_reason(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    script = f'mount -t tmpfs -o size=2m none "{state}" && exec "$0" warm --python "{PYTHON}"'
    made = subprocess.run(["unshare", "-m", "sh", "-c", script, HUSK], capture_output=True, text=True, timeout=TIMEOUT,
                          env={**os.environ, "XDG_STATE_HOME": str(state)})
    assert made.returncode == 71 and "No space left on device" in made.stderr


def test_a_maker_that_is_killed_is_no_obstacle(tmp_path):
    state = tmp_path / "state"
    env = {**os.environ, "XDG_STATE_HOME": str(state)}
    maker = subprocess.Popen([HUSK, "warm", "--python", PYTHON], env=env)
    end = time.monotonic() + TIMEOUT
    while not list(state.glob("husk/warm/*.fresh-*")):
        assert time.monotonic() < end
        time.sleep(0.001)
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    assert warm(state).returncode == 0
    assert the_file(state)


def test_many_starts_at_once(tmp_path, frozen):
    """All of them answer, from one file; nobody waits for another one."""
    with contextlib.ExitStack() as stack:
        kernels = []
        for i in range(8):
            (tmp_path / str(i)).mkdir()
            kernels.append(Kernel(tmp_path / str(i), env={"XDG_STATE_HOME": str(frozen)}, ready=False))
            stack.callback(kernels[-1].stop)
        for i, kernel in enumerate(kernels):
            kernel.client.wait_for_ready(timeout=TIMEOUT)
            assert kernel.run(f"{i} + 1").value == str(i + 1)
        assert all(map(is_warm, kernels))


def test_a_time_in_the_future_is_no_reason_to_wait(tmp_path, frozen):
    state = copy_of(frozen, tmp_path)
    file = the_file(state)
    refused = file.with_suffix(".refused")
    file.unlink()
    refused.write_text("because")
    os.utime(refused, (time.time() + 1e6,) * 2)
    with started(tmp_path, state) as kernel:
        assert "none was frozen yet" in info(kernel)["start_reason"]


def test_who_asks_for_a_cold_start_has_one(tmp_path, frozen):
    with started(tmp_path, frozen, "--start", "cold") as kernel:
        assert (info(kernel)["start"], info(kernel)["start_reason"]) == ("cold", "--start cold")


@pytest.mark.rights("user")
def test_without_namespaces_the_start_is_cold(tmp_path, frozen):
    with started(tmp_path, frozen, "--containment", "landlock") as kernel:
        said = info(kernel)
        assert said["start"] == "cold" and "without namespaces" in said["start_reason"]


def test_words_that_are_wrong(tmp_path):
    for arguments in (("--start", "tepid"), ("--preload", "1x"), ("--nothing",)):
        assert warm(tmp_path, *arguments).returncode == 64


def test_old_files_go(tmp_path, frozen):
    state = copy_of(frozen, tmp_path)
    directory = state / "husk" / "warm"
    for i in range(12):
        (directory / f"{i:032}.frozen").write_bytes(b"")
        os.utime(directory / f"{i:032}.frozen", (i, i))
    the = [f for f in directory.glob("*.frozen") if f.stat().st_size][0]
    the.unlink()
    assert warm(state).returncode == 0
    assert the.exists()
    assert len(list(directory.glob("*.frozen"))) == 8


def value_in(directory, state, python, code):
    directory.mkdir()
    with started(directory, state, "--python", str(python), "--start", "cold") as kernel:
        return kernel.run(code).value


def test_what_a_python_needs_to_see_is_asked_again_when_it_changed(tmp_path):
    """A file that names a directory, in a virtual environment that husk knows already."""
    state, packages = tmp_path / "state", tmp_path / "elsewhere"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=TIMEOUT)
    python = tmp_path / "venv" / "bin" / "python"
    packages.mkdir()
    (packages / "mine.py").write_text("x = 5\n")
    look = "import importlib.util; importlib.util.find_spec('mine') is not None"
    assert value_in(tmp_path / "one", state, python, look) == "False"
    assert list((state / "husk" / "python").iterdir())
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "mine.pth").write_text(f"{packages}\n")
    assert value_in(tmp_path / "two", state, python, look) == "True"
    assert value_in(tmp_path / "three", state, python, look) == "True"


def test_a_script_in_place_of_python_is_asked_each_time(tmp_path):
    state = tmp_path / "state"
    for name in ("a", "b"):
        subprocess.run([PYTHON, "-m", "venv", "--without-pip", tmp_path / name], check=True, timeout=TIMEOUT)
    shim = tmp_path / "python"
    for name in ("a", "b"):
        shim.write_text(f'#!/bin/sh\nexec "{tmp_path}/{name}/bin/python" "$@"\n')
        shim.chmod(0o755)
        os.utime(shim, (1e9, 1e9))
        assert value_in(tmp_path / f"kernel-{name}", state, shim, "import sys; sys.prefix") == repr(str(tmp_path / name))


SHIM = """#!/usr/bin/env bash
set -e
program="${{0##*/}}"
export PYENV_ROOT="{root}"
exec "{root}/libexec/pyenv" exec "$program" "$@"
"""
PYENV = """#!/bin/sh
echo asked >> "{root}/asked"
shift 2
version=$PYENV_VERSION
for directory in "$PWD" "${{PWD%/*}}" "{root}"; do
    for name in .python-version version; do
        [ -n "$version" ] || [ ! -e "$directory/$name" ] || read -r version < "$directory/$name"
    done
done
exec "{root}/versions/$version/bin/python3" "$@"
"""


@pytest.fixture
def pyenv(tmp_path, monkeypatch):
    """A pyenv with versions a and b; the function says which one a kernel has, and whether pyenv was asked for it."""
    root, here = tmp_path / "pyenv", tmp_path / "project" / "notebooks"
    for name in ("PYENV_VERSION", "PYENV_DIR", "PYENV_HOOK_PATH", "PYENV_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("shims", "libexec", "versions"):
        (root / name).mkdir(parents=True)
    here.mkdir(parents=True)
    for name in ("a", "b"):
        subprocess.run([PYTHON, "-m", "venv", "--without-pip", root / "versions" / name], check=True, timeout=TIMEOUT)
    for path, text in ((root / "shims/python3", SHIM), (root / "libexec/pyenv", PYENV)):
        path.write_text(text.format(root=root))
        path.chmod(0o755)
    (root / "version").write_text("a\n")
    numbers = iter(range(100))

    def which(env=None):
        (root / "asked").write_text("")
        directory = tmp_path / f"kernel-{next(numbers)}"
        directory.mkdir()
        with started(directory, tmp_path / "state", "--python", str(root / "shims/python3"), "--start", "cold",
                     cwd=here, env=env) as kernel:
            return kernel.run("import sys; print(sys.prefix)").stdout.strip()[-1], bool((root / "asked").read_text())

    which.root, which.here = root, here
    return which


def test_a_shim_of_pyenv_is_asked_when_it_could_say_something_else(pyenv):
    assert pyenv() == ("a", True)
    assert pyenv() == ("a", False)
    assert pyenv(env={"PYENV_VERSION": "b"}) == ("b", True)
    assert pyenv(env={"PYENV_VERSION": "b"}) == ("b", False)
    (pyenv.here.parent / ".python-version").write_text("b\n")
    assert pyenv() == ("b", True)
    assert pyenv() == ("b", False)
    (pyenv.here / ".python-version").write_text("a\n")
    assert pyenv() == ("a", True)
    for path in (pyenv.here / ".python-version", pyenv.here.parent / ".python-version"):
        path.unlink()
    (pyenv.root / "version").write_text("b \n")
    assert pyenv() == ("b", True)
    (pyenv.root / "plugins").mkdir()
    assert pyenv() == ("b", True)
    assert pyenv() == ("b", False)
    assert pyenv(env={"PYENV_HOOK_PATH": "/nowhere"}) == ("b", True)
    assert pyenv(env={"PYENV_HOOK_PATH": "/nowhere"}) == ("b", True)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"1 2 3 /nowhere\n--\nexecutable=/bin/false\n", b"\n--\nversion=3.11\n"],
                         ids=["empty", "zeros", "stale", "half"])
def test_a_damaged_answer_is_asked_again(tmp_path, damage):
    state = tmp_path / "state"
    assert value_in(tmp_path / "one", state, PYTHON, "1") == "1"
    (file,) = (state / "husk" / "python").iterdir()
    file.write_bytes(damage)
    assert value_in(tmp_path / "two", state, PYTHON, "2") == "2"
    assert file.read_bytes() != damage


def test_the_heap_grows_and_shrinks(make_kernel):
    """A Python at fixed addresses (Debian's) has its heap where brk(2) of another program could lie, others above it."""
    kernel = make_kernel()
    code = "kept = [bytes(n % 5000) for n in range(100000)]; del kept[::2]; more = [[n] for n in range(300000)]; del kept, more; 'well'"
    assert [kernel.run(code).value for _ in range(3)] == ["'well'"] * 3


REST = r"""
import _husk, ctypes, gc, hashlib, mmap, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

def pages():
    for line in open("/proc/self/maps"):
        where, bits, *_ = line.split()
        if ".frozen" in line and bits == "rw-p":
            start, end = (int(x, 16) for x in where.split("-"))
            yield from range(start, end, 4096)

def written():
    with open("/proc/self/pagemap", "rb", buffering=0) as f:
        for page in pages():
            f.seek(page // 4096 * 8)
            bits = int.from_bytes(f.read(8), "little") >> 61
            if bits & 4 and not bits & 1:
                yield page

def dirty(): return sum(1 for page in written())

mine = {i: [str(i), (i, float(i))] for i in range(20000)}
def what(): return hashlib.sha256(repr((mine, sorted(sys.modules))).encode()).hexdigest()
"""


def test_what_an_idle_interpreter_has_in_common_with_others_is_shared_again(tmp_path, frozen):
    with started(tmp_path, frozen) as kernel:
        assert is_warm(kernel)
        assert kernel.run(REST).status == "ok"
        given, again, before, after, same = json.loads(kernel.run(
            "import json\nbefore, a = what(), dirty()\ngiven, again = _husk.rest(), _husk.rest()\n"
            "print(json.dumps([given, again, a, dirty(), what() == before]))").stdout)
        assert same and given > again and after < before
        assert kernel.run("what() == before and gc.collect() >= 0 and what() == before").value == "True"
        # By itself, when nothing is asked.
        kernel.run("rests, rest = [], _husk.rest\n_husk.rest = lambda: rests.append(rest())")
        end = time.monotonic() + TIMEOUT
        while kernel.run("rests and rests[0] > 0").value in (None, "[]", "False"):
            assert time.monotonic() < end
            time.sleep(1)  # asking is no rest
        assert kernel.run("what() == before").value == "True"


def test_nothing_is_given_back_that_is_not_the_files_any_more(tmp_path, frozen):
    """Memory of the same content in its place, as after munmap and mmap; and while another thread could write."""
    with started(tmp_path, frozen) as kernel:
        assert is_warm(kernel)
        kernel.run(REST)
        assert kernel.run("""
busy = set(written())
places = [p for p in pages() if p not in busy and len(set(ctypes.string_at(p, 4096))) > 100]
place = places[len(places) // 2]  # of no object that was of use so far
content = ctypes.string_at(place, 4096)
assert libc.mmap(place, 4096, 3, 0x32, -1, 0) == place  # MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS
ctypes.memmove(place, content, 4096)
_husk.rest()
print(ctypes.string_at(place, 4096) == content)
""").stdout == "True\n"
        assert kernel.run("""
go = threading.Event()
thread = threading.Thread(target=go.wait); thread.start()
alone = _husk.rest()
go.set(); thread.join()
while len(os.listdir("/proc/self/task")) > 1: pass
alone, _husk.rest() > 0
""").value == "(0, True)"


def test_a_cold_interpreter_has_nothing_to_give_back(tmp_path, frozen):
    with started(tmp_path, frozen, "--start", "cold") as kernel:
        assert kernel.run("import _husk; _husk.rest()").value == "0"
