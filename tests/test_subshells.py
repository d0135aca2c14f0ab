# SPDX-License-Identifier: BSD-3-Clause
"""Subshells (JEP 91): threads of the interpreter that answer requests beside the main shell.

Cells meet at barriers and events of the interpreter, never at a time of the clock.
"""

import time
import uuid

import conftest
import pytest

UNKNOWN = "00000000-0000-4000-8000-000000000000"
MEET = "import threading; barrier = threading.Barrier(2, timeout=50)"


def receive(kernel):
    """Keeps what has come on iopub and shell, in order: nothing is lost by who waits for something else."""
    kept = kernel.__dict__.setdefault("kept", [])
    for channel in kernel.client.iopub_channel, kernel.client.shell_channel:
        while channel.socket.poll(5):
            kept.append(channel.get_msg(timeout=0))
    return kept


def wait_for(kernel, msg_id, kind, **content):
    """The next message of this type and parent, with this in its content."""
    end = time.monotonic() + conftest.TIMEOUT
    while True:
        for m in receive(kernel):
            if m["msg_type"] == kind and m["parent_header"].get("msg_id") == msg_id and (
                    content.items() <= m["content"].items()):
                return m
        assert time.monotonic() < end, f"no {kind}"


def collect(kernel, ids):
    """Results of several requests; what else came before is dropped."""
    for i in ids:
        wait_for(kernel, i, "status", execution_state="idle")
        wait_for(kernel, i, "execute_reply")
    kept, kernel.kept = kernel.kept, []
    of = {i: [m for m in kept if m["parent_header"].get("msg_id") == i] for i in ids}
    return [conftest.Result(next(m for m in of[i] if m["msg_type"] == "execute_reply"),
                            [m for m in of[i] if m["msg_type"] != "execute_reply"]) for i in ids]


def send(kernel, code, subshell=None, **options):
    """execute_request to a subshell; returns its msg_id at once."""
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, **options}
    return request(kernel, "execute_request", content, subshell)


def request(kernel, kind, content, subshell):
    msg = kernel.client.session.msg(kind, content)
    msg["header"]["subshell_id"] = subshell
    kernel.client.shell_channel.send(msg)
    return msg["header"]["msg_id"]


def run(kernel, code, subshell=None, **options):
    return collect(kernel, [send(kernel, code, subshell, **options)])[0]


def create(kernel):
    return kernel.control("create_subshell_request")["content"]["subshell_id"]


def delete(kernel, subshell):
    return kernel.control("delete_subshell_request", {"subshell_id": subshell})["content"]


def listed(kernel):
    return kernel.control("list_subshell_request")["content"]["subshell_id"]


@pytest.fixture
def subshells(kernel):
    """subshells(n): makes n, and deletes them at the end."""
    made = []

    def make(n):
        made.extend(create(kernel) for _ in range(n))
        return made[-n:]

    yield make
    for subshell in set(made) & set(listed(kernel)):
        delete(kernel, subshell)


# --- life


def test_the_kernel_says_that_it_has_subshells(kernel):
    info = kernel.control("kernel_info_request")["content"]
    assert "kernel subshells" in info["supported_features"]


def test_a_subshell_is_listed_from_its_creation_to_its_deletion(kernel):
    assert listed(kernel) == []
    first, second = create(kernel), create(kernel)
    assert str(uuid.UUID(first)) == first and first != second
    assert listed(kernel) == [first, second]
    assert delete(kernel, first) == {"status": "ok"}
    assert listed(kernel) == [second]
    assert delete(kernel, second) == {"status": "ok"}
    assert listed(kernel) == []


def test_a_subshell_is_a_thread_that_is_gone_when_it_is_deleted(kernel, subshells):
    count = "import threading; print(threading.active_count())"
    before = int(run(kernel, count).stdout)
    assert before == 1  # so that os.fork() in a cell is what it was
    for _ in range(3):
        (subshell,) = subshells(1)
        assert int(run(kernel, count).stdout) > before
        delete(kernel, subshell)
        assert int(run(kernel, count).stdout) == before


def test_a_subshell_shares_the_names_and_not_the_thread(kernel, subshells):
    (subshell,) = subshells(1)
    run(kernel, "import threading; shared = [1]")
    r = run(kernel, "shared.append(threading.current_thread() is threading.main_thread()); shared", subshell)
    assert r.value == "[1, False]"
    assert r.message["parent_header"]["subshell_id"] == subshell
    assert run(kernel, "shared").value == "[1, False]"


def test_the_magic_says_where_a_cell_runs(kernel, subshells):
    (subshell,) = subshells(1)
    assert f"subshell id: {subshell}\n" in run(kernel, "%subshell", subshell).stdout
    said = run(kernel, "%subshell").stdout
    assert "subshell id: None\n" in said and f"subshell list: ['{subshell}']\n" in said


