# SPDX-License-Identifier: BSD-3-Clause
"""Clients as people run them: `husk install`, Jupyter's commands, a stock Jupyter Server with
jupyter_kernel_client and code_sandboxes, widgets.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import uuid

import beside
import conftest
import nbformat
import numpy
import pandas
import psutil
import pytest
import test_notebooks
from code_sandboxes import Sandbox
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from jupyter_kernel_client import JupyterKernelClient

TIMEOUT = conftest.TIMEOUT
SCRIPTS = pathlib.Path(sys.executable).parent  # jupyter, papermill
LOGOS = {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"}


def environment(directory, **more):
    """For Jupyter's commands: nothing of the user's own configuration and kernelspecs."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith("JUPYTER_") and k not in ("XDG_DATA_HOME", "VIRTUAL_ENV", "CONDA_PREFIX")}
    env.update(
        PATH=f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        JUPYTER_CONFIG_DIR=str(directory / "config"), JUPYTER_DATA_DIR=str(directory / "data"),
        JUPYTER_RUNTIME_DIR=str(directory / "runtime"), IPYTHONDIR=str(directory / "ipython"),
    )
    return {k: v for k, v in {**env, **more}.items() if v is not None}


def uncoloured(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def run(*command, check=True, input="", timeout=TIMEOUT, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, input=input,
                          timeout=timeout, encoding="utf-8", **options)
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    done.stderr = uncoloured(done.stderr)
    return done


# --- husk install


def install(*options, check=True, husk=conftest.HUSK, **more):
    return run(husk, "install", *options, check=check, **more)


def refused(done, code=64):
    """One line that says why, in place of an installation."""
    assert done.returncode == code and not done.stdout, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("husk: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def spec_of(directory):
    return json.loads((directory / "kernel.json").read_text())


@pytest.fixture
def away(tmp_path):
    """An environment in which everything of the user's is below tmp_path."""
    home = tmp_path / "home"
    home.mkdir()
    return environment(tmp_path, HOME=str(home), JUPYTER_DATA_DIR=None)


def test_the_kernelspec_says_what_jupyter_needs(tmp_path, away):
    install("--prefix", tmp_path / "p", env=away)
    spec = spec_of(tmp_path / "p/share/jupyter/kernels/husk")
    assert spec["argv"] == [conftest.HUSK, "kernel", "-f", "{connection_file}"]
    assert os.path.isabs(spec["argv"][0])
    assert spec["display_name"] == "Python 3 (husk)" and spec["language"] == "python"
    assert spec["interrupt_mode"] == "message"
    assert spec["kernel_protocol_version"].startswith("5.")
    assert spec["metadata"] == {"debugger": True, "supported_encryption": ["curve"]} and spec["env"] == {}


def test_the_logos_are_there_in_their_sizes(tmp_path, away):
    install("--prefix", tmp_path, env=away)
    directory = tmp_path / "share/jupyter/kernels/husk"
    assert {p.name for p in directory.iterdir()} == LOGOS | {"kernel.json"}
    for size in (32, 64):
        png = (directory / f"logo-{size}x{size}.png").read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (size, size)
    assert "<svg" in (directory / "logo-svg.svg").read_text()


@pytest.mark.parametrize("variables", [
    {}, {"XDG_DATA_HOME": "xdg"}, {"JUPYTER_DATA_DIR": "data"},
    {"JUPYTER_DATA_DIR": "data", "XDG_DATA_HOME": "xdg"},
], ids=lambda v: "+".join(v) or "HOME")
@pytest.mark.parametrize("options", [["--user"], []], ids=["--user", "by default"])
def test_a_users_kernelspec_is_where_jupyter_looks(tmp_path, away, variables, options):
    env = {**away, **{k: str(tmp_path / v) for k, v in variables.items()}}
    install(*options, env=env)
    data = pathlib.Path(run(SCRIPTS / "jupyter", "--data-dir", env=env).stdout.strip())
    assert tmp_path in data.parents
    env["JUPYTER_PREFER_ENV_PATH"] = "0"  # quickstart installs one into this environment
    listed = json.loads(run(SCRIPTS / "jupyter", "kernelspec", "list", "--json", env=env).stdout)
    found = listed["kernelspecs"]["husk"]
    assert found["resource_dir"] == str(data / "kernels/husk")
    assert found["spec"]["display_name"] == "Python 3 (husk)"


@pytest.mark.parametrize("variables, where", [
    ({"VIRTUAL_ENV": "venv"}, "venv"),
    ({"CONDA_PREFIX": "conda"}, "conda"),
    ({"VIRTUAL_ENV": "venv", "CONDA_PREFIX": "conda"}, "venv"),
], ids=["venv", "conda", "venv in conda"])
def test_sys_prefix_is_the_active_environment(tmp_path, away, variables, where):
    env = {**away, **{k: str(tmp_path / v) for k, v in variables.items()}}
    install("--sys-prefix", env=env)
    assert (tmp_path / where / "share/jupyter/kernels/husk/kernel.json").exists()


def test_sys_prefix_without_an_environment_names_what_is_missing(away):
    done = install("--sys-prefix", check=False, env=away)
    assert done.returncode != 0
    assert "VIRTUAL_ENV" in done.stderr and "CONDA_PREFIX" in done.stderr


def test_a_name_and_options_of_ones_own_are_kept_in_the_kernelspec(tmp_path, away):
    install("--prefix", tmp_path, "--name", "small-1.0_x", "--display-name", 'Klein "☃" \\',
            "--memory", "1g", "--pids=100", "--env", "A=b c", "--python", conftest.PYTHON, env=away)
    spec = spec_of(tmp_path / "share/jupyter/kernels/small-1.0_x")
    assert spec["display_name"] == 'Klein "☃" \\'
    assert spec["argv"] == [conftest.HUSK, "kernel", "--memory", "1g", "--pids=100", "--env",
                            "A=b c", "--python", conftest.PYTHON, "-f", "{connection_file}"]
    env = {**away, "JUPYTER_PATH": str(tmp_path / "share/jupyter")}
    code = "import os, resource; print(os.environ['A'])"
    done = run(SCRIPTS / "jupyter", "run", "--kernel", "small-1.0_x", env=env, cwd=tmp_path, input=code)
    assert done.stdout == "b c\n"


def test_argv_is_absolute_however_husk_was_called(tmp_path, away):
    link = tmp_path / "bin" / "husk"
    link.parent.mkdir()
    link.symlink_to(conftest.HUSK)
    relative = os.path.relpath(conftest.HUSK, tmp_path)
    for i, (command, env) in enumerate([
        (link, away), (relative, away), ("bin/husk", away),
        ("husk", {**away, "PATH": f"{link.parent}{os.pathsep}{away['PATH']}"}),
    ]):
        run("env", command, "install", "--prefix", f"p{i}", env=env, cwd=tmp_path)
        argv = spec_of(tmp_path / f"p{i}/share/jupyter/kernels/husk")["argv"]
        assert os.path.isabs(argv[0]) and os.path.samefile(argv[0], conftest.HUSK)


@pytest.mark.parametrize("options", [["--python", "env/bin/python"], ["--python=./py"],
                                     ["--workdir", "sub"], ["--workdir=sub/../sub"]],
                         ids=lambda o: " ".join(o))
def test_a_relative_path_does_not_get_into_the_kernelspec(tmp_path, away, options):
    """It means something else where the notebook is: refused now, or made absolute now."""
    for name in ("env/bin/python", "py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(conftest.PYTHON)
    (tmp_path / "sub").mkdir()
    done = install("--prefix", tmp_path / "p", *options, check=False, env=away, cwd=tmp_path)
    if done.returncode:
        refused(done)
        return
    argv = spec_of(tmp_path / "p/share/jupyter/kernels/husk")["argv"]
    value = argv[-3].rpartition("=")[2]
    assert value.startswith(str(tmp_path)), argv


def test_a_bare_python_is_looked_for_when_the_kernel_starts(tmp_path, away):
    install("--prefix", tmp_path, "--python", "python3", env=away, cwd=tmp_path)
    assert "python3" in spec_of(tmp_path / "share/jupyter/kernels/husk")["argv"]


def test_an_older_one_of_the_name_is_replaced_with_all_that_belonged_to_it(tmp_path, away):
    kernels = tmp_path / "share/jupyter/kernels"
    install("--prefix", tmp_path / "fresh", "--name", "python3", env=away)
    install("--prefix", tmp_path, "--name", "python3", "--memory", "1g", "--display-name", "Old",
            env=away)
    (kernels / "python3/kernel.js").write_text("define([], () => ({}))")
    (kernels / "python3/logo-64x64.png").write_text("not ours")
    (kernels / "python3/kernel.json").chmod(0o444)
    install("--prefix", tmp_path, "--name", "python3", env=away)
    fresh = tmp_path / "fresh/share/jupyter/kernels/python3"
    contents = [{p.name: p.read_bytes() for p in d.iterdir()} for d in (fresh, kernels / "python3")]
    assert contents[0] == contents[1]
    assert {p.name for p in kernels.iterdir()} == {"python3"}


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "../a", "/a", "ä", "a\n", "a%b", "a'"])
def test_a_name_that_is_none_is_refused(tmp_path, away, name):
    reason = refused(install("--prefix", tmp_path / "p", "--name", name, check=False, env=away))
    assert "name" in reason
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("options", [
    ["--memory", "lots"], ["--pids", "-1"], ["--log-level", "loud"], ["--memroy", "1g"],
    ["--python"], ["--name"], ["--user", "--prefix", "p"], ["--user", "--sys-prefix"],
    ["somewhere"], ["--frobnicate"], ["--usr"], ["-f", "x"], ["--connection-file=x"],
    ["--display-name", "\udcff"],
], ids=ascii)
def test_a_wrong_option_is_refused_now_not_when_a_notebook_opens(tmp_path, away, options):
    env = {**away, "VIRTUAL_ENV": str(tmp_path / "venv")}
    refused(install(*options, check=False, env=env, cwd=tmp_path))
    assert not list(tmp_path.rglob("kernel.json"))


IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]


