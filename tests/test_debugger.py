# SPDX-License-Identifier: BSD-3-Clause
"""The debugger as front ends use it: debug_request on control, debug_event on iopub."""

import itertools
import json
import pathlib
import re
import subprocess
import time

import conftest
import debugpy
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

CODE = """def f(a, b):
    c = a + b
    return c

def g():
    x = f(2, 3)
    return x

print(g())"""


class Debugger:
    """One client of the debugger; it keeps what has come on iopub, in order."""

    def __init__(self, kernel, client=None):
        self.kernel = kernel
        self.client = client or kernel.client
        self.seq = itertools.count(1)
        self.kept = []

    def send(self, command, **arguments):
        content = {"type": "request", "seq": next(self.seq), "command": command, "arguments": arguments}
        msg = self.client.session.msg("debug_request", content)
        self.client.control_channel.send(msg)
        return msg["header"]["msg_id"]

    def reply(self, msg_id):
        end = time.monotonic() + conftest.TIMEOUT
        while True:
            reply = self.client.get_control_msg(timeout=max(0.1, end - time.monotonic()))
            if reply["parent_header"].get("msg_id") == msg_id:
                assert reply["msg_type"] == "debug_reply"
                return reply["content"]

    def ask(self, command, **arguments):
        return self.reply(self.send(command, **arguments))

    def do(self, command, **arguments):
        """The body of a request that succeeds."""
        reply = self.ask(command, **arguments)
        assert reply["success"], reply
        assert reply["type"] == "response" and reply["command"] == command
        return reply.get("body", {})

    def start(self):
        self.do("initialize", clientID="tests", adapterID="")
        self.do("attach")
        return self

    def wait(self, kind, msg_id=None, **content):
        """The next message of this type (and parent) on iopub with this in its content; it is dropped."""
        end, seen = time.monotonic() + conftest.TIMEOUT, 0
        while True:
            for m in self.kept[seen:]:
                if m["msg_type"] == kind and content.items() <= m["content"].items() and (
                        msg_id is None or m["parent_header"].get("msg_id") == msg_id):
                    self.kept.remove(m)
                    return m
            seen = len(self.kept)
            assert time.monotonic() < end, f"no {kind} {content}: {[m['content'] for m in self.kept]}"
            while self.client.iopub_channel.socket.poll(50):
                self.kept.append(self.client.iopub_channel.get_msg(timeout=0))

    def event(self, name):
        return self.wait("debug_event", event=name)["content"].get("body", {})

    def finish(self, msg_id):
        """Of a cell: what it printed, and its reply."""
        self.wait("status", msg_id, execution_state="idle")
        mine = [m["content"] for m in self.kept
                if m["msg_type"] == "stream" and m["parent_header"].get("msg_id") == msg_id]
        text = "".join(c["text"] for c in mine if c["name"] == "stdout")
        while True:
            reply = self.client.get_shell_msg(timeout=conftest.TIMEOUT)
            if reply["parent_header"].get("msg_id") == msg_id:
                return text, reply["content"]

    def break_at(self, code, *lines):
        path = self.do("dumpCell", code=code)["sourcePath"]
        body = self.do("setBreakpoints", source={"path": path}, breakpoints=[{"line": n} for n in lines])
        assert [b["line"] for b in body["breakpoints"] if b["verified"]] == list(lines)
        self.do("configurationDone")
        return path

    def stop_in(self, code, *lines):
        """Runs a cell up to its first breakpoint: its msg_id, and the frames there."""
        self.break_at(code, *lines)
        msg_id = self.client.execute(code)
        assert self.event("stopped")["reason"] == "breakpoint"
        return msg_id, self.frames()

    def frames(self):
        return self.do("stackTrace", threadId=1)["stackFrames"]

    def scope(self, frame, name):
        scopes = self.do("scopes", frameId=frame["id"])["scopes"]
        reference = next(s["variablesReference"] for s in scopes if s["name"] == name)
        return {v["name"]: v["value"] for v in self.do("variables", variablesReference=reference)["variables"]}

    def go_on(self, msg_id):
        self.do("continue", threadId=1)
        return self.finish(msg_id)

    def run(self, code):
        return self.finish(self.client.execute(code))


