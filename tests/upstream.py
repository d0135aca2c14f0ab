#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the test suites of ipykernel, jupyter_client, nbclient, papermill and jupyter_server against an installed husk.

usage: upstream.py PREFIX DIRECTORY [SUITE...]

They come from the source packages of the versions in requirements.txt, and are run as their authors wrote
them; only the kernelspec named python3 is another, and for jupyter_server's tests of its REST and WebSocket API the server
is (upstream_server.py). Every test passes or stands in DIFFERENCES with the
reason why a kernel in a sandbox must differ; one that stands there and passes is an error, too. The
results are left in DIRECTORY/SUITE.xml, for compatibility.py.
"""

import fnmatch
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as tree

import packages

HERE = pathlib.Path(__file__).parent
EXTRAS = ["flaky", "msgpack", "pytest-asyncio", "pytest-cov", "pytest-jupyter[server]", "xmltodict", "testpath"]

# {suite: its files}. Left out are those that start no kernel: they test classes that husk does not have
# (ipykernel), or clients alone.
SUITES = {
    "ipykernel": ["test_kernel", "test_message_spec", "test_subshells", "test_async", "test_start_kernel",
                  "test_debugger"],
    "jupyter_client": ["test_client", "test_kernelmanager", "test_manager", "test_multikernelmanager",
                       "test_provisioning", "test_restarter", "test_public_api", "test_transport_security"],
    "nbclient": ["test_client", "test_cli", "test_util"],
    "papermill": ["test_autosave", "test_cli", "test_clientwrap", "test_engines", "test_exceptions", "test_execute",
                  "test_inspect", "test_parameterize"],
    "jupyter_server": ["services/kernels/test_api", "services/sessions/test_api", "services/contents/test_api"],
}

NOT_SHARED = "it works in a directory of /tmp, and a sandbox has a /tmp of its own"
OUTSIDE = "identities and requests that husk answers outside of the sandbox are not known inside"
ITS_OBJECTS = "it changes objects inside of Jupyter Server"
# {suite: {pattern of test ids: why husk must differ}}
DIFFERENCES = {
    "ipykernel": {
        "test_kernel::test_parent_header_and_ident": OUTSIDE,
        "test_kernel::test_save_history": NOT_SHARED,
        "test_message_spec::test_non_execute_stop_on_error":
            "kernel_info is answered at once; the test takes the first reply for that of the cell",
        "test_message_spec::test_kernel_info_request": "implementation_version is husk's, and below 2.1",
    },
    "jupyter_client": {
        "test_kernelmanager::*::test_subclass_callables[[]*]":
            "it counts signals, and a kernel with interrupt_mode message gets an interrupt_request instead",
    },
    "nbclient": {
        "test_client::test_async_parallel_notebooks": NOT_SHARED,
        "test_client::TestExecute::test_error_notebook_hook":
            "it waits for a kernel that died; the cell that killed it gets an error that says so",
        "test_client::TestExecute::test_kernel_death_during_execution": "as above",
        "test_client::test_run_all_notebooks[[]Skip Exceptions with Cell Tags.ipynb-*]":
            "IPython knows the source of the cell, and leaves blank lines out of its traceback as in a terminal",
    },
    "papermill": {
        "test_execute::TestBrokenNotebook2::test":
            "its notebook imports a name that IPython 9 does not have; with ipykernel it fails as well",
    },
    "jupyter_server": {
        "services::kernels::test_api::test_resolve_path_*": "/api/resolvePath tells what is a file on the host",
        "services::sessions::test_api::test_create_bad": ITS_OBJECTS,
        "services::sessions::test_api::test_create_session_duplicate_kernel_id_returns_409": ITS_OBJECTS,
        "services::sessions::test_api::test_create_deprecated": "it asks for a kernelspec named python; there is none",
        "services::contents::test_api::test_regression_is_hidden": ITS_OBJECTS,
        "services::contents::test_api::test_get_nb_invalid": "notebooks are JSON here, and not compared with a schema",
        "services::contents::test_api::test_copy_dir": "a directory that is not there is not made on the way",
        "services::contents::test_api::test_delete_non_empty_dir": "there is no trash for what is in it",
        "services::contents::test_api::test_trust": "no notebook is signed",
    },
}

# Tests that fail and leave replies behind that the next one would take for its own: each has a kernel for itself.
ALONE = {"ipykernel": ["test_message_spec::test_non_execute_stop_on_error"]}


def wanted(name):
    """The line of requirements.txt for a package."""
    lines = (HERE / "requirements.txt").read_text().split()
    return next(line for line in lines if line.lower().replace("-", "_").startswith(f"{name}=="))


def make_environment(directory):
    python = directory / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                    "-r", str(HERE / "requirements.txt"), *EXTRAS], check=True)
    return python


def fetch(directory, suite, python):
    """The directory of the suite's tests, unpacked from its source package."""
    name, _, version = wanted(suite).partition("==")
    sources = directory / "sources"
    for old in sources.glob(f"{suite}-*.tar.gz"):
        if old.name != f"{suite}-{version}.tar.gz":
            old.unlink()
    archive = packages.download(name, sources, version, python)
    root = sources / archive.name.removesuffix(".tar.gz")
    packages.unpack(archive, root)
    return root, next(p for p in (root / "tests", root / suite / "tests") if p.is_dir())


