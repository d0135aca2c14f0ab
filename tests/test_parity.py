# SPDX-License-Identifier: BSD-3-Clause
"""What cells bring: the cells of cells/*.ipy in husk and in ipykernel beside each other.

A file is a theme and is run as one session in each kernel. A line "# %%" begins a cell; after it may
stand options: answers to input(), fields of execute_request, settle=SECONDS to wait for what comes
after the cell, children=True where processes write (ipykernel keeps no order between that and the rest,
and takes what comes late for the next cell's), and differs={place: why husk must differ}: there it has to.
"""

import concurrent.futures
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess

import beside
import conftest
import pytest

CELLS = pathlib.Path(__file__).parent / "cells"
THEMES = sorted(p.stem for p in CELLS.glob("*.ipy"))
OPTIONS = ("answers", "silent", "store_history", "user_expressions", "allow_stdin", "stop_on_error")


def cells_of(theme):
    """[(line number, code, options)]"""
    found, line = [], 1
    for part in re.split(r"(?m)^# %%", (CELLS / f"{theme}.ipy").read_text()):
        options, _, code = part.partition("\n")
        if line > 1 or not part.startswith("#"):
            found.append((line, code.strip("\n"), eval(f"dict({options})")))
        line += part.count("\n")
    return found[1:] if not found[0][1] else found


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    return beside.install_both(tmp_path_factory.mktemp("specs"), "--history", "session")


def environment(home):
    # ipykernel does not read what children write if it believes to be tested by pytest.
    env = {k: v for k, v in os.environ.items()
           if k not in ("IPYTHONDIR", "MPLBACKEND", "PYTHONPATH") and not k.startswith("PYTEST_")}
    return {**env, "HOME": str(home), "COLUMNS": "80", "LINES": "24",
            "PATH": os.path.dirname(conftest.PYTHON) + os.pathsep + env["PATH"]}


def run_cells(specs, directory, cells):
    """[what is seen of each cell]"""
    work = directory / "work"
    (directory / "home").mkdir(parents=True)
    work.mkdir()
    session = beside.Session(specs, work, environment(directory / "home"))
    try:
        ids = []
        for _, code, options in cells:
            ids.append(session.run(code, **{k: v for k, v in options.items() if k in OPTIONS}))
            session.settle(options.get("settle", 0.3 if "children" in options else 0))
        reader = beside.Reader(directory)
        return [beside.seen(reader, session.requests[i], "children" in options)
                for i, (_, _, options) in zip(ids, cells, strict=True)]
    finally:
        session.stop()


@pytest.mark.parametrize("theme", THEMES)
def test_cells_bring_what_they_bring_in_ipykernel(specs, tmp_path, theme):
    cells = cells_of(theme)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stock, mine = pool.map(lambda k: run_cells(specs[k], tmp_path / k, cells), beside.KERNELS)
    wrong = []
    for (line, code, options), a, b in zip(cells, stock, mine, strict=True):
        wrong += [f"cells/{theme}.ipy:{line}: {first_line(code)}\n  {w}"
                  for w in beside.compared(a, b, options.get("differs"))]
    assert not wrong, "\n".join(wrong)


def first_line(code):
    return code.partition("\n")[0]


# --- the user's IPython profile


FILES = {
    "startup/10-first.py": "first = 'of startup'\nimport os\nprint('said at the start')",
    "startup/20-second.ipy": "second = first + '!'\n%alias greet echo hello",
    "startup/30-fails.py": "1 / 0",
    "startup/README": "no program",
    "ipython_config.py": "c.InteractiveShellApp.exec_lines = ['third = 3']\nc.InteractiveShell.separate_in = 'x'",
    "ipython_kernel_config.py": "c.InteractiveShellApp.extensions = ['autoreload']\nc.InlineBackend.figure_formats = {'svg'}\n"
                                "c.InteractiveShell.ast_node_interactivity = 'all'\n"
                                "c.PlainTextFormatter.float_precision = '%.3f'",
    "history.sqlite": "what was entered",
    "db/secret": "kept by %store",
}
QUESTIONS = [
    "first, second, third", "%greet", "1\n2", "1 / 3", "get_ipython().config.InlineBackend.figure_formats",
    "'autoreload' in get_ipython().extension_manager.loaded", "get_ipython().separate_in",
    "sorted(k for k in dir() if k in ('first', 'second', 'third', '__file__'))", "%who",
    "get_ipython().profile, get_ipython().profile_dir.location",
    "%store first", "get_ipython().profile_dir.startup_dir",
    "import matplotlib.pyplot as plt; plt.plot([1]); plt.gcf().set_size_inches(1, 1); plt.rcParams['svg.hashsalt'] = 'x'; None",
]


