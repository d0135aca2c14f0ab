# SPDX-License-Identifier: BSD-3-Clause
"""The memory limit where no cgroup may be made: all processes of the sandbox are looked at together.

Every kernel here runs where /sys/fs/cgroup has nothing, in a mount namespace of its own.
"""

import os
import re
import signal
import time

import conftest
import psutil
import pytest
from test_cost import usage
from test_doctor import NO_CGROUPS, WITH_MOUNTS
from test_limits_and_death import is_well

MIB = 1 << 20
# As root without a user namespace: what husk does with root is to be tested, too.
WITHIN = [*(["unshare", "-m", "sh", "-c"] if os.geteuid() == 0 else WITH_MOUNTS), NO_CGROUPS, "sh"]
CHILD = "import subprocess, sys\n" \
        "def child(code): return subprocess.Popen([sys.executable, '-S', '-c', code])\n"
HOLD = "block = b'x' * (%d << 20); import time; time.sleep(60)"


@pytest.fixture
def make(make_kernel):
    return lambda *options: make_kernel("--memory", "300m", *options, within=WITHIN)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    k = conftest.Kernel(tmp_path_factory.mktemp("sampled"), "--memory", "300m", within=WITHIN)
    conftest.refuse_what_is_shared(k)
    yield k
    k.stop()


def struck(text):
    """The peak in MiB that a cause names."""
    said = re.search(r"the memory limit of 300 MiB was reached \(peak (\S+) MiB; option --memory\)", text)
    assert said, text
    return float(said[1])


def test_it_is_told(shared):
    info = shared.control("kernel_info_request")["content"]
    assert info["husk"]["memory_limit"] == "sampled"
    assert "memory 300 MiB (sampled, and of each process: no cgroup may be made here)" in info["banner"]
    result = shared.control("sandbox_request", {"method": "sandbox.info", "params": {}})["content"]["result"]
    assert result["memory_limit"] == "sampled"


def test_an_enforced_one_is_told_too(kernel):
    info = kernel.control("kernel_info_request")["content"]
    assert info["husk"]["memory_limit"] == ("enforced" if "enforced by cgroup" in info["banner"] else "sampled")


def test_children_over_it_together_lose_the_largest_of_them(make):
    """Not the interpreter: no child is as large as that is, and together they are more."""
    kernel = make()
    code = CHILD + "before = b'x' * (110 << 20)\nall = [child(%r) for i in range(5)] + [child(%r)]\n" \
                   "all[-1].wait(); print([p.poll() for p in all])\n" \
                   "for p in all: p.kill(); p.wait()" % (HOLD % 25, HOLD % 90)
    result = kernel.run(code)
    assert result.stdout == f"{[None] * 5 + [-9]}\n"
    assert "[husk: the memory limit of 300 MiB was reached, and ended a process that is not the interpreter (option --memory)]\n" in result.stderr
    assert kernel.run("len(before) >> 20").value == "110"


def test_an_interpreter_that_has_the_most_is_ended_and_the_cause_named(make):
    kernel = make()
    died = kernel.run("import mmap\nm = mmap.mmap(-1, 900 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1")
    assert died.ename == "InterpreterDied" and struck(died.evalue) > 300
    assert usage(died)["peak_memory_bytes"] > 300 * MIB
    # A later death by the same signal has another cause.
    assert "memory" not in kernel.run("import os; os.kill(os.getpid(), 9)").evalue
    assert is_well(kernel)


def test_what_lies_in_memory_counts(make):
    """But not twice where it is mapped as well."""
    kernel = make("--tmp-size", "200m")
    mapped = kernel.run("import mmap, time\nf = open('/dev/shm/f', 'w+b'); f.write(b'x' * (130 << 20)); f.flush()\n"
                        "m = mmap.mmap(f.fileno(), 0); s = sum(m[::4096]); time.sleep(1.5); s > 0")
    assert mapped.value == "True" and mapped.stderr == ""
    assert 150 * MIB < usage(mapped)["peak_memory_bytes"] < 300 * MIB
    died = kernel.run("b = b'x' * (220 << 20); time.sleep(60)")
    assert died.ename == "InterpreterDied" and struck(died.evalue) > 300


def test_what_is_shared_counts_once_and_files_do_not(make):
    """Fifteen times 60 MiB, and a file as large as the limit."""
    kernel = make()
    result = kernel.run("""
import mmap, os, signal, time
block = b'x' * (60 << 20)
f = open('file', 'w+b'); f.truncate(300 << 20)
m = mmap.mmap(f.fileno(), 0); sum(m[::4096])
pids = []
for i in range(15):
    pids.append(os.fork())
    if pids[-1] == 0: signal.pause(); os._exit(0)
time.sleep(2)
for p in pids: os.kill(p, 15)
sorted({os.waitpid(p, 0)[1] for p in pids})""")
    assert result.value == "[15]" and result.stderr == ""
    assert 60 * MIB < usage(result)["peak_memory_bytes"]
    assert is_well(kernel)


def test_far_over_it_everything_ends(make):
    """Nobody looks while it grows."""
    kernel = make()
    [broker] = [p.pid for p in psutil.Process(kernel.pid).children(recursive=True) if p.name() == "husk-sandbox"]
    os.kill(broker, signal.SIGSTOP)
    sent = kernel.send("import mmap, os, signal\nfor i in range(3):\n    if os.fork() == 0: signal.pause()\n"
                       "m = mmap.mmap(-1, 800 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1\n"
                       "open('filled', 'w').close()\nsignal.pause()")
    end = time.monotonic() + conftest.TIMEOUT
    while not (kernel.cwd / "filled").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(broker, signal.SIGCONT)
    died = kernel.result(sent)
    assert died.ename == "InterpreterDied" and struck(died.evalue) > 706
    reply = kernel.control("sandbox_request", {"method": "sandbox.usage", "params": {}})
    assert reply["content"]["result"]["peak_memory_bytes"] > 706 * MIB
    assert is_well(kernel)


def test_a_command_that_it_ended_says_so(make):
    kernel = make()
    code = "import mmap; m = mmap.mmap(-1, 900 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1"
    reply = kernel.control("sandbox_request", {"method": "exec.run", "params": {"cmd": [conftest.PYTHON, "-S", "-c", code]}})
    result = reply["content"]["result"]
    assert result["signal"] == 9 and result["oom"] is True
    assert kernel.run("6 * 7").value == "42"
