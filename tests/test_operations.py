# SPDX-License-Identifier: BSD-3-Clause
"""Operations: sandbox_request on the control channel, whatever the interpreter is doing."""

import collections
import json
import os
import pathlib
import re
import signal
import socket
import threading
import time

import conftest
import pytest
from jupyter_client import BlockingKernelClient
from test_image import image, image_tar  # noqa: F401 - fixtures

ROWS = re.findall(r'^OPERATION\("([^"]+)", (AGENT|KERNEL), "([^"]*)"',
                  (pathlib.Path(__file__).parent.parent / "wall/operations.def").read_text(), re.M)
SPIN = "sum(range(10**12))"


class Refused(Exception):
    """An operation's error reply."""

    def __init__(self, content):
        super().__init__(f"{content['code']}: {content['message']}")
        self.code, self.message = content["code"], content["message"]
        assert content["suggestion"] or self.code == "failed", content


class Operations:
    """A client of its own on a kernel: operations, their replies in any order, their events."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.client = BlockingKernelClient()  # with an identity of its own, which manager.client() has not
        self.client.load_connection_file(kernel.manager.connection_file)
        # Bytes that are no UTF-8 travel as \\udcXX; jupyter_client's own packer would send them raw.
        self.client.session.pack = lambda o: json.dumps(o, default=str).encode()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=conftest.TIMEOUT)
        # A client that listens and does not read is left behind: there is one, and it reads.
        kernel.client.iopub_channel.stop()
        self.replies, self.iopub = collections.defaultdict(list), collections.defaultdict(list)

    def send(self, method, buffers=(), **params):
        msg = self.client.session.msg("sandbox_request", {"method": method, "params": params})
        self.client.session.send(self.client.control_channel.socket, msg, buffers=list(buffers))
        return msg["header"]["msg_id"]

    def hear(self, timeout=0.2):
        """Takes what comes on control and iopub; of a flood that is faster than we are, a part."""
        for channel, into in ((self.client.iopub_channel, self.iopub), (self.client.control_channel, self.replies),
                              (self.client.shell_channel, self.replies)):
            for _ in range(100):
                if not channel.socket.poll(int(timeout * 1000)):
                    break
                m = channel.get_msg(timeout=1)
                into[m["parent_header"].get("msg_id")].append(m)
                timeout = 0

    def until(self, condition, timeout=conftest.TIMEOUT):
        end = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < end, "it did not come; log: " + self.kernel.log.read_text()
            self.hear(0.02)
        return found

    def reply(self, msg_id, timeout=conftest.TIMEOUT):
        """The reply message; raises Refused for an error."""
        m = self.until(lambda: self.replies[msg_id], timeout)[0]
        assert m["msg_type"] == "sandbox_reply", m
        if m["content"]["status"] == "error":
            raise Refused(m["content"])
        return m

    def raw(self, method, buffers=(), timeout=conftest.TIMEOUT, **params):
        return self.reply(self.send(method, buffers, **params), timeout)

    def __call__(self, method, buffers=(), timeout=conftest.TIMEOUT, **params):
        return self.raw(method, buffers, timeout, **params)["content"]["result"]

    def refused(self, method, buffers=(), timeout=conftest.TIMEOUT, **params):
        with pytest.raises(Refused) as why:
            self.raw(method, buffers, timeout, **params)
        return why.value

    def read(self, path, **params):
        return bytes(self.raw("files.read", path=path, **params)["buffers"][0])

    def start(self, code):
        """execute_request; returns its msg_id at once."""
        return self.client.execute(code)

    def result(self, msg_id, timeout=conftest.TIMEOUT):
        self.until(lambda: self.replies[msg_id] and "idle" in self.states(msg_id), timeout)
        return conftest.Result(self.replies[msg_id][0], self.iopub[msg_id])

    def run(self, code, timeout=conftest.TIMEOUT):
        return self.result(self.start(code), timeout)

    def control(self, msg_type, content):
        msg = self.client.session.msg(msg_type, content)
        self.client.control_channel.send(msg)
        return self.until(lambda: self.replies[msg["header"]["msg_id"]])[0]

    def states(self, msg_id):
        return [m["content"]["execution_state"] for m in self.iopub[msg_id] if m["msg_type"] == "status"]

    def events(self, msg_id):
        return [m for m in self.iopub[msg_id] if m["msg_type"] == "sandbox_event"]

    def sh(self, command, **params):
        """stdout of a shell command that succeeds."""
        r = self("exec.run", cmd=command, **params)
        assert r["ok"], r
        return r["stdout"]

    def close(self):
        self.client.stop_channels()


@pytest.fixture(scope="module")
def ops(kernel):
    o = Operations(kernel)
    yield o
    o.close()


@pytest.fixture
def make_ops(make_kernel):
    """A kernel of its own with a client for operations."""
    made = []

    def make(*options, **arguments):
        made.append(Operations(make_kernel(*options, **arguments)))
        return made[-1]

    yield make
    for o in made:
        o.close()


@pytest.fixture
def place(ops, request):
    """A fresh directory inside, for one test."""
    name = re.sub(r"\W", "-", request.node.name)[:80] + "-%d" % time.monotonic_ns()
    ops("files.mkdir", path=name)
    return name


# --- files


def test_what_is_written_is_read(ops, place):
    data = bytes(range(256)) * 100
    path = f"{place}/a"
    assert ops("files.write", [data], path=path) == {"path": path, "size": len(data)}
    m = ops.raw("files.read", path=path)
    assert bytes(m["buffers"][0]) == data
    assert m["content"]["result"] == {"size": len(data), "offset": 0, "length": len(data), "eof": True}
    assert ops("files.readText", path=path, length=5)["text"] == "\x00\x01\x02\x03\x04"


def test_text_goes_as_a_parameter(ops, place):
    ops("files.write", path=f"{place}/a", data="grüße\n")
    assert ops("files.readText", path=f"{place}/a")["text"] == "grüße\n"
    assert ops.read(f"{place}/a") == "grüße\n".encode()


@pytest.mark.parametrize("offset, length, eof", [(0, 3, False), (3, 4, False), (7, 3, True), (9, 100, True),
                                                 (10, 5, True), (1000, 5, True), (0, 0, False), (2, -1, True)])
def test_ranges(ops, place, offset, length, eof):
    ops("files.write", path=f"{place}/a", data="0123456789")
    m = ops.raw("files.read", path=f"{place}/a", offset=offset, length=length)
    assert bytes(m["buffers"][0]) == b"0123456789"[offset:][:length if length >= 0 else None]
    assert m["content"]["result"]["eof"] is eof


def test_a_file_of_proc_is_at_its_end_when_it_is(ops):
    r = ops("files.read", path="/proc/self/status", length=5)
    assert r["length"] == 5 and not r["eof"]
    assert ops("files.read", path="/proc/self/status")["eof"]


def test_a_large_file_is_read_in_pieces_and_not_at_once(ops, place):
    ops.sh(f"head -c 20000000 /dev/zero >{place}/a")
    why = ops.refused("files.read", path=f"{place}/a")
    assert why.code == "too_large" and "20000000" in why.message
    at, parts = 0, 0
    while not (r := ops("files.download", path=f"{place}/a", offset=at))["eof"]:
        at, parts = at + r["length"], parts + 1
    assert (at + r["length"], parts) == (20000000, 4)


def test_text_that_becomes_longer_than_a_message_is_refused_and_the_agent_lives(ops, place):
    ops.sh(f"head -c {16 << 20} /dev/zero >{place}/a")  # each byte is six characters
    p = ops("exec.start", cmd="exec sleep 1000")["id"]
    assert ops.refused("files.readText", path=f"{place}/a").code == "too_large"
    assert ops("proc.get", id=p)["state"] == "running"
    ops("proc.kill", id=p)


def test_a_write_is_whole_or_not_at_all(ops, place):
    """A reader in a cell sees the old content or the new one."""
    path = f"{place}/a"
    ops("files.write", [b"0" * 100000], path=path)
    running = ops.start(f"seen = set()\nimport os\nwhile not os.path.exists({place + '/stop'!r}):\n"
                              f"    d = open({path!r}, 'rb').read(); seen.add((len(d), len(set(d))))")
    for i in range(200):
        ops("files.write", [bytes([48 + i % 10]) * 100000], path=path)
    ops("files.write", path=f"{place}/stop", data="")
    assert ops.result(running).status == "ok"
    assert ops.run("seen").value == "{(100000, 1)}"
    assert [e["name"] for e in ops("files.list", path=place)["entries"]] .count("a") == 1
    assert len(ops("files.list", path=place)["entries"]) == 2  # no temporary file stays


def test_a_write_keeps_the_mode_and_goes_through_a_link(ops, place):
    ops("files.write", path=f"{place}/a", data="1", mode="600")
    ops.sh(f"ln -s a {place}/link")
    ops("files.write", path=f"{place}/link", data="2")
    assert ops("files.stat", path=f"{place}/link")["type"] == "symlink"
    assert ops("files.stat", path=f"{place}/a")["mode"] == "600"
    assert ops.read(f"{place}/a") == b"2"


def test_a_name_of_255_bytes_can_be_written(ops, place):
    name = f"{place}/" + "n" * 255
    ops("files.write", path=name, data="x")
    assert ops.read(name) == b"x"
    assert ops.refused("files.write", path=name + "n", data="x").code == "name_too_long"


def test_parents_are_made_when_asked(ops, place):
    assert ops.refused("files.write", path=f"{place}/b/c/d", data="x").code == "not_found"
    ops("files.write", path=f"{place}/b/c/d", data="x", parents=True)
    ops("files.append", path=f"{place}/b/e/d", data="x", parents=True)
    assert ops.read(f"{place}/b/c/d") == b"x"


def test_append(ops, place):
    ops("files.append", path=f"{place}/a", data="ab")
    assert ops("files.append", [b"\xff"], path=f"{place}/a") == {"path": f"{place}/a", "size": 3}
    assert ops.read(f"{place}/a") == b"ab\xff"


def test_upload_replaces_when_it_is_done(ops, place):
    ops("files.write", path=f"{place}/a", data="old")
    up = ops("files.upload", path=f"{place}/a")
    for i in range(3):
        up = ops("files.upload", [b"x" * 1000000], upload=up["upload"])
        assert up["received"] == (i + 1) * 1000000
    assert ops.read(f"{place}/a") == b"old"
    assert ops("files.upload", upload=up["upload"], done=True)["size"] == 3000000
    assert ops.read(f"{place}/a") == b"x" * 3000000
    assert ops.refused("files.upload", upload=up["upload"], done=True).code == "no_such_process"


def test_upload_can_be_aborted_and_begun_with_its_whole_content(ops, place):
    up = ops("files.upload", [b"abc"], path=f"{place}/a")
    ops("files.upload", upload=up["upload"], abort=True)
    assert ops("files.list", path=place)["entries"] == []
    ops("files.upload", [b"abc"], path=f"{place}/a", done=True)
    assert ops.read(f"{place}/a") == b"abc"


def test_uploads_that_nobody_goes_on_with_make_room(ops, place):
    """Clients went away in the middle of uploads: there is always room for another one."""
    for i in range(200):
        ops("files.upload", [b"abc"], path=f"{place}/{i}")
    ops("files.upload", [b"abc"], path=f"{place}/a", done=True)
    assert ops.read(f"{place}/a") == b"abc"
    assert len(ops("files.list", path=place)["entries"]) <= 65


def test_list(ops, place):
    ops.sh(f"cd {place}; mkdir -p d/e; echo hello >a; ln -s a l; mkfifo f; echo x >d/e/g; chmod 640 a")
    entries = {e["path"]: e for e in ops("files.list", path=place)["entries"]}
    assert {p: e["type"] for p, e in entries.items()} == {
        f"{place}/a": "file", f"{place}/d": "directory", f"{place}/l": "symlink", f"{place}/f": "fifo"}
    a = entries[f"{place}/a"]
    assert (a["name"], a["size"], a["mode"], a["target"]) == ("a", 6, "640", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", a["modified_at"])
    assert entries[f"{place}/l"]["target"] == "a"
    deep = ops("files.list", path=place, recursive=True)
    assert {e["path"] for e in deep["entries"]} == {*entries, f"{place}/d/e", f"{place}/d/e/g"}
    assert deep["truncated"] is False


def test_list_without_a_path_is_of_the_working_directory(ops, place):
    assert place in [e["path"] for e in ops("files.list")["entries"]]


def test_list_says_when_it_leaves_something_out(ops, place):
    ops.sh(f"cd {place}; mkdir -p d1/x d2/x d3/x; touch 1 2 3 4 5 6 7 8 9")
    r = ops("files.list", path=place, limit=5)
    assert len(r["entries"]) == 5 and r["truncated"]
    r = ops("files.list", path=place, recursive=True, depth=1)
    assert len(r["entries"]) == 12 and r["truncated"]  # nothing of this level is left out
    r = ops("files.list", path=place, recursive=True, depth=3)
    assert len(r["entries"]) == 15 and not r["truncated"]


def test_a_list_that_is_too_long_for_a_message_is_cut(ops, place):
    name = "\x01" * 250  # each byte is six characters, twice
    ops.run(f"import os\nos.chdir({place!r})\nfor i in range(20): os.mkdir({name!r}); os.chdir({name!r})\n"
                   f"for i in range(3000): open('%05d' % i + {name[:240]!r}, 'w').close()\n"
                   f"os.chdir({str(ops.kernel.cwd)!r})", timeout=120)
    r = ops("files.list", path=place, recursive=True)
    assert r["truncated"] and len(r["entries"]) > 500


def test_stat_exists_mkdir_chmod(ops, place):
    assert ops("files.mkdir", path=f"{place}/a/b", mode="700")["path"] == f"{place}/a/b"
    ops("files.mkdir", path=f"{place}/a/b")
    assert ops.refused("files.mkdir", path=f"{place}/a/b", parents=False).code == "exists"
    assert ops("files.stat", path=f"{place}/a/b")["mode"] == "700"
    assert ops("files.chmod", path=f"{place}/a/b", mode="711") == {"path": f"{place}/a/b", "mode": "711"}
    assert ops("files.stat", path=f"{place}/a/b")["mode"] == "711"
    assert ops("files.exists", path=f"{place}/a") == {"exists": True, "type": "directory"}
    assert ops("files.exists", path=f"{place}/no") == {"exists": False, "type": None}
    ops.sh(f"ln -s a {place}/l")
    assert ops("files.stat", path=f"{place}/l")["target"] == "a"
    assert ops("files.stat", path=f"{place}/l", follow=True)["type"] == "directory"
    assert ops.refused("files.chmod", path=f"{place}/a", mode="999").code == "invalid_params"


def test_a_time_that_no_calendar_has_is_an_entry_all_the_same(ops, place):
    ops.sh(f"touch -d @9223372036854775807 {place}/a || touch -d @99999999999999 {place}/a || touch {place}/a")
    assert ops("files.stat", path=f"{place}/a")["name"] == "a"


def test_move(ops, place):
    ops.sh(f"cd {place}; echo a >a; echo b >b; mkdir d")
    assert ops.refused("files.move", source=f"{place}/a", destination=f"{place}/b", overwrite=False).code == "exists"
    assert ops("files.move", source=f"{place}/a", destination=f"{place}/b")["path"] == f"{place}/b"
    assert ops("files.move", source=f"{place}/b", destination=f"{place}/d")["path"] == f"{place}/d/b"
    assert ops.read(f"{place}/d/b") == b"a\n"
    # Between two mounts.
    there = "/tmp/" + place
    ops("files.move", source=f"{place}/d", destination=there)
    assert ops.read(there + "/b") == b"a\n" and not ops("files.exists", path=f"{place}/d")["exists"]


def test_copy(ops, place):
    ops.sh(f"cd {place}; mkdir -p s/t; echo a >s/a; ln -s /etc s/l; mkfifo s/f; chmod 750 s/a; echo b >s/t/b")
    r = ops("files.copy", source=f"{place}/s", destination=f"{place}/c")
    assert (r["path"], r["entries"], r["bytes"]) == (f"{place}/c", 6, 4)
    assert ops.sh(f"cd {place}; diff -r --no-dereference s/t c/t; readlink c/l; stat -c %a c/a; test -p c/f") == \
        "/etc\n750\n"
    assert ops("files.copy", source=f"{place}/s/a", destination=f"{place}/c/t")["path"] == f"{place}/c/t/a"


def test_a_copy_onto_itself_or_into_itself_is_refused(ops, place):
    ops.sh(f"cd {place}; mkdir -p d/e; echo a >a; ln a hard; ln -s a soft")
    for dst in ("a", "hard", "soft"):
        assert ops.refused("files.copy", source=f"{place}/a", destination=f"{place}/{dst}").code in ("invalid_params", "too_many_links")
        assert ops.read(f"{place}/a") == b"a\n"
    for dst in ("d", "d/e", "d/f"):
        assert ops.refused("files.copy", source=f"{place}/d", destination=f"{place}/{dst}").code == "invalid_params"
    assert ops.sh(f"find {place}/d") == f"{place}/d\n{place}/d/e\n"


def test_remove(ops, place):
    ops.sh(f"cd {place}; mkdir -p d/e/f; touch a d/b d/e/c; ln -s d l; mkdir empty")
    assert ops.refused("files.remove", path=f"{place}/d").code == "not_empty"
    assert ops("files.remove", path=f"{place}/empty") == {"removed": 1}
    assert ops("files.remove", path=f"{place}/l", recursive=True) == {"removed": 1}
    assert ops("files.exists", path=f"{place}/d/e/c")["exists"]
    assert ops("files.remove", path=f"{place}/d", recursive=True) == {"removed": 5}
    assert ops.refused("files.remove", path=f"{place}/d").code == "not_found"
    assert ops("files.remove", path=f"{place}/d", missing_ok=True) == {"removed": 0}


@pytest.mark.parametrize("path", [".", "..", "/", "{}/.", "{}/d/..", "{}/d/../"])
def test_what_has_no_name_is_not_removed(ops, place, path):
    ops.sh(f"cd {place}; mkdir d; echo a >a")
    assert ops.refused("files.remove", path=path.format(place), recursive=True).code == "invalid_params"
    assert ops.read(f"{place}/a") == b"a\n"


def test_a_tree_of_any_depth_is_removed(ops, place):
    ops.run(f"import os\nos.chdir({place!r})\nfor i in range(3000): os.mkdir('d'); os.chdir('d')\n"
                   f"os.chdir({str(ops.kernel.cwd)!r})")
    assert ops("files.remove", path=f"{place}/d", recursive=True) == {"removed": 3000}


def test_a_long_copy_keeps_nobody_waiting(ops, place):
    """Nothing blocks the other operations: not the walk through a large tree either."""
    ops.sh(f"cd {place}; mkdir s; cd s; for i in $(seq 60); do mkdir $i; (cd $i; seq 200 | xargs touch); done")
    long = ops.send("files.copy", source=f"{place}/s", destination=f"{place}/t")
    ops("files.exists", path=place)
    assert not ops.replies[long], "the copy was over before a small operation was answered"
    assert ops.reply(long)["content"]["result"]["entries"] == 12061
    long = ops.send("files.remove", path=f"{place}/t", recursive=True)
    ops("files.exists", path=place)
    assert not ops.replies[long]
    assert ops.reply(long)["content"]["result"]["removed"] == 12061


# --- bad paths

PATHS = ["files.read", "files.readText", "files.download", "files.write", "files.append", "files.upload",
         "files.list", "files.stat", "files.exists", "files.remove", "files.mkdir", "files.chmod"]


def with_path(method, path):
    return {"path": path, **({"mode": "644"} if method == "files.chmod" else {})}


@pytest.mark.parametrize("method", PATHS)
def test_a_path_with_nul_is_refused(ops, method):
    why = ops.refused(method, **with_path(method, "a\0b"))
    assert why.code == "invalid_params" and "'path'" in why.message and "NUL" in why.message


@pytest.mark.parametrize("method", PATHS)
def test_a_path_of_5000_bytes_is_refused(ops, method):
    for path in ("x" * 5000, "x/" * 2500):
        assert ops.refused(method, **with_path(method, path)).code == "name_too_long"


@pytest.mark.parametrize("method", PATHS)
def test_a_circle_of_links_is_said(ops, place, method):
    ops.sh(f"ln -s loop {place}/loop")
    assert ops.refused(method, **with_path(method, f"{place}/loop/a")).code == "too_many_links"


@pytest.mark.parametrize("method", PATHS)
def test_an_empty_path_is_refused(ops, method):
    assert ops.refused(method, **with_path(method, "")).code == "invalid_params"


@pytest.mark.parametrize("method", ["files.read", "files.readText", "files.download", "files.write",
                                    "files.append", "files.upload"])
def test_what_is_no_file_is_refused_at_once(ops, place, method):
    ops.sh(f"cd {place}; mkdir d; mkfifo f; ln -s f l; python3 -c \"import socket as s; "
           f"s.socket(s.AF_UNIX).bind('s')\" || true")
    assert ops.refused(method, path=f"{place}/d").code == "is_a_directory"
    for path in (f"{place}/f", f"{place}/l", "/dev/null", "/dev/zero", "/proc/self/fd/3"):
        why = ops.refused(method, path=path)
        assert why.code in ("not_a_file", "permission_denied", "read_only", "not_found"), (path, why)
    assert ops("files.stat", path=f"{place}/f")["type"] == "fifo"


def test_a_fifo_with_a_reader_is_no_file_either(ops, place):
    ops.sh(f"mkfifo {place}/f")
    p = ops("exec.start", cmd=f"exec sleep 1000 <>{place}/f")["id"]
    for method in ("files.read", "files.write", "files.append"):
        assert ops.refused(method, path=f"{place}/f").code == "not_a_file"
    ops("proc.kill", id=p)


def test_a_directory_is_expected(ops, place):
    ops("files.write", path=f"{place}/a", data="x")
    assert ops.refused("files.list", path=f"{place}/a").code == "not_a_directory"
    for method in PATHS:
        if method == "files.exists":
            assert ops(method, path=f"{place}/a/b")["exists"] is False
        else:
            assert ops.refused(method, **with_path(method, f"{place}/a/b")).code == "not_a_directory"


def test_bytes_that_are_no_utf_8_are_a_name(ops, place):
    name = f"{place}/a\udcff\udc80b"
    ops("files.write", path=name, data="x")
    assert ops.read(name) == b"x"
    assert ops("files.list", path=place)["entries"][0]["path"] == name
    assert ops.run(f"import os; os.listdir(os.fsencode({place!r}))").value == r"[b'a\xff\x80b']"
    ops.sh(f"ln -s \"$(printf 'a\\377\\200b')\" {place}/l")
    assert ops("files.stat", path=f"{place}/l")["target"] == "a\udcff\udc80b"
    assert ops("exec.run", cmd=["cat", name])["stdout"] == "x"
    assert ops("exec.run", cmd=["pwd"], dir=place)["ok"]
    assert ops("files.move", source=name, destination=f"{place}/c\udcfe")["path"] == f"{place}/c\udcfe"
    assert ops("files.copy", source=f"{place}/c\udcfe", destination=f"{place}/é")["path"] == f"{place}/é"


def test_two_dots_go_up_inside_only(ops):
    assert ops("files.stat", path="../" * 200 + "tmp")["type"] == "directory"
    assert ops.refused("files.read", path="../" * 200 + "etc/shadow").code in ("permission_denied", "not_found")


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A file of the host, outside of every sandbox, that this user can read."""
    path = tmp_path_factory.mktemp("host") / "secret"
    path.write_text("OF THE HOST")
    return path


