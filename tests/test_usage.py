# SPDX-License-Identifier: BSD-3-Clause
"""What a kernel says about itself: what it takes of the machine, and how to connect to it."""

import json
import os
import socket
import time

import psutil
import pytest


def usage(kernel):
    content = dict(kernel.control("usage_request")["content"])
    assert content.pop("status") == "ok"
    return content


def test_usage_has_the_form_that_clients_know(kernel):
    """jupyter-resource-usage reads it; the fields are ipykernel's."""
    usage(kernel)
    found = usage(kernel)
    assert set(found) == {"hostname", "pid", "kernel_cpu", "kernel_memory", "cpu_count", "host_cpu_percent",
                          "host_virtual_memory", "husk"}
    assert found["hostname"] == socket.gethostname() and found["pid"] == kernel.pid
    assert found["cpu_count"] == psutil.cpu_count()
    memory = found["host_virtual_memory"]
    assert set(psutil.virtual_memory()._fields) <= set(memory) | {"slab"}
    assert memory["total"] == psutil.virtual_memory().total and 0 < memory["percent"] < 100
    assert 0 <= found["host_cpu_percent"] <= 100


def test_usage_counts_what_runs_in_the_sandbox_and_its_children(kernel):
    before = usage(kernel)["kernel_memory"]
    kernel.run("held = bytearray(b'x') * (200 << 20)")
    with_memory = usage(kernel)["kernel_memory"]
    assert 190 << 20 < with_memory - before < 300 << 20
    kernel.run("import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', "
               "'x = bytearray(b\"x\") * (100 << 20); print(1, flush=True); import time; time.sleep(60)'], "
               "stdout=subprocess.PIPE)\nchild.stdout.readline(); None")
    assert usage(kernel)["kernel_memory"] - with_memory > 90 << 20
    kernel.run("del held; child.kill(); child.wait()")
    assert usage(kernel)["kernel_memory"] - before < 90 << 20


def test_usage_counts_time_also_of_processes_that_have_ended(kernel):
    usage(kernel)
    idle = usage(kernel)
    started = time.monotonic()
    kernel.run("import subprocess, sys\nsubprocess.run([sys.executable, '-c', "
               "'import time\\nwhile time.process_time() < 1: pass'])")
    busy = usage(kernel)["kernel_cpu"]
    assert 0.7 * 100 / (time.monotonic() - started) < busy < 100 * os.cpu_count() + 10
    assert idle["kernel_cpu"] >= 0


def test_usage_is_told_while_a_cell_holds_everything(kernel):
    msg_id = kernel.send("import ctypes; ctypes.PyDLL(None).sleep(2)")
    time.sleep(0.3)
    assert usage(kernel)["kernel_memory"] > 1 << 20
    assert kernel.result(msg_id).status == "ok"


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_connect_info_shows_all_but_the_key(make_kernel, transport):
    kernel = make_kernel(transport=transport)
    result = kernel.run("print('before')\n%connect_info\nprint('after')")
    assert result.stdout.startswith("before\n{") and result.stdout.endswith("after\n")
    shown, end = json.JSONDecoder().raw_decode(result.stdout, len("before\n"))
    with open(kernel.manager.connection_file) as file:
        real = json.load(file)
    wanted = ("transport", "ip", "signature_scheme", *(f"{c}_port" for c in ("shell", "iopub", "stdin", "control", "hb")))
    assert shown == {name: real[name] for name in wanted}
    assert f"--existing {kernel.manager.connection_file}" in result.stdout[end:]
    assert real["key"] not in json.dumps([m["content"] for m in result.messages])


def test_nothing_of_it_comes_inside(kernel):
    """A cell that captures its output has nothing: it was never there."""
    assert kernel.run("%%capture out\n%connect_info").status == "ok"
    assert kernel.run("out.stdout").value == "''"