def install_with_a_read_only_root(tmp_path, *options, env):
    """Only tmp_path can be written: an empty prefix that is taken for / does no harm."""
    (tmp_path / "root").mkdir()
    script = ('mount --rbind / "$1/root"; mount --bind "$1" "$1/root$1"; '
              'mount -o remount,bind,ro "$1/root"; root=$1/root; shift; exec /usr/sbin/chroot "$root" "$@"')
    return run(*IN_A_NAMESPACE, script, "sh", tmp_path, conftest.HUSK, "install", *options,
               check=False, env=env)


@pytest.mark.parametrize("options", [["--prefix", ""], ["--prefix="]], ids=["apart", "joined"])
def test_an_empty_prefix_is_refused_and_is_not_the_root(tmp_path, away, options):
    refused(install_with_a_read_only_root(tmp_path, *options, env=away))


def test_an_environment_whose_variable_is_empty_is_not_active(tmp_path, away):
    env = {**away, "VIRTUAL_ENV": "", "CONDA_PREFIX": ""}
    done = install_with_a_read_only_root(tmp_path, "--sys-prefix", env=env)
    assert done.returncode != 0 and "VIRTUAL_ENV" in done.stderr
    (tmp_path / "root").rmdir()
    env["CONDA_PREFIX"] = str(tmp_path / "conda")
    done = install_with_a_read_only_root(tmp_path, "--sys-prefix", env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "conda/share/jupyter/kernels/husk/kernel.json").exists()


def test_a_read_only_prefix_is_a_clear_error(tmp_path, away):
    script = ('mkdir "$1/p"; mount -t tmpfs -o ro none "$1/p"; '
              'exec "$2" install --prefix "$1/p"')
    done = run(*IN_A_NAMESPACE, script, "sh", tmp_path, conftest.HUSK, check=False, env=away)
    reason = refused(done, 71)
    assert f"{tmp_path}/p/share" in reason and "Read-only file system" in reason


def test_a_prefix_that_is_a_file_is_a_clear_error(tmp_path, away):
    (tmp_path / "file").write_text("")
    reason = refused(install("--prefix", tmp_path / "file", check=False, env=away), 71)
    assert f"{tmp_path}/file" in reason and "Not a directory" in reason


def test_nothing_is_left_of_an_installation_that_does_not_fit(tmp_path, away):
    """A full file system: an error, and no half kernelspec that Jupyter would list."""
    script = ('mount -t tmpfs -o size=12k none "$1"; head -c 8192 /dev/zero >"$1/x"; code=0; '
              '"$2" install --prefix "$1/p" || code=$?; '
              'find "$1/p" -name kernel.json -o -name ".*"; exit $code')
    done = run(*IN_A_NAMESPACE, script, "sh", tmp_path, conftest.HUSK, check=False, env=away)
    assert "No space left on device" in refused(done, 71)


