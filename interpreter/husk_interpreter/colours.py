# SPDX-License-Identifier: BSD-3-Clause
"""Colours of the source in tracebacks.

stack_data has a lexer class of its own for each frame, and pygments works out all the tables of a class when it is first
used: more than half of what a traceback costs, and of what an interrupt takes to be seen. One class will do. And of a function
all is coloured, for the few lines that are shown: the last ones are kept, as errors come again in the same places.
"""

import functools

import pygments
import stack_data.core
from pygments.formatters.terminal256 import Terminal256Formatter
from pygments.lexers import get_lexer_by_name


class Lexer(type(get_lexer_by_name("python3"))):
    marked = ()  # ranges of what is being executed

    def get_tokens(self, text):
        at = 0
        for kind, value in super().get_tokens(text):
            inside = any(start <= at < end for start, end in self.marked)
            yield kind.ExecutingNode if inside else kind, value
            at += len(value)


class Key:
    """A formatter that is equal to those that give the same text: those of terminals, in the same style."""

    def __init__(self, formatter):
        self.formatter = formatter
        self.what = type(formatter), formatter.linenos, tuple(formatter.style_string.items())

    def __eq__(self, other):
        return self.what == other.what

    def __hash__(self):
        return hash(self.what)


@functools.lru_cache(64)
def colour(key, code, ranges):
    lexer = Lexer(stripnl=False)
    lexer.marked = ranges
    return pygments.highlight(code, lexer, key.formatter)


def coloured_lines(formatter, code, ranges):
    if not isinstance(formatter, Terminal256Formatter):
        return _theirs(formatter, code, ranges)
    try:
        code = colour(Key(formatter), code, tuple(ranges))
    except Exception:
        pass  # without colours, then
    return code.splitlines()


_theirs = getattr(stack_data.core, "_pygmented_with_ranges", None)


def use_one_lexer():
    """Where stack_data is one that we know."""
    if _theirs is not None and _theirs.__code__.co_varnames[:3] == ("formatter", "code", "ranges"):
        stack_data.core._pygmented_with_ranges = coloured_lines
