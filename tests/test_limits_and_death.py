# SPDX-License-Identifier: BSD-3-Clause
"""Limits, deaths, hostile interpreters and what they leave: SECURITY.md points here.

Interrupts and the plain deaths (exit, signals, stack overflow) are in test_death.py.
"""

import os
import pathlib
import platform
import random
import signal
import subprocess
import time

import conftest
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.connect import write_connection_file


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def processes():
    """{pid: (parent, start time, name)} of the whole machine, without zombies."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = pathlib.Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            name, rest = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
            if rest[0] not in "ZX":
                found[int(entry)] = (int(rest[1]), int(rest[19]), name)
    return found


def below(pid):
    """Every descendant of a process, as {pid: start time}."""
    every, found, todo = processes(), {}, [pid]
    while todo:
        parent = todo.pop()
        for child, (its_parent, start, _) in every.items():
            if its_parent == parent and child not in found:
                found[child] = start
                todo.append(child)
    return found


def still_alive(snapshot):
    every = processes()
    return [p for p, start in snapshot.items() if p in every and every[p][1] == start]


def brokers_of(kernel):
    return [p for p, (parent, _, name) in processes().items() if parent == kernel.pid and name == "husk-sandbox"]


def broker_of(kernel):
    [found] = brokers_of(kernel)
    return found


def is_limited_together(kernel):
    """Whether a cgroup counts, or each process for itself."""
    banner = kernel.control("kernel_info_request")["content"]["banner"]
    return "cgroup v" in banner


def is_well(kernel):
    """The next cell runs, and processes and files work in it."""
    result = kernel.run("import subprocess, tempfile\n"
                        "with tempfile.TemporaryFile() as f: f.write(b'x')\n"
                        "subprocess.run(['echo', 'well'], capture_output=True, text=True).stdout")
    return result.value == r"'well\n'"


# --- limits

def test_the_memory_limit_ends_the_interpreter_and_nothing_else(make_kernel):
    kernel = make_kernel("--memory", "300m")
    together = is_limited_together(kernel)
    assert kernel.run("open('/tmp/kept', 'w').write('kept'); before = 1").status == "ok"
    sent = [kernel.send("import time; time.sleep(1)\nx = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1")]
    sent += [kernel.send(f"print({i})") for i in range(3)]
    died, *others = [kernel.result(m) for m in sent]
    assert died.status == "error"
    assert [r.status for r in others] == ["aborted"] * 3
    if together:
        assert died.ename == "InterpreterDied" and "memory limit of 300 MiB" in died.evalue and "cell 2" in died.evalue
        assert died.of("error")[0]["evalue"] == died.evalue
        assert kernel.run("before").ename == "NameError"
    else:
        assert died.ename == "MemoryError"
        assert kernel.run("before").value == "1"
    assert kernel.run("open('/tmp/kept').read()").value == "'kept'"
    assert is_well(kernel)


def test_after_the_memory_limit_queued_cells_run_if_they_do_not_stop_on_error(make_kernel):
    kernel = make_kernel("--memory", "300m")
    first = kernel.send("import time; time.sleep(1)\nx = b'x' * (1 << 30)", stop_on_error=False)
    others = [kernel.send(f"{i} + 1", stop_on_error=False) for i in range(3)]
    assert kernel.result(first).status == "error"
    assert [kernel.result(m).value for m in others] == ["1", "2", "3"]


def test_a_child_that_hits_the_memory_limit_dies_alone(make_kernel):
    kernel = make_kernel("--memory", "300m")
    result = kernel.run("import subprocess, sys\nbefore = 1\n"
                        "subprocess.run([sys.executable, '-c', 'x = bytearray(1 << 30); x[::4096] = x[1::4096]'], stderr=-3).returncode")
    assert result.value in ("-9", "1")
    assert kernel.run("before").value == "1"
    assert is_well(kernel)


def test_shared_memory_counts_as_memory(make_kernel):
    kernel = make_kernel("--memory", "300m")
    if is_limited_together(kernel):
        result = kernel.run("import mmap\nm = mmap.mmap(-1, 600 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1")
        assert result.ename == "InterpreterDied" and "memory limit" in result.evalue
    assert is_well(kernel)


def test_a_memory_limit_that_is_hit_again_and_again_is_survived(make_kernel):
    kernel = make_kernel("--memory", "300m")
    for _ in range(4):
        assert kernel.run("x = b'x' * (1 << 30)").status == "error"
    assert is_well(kernel)


FILL = """
import os, time
full = {}
for d in ('/tmp', '/var/tmp', '/dev/shm', '/run', os.path.expanduser('~')):
    try:
        with open(d + '/fill', 'wb', buffering=0) as f:
            while True:
                if f.tell() > 4 << 30: break
                f.write(bytes(1 << 20))
                if d[:5] == '/home' or d == '/root': time.sleep(0.005)  # its limit is looked at
    except OSError as e: full[d] = e.strerror
