#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes docs/compatibility.md: what ipykernel, xeus-python and an installed husk do, each as it was seen.

usage: compatibility.py PREFIX DIRECTORY

Run by the Python of the tests. xeus-python gets an environment of its own in DIRECTORY. Each row of
FEATURES is tried with each kernel, in a kernel that no row before it has used up; what upstream.py left in
DIRECTORY is summed up below the table.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import queue
import re
import subprocess
import sys
import threading
import time

import conftest
import gallery
import upstream
import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.session import Session
from jupyter_client.manager import KernelManager

TOP = pathlib.Path(__file__).resolve().parent.parent
XEUS = ("xeus-python==0.19.0", "ipywidgets", "matplotlib", "tqdm")
PATIENCE = 10  # seconds for a row


class Peer(conftest.Kernel):
    """Any kernel of a directory of kernelspecs."""

    def __init__(self, specs, name, directory):
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "log"
        self._stderr = open(self.log, "ab")
        self.manager = KernelManager(kernel_name=name, kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)]),
                                     connection_file=str(directory / "kernel.json"))
        environment = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "IPYTHONDIR", "PYTEST_CURRENT_TEST")}
        home = directory / "home"
        (home / ".ipython" / "profile_default" / "startup").mkdir(parents=True, exist_ok=True)
        (home / ".ipython" / "profile_default" / "startup" / "a.py").write_text("from_startup = 1")
        (home / "secret.txt").write_text("secret")
        for path in [directory, home, *home.rglob("*")]:
            path.chmod(0o755)
        self.cwd = directory / "work"
        self.cwd.mkdir(exist_ok=True)
        self.manager.start_kernel(cwd=str(self.cwd), env={**environment, "HOME": str(home)}, stderr=self._stderr,
                                  stdout=self._stderr)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=conftest.TIMEOUT)

    def run(self, code, timeout=PATIENCE, **options):
        return super().run(code, timeout, **options)

    def control(self, msg_type, content=None, timeout=PATIENCE):
        return super().control(msg_type, content, timeout)

    def ask(self, msg_type, content, **header):
        """A request on shell; its reply. The first completion reads what jedi knows of Python."""
        message = self.client.session.msg(msg_type, content)
        message["header"].update(header)
        self.client.shell_channel.send(message)
        end = time.monotonic() + 3 * PATIENCE
        while True:
            reply = self.client.get_shell_msg(timeout=max(0.1, end - time.monotonic()))
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return reply

    def answer(self, *values):
        def give():
            for value in values:
                self.client.get_stdin_msg(timeout=PATIENCE)
                self.client.input(value)

        threading.Thread(target=give, daemon=True).start()

    def interrupted(self, code, wait=1.0, presses=1):
        """The result of a cell that is interrupted."""
        msg_id = self.send(code)
        time.sleep(wait)
        for _ in range(presses):
            self.manager.interrupt_kernel()
        return self.result(msg_id, PATIENCE / 2)

    def later(self, seconds):
        """Text that comes after the idle of its cell."""
        found, end = "", time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                m = self.client.get_iopub_msg(timeout=left)
                found += m["content"]["text"] if m["msg_type"] == "stream" else ""
        return found


def value(code, expected):
    return lambda k: k.run(code).value == expected


def text(code, expected, stream="stdout"):
    return lambda k: expected in k.run(code).text(stream) or expected in k.later(1)


def error(code, name):
    return lambda k: k.run(code).ename == name


def interrupt(code, **options):
    """KeyboardInterrupt (an await may say CancelledError) long before the cell's end, and the next cell runs."""
    return lambda k: (k.interrupted(code, **options).ename in ("KeyboardInterrupt", "CancelledError")
                      and k.run("6 * 7").value == "42")


def display(code, mime):
    return lambda k: any(mime in c["data"] for c in k.run(code, timeout=3 * PATIENCE).of("display_data", "execute_result"))


def death(code):
    def check(k):
        result = k.run(code)
        return result.status == "error" and k.run("1 + 1").value == "2"

    return check


