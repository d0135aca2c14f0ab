# SPDX-License-Identifier: BSD-3-Clause
"""Completion and inspection: IPython's own answers, also while a cell runs, and never stale unsaid."""

import json
import subprocess
import time

import pytest
from conftest import PYTHON, TIMEOUT

SETUP = '''
import ctypes, json, os, sys, time
class Animal:
    """A beast."""
    legs = 4
    def speak(self, loudly=False):
        """Says what it says."""
    @property
    def name(self): return 1 / 0
animal = Animal(); animal.own = 1
pie = {"crust": 1}
'''
CODES = [
    "os.pa", "os.path.jo", "sys.std", "json.", "animal.", "animal.sp", "Animal.le", "pri", "anim", "pie.ke",
    "x = animal.le", "foo(os.get", "for i in ran", "import js", "from os import getcw", "import os\nos.PA",
    "'a'.upp", "def f(a):\n    a = 1\n    os.sep.jo", "%time", "pie['cr", "no_such_name.x", "\U0001f600 = os.pa",
    "lambda: prin", "class A(Anim", "json.JSONEncoder.def", "a.b.c = animal.na",
    "import os; os.pa", "import os, json\njson.JSONE", "import os.path\nos.path.jo", "def f():\n    import os\n    os.sep.jo",
    "import json as os\nos.du", "os = 'a'\nimport os\nos.pathse", "import os\nfor os in ['a']: pass\nos.upp",
    "import os\nos = 'a'\nos.upp", "import os\ndef os(): pass\nos.__na",
]
# An import that has been done is hidden from jedi (known_imports.py): the answer is that to a cell without it, about the object,
# and not of what a stub or a source says about it.
HIDDEN = {"import os\nos.PA": "pass     \nos.PA", "import os; os.pa": "pass     ; os.pa", "import os, json\njson.JSONE": "pass           \njson.JSONE",
          "import os.path\nos.path.jo": "pass          \nos.path.jo", "def f():\n    import os\n    os.sep.jo": "def f():\n    pass     \n    os.sep.jo"}
# What IPython itself says, with nothing of husk near it.
REFERENCE = """
import json, sys
from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.core.interactiveshell import InteractiveShell
setup, codes = json.load(sys.stdin)
shell = InteractiveShell.instance()
shell.Completer.jedi_compute_type_timeout = 60000
shell.run_cell(setup)
found = []
for code in codes:
    with provisionalcompleter():
        found.append([(c.start, c.end, c.text, c.type, c.signature) for c in
                      rectify_completions(code, shell.Completer.completions(code, len(code)))])
json.dump(found, sys.stdout)
"""
# Nothing holds the GIL; Python shares it; C holds it.
SLEEPS = "time.sleep(60)"
COUNTS = "while True: pass"
HOLDS = "ctypes.PyDLL(None).sleep(2)"


def ask(kernel, msg_type, code, cursor=None, **content):
    """The reply, without waiting for what was asked before."""
    if msg_type != "is_complete_request":
        content["cursor_pos"] = len(code) if cursor is None else cursor
    msg = kernel.client.session.msg(msg_type, {"code": code, **content})
    kernel.client.shell_channel.send(msg)
    end = time.monotonic() + TIMEOUT
    while True:
        reply = kernel.client.get_shell_msg(timeout=max(0.1, end - time.monotonic()))
        if reply["parent_header"]["msg_id"] == msg["header"]["msg_id"]:
            return reply["content"]
        assert reply["msg_type"] != "execute_reply", "the cell ended first"


def complete(kernel, code):
    return ask(kernel, "complete_request", code)


def ask_live(kernel, *request, **content):
    """Until the thread is in time: how long it takes is the machine's doing."""
    end = time.monotonic() + TIMEOUT
    while True:
        found = ask(kernel, *request, **content)
        if found.get("status") != "unknown" and found.get("metadata", {}).get("husk", {}).get("source") != "snapshot":
            return found
        assert time.monotonic() < end, found
        time.sleep(0.2)


def complete_live(kernel, code):
    return ask_live(kernel, "complete_request", code)


class Busy:
    """A cell that runs while something is asked."""

    def __init__(self, kernel, code):
        self.kernel, self.code = kernel, code

    def __enter__(self):
        self.msg_id = self.kernel.send("print('started')\n" + self.code)
        self.messages = []
        while not any(m["msg_type"] == "stream" for m in self.messages):
            self.messages.append(self.kernel.client.get_iopub_msg(timeout=TIMEOUT))

    def __exit__(self, *_):
        if self.code not in (HOLDS,):
            self.kernel.interrupt()
        self.kernel.result(self.msg_id)


