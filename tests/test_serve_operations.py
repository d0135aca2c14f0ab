# SPDX-License-Identifier: BSD-3-Clause
"""husk serve: the operations of a sandbox as requests of HTTP, and what describes and counts them."""

import base64
import hashlib
import json
import os
import pathlib
import re
import socket
import threading

import pytest
import requests

from conftest import TIMEOUT
from serving import kernel, server, wait_until  # noqa: F401 (fixtures)


@pytest.fixture
def operation(server, kernel):
    def ask(name, _status=200, **params):
        reply = server.post(f"/api/kernels/{kernel}/sandbox/{name}", json=params)
        assert reply.status_code == _status, reply.text
        return reply.json()
    return ask


@pytest.fixture
def files(server, kernel):
    return f"/api/kernels/{kernel}/sandbox/files"


def test_a_command_runs_while_a_cell_is_busy(server, kernel, operation):
    c = server.connect(kernel)
    msg_id = c.send(c.message("execute_request", {"code": "print('on', flush=True); import time; time.sleep(60)"}))
    while c.receive()["header"]["msg_type"] != "stream":
        pass
    done = operation("exec.run", cmd="echo out; echo err >&2; exit 3")
    assert (done["stdout"], done["stderr"], done["exit_code"], done["ok"]) == ("out\n", "err\n", 3, False)
    assert operation("sandbox.info")["state"] == "busy"
    server.post(f"/api/kernels/{kernel}/interrupt")
    c.until_done(msg_id)
    c.close()


def test_files_and_processes(operation):
    assert operation("files.write", path="a/b.txt", data="é\n", parents=True)["size"] == 3
    assert operation("files.readText", path="a/b.txt")["text"] == "é\n"
    assert operation("files.list", path="a")["entries"][0]["name"] == "b.txt"
    read = operation("files.read", path="a/b.txt")
    assert base64.b64decode(read["buffers"][0]) == "é\n".encode()
    started = operation("exec.start", cmd=["cat"], stdin=True)["id"]
    operation("proc.stdin", id=started, data="through", close=True)
    assert operation("proc.wait", id=started)["exit_code"] == 0
    assert operation("proc.logs", id=started)["stdout"] == "through"


@pytest.mark.parametrize("name, params, status, code", [
    ("files.read", {"path": "none"}, 404, "not_found"), ("files.read", {}, 400, "invalid_params"),
    ("files.read", {"path": 7}, 400, "invalid_params"), ("files.read", {"path": "x", "y": 1}, 400, "invalid_params"),
    ("files.mkdir", {"path": "/etc/x"}, 403, None), ("files.remove", {"path": "/usr"}, 403, None),
    ("proc.get", {"id": "none"}, 404, "no_such_process"), ("proc.wait", {"until": "port", "port": 9, "timeout_ms": 10}, 408, "timeout")],
    ids=range(8))
def test_what_fails_says_how_and_what_can_be_done(operation, name, params, status, code):
    error = operation(name, _status=status, **params)
    assert set(error) == {"message", "reason", "code", "suggestion"}
    assert error["message"] and error["suggestion"]
    assert code in (None, error["code"])


def test_unknown_operations_kernels_and_bodies(server, kernel):
    where = f"/api/kernels/{kernel}/sandbox/"
    assert server.post(where + "files.none", json={}).status_code == 404
    assert server.post("/api/kernels/none/sandbox/files.list", json={}).status_code == 404
    assert server.post(where + "files.list", data=b"[]").status_code == 400
    assert server.get(where + "files.list").status_code == 405
    assert requests.post(server.url + where + "files.list", timeout=TIMEOUT).status_code == 403


@pytest.mark.parametrize("how", [{"params": {"stream": "1"}}, {"headers": {"Accept": "application/x-ndjson"}}], ids=["query", "accept"])
def test_output_comes_as_lines_while_the_command_runs(server, kernel, operation, how):
    reply = server.post(f"/api/kernels/{kernel}/sandbox/exec.run", stream=True, **how,
                        json={"cmd": "echo one; while [ ! -e /tmp/go ]; do sleep 0.05; done; rm /tmp/go; echo two", "stream": True})
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    lines = reply.iter_lines()
    first = json.loads(next(lines))
    assert (first["event"]["event"], first["event"]["text"]) == ("stdout", "one\n")
    operation("files.write", path="/tmp/go", data="")
    rest = [json.loads(line) for line in lines]
    assert "".join(r["event"]["text"] for r in rest if r.get("event", {}).get("event") == "stdout") == "two\n"
    assert rest[-1]["result"]["stdout"] == "one\ntwo\n"


def test_a_stream_ends_with_an_error_if_there_is_one(server, kernel):
    reply = server.post(f"/api/kernels/{kernel}/sandbox/exec.run?stream=1", json={"cmd": 7})
    assert [list(json.loads(line)) for line in reply.iter_lines()] == [["error"]]


# --- files as bodies

DATA = os.urandom(1 << 20) * 21 + b"end"


def test_a_file_goes_up_and_comes_down(server, files, operation):
    put = server.request("PUT", files, params={"path": "deep/data.bin", "parents": "1", "mode": "600"}, data=DATA)
    assert (put.status_code, put.json()["size"]) == (201, len(DATA)), put.text
    assert operation("files.stat", path="deep/data.bin")["mode"] == "600"
    got = server.get(files, params={"path": "deep/data.bin"})
    assert (got.status_code, got.headers["Content-Length"], got.headers["Accept-Ranges"]) == (200, str(len(DATA)), "bytes")
    assert hashlib.sha256(got.content).digest() == hashlib.sha256(DATA).digest()
    head = server.request("HEAD", files, params={"path": "deep/data.bin"})
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(DATA)), b"")


