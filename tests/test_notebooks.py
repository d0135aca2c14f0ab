# SPDX-License-Identifier: BSD-3-Clause
"""Notebooks that others wrote: those in the source packages of nbclient and of papermill; gallery.py has more.

They come from the package index that pip is configured for, when the tests run. Every one that
ipykernel executes, husk executes with the same outputs, but for DIFFERENCES. beside.py says what is equal.
"""

import concurrent.futures
import os
import threading

import conftest
import nbformat
import papermill
import pytest
from beside import KERNELS, NAME, Reader, install_both, parts
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from packages import download, unpack
from papermill.exceptions import PapermillExecutionError

# What nbclient's own tests give to NotebookClient; without a row: nothing. The first error ends
# the notebook then, and is compared.
NBCLIENT = {
    "Autokill": {},
    "Check History in Memory": {},
    "Clear Output": {},
    "Disable Stdin": {"allow_errors": True},
    "Empty Cell": {},
    "Error": {},
    "Factorials": {},
    "HelloWorld": {},
    "Inline Image": {},
    "Interrupt": {"timeout": 5, "interrupt_on_timeout": True, "allow_errors": True},
    "JupyterWidgets": {},
    "Other Comms": {},
    "Output": {},
    "Parallel Execute A": {},
    "Parallel Execute B": {},
    "SVG": {},
    "Skip Exceptions with Cell Tags": {},
    "Skip Exceptions": {"allow_errors": True},
    "Skip Execution with Cell Tag": {},
    "Sleep1s": {},
    "Unicode": {},
    "UnicodePy3": {},
    "update-display-id": {},
}

# What papermill.execute_notebook gets. The same notebooks also go through nbclient, which runs
# all of their cells.
PAPERMILL = {
    "binder": {},
    "blank-vscode": {"parameters": {"var": "It works"}},
    "broken": {},
    "broken1": {},
    "broken2": {},
    "complex_parameters": {"parameters": {"msg": "Hello", "a": 1.5, "b": ["x", None, True]}},
    "gcs-simple_notebook": {},
    "keyboard_interrupt": {"parameters": {"foo": r"do\ not\ crash"}, "prepare_only": True},
    "line_magic_error": {},
    "nb_version_4.4": {"parameters": {"var": "It works"}},
    "no_parameters": {"parameters": {"msg": 'He said "hé\\llo ☃"'}},
    "notimplemented_translator": {"parameters": {"msg": "Hello"}, "language": "python"},
    "read_check": {"cwd": "elsewhere"},
    "report_mode_test": {"parameters": {"a": 0}, "report_mode": True},
    "result_no_exec": {"parameters": {"foo": 2}},
    "s3-simple_notebook": {"parameters": {"msg": "Hello"}},
    "simple_execute": {"parameters": {"msg": {"a": [1, 2.5, None], "b": "x"}}},
    "sysexit": {},
    "sysexit0": {},
    "sysexit1": {},
    "systemexit": {},
    "test_autosave": {"autosave_cell_every": 1},
    "test_logging": {"log_output": True},
    "test_notebooknode_io": {},
}

# {(notebook, cell): why husk's outputs are not ipykernel's}
DIFFERENCES = {}

# {notebook: why ipykernel does not execute it}; husk does, and the test for it says what.
LEFT_OUT = {
    "Autokill": "the notebook kills the kernel, and with ipykernel that is the end of it",
}


def sources(directory, names):
    """Notebooks and tests of the installed versions' source packages, below a copy for each kernel."""
    for name in names:
        unpack(download(name, directory), *(directory / kernel / name for kernel in KERNELS),
               wanted=lambda path: path.endswith(".ipynb") or "tests/" in path)


class Client(NotebookClient):
    """Takes the kernels of one directory of kernelspecs."""

    specs = None

    def create_kernel_manager(self):
        manager = super().create_kernel_manager()
        manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[str(self.specs)])
        return manager


def execute(notebook, specs, directory, **options):
    """Executes it in place, in `directory`; returns what ended it early, or None."""
    client = Client(
        notebook, kernel_name=NAME, startup_timeout=conftest.TIMEOUT,
        resources={"metadata": {"path": str(directory)}},
        **{"timeout": conftest.TIMEOUT, **options},
    )
    client.specs = specs
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as raised:
        return type(raised).__name__, getattr(raised, "ename", None), getattr(raised, "evalue", "")
    return None


