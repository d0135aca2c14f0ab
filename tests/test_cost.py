# SPDX-License-Identifier: BSD-3-Clause
"""What a cell took, the CPU limit, and kernels that end by the clock."""

import time

import conftest
import pytest
from test_profiles import start_fails

BURN = "import time\nend = time.process_time() + %s\nwhile time.process_time() < end: pass"


def usage(result):
    return result.message["metadata"]["usage"]


def test_a_reply_says_what_its_cell_took(kernel):
    kernel.run("import time")
    slept = usage(kernel.run("time.sleep(0.3)"))
    assert slept["wall_ms"] >= 300 and slept["cpu_ms"] < slept["wall_ms"]
    burnt = usage(kernel.run(BURN % 0.3))
    assert burnt["cpu_ms"] >= 300 and burnt["throttled_ms"] == 0
    assert set(burnt) == {"wall_ms", "cpu_ms", "throttled_ms", "peak_memory_bytes"}


def test_children_that_have_ended_count(kernel):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', %r]) and None"
    assert usage(kernel.run(code % (BURN % 0.3)))["cpu_ms"] >= 300


def test_the_peak_of_memory_is_seen(kernel):
    assert usage(kernel.run("block = bytearray(300 << 20); del block"))["peak_memory_bytes"] >= 300 << 20


def test_a_cell_that_fails_or_dies_has_its_cost_too(kernel):
    assert usage(kernel.run(BURN % 0.1 + "\n1 / 0"))["cpu_ms"] >= 100
    died = kernel.run("import os, time; time.sleep(0.2); os._exit(1)")
    assert died.ename == "InterpreterDied" and usage(died)["wall_ms"] >= 200


def test_what_runs_no_cell_has_no_cost(kernel):
    kernel.client.kernel_info()
    assert "usage" not in kernel.client.get_shell_msg(timeout=conftest.TIMEOUT)["metadata"]


def test_an_interpreter_that_lies_about_its_cost_breaks_nothing(kernel):
    for lie in ("{'cpu_us': 'x'}", "{'cpu_us': -5}", "{'cpu_us': 1e400, 'peak': []}", "{'cpu_us': 10**30}", "{}"):
        result = kernel.run(f"import _husk; honest = _husk.used; _husk.used = lambda: {lie}")
        assert result.status == "ok" and usage(result)["wall_ms"] > 0
    kernel.run("_husk.used = honest")


def test_cpus_are_limited_and_waiting_for_them_is_said_or_the_start_is_refused(make_kernel, tmp_path):
    try:
        kernel = make_kernel("--cpus", "0.2")
    except RuntimeError:  # it died: here no cgroup with a CPU controller may be made
        assert "systemd-run" in start_fails(tmp_path, "--cpus", "0.2")
        return
    used = usage(kernel.run(BURN % 0.5))
    assert used["throttled_ms"] > 0 and used["wall_ms"] > used["cpu_ms"] * 2
    assert "0.2 CPUs" in info(kernel)["banner"]


def info(kernel):
    msg_id = kernel.client.kernel_info()
    while True:
        reply = kernel.client.get_shell_msg(timeout=conftest.TIMEOUT)
        if reply["parent_header"]["msg_id"] == msg_id:
            return reply["content"]


@pytest.mark.parametrize("value", ["0", "-1", "x", "1e3", "0.001", "", "nan", "0x2"])
def test_a_number_of_cpus_that_is_none_is_refused(tmp_path, value):
    assert "--cpus" in start_fails(tmp_path, f"--cpus={value}")


def ended(kernel):
    return kernel.manager.provisioner.process.wait(conftest.TIMEOUT)


def test_an_idle_kernel_ends(make_kernel):
    kernel = make_kernel("--idle-timeout", "1")
    assert ended(kernel) == 0
    assert "nothing was asked for 1 s" in kernel.log.read_text()


def test_a_kernel_that_works_is_not_idle(make_kernel):
    kernel = make_kernel("--idle-timeout", "1")
    assert kernel.run("import time; time.sleep(2.5); 5").value == "5"
    for _ in range(6):
        time.sleep(0.4)
        assert kernel.run("1").value == "1"
    assert ended(kernel) == 0


def test_the_life_of_a_kernel_ends_and_the_running_cell_is_answered(make_kernel):
    kernel = make_kernel("--lifetime", "2")
    result = kernel.run("import time; time.sleep(1000)")
    assert result.status == "error" and result.ename in ("ShuttingDown", "KeyboardInterrupt")
    assert ended(kernel) == 0
    assert "lifetime of 2 s" in kernel.log.read_text()