# --- Jupyter's commands


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """(environment, directory): husk is installed, and is also the kernel named python3."""
    directory = tmp_path_factory.mktemp("commands")
    specs = conftest.spec_directory(directory / "spec")
    conftest.spec_directory(directory / "spec", name="python3")
    work = directory / "work"
    work.mkdir()
    return environment(directory, JUPYTER_PATH=str(specs.parent)), work


@pytest.fixture
def jupyter(commands):
    env, work = commands

    def call(*command, **options):
        return run(SCRIPTS / command[0], *command[1:], env=env, cwd=work, **options)

    call.work = work
    call.env = env
    return call


def notebook(*cells, name="python3", tags=()):
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in cells],
        metadata={"kernelspec": {"name": name, "display_name": "x", "language": "python"}},
    )
    if tags:
        nb.cells[0].metadata.tags = list(tags)
    return nb


def outputs(path):
    """What the cells of a notebook file show: text, and the values' text/plain."""
    nb = nbformat.read(path, as_version=4)
    return [
        [o.get("text") or o.get("ename") or o["data"]["text/plain"] for o in c.outputs]
        for c in nb.cells if c.cell_type == "code"
    ]


def test_jupyter_kernelspec_list_shows_it(jupyter):
    assert "husk" in jupyter("jupyter", "kernelspec", "list").stdout.split()
    listed = json.loads(jupyter("jupyter", "kernelspec", "list", "--json").stdout)["kernelspecs"]
    assert listed["husk"]["spec"]["display_name"] == "Python 3 (husk)"
    assert listed["python3"]["spec"]["argv"][0] == conftest.HUSK  # before the one of ipykernel


def test_jupyter_run_shows_text_errors_and_values(jupyter):
    code = "import sys\nprint('é☃')\nprint('no', file=sys.stderr)\n6 * 7"
    done = jupyter("jupyter", "run", "--kernel", "husk", input=code)
    assert (done.stdout, done.stderr) == ("é☃\n42", "no\n")


def test_jupyter_run_fails_when_the_code_fails(jupyter):
    (jupyter.work / "bad.py").write_text("print('before')\n1 / 0\n")
    done = jupyter("jupyter", "run", "--kernel", "husk", "bad.py", check=False)
    assert done.returncode == 1 and done.stdout == "before\n"
    assert "ZeroDivisionError: division by zero" in done.stderr


def test_jupyter_execute_runs_a_notebook_in_place(jupyter):
    path = jupyter.work / "execute.ipynb"
    nbformat.write(notebook("open('written.txt', 'w').write('x')", "print('hi')"), path)
    jupyter("jupyter", "execute", "--inplace", path)
    assert outputs(path) == [["1"], ["hi\n"]]
    assert (jupyter.work / "written.txt").read_text() == "x"


@pytest.mark.parametrize("to, shown", [("html", "data:image/png;base64,"), ("markdown", "png"),
                                       ("notebook", "image/png"), ("script", "plt.plot")])
def test_nbconvert_executes_and_converts(jupyter, to, shown):
    path = jupyter.work / f"{to}.ipynb"
    nbformat.write(notebook("import matplotlib.pyplot as plt\nplt.plot([1, 2]);"), path)
    done = jupyter("jupyter", "nbconvert", "--execute", "--to", to, "--output", f"{to}.out", path.name,
                   "--ExecutePreprocessor.kernel_name=husk", timeout=2 * TIMEOUT)
    (out,) = [p for p in jupyter.work.glob(f"{to}.out.*") if p.is_file()]
    assert shown in out.read_text(), done.stderr


def test_nbconvert_fails_when_a_cell_fails(jupyter):
    path = jupyter.work / "fails.ipynb"
    nbformat.write(notebook("x = 1", "raise ValueError('no')", "print('not run')"), path)
    done = jupyter("jupyter", "nbconvert", "--execute", "--to", "notebook", path.name, check=False)
    assert done.returncode == 1 and "ValueError: no" in done.stderr
    done = jupyter("jupyter", "nbconvert", "--execute", "--to", "notebook", "--allow-errors",
                   "--output", "allowed", path.name)
    assert outputs(jupyter.work / "allowed.ipynb") == [[], ["ValueError"], ["not run\n"]]


def test_papermill_runs_a_notebook_with_parameters(jupyter):
    path = jupyter.work / "papermill.ipynb"
    nbformat.write(notebook("a, b = 1, 'x'", "print(a * 2, b)", tags=["parameters"]), path)
    jupyter("papermill", path.name, "out.ipynb", "-k", "husk", "-p", "a", "21", "-p", "b", "é☃",
            "--no-progress-bar")
    assert outputs(jupyter.work / "out.ipynb") == [[], [], ["42 é☃\n"]]
    metadata = nbformat.read(jupyter.work / "out.ipynb", as_version=4).metadata
    assert metadata.papermill.parameters == {"a": 21, "b": "é☃"} and not metadata.papermill.exception
    assert metadata.language_info.name == "python"


def test_papermill_fails_when_a_cell_fails_and_keeps_what_came_before(jupyter):
    path = jupyter.work / "papermill_fails.ipynb"
    nbformat.write(notebook("print('before')", "import os; os._exit(4)", "print('not run')"), path)
    done = jupyter("papermill", path.name, "failed.ipynb", "-k", "husk", check=False)
    assert done.returncode == 1
    assert "exited with status 4" in done.stderr
    assert outputs(jupyter.work / "failed.ipynb") == [["before\n"], ["InterpreterDied"], []]


def console(jupyter, lines, **options):
    """Cells before those lines: the console takes a reply or an idle that comes late, such as those to its own
    kernel_info, for that of the next cell, and may go on in that way. Each cell is a chance to end it."""
    return jupyter("jupyter", "console", "--kernel", "husk", "--simple-prompt", input="1\n" * 8 + lines, **options)


def test_jupyter_console_shows_values_text_and_errors(jupyter):
    done = console(jupyter, "x = 6\nx * 7\nprint('é☃')\n!echo sub\n1 / 0\nexit\n")
    assert "Out[10]: 42" in done.stdout and "é☃\n" in done.stdout and "sub" in done.stdout
    assert "ZeroDivisionError: division by zero" in done.stderr