@pytest.mark.parametrize(
    "kind, content", [("execute_request", {"code": "1"}), ("kernel_info_request", {}),
                      ("complete_request", {"code": "a", "cursor_pos": 1})])
def test_a_request_to_a_subshell_that_is_not_there_gets_an_error(kernel, kind, content):
    r = kernel.result(request(kernel, kind, content, UNKNOWN))
    assert (r.status, r.ename, r.evalue) == ("error", "UnknownSubshellError", f"Unknown subshell_id '{UNKNOWN}'")
    assert [m["content"]["execution_state"] for m in r.messages] == ["busy", "idle"]


def test_a_comm_message_to_a_subshell_that_is_not_there_gets_idle(kernel):
    msg_id = request(kernel, "comm_msg", {"comm_id": "none", "data": {}}, UNKNOWN)
    wait_for(kernel, msg_id, "status", execution_state="busy")
    wait_for(kernel, msg_id, "status", execution_state="idle")


@pytest.mark.parametrize("content, ename", [({"subshell_id": UNKNOWN}, "UnknownSubshellError"),
                                            ({}, "InvalidRequest"), ({"subshell_id": 7}, "InvalidRequest")])
def test_what_cannot_be_deleted_is_an_error(kernel, content, ename):
    reply = kernel.control("delete_subshell_request", content)["content"]
    assert (reply["status"], reply["ename"]) == ("error", ename)


def test_a_subshell_id_of_another_type_is_an_error(kernel):
    r = kernel.result(request(kernel, "execute_request", {"code": "1"}, 7))
    assert (r.status, r.ename) == ("error", "InvalidRequest")


# --- side by side


@pytest.mark.parametrize("which", [(0, None), (None, 0), (0, 1)], ids=["sub-main", "main-sub", "sub-sub"])
def test_cells_of_different_shells_run_at_the_same_time(kernel, subshells, which):
    made = subshells(2)
    first, second = (None if w is None else made[w] for w in which)
    run(kernel, MEET)
    ids = [send(kernel, "print('one'); barrier.wait() is None", first),
           send(kernel, "print('two'); barrier.wait() is None", second)]
    one, two = collect(kernel, ids)
    assert (one.status, one.stdout, one.value) == ("ok", "one\n", "False")
    assert (two.status, two.stdout, two.value) == ("ok", "two\n", "False")
    assert one.reply["execution_count"] != two.reply["execution_count"]


def test_a_subshell_made_while_a_cell_runs_answers_while_it_runs(kernel):
    run(kernel, "import threading, time; go = threading.Event()")
    cell = send(kernel, "print('here')\nwhile not go.is_set(): time.sleep(0.01)")
    wait_for(kernel, cell, "stream")
    subshell = create(kernel)
    first, second = collect(kernel, [cell, send(kernel, "go.set(); 'done'", subshell)])
    assert first.status == "ok" and second.value == "'done'"
    delete(kernel, subshell)


def test_displays_and_errors_belong_to_the_cell_of_their_shell(kernel, subshells):
    (subshell,) = subshells(1)
    run(kernel, MEET + "\nfrom IPython.display import display")
    code = """
barrier.wait()
for i in range(200):
    print({0!r}, i); display({0!r})
barrier.wait()
{1}
"""
    ids = [send(kernel, code.format("main", "1/0")), send(kernel, code.format("sub", "'value'"), subshell)]
    main, sub = collect(kernel, ids)
    for r, name in (main, "main"), (sub, "sub"):
        assert r.stdout == "".join(f"{name} {i}\n" for i in range(200))
        assert [c["data"]["text/plain"] for c in r.of("display_data")] == [repr(name)] * 200
    assert [c["ename"] for c in main.of("error")] == ["ZeroDivisionError"] and main.value is None
    assert sub.of("error") == [] and sub.value == "'value'"
    assert main.reply["ename"] == "ZeroDivisionError" and sub.status == "ok"


def test_cells_of_one_subshell_wait_for_each_other(kernel, subshells):
    (subshell,) = subshells(1)
    run(kernel, "order = []")
    ids = [send(kernel, f"import time; time.sleep(0.05 * {i == 0}); order.append({i})", subshell) for i in range(5)]
    assert {r.status for r in collect(kernel, ids)} == {"ok"}
    assert run(kernel, "order").value == "[0, 1, 2, 3, 4]"


def test_a_cell_of_a_subshell_may_await(kernel, subshells):
    (subshell,) = subshells(1)
    r = run(kernel, "import asyncio; await asyncio.sleep(0.01); print('awaited'); 5", subshell)
    assert (r.stdout, r.value) == ("awaited\n", "5")