def test_links_of_proc_lead_nowhere_else(ops, secret):
    """Through every process that it can see, pid 1 included."""
    for path in ("/proc/1/root", "/proc/self/root", "/proc/self/cwd/../../../../..", "/proc/1/cwd", "/proc/2/root"):
        why = ops.refused("files.read", path=path + str(secret))
        assert why.code in ("not_found", "permission_denied"), why
    for fd in range(20):
        for pid in ("self", "1", "2", "3"):
            try:
                assert b"OF THE HOST" not in ops.read(f"/proc/{pid}/fd/{fd}{secret}")
            except Refused:
                pass


@pytest.mark.timeout(500)
def test_the_race_of_links_reaches_no_file_of_the_host(make_ops, secret):
    """A cell swaps a file, a link to the host's path and links through /proc, 100,000 times, while they are read."""
    ops, place = make_ops(), "place"
    ops("files.mkdir", path=place)
    ops("files.write", path=f"{place}/ours", data="ours")
    running = ops.start(f"""
import os
os.chdir({place!r})
links = [{str(secret)!r}, '/proc/1/root' + {str(secret)!r}, '/proc/self/root' + {str(secret)!r}, 'ours']
for i in range(100000):
    try: os.symlink(links[i % 4], 'new')
    except FileExistsError: pass
    os.rename('new', 'x')
swaps = i + 1
os.chdir({str(ops.kernel.cwd)!r})""")
    seen = collections.Counter()
    while not ops.replies[running]:
        sent = [ops.send(m, path=f"{place}/x") for m in ("files.read", "files.download", "files.stat") * 8]
        for i in sent:
            try:
                m = ops.reply(i)
                seen[bytes(m["buffers"][0]) if m["buffers"] else m["content"]["result"]["type"]] += 1
            except Refused as why:
                seen[why.code] += 1
    assert ops.result(running).status == "ok"
    assert ops.run("swaps").value == "100000"
    assert set(seen) <= {b"ours", "symlink", "file", "not_found", "permission_denied", "too_many_links"}, seen
    assert seen[b"ours"] > 0 and seen["symlink"] > 0


