# SPDX-License-Identifier: BSD-3-Clause
"""Text: whole, exact, in the order of the source, in few messages."""

import json
import queue
import re
import threading
import time

import pytest
import zmq
from jupyter_client.session import Session


def sequence(result):
    """Lines and displays in the order in which they arrived."""
    out = []
    for m in result.messages:
        if m["msg_type"] == "stream":
            out += m["content"]["text"].splitlines()
        elif m["msg_type"] == "display_data":
            out.append("display " + m["content"]["data"]["text/plain"])
    return out


def test_every_way_out_keeps_the_order_of_the_source(kernel):
    result = kernel.run("""
import ctypes, os, sys
from IPython.display import display
libc = ctypes.CDLL(None)
for i in range(200):
    print("a%d" % i)
    os.write(1, b"b%d\\n" % i)
    libc.puts(b"c%d" % i); libc.fflush(None)
    print("d%d" % i, flush=True)
    if i % 20 == 0: os.system("echo e%d" % i)
    if i % 10 == 0: display(i)
    os.write(1, b"f%d\\n" % i)
    print("g%d" % i, file=sys.stderr)
    print("h%d" % i)
""")
    wanted = []
    for i in range(200):
        wanted += [f"a{i}", f"b{i}", f"c{i}", f"d{i}"]
        wanted += [f"e{i}"] if i % 20 == 0 else []
        wanted += [f"display {i}"] if i % 10 == 0 else []
        wanted += [f"f{i}", f"g{i}", f"h{i}"]
    assert sequence(result) == wanted


def test_100000_lines_arrive_in_few_messages(kernel):
    result = kernel.run("for i in range(100000): print(i)")
    assert result.stdout == "".join(f"{i}\n" for i in range(100000))
    assert len(result.of("stream")) < 1000


def test_52_megabytes_through_the_descriptor(kernel):
    result = kernel.run("import os\nb = bytes(range(32, 95)) + b'\\n'\nfor i in range(800):\n"
                        "    part = b * 1024\n    while part: part = part[os.write(1, part):]")
    assert result.stdout == (bytes(range(32, 95)) + b"\n").decode() * 1024 * 800


def test_100_displays_of_a_mebibyte(kernel):
    result = kernel.run("from IPython.display import display\n"
                        "for i in range(100): display({'text/plain': str(i) + 'x' * (1 << 20)}, raw=True)")
    found = [c["data"]["text/plain"] for c in result.of("display_data")]
    assert found == [str(i) + "x" * (1 << 20) for i in range(100)]


def test_a_client_that_reads_late_gets_everything(make_kernel):
    kernel = make_kernel()
    msg_id = kernel.send("for i in range(20000): print(i, flush=True)")
    time.sleep(5)
    assert kernel.result(msg_id).stdout == "".join(f"{i}\n" for i in range(20000))


def test_a_character_in_two_pieces_is_one(kernel):
    code = "import os, time\nos.write(1, b'\\xc3'); time.sleep(0.3); os.write(1, b'\\xa9\\n')"
    assert kernel.run(code).stdout == "\u00e9\n"


def test_bytes_that_are_no_text_are_shown_as_such(kernel):
    assert kernel.run("import os; os.write(1, b'a\\xff\\xc3'); None").stdout == "a\ufffd\ufffd"


def test_odd_characters_survive(kernel):
    text = "a\rb\r\nc\x00d\x1b[31me\u2028f\U0001f600\n"
    assert kernel.run(f"print({text!r}, end='')").stdout == text
    assert kernel.run("print('\\ud800')").stdout == "\\ud800\n"


def test_lines_are_not_cut(kernel):
    result = kernel.run("import time\nfor i in range(60):\n    print('x' * 50, end=''); time.sleep(0.005); print()")
    # A machine that stalls between the two halves of a line may cut it; without joining each is cut.
    assert sum(not c["text"].endswith("\n") for c in result.of("stream")) < 30


def test_output_of_a_child_process_belongs_to_its_cell(kernel):
    code = ("import subprocess, sys\n"
            "subprocess.run([sys.executable, '-c', 'print(1); import sys; print(2, file=sys.stderr)'])\n"
            "subprocess.run(['echo', '3'], stdout=sys.stdout)\nNone")
    result = kernel.run(code)
    assert (result.stdout, result.stderr) == ("1\n3\n", "2\n")


def test_a_forked_child_prints_too(kernel):
    result = kernel.run("import os\npid = os.fork()\nif pid == 0:\n    print('child'); os._exit(0)\n"
                        "os.waitpid(pid, 0); print('parent')")
    assert result.stdout == "child\nparent\n"