set(full.values()), len(full)
"""


@pytest.mark.parametrize("options", [("--memory", "300m", "--disk", "64m"),
                                     ("--memory", "2g", "--tmp-size", "64m", "--disk", "64m")], ids=" ".join)
def test_all_private_directories_may_be_full_at_once(make_kernel, options):
    kernel = make_kernel(*options)
    found = kernel.run(FILL).value
    assert "'No space left on device'" in found and found.endswith(", 5)"), found
    assert kernel.run("6 * 7").value == "42"
    assert kernel.run("import os; os._exit(1)").ename == "InterpreterDied"
    assert kernel.run("6 * 7").value == "42"
    kernel.run("import os\nfor d in ('/tmp', '/var/tmp', '/dev/shm', '/run', os.path.expanduser('~')): os.unlink(d + '/fill')")
    assert is_well(kernel)


def test_a_private_directory_does_not_hold_any_number_of_files(make_kernel):
    kernel = make_kernel("--tmp-size", "4m")
    result = kernel.run("import os\nos.mkdir('/tmp/many')\nfor i in range(100_000): os.close(os.open(f'/tmp/many/{i}', os.O_CREAT))")
    assert "No space left" in result.evalue
    assert "[husk: /tmp is full: it holds" in result.stderr and "--tmp-size" in result.stderr
    kernel.run("import shutil; shutil.rmtree('/tmp/many')")
    assert is_well(kernel)


BOMB = """
import os
def bomb():
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError: pass
if os.fork() == 0: bomb()
import time; time.sleep(1)
"""


def test_a_fork_bomb_meets_its_own_limit_and_is_swept_away(make_kernel):
    kernel = make_kernel("--pids", "60")
    kernel.run(BOMB)
    assert kernel.run("6 * 7").value == "42"
    inside = below(kernel.pid)
    assert len(inside) < 75  # 60, the broker, pid 1 and what is being born
    assert kernel.run("import os; os._exit(1)").ename == "InterpreterDied"
    assert kernel.run("import os; sorted(p for p in os.listdir('/proc') if p.isdigit() and p != str(os.getpid()))").value == "['1']"
    assert is_well(kernel)


def test_threads_count_as_processes(make_kernel):
    kernel = make_kernel("--pids", "60")
    result = kernel.run("import threading\ngo = threading.Event()\n"
                        "for i in range(500): threading.Thread(target=go.wait).start()")
    assert result.ename == "RuntimeError" and "thread" in result.evalue
    assert "at most 60 (option --pids)" in result.stderr
    assert kernel.run("go.set(); 6 * 7").value == "42"
    assert is_well(kernel)


def test_a_hundred_thousand_open_files_are_an_error_of_the_cell(make_kernel):
    kernel = make_kernel()
    result = kernel.run("import os\nf = []\nfor i in range(100_000): f.append(os.open('/dev/null', 0))")
    assert result.ename == "OSError" and "Too many open files" in result.evalue
    assert "4096 open files (option --files)" in result.stderr
    assert kernel.run("print('text'); 6 * 7").value == "42"
    assert kernel.run("for x in f: os.close(x)").status == "ok"
    assert is_well(kernel)


# --- more deaths

DEATHS = {
    "SIGSYS, sent": ("import os, signal; os.kill(os.getpid(), signal.SIGSYS)", "31 (SIGSYS): it made a system call of another ABI"),
    "SIGTERM": ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "signal 15"),
    "another program": ("import os; os.execv('/bin/true', ['true'])", "status 0"),
    "an exit in a thread": ("import threading, os, time; threading.Timer(0.2, os._exit, [9]).start(); time.sleep(60)", "status 9"),
    "a death in C": ("import ctypes; ctypes.memset(8, 1, 1)", "signal 11"),
    "no stack left in C": (
        "import ctypes, threading\nlibc = ctypes.CDLL(None)\n"
        "T = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)\nx = (ctypes.c_int * 2)(1, 2)\n"
        "import sys; sys.setrecursionlimit(10**9)\n"
        "def f(a, b):\n    libc.qsort(x, 2, 4, g)\n    return 0\ng = T(f)\nf(0, 0)", "signal 11"),
    "death while it asks": ("import threading, os; threading.Timer(0.3, os._exit, [4]).start(); input('? ')", "status 4"),
}


if platform.machine() == "x86_64":
    DEATHS["a system call of i386"] = (
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\n"
        "ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()",
        "it made system call 20 of the ABI i386")
    DEATHS["a system call of x32"] = ("import ctypes\nctypes.CDLL(None).syscall(0x40000000 + 39)",
                                      "it made system call 39 of the ABI x32")
    DEATHS["a system call of x32 in a thread"] = (
        "import ctypes, threading\nthreading.Thread(target=ctypes.CDLL(None).syscall, args=[0x40000000 + 40]).start()\n"
        "import time\ntime.sleep(60)", "it made system call 40 of the ABI x32")
    # Whoever forks has the handler and the memory in which the call is named, too.
    DEATHS["a signal, after a child made such a call"] = (
        "import ctypes, os\npid = os.fork()\nif pid == 0: ctypes.CDLL(None).syscall(0x40000000 + 39)\n"
        "assert os.waitpid(pid, 0)[1] & 127 == 31\nos.kill(os.getpid(), 31)", "or was sent that signal")


@pytest.mark.outcome(lambda how: DEATHS[how][1])
@pytest.mark.parametrize("how", DEATHS)
def test_a_death_is_named_and_a_new_interpreter_runs(make_kernel, how):
    code, reason = DEATHS[how]
    kernel = make_kernel()
    died = kernel.run(code, allow_stdin=True)
    assert died.ename == "InterpreterDied" and reason in died.evalue and "cell 1" in died.evalue
    assert died.of("error")[0]["evalue"] == died.evalue
    assert is_well(kernel)


def test_what_was_said_before_a_death_is_shown(make_kernel):
    kernel = make_kernel()
    result = kernel.run("import os, sys\nprint('out'); print('err', file=sys.stderr); os.write(1, b'raw\\n')\n"
                        "os.system('echo child'); os.kill(os.getpid(), 9)")
    assert result.stdout == "out\nraw\nchild\n" and "err" in result.stderr


def test_a_death_between_cells_is_told_and_the_next_cell_runs(make_kernel):
    kernel = make_kernel()
    kernel.run("import threading, os; threading.Timer(0.5, os._exit, [9]).start(); a = 1")
    pid_one = below(broker_of(kernel))
    assert wait_until(lambda: "status 9" in kernel.log.read_text())
    assert kernel.run("'a' in globals()").value == "False"
    assert is_well(kernel) and pid_one


def test_a_death_while_completing_is_answered(make_kernel):
    kernel = make_kernel()
    kernel.run("import os\nclass A:\n    def __dir__(self): os._exit(5)\na = A()")
    msg_id = kernel.client.complete("a.")
    reply = None
    while reply is None or reply["parent_header"]["msg_id"] != msg_id:
        reply = kernel.client.get_shell_msg(timeout=conftest.TIMEOUT)
    assert reply["content"]["status"] in ("error", "ok")
    assert is_well(kernel)


def test_ten_deaths_in_a_row_are_survived(make_kernel):
    kernel = make_kernel()
    for i in range(10):
        assert f"status {i}." in kernel.run(f"import os; os._exit({i})").evalue
    assert is_well(kernel)


def test_nothing_of_a_dead_interpreter_lives_on(make_kernel):
    kernel = make_kernel()
    kernel.run("import subprocess\nsubprocess.Popen(['setsid', 'sleep', '600'])\n"
               "subprocess.run('(nohup sleep 600 >/dev/null 2>&1 &) &', shell=True)\n"
               "subprocess.Popen(['sh', '-c', 'trap \"\" TERM HUP INT; sleep 600'], start_new_session=True)")
    broker = broker_of(kernel)
    old = below(broker)
    assert wait_until(lambda: len(below(broker)) >= 5)
    old = below(broker)
    kernel.run("import os; os._exit(1)")
    assert kernel.run("6 * 7").value == "42"
    pid_one = [p for p, (parent, _, _) in processes().items() if parent == broker]
    assert set(still_alive(old)) <= set(pid_one)


HANG_UPS = {
    "close": "import os, time; os.close(3); time.sleep(1000)",
    "close and return": "import os; os.close(3)",
    "shutdown": "import socket, os, time; socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_WR); time.sleep(1000)",
    "close everything, as a daemon does": "import os, time; os.closerange(0, 100); time.sleep(1000)",
    "another program": "import os; os.execv('/bin/sleep', ['sleep', '1000'])",
}


@pytest.mark.outcome("InterpreterDied")
@pytest.mark.parametrize("how", HANG_UPS)
def test_an_interpreter_that_hangs_up_is_ended(make_kernel, how):
    """The cell is answered without anybody's help, and the next one runs."""
    kernel = make_kernel()
    result = kernel.run(HANG_UPS[how], timeout=20)
    assert result.ename == "InterpreterDied"
    assert is_well(kernel)


