# SPDX-License-Identifier: BSD-3-Clause
"""Deaths, limits and interrupts: every request is answered, and the reason is named."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import conftest
import psutil
import pytest

DEATHS = {
    "exit": ("import os; os._exit(3)", "exited with status 3"),
    "kill": ("import os; os.kill(os.getpid(), 9)", "signal 9"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "signal 11"),
    "abort": ("import os; os.abort()", "signal 6"),
    "stack overflow": (
        "import sys; sys.setrecursionlimit(10**9)\n"
        "class A:\n    def __repr__(self): return repr(self)\nrepr(A())", "signal 11"),
}

INTERRUPTED = {
    "a loop": "while True: pass",
    "sleep": "import time; time.sleep(60)",
    "a lock": "import threading; l = threading.Lock(); l.acquire(); l.acquire()",
    "input": "input()",
    "a subprocess": "import subprocess; subprocess.run(['sleep', '60'])",
    "await": "import asyncio; await asyncio.sleep(60)",
    "a task group": "import asyncio\nasync with asyncio.TaskGroup() as g:\n    g.create_task(asyncio.sleep(60))",
    "gather": "import asyncio; await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))",
    "an event": "import asyncio; await asyncio.Event().wait()",
    "a queue": "import queue; queue.Queue().get()",
    "a socket": "import socket; a, b = socket.socketpair(); a.recv(1)",
    "a flood of text": "while True: print('x' * 100)",
    "a host that is silent": "import socket, urllib.request\n"
        "s = socket.create_server(('127.0.0.1', 0))\nurllib.request.urlopen('http://127.0.0.1:%d' % s.getsockname()[1])",
    "a host that takes no connection": "import socket, urllib.request\ns = socket.create_server(('127.0.0.1', 0), backlog=0)\n"
        "a = s.getsockname()\nkeep = [socket.create_connection(a)]\nurllib.request.urlopen('http://127.0.0.1:%d' % a[1])",
    "a stopped process": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass",
}


@pytest.mark.outcome(lambda how: DEATHS[how][1])
@pytest.mark.parametrize("how", DEATHS)
def test_a_death_is_named_and_everything_queued_is_answered(make_kernel, how):
    code, reason = DEATHS[how]
    kernel = make_kernel()
    kernel.run("open('/tmp/kept', 'w').write('kept'); a = 1")
    sent = [kernel.send("import time; time.sleep(1)\n" + code)]
    sent += [kernel.send(f"print({i})") for i in range(3)]
    died, *others = [kernel.result(m) for m in sent]
    assert died.ename == "InterpreterDied" and reason in died.evalue and "cell 2" in died.evalue
    assert died.of("error")[0]["evalue"] == died.evalue
    assert [r.status for r in others] == ["aborted"] * 3
    assert kernel.run("open('/tmp/kept').read()").value == "'kept'"
    assert kernel.run("a").ename == "NameError"


def test_cells_that_do_not_stop_on_error_run_in_the_new_interpreter(make_kernel):
    kernel = make_kernel()
    first = kernel.send("import time, os; time.sleep(1); os._exit(1)", stop_on_error=False)
    second = kernel.send("6 * 7")
    assert kernel.result(first).ename == "InterpreterDied"
    assert kernel.result(second).value == "42"


def test_the_memory_limit_is_named_and_the_kernel_lives(make_kernel):
    kernel = make_kernel("--memory", "300m")
    result = kernel.run("x = bytearray(1 << 30)")
    # a cgroup kills, and the cause is named; without one the allocation itself is refused
    assert "memory limit of 300 MiB" in result.evalue or result.ename == "MemoryError"
    assert kernel.run("6 * 7").value == "42"
    result = kernel.run("import subprocess, sys\n"
                        "subprocess.run([sys.executable, '-c', 'x = bytearray(1 << 30)']).returncode")
    assert result.value not in (None, "0")


def test_a_fork_bomb_hits_its_own_limit(make_kernel):
    kernel = make_kernel("--pids", "60")
    result = kernel.run(
        "import os, time\nn = 0\ntry:\n    while n < 500:\n        if os.fork() == 0: time.sleep(5); os._exit(0)\n"
        "        n += 1\nexcept OSError as e: print(e.strerror, n < 60)")
    assert result.stdout == "Resource temporarily unavailable True\n"
    assert kernel.run("6 * 7").value == "42"


def test_a_full_private_directory_is_an_error_of_its_own(make_kernel):
    kernel = make_kernel("--tmp-size", "8m")
    result = kernel.run("open('/tmp/big', 'wb').write(bytes(32 << 20))")
    assert "No space left" in result.evalue
    assert kernel.run("import os; os.unlink('/tmp/big'); open('/tmp/x', 'w').write('1')").status == "ok"


def test_open_files_are_limited(make_kernel):
    kernel = make_kernel("--files", "300")
    result = kernel.run("f = []\nwhile True: f.append(open('/dev/null'))")
    assert "Too many open files" in result.evalue
    assert kernel.run("del f; 6 * 7").value == "42"


@pytest.mark.outcome("KeyboardInterrupt")
@pytest.mark.parametrize("what", INTERRUPTED)
def test_an_interrupt_ends(kernel, what):
    """Within a second, at least once in three times: the machine may stall."""
    taken = []
    while len(taken) < 3 and not (taken and taken[-1] < 1):
        msg_id = kernel.send(INTERRUPTED[what], allow_stdin=True)
        time.sleep(0.7)
        began = time.monotonic()
        assert kernel.interrupt()["content"]["status"] == "ok"
        result = kernel.result(msg_id)
        taken.append(time.monotonic() - began)
        assert result.ename == "KeyboardInterrupt"
        assert [e["ename"] for e in result.of("error")] == ["KeyboardInterrupt"]
        assert kernel.run("2 + 3").value == "5"
    assert min(taken) < 1, taken


def test_an_interrupt_ends_what_os_system_runs(kernel):
    """The child dies; system(3) has its caller not hear of it."""
    msg_id = kernel.begin("import os; os.system('sleep 60')")
    time.sleep(0.7)
    kernel.interrupt()
    assert kernel.result(msg_id).value == "2"


def test_ten_interrupts_are_one(kernel):
    """Of one moment: each would come after the other if it waited for its reply."""
    msg_id = kernel.begin(
        "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('one')\n"
        "for i in range(20): time.sleep(0.05)\nprint('done')")
    session, channel = kernel.client.session, kernel.client.control_channel
    for _ in range(10):
        channel.send(session.msg("interrupt_request", {}))
    for _ in range(10):
        assert kernel.client.get_control_msg(timeout=conftest.TIMEOUT)["content"]["status"] == "ok"
    assert kernel.result(msg_id).stdout == "one\ndone\n"


def test_a_signal_to_husk_is_an_interrupt_too(kernel):
    msg_id = kernel.begin("import time; time.sleep(60)")
    os.kill(kernel.pid, signal.SIGINT)
    assert kernel.result(msg_id).ename == "KeyboardInterrupt"


def test_an_interrupt_while_idle_is_ignored(kernel):
    kernel.interrupt()
    os.kill(kernel.pid, signal.SIGINT)
    assert kernel.run("2 + 3").value == "5"


def test_an_interrupt_aborts_what_is_queued(kernel):
    first, second = kernel.send("print('begun', flush=True)\nimport time; time.sleep(60)"), kernel.send("1")
    kernel.await_stream()
    kernel.interrupt()
    assert kernel.result(first).ename == "KeyboardInterrupt"
    assert kernel.result(second).status == "aborted"


def processes_with(text):
    found = subprocess.run(["pgrep", "-f", text], capture_output=True, text=True).stdout.split()
    return [p for p in found if int(p) != os.getpid()]


def wait_until(condition, seconds=15):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


CLIENT = """
import sys
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
specs, cwd, mark = sys.argv[1:]
m = KernelManager(kernel_name="husk", kernel_spec_manager=KernelSpecManager(kernel_dirs=[specs]))
m.start_kernel(cwd=cwd)
c = m.client()
c.start_channels()
c.wait_for_ready(timeout=60)
c.execute_interactive(f"import subprocess; subprocess.Popen(['setsid', 'sleep', '{mark}']); None")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_kernel_ends_with_its_client(tmp_path):
    mark = f"77{os.getpid()}"
    specs = conftest.spec_directory(tmp_path / "spec")
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(specs), str(tmp_path), mark],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"ready\n"
    assert wait_until(lambda: processes_with(f"sleep {mark}"))
    client.kill()
    client.wait()
    client.stdin.close()
    client.stdout.close()
    assert wait_until(lambda: not processes_with(f"sleep {mark}"))


