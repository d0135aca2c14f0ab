# SPDX-License-Identifier: BSD-3-Clause
"""What a cell may do and what comes back: numbers, errors, displays, input, comms, magics."""

import collections
import time
import uuid

import conftest
import pytest

WAIT = "import os, time\nwhile not os.path.exists({0!r}): time.sleep(0.01)\n"


def types(result):
    return [m["msg_type"] for m in result.messages if m["msg_type"] != "status"]


def collect(kernel, ids, timeout=conftest.TIMEOUT):
    """Results of several requests that are open at the same time."""
    replies, messages, idle = {}, collections.defaultdict(list), set()
    end = time.monotonic() + timeout
    while not (idle >= set(ids) and replies.keys() >= set(ids)):
        assert time.monotonic() < end, f"open: {set(ids) - (idle & replies.keys())}"
        for m in received(kernel, "iopub") + received(kernel, "shell"):
            parent = m["parent_header"].get("msg_id")
            if m["msg_type"].endswith("_reply") and m["msg_type"] != "shutdown_reply":
                replies[parent] = m
            else:
                messages[parent].append(m)
                if m["content"].get("execution_state") == "idle":
                    idle.add(parent)
    return [conftest.Result(replies[i], messages[i]) for i in ids]


def received(kernel, channel):
    """Messages of a channel that are there, or come within a moment."""
    found, source = [], getattr(kernel.client, f"{channel}_channel")
    while source.socket.poll(5):
        found.append(source.get_msg(timeout=0))
    return found


def wait_for(kernel, msg_id, kind, channel="iopub", timeout=conftest.TIMEOUT):
    """The first message of this type and parent; what comes before it is dropped."""
    end = time.monotonic() + timeout
    while True:
        assert time.monotonic() < end, f"no {kind}"
        for m in received(kernel, channel):
            if m["msg_type"] == kind and m["parent_header"].get("msg_id") == msg_id:
                return m


def ask(kernel, kind, **content):
    """Any request on shell: its Result."""
    msg = kernel.client.session.msg(kind, content)
    kernel.client.shell_channel.send(msg)
    return kernel.result(msg["header"]["msg_id"])


# --- numbers, silence


def test_cells_count_from_one_and_all_say_the_same_number(make_kernel):
    kernel = make_kernel()
    for n in (1, 2, 3):
        result = kernel.run("1" if n != 2 else "1 / 0")
        numbers = [c["execution_count"] for c in result.of("execute_input", "execute_result")]
        assert {result.reply["execution_count"], *numbers} == {n}


@pytest.mark.parametrize("options", [{"silent": True}, {"store_history": False},
                                     {"silent": True, "store_history": True}], ids=str)
def test_a_cell_that_is_not_stored_keeps_the_number(kernel, options):
    before = kernel.run("1").reply["execution_count"]
    assert kernel.run("2", **options).status == "ok"
    assert kernel.run("3 / 0", **options).status == "error"
    assert kernel.run("3").reply["execution_count"] == before + 1
    assert kernel.run("In[-2]").value == "'3'"


def test_silence_is_about_input_and_result_only(kernel):
    code = "import sys; print('out'); print('err', file=sys.stderr); display(5)\n6"
    result = kernel.run(code, silent=True)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert "execute_input" not in types(result) and result.value is None
    assert len(result.of("display_data")) == 1
    assert types(kernel.run("1 / 0", silent=True)) == ["error"]


@pytest.mark.parametrize("code", ["", "\n\n", "# nothing", "   ", "pass", "%%bash\n", "?"], ids=repr)
def test_a_cell_without_a_value_has_an_ordinary_reply(kernel, code):
    result = kernel.run(code)
    assert result.status in ("ok", "error") and result.value is None
    assert kernel.run("1").value == "1"


def test_a_semicolon_hides_the_value(kernel):
    assert kernel.run("5;").value is None


# --- user_expressions


def test_user_expressions_are_answered_one_by_one(kernel):
    expressions = {"good": "6 * 7", "bad": "1 / 0", "odd": "(", "rich": "HTML('<b>x</b>')"}
    result = kernel.run("from IPython.display import HTML", user_expressions=expressions)
    found = result.reply["user_expressions"]
    assert result.status == "ok" and set(found) == set(expressions) and not result.of("error")
    assert found["good"]["status"] == "ok" and found["good"]["data"]["text/plain"] == "42"
    assert found["bad"]["status"] == "error" and found["bad"]["ename"] == "ZeroDivisionError"
    assert found["odd"]["ename"] == "SyntaxError" and isinstance(found["odd"]["traceback"], list)
    assert found["rich"]["data"]["text/html"] == "<b>x</b>" and "text/plain" in found["rich"]["data"]


def test_user_expressions_are_evaluated_in_silence_but_not_after_an_error(kernel):
    assert kernel.run("a = 1", silent=True, user_expressions={"x": "a"}).reply["user_expressions"]["x"]["data"]
    assert not kernel.run("1 / 0", user_expressions={"x": "a"}).reply.get("user_expressions")


# --- errors and what was waiting


def queue_behind(kernel, first, *later, **options):
    """Runs `first` when all of the later cells have arrived; their results."""
    gate = uuid.uuid4().hex
    ids = [kernel.send(WAIT.format(gate) + first, **options)]
    wait_for(kernel, ids[0], "execute_input")
    ids += [kernel.send(code, **o) for code, o in later]
    kernel.control("kernel_info_request")
    # A later message on shell that is answered at once: what was sent before it has arrived.
    probe = kernel.client.kernel_info()
    wait_for(kernel, probe, "kernel_info_reply", "shell")
    (kernel.cwd / gate).touch()
    return collect_after(kernel, ids)


def collect_after(kernel, ids):
    """As collect(); the busy of the first was read before."""
    return collect(kernel, ids)


def test_an_error_aborts_the_cells_that_were_there_and_no_later_one(kernel):
    results = queue_behind(kernel, "1 / 0", ("a = 1", {}), ("b = 2", {"stop_on_error": False}))
    assert [r.status for r in results] == ["error", "aborted", "aborted"]
    for r in results[1:]:
        states = [m["content"]["execution_state"] for m in r.messages if m["msg_type"] == "status"]
        assert states == ["busy", "idle"] and types(r) == []
        assert isinstance(r.reply["execution_count"], int)
    assert kernel.run("a = 'ran'; a").value == "'ran'"


