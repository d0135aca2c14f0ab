# SPDX-License-Identifier: BSD-3-Clause
"""The wire, byte by byte: raw ZeroMQ sockets and signatures made here.

Numbers are those of the checks in the Jupyter conformance list that the project keeps.
"""

import datetime
import hashlib
import hmac
import json
import os
import signal
import socket
import stat
import statistics
import subprocess
import sys
import time
import uuid

import conftest
import pytest
import zmq

REQUESTS = {
    "execute_request": ({"code": "1"}, "execute_reply"),
    "complete_request": ({"code": "pri", "cursor_pos": 3}, "complete_reply"),
    "inspect_request": ({"code": "print", "cursor_pos": 5}, "inspect_reply"),
    "is_complete_request": ({"code": "1"}, "is_complete_reply"),
    "history_request": ({"hist_access_type": "tail", "n": 3}, "history_reply"),
    "comm_info_request": ({}, "comm_info_reply"),
    "kernel_info_request": ({}, "kernel_info_reply"),
    "connect_request": ({}, "connect_reply"),
    "interrupt_request": ({}, "interrupt_reply"),
    "debug_request": ({"type": "request", "seq": 1, "command": "debugInfo"}, "debug_reply"),
    "create_subshell_request": ({}, "create_subshell_reply"),
    "usage_request": ({}, "usage_reply"),
}

MALFORMED = {
    "execute_request": [{}, {"code": 1}, {"code": None}, {"code": "1", "silent": "yes"},
                        {"code": "1", "user_expressions": []}, {"code": "1", "stop_on_error": 3}],
    "complete_request": [{}, {"code": 1}, {"code": "a", "cursor_pos": 9},
                         {"code": "a", "cursor_pos": -1}, {"code": "a", "cursor_pos": "1"},
                         {"code": "a", "cursor_pos": 1.5}],
    "inspect_request": [{}, {"code": "a"}, {"code": "a", "cursor_pos": 2},
                        {"code": "a", "cursor_pos": 1, "detail_level": "x"}],
    "is_complete_request": [{}, {"code": []}],
    "history_request": [{}, {"hist_access_type": "all"}, {"hist_access_type": 1},
                        {"hist_access_type": "tail", "n": "x"}],
    "comm_info_request": [{"target_name": 3}],
    "debug_request": [{}, {"seq": 1}, {"command": 1, "seq": 1}, {"command": "debugInfo"},
                      {"command": "debugInfo", "seq": "1"}, {"command": "debugInfo", "seq": 1.5},
                      {"command": "debugInfo", "seq": 1, "arguments": []}],
}


