# SPDX-License-Identifier: BSD-3-Clause
"""More that others wrote, in husk and in ipykernel beside each other: a hundred scripts of matplotlib's gallery,
run as cells, and the notebooks in the source package of nbconvert.

No part of ./check, as it takes minutes; `make check-gallery BENCH_WITH=PYTHON`. What both bring must be equal as
beside.py says, pictures by their pixels, but for DIFFERENCES and NOTEBOOK_DIFFERENCES, where it must not be.
"""

import base64
import concurrent.futures
import hashlib
import io
import os
import pathlib
import re

import beside
import conftest
import PIL.Image
import pytest
import test_notebooks
from packages import download, unpack
from test_parity import environment

NUMBER = 100
conftest.TIMEOUT = 300  # seconds; one of them draws a sheet of fifty figures
# {script: {place: why husk's outputs are not ipykernel's}}
DIFFERENCES = {}

# What the notebooks of nbconvert are given, as in test_notebooks.py.
NOTEBOOKS = {name: {"allow_errors": True} for name in (
    "docs/source/nbconvert_library", "tests/exporters/files/attachment", "tests/exporters/files/notebook2",
    "tests/exporters/files/notebook3", "tests/exporters/files/notebook_inject", "tests/exporters/files/pngmetadata",
    "tests/exporters/files/prompt_numbers", "tests/exporters/files/rawtest", "tests/exporters/files/rst_output",
    "tests/exporters/files/svg", "tests/files/Unexecuted_widget", "tests/files/Unexecuted_widget_2",
    "tests/files/Widget_List", "tests/files/latex-linked-image", "tests/files/markdown_display_priority",
    "tests/files/notebook1", "tests/files/notebook2", "tests/files/notebook3_with_errors", "tests/files/notebook4_jpeg",
    "tests/files/notebook5_embed_images", "tests/files/notebook_jl", "tests/files/notebook_tags",
    "tests/preprocessors/files/HelloWorld", "tests/preprocessors/files/MixedMarkdown")}
# {(notebook, cell): why}
NOTEBOOK_DIFFERENCES = {}
# {notebook: why ipykernel does not execute it}; husk does, and a test says what.
LEFT_OUT = {"tests/exporters/files/notebook_inject": "its cells leave a file in the machine's /tmp",
            "docs/source/nbconvert_library": "it begins with a page of the network, which a sandbox has not"}

# Before each script: nothing of the one before it, and the same numbers from all that draws any.
BEFORE = """
%reset -f
import gc, os, random, sys, warnings
import matplotlib.pyplot as plt, numpy
plt.close("all"); plt.rcdefaults(); gc.collect()
os.chdir({directory!r}); random.seed(1); numpy.random.seed(1); warnings.resetwarnings(); warnings.simplefilter("default")
%reset -f
"""


# --- scripts


def cells_of(script):
    """As the gallery itself cuts them."""
    parts = re.split(r"(?m)^(?:# ?%%.*|#{20,})$", script)
    return [part.strip("\n") for part in parts if part.strip()]


