# SPDX-License-Identifier: BSD-3-Clause
"""History: of this session and of others, kept where no cell comes to it."""

import os
import shutil
import sqlite3
import subprocess
import threading
import time

import pytest
from conftest import HUSK, TIMEOUT


def history(kernel, access="tail", **content):
    content = {"hist_access_type": access, "output": False, "raw": True, **content}
    msg = kernel.client.session.msg("history_request", content)
    kernel.client.shell_channel.send(msg)
    while True:
        reply = kernel.client.get_shell_msg(timeout=TIMEOUT)
        if reply["parent_header"]["msg_id"] == msg["header"]["msg_id"]:
            assert reply["content"]["status"] == "ok"
            return reply["content"]["history"]


def lines(kernel, *access, **content):
    return [entry[2] for entry in history(kernel, *access, **content)]


@pytest.fixture
def shared(make_kernel, tmp_path):
    """Kernels that share a history of their own."""
    state = tmp_path / "state"

    def make(*options, **arguments):
        return make_kernel("--history", "shared", *options, env={"XDG_STATE_HOME": str(state)}, **arguments)

    make.file = state / "husk" / "history" / "history.sqlite"
    return make


def wait_for(file, count):
    """Until the file has so many lines."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        try:
            db = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=TIMEOUT)
            found = db.execute("SELECT session, line, source_raw FROM history ORDER BY session, line").fetchall()
            db.close()
            if len(found) >= count:
                return found
        except sqlite3.Error:  # not there yet, or still damaged
            pass
        time.sleep(0.05)
    raise AssertionError(f"{file} has {count} lines: no")


def test_kernels_of_one_user_share_what_was_entered(shared):
    first = shared()
    for code in ("alpha = 1", "%time beta = 2\n", "'shown'"):
        first.run(code)
    first.run("hidden = 1", store_history=False), first.run("quiet = 1", silent=True)
    entered = ["alpha = 1", "%time beta = 2", "'shown'"]
    assert history(first) == [[1, i + 1, code] for i, code in enumerate(entered)]
    wait_for(shared.file, 3)
    second = shared()
    assert lines(second) == entered  # before anything is entered
    assert lines(second, "range", session=-1) == entered
    second.run("gamma = 3")
    assert history(second, n=2) == [[1, 3, "'shown'"], [2, 1, "gamma = 3"]]
    assert history(second, "range", session=0) == [[2, 1, "gamma = 3"]] == history(second, "range", session=2)
    assert history(second, "range", session=-1, start=2, stop=3) == [[1, 2, "%time beta = 2"]]
    assert history(second, "search", pattern="*a = *", n=2) == [[1, 2, "%time beta = 2"], [2, 1, "gamma = 3"]]
    wait_for(shared.file, 4)
    first.run("delta = 4")
    assert history(first, n=1) == [[1, 4, "delta = 4"]]  # its own, although another session began later
    assert sorted(lines(first, n=10)) == sorted([*entered, "gamma = 3", "delta = 4"])


def test_raw_output_unique_and_bounds_of_a_query(shared):
    kernel = shared()
    for code in ("%time 1 + 1", "x = 2", "x = 2", "'\u00e9\U0001f600\\n'"):
        kernel.run(code)
    assert history(kernel, "range", output=True) == [
        [1, 1, ["%time 1 + 1", "2"]], [1, 2, ["x = 2", None]], [1, 3, ["x = 2", None]],
        [1, 4, ["'\u00e9\U0001f600\\n'", repr("\u00e9\U0001f600\n")]]]
    assert history(kernel, "range", raw=False, stop=3) == [
        [1, 1, "get_ipython().run_line_magic('time', '1 + 1')"], [1, 2, "x = 2"]]
    assert history(kernel, "search", pattern="x*", unique=True) == [[1, 3, "x = 2"]]
    assert history(kernel, "search", pattern="x = [0-9]", n=1) == [[1, 3, "x = 2"]]
    assert history(kernel, "search", pattern="x_*") == [] == history(kernel, "search", pattern="X*")
    assert history(kernel, n=0) == [] == history(kernel, "range", session=99)
    assert [h[1] for h in history(kernel, n=10**9)] == [1, 2, 3, 4]


def test_a_cell_that_runs_and_one_that_kills_are_in_it(shared):
    kernel = shared()
    kernel.run("before = 1")
    msg_id = kernel.send("import os, time; time.sleep(1); os.kill(os.getpid(), 9)")
    time.sleep(0.3)
    assert len(history(kernel)) == 2
    assert kernel.result(msg_id).ename == "InterpreterDied"
    kernel.run("after = 1")
    assert history(kernel, n=1) == [[2, 1, "after = 1"]]  # a new interpreter counts from 1
    assert lines(kernel, "range", session=-1)[0] == "before = 1"


@pytest.mark.parametrize("options", [[], ["--profile", "strict"]], ids=["notebook", "strict"])
def test_a_cell_cannot_come_to_it(make_kernel, tmp_path, options):
    """The store lies in a home that is the working directory, where a notebook may write."""
    home = tmp_path / "home"
    home.mkdir()
    os.chmod(tmp_path, 0o755)
    kernel = make_kernel("--history", "shared", *options, env={"HOME": str(home), "XDG_STATE_HOME": ""},
                         **({"cwd": home} if not options else {}))
    kernel.run("secret = 1")
    file = home / ".local" / "state" / "husk" / "history" / "history.sqlite"
    wait_for(file, 1)
    assert file.parent.stat().st_mode & 0o777 == 0o700 and file.stat().st_mode & 0o777 == 0o600
    said = kernel.run(f"import os\nfor f in (open, os.listdir, os.remove):\n    try: f({str(file)!r}); print('came')\n"
                      f"    except OSError as e: print(e.errno)\nos.system('find / -name history.sqlite 2>/dev/null'); None")
    assert said.stdout.split() == ["2", "2", "2"]
    assert file.exists()


def test_history_of_the_session_inside(kernel):
    kernel.run("inside = 1")
    assert "inside = 1" in kernel.run("%history").stdout


@pytest.mark.parametrize("options, kept", [
    (["--history", "off"], []), (["--history", "session"], ["a = 1", "b = 2"]),
], ids=["off", "session"])
def test_it_can_be_left_unwritten(make_kernel, tmp_path, options, kept):
    kernel = make_kernel(*options, env={"XDG_STATE_HOME": str(tmp_path / "state")})
    kernel.run("a = 1"), kernel.run("b = 2")
    assert lines(kernel) == kept
    assert not list(tmp_path.rglob("history*"))


def test_what_runs_notebooks_does_not_fill_it(make_kernel, tmp_path):
    """nbclient says so to IPython; and agents' sandboxes have a history each."""
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    kernel = make_kernel("--history", "shared", env=env, arguments=["--HistoryManager.hist_file=:memory:"])
    assert not list(tmp_path.rglob("*.sqlite")) and lines(kernel) == []


