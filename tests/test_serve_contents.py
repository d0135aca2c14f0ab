# SPDX-License-Identifier: BSD-3-Clause
"""husk serve: /api/contents over the files of a sandbox, as Jupyter's clients use it."""

import base64
import datetime
import hashlib
import json
import os
import subprocess

import pytest

from conftest import HUSK, TIMEOUT
from serving import Server

NOTEBOOK = {"cells": [{"cell_type": "code", "id": "a", "source": "print('é {[\\\"')\n1", "metadata": {}, "outputs": [],
                       "execution_count": None}], "metadata": {"n": 12345678901234567890}, "nbformat": 4, "nbformat_minor": 5}
MODEL = {"name", "path", "type", "writable", "created", "last_modified", "mimetype", "content", "format", "size"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def server(root):
    """Whose kernels share a directory, and its files with them."""
    s = Server("--profile=notebook", f"--workdir={root}")
    yield s
    s.stop()


@pytest.fixture
def here(server, request):
    """A directory for one test: the address of what is in it."""
    name = request.node.name.replace("[", "-").replace("]", "")
    assert server.request("PUT", f"/api/contents/{name}", json={"type": "directory"}).status_code == 201
    return f"/api/contents/{name}"


def put(server, path, status=201, **model):
    reply = server.request("PUT", path, json=model)
    assert reply.status_code == status, reply.text
    return reply.json()


def get(server, path, status=200, **query):
    reply = server.get(path, params=query)
    assert reply.status_code == status, reply.text
    if status == 200:
        assert set(reply.json()) >= MODEL
    return reply.json()


def test_a_notebook_is_saved_as_a_file_and_read_again(server, here, root):
    made = put(server, f"{here}/a.ipynb", type="notebook", format="json", content=NOTEBOOK)
    assert set(made) >= MODEL
    assert (made["type"], made["writable"], made["content"], made["format"]) == ("notebook", True, None, None)
    text = next(root.rglob("a.ipynb")).read_text()
    assert json.loads(text) == NOTEBOOK
    assert text.startswith('{\n "cells": [\n  {\n   "cell_type": "code",\n') and text.endswith("\n}\n")
    assert '"outputs": [],' in text and "12345678901234567890" in text
    read = get(server, f"{here}/a.ipynb")
    assert (read["content"], read["format"], read["mimetype"]) == (NOTEBOOK, "json", None)
    assert put(server, f"{here}/a.ipynb", 200, type="notebook", format="json", content=NOTEBOOK)["size"] == len(text.encode())
    as_file = get(server, f"{here}/a.ipynb", type="file")
    assert (as_file["type"], as_file["content"]) == ("file", text)
    listed, = get(server, here, type="directory")["content"]
    assert (listed["name"], listed["type"], listed["path"], listed["content"]) == ("a.ipynb", "notebook", made["path"], None)
    datetime.datetime.strptime(read["last_modified"], "%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_kernel_sees_what_was_saved_and_what_it_writes_is_shown(server, here):
    put(server, f"{here}/in.txt", type="file", format="text", content="hello")
    kernel = server.start()
    c = server.connect(kernel)
    directory = here.removeprefix("/api/contents/")
    done = c.run(f"print(open('{directory}/in.txt').read()); open('{directory}/out.txt', 'w').write('bye'); "
                 f"import os; os.symlink('out.txt', '{directory}/link'); os.symlink('.', '{directory}/loop'); "
                 f"os.symlink('none', '{directory}/dangling'); os.mkfifo('{directory}/fifo')")
    assert done.stdout == "hello\n"
    c.close()
    assert get(server, f"{here}/out.txt")["content"] == "bye"
    assert {e["name"]: e["type"] for e in get(server, here)["content"]} == {
        "in.txt": "file", "out.txt": "file", "link": "file", "loop": "directory"}
    assert get(server, f"{here}/fifo", 400)["message"].endswith("is neither a file nor a directory")
    # The same through the kernel's own address, and by Jupyter's operations.
    assert get(server, f"/api/kernels/{kernel}/contents/{directory}/in.txt")["content"] == "hello"
    server.request("DELETE", f"/api/kernels/{kernel}")
    get(server, f"/api/kernels/{kernel}/contents/{directory}/in.txt", 404)


@pytest.mark.parametrize("data, format, asked, mimetype", [
    ("é\n\0\"".encode(), "text", None, "text/plain"), (b"\xff\x00", "base64", None, "application/octet-stream"),
    (b"text", "base64", "base64", "application/octet-stream"), (b"", "text", "text", "text/plain"),
    (b"x" * 9_000_000, "text", None, "text/plain")], ids=["text", "binary", "text as base64", "empty", "large"])
def test_files_of_every_kind(server, here, data, format, asked, mimetype):
    content = data.decode() if format == "text" else base64.b64encode(data).decode()
    made = put(server, f"{here}/f", type="file", format=format, content=content)
    assert (made["size"], made["type"]) == (len(data), "file")
    got = get(server, f"{here}/f", **({"format": asked} if asked else {}))
    assert (got["content"] == content, got["format"], got["mimetype"]) == (True, format, mimetype)
    small = get(server, f"{here}/f", content="0", hash="1")
    assert (small["content"], small["format"], small["hash"]) == (None, None, hashlib.sha256(data).hexdigest())
    assert small["hash_algorithm"] == "sha256"


def test_a_large_file_comes_in_pieces(server, here):
    for chunk, content in ((1, b"one, "), (2, b"two, "), (-1, b"three")):
        put(server, f"{here}/big", 201 if chunk == 1 else 200, type="file", format="base64", chunk=chunk,
            content=base64.b64encode(content).decode())
    assert get(server, f"{here}/big")["content"] == "one, two, three"


def test_names_are_the_servers_to_choose(server, here):
    for body, names in [({"type": "notebook"}, ["Untitled.ipynb", "Untitled1.ipynb"]), ({"type": "file", "ext": ".txt"},
                        ["untitled.txt", "untitled1.txt"]), ({"type": "directory"}, ["Untitled Folder", "Untitled Folder 1"]),
                        ({"ext": ".ipynb"}, ["Untitled2.ipynb"]), (None, ["untitled", "untitled1"])]:
        for name in names:
            made = server.post(here, json=body)
            assert (made.status_code, made.json()["name"]) == (201, name), made.text
            assert made.headers["Location"] == f"{here}/{name.replace(' ', '%20')}"
    directory = here.removeprefix("/api/contents/")
    for source, name in [("Untitled.ipynb", "Untitled-Copy1.ipynb"), ("Untitled.ipynb", "Untitled-Copy2.ipynb"),
                         ("untitled.txt", "untitled-Copy1.txt")]:
        copy = server.post(here, json={"copy_from": f"/{directory}/{source}"})
        assert (copy.status_code, copy.json()["name"]) == (201, name), copy.text
    assert get(server, f"{here}/Untitled.ipynb")["content"] == {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    assert server.post(f"{here}/untitled.txt", json={}).status_code == 400
    assert server.post(f"{here}/none", json={}).status_code == 404


@pytest.mark.parametrize("there, name", [
    (["Untitled.ipynb", "Untitled1.ipynb", "Untitled3.ipynb"], "Untitled2.ipynb"), (["Untitled2.ipynb"], "Untitled.ipynb"),
    (["Untitled.ipynb", "Untitled01.ipynb", "Untitled1.txt", "Untitled1", "Untitled-1.ipynb"], "Untitled1.ipynb"),
    (["Untitled.ipynb", f"Untitled{10 ** 30}.ipynb", "Untitled18446744073709551617.ipynb"], "Untitled1.ipynb"),
    (["Untitled.ipynb", *(f"Untitled{i}.ipynb" for i in range(1, 12))], "Untitled12.ipynb")],
    ids=["gap", "first", "others", "huge", "two digits"])
def test_the_first_name_that_is_free_is_taken(server, here, root, there, name):
    for one in there:
        (root / here.removeprefix("/api/contents/") / one).touch()
    made = server.post(here, json={"type": "notebook"})
    assert (made.status_code, made.json()["name"]) == (201, name), made.text


def test_a_cell_that_makes_many_names_keeps_the_server_from_nothing(server, here, root):
    """A name for one more file costs the server about what their list costs it, and not the square of it."""
    def cpu():
        fields = open(f"/proc/{server.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    directory = root / here.removeprefix("/api/contents/")
    for i in range(8000):
        (directory / f"Untitled{i or ''}.ipynb").touch()
    start = cpu()
    assert len(get(server, here)["content"]) == 8000
    listed = cpu()
    made = server.post(here, json={"type": "notebook"})
    assert (made.status_code, made.json()["name"]) == (201, "Untitled8000.ipynb"), made.text
    assert cpu() - listed < 10 * max(listed - start, 0.05)


def test_a_notebook_that_is_nested_deeply_does_not_fill_the_memory(server, here):
    """Each line of it is indented: a cell's output of megabytes would be more than a message to a kernel may have."""
    deep = '{"type": "notebook", "format": "json", "content": {"a": ' + "[" * 500 + "1," * 1400000 + "1" + "]" * 500 + "}}"
    reply = server.request("PUT", f"{here}/a.ipynb", data=deep)
    assert (reply.status_code, "(--max-body)" in reply.json()["message"]) == (413, True), reply.text
    get(server, f"{here}/a.ipynb", 404)


def test_rename_and_delete(server, here):
    directory = here.removeprefix("/api/contents/")
    put(server, f"{here}/a b.txt", type="file", format="text", content="1")
    put(server, f"{here}/c.txt", type="file", format="text", content="2")
    assert server.post(f"{here}/c.txt/checkpoints").status_code == 201
    taken = server.request("PATCH", f"{here}/a%20b.txt", json={"path": f"{directory}/c.txt"})
    assert (taken.status_code, get(server, f"{here}/c.txt")["content"]) == (409, "2")
    moved = server.request("PATCH", f"{here}/c.txt", json={"path": f"/{directory}/é.txt"})
    assert (moved.status_code, moved.json()["path"]) == (200, f"{directory}/é.txt")
    get(server, f"{here}/c.txt", 404)
    assert len(server.get(f"{here}/é.txt/checkpoints").json()) == 1  # it goes with its file
    assert server.request("PATCH", f"{here}/none", json={"path": "x"}).status_code == 404
    assert server.request("DELETE", here).json()["message"].endswith("not empty")
    for name in ("a b.txt", "é.txt"):
        gone = server.request("DELETE", f"{here}/{name}")
        assert (gone.status_code, gone.content) == (204, b"")
    assert server.request("DELETE", f"{here}/é.txt").status_code == 404
    assert server.request("DELETE", here).status_code == 204  # its checkpoints are no reason to keep it
    get(server, here, 404)


def test_checkpoints(server, here):
    file = f"{here}/a.ipynb"
    put(server, file, type="notebook", content=NOTEBOOK)
    assert server.get(f"{file}/checkpoints").json() == []
    made = server.post(f"{file}/checkpoints")
    assert (made.status_code, made.json()["id"], made.headers["Location"]) == (201, "checkpoint", f"{file}/checkpoints/checkpoint")
    put(server, file, 200, type="notebook", content={**NOTEBOOK, "cells": []})
    assert server.get(f"{file}/checkpoints").json() == [made.json()]
    assert server.post(f"{file}/checkpoints/checkpoint").status_code == 204
    assert get(server, file)["content"] == NOTEBOOK
    assert [e["name"] for e in get(server, here)["content"]] == ["a.ipynb"]  # hidden
    for id, status in (("other", 404), ("checkpoint", 204), ("checkpoint", 404)):
        assert server.request("DELETE", f"{file}/checkpoints/{id}").status_code == status
    assert server.post(f"{here}/none/checkpoints").status_code == 404
    assert server.request("PUT", f"{file}/checkpoints", json={}).status_code == 405


@pytest.mark.parametrize("method, path, body, query, status, said", [
    ("GET", "/none", None, {}, 404, "No such file"), ("GET", "", None, {"type": "file"}, 400, "is a directory, not a file"),
    ("GET", "/f", None, {"type": "directory"}, 400, "is not a directory"), ("GET", "/f", None, {"format": "text"}, 400, "is not UTF-8"),
    ("GET", "/f", None, {"format": "x"}, 400, "'format'"), ("GET", "/f", None, {"content": "2"}, 400, "'content'"),
    ("GET", "/f", None, {"type": "notebook"}, 400, "Unreadable Notebook"), ("GET", "/f/x", None, {}, 404, "No such file"),
    ("GET", "/.hidden", None, {}, 404, "No such file"), ("PUT", "/.hidden", {"type": "file"}, {}, 400, "Cannot create"),
    ("GET", "/%2e%2e/%2e%2e/%2e%2e/etc/passwd", None, {}, 404, "outside"), ("PUT", "/x/..%2fy", {"type": "file"}, {}, 404, "outside"),
    ("PUT", "/x", [], {}, 400, "Invalid JSON"), ("PUT", "/x", {"type": "file", "content": "x"}, {}, 400, "'format'"),
    ("PUT", "/x", {"type": "file", "content": 7, "format": "text"}, {}, 400, "'format'"),
    ("PUT", "/x", {"type": "file", "content": "!", "format": "base64"}, {}, 400, "no base64"),
    ("PUT", "/x", {"type": "notebook", "content": "text"}, {}, 400, "is an object"),
    ("PUT", "/x/y/z", {"type": "file", "content": "", "format": "text"}, {}, 404, "No such file"),
    ("PUT", "/x", {"copy_from": "f"}, {}, 400, "only POST"), ("POST", "", {"copy_from": "../f"}, {}, 400, "Cannot copy"),
    ("POST", "", {"ext": "/../x"}, {}, 400, "no suffix"), ("PATCH", "/f", {"path": "../../x"}, {}, 400, "Cannot rename"),
    ("DELETE", "/.x", None, {}, 400, "Cannot delete")], ids=range(23))
def test_what_cannot_be_done_is_said_and_does_nothing(server, here, method, path, body, query, status, said):
    put(server, f"{here}/f", type="file", format="base64", content="/w==")
    reply = server.request(method, here + path, params=query, **({} if body is None else {"json": body}))
    assert (reply.status_code, said in reply.json()["message"]) == (status, True), reply.text
    assert [e["name"] for e in get(server, here)["content"]] == ["f"]


def test_in_profile_strict_the_files_are_the_servers_own_and_no_kernel_is_listed_for_them():
    s = Server("--idle-timeout=1", "--max-kernels=1")
    try:
        assert get(s, "/api/contents/")["content"] == []
        assert s.get("/api/kernels").json() == [] and s.get("/api/status").json()["kernels"] == 0
        put(s, "/api/contents/mine.txt", type="file", format="text", content="kept")
        hidden, = json.loads(subprocess.run([HUSK, "ls", "-o", "json"], capture_output=True, check=True).stdout)[-1:]
        kernel = s.start()  # the one that is allowed
        assert get(s, f"/api/kernels/{kernel}/contents")["content"] == []
        put(s, f"/api/kernels/{kernel}/contents/a.txt", type="file", format="text", content="in a kernel")
        made = s.post(f"/api/kernels/{kernel}/contents", json={"copy_from": "a.txt"})
        assert made.headers["Location"] == f"/api/kernels/{kernel}/contents/a-Copy1.txt"
        assert s.connect(kernel).run("import os; print(sorted(os.listdir()))").stdout == "['a-Copy1.txt', 'a.txt']\n"
        assert "a.txt" not in str(get(s, "/api/contents")["content"])
        for path in (f"/api/kernels/{hidden['id']}", f"/api/kernels/{hidden['id']}/contents"):
            assert s.get(path).status_code == 404
        assert get(s, "/api/contents/mine.txt")["content"] == "kept"
    finally:
        s.stop()


def test_contents_need_the_token(server):
    for method in ("GET", "PUT", "POST", "PATCH", "DELETE"):
        assert server.request(method, "/api/contents/x", headers={"Authorization": "token wrong"}, json={}).status_code == 403