# --- the limit of the disk


def test_a_write_past_the_limit_keeps_the_old_file(make_ops):
    ops = make_ops("--profile", "strict", "--disk", "20m")
    ops("files.write", path="a", data="old")
    for method, params in (("files.write", {"path": "a"}), ("files.append", {"path": "a"})):
        ops.refused(method, [bytes(40 << 20)], **params)
        assert ops.read("a") == b"old"
    why = ops.refused("files.write", [bytes(40 << 20)], path="a")
    assert why.code in ("too_large", "no_space") and "--disk" in suggestion(ops)
    up = ops("files.upload", path="a")
    with pytest.raises(Refused) as why:
        for i in range(40):
            ops("files.upload", [b"x" * (1 << 20)], upload=up["upload"])
    assert why.value.code in ("too_large", "no_space")
    assert ops.read("a") == b"old"
    assert [e["name"] for e in ops("files.list")["entries"]] == ["a"]
    end = time.monotonic() + 30

    def goes():
        """What is used is counted from time to time."""
        try:
            return ops("files.write", [bytes(1 << 20)], path="b")
        except Refused:
            assert time.monotonic() < end
            return None

    ops.until(goes)


def suggestion(ops):
    """The suggestion of the last reply."""
    return [m for ms in ops.replies.values() for m in ms][-1]["content"]["suggestion"]


def test_a_full_tmp_is_said(make_ops):
    ops = make_ops("--tmp-size", "4m")
    ops("files.write", path="/tmp/a", data="old")
    why = ops.refused("files.write", [bytes(8 << 20)], path="/tmp/a")
    assert why.code == "no_space" and "--tmp-size" in suggestion(ops)
    assert ops.read("/tmp/a") == b"old"
    assert not [e for e in ops("files.list", path="/tmp")["entries"] if ".husk" in e["name"]]


# --- parameters


def test_an_unknown_method(ops):
    for method in ("files.nothing", "", "x" * 10000, "exec.run\0", "\udcff"):
        assert ops.refused(method).code == "unknown_method"


@pytest.mark.parametrize("content", [{}, {"method": 3}, {"method": None}, {"method": "env.get", "params": []},
                                     {"method": "env.get", "params": "x"}])
def test_a_request_of_the_wrong_shape(ops, content):
    reply = ops.control("sandbox_request", content)["content"]
    assert (reply["status"], reply["code"]) == ("error", "invalid_params")


def test_params_may_be_absent(ops):
    for content in ({"method": "proc.list"}, {"method": "proc.list", "params": None}):
        assert ops.control("sandbox_request", content)["content"]["status"] == "ok"


WRONG = {"string": [3, True, [], {}, 1.5], "int": ["3", True, [], {}, 1.5, 1e3, 10**30], "bool": [1, "true", [], {}],
         "command": [3, {}, [1], ["a", None], True], "map": ["a=b", [], {"a": 1}, {"a": ["b"]}, 3],
         "bytes": [3, [1, 2], {}]}
SHOULD = {"string": "a string", "bytes": "a string", "int": "a whole number", "bool": "true or false",
          "map": "an object of strings", "command": "a string or an array of strings"}


@pytest.mark.parametrize("method, parameters", [(m, p) for m, _, p in ROWS])
def test_every_parameter_is_checked(ops, method, parameters):
    """Which one it is, and what was expected."""
    right = {"string": "x", "int": 1, "bool": False, "command": ["true"], "map": {}, "bytes": "x"}
    needed = {p.split(":")[0]: right[p.split(":")[1][:-1]] for p in parameters.split() if p.endswith("!")}
    for p in parameters.split():
        name, kind = p.split(":")
        kind = kind.split("=")[0]
        if kind.endswith("!"):
            kind = kind[:-1]
            for missing in ({k: v for k, v in needed.items() if k != name}, {**needed, name: None}):
                why = ops.refused(method, **missing)
                assert why.code == "invalid_params", why
                assert f"'{name}' is missing; it should be {SHOULD[kind]}" in why.message
        for wrong in WRONG[kind]:
            why = ops.refused(method, **{**needed, name: wrong})
            assert why.code == "invalid_params" and f"'{name}' is " in why.message, (wrong, why)
            assert SHOULD[kind] in why.message
    why = ops.refused(method, **needed, another=1)
    assert why.code == "invalid_params" and '"another"' in why.message