# --- an interpreter that is hostile: what it may send is in wall/interp.def and wall/ring.h

HEAD = "import os, struct, time\ndef frame(number, parts=(), zero=0, slot=0, value=0, mark=0, length=None):\n" \
       "    body = b''.join(struct.pack('>I', len(p)) + p for p in parts)\n" \
       "    return struct.pack('>IHHIIQ', len(body) if length is None else length, number, zero, slot, value, mark) + body\n" \
       "def send(data):\n    while data: data = data[os.write(3, data):]\n"
BROKEN = {
    "number 0": ("frame(0)", "no frame has number 0"),
    "number 63": ("frame(63)", "no frame has number 63"),
    "number 65535": ("frame(65535)", "no frame has number 65535"),
    "EXECUTE from the wrong side": ("frame(1, [b'{}'] * 3)", "EXECUTE from the wrong side"),
    "a reserved field": ("frame(34, [b'{}'] * 2, zero=1)", "DISPLAY_DATA with a reserved field"),
    "the largest length": ("frame(34, length=0xffffffff)", "DISPLAY_DATA of 4294967295 bytes"),
    "one byte too long": ("frame(34, length=(256 << 20) + 1)", "at most 268435456 allowed"),
    "a DOORBELL with text": ("frame(33, [b''])", "DOORBELL of 4 bytes"),
    "HELLO twice": ("frame(32, [b'{}'], value=1)", "HELLO at the wrong time"),
    "a part that runs over": ("frame(34, length=8) + struct.pack('>II', 5, 0)", "with a part that is longer than the frame"),
    "the longest part": ("frame(34, length=8) + struct.pack('>II', 0xffffffff, 0)", "with a part that is longer than the frame"),
    "half a part's head": ("frame(34, length=3) + bytes(3)", "with a part that is longer than the frame"),
    "one part": ("frame(34, [b'{}'])", "DISPLAY_DATA with 1 parts"),
    "too many parts": ("frame(42, [b'{}'] * 2)", "INPUT_REQUEST with 2 parts"),
    "too many buffers": ("frame(34, [b'{}', b'{}'] + [b''] * 8191)", "DISPLAY_DATA with 8193 parts"),
    "a REPLY to nobody": ("frame(43, [b'{}'] * 2, slot=999999)", "REPLY for a request that is not running"),
    "a question of nobody": ("frame(42, [b'{}'], slot=999999)", "INPUT_REQUEST for a request that is not running"),
    "content that is no JSON": ("frame(34, [b'{x', b'{}'])", "display_data: byte"),
    "content that is no object": ("frame(34, [b'[]', b'{}'])", "display_data: "),
    "content that is empty": ("frame(34, [b'', b'{}'])", "display_data: "),
    "metadata that is no object": ("frame(34, [b'{}', b'null'])", "display_data: "),
    "something after the object": ("frame(34, [b'{} {}', b'{}'])", "display_data: "),
    "half an object": ("frame(34, [b'{\"data\": {', b'{}'])", "display_data: "),
    "bytes that are no UTF-8": ("frame(34, [b'{\"a\": \"\\xff\\xfe\"}', b'{}'])", "display_data: "),
    "a NUL": ("frame(34, [b'{\"a\": \"\\0\"}', b'{}'])", "display_data: "),
    "a number that is none": ("frame(34, [b'{\"a\": NaN}', b'{}'])", "display_data: "),
    "a very deep object": ("frame(34, [b'{\"a\": ' * 1000000 + b'1' + b'}' * 1000000, b'{}'])", "display_data: "),
    "a mark beyond the ring": ("frame(33, mark=1 << 60)", "DOORBELL after text that does not exist"),
    "the largest mark": ("frame(33, mark=(1 << 64) - 1)", "DOORBELL after text that does not exist"),
    "half a head, then the rest of the cell": ("bytes(10)", "no frame has number"),
}