def test_a_word_that_is_no_history(tmp_path):
    file = tmp_path / "kernel.json"
    file.write_text("{}")
    result = subprocess.run([HUSK, "kernel", "-f", str(file), "--history", "none"], capture_output=True, text=True,
                            timeout=TIMEOUT)
    assert result.returncode == 64 and "not one of shared, session, off" in result.stderr


def test_many_kernels_write_at_once_and_lose_nothing(shared):
    kernels = [shared() for _ in range(4)]

    def enter(number, kernel):
        for i in range(25):
            kernel.run(f"k{number} = {i}")

    threads = [threading.Thread(target=enter, args=pair) for pair in enumerate(kernels)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    found = wait_for(shared.file, 100)
    for number in range(4):
        mine = [(line, code) for _, line, code in found if code.startswith(f"k{number} ")]
        assert mine == [(i + 1, f"k{number} = {i}") for i in range(25)]
    assert len({session for session, _, _ in found}) == 4
    assert all(kernel.log.read_text().count("history") == 0 for kernel in kernels)


def test_what_was_entered_last_is_kept_when_the_kernel_ends(shared):
    kernel = shared()
    kernel.run("last = 1")
    kernel.manager.shutdown_kernel()
    assert [code for *_, code in wait_for(shared.file, 1)] == ["last = 1"]


DAMAGES = {
    "no database": lambda file: file.write_bytes(b"not a database at all" * 1000),
    "broken pages": lambda file: file.write_bytes(file.read_bytes()[:1024] + os.urandom(file.stat().st_size - 1024)),
    "cut": lambda file: os.truncate(file, 5000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_put_aside(shared, damage):
    before = shared()
    before.run("before = 1")
    wait_for(shared.file, 1)
    before.manager.shutdown_kernel()
    DAMAGES[damage](shared.file)
    kernel = shared()
    kernel.run("after = 1")
    assert lines(kernel) == ["after = 1"]
    assert [code for *_, code in wait_for(shared.file, 1)] == ["after = 1"]
    assert shared.file.with_suffix(".sqlite.damaged").exists()
    assert "is damaged" in kernel.log.read_text()


def test_damage_under_a_kernel_that_runs(shared):
    kernel = shared()
    kernel.run("before = 1")
    wait_for(shared.file, 1)
    DAMAGES["no database"](shared.file)
    kernel.run("after = 1")
    assert [code for *_, code in wait_for(shared.file, 2)] == ["before = 1", "after = 1"]
    assert lines(kernel) == ["before = 1", "after = 1"]


def test_a_file_that_is_removed_under_a_kernel_harms_nothing(shared):
    kernel = shared()
    kernel.run("before = 1")
    wait_for(shared.file, 1)
    shutil.rmtree(shared.file.parent)
    kernel.run("after = 1")
    assert lines(kernel) == ["before = 1", "after = 1"]


def test_a_place_that_takes_nothing_costs_a_warning_and_no_reply(make_kernel, tmp_path):
    (tmp_path / "state" / "husk" / "history" / "history.sqlite").mkdir(parents=True)
    kernel = make_kernel("--history", "shared", env={"XDG_STATE_HOME": str(tmp_path / "state")})
    kernel.run("a = 1"), kernel.run("b = 2")
    assert lines(kernel) == ["a = 1", "b = 2"]
    assert kernel.log.read_text().count("kept in memory") == 1


@pytest.mark.rights("root")
def test_a_full_disk_costs_a_warning_and_no_reply(shared):
    directory = shared.file.parent
    directory.mkdir(parents=True)
    mount = f'mount -t tmpfs -o size=256k history {directory} && exec "$@"'
    kernel = shared(within=["unshare", "-m", "sh", "-c", mount, "sh"])
    entered = [f"x = '{letter * 100000}'" for letter in "abcdef"]
    for code in entered:
        kernel.run(code)
    end = time.monotonic() + TIMEOUT
    while "cannot be written" not in kernel.log.read_text() and time.monotonic() < end:
        time.sleep(0.1)
    assert lines(kernel) == entered
    assert kernel.log.read_text().count("cannot be written") == 1


def test_the_file_is_bounded_and_the_oldest_go_first(shared):
    kernel = shared()
    kernel.run("mine = 1")
    wait_for(shared.file, 1)
    db = sqlite3.connect(shared.file, timeout=TIMEOUT)
    with db:
        db.execute("INSERT INTO sessions (session) VALUES (1000)")
        db.executemany("INSERT INTO history VALUES (1000, ?, ?, ?)", ((i, f"n = {i}", f"n = {i}") for i in range(120000)))
    db.close()
    other = shared()
    other.run("newest = 1")
    wait_for(shared.file, 1)
    end = time.monotonic() + TIMEOUT
    while len(found := wait_for(shared.file, 1)) > 100000 and time.monotonic() < end:
        time.sleep(0.1)
    assert 80000 < len(found) <= 100000 and found[-1][2] == "newest = 1" and found[-2][2] == "n = 119999"
    assert lines(kernel, n=1) == ["mine = 1"]  # in memory still
    assert len(lines(other, n=200000)) == len(found)


def test_another_that_holds_the_file_for_long_is_waited_out(shared):
    kernel = shared()
    kernel.run("before = 1")
    wait_for(shared.file, 1)
    db = sqlite3.connect(shared.file, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    kernel.run("during = 1")
    assert history(kernel) in ([], [[1, 1, "before = 1"], [1, 2, "during = 1"]])  # but there is a reply
    db.execute("ROLLBACK")
    db.close()
    kernel.manager.shutdown_kernel()
    assert [code for *_, code in wait_for(shared.file, 2)] == ["before = 1", "during = 1"]