def test_jupyter_console_answers_a_question(jupyter):
    done = console(jupyter, 'n = input("name? ")\nBob\nprint(n[::-1])\nexit\n')
    assert "name? " in done.stdout and "boB" in done.stdout


def test_jupyter_console_ends_with_exit(jupyter):
    done = console(jupyter, "exit\nprint('still' + 'here')\n")
    assert "Shutting down kernel" in done.stdout
    assert "stillhere" not in done.stdout and "Do you really want to exit" not in done.stdout


def test_a_question_waits_for_a_client_that_connects_late(make_kernel):
    """A ROUTER drops what is for nobody; the user must get the question all the same."""
    kernel = make_kernel(ready=False)
    kernel.client.stop_channels()
    kernel.client = kernel.manager.client()
    kernel.client.start_channels(stdin=False)
    kernel.client.wait_for_ready(timeout=TIMEOUT)
    msg_id = kernel.send("input('who? ')", allow_stdin=True)
    while kernel.client.get_iopub_msg(timeout=TIMEOUT)["msg_type"] != "execute_input":
        pass
    with pytest.raises(Exception):
        kernel.client.get_shell_msg(timeout=1)  # it waits
    kernel.client.stdin_channel.start()
    question = kernel.client.get_stdin_msg(timeout=TIMEOUT)
    assert question["content"]["prompt"] == "who? "
    kernel.client.input("me")
    reply = kernel.client.get_shell_msg(timeout=TIMEOUT)
    assert reply["parent_header"]["msg_id"] == msg_id and reply["content"]["status"] == "ok"


# --- a stock Jupyter Server


class Server:
    def __init__(self, directory):
        self.directory = directory
        specs = conftest.spec_directory(directory / "spec")
        conftest.spec_directory(directory / "spec", name="python3")
        self.token = secrets.token_hex(8)
        self.root = directory / "root"
        self.root.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", "--allow-root", "--ServerApp.ip=127.0.0.1",
             f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.open_browser=False",
             f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.root}",
             "--ServerApp.disable_check_xsrf=True"],
            env=environment(directory, JUPYTER_PATH=str(specs.parent)), cwd=self.root,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.log, "wb"),
        )
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                self.get("/api/status")
                return
            except OSError:
                assert time.monotonic() < end and self.process.poll() is None, self.log.read_text()
                time.sleep(0.1)

    def get(self, path, body=None):
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"token {self.token}"},
                                         data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.read()

    def json(self, path, body=None):
        return json.loads(self.get(path, body))

    def stop(self):
        self.process.terminate()
        self.process.wait(TIMEOUT)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    s = Server(tmp_path_factory.mktemp("server"))
    yield s
    s.stop()


@pytest.fixture(scope="module")
def client(server):
    """One kernel; a test that ends or restarts it has the next one start clean."""
    with JupyterKernelClient(server_url=server.url, token=server.token) as c:
        yield c


def text(reply):
    return "".join(o.get("text", "") for o in reply["outputs"])


def value(reply):
    found = [o["data"]["text/plain"] for o in reply["outputs"] if o["output_type"] == "execute_result"]
    return found[0] if found else None


def when_started(client, code, then, **options):
    """Executes code; as soon as it has printed "started", `then` runs in a thread."""
    seen = []

    def hook(message):
        seen.append(message)
        if message["msg_type"] == "stream" and "started" in message["content"]["text"]:
            threading.Thread(target=then).start()

    code = "print('started', flush=True)\n" + code
    reply = client.execute_interactive(code, output_hook=hook, allow_stdin=False, timeout=TIMEOUT, **options)
    return reply["content"], [m["content"] for m in seen if m["msg_type"] == "error"]


def test_the_server_offers_it_with_its_name_and_logos(server):
    specs = server.json("/api/kernelspecs")
    assert specs["default"] == "python3"
    for name in ("husk", "python3"):
        spec = specs["kernelspecs"][name]
        assert spec["spec"]["display_name"] == "Python 3 (husk)"
        assert {p.rpartition("/")[2] for p in spec["resources"].values()} == LOGOS
        for path in spec["resources"].values():
            assert server.get(path)


def test_jupyter_kernel_client_executes(client):
    reply = client.execute("import sys\nprint('hi')\nprint('no', file=sys.stderr)\n6 * 7")
    assert reply["status"] == "ok" and isinstance(reply["execution_count"], int)
    shown = {(o["output_type"], o.get("name")): o for o in reply["outputs"]}
    assert shown["stream", "stdout"]["text"] == "hi\n"
    assert shown["stream", "stderr"]["text"] == "no\n"
    assert shown["execute_result", None]["data"]["text/plain"] == "42"
    following = client.execute("_ + 1")
    assert value(following) == "43" and following["execution_count"] == reply["execution_count"] + 1


def test_it_is_husk_that_runs_under_the_name_python3(client):
    assert client.kernel_info["implementation"] == "husk"
    assert client.kernel_info["language_info"]["name"] == "python"
    assert value(client.execute("import os; os.environ['HUSK']")) is not None


def test_an_error_arrives_whole(client):
    reply = client.execute("def f():\n    raise KeyError('é☃')\nf()")
    assert reply["status"] == "error"
    error, = reply["outputs"]
    assert (error["ename"], error["evalue"]) == ("KeyError", "'é☃'")
    assert "line 2" in "\n".join(error["traceback"])


VALUES = {
    "number": 42, "text": "é☃\n\"'\\", "none": None, "list": [1, [2.5, None]],
    "dict": {"a": (1, 2), 3: {"x"}}, "bytes": bytes(range(256)), "large": "x" * 200_000,
}


@pytest.mark.parametrize("name", VALUES)
def test_variables_go_there_and_come_back(client, name):
    client.set_variable(f"v_{name}", VALUES[name])
    assert client.get_variable(f"v_{name}") == VALUES[name]


def test_an_array_and_a_table_go_there_and_come_back(client):
    array = numpy.arange(1000.0).reshape(10, 100)
    table = pandas.DataFrame({"a": [1, 2], "b": ["é", None]})
    client.set_variable("array", array)
    client.set_variable("table", table)
    assert value(client.execute("array.sum(), table.shape")) in (
        "(np.float64(499500.0), (2, 2))", "(499500.0, (2, 2))")
    assert (client.get_variable("array") == array).all()
    pandas.testing.assert_frame_equal(client.get_variable("table"), table)