def test_stop_on_error_false_runs_everything(kernel):
    results = queue_behind(kernel, "1 / 0", ("1", {}), ("2", {}), stop_on_error=False)
    assert [r.status for r in results] == ["error", "ok", "ok"]


def test_a_silent_error_aborts_nothing(kernel):
    gate = uuid.uuid4().hex
    one = kernel.send(WAIT.format(gate) + "1 / 0", silent=True)
    wait_for(kernel, one, "status")
    two = kernel.send("2")
    wait_for(kernel, kernel.client.kernel_info(), "kernel_info_reply", "shell")
    (kernel.cwd / gate).touch()
    assert [r.status for r in collect(kernel, [one, two])] == ["error", "ok"]


def test_an_error_aborts_cells_only(kernel):
    gate = uuid.uuid4().hex
    kernel.run("def on_open(c, m): print('opened')\nget_ipython().kernel.comm_manager.register_target('t', on_open)")
    one = kernel.send(WAIT.format(gate) + "1 / 0")
    wait_for(kernel, one, "execute_input")
    client = kernel.client
    others = [client.complete("pri", 3), client.inspect("print"), client.is_complete("1"),
              client.comm_info(), client.history(hist_access_type="tail", n=1)]
    comm = client.session.msg("comm_open", {"comm_id": "aborts", "target_name": "t", "data": {}})
    client.shell_channel.send(comm)
    wait_for(kernel, client.kernel_info(), "kernel_info_reply", "shell", 1) if False else None
    (kernel.cwd / gate).touch()
    first, *rest = collect(kernel, [one, *others])
    assert first.status == "error"
    assert [r.status for r in rest] == ["ok", "ok", "complete", "ok", "ok"]
    assert "aborts" in ask(kernel, "comm_info_request").reply["comms"]


def test_an_interrupt_aborts_what_was_waiting(kernel):
    one = kernel.send("print('on')\nimport time; time.sleep(1000)")
    wait_for(kernel, one, "stream")
    two = kernel.send("2")
    wait_for(kernel, kernel.client.kernel_info(), "kernel_info_reply", "shell")
    kernel.interrupt()
    first, second = collect(kernel, [one, two])
    assert (first.ename, second.status) == ("KeyboardInterrupt", "aborted")
    assert kernel.run("3").value == "3"


def test_each_cell_hears_its_own_interrupt(make_kernel):
    kernel = make_kernel()
    for _ in range(5):
        msg_id = kernel.send("print('on')\nimport time\nwhile True: time.sleep(0.01)")
        wait_for(kernel, msg_id, "stream")
        kernel.interrupt()
        assert collect(kernel, [msg_id], timeout=20)[0].ename == "KeyboardInterrupt"


