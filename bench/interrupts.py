# SPDX-License-Identifier: BSD-3-Clause
"""How long it takes from interrupt_request until the reply of the cell, whatever that waits for. Part of bench.py."""

import time

ROUNDS = 15
PATIENCE = 3000  # milliseconds; who takes longer has not heard
SETTLE = 0.15  # seconds until the cell waits

CELLS = {
    "a loop": "while True: pass",
    "time.sleep": "import time; time.sleep(60)",
    "a lock": "import threading; l = threading.Lock(); l.acquire(); l.acquire()",
    "queue.get": "import queue; queue.Queue().get()",
    "socket.recv": "import socket; a, b = socket.socketpair(); a.recv(1)",
    "subprocess.run": "import subprocess; subprocess.run(['sleep', '60'])",
    "os.system": "import os\nif os.system('sleep 60'): raise KeyboardInterrupt",
    "input()": "input()",
    "await asyncio.sleep": "import asyncio; await asyncio.sleep(60)",
    "a task group": "import asyncio\nasync with asyncio.TaskGroup() as g:\n    g.create_task(asyncio.sleep(60))",
    "a silent server": "import socket, urllib.request\ns = socket.create_server(('127.0.0.1', 0))\n"
        "urllib.request.urlopen('http://127.0.0.1:%d' % s.getsockname()[1])",
}


def interrupted(kernel, code):
    """Milliseconds, or None."""
    cell = kernel.send("execute_request", {"code": code, "silent": False, "store_history": False,
                                           "user_expressions": {}, "allow_stdin": True})
    time.sleep(SETTLE)
    begin = time.perf_counter()
    asked = kernel.send("interrupt_request", {}, "control")
    if not kernel.sockets["shell"].poll(PATIENCE):
        return None
    took = (time.perf_counter() - begin) * 1e3
    frames = kernel.sockets["shell"].recv_multipart()
    assert cell in frames[frames.index(b"<IDS|MSG>") + 3] and b'"error"' in frames[-1], frames
    kernel.wait(asked, "control", iopub=False)
    while kernel.sockets["iopub"].poll(0):
        kernel.sockets["iopub"].recv_multipart()
    return took


def interrupts(report, commands, directory, Kernel):
    """`commands`: {name: argv}. A peer that sends interrupts as signals takes the request, too."""
    kernels = {name: Kernel(argv, directory).ready() for name, argv in commands.items()}
    for what, code in CELLS.items():
        found = {name: [] for name in kernels}
        for _ in range(ROUNDS):
            for name in [n for n in kernels if "none" not in found[n]]:
                found[name].append(interrupted(kernels[name], code) or "none")
                if found[name][-1] == "none":
                    kernels[name].close()
                    kernels[name] = Kernel(commands[name], directory).ready()
        report.add("interrupts", f"{what}, until the reply, ms", found)
    for kernel in kernels.values():
        kernel.close()
