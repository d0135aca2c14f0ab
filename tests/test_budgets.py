# SPDX-License-Identifier: BSD-3-Clause
"""What the hot path costs, counted in instructions: that depends on no clock, and hardly on the machine.

The supervisor runs below valgrind, which counts; what it starts does not. A budget is about half as much again as was counted
with gcc 12 -O2 on Debian 12: another patch level fits in, one more parse or copy of each message does not.
"""

import re
import time

import pytest
from conftest import TIMEOUT, Kernel

CELLS = (20, 220)
LEFT_OUT = ("*/husk", "*/husk-sandbox", "*/python*")  # of what is executed: husk becomes husk-kernel, which counts

# Instructions of one call, with all that it calls, libcrypto's too.
CALLS = {
    "frame_parse": 210,
    "json_check_object": 1150,
    "wire_header": 1800,
    "wire_open": 35_000,
    "wire_sign": 31_000,
}
CELL = 64_000  # of husk's own code for `x=1`, from the request to idle
CELL_ALL = 340_000  # with libzmq, libcrypto and libc


def start(directory, counts):
    directory.mkdir()
    return Kernel(directory, within=[
        "valgrind", "--tool=callgrind", "--trace-children=yes", f"--trace-children-skip={','.join(LEFT_OUT)}",
        f"--callgrind-out-file={counts}", "--"])


def end(kernel):
    kernel.control("shutdown_request", {"restart": False})
    limit = time.monotonic() + TIMEOUT
    while kernel.manager.provisioner.process.poll() is None:
        assert time.monotonic() < limit, "it does not end"
        time.sleep(0.05)
    kernel.stop()


NAME = re.compile(r"(c?)(fn|ob)=\((\d+)\)(?: (.*))?")


def read_counts(path):
    """{function: [calls, instructions of them]}, {object: instructions}: the format is callgrind's manual's, chapter 3."""
    names, calls, objects = {}, {}, {}
    callee = inside = None
    next_is_call = 0
    for line in path.read_text().splitlines():
        if found := NAME.match(line):
            called, kind, number, name = found.groups()
            name = names.setdefault((kind, number), name).removesuffix("'2")
            if called and kind == "fn":
                callee = calls.setdefault(name, [0, 0])
            elif kind == "ob" and not called:
                inside = name
        elif line.startswith("calls="):
            next_is_call = int(line[6:].split()[0])
        elif line[:1] in "+-*0123456789" and line.strip():
            cost = int(line.split()[-1])
            if next_is_call:
                callee[0] += next_is_call
                callee[1] += cost
            else:
                objects[inside] = objects.get(inside, 0) + cost
            next_is_call = 0
    return calls, objects


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Two kernels that differ in the number of their cells."""
    found = []
    for cells in CELLS:
        directory = tmp_path_factory.mktemp("counted")
        kernel = start(directory / "kernel", directory / "counts")
        for _ in range(cells):
            assert kernel.run("x=1").status == "ok"
        end(kernel)
        found.append(read_counts(directory / "counts"))
    return found


@pytest.mark.parametrize("name", CALLS)
def test_instructions_of_a_call(counted, name):
    calls, cost = counted[-1][0][name]
    assert calls >= CELLS[-1]
    assert cost / calls <= CALLS[name]


def test_instructions_of_a_cell(counted):
    few, many = (objects for _, objects in counted)
    (husk,) = (name for name in many if name.endswith("/husk-kernel"))
    assert (many[husk] - few[husk]) / (CELLS[1] - CELLS[0]) <= CELL
    assert (sum(many.values()) - sum(few.values())) / (CELLS[1] - CELLS[0]) <= CELL_ALL
