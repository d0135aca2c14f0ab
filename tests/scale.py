#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""One husk serve with many kernels and many WebSockets: what they hold, and how soon it answers meanwhile.

usage: scale.py PREFIX [KERNELS [WEBSOCKETS]]          (200 and 1000, if nothing else is said)

Every kernel runs a cell, and every WebSocket hears the cells of its kernel. Then, while ten kernels run twenty cells a second each, a
request on control is asked of one kernel after the other; last, all of it ends with the server. What is too much is said at
the end; of a machine that does something else, the times say nothing.
"""

import json
import multiprocessing
import os
import pathlib
import re
import statistics
import sys
import time

REQUESTS = 2000
BUSY = 10  # kernels that run cells meanwhile
EVERY = 0.05  # seconds: one each
LIMITS = {"control p99 ms": 5, "server MB": 10, "kB a connection": 100, "all of it, GB": 24, "left": 0}


def pss_kb(pid):
    try:
        return int(re.search(r"^Pss:\s+(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])
    except (OSError, TypeError):
        return 0


def descendants(pid):
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        for task in pathlib.Path(f"/proc/{one}/task").glob("*/children"):
            try:
                todo += map(int, task.read_text().split())
            except OSError:
                pass
    return found


def cpu_us(pid):
    fields = pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(fields[0]) / 1000


def keep_busy(sockets):
    """In a process of its own: threads would wait for each other here."""
    while True:
        for c in sockets:
            c.run("x = 1")
        time.sleep(EVERY)


def control_times(sockets):
    times = []
    for i in range(REQUESTS):
        c = sockets[i % len(sockets)]
        began = time.perf_counter()
        c.ask("kernel_info_request", {}, "control")
        times.append(1000 * (time.perf_counter() - began))
    return times


def measure(server, kernels, websockets):
    rows = {"server MB": pss_kb(server.pid) / 1024}
    began = time.monotonic()
    ids = [server.start() for _ in range(kernels)]
    rows["s to start the kernels"] = time.monotonic() - began
    before = pss_kb(server.pid)
    sockets = [server.connect(ids[i % kernels]) for i in range(websockets)]
    rows["kB a connection"] = (pss_kb(server.pid) - before) / websockets
    for c in sockets[:kernels]:
        assert c.run("print('x' * 1000)").stdout == "x" * 1000 + "\n"
    rows["kB a connection, after a cell of each kernel"] = (pss_kb(server.pid) - before) / websockets
    assert server.get("/api/status").json()["connections"] == websockets
    rows["all of it, GB"] = sum(map(pss_kb, descendants(server.pid))) / (1 << 20)
    for what, busy in (("control ms, idle", 0), ("control ms", BUSY)):
        others = multiprocessing.get_context("fork").Process(target=keep_busy, args=(sockets[kernels:kernels + busy],))
        others.start()
        cpu = cpu_us(server.pid)
        times = sorted(control_times(sockets[busy:kernels]))
        cpu = cpu_us(server.pid) - cpu
        others.kill()
        others.join()
        rows[what.replace("ms", "p50 ms")] = statistics.median(times)
        rows[what.replace("ms", "us of the server's processor")] = cpu / len(times)
        rows[what.replace("ms", "p99 ms")] = times[int(0.99 * len(times))]
    everything = descendants(server.pid)
    server.stop()
    rows["left"] = sum(pathlib.Path(f"/proc/{p}").exists() for p in everything)
    return rows


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    os.environ["HUSK_PREFIX"] = sys.argv[1]
    from serving import Server

    kernels, websockets = [int(n) for n in (sys.argv[2:] + ["200", "1000"][len(sys.argv) - 2:])]
    server = Server()
    try:
        rows = measure(server, kernels, websockets)
    finally:
        server.stop()
    print(json.dumps({"kernels": kernels, "WebSockets": websockets, **{k: round(v, 2) for k, v in rows.items()}}, indent=1))
    wrong = [f"{what}: {rows[what]:.2f}, at most {most}" for what, most in LIMITS.items() if rows[what] > most]
    sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