@pytest.mark.outcome(lambda how: BROKEN[how][1])
@pytest.mark.parametrize("how", BROKEN)
def test_a_frame_that_breaks_a_rule_ends_the_interpreter_and_the_rule_is_named(make_kernel, how):
    frame, reason = BROKEN[how]
    kernel = make_kernel()
    result = kernel.run(f"{HEAD}\nsend({frame})" + ("" if frame.startswith("bytes") else "\ntime.sleep(60)"))
    assert result.ename == "InterpreterDied" and "broke the protocol" in result.evalue
    assert reason in result.evalue, result.evalue
    assert kernel.run("6 * 7").value == "42"


def test_a_result_between_cells_ends_the_interpreter_and_harms_no_later_cell(make_kernel):
    kernel = make_kernel()
    for i in range(1, 7):
        kernel.run(f"{HEAD}\nimport threading\nthreading.Timer(0.3, send, [frame(36, [b'{{}}'] * 2)]).start()")
        assert wait_until(lambda: kernel.log.read_text().count("broke the protocol: EXECUTE_RESULT at the wrong time") == i)
        assert kernel.run("6 * 7").value == "42"


def test_frames_that_are_odd_but_allowed_do_no_harm(make_kernel):
    kernel = make_kernel()
    code = HEAD + """
send(frame(34, [b'{"data":{"text/plain":"shown"},"metadata":{}}', b'{}'], slot=123456, value=7))
send(frame(34, [b'{}', b'{}'] + [b''] * 3000))
send(frame(33) * 20000)
send(frame(38, [b'{"wait":false}', b'{}']))
"""
    assert kernel.run(code).status == "ok"
    assert kernel.control("kernel_info_request")["content"]["status"] == "ok"
    refused = kernel.run("from husk_interpreter import messages\nmessages.publish(34, {}, {}, [b''] * 9000)")
    assert (refused.ename, refused.evalue) == ("ValueError", "a message of 9002 parts, at most 8192 are allowed")
    assert is_well(kernel)