class Wire:
    """Sockets on one kernel, with an identity and a signing key of its own."""

    def __init__(self, kernel, identity=None):
        self.info = kernel.manager.get_connection_info()
        self.key = self.info["key"]
        self.context = zmq.Context()
        self.identity = identity or uuid.uuid4().hex.encode()
        self.socket = {}
        for name in ("shell", "control", "stdin"):
            self.socket[name] = self.context.socket(zmq.DEALER)
            self.socket[name].identity = self.identity
        self.socket["hb"] = self.context.socket(zmq.REQ)
        for name, each in self.socket.items():
            each.connect(self.address(name))
        self.iopub = self.subscribe()

    def address(self, name):
        separator = ":" if self.info["transport"] == "tcp" else "-"
        return f"{self.info['transport']}://{self.info['ip']}{separator}{self.info[name + '_port']}"

    def subscribe(self, topic=b"", welcome=True):
        socket = self.context.socket(zmq.SUB)
        socket.subscribe(topic)
        socket.connect(self.address("iopub"))
        if welcome:
            assert self.parse(self.receive(socket))["msg_type"] == "iopub_welcome"
        return socket

    def close(self):
        self.context.destroy(linger=0)

    def sign(self, parts):
        mac = hmac.new(self.key, digestmod=hashlib.sha256)
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode()

    def parts(self, msg_type, content, **header):
        header = {"msg_id": uuid.uuid4().hex, "session": "s", "username": "u", "version": "5.5",
                  "date": "2026-01-01T00:00:00Z", "msg_type": msg_type, **header}
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        return [json.dumps(header).encode(), b"{}", b"{}", content]

    def send(self, channel, parts, signature=None, before=(), buffers=()):
        signature = self.sign(parts) if signature is None else signature
        self.socket[channel].send_multipart([*before, b"<IDS|MSG>", signature, *parts, *buffers])
        return json.loads(parts[0])["msg_id"]

    def receive(self, socket, timeout=conftest.TIMEOUT):
        assert socket.poll(timeout * 1000), "nothing came"
        return socket.recv_multipart()

    def parse(self, frames):
        at = frames.index(b"<IDS|MSG>")
        signature, *parts = frames[at + 1 : at + 6]
        assert signature == self.sign(parts)
        header, parent, metadata, content = map(json.loads, parts)
        return {"identities": frames[:at], "header": header, "parent_header": parent,
                "metadata": metadata, "content": content, "msg_type": header["msg_type"],
                "buffers": frames[at + 6 :], "raw_parent": parts[1]}

    def until_idle(self, msg_id, socket=None):
        """All iopub messages of a request."""
        out = []
        while True:
            m = self.parse(self.receive(socket or self.iopub))
            if m["parent_header"].get("msg_id") == msg_id:
                out.append(m)
                if m["content"].get("execution_state") == "idle":
                    return out

    def ask(self, msg_type, content, channel="shell", **options):
        msg_id = self.send(channel, self.parts(msg_type, content), **options)
        reply = self.parse(self.receive(self.socket[channel]))
        assert reply["parent_header"]["msg_id"] == msg_id
        return reply, self.until_idle(msg_id)

    def nothing_comes(self, seconds=0.4):
        time.sleep(seconds)
        return not any(s.poll(0) for s in (self.iopub, self.socket["shell"], self.socket["control"]))

    def works(self):
        reply, _ = self.ask("execute_request", {"code": "1"})
        return reply["content"]["status"] == "ok"


@pytest.fixture
def wire(kernel):
    w = Wire(kernel)
    yield w
    w.close()


@pytest.mark.parametrize("extra", [[], [b"a"], [b"a", b"b", b"\x00\xff"]], ids=len)
def test_01_any_number_of_identities_is_echoed(wire, extra):
    reply, _ = wire.ask("kernel_info_request", {}, before=extra)
    assert reply["identities"] == extra


@pytest.mark.parametrize("make", [
    lambda good: b"", lambda good: b"0", lambda good: good[:63], lambda good: good + b"0",
    lambda good: good.upper(), lambda good: b"z" * 64, lambda good: b"0" * 64,
], ids=["empty", "one", "63", "65", "upper", "no hex", "zeros"])
def test_02_a_bad_signature_is_dropped(wire, make):
    parts = wire.parts("execute_request", {"code": "1"})
    wire.send("shell", parts, signature=make(wire.sign(parts)))
    assert wire.nothing_comes()
    assert wire.works()


def test_03_a_forgery_with_a_genuine_signature_blocks_nothing(wire):
    genuine = wire.parts("execute_request", {"code": "7"})
    forged = [*genuine[:3], b'{"code": "8"}']
    wire.send("shell", forged, signature=wire.sign(genuine))
    msg_id = wire.send("shell", genuine)
    assert wire.parse(wire.receive(wire.socket["shell"]))["content"]["status"] == "ok"
    assert any(m["content"].get("data", {}).get("text/plain") == "7" for m in wire.until_idle(msg_id))


def test_04_a_replay_is_ignored(wire):
    parts = wire.parts("execute_request", {"code": "1"})
    msg_id = wire.send("shell", parts)
    wire.receive(wire.socket["shell"])
    wire.until_idle(msg_id)
    wire.send("shell", parts)
    assert wire.nothing_comes()


@pytest.mark.parametrize("scheme", ["md5", "sha1", "sha224", "sha256", "sha384", "sha512"])
def test_06_every_scheme_in_use_works(tmp_path, scheme):
    key = b"k" * 100
    with Started(tmp_path, {"signature_scheme": f"hmac-{scheme}", "key": key.decode()}) as info:
        check_by_hand(info, lambda parts: sign_with(key, scheme, parts))


def test_05_an_empty_key_means_no_signatures(tmp_path):
    with Started(tmp_path, {"key": ""}) as info:
        check_by_hand(info, lambda parts: b"")


