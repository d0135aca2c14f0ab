# SPDX-License-Identifier: BSD-3-Clause
"""What users of Jupyter kernels complain about, and what husk does instead: each row of COMPLAINTS with the tests
that hold it. Those that belong to no other file are here.
"""

import threading
import time

import conftest
import psutil
import pytest
import zmq
from test_checks import lives, missing_tests, within
from test_death import wait_until
from test_wire_level import Wire

# complaint: (what husk does, its tests)
COMPLAINTS = {
    # --- of many kernels, for years
    "output, and the end of a cell, is lost where a client is slow": (
        "the cell waits; what a dead client misses is counted and told; the end of a cell is never dropped",
        "test_streams.py::test_a_client_that_reads_late_gets_everything "
        "test_streams.py::test_a_client_that_does_not_read_is_told_how_much_it_has_missed_and_others_miss_nothing "
        "test_wire_level.py::test_23_a_stopped_subscriber_does_not_stop_the_others"),
    "the server drops output above its rates": (
        "text is joined, states of a progress line and of a display are left out, and what is left is paced",
        "test_clients.py::test_a_flood_passes_the_server_whole "
        "test_streams.py::test_a_flood_stays_below_the_rate_and_loses_nothing "
        "test_streams.py::test_messages_stay_below_the_rate_too "
        "test_streams.py::test_a_progress_line_is_sent_in_its_last_states "
        "test_streams.py::test_updates_of_a_display_are_joined_and_the_last_one_counts"),
    "output is lost while a page is closed": (
        "husk serve keeps it for the session, as a Jupyter Server keeps it; without a server nobody does",
        "test_serve.py::test_what_was_said_while_nobody_was_there_comes_first_when_the_session_is_back"),
    "the first messages are missed": (
        "a subscriber is welcomed before anything else",
        "test_wire_level.py::test_24_every_subscriber_is_welcomed_first_also_under_load "
        "test_checks.py::test_24_a_second_and_a_third_client_are_welcomed_too"),
    "an interrupt does not stop the cell": (
        "whatever waits hears it; who does not is shown to the user, and replaced if that was configured",
        "test_death.py::test_an_interrupt_ends test_death.py::test_an_interrupt_ends_what_os_system_runs "
        "test_death.py::test_ten_interrupts_are_one "
        "test_time.py::test_the_user_is_told_where_a_cell_hangs_that_does_not_hear "
        "test_time.py::test_an_interpreter_whose_cell_does_not_hear_interrupts_is_replaced_if_wanted"),
    "an interrupt kills the kernel": (
        "it never does, whatever runs and however it comes",
        "test_death.py::test_an_interrupt_while_idle_is_ignored test_death.py::test_a_signal_to_husk_is_an_interrupt_too "
        "test_checks.py::test_39_a_signal_to_every_process_and_a_request_are_one_interrupt"),
    "cells that are sent after an error are aborted, or those before it are not": (
        "what had arrived by then is aborted, by the order of arrival and no timer",
        "test_execute.py::test_an_error_aborts_the_cells_that_were_there_and_no_later_one"),
    "a kernel dies without a reason": (
        "the reply, an error and the kernel's own stderr name it, and where Python was is shown",
        "test_death.py::test_a_death_is_named_and_everything_queued_is_answered "
        "test_death.py::test_the_memory_limit_is_named_and_the_kernel_lives "
        "test_limits_and_death.py::test_husk_says_in_one_line_why_it_ends test_complaints.py::test_a_crash_shows_the_line"),
    "a cell is busy for ever": (
        "whatever happens, each request has one reply and one idle",
        "test_checks.py::test_16_content_that_is_no_object_is_an_error_of_every_type "
        "test_wire_level.py::test_16_malformed_content_gets_an_error_reply_and_idle "
        "test_wire_level.py::test_18_an_unknown_subshell_gets_an_error test_soak.py::test_no_reply_and_no_idle_is_lost_and_nothing_grows "
        "test_complaints.py::test_replies_and_requests_that_cross_lose_no_wake_up"),
    "input() waits for a client that is gone": (
        "any client can interrupt it, and one that comes late is asked",
        "test_complaints.py::test_a_question_to_a_client_that_is_gone_is_interrupted_by_another "
        "test_clients.py::test_a_question_waits_for_a_client_that_connects_late test_execute.py::test_a_stale_answer_is_ignored"),
    "output of children is lost, or a fork hangs": (
        "descriptors are read outside, and the interpreter has one thread",
        "test_streams.py::test_output_of_a_child_process_belongs_to_its_cell test_streams.py::test_a_forked_child_prints_too "
        "test_streams.py::test_pools_of_both_kinds_work test_execute.py::test_other_ways_to_print "
        "test_execute.py::test_a_child_of_fork_ends_with_the_cell"),
    "output is in the wrong cell": (
        "tasks print to their cell, threads to the latest, as with ipykernel 7",
        "test_streams.py::test_a_task_prints_to_its_cell_and_a_thread_to_the_latest "
        "test_execute.py::test_a_task_prints_to_its_cell_while_another_cell_awaits "
        "test_parity.py::test_cells_bring_what_they_bring_in_ipykernel"),
    "a start is slow, and a kernel is large": (
        "kernel_info is answered while Python starts; a frozen interpreter is thawed, and its pages are shared",
        "test_checks.py::test_49_a_kernel_is_ready_sooner_than_ipykernel_and_smaller "
        "test_checks.py::test_49_kernel_info_is_answered_in_50_ms "
        "test_warm.py::test_the_first_start_is_cold_and_makes_the_second_one_warm"),
    "processes are left over": (
        "nothing outlives the kernel, and pid 1 waits for what nobody waits for",
        "test_checks.py::test_45_nothing_lives_a_second_longer test_limits_and_death.py::test_nothing_of_a_sandbox_lives_on "
        "test_complaints.py::test_nobody_stays_a_zombie"),
    "a shutdown takes seconds": (
        "it takes none, children or not, idle or not",
        "test_checks.py::test_44_shutdown_is_quick "
        "test_complaints.py::test_a_child_in_a_session_of_its_own_neither_delays_a_shutdown_nor_survives_it"),
    "another takes the port": (
        "a busy port is tried again and then named; a registration file and ipc leave nothing to take",
        "test_bad_input.py::test_each_port_may_be_busy test_checks.py::test_58_a_kernel_tells_the_ports_that_it_chose "
        "test_wire_level.py::test_57_the_ipc_transport_works_and_its_files_are_private"),
    "others on the machine read along": (
        "sockets of ipc are private, CurveZMQ encrypts all five, and nothing listens inside",
        "test_checks.py::test_59_no_port_listens_with_ipc_and_the_files_are_private "
        "test_checks.py::test_57_curve_encrypts_all_five_sockets test_wire_level.py::test_59_only_five_ports_listen"),
    "asyncio.run says that a loop runs": (
        "as with ipykernel: top-level await is there, and nest_asyncio works",
        "test_execute.py::test_top_level_await_and_its_relatives "
        "test_parity.py::test_cells_bring_what_they_bring_in_ipykernel"),
    "libraries see no notebook": (
        "they find every name of ipykernel's, whether or not it is installed",
        "test_execute.py::test_libraries_detect_a_notebook test_parity.py::test_without_ipykernel_libraries_find_the_same"),
    "the history is locked, or on a slow disk": (
        "a thread writes it; nobody waits, whatever the disk does",
        "test_history.py::test_another_that_holds_the_file_for_long_is_waited_out "
        "test_history.py::test_a_full_disk_costs_a_warning_and_no_reply "
        "test_history.py::test_many_kernels_write_at_once_and_lose_nothing"),
    # --- of ipykernel 7.4, as it was seen at the wire
    "a forged message blocks the genuine one": (
        "a signature is remembered when it was right", "test_wire_level.py::test_03_a_forgery_with_a_genuine_signature_blocks_nothing"),
    "an unknown signature scheme ends in a traceback": ("in one line", "test_bad_input.py::test_wrong_fields"),
    "lone surrogates, and characters that are written in two pieces": (
        "text is text: escaped, or joined",
        "test_checks.py::test_08_odd_text_round_trips_or_degrades "
        "test_wire_level.py::test_08_odd_text_comes_back_or_is_refused_in_words "
        "test_streams.py::test_a_character_in_two_pieces_is_one"),
    "headers and kernel_info name different versions": (
        "one", "test_wire_level.py::test_10_one_session_unique_ids_dates_with_a_zone_and_one_version"),
    "control is not answered while a cell holds the GIL": (
        "it is, as the heartbeat", "test_wire_level.py::test_13_14_heartbeat_and_control_answer_while_a_cell_holds_the_gil"),
    "malformed requests are not answered": (
        "by an error that says what is wrong; a shutdown_request need not say more",
        "test_wire_level.py::test_16_malformed_content_gets_an_error_reply_and_idle "
        "test_checks.py::test_16_more_that_is_malformed "
        "test_complaints.py::test_a_shutdown_request_without_a_word_ends_the_kernel"),
    "what is written in different ways comes in another order": (
        "in that of the source", "test_streams.py::test_every_way_out_keeps_the_order_of_the_source"),
    "thousands of messages for a loop that prints": (
        "few", "test_streams.py::test_100000_lines_arrive_in_few_messages"),
    "what awaits hears no interrupt": ("it does, at once", "test_death.py::test_an_interrupt_ends"),
    "an exception whose text fails is two errors, and a recursion takes seconds": (
        "one, and less", "test_execute.py::test_an_exception_whose_text_fails_is_one_error "
        "test_checks.py::test_35_a_recursion_error_comes_back_soon"),
    # --- of clients that go through a server
    "a server drops what is large or much": (
        "husk serve drops nothing",
        "test_serve.py::test_a_hundred_megabytes_pass_in_both_directions test_serve.py::test_nothing_is_dropped_whatever_the_rate"),
    "a client that does not know the newer framing hears nothing": (
        "it gets the older one unless it asks", "test_serve.py::test_a_cell_runs_in_either_framing "
        "test_serve.py::test_the_subprotocol_is_taken_among_others_and_an_unknown_one_is_not"),
    "a client waits for a kernel that died or was restarted": (
        "what was open is answered", "test_serve.py::test_an_interpreter_that_dies_answers_at_once "
        "test_serve.py::test_a_kernel_that_is_killed_answers_and_others_go_on "
        "test_serve.py::test_restart_answers_what_is_open_keeps_files_and_the_connection"),
    "two sandboxes get one kernel": (
        "connections are counted truly", "test_serve.py::test_clients_see_each_other_and_get_their_own_replies"),
    "limits that a client names never arrive": (
        "they can be set where the kernel starts", "test_serve.py::test_options_of_a_kernel_are_those_that_were_asked_for "
        "test_serve.py::test_a_kernelspec_of_husk_install_is_offered_if_it_is_named"),
    "text is split and joined wrongly": (
        "a message ends where a line does", "test_clients.py::test_a_sandbox_has_its_text_exactly_as_it_was_written "
        "test_streams.py::test_lines_are_not_cut"),
    "a client gives up and its cell goes on": (
        "a kernel may have a time limit of its own", "test_time.py::test_a_cell_over_its_limit_is_interrupted_and_its_state_is_kept"),
}


