# SPDX-License-Identifier: BSD-3-Clause
"""Limits where systemd has the cgroups, as on most desktops: each sandbox in a scope of its own. ./check-vm runs
these in a machine that systemd booted; there is nothing of it in a container."""

import os
import pathlib
import re
import subprocess

import conftest
from test_limits_and_death import broker_of, wait_until

ROOT = pathlib.Path("/sys/fs/cgroup")
WHOSE = () if os.geteuid() == 0 else ("--user",)


def scopes():
    return sorted(path for path, _, _ in os.walk(ROOT) if re.fullmatch(r"husk-\d+-.*\.scope", os.path.basename(path)))


def group_of(pid):
    return pathlib.Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")


def doctor(command=(), env=None):
    told = subprocess.run([*command, conftest.HUSK, "doctor"], capture_output=True, text=True,
                          env={**os.environ, **(env or {})})
    return told.stdout.split("limits", 1)[1].split("\n")[0]


def test_a_sandbox_has_a_scope_and_a_group_with_its_limits(make_kernel):
    kernel = make_kernel("--memory", "300m", "--pids", "77", "--cpus", "0.5")
    kernel.run("1")  # a kernel answers before its sandbox stands
    broker = broker_of(kernel)
    scope = ROOT / group_of(broker).lstrip("/")
    assert scope.name == "husk-leaf" and scope.parent.name.startswith(f"husk-{broker}-")
    (group,) = [p for p in scope.parent.iterdir() if p.is_dir() and p != scope]
    assert (group / "memory.max").read_text().strip() == str(300 << 20)
    assert (group / "pids.max").read_text().strip() == "77"
    assert (group / "cpu.max").read_text().split() == ["50000", "100000"]
    assert group_of(kernel.pid) == group_of(os.getpid()), "the kernel itself stays where it was"
    kernel.manager.shutdown_kernel(now=True)
    assert wait_until(lambda: not scope.parent.exists())


def test_memory_is_limited_for_all_together_and_the_death_is_named(make_kernel):
    kernel = make_kernel("--memory", "300m")
    code = ("import subprocess, sys\nhold = 'x = bytearray(120 << 20); input()'\n"
            "all = [subprocess.Popen([sys.executable, '-c', hold], stdin=subprocess.PIPE) for _ in range(4)]\n"
            "import time\nend = time.time() + 60\n"
            "while all[0].poll() == all[1].poll() == all[2].poll() == all[3].poll() == None and time.time() < end: time.sleep(0.1)\n"
            "sorted({p.poll() for p in all if p.poll() is not None})")
    assert kernel.run(code).value == "[-9]"
    died = kernel.run("x = bytearray(400 << 20)")
    assert "the memory limit of 300 MiB was reached (peak 300 MiB; option --memory)" in died.evalue
    assert kernel.run("6 * 7").value == "42"


def test_the_wait_for_a_processor_is_said(make_kernel):
    kernel = make_kernel("--cpus", "0.5")
    used = kernel.run("import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass").message["metadata"]["usage"]
    assert used["throttled_ms"] > 0


def test_a_broker_that_was_killed_leaves_no_scope(make_kernel):
    before = scopes()
    kernel = make_kernel()
    kernel.run("1")
    broker = broker_of(kernel)
    assert len(scopes()) == len(before) + 1
    os.kill(broker, 9)
    assert wait_until(lambda: not any(f"husk-{broker}-" in s for s in scopes()))


def test_in_a_scope_that_was_delegated(make_kernel):
    within = ["systemd-run", *WHOSE, "--scope", "--quiet", "-p", "Delegate=yes"]
    kernel = make_kernel("--memory", "300m", within=within)
    assert "memory limit of 300 MiB" in kernel.run("x = bytearray(400 << 20)").evalue


def test_doctor_says_it():
    assert "cgroup v2" in doctor()


def test_without_a_way_to_systemd_memory_is_sampled_and_why_is_said():
    nowhere = {"XDG_RUNTIME_DIR": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere/bus",
               "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere/bus"}
    told = doctor(env=nowhere)
    assert "sampled: no cgroup may be made here" in told and "no way to the" in told and "systemd" in told