def chosen(directory):
    """Scripts that the gallery itself runs, evenly spread over all of them."""
    scripts = sorted(p.relative_to(directory) for p in directory.rglob("*.py") if not p.stem.endswith("_sgskip"))
    return [scripts[i * len(scripts) // NUMBER] for i in range(NUMBER)]


class Gallery:
    """The scripts, unpacked for each kernel, and a session with each; a session that fails is not used again."""

    def __init__(self, directory):
        self.directory = directory
        self.specs = beside.install_both(directory / "spec", "--history", "session")
        archive = download("matplotlib", directory, backend="mesonpy")
        self.root = {kernel: directory / kernel / "examples" for kernel in beside.KERNELS}
        unpack(archive, *(directory / kernel / "unpacked" for kernel in beside.KERNELS),
               wanted=lambda path: path.startswith("galleries/examples/"))
        for kernel, root in self.root.items():
            (directory / kernel / "unpacked" / "galleries" / "examples").rename(root)
            (directory / kernel / "home").mkdir()
        self.scripts = chosen(self.root["husk"])
        self.sessions = {}

    def session(self, kernel):
        if kernel not in self.sessions:
            home = self.directory / kernel / "home"
            self.sessions[kernel] = beside.Session(self.specs[kernel], self.root[kernel], environment(home))
        return self.sessions[kernel]

    def run(self, kernel, script):
        """[what is seen of each cell]"""
        path = self.root[kernel] / script
        session = self.session(kernel)
        try:
            session.run(BEFORE.format(directory=str(path.parent)), store_history=False)
            ids = [session.run(code, stop_on_error=False) for code in cells_of(path.read_text())]
        except AssertionError:
            self.sessions.pop(kernel).stop()
            raise
        reader = beside.Reader(self.directory / kernel)
        found = []
        for i in ids:
            request = session.requests[i]
            request["messages"] = [(kind, in_pixels(content), buffers) for kind, content, buffers in request["messages"]]
            found.append(beside.seen(reader, request))
        return found

    def stop(self):
        for session in self.sessions.values():
            session.stop()


def in_pixels(content):
    """Its pictures by size and digest of what they show."""
    data = content.get("data")
    if not isinstance(data, dict):
        return content
    return {**content, "data": {mime: picture(value) if mime in ("image/png", "image/jpeg") else value
                                for mime, value in data.items()}}


def picture(encoded):
    image = PIL.Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    return f"{image.width} x {image.height}, {hashlib.sha256(image.tobytes()).hexdigest()[:12]} of its pixels"


def shortened(line):
    return line if len(line) < 2000 else f"{line[:1000]} [...] {line[-900:]}"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    gallery = Gallery(tmp_path_factory.mktemp("gallery"))
    yield gallery
    gallery.stop()


@pytest.mark.parametrize("number", range(NUMBER))
def test_a_script_shows_what_it_shows_in_ipykernel(gallery, number):
    script = gallery.scripts[number]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stock, mine = pool.map(lambda kernel: gallery.run(kernel, script), beside.KERNELS)
    assert len(stock) == len(mine) > 0
    differs = DIFFERENCES.get(str(script), {})
    wrong = [f"{script}, cell {i}: {line}" for i, (a, b) in enumerate(zip(stock, mine, strict=True))
             for line in beside.compared(a, b, differs.get(i))]
    assert not wrong, "\n".join(map(shortened, wrong))


def test_the_scripts_are_a_hundred_and_show_pictures(gallery):
    """What is compared would be equal, too, if nothing were shown."""
    assert len(set(gallery.scripts)) == NUMBER and {pathlib.Path(s) for s in DIFFERENCES} <= set(gallery.scripts)
    shown = gallery.run("husk", pathlib.Path("lines_bars_and_markers/bar_colors.py"))
    (output,) = [o for cell in shown for o in cell["outputs"] if o["type"] == "display_data"]
    assert re.fullmatch(r"\d{3} x \d{3}, [0-9a-f]{12} of its pixels", output["data"]["image/png"])


# --- notebooks


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("nbconvert")
    startup = directory / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "numbers.py").write_text("import random, numpy; random.seed(1); numpy.random.seed(1); del random, numpy\n")
    for path in [directory, *(directory / "ipython").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    specs = beside.install_both(directory / "spec")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(directory / "ipython"))
        patch.setenv("PATH", os.path.dirname(conftest.PYTHON) + os.pathsep + os.environ["PATH"])
        patch.setenv("COLUMNS", "80")
        patch.setenv("LINES", "24")
        patch.delenv("MPLBACKEND", raising=False)
        runs = test_notebooks.Runs(directory, specs, ("nbconvert",),
                                   key=lambda path: str(path.relative_to("nbconvert").with_suffix("")))
        for kernel in beside.KERNELS:  # names inside of a picture are random without it
            runs.path(kernel, "tests/exporters/files/svg").with_name("matplotlibrc").write_text("svg.hashsalt: x\n")
        yield runs


def test_every_notebook_takes_part(runs):
    assert set(runs.paths) == set(NOTEBOOKS) and {name for name, _ in NOTEBOOK_DIFFERENCES} <= set(NOTEBOOKS)


@pytest.mark.parametrize("name", sorted(set(NOTEBOOKS) - set(LEFT_OUT)))
def test_a_notebook_of_nbconvert_has_the_same_outputs(runs, name):
    stock, mine = runs.both(name, NOTEBOOKS[name])
    wrong = test_notebooks.differences(name, stock, mine, NOTEBOOK_DIFFERENCES)
    assert not wrong, "\n".join(map(shortened, wrong))


def test_a_notebook_that_wants_the_network_is_told(runs):
    found = runs.nbclient("husk", "docs/source/nbconvert_library", {"allow_errors": True})
    names = [output.get("ename") for cell in found.values() if isinstance(cell, dict) for output in cell.get("outputs", ())]
    assert names[0] == "URLError"


def test_a_notebook_that_wants_to_leave_something_behind_leaves_nothing(runs):
    outside = pathlib.Path("/tmp/pwned")
    assert not outside.exists()
    found = runs.nbclient("husk", "tests/exporters/files/notebook_inject", {"allow_errors": True})
    counts = [cell["count"] for cell in found.values() if isinstance(cell, dict) and cell.get("count")]
    assert counts == [1, 2, 3] and not outside.exists()
