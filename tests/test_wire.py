# SPDX-License-Identifier: BSD-3-Clause
"""The five sockets, byte by byte: identities, signatures, broken messages, replies, subscribers.

Nothing of jupyter_client is between these tests and the bytes.
"""

import collections
import datetime
import hmac
import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import time
import uuid

import conftest
import pytest
import zmq

DELIMITER = b"<IDS|MSG>"
CHANNELS = ("shell", "control", "iopub", "stdin", "hb")
KEY = "a0436f6c-1916-498b-8eb9-e81ab9368e84"
TIMEOUT = 60
HANGS = "print('running'); sum(range(10 ** 13))"  # in C, holding the GIL, for days

Message = collections.namedtuple("Message", "identities signature header parent metadata content buffers")
Answer = collections.namedtuple("Answer", "replies iopub")


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def connection(directory, key=KEY, scheme="hmac-sha256", transport="tcp"):
    tcp = transport == "tcp"
    return {
        "transport": transport, "ip": "127.0.0.1" if tcp else f"{directory}/ipc", "key": key,
        "signature_scheme": scheme, "kernel_name": "husk",
        **{f"{c}_port": p for c, p in zip(CHANNELS, free_ports(5) if tcp else range(1, 6))},
    }


class Husk:
    """A supervisor, started as a client starts it."""

    def __init__(self, directory, *options, **changes):
        directory.mkdir(exist_ok=True)
        self.connection = changes.pop("connection", None) or connection(directory, **changes)
        self.log = directory / "log"
        self.file = directory / "kernel.json"
        self.file.write_text(json.dumps(self.connection))
        self.file.chmod(0o600)
        work = directory / "work"
        work.mkdir(exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [conftest.HUSK, "kernel", "--python", conftest.PYTHON, "-f", self.file, *options],
                cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "JPY_PARENT_PID": str(os.getpid())},
            )

    def address(self, channel):
        c = self.connection
        return f"{c['transport']}://{c['ip']}{':' if c['transport'] == 'tcp' else '-'}{c[channel + '_port']}"

    def stop(self):
        self.process.kill()
        self.process.wait(TIMEOUT)


class Client:
    """Raw sockets of one client. What comes on a channel is kept: all of it, and by request."""

    def __init__(self, husk, identity=None):
        self.husk = husk
        self.key = husk.connection["key"].encode()
        self.digest = husk.connection["signature_scheme"].removeprefix("hmac-")
        self.session = uuid.uuid4().hex
        self.identity = identity or self.session.encode()
        self.context = zmq.Context()
        self.seen = {c: [] for c in CHANNELS}
        self.about = {c: collections.defaultdict(list) for c in CHANNELS}
        self.socket = {}
        for channel in CHANNELS:
            s = self.context.socket({"iopub": zmq.SUB, "hb": zmq.REQ}.get(channel, zmq.DEALER))
            s.linger = 0
            s.rcvhwm = 0
            if s.type == zmq.DEALER:
                s.routing_id = self.identity
            if s.type == zmq.SUB:
                s.subscribe(b"")
            s.connect(husk.address(channel))
            self.socket[channel] = s
        self.wait(lambda: self.seen["iopub"])

    def close(self):
        self.context.destroy(linger=0)

    # --- making

    def sign(self, parts):
        return hmac.new(self.key, b"".join(parts), self.digest).hexdigest().encode() if self.key else b""

    def header(self, msg_type, **more):
        return {
            "msg_id": uuid.uuid4().hex, "msg_type": msg_type, "session": self.session, "username": "me",
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(), "version": "5.5", **more,
        }

    def frames(self, msg_type, content=None, header=None, parent=None, metadata=None):
        """Signed frames from the delimiter on. Bytes are taken as they are."""
        parts = [header or self.header(msg_type), parent or {}, metadata or {}, content or {}]
        parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in parts]
        return [DELIMITER, self.sign(parts), *parts]

    def send(self, channel, msg_type, content=None, before=(), buffers=(), **more):
        """Sends a request; returns its header."""
        header = more.setdefault("header", self.header(msg_type))
        frames = self.frames(msg_type, content, **more)
        self.socket[channel].send_multipart([*before, *frames, *buffers])
        return header

    # --- hearing

    def read(self, frames):
        at = frames.index(DELIMITER)
        signature, parts = frames[at + 1], frames[at + 2 : at + 6]
        assert signature == self.sign(parts)
        return Message(frames[:at], signature, *map(json.loads, parts), frames[at + 6 :])

    def hear(self, seconds):
        """Takes what comes on any channel within the time, or what is there."""
        poller = zmq.Poller()
        for channel in ("shell", "control", "iopub", "stdin"):
            poller.register(self.socket[channel], zmq.POLLIN)
        ready = dict(poller.poll(seconds * 1000))
        for channel, s in self.socket.items():
            if s in ready:
                message = self.read(s.recv_multipart())
                self.seen[channel].append(message)
                self.about[channel][message.parent.get("msg_id")].append(message)
        return bool(ready)

    def wait(self, condition, timeout=TIMEOUT):
        end = time.monotonic() + timeout
        while not condition():
            if not self.hear(1):
                assert self.husk.process.poll() is None, self.husk.log.read_text()
            assert time.monotonic() < end, f"no answer; log: {self.husk.log.read_text()}"

    def of(self, channel, header):
        return self.about[channel][header["msg_id"]]

    def is_idle(self, header):
        last = self.of("iopub", header)[-1:]
        return bool(last) and last[0].content.get("execution_state") == "idle"

    def answer(self, channel, header, replies=1):
        """Everything that a request brought. A second request makes sure that no more comes."""
        self.wait(lambda: self.is_idle(header) and len(self.of(channel, header)) >= replies)
        self.fence(channel)
        return Answer(self.of(channel, header), self.of("iopub", header))

    def fence(self, channel="shell"):
        """What the supervisor had to say before this is in `seen` afterwards."""
        header = self.send(channel, "kernel_info_request")
        self.wait(lambda: self.is_idle(header) and self.of(channel, header))
        return header

    def ask(self, channel, msg_type, content=None, replies=1, **more):
        return self.answer(channel, self.send(channel, msg_type, content, **more), replies)

    def is_ignored(self, channel, frames):
        """True if these frames bring nothing, and the next request works."""
        before = {c: len(self.seen[c]) for c in CHANNELS}
        self.socket[channel].send_multipart(frames)
        header = self.fence(channel)
        return all(
            m.parent.get("msg_id") == header["msg_id"]
            for c in CHANNELS for m in self.seen[c][before[c] :]
        )

    def running(self, code, **more):
        """Sends a cell that prints; returns when it does."""
        header = self.send("shell", "execute_request", {"code": code, **more})
        self.wait(lambda: self.of("iopub", header)[-1:] and self.of("iopub", header)[-1].header["msg_type"] == "stream")
        return header

    def ping(self, data):
        self.socket["hb"].send(data)
        assert self.socket["hb"].poll(TIMEOUT * 1000)
        return self.socket["hb"].recv()


