# SPDX-License-Identifier: BSD-3-Clause
"""husk serve: the Jupyter kernels API, at the wire and with stock clients."""

import concurrent.futures
import datetime
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import pytest
import requests
import websocket
from jupyter_client import BlockingKernelClient
from jupyter_kernel_client import JupyterKernelClient

from conftest import HUSK, PORTS, PYTHON, TIMEOUT, is_gone
from serving import V1, Api, Server, kernel, server, wait_until  # noqa: F401 (fixtures)

FORMS = {"legacy": None, "v1": [V1]}


@pytest.fixture
def channels(server, kernel):
    c = server.connect(kernel)
    yield c
    c.close()


@pytest.fixture
def make_server():
    made = []

    def make(*options, **arguments):
        made.append(Server(*options, **arguments))
        return made[-1]

    yield make
    for s in made:
        s.stop()


def children(pid):
    return [int(p) for t in os.listdir(f"/proc/{pid}/task")
            for p in open(f"/proc/{pid}/task/{t}/children").read().split()]


# --- who may ask


@pytest.mark.parametrize("header, query, status", [
    pytest.param(None, "", 403, id="nothing"),
    pytest.param("token secret", "", 200, id="token"),
    pytest.param("Token secret", "", 200, id="Token"),
    pytest.param("Bearer secret", "", 200, id="Bearer"),
    pytest.param("bearer   secret", "", 200, id="bearer-spaces"),
    pytest.param("token wrong", "", 403, id="wrong"),
    pytest.param("token secret2", "", 403, id="longer"),
    pytest.param("token secre", "", 403, id="shorter"),
    pytest.param("token ", "", 403, id="empty"),
    pytest.param("Basic secret", "", 403, id="basic"),
    pytest.param("secret", "", 403, id="no-scheme"),
    pytest.param("token " + "x" * 5000, "", 403, id="huge"),
    pytest.param(None, "?token=secret", 200, id="query"),
    pytest.param(None, "?token=", 403, id="query-empty"),
    pytest.param(None, "?token=None", 403, id="query-None"),
    pytest.param("Basic eHg=", "?token=secret", 200, id="other-header-and-query"),
])
def test_a_token_in_any_form_opens_the_api(server, header, query, status):
    reply = requests.get(server.url + "/api/status" + query, headers={"Authorization": header} if header else {},
                         timeout=TIMEOUT)
    assert reply.status_code == status
    if status == 403:
        assert reply.json() == {"message": "Forbidden", "reason": None}


def test_the_version_needs_no_token(server):
    reply = requests.get(server.url + "/api", timeout=TIMEOUT)
    assert reply.status_code == 200
    assert reply.json()["version"] >= "2"


def test_a_websocket_needs_the_token(server, kernel):
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        websocket.create_connection(f"{server.url.replace('http', 'ws')}/api/kernels/{kernel}/channels", timeout=TIMEOUT)


@pytest.mark.parametrize("host, status", [
    ("localhost:8888", 200), ("127.0.0.1", 200), ("[::1]:1", 200), ("127.8.8.8:99", 200), ("evil.example", 403),
    ("127.0.0.1.evil.example", 403), ("localhost.evil.example:8888", 403), ("10.0.0.1", 403), ("", 403)])
def test_a_name_that_was_made_to_mean_this_machine_is_refused(server, host, status):
    assert server.get("/api/status", headers={"Host": host}).status_code == status


