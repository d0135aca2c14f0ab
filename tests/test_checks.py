# SPDX-License-Identifier: BSD-3-Clause
"""The 64 checks of the conformance list that the project keeps, each by its number.

CHECKS says what each one asks for, and which tests of other files hold it. The tests here, and those
of test_wire_level.py, have the number in their name. Times: the machine may stall, so the best of a
few attempts counts where one must be quick, or the median of many.
"""

import ast
import collections
import contextlib
import hashlib
import hmac
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid

import conftest
import psutil
import pytest
import test_wire_level
import zmq
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from test_death import wait_until
from test_execute import answer_input, received, wait_for
from test_wire_level import Started, Wire

TIMEOUT = conftest.TIMEOUT
HERE = pathlib.Path(__file__).parent

CHECKS = {
    1: ("any number of identities is echoed", ""),
    2: ("a bad signature is dropped and logged, and nothing is published", ""),
    3: ("a forgery with a genuine signature does not block the genuine message", ""),
    4: ("a replay is ignored", ""),
    5: ("an empty key means no signatures", ""),
    6: ("every signature scheme in use works, another one ends in one clear line",
        "test_bad_input.py::test_wrong_fields"),
    7: ("what is truncated, no JSON, too deep or huge leaves the connection up", ""),
    8: ("odd text round-trips or degrades without an exception",
        "test_streams.py::test_odd_characters_survive test_values.py::test_a_value_arrives_as_json"),
    9: ("buffers survive comm_msg both ways", "test_execute.py::test_buffers_come_back_byte_for_byte"),
    10: ("one session for a kernel's life, unique msg_ids, dates with a zone, one version", ""),
    11: ("the parent header is the request's header, unknown fields included", ""),
    12: ("a second client of the same identity takes over", ""),
    13: ("the heartbeat echoes while a cell holds the GIL", ""),
    14: ("control answers during such a cell", ""),
    15: ("busy first, idle last, one reply, for every type on shell and control", ""),
    16: ("malformed content gets an error reply and idle", ""),
    17: ("an unknown type gets busy and idle and no reply", ""),
    18: ("an unknown subshell gets an error reply and idle", ""),
    19: ("starting is said once, before the first busy", ""),
    20: ("every way out arrives complete before idle, in the order of the source",
         "test_streams.py::test_every_way_out_keeps_the_order_of_the_source"),
    21: ("a client that reads late loses nothing, or is told",
         "test_streams.py::test_a_client_that_reads_late_gets_everything test_streams.py::"
         "test_a_client_that_does_not_read_is_told_how_much_it_has_missed_and_others_miss_nothing"),
    22: ("a loop that prints 10 MB/s stays below the limits of a server",
         "test_streams.py::test_a_flood_stays_below_the_rate_and_loses_nothing "
         "test_streams.py::test_messages_stay_below_the_rate_too "
         "test_clients.py::test_a_flood_passes_the_server_whole"),
    23: ("a stopped subscriber blocks nobody", ""),
    24: ("every subscriber is welcomed first", ""),
    25: ("nothing is said while idle", ""),
    26: ("cells are counted from one, and all say the same number",
         "test_execute.py::test_cells_count_from_one_and_all_say_the_same_number "
         "test_execute.py::test_a_cell_that_is_not_stored_keeps_the_number"),
    27: ("silence is about input and result only", "test_execute.py::test_silence_is_about_input_and_result_only"),
    28: ("user expressions are answered one by one",
         "test_execute.py::test_user_expressions_are_answered_one_by_one"),
    29: ("an error aborts the cells that were there, and nothing else",
         "test_execute.py::test_an_error_aborts_the_cells_that_were_there_and_no_later_one "
         "test_execute.py::test_stop_on_error_false_runs_everything "
         "test_execute.py::test_a_silent_error_aborts_nothing test_execute.py::test_an_error_aborts_cells_only"),
    30: ("an interrupt aborts the queue likewise", "test_execute.py::test_an_interrupt_aborts_what_was_waiting"),
    31: ("payloads; exit ends the kernel after its reply",
         "test_execute.py::test_help_is_a_page test_execute.py::test_the_last_next_input_counts "
         "test_execute.py::test_exit_ends_the_kernel_after_its_reply"),
    32: ("SystemExit is an error with a bare name, and the kernel lives",
         "test_execute.py::test_an_error_is_published_once_with_its_bare_name_and_the_kernel_lives"),
    33: ("displays are updated from everywhere; clear_output keeps its place",
         "test_execute.py::test_a_display_is_updated_in_its_cell_later_and_from_a_thread "
         "test_execute.py::test_an_unknown_display_may_be_updated "
         "test_execute.py::test_clear_output_stands_where_it_was_called"),
    34: ("Out, In, _ and the history", "test_execute.py::test_out_and_in_hold_what_was "
         "test_execute.py::test_history_by_tail_range_and_search"),
    35: ("tracebacks, also of what cannot be shown",
         "test_execute.py::test_a_traceback_has_the_cell_and_the_line "
         "test_execute.py::test_a_syntax_error_has_a_caret "
         "test_execute.py::test_an_exception_whose_text_fails_is_one_error "
         "test_execute.py::test_a_value_whose_repr_fails_is_told_and_the_kernel_lives"),
    36: ("top-level await; tasks print to their cell, between cells too",
         "test_execute.py::test_top_level_await_and_its_relatives "
         "test_execute.py::test_the_loop_runs_on_between_cells_and_tasks_print_to_their_cell"),
    37: ("an interrupt ends whatever waits", "test_death.py::test_an_interrupt_ends test_death.py::test_an_interrupt_ends_what_os_system_runs"),
    38: ("a cell that does not hear: the user is told, then what was configured",
         "test_time.py::test_the_user_is_told_where_a_cell_hangs_that_does_not_hear "
         "test_time.py::test_a_cell_that_does_not_hear_is_replaced_and_its_files_are_kept"),
    39: ("many interrupts are one KeyboardInterrupt", "test_death.py::test_ten_interrupts_are_one"),
    40: ("an interrupt while idle is ignored", "test_death.py::test_an_interrupt_while_idle_is_ignored"),
    41: ("a death is named and answered",
         "test_death.py::test_a_death_is_named_and_everything_queued_is_answered "
         "test_limits_and_death.py::test_a_death_is_named_and_a_new_interpreter_runs"),
    42: ("what was queued when it died is answered",
         "test_death.py::test_a_death_is_named_and_everything_queued_is_answered"),
    43: ("a limit that is hit is the sandbox's own, and is named",
         "test_limits_and_death.py::test_a_fork_bomb_meets_its_own_limit_and_is_swept_away "
         "test_limits_and_death.py::test_the_memory_limit_ends_the_interpreter_and_nothing_else "
         "test_limits_and_death.py::test_all_private_directories_may_be_full_at_once "
         "test_limits_and_death.py::test_a_hundred_thousand_open_files_are_an_error_of_the_cell"),
    44: ("shutdown is answered, announced and quick",
         "test_death.py::test_shutdown_echoes_restart_runs_atexit_and_ends"),
    45: ("nothing of a sandbox outlives its kernel",
         "test_limits_and_death.py::test_nothing_of_a_sandbox_lives_on "
         "test_limits_and_death.py::test_a_kernel_ends_with_the_process_that_is_named_as_its_parent"),
    46: ("fifty restarts leave nothing", "test_limits_and_death.py::test_fifty_restarts_leave_nothing"),
    47: ("twenty kernels at once; a busy port is tried again, then named",
         "test_limits_and_death.py::test_twenty_kernels_start_at_once test_bad_input.py::test_each_port_may_be_busy"),
    48: ("arguments meant for other kernels are passed over",
         "test_bad_input.py::test_options_of_other_kernels_are_passed_over"),
    49: ("ready soon, small", ""),
    50: ("questions and answers", " ".join("test_execute.py::test_" + name for name in (
        "a_question_is_asked_and_answered", "an_end_of_file_is_an_eoferror", "a_stale_answer_is_ignored",
        "an_answer_of_another_client_is_ignored", "a_client_that_takes_no_questions_is_told_at_once",
        "what_was_printed_comes_before_the_question"))),
    51: ("comms and widgets", " ".join("test_execute.py::test_" + name for name in (
        "a_comm_of_the_client_opens_echoes_and_closes", "a_comm_of_the_kernel_opens_and_hears",
        "an_unknown_target_is_closed", "comm_messages_and_cells_keep_their_order"))
        + " test_clients.py::test_the_saved_state_of_widgets_is_ipykernels"
        " test_clients.py::test_a_front_ends_comm_messages_bring_what_they_bring_with_ipykernel"),
    52: ("completions with their types, also while a cell runs",
         "test_execute.py::test_completions_have_types_in_the_same_order "
         "test_completion.py::test_names_are_completed_while_a_cell "
         "test_execute.py::test_a_cursor_counts_characters_and_may_stand_inside"),
    53: ("is_complete with an indent", "test_execute.py::test_is_complete test_execute.py::test_a_block_is_indented"),
    54: ("inspection", "test_execute.py::test_inspection_finds_objects_and_their_source "
         "test_execute.py::test_inspection_finds test_execute.py::test_what_is_not_found_is_no_error "
         "test_execute.py::test_an_object_that_cannot_be_inspected_hurts_nobody"),
    55: ("subshells work", " ".join("test_subshells.py::test_" + name for name in (
        "the_kernel_says_that_it_has_subshells", "a_subshell_is_listed_from_its_creation_to_its_deletion",
        "cells_of_different_shells_run_at_the_same_time", "an_error_aborts_the_cells_of_its_shell_and_of_no_other",
        "input_of_two_shells_at_the_same_time", "deletion_aborts_what_waits_and_lets_what_runs_end",
        "a_comm_message_to_a_subshell_is_handled_while_a_cell_runs", "a_kernel_ends_with_subshells_that_run"))),
    56: ("the debugger", " ".join("test_debugger.py::test_" + name for name in (
        "it_is_advertised_where_debugpy_is", "without_debugpy_there_is_none",
        "what_a_front_end_asks_before_there_is_a_session", "a_cell_stops_and_goes_on",
        "an_interrupt_ends_a_stopped_cell_as_any_other", "shutdown_while_stopped",
        "children_of_a_cell_are_not_debugged"))),
    57: ("ipc; CurveZMQ on all five sockets", ""),
    58: ("the ports of a registration are told, or the kernel ends", ""),
    59: ("only the five ports listen; none with ipc", ""),
    60: ("libraries detect a notebook", "test_execute.py::test_libraries_detect_a_notebook "
         "test_clients.py::test_a_library_that_looks_for_ipykernels_names_finds_them "
         "test_clients.py::test_bars_of_tqdm_are_ipykernels"),
    61: ("figures", "test_execute.py::test_a_figure_is_shown_without_being_asked_for "
         "test_execute.py::test_figures_in_other_formats"),
    62: ("commands and magics", "test_execute.py::test_a_command_streams_while_it_runs "
         "test_execute.py::test_a_magic_does_what_it_does test_execute.py::test_debug_looks_into_the_last_error"),
    63: ("logging, descriptors and children", "test_execute.py::test_other_ways_to_print "
         "test_execute.py::test_a_child_may_write_to_the_streams "
         "test_execute.py::test_logging_goes_to_the_cell_that_logs"),
    64: ("each client runs a session", "test_kernel_test.py::TestHusk test_server.py::test_code_sandboxes "
         "test_server.py::test_execute test_notebooks.py::test_nbclient_gets_the_same_outputs "
         "test_notebooks.py::test_papermill_writes_the_same_notebook"),
}