def sign_with(key, scheme, parts):
    mac = hmac.new(key, digestmod=scheme)
    for part in parts:
        mac.update(part)
    return mac.hexdigest().encode()


def check_by_hand(info, sign):
    """One kernel_info exchange over a socket of our own."""
    context = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.connect(f"tcp://127.0.0.1:{info['shell_port']}")
        header = {"msg_id": "1", "session": "s", "username": "u", "version": "5.5",
                  "date": "2026-01-01T00:00:00Z", "msg_type": "kernel_info_request"}
        parts = [json.dumps(header).encode(), b"{}", b"{}", b"{}"]
        socket.send_multipart([b"<IDS|MSG>", sign(parts), *parts])
        assert socket.poll(conftest.TIMEOUT * 1000)
        frames = socket.recv_multipart()
        assert frames[1] == sign(frames[2:6])
        assert json.loads(frames[5])["status"] == "ok"
    finally:
        context.destroy(linger=0)


class Started:
    """`husk kernel` with a connection file made here."""

    def __init__(self, tmp_path, fields):
        taken = [socket.socket() for _ in range(5)]
        for s in taken:
            s.bind(("127.0.0.1", 0))
        ports = [s.getsockname()[1] for s in taken]
        for s in taken:
            s.close()
        names = ["shell", "iopub", "stdin", "control", "hb"]
        self.info = {"transport": "tcp", "ip": "127.0.0.1", "signature_scheme": "hmac-sha256",
                     **{f"{n}_port": p for n, p in zip(names, ports)}, **fields}
        self.file = tmp_path / "by-hand.json"
        self.file.write_text(json.dumps(self.info))
        self.cwd = tmp_path / "cwd"
        self.cwd.mkdir()

    def __enter__(self):
        self.process = subprocess.Popen(
            [conftest.HUSK, "kernel", "--python", conftest.PYTHON, "-f", str(self.file)],
            cwd=self.cwd)
        return self.info

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(conftest.TIMEOUT)


@pytest.mark.parametrize("frames", [
    [b""], [b"x"], [b"<IDS|MSG>"], [b"<IDS|MSG>", b"sig"], [b"<IDS|MSG>", b"0" * 64, b"{}"],
    [b"<IDS|MSG>"] * 7, [b"\xff" * 1000] * 20,
], ids=range(7))
def test_07_truncated_multiparts_leave_the_connection_up(wire, frames):
    wire.socket["shell"].send_multipart(frames)
    assert wire.works()


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b'"text"', b'{"code": "1"', b'{"code": "\xff"}', b'{"code": NaN}',
    b'{"code":' + b"[" * 10000 + b"]" * 10000 + b"}", b"\x00", b'{"code": "\\ud8"}',
], ids=range(11))
def test_07_content_that_is_no_object_gets_an_error_and_idle(wire, content):
    reply, messages = wire.ask("execute_request", content)
    assert reply["content"]["status"] == "error" and reply["content"]["ename"] == "InvalidRequest"
    assert isinstance(reply["content"]["execution_count"], int)
    assert [m["msg_type"] for m in messages] == ["status", "status"]
    assert wire.works()


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("bytes_", [b"", b"{", b"[]", b"\xff", b"[" * 10000 + b"]" * 10000], ids=range(5))
def test_07_a_header_that_is_no_object_is_dropped(wire, part, bytes_):
    parts = wire.parts("execute_request", {"code": "1"})
    parts[part] = bytes_
    wire.socket["shell"].send_multipart([b"<IDS|MSG>", wire.sign(parts), *parts])
    assert wire.works()


def test_07_a_cell_of_100_megabytes_runs(wire):
    code = "#" * (100 << 20) + "\n'done'"
    reply, messages = wire.ask("execute_request", {"code": code, "silent": True})
    assert reply["content"]["status"] == "ok"
    assert wire.works()