def test_without_a_token_pages_of_other_origins_are_refused(make_server):
    server = make_server(token="")
    mine = server.url.split("//")[1]
    bare = {"headers": {"Authorization": ""}}
    assert server.get("/api/status", **bare).status_code == 200
    for headers, status in [({"Origin": f"http://{mine}"}, 200), ({"Origin": "http://evil.example"}, 403),
                            ({"Origin": "null"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
                            ({"Sec-Fetch-Site": "same-origin"}, 200), ({"Authorization": "token "}, 200)]:
        assert server.get("/api/status", headers={"Authorization": "", **headers}).status_code == status, headers
    assert server.post("/api/kernels", headers={"Origin": "http://evil.example"}).status_code == 403
    kernel = server.start()
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        server.connect(kernel, origin="http://evil.example")
    server.connect(kernel, origin=f"http://{mine}").close()


def test_no_token_is_taken_on_an_address_that_others_reach():
    run = subprocess.run([HUSK, "serve", "--token=", "--ip=0.0.0.0", "--port=0"], capture_output=True, text=True,
                         timeout=TIMEOUT)
    assert run.returncode == 64
    assert "without a token it serves loopback addresses only" in run.stderr


def test_a_token_is_made_and_said_with_the_url():
    process = subprocess.Popen([HUSK, "serve", "--port=0"], stderr=subprocess.PIPE, text=True,
                               env={k: v for k, v in os.environ.items() if k != "JUPYTER_TOKEN"})
    line = process.stderr.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+/\?token=[0-9a-f]{48}", line)
    assert url, line
    base, query = url[0].split("/?")
    assert requests.get(f"{base}/api/status?{query}", timeout=TIMEOUT).status_code == 200
    process.terminate()
    assert process.wait(TIMEOUT) == 0
    process.stderr.close()


@pytest.mark.parametrize("how", ["environment", "file", "environment-file"])
def test_where_a_token_comes_from(make_server, tmp_path, how):
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    options, env, token = {
        "environment": ([], {"JUPYTER_TOKEN": "from-the-environment"}, "from-the-environment"),
        "file": ([f"--token-file={file}"], {"JUPYTER_TOKEN": "other"}, "from-a-file"),
        "environment-file": ([], {"JUPYTER_TOKEN_FILE": str(file)}, "from-a-file")}[how]
    server = make_server(*options, token=None, env=env)
    assert server.token == token
    assert server.get("/api/status").status_code == 200
    kernel = server.start()
    # Neither the kernel's process nor the cells have it.
    assert all(token.encode() not in open(f"/proc/{p}/environ", "rb").read() for p in children(server.pid))
    assert token not in server.connect(kernel).run("import os; print(dict(os.environ))").stdout


@pytest.mark.parametrize("options, said", [
    (["--port=99999"], "is no port"), (["--port=x"], "is no number"), (["--no-such-option"], "no option"),
    (["--memory=lots"], "is no size"), (["--certfile=x"], "go together"), (["--grant=all"], "is not one of"),
    (["--spec=none-such"], "there is no such kernelspec"), (["--front=7"], "for the server to give"),
    (["--ip=256.1.1.1"], "--ip"), (["--token-file=/nonexistent"], "No such file"), (["--max-kernels=0"], "at least 1"),
    (["--max-body=1g"], "at most 512m")])
def test_a_wrong_command_line_is_said_and_ends(options, said):
    run = subprocess.run([HUSK, "serve", "--port=0", *options], capture_output=True, text=True, timeout=TIMEOUT)
    assert run.returncode in (64, 66, 69)
    assert said in run.stderr


# --- REST


def test_models_have_the_form_that_clients_parse(server, kernel):
    model = server.get(f"/api/kernels/{kernel}").json()
    assert set(model) >= {"id", "name", "last_activity", "execution_state", "connections"}
    assert re.fullmatch(r"\w+-\w+-\w+-\w+-\w+", model["id"])
    datetime.datetime.strptime(model["last_activity"], "%Y-%m-%dT%H:%M:%S.%fZ")
    assert model["name"] == "python3"
    assert model["execution_state"] in ("idle", "busy")
    assert isinstance(model["connections"], int)
    assert model in [{**m, "last_activity": model["last_activity"]} for m in server.get("/api/kernels").json()]
    status = server.get("/api/status").json()
    assert set(status) == {"started", "last_activity", "connections", "kernels"}
    assert server.get("/api/me").json()["identity"]["username"]


def test_kernelspecs_and_their_resources(server):
    specs = server.get("/api/kernelspecs?user=x").json()
    assert specs["default"] == "python3"
    assert set(specs["kernelspecs"]) == {"python3", "husk"}
    spec = server.get("/api/kernelspecs/python3").json()
    assert spec == specs["kernelspecs"]["python3"]
    assert spec["spec"]["language"] == "python"
    logo = server.get(spec["resources"]["logo-64x64"])
    assert logo.headers["Content-Type"] == "image/png"
    assert logo.content.startswith(b"\x89PNG")
    for path in ("/api/kernelspecs/none", "/kernelspecs/python3/kernel.json", "/kernelspecs/none/logo-64x64.png",
                 "/kernelspecs/python3/..%2f..%2fREADME.md"):
        reply = server.get(path)
        assert reply.status_code == 404, path
        assert set(reply.json()) == {"message", "reason"}


@pytest.mark.parametrize("body, name", [(None, "python3"), (b"{}", "python3"), (b'{"name": "python3", "path": null}', "python3"),
                                        (b'{"name": "husk"}', "husk"), (b'{"name": null, "env": {}}', "python3")],
                         ids=["no-body", "empty", "jupyter-kernel-client", "husk", "null"])
def test_a_kernel_is_started_and_deleted(server, body, name):
    reply = server.post("/api/kernels", data=body)
    assert reply.status_code == 201
    assert reply.json()["name"] == name
    assert reply.headers["Location"] == f"/api/kernels/{reply.json()['id']}"
    assert reply.json()["execution_state"] == "idle"
    where = reply.headers["Location"]
    deleted = server.request("DELETE", where)
    assert (deleted.status_code, deleted.content) == (204, b"")
    again = server.request("DELETE", where)
    assert again.status_code == 404
    assert again.json() == {"message": f"Kernel does not exist: {where.split('/')[-1]}", "reason": None}


def test_a_client_may_choose_the_id_of_its_kernel(server):
    mine = str(uuid.uuid4())
    made = server.post("/api/kernels", json={"kernel_id": mine})
    assert (made.status_code, made.json()["id"]) == (201, mine)
    again = server.post("/api/kernels", json={"kernel_id": mine})
    assert (again.status_code, again.json()["message"]) == (409, f"Kernel already exists: {mine}")
    for bad in ("x", "../../../../../../../../../etc/passwd", "a--b-c-d" + "e" * 28, 7, "-" + mine[1:]):
        assert server.post("/api/kernels", json={"kernel_id": bad}).status_code == 400
    other = str(uuid.uuid4())
    session = server.post("/api/sessions", json={"path": other, "kernel": {"id": other, "name": "husk"}})
    assert (session.json()["kernel"]["id"], session.json()["kernel"]["name"]) == (other, "husk")
    assert session.headers["Location"] == f"/api/sessions/{session.json()['id']}"
    where = f"/api/sessions/{session.json()['id']}"
    assert server.request("PATCH", where, json={"kernel": {"id": str(uuid.uuid4())}}).status_code == 404
    assert server.request("PATCH", where, json={"kernel": {"id": mine}}).json()["kernel"]["id"] == mine
    assert server.get(f"/api/kernels/{other}").status_code == 404  # the one that it had is gone when that is said
    server.request("DELETE", where)


@pytest.mark.parametrize("body, status, said", [
    (b"{", 400, "Invalid JSON"), (b"[]", 400, "Invalid JSON"), (b'{"name": 7}', 400, "are texts"),
    (b'{"name": "none"}', 404, "Kernel spec not found: none"), (b'{"nmae": "x"}', 400, "is not known here; there are: name"),
    (b'{"env": []}', 400, "are objects"), (b'{"env": {"A": 7}}', 400, "no variable"), (b'{"env": {"A B": "x"}}', 400, "no variable"),
    (b'{"env": {"A": "\\u0000"}}', 400, "no variable"), (b'\xff{}', 400, "Invalid JSON"),
    (b'{"sandbox": {"memory": "lots"}}', 400, "is no size"), (b'{"sandbox": {"cpu": 1}}', 400, "is not known here"),
    (b'{"sandbox": {"cpus": -1}}', 400, "no number of processors"), (b'{"sandbox": {"memory": [1]}}', 400, "neither text nor"),
    (b'{"sandbox": {"network": "all"}}', 403, "--grant network"), (b'{"sandbox": {"allow": ["x.org"]}}', 403, "--grant network"),
    (b'{"sandbox": {"mounts": ["/etc"]}}', 403, "--grant mounts"), (b'{"sandbox": {"image": "/x.tar"}}', 403, "--grant images"),
    (b'{"sandbox": {"name": "a/b"}}', 500, "no name"), (b'{"sandbox": {"tags": []}}', 400, "no object"),
    (b'{"sandbox": {"front": 5}}', 400, "is not known here"), (b'{"sandbox": {"hostname": "--network=all"}}', 500, "hostname")],
    ids=range(22))
def test_a_body_that_is_wrong_starts_nothing(server, body, status, said):
    before = server.get("/api/status").json()["kernels"]
    reply = server.post("/api/kernels", data=body)
    assert (reply.status_code, set(reply.json())) == (status, {"message", "reason"}), reply.text
    assert said in reply.json()["message"]
    assert server.get("/api/status").json()["kernels"] == before


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/", 404), ("GET", "/api/none", 404), ("GET", "/hub/api", 404), ("GET", "/api/kernels/none", 404),
    ("POST", "/api/kernels/none/interrupt", 404), ("POST", "/api/kernels/none/restart", 404), ("PUT", "/api/kernels", 405),
    ("DELETE", "/api/status", 405), ("GET", "/api/kernels/none/restart", 405), ("GET", "/api/sessions/none", 404),
    ("GET", "//api/status", 200), ("GET", "/api/kernels/none/channels", 404), ("BREW", "/api/status", 405)])