def test_descriptors_that_are_sent_along_do_not_stay_with_the_supervisor(make_kernel):
    kernel = make_kernel()
    kernel.run("1")
    before = len(os.listdir(f"/proc/{kernel.pid}/fd"))
    code = HEAD + ("import socket\ns = socket.socket(fileno=os.dup(3))\nd = os.open('/', os.O_RDONLY)\n"
                   "for _ in range(300):\n    try: socket.send_fds(s, [frame(33)], [d] * 50)\n"
                   "    except OSError: time.sleep(0.01)  # too many are on their way\ns.close()")
    assert kernel.run(code).status == "ok"
    assert kernel.run("6 * 7").value == "42"
    assert len(os.listdir(f"/proc/{kernel.pid}/fd")) <= before + 2


@pytest.mark.parametrize("seed", range(12))
def test_random_bytes_in_the_socket_are_survived(make_kernel, seed):
    data = random.Random(seed).randbytes(5000)
    if seed % 2:  # a likely head in front
        data = bytes(3) + data[:1] + b"\0" + bytes([32 + seed]) + b"\0\0" + data
    kernel = make_kernel()
    result = kernel.run(f"{HEAD}\nsend(bytes.fromhex({data.hex()!r}))\ntime.sleep(60)")
    assert result.ename == "InterpreterDied" and "broke the protocol" in result.evalue
    assert kernel.run("6 * 7").value == "42"