def names_in(path):
    """Tests and classes of tests that a file defines."""
    tree = ast.parse(path.read_text())
    return {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


def test_every_check_has_its_tests():
    """A test that is renamed or removed takes no check with it."""
    numbered = collections.Counter()
    for name in (name for path in HERE.glob("test_*.py") for name in names_in(path)):
        numbers = re.match(r"test_((?:\d\d_)+)", name)
        numbered.update(int(n) for n in (numbers[1].split("_")[:-1] if numbers else ()))
    elsewhere = {number: row[1].split() for number, row in CHECKS.items()}
    assert list(CHECKS) == list(range(1, 65))
    assert not missing_tests(test for tests in elsewhere.values() for test in tests)
    assert not [n for n in CHECKS if not numbered[n] and not elsewhere[n]]


def missing_tests(tests):
    """Those of FILE::TEST that are not there."""
    names = {path.name: names_in(path) for path in HERE.glob("test_*.py")}
    return [test for test in tests if test.partition("::")[2] not in names.get(test.partition("::")[0], ())]


def within(seconds, attempt, tries=3):
    """Whether one of a few attempts takes no longer; attempt() gives its own time, or is timed."""
    taken = []
    while len(taken) < tries and not any(t < seconds for t in taken):
        began = time.monotonic()
        said = attempt()
        taken.append(time.monotonic() - began if said is None else said)
    return min(taken) < seconds, taken


@pytest.fixture
def wire(kernel):
    w = Wire(kernel)
    yield w
    w.close()
    # The other client of this kernel heard it all, too, and did not read.
    unread = kernel.client.iopub_channel.socket
    while unread.poll(200):
        unread.recv_multipart()


# --- wire and security


def test_02_what_is_dropped_is_logged(kernel, wire):
    before = kernel.log.read_text().count("dropped a message on control: a wrong signature")
    parts = wire.parts("interrupt_request", {})
    wire.send("control", parts, signature=b"0" * 64)
    assert wire.works()
    log = kernel.log.read_text()
    assert log.count("dropped a message on control: a wrong signature") == before + 1


ODD = {"non-BMP": "\U0001f600", "surrogate": "\ud800", "NUL": "\0", "separator": "\u2028",
       "escape": "\x1b[0m", "a megabyte": "x" * (1 << 20)}
WAYS = {  # what shows the text, and how to find it
    "printed": ("print(text, end='')", lambda r: r.stdout),
    "shown": ("display({'text/plain': text}, raw=True)", lambda r: r.of("display_data")[0]["data"]["text/plain"]),
    "in JSON": ("display({'application/json': {'t': [text]}}, raw=True)",
                lambda r: r.of("display_data")[0]["data"]["application/json"]["t"][0]),
    "raised": ("raise ValueError(text)", lambda r: r.evalue),
    "updated": ("display({'text/plain': text}, raw=True, display_id='a', update=True)",
                lambda r: r.of("update_display_data")[0]["data"]["text/plain"]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("odd", ODD)
def test_08_odd_text_round_trips_or_degrades(kernel, odd, way):
    """The client's own parser reads it: what is no UTF-8 would be no message at all."""
    show, find = WAYS[way]
    result = kernel.run(f"text = {ODD[odd]!a} if {odd != 'a megabyte'} else 'x' * (1 << 20)\n{show}")
    assert result.status == ("error" if way == "raised" else "ok")
    assert find(result) in ({ODD[odd]} if odd != "surrogate" else {"\ud800", "\\ud800", "\ufffd"})


def test_08_not_a_number_is_valid_json(wire):
    code = "display({'application/json': {'x': [float('nan'), float('inf'), -float('inf')]}}, raw=True)"
    msg_id = wire.send("shell", wire.parts("execute_request", {"code": code}))
    frames = []
    while not frames or json.loads(frames[-1][6])["execution_state"] != "idle":
        got = wire.receive(wire.iopub)
        got = got[got.index(b"<IDS|MSG>") - 1:]
        if json.loads(got[4]).get("msg_id") == msg_id:
            frames.append([*got[:6], got[6] if b"execution_state" in got[6] else b'{"execution_state":0}', got[6]])

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    for parts in frames:
        json.loads(parts[7], parse_constant=refuse)
    wire.receive(wire.socket["shell"])


def test_10_a_hundred_thousand_messages_have_ids_of_their_own(wire):
    code = "clear = get_ipython().display_pub.clear_output\nfor i in range(100_000): clear()"
    msg_id = wire.send("shell", wire.parts("execute_request", {"code": code, "silent": True}))
    ids, state = [], None
    while state != "idle":
        frames = wire.receive(wire.iopub)
        at = frames.index(b"<IDS|MSG>")
        ids.append(re.search(rb'"msg_id":"([^"]+)"', frames[at + 2])[1])
        if b"execution_state" in frames[at + 5] and json.loads(frames[at + 3])["msg_id"] == msg_id:
            state = json.loads(frames[at + 5])["execution_state"]
    wire.receive(wire.socket["shell"])
    assert len(ids) >= 100_002 and len(set(ids)) == len(ids)


def test_10_a_restart_is_a_new_session(make_kernel):
    kernel = make_kernel()
    sessions = []
    for _ in range(2):
        sessions.append({m["header"]["session"] for m in [*kernel.run("1").messages, kernel.run("1").message]})
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=TIMEOUT)
    assert [len(s) for s in sessions] == [1, 1] and sessions[0] != sessions[1]


def test_12_a_client_that_reconnects_gets_the_questions_too(kernel):
    """On shell, control and stdin, within a second."""

    def reconnect():
        identity = uuid.uuid4().hex.encode()
        first = Wire(kernel, identity=identity)
        assert first.works()
        began = time.monotonic()
        second = Wire(kernel, identity=identity)
        try:
            second.send("shell", second.parts("execute_request", {"code": "input('?')", "allow_stdin": True}))
            asked = second.parse(second.receive(second.socket["stdin"]))
            second.send("control", second.parts("kernel_info_request", {}))
            second.receive(second.socket["control"])
            parts = second.parts("input_reply", {"value": "x"})
            parts[1] = json.dumps(asked["header"]).encode()
            second.send("stdin", parts)
            reply = second.parse(second.receive(second.socket["shell"]))
            taken = time.monotonic() - began
            assert reply["content"]["status"] == "ok" and not first.socket["stdin"].poll(0)
        finally:
            first.close()
            second.close()
        return taken

    quick, taken = within(1, reconnect)
    assert quick, taken


# --- order and completeness


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("type_, content", [
    ("comm_open", {"comm_id": "x", "target_name": "nobody", "data": {}}), ("comm_open", {}),
    ("comm_msg", {"comm_id": "never", "data": {}}), ("comm_msg", {"data": {}}), ("comm_msg", []),
    ("comm_close", {"comm_id": "never"}), ("comm_close", {"comm_id": 5}),
], ids=str)
def test_15_16_what_has_no_reply_has_busy_and_idle(wire, channel, type_, content):
    msg_id = wire.send(channel, wire.parts(type_, content))
    states = [m["content"]["execution_state"] for m in wire.until_idle(msg_id) if m["msg_type"] == "status"]
    assert states == ["busy", "idle"]
    assert wire.works() and wire.nothing_comes(0.1)


MORE = {"delete_subshell_request": {"subshell_id": "nowhere"}, "list_subshell_request": {},
        "sandbox_request": {"method": "sandbox.info"}}


def types_with_a_reply():
    rows = (HERE.parent / "kernel" / "requests.def").read_text()
    return dict(re.findall(r'^REQUEST\((\w+), *"(\w+)"', rows, re.M))


def test_15_every_type_with_a_reply_takes_part():
    asked = {*test_wire_level.REQUESTS, *MORE, "shutdown_request"}
    assert set(types_with_a_reply()) == asked


@pytest.mark.parametrize("type_", MORE)
def test_15_busy_first_idle_last_one_reply(wire, type_):
    reply, messages = wire.ask(type_, MORE[type_], channel="control")
    assert reply["msg_type"] == type_.replace("_request", "_reply") and reply["content"]["status"] in ("ok", "error")
    states = [m["content"]["execution_state"] for m in messages if m["msg_type"] == "status"]
    assert states == ["busy", "idle"] and wire.nothing_comes(0.1)


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_15_44_shutdown_is_announced_between_busy_and_idle(make_kernel, channel):
    kernel = make_kernel()
    wire = Wire(kernel)
    try:
        reply, messages = wire.ask("shutdown_request", {"restart": True}, channel=channel)
        kinds = [m["content"].get("execution_state", m["msg_type"]) for m in messages]
        assert kinds == ["busy", "shutdown_reply", "idle"]
        said = messages[1]
        assert reply["content"] == said["content"] == {"status": "ok", "restart": True}
        assert said["header"]["msg_id"] != reply["header"]["msg_id"]
        assert kernel.manager.provisioner.process.wait(TIMEOUT) == 0
        assert not wire.socket[channel].poll(0)
    finally:
        wire.close()


@pytest.mark.parametrize("content", [b"[]", b"{", b"null", b"\xff"], ids=str)
def test_16_content_that_is_no_object_is_an_error_of_every_type(wire, content):
    for type_, reply_type in types_with_a_reply().items():
        reply, messages = wire.ask(type_, content, channel="control")
        assert (reply["msg_type"], reply["content"]["status"]) == (reply_type, "error")
        assert [m["content"]["execution_state"] for m in messages] == ["busy", "idle"]
    assert wire.works()


@pytest.mark.parametrize("type_, content", [
    ("shutdown_request", {"restart": "yes"}), ("sandbox_request", {}), ("sandbox_request", {"method": 5}),
    ("sandbox_request", {"method": "no.such"}), ("delete_subshell_request", {}),
    ("history_request", {"hist_access_type": "range", "session": "x"}),
    ("history_request", {"hist_access_type": "search", "pattern": 5}),
    ("execute_request", {"code": "1", "user_expressions": {"a": 5}}),
    ("execute_request", {"code": "1", "allow_stdin": "no"}), ("execute_request", {"code": "1", "store_history": []}),
    ("inspect_request", {"code": "a", "cursor_pos": 10**30}), ("complete_request", {"code": "a", "cursor_pos": True}),
], ids=str)
def test_16_more_that_is_malformed(wire, type_, content):
    reply, messages = wire.ask(type_, content)
    assert reply["content"]["status"] == "error"
    assert [m["content"]["execution_state"] for m in messages] == ["busy", "idle"]
    assert wire.works()


def test_19_starting_is_said_once_before_the_first_busy(tmp_path):
    """To a subscriber that was there before the kernel; a second one comes later."""
    started = Started(tmp_path, {"key": ""})
    context = zmq.Context()

    def subscriber():
        socket = context.socket(zmq.SUB)
        socket.subscribe(b"")
        socket.connect(f"tcp://127.0.0.1:{started.info['iopub_port']}")
        return socket

    def until(socket, state):
        while True:
            assert socket.poll(TIMEOUT * 1000)
            frames = socket.recv_multipart()
            at = frames.index(b"<IDS|MSG>")
            header, parent, _, content = map(json.loads, frames[at + 2:at + 6])
            seen.append((header["msg_type"], parent, content))
            if content.get("execution_state") == state:
                return

    seen = []
    try:
        socket = subscriber()
        with started:
            until(socket, "starting")
            for _ in range(2):
                test_wire_level.check_by_hand(started.info, lambda parts: b"")
                until(socket, "idle")
                other = subscriber()
                assert other.poll(TIMEOUT * 1000)
    finally:
        context.destroy(linger=0)
    assert [kind for kind, _, _ in seen[:2]] == ["iopub_welcome", "status"]
    assert seen[1] == ("status", {}, {"execution_state": "starting"})
    assert sum(content.get("execution_state") == "starting" for _, _, content in seen) == 1


def test_24_a_second_and_a_third_client_are_welcomed_too(wire):
    msg_id = wire.send("shell", wire.parts("execute_request", {
        "code": "import time\nend = time.time() + 2\nwhile time.time() < end: print('x'); time.sleep(.0005)"}))
    clients = [wire.subscribe(topic, welcome=False) for topic in (b"", b"", b"kernel.", b"")]
    for client in clients:
        assert wire.parse(wire.receive(client))["msg_type"] == "iopub_welcome"
    wire.until_idle(msg_id)


# --- execute, interrupt, death, life


def test_35_a_recursion_error_comes_back_soon(kernel):
    quick, taken = within(2, lambda: kernel.run("def f(): return f()\nf()") and None)
    assert quick, taken


def test_37_an_interrupt_ends_the_prompt_of_pdb(kernel):
    """And the cell goes on, as with IPython's own debugger."""

    def leave():
        msg_id = kernel.send("def f():\n    import pdb; pdb.set_trace()\n    return 'on'\nf()", allow_stdin=True)
        kernel.client.get_stdin_msg(timeout=TIMEOUT)
        began = time.monotonic()
        kernel.interrupt()
        result = kernel.result(msg_id)
        assert result.value == "'on'" and "KeyboardInterrupt" in result.stdout
        return time.monotonic() - began

    quick, taken = within(1, leave)
    assert quick, taken


def test_39_a_signal_to_every_process_and_a_request_are_one_interrupt(kernel):
    """As VS Code does it: the tree is found, and each of its processes gets the signal."""
    msg_id = kernel.send("import subprocess, time\np = subprocess.Popen(['sleep', '60'])\ntry:\n    time.sleep(60)\n"
                         "except KeyboardInterrupt:\n    print('one')\nfor i in range(20): time.sleep(0.05)\nprint('done')")
    wait_for(kernel, msg_id, "execute_input")
    time.sleep(0.7)
    for process in [*psutil.Process(kernel.pid).children(recursive=True), psutil.Process(kernel.pid)]:
        try:
            process.send_signal(signal.SIGINT)
        except psutil.NoSuchProcess:
            pass  # a child of the cell, which heard it from somebody else
    kernel.interrupt()
    assert kernel.result(msg_id).stdout == "one\ndone\n"
    assert kernel.run("2 + 3").value == "5"


def test_41_a_death_is_answered_within_a_second(kernel):
    quick, taken = within(1, lambda: kernel.run("import os, time; os.kill(os.getpid(), 9)") and None)
    assert quick, taken


@pytest.mark.parametrize("busy, seconds", [("None", 0.5), ("import time; time.sleep(600)", 2.5),
                                           ("sum(range(10**13))", 2.5)], ids=["idle", "sleeping", "in C"])
def test_44_shutdown_is_quick(make_kernel, busy, seconds):
    def end():
        kernel = make_kernel()
        kernel.run("1")
        wait_for(kernel, kernel.send(busy), "execute_input")
        time.sleep(0.2)
        began = time.monotonic()
        assert kernel.control("shutdown_request", {"restart": False})["content"]["restart"] is False
        kernel.manager.provisioner.process.wait(TIMEOUT)
        return time.monotonic() - began

    quick, taken = within(seconds, end)
    assert quick, taken


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_45_nothing_lives_a_second_longer(make_kernel, how):
    def end():
        kernel = make_kernel()
        kernel.run("import subprocess\nsubprocess.Popen(['setsid', 'sleep', '600'])\n"
                   "subprocess.run('(nohup sleep 600 >/dev/null 2>&1 &) &', shell=True)")
        assert wait_until(lambda: len(psutil.Process(kernel.pid).children(recursive=True)) >= 5)
        inside = psutil.Process(kernel.pid).children(recursive=True)
        began = time.monotonic()
        os.kill(kernel.pid, how)
        assert wait_until(lambda: not any(lives(p) for p in inside))
        return time.monotonic() - began

    quick, taken = within(1, end)
    assert quick, taken


def lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_48_more_arguments_of_other_kernels_are_passed_over(make_kernel):
    kernel = make_kernel(arguments=["--f=x", "--IPKernelApp.matplotlib=inline", "--no-secure", "word"])
    assert kernel.run("6 * 7").value == "42"


def started_kernel(specs, name):
    """Seconds until it is ready; the memory of all its processes, shared pages by their share."""
    manager = KernelManager(kernel_name=name, kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)]))
    began = time.monotonic()
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        taken = time.monotonic() - began
        client.execute_interactive("1", timeout=TIMEOUT)
        root = psutil.Process(manager.provisioner.pid)
        return taken, sum(p.memory_full_info().pss for p in [root, *root.children(recursive=True)])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.rights("root")