def late_reader(k):
    """A subscriber of its own: libzmq may stall one whose high-water mark is changed while messages come."""
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.set(zmq.RCVHWM, 100)
    socket.subscribe(b"")
    socket.connect(k.client._make_url("iopub"))
    k.run("1")  # by its end the subscription stands
    session = Session(key=k.client.session.key)  # another one: each takes a message once
    msg_id, found, end = k.send("for i in range(20000): print(i, flush=True)"), "", time.monotonic() + 2 * PATIENCE
    time.sleep(3)
    while socket.poll(max(0, end - time.monotonic()) * 1000):
        m = session.deserialize(session.feed_identities(socket.recv_multipart())[1])
        if m["parent_header"].get("msg_id") != msg_id:
            continue
        if m["content"].get("execution_state") == "idle":
            break
        found += m["content"]["text"] if m["msg_type"] == "stream" else ""
    socket.close()
    k.result(msg_id, 2 * PATIENCE)
    return found.split() == [str(i) for i in range(20000)]


def welcome(k):
    got = []
    for _ in range(3):
        socket = zmq.Context.instance().socket(zmq.SUB)
        socket.subscribe(b"")
        socket.connect(k.client._make_url("iopub"))
        got.append(bool(socket.poll(3000)) and b"iopub_welcome" in b"".join(socket.recv_multipart()))
        socket.close()
    return all(got)


def while_busy(question):
    def check(k):
        k.run("import time")
        msg_id = k.send("time.sleep(3)")
        time.sleep(0.5)
        start = time.monotonic()
        question(k)
        took = time.monotonic() - start
        k.result(msg_id)
        return took < 1

    return check


def aborted(k):
    ids = [k.send(c) for c in ("import time; time.sleep(0.5); 1/0", "print('no')")]
    first, second = (k.result(i, PATIENCE) for i in ids)
    return first.ename == "ZeroDivisionError" and second.status == "aborted" and not second.stdout


def task_output(k):
    first = k.send("import asyncio\nasync def f():\n    await asyncio.sleep(0.3); print('late')\nt = asyncio.create_task(f())")
    end, owner = time.monotonic() + PATIENCE / 2, None
    k.send("await asyncio.sleep(1)")
    while owner is None and time.monotonic() < end:
        with contextlib.suppress(Exception):
            m = k.client.get_iopub_msg(timeout=0.5)
            if m["msg_type"] == "stream" and "late" in m["content"]["text"]:
                owner = m["parent_header"]["msg_id"]
    return owner == first


def slider(k):
    model = k.run("import ipywidgets as w\ns = w.IntSlider(3); s.comm.comm_id").value
    if not model:
        return False
    content = {"comm_id": model.strip("'"), "data": {"method": "update", "state": {"value": 8}, "buffer_paths": []}}
    k.client.shell_channel.send(k.client.session.msg("comm_msg", content))
    return k.run("s.value").value == "8"


def asked(code, *answers, expected):
    def check(k):
        k.answer(*answers)
        return expected in (k.run(code, allow_stdin=True).value or "")

    return check


def feature(name):
    return lambda k: name in k.ask("kernel_info_request", {})["content"].get("supported_features", [])


def hanging(k):
    """A C loop that holds the GIL: the user is told where it hangs, and can have the kernel back."""
    msg_id = k.send("def stuck(): return sum(range(4 * 10**8))\nstuck()")
    time.sleep(0.5)
    k.manager.interrupt_kernel()
    return "stuck" in k.result(msg_id, 4 * PATIENCE).stderr


def gone_with_the_kernel(k):
    marker = f"{time.time()}"
    k.run(f"import subprocess; subprocess.Popen(['sleep', '{marker[-6:]}00'], start_new_session=True)")
    os.kill(k.manager.provisioner.pid, 9)
    time.sleep(1.5)
    found = subprocess.run(["pgrep", "-f", f"sleep {marker[-6:]}00"], capture_output=True).stdout.split()
    for pid in found:
        os.kill(int(pid), 9)
    return not found