def test_a_subshell_completes_and_inspects(kernel, subshells):
    (subshell,) = subshells(1)
    run(kernel, "some_long_name = 1")
    r = kernel.result(request(kernel, "complete_request", {"code": "some_l", "cursor_pos": 6}, subshell))
    assert r.reply["matches"] == ["some_long_name"]


# --- errors


def test_an_error_aborts_the_cells_of_its_shell_and_of_no_other(kernel, subshells):
    failing, other = subshells(2)
    run(kernel, MEET)
    ids = [send(kernel, "barrier.wait(); 1/0", failing), send(kernel, "print('no')", failing),
           send(kernel, "print('no')", failing)]
    ids += [send(kernel, "barrier.wait(); print('yes')", other), send(kernel, "print('yes')", other),
            send(kernel, "print('yes')")]
    replies = collect(kernel, ids)
    assert [r.status for r in replies] == ["error", "aborted", "aborted", "ok", "ok", "ok"]
    assert [r.stdout for r in replies] == ["", "", "", "yes\n", "yes\n", "yes\n"]
    assert run(kernel, "print('again')", failing).stdout == "again\n"


def test_a_silent_error_aborts_nothing(kernel, subshells):
    (subshell,) = subshells(1)
    ids = [send(kernel, "import time; time.sleep(0.05); 1/0", subshell, silent=True),
           send(kernel, "print('on')", subshell)]
    assert [r.status for r in collect(kernel, ids)] == ["error", "ok"]


# --- input


def test_input_of_two_shells_at_the_same_time(kernel, subshells):
    (subshell,) = subshells(1)
    ids = {name: send(kernel, f"input('{name}?')", where, allow_stdin=True)
           for name, where in (("main", None), ("sub", subshell))}
    questions = [kernel.client.get_stdin_msg(timeout=conftest.TIMEOUT) for _ in ids]
    asked = {m["content"]["prompt"].rstrip("?"): m for m in questions}
    for name in "sub", "main":  # in another order than they were asked
        assert asked[name]["parent_header"]["msg_id"] == ids[name]
        answer = kernel.client.session.msg("input_reply", {"value": f"for {name}"}, parent=asked[name]["header"])
        answer["parent_header"] = asked[name]["header"]
        kernel.client.stdin_channel.send(answer)
    main, sub = collect(kernel, [ids["main"], ids["sub"]])
    assert (main.value, sub.value) == ("'for main'", "'for sub'")


def test_input_without_permission_is_an_error(kernel, subshells):
    (subshell,) = subshells(1)
    assert run(kernel, "input()", subshell).ename == "StdinNotImplementedError"


# --- interrupts


@pytest.mark.parametrize("code", ["while True: pass", "await asyncio.sleep(1000)", "input('?')"],
                         ids=["loop", "await", "input"])
def test_an_interrupt_reaches_a_subshell_if_the_main_shell_is_idle(kernel, subshells, code):
    (subshell,) = subshells(1)
    run(kernel, "import asyncio")
    cell = send(kernel, f"print('here')\n{code}", subshell, allow_stdin=True)
    wait_for(kernel, cell, "stream")
    kernel.interrupt()
    assert collect(kernel, [cell])[0].ename == "KeyboardInterrupt"
    while kernel.client.stdin_channel.socket.poll(50):
        kernel.client.get_stdin_msg(timeout=0)
    assert run(kernel, "1 + 1", subshell).value == "2"


def test_an_interrupt_of_the_main_shell_leaves_subshells_alone(kernel, subshells):
    (subshell,) = subshells(1)
    run(kernel, "import threading, time; go = threading.Event()")
    beside = send(kernel, "print('here')\nwhile not go.is_set(): time.sleep(0.01)\n'unharmed'", subshell)
    wait_for(kernel, beside, "stream")
    cell = send(kernel, "print('here')\nwhile True: time.sleep(0.01)")
    wait_for(kernel, cell, "stream")
    kernel.interrupt()
    wait_for(kernel, cell, "execute_reply", ename="KeyboardInterrupt")
    _, r = collect(kernel, [send(kernel, "go.set()"), beside])
    assert r.value == "'unharmed'"


# --- deletion


def test_deletion_aborts_what_waits_and_lets_what_runs_end(kernel):
    subshell = create(kernel)
    run(kernel, "import threading, time; go = threading.Event()")
    ids = [send(kernel, "print('here')\nwhile not go.is_set(): time.sleep(0.01)\nprint('to the end')", subshell),
           send(kernel, "print('no')", subshell)]
    wait_for(kernel, ids[0], "stream")
    assert delete(kernel, subshell) == {"status": "ok"}
    assert listed(kernel) == []
    ids += [send(kernel, "1", subshell), send(kernel, "go.set()")]
    first, second, third, _ = collect(kernel, ids)
    assert third.ename == "UnknownSubshellError"
    assert (first.status, first.stdout) == ("ok", "here\nto the end\n")
    assert (second.status, second.stdout) == ("aborted", "")


