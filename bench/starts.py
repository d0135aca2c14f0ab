# SPDX-License-Identifier: BSD-3-Clause
"""How long it takes until there is a first result: warm, cold, and beside the peers. Part of bench.py.

Rounds of all in turn, in an order that rotates, so that what the machine does meanwhile meets all alike. The
least of the times is what the work takes, the median what a user of this machine sees today; processor time is of
the whole start, one cell and the end, of all processes, and hardly knows what else runs.
"""

import os
import statistics
import subprocess
import sys
import time

ROUNDS = 12


def rounds(acts):
    """{name: [what act() returned, ...]}"""
    names, found = list(acts), {name: [] for name in acts}
    for i in range(ROUNDS):
        for name in names[i % len(names):] + names[:i % len(names)]:
            found[name].append(acts[name]())
    return found


def first_result(make):
    """Milliseconds until kernel_info, until the first result, and of the processor."""
    begin = time.perf_counter()
    kernel = make().ready()
    there = time.perf_counter()
    kernel.run("1 + 1")
    done = time.perf_counter()
    for socket in kernel.sockets.values():
        socket.close()
    kernel.process.terminate()
    _, _, used = os.wait4(kernel.process.pid, 0)
    kernel.process.returncode = 0
    return (there - begin) * 1e3, (done - begin) * 1e3, (used.ru_utime + used.ru_stime) * 1e3


def whole(argv):
    begin = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return (time.perf_counter() - begin) * 1e3, (used.ru_utime + used.ru_stime) * 1e3


def line(name, values):
    return f"{name:46}{min(values):10.1f}{statistics.median(values):10.1f}"


def starts(husk, peers, directory, Kernel):
    """Prints two tables. `peers`: {name: argv}."""
    python = ["--python", sys.executable]
    for profile in ("notebook", "strict"):
        made = subprocess.run([husk, "warm", *python, "--profile", profile], capture_output=True, text=True)
        print(f"husk warm, {profile}: {(made.stdout or made.stderr).strip()}")
    kernel = [husk, "kernel", *python, "-f", "{connection_file}"]
    commands = {"husk, warm": kernel, "husk, cold": [*kernel, "--start", "cold"], **peers}
    found = rounds({name: lambda argv=argv: first_result(lambda: Kernel(argv, directory)) for name, argv in commands.items()})
    for i, what in enumerate(("spawn to kernel_info, ms", "spawn to first result, ms", "processor, with the end, ms")):
        print(f"{what:46}{'least':>10}{'median':>10}")
        for name, values in found.items():
            print(line(f"  {name}", [v[i] for v in values]))
    run = [husk, "run", *python]
    found = rounds({
        "husk run -c 'print(1)', warm": lambda: whole([*run, "-c", "print(1)"]),
        "husk run -c 'print(1)', cold": lambda: whole([*run, "--start", "cold", "-c", "print(1)"]),
        "python -c 'import IPython'": lambda: whole([sys.executable, "-c", "import IPython"]),
        "python -c 'print(1)'": lambda: whole([sys.executable, "-c", "print(1)"]),
    })
    for i, what in enumerate(("whole process, ms", "processor, ms")):
        print(f"{what:46}{'least':>10}{'median':>10}")
        for name, values in found.items():
            print(line(f"  {name}", [v[i] for v in values]))