class Runs:
    """The notebooks of the packages, run with either kernel."""

    def __init__(self, directory, specs, names, key=lambda path: path.stem):
        self.directory = directory
        self.specs = specs
        sources(directory, names)
        paths = [p.relative_to(directory / "husk") for p in sorted((directory / "husk").rglob("*.ipynb"))]
        self.paths = {key(p): p for p in paths}
        assert len(self.paths) == len(paths)

    def path(self, kernel, name):
        return self.directory / kernel / self.paths[name]

    def nbclient(self, kernel, name, options):
        path = self.path(kernel, name)
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        error = execute(notebook, self.specs[kernel], path.parent, **options)
        return Reader(self.directory / kernel).notebook(notebook, error)

    def both(self, name, options):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return pool.map(lambda kernel: self.nbclient(kernel, name, options), KERNELS)

    def papermill(self, kernel, name, options):
        path = self.path(kernel, name)
        out = path.with_name(f"{name}.out.ipynb")
        options = dict(options)
        if "cwd" in options:
            options["cwd"] = path.parent / options["cwd"]
            options["cwd"].mkdir()
            (options["cwd"] / "check.txt").write_text("exists")
        error = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUPYTER_PATH", str(self.specs[kernel].parent))
            try:
                papermill.execute_notebook(
                    path, out, kernel_name=NAME, progress_bar=False,
                    start_timeout=conftest.TIMEOUT, execution_timeout=conftest.TIMEOUT,
                    **{"cwd": path.parent, **options},
                )
            except PapermillExecutionError as raised:
                error = (raised.exec_count, raised.ename, raised.evalue)
        notebook = nbformat.read(out, as_version=4)
        out.unlink()
        return Reader(self.directory / kernel).notebook(notebook, error)


def differences(name, stock, mine, known=DIFFERENCES):
    """Lines, one for each difference that is not known, or known in vain."""
    found = []
    for what in sorted({*stock, *mine}, key=str):
        differing = parts(stock.get(what), mine.get(what))
        if (name, what) in known:
            if not differing:
                found.append(f"{name}, {what}: no longer differs, yet has a reason to")
            continue
        for where, a, b in differing:
            found.append(f"{name}, {what}{where}:\n  ipykernel {a!r}\n  husk      {b!r}")
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("notebooks")
    specs = install_both(directory / "spec", "--env", "NBEXECUTE_TEST_PARALLEL_TMPDIR")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(directory / "ipython"))
        # `python` is the one that runs the cells, as in an active virtual environment.
        patch.setenv("PATH", os.path.dirname(conftest.PYTHON) + os.pathsep + os.environ["PATH"])
        patch.setenv("COLUMNS", "80")  # for tracebacks, as nbclient's own tests do
        patch.setenv("LINES", "24")
        yield Runs(directory, specs, ("nbclient", "papermill"))


def test_every_notebook_of_the_two_packages_takes_part(runs):
    assert set(runs.paths) == {*NBCLIENT, *PAPERMILL}
    assert len(set(runs.paths) - set(LEFT_OUT)) >= 40
    assert {name for name, _ in DIFFERENCES} <= set(runs.paths)


PARALLEL = {"Parallel Execute A", "Parallel Execute B"}


@pytest.mark.parametrize("name", sorted(set(NBCLIENT) - set(LEFT_OUT) - PARALLEL))
def test_nbclient_gets_the_same_outputs(runs, name):
    stock, mine = runs.both(name, NBCLIENT[name])
    wrong = differences(name, stock, mine)
    assert not wrong, "\n".join(wrong)


def test_two_notebooks_at_a_time_see_each_others_files(runs, monkeypatch):
    """They wait for each other's file, in a directory whose name is a variable."""

    def together(kernel):
        directory = runs.path(kernel, "Parallel Execute A").parent
        monkeypatch.setenv("NBEXECUTE_TEST_PARALLEL_TMPDIR", str(directory))
        # They give each other 5 s, which start when both kernels are up.
        barrier = threading.Barrier(2)

        def wait(cell, cell_index):
            if cell_index == 0:
                barrier.wait(conftest.TIMEOUT)

        def run(name):
            found[name] = runs.nbclient(kernel, name, {"on_cell_start": wait})

        found = {}
        threads = [threading.Thread(target=run, args=(name,)) for name in sorted(PARALLEL)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    stock, mine = together("ipykernel"), together("husk")
    assert set(stock) == set(mine) == PARALLEL
    wrong = [line for name in sorted(PARALLEL) for line in differences(name, stock[name], mine[name])]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", sorted(PAPERMILL))
def test_papermills_notebooks_give_the_same_outputs_cell_by_cell(runs, name):
    """Through nbclient, which goes on after an error, and stops one that sleeps for a minute."""
    options = {"allow_errors": True}
    if name == "keyboard_interrupt":
        options = NBCLIENT["Interrupt"]
    stock, mine = runs.both(name, options)
    wrong = differences(name, stock, mine)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", sorted(PAPERMILL))
def test_papermill_writes_the_same_notebook(runs, name):
    stock, mine = (runs.papermill(kernel, name, PAPERMILL[name]) for kernel in KERNELS)
    wrong = differences(name, stock, mine)
    assert not wrong, "\n".join(wrong)


def test_a_notebook_that_ends_ipykernel_gets_an_error_that_says_what_happened(runs):
    stock, mine = runs.both("Autokill", {})
    assert stock["error"][0] == "DeadKernelError"
    kind, ename, evalue = mine["error"]
    assert (kind, ename) == ("CellExecutionError", "InterpreterDied")
    assert "killed by signal 15" in evalue