SECTIONS = {
    "Requests and replies": [
        ("kernel_info on control while a cell runs", while_busy(lambda k: k.control("kernel_info_request"))),
        ("complete while a cell runs", while_busy(lambda k: k.ask("complete_request", {"code": "tim", "cursor_pos": 3}))),
        ("completion with types", lambda k: k.ask("complete_request", {"code": "pri", "cursor_pos": 3})["content"]["metadata"]
         .get("_jupyter_types_experimental", [{}])[0].get("type") == "function"),
        ("inspection", lambda k: k.ask("inspect_request", {"code": "print", "cursor_pos": 5, "detail_level": 0})["content"]["found"]),
        ("is_complete with indentation", lambda k: k.ask("is_complete_request", {"code": "for i in x:"})["content"].get("indent") == "    "),
        ("history", lambda k: k.run("12345").value and k.ask("history_request", {
            "hist_access_type": "tail", "n": 1, "output": False, "raw": True, "session": 0, "start": 0, "stop": 1,
            "pattern": "*", "unique": False})["content"]["history"][-1][2] == "12345"),
        ("user_expressions", lambda k: k.run("x = 2", user_expressions={"a": "x * 2"}).reply["user_expressions"]["a"]["data"]["text/plain"] == "4"),
        ("store_history=False does not count", lambda k: (k.run("1", store_history=False), k.run("1").reply["execution_count"])[1]
         == k.run("1").reply["execution_count"] - 1),
        ("an error aborts what waits", aborted),
        ("a malformed request gets an error", lambda k: k.ask("execute_request", {})["content"]["status"] == "error"),
        ("unknown header fields come back", lambda k: k.ask("kernel_info_request", {}, mine=5)["parent_header"].get("mine") == 5),
        ("iopub_welcome for every subscriber", welcome),
        ("subshells", lambda k: feature("kernel subshells")(k) and k.control("create_subshell_request")["content"]["status"] == "ok"),
        ("debugger", feature("debugger")),
        ("usage_request", lambda k: k.control("usage_request")["content"].get("kernel_memory") is not None),
    ],
    "Output": [
        ("of C code", text("import ctypes; c = ctypes.CDLL(None); c.puts(b'from C'); c.fflush(None)", "from C")),
        ("of child processes", text("import subprocess; subprocess.run(['echo', 'child'])", "child")),
        ("of a forked child", text("import os\nif os.fork() == 0:\n    print('fork', flush=True); os._exit(0)\nos.wait()", "fork")),
        ("subprocess.run(stdout=sys.stdout)", text("import subprocess, sys; subprocess.run(['echo', 'there'], stdout=sys.stdout)", "there")),
        ("in the order of the source", lambda k: re.fullmatch("a\nb\nc\n", k.run(
            "import os\nprint('a'); os.system('echo b'); print('c')").stdout) is not None),
        ("of a background task goes to its cell", task_output),
        ("20,000 flushed prints and a late reader", late_reader),
        ("of a lone surrogate", text("print('\\ud800x')", "x")),
        ("display updates", lambda k: k.run("h = display(1, display_id=True); h.update(2)").of("update_display_data")[0]["data"]["text/plain"] == "2"),
        ("the name of an error is its class", error("1/0", "ZeroDivisionError")),
    ],
    "Input and interrupts": [
        ("input()", asked("input('?')", "typed", expected="typed")),
        ("getpass()", asked("import getpass; getpass.getpass()", "word", expected="word")),
        ("pdb", asked("import pdb\ndef f():\n    z = 5\n    pdb.set_trace()\n    return z\nf()", "p z", "c", expected="5")),
        ("time.sleep", interrupt("import time; time.sleep(30)")),
        ("a lock", interrupt("import threading; l = threading.Lock(); l.acquire(); l.acquire()")),
        ("await asyncio.sleep", interrupt("import asyncio; await asyncio.sleep(30)")),
        ("os.system, with its child", interrupt("import os; r = os.system('sleep 30')\nif r: raise KeyboardInterrupt")),
        ("subprocess.run", interrupt("import subprocess; subprocess.run(['sleep', '30'])")),
        ("ten interrupts are one", interrupt("import time; time.sleep(30)", presses=10)),
        ("a C loop tells where it hangs", hanging),
    ],
    "IPython": [
        ("%timeit", text("%timeit -n1 -r1 pass", "loop")),
        ("%%bash", text("%%bash\necho b", "b")),
        ("%pip", text("%pip --version", "pip ")),
        ("%store", text("zz = 1\n%store zz", "Stored")),
        ("%%capture", value("%%capture c\nprint('x')", None)),
        ("%autoreload", lambda k: k.run("%load_ext autoreload\n%autoreload 2").status == "ok"),
        ("startup files of the user", value("from_startup", "1")),
        ("top-level await", value("import asyncio; await asyncio.sleep(0, 5)", "5")),
        ("figures of matplotlib", display("import matplotlib.pyplot as plt; plt.plot([1]);", "image/png")),
        ("widgets: a slider moved by a client", slider),
        ("widgets: Output", lambda k: k.run("import ipywidgets as w\no = w.Output()\nwith o: print('in')").status == "ok"),
        ("tqdm.auto is tqdm.notebook", value("from tqdm.auto import tqdm; tqdm.__mro__[1].__module__", "'tqdm.notebook'")),
        ("detected as a notebook", value("get_ipython().__class__.__name__", "'ZMQInteractiveShell'")),
        ("rich tables of pandas without asking", value("'ipykernel' in __import__('sys').modules", "True")),
        ("exit", lambda k: k.run("exit").reply["payload"][0]["source"] == "ask_exit"),
    ],
    "Death": [
        ("os._exit in a cell is answered, the next one runs", death("import os; os._exit(3)")),
        ("a segmentation fault likewise", death("import ctypes; ctypes.string_at(0)")),
        ("children end with a killed kernel", gone_with_the_kernel),
    ],
    "Isolation": [
        ("the home directory cannot be read", error("import os; open(os.path.expanduser('~/secret.txt'))", "FileNotFoundError")),
        ("the network cannot be reached", error("import socket; socket.create_connection(('192.0.2.1', 80), 1)", "OSError")),
        ("the key of the kernel cannot be read", lambda k: k.run("import sys; open(sys.argv[sys.argv.index('-f') + 1]).read()[:1]").status == "error"),
        ("processes of others cannot be seen", value("import os; os.path.exists('/proc/%d')" % os.getpid(), "False")),
    ],
}


