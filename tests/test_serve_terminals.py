# SPDX-License-Identifier: BSD-3-Clause
"""husk serve: terminals, as Jupyter's front ends use them (terminado's protocol)."""

import contextlib
import json

import pytest
import websocket

from conftest import TIMEOUT
from serving import server, wait_until  # noqa: F401 (fixtures)


class Terminal:
    def __init__(self, server, name):
        self.socket = websocket.create_connection(
            f"{server.url.replace('http', 'ws', 1)}/terminals/websocket/{name}?token={server.token}", timeout=TIMEOUT)
        self.shown = ""

    def send(self, *message):
        self.socket.send(json.dumps(message))

    def until(self, text):
        while text not in self.shown:
            kind, *rest = json.loads(self.socket.recv())
            if kind == "stdout":
                self.shown += rest[0]
        return self.shown

    def close(self):
        with contextlib.suppress(Exception):
            self.socket.close()


def test_a_shell_in_the_sandbox_of_a_kernel(server):
    kernel = server.start()
    c = server.connect(kernel)
    c.run("open('/workspace/from-a-cell', 'w').write('hello from a cell')")
    made = server.post("/api/terminals", json={"kernel_id": kernel})
    assert made.status_code == 200, made.text
    name = made.json()["name"]
    assert set(made.json()) >= {"name", "last_activity"}
    t = Terminal(server, name)
    assert json.loads(t.socket.recv()) == ["setup", {}]
    t.send("set_size", 33, 99, 0, 0)
    t.send("stdin", "cat from-a-cell; stty size; tty >/dev/null && echo it is a $((6*7))-tty é\r")
    t.until("42-tty é")
    assert "hello from a cell" in t.shown and "33 99" in t.shown
    # A second one sees what was shown, and both what comes.
    other = Terminal(server, name)
    other.until("hello from a cell")
    other.send("stdin", "echo bo''th\r")
    t.until("both")
    other.until("both")
    other.close()
    assert name in [m["name"] for m in server.get("/api/terminals").json()]
    assert server.request("DELETE", f"/api/terminals/{name}").status_code == 204
    seen = []
    while not seen or seen[-1][0] != "disconnect":
        seen.append(json.loads(t.socket.recv()))
    assert server.get(f"/api/terminals/{name}").status_code == 404
    c.close()
    server.request("DELETE", f"/api/kernels/{kernel}")


def test_one_that_ends_says_so_and_is_gone(server):
    name = server.post("/api/terminals").json()["name"]
    t = Terminal(server, name)
    t.send("stdin", "exit\r")
    while json.loads(t.socket.recv())[0] != "disconnect":
        pass
    wait_until(lambda: server.get(f"/api/terminals/{name}").status_code == 404, "it is listed")


def test_it_ends_with_its_kernel(server):
    made = server.post("/api/terminals", json={}).json()
    t = Terminal(server, made["name"])
    server.request("DELETE", f"/api/kernels/{made['kernel_id']}")
    while json.loads(t.socket.recv())[0] != "disconnect":
        pass
    wait_until(lambda: server.get(f"/api/terminals/{made['name']}").status_code == 404, "it is listed")


def test_bad_input(server):
    for path in ("/api/terminals/none", "/terminals/websocket/none"):
        assert server.get(path).status_code == 404
    assert server.post("/api/terminals", json={"kernel_id": "none"}).status_code == 404
    assert server.post("/api/terminals", json={"shell": "x"}).status_code == 400
    name = server.post("/api/terminals").json()["name"]
    assert server.get(f"/terminals/websocket/{name}").status_code == 400
    for bad in ("no json", "{}", "[]", "[1]"):
        t = Terminal(server, name)
        t.socket.send(bad)
        t.socket.settimeout(TIMEOUT)
        while (frame := t.socket.recv_frame()).opcode != websocket.ABNF.OPCODE_CLOSE:
            pass
        assert frame.data[:2] == b"\x03\xef", bad
    t = Terminal(server, name)
    for odd in (["stdin"], ["stdin", 7], ["set_size", "a", "b"], ["set_size", -1, 1 << 40], ["unknown", 1]):
        t.send(*odd)
    t.send("stdin", "echo al''ive\r")
    t.until("alive")
    t.close()