def test_times_may_be_absurd(ops):
    far = 2**63 - 1
    assert ops("exec.run", cmd="echo x", timeout_ms=far, max_output=far)["stdout"] == "x\n"
    assert ops("exec.run", cmd="echo x", timeout_ms=-far)["stdout"] == "x\n"
    p = ops("exec.start", cmd="exec cat", stdin=True, timeout_ms=far)["id"]
    waits = ops.send("proc.wait", id=p, timeout_ms=far)
    assert ops("proc.get", id=p)["state"] == "running"
    ops("proc.kill", id=p, grace_ms=far)
    assert ops.reply(waits)["content"]["result"]["signal"] == signal.SIGTERM
    for name in ("idle_timeout_s", "lifetime_s"):
        for value in (-1, far):
            assert ops.refused("sandbox.set", **{name: value}).code == "invalid_params"
    assert ops.refused("files.read", path="/proc/self/status", offset=far).code == "invalid_params"
    assert ops.read("/etc/passwd", offset=2**40) == b""
    assert ops("exec.run", cmd="echo x", max_output=-1)["stdout"] == ""


# --- commands


def test_run(ops):
    r = ops("exec.run", cmd="echo out; echo err >&2; exit 3")
    assert {**r, "duration_ms": 0, "id": 0} == {
        "stdout": "out\n", "stderr": "err\n", "exit_code": 3, "ok": False, "duration_ms": 0, "timed_out": False,
        "signal": None, "oom": False, "truncated": False, "id": 0}
    assert isinstance(r["duration_ms"], int)


def test_every_member_that_the_table_names_is_there(ops, place):
    """Result members, of the operations that can be had at once."""
    text = (pathlib.Path(__file__).parent.parent / "wall/operations.def").read_text()
    said = dict(re.findall(r'OPERATION\("([^"]+)", \w+, "[^"]*",\s*"([^"]*)"', text))
    ops("files.write", path=f"{place}/a", data="x")
    p = ops("exec.start", cmd="exec cat", stdin=True, pull=True)["id"]
    asked = {"exec.run": {"cmd": "true"}, "exec.start": {"cmd": "true"}, "proc.list": {}, "proc.get": {"id": p},
             "proc.logs": {"id": p}, "proc.read": {"id": p}, "proc.stdin": {"id": p}, "proc.kill": {"id": p},
             "files.read": {"path": f"{place}/a"}, "files.readText": {"path": f"{place}/a"},
             "files.download": {"path": f"{place}/a"}, "files.write": {"path": f"{place}/b"},
             "files.append": {"path": f"{place}/b"}, "files.list": {"path": place}, "files.stat": {"path": place},
             "files.exists": {"path": place}, "files.mkdir": {"path": place}, "env.get": {}, "env.set": {"env": {}},
             "files.upload": {"path": f"{place}/c", "done": True}, "sandbox.info": {}, "sandbox.usage": {},
             "sandbox.set": {}, "sandbox.list": {}, "sandbox.diff": {}}
    for method, params in asked.items():
        assert set(said[method].split()) <= set(ops(method, **params)), method


def test_a_command_is_a_string_for_the_shell_or_words(ops):
    assert ops("exec.run", cmd="echo $((6*7)) | tr 4 5")["stdout"] == "52\n"
    assert ops("exec.run", cmd=["echo", "$((6*7))", "a b", ""])["stdout"] == "$((6*7)) a b \n"


def test_directory_variables_and_input(ops, place):
    r = ops("exec.run", cmd="pwd; echo $A; cat", dir=place, env={"A": "ä b"}, stdin="in")
    assert r["stdout"].splitlines()[0].endswith(place) and r["stdout"].endswith("ä b\nin")
    r = ops("exec.run", [b"\x00\xff" * 10], cmd="wc -c")
    assert r["stdout"].strip() == "20"
    assert ops("exec.run", cmd="cat")["stdout"] == ""  # no input: its end
    assert ops("exec.run", [b"x" * 1000000], cmd="true")["ok"]  # who does not read it does not hang


def test_a_large_input_arrives(ops):
    assert ops("exec.run", [b"x" * (40 << 20)], cmd="wc -c")["stdout"].strip() == str(40 << 20)


@pytest.mark.parametrize("cmd, code, text", [(["/nowhere/x"], 127, "No such file"), (["/"], 126, "ermission"),
                                             ("nowhere-x", 127, "not found"), (["/etc/passwd"], 126, "ermission")])
def test_a_command_that_cannot_be_run_is_a_result(ops, cmd, code, text):
    r = ops("exec.run", cmd=cmd)
    assert (r["exit_code"], r["ok"]) == (code, False) and text in r["stderr"]


@pytest.mark.parametrize("method", ["exec.run", "exec.start"])
def test_a_directory_that_is_not_there_is_said(ops, method):
    why = ops.refused(method, cmd="true", dir="/nowhere")
    assert why.code == "not_a_directory" and "/nowhere" in why.message  # not_found would be the command
    assert ops.refused(method, cmd="true", dir="/etc/passwd").code == "not_a_directory"


@pytest.mark.parametrize("params", [{"cmd": []}, {"cmd": ["a\0b"]}, {"cmd": "a\0b"}, {"cmd": "true", "env": {"": "x"}},
                                    {"cmd": "true", "env": {"a=b": "x"}}, {"cmd": "true", "env": {"a": "\0"}},
                                    {"cmd": "true", "dir": "\0"}])
@pytest.mark.parametrize("method", ["exec.run", "exec.start"])
def test_commands_that_cannot_be(ops, method, params):
    assert ops.refused(method, **params).code == "invalid_params"


def test_too_many_words_is_said(ops):
    assert ops.refused("exec.run", cmd=["echo", "x" * 200000]).code == "too_long"


def test_bytes_that_are_no_text_survive(ops):
    m = ops.raw("exec.run", cmd=r"printf 'a\377b\n'; printf 'text' >&2")
    r = m["content"]["result"]
    assert (r["stdout"], r["stderr"], r["buffers"]) == ("a\ufffdb\n", "text", ["stdout"])
    assert bytes(m["buffers"][0]) == b"a\xffb\n"


def test_a_signal_is_a_result(ops):
    r = ops("exec.run", cmd="kill -SEGV $$")
    assert (r["exit_code"], r["signal"], r["ok"]) == (139, 11, False)


def test_out_of_memory_is_said(make_ops):
    ops = make_ops("--memory", "256m")
    r = ops("exec.run", cmd="tail /dev/zero")
    assert not r["ok"]
    if r["signal"] == signal.SIGKILL:
        assert r["oom"] is True
    assert ops("exec.run", cmd="kill -9 $$")["oom"] is False


def test_the_time_out_ends_the_whole_tree(ops, place):
    mark = f"{1000 + time.monotonic_ns() % 10**6}.{os.getpid()}"
    r = ops("exec.run", timeout_ms=500, cmd=f"sleep {mark} & setsid sleep {mark} & (setsid sh -c 'trap \"\" TERM; "
            f"sleep {mark}; sleep {mark}' &) & echo begun; wait")
    assert (r["timed_out"], r["exit_code"], r["ok"], r["stdout"]) == (True, 124, False, "begun\n")
    assert r["signal"] == signal.SIGKILL
    assert mark not in ops.sh("ps axww")


def test_a_process_without_output_is_not_waited_for_by_its_children(ops):
    """A daemon holds the pipes open: the command's end is the end."""
    r = ops("exec.run", cmd="setsid sleep 1000 & echo done")
    assert r["stdout"] == "done\n"
    assert ops("proc.get", id=r["id"])["tree_alive"]
    ops("proc.kill", id=r["id"], signal=9)


def test_a_flood_in_the_background_keeps_nobody_waiting(ops):
    r = ops("exec.run", cmd="yes & echo done")
    assert r["ok"]
    assert ops("files.exists", path=".")["exists"]
    ops("proc.kill", id=r["id"], signal=9)
    p = ops("exec.start", cmd="yes & sleep 0.1", stream=False)["id"]
    assert ops("proc.wait", id=p)["exit_code"] == 0
    assert ops("files.exists", path=".")["exists"]
    ops("proc.kill", id=p, signal=9)


def test_more_output_than_asked_for_is_dropped_and_said(ops):
    r = ops("exec.run", cmd="yes | head -c 10000000; echo e >&2", max_output=1000)
    assert (len(r["stdout"]), r["stderr"], r["truncated"], r["ok"]) == (1000, "e\n", True, True)


def test_output_of_the_worst_kind_fits_into_a_message(ops):
    """NULs are six characters each, and invalid bytes three and a buffer."""
    p = ops("exec.start", cmd="exec sleep 1000")["id"]
    r = ops("exec.run", cmd="head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2", max_output=16 << 20)
    assert r["truncated"] and set(r["stdout"]) == {"\0"}
    m = ops.raw("exec.run", cmd="head -c 20000000 /dev/zero | tr '\\0' '\\377'; head -c 20000000 /dev/zero >&2",
                max_output=16 << 20)
    assert set(m["buffers"][0].tobytes() if hasattr(m["buffers"][0], "tobytes") else m["buffers"][0]) == {255}
    assert ops("proc.get", id=p)["state"] == "running"
    ops("proc.kill", id=p)


def test_streaming(ops):
    """Events carry the request as parent, in order, and come before the reply's idle."""
    i = ops.send("exec.run", cmd="echo a; sleep 0.2; printf 'g\\303'; sleep 0.2; printf '\\274\\n\\377'; echo e >&2",
                 stream=True)
    r = ops.reply(i)["content"]["result"]
    ops.until(lambda: "idle" in ops.states(i))
    events = [m["content"] for m in ops.events(i)]
    assert "".join(e["text"] for e in events if e["event"] == "stdout") == "a\ngü\n\ufffd"
    assert "".join(e["text"] for e in events if e["event"] == "stderr") == "e\n"
    assert any(e.get("buffers") == ["text"] for e in events)
    assert len([e for e in events if e["event"] == "stdout"]) >= 2
    assert r["stdout"] == "a\ngü\n\ufffd"
    assert events[-1]["event"] == "exit" and events[-1]["exit_code"] == 0