def install_kernel(prefix, directory, python):
    """The kernelspec that takes the place of ipykernel's; it passes on the variable that nbclient's tests need."""
    (directory / "ipython" / "profile_default").mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [str(prefix / "bin" / "husk"), "install", "--prefix", str(directory / "spec"), "--name", "python3",
         "--python", str(python), "--history", "session", "--ipython", "none", "--env", "NBEXECUTE_TEST_PARALLEL_TMPDIR"],
        check=True, capture_output=True,
    )


def put_server(tests):
    """Fixtures of husk's in the place of those that start a Jupyter Server."""
    text = (HERE / "upstream_server.py").read_text()
    (tests / "services" / "conftest.py").write_text(f"HERE = {str(HERE)!r}\n{text}")


def run_suite(suite, directory, python, prefix):
    root, tests = fetch(directory, suite, python)
    if suite == "jupyter_server":
        put_server(tests)
    results = directory / f"{suite}.xml"
    results.unlink(missing_ok=True)
    env = {**os.environ, "JUPYTER_PATH": str(directory / "spec" / "share" / "jupyter"),
           "HUSK_PREFIX": str(prefix), "IPYTHONDIR": str(directory / "ipython"), "PYTHONDONTWRITEBYTECODE": "1",
           "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    alone = [f"{tests}/{name.replace('::', '.py::', 1)}" for name in ALONE.get(suite, ())]
    run_tests([*(str(tests / f"{name}.py") for name in SUITES[suite]),
               *(f"--deselect={pathlib.Path(test).relative_to(root)}" for test in alone)], root, env, python, results)
    found = tree.parse(results)
    for test in alone:
        run_tests([test], root, env, python, results)
        found.getroot().extend(tree.parse(results).iter("testsuite"))
    found.write(results)
    return read(results)


def run_tests(arguments, root, env, python, results):
    subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=ignore",
         "-o", "asyncio_default_fixture_loop_scope=function", "--timeout", "100",
         "--junitxml", str(results), *arguments],
        cwd=root, stdin=subprocess.DEVNULL, timeout=1800, env=env,
    )


def read(results):
    """{test id: "passed", "failed" or "skipped"} of a file that pytest wrote."""
    found = {}
    for case in tree.parse(results).iter("testcase"):
        where = case.get("classname").split("tests.", 1)[-1].replace(".", "::")
        kinds = {child.tag for child in case}
        what = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = f"{where}::{case.get('name')}"
        if found.get(name) != "failed":  # a test and its tear-down are two
            found[name] = what
    return found


def reason(table, name):
    return next((why for pattern, why in table.items() if fnmatch.fnmatchcase(name, pattern)), None)


def judge(suite, found):
    """Lines that say what is wrong."""
    wrong = [f"{suite} {name}: failed" for name, what in found.items()
             if what == "failed" and not reason(DIFFERENCES[suite], name)]
    wrong += [f"{suite} {name}: passes, yet has a reason not to" for name, what in found.items()
              if what == "passed" and reason(DIFFERENCES[suite], name)]
    return wrong + [f"{suite} {pattern}: there is no such test" for pattern in DIFFERENCES[suite]
                    if not fnmatch.filter(found, pattern)]


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    prefix, directory = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    python = make_environment(directory)
    install_kernel(prefix, directory, python)
    wrong = []
    for suite in sys.argv[3:] or SUITES:
        found = run_suite(suite, directory, python, prefix)
        counts = {what: list(found.values()).count(what) for what in ("passed", "failed", "skipped")}
        print(f"{wanted(suite)}: {counts}; of those that failed, {len(DIFFERENCES[suite])} patterns have a reason")
        wrong += judge(suite, found)
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