def states(answer):
    return [m.content["execution_state"] for m in answer.iopub if m.header["msg_type"] == "status"]


def check_complete(answer, reply):
    """Busy first, idle last, each once; one reply, or none where the type has none."""
    assert states(answer) == ["busy", "idle"]
    assert [m.header["msg_type"] for m in answer.iopub[::len(answer.iopub) - 1]] == ["status", "status"]
    assert [m.header["msg_type"] for m in answer.replies] == ([reply] if reply else [])


@pytest.fixture
def start(tmp_path):
    """start(...) -> Husk, start.client(husk, ...) -> Client; all end with the test."""
    made = []

    def husk(*options, **arguments):
        made.append(Husk(tmp_path / f"husk{len(made)}", *options, **arguments))
        return made[-1]

    def client(husk, **arguments):
        made.append(None)
        c = Client(husk, **arguments)
        made[-1] = c
        return c

    husk.client = client
    yield husk
    for thing in reversed(made):
        if isinstance(thing, Client):
            thing.close()
    for thing in made:
        if isinstance(thing, Husk):
            thing.stop()


@pytest.fixture(scope="module")
def husk(tmp_path_factory):
    h = Husk(tmp_path_factory.mktemp("husk"))
    yield h
    h.stop()


@pytest.fixture
def client(husk):
    c = Client(husk)
    yield c
    c.close()


# --- identities


@pytest.mark.parametrize("before", [[], [b"a"], [b"", b"a", b"b" * 255]], ids=["0", "1", "3"])
@pytest.mark.parametrize("channel", ["shell", "control"])
def test_identities_come_back_as_they_were_sent(client, channel, before):
    answer = client.ask(channel, "kernel_info_request", before=before)
    assert answer.replies[0].identities == before


def test_identities_come_back_from_the_interpreter_too(client):
    answer = client.ask("shell", "execute_request", {"code": "1"}, before=[b"x", b"", b"y"])
    assert answer.replies[0].identities == [b"x", b"", b"y"]


def test_a_delimiter_is_an_exact_frame(client):
    answer = client.ask("shell", "kernel_info_request", before=[DELIMITER + b"!", b"<IDS|MSG"])
    assert answer.replies[0].identities == [DELIMITER + b"!", b"<IDS|MSG"]


# --- signatures