def test_every_complaint_has_its_tests():
    assert not missing_tests(test for _, tests in COMPLAINTS.values() for test in tests.split())
    assert all(does and tests for does, tests in COMPLAINTS.values())


def test_a_crash_shows_the_line(make_kernel):
    result = make_kernel().run("import ctypes\ndef deep():\n    ctypes.string_at(0)\n\ndeep()")
    assert "signal 11" in result.evalue and "cell 1" in result.evalue
    assert "line 3 in deep" in result.stderr and "line 5 in <module>" in result.stderr


def test_replies_and_requests_that_cross_lose_no_wake_up(kernel):
    """Two clients that never wait for each other: a reply that is sent may take the notice of a request that comes."""
    failed = []

    def ask(number):
        wire = Wire(kernel)
        wire.iopub.close(0)
        left, waiting = 400, 0
        poller = zmq.Poller()
        for channel in ("shell", "control"):
            poller.register(wire.socket[channel], zmq.POLLIN)
        while left or waiting:
            while left and waiting < 1 + (left + number) % 4:
                channel = "shell" if (left + number) % 3 else "control"
                wire.send(channel, wire.parts("kernel_info_request", {}))
                left, waiting = left - 1, waiting + 1
            ready = poller.poll(conftest.TIMEOUT * 1000)
            if not ready:
                failed.append(f"client {number}: {waiting} requests wait, {left} are left")
                break
            for socket, _ in ready:
                socket.recv_multipart()
                waiting -= 1
        wire.close()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    # The kernel's own client heard all of it, too.
    unread = kernel.client.iopub_channel.socket
    while unread.poll(200):
        unread.recv_multipart()


