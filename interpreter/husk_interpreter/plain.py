# SPDX-License-Identifier: BSD-3-Clause
"""A shell for a Python without IPython: runs code, shows values, and says what is missing."""

import ast
import builtins
import codeop
import keyword
import linecache
import re
import sys
import traceback

import _husk

from husk_interpreter import messages

MISSING = (
    "IPython is not installed in this Python, so magics, rich display and top-level await are "
    "not available. To get them: pip install ipython"
)


class Result:
    def __init__(self):
        self.error = None


class PlainShell:
    def __init__(self, kernel, user_ns, why):
        self.kernel = kernel
        self.user_ns = user_ns
        self.why = why
        self.execution_count = 1
        self._last_traceback = None
        self._told = False

    def run(self, code, silent, store_history):
        result = Result()
        self._last_traceback = None
        name = f"<cell {self.execution_count}>"
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        try:
            self._run(code, name, silent)
        except BaseException as error:
            result.error = error
            self._show(error, name)
        if store_history and not silent:
            self.execution_count += 1
        return result

    def _run(self, code, name, silent):
        if code.lstrip()[:1] in ("%", "!"):
            raise SyntaxError(MISSING)
        tree = ast.parse(code, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, name, "exec"), self.user_ns)
        if last is None:
            return
        value = eval(compile(last, name, "eval"), self.user_ns)
        if value is not None and not silent:
            self.user_ns["_"] = value
            messages.publish(
                _husk.EXECUTE_RESULT,
                {
                    "execution_count": self.execution_count,
                    "data": {"text/plain": repr(value)},
                    "metadata": {},
                },
            )

    def _show(self, error, name):
        frames = error.__traceback__
        while frames and frames.tb_frame.f_code.co_filename != name:
            frames = frames.tb_next
        lines = traceback.format_exception(type(error), error, frames)
        try:
            value = str(error)
        except Exception:
            value = "<exception str() failed>"
        self._last_traceback = {
            "ename": type(error).__name__,
            "evalue": value,
            "traceback": [line.rstrip("\n") for line in lines],
        }
        messages.publish(_husk.ERROR, self._last_traceback)

    def user_expressions(self, expressions):
        out = {}
        for key, code in expressions.items():
            try:
                value = eval(code, self.user_ns)
                out[key] = {"status": "ok", "data": {"text/plain": repr(value)}, "metadata": {}}
            except Exception as error:
                out[key] = {
                    "status": "error",
                    "ename": type(error).__name__,
                    "evalue": str(error),
                    "traceback": [],
                }
        return out

    def complete(self, code, cursor):
        start = re.search(r"[\w.]*$", code[:cursor]).group()
        head, dot, tail = start.rpartition(".")
        if dot:
            try:
                names = dir(eval(head, self.user_ns))
            except Exception:
                names = []
        else:
            names = [*self.user_ns, *dir(builtins), *keyword.kwlist]
        matches = sorted({n for n in names if n.startswith(tail) and (tail or n[0] != "_")})
        return {
            "matches": matches,
            "cursor_start": cursor - len(tail),
            "cursor_end": cursor,
            "metadata": {},
        }

    def inspect(self, code, cursor, detail):
        name = re.search(r"[\w.]*$", code[:cursor]).group() + re.match(
            r"\w*", code[cursor:]
        ).group()
        try:
            value = eval(name, self.user_ns)
        except Exception:
            return {}
        return {"text/plain": f"{value!r}\n\n{getattr(value, '__doc__', None) or ''}"}

    def is_complete(self, code):
        try:
            done = codeop.compile_command(code if code.endswith("\n") else code + "\n", "<cell>", "exec")
        except (SyntaxError, OverflowError, ValueError):
            return {"status": "invalid"}
        return {"status": "complete"} if done else {"status": "incomplete", "indent": "    "}


def explain(why):
    print(f"{MISSING}\n({why})", file=sys.stderr)
