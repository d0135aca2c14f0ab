# SPDX-License-Identifier: BSD-3-Clause
"""Operations, the command line and ports of one sandbox; beside each what the same costs without husk."""

import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

GIB = 1 << 30
PIECE = 4 << 20  # bytes of one upload or download
ROUNDS = 300
SERVER = """
import socket, threading
def serve(c):
    with c:
        if c.recv(1) == b"e":
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := c.recv(64):
                c.sendall(data)
        else:
            block, left = bytes(1 << 20), %d
            while left:
                left -= c.send(block[:left])
s = socket.create_server(("127.0.0.1", PORT))
print(s.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
""" % GIB


def p50(act, n=ROUNDS):
    """ms; each once before it counts."""
    act()
    times = []
    for _ in range(n):
        begin = time.perf_counter()
        act()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


class Sandbox:
    """One that `husk create` made, and operations on it by ZeroMQ."""

    def __init__(self, husk, directory, make):
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(directory), "XDG_STATE_HOME": str(directory / "state")}
        self.husk = husk
        self.id = self.command("create", "--python", sys.executable, "--disk", "4g").strip()
        (entry,) = json.loads(self.command("ls", "-o", "json"))
        self.pid = entry["pid"]
        self.client = make(entry["connection_file"])

    def command(self, *words, input=None):
        return subprocess.run([self.husk, *words], env=self.env, check=True, capture_output=True, text=True,
                              input=input).stdout

    def call(self, method, buffers=(), **params):
        msg = self.client.session.msg("sandbox_request", {"method": method, "params": params})
        control = self.client.sockets["control"]
        self.client.session.send(control, msg, buffers=list(buffers))
        while True:
            frames = control.recv_multipart()
            at = frames.index(b"<IDS|MSG>")
            if msg["header"]["msg_id"].encode() in frames[at + 3]:
                content = json.loads(frames[at + 5])
                if content["status"] != "ok":
                    raise RuntimeError(content["message"])
                return content["result"], frames[at + 6:]

    def memory(self):
        """Most that the supervisor had in memory since the last call, MiB; that is set back."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return peak


def files(box):
    rows = {}
    box.call("files.write", path="small", data="x" * 1024)
    rows["files.read of 1 KiB, p50, ms"] = p50(lambda: box.call("files.read", path="small"))
    cell = box.client.send("execute_request", {
        "code": "sum(range(5 * 10**8))", "silent": False, "store_history": False, "user_expressions": {},
        "allow_stdin": False, "stop_on_error": True})
    time.sleep(0.5)
    rows["files.read while a cell holds the GIL, p50, ms"] = p50(lambda: box.call("files.read", path="small"))
    rows["exec.run true while it does, p50, ms"] = p50(lambda: box.call("exec.run", cmd=["true"]), 100)
    box.client.wait(cell)
    rows["exec.run true, p50, ms"] = p50(lambda: box.call("exec.run", cmd=["true"]), 100)
    rows["subprocess.run true, here, p50, ms"] = p50(lambda: subprocess.run(["true"]), 100)
    return rows


def large(box):
    block = os.urandom(PIECE)
    before = box.memory()
    begin = time.perf_counter()
    upload, sent = None, 0
    while sent < GIB:
        part = {"path": "large"} if upload is None else {"upload": upload}
        upload = box.call("files.upload", [block], **part)[0]["upload"]
        sent += PIECE
    box.call("files.upload", upload=upload, done=True)
    up = GIB / (time.perf_counter() - begin) / 1e9
    begin = time.perf_counter()
    for at in range(0, GIB, PIECE):
        box.call("files.download", path="large", offset=at, length=PIECE)
    down = GIB / (time.perf_counter() - begin) / 1e9
    with tempfile.TemporaryDirectory() as directory:
        begin = time.perf_counter()
        box.command("cp", f"{box.id}:large", f"{directory}/large")
        out = GIB / (time.perf_counter() - begin) / 1e9
        begin = time.perf_counter()
        box.command("cp", f"{directory}/large", f"{box.id}:again")
        back = GIB / (time.perf_counter() - begin) / 1e9
        begin = time.perf_counter()
        shutil.copyfile(f"{directory}/large", f"{directory}/again")
        here = GIB / (time.perf_counter() - begin) / 1e9
    box.call("files.remove", path="large")
    box.call("files.remove", path="again")
    return {"1 GiB written, GB/s": up, "1 GiB read, GB/s": down, "1 GiB by husk cp, in, GB/s": back,
            "1 GiB by husk cp, out, GB/s": out, "1 GiB copied here, GB/s": here,
            "supervisor meanwhile, MiB more": box.memory() - before}


def commands(box):
    peer = shutil.which("docker")
    print(f"peer docker exec: {'not measured, no container is given' if peer else 'left out, no docker'}")
    return {
        "husk exec ID -- true, p50, ms": p50(lambda: box.command("exec", box.id, "--", "true"), 30),
        "husk run -c 'print(1)', p50, ms": p50(
            lambda: box.command("run", "--python", sys.executable, "-c", "print(1)"), 10),
        "python3 -c 'print(1)', p50, ms": p50(
            lambda: subprocess.run([sys.executable, "-c", "print(1)"], stdout=subprocess.DEVNULL), 10),
        "python3 -c 'import IPython', p50, ms": p50(
            lambda: subprocess.run([sys.executable, "-c", "import IPython"]), 10),
    }


def connection(port):
    with socket.create_connection(("127.0.0.1", port)) as c:
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        c.sendall(b"e")

        def echo():
            c.sendall(b"x")
            c.recv(1)

        there_and_back = p50(echo, 2000)
    with socket.create_connection(("127.0.0.1", port)) as c:
        c.sendall(b"s")
        buffer, got, begin = bytearray(1 << 20), 0, time.perf_counter()
        while got < GIB:
            got += c.recv_into(buffer)
        return there_and_back, GIB / (time.perf_counter() - begin) / 1e9


def ports(box):
    here = subprocess.Popen([sys.executable, "-c", SERVER.replace("PORT", "0")], stdout=subprocess.PIPE, text=True)
    try:
        direct = connection(int(here.stdout.readline()))
    finally:
        here.kill()
        here.communicate()
    started = box.call("exec.start", cmd=[sys.executable, "-c", SERVER.replace("PORT", "7000")])[0]["id"]
    box.call("proc.wait", id=started, until="port", port=7000, timeout_ms=60000)
    exposed = connection(box.call("ports.expose", port=7000)[0]["host_port"])
    return {"port, there and back, direct, p50, ms": direct[0], "port, there and back, exposed, p50, ms": exposed[0],
            "port, 1 GiB, direct, GB/s": direct[1], "port, 1 GiB, exposed, GB/s": exposed[1]}


def operations(husk, directory, make):
    """make(path of a connection file): a client (bench.Kernel)."""
    box = Sandbox(husk, directory, make)
    try:
        rows = {}
        for part in (files, large, commands, ports):
            rows.update(part(box))
        return rows
    finally:
        box.command("rm", box.id)
