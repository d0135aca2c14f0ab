# SPDX-License-Identifier: BSD-3-Clause
"""husk serve beside a stock Jupyter Server, with ipykernel and with husk as its kernels: the same client, one run."""

import json
import os
import pathlib
import re
import secrets
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

MANY_KERNELS = 200
MANY_SOCKETS = 1000
CYCLES = 300
SIZE = 1 << 30


class Server:
    def __init__(self, argv, env, url=None, token=None):
        began = time.perf_counter()
        self.process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE if url is None else subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        if url is None:
            said = json.loads(self.process.stdout.readline())
            url, token = said["url"], said["token"]
        self.url, self.token = url, token
        while True:
            try:
                self.request("GET", "/api/status")
                break
            except OSError:
                if self.process.poll() is not None or time.perf_counter() - began > 60:
                    raise RuntimeError(f"{argv[0]} does not serve") from None
                time.sleep(0.005)
        self.start_ms = (time.perf_counter() - began) * 1e3
        kernel = self.kernel()
        socket = self.socket(kernel)
        self.run(socket, "1")
        self.first_ms = (time.perf_counter() - began) * 1e3
        self.first = kernel, socket

    def request(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, method=method, data=body,
                                         headers={"Authorization": f"token {self.token}", "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.read()

    def kernel(self):
        return json.loads(self.request("POST", "/api/kernels", b'{"name": "python3"}'))["id"]

    def socket(self, kernel):
        import websocket
        return websocket.create_connection(
            f"{self.url.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels?session_id={secrets.token_hex(8)}&token={self.token}",
            timeout=120, skip_utf8_validation=True)

    def run(self, socket, code):
        """Parses nothing but what it waits for."""
        msg_id = secrets.token_hex(16)
        socket.send(json.dumps({"channel": "shell", "header": {
            "msg_id": msg_id, "msg_type": "execute_request", "session": "bench", "username": "", "date": "", "version": "5.3"},
            "parent_header": {}, "metadata": {}, "content": {"code": code, "silent": False, "store_history": False,
                                                             "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}}))
        want = {"reply", "idle"}
        mine = msg_id.encode()
        while want:
            _, data = socket.recv_data()
            if mine in data:
                if b"execute_reply" in data:
                    want.discard("reply")
                elif re.search(rb'"execution_state": ?"idle"', data):
                    want.discard("idle")

    def pss_mb(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def quantile(act, n, q=0.5):
    act()
    times = []
    for _ in range(n):
        began = time.perf_counter()
        act()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.quantiles(times, n=100)[round(q * 100) - 1]


def jupyter(directory, python, name, spec=None):
    data = directory / name
    specs = data / "share" / "jupyter" / "kernels" / "python3"
    specs.mkdir(parents=True)
    (specs / "kernel.json").write_text(json.dumps({
        "argv": spec or [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": name,
        "language": "python", "interrupt_mode": "message" if spec else "signal"}))
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    env = {**os.environ, "JUPYTER_PATH": str(data / "share" / "jupyter"), "JUPYTER_DATA_DIR": str(data / "data"),
           "JUPYTER_RUNTIME_DIR": str(data / "run"), "JUPYTER_CONFIG_DIR": str(data / "config")}
    return Server([python, "-m", "jupyter_server", "--allow-root", "--no-browser", f"--ServerApp.port={port}",
                   "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={data}"],
                  env, f"http://127.0.0.1:{port}", token)


def through_code_sandboxes(server):
    try:
        from code_sandboxes import Sandbox
    except ImportError:
        return {}
    with Sandbox.create(variant="jupyter-server", server_url=server.url, token=server.token, reuse_kernel=False,
                        timeout=120) as box:
        box.files.write("/tmp/small", "small")
        return {"code_sandboxes run_code, p50 ms": quantile(lambda: box.run_code("1 + 1"), 50),
                "code_sandboxes files.read, p50 ms": quantile(lambda: box.files.read("/tmp/small"), 20)}


def measure(server):
    kernel, socket = server.first
    rows = {"start to the first answer, ms": server.start_ms, "start to the first result, ms": server.first_ms,
            "x = 1 over a WebSocket, p50 ms": quantile(lambda: server.run(socket, "x = 1"), CYCLES),
            "kernels listed, p50 ms": quantile(lambda: server.request("GET", "/api/kernels"), CYCLES),
            "memory of the server, PSS MB": server.pss_mb()}
    sockets = [server.socket(kernel) for _ in range(100)]
    rows["a connection, kB"] = (server.pss_mb() - rows["memory of the server, PSS MB"]) * 1024 / len(sockets)
    for s in sockets:
        s.sock.close()
    socket.sock.close()
    return {**rows, **through_code_sandboxes(server)}


def husk_alone(server):
    """What only it has, or what takes long elsewhere."""
    kernel = server.kernel()
    where = f"/api/kernels/{kernel}/sandbox/"
    server.request("POST", where + "exec.run", json.dumps({"cmd": f"head -c {SIZE} /dev/zero > /tmp/large"}).encode())
    rows = {"a command, p50 ms": quantile(lambda: server.request("POST", where + "exec.run", b'{"cmd": ["true"]}'), 100),
            "a small file, p50 ms": quantile(lambda: server.request("GET", where + "files?path=/etc/hostname"), 100)}
    began = time.perf_counter()
    subprocess.run(["curl", "-sf", "-o", "/dev/null", "-H", f"Authorization: token {server.token}",
                    f"{server.url}{where}files?path=/tmp/large"], check=True)
    rows["1 GiB downloaded, GB/s"] = SIZE / 1e9 / (time.perf_counter() - began)
    server.request("DELETE", f"/api/kernels/{kernel}")
    kernels = [server.kernel() for _ in range(MANY_KERNELS)]
    sockets = [server.socket(kernels[i % MANY_KERNELS]) for i in range(MANY_SOCKETS)]
    rows[f"x = 1 with {MANY_KERNELS} kernels, {MANY_SOCKETS} WebSockets, p50 ms"] = quantile(
        lambda: server.run(sockets[0], "x = 1"), 100)
    rows["a control reply then, p99 ms"] = quantile(
        lambda: server.request("POST", f"/api/kernels/{kernels[1]}/sandbox/sandbox.usage", b"{}"), CYCLES, 0.99)
    rows["memory of the server then, PSS MB"] = server.pss_mb()
    for s in sockets:
        s.sock.close()
    return rows


def serve(report, husk, directory):
    argv = [husk, "serve", "--port=0", "-o", "json", f"--python={sys.executable}"]
    env = {k: v for k, v in os.environ.items() if k not in ("JUPYTER_TOKEN", "JUPYTER_PORT", "PORT")}
    makers = {"husk": lambda: Server(argv, env),
              "Jupyter, ipykernel": lambda: jupyter(directory, sys.executable, "ipykernel"),
              "Jupyter, husk": lambda: jupyter(directory, sys.executable, "husk", [
                  husk, "kernel", f"--python={sys.executable}", "--profile=strict", "-f", "{connection_file}"])}
    found = {}
    for name, make in makers.items():
        print(f"measuring {name} ...", file=sys.stderr)
        try:
            server = make()
        except (RuntimeError, OSError) as e:
            print(f"{name}: left out, {e}", file=sys.stderr)
            continue
        try:
            found[name] = measure(server)
        finally:
            server.stop()
    for row in next(iter(found.values())):
        report.add("serve", row, {name: [f[row]] for name, f in found.items() if row in f})
    server = Server(argv, env)
    try:
        report.add_rows("serve, many", husk_alone(server))
    finally:
        server.stop()
