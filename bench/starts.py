# SPDX-License-Identifier: BSD-3-Clause
"""How long it takes until there is a first result: warm, cold, and beside the peers. Part of bench.py.

Rounds of all in turn, in an order that rotates, so that what the machine does meanwhile meets all alike. The
median is what a user of this machine sees today; processor time is of the whole start, one cell and the end, of all
processes, and hardly knows what else runs.
"""

import os
import subprocess
import sys
import time



def rounds(acts, n):
    """{name: [what act() returned, ...]}"""
    names, found = list(acts), {name: [] for name in acts}
    for i in range(n):
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


def starts(report, husks, peers, directory, Kernel, n):
    """`husks`: {name: program}, `peers`: {name: argv}; n rounds."""
    python = ["--python", sys.executable]
    commands, whole_commands = {}, {}
    for name, husk in husks.items():
        for profile in ("notebook", "strict"):
            made = subprocess.run([husk, "warm", *python, "--profile", profile], capture_output=True, text=True)
            if made.returncode:
                print(f"{name} warm, {profile}: {made.stderr.strip()}", file=sys.stderr)
        kernel, run = [husk, "kernel", *python, "-f", "{connection_file}"], [husk, "run", *python]
        commands.update({name: kernel, f"{name}, cold": [*kernel, "--start", "cold"]})
        whole_commands.update({name: [*run, "-c", "print(1)"], f"{name}, cold": [*run, "--start", "cold", "-c", "print(1)"]})
    commands.update(peers)
    whole_commands["python -c 'import IPython'"] = [sys.executable, "-c", "import IPython"]
    whole_commands["python -c 'print(1)'"] = [sys.executable, "-c", "print(1)"]
    found = rounds({name: lambda argv=argv: first_result(lambda: Kernel(argv, directory)) for name, argv in commands.items()}, n)
    for i, what in enumerate(("spawn to kernel_info, ms", "spawn to first result, ms", "processor: start, one cell, end, ms")):
        report.add("starts", what, {name: [v[i] for v in values] for name, values in found.items()})
    found = rounds({name: lambda argv=argv: whole(argv) for name, argv in whole_commands.items()}, n)
    for i, what in enumerate(("husk run -c 'print(1)', whole process, ms", "husk run -c 'print(1)', processor, ms")):
        report.add("one command", what, {name: [v[i] for v in values] for name, values in found.items()})
