# SPDX-License-Identifier: BSD-3-Clause
"""Completion and inspection by IPython's own engines, from the main thread or aside.py's."""

import threading

from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.utils.tokenutil import token_at_cursor

from husk_interpreter import jedi_prefix, known_imports, names

_lock = threading.Lock()  # IPython's completer keeps its state in itself
_prepared = False
_warm = threading.Event()


def _prepare():
    global _prepared
    if not _prepared:
        _prepared = True
        jedi_prefix.install()


def warm_up(shell):
    """What the first completion has to wait for: jedi itself, and what it reads of builtins."""

    def complete_something():
        try:
            for code in ("import os\nos.pa", "pri"):
                complete(shell, code, len(code))
            shell.object_inspect_mime("print")
        except Exception:
            pass  # the user will see it, asking the same
        finally:
            _warm.set()

    threading.Thread(target=complete_something, name="husk-warm-up", daemon=True).start()


def complete_aside(shell, code, cursor):
    """While a cell runs: clients wait for a second, and jedi's first answer may take longer."""
    if _warm.is_set():
        return complete(shell, code, cursor)
    return names.complete(dict(shell.user_ns), code, cursor)


def complete(shell, code, cursor):
    completer = shell.Completer
    with _lock, provisionalcompleter():
        _prepare()
        # A copy, as a cell that runs may change it under the completer's hands.
        namespace, completer.namespace = completer.namespace, dict(completer.namespace)
        try:
            shown = known_imports.hide(code, cursor, completer.namespace)
            found = list(rectify_completions(code, completer.completions(shown, cursor)))
        finally:
            completer.namespace = namespace
    types = [
        {"start": c.start, "end": c.end, "text": c.text, "type": c.type, "signature": c.signature}
        for c in found
    ]
    return {
        "matches": [c.text for c in found],
        "cursor_start": found[0].start if found else cursor,
        "cursor_end": found[0].end if found else cursor,
        "metadata": {"_jupyter_types_experimental": types},
    }


def inspect(shell, code, cursor, detail, content):
    name = token_at_cursor(code, cursor)
    try:
        return shell.object_inspect_mime(
            name, detail_level=detail, omit_sections=set(content.get("omit_sections") or ())
        )
    except TypeError:  # IPython before 8: no omit_sections
        return shell.object_inspect_mime(name, detail_level=detail)
    except KeyError:
        return {}