BAD_SIGNATURES = {
    "wrong": lambda s: bytes(reversed(s)),
    "one digit wrong": lambda s: s[:-1] + (b"0" if s[-1:] != b"0" else b"1"),
    "empty": lambda s: b"",
    "1 byte": lambda s: s[:1],
    "63 bytes": lambda s: s[:-1],
    "65 bytes": lambda s: s + b"0",
    "very long": lambda s: s * 1000,
    "with a newline": lambda s: s + b"\n",
    "with a NUL": lambda s: s[:-1] + b"\0",
    "upper case": lambda s: s.upper(),
    "no hex": lambda s: b"z" * len(s),
    "raw digest": lambda s: bytes.fromhex(s.decode()),
}


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("change", BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
def test_a_bad_signature_is_dropped_and_logged(client, channel, change):
    frames = client.frames("execute_request", {"code": "1"})
    frames[1] = change(frames[1])
    before = client.husk.log.read_text().count("\n")
    assert client.is_ignored(channel, frames)
    assert len(client.husk.log.read_text().splitlines()[before:]) == 1


@pytest.mark.parametrize("part", range(4), ids=["header", "parent", "metadata", "content"])
def test_every_part_is_signed(client, part):
    frames = client.frames("execute_request", {"code": "1"})
    frames[2 + part] += b" "
    assert client.is_ignored("shell", frames)


def test_a_forged_signature_does_not_block_the_genuine_message(client):
    header = client.header("kernel_info_request")
    genuine = client.frames("kernel_info_request", header=header)
    assert client.is_ignored("shell", [*genuine[:-1], b'{"forged": true}'])
    client.socket["shell"].send_multipart(genuine)
    check_complete(client.answer("shell", header), "kernel_info_reply")


@pytest.mark.parametrize("again", ["shell", "control"])
def test_a_replay_is_ignored_on_every_channel(client, again):
    header = client.header("execute_request")
    frames = client.frames("execute_request", {"code": "1"}, header=header)
    client.socket["shell"].send_multipart(frames)
    client.answer("shell", header)
    assert client.is_ignored(again, frames)


def test_an_empty_key_means_no_signatures(start):
    client = start.client(start(key=""))
    answer = client.ask("shell", "execute_request", {"code": "6 * 7"})
    check_complete(answer, "execute_reply")
    assert {m.signature for m in answer.iopub + answer.replies} == {b""}


@pytest.mark.parametrize("digest", ["md5", "sha1", "sha224", "sha256", "sha384", "sha512"])
def test_a_signature_scheme_works(start, digest):
    client = start.client(start(scheme=f"hmac-{digest}"))
    assert client.ask("shell", "kernel_info_request").replies[0].content["status"] == "ok"
    assert client.is_ignored("shell", client.frames("x")[:1] + [b"0" * 64] + client.frames("x")[2:])


@pytest.mark.parametrize("key", ["k", "k" * 64, "k" * 65, "k" * 1000, "schl\u00fcssel", 'quo"te\\'])
def test_a_key_may_have_any_length_and_characters(start, key):
    assert start.client(start(key=key)).ask("shell", "kernel_info_request").replies


@pytest.mark.parametrize("scheme", ["hmac-nonsense", "sha256", "hmac-", "", "hmac-shake_128"])
def test_an_unknown_scheme_ends_in_one_clear_line(start, scheme):
    husk = start(scheme=scheme)
    assert husk.process.wait(TIMEOUT) != 0
    lines = husk.log.read_text().splitlines()
    assert len(lines) == 1 and "scheme" in lines[0]


# --- broken messages

SHAPES = {
    "one empty frame": lambda f: [b""],
    "one long frame": lambda f: [b"x" * 10_000_000],
    "only a delimiter": lambda f: f[:1],
    "no delimiter": lambda f: f[1:],
    "no signature": lambda f: f[:1] + f[2:],
    "no content": lambda f: f[:-1],
    "ten thousand frames": lambda f: [b""] * 10_000,
    "two delimiters": lambda f: f[:1] + f,
}


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)
def test_a_broken_shape_is_dropped(client, channel, change):
    frames = change(client.frames("kernel_info_request"))
    if channel == "stdin":
        client.socket["stdin"].send_multipart(frames)
        client.fence()
        assert not client.seen["stdin"]
    else:
        assert client.is_ignored(channel, frames)


def object_of(*members):
    return b"{" + b", ".join(members) + b"}"


