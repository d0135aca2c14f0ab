# SPDX-License-Identifier: BSD-3-Clause
"""Colours of the source in tracebacks.

stack_data has a lexer class of its own for each frame, and pygments works out all the tables of a class when it is first
used: more than half of what a traceback costs, and of what an interrupt takes to be seen. One class will do.
"""

import pygments
import stack_data.core
from pygments.lexers import get_lexer_by_name


class Lexer(type(get_lexer_by_name("python3"))):
    marked = ()  # ranges of what is being executed

    def get_tokens(self, text):
        at = 0
        for kind, value in super().get_tokens(text):
            inside = any(start <= at < end for start, end in self.marked)
            yield kind.ExecutingNode if inside else kind, value
            at += len(value)


def coloured_lines(formatter, code, ranges):
    lexer = Lexer(stripnl=False)
    lexer.marked = ranges
    try:
        code = pygments.highlight(code, lexer, formatter)
    except Exception:
        pass  # without colours, then
    return code.splitlines()


def use_one_lexer():
    """Where stack_data is one that we know."""
    theirs = getattr(stack_data.core, "_pygmented_with_ranges", None)
    if theirs is not None and theirs.__code__.co_varnames[:3] == ("formatter", "code", "ranges"):
        stack_data.core._pygmented_with_ranges = coloured_lines