def test_shutdown_echoes_restart_runs_atexit_and_ends(make_kernel):
    for restart in (True, False):
        kernel = make_kernel()
        kernel.run("import atexit; atexit.register(lambda: open('bye', 'w').write('x')) and None")
        reply = kernel.control("shutdown_request", {"restart": restart})
        assert reply["content"]["restart"] is restart
        assert wait_until(lambda: not kernel.manager.is_alive())
        assert (kernel.cwd / "bye").exists()


def test_an_interpreter_ends_as_python_does(make_kernel):
    """Files that nobody closed are written, of cells and of modules; objects end; threads are waited for."""
    kernel = make_kernel()
    (kernel.cwd / "mine.py").write_text("f = open('of a module', 'w'); f.write('x')\n")
    kernel.run("""
import mine, threading, time
class Ending:
    def __del__(self):
        with open('deleted', 'w') as f:
            f.write('x')
ending = [Ending()]
ending.append(ending)
f = open('of a cell', 'w'); f.write('x')
def late():
    time.sleep(0.3)
    with open('of a thread', 'w') as f:
        f.write('x')
threading.Thread(target=late).start()
""")
    kernel.control("shutdown_request", {"restart": False})
    assert wait_until(lambda: not kernel.manager.is_alive())
    for name in ("of a module", "of a cell", "of a thread", "deleted"):
        assert (kernel.cwd / name).read_text() == "x", name


