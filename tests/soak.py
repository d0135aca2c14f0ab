#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A kernel under four honest and four hostile clients for a long time.

usage: soak.py PREFIX [REQUESTS] [SEED]

100,000 requests if nothing else is said, in rounds. Within a round all clients ask at the same time, what
a table lists; hostile ones also interrupt, kill the interpreter, forge, and send what is no message. After a
round everything must be settled: each request that was accepted has one reply and one idle, and busy came
(again, for a cell that went on while something else was answered); and husk holds as many descriptors, threads and processes, and about as much memory, as after
the first rounds. Every few rounds the kernel is restarted as Jupyter's button does.
"""

import os
import pathlib
import random
import subprocess
import sys
import threading
import time

import psutil
import test_wire_level
import zmq

ROUND = 2500  # requests
SETTLE = 60  # seconds: so long a round may take to end after the last request
AT_A_TIME = 6  # requests of one client that wait
RESTART_EVERY = 4  # rounds
GROWTH = 24 << 20  # bytes of memory that husk may hold more at the end than after the second round


def execute(code, **options):
    return "shell", "execute_request", {"code": code, "allow_stdin": False, **options}


HONEST = [
    execute("x = 1"), execute("x + 1 if 'x' in dir() else 2"), execute("print('text')"), execute("1 / 0"),
    execute("print('t' * 1000)"), execute("1", silent=True), execute("1", store_history=False),
    execute("import asyncio; await asyncio.sleep(0.001)"), execute("display({'text/plain': 'd'}, raw=True)"),
    execute("import os; os.write(1, b'fd')"), execute("7", user_expressions={"a": "1", "b": "undefined"}),
    ("shell", "complete_request", {"code": "pri", "cursor_pos": 3}),
    ("shell", "inspect_request", {"code": "print", "cursor_pos": 5}),
    ("shell", "is_complete_request", {"code": "for x in y:"}),
    ("shell", "history_request", {"hist_access_type": "tail", "n": 3}),
    ("shell", "comm_info_request", {}), ("shell", "kernel_info_request", {}),
    ("control", "kernel_info_request", {}), ("control", "usage_request", {}), ("control", "list_subshell_request", {}),
]
HOSTILE = [
    execute("while True: pass"), execute("import time; time.sleep(60)"), execute("input('?')", allow_stdin=True),
    execute("import asyncio; await asyncio.sleep(60)"), execute("print('x' * 300000)"),
    execute("raise SystemExit(3)"), execute("import threading; threading.Thread(target=print, args=('late',)).start()"),
    execute("import subprocess; subprocess.Popen(['sleep', '100'])"), execute("open('/dev/null')"),
    execute("get_ipython().kernel.send_response(None, 'status', {})"), execute("class X:\n def __repr__(s): 1/0\nX()"),
    execute("\ud800"), execute("print('\\ud800')"), execute("("), execute(""),
    ("shell", "execute_request", {}), ("shell", "execute_request", {"code": 5}),
    ("shell", "complete_request", {"code": "x", "cursor_pos": 99}), ("shell", "inspect_request", {}),
    ("shell", "history_request", {"hist_access_type": 5}), ("control", "interrupt_request", {}),
    ("control", "interrupt_request", {}), ("control", "interrupt_request", {}), ("control", "create_subshell_request", {}),
    ("control", "delete_subshell_request", {"subshell_id": "nothing"}),
]
DEADLY = [execute("import os; os._exit(3)"), execute("import os; os.kill(os.getpid(), 9)"),
          execute("import ctypes; ctypes.string_at(0)")]


class Ledger:
    """What was asked and what came, of all clients: {msg_id: [replies, busies, idles]}."""

    def __init__(self):
        self.lock = threading.Lock()
        self.rows, self.kinds = {}, {}

    def asked(self, msg_id, kind):
        with self.lock:
            self.rows[msg_id] = [0, 0, 0]
            self.kinds[msg_id] = kind

    def count(self, msg_id, column):
        with self.lock:
            if msg_id in self.rows:
                self.rows[msg_id][column] += 1

    def wrong(self):
        with self.lock:
            return {i: (self.kinds[i], row) for i, row in self.rows.items()
                    if not (row[0] == row[2] == 1 and row[1] >= 1)}

    def clear(self):
        with self.lock:
            self.rows.clear()
            self.kinds.clear()


class Watcher(threading.Thread):
    """Reads iopub for everybody."""

    def __init__(self, wire, ledger):
        super().__init__(daemon=True)
        self.wire, self.ledger, self.leaving = wire, ledger, False
        self.start()

    def run(self):
        while not self.leaving:
            if not self.wire.iopub.poll(100):
                continue
            message = self.wire.parse(self.wire.iopub.recv_multipart())
            state = message["content"].get("execution_state") if message["msg_type"] == "status" else None
            if state in ("busy", "idle"):
                self.ledger.count(message["parent_header"].get("msg_id"), 1 + (state == "idle"))


class Client(threading.Thread):
    """Asks `count` requests of its table, and reads the replies."""

    def __init__(self, kernel, ledger, count, seed):
        super().__init__(daemon=True)
        self.kernel, self.ledger, self.left = kernel, ledger, count
        self.dice = random.Random(seed)
        self.open = set()
        self.error = None

    def run(self):
        self.wire = test_wire_level.Wire(self.kernel)
        try:
            self.wire.iopub.close(0)
            while self.left > 0 or self.open:
                if self.left > 0 and len(self.open) < AT_A_TIME:
                    self.left -= 1
                    self.ask(self.choose())
                self.read(0 if self.left > 0 and len(self.open) < AT_A_TIME else 50)
        except Exception as error:
            self.error = error
        finally:
            self.wire.close()

    def choose(self):
        return self.dice.choice(HONEST)

    def ask(self, request):
        channel, kind, content = request
        parts = self.wire.parts(kind, content)
        msg_id = test_wire_level.json.loads(parts[0])["msg_id"]
        self.ledger.asked(msg_id, f"{kind} {content}")
        self.open.add(msg_id)
        self.wire.send(channel, parts)
        return parts

    def read(self, wait):
        for channel in ("shell", "control"):
            while self.wire.socket[channel].poll(wait):
                wait = 0
                reply = self.wire.parse(self.wire.socket[channel].recv_multipart())
                msg_id = reply["parent_header"]["msg_id"]
                self.ledger.count(msg_id, 0)
                self.open.discard(msg_id)


class Hostile(Client):
    """Mostly what is not nice; sometimes what is deadly; and an interrupt whenever it waits for long."""

    def choose(self):
        number = self.dice.random()
        if number < 0.004:
            return self.dice.choice(DEADLY)
        if number < 0.05:
            self.spoil()
        return self.dice.choice(HOSTILE if self.dice.random() < 0.4 else HONEST)

    def read(self, wait):
        before = len(self.open)
        super().read(wait)
        if wait and len(self.open) == before:
            self.ask(("control", "interrupt_request", {}))

    def spoil(self):
        """What is no request: nobody answers it, and nobody else notices."""
        parts = self.wire.parts("execute_request", {"code": "print('forged')"})
        channel = self.dice.choice(["shell", "control", "stdin"])
        socket = self.wire.socket[channel]
        what = self.dice.randrange(6)
        if what == 0:
            self.wire.send(channel, parts, signature=b"0" * 64)
        elif what == 1:
            socket.send_multipart([b"<IDS|MSG>", b"x"])
        elif what == 2:
            socket.send_multipart([os.urandom(20) for _ in range(self.dice.randrange(1, 9))])
        elif what == 3:
            parts = [b"{", b"{}", b"{}", b"[" * 10000]
            socket.send_multipart([b"<IDS|MSG>", self.wire.sign(parts), *parts])
        elif what == 4:
            self.wire.send("stdin", self.wire.parts("input_reply", {"value": "of nobody"}))
        else:
            other = self.wire.context.socket(zmq.SUB)
            other.subscribe(b"")
            other.connect(self.wire.address("iopub"))
            other.close(0)


def tree(kernel):
    top = psutil.Process(kernel.pid)
    return [top, *top.children(recursive=True)]


def holds(kernel):
    """{what: how much} of the supervisor and the broker, and the processes there are."""
    processes = tree(kernel)
    husk = [p for p in processes if p.name() in ("husk", "husk-sandbox")]
    return {
        "descriptors": sum(p.num_fds() for p in husk), "threads": sum(p.num_threads() for p in husk),
        "processes": len(processes), "memory": sum(p.memory_info().rss for p in husk),
    }


def settled(kernel):
    """What is held when nothing happens: ended interpreters are gone, sockets that were closed are."""
    now, end = holds(kernel), time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.2)
        before, now = now, holds(kernel)
        if all(before[k] == now[k] for k in ("descriptors", "threads", "processes")):
            return now
    return now


def end_of_round(kernel, ledger, clients):
    end = time.monotonic() + SETTLE
    for client in clients:
        client.join(max(0, end - time.monotonic()))
    while ledger.wrong() and time.monotonic() < end:
        time.sleep(0.05)
    wrong = ledger.wrong()
    assert not any(c.error for c in clients), [c.error for c in clients if c.error]
    assert not wrong, f"{len(wrong)} requests without exactly one reply and one idle: {list(wrong.items())[:5]}"
    ledger.clear()


def tidy(kernel):
    """Ends what hostile cells left on purpose, and leaves an interpreter that has done nothing."""
    for subshell in kernel.control("list_subshell_request")["content"]["subshell_id"]:
        kernel.control("delete_subshell_request", {"subshell_id": subshell})
    kernel.run("import os; os._exit(0)")
    assert kernel.run("6 * 7").value == "42"


def soak(kernel, requests, seed, per_round=ROUND, say=lambda line: None):
    """Runs it on a `conftest.Kernel`."""
    rounds = max(3, requests // per_round)
    first = None
    for number in range(rounds):
        ledger = Ledger()
        wire = test_wire_level.Wire(kernel)
        watcher = Watcher(wire, ledger)
        share = per_round // 8
        clients = [kind(kernel, ledger, share, f"{seed} {number} {i}")
                   for i, kind in enumerate([Client] * 4 + [Hostile] * 4)]
        start = time.monotonic()
        for client in clients:
            client.start()
        end_of_round(kernel, ledger, clients)
        watcher.leaving = True
        watcher.join()
        wire.close()
        tidy(kernel)
        held = settled(kernel)
        say(f"round {number + 1} of {rounds}: {time.monotonic() - start:.1f} s, {held}")
        if number == 1:
            first = held
        if first and number > 1:
            same = ("processes", "threads", "descriptors")
            assert all(held[k] <= first[k] for k in same), f"after round 2: {first}, now: {held}"
            assert held["memory"] < first["memory"] + GROWTH, f"after round 2: {first}, now: {held}"
        if number % RESTART_EVERY == RESTART_EVERY - 1 and number < rounds - 1:
            kernel.manager.restart_kernel()
            kernel.client.wait_for_ready(timeout=SETTLE)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    import tempfile

    import conftest

    prefix, requests = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(10**6)
    print(f"seed {seed}", flush=True)
    # All starts are warm then, and a kernel holds the file that it was thawed from.
    subprocess.run([prefix / "bin" / "husk", "warm", "--python", conftest.PYTHON], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as directory:
        kernel = conftest.Kernel(pathlib.Path(directory), husk=prefix / "bin" / "husk")
        try:
            soak(kernel, requests, seed, say=lambda line: print(line, flush=True))
        finally:
            kernel.stop()


if __name__ == "__main__":
    main()