def test_variables_of_the_user_are_listed_and_nothing_of_the_kernel(client):
    client.restart()
    client.execute("a = [1, 2]\nb = 'text'\n_c = 3\nimport os\ndef f(): pass\nclass C: pass\nd = C()")
    found = {v["name"]: tuple(v["type"]) for v in client.list_variables()}
    assert found == {"a": ("builtins", "list"), "b": ("builtins", "str"), "d": ("__main__", "C")}


def test_a_variable_that_is_not_there_is_an_error(client):
    with pytest.raises(RuntimeError):
        client.get_variable("nothing_of_this_name")
    assert value(client.execute("1 + 1")) == "2"


def test_the_mime_types_of_a_variable(client):
    client.execute("class Both:\n    def _repr_html_(self): return '<b>x</b>'\nboth = Both()")
    data, _ = client.get_variable_mimetypes("both")
    assert data["text/html"] == "<b>x</b>"


def test_a_question_is_asked_and_answered_through_the_server(client):
    asked = []

    def answer(message):
        asked.append(message["content"])
        client._manager.client.input("Bob")

    reply = client.execute("input('name? ')", allow_stdin=True, stdin_hook=answer, timeout=TIMEOUT)
    assert value(reply) == "'Bob'"
    assert asked == [{"prompt": "name? ", "password": False}]


@pytest.mark.parametrize("code", ["import time; time.sleep(1000)", "while True: pass",
                                  "import asyncio; await asyncio.sleep(1000)"])
def test_an_interrupt_through_the_server_stops_the_cell(client, code):
    client.execute("kept = 1")
    content, (error,) = when_started(client, code, client.interrupt)
    assert content["status"] == "error" and content["ename"] == error["ename"] == "KeyboardInterrupt"
    assert isinstance(content["execution_count"], int)
    assert value(client.execute("kept")) == "1"


def test_a_restart_forgets_everything_and_loses_nothing_sent_after_it(client):
    for _ in range(5):  # the server's sockets come back one by one, later than a warm start takes
        client.execute("a = 1")
        client.restart()
        reply = client.execute("'a' in globals()", timeout=TIMEOUT)
        assert value(reply) == "False" and reply["execution_count"] == 1


@pytest.mark.parametrize("code, reason", [
    ("import os; os._exit(3)", "exited with status 3"),
    ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    ("import ctypes; ctypes.string_at(0)", "killed by signal 11"),
], ids=["exit", "kill", "segfault"])
def test_a_death_is_answered_and_the_next_cell_runs(client, code, reason):
    reply = client.execute(code, timeout=TIMEOUT)
    error, = [o for o in reply["outputs"] if o["output_type"] == "error"]
    assert reply["status"] == "error" and isinstance(reply["execution_count"], int)
    assert error["ename"] == "InterpreterDied" and reason in error["evalue"]
    assert value(client.execute("1 + 1", timeout=TIMEOUT)) == "2"


def test_the_server_replaces_a_kernel_that_was_killed(server):
    """Same connection file, same ports, for the clients that are connected."""
    with JupyterKernelClient(server_url=server.url, token=server.token) as c:
        before = set(psutil.Process(server.process.pid).children())
        c.execute("a = 1")
        running = [p for p in before if p.name() == "husk" and "kernel" in p.cmdline()[:2]]
        newest = max(running, key=psutil.Process.create_time)
        newest.kill()
        end = time.monotonic() + TIMEOUT
        while not set(psutil.Process(server.process.pid).children()) - before:
            assert time.monotonic() < end, server.log.read_text()
            time.sleep(0.2)  # the server looks every three seconds
        while True:  # what is sent while the server changes its connections is lost in the server
            try:
                assert value(c.execute("'a' in globals()", timeout=5)) == "False"
                break
            except TimeoutError:
                assert time.monotonic() < end, server.log.read_text()


@pytest.mark.parametrize("of", ["a notebook", "nothing"])
def test_a_flood_passes_the_server_whole(server, of):
    """It drops what is above a megabyte a second, of every kernel: 4 MB, printed as fast as can be."""
    options = {}
    if of == "a notebook":
        session = server.json("/api/sessions", {"path": "flood.ipynb", "name": "flood.ipynb", "type": "notebook",
                                                "kernel": {"name": "husk"}})
        options["kernel_id"] = session["kernel"]["id"]
    with JupyterKernelClient(server_url=server.url, token=server.token, **options) as c:
        reply = c.execute("for i in range(80000): print(f'{i:6d}' + 'x' * 43)", timeout=TIMEOUT)
    assert text(reply) == "".join(f"{i:6d}" + "x" * 43 + "\n" for i in range(80000))
    assert {o["name"] for o in reply["outputs"]} == {"stdout"} and "rate exceeded" not in server.log.read_text()


def test_no_kernel_is_left_when_the_server_ends(tmp_path):
    s = Server(tmp_path)
    c = JupyterKernelClient(server_url=s.url, token=s.token)
    c.start()
    c.execute("import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)")
    below = psutil.Process(s.process.pid).children(recursive=True)
    assert any(p.name() == "sleep" for p in below) and any(p.name() == "husk" for p in below)
    s.stop()
    gone, left = psutil.wait_procs(below, timeout=TIMEOUT)
    assert not left
    c.stop()


# --- code_sandboxes


@pytest.fixture(scope="module")
def sandbox(server):
    with Sandbox.create(variant="jupyter-server", server_url=server.url, token=server.token,
                        reuse_kernel=False, timeout=TIMEOUT) as s:
        yield s


def test_a_sandbox_runs_code_and_keeps_state(sandbox):
    assert sandbox.run_code("x = 40").success
    result = sandbox.run_code("print('a\\nb')\nprint('é☃', end='')\nx + 2")
    assert result.success and result.text == "42" and result.stdout == "a\nb\né☃"
    assert isinstance(result.execution_count, int) and result.exit_code in (None, 0)


def test_a_sandbox_has_its_text_exactly_as_it_was_written(sandbox):
    """The client joins what it got: a message that ends inside a line must say so."""
    result = sandbox.run_code(
        "import sys, time\nfor i in range(6):\n    print('.', end='', flush=True)\n    time.sleep(0.05)\n"
        "print()\nprint('one\\n\\ntwo')\nsys.stderr.write('e1\\ne2\\n')")
    assert result.stdout == "......\none\n\ntwo" and result.stderr == "e1\ne2"


