# SPDX-License-Identifier: BSD-3-Clause
"""Text: whole, exact, in the order of the source, in few messages."""

import time

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
    assert all(c["text"].endswith("\n") for c in result.of("stream"))


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
