# SPDX-License-Identifier: BSD-3-Clause
"""Python values on their way to JSON (interpreter/encode.c), seen by a stock client."""

import pytest

SEND = """
import datetime, enum, collections, json
class Word(str): pass
class Colour(enum.IntEnum): RED = 3
class Half(float):
    def __repr__(self): return 'half'
class Odd:
    def __repr__(self): return 'odd'
class Many:
    def __iter__(self): return iter([1, Odd()])
class Bad:
    def __iter__(self): raise KeyError('no')
moved = collections.OrderedDict(a=1, b=2); moved.move_to_end('a')
get_ipython().display_pub.publish({'text/plain': '', 'application/json': %s})
"""


@pytest.mark.parametrize("code, json", [
    ("'é☃🐍'", "é☃🐍"),
    ("'\\ud800x\\udfff\"'", "\ud800x\udfff\""),
    ("'퟿\\ud800'", "\ud7ff\ud800"),
    ("'\"\\\\\\n\\x00\\x1f\\x7f/'", "\"\\\n\x00\x1f\x7f/"),
    ("''", ""),
    ("Word('w')", "w"),
    ("[None, True, False, 0, -1, 10**30]", [None, True, False, 0, -1, 10**30]),
    ("Colour.RED", 3),
    ("[1.0, 0.1, 1e300, -0.0, 5e-324]", [1.0, 0.1, 1e300, -0.0, 5e-324]),
    ("Half(0.5)", 0.5),
    ("[float('nan'), float('inf'), -float('inf')]", ["nan", "inf", "-inf"]),
    ("(1, (2, []), {})", [1, [2, []], {}]),
    ("{1: 'int', 1.5: 'float', True: 'bool', None: 'none', (1, 2): 'tuple', 'k': 'str'}",
     {"1": "bool", "1.5": "float", "null": "none", "(1, 2)": "tuple", "k": "str"}),
    ("list(moved)", ["b", "a"]),
    ("b'\\x00\\xff'", "AP8="),
    ("bytearray(b'a')", "YQ=="),
    ("memoryview(b'a')", "YQ=="),
    ("datetime.date(2026, 2, 3)", "2026-02-03"),
    ("datetime.datetime(2026, 2, 3, 4, 5)", "2026-02-03T04:05:00"),
    ("{1}", [1]),
    ("range(3)", [0, 1, 2]),
    ("Many()", [1, "odd"]),
    ("Odd()", "odd"),
    ("__import__('numpy').int8(7)", 7),
    ("[__import__('numpy').float32(0.5), __import__('numpy').float64(0.25)]", [0.5, 0.25]),
    ("__import__('numpy').arange(4).reshape(2, 2)", [[0, 1], [2, 3]]),
    ("'x' * 3_000_000", "x" * 3_000_000),
], ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_a_value_arrives_as_json(kernel, code, json):
    result = kernel.run(SEND % code)
    assert result.status == "ok", result.reply
    [shown] = result.of("display_data")
    assert shown["data"]["application/json"] == json


def test_the_order_of_a_mapping_is_its_own(kernel):
    [shown] = kernel.run(SEND % "moved").of("display_data")
    assert list(shown["data"]["application/json"]) == ["b", "a"]


@pytest.mark.parametrize("depth, status", [(510, "ok"), (511, "error"), (5000, "error")])
def test_depth_has_a_limit_that_is_an_error_of_the_cell(kernel, depth, status):
    """The content and its `data` are two levels more; the supervisor takes 512 (base/json.h)."""
    kernel.run(f"deep = 'x'\nfor i in range({depth}): deep = [deep]\nkept = 1")
    result = kernel.run(SEND % "deep")
    assert result.status == status
    if status == "error":
        assert (result.ename, "nested more than 512 deep" in result.evalue) == ("ValueError", True)
    assert kernel.run("kept").value == "1"


def test_a_circle_is_an_error_of_the_cell(kernel):
    result = kernel.run("ring = []; ring.append(ring)\n" + SEND % "ring")
    assert (result.ename, "in a circle" in result.evalue) == ("ValueError", True)


def test_an_exception_of_a_value_is_the_cells(kernel):
    assert kernel.run(SEND % "[Bad()]").ename == "KeyError"
    assert kernel.run(SEND % "{'k': {1: Bad()}}").ename == "KeyError"