def test_shutdown_while_a_cell_runs_ends(make_kernel):
    kernel = make_kernel()
    msg_id = kernel.begin("sum(range(10**13))")
    kernel.control("shutdown_request", {"restart": False})
    assert kernel.result(msg_id).status == "error"
    assert wait_until(lambda: not kernel.manager.is_alive())


def test_a_cgroup_is_left_alone_while_its_broker_lives_wherever_that_is(make_kernel):
    """Two containers may share /sys/fs/cgroup and not see each other's processes: a lock tells."""
    broker, = psutil.Process(make_kernel().pid).children()
    # none for an ordinary user: nothing is made, or swept
    for path in conftest.groups_of(broker.pid):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
        left = os.path.join(os.path.dirname(path), f"husk-1-{os.getpid()}")
        held = os.path.join(os.path.dirname(path), f"husk-999999-{os.getpid()}")
        os.mkdir(left)  # by a broker that was killed; process 1 lives, but holds no lock
        os.mkdir(held)  # by one whose process is not seen here
        fd = os.open(held, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        make_kernel()
        assert os.path.exists(path) and os.path.exists(held) and not os.path.exists(left)
        os.close(fd)
        os.rmdir(held)


def children_of(pid):
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True)
    return found.stdout.splitlines()


def test_fifty_restarts_leave_nothing(make_kernel, tmp_path):
    kernel = make_kernel()
    kernel.run("1")
    mounts = conftest.mounts_of(tmp_path)
    for _ in range(50):
        kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=60)
    assert kernel.run("6 * 7").value == "42"
    assert conftest.mounts_of(tmp_path) == mounts
    end = time.monotonic() + conftest.TIMEOUT
    while len(left := children_of(kernel.pid)) != 1:  # the broker; and who starts a frozen interpreter, if none was there
        assert time.monotonic() < end, left
        time.sleep(0.05)
    assert len(os.listdir(f"/proc/{kernel.pid}/fd")) < 60