@pytest.mark.parametrize("code, value", [
    ("'\U0001f600'", "'\U0001f600'"), ("'\\u2028'", "'\\u2028'"), ("chr(0)", "'\\x00'"),
    ("'\ud800'", "'\\ud800'"), ("'\x00'", None),
], ids=["non-BMP", "line separator", "NUL in a value", "lone surrogate", "NUL in the code"])
def test_08_odd_text_comes_back_or_is_refused_in_words(wire, code, value):
    reply, messages = wire.ask("execute_request", {"code": code})
    found = [m["content"]["data"]["text/plain"] for m in messages if m["msg_type"] == "execute_result"]
    assert found == ([value] if value else []) or reply["content"]["status"] == "error"
    assert wire.works()


def test_08_nan_and_surrogates_in_displays_are_valid_json(wire):
    code = ("from IPython.display import display\n"
            "display({'application/json': {'x': float('nan'), 's': '\\ud800'}}, raw=True)\n"
            "print('\\ud800')")
    reply, messages = wire.ask("execute_request", {"code": code})
    assert reply["content"]["status"] == "ok"
    assert any(m["msg_type"] == "display_data" for m in messages)


def test_10_one_session_unique_ids_dates_with_a_zone_and_one_version(wire):
    _, messages = wire.ask("execute_request", {"code": "for i in range(300): display(i)"})
    reply, more = wire.ask("kernel_info_request", {}, channel="control")
    headers = [m["header"] for m in [*messages, *more, reply]]
    assert len({h["session"] for h in headers}) == 1
    assert len({h["msg_id"] for h in headers}) == len(headers)
    assert {h["version"] for h in headers} == {reply["content"]["protocol_version"]}
    for h in headers:
        assert datetime.datetime.fromisoformat(h["date"].replace("Z", "+00:00")).tzinfo


def test_11_the_parent_is_the_header_as_it_came(wire):
    parts = wire.parts("execute_request", {"code": "print(1)"}, custom={"deep": [1.50, "\u00e9"]})
    parts[0] = parts[0].replace(b", ", b" ,  ")
    msg_id = wire.send("shell", parts)
    reply = wire.parse(wire.receive(wire.socket["shell"]))
    assert {reply["raw_parent"], *(m["raw_parent"] for m in wire.until_idle(msg_id))} == {parts[0]}


def test_12_a_client_that_reconnects_with_its_identity_takes_over(kernel):
    first = Wire(kernel, identity=b"same")
    assert first.works()
    second = Wire(kernel, identity=b"same")
    try:
        assert second.works()
        assert second.ask("kernel_info_request", {}, channel="control")[0]["content"]["status"] == "ok"
    finally:
        first.close()
        second.close()


def test_13_14_heartbeat_and_control_answer_while_a_cell_holds_the_gil(make_kernel):
    kernel = make_kernel()
    wire = Wire(kernel)
    try:
        wire.send("shell", wire.parts("execute_request", {"code": "print('go'); sum(range(10**13))"}))
        while wire.parse(wire.receive(wire.iopub))["msg_type"] != "stream":
            pass
        time.sleep(0.5)  # now it is inside sum(), which looks at no signal
        taken = {"hb": [], "kernel_info_request": [], "interrupt_request": []}
        for i in range(9):
            began = time.monotonic()
            wire.socket["hb"].send(b"ping%d" % i)
            assert wire.receive(wire.socket["hb"]) == [b"ping%d" % i]
            taken["hb"].append(time.monotonic() - began)
            for request in ("kernel_info_request", "interrupt_request"):
                began = time.monotonic()
                wire.send("control", wire.parts(request, {}))
                assert wire.parse(wire.receive(wire.socket["control"]))["content"]["status"] == "ok"
                taken[request].append(time.monotonic() - began)
        assert all(statistics.median(t) < 0.05 for t in taken.values()), taken
        assert not wire.socket["shell"].poll(0), "the cell was to be still running"
    finally:
        wire.close()


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_15_busy_first_idle_last_one_reply(wire, request_, channel):
    content, reply_type = REQUESTS[request_]
    reply, messages = wire.ask(request_, content, channel=channel)
    assert reply["msg_type"] == reply_type
    states = [m["content"]["execution_state"] for m in messages if m["msg_type"] == "status"]
    assert states == ["busy", "idle"] and messages[0]["msg_type"] == "status"
    assert wire.nothing_comes(0.1)


@pytest.mark.parametrize("request_, content",
                         [(r, c) for r, all_ in MALFORMED.items() for c in all_], ids=str)
