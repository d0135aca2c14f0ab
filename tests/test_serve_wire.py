# SPDX-License-Identifier: BSD-3-Clause
"""husk serve: what clients that are no libraries of Jupyter's send, in their order and with their headers (VS Code, smolagents,
Open WebUI), written down as requests."""

import json
import re
import uuid

import pytest
import requests
import websocket

from conftest import TIMEOUT
from serving import Server, server  # noqa: F401 (fixtures)


@pytest.fixture(scope="module")
def open_server():
    s = Server(token="")
    yield s
    s.stop()


def ask(server, method, path, **options):
    return requests.request(method, server.url + path, timeout=TIMEOUT, allow_redirects=False, **options)


def log_in(server, password, **headers):
    """The cookies and the header that come of the form, or the reply that there was instead."""
    form = ask(server, "GET", "/login?")
    xsrf = form.cookies["_xsrf"]
    reply = ask(server, "POST", "/login?", data={"_xsrf": xsrf, "password": password}, cookies={"_xsrf": xsrf},
                headers={"X-XSRFToken": xsrf, **headers})
    session = {c.name: c.value for c in reply.cookies if c.name.startswith("username-")}
    return reply, {"cookies": {"_xsrf": xsrf, **session}, "headers": {"X-XSRFToken": xsrf}}


def run(socket, code, **header):
    """One cell as these clients run it: no session, no channel of control; until idle."""
    msg_id = uuid.uuid4().hex
    socket.send(json.dumps({
        "header": {"msg_id": msg_id, "msg_type": "execute_request", "session": uuid.uuid4().hex, "username": "user", "version": "5.3",
                   **header}, "parent_header": {}, "metadata": {}, "channel": "shell",
        "content": {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}}))
    seen = []
    while not seen or (seen[-1]["msg_type"], seen[-1]["content"].get("execution_state")) != ("status", "idle"):
        m = json.loads(socket.recv())
        if m["parent_header"].get("msg_id") == msg_id:
            seen.append(m)
    return seen


def connect(server, kernel, query="", **options):
    return websocket.create_connection(f"{server.url.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels{query}",
                                       timeout=TIMEOUT, **options)


# --- VS Code, "Existing Jupyter Server"


def test_vs_code_finds_that_a_password_is_needed(server):
    assert ask(server, "GET", "/hub/api").status_code == 404  # no hub
    for page in ("/tree?", "/lab"):
        reply = ask(server, "GET", page)
        assert (reply.status_code, reply.headers["Location"]) == (302, f"/login?next=%2F{page[1:].strip('?')}")
        assert ask(server, "HEAD", page).status_code == 302
    assert ask(server, "GET", "/tree?token=secret").status_code == 200
    assert ask(server, "GET", "/tree", headers={"Authorization": "token secret"}).status_code == 200


def test_vs_code_finds_that_none_is_needed(open_server):
    assert ask(open_server, "GET", "/tree?").status_code == 200
    assert ask(open_server, "GET", "/login?").headers["Location"] == "/tree"
    for headers in ({"Authorization": "token "}, {"Authorization": "token"}, {}):
        assert ask(open_server, "GET", "/api/kernels", headers=headers).json() == []


def test_vs_code_logs_in_and_works_with_cookies(server):
    form = ask(server, "GET", "/login?")
    assert form.status_code == 200
    assert re.match(r"_xsrf=[0-9a-f]{32}; Path=/", form.headers["Set-Cookie"])
    assert f'value="{form.cookies["_xsrf"]}"' in form.text
    reply, client = log_in(server, "secret")
    assert (reply.status_code, reply.headers["Location"]) == (302, "/tree")
    name = "username-" + re.sub(r"\W", "-", server.url.split("//")[1])
    assert name in client["cookies"]
    assert "HttpOnly" in reply.headers["Set-Cookie"]
    assert ask(server, "GET", "/tree", **client).status_code == 200
    assert ask(server, "GET", "/api/kernelspecs", **client).json()["default"] == "python3"
    # The notebook behind an interactive window: made, renamed, bound to a kernel.
    made = ask(server, "POST", "/api/contents/", json={"type": "notebook"}, **client)
    assert made.status_code == 201
    path = f"{uuid.uuid4().hex}.ipynb"
    assert ask(server, "PATCH", f"/api/contents/{made.json()['path']}", json={"path": path}, **client).status_code == 200
    session = ask(server, "POST", "/api/sessions", json={"path": path, "type": "notebook", "name": "", "kernel": {"name": "python3"}}, **client)
    assert session.status_code == 201
    kernel = session.json()["kernel"]["id"]
    assert [s["path"] for s in ask(server, "GET", "/api/sessions", **client).json()] == [path]
    cookies = "; ".join(f"{k}={v}" for k, v in client["cookies"].items())
    socket = connect(server, kernel, "?session_id=x", cookie=cookies, header=client["headers"])
    assert ["42\n"] == [m["content"]["text"] for m in run(socket, "print(6 * 7)") if m["msg_type"] == "stream"]
    socket.close()
    assert ask(server, "POST", f"/api/kernels/{kernel}/interrupt", **client).status_code == 204
    assert ask(server, "POST", f"/api/kernels/{kernel}/restart", **client).status_code == 200
    assert ask(server, "DELETE", f"/api/sessions/{session.json()['id']}", **client).status_code == 204
    assert ask(server, "DELETE", f"/api/contents/{path}", **client).status_code == 204