GOOD_HEADER = object_of(b'"msg_id": "1"', b'"msg_type": "kernel_info_request"')
BAD_HEADERS = {
    "nothing": b"",
    "no object": b"[]",
    "cut": GOOD_HEADER[:-1],
    "something after it": GOOD_HEADER + b"{}",
    "invalid UTF-8": object_of(b'"msg_id": "\xff"', b'"msg_type": "kernel_info_request"'),
    "no msg_id": object_of(b'"msg_type": "kernel_info_request"'),
    "no msg_type": object_of(b'"msg_id": "1"'),
    "a number as msg_id": object_of(b'"msg_id": 1', b'"msg_type": "kernel_info_request"'),
    "NaN": object_of(b'"msg_id": "1"', b'"msg_type": "kernel_info_request"', b'"x": NaN'),
    "10,000 deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_broken_header_is_dropped(client, header):
    parts = [header, b"{}", b"{}", b"{}"]
    assert client.is_ignored("shell", [DELIMITER, client.sign(parts), *parts])


BAD_CONTENTS = {
    "nothing": b"",
    "cut": b'{"code": "1"',
    "an array": b"[]",
    "a string": b'"code"',
    "null": b"null",
    "invalid UTF-8": b'{"code": "\xff\xfe"}',
    "an overlong character": b'{"code": "\xc0\xaf"}',
    "a raw control character": b'{"code": "\x01"}',
    "10,000 arrays deep": b'{"code": "1", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "10,000 objects deep": b'{"code": "1", "x": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
}


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("content", BAD_CONTENTS.values(), ids=BAD_CONTENTS)
def test_broken_content_gets_an_error_reply(client, channel, content):
    header = client.header("execute_request")
    parts = [json.dumps(header).encode(), b"{}", b"{}", content]
    client.socket[channel].send_multipart([DELIMITER, client.sign(parts), *parts])
    answer = client.answer(channel, header)
    check_complete(answer, "execute_reply")
    assert answer.replies[0].content["status"] == "error"
    assert client.ask("shell", "execute_request", {"code": "1"}).replies[0].content["status"] == "ok"


def test_a_cell_of_100_mb_runs(client):
    code = "x = '" + "a" * 100_000_000 + "'"
    assert client.ask("shell", "execute_request", {"code": code}).replies[0].content["status"] == "ok"
    answer = client.ask("shell", "execute_request", {"code": "print(len(x)); del x, In[-2]"})
    assert any(m.content.get("text") == "100000000\n" for m in answer.iopub)


ODD_TEXTS = {
    "non-BMP": "\U0001f600", "NUL": "\0", "line separators": "\u2028\u2029\x85", "1 MB line": "x" * 1_000_000,
    "quotes": "\"\\/\b\f\n\r\t'", "combining": "e\u0301", "noncharacter": "\uffff",
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_odd_text_comes_back_as_it_went(client, text):
    answer = client.ask("shell", "execute_request", {"code": f"print({text!r}, end='')"})
    assert "".join(m.content["text"] for m in answer.iopub if m.header["msg_type"] == "stream") == text


@pytest.mark.parametrize("escape", [rb"\ud800", rb"\udfff", rb"\ud800\ud800", rb"\udc00\ud800"])
def test_a_lone_surrogate_in_code_is_no_disaster(client, escape):
    header = client.header("execute_request")
    client.send("shell", "execute_request", b'{"code": "len(\'' + escape + b'\')"}', header=header)
    check_complete(client.answer("shell", header), "execute_reply")
    assert client.ask("shell", "execute_request", {"code": "1"}).replies[0].content["status"] == "ok"


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "{'a': [float('-inf')]}", "10 ** 400",
                                   "'\\ud800'", "{1: 2}", "b'x'", "{1, 2}", "object()"])
def test_display_data_is_json_whatever_is_in_it(client, value):
    code = f"get_ipython().display_pub.publish({{'application/json': {value}, 'text/plain': 'x'}})"
    answer = client.ask("shell", "execute_request", {"code": code})
    (shown,) = [m for m in answer.iopub if m.header["msg_type"] == "display_data"]
    assert shown.content["data"]["text/plain"] == "x"
    json.dumps(shown.content, allow_nan=False)


# --- what husk says of itself


def test_all_messages_carry_one_session_one_version_unique_ids_and_a_date(start):
    client = start.client(start())
    info = client.ask("control", "kernel_info_request").replies[0].content
    client.ask("shell", "execute_request", {"code": "print(1); display(2); 3"})
    client.ask("shell", "execute_request", {"code": "1/0"})
    client.ask("shell", "comm_open", {"comm_id": "1", "target_name": "none", "data": {}}, replies=0)
    header = client.send("shell", "execute_request", {"code": "input()", "allow_stdin": True})
    client.wait(lambda: client.seen["stdin"])
    client.send("stdin", "input_reply", {"value": "x"}, parent=client.seen["stdin"][0].header)
    client.answer("shell", header)
    for _ in range(2000):
        client.send("shell", "kernel_info_request")
    client.fence()
    client.ask("control", "shutdown_request", {"restart": False}) if False else None
    headers = [m.header for c in client.seen.values() for m in c]
    assert len(headers) > 6000
    assert len({h["session"] for h in headers}) == 1 and headers[0]["session"]
    assert {h["version"] for h in headers} == {info["protocol_version"]}
    assert len({h["msg_id"] for h in headers}) == len(headers)
    assert all(datetime.datetime.fromisoformat(h["date"].replace("Z", "+00:00")).tzinfo for h in headers)
    assert all(isinstance(h["username"], str) for h in headers)


def test_the_kernelspec_says_the_same_version(client, tmp_path):
    spec = json.loads((conftest.spec_directory(tmp_path) / "husk" / "kernel.json").read_text())
    info = client.ask("shell", "kernel_info_request").replies[0].content
    assert spec["kernel_protocol_version"].startswith(info["protocol_version"])


def test_a_restarted_kernel_has_a_new_session_at_the_old_addresses(start):
    first = start()
    one = start.client(first).ask("shell", "kernel_info_request").replies[0]
    first.stop()
    two = start.client(start(connection=first.connection)).ask("shell", "kernel_info_request").replies[0]
    assert one.header["session"] != two.header["session"]


@pytest.mark.parametrize("msg_type", ["kernel_info_request", "execute_request"])
def test_parent_header_is_the_header_of_the_request(client, msg_type):
    header = client.header(
        msg_type, subshell_id=None, unknown={"deep": [1, 2.5, None, "\u00e9"]}, big=2**80, extra="\\u"
    )
    answer = client.ask("shell", msg_type, {"code": "print(1); 2"}, header=header)
    assert len(answer.iopub) >= 2
    assert all(m.parent == header for m in answer.iopub + answer.replies)


def test_parent_header_is_the_bytes_of_the_request(client):
    raw = b'{ "msg_type" : "kernel_info_request",  "msg_id":"\\u0041odd-bytes", "x": 1e5}'
    client.socket["shell"].send_multipart(client.frames("", header=raw))
    assert client.socket["shell"].poll(TIMEOUT * 1000)
    assert client.socket["shell"].recv_multipart()[3] == raw


def test_connect_reply_tells_the_ports(client):
    content = client.ask("shell", "connect_request").replies[0].content
    assert all(content[f"{c}_port"] == client.husk.connection[f"{c}_port"] for c in CHANNELS)


def test_starting_comes_once_before_the_first_busy_and_without_parent(start):
    client = start.client(start())
    client.ask("shell", "execute_request", {"code": "1"})
    status = [m for m in client.seen["iopub"] if m.header["msg_type"] == "status"]
    assert [m.content["execution_state"] for m in status].count("starting") == 1
    assert status[0].content["execution_state"] == "starting" and status[0].parent == {}


def test_a_client_that_comes_later_sees_no_starting(client):
    client.ask("shell", "execute_request", {"code": "1"})
    assert all(m.content.get("execution_state") != "starting" for m in client.seen["iopub"])


def test_nothing_is_published_while_idle(client):
    client.ask("shell", "execute_request", {"code": "1"})
    before = len(client.seen["iopub"])
    end = time.monotonic() + 2
    while time.monotonic() < end:
        client.hear(0.1)
    assert len(client.seen["iopub"]) == before


# --- every request has an answer

COMM = {"comm_id": "c", "target_name": "t", "data": {}}
REQUESTS = {
    "execute_request": {"code": "1"},
    "complete_request": {"code": "pri", "cursor_pos": 3},
    "inspect_request": {"code": "print", "cursor_pos": 3, "detail_level": 0},
    "is_complete_request": {"code": "1"},
    "history_request": {"hist_access_type": "tail", "n": 3, "output": False, "raw": True},
    "comm_info_request": {},
    "kernel_info_request": {},
    "connect_request": {},
    "interrupt_request": {},
    "debug_request": {"type": "request", "seq": 1, "command": "debugInfo", "arguments": {}},
    "create_subshell_request": {},
    "delete_subshell_request": {"subshell_id": "x"},
    "list_subshell_request": {},
    "usage_request": {},
}
WITHOUT_REPLY = {"comm_open": COMM, "comm_msg": COMM, "comm_close": COMM, "no_such_request": {},
                 "execute_reply": {}, "abort_request": {}}


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("msg_type", REQUESTS)
def test_busy_reply_and_idle_come_exactly_once(client, channel, msg_type):
    answer = client.ask(channel, msg_type, REQUESTS[msg_type])
    check_complete(answer, msg_type.replace("request", "reply"))
    assert isinstance(answer.replies[0].content["status"], str)


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("msg_type", WITHOUT_REPLY)
def test_a_type_without_reply_has_busy_and_idle_once(client, channel, msg_type):
    check_complete(client.ask(channel, msg_type, WITHOUT_REPLY[msg_type], replies=0), None)


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("restart", [False, True])
def test_shutdown_is_answered_on_its_channel_and_on_iopub_and_ends_the_kernel(start, channel, restart):
    client = start.client(start())
    client.ask("shell", "execute_request", {"code": "1"})
    header = client.send(channel, "shutdown_request", {"restart": restart})
    client.wait(lambda: client.is_idle(header) and client.of(channel, header))
    assert client.husk.process.wait(TIMEOUT) == 0
    while client.hear(0.1):
        pass
    (reply,), iopub = client.of(channel, header), client.of("iopub", header)
    assert reply.content == {"status": "ok", "restart": restart}
    (told,) = [m for m in iopub if m.header["msg_type"] == "shutdown_reply"]
    assert told.content["restart"] is restart and told.header["msg_id"] != reply.header["msg_id"]
    check_complete(Answer([reply], iopub), "shutdown_reply")


def test_requests_on_both_channels_cross_without_loss(client):
    sent = [(c, client.send(c, "kernel_info_request")) for _ in range(500) for c in ("shell", "control")]
    cells = [client.send("shell", "execute_request", {"code": "1"}) for _ in range(100)]
    client.wait(lambda: all(client.is_idle(h) for h in cells[-1:]))
    client.fence("shell"), client.fence("control")
    count = collections.Counter(m.parent["msg_id"] for c in ("shell", "control") for m in client.seen[c])
    assert all(count[h["msg_id"]] == 1 for _, h in sent) and all(count[h["msg_id"]] == 1 for h in cells)


MALFORMED = [
    ("execute_request", {}),
    ("execute_request", {"code": 1}),
    ("execute_request", {"code": None}),
    ("execute_request", {"code": ["1"]}),
    ("execute_request", {"code": "1", "silent": "yes"}),
    ("execute_request", {"code": "1", "store_history": 3}),
    ("execute_request", {"code": "1", "allow_stdin": []}),
    ("execute_request", {"code": "1", "stop_on_error": "x"}),
    ("execute_request", {"code": "1", "user_expressions": ["x"]}),
    ("execute_request", {"code": "1", "user_expressions": {"x": 5}}),
    ("complete_request", {}),
    ("complete_request", {"code": 1, "cursor_pos": 0}),
    ("complete_request", {"code": "a", "cursor_pos": 2}),
    ("complete_request", {"code": "a", "cursor_pos": -1}),
    ("complete_request", {"code": "a", "cursor_pos": "0"}),
    ("complete_request", {"code": "a", "cursor_pos": 0.5}),
    ("complete_request", {"code": "\U0001f600", "cursor_pos": 2}),
    ("complete_request", {"code": "a", "cursor_pos": 2**70}),
    ("inspect_request", {}),
    ("inspect_request", {"code": "a"}),
    ("inspect_request", {"code": "a", "cursor_pos": 2}),
    ("inspect_request", {"code": "a", "cursor_pos": -1}),
    ("inspect_request", {"code": "a", "cursor_pos": 0, "detail_level": "x"}),
    ("inspect_request", {"code": None, "cursor_pos": 0}),
    ("is_complete_request", {}),
    ("is_complete_request", {"code": 1}),
    ("history_request", {}),
    ("history_request", {"hist_access_type": "other"}),
    ("history_request", {"hist_access_type": 1}),
    ("history_request", {"hist_access_type": "tail", "n": "x"}),
    ("history_request", {"hist_access_type": "range", "session": "x", "start": 0, "stop": 1}),
    ("history_request", {"hist_access_type": "search", "pattern": 5}),
    ("comm_info_request", {"target_name": 5}),
    ("shutdown_request", {"restart": "yes"}),
]


def name_of(case):
    return f"{case[0].removesuffix('_request')} {json.dumps(case[1])}"


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("case", MALFORMED, ids=name_of)
def test_malformed_content_gets_one_error_reply(client, channel, case):
    msg_type, content = case
    answer = client.ask(channel, msg_type, content)
    check_complete(answer, msg_type.replace("request", "reply"))
    assert answer.replies[0].content["status"] == "error"
    assert all(isinstance(answer.replies[0].content[k], str) for k in ("ename", "evalue"))
    assert isinstance(answer.replies[0].content["traceback"], list)


@pytest.mark.parametrize("case", [
    ("comm_open", {}), ("comm_open", {"comm_id": "x"}), ("comm_open", {"comm_id": 1, "target_name": "t"}),
    ("comm_msg", {}), ("comm_msg", {"comm_id": None}), ("comm_close", {}),
], ids=name_of)
def test_malformed_comm_messages_end_with_idle(client, case):
    check_complete(client.ask("shell", *case, replies=0), None)


@pytest.mark.parametrize("case", [
    ("inspect_request", {"code": "len", "cursor_pos": 3, "detail_level": None}),
    ("complete_request", {"code": "", "cursor_pos": 0}),
    ("execute_request", {"code": "", "user_expressions": None, "silent": None, "unknown": 1}),
    ("history_request", {"hist_access_type": "tail", "n": None}),
    ("comm_info_request", {"target_name": None}),
    ("kernel_info_request", {"unknown": [1]}),
], ids=name_of)
def test_null_means_the_default_and_unknown_fields_are_tolerated(client, case):
    assert client.ask("shell", *case).replies[0].content["status"] == "ok"


@pytest.mark.parametrize("msg_type", ["execute_request", "kernel_info_request", "comm_info_request"])
def test_an_unknown_subshell_is_an_error_and_not_silence(client, msg_type):
    header = client.header(msg_type, subshell_id="nowhere")
    answer = client.ask("shell", msg_type, REQUESTS[msg_type], header=header)
    check_complete(answer, msg_type.replace("request", "reply"))
    assert answer.replies[0].content["status"] == "error"


def test_a_subshell_id_of_null_is_the_main_shell(client):
    header = client.header("execute_request", subshell_id=None)
    answer = client.ask("shell", "execute_request", {"code": "1"}, header=header)
    assert answer.replies[0].content["status"] == "ok"


# --- a client that comes back


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_a_second_client_with_the_same_identity_takes_over(start, husk, channel):
    start.client(husk, identity=b"same").ask(channel, "kernel_info_request")
    for _ in range(5):
        answer = start.client(husk, identity=b"same").ask(channel, "kernel_info_request")
        assert answer.replies[0].content["status"] == "ok"


def test_a_second_client_with_the_same_identity_takes_over_stdin(start, husk):
    first = start.client(husk, identity=b"asks")
    first.ask("shell", "execute_request", {"code": "1"})
    second = start.client(husk, identity=b"asks")
    second.ask("shell", "execute_request", {"code": "1"})
    time.sleep(0.5)  # nothing is ever heard on stdin to tell that it is connected
    header = second.send("shell", "execute_request", {"code": "print(input('?'))", "allow_stdin": True})
    second.wait(lambda: second.seen["stdin"])
    second.send("stdin", "input_reply", {"value": "here"}, parent=second.seen["stdin"][0].header)
    answer = second.answer("shell", header)
    assert any(m.content.get("text") == "here\n" for m in answer.iopub)
    assert not first.hear(0) or not first.seen["stdin"]


def test_the_reply_to_a_client_that_has_gone_hurts_nobody(start, husk, client):
    gone = start.client(husk)
    header = gone.running("import time; print(1); time.sleep(1)")
    gone.close()
    client.wait(lambda: client.is_idle(header))
    assert client.ask("shell", "execute_request", {"code": "1"}).replies[0].content["status"] == "ok"


# --- while a cell holds the GIL


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """A client whose kernel is in C code that does not return, and the header of that cell."""
    h = Husk(tmp_path_factory.mktemp("hanging"))
    c = Client(h)
    header = c.running(HANGS)
    yield c, header
    assert not c.is_idle(header)  # so that what was tested was tested while it ran
    c.close()
    h.stop()


@pytest.mark.parametrize("data", [b"ping", b"", b"\0\xff" * 1000], ids=["ping", "empty", "odd"])
def test_the_heartbeat_echoes_while_a_cell_holds_the_gil(hanging, data):
    assert hanging[0].ping(data) == data


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("msg_type", ["kernel_info_request", "interrupt_request", "history_request"])
def test_the_supervisor_answers_while_a_cell_holds_the_gil(hanging, channel, msg_type):
    client, header = hanging
    answer = client.ask(channel, msg_type, REQUESTS[msg_type])
    check_complete(answer, msg_type.replace("request", "reply"))
    assert answer.replies[0].content["status"] == "ok"
    assert not client.is_idle(header)


def test_shutdown_is_answered_while_a_cell_holds_the_gil(start):
    client = start.client(start())
    cell = client.running(HANGS)
    queued = client.send("shell", "execute_request", {"code": "1"})
    header = client.send("control", "shutdown_request", {"restart": False})
    client.wait(lambda: client.of("control", header))
    client.husk.process.wait(TIMEOUT)
    while client.hear(0.1):
        pass
    for h in (cell, queued):
        check_complete(Answer(client.of("shell", h), client.of("iopub", h)), "execute_reply")


def test_the_heartbeat_echoes_several_frames(husk, client):
    s = client.context.socket(zmq.DEALER)
    s.connect(husk.address("hb"))
    s.send_multipart([b"", b"one", b"", b"two"])
    assert s.poll(TIMEOUT * 1000) and s.recv_multipart() == [b"", b"one", b"", b"two"]


# --- subscribers


def subscriber(client, topic=b""):
    s = client.context.socket(zmq.SUB)
    s.rcvhwm = 0
    s.subscribe(topic)
    s.connect(client.husk.address("iopub"))
    return s


def first_message(client, s):
    assert s.poll(TIMEOUT * 1000), "nothing came"
    return client.read(s.recv_multipart())


def check_welcome(client, message, topic=b""):
    assert message.header["msg_type"] == "iopub_welcome"
    assert message.content["subscription"].encode() == topic
    assert message.parent == {} and message.header["session"] == client.seen["iopub"][0].header["session"]


def test_the_first_second_and_third_subscriber_are_welcomed(start):
    client = start.client(start())
    check_welcome(client, client.seen["iopub"][0])
    for _ in range(2):
        check_welcome(client, first_message(client, subscriber(client)))


@pytest.mark.parametrize("topic", [b"kernel.", b"k", b"nothing-like-this", "\u00e9".encode()])
def test_a_subscriber_to_a_prefix_is_welcomed(client, topic):
    check_welcome(client, first_message(client, subscriber(client, topic)), topic)


def test_a_subscriber_gets_what_its_prefix_says(client):
    s = subscriber(client, b"kernel.")
    first_message(client, s)
    header = client.fence()
    assert first_message(client, s).parent["msg_id"] == header["msg_id"]


@pytest.mark.parametrize("noise", ["print('x' * 100)", "display('x' * 100)"])
def test_the_welcome_is_first_for_50_of_50_under_load(client, noise):
    running = client.running(f"print('on')\nwhile True: {noise}")
    for i in range(50):
        s = subscriber(client, (b"", b"kernel.")[i % 2])
        message = first_message(client, s)
        s.close(linger=0)
        while client.hear(0):
            pass
        assert message.header["msg_type"] == "iopub_welcome", f"subscriber {i + 1}"
    client.send("control", "interrupt_request")
    client.wait(lambda: client.is_idle(running))


@pytest.mark.parametrize("topic", [b"\xff\xfe", b"\0", b"x" * 100_000, b"\x01\x01"])
def test_an_odd_subscription_hurts_nobody(client, topic):
    s = subscriber(client, topic)
    client.fence()
    s.unsubscribe(topic)
    s.subscribe(b"")
    assert first_message(client, s)
    check_complete(client.ask("shell", "execute_request", {"code": "1"}), "execute_reply")


def test_what_a_subscriber_sends_hurts_nobody(husk, client):
    s = client.context.socket(zmq.XSUB)
    s.connect(husk.address("iopub"))
    for message in ([b""], [b"\x02"], [b"hello"], [b"\x01", b"more"], [b"\x00nothing"], [b"x" * 1_000_000]):
        s.send_multipart(message)
    s.send(b"\x01")
    assert s.poll(TIMEOUT * 1000)
    check_complete(client.ask("shell", "execute_request", {"code": "1"}), "execute_reply")


# --- transports


def descendants(pid):
    children = collections.defaultdict(list)
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text()
        except OSError:
            continue
        children[int(text.rpartition(")")[2].split()[1])].append(int(entry.parent.name))
    found = [pid]
    for p in found:
        found += children[p]
    return found


def listening_ports(pid):
    """TCP ports that a process of the tree listens on, as each process's network sees them."""
    ports = []
    for p in descendants(pid):
        inodes = {os.readlink(f) for f in pathlib.Path(f"/proc/{p}/fd").iterdir() if f.is_symlink()}
        for table in ("tcp", "tcp6"):
            for line in pathlib.Path(f"/proc/{p}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    ports.append(int(fields[1].rpartition(":")[2], 16))
    return ports


def test_exactly_five_tcp_ports_listen(husk, client):
    client.ask("shell", "execute_request", {"code": "1"})
    expected = [husk.connection[f"{c}_port"] for c in CHANNELS]
    assert sorted(listening_ports(husk.process.pid)) == sorted(expected)


def test_over_ipc_no_tcp_port_listens_and_only_the_owner_can_reach_the_sockets(start):
    husk = start(transport="ipc")
    client = start.client(husk)
    check_complete(client.ask("shell", "execute_request", {"code": "1"}), "execute_reply")
    assert client.ping(b"x") == b"x"
    assert listening_ports(husk.process.pid) == []
    for channel in CHANNELS:
        mode = os.stat(husk.address(channel).removeprefix("ipc://")).st_mode
        assert stat.S_ISSOCK(mode) and not mode & 0o077


def test_ipc_sockets_are_gone_after_shutdown_and_stale_ones_are_replaced(start):
    husk = start(transport="ipc")
    start.client(husk).ask("shell", "kernel_info_request")
    husk.stop()
    paths = [pathlib.Path(husk.address(c).removeprefix("ipc://")) for c in CHANNELS]
    assert all(p.exists() for p in paths)  # SIGKILL left them
    again = start(connection=husk.connection)
    client = start.client(again)
    header = client.send("control", "shutdown_request", {"restart": False})
    client.wait(lambda: client.of("control", header))
    assert again.process.wait(TIMEOUT) == 0
    assert not any(p.exists() for p in paths)


def test_ports_may_be_strings_and_unknown_keys_are_tolerated(start, tmp_path):
    c = connection(tmp_path)
    c = {**c, **{f"{n}_port": str(c[f"{n}_port"]) for n in CHANNELS}, "jupyter_session": "x", "new": [1]}
    assert start.client(start(connection=c)).ask("shell", "kernel_info_request").replies


@pytest.mark.parametrize("option", [
    ["--HistoryManager.hist_file=:memory:"], ["--f=x"], ["--debug"], ["--Session.key=b''"],
    ["--unknown", "value"], ["--matplotlib"], ["--no-stdout"], ["extra"],
], ids=" ".join)
def test_arguments_meant_for_ipykernel_are_tolerated(start, option):
    assert start.client(start(*option)).ask("shell", "kernel_info_request").replies


def test_a_signal_while_idle_is_ignored(client):
    client.ask("shell", "execute_request", {"code": "1"})
    for _ in range(3):
        os.killpg(client.husk.process.pid, signal.SIGINT)
    answer = client.ask("shell", "execute_request", {"code": "1"})
    assert answer.replies[0].content["status"] == "ok"