@pytest.mark.parametrize("code, ename, evalue", [
    ("raise SystemExit(3)", "SystemExit", "3"),
    ("import sys; sys.exit()", "SystemExit", ""),
    ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    ("import json; json.loads('{')", "JSONDecodeError", None),
    ("raise type('Own', (BaseException,), {})('x')", "Own", "x"),
    ("raise StopIteration(1)", "StopIteration", "1"),
    ("raise GeneratorExit", "GeneratorExit", ""),
    ("import asyncio; raise asyncio.CancelledError", "CancelledError", ""),
    ("await asyncio.sleep(0); raise SystemExit(4)", "SystemExit", "4"),
    ("await asyncio.sleep(0); raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    ("await asyncio.sleep(0); raise asyncio.CancelledError", "CancelledError", ""),
    ("raise ValueError('\\ud800')", "ValueError", None),
    ("1 +", "SyntaxError", None),
    ("  x\n y", "IndentationError", None),
    ("return", "SyntaxError", None),
    ("'\0'", None, None),
], ids=lambda v: repr(v)[:40])
def test_an_error_is_published_once_with_its_bare_name_and_the_kernel_lives(kernel, code, ename, evalue):
    result = kernel.run(code)
    if ename is None and result.status == "ok":
        assert kernel.run("1").value == "1"
        return
    assert result.status == "error" and len(result.of("error")) == 1
    for said in (result.reply, result.of("error")[0]):
        assert ename in (None, said["ename"]) and evalue in (None, said["evalue"])
        assert all(isinstance(line, str) for line in said["traceback"]) and said["traceback"]
    assert kernel.run("1").value == "1"


FAILING = "class E(Exception):\n    def __str__(self): raise RuntimeError('in str')\n    __repr__ = __str__\n"


def test_an_exception_whose_text_fails_is_one_error(kernel):
    result = kernel.run(FAILING + "raise E()")
    assert (result.status, result.ename) == ("error", "E") and len(result.of("error")) == 1
    assert "in str" not in result.evalue


def test_a_value_whose_repr_fails_is_told_and_the_kernel_lives(kernel):
    result = kernel.run("class R:\n    def __repr__(self): raise ValueError('in repr')\nR()")
    told = result.stdout + result.stderr + str(result.of("error"))
    assert "in repr" in told and kernel.run("1").value == "1"


def test_a_traceback_has_the_cell_and_the_line(kernel):
    result = kernel.run("def f():\n    return 1 / 0\nx = 1\nf()")
    text = "\n".join(result.reply["traceback"])
    assert f"Cell In[{result.reply['execution_count']}]" in conftest_plain(text)
    assert "line 2" in conftest_plain(text) and "line 4" in conftest_plain(text)
    assert "husk_interpreter" not in text


def conftest_plain(text):
    """Without colours."""
    import re

    return re.sub("\x1b\\[[0-9;]*m", "", text)


def test_a_traceback_has_the_colours_that_it_has_anywhere(kernel):
    """They come from a lexer of ours, that is made once and not for each frame."""
    kernel.run("1 / 0")
    result = kernel.run("""
import inspect, stack_data.core, stack_data.utils, subprocess
from IPython.utils.PyColorize import theme_table
from pygments.formatters.terminal256 import Terminal256Formatter
from pygments.formatters import HtmlFormatter
styles = [stack_data.style_with_executing_node(theme_table[name].as_pygments_style(), colour)
          for name in ("linux", "lightbg", "linux") for colour in ("bg:#00aa00", "bg:#aa0000")]
ours, theirs = stack_data.core._pygmented_with_ranges, stack_data.utils._pygmented_with_ranges
assert ours is not theirs
for code in (inspect.getsource(subprocess.run), "x = 'é'  # y\\n\\n", "not = python", ""):
    for ranges in ([], [(0, 5)], [(20, 200)]):
        for formatter in [HtmlFormatter(nowrap=True), *(Terminal256Formatter(style=style) for style in styles)]:
            assert ours(formatter, code, ranges) == theirs(formatter, code, ranges)
""")
    assert result.status == "ok", result.evalue


def test_a_syntax_error_has_a_caret(kernel):
    text = conftest_plain("\n".join(kernel.run("x = 1\ny = (2").reply["traceback"]))
    assert "line 2" in text and "^" in text


def test_a_recursion_error_comes_back(kernel):
    assert kernel.run("def f(): return f()\nf()").ename == "RecursionError"
    assert kernel.run("1").value == "1"


# --- payloads, exit


def test_help_is_a_page(kernel):
    (page,) = kernel.run("print?").reply["payload"]
    assert page["source"] == "page" and "Docstring" in conftest_plain(page["data"]["text/plain"])
    assert page["start"] == 0


def test_the_last_next_input_counts(kernel):
    code = "ip = get_ipython(); ip.set_next_input('a'); ip.set_next_input('b', replace=True)"
    (payload,) = kernel.run(code).reply["payload"]
    assert (payload["source"], payload["text"], payload["replace"]) == ("set_next_input", "b", True)


def test_load_proposes_the_next_input(kernel):
    (kernel.cwd / "some.py").write_text("print('loaded')\n")
    (payload,) = kernel.run("%load some.py").reply["payload"]
    assert payload["source"] == "set_next_input" and "print('loaded')" in payload["text"]


def test_payloads_do_not_stay_for_the_next_cell(kernel):
    kernel.run("print?")
    assert kernel.run("1").reply["payload"] == []
    kernel.run("get_ipython().set_next_input('x'); 1 / 0")
    assert kernel.run("1").reply["payload"] == []


@pytest.mark.parametrize("code", ["exit", "quit", "exit()", "get_ipython().ask_exit()"])
def test_exit_ends_the_kernel_after_its_reply(make_kernel, code):
    kernel = make_kernel()
    result = kernel.run(code)
    assert result.status == "ok"
    assert [p["source"] for p in result.reply["payload"]] == ["ask_exit"]
    assert kernel.manager.provisioner.process.wait(conftest.TIMEOUT) == 0


def test_exit_can_keep_the_kernel(kernel):
    result = kernel.run("get_ipython().keepkernel_on_exit = True\nget_ipython().ask_exit()\n"
                        "get_ipython().keepkernel_on_exit = None")
    assert result.reply["payload"][0]["keepkernel"] is True
    assert kernel.run("1").value == "1"


# --- displays


def test_a_display_is_updated_in_its_cell_later_and_from_a_thread(kernel):
    result = kernel.run("h = display(1, display_id=True); h.update(2)")
    shown = result.of("display_data")[0]["transient"]["display_id"]
    updates = [result.of("update_display_data")[0], kernel.run("h.update(3)").of("update_display_data")[0]]
    code = "import threading\nt = threading.Thread(target=h.update, args=(4,)); t.start(); t.join()"
    updates += kernel.run(code).of("update_display_data")
    assert [u["transient"]["display_id"] for u in updates] == [shown] * 3
    assert [u["data"]["text/plain"] for u in updates] == ["2", "3", "4"]


def test_an_unknown_display_may_be_updated(kernel):
    code = "from IPython.display import update_display\nupdate_display(5, display_id='nobody')"
    assert kernel.run(code).of("update_display_data")[0]["transient"]["display_id"] == "nobody"


def test_a_result_and_displays_keep_their_mime_types(kernel):
    code = ("class M:\n    def _repr_mimebundle_(self, include=None, exclude=None):\n"
            "        return {'text/plain': 'p', 'application/json': {'a': [1]}, 'image/png': b'\\x89PNG'}, "
            "{'image/png': {'width': 5}}\nM()")
    content = kernel.run(code).of("execute_result")[0]
    assert content["data"]["application/json"] == {"a": [1]} and content["data"]["text/plain"] == "p"
    assert content["data"]["image/png"].strip() == "iVBORw==" and content["metadata"]["image/png"]["width"] == 5


@pytest.mark.parametrize("wait", [True, False])
def test_clear_output_stands_where_it_was_called(kernel, wait):
    result = kernel.run(f"from IPython.display import clear_output\nprint('a'); clear_output(wait={wait}); print('b')")
    assert types(result) == ["execute_input", "stream", "clear_output", "stream"]
    assert result.of("clear_output") == [{"wait": wait}]
    assert [c["text"] for c in result.of("stream")] == ["a\n", "b\n"]


def test_ipython_display_and_html_representations_work(kernel):
    result = kernel.run("class D:\n    def _ipython_display_(self): print('itself')\nD()")
    assert result.stdout == "itself\n" and result.value is None
    result = kernel.run("import pandas; pandas.DataFrame({'a': [1]})")
    assert "<table" in result.of("execute_result")[0]["data"]["text/html"]


# --- history


def test_out_and_in_hold_what_was(make_kernel):
    kernel = make_kernel()
    kernel.run("'one'"), kernel.run("2")
    assert kernel.run("(_, __, _1, _2, Out[1], In[1], _i, _ih[2])").value == (
        "(2, 'one', 'one', 2, 'one', \"'one'\", '2', '2')")
    assert kernel.run("%history -n 1-2").stdout == "   1: 'one'\n   2: 2\n"


def history(kernel, **content):
    return ask(kernel, "history_request", **{"output": False, "raw": True, **content}).reply["history"]


def test_history_by_tail_range_and_search(make_kernel):
    kernel = make_kernel()
    for code in ("a = 1", "b = '\u00e9\\n'", "a = 1", "c = 3"):
        kernel.run(code)
    kernel.run("silent = 1", silent=True), kernel.run("not_stored = 1", store_history=False)
    lines = [[0, 1, "a = 1"], [0, 2, "b = '\u00e9\\n'"], [0, 3, "a = 1"], [0, 4, "c = 3"]]
    same = [line[1:] for line in lines]
    assert [h[1:] for h in history(kernel, hist_access_type="tail", n=10)] == same
    assert [h[1:] for h in history(kernel, hist_access_type="tail", n=2)] == same[2:]
    assert history(kernel, hist_access_type="tail", n=0) == []
    assert [h[1:] for h in history(kernel, hist_access_type="range", session=0, start=2, stop=4)] == same[1:3]
    assert [h[1:] for h in history(kernel, hist_access_type="search", pattern="a*")] == [same[0], same[2]]
    assert [h[2] for h in history(kernel, hist_access_type="search", pattern="a*", unique=True)] == ["a = 1"]
    assert [h[1:] for h in history(kernel, hist_access_type="search", pattern="*", n=1)] == same[3:]
    assert [h[2] for h in history(kernel, hist_access_type="search", pattern="?\u00a0")] == []
    assert history(kernel, hist_access_type="search", pattern="nothing") == []
    (entry,) = history(kernel, hist_access_type="tail", n=1, output=True)
    assert entry[2][0] == "c = 3" and len(entry[2]) == 2


# --- await


def test_top_level_await_and_its_relatives(kernel):
    assert kernel.run("import asyncio; await asyncio.sleep(0, 5)").value == "5"
    assert kernel.run("async def g():\n    for i in range(3): yield i\n[i async for i in g()]").value == "[0, 1, 2]"
    assert kernel.run("async with asyncio.timeout(5): r = 6\nr").value == "6"
    assert kernel.run("await asyncio.gather(*(asyncio.sleep(0, i) for i in range(3)))").value == "[0, 1, 2]"
    assert kernel.run("1 / (await asyncio.sleep(0, 0))").ename == "ZeroDivisionError"


def test_the_loop_runs_on_between_cells_and_tasks_print_to_their_cell(kernel):
    gate = uuid.uuid4().hex
    one = kernel.send("import asyncio, os\nasync def late():\n"
                      f"    while not os.path.exists({gate!r}): await asyncio.sleep(0.01)\n"
                      "    print('late'); display('late too')\ntask = asyncio.create_task(late())")
    collect(kernel, [one])
    collect(kernel, [kernel.send("2")])
    (kernel.cwd / gate).touch()
    wanted = ["stream", "display_data"]
    while wanted:
        for m in received(kernel, "iopub"):
            if m["msg_type"] in wanted:
                assert m["msg_type"] == wanted.pop(0) and m["parent_header"]["msg_id"] == one
    assert kernel.run("task.done()").value == "True"


def test_a_task_prints_to_its_cell_while_another_cell_awaits(kernel):
    one = kernel.send("e = asyncio.Event()\nasync def tell(): await e.wait(); print('first')\n"
                      "t = asyncio.create_task(tell())")
    collect(kernel, [one])
    two = kernel.send("e.set(); await asyncio.sleep(0); await t; print('second')")
    streams = []
    while len(streams) < 2:
        streams += [m for m in received(kernel, "iopub") if m["msg_type"] == "stream"]
    assert [(m["parent_header"]["msg_id"], m["content"]["text"]) for m in streams] == [
        (one, "first\n"), (two, "second\n")]
    wait_for(kernel, two, "execute_reply", "shell")


def test_a_failing_task_hurts_no_cell(kernel):
    kernel.run("async def bad(): raise ValueError('task')\nt = asyncio.create_task(bad())")
    assert kernel.run("await asyncio.sleep(0.05); 1").value == "1"
    assert kernel.run("del t; import gc; gc.collect(); 2").value == "2"


def test_a_thread_prints_to_the_latest_cell(kernel):
    gate = uuid.uuid4().hex
    kernel.run("import os, threading, time\ndef late():\n"
               f"    while not os.path.exists({gate!r}): time.sleep(0.01)\n    print('late')\n"
               "t = threading.Thread(target=late); t.start()")
    result = kernel.run(f"open({gate!r}, 'w').close(); t.join()")
    assert result.stdout == "late\n"


# --- input


def answer_input(kernel, value, parent=None, request=None):
    request = request or kernel.client.get_stdin_msg(timeout=conftest.TIMEOUT)
    msg = kernel.client.session.msg("input_reply", {"value": value}, parent=parent or request)
    kernel.client.stdin_channel.send(msg)
    return request


@pytest.mark.parametrize("call, password", [("input('Name? ')", False), ("getpass('Name? ')", True)])
def test_a_question_is_asked_and_answered(kernel, call, password):
    msg_id = kernel.send("from getpass import getpass\nr = " + call, allow_stdin=True)
    request = answer_input(kernel, "\u00e9 \U0001f600")
    assert request["content"] == {"prompt": "Name? ", "password": password}
    assert request["parent_header"]["msg_id"] == msg_id
    assert kernel.result(msg_id).status == "ok"
    assert kernel.run("r").value == repr("\u00e9 \U0001f600")


@pytest.mark.parametrize("code", ["input()", "import getpass; getpass.getpass()", "input(5)",
                                  "await asyncio.sleep(0); input()", "__import__('builtins').input()"])
def test_questions_may_be_asked_in_every_way(kernel, code):
    kernel.run("import asyncio")
    msg_id = kernel.send(code, allow_stdin=True)
    answer_input(kernel, "yes")
    assert kernel.result(msg_id).value == "'yes'"


def test_an_end_of_file_is_an_eoferror(kernel):
    msg_id = kernel.send("input()", allow_stdin=True)
    answer_input(kernel, "\x04")
    assert kernel.result(msg_id).ename == "EOFError"


def test_what_was_printed_comes_before_the_question(kernel):
    msg_id = kernel.send("import os\nprint('a'); os.write(1, b'b'); os.write(2, b'c'); input()", allow_stdin=True)
    request = kernel.client.get_stdin_msg(timeout=conftest.TIMEOUT)
    texts = []
    while "".join(texts) != "a\nbc":  # hangs if some of it waits for the answer
        texts += [m["content"]["text"] for m in received(kernel, "iopub") if m["msg_type"] == "stream"]
    answer_input(kernel, "", request=request)
    wait_for(kernel, msg_id, "execute_reply", "shell")


def test_a_stale_answer_is_ignored(kernel):
    one = kernel.send("input('1')", allow_stdin=True)
    old = kernel.client.get_stdin_msg(timeout=conftest.TIMEOUT)
    kernel.interrupt()
    assert kernel.result(one).ename == "KeyboardInterrupt"
    answer_input(kernel, "while nobody asks", request=old)
    two = kernel.send("input('2')", allow_stdin=True)
    new = kernel.client.get_stdin_msg(timeout=conftest.TIMEOUT)
    answer_input(kernel, "stale", request=old)
    answer_input(kernel, "fresh", request=new)
    assert kernel.result(two).value == "'fresh'"


def test_an_answer_of_another_client_is_ignored(kernel):
    other = kernel.manager.client()
    other.session.session = "another"
    other.start_channels()
    try:
        other.wait_for_ready(timeout=conftest.TIMEOUT)
        msg_id = kernel.send("input()", allow_stdin=True)
        request = kernel.client.get_stdin_msg(timeout=conftest.TIMEOUT)
        other.stdin_channel.send(other.session.msg("input_reply", {"value": "foreign"}, parent=request))
        other.kernel_info(reply=True, timeout=conftest.TIMEOUT)
        time.sleep(0.3)  # another socket: nothing tells when it has arrived
        answer_input(kernel, "own", request=request)
        assert kernel.result(msg_id).value == "'own'"
    finally:
        other.stop_channels()


def test_a_client_that_takes_no_questions_is_told_at_once(kernel):
    for code in ("input()", "import getpass; getpass.getpass()"):
        assert kernel.run(code, allow_stdin=False).ename == "StdinNotImplementedError"
    assert kernel.run("input()", allow_stdin=False, silent=True).ename == "StdinNotImplementedError"


def test_two_questions_in_one_cell_have_their_own_answers(kernel):
    msg_id = kernel.send("[input('a'), input('b')]", allow_stdin=True)
    assert answer_input(kernel, "1")["content"]["prompt"] == "a"
    assert answer_input(kernel, "2")["content"]["prompt"] == "b"
    assert kernel.result(msg_id).value == "['1', '2']"


def test_the_debugger_of_the_terminal_works_over_input(kernel):
    msg_id = kernel.send("def f():\n    x = 41\n    breakpoint()\n    return x\nf()", allow_stdin=True)
    answer_input(kernel, "x = 42")
    answer_input(kernel, "c")
    assert kernel.result(msg_id).value in ("41", "42")


# --- comms

TARGET = """
opened = {}
def on_open(comm, message):
    opened[comm.comm_id] = comm
    print('open', message['content']['data'])
    @comm.on_msg
    def heard(m):
        print('heard', m['content']['data'])
        comm.send(m['content']['data'], metadata=m['metadata'], buffers=m['buffers'])
    comm.on_close(lambda m: print('closed'))
get_ipython().kernel.comm_manager.register_target('echo', on_open)
"""


def comm(kernel, kind, buffers=(), metadata=None, timeout=conftest.TIMEOUT, **content):
    """Sends a comm message; everything that it brought."""
    session = kernel.client.session
    msg = session.msg(kind, {"data": {}, **content}, metadata=metadata)
    session.send(kernel.client.shell_channel.socket, msg, buffers=list(buffers))
    messages, end = [], time.monotonic() + timeout
    while not (messages and messages[-1]["content"].get("execution_state") == "idle"):
        assert time.monotonic() < end
        found = received(kernel, "iopub")
        messages += [m for m in found if m["parent_header"].get("msg_id") == msg["header"]["msg_id"]]
    return messages


def test_a_comm_of_the_client_opens_echoes_and_closes(kernel):
    kernel.run(TARGET)
    texts = lambda ms: "".join(m["content"]["text"] for m in ms if m["msg_type"] == "stream")  # noqa: E731
    assert texts(comm(kernel, "comm_open", comm_id="1", target_name="echo", data={"a": 1})) == "open {'a': 1}\n"
    assert ask(kernel, "comm_info_request").reply["comms"]["1"] == {"target_name": "echo"}
    assert "1" in ask(kernel, "comm_info_request", target_name="echo").reply["comms"]
    assert "1" not in ask(kernel, "comm_info_request", target_name="other").reply["comms"]
    heard = comm(kernel, "comm_msg", comm_id="1", data="text", metadata={"version": "2.1.0"})
    (back,) = [m for m in heard if m["msg_type"] == "comm_msg"]
    assert texts(heard) == "heard text\n" and back["content"] == {"comm_id": "1", "data": "text"}
    assert back["metadata"] == {"version": "2.1.0"}
    assert texts(comm(kernel, "comm_close", comm_id="1")) == "closed\n"
    assert "1" not in ask(kernel, "comm_info_request").reply["comms"]


def test_buffers_come_back_byte_for_byte(kernel):
    kernel.run(TARGET)
    comm(kernel, "comm_open", comm_id="b", target_name="echo")
    sent = [b"", b"\0", bytes(range(256)) * (32 << 12), b"<IDS|MSG>", b"{}"] + [b"x"] * 100
    (back,) = [m for m in comm(kernel, "comm_msg", sent, comm_id="b") if m["msg_type"] == "comm_msg"]
    assert [bytes(b) for b in back["buffers"]] == sent
    comm(kernel, "comm_close", comm_id="b")


def test_a_comm_of_the_kernel_opens_and_hears(kernel):
    result = kernel.run("import comm\nc = comm.create_comm(target_name='front', data={'x': 1}, metadata={'v': 2},"
                        " buffers=[b'abc', memoryview(b'def')])\nc.on_msg(lambda m: print('got', m['content']['data']))")
    (opened,) = [m for m in result.messages if m["msg_type"] == "comm_open"]
    assert opened["content"]["target_name"] == "front" and opened["content"]["data"] == {"x": 1}
    assert opened["metadata"] == {"v": 2} and [bytes(b) for b in opened["buffers"]] == [b"abc", b"def"]
    heard = comm(kernel, "comm_msg", comm_id=opened["content"]["comm_id"], data=5)
    assert [m["content"]["text"] for m in heard if m["msg_type"] == "stream"] == ["got 5\n"]
    assert kernel.run("c.send('s'); c.close('bye')").of("comm_msg", "comm_close")[1]["data"] == "bye"


def test_an_unknown_target_is_closed(kernel):
    messages = comm(kernel, "comm_open", comm_id="u", target_name="nobody")
    assert [m["content"]["comm_id"] for m in messages if m["msg_type"] == "comm_close"] == ["u"]
    assert "u" not in ask(kernel, "comm_info_request").reply["comms"]


@pytest.mark.parametrize("kind", ["comm_msg", "comm_close"])
def test_a_message_for_an_unknown_comm_hurts_nobody(kernel, kind):
    assert comm(kernel, kind, comm_id="never")[0]["content"]["execution_state"] == "busy"
    assert kernel.run("1").value == "1"


@pytest.mark.parametrize("body", ["1 / 0", "raise SystemExit", "raise KeyboardInterrupt"])
def test_a_failing_handler_is_told_and_hurts_nobody(kernel, body):
    kernel.run(f"def fails(c, m): {body}\nget_ipython().kernel.comm_manager.register_target('fails', fails)")
    messages = comm(kernel, "comm_open", comm_id="f", target_name="fails")
    states = [m["content"]["execution_state"] for m in messages if m["msg_type"] == "status"]
    assert states == ["busy", "idle"]
    assert kernel.run("1").value == "1"


def test_comm_messages_and_cells_keep_their_order(kernel):
    kernel.run(TARGET + "order = []")
    comm(kernel, "comm_open", comm_id="o", target_name="echo")
    kernel.run("opened['o'].on_msg(lambda m: order.append(m['content']['data']))")
    for i in range(0, 20, 2):
        msg = kernel.client.session.msg("comm_msg", {"comm_id": "o", "data": i})
        kernel.client.shell_channel.send(msg)
        last = kernel.send(f"order.append({i + 1})")
    collect(kernel, [last])
    assert kernel.run("order == list(range(20))").value == "True"


def test_widgets_open_comms_and_hear(kernel):
    result = kernel.run("import ipywidgets\nw = ipywidgets.IntSlider(value=1)\nw")
    opened = result.of("comm_open")
    assert opened and {c["target_name"] for c in opened} == {"jupyter.widget"}
    shown = result.of("display_data", "execute_result")[0]["data"]["application/vnd.jupyter.widget-view+json"]
    assert shown["model_id"] in {c["comm_id"] for c in opened}
    comm(kernel, "comm_msg", comm_id=shown["model_id"],
         data={"method": "update", "state": {"value": 7}, "buffer_paths": []})
    assert kernel.run("w.value").value == "7"
    assert kernel.run("w.value = 8").of("comm_msg")[0]["data"]["state"]["value"] == 8


def test_comms_work_beside_the_real_ipykernel(make_kernel):
    kernel = make_kernel()
    assert kernel.run("from ipykernel.comm import Comm; c = Comm(target_name='x')").of("comm_open")
    kernel.run("import ipykernel.kernelapp, ipykernel.ipkernel")
    assert kernel.run("import comm; c = comm.create_comm(target_name='y')").of("comm_open")
    assert kernel.run("import ipywidgets; w = ipywidgets.IntSlider()").of("comm_open")
    assert kernel.run("len(comm.get_comm_manager().comms) >= 3").value == "True"


# --- completion, inspection, is_complete


def complete(kernel, code, cursor=None):
    cursor = len(code) if cursor is None else cursor
    return ask(kernel, "complete_request", code=code, cursor_pos=cursor).reply


@pytest.mark.parametrize("code, match", [
    ("pri", "print"), ("import js", "json"), ("x = [1]\nx.app", "append"), ("%timei", "%timeit"),
    ("%%ba", "%%bash"), ("from os import pat", "path"), ("'\U0001f600\U0001f600'.upp", "upper"),
    ("\u00e9t\u00e9 = 1; \u00e9t", "\u00e9t\u00e9"),
])
def test_a_completion_replaces_what_it_says(kernel, code, match):
    reply = complete(kernel, code)
    found = {code[: reply["cursor_start"]] + m for m in reply["matches"]}
    assert reply["status"] == "ok" and reply["cursor_end"] == len(code)
    assert any(f.endswith(match) for f in found), reply["matches"][:20]


def test_completions_have_types_in_the_same_order(kernel):
    kernel.run("def some_function(a): pass\nsome_value = 1")
    reply = complete(kernel, "some_")
    kinds = reply["metadata"]["_jupyter_types_experimental"]
    assert [k["text"] for k in kinds] == reply["matches"] and len(kinds) >= 2
    assert all(k["start"] == reply["cursor_start"] and k["end"] == reply["cursor_end"] for k in kinds)
    assert {k["text"]: k["type"] for k in kinds}["some_function"] == "function"


def test_a_cursor_counts_characters_and_may_stand_inside(kernel):
    code = "'\U0001f600'; prin; x"
    reply = complete(kernel, code, code.index("prin") + 4)
    assert "print" in reply["matches"]
    assert code[reply["cursor_start"] : reply["cursor_end"]] == "prin"


def test_nothing_to_complete_is_no_error(kernel):
    reply = complete(kernel, "no_such_name_at_all.x")
    assert (reply["status"], reply["matches"]) == ("ok", [])


@pytest.mark.parametrize("code, status", [
    ("1", "complete"), ("", "complete"), ("x = 1\n", "complete"), ("for i in x:", "incomplete"),
    ("for i in x:\n    pass\n", "complete"), ("def f():\n    pass\n\n", "complete"), ("@decorator", "incomplete"),
    ("x = \\", "incomplete"), ("'''open", "incomplete"), ("'open", "invalid"), ("(1,", "incomplete"),
    ("1 +* 2", "invalid"), ("%timeit 1", "complete"), ("%%bash\nls\n", "incomplete"), ("%%bash\nls\n\n", "incomplete"),
    ("!ls", "complete"), ("x?", "complete"), ("await f()", "complete"), ("async with x:", "incomplete"),
    ("import = 7q", "invalid"), ("\U0001f600", "invalid"), ("class A:\n    x = 1", "incomplete"),
    ("if x:\n    y\nelse:", "incomplete"), ("return 1", None), (")", "invalid"),
], ids=repr)
def test_is_complete(kernel, code, status):
    reply = ask(kernel, "is_complete_request", code=code).reply
    assert reply["status"] in ("complete", "incomplete", "invalid", "unknown")
    if code == "%%bash\nls\n\n":  # IPython ends a cell magic at an empty line, or never: both are right
        status = None
    assert status in (None, reply["status"])
    if reply["status"] == "incomplete":
        assert set(reply["indent"]) <= {" "}


def test_a_block_is_indented(kernel):
    assert ask(kernel, "is_complete_request", code="for i in x:").reply["indent"] == "    "
    assert ask(kernel, "is_complete_request", code="if 1:\n    for i in x:").reply["indent"] == "        "


def inspect(kernel, code, cursor=None, **content):
    cursor = len(code) if cursor is None else cursor
    return ask(kernel, "inspect_request", code=code, cursor_pos=cursor, **content).reply


def test_inspection_finds_objects_and_their_source(kernel):
    kernel.run("def own(a, b=2):\n    'What it does.'\n    return a + b + 12345")
    reply = inspect(kernel, "own")
    text = conftest_plain(reply["data"]["text/plain"])
    assert reply["status"] == "ok" and reply["found"] is True and reply["metadata"] == {}
    assert "own(a, b=2)" in text and "What it does." in text and "12345" not in text
    assert "12345" in conftest_plain(inspect(kernel, "own", detail_level=1)["data"]["text/plain"])
    assert inspect(kernel, "x = own(", detail_level=0)["found"] is True
    assert inspect(kernel, "own(1", 1)["found"] is True


@pytest.mark.parametrize("code", ["%timeit", "%%bash", "print", "str.upper", "'\U0001f600'; len"])
def test_inspection_finds(kernel, code):
    assert inspect(kernel, code)["found"] is True


@pytest.mark.parametrize("code", ["", "no_such_name", "1 + 2", "a.b.c.d"])
def test_what_is_not_found_is_no_error(kernel, code):
    reply = inspect(kernel, code, len(code))
    assert (reply["status"], reply["found"], reply["data"]) == ("ok", False, {})


def test_an_object_that_cannot_be_inspected_hurts_nobody(kernel):
    kernel.run("class Bad:\n    @property\n    def __doc__(self): raise RuntimeError('no doc')\n"
               "    def __getattr__(self, name): raise RuntimeError('no ' + name)\n"
               "    def __repr__(self): raise RuntimeError('no repr')\nbad = Bad()")
    for kind in ("inspect", "complete"):
        for code in ("bad", "bad."):
            reply = (inspect if kind == "inspect" else complete)(kernel, code)
            assert reply["status"] in ("ok", "error")
    assert kernel.run("1").value == "1"


# --- how libraries see it


@pytest.mark.parametrize("expression", [
    "get_ipython().__class__.__name__ == 'ZMQInteractiveShell'",
    "'IPKernelApp' in get_ipython().config",
    "'zmq' in str(type(get_ipython()))",
    "'ipykernel' in sys.modules or __import__('ipykernel') is not None",
    "__import__('ipykernel.zmqshell').zmqshell.ZMQInteractiveShell is not None",
    "__import__('ipykernel.comm').comm.Comm is not None",
    "get_ipython().has_trait('kernel')",
    "get_ipython().kernel.shell is get_ipython()",
    "get_ipython().kernel.get_parent()['header']['msg_type'] == 'execute_request'",
    "get_ipython().get_parent()['header']['msg_id'] == get_ipython().parent_header['header']['msg_id']",
    "__import__('IPython').get_ipython() is get_ipython()",
    "hasattr(sys.stdout, 'fileno') and sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2",
    "sys.stdout.encoding.lower() == 'utf-8' and not sys.stdout.isatty()",
    "__name__ == '__main__' and sys.modules['__main__'].__dict__ is globals()",
    "'' in sys.path and sys.path.index('') < min(i for i, p in enumerate(sys.path) if p.endswith('-packages'))",
])
def test_libraries_detect_a_notebook(kernel, expression):
    kernel.run("import sys")
    assert kernel.run(expression).value == "True"


PLOT = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(); ax.plot([1, 2])\n"


def test_a_figure_is_shown_without_being_asked_for(make_kernel):
    kernel = make_kernel()
    result = kernel.run(PLOT + "None")
    (shown,) = result.of("display_data")
    assert shown["data"]["image/png"].startswith("iVBORw0KGgo") and not result.stderr
    assert kernel.run("1").of("display_data") == []


def test_figures_in_other_formats(make_kernel):
    kernel = make_kernel()
    kernel.run("%config InlineBackend.figure_formats = ['svg', 'retina']")
    (shown,) = kernel.run(PLOT + "plt.show()").of("display_data")
    assert "<svg" in shown["data"]["image/svg+xml"] and shown["metadata"]["image/png"]["width"] > 0
    (shown,) = kernel.run("%matplotlib inline\n" + PLOT + "None").of("display_data")
    assert "image/png" in shown["data"]
    assert kernel.run("plt.ion(); plt.plot([1])\nNone").of("display_data")


def test_a_figure_of_an_awaiting_cell_and_of_a_failing_one_is_shown(kernel):
    assert kernel.run(PLOT + "import asyncio; await asyncio.sleep(0)").of("display_data")
    result = kernel.run(PLOT + "1 / 0")
    assert result.status == "error" and kernel.run("1").status == "ok"


# --- magics, processes


def test_a_command_streams_while_it_runs(kernel):
    gate = uuid.uuid4().hex
    msg_id = kernel.send(f"!echo one; while [ ! -e {gate} ]; do sleep 0.05; done; echo two; exit 3")
    assert "one" in wait_for(kernel, msg_id, "stream")["content"]["text"]
    (kernel.cwd / gate).touch()
    assert "two" in wait_for(kernel, msg_id, "stream")["content"]["text"]
    wait_for(kernel, msg_id, "execute_reply", "shell")
    assert kernel.run("_exit_code").value == "3"


@pytest.mark.parametrize("code, stdout", [
    ("!echo hi", "hi\n"),
    ("!seq 20000", "".join(f"{i}\n" for i in range(1, 20001))),
    ("x = !printf 'a\\nb'\nprint(x)", "['a', 'b']\n"),
    ("%%bash\necho a\necho b >&2", "a\n"),
    ("%%sh\nprintf '%s' x", "x"),
    ("%%capture c\nprint(1); display(2)\n", ""),
    ("%%capture c\nprint(1)", ""),
    ("%system echo s", ""),
    ("%%writefile f.py\nprint('ran', __name__)", "Writing f.py\n"),
    ("%run f.py", "ran __main__\n"),
    ("%%python\nprint('p')", "p\n"),
    ("%%time\nprint('t')", None),
    ("%timeit -n1 -r1 pass", None),
    ("%%timeit -n1 -r1\npass", None),
    ("%pwd", ""),
    ("%who", None),
    ("%lsmagic", ""),
    ("%load_ext autoreload", ""),
    ("%autoreload 2", ""),
    ("%env NEW=1", "env: NEW=1\n"),
    ("%xmode Plain", "Exception reporting mode: Plain\n"),
    ("%pip --version", None),
    ("%matplotlib inline", ""),
    ("%%html\n<b>x</b>", ""),
    ("%%javascript\n1", ""),
    ("%%latex\n$x$", ""),
    ("%%markdown\n*x*", ""),
], ids=lambda v: repr(v)[:30])
def test_a_magic_does_what_it_does(kernel, code, stdout):
    result = kernel.run(code)
    assert result.status == "ok", result.reply
    text = result.stdout.replace("\r\n", "\n")
    assert stdout is None and (text or result.value) or text == stdout
    assert kernel.run("%xmode Context").status == "ok"


def test_captured_output_can_be_shown_again(kernel):
    kernel.run("%%capture c\nimport sys\nprint('o'); print('e', file=sys.stderr); display(5)")
    assert kernel.run("(c.stdout, c.stderr, len(c.outputs))").value == "('o\\n', 'e\\n', 1)"
    result = kernel.run("c()")
    assert (result.stdout, result.stderr) == ("o\n", "e\n") and len(result.of("display_data")) == 1


def test_debug_looks_into_the_last_error(kernel):
    kernel.run("def f():\n    inner = 99\n    1 / 0\nf()")
    msg_id = kernel.send("%debug", allow_stdin=True)
    answer_input(kernel, "p inner")
    answer_input(kernel, "q")
    assert "99" in kernel.result(msg_id).stdout


@pytest.mark.parametrize("redirect", ["stdout=sys.stdout", "stdout=sys.stdout, stderr=subprocess.STDOUT", ""])
def test_a_child_may_write_to_the_streams(kernel, redirect):
    code = f"import subprocess, sys\nprint('a')\nsubprocess.run(['echo', 'b'], {redirect}).returncode\nprint('c')"
    assert kernel.run(code).stdout == "a\nb\nc\n"


@pytest.mark.parametrize("code, stdout", [
    ("sys.stdout.buffer.write(b'raw\\n'); sys.stdout.buffer.flush()", "raw\n"),
    ("import io; print('w', file=io.TextIOWrapper(io.open(1, 'wb', closefd=False, buffering=0), write_through=True))", "w\n"),
    ("sys.stdout.writelines(['a', 'b'])", "ab"),
    ("sys.__stdout__.write('s')", "s"),
    ("import contextlib, io\nf = io.StringIO()\nwith contextlib.redirect_stdout(f): print('no')\nprint(f.getvalue(), end='')", "no\n"),
    ("os.system('echo sys')", "sys\n"),
    ("pid = os.fork()\nif pid == 0:\n    print('child', flush=True); os._exit(0)\nos.waitpid(pid, 0); print('parent')", "child\nparent\n"),
    ("import multiprocessing as m\np = m.get_context('fork').Process(target=print, args=('mp',)); p.start(); p.join()", "mp\n"),
    ("p = m.get_context('spawn').Process(target=print, args=('sp',)); p.start(); p.join()", "sp\n"),
    ("with m.get_context('fork').Pool(3) as p: print(p.map(abs, range(-3, 0)))", "[3, 2, 1]\n"),
    ("with m.get_context('spawn').Pool(2) as p: print(p.map(abs, range(-3, 0)))", "[3, 2, 1]\n"),
    ("with m.get_context('forkserver').Pool(2) as p: print(p.map(abs, range(-3, 0)))", "[3, 2, 1]\n"),
    ("import concurrent.futures as c\nwith c.ProcessPoolExecutor(2) as p: print(list(p.map(abs, [-1])))", "[1]\n"),
    ("with c.ThreadPoolExecutor(2) as p: list(p.map(lambda i: print('a', end=''), 'aaaa'))", "aaaa"),
    ("import faulthandler; faulthandler.enable(); print('f')", "f\n"),
    ("def g(x): return x + 1\nwith m.get_context('fork').Pool(2) as p: print(p.map(g, [1]))", "[2]\n"),
], ids=lambda v: repr(v)[:60])
def test_other_ways_to_print(kernel, code, stdout):
    kernel.run("import os, sys, multiprocessing as m, concurrent.futures as c")
    result = kernel.run(code)
    assert result.status == "ok", result.reply
    assert result.stdout == stdout


@pytest.mark.parametrize("leave, status", [
    ("raise SystemExit", 0), ("raise SystemExit(3)", 3), ("import sys; sys.exit('no')", 1),
    ("1 / 0", 1), ("pass", 0), ("await asyncio.sleep(0)", 0),
])
def test_a_child_of_fork_ends_with_the_cell(kernel, leave, status):
    result = kernel.run("import asyncio, os\npid = os.fork()\nif not pid:\n    " + leave +
                        "\nif pid:\n    ended = os.waitpid(pid, 0)[1]")
    assert result.status == "ok" and not result.of("error")
    assert kernel.run("os.waitstatus_to_exitcode(ended)").value == str(status)


def test_a_child_of_fork_gives_no_second_reply_when_it_leaves_the_cell(kernel):
    result = kernel.run("import os\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\nelse:\n    raise SystemExit\npid > 0")
    assert result.value == "True" and not result.of("error")
    assert kernel.run("1").value == "1"


def test_logging_goes_to_the_cell_that_logs(kernel):
    first = kernel.run("import logging\nlogging.basicConfig(format='%(message)s')\nlogging.warning('one')")
    assert first.stderr == "one\n"
    assert kernel.run("logging.warning('two')").stderr == "two\n"
    assert kernel.run("import warnings; warnings.warn('three')").stderr.count("UserWarning: three") == 1


def test_a_run_of_a_file_sees_the_namespace_it_should(kernel):
    (kernel.cwd / "own_module.py").write_text("value = 5\nprint('imported')\n")
    assert kernel.run("import own_module; own_module.value").value == "5"
    assert kernel.run("%run own_module.py\nvalue").value == "5"


def test_variables_of_the_interpreter_are_not_in_the_way(kernel):
    assert kernel.run("%reset -f\nsorted(n for n in globals() if n[0] != '_')").value == (
        "['In', 'Out', 'exit', 'get_ipython', 'open', 'quit']")