def test_a_cookie_alone_changes_nothing(server):
    """A page of another origin has the browser send it, and cannot read the other one."""
    _, client = log_in(server, "secret")
    mine = {"Origin": server.url}
    xsrf = client["headers"]["X-XSRFToken"]
    for headers, get, post in [({}, 200, 403), ({"X-XSRFToken": xsrf}, 200, 201), ({"X-XSRFToken": "0" * 32}, 200, 403),
                               ({"X-XSRFToken": ""}, 200, 403), ({"X-XSRFToken": xsrf, **mine}, 200, 201),
                               ({"X-XSRFToken": xsrf, "Origin": "http://evil.example"}, 403, 403),
                               ({"X-XSRFToken": xsrf, "Origin": "null"}, 403, 403),
                               ({"X-XSRFToken": xsrf, "Sec-Fetch-Site": "cross-site"}, 403, 403)]:
        assert ask(server, "GET", "/api/kernels", cookies=client["cookies"], headers=headers).status_code == get, headers
        reply = ask(server, "POST", "/api/contents", cookies=client["cookies"], headers=headers)
        assert reply.status_code == post, headers
    kernel = server.start()
    cookies = "; ".join(f"{k}={v}" for k, v in client["cookies"].items())
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        connect(server, kernel, cookie=cookies, origin="http://evil.example")
    connect(server, kernel, cookie=cookies, origin=server.url).close()
    server.request("DELETE", f"/api/kernels/{kernel}")


@pytest.mark.parametrize("cookies", [{"username-{}": ""}, {"username-{}": "0" * 48}, {"username-localhost": "{}"}, {"{}": "{}"}],
                         ids=["empty", "made up", "of another name", "no name"])
def test_other_cookies_open_nothing(server, cookies):
    _, client = log_in(server, "secret")
    (name, value), = [(k, v) for k, v in client["cookies"].items() if k != "_xsrf"]
    host = name.removeprefix("username-")
    sent = {k.format(host): v.format(value) for k, v in cookies.items()}
    assert ask(server, "GET", "/api/kernels", cookies=sent).status_code == 403


@pytest.mark.parametrize("password, origin, status", [
    ("wrong", None, 401), ("", None, 401), ("x" * 5000, None, 401), ("secret", "http://evil.example", 403), ("secret", None, 302),
    ("s%65cret", None, 401)], ids=["wrong", "empty", "long", "another origin", "right", "quoted twice"])
def test_who_logs_in(server, password, origin, status):
    reply, client = log_in(server, password, **({"Origin": origin} if origin else {}))
    assert reply.status_code == status
    assert (len(client["cookies"]) == 2) == (status == 302)


def test_a_form_that_was_not_ours_is_refused_and_so_is_a_large_one(server):
    assert ask(server, "POST", "/login", data={"password": "secret", "_xsrf": "a" * 32}).status_code == 403
    assert ask(server, "POST", "/login", data={"password": "secret"}).status_code == 403
    assert ask(server, "POST", "/login", data={"password": "x" * 100_000}).status_code == 413
    assert ask(server, "POST", "/login", data=(b"x" * 10_000 for _ in range(10))).status_code == 413
    next_ = ask(server, "GET", "/login?next=//evil.example/")
    xsrf = next_.cookies["_xsrf"]
    reply = ask(server, "POST", "/login?next=//evil.example/", data={"_xsrf": xsrf, "password": "secret"}, cookies={"_xsrf": xsrf})
    assert (reply.status_code, reply.headers["Location"]) == (302, "/tree")


# --- smolagents: a kernel without a body, one WebSocket for each call


def test_smolagents(server):
    made = ask(server, "POST", "/api/kernels?token=secret")
    assert made.status_code == 201
    kernel = made.json()["id"]
    for code, wanted in [("x = 40", None), ("!echo from a shell", "stream"), ("x + 2", "execute_result")]:
        socket = connect(server, kernel, "?token=secret")
        seen = {m["msg_type"]: m["content"] for m in run(socket, code, version="5.0", username="anonymous")}
        assert wanted is None or wanted in seen, seen
        socket.close()
    assert seen["execute_result"]["data"]["text/plain"] == "42"
    socket = connect(server, kernel, "?token=secret")
    seen = {m["msg_type"]: m["content"] for m in run(
        socket, "class FinalAnswerException(Exception): pass\nraise FinalAnswerException('the answer')")}
    assert (seen["error"]["ename"], seen["error"]["evalue"]) == ("FinalAnswerException", "the answer")
    socket.close()
    assert ask(server, "DELETE", f"/api/kernels/{kernel}?token=secret").status_code == 204


# --- Open WebUI: token or password, an empty date, a session of each message's own


@pytest.mark.parametrize("how", ["token", "password"])
def test_open_webui(server, how):
    query, client = "?token=secret", {}
    if how == "password":
        query, (_, client) = "", log_in(server, "secret")
    made = ask(server, "POST", f"/api/kernels{query}", **client)
    assert made.status_code == 201, made.text
    kernel = made.json()["id"]
    more = {"cookie": "; ".join(f"{k}={v}" for k, v in client["cookies"].items()), "header": client["headers"]} if client else {}
    socket = connect(server, kernel, query, **more)
    seen = run(socket, "import sys; print('out'); print('err', file=sys.stderr); 7", date="")
    said = {(m["content"].get("name"), m["content"].get("text")) for m in seen if m["msg_type"] == "stream"}
    assert said == {("stdout", "out\n"), ("stderr", "err\n")}
    assert [m["content"]["data"]["text/plain"] for m in seen if m["msg_type"] == "execute_result"] == ["7"]
    socket.close()
    assert ask(server, "DELETE", f"/api/kernels/{kernel}{query}", **client).status_code == 204