def test_a_body_of_unknown_length_and_one_of_none(server, files):
    chunks = [b"x" * 100_000] * 100
    assert server.request("PUT", files, params={"path": "chunked"}, data=iter(chunks)).json()["size"] == 10_000_000
    assert server.get(files, params={"path": "chunked"}).content == b"".join(chunks)
    assert server.request("PUT", files, params={"path": "empty"}, data=b"").json()["size"] == 0
    assert server.get(files, params={"path": "empty"}).content == b""


@pytest.mark.parametrize("given, first, last, status", [
    ("bytes=0-0", 0, 1, 206), ("bytes=5-9", 5, 10, 206), ("bytes=99-", 99, 100, 206), ("bytes=-1", 99, 100, 206),
    ("bytes=-1000", 0, 100, 206), ("bytes=50-1000", 50, 100, 206), ("bytes=9-5", 0, 100, 200), ("bytes=x", 0, 100, 200),
    ("bytes=1-2,5-6", 0, 100, 200), ("lines=1-2", 0, 100, 200), ("bytes=100-", 0, 0, 416), ("bytes=-0", 0, 0, 416)])
def test_ranges(server, files, given, first, last, status):
    data = bytes(range(100))
    server.request("PUT", files, params={"path": "range"}, data=data)
    got = server.get(files, params={"path": "range"}, headers={"Range": given})
    assert got.status_code == status
    if status == 416:
        assert got.headers["Content-Range"] == "bytes */100"
        return
    assert got.content == data[first:last]
    if status == 206:
        assert got.headers["Content-Range"] == f"bytes {first}-{last - 1}/100"


def test_files_that_cannot_be_had(server, files):
    for path, status in (("none", 404), ("/tmp", 400), ("", 400), ("/dev/zero", 400)):
        got = server.get(files, params={"path": path})
        assert got.status_code == status, path
        assert got.json()["message"]
    assert server.get(files).status_code == 400
    for path, status in (("/etc/x", 403), ("none/such", 404), ("/tmp", 400)):
        put = server.request("PUT", files, params={"path": path}, data=DATA)
        assert put.status_code in (status, 409, 400, 403), (path, put.text)
        assert put.json()["suggestion"]
    assert server.get("/api/status").ok


def test_an_upload_that_breaks_off_leaves_the_old_file(server, files, operation):
    server.request("PUT", files, params={"path": "old"}, data=b"old")
    host, port = server.url.split("//")[1].split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as s:
        s.sendall(f"PUT {files}?path=old&token={server.token} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n".encode()
                  + b"x" * 9_000_000)
    assert server.get(files, params={"path": "old"}).content == b"old"
    wait_until(lambda: [e["name"] for e in operation("files.list")["entries"] if "old" in e["name"]] == ["old"], "its pieces stay")


def test_a_reader_that_stops_harms_nobody_and_one_that_leaves_ends_the_download(server, kernel, files, operation):
    operation("exec.run", cmd="truncate -s 2G /tmp/sparse")
    host, port = server.url.split("//")[1].split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as s:
        s.sendall(f"GET {files}?path=/tmp/sparse&token={server.token} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert s.recv(100).startswith(b"HTTP/1.1 200 ")
        assert operation("files.exists", path="/tmp/sparse")["exists"]
        rss = int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{server.pid}/status").read())[1])
        assert rss < 200_000
    assert operation("files.exists", path="/tmp/sparse")["exists"]


def test_many_at_a_time(server, files):
    bodies = [os.urandom(300_000 + i) for i in range(8)]
    bad = []

    def both(i):
        server.request("PUT", files, params={"path": f"many{i}"}, data=bodies[i])
        if server.get(files, params={"path": f"many{i}"}).content != bodies[i]:
            bad.append(i)

    threads = [threading.Thread(target=both, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not bad


# --- described and counted


def test_the_description_has_every_operation_with_its_parameters(server):
    spec = server.get("/api/spec.json").json()
    assert spec["openapi"].startswith("3.1")
    rows = (pathlib.Path(__file__).parent.parent / "wall" / "operations.def").read_text()
    names = re.findall(r'^OPERATION\("([\w.]+)"', rows, re.M)
    assert len(names) > 30
    assert {f"/api/kernels/{{kernel_id}}/sandbox/{n}" for n in names} <= set(spec["paths"])
    write = spec["paths"]["/api/kernels/{kernel_id}/sandbox/files.write"]["post"]
    schema = write["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["path"]
    assert schema["properties"]["parents"] == {"type": "boolean"}
    assert set(spec["paths"]["/api/kernels"]) == {"get", "post"}
    for path, methods in spec["paths"].items():
        for method in methods.values():
            named = {p["name"] for p in method["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path)), path


def test_metrics(server, kernel):
    text = server.get("/metrics").text
    assert re.search(r"^husk_kernels\{state=\"idle\"\} [1-9]", text, re.M)
    assert re.search(r"^husk_http_requests_total [1-9]", text, re.M)
    for line in text.splitlines():
        assert re.fullmatch(r'#.*|\w+(\{\w+="\w+"\})? \d+', line)
    assert requests.get(server.url + "/metrics", timeout=TIMEOUT).status_code == 403
