# SPDX-License-Identifier: BSD-3-Clause
"""RFC 6455 at the wire, section by section, as Autobahn's suite goes through it; against the channels of a kernel.

There is no echo here: that a message arrived whole is seen by what the kernel answers to it.
"""

import json
import os
import struct
import uuid

import pytest
import websocket

from serving import kernel, server  # noqa: F401 (fixtures)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.fixture
def c(server, kernel):
    c = server.connect(kernel)
    yield c
    c.close()


def frame(opcode, payload=b"", fin=1, rsv=0, masked=True, length=None):
    """As RFC 6455, 5.2 has it; `length`: 7, 16 or 64 bits, whether needed or not."""
    length = length or (7 if len(payload) < 126 else 16 if len(payload) < 65536 else 64)
    bit = 128 if masked else 0
    head = bytes([fin << 7 | rsv << 4 | opcode])
    head += {7: lambda: bytes([bit | len(payload)]), 16: lambda: bytes([bit | 126]) + struct.pack(">H", len(payload)),
             64: lambda: bytes([bit | 127]) + struct.pack(">Q", len(payload))}[length]()
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(b ^ key[i % 4] for i, b in enumerate(payload))


def request(c, size=0):
    """A kernel_info_request of at least so many bytes, and its msg_id."""
    m = c.message("kernel_info_request", {})
    m["metadata"]["fill"] = ""
    m["metadata"]["fill"] = "x" * max(0, size - len(json.dumps(m)))
    return json.dumps(m).encode(), m["header"]["msg_id"]


def answers(c, msg_id):
    done = c.until_done(msg_id)
    assert done.reply["status"] == "ok"


def next_control(c):
    while True:
        f = c.socket.recv_frame()
        if f.opcode >= CLOSE:
            return f.opcode, f.data


@pytest.mark.parametrize("size", [125, 126, 127, 128, 65535, 65536, 65537, 1 << 20])
def test_1_messages_of_every_form_of_length(c, size):
    data, msg_id = request(c, size)
    c.socket.sock.sendall(frame(TEXT, data))
    answers(c, msg_id)


@pytest.mark.parametrize("chop", [1, 2, 997])
def test_1_a_frame_in_pieces_of_tcp(c, chop):
    data, msg_id = request(c, 2000 if chop > 2 else 0)
    whole = frame(TEXT, data)
    for i in range(0, len(whole), chop):
        c.socket.sock.sendall(whole[i:i + chop])
    answers(c, msg_id)


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(125)), b"\x00\xff\xfe"], ids=["empty", "text", "125", "no text"])
def test_2_a_ping_comes_back_as_a_pong(c, payload):
    c.socket.sock.sendall(frame(PING, payload))
    assert next_control(c) == (PONG, payload)


def test_2_ten_pings_come_back_in_their_order_and_pongs_that_nobody_asked_for_are_passed_over(c):
    c.socket.sock.sendall(b"".join(frame(PONG, b"unasked") + frame(PING, str(i).encode()) for i in range(10)))
    assert [next_control(c) for _ in range(10)] == [(PONG, str(i).encode()) for i in range(10)]
    data, msg_id = request(c)
    c.socket.sock.sendall(frame(TEXT, data))
    answers(c, msg_id)