@pytest.fixture(scope="module")
def named(kernel):
    """A kernel with the names of SETUP, whose first completion is over."""
    kernel.run(SETUP)
    complete(kernel, "os.pa")
    return kernel


def wait_for_names(kernel):
    """The supervisor is told the names after a cell, not before the cell's reply."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        with Busy(kernel, HOLDS):
            found = complete(kernel, "anim")
        if found["matches"]:
            return found
        time.sleep(0.5)
    raise AssertionError(found)


def test_completions_are_those_of_ipython(named):
    wanted = json.loads(subprocess.run([PYTHON, "-c", REFERENCE], input=json.dumps([SETUP, [HIDDEN.get(c, c) for c in CODES]]), text=True,
                                       capture_output=True, check=True, timeout=TIMEOUT).stdout)
    named.run("get_ipython().Completer.jedi_compute_type_timeout = 60000")
    for code, expected in zip(CODES, wanted, strict=True):
        found = complete(named, code)
        types = found["metadata"]["_jupyter_types_experimental"]
        assert [[t["start"], t["end"], t["text"], t["type"], t["signature"]] for t in types] == expected, code
        assert found["matches"] == [e[2] for e in expected]
        assert (found["cursor_start"], found["cursor_end"]) == (tuple(expected[0][:2]) if expected else (len(code),) * 2)
        assert "husk" not in found["metadata"]


@pytest.mark.parametrize("code, hidden", [
    ("import os; os.pa", "pass     ; os.pa"), ("import os, json\nos.pa", "pass           \nos.pa"),
    ("from json import dumps as j\nj.", "pass                       \nj."), ("if 1:\n  import os #\n  os.p", "if 1:\n  pass      #\n  os.p"),
    ("import json as os\nos.", None), ("from os import pa", None), ("import os", None), ("os = 1\nimport os\nos.", None),
    ("x(os)\nimport os\nos.", None), ("class os: pass\nimport os\nos.", None), ("import sys as no\nno.", None), ("from odd import x\nx.", None),
])
def test_an_import_is_hidden_from_jedi_where_it_has_been_done(named, code, hidden):
    named.run("from json import dumps as j\nfrom husk_interpreter import known_imports\nsys.modules['odd'] = object()")
    found = named.run(f"known_imports.hide({code!r}, {len(code)}, globals())").value
    assert found == repr(hidden or code)


@pytest.mark.parametrize("code", [SLEEPS, COUNTS, "input()", "await __import__('asyncio').sleep(60)"],
                         ids=["sleeps", "counts", "asks", "awaits"])
def test_names_are_completed_while_a_cell(named, code):
    with Busy(named, "fresh_name = 1\n" + code):
        found = complete_live(named, "os.pa")
        assert {"path", "pardir", "pathsep"} <= set(found["matches"])
        assert found["metadata"]["husk"] == {"source": "live", "stale": False, "running": found["metadata"]["husk"]["running"]}
        assert complete_live(named, "fresh_n")["matches"] == ["fresh_name"]
        about = ask_live(named, "inspect_request", "animal.speak", detail_level=0)
        assert about["found"] and "Says what it says" in about["data"]["text/plain"]
        assert about["metadata"]["husk"]["source"] == "live"
        assert ask_live(named, "is_complete_request", "for x in y:")["status"] == "incomplete"
    named.run("del fresh_name")


def test_where_the_gil_is_held_the_answer_is_of_earlier_and_says_so(named):
    wait_for_names(named)
    count = named.run("1").reply["execution_count"]
    with Busy(named, "fresh_name = 1\n" + HOLDS):
        found = complete(named, "os.pa")
        about = found["metadata"]["husk"]
        assert about["source"] == "snapshot" and about["stale"] is True
        assert about["running"] == count + 1 and about["cell"] <= count
        assert {"path", "pardir", "pathsep"} <= set(found["matches"])
        types = {t["text"]: t["type"] for t in found["metadata"]["_jupyter_types_experimental"]}
        assert types["path"] == "module" and list(types) == found["matches"]
        assert complete(named, "fresh_n")["matches"] == []
        assert complete(named, "animal.le")["matches"] == ["legs"]
        found = ask(named, "inspect_request", "animal")
        assert found["found"] and "A beast." in found["data"]["text/plain"] and found["metadata"]["husk"]["stale"]
        assert ask(named, "is_complete_request", "for x in y:") == {"status": "unknown"}
    assert complete(named, "fresh_n")["matches"] == ["fresh_name"]
    with Busy(named, SLEEPS):
        assert complete_live(named, "animal.sp")["metadata"]["husk"]["source"] == "live"


def test_who_asks_right_after_a_short_cell_is_told_what_it_did(named):
    msg_id = named.send("pipelined_name = 1")
    msg = named.client.session.msg("complete_request", {"code": "pipelined_n", "cursor_pos": 11})
    named.client.shell_channel.send(msg)
    named.result(msg_id)
    found = named.client.get_shell_msg(timeout=TIMEOUT)["content"]
    assert found["matches"] == ["pipelined_name"] and "husk" not in found["metadata"]


def test_each_question_has_one_busy_one_reply_and_one_idle(named):
    with Busy(named, SLEEPS):
        msg = named.client.session.msg("complete_request", {"code": "os.pa", "cursor_pos": 5})
        named.client.shell_channel.send(msg)
        replies = [named.client.get_shell_msg(timeout=TIMEOUT)]
        time.sleep(0.2)
        replies += [m for m in iter_messages(named.client.get_shell_msg)]
        states = [(m["parent_header"]["msg_type"], m["content"]["execution_state"])
                  for m in iter_messages(named.client.get_iopub_msg) if m["msg_type"] == "status"]
    assert [m["msg_type"] for m in replies] == ["complete_reply"]
    # The cell goes on, and the state that a client has heard last says so.
    assert states == [("complete_request", "busy"), ("complete_request", "idle"), ("execute_request", "busy")]


def iter_messages(get):
    while True:
        try:
            yield get(timeout=0.3)
        except Exception:
            return


def test_the_first_question_of_all_is_answered_while_a_cell_runs(make_kernel):
    kernel = make_kernel()
    kernel.run("import threading, time; alone = threading.active_count()")
    assert kernel.run("alone").value == "1"
    with Busy(kernel, SLEEPS):
        found = complete_live(kernel, "time.sl")
        assert found["matches"] == ["sleep"] and found["metadata"]["husk"]["source"] == "live"


def test_a_plain_python_completes_while_a_cell_runs(make_kernel, tmp_path):
    broken = tmp_path / "broken" / "IPython"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('this IPython is broken')")
    kernel = make_kernel(env={"PYTHONPATH": str(broken.parent)})
    kernel.run("import time; fresh_name = 1")
    with Busy(kernel, SLEEPS):
        assert complete_live(kernel, "fresh_n")["matches"] == ["fresh_name"]


@pytest.mark.parametrize("code, said", [
    ("os.write(_husk.ASIDE_SOCKET, b'x' * 100)", "broke the protocol"),
    ("os.write(_husk.ASIDE_SOCKET, struct.pack('>IHHIIQ', 6, 34, 0, 0, 0, 0) + struct.pack('>I', 2) + b'[]')", "broke the protocol"),
    ("os.close(_husk.ASIDE_SOCKET)", None),
    ("os.kill(os.getpid(), 9)", "killed by signal 9"),
], ids=["junk", "no object", "closed", "killed"])
def test_a_hostile_answer_harms_nobody_else(make_kernel, code, said):
    kernel = make_kernel()
    complete(kernel, "pri")
    result = kernel.run(f"import _husk, os, struct, time\n{code}\n" + ("time.sleep(30)" if said else ""))
    if said:
        assert result.ename == "InterpreterDied" and said in result.evalue
    with Busy(kernel, SLEEPS.replace("time", "__import__('time')")):
        assert complete(kernel, "pri")["cursor_end"] == 3
    assert kernel.run("1").value == "1"


def test_a_question_whose_interpreter_dies_is_answered(make_kernel):
    kernel = make_kernel()
    kernel.run("import ctypes, os, time")
    complete(kernel, "os.pa")
    msg_id = kernel.send("print('started')\nctypes.PyDLL(None).usleep(200000)\nos.kill(os.getpid(), 9)")
    time.sleep(0.1)
    found = complete(kernel, "os.pa")
    assert found["status"] in ("ok", "error")
    assert kernel.result(msg_id).ename == "InterpreterDied"
    assert kernel.run("1").value == "1"