def make_profile(home, name="default"):
    for path, text in FILES.items():
        target = home / ".ipython" / f"profile_{name}" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for path in [home, *home.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_profile_is_used_as_ipykernel_uses_it(specs, tmp_path):
    both = []
    for kernel in beside.KERNELS:
        work = tmp_path / kernel / "work"
        work.mkdir(parents=True)
        make_profile(tmp_path / kernel / "home")
        session = beside.Session(specs[kernel], work, environment(tmp_path / kernel / "home"))
        try:
            ids = [session.run(q) for q in QUESTIONS]
            reader = beside.Reader(tmp_path / kernel)
            both.append([beside.seen(reader, session.requests[i]) for i in ids])
        finally:
            session.stop()
    wrong = [f"{q}\n  {w}" for q, a, b in zip(QUESTIONS, *both, strict=True) for w in beside.compared(a, b)]
    assert not wrong, "\n".join(wrong)


def test_cells_can_neither_change_a_profile_nor_read_what_lies_beside_it(make_kernel, tmp_path):
    home = tmp_path / "home"
    make_profile(home)
    before = {p: p.read_text() for p in (home / ".ipython").rglob("*") if p.is_file()}
    kernel = make_kernel(env={"HOME": str(home)})
    assert kernel.run("third").value == "3"
    kernel.run("import os; at = os.path.expanduser('~/.ipython/profile_default/')")
    for code in ("open(at + 'startup/10-first.py', 'a')", "open(at + 'startup/new.py', 'w')",
                 "os.unlink(at + 'ipython_config.py')", "os.rename(at + 'startup', at + 'x')"):
        assert kernel.run(code).ename in ("OSError", "PermissionError"), code
    assert kernel.run("os.path.exists(at + 'history.sqlite'), os.path.exists(at + 'db/secret')").value == "(False, False)"
    assert {p: p.read_text() for p in (home / ".ipython").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("options, value", [
    (["--ipython", "none"], "NameError"), (["--profile", "strict"], "NameError"), (["--ipython", "other"], "3"),
    (["--ipython", "absent"], "NameError")], ids=["none", "strict", "other", "absent"])
def test_a_profile_is_the_one_that_was_asked_for(make_kernel, tmp_path, options, value):
    home = tmp_path / "home"
    make_profile(home, "other" if "other" in options else "default")
    result = make_kernel(*options, env={"HOME": str(home)}).run("third")
    assert (result.value or result.ename) == value


def test_a_profile_may_lie_where_a_variable_says(make_kernel, tmp_path):
    """And then the one of the home directory does not count."""
    make_profile(tmp_path / "elsewhere")
    (tmp_path / "home/.ipython/profile_default").mkdir(parents=True)
    (tmp_path / "home/.ipython/profile_default/ipython_config.py").write_text("c.InteractiveShellApp.exec_lines = ['third = 4']")
    for path in [tmp_path / "home", *(tmp_path / "home").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    at = tmp_path / "elsewhere" / ".ipython"
    kernel = make_kernel(env={"HOME": str(tmp_path / "home"), "IPYTHONDIR": str(at)})
    assert kernel.run("first, third, get_ipython().config.InlineBackend.figure_formats").value == "('of startup', 3, {'svg'})"
    kernel.run("import os; at = get_ipython().profile_dir.location")
    assert kernel.run("open(at + '/startup/10-first.py', 'a')").ename == "OSError"
    assert kernel.run(f"os.path.exists(at + '/history.sqlite') or os.path.exists({str(at)!r} + '/profile_default/db')").value == "False"


@pytest.mark.parametrize("name, text", [("ipython_config.py", "1 / 0"), ("ipython_config.py", "raise SystemExit(3)"),
                                        ("startup/1.py", "raise SystemExit(3)"), ("startup/1.py", "x ="),
                                        ("startup/1.py", "raise KeyboardInterrupt")], ids=ascii)
def test_a_profile_that_fails_keeps_nobody_from_working(make_kernel, tmp_path, name, text):
    target = tmp_path / "home/.ipython/profile_default" / name
    target.parent.mkdir(parents=True)
    target.write_text(text)
    (tmp_path / "home").chmod(0o755)
    kernel = make_kernel(env={"HOME": str(tmp_path / "home")})
    assert kernel.run("1 + 1").value == "2"


# --- a Python without ipykernel


def copy_packages(names, target):
    """What these packages need, into `target`."""
    todo, done = list(names), set()
    while todo:
        name = re.match(r"[\w.-]+", todo.pop())[0].lower().replace("_", "-")
        if name in done:
            continue
        done.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for other systems or Pythons
        todo += [r for r in distribution.requires or () if "extra ==" not in r]
        for file in distribution.files:
            source = file.locate()
            if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target / file)


WITHOUT_IPYKERNEL = [
    "import sys; 'ipykernel' in sys.modules, 'ipykernel.zmqshell' in sys.modules",
    "get_ipython().__class__.__name__, 'IPKernelApp' in get_ipython().config, 'zmq' in str(type(get_ipython()))",
    "import ipykernel; ipykernel.version_info[:2], ipykernel.__version__",
    "from ipykernel.zmqshell import ZMQInteractiveShell; isinstance(get_ipython(), ZMQInteractiveShell)",
    "from ipykernel.kernelapp import IPKernelApp; IPKernelApp.initialized(), IPKernelApp.instance().kernel is get_ipython().kernel",
    "from ipykernel.ipkernel import IPythonKernel; isinstance(get_ipython().kernel, IPythonKernel)",
    "from ipykernel.kernelbase import Kernel; isinstance(get_ipython().kernel, Kernel)",
    "from ipykernel.iostream import OutStream; isinstance(sys.stdout, OutStream)",
    "from ipykernel.comm import Comm, CommManager; from ipykernel.comm.comm import BaseComm",
    "import warnings; warnings.simplefilter('ignore'); c = Comm(target_name='t', data={'a': 1}); c.send('x', buffers=[b'y']); c.close()",
    "import comm; comm.get_comm_manager() is get_ipython().kernel.comm_manager",
    "from tqdm.auto import tqdm\ntqdm.__mro__[1].__module__\nfor i in tqdm(range(2)): pass",
    "import ipywidgets as w\no = w.Output()\nwith o: print('inside')\nb = w.IntSlider(); b.value = 3; b",
    "%lsmagic",
]


def test_without_ipykernel_libraries_find_the_same(specs, tmp_path, make_kernel):
    site = tmp_path / "environment"
    subprocess.run([conftest.PYTHON, "-m", "venv", "--without-pip", str(site)], check=True, timeout=conftest.TIMEOUT)
    (packages,) = site.glob("lib/*/site-packages")
    copy_packages(["ipython", "ipywidgets", "tqdm", "comm"], packages)
    python = str(site / "bin" / "python")
    assert subprocess.run([python, "-c", "import ipykernel"], capture_output=True).returncode == 1
    bare = beside.install_both(tmp_path / "specs", "--python", python)["husk"]
    both = []
    for kernel, spec in (("ipykernel", specs["ipykernel"]), ("husk", bare)):
        cells = [(0, code, {}) for code in WITHOUT_IPYKERNEL]
        both.append(run_cells(spec, tmp_path / kernel, cells))
    wrong = [f"{first_line(q)}\n  {w}" for q, a, b in zip(WITHOUT_IPYKERNEL, *both, strict=True)
             for w in beside.compared(a, b)]
    assert not wrong, "\n".join(wrong)


def test_a_start_says_nothing(make_kernel):
    """Text without a request would be taken for that of the first one, and by others for trouble."""
    kernel, before = make_kernel(ready=False), []
    while not before or before[-1]["msg_type"] != "iopub_welcome":
        before.append(kernel.client.get_iopub_msg(timeout=conftest.TIMEOUT))
    msg_id = kernel.send("1")
    while before[-1]["parent_header"].get("msg_id") != msg_id:
        before.append(kernel.client.get_iopub_msg(timeout=conftest.TIMEOUT))
    assert {m["msg_type"] for m in before} <= {"status", "iopub_welcome"} and not kernel.log.read_text()


def test_an_interrupt_is_heard_after_a_debugger_went_on(make_kernel):
    """pdb leaves a handler of its own behind, that would ask where nobody answers."""
    kernel = make_kernel()
    msg_id = kernel.send("import pdb, time\npdb.set_trace()\n1", allow_stdin=True)
    kernel.client.get_stdin_msg(timeout=conftest.TIMEOUT)
    kernel.client.input("c")
    assert kernel.result(msg_id).status == "ok"
    msg_id = kernel.send("print('begun', flush=True); time.sleep(600)")
    while kernel.client.get_iopub_msg(timeout=conftest.TIMEOUT)["msg_type"] != "stream":
        pass
    kernel.interrupt()
    assert kernel.result(msg_id).ename == "KeyboardInterrupt"


@pytest.mark.parametrize("shell,runs", [("/bin/bash", "bash"), ("/usr/bin/bash", "bash"), ("/bin/sh", "dash"),
                                        ("", "dash"), ("/bin/nothing", "dash"), ("/root/bin/bash", "dash"),
                                        ("bash", "dash")])
def test_a_command_of_a_cell_runs_in_the_users_shell_if_the_sandbox_has_it(make_kernel, tmp_path, shell, runs):
    kernel = make_kernel(env={"HOME": str(tmp_path / "home"), "SHELL": shell})
    assert kernel.run("!readlink -f /proc/$$/exe; :").stdout.strip().endswith("/" + runs)