def test_env_set_is_for_commands_that_start_later(ops):
    assert ops("env.set", env={"H5_A": "1", "H5_B": "ü"})["env"]["H5_B"] == "ü"
    assert ops.sh("echo $H5_A$H5_B") == "1ü\n"
    assert ops("exec.run", cmd="echo $H5_A", env={"H5_A": "2"})["stdout"] == "2\n"
    assert ops.sh("echo $H5_A") == "1\n"
    assert ops("env.get", name="H5_A") == {"env": {"H5_A": "1"}}
    assert ops("env.get")["env"]["HOME"] == ops("sandbox.info")["home"]
    assert "H5_A" not in ops("env.set", env={"H5_A": None, "H5_B": None})["env"]
    assert ops.sh("echo ${H5_A-unset}") == "unset\n"
    assert ops("env.get", name="H5_A") == {"env": {}}
    assert ops("exec.run", cmd="echo ${HOME-unset}", env={"HOME": None})["stdout"] == "unset\n"


def test_a_variable_may_hold_any_bytes(ops):
    ops("env.set", env={"H5_C": "a\udcff"})
    assert bytes(ops.raw("exec.run", cmd="printf %s $H5_C")["buffers"][0]) == b"a\xff"
    assert ops("env.set", env={})["env"]["H5_C"] == "a\udcff"
    ops("env.set", env={"H5_C": None})


# --- processes


def test_start_list_get_logs_wait(ops):
    i = ops.send("exec.start", cmd=["sh", "-c", "echo out; echo err >&2; exit 4"])
    r = ops.reply(i)["content"]["result"]
    assert r["pid"] > 1
    w = ops("proc.wait", id=r["id"])
    assert (w["state"], w["exit_code"], w["signal"]) == ("exited", 4, None)
    logs = ops("proc.logs", id=r["id"])
    assert (logs["stdout"], logs["stderr"], logs["stdout_dropped"], logs["exit_code"]) == ("out\n", "err\n", 0, 4)
    one = ops("proc.get", id=r["id"])
    assert one["cmd"] == ["sh", "-c", "echo out; echo err >&2; exit 4"] and one["pid"] == r["pid"]
    assert r["id"] in [p["id"] for p in ops("proc.list")["processes"]]
    ops.until(lambda: [m for m in ops.events(i) if m["content"]["event"] == "exit"])
    assert {m["content"]["event"] for m in ops.events(i)} == {"stdout", "stderr", "exit"}


def test_names_of_processes(ops):
    name = "mine-%d" % time.monotonic_ns()
    assert ops("exec.start", id=name, cmd="exec sleep 1000")["id"] == name
    assert ops.refused("exec.start", id=name, cmd="true").code == "exists"
    ops("proc.kill", id=name)
    for bad in ("", "a/b", "x" * 64, "a\0b"):
        assert ops.refused("exec.start", id=bad, cmd="true").code == "invalid_params"
    for method in ("proc.get", "proc.logs", "proc.read", "proc.stdin", "proc.kill", "proc.wait"):
        assert ops.refused(method, id="nobody").code == "no_such_process"
    assert ops.refused("proc.resize", id="nobody", rows=1, cols=1).code == "no_such_process"


def test_a_start_that_fails_is_said_and_leaves_nothing(ops):
    def ids():
        return [p["id"] for p in ops("proc.list")["processes"] if "/nowhere/x" in p["cmd"] or "/etc/passwd" in p["cmd"]]

    assert ops.refused("exec.start", cmd=["/nowhere/x"]).code == "not_found"
    assert ops.refused("exec.start", cmd=["/etc/passwd"]).code == "permission_denied"
    ops.until(lambda: not ids())


@pytest.mark.parametrize("until", [{}, {"until": "line", "pattern": "x"}])
def test_who_waits_for_what_cannot_start_is_answered(make_ops, until):
    ops = make_ops()
    for n in range(50):
        start = ops.send("exec.start", id=f"x{n}", cmd=["/nowhere/x"], pull=True)
        others = [ops.send("proc.wait", id=f"x{n}", **until), ops.send("proc.read", id=f"x{n}", wait_ms=60000)]
        for i in (start, *others):
            try:
                ops.reply(i, 20)
            except Refused as why:
                assert why.code in ("not_found", "no_such_process", "ended"), why


def test_input(ops):
    p = ops("exec.start", cmd="exec cat", stdin=True)["id"]
    assert ops("proc.stdin", id=p, data="eins\n")["written"] == 5
    ops("proc.wait", id=p, until="line", pattern="^eins$")
    ops("proc.stdin", [b"\xff\x00"], id=p, close=True)
    assert ops("proc.wait", id=p)["exit_code"] == 0
    m = ops.raw("proc.logs", id=p)
    assert bytes(m["buffers"][0]) == b"eins\n\xff\x00"
    assert ops.refused("proc.stdin", id=p, data="x").code == "stdin_closed"
    p = ops("exec.start", cmd="exec sleep 1000")["id"]
    assert ops.refused("proc.stdin", id=p, data="x").code == "stdin_closed"
    ops("proc.kill", id=p)


def test_input_that_is_not_read_is_refused_in_the_end_and_none_of_it_is_lost(ops):
    p = ops("exec.start", cmd="sleep 3; exec wc -c", stdin=True)["id"]
    sent = 0
    with pytest.raises(Refused) as why:
        for i in range(40):
            r = ops("proc.stdin", [b"x" * (1 << 20)], id=p)
            sent += r["written"]
            assert r["waiting"] >= (i << 20)
    assert why.value.code == "too_many"
    ops("proc.stdin", id=p, close=True)
    ops("proc.wait", id=p)
    assert ops("proc.logs", id=p)["stdout"].strip() == str(sent)


def test_the_ring_of_logs(ops):
    p = ops("exec.start", cmd="seq 1 200000; echo e >&2", stream=False)["id"]
    ops("proc.wait", id=p)
    r = ops("proc.logs", id=p)
    whole = "".join(f"{i}\n" for i in range(1, 200001))
    assert r["stdout"] == whole[r["stdout_dropped"]:] and len(r["stdout"]) >= 256 << 10
    assert r["stderr"] == "e\n" and r["stderr_dropped"] == 0
    r = ops("proc.logs", id=p, max_bytes=7)
    assert r["stdout"] == "200000\n" and r["stdout_dropped"] == len(whole) - 7


def test_kill_takes_the_whole_tree(ops):
    mark = f"{2000 + time.monotonic_ns() % 10**6}.{os.getpid()}"
    p = ops("exec.start", cmd=f"sleep {mark} & setsid sleep {mark} & (setsid setsid sleep {mark} &); "
            f"(trap '' TERM; sleep {mark}; sleep {mark}) & echo ready; wait")["id"]
    ops("proc.wait", id=p, until="line", pattern="ready")
    assert ops("proc.kill", id=p, grace_ms=200) == {"killed": 1}
    ops("proc.wait", id=p)
    ops.until(lambda: not ops("proc.get", id=p)["tree_alive"])
    assert mark not in ops.sh("ps axww")
    assert ops("proc.kill", id=p) == {"killed": 0}


def test_who_ignores_sigterm_is_killed_after_its_grace(ops):
    p = ops("exec.start", cmd="trap '' TERM; echo ready; while :; do sleep 1000; done")["id"]
    ops("proc.wait", id=p, until="line", pattern="ready")
    ops("proc.kill", id=p, grace_ms=300)
    w = ops("proc.wait", id=p)
    assert (w["exit_code"], w["signal"]) == (137, 9)


def test_a_signal_of_one_s_choice(ops):
    p = ops("exec.start", cmd="trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done")["id"]
    ops("proc.wait", id=p, until="line", pattern="ready")
    ops("proc.kill", id=p, signal=int(signal.SIGUSR1))
    for bad in (0, -1, 65, 2**31):
        assert ops.refused("proc.kill", id=p, signal=bad).code == "invalid_params"
    ops("proc.kill", id=p, signal=9)
    assert ops("proc.wait", id=p)["signal"] == 9


def test_kill_all(make_ops):
    ops = make_ops()
    for i in range(5):
        ops("exec.start", cmd="setsid sleep 1000 & sleep 1000")
    assert ops("proc.kill_all") == {"killed": 5}
    ops.until(lambda: not any(p["tree_alive"] for p in ops("proc.list")["processes"]))
    assert "sleep" not in ops.sh("ps axww -o comm")


def test_a_command_that_closes_its_output_lives_on(ops):
    p = ops("exec.start", cmd="exec >&- 2>&-; sleep 1000", stdin=True)["id"]
    time.sleep(0.3)
    assert ops("proc.get", id=p)["state"] == "running"
    ops("proc.kill", id=p)
    assert ops("proc.wait", id=p)["signal"] == 15


def test_the_end_of_time(ops):
    p = ops("exec.start", cmd="exec sleep 1000", timeout_ms=300)["id"]
    w = ops("proc.wait", id=p)
    assert (w["exit_code"], w["signal"]) == (124, 9)
    assert ops("proc.get", id=p)["timed_out"]


def test_wait_for_a_line(ops):
    p = ops("exec.start", cmd="sleep 0.3; echo 'listening on 127.0.0.1:8000'; exec sleep 1000")["id"]
    r = ops("proc.wait", id=p, until="line", pattern="listening on .*:[0-9]+")
    assert r["line"] == "listening on 127.0.0.1:8000" and r["state"] == "running"
    # Printed before, it counts as well.
    assert ops("proc.wait", id=p, until="line", pattern="^listening")["line"] == r["line"]
    assert ops.refused("proc.wait", id=p, until="line", pattern="never", timeout_ms=200).code == "timeout"
    waits = ops.send("proc.wait", id=p, until="line", pattern="never")
    ops("proc.kill", id=p)
    with pytest.raises(Refused) as why:
        ops.reply(waits)
    assert why.value.code == "ended"


def test_a_last_line_without_an_end_counts(ops):
    p = ops("exec.start", cmd="printf ready; exec 1>&-; sleep 0.2")["id"]
    assert ops("proc.wait", id=p, until="line", pattern="ready")["line"] == "ready"


def test_many_short_lines_are_looked_through_at_once(ops):
    p = ops("exec.start", cmd="yes '' | head -c 500000; exec sleep 1000", stream=False)["id"]
    ops.until(lambda: ops("proc.logs", id=p, max_bytes=1)["stdout_dropped"] > 200000)
    waits = [ops.send("proc.wait", id=p, until="line", pattern="never", timeout_ms=100) for i in range(20)]
    for i in waits:
        with pytest.raises(Refused) as why:
            ops.reply(i, 20)
        assert why.value.code == "timeout"
    ops("proc.kill", id=p)