def test_16_malformed_content_gets_an_error_reply_and_idle(wire, request_, content):
    reply, messages = wire.ask(request_, content)
    assert reply["msg_type"] == REQUESTS[request_][1]
    assert reply["content"]["status"] == "error" and reply["content"]["evalue"]
    assert [m["msg_type"] for m in messages] == ["status", "status"]


def test_17_an_unknown_type_gets_busy_and_idle_and_no_reply(wire):
    msg_id = wire.send("shell", wire.parts("make_coffee_request", {}))
    assert len(wire.until_idle(msg_id)) == 2
    assert wire.nothing_comes(0.2) and wire.works()


def test_18_an_unknown_subshell_gets_an_error(wire):
    parts = wire.parts("execute_request", {"code": "1"}, subshell_id="nowhere")
    msg_id = wire.send("shell", parts)
    assert wire.parse(wire.receive(wire.socket["shell"]))["content"]["status"] == "error"
    wire.until_idle(msg_id)


def test_18_subshell_null_is_the_main_shell(wire):
    wire.send("shell", wire.parts("execute_request", {"code": "1"}, subshell_id=None))
    assert wire.parse(wire.receive(wire.socket["shell"]))["content"]["status"] == "ok"


STOPPED = """
import sys, zmq
s = zmq.Context().socket(zmq.SUB)
s.subscribe(b"")
s.connect(sys.argv[1])
s.recv_multipart()
print("there", flush=True)
sys.stdin.read()
"""


def test_23_a_stopped_subscriber_does_not_stop_the_others(make_kernel):
    """A process that is stopped: its kernel's buffers fill, then husk's queue for it."""
    wire = Wire(make_kernel())
    other = subprocess.Popen([sys.executable, "-c", STOPPED, wire.address("iopub")],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"there\n"
        os.kill(other.pid, signal.SIGSTOP)
        # more than husk keeps for all subscribers together
        code = "from IPython.display import display\nfor i in range(400): display('x' * (1 << 20))"
        wire.until_idle(wire.send("shell", wire.parts("execute_request", {"code": code})))
        assert wire.parse(wire.receive(wire.socket["shell"]))["content"]["status"] == "ok"
        assert wire.works() and wire.works()
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
        wire.close()


def test_24_every_subscriber_is_welcomed_first_also_under_load(kernel):
    wire = Wire(kernel)
    try:
        msg_id = wire.send("shell", wire.parts("execute_request", {
            "code": "import time\nend=time.time()+4\nwhile time.time()<end: print('x'); time.sleep(.0005)"}))
        for i in range(40):
            socket = wire.subscribe(welcome=False)
            first = wire.parse(wire.receive(socket))
            assert first["msg_type"] == "iopub_welcome" and first["content"]["subscription"] == ""
            socket.close()
        wire.until_idle(msg_id)
    finally:
        wire.close()


def test_24_a_subscriber_of_a_topic_is_welcomed_too(wire):
    socket = wire.subscribe(b"kernel.", welcome=False)
    frames = wire.receive(socket)
    assert frames[0] == b"kernel."
    assert wire.parse(frames)["content"] == {"subscription": "kernel."}


def test_25_nothing_is_said_while_idle(wire):
    assert wire.works() and wire.nothing_comes(1)


def test_57_the_ipc_transport_works_and_its_files_are_private(make_kernel):
    kernel = make_kernel(transport="ipc")
    assert kernel.run("6 * 7").value == "42"
    base = kernel.manager.ip
    for port in (kernel.manager.shell_port, kernel.manager.iopub_port):
        mode = os.stat(f"{base}-{port}").st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) & 0o077 == 0


def test_59_only_five_ports_listen(kernel):
    wanted = {kernel.manager.get_connection_info()[f"{n}_port"]
              for n in ("shell", "iopub", "stdin", "control", "hb")}
    inodes = set()
    for fd in os.listdir(f"/proc/{kernel.pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{kernel.pid}/fd/{fd}"))
        except OSError:
            pass
    listening = set()
    for line in open("/proc/net/tcp").readlines()[1:]:
        field = line.split()
        if field[3] == "0A" and f"socket:[{field[9]}]" in inodes:
            listening.add(int(field[1].split(":")[1], 16))
    assert listening == wanted