def specs_of(prefix, directory):
    """{name: (directory of kernelspecs, name of the kernelspec)}"""
    stock = directory / "stock"
    subprocess.run([sys.executable, "-m", "ipykernel", "install", "--prefix", str(stock), "--name", "stock"],
                   check=True, capture_output=True)
    xeus = directory / "xeus"
    if not (xeus / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(xeus)], check=True)
    python = str(xeus / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *XEUS], check=True)
    spec = xeus / "share" / "jupyter" / "kernels" / "xpython"
    content = json.loads((spec / "kernel.json").read_text())
    content["argv"][0] = python
    (spec / "kernel.json").write_text(json.dumps(content))
    husk = conftest.spec_directory(directory / "husk", "--history", "session", husk=prefix / "bin" / "husk")
    return {"ipykernel": (stock / "share/jupyter/kernels", "stock"), "xeus-python": (spec.parent, "xpython"),
            "husk": (husk, "husk")}


class Bench:
    """One kernel after the other: a row that leaves it in disorder gets none after it."""

    def __init__(self, specs, name, directory):
        self.specs, self.name, self.directory = specs, name, directory
        self.peer, self.count = None, 0

    def holds(self, check):
        if self.peer is None:
            self.count += 1
            self.peer = Peer(self.specs, self.name, self.directory / str(self.count))
        try:
            holds = bool(check(self.peer))
        except (AssertionError, Exception):
            holds = False
        try:
            well = holds and self.peer.run("1 + 1", timeout=3).value == "2"
        except (AssertionError, Exception):
            well = False
        if not well:
            self.stop()
        return holds

    def stop(self):
        if self.peer is not None:
            with contextlib.suppress(Exception):
                self.peer.stop()
            self.peer = None