# The ring: head at 0, records from 4096 on. `put` writes a record where the reader looks next.
RING = """
import ctypes, os, struct, time
start, end = [[int(x, 16) for x in l.split()[0].split('-')] for l in open('/proc/self/maps') if 'husk-ring' in l][0]
head = ctypes.c_uint64.from_address(start)
def put(data, grow=None):
    at = head.value
    for i, b in enumerate(data): ctypes.memmove(start + 4096 + ((at + i) & 0x3ffff), bytes([b]), 1)
    head.value = at + (len(data) if grow is None else grow)
def record(kind, slot, data, length=None):
    return struct.pack('=III', kind, slot, len(data) if length is None else length) + data
"""
WAKE = "\nos.write(1, b'x')\ntime.sleep(60)"
BROKEN_RING = {
    "a kind that does not exist": ("put(record(9, 0, b'text'))", "a ring record of kind 9"),
    "kind 0": ("put(record(0, 0, b'text'))", "a ring record of kind 0"),
    "a record longer than the text": ("put(record(1, 0, b'text', length=1000))", "longer than the ring's text"),
    "the longest record": ("put(record(1, 0, b'text', length=0xffffffff))", "longer than the ring's text"),
    "a record that is cut": ("put(b'12345')", "whose last record is cut"),
    "a mark of a wrong size": ("put(record(3, 0, b'text'))", "a ring mark of 4 bytes"),
    "more than it holds": ("put(b'', grow=0x40001)", "a ring that holds more than it can"),
    "a head that goes back": ("head.value = head.value - 1 if head.value else (1 << 64) - 1", "ring"),
    "the largest head": ("head.value = (1 << 64) - 1", "a ring that holds more than it can"),
}


@pytest.mark.outcome(lambda how: BROKEN_RING[how][1])
@pytest.mark.parametrize("how", BROKEN_RING)
def test_a_broken_ring_ends_the_interpreter_and_the_rule_is_named(make_kernel, how):
    code, reason = BROKEN_RING[how]
    kernel = make_kernel()
    result = kernel.run(RING + code + WAKE)
    assert result.ename == "InterpreterDied" and reason in result.evalue, result.evalue
    assert kernel.run("6 * 7").value == "42"


def test_text_in_the_ring_that_is_odd_but_allowed_does_no_harm(make_kernel):
    kernel = make_kernel()
    code = RING + """
put(record(1, 123456, b'of nobody\\n'))
put(record(2, 0, b''))
put(record(1, 0, bytes(range(256))))
put(record(3, 0, struct.pack('=QQ', (1 << 64) - 1, 1 << 62)))  # a mark that cannot be reached
ctypes.c_uint32.from_address(start + 8).value = 1  # a writer that waits for ever
"""
    assert kernel.run(code).status == "ok"
    assert kernel.run("print('after'); 6 * 7").stdout == "after\n"
    assert is_well(kernel)


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_in_the_ring_are_survived(make_kernel, seed):
    kernel = make_kernel()
    code = RING + f"""
import random
r = random.Random({seed})
ctypes.memmove(start + 4096, r.randbytes(end - start - 4096), end - start - 4096)
head.value += r.choice([1, 12, 4096, 0x3ffff])
"""
    result = kernel.run(code + WAKE)
    assert result.ename == "InterpreterDied" and "ring" in result.evalue
    assert kernel.run("6 * 7").value == "42"


def test_a_ring_that_changes_all_the_time_is_survived(make_kernel):
    """A second writer races with the reader's checks."""
    kernel = make_kernel()
    code = RING + """
import random
pid = os.fork()
if pid == 0:
    r = random.Random(1)
    end_at = time.monotonic() + 2
    while time.monotonic() < end_at:
        head.value = r.choice([0, head.value, head.value + 12, head.value + 0x40000, r.getrandbits(64)])
        ctypes.memmove(start + 4096 + r.randrange(0x3fff0), r.randbytes(12), 12)
    os._exit(0)
for i in range(200): print('x' * 100); time.sleep(0.01)
"""
    assert kernel.run(code).status in ("ok", "error")
    assert wait_until(lambda: kernel.run("6 * 7").value == "42")
    assert is_well(kernel)