def test_a_sandbox_reports_errors(sandbox):
    result = sandbox.run_code("print('before')\n{}['é']")
    assert not result.success and result.execution_ok and result.stdout == "before"
    assert (result.code_error.name, result.code_error.value) == ("KeyError", "'é'")
    assert "KeyError" in result.code_error.traceback
    assert sandbox.run_code("1 + 1").text == "2"


def test_a_sandbox_reports_exit_codes(sandbox):
    assert sandbox.run_code("import sys; sys.exit(3)").exit_code == 3
    assert sandbox.run_code("raise SystemExit").exit_code == 0
    assert sandbox.run_code("1 + 1").text == "2"


def test_a_sandbox_reports_a_death(sandbox):
    result = sandbox.run_code("import os; os.kill(os.getpid(), 9)")
    assert not result.success and result.code_error.name == "InterpreterDied"
    assert "killed by signal 9" in result.code_error.value
    assert sandbox.run_code("1 + 1").text == "2"


def test_a_sandbox_has_displays_with_their_types(sandbox):
    result = sandbox.run_code(
        "from IPython.display import HTML, JSON, display\n"
        "display(HTML('<b>x</b>'))\ndisplay(JSON({'a': [1]}))\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert result.success, result
    assert [r.html for r in result.results if r.html] == ["<b>x</b>"]
    assert [r.json for r in result.results if r.json] == [{"a": [1]}]
    assert [r.png for r in result.results if r.png]


def test_a_sandbox_has_variables(sandbox):
    sandbox.set_variable("given", {"a": [1, "é"]})
    assert sandbox.run_code("given['a'][1]").text == "'é'"
    sandbox.run_code("made = given['a'] * 2")
    assert sandbox.get_variable("made") == [1, "é", 1, "é"]
    assert sandbox.get_variable("len(made)") == 4


def test_variables_of_the_environment_stay(sandbox):
    result = sandbox.run_code("import os; os.environ['GIVEN']", envs={"GIVEN": "é x"})
    assert result.text == "'é x'"
    assert sandbox.commands.run("echo $GIVEN").stdout.strip() == "é x"


@pytest.mark.parametrize("directory", ["", "/tmp/", "made/for/this/"])
def test_a_sandbox_has_files(sandbox, directory):
    files = sandbox.files
    path = f"{directory}note.txt"
    files.write(path, "hé\nllo ☃")
    assert files.read(path) == "hé\nllo ☃"
    assert files.exists(path) and files.is_file(path) and not files.is_dir(path)
    assert files.get_info(path).size == len("hé\nllo ☃".encode())
    files.copy(path, f"{directory}copy.txt")
    files.move(f"{directory}copy.txt", f"{directory}moved.txt")
    assert {"note.txt", "moved.txt"} <= {f.name for f in files.list(directory or ".")}
    files.rm(path)
    files.rm(f"{directory}moved.txt")
    assert not files.exists(path)


def test_files_of_a_sandbox_are_bytes(sandbox, server):
    data = bytes(range(256)) * 400
    sandbox.files.write_bytes("data.bin", data)
    assert sandbox.files.read_bytes("data.bin") == data
    # The kernel's directory is the server's: shared, nothing to fetch.
    assert (server.root / "data.bin").read_bytes() == data


def test_files_go_up_and_come_down(sandbox, tmp_path):
    (tmp_path / "up").write_bytes(b"\0\xff up")
    sandbox.files.upload(str(tmp_path / "up"), "/tmp/up")
    sandbox.files.download("/tmp/up", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == b"\0\xff up"


def test_a_sandbox_runs_commands(sandbox):
    done = sandbox.commands.run("echo out; echo err >&2; exit 3")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert sandbox.commands.run("pwd", cwd="/tmp").stdout == "/tmp\n"
    assert sandbox.commands.run("echo $A", env={"A": "b c"}).stdout == "b c\n"
    assert sandbox.commands.run("cat").stdout == ""  # stdin is at its end
    assert sandbox.commands.run_script("for i in 1 2; do echo $i; done").stdout == "1\n2\n"


def test_a_command_goes_on_between_cells(sandbox):
    sandbox.run_code("import os; os.mkfifo('/tmp/pipe')")
    process = sandbox.commands.exec("sh", "-c", "read line </tmp/pipe; exit $line")
    assert process.pid and process.poll() is None
    sandbox.run_code("open('/tmp/pipe', 'w').write('5\\n')")
    assert process.wait() == 5


def test_a_sandbox_streams(sandbox):
    seen = []
    result = sandbox.run_code("print('one')\nprint('two')\n3", on_stdout=lambda m: seen.append(m.line))
    assert seen == ["one", "two"] and result.text == "3"
    items = list(sandbox.run_code_streaming("print('one')\n1 / 0"))
    assert [getattr(i, "line", None) or getattr(i, "name", None) for i in items] == [
        "one", "ZeroDivisionError"]


def test_a_sandbox_is_interrupted(sandbox):
    sandbox.run_code("kept = 1")

    def interrupt(message):
        if message.line == "started":
            threading.Thread(target=sandbox.interrupt).start()

    result = sandbox.run_code("print('started', flush=True)\nimport time; time.sleep(1000)",
                              on_stdout=interrupt)
    assert result.interrupted and result.code_error.name == "KeyboardInterrupt"
    assert sandbox.run_code("kept").text == "1"


def test_a_sandbox_is_restarted_on_the_same_connection(sandbox):
    sandbox.run_code("a = 1")
    assert sandbox.is_alive() and sandbox.restart_kernel()
    for _ in range(10):  # what is sent while the server changes its connections is lost in it
        result = sandbox.run_code("'a' in globals()", timeout=6)
        if result.text:
            break
    assert result.text == "False" and result.execution_count == 1


def test_two_sandboxes_share_nothing_but_files(sandbox, server):
    with Sandbox.create(variant="jupyter-server", server_url=server.url, token=server.token,
                        reuse_kernel=False) as other:
        sandbox.run_code("mine = 1; open('/tmp/mine', 'w').close(); open('shared', 'w').close()")
        result = other.run_code("import os; ['mine' in globals(), *map(os.path.exists, ['/tmp/mine', 'shared'])]")
        assert result.text == "[False, False, True]"


def test_what_a_sandbox_of_the_name_promises(sandbox):
    """No network, no files of the user's, whatever the client asks for: it does not ask."""
    result = sandbox.run_code(
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', %d), 2)\nexcept OSError as e:\n"
        "    print('refused')" % int(sandbox._server_url.rpartition(":")[2]))
    assert result.stdout == "refused"


# --- libraries that look for ipykernel, which is installed here


@pytest.mark.parametrize("code", [
    "import ipykernel.comm\nipykernel.comm.Comm is not None",
    "from ipykernel.comm import Comm, CommManager\nComm is not None",
    "import ipykernel.zmqshell\nisinstance(get_ipython(), ipykernel.zmqshell.ZMQInteractiveShell)",
    "from ipykernel.zmqshell import ZMQInteractiveShell\nisinstance(get_ipython(), ZMQInteractiveShell)",
    "import sys\n'ipykernel.zmqshell' in sys.modules",
    "import comm\nfrom ipykernel.comm import Comm\nisinstance(comm.create_comm(), Comm)",
    "'IPKernelApp' in get_ipython().config",
    "get_ipython().__class__.__name__ == 'ZMQInteractiveShell'",
    "import ipykernel.kernelapp, ipykernel\nipykernel.__version__.startswith('7')",
], ids=lambda code: code.splitlines()[0][:50])
def test_a_library_that_looks_for_ipykernels_names_finds_them(kernel, code):
    result = kernel.run(code)
    assert (result.status, result.value) == ("ok", "True"), result.reply


# --- widgets


SLIDER = [
    "import ipywidgets as w\nfrom IPython.display import display\n"
    "slider = w.IntSlider(3, 0, 10, description='é')\nslider",
    "slider.observe(lambda change: print('moved', change.old, change.new), 'value')\n"
    "slider.value = 7\nslider.value",
    "a, b = w.FloatText(1.5), w.FloatText()\nlink = w.jslink((a, 'value'), (b, 'value'))\n"
    "w.HBox([a, b, w.Label('x')])",
    "picture = w.Image(value=b'\\x89PNG\\r\\n\\x1a\\n' + bytes(range(256)), format='png')\ndisplay(picture)",
    "slider.close()",
    "bar = w.IntProgress(max=3)\ndisplay(bar)\nfor i in range(4):\n    bar.value = i",
    "w.Dropdown(options=[('one', 1), ('two', 2)], value=2)",
    "import datetime\nw.DatePicker(value=datetime.date(2026, 2, 3))",
]
INTERACT = [
    "from ipywidgets import interact, interactive, interact_manual, fixed\n"
    "@interact(x=(0, 5), name=['a', 'b'], on=True, k=fixed(2))\n"
    "def shown(x, name, on, k):\n    print(x, name, on, k)\n    return x * k",
    "kept = interactive(lambda x: x + 1, x=3.0)\nkept",
    "kept.children[0].value = 4.5\nkept.result",
    "@interact(x=1)\ndef fails(x):\n    raise ValueError('é')",
    "interact_manual(print, x='text')",
]
OUTPUT = [
    "import ipywidgets as w, sys\nfrom IPython.display import HTML, clear_output, display\n"
    "out = w.Output(layout={'border': '1px solid'})\nout",
    "print('in the cell')\nwith out:\n    print('in the widget')\n    print('err', file=sys.stderr)\n"
    "    display(HTML('<b>x</b>'))\nprint('in the cell again')",
    "with out:\n    1 / 0\nprint('goes on')",
    "out.append_stdout('more')\nout.append_display_data(HTML('<i>y</i>'))",
    "@out.capture(clear_output=True, wait=True)\ndef f():\n    print('captured')\n    return 5\nf()",
    "tab = w.Tab([w.Output(), w.Output()])\nfor i, o in enumerate(tab.children):\n    with o:\n"
    "        print('tab', i)\ntab",
    "with out:\n    clear_output()\n    h = display('first', display_id=True)\n    h.update('second')",
]
ANYWIDGET = [
    "import anywidget, traitlets as t\nclass Counter(anywidget.AnyWidget):\n"
    "    _esm = 'export default { render({ model, el }) { el.textContent = model.get(\"count\") } }'\n"
    "    _css = '.counter { color: red }'\n    count = t.Int(1).tag(sync=True)\n"
    "    blob = t.Bytes().tag(sync=True)\ncounter = Counter(blob=bytes(range(256)))\ncounter",
    "counter.observe(lambda change: print(change.old, change.new), 'count')\ncounter.count += 1\ncounter.count",
    "counter.send({'a': 1}, buffers=[b'bytes'])",
    "class Other(Counter):\n    count = t.Int(5).tag(sync=True)\nOther(), Other()",
]
IPYMPL = [
    "%matplotlib widget\nimport matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(2, 1))\n"
    "ax.plot([1, 2])\nfig.canvas",
    "ax.set_title('é'); fig.canvas.toolbar_visible = False\nfig.canvas.draw()",
    "fig.canvas.mpl_connect('button_press_event', print)\nplt.close(fig)",
]
TQDM = [
    "from tqdm.notebook import tqdm, trange\nfor i in trange(4):\n    pass",
    "for i in tqdm(['a', 'b'], desc='é', leave=False):\n    tqdm.write(i)",
    "for i in trange(2, desc='outer'):\n    for j in trange(2, desc='inner'):\n        pass",
    "try:\n    for i in trange(3):\n        if i == 1: raise ValueError\nexcept ValueError:\n    print('no')",
    "from tqdm.auto import tqdm as auto\nprint(auto.__mro__[1].__module__)\nfor i in auto(range(2)):\n    pass",
    "import pandas\nauto.pandas()\npandas.Series([1, 2]).progress_apply(lambda x: x + 1).tolist()",
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """{kernel: its directory of kernelspecs} of ipykernel and husk, and a place to work in."""
    directory = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(directory / "ipython"))
        yield beside.install_both(directory), directory


def shown(both, cells):
    """[what each kernel makes of a notebook of these cells]."""
    specs, directory = both

    def execute(kernel):
        nb = notebook(*cells)
        error = test_notebooks.execute(nb, specs[kernel], directory, allow_errors=True)
        return beside.Reader(directory).notebook(nb, error)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(execute, beside.KERNELS))


@pytest.mark.parametrize("cells, widgets", [(SLIDER, 20), (INTERACT, 25), (OUTPUT, 7), (ANYWIDGET, 2),
                                            (IPYMPL, 4)],
                         ids=["slider", "interact", "Output", "anywidget", "ipympl"])
def test_the_saved_state_of_widgets_is_ipykernels(both, cells, widgets):
    stock, mine = shown(both, cells)
    state = stock["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert len(state) >= widgets
    wrong = test_notebooks.differences("widgets", stock, mine)
    assert not wrong, "\n".join(wrong)


def test_bars_of_tqdm_are_ipykernels(both):
    stock, mine = shown(both, TQDM)
    assert stock[4]["outputs"][0]["text"] == "tqdm.notebook\n"
    wrong = test_notebooks.differences("tqdm", stock, mine)
    assert not wrong, "\n".join(wrong)


class FrontEnd:
    """A front end that knows widgets: it sends comm messages and reads what they bring."""

    def __init__(self, specs, directory):
        self.manager = KernelManager(
            kernel_name=beside.NAME,
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)]))
        self.manager.start_kernel(cwd=str(directory))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=TIMEOUT)
        self.reader = beside.Reader(directory)
        self.transcript = []

    def ask(self, msg_type, content, buffers=(), metadata=None):
        """Sends a request; returns the messages from busy to idle, and keeps them."""
        message = self.client.session.msg(msg_type, content, metadata=metadata)
        self.client.session.send(self.client.shell_channel.socket, message, buffers=list(buffers))
        msg_id, found = message["header"]["msg_id"], []
        while not (found and found[-1]["content"].get("execution_state") == "idle"):
            m = self.client.get_iopub_msg(timeout=TIMEOUT)
            if m["parent_header"].get("msg_id") == msg_id:
                found.append(m)
        for m in found:
            self.transcript.append((m["msg_type"], self.reader.value(m["content"]), m["metadata"],
                                    [bytes(b) for b in m["buffers"]]))
        return found

    def run(self, code):
        return self.ask("execute_request", {
            "code": code, "silent": False, "store_history": True, "user_expressions": {},
            "allow_stdin": False, "stop_on_error": True})

    def model(self, messages):
        mime = "application/vnd.jupyter.widget-view+json"
        return [m["content"]["data"][mime]["model_id"] for m in messages
                if mime in m["content"].get("data", {})][0]

    def update(self, comm_id, state, paths=(), buffers=()):
        data = {"method": "update", "state": state, "buffer_paths": list(paths)}
        return self.ask("comm_msg", {"comm_id": comm_id, "data": data}, buffers)

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def moved(front):
    """A user moves a slider, presses a button, uploads, and types something impossible."""
    slider = front.model(front.run(
        "import ipywidgets as w\nslider = w.IntSlider(3)\n"
        "slider.observe(lambda c: print('moved', c.new), 'value')\nslider"))
    front.update(slider, {"value": 8})
    front.update(slider, {"value": "not a number"})
    front.update(slider, {"value": 9})
    front.run("slider.value")
    button = front.model(front.run(
        "button, out = w.Button(description='x'), w.Output()\n"
        "@out.capture()\ndef clicked(b):\n    print('clicked', b.description)\n    1 / 0\n"
        "button.on_click(clicked)\nbutton"))
    front.ask("comm_msg", {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}})
    front.run("print('after')")
    picture = front.model(front.run("picture = w.Image(value=b'a'); picture"))
    front.update(picture, {}, [["value"]], [bytes(range(256)) * 100])
    front.run("len(picture.value), bytes(picture.value[:3])")
    front.ask("comm_msg", {"comm_id": slider, "data": {"method": "request_state"}})