WRONG = {
    "2: a ping of 126 bytes": frame(PING, b"x" * 126),
    "3: reserved bit 1": frame(TEXT, b"{}", rsv=4), "3: reserved bit 2": frame(TEXT, b"{}", rsv=2),
    "3: reserved bit 3": frame(TEXT, b"{}", rsv=1), "3: all of them on a ping": frame(PING, rsv=7),
    **{f"4: opcode {n}": frame(n, b"x") for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "5: a ping in fragments": frame(PING, b"x", fin=0), "5: a close in fragments": frame(CLOSE, b"\x03\xe8", fin=0),
    "5: a continuation of nothing": frame(0, b"x"), "5: a continuation of nothing that goes on": frame(0, b"x", fin=0),
    "5: a text inside a text": frame(TEXT, b"{", fin=0) + frame(TEXT, b"}"),
    "5: a binary inside a text": frame(TEXT, b"{", fin=0) + frame(BINARY, b"}"),
    "5.1: not masked": frame(TEXT, b"{}", masked=False),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_broken_rule_is_a_protocol_error(c, what):
    c.socket.sock.sendall(WRONG[what])
    assert c.close_code()[0] == 1002


@pytest.mark.parametrize("cuts", [1, 2, 5, 40])
@pytest.mark.parametrize("pings", [False, True], ids=["alone", "with pings between"])
def test_5_fragments_are_one_message(c, cuts, pings):
    data, msg_id = request(c)
    step = len(data) // (cuts + 1) + 1
    pieces = [data[i:i + step] for i in range(0, len(data), step)] + [b""]
    sent = b""
    for i, piece in enumerate(pieces):
        sent += frame(TEXT if i == 0 else 0, piece, fin=int(i + 1 == len(pieces)))
        if pings and i + 1 < len(pieces):
            sent += frame(PING, b"between")
    c.socket.sock.sendall(sent)
    answers(c, msg_id)


GOOD_TEXT = ["é", "☃", "𝄞", "\ud7ff\ue000\ufffd\U0010ffff", "\u0080\u07ff\u0800\uffff\U00010000"]
BAD_TEXT = {"a continuation byte alone": b"\x80", "a lone start byte": b"\xc3(", "overlong 2": b"\xc0\xaf", "overlong 3": b"\xe0\x80\xaf",
            "overlong 4": b"\xf0\x80\x80\xaf", "a surrogate": b"\xed\xa0\x80", "above the last": b"\xf4\x90\x80\x80", "0xfe": b"\xfe",
            "0xff": b"\xff", "5 bytes": b"\xf8\x88\x80\x80\x80", "cut": b"\xe2\x98"}


@pytest.mark.parametrize("text", GOOD_TEXT, ids=range(len(GOOD_TEXT)))
def test_6_text_is_utf_8_also_if_a_fragment_ends_inside_a_character(c, text):
    m = c.message("execute_request", {"code": f"print(ascii('{text}'))"})
    data = json.dumps(m, ensure_ascii=False).encode()
    at = data.index(text.encode()) + 1
    c.socket.sock.sendall(frame(TEXT, data[:at], fin=0) + frame(0, data[at:]))
    assert c.until_done(m["header"]["msg_id"]).stdout == ascii(text) + "\n"


@pytest.mark.parametrize("what", BAD_TEXT)
def test_6_text_that_is_no_utf_8_closes_with_1007(c, what):
    c.socket.sock.sendall(frame(TEXT, b'{"channel": "' + BAD_TEXT[what] + (b'"}' if what != "cut" else b"")))
    assert c.close_code()[0] == 1007


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_7_a_close_is_answered_with_its_code(c, code):
    c.socket.sock.sendall(frame(CLOSE, struct.pack(">H", code) + "gründlich".encode()))
    assert c.close_code()[0] == code
    assert c.socket.sock.recv(1) == b""


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8" + b"x" * 123], ids=["empty", "no reason", "a long reason"])
def test_7_closes_of_every_length(c, payload):
    c.socket.sock.sendall(frame(CLOSE, payload))
    assert next_control_close(c) in (payload[:2], payload)
    assert c.socket.sock.recv(1) == b""


def next_control_close(c):
    while True:
        opcode, data = next_control(c)
        if opcode == CLOSE:
            return data


@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xe7", b"\x03\xec", b"\x03\xed", b"\x03\xee", b"\xff\xff", b"\x00\x00",
                                     b"\x03\xe8\xff\xfe", b"\x03\xe8" + b"x" * 124],
                         ids=["one byte", "999", "1004", "1005", "1006", "65535", "0", "reason is no UTF-8", "126 bytes"])
def test_7_a_close_that_is_wrong_ends_the_connection(c, payload):
    c.socket.sock.sendall(frame(CLOSE, payload))
    data = next_control_close(c)
    assert data[:2] in (b"", b"\x03\xea", b"\x03\xef")  # what was wrong is not said back
    assert c.socket.sock.recv(1) == b""


def test_7_nothing_is_heard_after_a_close(c, server, kernel):
    other = server.connect(kernel)
    data, msg_id = request(c)
    mark = uuid.uuid4().hex
    m = c.message("execute_request", {"code": f"print({mark!r})"})
    c.socket.sock.sendall(frame(CLOSE, b"\x03\xe8") + frame(TEXT, json.dumps(m).encode()))
    assert c.close_code()[0] == 1000
    assert mark not in json.dumps(other.run("print('end')").messages)
    other.close()


def test_9_many_small_messages_and_a_large_one(c):
    ids = []
    for _ in range(300):
        data, msg_id = request(c)
        ids.append(msg_id)
        c.socket.sock.sendall(frame(TEXT, data))
    replies = set()
    while replies != set(ids):
        m = c.receive()
        if m["channel"] == "shell":
            replies.add(m["parent_header"]["msg_id"])
    data, msg_id = request(c, 8 << 20)
    c.socket.sock.sendall(b"".join(frame(TEXT if i == 0 else 0, data[i:i + 65536], fin=int(i + 65536 >= len(data)))
                                   for i in range(0, len(data), 65536)))
    answers(c, msg_id)


def test_10_no_extension_is_agreed_to(server, kernel):
    reply = server.get(f"/api/kernels/{kernel}/channels", stream=True, headers={
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"})
    assert (reply.status_code, "Sec-WebSocket-Extensions" in reply.headers) == (101, False)
    assert reply.headers["Sec-WebSocket-Accept"] == "ICX+Yqv66kxgM0FcWaLWlFLwTAI="
    reply.close()


def test_a_frame_is_as_long_as_it_says_at_each_form_of_a_length(server, kernel):
    c = server.connect(kernel)
    lengths, receive = [], c.socket.recv_data

    def counted():
        opcode, data = receive()
        lengths.append(len(data))
        return opcode, data

    c.socket.recv_data = counted
    c.run("display({'text/plain': 'x' * 2000}, raw=True)")
    about = 65536 - (max(lengths) - 2000)
    sizes = range(about - 16, about + 16)
    done = c.run(f"for n in range({sizes.start}, {sizes.stop}): display({{'text/plain': 'x' * n}}, raw=True)")
    assert {65535, 65536, 65537} <= set(lengths)
    assert [len(m["content"]["data"]["text/plain"]) for m in done.of("display_data")] == list(sizes)
    c.close()