def test_a_question_to_a_client_that_is_gone_is_interrupted_by_another(kernel):
    gone, other = Wire(kernel), Wire(kernel)
    try:
        msg_id = gone.send("shell", gone.parts("execute_request", {"code": "input('?')", "allow_stdin": True}))
        gone.receive(gone.socket["stdin"])
        gone.close()
        other.send("control", other.parts("interrupt_request", {}))
        assert other.parse(other.receive(other.socket["control"]))["content"]["status"] == "ok"
        assert [m["content"]["ename"] for m in other.until_idle(msg_id) if m["msg_type"] == "error"] == ["KeyboardInterrupt"]
        assert other.works()
    finally:
        gone.close()
        other.close()


def test_nobody_stays_a_zombie(kernel):
    """Children whose parents ended; the cell hangs if one of them stays."""
    result = kernel.run("""
import os, pathlib, subprocess, time
for _ in range(30):
    subprocess.run("true & (sh -c 'true & exit' &)", shell=True)
def dead():
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            yield stat.read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            pass
while any(dead()):
    time.sleep(0.02)
""")
    assert result.status == "ok"


def test_a_child_in_a_session_of_its_own_neither_delays_a_shutdown_nor_survives_it(make_kernel):
    def end():
        kernel = make_kernel()
        kernel.run("import subprocess; p = subprocess.Popen(['sleep', '600'], start_new_session=True)")
        inside = psutil.Process(kernel.pid).children(recursive=True)
        assert "sleep" in [p.name() for p in inside]
        began = time.monotonic()
        kernel.control("shutdown_request", {"restart": False})
        kernel.manager.provisioner.process.wait(conftest.TIMEOUT)
        took = time.monotonic() - began
        assert wait_until(lambda: not any(lives(p) for p in inside))
        return took

    quick, taken = within(1, end)
    assert quick, taken


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_a_shutdown_request_without_a_word_ends_the_kernel(make_kernel, channel):
    kernel = make_kernel()
    wire = Wire(kernel)
    try:
        reply, _ = wire.ask("shutdown_request", {}, channel=channel)
        assert reply["content"] == {"status": "ok", "restart": False}
        assert kernel.manager.provisioner.process.wait(conftest.TIMEOUT) == 0
    finally:
        wire.close()