def test_what_is_not_there_is_said_in_jupyters_form(server, method, path, status):
    reply = server.request(method, path)
    assert reply.status_code == status
    if status != 200:
        assert set(reply.json()) == {"message", "reason"}
    if status == 405:
        assert "GET" in reply.headers["Allow"] or "POST" in reply.headers["Allow"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(make_server):
    server = make_server("--max-body=1k")
    host, port = server.url.split("//")[1].split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as s:
        s.sendall(b"POST /api/kernels?token=secret HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n{")
        assert s.recv(4096).startswith(b"HTTP/1.1 413 ")
    chunks = (b" " * 500 for _ in range(10))
    assert server.post("/api/kernels", data=chunks).status_code == 413
    assert server.get("/api/status").json()["kernels"] == 0


def test_options_of_a_kernel_are_those_that_were_asked_for(make_server):
    server = make_server("--memory=512m", "--grant=network")
    kernel = server.start(env={"GREETING": "hällo wörld", "NONE": None},
                          sandbox={"memory": 256 << 20, "hostname": "elsewhere", "cell_timeout": 2, "tags": {"a": "b"},
                                   "name": f"t{uuid.uuid4().hex[:8]}"})
    c = server.connect(kernel)
    assert c.run("import os, socket; print(os.environ['GREETING'], 'NONE' in os.environ, socket.gethostname())").stdout == \
        "hällo wörld False elsewhere\n"
    assert c.run("while True: pass").reply["ename"] == "KeyboardInterrupt"
    done = c.ask("sandbox_request", {"method": "sandbox.usage"}, "control")
    assert done.reply["result"]["memory_limit_bytes"] == 256 << 20
    done = c.ask("sandbox_request", {"method": "sandbox.info"}, "control")
    assert done.reply["result"]["tags"] == {"a": "b"}
    more = server.post("/api/kernels", json={"sandbox": {"memory": "1g"}})
    assert (more.status_code, more.json()["message"]) == (403, "sandbox: 'memory' is at most 512m on this server")


def test_variables_are_on_no_command_line(server):
    kernel = server.start(env={"KEY": "a-secret-value"})
    lines = [open(f"/proc/{p}/cmdline").read() for p in os.listdir("/proc") if p.isdigit() and not is_gone(p)]
    assert not any("a-secret-value" in line for line in lines)
    server.request("DELETE", f"/api/kernels/{kernel}")


def test_a_kernel_that_cannot_start_says_why(server, make_server):
    server = make_server("--python=/nonexistent/python")
    reply = server.post("/api/kernels")
    assert reply.status_code == 500
    assert "/nonexistent/python" in reply.json()["message"]
    assert server.get("/api/kernels").json() == []


def test_there_are_no_more_kernels_than_allowed(make_server):
    server = make_server("--max-kernels=1")
    kernel = server.start()
    reply = server.post("/api/kernels")
    assert (reply.status_code, "--max-kernels" in reply.json()["message"]) == (503, True)
    assert server.request("DELETE", f"/api/kernels/{kernel}").status_code == 204
    server.start()


def test_a_kernelspec_of_husk_install_is_offered_if_it_is_named(make_server, tmp_path):
    for name, options in (("work", ["--profile", "notebook", "--workdir", str(tmp_path)]), ("other", [])):
        subprocess.run([HUSK, "install", "--prefix", str(tmp_path), "--name", name, "--python", PYTHON, *options],
                       check=True, capture_output=True)
    server = make_server("--spec=work", env={"JUPYTER_PATH": str(tmp_path / "share" / "jupyter")})
    assert set(server.get("/api/kernelspecs").json()["kernelspecs"]) == {"python3", "husk", "work"}
    assert server.post("/api/kernels", json={"name": "other"}).status_code == 404
    kernel = server.start(name="work")
    assert server.connect(kernel).run("import os; print(os.getcwd())").stdout == f"{tmp_path}\n"


# --- sessions


def test_sessions_and_their_kernels(server):
    made = server.post("/api/sessions", json={"path": "a/b.ipynb", "name": "", "type": "notebook", "kernel": {"name": "python3"}})
    assert made.status_code == 201
    session = made.json()
    kernel = session["kernel"]["id"]
    assert (session["path"], session["type"], session["notebook"]["path"]) == ("a/b.ipynb", "notebook", "a/b.ipynb")
    assert server.post("/api/sessions", json={"path": "a/b.ipynb", "kernel": {"name": "husk"}}).json()["id"] == session["id"]
    assert session["id"] in [s["id"] for s in server.get("/api/sessions").json()]
    where = f"/api/sessions/{session['id']}"
    assert server.get(where).json()["kernel"]["id"] == kernel
    renamed = server.request("PATCH", where, json={"path": "c.ipynb", "name": "c"})
    assert (renamed.status_code, renamed.json()["path"], renamed.json()["name"]) == (200, "c.ipynb", "c")
    other = server.request("PATCH", where, json={"kernel": {"name": "husk"}}).json()
    assert other["kernel"]["name"] == "husk"
    assert server.get(f"/api/kernels/{kernel}").status_code == 404
    assert server.request("PATCH", where, json={"kernel": {"id": "none"}}).status_code == 404
    assert server.request("DELETE", where).status_code == 204
    assert server.get(where).status_code == 404
    assert server.get(f"/api/kernels/{other['kernel']['id']}").status_code == 404


def test_a_session_ends_with_its_kernel_and_may_take_one_that_runs(server):
    kernel = server.start()
    made = server.post("/api/sessions", json={"path": uuid.uuid4().hex, "type": "console", "kernel": {"id": kernel}}).json()
    assert made["kernel"]["id"] == kernel
    assert "notebook" not in made
    server.request("DELETE", f"/api/kernels/{kernel}")
    assert server.get(f"/api/sessions/{made['id']}").status_code == 404
    assert server.post("/api/sessions", json={"kernel": {"name": "python3"}}).json()["message"] == "Missing field in JSON data: path"
    assert server.post("/api/sessions", json={"path": "x", "kernel": {"id": "none"}}).status_code == 404
    assert server.post("/api/sessions", json={"path": "x", "kernel": []}).status_code == 400


# --- channels


@pytest.mark.parametrize("form", FORMS)
def test_a_cell_runs_in_either_framing(server, kernel, form):
    c = server.connect(kernel, subprotocols=FORMS[form])
    assert c.socket.getsubprotocol() == (V1 if form == "v1" else None)
    done = c.run("print('hällo', 6 * 7); 1 + 1")
    assert done.status == "ok"
    assert done.stdout == "hällo 42\n"
    assert done.of("execute_result")[0]["content"]["data"]["text/plain"] == "2"
    if form == "legacy":
        assert all(m["msg_id"] == m["header"]["msg_id"] and m["msg_type"] == m["header"]["msg_type"] for m in done.messages)
    c.close()


@pytest.mark.parametrize("form", FORMS)
def test_buffers_go_both_ways(server, kernel, form):
    c = server.connect(kernel, subprotocols=FORMS[form])
    c.run("""
        def target(comm, message):
            @comm.on_msg
            def echo(m):
                comm.send({"n": len(m["buffers"])}, buffers=[bytes(b)[::-1] for b in m["buffers"]])
        get_ipython().kernel.comm_manager.register_target("echo", target)
    """.replace("\n        ", "\n"))
    comm = uuid.uuid4().hex
    c.send(c.message("comm_open", {"comm_id": comm, "target_name": "echo", "data": {}}))
    c.send(c.message("comm_msg", {"comm_id": comm, "data": {}}), [b"abc", b"", b"\x00\xff" * 50000])
    while (m := c.receive())["header"]["msg_type"] != "comm_msg":
        pass
    assert m["content"]["data"] == {"n": 3}
    assert [bytes(b) for b in m["buffers"]] == [b"cba", b"", b"\xff\x00" * 50000]
    c.close()


def test_what_waits_keeps_its_buffers(server, kernel):
    """While a cell runs other messages come through the same memory."""
    c = server.connect(kernel)
    c.run("import hashlib, time; from IPython.display import display\n"
          "def target(comm, message): comm.on_msg(lambda m: display({'text/plain': hashlib.sha256(m['buffers'][0]).hexdigest()}, raw=True))\n"
          "get_ipython().kernel.comm_manager.register_target('digest', target)")
    comm = uuid.uuid4().hex
    c.send(c.message("comm_open", {"comm_id": comm, "target_name": "digest", "data": {}}))
    c.send(c.message("execute_request", {"code": "time.sleep(1)"}))
    pieces = [bytes([i]) * 50000 for i in range(40)]
    for piece in pieces:
        c.send(c.message("comm_msg", {"comm_id": comm, "data": {}}), [piece])
    found = []
    while len(found) < len(pieces):
        m = c.receive()
        found += [m["content"]["data"]["text/plain"]] if m["header"]["msg_type"] == "display_data" else []
    assert found == [hashlib.sha256(piece).hexdigest() for piece in pieces]
    c.close()


def test_the_subprotocol_is_taken_among_others_and_an_unknown_one_is_not(server, kernel):
    c = server.connect(kernel, subprotocols=["x", V1])
    assert c.socket.getsubprotocol() == V1
    c.close()
    key = "Sec-WebSocket-Protocol"
    reply = server.get(f"/api/kernels/{kernel}/channels", headers={
        "Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", key: "v2.unknown"}, stream=True)
    assert reply.status_code == 101
    assert key not in reply.headers
    reply.close()


@pytest.mark.parametrize("headers, status", [
    ({}, 400), ({"Upgrade": "h2c", "Connection": "upgrade"}, 400), ({"Upgrade": "websocket"}, 400),
    ({"Upgrade": "websocket", "Connection": "Upgrade"}, 426),
    ({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "8", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}, 426),
    ({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}, 400),
    ({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAA"}, 400)],
    ids=["plain", "h2c", "no-connection", "no-version", "version-8", "no-key", "short-key"])
def test_a_bad_upgrade_is_refused(server, kernel, headers, status):
    reply = server.get(f"/api/kernels/{kernel}/channels", headers=headers)
    assert (reply.status_code, set(reply.json())) == (status, {"message", "reason"})
    if status == 426:
        assert reply.headers["Sec-WebSocket-Version"] == "13"


def raw(*offsets, form="<Q", rest=b""):
    import struct
    return b"".join(struct.pack(form, o) for o in offsets) + rest


BAD = {
    "text: no JSON": ("legacy", "text", b"hello", 1007),
    "text: an array": ("legacy", "text", b"[]", 1007),
    "text: header is no object": ("legacy", "text", b'{"channel": "shell", "header": 7}', 1007),
    "text: no header": ("legacy", "text", b'{"channel": "shell"}', 1007),
    "text: channel is no text": ("legacy", "text", b'{"channel": 7, "header": {"msg_id": "a", "msg_type": "b"}}', 1007),
    "text: unknown channel": ("legacy", "text", b'{"channel": "moon", "header": {"msg_id": "a", "msg_type": "b"}}', 1008),
    "text: iopub is for listening": ("legacy", "text", b'{"channel": "iopub", "header": {"msg_id": "a", "msg_type": "b"}}', 1008),
    "text: no UTF-8": ("legacy", "text", b'{"channel": "\xff\xfe"}', 1007),
    "text: a lone surrogate": ("legacy", "text", b'{"channel": "\xed\xa0\x80"}', 1007),
    "text: deep": ("legacy", "text", b'{"a":' * 5000, 1007),
    "binary: empty": ("legacy", "binary", b"", 1007),
    "binary: short": ("legacy", "binary", b"\x00\x00", 1007),
    "binary: no offsets": ("legacy", "binary", raw(0, form=">I"), 1007),
    "binary: many offsets": ("legacy", "binary", raw(0xffffffff, 8, form=">I"), 1007),
    "binary: an offset beyond the end": ("legacy", "binary", raw(1, 99, form=">I", rest=b"{}"), 1007),
    "binary: an offset among the offsets": ("legacy", "binary", raw(1, 0, form=">I", rest=b"{}"), 1007),
    "binary: offsets that go back": ("legacy", "binary", raw(2, 14, 12, form=">I", rest=b"{}{}"), 1007),
    "v1: text": ("v1", "text", b"{}", 1003),
    "v1: empty": ("v1", "binary", b"", 1007),
    "v1: few offsets": ("v1", "binary", raw(2, 24, 24), 1007),
    "v1: many offsets": ("v1", "binary", raw(2 ** 64 - 1, 8), 1007),
    "v1: wraps around": ("v1", "binary", raw(2 ** 61, 8), 1007),
    "v1: an offset beyond the end": ("v1", "binary", raw(6, 56, 61, 63, 65, 67, 2 ** 63, rest=b"shell{}{}{}{}"), 1007),
    "v1: offsets that go back": ("v1", "binary", raw(6, 56, 61, 60, 65, 67, 69, rest=b"shell{}{}{}{}"), 1007),
    "v1: the first among the offsets": ("v1", "binary", raw(6, 8, 61, 63, 65, 67, 69, rest=b"shell{}{}{}{}"), 1007),
    "v1: a part that is no JSON": ("v1", "binary", raw(6, 56, 61, 63, 65, 67, 69, rest=b"shell{}{}{}[]"), 1007),
    "v1: a channel that is no UTF-8": ("v1", "binary", raw(6, 56, 58, 60, 62, 64, 66, rest=b"\xff\xfe{}{}{}{}"), 1008),
    "v1: no msg_id": ("v1", "binary", raw(6, 56, 61, 63, 65, 67, 69, rest=b"shell{}{}{}{}"), 1007),
}


@pytest.mark.parametrize("what", BAD)
def test_a_frame_that_is_wrong_closes_with_a_code_and_a_reason(server, kernel, channels, what):
    form, kind, data, code = BAD[what]
    c = server.connect(kernel, subprotocols=FORMS[form])
    c.socket.send(data, websocket.ABNF.OPCODE_TEXT if kind == "text" else websocket.ABNF.OPCODE_BINARY)
    got, reason = c.close_code()
    assert got == code
    if "UTF-8" not in what and "surrogate" not in what:  # those end in the WebSocket layer
        assert reason
    assert channels.run("1").status == "ok"  # others are untouched


@pytest.mark.parametrize("frame, code", [
    (b"\x81\x02{}", 1002), (b"\xc1\x80\x00\x00\x00\x00", 1002), (b"\x83\x80\x00\x00\x00\x00", 1002),
    (b"\x89\xfe\x00\x80\x00\x00\x00\x00", 1002), (b"\x80\x80\x00\x00\x00\x00", 1002),
    (b"\x09\x80\x00\x00\x00\x00", 1002), (b"\x01\x81\x00\x00\x00\x00{\x81\x81\x00\x00\x00\x00}", 1002),
    (b"\x82\xff\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00x", 1009), (b"\x88\x81\x00\x00\x00\x00\x03", 1005)],
    ids=["unmasked", "reserved bit", "unknown opcode", "long ping", "continuation of nothing", "fragmented ping",
         "interleaved", "4 GiB", "close of one byte"])
def test_a_broken_websocket_is_closed(server, kernel, channels, frame, code):
    c = server.connect(kernel)
    c.socket.sock.sendall(frame)
    assert c.close_code()[0] == code
    assert channels.run("1").status == "ok"


def test_fragments_and_pings_between_them_are_one_message(server, kernel):
    c = server.connect(kernel)
    message = c.message("execute_request", {"code": "print('whole')"})
    data = json.dumps(message).encode()
    third = len(data) // 3
    frame = websocket.ABNF.create_frame
    for piece, opcode, last in ((data[:third], 1, 0), (data[third:2 * third], 0, 0), (data[2 * third:], 0, 1)):
        c.socket.send_frame(frame(piece, opcode, last))
        if not last:
            c.socket.ping(b"between")
    assert c.until_done(message["header"]["msg_id"]).stdout == "whole\n"
    c.close()


def test_an_odd_header_is_taken(server, kernel, channels):
    """Clients send dates of every kind, and leave out channel, buffers and metadata."""
    for extra in ({"date": "2026-11-22 04:30:45.755479+00:00"}, {"date": ""}, {"date": None}, {"version": "9"}):
        m = channels.message("execute_request", {"code": "print(1)"})
        m["header"].update(extra)
        for name in ("channel", "metadata", "parent_header"):
            del m[name]
        assert channels.until_done(channels.send(m)).stdout == "1\n"


def test_clients_see_each_other_and_get_their_own_replies(server):
    kernel = server.start()
    a, b = server.connect(kernel), server.connect(kernel, subprotocols=[V1])
    assert server.get(f"/api/kernels/{kernel}").json()["connections"] == 2
    msg_id = a.send(a.message("execute_request", {"code": "print('from a')"}))
    done = a.until_done(msg_id)
    assert done.stdout == "from a\n"
    seen = []
    while not (seen and seen[-1]["header"]["msg_type"] == "status" and seen[-1]["content"]["execution_state"] == "idle"):
        m = b.receive()
        if m["parent_header"].get("msg_id") == msg_id:
            seen.append(m)
    assert {m["channel"] for m in seen} == {"iopub"}
    a.close()
    wait_until(lambda: server.get(f"/api/kernels/{kernel}").json()["connections"] == 1, "a is counted")
    b.close()
    wait_until(lambda: server.get(f"/api/kernels/{kernel}").json()["connections"] == 0, "b is counted")


def test_a_second_socket_of_a_session_takes_the_place_of_the_first(server):
    kernel = server.start()
    first = server.connect(kernel)
    second = server.connect(kernel, session=first.session)
    assert first.close_code() == (1000, "another connection of the same session took its place")
    assert server.get(f"/api/kernels/{kernel}").json()["connections"] == 1
    assert second.run("print(1)").stdout == "1\n"
    second.close()


def test_input_is_asked_of_the_client_that_runs_the_cell(server, kernel, channels):
    other = server.connect(kernel)
    msg_id = channels.send(channels.message("execute_request", {"code": "print(input('name? ') + '!')"}))
    while (m := channels.receive())["channel"] != "stdin":
        pass
    assert (m["header"]["msg_type"], m["content"]["prompt"]) == ("input_request", "name? ")
    wrong = other.message("input_reply", {"value": "other"}, "stdin")
    other.send(wrong)
    channels.send({**channels.message("input_reply", {"value": "Ada"}, "stdin"), "parent_header": m["header"]})
    assert channels.until_done(msg_id).stdout == "Ada!\n"
    other.close()


def test_what_was_said_while_nobody_was_there_comes_first_when_the_session_is_back(server):
    kernel = server.start()
    c = server.connect(kernel)
    msg_id = c.send(c.message("execute_request", {"code": "import time; time.sleep(1); print('late'); 5"}))
    while c.receive()["header"]["msg_type"] != "execute_input":
        pass
    c.close()
    time.sleep(0.2)
    wait_until(lambda: server.get(f"/api/kernels/{kernel}").json()["execution_state"] == "idle", "the cell goes on")
    back = server.connect(kernel, session=c.session)
    done = back.until_done(msg_id)
    assert (done.status, done.stdout) == ("ok", "late\n")
    assert back.run("print('next')").messages[0]["content"] == {"execution_state": "busy"}
    back.close()
    # Another session is not told what was another's.
    wait_until(lambda: server.get(f"/api/kernels/{kernel}").json()["connections"] == 0, "it is counted")
    other = server.connect(kernel)
    assert other.run("print('mine')").messages[0]["content"] == {"execution_state": "busy"}
    server.request("DELETE", f"/api/kernels/{kernel}")


def test_a_hundred_megabytes_pass_in_both_directions(server):
    kernel = server.start()
    c = server.connect(kernel)
    c.run("from IPython.display import display\n"
          "def target(comm, message): comm.on_msg(lambda m: display({'text/plain': bytes(m['buffers'][0]).decode()}, raw=True))\n"
          "get_ipython().kernel.comm_manager.register_target('echo', target)")
    c.send(c.message("comm_open", {"comm_id": "big", "target_name": "echo", "data": {}}))
    c.send(c.message("comm_msg", {"comm_id": "big", "data": {}}), [b"x" * (100 << 20)])
    while (m := c.receive())["header"]["msg_type"] != "display_data":
        pass
    assert m["content"]["data"]["text/plain"] == "x" * (100 << 20)
    c.close()
    server.request("DELETE", f"/api/kernels/{kernel}")


def test_nothing_is_dropped_whatever_the_rate(server, channels):
    done = channels.run("for i in range(200_000): print(i)")
    assert done.stdout == "".join(f"{i}\n" for i in range(200_000))
    done = channels.run("from IPython.display import display\nfor i in range(4000): display(i)")
    assert len(done.of("display_data")) == 4000


def test_a_client_that_does_not_read_keeps_nobody_waiting(server):
    kernel = server.start()
    stopped, c = server.connect(kernel), server.connect(kernel)
    msg_id = c.send(c.message("execute_request", {"code": """
from IPython.display import display
for i in range(200): display({'text/plain': str(i) + 'x' * (1 << 20)}, raw=True)
"""}))
    assert len(c.until_done(msg_id).of("display_data")) == 200
    assert c.run("print('on')").stdout == "on\n"
    last, gap = -1, None
    while gap is None or last < 0:
        m = stopped.receive()
        if m["header"]["msg_type"] == "stream" and "[husk: a client did not read" in m["content"]["text"]:
            gap = m["content"]["text"]
        if m["header"]["msg_type"] == "display_data":
            last = int(m["content"]["data"]["text/plain"].split("x")[0])
    assert re.search(r"; \d+ messages of \d+ bytes were not delivered to it", gap)
    assert stopped.run("print('back')").stdout == "back\n"
    server.request("DELETE", f"/api/kernels/{kernel}")


# --- interrupt, restart, death


def test_interrupt(server, kernel, channels):
    msg_id = channels.send(channels.message("execute_request", {"code": "import time; print('on', flush=True); time.sleep(100)"}))
    while channels.receive()["header"]["msg_type"] != "stream":
        pass
    assert server.get(f"/api/kernels/{kernel}").json()["execution_state"] == "busy"
    reply = server.post(f"/api/kernels/{kernel}/interrupt", json={})
    assert (reply.status_code, reply.content) == (204, b"")
    assert channels.until_done(msg_id).reply["ename"] == "KeyboardInterrupt"


def test_restart_answers_what_is_open_keeps_files_and_the_connection(server):
    kernel = server.start()
    c = server.connect(kernel)
    c.run("x = 1; open('kept', 'w').write('kept')")
    runs = c.send(c.message("execute_request", {
        "code": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('on', flush=True)\nwhile True: pass"}))
    waits = c.send(c.message("execute_request", {"code": "print('never')"}))
    while c.receive()["header"]["msg_type"] != "stream":
        pass
    with concurrent.futures.ThreadPoolExecutor() as pool:
        restart = pool.submit(server.post, f"/api/kernels/{kernel}/restart")
        done = c.until_done(waits)
        assert done.status == "aborted"
        done = c.until_done(runs)
        assert (done.status, done.reply["ename"]) == ("error", "KernelRestarted")
        assert isinstance(done.reply["execution_count"], int)
        reply = restart.result()
    assert (reply.status_code, reply.json()["id"], reply.json()["execution_state"]) == (200, kernel, "idle")
    done = c.run("print(open('kept').read(), 'x' in globals())")
    assert done.stdout == "kept False\n"
    assert done.reply["execution_count"] == 1
    assert "InterpreterDied" not in json.dumps(done.messages)
    server.request("DELETE", f"/api/kernels/{kernel}")


def test_an_idle_kernel_restarts_and_runs_its_exit_handlers(server):
    kernel = server.start()
    c = server.connect(kernel)
    c.run("import atexit; atexit.register(lambda: open('/workspace/ended', 'w').close())")
    assert server.post(f"/api/kernels/{kernel}/restart").status_code == 200
    assert c.run("import os; print(os.path.exists('ended'))").stdout == "True\n"
    server.request("DELETE", f"/api/kernels/{kernel}")


def test_an_interpreter_that_dies_answers_at_once(server):
    kernel = server.start()
    c = server.connect(kernel)
    done = c.run("import os; os.kill(os.getpid(), 9)")
    assert (done.status, done.reply["ename"]) == ("error", "InterpreterDied")
    assert c.run("print('new')").stdout == "new\n"
    server.request("DELETE", f"/api/kernels/{kernel}")


def test_a_kernel_that_is_killed_answers_and_others_go_on(server, kernel, channels):
    victim = server.start()
    pid = next(p for p in children(server.pid) if server.get(f"/api/kernels/{victim}").json()["sandbox"] and
               str(p) in subprocess.run([HUSK, "ls"], capture_output=True, text=True).stdout and
               server.get(f"/api/kernels/{victim}").json()["sandbox"] in
               [line.split()[0] for line in subprocess.run([HUSK, "ls"], capture_output=True, text=True).stdout.splitlines() if str(p) in line.split()])
    c = server.connect(victim)
    msg_id = c.send(c.message("execute_request", {"code": "print('on', flush=True); import time; time.sleep(100)"}))
    while c.receive()["header"]["msg_type"] != "stream":
        pass
    os.kill(pid, signal.SIGKILL)
    done = c.until_done(msg_id)
    assert (done.status, done.reply["ename"]) == ("error", "KernelDied")
    assert "signal 9" in done.reply["evalue"]
    while (m := c.receive())["content"].get("execution_state") != "dead":
        pass
    model = server.get(f"/api/kernels/{victim}").json()
    assert (model["execution_state"], "signal 9" in model["reason"]) == ("dead", True)
    assert c.run("1").reply["ename"] == "KernelDied"  # also what is asked of it now
    assert channels.run("1").status == "ok"
    assert server.post(f"/api/kernels/{victim}/restart").status_code == 200
    assert c.run("print('again')").stdout == "again\n"
    assert server.request("DELETE", f"/api/kernels/{victim}").status_code == 204


def test_a_kernel_that_ends_itself_is_gone_and_says_so(server):
    kernel = server.start()
    c = server.connect(kernel)
    c.send(c.message("shutdown_request", {"restart": False}, "control"))
    states = []
    while "dead" not in states:
        states.append(c.receive()["content"].get("execution_state"))
    assert c.close_code() == (1000, "the kernel has ended")
    assert server.get(f"/api/kernels/{kernel}").status_code == 404


def test_a_shutdown_that_asks_for_a_restart_brings_a_new_one(server):
    kernel = server.start()
    c = server.connect(kernel)
    c.run("x = 1")
    c.send(c.message("shutdown_request", {"restart": True}, "control"))
    states = []
    while "restarting" not in states:
        states.append(c.receive()["content"].get("execution_state"))
    assert c.run("print('x' in globals())").stdout == "False\n"
    server.request("DELETE", f"/api/kernels/{kernel}")


def test_deleting_answers_what_runs(server):
    kernel = server.start()
    c = server.connect(kernel)
    msg_id = c.send(c.message("execute_request", {"code": "print('on', flush=True)\nwhile True: pass"}))
    while c.receive()["header"]["msg_type"] != "stream":
        pass
    with concurrent.futures.ThreadPoolExecutor() as pool:
        deleted = pool.submit(server.request, "DELETE", f"/api/kernels/{kernel}")
        assert c.until_done(msg_id).status == "error"
        assert deleted.result().status_code == 204


def test_the_server_ends_with_all_its_kernels(make_server):
    server = make_server()
    kernel = server.start()
    c = server.connect(kernel)
    msg_id = c.send(c.message("execute_request", {"code": "import time; print('on', flush=True); time.sleep(1); print('off')"}))
    while c.receive()["header"]["msg_type"] != "stream":
        pass
    kernels = children(server.pid)
    server.process.terminate()
    assert "off\n" in c.until_done(msg_id).stdout  # what runs comes to its end
    assert c.close_code()[0] in (1000, 1001)
    assert server.process.wait(TIMEOUT) == 0
    assert kernels
    for pid in kernels:
        wait_until(lambda: is_gone(pid), f"{pid} lives on")


def test_kill_9_of_the_server_leaves_nothing(make_server):
    server = make_server()
    c = server.connect(server.start())
    c.send(c.message("execute_request", {"code": "while True: pass"}))
    all_of_them = set(children(server.pid))
    for pid in list(all_of_them):
        for child in children(pid):
            all_of_them |= {child, *children(child)}
    assert len(all_of_them) >= 3
    os.kill(server.pid, signal.SIGKILL)
    for pid in all_of_them:
        wait_until(lambda: is_gone(pid), f"{pid} lives on")


# --- beside HTTP


def test_a_kernel_has_no_zeromq_until_somebody_comes_with_it(server):
    kernel = server.start()
    c = server.connect(kernel)
    sandbox = server.get(f"/api/kernels/{kernel}").json()["sandbox"]
    ls = json.loads(subprocess.run([HUSK, "ls", "-o", "json"], capture_output=True, text=True, check=True).stdout)
    entry = next(s for s in ls if s["id"] == sandbox)
    threads = lambda: len(os.listdir(f"/proc/{entry['pid']}/task"))
    assert threads() == 1
    c.run("x = 40")
    assert threads() == 1
    said = subprocess.run([HUSK, "exec", sandbox, "--", "echo", "hello"], capture_output=True, text=True, timeout=TIMEOUT)
    assert (said.returncode, said.stdout) == (0, "hello\n")
    assert threads() == 1
    client = BlockingKernelClient(connection_file=entry["connection_file"])
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=TIMEOUT)
    client.stop_channels()
    assert threads() > 1
    assert c.run("print(x + 2)").stdout == "42\n"
    server.request("DELETE", f"/api/kernels/{kernel}")
    assert sandbox not in subprocess.run([HUSK, "ls"], capture_output=True, text=True).stdout


def test_strangers_who_are_slow_are_not_waited_for_and_idle_connections_harm_nobody(server):
    """Neither for a head, nor for a body where no token is needed."""
    host, port = server.url.split("//")[1].split(":")
    idle = [socket.create_connection((host, int(port)), TIMEOUT) for _ in range(300)]
    slow = {}
    for name, start in [("head", b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nX-Slow: "),
                        ("form", b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000\r\n\r\n"),
                        ("body", b"GET /api HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000\r\n\r\n")]:
        slow[name] = socket.create_connection((host, int(port)), TIMEOUT)
        slow[name].sendall(start)
    end = time.monotonic() + TIMEOUT
    while slow and time.monotonic() < end:
        for name, s in list(slow.items()):
            try:
                s.sendall(b"x")
            except OSError:
                slow.pop(name).close()
        time.sleep(0.2)
        assert server.get("/api/status").status_code == 200
    assert not slow, "they may send for ever"
    for s in idle:
        s.close()


@pytest.mark.parametrize("data", [
    b"\r\n\r\n", b"GET\r\n\r\n", b"GET /api/status\r\n\r\n", b"GET /api/status HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100000 + b"\r\n\r\n", b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n", b"POST /api/kernels HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /api/kernels HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /api/kernels HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"GET /%00%ff%zz HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ids=["blank", "no path", "no version", "version 9", "TLS", "long header", "long path", "many headers", "negative length",
         "huge length", "bad chunk", "bad escapes"])
def test_malformed_http_is_refused_and_harms_nobody(server, data):
    host, port = server.url.split("//")[1].split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as s:
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            got = s.recv(65536)
        except OSError:
            got = b""
    assert got == b"" or re.match(rb"HTTP/1\.[01] [45]\d\d ", got), got
    assert server.get("/api/status").status_code == 200


def test_a_unix_socket(make_server, tmp_path):
    path = tmp_path / "s"
    server = make_server(f"--sock={path}", token="")
    assert os.stat(path).st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        s.sendall(b"GET /api/status HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 200 ")
    server.stop()
    assert not path.exists()


def test_ready_file_and_cross_origin_headers(make_server, tmp_path):
    ready = tmp_path / "ready.json"
    server = make_server(f"--ready-file={ready}", "--allow-origin=https://page.example")
    assert json.loads(ready.read_text())["url"] == server.url
    assert os.stat(ready).st_mode & 0o777 == 0o600
    reply = server.request("OPTIONS", "/api/kernels", headers={"Origin": "https://page.example"})
    assert reply.status_code == 204
    assert reply.headers["Access-Control-Allow-Origin"] == "https://page.example"
    server.stop()
    assert not ready.exists()


def test_log_lines_are_json_if_that_is_asked_for(make_server):
    server = make_server("--log-format=json", "--log-level=debug")
    server.get('/api/kernels/"x"\\')
    server.process.send_signal(signal.SIGINT)
    lines = [json.loads(line) for line in server.process.communicate()[1].splitlines() if line.startswith("{")]
    assert any('Kernel does not exist: "x"\\' in line["message"] for line in lines), lines
    assert {"time", "level", "message"} == set(lines[0])


# --- stock clients


def test_jupyter_kernel_client(server):
    with JupyterKernelClient(server_url=server.url, token=server.token) as client:
        reply = client.execute("x = 6 * 7\nprint('hello')\nx")
        assert reply["status"] == "ok"
        assert [o["output_type"] for o in reply["outputs"]] == ["stream", "execute_result"]
        assert reply["outputs"][1]["data"]["text/plain"] == "42"
        client.set_variable("y", {"a": [1, 2]})
        assert client.get_variable("y") == {"a": [1, 2]}
        assert "x" in [v["name"] if isinstance(v, dict) else v.name for v in client.list_variables()]
        reply = client.execute("1/0")
        assert reply["status"] == "error"
        assert client.is_alive()
        client.interrupt()
        client.restart()
        assert client.execute("'x' in globals()")["outputs"][0]["data"]["text/plain"] == "False"
        kernel = client.id
    assert server.get(f"/api/kernels/{kernel}").status_code == 404


def test_jupyter_server_with_husk_as_its_gateway(server, tmp_path):
    """What JupyterLab's users get by --gateway-url: each kernel is one of husk's, and the front end sees no difference."""
    port = next(PORTS)
    log = open(tmp_path / "log", "w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
         "--ServerApp.port_retries=0", "--ServerApp.token=front", f"--ServerApp.root_dir={tmp_path}",
         f"--gateway-url={server.url}"],
        env={**os.environ, "JUPYTER_GATEWAY_AUTH_TOKEN": server.token, "HOME": str(tmp_path)}, stdout=log, stderr=log)
    try:
        front = Api(f"http://127.0.0.1:{port}", "front")
        wait_until(lambda: process.poll() is not None or front.answers(), "Jupyter Server does not start")
        assert set(front.get("/api/kernelspecs").json()["kernelspecs"]) >= {"python3", "husk"}
        kernel = front.start(name="python3")
        assert kernel in [k["id"] for k in server.get("/api/kernels").json()]
        c = front.connect(kernel)
        done = c.run("import os; print(os.environ['HUSK'] != '', 6 * 7)")
        assert (done.status, done.stdout) == ("ok", "True 42\n")
        msg_id = c.send(c.message("execute_request", {"code": "print('on', flush=True); import time; time.sleep(100)"}))
        while c.receive()["header"]["msg_type"] != "stream":
            pass
        assert front.post(f"/api/kernels/{kernel}/interrupt").status_code == 204
        assert c.until_done(msg_id).reply["ename"] == "KeyboardInterrupt"
        assert front.post(f"/api/kernels/{kernel}/restart").status_code == 200
        assert c.run("print('os' in globals())").stdout == "False\n"
        c.close()
        assert front.request("DELETE", f"/api/kernels/{kernel}").status_code == 204
        assert server.get(f"/api/kernels/{kernel}").status_code == 404
    except BaseException:
        log.seek(0)
        print(log.read())
        raise
    finally:
        process.terminate()
        process.wait(TIMEOUT)
        log.close()
