# SPDX-License-Identifier: BSD-3-Clause
"""A server from an installed tree, and the plainest client of it."""

import contextlib
import json
import os
import signal
import struct
import subprocess
import time
import uuid

import pytest
import requests
import websocket

from conftest import HUSK, PYTHON, TIMEOUT

V1 = "v1.kernel.websocket.jupyter.org"


class Api:
    """Whatever serves kernels there."""

    def __init__(self, url, token):
        self.url, self.token = url, token
        self.headers = {"Authorization": f"token {token}"}

    def answers(self):
        with contextlib.suppress(requests.ConnectionError):
            return self.get("/api/status").ok

    def request(self, method, path, **options):
        headers = {**self.headers, **options.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=TIMEOUT, **options)

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **options):
        return self.request("POST", path, **options)

    def start(self, **body):
        reply = self.post("/api/kernels", json=body)
        assert reply.status_code == 201, reply.text
        return reply.json()["id"]

    def connect(self, kernel, session=None, subprotocols=None, **options):
        return Channels(self, kernel, session, subprotocols, **options)


class Server(Api):
    def __init__(self, *options, token="secret", env=None):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER_") and k != "PORT"}
        given = [] if token is None else [f"--token={token}"]
        self.process = subprocess.Popen(
            [HUSK, "serve", "--port=0", "-o", "json", f"--python={PYTHON}", *given, *map(str, options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**inherited, **(env or {})},
        )
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.communicate()[1])
        said = json.loads(line)
        super().__init__(said["url"], said["token"])
        self.pid = said["pid"]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(TIMEOUT)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.process.communicate()


class Channels:
    """A WebSocket of /channels, in either framing, that speaks whole messages."""

    def __init__(self, server, kernel, session=None, subprotocols=None, query="", **options):
        self.session = session or uuid.uuid4().hex
        self.v1 = bool(subprotocols and V1 in subprotocols)
        self.socket = websocket.create_connection(
            f"{server.url.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels?session_id={self.session}"
            f"&token={server.token}{query}", timeout=TIMEOUT, subprotocols=subprotocols,
            skip_utf8_validation=True, **options)  # which takes a minute for what takes us a second

    def message(self, msg_type, content, channel="shell"):
        header = {"msg_id": uuid.uuid4().hex, "msg_type": msg_type, "session": self.session, "username": "test",
                  "date": "", "version": "5.3"}
        return {"channel": channel, "header": header, "parent_header": {}, "metadata": {}, "content": content}

    def send(self, message, buffers=()):
        names = ("header", "parent_header", "metadata", "content")
        if self.v1:
            parts = [message["channel"].encode(), *(json.dumps(message[n]).encode() for n in names), *buffers]
            offsets = [8 * (2 + len(parts))]
            for part in parts:
                offsets.append(offsets[-1] + len(part))
            self.socket.send_binary(struct.pack(f"<{1 + len(offsets)}Q", len(offsets), *offsets) + b"".join(parts))
        elif buffers:
            parts = [json.dumps(message).encode(), *buffers]
            offsets = [4 + 4 * len(parts)]
            for part in parts[:-1]:
                offsets.append(offsets[-1] + len(part))
            self.socket.send_binary(struct.pack(f">{1 + len(offsets)}I", len(parts), *offsets) + b"".join(parts))
        else:
            self.socket.send(json.dumps(message))
        return message["header"]["msg_id"]

    def receive(self):
        opcode, data = self.socket.recv_data()
        assert opcode in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY), (opcode, data)
        if self.v1:
            n, = struct.unpack_from("<Q", data)
            offsets = struct.unpack_from(f"<{n}Q", data, 8)
            pieces = [data[a:b] for a, b in zip(offsets, offsets[1:])]
            names = ("header", "parent_header", "metadata", "content")
            message = {"channel": pieces[0].decode(), "buffers": pieces[5:],
                       **{n: json.loads(p) for n, p in zip(names, pieces[1:5])}}
        elif opcode == websocket.ABNF.OPCODE_BINARY:
            n, = struct.unpack_from(">I", data)
            offsets = [*struct.unpack_from(f">{n}I", data, 4), len(data)]
            pieces = [data[a:b] for a, b in zip(offsets, offsets[1:])]
            message = {**json.loads(pieces[0]), "buffers": pieces[1:]}
        else:
            message = json.loads(data)
        return message

    def until_done(self, msg_id, channel="shell"):
        """All that comes until this request has both its reply and its idle, also what belongs to others."""
        messages, reply, idle = [], None, False
        while not (reply and idle):
            m = self.receive()
            messages.append(m)
            if m["parent_header"].get("msg_id") != msg_id:
                continue
            if m["channel"] == channel and m["header"]["msg_type"].endswith("_reply"):
                reply = m
            idle = idle or (m["header"]["msg_type"] == "status" and m["content"]["execution_state"] == "idle")
        return Done(reply["content"], messages)

    def ask(self, msg_type, content, channel="shell", buffers=()):
        return self.until_done(self.send(self.message(msg_type, content, channel), buffers), channel)

    def run(self, code, **content):
        return self.ask("execute_request", {"code": code, **content})

    def close_code(self):
        """Reads until the other side closes; its code and reason."""
        while True:
            frame = self.socket.recv_frame()
            if frame.opcode == websocket.ABNF.OPCODE_CLOSE:
                return struct.unpack(">H", frame.data[:2] or b"\x03\xed")[0], frame.data[2:].decode()

    def close(self):
        with contextlib.suppress(Exception):
            self.socket.close()


class Done:
    def __init__(self, reply, messages):
        self.reply, self.messages = reply, messages
        self.status = reply["status"]

    def of(self, *types):
        return [m for m in self.messages if m["header"]["msg_type"] in types]

    @property
    def stdout(self):
        return "".join(m["content"]["text"] for m in self.of("stream") if m["content"]["name"] == "stdout")


def wait_until(true, what):
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


# For a file of tests to import: one server of its own, and one kernel on it.


@pytest.fixture(scope="module")
def server():
    s = Server()
    yield s
    s.stop()


@pytest.fixture(scope="module")
def kernel(server):
    return server.start()
