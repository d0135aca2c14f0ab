#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""docs/probes.md, and its summary in SECURITY.md, made from the tests that hold the claims.

    probes.py            writes both
    probes.py --check    status 1 and a difference if they are not what it would write

A claim is a test; one with parameters is as many claims as it has values, for each of the profiles.
Its name is the claim in words. What each value must bring is the `wanted` of a table, or what
pytest.mark.outcome says: a text, or a function of the value. Nothing is run.
"""

import collections
import contextlib
import difflib
import io
import pathlib
import re
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parent
TOP = TESTS.parent
BEGIN, END = "<!-- made by tests/probes.py: -->\n", "<!-- end -->\n"
PROFILES = ("notebook", "strict", "image")
FIXTURES = ("probe", "pair")  # a kernel in each profile

# Files in the order of the document; the heading of what stands before the first section; and
# sections that say what works, not what is refused.
FILES = {
    "test_containment.py": ("No probe runs on the machine itself", ()),
    "test_workdir.py": ("What runs later on the host", ()),
    "test_profiles.py": ("Profiles", ()),
    "test_image.py": ("Images", ("the image of the tests", "what is there", "packages")),
    "test_network.py": ("Network of an allow-list", ("what works",)),
    "test_disk.py": ("The limit of the disk", ()),
    "test_death.py": ("Deaths, limits, interrupts", ()),
    "test_limits_and_death.py": ("Limits", ()),
    "test_memory.py": ("Memory where no cgroup may be made", ()),
}
PLAIN = re.compile(r"^[A-Za-z0-9./:,'() +-]+$")


class Collector:
    def __init__(self):
        self.items = []

    def pytest_collection_finish(self, session):
        self.items = session.items


def collect():
    collector = Collector()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
                              *(str(TESTS / name) for name in FILES)], plugins=[collector])
    if status:
        sys.exit(said.getvalue())
    return collector.items


def section_of(item):
    """(file, the last heading `# --- ...` above the test, or that of the file)"""
    source = pathlib.Path(item.path).read_text().splitlines()
    above = source[:item.function.__code__.co_firstlineno]
    headings = [line[6:].split(":")[0].strip() for line in above if line.startswith("# --- ")]
    return item.path.name, headings[-1] if headings else FILES[item.path.name][0]


def profile_of(item):
    params = item.callspec.params if hasattr(item, "callspec") else {}
    for name in (*FIXTURES, "profile"):
        if params.get(name) in PROFILES:
            return params[name]
    if item.path.name == "test_image.py":
        return "image"
    return "strict" if {"strict", "small"} & set(item.fixturenames) else "notebook"


def words(value):
    """An outcome as people write it."""
    if isinstance(value, (set, frozenset)):
        return " or ".join(sorted(words(v) for v in value))
    return value if isinstance(value, str) else repr(value)


def outcome_of(item, values):
    if "wanted" in values:
        return words(values["wanted"])
    mark = item.get_closest_marker("outcome")
    if not mark:
        return ""
    said = mark.args[0]
    return words(said(*values.values()) if callable(said) else said)


def tried_by(item):
    """The parameters without the profile; and the part of the id that is theirs."""
    if not hasattr(item, "callspec"):
        return {}, ""
    values = {k: v for k, v in item.callspec.params.items() if k not in FIXTURES}
    tried = item.callspec.id if values else ""
    if len(values) < len(item.callspec.params):
        tried = re.sub(rf"^({'|'.join(PROFILES)})-|-({'|'.join(PROFILES)})$", "", tried)
    return values, tried


def claims():
    """{(file, section): {test: {(outcome, what is tried): profiles}}}, all in the order of the tests."""
    found = collections.defaultdict(lambda: collections.defaultdict(dict))
    for item in collect():
        where = section_of(item)
        if where[1] in FILES[where[0]][1]:
            continue
        values, tried = tried_by(item)
        rows = found[where][item.originalname]
        rows.setdefault((outcome_of(item, values), tried), []).append(profile_of(item))
    return found


def cell(text):
    text = text.replace("|", "\\|").replace("\n", " ")
    return text if PLAIN.match(text) else f"``{text}``" if "`" in text else f"`{text}`"


def tests_of(rows):
    """Lines of the table for one test: values of one outcome together."""
    together = collections.defaultdict(list)
    for (outcome, tried), profiles in rows.items():
        together[outcome, tuple(dict.fromkeys(profiles))].append(tried)
    for (outcome, profiles), tried in together.items():
        yield "; ".join(cell(t) for t in tried if t), cell(outcome) if outcome else "", ", ".join(profiles)


def count(tests):
    return sum(len(profiles) for rows in tests.values() for profiles in rows.values())


def document(found):
    yield ("# The probes\n\nMade by `tests/probes.py` from the tests; do not edit. What is tried, is tried by cells in real "
           "sandboxes, as root\nand as an ordinary user. Of several values with one outcome (`;` between them) each is a claim of its own.\n"
           "Where no outcome is written, the claim says it. A row without a claim is of the one above.\n")
    for (file, section), tests in found.items():
        yield f"\n## {section[0].upper() + section[1:]}\n\n`tests/{file}`, {count(tests)} claims\n\n"
        yield "| claim | what is tried | outcome | profile | test |\n|---|---|---|---|---|\n"
        for name, rows in tests.items():
            claim, test = name.removeprefix("test_").replace("_", " "), f"`{name}`"
            for tried, outcome, profiles in tests_of(rows):
                yield f"| {claim} | {tried} | {outcome} | {profiles} | {test} |\n"
                claim = test = ""  # what follows is of the same


def summary(found):
    yield "| what is probed | claims | tests |\n|---|---|---|\n"
    for (file, section), tests in found.items():
        yield f"| {section[0].upper() + section[1:]} | {count(tests)} | `tests/{file}` |\n"
    yield f"| together | {sum(map(count, found.values()))} | [each of them](docs/probes.md) |\n"


def files():
    found = claims()
    security = (TOP / "SECURITY.md").read_text()
    before, rest = security.split(BEGIN)
    return {"docs/probes.md": "".join(document(found)),
            "SECURITY.md": before + BEGIN + "".join(summary(found)) + END + rest.split(END, 1)[1]}


def main():
    old = False
    for name, text in files().items():
        path = TOP / name
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
            continue
        now = path.read_text() if path.exists() else ""
        difference = list(difflib.unified_diff(now.splitlines(True), text.splitlines(True), name, "the tests"))
        sys.stdout.writelines(difference)
        old = old or bool(difference)
    if old:
        sys.exit("out of date; tests/probes.py writes them")


if __name__ == "__main__":
    main()
