# SPDX-License-Identifier: BSD-3-Clause
"""Time limits of a cell, and cells that do not hear an interrupt."""

import glob
import time

DEAF = """
import glob
import time
while True:
    try:
        time.sleep(30)
    except BaseException:
        pass
"""


def test_a_cell_over_its_limit_is_interrupted_and_its_state_is_kept(make_kernel):
    kernel = make_kernel("--cell-timeout", "1")
    kernel.run("a = 1")
    result = kernel.run("import time; time.sleep(60)")
    assert result.ename == "KeyboardInterrupt" and result.reply["timed_out"] is True
    assert "time limit of 1 s" in result.stderr
    assert kernel.run("a").value == "1"


def test_a_cell_that_does_not_hear_is_replaced_and_its_files_are_kept(make_kernel):
    kernel = make_kernel("--cell-timeout", "1")
    kernel.run("open('/tmp/kept', 'w').write('x'); a = 1")
    result = kernel.run(DEAF)
    assert result.ename == "InterpreterDied" and "time limit of 1 s" in result.evalue
    assert "it is here" in result.stderr and "thread 0x" in result.stderr
    assert kernel.run("open('/tmp/kept').read()").value == "'x'"
    assert kernel.run("a").ename == "NameError"


def test_a_quick_cell_has_no_limit_left_over(make_kernel):
    kernel = make_kernel("--cell-timeout", "1")
    kernel.run("1")
    time.sleep(2)
    assert kernel.run("2").value == "2"


def test_the_user_is_told_where_a_cell_hangs_that_does_not_hear(make_kernel):
    kernel = make_kernel()
    msg_id = kernel.send(DEAF.replace("while True", "for i in range(2)").replace("30", "4"))
    time.sleep(1)
    kernel.interrupt()
    result = kernel.result(msg_id)
    assert "it is here" in result.stderr and "thread 0x" in result.stderr
    assert result.status == "ok"


def test_an_interrupt_shows_the_cell_and_nothing_of_ours(make_kernel):
    kernel = make_kernel()
    msg_id = kernel.send("import time\ndef sleep():\n    time.sleep(60)\nsleep()")
    time.sleep(1)
    kernel.interrupt()
    result = kernel.result(msg_id)
    shown = "\n".join(result.reply["traceback"])
    assert result.ename == "KeyboardInterrupt" and "on_sigint" not in shown and "husk" not in shown
    assert "sleep" in shown


def test_an_interpreter_whose_cell_does_not_hear_interrupts_is_replaced_if_wanted(make_kernel):
    kernel = make_kernel("--interrupt-timeout", "3")
    kernel.run("a = 1")
    msg_id = kernel.send("sum(range(10**13))")  # in C, and it does not look
    time.sleep(1)
    began = time.monotonic()
    assert kernel.interrupt()["content"]["status"] == "ok"
    assert time.monotonic() - began < 2
    result = kernel.result(msg_id)
    assert result.ename == "InterpreterDied" and "went on for 3 s after an interrupt" in result.evalue
    assert "it is here" in result.stderr and "thread 0x" in result.stderr
    assert kernel.run("a").ename == "NameError"
    msg_id = kernel.send("import time; time.sleep(60)")
    time.sleep(1)
    kernel.interrupt()
    assert kernel.result(msg_id).ename == "KeyboardInterrupt"  # who hears keeps everything


def test_a_clock_that_jumps_moves_dates_and_nothing_else(make_kernel, tmp_path):
    """The clock of the day is a faked one for the supervisor and its broker; no time-out is measured by it."""
    library = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")[0]
    clock = tmp_path / "clock"
    clock.write_text("+0")
    kernel = make_kernel("--idle-timeout", "3600", "--lifetime", "3600", "--cell-timeout", "600", within=(
        "env", f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={clock}", "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"))
    for jump, year in (("+30y", 30), ("-20y", -20), ("+0", 0)):
        msg_id = kernel.begin("import time; time.sleep(0.5); print('and goes on')")
        clock.write_text(jump)
        result = kernel.result(msg_id)
        assert result.status == "ok" and result.stdout.endswith("and goes on\n")
        assert abs(result.message["header"]["date"].year - time.gmtime().tm_year - year) <= 1
        assert kernel.run("1 + 1").value == "2"
        assert kernel.control("kernel_info_request")["content"]["status"] == "ok"
    assert kernel.interrupt()["content"]["status"] == "ok"