def test_pools_of_both_kinds_work(kernel):
    assert kernel.run("import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: r = p.map(abs, [-1, -2])\nr").value == "[1, 2]"
    assert kernel.run("with m.get_context('spawn').Pool(1) as p: r = p.map(abs, [-3])\nr").value == "[3]"


def test_a_task_prints_to_its_cell_and_a_thread_to_the_latest(kernel):
    first = kernel.send("import asyncio, threading, time\n"
                        "async def later():\n    await asyncio.sleep(0.5); print('task')\n"
                        "t = asyncio.get_running_loop().create_task(later())\n"
                        "threading.Timer(0.7, lambda: print('thread')).start()")
    kernel.result(first)
    second = kernel.send("await asyncio.sleep(1.2)")
    owner, end = {}, time.monotonic() + 30
    while len(owner) < 2 and time.monotonic() < end:
        m = kernel.client.get_iopub_msg(timeout=30)
        if m["msg_type"] == "stream":
            owner[m["content"]["text"].strip()] = m["parent_header"]["msg_id"]
    assert owner == {"task": first, "thread": second}
    time.sleep(1)
    assert kernel.run("1").value == "1"


def test_text_of_a_session_of_ours_verifies(kernel):
    """The client's own Session checks every signature; nothing was dropped by it."""
    assert isinstance(kernel.client.session, Session)
    assert kernel.run("print('\u00e9')").stdout == "\u00e9\n"


def states_of(text):
    """What a terminal shows of the last line of it."""
    line = ""
    for state in text.split("\n")[-1].split("\r"):
        line = state + line[len(state):]
    return line


def test_a_progress_line_is_sent_in_its_last_states(kernel):
    result = kernel.run("for i in range(100001): print(f'\\r{i:6d} of 100000', end='')\nprint('\\ndone')")
    lines = result.stdout.split("\n")
    assert states_of(lines[0]) == "100000 of 100000" and lines[1:] == ["done", ""]
    assert len(result.stdout) < 400000 and len(result.of("stream")) < 1000  # of 1.7 MB and 100,001 states


def test_a_slow_progress_line_is_sent_state_by_state(kernel):
    result = kernel.run("import time\nfor i in range(5): print(f'\\r{i}', end=''); time.sleep(0.12)")
    assert result.stdout == "\r0\r1\r2\r3\r4"
    assert kernel.run("print('a\\rb\\r\\nc\\r\\n', end='')").stdout == "a\rb\r\nc\r\n"


def test_updates_of_a_display_are_joined_and_the_last_one_counts(kernel):
    result = kernel.run("from IPython.display import display\nh, g = display('h', display_id=True), display('g', display_id=True)\n"
                        "for i in range(3000): h.update(i); g.update(-i)\nprint('after')\nh.update('end')")
    updates = [c for c in result.of("update_display_data")]
    assert len(updates) < 2000  # of 6001
    by_id = {}
    for c in updates:
        by_id.setdefault(c["transient"]["display_id"], []).append(c["data"]["text/plain"])
    (h, g) = by_id.values()
    assert h[-1] == "'end'" and h[-2] == "2999" and g[-1] == "-2999"
    assert [int(v) for v in h[:-1]] == sorted(int(v) for v in h[:-1])  # never an older one later
    kinds = [m["msg_type"] for m in result.messages if m["msg_type"] in ("stream", "update_display_data")]
    assert kinds[-2:] == ["stream", "update_display_data"]  # nor past another message


def test_an_update_that_waits_is_there_before_a_question_and_before_the_end(kernel):
    code = ("from IPython.display import display\nh = display(0, display_id=True)\n"
            "for i in range(50): h.update(i)\nx = input()")
    msg_id = kernel.send(code, allow_stdin=True)
    kernel.client.get_stdin_msg(timeout=60)
    seen = []
    while not seen or seen[-1] != "49":
        m = kernel.client.get_iopub_msg(timeout=60)
        if m["msg_type"] == "update_display_data":
            seen.append(m["content"]["data"]["text/plain"])
    kernel.client.input("")
    kernel.result(msg_id)
    result = kernel.run("for i in range(50): h.update(i)")
    assert result.of("update_display_data")[-1]["data"]["text/plain"] == "49"