@pytest.mark.parametrize("params", [{"until": "never"}, {"until": "line"}, {"until": "line", "pattern": "("},
                                    {"until": "port"}, {"until": "port", "port": 70000}, {"until": "port", "port": -1},
                                    {"until": "http", "port": 80, "path": "x"},
                                    {"until": "http", "port": 80, "path": "/a\r\nX: y"},
                                    {"until": "line", "pattern": "((((a{255}){255}){255}){255}){255}"},
                                    {"until": "line", "pattern": "x" * 100000}])
def test_what_cannot_be_waited_for(ops, params):
    p = ops("exec.start", cmd="exec sleep 1000")["id"]
    assert ops.refused("proc.wait", id=p, **params).code == "invalid_params"
    ops("proc.kill", id=p)
    assert ops.refused("proc.wait").code == "invalid_params"


SERVER = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == '/ready' else 503); self.end_headers()
    def log_message(self, *a): pass
s = http.server.HTTPServer(('127.0.0.1', 0), H); print(s.server_port, flush=True); s.serve_forever()
"""


def test_wait_for_a_port_and_a_status(ops):
    p = ops("exec.start", cmd=[conftest.PYTHON, "-c", SERVER])["id"]
    port = int(ops("proc.wait", id=p, until="line", pattern="^[0-9]+$")["line"])
    ops("proc.wait", until="port", port=port)
    ops("proc.wait", id=p, until="http", port=port, path="/ready")
    ops("proc.wait", id=p, until="http", port=port, path="/", status=503)
    assert ops.refused("proc.wait", until="http", port=port, timeout_ms=300).code == "timeout"
    waits = ops.send("proc.wait", id=p, until="http", port=port)
    ops("proc.kill", id=p)
    with pytest.raises(Refused) as why:
        ops.reply(waits)
    assert why.value.code == "ended"
    assert ops.refused("proc.wait", id=p, until="port", port=port).code == "ended"
    assert ops.refused("proc.wait", until="port", port=port, timeout_ms=200).code == "timeout"


def test_a_terminal(ops):
    p = ops("exec.start", cmd="tty; stty size; trap 'stty size' WINCH; echo $TERM; while :; do read a && echo \"<$a>\"; done",
            tty=True, rows=10, cols=33)["id"]
    ops("proc.wait", id=p, until="line", pattern="10 33")
    ops("proc.wait", id=p, until="line", pattern="xterm")  # the trap is set
    assert re.search(r"/dev/pts/\d+", ops("proc.logs", id=p)["stdout"])
    ops("proc.resize", id=p, rows=11, cols=44)
    ops("proc.stdin", id=p, data="x\n")
    ops("proc.wait", id=p, until="line", pattern="11 44")
    ops("proc.wait", id=p, until="line", pattern="<x>")
    ops("proc.stdin", id=p, data="\x03")  # as a key
    assert ops("proc.wait", id=p)["signal"] == signal.SIGINT
    p = ops("exec.start", cmd="cat; echo over", tty=True)["id"]
    ops("proc.stdin", id=p, close=True)
    assert ops("proc.wait", id=p)["exit_code"] == 0
    assert "over" in ops("proc.logs", id=p)["stdout"]
    p = ops("exec.start", cmd="exec sleep 1000")["id"]
    assert ops.refused("proc.resize", id=p, rows=1, cols=1).code == "invalid_params"
    ops("proc.kill", id=p)


def pull(ops, p, wait_ms=5000):
    """All that a process started with pull prints."""
    out = [b"", b""]
    while True:
        m = ops.raw("proc.read", id=p, wait_ms=wait_ms)
        for i in range(2):
            out[i] += bytes(m["buffers"][i])
        if m["content"]["result"]["eof"]:
            return out, m["content"]["result"]


def test_pull_loses_nothing(ops):
    p = ops("exec.start", cmd="seq 1 1000000; echo e >&2; exit 5", pull=True)["id"]
    time.sleep(0.5)  # it waits meanwhile
    out, result = pull(ops, p)
    assert out == ["".join(f"{i}\n" for i in range(1, 1000001)).encode(), b"e\n"]
    assert result["exit_code"] == 5


def test_the_end_of_a_pull_comes_at_once(ops):
    """Whoever waits when the process ends is answered then, not when its wait is over."""
    for command in ("sleep 0.2", "sleep 0.2; echo x", "exec >&- 2>&-; sleep 0.2", "sleep 0.2; kill -9 $$"):
        p = ops("exec.start", cmd=command, pull=True)["id"]
        began = time.monotonic()
        pull(ops, p, 50000)
        assert time.monotonic() - began < 40


def test_one_reader_of_a_pull(ops):
    p = ops("exec.start", cmd="exec sleep 1000", pull=True)["id"]
    first = ops.send("proc.read", id=p, wait_ms=60000)
    assert ops.refused("proc.read", id=p).code == "invalid_params"
    ops("proc.kill", id=p)
    assert ops.reply(first)["content"]["result"]["signal"] == 15
    q = ops("exec.start", cmd="true")["id"]
    assert ops.refused("proc.read", id=q).code == "invalid_params"


@pytest.mark.timeout(100)
def test_what_nobody_asks_about_ends(make_ops):
    """A pull, and an upload, whose clients are gone: half a minute later nothing is left of them. What a
    command that was read to its end left in the background stays."""
    ops = make_ops()
    p = ops("exec.start", cmd="setsid sleep 1000 & sleep 1000", pull=True)["id"]
    stays = ops("exec.start", cmd="setsid sleep 1000 & true", pull=True)["id"]
    pull(ops, stays)
    ops("files.upload", [b"x"], path="a")
    time.sleep(20)
    assert ops("proc.list")["processes"][0]["tree_alive"] and len(ops("files.list")["entries"]) == 1
    time.sleep(15)
    alive = {q["id"]: q["tree_alive"] for q in ops("proc.list")["processes"]}
    assert alive == {p: False, stays: True}
    assert ops("files.list")["entries"] == []


# --- many, and bad ends


def assert_one_each(ops, ids):
    """One reply, one busy and one idle, for each."""
    ops.until(lambda: all(ops.replies[i] and "idle" in ops.states(i) for i in ids))
    ops.hear(0.3)
    for i in ids:
        assert len(ops.replies[i]) == 1 and ops.states(i) == ["busy", "idle"], i


def test_a_thousand_operations_at_once(ops, place):
    ids = []
    for i in range(250):
        ids.append(ops.send("files.write", [b"%d" % i], path=f"{place}/{i}"))
        ids.append(ops.send("files.read", path=f"{place}/{i}"))
        ids.append(ops.send("files.read", path="/nowhere"))
        ids.append(ops.send("nothing.at.all"))
    assert_one_each(ops, ids)
    for i in range(250):
        assert bytes(ops.reply(ids[4 * i + 1])["buffers"][0]) == b"%d" % i


def test_a_thousand_commands_at_once(make_ops):
    """More than there is room for: each is answered, and those that are refused say why."""
    ops = make_ops("--pids", "400")
    ids = [ops.send("exec.run", cmd=["echo", str(i)]) for i in range(1000)]
    done = 0
    for n, i in enumerate(ids):
        try:
            assert ops.reply(i)["content"]["result"]["stdout"] == f"{n}\n"
            done += 1
        except Refused as why:
            assert why.code in ("too_many", "too_many_open"), why
    assert_one_each(ops, ids)
    assert done >= 50
    assert ops.sh("echo still") == "still\n"
    ops.until(lambda: ops("proc.list")["processes"] == [])
    assert int(ops.sh("ls /proc/$(pgrep -o husk-agent)/fd 2>/dev/null | wc -l || echo 0")) < 20


def test_five_hundred_that_run_at_a_time(make_ops):
    """Each needs four descriptors of the agent."""
    ops = make_ops("--pids", "2000")
    ids = [ops.send("exec.start", cmd=["sleep", "1000"], stream=False) for i in range(500)]
    for i in ids:
        ops.reply(i)
    assert ops("proc.kill_all") == {"killed": 500}


def test_two_clients_on_one_file(ops, place):
    other = Operations(ops.kernel)
    try:
        path = f"{place}/a"
        ids = [(o, o.send("files.write", [c * 500000], path=path)) for c in (b"a", b"b") for o in (ops, other)
               for _ in range(10)]
        for o, i in ids:
            o.reply(i)
        data = ops.read(path)
        assert len(data) == 500000 and len(set(data)) == 1
        first, second = ops("files.upload", path=path), other("files.upload", path=path)
        assert first["upload"] != second["upload"]
        ops("files.upload", [b"1" * 10], upload=first["upload"])
        other("files.upload", [b"2" * 20], upload=second["upload"])
        ops("files.upload", upload=first["upload"], done=True)
        assert other.read(path) == b"1" * 10
        other("files.upload", upload=second["upload"], done=True)
        assert ops.read(path) == b"2" * 20
    finally:
        other.close()


def test_a_client_that_goes_away_takes_nothing_with_it(ops, place):
    ops.sh(f"head -c 16000000 /dev/urandom >{place}/a")
    for i in range(10):
        other = Operations(ops.kernel)
        up = other("files.upload", [b"x" * 1000], path=f"{place}/up{i}")
        for _ in range(10):
            other.send("files.read", path=f"{place}/a")
        other.send("exec.run", cmd="yes | head -c 5000000", stream=True)
        other.send("files.upload", [b"x" * 1000000], upload=up["upload"])
        other.close()  # without one look at the answers
    assert ops.sh("echo here") == "here\n"
    assert ops.run("1 + 1").value == "2"


def test_a_flood_of_events_keeps_no_cell_waiting(ops):
    i = ops.send("exec.start", cmd="yes")
    p = ops.reply(i)["content"]["result"]["id"]
    assert ops.run("6 * 7").value == "42"
    assert ops("files.exists", path=".")["exists"]
    ops("proc.kill", id=p, signal=9)
    ops.until(lambda: [m for m in ops.events(i) if m["content"]["event"] == "exit"])
    ops.iopub.clear()


def test_everything_goes_on_while_a_cell_runs(make_ops):
    """Each row of the table, while the interpreter computes and lets nobody else in."""
    ops, place, did = make_ops(), "place", set()
    spinning = ops.start(SPIN)
    ops.until(lambda: ops("sandbox.info")["state"] == "busy")

    def do(method, buffers=(), **params):
        did.add(method)
        return ops(method, buffers, **params)

    ops("files.mkdir", path=place)
    do("files.write", [b"abc"], path=f"{place}/a")
    assert do("files.readText", path=f"{place}/a")["text"] == "abc"
    assert do("files.read", path=f"{place}/a")["size"] == do("files.download", path=f"{place}/a")["size"] == 3
    do("files.append", path=f"{place}/a", data="d")
    do("files.upload", [b"x"], path=f"{place}/b", done=True)
    do("files.mkdir", path=f"{place}/d")
    do("files.chmod", path=f"{place}/d", mode="700")
    do("files.copy", source=f"{place}/a", destination=f"{place}/c")
    do("files.move", source=f"{place}/c", destination=f"{place}/d")
    assert len(do("files.list", path=place, recursive=True)["entries"]) == 4
    assert do("files.stat", path=f"{place}/d/c")["size"] == 4
    assert do("files.exists", path=f"{place}/d/c")["exists"]
    do("files.remove", path=f"{place}/d", recursive=True)
    do("env.set", env={"H5_S": "1"})
    assert do("env.get", name="H5_S")["env"] == {"H5_S": "1"}
    assert do("exec.run", cmd="echo $H5_S")["stdout"] == "1\n"
    p = do("exec.start", cmd="echo ready; exec cat", stdin=True, tty=True)["id"]
    do("proc.wait", id=p, until="line", pattern="ready")
    do("proc.stdin", id=p, data="x\n")
    do("proc.resize", id=p, rows=5, cols=5)
    assert do("proc.get", id=p)["state"] == "running"
    assert any(q["id"] == p for q in do("proc.list")["processes"])
    do("proc.kill", id=p, signal=9)
    ops("proc.wait", id=p)
    assert "ready" in do("proc.logs", id=p)["stdout"]
    q = do("exec.start", cmd="echo x", pull=True)["id"]
    do("proc.read", id=q, wait_ms=1000)
    do("proc.kill_all")
    assert do("sandbox.info")["state"] == "busy"
    do("sandbox.usage")
    do("sandbox.list")
    do("sandbox.diff")
    do("sandbox.set", tags={})
    w = do("files.watch", path=place)["watch"]
    do("files.unwatch", watch=w)
    assert do("ports.expose", port=8123)["host"] == "127.0.0.1"
    assert [e["port"] for e in do("ports.list")["ports"]] == [8123]
    do("ports.close", port=8123)
    assert did == {m for m, _, _ in ROWS}
    assert not ops.replies[spinning]


def agent_pids(ops):
    """Of the agent, not its shims: seen from inside."""
    return eval(ops.run(
        "import os\n[int(p) for p in os.listdir('/proc') if p.isdigit() and "
        "open(f'/proc/{p}/comm').read() == 'husk-agent\\n']").value)


def signal_agent(ops, agent, number):
    """From a cell, or where Landlock does not let it (from its version 6 on), from a command."""
    if ops.run(f"os.kill({agent}, {number})").status == "ok":
        return ops.send("nothing")
    return ops.send("exec.run", cmd=f"kill -{number} {agent}; sleep 1000")


def test_an_agent_that_is_killed_is_replaced(make_ops):
    ops = make_ops()
    ops("files.exists", path=".")
    p = ops("exec.start", cmd="setsid sleep 1000 & sleep 1000")["id"]
    open_ = [ops.send("exec.run", cmd="sleep 1000"), ops.send("proc.wait", id=p), ops.send("proc.read", id=p)]
    time.sleep(0.3)
    (agent,) = agent_pids(ops)
    open_.append(signal_agent(ops, agent, 9))
    for i in open_[:2]:
        with pytest.raises(Refused) as why:
            ops.reply(i)
        assert why.value.code == "agent_died"
    assert_one_each(ops, open_)
    assert ops.sh("echo again") == "again\n"
    ops.until(lambda: ops("proc.list")["processes"] == [])  # its parent is on its way out
    ops.until(lambda: "sleep" not in ops.sh("ps axww -o comm"))


def test_an_agent_that_is_stopped_is_replaced(make_ops):
    ops = make_ops()
    ops("files.exists", path=".")
    (agent,) = agent_pids(ops)
    stopping = signal_agent(ops, agent, 19)
    ops.until(lambda: ops.run(f"open('/proc/{agent}/stat').read().split()[2]").value == "'T'")
    open_ = [stopping, *(ops.send("files.exists", path=".") for i in range(5))]
    for i in open_[1:]:
        with pytest.raises(Refused) as why:
            ops.reply(i)
        assert why.value.code == "agent_died"
    assert_one_each(ops, open_)
    assert ops.sh("echo again") == "again\n"
    assert ops.run("1 + 1").value == "2"


def test_a_shim_that_is_killed_is_an_end(ops):
    p = ops("exec.start", cmd="echo $PPID; exec sleep 1000")["id"]
    shim = int(ops("proc.wait", id=p, until="line", pattern="^[0-9]+$")["line"])
    ops.sh(f"kill -9 {shim}")
    assert ops("proc.wait", id=p)["state"] == "exited"
    i = ops("exec.run", cmd="kill -9 $PPID; sleep 1")
    assert i["signal"] == 9


def test_processes_survive_the_interpreter(make_ops):
    ops = make_ops()
    p = ops("exec.start", cmd="echo ready; exec cat", stdin=True)["id"]
    ops("env.set", env={"KEPT": "yes"})
    waits = ops.send("proc.wait", id=p)
    assert ops.run("import os; os._exit(3)").ename == "InterpreterDied"
    assert ops.run("1 + 1").value == "2"
    ops("proc.stdin", id=p, data="still\n")
    ops("proc.wait", id=p, until="line", pattern="still")
    assert ops.sh("echo $KEPT") == "yes\n"
    ops("proc.stdin", id=p, close=True)
    assert ops.reply(waits)["content"]["result"]["exit_code"] == 0


def test_the_end_of_the_kernel_answers_what_is_open(make_ops):
    ops = make_ops()
    ids = [ops.send("exec.run", cmd="sleep 1000") for i in range(5)]
    time.sleep(0.3)
    assert ops.control("shutdown_request", {"restart": False})["content"]["status"] == "ok"
    for i in ids:
        with pytest.raises(Refused) as why:
            ops.reply(i)
        assert why.value.code in ("ending", "agent_died")
    assert_one_each(ops, ids)
    end = time.monotonic() + 20
    while ops.kernel.manager.provisioner.process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_operations_before_the_sandbox_is_there_are_answered(make_kernel):
    k = make_kernel(ready=False)
    reply = k.control("sandbox_request", {"method": "exec.run", "params": {"cmd": "echo x"}})
    assert reply["content"]["result"]["stdout"] == "x\n"


# --- profiles, info


def do_some(ops):
    ops("files.write", path="x/y", data="abc", parents=True)
    assert ops.read("x/y") == b"abc"
    assert ops.run("open('x/y').read()").value == "'abc'"
    info = ops("sandbox.info")
    assert ops.sh("pwd").strip() == info["directory"] == ops.run("import os; os.getcwd()").value.strip("'")
    assert ops.sh("id -u").strip() == ops.run("os.getuid()").value
    assert ops.sh("echo $HOME").strip() == info["home"]
    assert ops("files.remove", path="x", recursive=True)["removed"] == 2
    return info


def test_profile_notebook(ops):
    assert do_some(ops)["profile"] == "notebook"
    ops("files.write", path="host", data="seen")
    assert (ops.kernel.cwd / "host").read_text() == "seen"


def test_profile_strict(make_ops, secret):
    ops = make_ops("--profile", "strict")
    assert do_some(ops)["profile"] == "strict"
    assert ops.refused("files.read", path=str(secret)).code in ("not_found", "permission_denied")
    assert ops.refused("files.write", path="/usr/x", data="").code in ("permission_denied", "read_only")


def test_profile_image(image, make_ops, secret):  # noqa: F811
    ops = make_ops("--profile", "image", "--image", image, "--python", "python3")
    assert do_some(ops)["profile"] == "image"
    assert "bookworm" in ops.read("/etc/os-release").decode()
    ops("files.write", path="/usr/x", data="y")
    assert ops.sh("cat /usr/x") == "y" and not (image / "usr/x").exists()
    assert ops.refused("files.read", path=str(secret)).code == "not_found"


# --- what changed


def changed(ops, **params):
    ops.run("1")  # what IPython makes for itself when it starts is there
    diff = ops("sandbox.diff", **params)
    return diff, {e["path"]: (e["change"], e["type"], e["size"]) for e in diff["entries"]}


def test_what_changed_in_a_strict_sandbox(make_ops):
    ops = make_ops("--profile", "strict")
    before, there = changed(ops)
    assert (before["changed"], before["removed"], before["not_compared"]) == (0, 0, ["/tmp"])
    code = """import os
