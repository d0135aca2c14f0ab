# SPDX-License-Identifier: BSD-3-Clause
"""print() (interpreter/print.c) writes what Python's own does, in the same order, and looks as it does."""

import subprocess

import pytest
from conftest import PYTHON, TIMEOUT

SETUP = '''
import builtins, io, os, sys
class Text:
    def __str__(self):
        print("inside", 1)
        os.write(1, b"descriptor\\n")
        return "text"
class Wrong:
    def __str__(self): raise ValueError("no text")
class Named(str):
    def __str__(self): return "named"
class Number(int):
    def __str__(self): return "number"
'''
# What is between the parentheses.
CALLS = [
    "", "1", "'a', 1, 2.5, None, True, b'b', [1, 'x']", "*range(1000)", "'a', 'b', sep=''", "'a', 'b', sep=None, end=None",
    "'a', end=''", "'a', 'b', sep='\\n', end='\\r\\n'", "'x' * 200000, 1, 'y' * 70000", "'\\ud800', 'é', '\\U0001f600'",
    "Named('x'), Number(3), 1j, float('nan'), -0.0", "'a', file=None", "'a', flush=True", "'a', flush=0", "'a', flush=[]",
    "10 ** 4000", "'\\0'", "'a', sep=Named('x')", "Named, sep=' '",
]
REFUSED = ["'x', sep=1", "'x', end=b''", "'x', other=1", "'x', file=1", "'a', 10 ** 5000, 'b'", "'a', Wrong(), 'b'"]
LOOKS = """
import builtins, inspect, pickle
def signature():
    try: return str(inspect.signature(print))
    except ValueError as e: return str(e)
looks = (repr(print), type(print), print.__name__, print.__qualname__, print.__module__, print.__self__, print.__doc__,
         print.__text_signature__, signature(), builtins.print is print, pickle.dumps(print))
"""


def as_python(call):
    """A cell that prints what Python's own print() makes of it: a file of another kind is its affair."""
    return f"f = io.StringIO(); builtins.print({call}{', ' if call else ''}file=f)\nsys.stdout.write(f.getvalue())"


@pytest.fixture(scope="module")
def printing(kernel):
    assert kernel.run(SETUP).status == "ok"
    return kernel


@pytest.mark.parametrize("call", [c for c in CALLS if "file" not in c], ids=range(len(CALLS) - 1))
def test_it_writes_what_pythons_own_does(printing, call):
    result = printing.run(f"print({call})")
    assert result.status == "ok"
    # The stream shows lone surrogates as escapes, another file has none.
    assert result.stdout == printing.run(as_python(call)).stdout


@pytest.mark.parametrize("call", REFUSED, ids=range(len(REFUSED)))
def test_what_it_refuses_is_refused_by_pythons_own_and_what_came_before_is_printed(printing, call):
    ours = printing.run(f"print({call})")
    own = subprocess.run([PYTHON, "-c", f"{SETUP}\ntry: print({call})\nexcept Exception as e: error = e\n"
                                        "sys.stderr.write(f'{type(error).__name__}: {error}')"],
                         capture_output=True, text=True, timeout=TIMEOUT)
    assert f"{ours.ename}: {ours.evalue}" == own.stderr
    assert ours.stdout == own.stdout


def test_text_that_others_make_comes_in_its_place(printing):
    result = printing.run("os.write(1, b'0\\n'); print('a', 1, Text(), 'b', Text(), end='!\\n'); os.write(1, b'z\\n')")
    assert result.stdout == ("0\na 1 inside 1\ndescriptor\ntext b inside 1\ndescriptor\ntext!\nz\n")


@pytest.mark.parametrize("code, said", [
    ("import contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as f: print('a', 1)\nprint(repr(f.getvalue()))", "'a 1\\n'\n"),
    ("print('a', 1, file=sys.stderr)", ""),
    ("pieces = []\nsys.stdout.write = pieces.append\ntry: print('a', 1)\nfinally: del sys.stdout.write\n", None),
    ("own, sys.stdout = sys.stdout, None\ntry: print('a', 1)\nfinally: sys.stdout = own", ""),
    ("if os.fork() == 0:\n    print('a', 1)\n    os._exit(0)\nos.wait()\nprint('b')", "a 1\nb\n"),
], ids=["redirected", "stderr", "hooked", "no stdout", "forked"])
def test_a_stream_that_is_not_the_usual_one(make_kernel, code, said):
    kernel = make_kernel()
    kernel.run(SETUP)
    result = kernel.run(code)
    assert result.status == "ok"
    if said is None:
        assert kernel.run("pieces").value == "['a', ' ', '1', '\\n']"
    else:
        assert result.stdout == said
    assert result.stderr == ("a 1\n" if "file=sys.stderr" in code else "")


def test_it_looks_as_pythons_own(kernel):
    own = subprocess.run([PYTHON, "-c", LOOKS + "print(looks)"], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    assert kernel.run(LOOKS + "looks").value == own.stdout.rstrip("\n") or kernel.run("print(looks)").stdout == own.stdout


def test_a_line_is_one_look_at_the_pipes(kernel):
    """What it is for: counted in records of the ring, whose head says how many bytes there were."""
    code = ("import ctypes, sys\nring = next(l for l in open('/proc/self/maps') if 'husk-ring' in l)\n"
            "head = ctypes.c_uint64.from_address(int(ring.partition('-')[0], 16))\n"
            "sys.stdout.write('x\\n'); before = head.value; print('line', 1); head.value - before")
    assert kernel.run(code).value == str(12 + len("line 1\n"))  # ring.h: struct ring_record, text
