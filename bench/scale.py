#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How many kernels live on this machine, and what each further one costs.

    scale.py HUSK [--kernels 500] [--step 50] [--starts 60] [--at-once 200] [--results DIRECTORY]

Starts kernels until there are so many, and each runs a cell. After each step: the memory that is gone from the machine for each
kernel so far, processes, and the round trip of a cell in the oldest and in the newest one. Then all are asked once more, and
ended. Before, one start after the other for so many seconds: starts a minute, with a first result and the end of each; and
so many at once, until the last one has answered.
Stops by itself, and says so, where less than a tenth of the machine's memory is left.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from bench import Kernel
from report import machine

CELL = 'x = 1'


def free_mb():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def processes():
    return sum(name.isdigit() for name in os.listdir("/proc"))


def round_trip(kernel, n=20):
    times = []
    for _ in range(n):
        begin = time.perf_counter()
        kernel.run(CELL)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def starts_a_minute(make, seconds):
    begin, n = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        kernel = make().ready()
        kernel.run(CELL)
        kernel.close()
        n += 1
    return n / (time.perf_counter() - begin) * 60


def at_once(make, n):
    """Seconds until all have answered a cell, and what became of those that have not: jupyter_client lets go of the
    ports that it chose until the kernel binds them, and meanwhile another one may have taken one."""
    begin, kernels, lost = time.perf_counter(), [], []
    try:
        kernels = [make() for _ in range(n)]
        for kernel in kernels:
            try:
                kernel.ready().run(CELL)
            except TimeoutError as error:
                lost.append(str(error))
        return time.perf_counter() - begin, lost
    finally:
        end(kernels)


def end(kernels):
    for kernel in kernels:
        kernel.process.terminate()
    for kernel in kernels:
        kernel.close()


def grow(make, a, kernels, rows):
    free, tasks, least = free_mb(), processes(), free_mb() / 10
    while len(kernels) < a.kernels and free_mb() > least:
        begin, n = time.perf_counter(), min(a.step, a.kernels - len(kernels))
        for _ in range(n):
            kernels.append(make().ready())
            kernels[-1].run(CELL)
        took = (time.perf_counter() - begin) / n * 1e3
        rows.append({"kernels": len(kernels), "start, ms": took, "memory each, MB": (free - free_mb()) / len(kernels),
                     "processes each": (processes() - tasks) / len(kernels), "x = 1, the oldest, ms": round_trip(kernels[0]),
                     "x = 1, the newest, ms": round_trip(kernels[-1])})
        print("  ".join(f"{k}: {v:.4g}" for k, v in rows[-1].items()), flush=True)
    if len(kernels) < a.kernels:
        print(f"stopped at {len(kernels)}: a tenth of the memory is left")


def draw(rows, path):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = [n for n in rows[0] if n != "kernels"]
    plot, axes = pyplot.subplots(len(names), 1, sharex=True, figsize=(7, 1.7 * len(names)), layout="constrained")
    for axis, name in zip(axes, names):
        axis.plot([r["kernels"] for r in rows], [r[name] for r in rows], marker=".", color="#d1663a")
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("kernels that live")
    plot.savefig(path, metadata={"Date": None})


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("husk")
    p.add_argument("--kernels", type=int, default=500)
    p.add_argument("--step", type=int, default=50)
    p.add_argument("--starts", type=int, default=60, metavar="SECONDS")
    p.add_argument("--at-once", type=int, default=200)
    p.add_argument("--results", default="scale-results")
    a = p.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    import zmq

    zmq.Context.instance().set(zmq.MAX_SOCKETS, 65535)
    subprocess.run([a.husk, "warm", "--python", sys.executable], check=True)
    kernels, rows, found = [], [], {"machine": machine()}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = pathlib.Path(name)

        def make():
            return Kernel([a.husk, "kernel", "--python", sys.executable, "-f", "{connection_file}"], directory)

        try:
            found["starts a minute"] = starts_a_minute(make, a.starts) if a.starts else None
            print(f"starts a minute, one after the other: {found['starts a minute'] or 0:.0f}", flush=True)
            if a.at_once:
                seconds, lost = at_once(make, a.at_once)
                found["starts at once"] = {"kernels": a.at_once, "seconds": seconds, "lost": lost}
                print(f"{a.at_once} starts at once: {seconds:.1f} s, {len(lost)} lost", *lost, sep="\n  ", flush=True)
            grow(make, a, kernels, rows)
            begin = time.perf_counter()
            for kernel in kernels:
                kernel.run(CELL)
            print(f"a cell in each of {len(kernels)}: {(time.perf_counter() - begin) * 1e3:.0f} ms")
        finally:
            end(kernels)
    where = pathlib.Path(a.results)
    where.mkdir(parents=True, exist_ok=True)
    (where / "scale.json").write_text(json.dumps({**found, "rows": rows}, indent=1) + "\n")
    try:
        draw(rows, where / "scale.svg")
    except ImportError:
        print("no plot: this Python has no matplotlib")


if __name__ == "__main__":
    main()