def test_49_a_kernel_is_ready_sooner_than_ipykernel_and_smaller(tmp_path):
    """Cold, sandbox included, side by side in one run."""
    specs = conftest.spec_directory(tmp_path)
    subprocess.run([sys.executable, "-m", "ipykernel", "install", "--prefix", str(tmp_path), "--name", "stock"],
                   check=True, capture_output=True, timeout=TIMEOUT)
    ours, stock = zip(*((started_kernel(specs, "husk"), started_kernel(specs, "stock")) for _ in range(3)))
    assert min(t for t, _ in ours) < min(t for t, _ in stock), (ours, stock)
    assert min(m for _, m in ours) < min(min(m for _, m in stock), 72 << 20), (ours, stock)


def test_49_kernel_info_is_answered_in_50_ms(wire):
    taken = []
    for _ in range(21):
        began = time.monotonic()
        wire.send("shell", wire.parts("kernel_info_request", {}))
        wire.receive(wire.socket["shell"])
        taken.append(time.monotonic() - began)
    assert statistics.median(taken) < 0.05


# --- channels and features


CURVE_PUBLIC, CURVE_SECRET = (key.decode() for key in zmq.curve_keypair())
CURVE = {"curve_publickey": CURVE_PUBLIC, "curve_secretkey": CURVE_SECRET}