# --- ends

def everything_that_lives_on():
    return ("import subprocess\nsubprocess.Popen(['setsid', 'sleep', '600'])\n"
            "subprocess.run('(nohup sleep 600 >/dev/null 2>&1 &) &', shell=True)\n"
            "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            "        import signal\n        for n in range(1, 32):\n            if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\n"
            "        while True: signal.pause()\n    os._exit(0)")


def end_husk(kernel):
    os.kill(kernel.pid, signal.SIGKILL)


def end_group(kernel):
    os.killpg(kernel.pid, signal.SIGKILL)


def end_broker(kernel):
    os.kill(broker_of(kernel), signal.SIGKILL)


def end_pid_1(kernel):
    broker = broker_of(kernel)
    os.kill([p for p, (parent, _, _) in processes().items() if parent == broker][0], signal.SIGKILL)


def terminate_husk(kernel):
    os.kill(kernel.pid, signal.SIGTERM)


def terminate_broker(kernel):
    os.kill(broker_of(kernel), signal.SIGTERM)


@pytest.mark.parametrize("end", [end_husk, end_group, end_broker, end_pid_1, terminate_husk, terminate_broker],
                         ids=lambda f: f.__name__)
def test_nothing_of_a_sandbox_lives_on(make_kernel, end):
    kernel = make_kernel()
    kernel.run(everything_that_lives_on())
    broker = broker_of(kernel)
    assert wait_until(lambda: len(below(broker)) >= 5)
    snapshot = {**below(kernel.pid), broker: processes()[broker][1]}
    began = time.monotonic()
    end(kernel)
    assert wait_until(lambda: not still_alive(snapshot)), [processes()[p] for p in still_alive(snapshot)]
    print(f"gone after {time.monotonic() - began:.3f} s")
    assert wait_until(lambda: not kernel.manager.is_alive())
    if end is end_broker:
        conftest.remove_groups(broker)
    assert wait_until(lambda: not conftest.groups_of(broker))


def test_a_kernel_ends_with_the_process_that_is_named_as_its_parent(tmp_path):
    parent = subprocess.Popen(["sleep", "1000"])
    path, _ = write_connection_file(str(tmp_path / "kernel.json"))
    (tmp_path / "work").mkdir()
    husk = subprocess.Popen([conftest.HUSK, "kernel", "-f", path, "--python", conftest.PYTHON], cwd=tmp_path / "work",
                            env={**os.environ, "JPY_PARENT_PID": str(parent.pid)}, stderr=subprocess.PIPE)
    client = BlockingKernelClient(connection_file=path)
    try:
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=conftest.TIMEOUT)
        client.execute_interactive(everything_that_lives_on(), timeout=conftest.TIMEOUT)
        assert wait_until(lambda: len(below(husk.pid)) >= 5)
        snapshot = below(husk.pid)
        every = processes()
        brokers = [p for p in snapshot if p in every and every[p][2] == "husk-sandbox"]
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not still_alive(snapshot))
        assert wait_until(lambda: husk.poll() is not None)
        assert wait_until(lambda: not conftest.groups_of(*brokers))
    finally:
        client.stop_channels()
        for process in (parent, husk):
            process.kill()
            process.wait()
        husk.stderr.close()


@pytest.mark.parametrize("end", [end_broker, end_pid_1, terminate_broker], ids=lambda f: f.__name__)
def test_husk_says_in_one_line_why_it_ends(make_kernel, end):
    kernel = make_kernel()
    kernel.run("1")
    process = kernel.manager.provisioner.process
    end(kernel)
    assert wait_until(lambda: process.poll() is not None)
    lines = kernel.log.read_text().splitlines()
    assert process.returncode == 78
    assert [line for line in lines if line.startswith("husk: ")], lines
    assert all(line.startswith(("husk: ", "husk-sandbox: ")) for line in lines), lines


def test_the_group_that_a_killed_broker_left_is_removed_by_the_next(make_kernel):
    kernel = make_kernel()
    kernel.run("1")
    broker = broker_of(kernel)
    end_broker(kernel)
    assert wait_until(lambda: not kernel.manager.is_alive())
    other = make_kernel()
    other.run("1")
    assert conftest.groups_of(broker) == []