os.makedirs('a/b'); open('a/b/f', 'w').write('12345'); os.symlink('/etc/passwd', 'link'); os.mkfifo('pipe')
open(b'\\xff\\n', 'w').write('1')
os.mkdir('closed'); open('closed/g', 'w').write('6'); os.chmod('closed/g', 0); os.chmod('closed', 0)
open(os.path.expanduser('~/mine'), 'w').write('7')"""
    assert ops.run(code).status == "ok"
    home = ops("sandbox.info")["home"]
    diff, found = changed(ops)
    new = {path: what for path, what in found.items() if path not in there}
    w = "/workspace"
    assert new == {
        f"{w}/a": ("added", "directory", 0), f"{w}/a/b": ("added", "directory", 0), f"{w}/a/b/f": ("added", "file", 5),
        f"{w}/link": ("added", "symlink", 11), f"{w}/pipe": ("added", "other", 0), f"{w}/\udcff\n": ("added", "file", 1),
        f"{w}/closed": ("added", "directory", 0), f"{w}/closed/g": ("added", "file", 1), f"{home}/mine": ("added", "file", 1)}
    assert diff["added"] == before["added"] + 9 and diff["bytes"] == before["bytes"] + 8 and not diff["truncated"]
    few = ops("sandbox.diff", limit=3)
    assert len(few["entries"]) == 3 and few["truncated"] and few["added"] == diff["added"]
    for bad in (-1, 10**7):
        assert ops.refused("sandbox.diff", limit=bad).code == "invalid_params"
    assert ops("files.remove", path="a", recursive=True) and f"{w}/a" not in changed(ops)[1]


def test_what_changed_in_an_image(image, make_ops):  # noqa: F811
    ops = make_ops("--profile", "image", "--image", image, "--python", "python3")
    before = changed(ops)[1]
    ops.sh("echo x >> /etc/hosts.allow; rm /etc/issue; mkdir /srv/new; rm -r /usr/share/doc; mkdir /usr/share/doc; echo y > /usr/share/doc/z")
    (image / "etc/issue").read_text()
    diff, found = changed(ops)
    new = {path: what[:2] for path, what in found.items() if path not in before}
    was_there = (image / "etc/hosts.allow").exists()
    assert new == {
        "/etc/hosts.allow": ("changed" if was_there else "added", "file"), "/etc/issue": ("removed", "file"),
        "/srv/new": ("added", "directory"), "/usr/share/doc": ("changed", "directory"), "/usr/share/doc/z": ("added", "file")}
    assert diff["removed"] == 1


def test_what_is_shared_with_the_host_is_named_and_not_compared(ops):
    ops("files.write", path="on-the-host", data="x")
    diff, found = changed(ops)
    assert diff["not_compared"] == [ops("sandbox.info")["directory"], "/tmp"]
    assert not [path for path in found if "on-the-host" in path]


def test_comparisons_while_everything_changes(make_ops):
    """Each is answered, and none of them stops the others."""
    ops = make_ops("--profile", "strict")
    ops("exec.start", cmd="while :; do mkdir -p a/b/c/d; mv a x; touch x/b/c/d/f; mv x/b y; rm -rf x y; done")
    sent = [ops.send("sandbox.diff") for _ in range(5)]
    answers = []
    for msg_id in sent:
        try:
            answers.append("entries" in ops.reply(msg_id)["content"]["result"])
        except Refused as why:
            answers.append(why.code == "too_many")
    assert answers == [True] * 5


def test_the_list_of_sandboxes(make_ops):
    one, two = make_ops(arguments=["--name", "list-one"]), make_ops("--profile", "strict", arguments=["--name", "list-two"])
    listed = {s["name"]: s for s in one("sandbox.list")["sandboxes"]}
    for ops in (one, two):
        info = ops("sandbox.info")
        mine = listed[info["name"]]
        assert {name: mine[name] for name in ("id", "pid", "profile", "created_at")} == {
            name: info[name] for name in ("id", "pid", "profile", "created_at")}


def test_info_usage_set(make_ops):
    ops = make_ops("--memory", "512m", arguments=["--name", "first"])
    end = time.monotonic() + conftest.TIMEOUT
    while (info := ops("sandbox.info"))["state"] == "starting" and time.monotonic() < end:
        time.sleep(0.05)
    assert (info["name"], info["network"], info["tags"], info["state"]) == ("first", "none", {}, "idle")
    assert info["pid"] == ops.kernel.pid and re.fullmatch("[0-9a-f]{12}", info["id"])
    usage = ops("sandbox.usage")
    assert usage["memory_limit_bytes"] == 512 << 20
    r = ops("sandbox.set", name="second", tags={"a": "1"}, lifetime_s=1000, idle_timeout_s=100)
    assert r == {"name": "second", "tags": {"a": "1"}, "idle_timeout_s": 100, "lifetime_s": 1000}
    assert ops("sandbox.info")["name"] == "second" and ops("sandbox.info")["tags"] == {"a": "1"}
    for bad in ("", "a b", "a/b", "a:b", "-a", "x" * 65, "a\0b", "a\nb", "ü\x1b[31m"):
        assert ops.refused("sandbox.set", name=bad).code == "invalid_params", bad
    assert ops("sandbox.info")["name"] == "second"


def test_a_lifetime_that_is_set_later_counts(make_ops):
    ops = make_ops()
    ops("sandbox.set", lifetime_s=1)
    end = time.monotonic() + 20
    while ops.kernel.manager.provisioner.process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)


# --- files.watch


def watched(ops, i, wanted):
    """Waits until all of `wanted`, (kind, path), have been told."""
    def told():
        return {(m["content"]["kind"], m["content"]["path"]) for m in ops.events(i) if m["content"]["event"] == "file"}
    ops.until(lambda: wanted <= told())
    return told()


def test_a_watch_tells_what_happens_to_files(ops):
    ops.sh("mkdir -p watched/below; echo x >watched/old")
    i = ops.send("files.watch", path="watched", recursive=True)
    w = ops.reply(i)["content"]["result"]["watch"]
    ops.sh("echo y >>watched/old; echo z >watched/below/new; mkdir -p watched/a/b; sleep 0.2; echo q >watched/a/b/deep; rm watched/old")
    watched(ops, i, {("changed", "watched/old"), ("created", "watched/below/new"), ("created", "watched/a"),
                     ("created", "watched/a/b/deep"), ("removed", "watched/old")})
    ops("files.unwatch", watch=w)
    assert ops.refused("files.unwatch", watch=w).code == "no_such_process"
    assert ops.refused("files.unwatch", watch="junk").code == "no_such_process"
    assert ops.refused("files.watch", path="not-there").code == "not_found"
    ops.iopub.clear()


# --- ports


ECHO = """
import socket, threading
s = socket.socket(); s.bind(("127.0.0.1", {port})); s.listen(16); print("ready", flush=True)
def serve(c):
    while (data := c.recv(65536)): c.sendall(data)
    c.close()
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