def reloaded(front):
    """A page is loaded again: it asks for all comms and their states, as JupyterLab does."""
    front.run("import ipywidgets as w\nbox = w.VBox([w.Text('é'), w.Image(value=b'\\x00\\xff')])")
    control = uuid.uuid4().hex
    front.ask("comm_open", {"comm_id": control, "target_name": "jupyter.widget.control", "data": {},
                            "target_module": None}, metadata={"version": "1.0.0"})
    answered = front.ask("comm_msg", {"comm_id": control, "data": {"method": "request_states"}})
    states = [m for m in answered if m["msg_type"] == "comm_msg"][0]
    assert len(states["content"]["data"]["states"]) >= 4 and states["buffers"]
    front.ask("comm_close", {"comm_id": control, "data": {}})


def opened(front):
    """Comms of one's own, both ways, with buffers, and one whose target does not exist."""
    front.run(
        "def on_open(comm, message):\n    print('opened', message['content']['data'])\n"
        "    @comm.on_msg\n    def _(m):\n"
        "        comm.send({'got': m['content']['data']}, buffers=[bytes(b)[::-1] for b in m['buffers']])\n"
        "    @comm.on_close\n    def _(m):\n        print('closed', m['content']['data'])\n"
        "get_ipython().kernel.comm_manager.register_target('mine', on_open)")
    comm_id = uuid.uuid4().hex
    front.ask("comm_open", {"comm_id": comm_id, "target_name": "mine", "data": {"a": "é"}})
    front.ask("comm_msg", {"comm_id": comm_id, "data": [1, None]}, [b"", b"abc"])
    front.ask("comm_close", {"comm_id": comm_id, "data": {"why": 1}})
    front.ask("comm_msg", {"comm_id": comm_id, "data": {}})  # too late
    front.ask("comm_open", {"comm_id": uuid.uuid4().hex, "target_name": "nothing", "data": {}})
    front.run("from comm import create_comm\nc = create_comm(target_name='theirs', data={'x': 1})\n"
              "c.send([1], metadata={'m': 1}, buffers=[memoryview(b'xy')])\nc.close()")


@pytest.mark.parametrize("session", [moved, reloaded, opened], ids=lambda f: f.__name__)
def test_a_front_ends_comm_messages_bring_what_they_bring_with_ipykernel(both, session):
    specs, directory = both
    transcripts = []
    for kernel in beside.KERNELS:
        front = FrontEnd(specs[kernel], directory)
        try:
            session(front)
        finally:
            front.stop()
        transcripts.append(front.transcript)
    stock, mine = transcripts
    for i, (a, b) in enumerate(zip(stock, mine)):
        assert a == b, f"message {i}"
    assert len(stock) == len(mine)
