# SPDX-License-Identifier: BSD-3-Clause
"""Notebooks that others wrote: those in the source packages of nbclient and papermill.

Taken from the package index as pip is configured here. Every one that ipykernel executes, husk
executes with the same outputs, but for DIFFERENCES.
"""

import os
import re
import subprocess
import sys
import tarfile

import conftest
import nbformat
import pytest
from nbclient import NotebookClient

SOURCES = {"nbclient": "0.11.0", "papermill": "2.7.0"}

# notebook: why its outputs are not those of ipykernel
DIFFERENCES = {
    "binder": "runs `python` from PATH, which for husk begins with the directory of its Python",
}

# notebook: why it does not take part
LEFT_OUT = {
    "Interrupt": "ends only by an interrupt from outside",
    "Sleep": "sleeps for minutes, to test time-outs",
}


def download(directory):
    for name, version in SOURCES.items():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--no-binary", name, "--disable-pip-version-check", "-d", str(directory), f"{name}=={version}"],
            check=True, timeout=300)
    for archive in directory.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and ".." not in member.name and "/tests/" in member.name:
                    target = directory / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())
    return sorted(directory.rglob("*.ipynb"))


@pytest.fixture
def specs(tmp_path_factory, monkeypatch):
    directory = conftest.spec_directory(tmp_path_factory.mktemp("spec"))
    monkeypatch.setenv("JUPYTER_PATH", str(directory.parent))
    return directory


def execute(path, kernel, specs):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(notebook, kernel_name=kernel, timeout=20, allow_errors=True,
                            resources={"metadata": {"path": str(path.parent)}})
    client.execute(env={**os.environ, "XDG_STATE_HOME": str(specs / "state")})
    return notebook


def normal(outputs):
    """Outputs without what differs from run to run, and text joined as it reads."""
    out = []
    for o in outputs:
        o = dict(o)
        o.pop("execution_count", None)
        if o["output_type"] == "error":
            out.append(("error", o["ename"], o["evalue"]))
            continue
        if o["output_type"] == "stream" and out and out[-1][:2] == ("stream", o["name"]):
            out[-1] = ("stream", o["name"], out[-1][2] + o["text"])
            continue
        if o["output_type"] == "stream":
            out.append(("stream", o["name"], o["text"]))
            continue
        data = {k: v for k, v in o["data"].items() if not k.startswith("image/")}
        out.append((o["output_type"], sorted(o["data"]), str(sorted(data.items()))))
    text = repr(out)
    for pattern, to in [(r"0x[0-9a-f]+", "0x"), (r"[0-9a-f]{32}", "ID"), (r"\d+\.\d+", "N"),
                        (r"/tmp/[\w/.-]+", "/tmp"), (r"\\x1b\[[0-9;]*m", "")]:
        text = re.sub(pattern, to, text)
    return text


def test_foreign_notebooks_run_as_with_ipykernel(tmp_path, specs):
    compared, wrong = 0, []
    for path in download(tmp_path):
        if path.stem in LEFT_OUT:
            continue
        try:
            notebook = execute(path, "python3", specs)
        except Exception as error:
            print(path.stem, "is not executed by ipykernel:", repr(error)[:100])
            continue
        try:
            mine = execute(path, "husk", specs)
        except Exception as error:
            wrong.append((path.stem, repr(error)))
            continue
        compared += 1
        for i, (a, b) in enumerate(zip(notebook.cells, mine.cells)):
            if a.cell_type == "code" and normal(a.outputs) != normal(b.outputs) and path.stem not in DIFFERENCES:
                wrong.append((path.stem, i, a.source[:80], normal(a.outputs)[:400], normal(b.outputs)[:400]))
    assert not wrong, "\n".join(map(str, wrong))
    assert compared >= 20, compared