@pytest.fixture
def debugger(kernel):
    """A session on the kernel of the module, which no test leaves stopped."""
    d = Debugger(kernel)
    while kernel.client.iopub_channel.socket.poll(0):
        kernel.client.get_iopub_msg(timeout=0)
    yield d.start()
    d.do("disconnect", terminateDebuggee=True)  # the interpreter stays, whatever a client asks for
    assert d.run("print(6 * 7)")[0] == "42\n"


def test_it_is_advertised_where_debugpy_is(kernel):
    """By the first reply of a kernel, when no interpreter may have started yet, and by later ones."""
    reply = kernel.control("kernel_info_request")["content"]
    assert "debugger" in reply["supported_features"] and reply["debugger"] is True


def test_without_debugpy_there_is_none(make_kernel, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([conftest.PYTHON, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    own = next((tmp_path / "venv" / "lib").iterdir()) / "site-packages"
    theirs = pathlib.Path(debugpy.__file__).parent.parent

    def refusal(message, *options):
        kernel = make_kernel("--python", str(python), *options)
        reply = kernel.control("kernel_info_request")["content"]
        assert reply["supported_features"] == ["kernel subshells"] and reply["debugger"] is False
        reply = Debugger(kernel).ask("initialize")
        assert reply["success"] is False and message in reply["message"]

    refusal("without IPython")
    for package in theirs.iterdir():
        if not package.name.startswith("debugpy"):
            (own / package.name).symlink_to(package)
    refusal("pip install debugpy", "--mount", f"{theirs}:ro")


def test_what_a_front_end_asks_before_there_is_a_session(kernel):
    d = Debugger(kernel)
    info = d.do("debugInfo")
    assert info["isStarted"] is False and info["breakpoints"] == [] and info["stoppedThreads"] == []
    assert info["hashMethod"] == "Murmur2" and info["richRendering"] and info["copyToGlobals"]
    assert info["exceptionPaths"] == ["Python Exceptions"]
    text = d.run("import sys; print(sys._getframe().f_code.co_filename, end='')")[0]
    assert text.startswith(info["tmpFilePrefix"]) and text.endswith(info["tmpFileSuffix"])
    reply = d.ask("stackTrace", threadId=1)
    assert reply["success"] is False and "initialize" in reply["message"]
    d.do("disconnect")


def test_a_cell_stops_and_goes_on(debugger):
    """And meanwhile everything else is answered: it is the supervisor who has the sockets."""
    msg_id, frames = debugger.stop_in(CODE, 2)
    assert [(f["name"], f["line"]) for f in frames] == [("f", 2), ("g", 6), ("<module>", 9)]
    assert {f["source"]["path"] for f in frames} == {debugger.do("dumpCell", code=CODE)["sourcePath"]}
    info = debugger.do("debugInfo")
    assert info["isStarted"] and 1 in info["stoppedThreads"]
    assert [[b["line"] for b in s["breakpoints"]] for s in info["breakpoints"]] == [[2]]
    assert debugger.kernel.control("kernel_info_request")["content"]["status"] == "ok"
    assert debugger.kernel.control("usage_request")["content"]["status"] == "ok"
    assert debugger.scope(frames[0], "Locals") == {"a": "2", "b": "3"}
    assert debugger.do("source", source={"path": frames[0]["source"]["path"]})["content"] == CODE
    text, reply = debugger.go_on(msg_id)
    assert text == "5\n" and reply["status"] == "ok"
    assert debugger.event("continued")["allThreadsContinued"] is True
    assert debugger.do("debugInfo")["stoppedThreads"] == []


def test_the_kernel_is_busy_when_a_cell_goes_on(debugger):
    """A client that shows the last status does not show the idle of a debug request for longer than it is true."""
    code = "import time\ngo = False\nwhile not go: time.sleep(0.01)"
    msg_id, frames = debugger.stop_in(code, 2)
    debugger.kept.clear()
    asked = debugger.send("continue", threadId=1)
    debugger.reply(asked)
    debugger.wait("status", asked, execution_state="idle")
    debugger.wait("status", msg_id, execution_state="busy")
    debugger.kernel.interrupt()
    debugger.finish(msg_id)


def test_stepping(debugger):
    msg_id, frames = debugger.stop_in(CODE, 6)

    def step(command):
        debugger.do(command, threadId=1)
        assert debugger.event("stopped")["reason"] == "step"
        return [(f["name"], f["line"]) for f in debugger.frames()]

    assert step("stepIn")[0] == ("f", 2)
    assert step("next")[0] == ("f", 3)
    assert step("stepOut")[0] in [("g", 6), ("g", 7)]
    assert debugger.go_on(msg_id)[0] == "5\n"


def test_stepping_into_a_library_and_out_of_a_cell(debugger):
    code = "import textwrap\nx = textwrap.dedent('  a')\nprint(x)"
    msg_id, frames = debugger.stop_in(code, 2)
    debugger.do("stepIn", threadId=1)
    debugger.event("stopped")
    top = debugger.frames()[0]
    assert top["name"] == "dedent" and top["source"]["path"].endswith("textwrap.py")
    assert "def dedent" in debugger.do("source", source=top["source"])["content"]
    debugger.do("stepOut", threadId=1)
    debugger.event("stopped")
    assert debugger.frames()[0]["line"] == 2
    debugger.do("next", threadId=1)
    debugger.event("stopped")
    assert [(f["name"], f["line"]) for f in debugger.frames()] == [("<module>", 3)]
    debugger.do("next", threadId=1)  # the end of the cell is the end: nobody wants to see what runs cells
    assert debugger.finish(msg_id)[0] == "a\n"


def test_breakpoints_with_conditions_and_in_empty_lines(debugger):
    code = "\n\nfor i in range(5):\n    y = i * 2\nprint(y)"
    path = debugger.do("dumpCell", code=code)["sourcePath"]
    debugger.do("setBreakpoints", source={"path": path}, breakpoints=[{"line": 4, "condition": "i == 3"}])
    msg_id = debugger.client.execute(code)
    debugger.event("stopped")
    frame = debugger.frames()[0]
    assert frame["line"] == 4
    assert debugger.do("evaluate", expression="i + 1", frameId=frame["id"], context="repl")["result"] == "4"
    assert debugger.do("debugInfo")["breakpoints"][0]["breakpoints"] == [{"line": 4, "condition": "i == 3"}]
    debugger.do("setBreakpoints", source={"path": path}, breakpoints=[])
    assert debugger.do("debugInfo")["breakpoints"] == []
    assert debugger.go_on(msg_id)[0] == "8\n"


def test_variables_change_while_stopped(debugger):
    msg_id, frames = debugger.stop_in(CODE, 3)
    scopes = debugger.do("scopes", frameId=frames[0]["id"])["scopes"]
    reference = next(s["variablesReference"] for s in scopes if s["name"] == "Locals")
    debugger.do("setVariable", variablesReference=reference, name="c", value="70")
    assert debugger.go_on(msg_id)[0] == "70\n"


def test_exceptions_stop(debugger):
    debugger.do("setExceptionBreakpoints", filters=["raised"])
    msg_id = debugger.client.execute("def h():\n    return 1 / 0\ntry:\n    h()\nexcept ZeroDivisionError: print('caught')")
    stopped = debugger.event("stopped")
    assert stopped["reason"] == "exception" and debugger.frames()[0]["name"] == "h"
    info = debugger.do("exceptionInfo", threadId=1)
    assert "ZeroDivisionError" in info["exceptionId"]
    debugger.do("setExceptionBreakpoints", filters=[])
    assert debugger.go_on(msg_id)[0] == "caught\n"


def test_variables_while_nothing_is_stopped(debugger):
    debugger.run("_input = {'b': [1, 2]}\nclass Look:\n    def _repr_html_(self): return '<b>look</b>'\nlook = Look()")
    found = {v["name"]: v for v in debugger.do("inspectVariables")["variables"]}
    assert {"_input", "look"} <= set(found) and not {"In", "Out", "_i1", "get_ipython", "quit"} & set(found)
    assert found["_input"]["type"] == "dict" and found["_input"]["value"] == "{'b': [1, 2]}"
    inner = debugger.do("variables", variablesReference=found["_input"]["variablesReference"])["variables"]
    assert "'b'" in [v["name"] for v in inner]
    assert debugger.do("richInspectVariables", variableName="look")["data"]["text/html"] == "<b>look</b>"
    assert debugger.do("richInspectVariables", variableName="special variables")["data"] == {}
    for name, message in [("nobody", "no variable 'nobody'"), (None, "'variableName' is missing")]:
        reply = debugger.ask("richInspectVariables", variableName=name)
        assert reply["success"] is False and message in reply["message"]
    assert debugger.ask("variables", variablesReference=987654321)["success"] is False


def test_rich_inspection_and_copying_of_a_frame(debugger):
    """Also of what debugpy's own text would cut or could not say."""
    code = "def f():\n    import base64\n    from IPython.display import Image, HTML\n    local = HTML('<i>' + 100000 * 'x' + '</i>')\n    return local\nr = f()"
    msg_id, frames = debugger.stop_in(code, 5)
    data = debugger.do("richInspectVariables", variableName="local", frameId=frames[0]["id"])["data"]
    assert data["text/html"] == "<i>" + 100000 * "x" + "</i>"
    debugger.do("copyToGlobals", srcVariableName="local", dstVariableName="kept", srcFrameId=frames[0]["id"])
    for source, target in ("local", "no name"), ("nobody", "kept"):
        reply = debugger.ask("copyToGlobals", srcVariableName=source, dstVariableName=target,
                             srcFrameId=frames[0]["id"])
        assert reply["success"] is False and reply["message"]
    debugger.go_on(msg_id)
    assert debugger.run("print(kept is r)")[0] == "True\n"


def test_modules(debugger):
    body = debugger.do("modules")
    assert body["totalModules"] > 100
    assert any(m["name"] == "json" and m["path"].endswith("json/__init__.py") for m in body["modules"])
    assert len(debugger.do("modules", startModule=1, moduleCount=50)["modules"]) <= 50


def test_an_interrupt_ends_a_stopped_cell_as_any_other(debugger):
    """And the next one stops again."""
    for _ in range(2):
        msg_id, frames = debugger.stop_in(CODE, 2)
        debugger.kernel.interrupt()
        error = debugger.wait("error", msg_id)["content"]
        assert error["ename"] == "KeyboardInterrupt"
        shown = re.sub(r"\x1b\[[0-9;]*m", "", "".join(error["traceback"]))
        assert "c = a + b" in shown and "pydevd" not in shown and shown.count(", line ") + shown.count("line: ") <= 3
        assert debugger.finish(msg_id)[1]["ename"] == "KeyboardInterrupt"
        assert not [m for m in debugger.kept if "disabled" in json.dumps(m["content"])]


def test_a_stopped_cell_may_catch_an_interrupt(debugger):
    code = "def f():\n    return 1\ntry:\n    f()\nexcept KeyboardInterrupt: print('caught')"
    msg_id, frames = debugger.stop_in(code, 2)
    debugger.kernel.interrupt()
    assert debugger.finish(msg_id)[0] == "caught\n"
    assert debugger.go_on(debugger.stop_in(CODE, 2)[0])[0] == "5\n"


def test_an_interrupt_ends_what_is_evaluated(debugger):
    msg_id, frames = debugger.stop_in(CODE, 2)
    asked = debugger.send("evaluate", expression="[print('begun')] + [1 for i in iter(int, 1)]",
                          frameId=frames[0]["id"], context="repl")
    debugger.wait("stream", msg_id)
    debugger.kernel.interrupt()
    reply = debugger.reply(asked)
    assert reply["success"] is False and "KeyboardInterrupt" in reply["message"]
    assert 1 in debugger.do("debugInfo")["stoppedThreads"]
    assert debugger.go_on(msg_id)[0] == "5\n"


def test_two_clients_have_one_debugger(debugger):
    other = BlockingKernelClient(connection_file=debugger.kernel.manager.connection_file)
    other.load_connection_file()
    other.start_channels()
    try:
        other.wait_for_ready(timeout=conftest.TIMEOUT)
        second = Debugger(debugger.kernel, other)
        assert second.do("debugInfo")["isStarted"]
        second.start()
        msg_id, frames = debugger.stop_in(CODE, 2)
        assert second.event("stopped")["reason"] == "breakpoint"
        assert second.scope(second.frames()[0], "Locals") == {"a": "2", "b": "3"}
        second.do("continue", threadId=1)
        assert debugger.finish(msg_id)[0] == "5\n"
    finally:
        other.stop_channels()


def test_disconnecting_lets_a_stopped_cell_go_on(debugger):
    """Without its breakpoints; and another session can begin."""
    msg_id, frames = debugger.stop_in(CODE, 2)
    debugger.do("disconnect", restart=False, terminateDebuggee=True)
    assert debugger.finish(msg_id)[0] == "5\n"
    assert debugger.run(CODE)[0] == "5\n"
    info = debugger.do("debugInfo")
    assert not info["isStarted"] and info["breakpoints"] == [] and info["stoppedThreads"] == []
    debugger.start()
    assert debugger.go_on(debugger.stop_in(CODE, 2)[0])[0] == "5\n"


@pytest.mark.parametrize("way", ["fork", "pool", "spawn", "subprocess"])
def test_children_of_a_cell_are_not_debugged(debugger, way):
    """Nobody would let them go on: front ends know one process."""
    work = "def work(n):\n    m = n * 2\n    return m\n"
    code = {
        "fork": work + "import os\npid = os.fork()\nif pid == 0:\n    os._exit(work(3))\n"
                       "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
        "pool": work + "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n"
                       "    print(sum(pool.map(work, [1, 2])))",
        "spawn": work + "import multiprocessing, operator\nwith multiprocessing.get_context('spawn').Pool(1) as pool:\n"
                        "    print(pool.apply(operator.mul, (2, 3)))",
        "subprocess": work + "import subprocess, sys\nprint(int(subprocess.check_output([sys.executable, '-c', 'print(6)'])))",
    }[way]
    debugger.break_at(code, 2)
    msg_id = debugger.client.execute(code)
    assert debugger.finish(msg_id)[0] == "6\n"
    stopped = debugger.stop_in(CODE, 2)[0]  # the parent is, as before
    assert debugger.go_on(stopped)[0] == "5\n"


def test_a_session_begins_while_a_cell_runs(make_kernel):
    """C code that never returns is another matter; this one sleeps."""
    kernel = make_kernel()
    d = Debugger(kernel)
    msg_id = kernel.client.execute("import time\ngo = False\nwhile not go: time.sleep(0.01)\nprint('done')")
    d.wait("execute_input", msg_id)
    d.start()
    assert "go" in {v["name"] for v in d.do("inspectVariables")["variables"]}
    d.do("pause", threadId=1)
    d.event("stopped")
    frame = next(f for f in d.frames() if f["name"] == "<module>")
    d.do("evaluate", expression="globals().update(go=True)", frameId=frame["id"], context="repl")
    d.do("continue", threadId=1)
    assert d.finish(msg_id)[0] == "done\n"


def test_death_while_stopped_and_a_new_session(make_kernel):
    kernel = make_kernel()
    d = Debugger(kernel).start()
    pid = d.run("import os; print(os.getpid())")[0]
    msg_id, frames = d.stop_in(CODE, 2)
    asked = d.send("evaluate", expression="__import__('os').kill(__import__('os').getpid(), 9)",
                   frameId=frames[0]["id"], context="repl")
    assert d.reply(asked)["ename"] == "InterpreterDied"
    assert d.finish(msg_id)[1]["ename"] == "InterpreterDied"
    assert not d.do("debugInfo")["isStarted"]
    assert d.start().run("import os; print(os.getpid())")[0] != pid
    assert d.go_on(d.stop_in(CODE, 2)[0])[0] == "5\n"


def test_shutdown_while_stopped(make_kernel):
    kernel = make_kernel()
    d = Debugger(kernel).start()
    d.stop_in(CODE, 2)
    assert kernel.control("shutdown_request", {"restart": False})["content"]["status"] == "ok"
    kernel.manager.provisioner.process.wait(conftest.TIMEOUT)
