#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""husk beside its peers: one client, one machine, one run. bench/README.md says what each figure means.

The Python that runs this runs husk's cells, too. A peer that is not there is said so and left out. Figures of one
run on one machine compare with each other and with nothing else. Status 1: a cycle of sandboxes left something, or
something is worse than in the husk of --against.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import socketserver
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

try:
    import IPython  # noqa: F401  husk's cells need it
    import psutil
    import zmq
    from interrupts import interrupts
    from jupyter_client.connect import write_connection_file
    from jupyter_client.session import Session
    from operations import operations
    from report import MINE, Report
    from serve import serve
    from starts import rounds, starts
except ImportError as e:
    sys.exit(f"bench: {sys.executable} has no {e.name}; name one that has jupyter_client, IPython and psutil:\n"
             "    make bench BENCH_WITH=/path/to/python")

MODULES = {"ipykernel": "ipykernel_launcher", "xpython": "xpython_launcher"}
PACKAGES = {"ipykernel": "ipykernel", "xpython": "xeus-python"}
PATIENCE = 120  # seconds; a kernel that takes longer has failed


class Client:
    """One that parses nothing but what it waits for, so that it is not what is measured."""

    def __init__(self, path):
        config = json.loads(pathlib.Path(path).read_text())
        self.session = Session(key=config["key"].encode())
        context = zmq.Context.instance()
        self.sockets = {}
        for channel, kind in (("shell", zmq.DEALER), ("control", zmq.DEALER), ("iopub", zmq.SUB)):
            socket = self.sockets[channel] = context.socket(kind)
            socket.linger = 0
            socket.rcvhwm = 0
            socket.reconnect_ivl = 1  # ms: libzmq waits for 100 where a kernel has not bound yet
            at = "-" if config["transport"] == "ipc" else ":"
            socket.connect(f"{config['transport']}://{config['ip']}{at}{config[channel + '_port']}")
        self.sockets["iopub"].subscribe(b"")

    def send(self, kind, content, channel="shell"):
        msg = self.session.msg(kind, content)
        self.session.send(self.sockets[channel], msg)
        return msg["header"]["msg_id"].encode()

    def wait(self, msg_id, channel="shell", iopub=True):
        """Until the reply and the idle of a request; returns what came on iopub."""
        want = {channel} | ({"iopub"} if iopub else set())
        seen, end = [], time.monotonic() + PATIENCE
        poller = zmq.Poller()
        for name in want:  # what comes on others is for whoever waits there
            poller.register(self.sockets[name], zmq.POLLIN)
        names = {self.sockets[n]: n for n in self.sockets}
        while want:
            for socket, _ in poller.poll(1000):
                frames = socket.recv_multipart()
                at = frames.index(b"<IDS|MSG>")
                if msg_id not in frames[at + 3]:
                    continue
                if names[socket] != "iopub":
                    want.discard(names[socket])
                else:
                    seen.append(frames[at + 2:])
                    if b'"idle"' in frames[at + 5] and b'"status"' in frames[at + 2]:
                        want.discard("iopub")
            if time.monotonic() > end:
                raise TimeoutError
        return seen

    def run(self, code):
        return self.wait(self.send("execute_request", {
            "code": code, "silent": False, "store_history": True, "user_expressions": {},
            "allow_stdin": False, "stop_on_error": True}))