def test_a_signal_ends_a_busy_kernel_in_order(make_kernel):
    kernel = make_kernel()
    kernel.run("import atexit; atexit.register(lambda: open('bye', 'w').write('x')) and None")
    kernel.send("import time\nwhile True:\n    try: time.sleep(60)\n    finally: pass")
    time.sleep(0.5)
    process = kernel.manager.provisioner.process
    os.kill(kernel.pid, signal.SIGTERM)
    assert wait_until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert (kernel.cwd / "bye").exists()


STUBBORN = {
    "an atexit handler that never ends": "import atexit, time; atexit.register(time.sleep, 1000) and None",
    "a thread that never ends": "import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start()",
    "signals that are ignored": "import signal\nfor n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)",
    "a child that ignores signals": "import subprocess; p = subprocess.Popen(['sh', '-c', 'trap \"\" TERM INT HUP; sleep 1000'])",
    "a process that stands still": "import threading, os, signal; threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGSTOP]).start()",
}


@pytest.mark.parametrize("what", STUBBORN)
def test_shutdown_ends_in_spite_of(make_kernel, what):
    kernel = make_kernel()
    kernel.run(STUBBORN[what])
    time.sleep(0.6)
    broker = broker_of(kernel)
    snapshot = below(kernel.pid)
    assert kernel.control("shutdown_request", {"restart": False})["content"] == {"status": "ok", "restart": False}
    assert wait_until(lambda: not kernel.manager.is_alive())
    assert wait_until(lambda: not still_alive(snapshot))
    assert wait_until(lambda: not conftest.groups_of(broker))


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_fifty_restarts_leave_nothing(make_kernel, transport, tmp_path):
    kernel = make_kernel(transport=transport)
    kernel.run("1")
    brokers, snapshot = [], {}
    mounts = conftest.mounts_of(tmp_path)
    files = sorted(os.listdir(tmp_path / "kernel0"))
    descriptors = len(os.listdir("/proc/self/fd"))
    for i in range(50):
        brokers.append(broker_of(kernel))
        snapshot.update(below(kernel.pid))
        kernel.manager.restart_kernel(now=bool(i % 5))
        if i % 5 != 1:  # most are hit while they start, some when they are ready
            assert wait_until(lambda: brokers_of(kernel))
            continue
        kernel.client.wait_for_ready(timeout=conftest.TIMEOUT)
    kernel.client.wait_for_ready(timeout=conftest.TIMEOUT)
    assert kernel.run("6 * 7").value == "42"
    assert wait_until(lambda: not still_alive(snapshot))
    assert wait_until(lambda: not conftest.groups_of(*brokers))
    assert conftest.mounts_of(tmp_path) == mounts
    assert sorted(os.listdir(tmp_path / "kernel0")) == files
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 5
    assert len(os.listdir(f"/proc/{kernel.pid}/fd")) < 60


def test_twenty_new_interpreters_leave_nothing(make_kernel):
    kernel = make_kernel()
    kernel.run("1")

    def descriptors():
        return len(os.listdir(f"/proc/{kernel.pid}/fd")), len(os.listdir(f"/proc/{broker_of(kernel)}/fd"))

    before = descriptors()
    for _ in range(20):
        kernel.run("import os; os._exit(1)")
    kernel.run("1")
    assert wait_until(lambda: descriptors() <= before), descriptors()  # the broker may measure the disk just now
    assert len(below(kernel.pid)) == 3  # broker, pid 1, interpreter


def test_twenty_kernels_start_at_once(make_kernel):
    kernels = [make_kernel(ready=False) for _ in range(20)]  # all are starting now
    for kernel in kernels:
        kernel.client.wait_for_ready(timeout=conftest.TIMEOUT)
    sent = [k.send(f"import os; open('/tmp/n', 'w').write('{i}'); {i} + 1") for i, k in enumerate(kernels)]
    assert [k.result(m).value for k, m in zip(kernels, sent)] == [str(i + 1) for i in range(20)]
    assert [k.run("open('/tmp/n').read()").value for k in kernels] == [f"'{i}'" for i in range(20)]