def encrypted(context, kind, pair=None):
    socket = context.socket(kind)
    socket.curve_publickey, socket.curve_secretkey = pair or zmq.curve_keypair()
    socket.curve_serverkey = CURVE_PUBLIC.encode()
    return socket


def hello(info, msg_type="kernel_info_request"):
    header = {"msg_id": uuid.uuid4().hex, "session": "s", "username": "u", "version": "5.6",
              "date": "2026-01-01T00:00:00Z", "msg_type": msg_type}
    parts = [json.dumps(header).encode(), b"{}", b"{}", b"{}"]
    mac = hmac.new(info["key"].encode(), b"".join(parts), hashlib.sha256)
    return [b"<IDS|MSG>", mac.hexdigest().encode(), *parts]


def test_57_curve_encrypts_all_five_sockets(tmp_path):
    with Started(tmp_path, {"key": "k", **CURVE}) as info:
        context = zmq.Context()
        try:
            pair = CURVE_PUBLIC.encode(), CURVE_SECRET.encode()
            sockets = {n: encrypted(context, zmq.DEALER, pair) for n in ("shell", "control", "stdin")}
            sockets["iopub"] = encrypted(context, zmq.SUB, pair)
            sockets["iopub"].subscribe(b"")
            sockets["hb"] = encrypted(context, zmq.REQ)  # a pair of its own, as jupyter_client's
            plain = {n: context.socket(zmq.SUB if n == "iopub" else zmq.DEALER) for n in sockets}
            plain["iopub"].subscribe(b"")
            for n, socket in [*sockets.items(), *plain.items()]:
                if n == "stdin" and socket is sockets[n]:
                    socket.identity = b"asks"
                if n == "shell" and socket is sockets[n]:
                    socket.identity = b"asks"
                socket.connect(f"tcp://127.0.0.1:{info[n + '_port']}")
            for n in ("shell", "control", "stdin", "hb"):
                plain[n].send_multipart(hello(info))
            for n in ("shell", "control"):
                sockets[n].send_multipart(hello(info))
                assert sockets[n].poll(TIMEOUT * 1000), n
            sockets["hb"].send(b"ping")
            assert sockets["hb"].poll(TIMEOUT * 1000) and sockets["hb"].recv() == b"ping"
            assert sockets["iopub"].poll(TIMEOUT * 1000)
            time.sleep(0.5)
            assert not any(socket.poll(0) for socket in plain.values())
        finally:
            context.destroy(linger=0)