BROKEN = {
    "a number that does not exist": ("struct.pack('>IHHIIQ', 0, 60, 0, 0, 0, 0)", "no frame has number 60"),
    "a frame of the supervisor": ("struct.pack('>IHHIIQ', 0, 11, 0, 0, 0, 0)", "SHUTDOWN from the wrong side"),
    "a field that is not zero": ("struct.pack('>IHHIIQ', 0, 33, 1, 0, 0, 0)", "DOORBELL with a reserved field"),
    "4 GiB": ("struct.pack('>IHHIIQ', 0xffffffff, 34, 0, 0, 0, 0)", "DISPLAY_DATA of 4294967295 bytes"),
    "a second HELLO": ("struct.pack('>IHHIIQI', 6, 32, 0, 0, 1, 0, 2) + b'{}'", "HELLO at the wrong time"),
    "a part that is too long": ("struct.pack('>IHHIIQI', 4, 34, 0, 0, 0, 0, 9)", "longer than the frame"),
    "too few parts": ("struct.pack('>IHHIIQ', 0, 34, 0, 0, 0, 0)", "DISPLAY_DATA with 0 parts"),
    "a reply to nobody": ("struct.pack('>IHHIIQ', 12, 43, 0, 999999, 0, 0) + (struct.pack('>I', 2) + b'{}') * 2",
                          "REPLY for a request that is not running"),
    "content that is no JSON": ("struct.pack('>IHHIIQ', 12, 34, 0, 0, 0, 0) + (struct.pack('>I', 2) + b'{x') * 2",
                                "display_data: byte"),
    "text that does not exist": ("struct.pack('>IHHIIQ', 0, 33, 0, 0, 0, 1 << 60)", "after text that does not exist"),
}


@pytest.mark.outcome(lambda how: BROKEN[how][1])
@pytest.mark.parametrize("how", BROKEN)
def test_an_interpreter_that_breaks_the_protocol_is_ended_and_the_rule_is_named(make_kernel, how):
    frame, reason = BROKEN[how]
    kernel = make_kernel()
    result = kernel.run(f"import os, struct, time\nos.write(3, {frame})\ntime.sleep(60)")
    assert result.ename == "InterpreterDied" and reason in result.evalue
    assert kernel.run("6 * 7").value == "42"


@pytest.mark.parametrize("offset, value", [(0, 1 << 62), (0, -1)])
def test_an_absurd_ring_is_named_too(make_kernel, offset, value):
    kernel = make_kernel()
    result = kernel.run(
        "import ctypes, time\n"
        "at = [int(l.split('-')[0], 16) for l in open('/proc/self/maps') if 'husk-ring' in l][0]\n"
        f"ctypes.c_int64.from_address(at + {offset}).value = {value}\n"
        "import os; os.write(1, b'wake')\ntime.sleep(60)")
    assert result.ename == "InterpreterDied" and "ring" in result.evalue
    assert kernel.run("6 * 7").value == "42"


@pytest.mark.parametrize("how", ["os.close(3)", "os.closerange(3, 100)",
                                 "import socket; socket.socket(fileno=os.dup(3)).shutdown(1)"])
def test_an_interpreter_that_hangs_up_is_ended(make_kernel, how):
    kernel = make_kernel()
    result = kernel.run(f"import os, time\n{how}\ntime.sleep(60)")
    assert result.ename == "InterpreterDied"
    assert kernel.run("6 * 7").value == "42"


ORPHANS = """
import ctypes, os, pathlib, sys, time
sys.path.insert(0, sys.argv[1])
import conftest, psutil
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to us
for name in ("strict", "notebook"):
    kernel = conftest.Kernel(pathlib.Path(sys.argv[2]) / name, "--profile", name)
    kernel.run("1")
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel()
print([p.name() for p in psutil.Process().children()])
"""


def test_nothing_is_left_for_others_to_take_in(tmp_path):
    """In a container pid 1 is often a program that waits for nobody: what ends there stays for ever."""
    for i in range(3):
        for name in ("strict", "notebook"):
            (tmp_path / str(i) / name).mkdir(parents=True)
            # Else a kernel begins it, and does not wait for it; as it does if another test has just changed what it
            # was made of.
            subprocess.run([conftest.HUSK, "warm", "--python", conftest.PYTHON, "--profile", name], timeout=conftest.TIMEOUT)
        done = subprocess.run([sys.executable, "-c", ORPHANS, os.path.dirname(__file__), str(tmp_path / str(i))],
                              capture_output=True, text=True, timeout=conftest.TIMEOUT)
        if done.stdout == "[]\n":
            return
    assert False, done