def windows(messages, seconds=3):
    """Most bytes of text, and most messages, in any three seconds: by the dates that the kernel gave them, as
    a machine that stalls lets them arrive at once."""
    counted = [(m["header"]["date"].timestamp(), len(m["content"].get("text", "")) if m["msg_type"] == "stream" else 0)
               for m in messages if m["msg_type"] not in ("status", "execute_input")]
    most = [0, 0]
    for i, (start, _) in enumerate(counted):
        inside = [size for date, size in counted[i:] if date < start + seconds]
        most = [max(most[0], sum(inside)), max(most[1], len(inside))]
    return most


WRITERS = {
    "print": "for i in range(400000): print('x' * 49)",
    "child": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', "
             "\"for i in range(400000): print('x' * 49)\"]); None",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_flood_stays_below_the_rate_and_loses_nothing(make_kernel, writer):
    """Ten times the bytes that a server takes: 20 MB at 5 MB/s."""
    kernel = make_kernel("--output-rate", "5000000")
    result = kernel.run(WRITERS[writer], timeout=120)
    assert result.stdout == ("x" * 49 + "\n") * 400000
    data, count = windows(result.messages)
    assert data < 3 * 5000000 and count < 3 * 1000


def test_messages_stay_below_the_rate_too(make_kernel):
    kernel = make_kernel(env={"JPY_SESSION_NAME": "notebook.ipynb"})
    result = kernel.run("from IPython.display import display\nfor i in range(1500): display(i)", timeout=120)
    assert [c["data"]["text/plain"] for c in result.of("display_data")] == [str(i) for i in range(1500)]
    assert windows(result.messages, 1)[1] < 1100
    assert kernel.interrupt()["content"]["status"] == "ok" and kernel.run("1").value == "1"


def test_a_paced_cell_hears_an_interrupt(make_kernel):
    kernel = make_kernel("--output-rate", "1000000")
    msg_id = kernel.send("while True: print('x' * 999)")
    time.sleep(2)
    kernel.interrupt()
    assert kernel.result(msg_id).ename == "KeyboardInterrupt"


def test_a_client_that_does_not_read_is_told_how_much_it_has_missed_and_others_miss_nothing(make_kernel):
    kernel = make_kernel()
    kernel.client.stop_channels()  # it would be left behind, too
    client = kernel.client = kernel.manager.client()
    client.start_channels(iopub=False, stdin=False, hb=False)
    lazy, keen = (zmq.Context.instance().socket(zmq.SUB) for _ in range(2))
    for socket in (lazy, keen):
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.subscribe(b"")
        socket.connect(client._make_url("iopub"))
        assert socket.poll(60000) and socket.recv_multipart()  # its welcome
    text, heard = b"", bytearray()

    def read():
        while not heard.endswith(b"\n24999\n"):
            content = json.loads(keen.recv_multipart()[-1])
            heard.extend(content["text"].encode() if content.get("name") == "stderr" else b"")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        client.execute("import sys\nfor i in range(25000): print(i); print(i, file=sys.stderr)")
        assert client.get_shell_msg(timeout=60)["content"]["status"] == "ok"
        reader.join(60)
        assert heard == b"".join(b"%d\n" % i for i in range(25000))
        end = time.monotonic() + 60
        while b"not delivered" not in text and time.monotonic() < end:
            while lazy.poll(200):
                parts = lazy.recv_multipart()
                text += parts[-1] if b"stream" in parts[0] else b""
            client.execute("print(1)")
        missed = re.search(rb"did not read for 1 s; ([0-9]+) messages of ([0-9]+) bytes were not delivered", text)
        assert 1000 < int(missed[1]) < 50000 and int(missed[2]) > 500 * int(missed[1])
    finally:
        lazy.close(0)
        keen.close(0)


def test_what_the_first_cell_brings_is_not_lost_on_a_client_that_subscribes_late(make_kernel):
    kernel = make_kernel(ready=False, iopub=False)
    kernel.client.kernel_info()
    assert kernel.client.get_shell_msg(timeout=60)["msg_type"] == "kernel_info_reply"  # only cells wait
    msg_id = kernel.send("print('heard')")
    with pytest.raises(queue.Empty):
        kernel.client.get_shell_msg(timeout=0.3)
    kernel.client.iopub_channel.start()
    assert kernel.result(msg_id).stdout == "heard\n"


def test_a_client_that_never_subscribes_has_its_reply(make_kernel):
    kernel = make_kernel(ready=False, iopub=False)
    for _ in range(2):
        kernel.send("1")
        assert kernel.client.get_shell_msg(timeout=60)["content"]["status"] == "ok"