def try_all(specs, directory):
    """{(section, feature): {kernel: bool}}"""
    found = {(s, f): {} for s, rows in SECTIONS.items() for f, _ in rows}
    for kernel, (where, name) in specs.items():
        bench = Bench(where, name, directory / "work" / kernel)
        for section, rows in SECTIONS.items():
            for what, check in rows:
                found[section, what][kernel] = bench.holds(check)
                print(kernel, "|", section, "|", what, "|", found[section, what][kernel], flush=True)
        bench.stop()
    return found


def suites(directory):
    """Lines about what upstream.py left."""
    for suite in upstream.SUITES:
        path = directory / f"{suite}.xml"
        if path.exists():
            found = list(upstream.read(path).items())
            passed = sum(what == "passed" for _, what in found)
            skipped = sum(what == "skipped" for _, what in found)
            yield f"| {upstream.wanted(suite).replace('==', ' ')} | {passed} | {len(found) - passed - skipped} | {skipped} |"


def works_of_others(directory):
    """Lines about what gallery.py left."""
    path = directory / "gallery.xml"
    if not path.exists():
        return
    found = upstream.read(path)
    for what, test, reasons in (
            (f"scripts of matplotlib's gallery, {importlib.metadata.version('matplotlib')}", "test_a_script_", gallery.DIFFERENCES),
            (f"notebooks in the package of nbconvert {importlib.metadata.version('nbconvert')}", "test_a_notebook_",
             {name for name, _ in gallery.NOTEBOOK_DIFFERENCES} | set(gallery.LEFT_OUT))):
        passed = [result for name, result in found.items() if test in name and result == "passed"]
        yield f"| {what} | {len(passed)} | {len(reasons)} |"


def write(found, directory):
    versions = {"ipykernel": importlib.metadata.version("ipykernel"), "xeus-python": XEUS[0].partition("==")[2], "husk": ""}
    lines = [
        "# Compatibility", "",
        "Made by `tests/compatibility.py` from what each kernel did when it was asked; `make compatibility`.",
        "ipykernel and xeus-python contain nothing, and do not claim to.",
    ]
    for section, rows in SECTIONS.items():
        lines += ["", f"## {section}", "", "| | " + " | ".join(f"{k} {v}".strip() for k, v in versions.items()) + " |", "|---|---|---|---|"]
        for what, _ in rows:
            marks = ["yes" if found[section, what][k] else "no" for k in versions]
            lines.append(f"| {what} | " + " | ".join(marks) + " |")
    left = list(suites(directory))
    if left:
        lines += ["", "## Test suites of others, run with husk", "",
                  "`make check-upstream`; each test that fails has its reason in `tests/upstream.py`. Skipped are those",
                  "that skip themselves with every kernel here.", "",
                  "| suite | passed | failed | skipped |", "|---|---|---|---|", *left]
    others = list(works_of_others(directory))
    if others:
        lines += ["", "## What others wrote, run by ipykernel and by husk", "",
                  "`make check-gallery`: outputs are equal, pictures by their pixels, but where `tests/gallery.py` has a reason.",
                  "The notebooks of nbclient and papermill, 47, are a part of `./check`.", "",
                  "| | as expected | of them with a reason |", "|---|---|---|", *others]
    (TOP / "docs" / "compatibility.md").write_text("\n".join(lines) + "\n")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    prefix, directory = (pathlib.Path(a).resolve() for a in sys.argv[1:])
    directory.mkdir(parents=True, exist_ok=True)
    write(try_all(specs_of(prefix, directory), directory), directory)


if __name__ == "__main__":
    main()
