# SPDX-License-Identifier: BSD-3-Clause
"""Hides from jedi the imports of a cell that have been done.

A name that is bound is completed from the object that it stands for. A cell that begins with `import os`
has jedi read os anew, at each key, though the name stands for that very module since the cell last ran. So
an import whose names all stand for what it would give is not shown to it. The text keeps its length.
"""

import re
import sys
import types

_ITEM = r"[A-Za-z_][\w.]*(?:[ \t]+as[ \t]+[A-Za-z_]\w*)?"
_ITEMS = rf"{_ITEM}(?:[ \t]*,[ \t]*{_ITEM})*"
_IMPORT = re.compile(
    rf"(?:^|(?<=;))([ \t]*)((?:from[ \t]+(?P<of>[A-Za-z_][\w.]*)[ \t]+)?import[ \t]+(?P<items>{_ITEMS}))(?=[ \t]*(?:[;#\n]))",
    re.MULTILINE,
)


def _names(of, items, namespace):
    """The names that the import binds; None if one does not stand for what it would."""
    names = []
    for item in items.split(","):
        what, _, name = (part.strip() for part in item.partition(" as "))
        if of:
            module = sys.modules.get(of)
            gives = vars(module).get(what) if isinstance(module, types.ModuleType) else None
            name = name or what
        else:
            gives = sys.modules.get(what)
            if not name:
                name = what.partition(".")[0]
                gives = gives and sys.modules.get(name)
        if gives is None or namespace.get(name) is not gives:
            return None
        names.append(name)
    return names


def _is_only_used(name, text):
    """Nothing else in the cell gives it a value: it is followed by a point or called, and not defined."""
    return not re.search(rf"(?<![\w.])(?:(?:def|class)[ \t]+{name}\b|{name}\b(?![ \t]*[.(]))", text)


def hide(code, cursor, namespace):
    for found in reversed(list(_IMPORT.finditer(code, 0, cursor))):
        statement = found.group(2)
        names = _names(found["of"], found["items"], namespace)
        hidden = code[: found.start(2)] + "pass".ljust(len(statement)) + code[found.end(2) :]
        if names and all(_is_only_used(name, hidden) for name in names):
            code = hidden
    return code