def echo(connection, data):
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = connection.recv(65536)
        assert piece, "it was closed"
        got += piece
    return got


@pytest.fixture(scope="module")
def echoing(ops):
    """An exposed port of the sandbox that echoes: (host, port)."""
    p = ops("exec.start", cmd=[conftest.PYTHON, "-c", ECHO.format(port=7001)])["id"]
    ops("proc.wait", id=p, until="line", pattern="ready")
    place = ops("ports.expose", port=7001)
    yield place["host"], place["host_port"]
    ops("ports.close", port=7001)
    ops("proc.kill", id=p, signal=9)


def test_an_exposed_port_carries_bytes_both_ways(echoing):
    data = os.urandom(3 << 20)
    with socket.create_connection(echoing, conftest.TIMEOUT) as c:
        assert echo(c, b"x") == b"x"
        sender = threading.Thread(target=c.sendall, args=(data,))
        sender.start()
        got = b""
        while len(got) < len(data):
            got += c.recv(1 << 20)
        sender.join()
        assert got == data
        c.shutdown(socket.SHUT_WR)
        assert c.recv(1) == b""


def test_many_connections_to_a_port(echoing):
    all_of_them = [socket.create_connection(echoing, conftest.TIMEOUT) for _ in range(50)]
    for n, c in enumerate(all_of_them):
        assert echo(c, b"%d" % n) == b"%d" % n
        c.close()


def test_a_port_nobody_listens_at_is_closed_at_once(ops):
    place = ops("ports.expose", port=7002)
    with socket.create_connection((place["host"], place["host_port"]), conftest.TIMEOUT) as c:
        c.settimeout(conftest.TIMEOUT)
        try:
            assert c.recv(1) == b""
        except ConnectionResetError:
            pass
    ops("ports.close", port=7002)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((place["host"], place["host_port"]), conftest.TIMEOUT)


def test_a_closed_port_keeps_the_connections_that_are_there(ops):
    p = ops("exec.start", cmd=[conftest.PYTHON, "-c", ECHO.format(port=7003)])["id"]
    ops("proc.wait", id=p, until="line", pattern="ready")
    place = ops("ports.expose", port=7003)
    with socket.create_connection((place["host"], place["host_port"]), conftest.TIMEOUT) as c:
        assert echo(c, b"a") == b"a"
        ops("ports.close", port=7003)
        assert echo(c, b"b") == b"b"
    ops("proc.kill", id=p, signal=9)


def test_a_port_on_a_unix_socket_goes_with_the_kernel(make_ops, tmp_path):
    ops = make_ops()
    ops("exec.run", cmd="true")
    p = ops("exec.start", cmd=[conftest.PYTHON, "-c", ECHO.format(port=7004)])["id"]
    ops("proc.wait", id=p, until="line", pattern="ready")
    path = str(tmp_path / "s")
    assert ops("ports.expose", port=7004, socket=path)["socket"] == path
    with socket.socket(socket.AF_UNIX) as c:
        c.connect(path)
        assert echo(c, b"u") == b"u"
    ops.kernel.manager.shutdown_kernel()
    assert not os.path.exists(path)


def test_ports_that_cannot_be_exposed(ops):
    assert ops.refused("ports.expose", port=0).code == "invalid_params"
    assert ops.refused("ports.expose", port=70000).code == "invalid_params"
    assert ops.refused("ports.expose", port=7005, host="nowhere.example").code == "no_such_address"
    assert ops.refused("ports.expose", port=7005, host="192.0.2.1").code == "no_such_address"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert ops.refused("ports.expose", port=7005, host_port=taken.getsockname()[1]).code == "address_in_use"
    ops("ports.expose", port=7005)
    assert ops.refused("ports.expose", port=7005).code == "exists"
    ops("ports.close", port=7005)
    assert ops.refused("ports.close", port=7005).code == "not_found"


def test_what_listens_on_the_host_is_not_reached_by_a_port(ops):
    """127.0.0.1 is the sandbox's own, on both sides of husk-ports."""
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        place = ops("ports.expose", port=mine.getsockname()[1])
        with socket.create_connection((place["host"], place["host_port"]), conftest.TIMEOUT) as c:
            c.settimeout(conftest.TIMEOUT)
            try:
                assert c.recv(1) == b""
            except ConnectionResetError:
                pass
        ops("ports.close", port=mine.getsockname()[1])