def test_a_subshell_whose_cell_awaits_is_deleted_when_that_is_over(kernel):
    subshell = create(kernel)
    run(kernel, "import threading, asyncio; go = threading.Event()")
    cell = send(kernel, "print('here')\nwhile not go.is_set(): await asyncio.sleep(0.01)\n'over'", subshell)
    wait_for(kernel, cell, "stream")
    delete(kernel, subshell)
    assert collect(kernel, [send(kernel, "go.set()"), cell])[1].value == "'over'"


# --- comms


TARGET = """
import comm, threading, asyncio
def target(comm_, message):
    @comm_.on_msg
    def heard(message):
        print('in', threading.current_thread().name)
        comm_.send({'back': message['content']['data']})
comm.get_comm_manager().register_target('echo', target)
"""


def test_a_comm_message_to_a_subshell_is_handled_while_a_cell_runs(kernel, subshells):
    (subshell,) = subshells(1)
    run(kernel, TARGET + "go = threading.Event()")
    comm_id = uuid.uuid4().hex
    request(kernel, "comm_open", {"comm_id": comm_id, "target_name": "echo", "data": {}}, subshell)
    cell = send(kernel, "print('here'); assert go.wait(50)")
    wait_for(kernel, cell, "stream")
    sent = request(kernel, "comm_msg", {"comm_id": comm_id, "data": {"x": 1}}, subshell)
    heard = wait_for(kernel, sent, "stream")
    assert heard["content"]["text"].startswith("in subshell-")
    back = wait_for(kernel, sent, "comm_msg")
    assert back["content"]["data"] == {"back": {"x": 1}}
    first, second = collect(kernel, [cell, send(kernel, "go.set()", subshell)])
    assert first.status == second.status == "ok"


@pytest.mark.parametrize("beside", [True, False], ids=["another-shell", "the-same-shell"])
def test_a_cell_that_awaits_gets_the_answer_of_a_widget(kernel, subshells, beside):
    (subshell,) = subshells(1)
    comm_id = run(kernel, "import comm; widget = comm.create_comm('t'); print(widget.comm_id)", subshell).stdout.strip()
    cell = send(kernel, """
import asyncio, threading
answer = asyncio.get_running_loop().create_future()
widget.on_msg(lambda m: answer.set_result((m['content']['data']['value'], threading.get_ident())))
asyncio.get_running_loop().call_later(0.1, widget.send, {'question': 1})  # when it awaits
value, thread = await answer
assert thread == threading.get_ident()
value
""")
    wait_for(kernel, cell, "comm_msg")
    queued = send(kernel, "print('after it')")
    request(kernel, "comm_msg", {"comm_id": comm_id, "data": {"value": 42}}, subshell if beside else None)
    first, second = collect(kernel, [cell, queued])
    assert first.value == "42" and second.stdout == "after it\n"


# --- death


def test_every_request_of_every_shell_is_answered_when_the_interpreter_dies(kernel, subshells):
    one, two = subshells(2)
    ids = [send(kernel, "print('here'); import time; time.sleep(1000)", one), send(kernel, "1", one),
           send(kernel, "print('here'); import time; time.sleep(1000)", two)]
    for i in ids[0], ids[2]:
        wait_for(kernel, i, "stream")
    ids.append(send(kernel, "import os; os._exit(3)"))
    ids.append(send(kernel, "1"))
    running, queued, other, killer, after = collect(kernel, ids)
    assert [r.status for r in (running, queued, other, killer, after)] == [
        "error", "aborted", "error", "error", "aborted"]
    for r in running, other, killer:
        assert r.ename == "InterpreterDied" and "exited with status 3" in r.evalue
        assert [c["ename"] for c in r.of("error")] == ["InterpreterDied"]
    # Clients know them by their ids and know nothing of the death: they are there again.
    assert listed(kernel) == [one, two]
    r = run(kernel, "import threading; threading.current_thread() is threading.main_thread()", two)
    assert r.value == "False"


def test_a_kernel_ends_with_subshells_that_run(make_kernel):
    kernel = make_kernel()
    subshell = create(kernel)
    cell = send(kernel, "print('here'); import time; time.sleep(1000)", subshell)
    wait_for(kernel, cell, "stream")
    kernel.control("shutdown_request", {"restart": False})
    assert collect(kernel, [cell])[0].ename == "ShuttingDown"
    end = time.monotonic() + conftest.TIMEOUT
    while kernel.manager.is_alive():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_cell_of_a_subshell_has_a_time_limit_of_its_own(make_kernel):
    kernel = make_kernel("--cell-timeout", "1")
    subshell = create(kernel)
    r = run(kernel, "while True: pass", subshell)
    assert r.ename == "KeyboardInterrupt" and r.reply["timed_out"] is True
    assert run(kernel, "2", subshell).value == "2"