class Kernel(Client):
    """And a process of its own."""

    def __init__(self, argv, directory):
        path, _ = write_connection_file(str(directory / f"{time.monotonic_ns()}.json"),
                                        key=os.urandom(16).hex().encode())
        super().__init__(path)
        self.process = subprocess.Popen(
            [word.replace("{connection_file}", path) for word in argv], cwd=directory,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def ready(self):
        """As every client does: asks until both the answer and a message on iopub have come."""
        end = time.monotonic() + PATIENCE
        while True:
            self.send("kernel_info_request", {})
            while not self.sockets["shell"].poll(1000):
                if time.monotonic() > end or self.process.poll() is not None:
                    raise TimeoutError(f"the kernel does not start (status {self.process.poll()})")
            self.sockets["shell"].recv_multipart()
            if self.sockets["iopub"].poll(200):
                return self
            if time.monotonic() > end:
                raise TimeoutError("nothing comes on iopub")

    def close(self):
        for socket in self.sockets.values():
            socket.close()
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def median(values):
    return statistics.median(values)


def timed(act):
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def memory(argv, directory):
    kernels = [Kernel(argv, directory).ready() for _ in range(5)]
    for kernel in kernels:
        kernel.run("1")
    time.sleep(1)
    total = 0
    for kernel in kernels:
        process = psutil.Process(kernel.process.pid)
        for p in [process, *process.children(recursive=True)]:
            try:
                text = pathlib.Path(f"/proc/{p.pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += next(int(l.split()[1]) for l in text.splitlines() if l.startswith("Pss:"))
    for kernel in kernels:
        kernel.close()
    return total / 1024 / len(kernels)


ROUND_TRIPS = 200


def round_trip(kernel):
    return median([timed(lambda: kernel.run("x=1")) for _ in range(ROUND_TRIPS)]) * 1e3


def lines(kernel):
    found = []
    took = timed(lambda: found.extend(kernel.run("for i in range(100_000): print(i)")))
    text = "".join(json.loads(f[3])["text"] for f in found if b'"stream"' in f[0])
    if text != "".join(f"{i}\n" for i in range(100_000)):
        return f"{took:.2f} (text lost)"
    return took


def displays(kernel):
    kernel.run("from IPython.display import publish_display_data as show\nblock = 'A' * (1 << 20)")
    found = []
    took = timed(lambda: found.extend(kernel.run("for i in range(100): show({'image/png': block})")))
    return took if sum(b'"display_data"' in f[0] for f in found) == 100 else f"{took:.2f} (lost)"


def completion(kernel):
    kernel.run("import os")

    def once():
        kernel.wait(kernel.send("complete_request", {"code": "os.pa", "cursor_pos": 5}))

    once()
    return median([timed(once) for _ in range(20)]) * 1e3


def control(kernel):
    """PyDLL holds the interpreter's lock: nothing in that process can answer meanwhile."""
    cell = kernel.send("execute_request", {"code": "import ctypes; ctypes.PyDLL(None).usleep(2_000_000)",
                                           "silent": False, "store_history": False,
                                           "user_expressions": {}, "allow_stdin": False})
    time.sleep(0.7)
    asked = kernel.send("kernel_info_request", {}, "control")
    took = timed(lambda: kernel.wait(asked, "control", iopub=False))
    kernel.wait(cell)
    return took * 1e3


MEMORY = "memory (PSS) each, five idle, MB"
LIVE = [("x=1, round trip p50, ms", round_trip), ("100,000 printed lines, s", lines),
        ("100 displays of 1 MiB, s", displays), ("completion of os.pa, p50, ms", completion),
        ("control while the GIL is held, ms", control)]


def measure(argv, directory):
    """One sample of each figure."""
    figures = {}
    kernel = Kernel(argv, directory).ready()
    try:
        kernel.run("1")
        for name, act in LIVE:
            try:
                figures[name] = act(kernel)
            except TimeoutError:
                figures[name] = "none"
    finally:
        kernel.close()
    figures[MEMORY] = memory(argv, directory)
    return figures


# --- a sandbox alone

def sandbox(program, husk, directory):
    """Rows of the C driver; and whether it found that something was left."""
    libexec = pathlib.Path(husk).parent.parent / "libexec" / "husk"
    rows, good = {}, True
    for what, n in (("times", 300), ("calls", 1_000_000), ("idle", 20), ("cycles", 500)):
        state = directory / what
        state.mkdir(mode=0o700)
        done = subprocess.run([program, what, libexec, state, str(n)], capture_output=True, text=True)
        sys.stderr.write(done.stderr)
        good = good and done.returncode == 0
        for line in done.stdout.splitlines():
            name, _, figure = line.partition("\t")
            rows[f"{n} cycles, {name}" if what == "cycles" else name] = float(figure)
    if {"getpid inside, ns", "getpid outside, ns"} <= set(rows):
        rows["filter, ns a call"] = rows["getpid inside, ns"] - rows["getpid outside, ns"]
    return rows, good


# --- the network of an allow-list, beside the same connection without husk

FIRST_BYTES = 200
STREAM = 2 << 30  # bytes
CLIENT = f"""
import socket, statistics, time
def dial():
    return socket.create_connection((HOST, PORT), 60)
def first_byte():
    start = time.perf_counter()
    with dial() as s:
        s.sendall(b"b")
        s.recv(1)
    return time.perf_counter() - start
def throughput():
    buffer, left = bytearray(1 << 20), {STREAM}
    with dial() as s:
        s.sendall(b"s")
        start = time.perf_counter()
        while left:
            left -= s.recv_into(buffer)
    return {STREAM} / (time.perf_counter() - start)
first_byte()
print(statistics.median([first_byte() for _ in range({FIRST_BYTES})]) * 1e3,
      statistics.median([throughput() for _ in range(3)]) / 1e9)
"""


class Source(socketserver.BaseRequestHandler):
    def handle(self):
        if self.request.recv(1) == b"b":
            self.request.sendall(b"b")
            return
        block, left = bytes(1 << 20), STREAM
        while left:
            left -= self.request.send(block[:left])


class Names(socketserver.BaseRequestHandler):
    """Every name is 127.0.0.1."""

    def handle(self):
        packet, sock = self.request
        end = packet.index(0, 12) + 5
        answers = int(packet[end - 4:end - 2] == b"\0\1")  # A
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton("127.0.0.1")
        sock.sendto(packet[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, answers, 0, 0) + packet[12:end]
                    + record * answers, self.client_address)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 200


def network(husk, directory):
    with Server(("127.0.0.1", 0), Source) as server, \
            socketserver.ThreadingUDPServer(("127.0.0.1", 0), Names) as names:
        for s in (server, names):
            threading.Thread(target=s.serve_forever, daemon=True).start()
        port = server.server_address[1]
        code = f"PORT = {port}\n{CLIENT}"
        direct = subprocess.run([sys.executable, "-c", f"HOST = '127.0.0.1'\n{code}"], check=True,
                                capture_output=True, text=True).stdout
        kernel = Kernel([husk, "kernel", "--python", sys.executable, "-f", "{connection_file}",
                         "--resolver", "127.0.0.1:%d" % names.server_address[1],
                         "--allow", f"bench.test:{port}", "--allow", f"127.0.0.1:{port}"], directory).ready()
        try:
            frames = kernel.run(f"HOST = 'bench.test'\n{code}")
        finally:
            kernel.close()
            for s in (server, names):
                s.shutdown()
    allowed = "".join(json.loads(f[3])["text"] for f in frames if b'"stream"' in f[0])
    (byte, rate), (byte_direct, rate_direct) = (map(float, t.split()) for t in (allowed, direct))
    return {"first byte, direct, p50, ms": byte_direct, "first byte, allow-list, p50, ms": byte,
            "first byte, more than direct, ms": byte - byte_direct,
            "throughput, direct, GB/s": rate_direct, "throughput, allow-list, GB/s": rate}


def find_peers(words):
    """Those that are there; says what was found, and what is missing in the others."""
    found = {}
    for name, python in words:
        module = MODULES[name]
        ask = f"import importlib.metadata as m, {module}; print(m.version({PACKAGES[name]!r}))"
        try:
            done = subprocess.run([python, "-c", ask], capture_output=True, text=True)
        except OSError as e:
            print(f"peer {name}: left out, {e}", file=sys.stderr)
            continue
        if done.returncode:
            print(f"peer {name}: left out, {python} has no {module}", file=sys.stderr)
            continue
        found[name] = (python, done.stdout.strip())
    if not found:
        print("no peer: husk is measured alone; BENCH_PEERS='ipykernel=PYTHON xpython=PYTHON' names some", file=sys.stderr)
    return found


def peer_commands(peers):
    return {name: [peer, "-m", MODULES[name], "-f", "{connection_file}"] for name, (peer, _) in peers.items()}


NULL = "null kernel"


def floor(argv, directory):
    kernel = Kernel(argv, directory).ready()
    try:
        return {LIVE[0][0]: round_trip(kernel)}
    finally:
        kernel.close()


def kernels(report, husks, peers, null, directory, n):
    commands = {}
    for name, husk in husks.items():
        subprocess.run([husk, "warm", "--python", sys.executable], capture_output=True)
        commands[name] = [husk, "kernel", "--python", sys.executable, "-f", "{connection_file}"]
    commands.update(peers)
    acts = {name: lambda argv=argv: measure(argv, directory) for name, argv in commands.items()}
    if null:
        acts[NULL] = lambda: floor([os.path.abspath(null), "-f", "{connection_file}"], directory)
    found = rounds(acts, n)
    for figure in [name for name, _ in LIVE] + [MEMORY]:
        report.add("kernels", figure, {name: [sample[figure] for sample in samples if figure in sample]
                                       for name, samples in found.items() if figure in samples[0]})


SECTIONS = ("starts", "interrupts", "kernels", "sandbox", "operations", "serve", "network")


def read_arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--only", choices=SECTIONS, action="append", help="a section; may be given several times")
    p.add_argument("--quick", action="store_true", help="starts and kernels, few rounds: two minutes")
    p.add_argument("--rounds", type=int, help="of starts (12) and of kernels (5)")
    p.add_argument("--against", metavar="NAME=HUSK", help="another husk, in the same run; says what became better or worse")
    p.add_argument("--floor", help="the program that bench/null.c makes: beside it round trips are judged")
    p.add_argument("--results", help="a directory for table, plots and samples")
    p.add_argument("husk", help="the program")
    p.add_argument("sandbox", help="the one that bench/sandbox.c makes")
    p.add_argument("peers", nargs="*", help=f"NAME=PYTHON, which has the package of that kernel: {', '.join(MODULES)}")
    a = p.parse_args()
    a.peers = [tuple(word.split("=", 1)) for word in a.peers]
    if any(len(pair) != 2 or pair[0] not in MODULES for pair in a.peers) or (a.against and "=" not in a.against):
        p.error("a peer is NAME=PYTHON, another husk NAME=HUSK")
    return a


def run(a, report, directory):
    """Whether nothing was left behind."""
    only = a.only or (("starts", "kernels") if a.quick or a.against else SECTIONS)
    husks, good = {MINE: a.husk}, True
    if a.against:
        name, program = a.against.split("=", 1)
        husks[name] = program
    found = find_peers(a.peers) if {"starts", "interrupts", "kernels"} & set(only) else {}
    report.about.update({name: version for name, (_, version) in found.items()})
    report.about["Python of the cells"] = "%d.%d.%d" % sys.version_info[:3]
    peers = peer_commands(found)
    if "starts" in only:
        starts(report, husks, peers, directory, Kernel, a.rounds or (5 if a.quick else 12))
    if "interrupts" in only:
        mine = {name: [husk, "kernel", "--python", sys.executable, "-f", "{connection_file}"] for name, husk in husks.items()}
        interrupts(report, {**mine, **peers}, directory, Kernel)
    if "kernels" in only:
        kernels(report, husks, peers, a.floor, directory, a.rounds or (2 if a.quick else 5))
    if "sandbox" in only:
        rows, good = sandbox(a.sandbox, a.husk, directory)
        report.add_rows("sandbox", rows)
    if "operations" in only:
        (directory / "operations").mkdir(mode=0o700)
        report.add_rows("operations", operations(a.husk, directory / "operations", Client))
    if "serve" in only:
        (directory / "serve").mkdir()
        serve(report, a.husk, directory / "serve")
    if "network" in only:
        report.add_rows("network", network(a.husk, directory))
    return good


def main():
    a = read_arguments()
    report = Report()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        good = run(a, report, pathlib.Path(name))
    print(report.table())
    if a.results:
        print(report.save(a.results))
    if not good:
        sys.exit("bench: a cycle of sandboxes left something behind, see above")
    if a.against:
        said, good = report.verdicts(a.against.split("=", 1)[0])
        print(said)
        sys.exit(0 if good else f"bench: worse than {a.against.split('=', 1)[0]}")


if __name__ == "__main__":
    main()