def test_57_a_stock_client_and_the_command_line_use_a_kernel_that_is_encrypted(tmp_path):
    specs = conftest.spec_directory(tmp_path / "spec")
    manager = KernelManager(kernel_name="husk", transport_encryption="required",
                            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)]))
    (tmp_path / "work").mkdir()
    manager.start_kernel(cwd=str(tmp_path / "work"))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        assert manager.get_connection_info()["curve_publickey"]
        reply = client.execute_interactive("input('?')", allow_stdin=True, timeout=TIMEOUT,
                                           stdin_hook=lambda msg: client.input("x"))
        assert reply["content"]["status"] == "ok" and client.hb_channel.is_beating()
        kernels = json.loads(run_husk("ls", "-o", "json"))
        ours, = [k["id"] for k in kernels if k["pid"] == manager.provisioner.pid]
        assert run_husk("exec", ours, "--", "echo", "hi") == "hi\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run_husk(*arguments):
    done = subprocess.run([conftest.HUSK, *arguments], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("fields", [
    {"curve_publickey": CURVE_PUBLIC}, {"curve_secretkey": CURVE_SECRET}, {**CURVE, "curve_secretkey": "short"},
    {**CURVE, "curve_publickey": 5}, {**CURVE, "curve_secretkey": " " * 40},
], ids=["public alone", "secret alone", "short", "a number", "no Z85"])
def test_57_keys_that_are_none_are_refused_not_passed_over(tmp_path, fields):
    """A kernel that a client believes to be encrypted does not run in plain text."""
    started = Started(tmp_path, {"key": "k", **fields})
    done = subprocess.run([conftest.HUSK, "kernel", "--python", conftest.PYTHON, "-f", str(started.file)],
                          cwd=started.cwd, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode in (65, 69) and done.stderr.count("\n") == 1, done
    assert "curve_" in done.stderr or "encrypt" in done.stderr


KEY = b"of the registration"


def sign(content):
    return hmac.new(KEY, content, hashlib.sha256).hexdigest().encode()


class Launcher:
    """Starts a kernel with a registration file, and hears its ports."""

    def __init__(self, directory, transport="tcp", **fields):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.file = directory / "registration.json"
        if transport == "tcp":
            ip, port = "127.0.0.1", self.socket.bind_to_random_port("tcp://127.0.0.1")
        else:
            ip, port = str(directory / "ipc"), 1
            self.socket.bind(f"ipc://{ip}-{port}")
        self.file.write_text(json.dumps({
            "kernel_id": "id \u00e9", "transport": transport, "registration_ip": ip, "registration_port": port,
            "signature_scheme": "hmac-sha256", "key": KEY.decode(), **fields}))
        self.file.chmod(0o600)
        cwd = directory / "work"
        cwd.mkdir()
        self.process = subprocess.Popen(
            [conftest.HUSK, "kernel", "--python", conftest.PYTHON, "-f", str(self.file)], cwd=cwd,
            stderr=subprocess.PIPE, text=True)

    def hear(self):
        assert self.socket.poll(TIMEOUT * 1000), "no registration"
        identity, delimiter, signature, content = self.socket.recv_multipart()
        assert delimiter == b"<IDS|MSG>" and signature == sign(content)
        return identity, json.loads(content)

    def answer(self, identity, content=b"{}", signature=None):
        self.socket.send_multipart([identity, b"<IDS|MSG>", signature or sign(content), content])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.context.destroy(linger=0)


NAMES = ("shell", "control", "iopub", "stdin", "hb")


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_58_a_kernel_tells_the_ports_that_it_chose(tmp_path, transport):
    with Launcher(tmp_path, transport) as launcher:
        identity, said = launcher.hear()
        assert set(said) == {"kernel_id", *(f"{n}_port" for n in NAMES)} and said["kernel_id"] == "id \u00e9"
        assert all(isinstance(value, str) for value in said.values())
        launcher.answer(identity)
        # The file has become a connection file, for this and for other clients, and is still private.
        info = json.loads(launcher.file.read_text())
        assert {n: str(info[f"{n}_port"]) for n in NAMES} == {n: said[f"{n}_port"] for n in NAMES}
        assert launcher.file.stat().st_mode & 0o777 == 0o600
        client = BlockingKernelClient(connection_file=str(launcher.file))
        client.load_connection_file()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=TIMEOUT)
            assert client.execute_interactive("1", timeout=TIMEOUT)["content"]["status"] == "ok"
            assert client.kernel_info(reply=True, timeout=TIMEOUT)["content"]["protocol_version"] == "5.6"
        finally:
            client.stop_channels()


def test_58_a_second_start_with_the_same_file_chooses_anew(tmp_path):
    with Launcher(tmp_path) as launcher:
        first = launcher.hear()
        launcher.answer(first[0])
        launcher.process.kill()
        launcher.process.wait()
        launcher.process.stderr.close()
        launcher.process = subprocess.Popen(
            [conftest.HUSK, "kernel", "--python", conftest.PYTHON, "-f", str(launcher.file)],
            cwd=tmp_path / "work", stderr=subprocess.PIPE, text=True)
        second = launcher.hear()
        assert set(second[1]) == set(first[1])


@pytest.mark.parametrize("answer, word", [
    (lambda l, to: l.answer(to, signature=b"0" * 64), "a wrong signature"),
    (lambda l, to: l.answer(to, signature=b"0"), "a signature of 1 bytes"),
    (lambda l, to: l.socket.send_multipart([to, b"ok"]), "no acknowledgement"),
    (lambda l, to: None, "no acknowledgement in 5 s"),
], ids=["forged", "short", "something else", "silence"])
def test_58_a_kernel_that_nobody_acknowledges_ends(tmp_path, answer, word):
    with Launcher(tmp_path) as launcher:
        identity, _ = launcher.hear()
        answer(launcher, identity)
        assert launcher.process.wait(TIMEOUT) == 69
        said = launcher.process.stderr.read()
        assert said.startswith("husk: register at 'tcp://127.0.0.1:") and word in said and said.count("\n") == 1


@pytest.mark.parametrize("fields, word", [
    ({"kernel_id": 5}, "kernel_id"), ({"registration_ip": None}, "registration_ip"),
    ({"registration_port": 0}, "registration_port"), ({"registration_port": "x"}, "registration_port"),
], ids=str)
def test_58_a_registration_file_that_is_none(tmp_path, fields, word):
    with Launcher(tmp_path, **fields) as launcher:
        assert launcher.process.wait(TIMEOUT) == 65
        assert word in launcher.process.stderr.read()


def test_59_no_port_listens_with_ipc_and_the_files_are_private(make_kernel):
    kernel = make_kernel(transport="ipc")
    kernel.run("1")
    inodes = set()
    for process in [psutil.Process(kernel.pid), *psutil.Process(kernel.pid).children(recursive=True)]:
        for fd in os.listdir(f"/proc/{process.pid}/fd") if os.access(f"/proc/{process.pid}/fd", os.R_OK) else ():
            try:
                inodes.add(os.readlink(f"/proc/{process.pid}/fd/{fd}"))
            except OSError:
                pass
    lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").readlines()[1:]]
    assert not [line for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes]
    files = list(pathlib.Path(kernel.manager.ip).parent.glob(pathlib.Path(kernel.manager.ip).name + "-*"))
    assert len(files) == 5 and not any(f.stat().st_mode & 0o077 for f in files)


# --- libraries and front ends


PLOT = "import matplotlib.pyplot as plt\n"


@pytest.mark.parametrize("code, kinds", [
    ("%config InlineBackend.figure_formats = ['svg']\nplt.plot([1])\nNone", {"image/svg+xml", "text/plain"}),
    ("%config InlineBackend.figure_formats = ['retina']\nplt.plot([1])\nNone", {"image/png", "text/plain"}),
    ("%config InlineBackend.figure_formats = ['png']\nimport threading\n"
     "t = threading.Thread(target=lambda: plt.plot([1])); t.start(); t.join()", {"image/png", "text/plain"}),
    ("plt.ion(); plt.plot([2]); plt.ioff()\nNone", {"image/png", "text/plain"}),
], ids=["svg", "retina", "thread", "ion"])
def test_61_figures(kernel, code, kinds):
    result = kernel.run(PLOT + code)
    shown = result.of("display_data")
    assert [set(content["data"]) for content in shown] == [kinds], result.stderr
    if "retina" in code:
        assert shown[0]["metadata"]["image/png"]["width"] > 0


def test_62_a_changed_module_is_loaded_again(kernel):
    module = kernel.cwd / "changes.py"
    module.write_text("def f(): return 1\n")
    kernel.run("%load_ext autoreload\n%autoreload 2")
    assert kernel.run("import changes; changes.f()").value == "1"
    module.write_text("def f(): return 'now another'\n")
    os.utime(module, (time.time() + 5, time.time() + 5))
    assert kernel.run("changes.f()").value == "'now another'"


def test_63_joblib_works_in_processes_and_threads(kernel):
    for how in ("n_jobs=2", "n_jobs=2, prefer='threads'"):
        result = kernel.run(f"from joblib import Parallel, delayed\nParallel({how})(delayed(abs)(-i) for i in range(4))")
        assert result.value == "[0, 1, 2, 3]", result.reply


def test_63_a_handler_that_was_there_before_the_first_cell_logs(make_kernel, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import logging\nlogging.basicConfig(format='%(message)s')\n")
    kernel = make_kernel(env={"PYTHONPATH": str(tmp_path / "site")})
    assert kernel.run("import logging; logging.warning('heard')").stderr == "heard\n"


def test_64_a_session_as_vs_code_has_it(tmp_path):
    """It runs the argv itself, waits for the ports, has one identity on all channels and asks on shell and
    control until it has an answer; an interrupt is a message, the end a kill of all."""
    specs = conftest.spec_directory(tmp_path / "spec")
    argv = json.loads((specs / "husk" / "kernel.json").read_text())["argv"]
    started = Started(tmp_path, {"key": "k"})
    with open(tmp_path / "stderr", "w") as stderr:
        process = subprocess.Popen([word.replace("{connection_file}", str(started.file)) for word in argv],
                                   cwd=started.cwd, stderr=stderr, start_new_session=True)
    manager = type("Manager", (), {"get_connection_info": lambda self: {**started.info, "key": b"k"}})()
    try:
        assert wait_until(lambda: all(is_in_use(started.info[f"{n}_port"]) for n in NAMES), TIMEOUT)
        wire = Wire(type("Kernel", (), {"manager": manager})())
        for channel in ("shell", "control"):
            reply, _ = wire.ask("kernel_info_request", {}, channel=channel)
            assert reply["content"]["language_info"]["name"] == "python"
        code = "import os as _VSCODE_os\nprint(_VSCODE_os.getcwd())\ndel _VSCODE_os"
        reply, messages = wire.ask("execute_request", {"code": code, "silent": False, "store_history": False})
        text = "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")
        assert reply["content"]["status"] == "ok" and text == f"{started.cwd}\n"
        wire.send("shell", wire.parts("execute_request", {"code": "import time; time.sleep(60)"}))
        time.sleep(0.5)
        wire.ask("interrupt_request", {}, channel="control")
        assert wire.parse(wire.receive(wire.socket["shell"]))["content"]["ename"] == "KeyboardInterrupt"
        wire.close()
    finally:
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
    assert wait_until(lambda: not any(lives(p) for p in tree))


def is_in_use(port):
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
               for line in open("/proc/net/tcp").readlines()[1:])


def test_64_the_console_runs_a_session(tmp_path):
    """jupyter console, its standard input no terminal: prompts, history, is_complete, an error, a question."""
    specs = conftest.spec_directory(tmp_path / "spec")
    work = tmp_path / "work"
    work.mkdir()
    env = {**os.environ, "JUPYTER_PATH": str(specs.parent), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_console", "--simple-prompt", "--kernel", "husk", "-y"], cwd=work, env=env,
        input="print('from', 'husk')\n6 * 7\n1 / 0\nx = input('name? ')\nworld\nprint('hello', x)\nexit\n",
        capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    for text in ("from husk", "42", "ZeroDivisionError", "name?", "hello world"):
        assert text in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr), done
