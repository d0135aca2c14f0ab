# SPDX-License-Identifier: BSD-3-Clause
"""Completion and inspection by IPython's own engines."""

from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.utils.tokenutil import token_at_cursor


def complete(shell, code, cursor):
    with provisionalcompleter():
        found = list(rectify_completions(code, shell.Completer.completions(code, cursor)))
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
