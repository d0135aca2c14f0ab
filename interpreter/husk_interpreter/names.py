# SPDX-License-Identifier: BSD-3-Clause
"""Names and what they stand for, without jedi: looked at, never asked.

Nothing of the user's is called: no property, no __getattr__, no __dir__. So it takes no longer than a
dictionary does, and can be done while a cell runs.
"""

import builtins
import inspect
import keyword
import re
import types

NAMES_MAX = 1 << 20  # characters of an account of the names; the rest of it is left out
MEMBERS_MAX = 4000  # of one object
DOC_MAX = 2000  # characters
WORD = re.compile(r"(?:(?P<head>(?:[^\W\d]\w*\.)*)(?P<tail>[^\W\d]\w*)?)$")


def kind_of(value):
    """What completions call it: jedi's words."""
    if isinstance(value, types.ModuleType):
        return "module"
    if isinstance(value, type):
        return "class"
    if isinstance(value, property):
        return "property"
    return "function" if inspect.isroutine(value) else "instance"


def _mappings(value):
    """Where the members of a value stand, without asking it."""
    if isinstance(value, types.ModuleType):
        return [types.ModuleType.__getattribute__(value, "__dict__")]
    of = value if isinstance(value, type) else type(value)
    found = [type.__getattribute__(base, "__dict__") for base in type.__getattribute__(of, "__mro__")]
    if of is not value:
        try:
            found.insert(0, object.__getattribute__(value, "__dict__"))
        except (AttributeError, TypeError):
            pass
    return [mapping for mapping in found if isinstance(mapping, (dict, types.MappingProxyType))]


def _members(value):
    members = {}
    for mapping in _mappings(value):
        for name, member in list(mapping.items()):
            if isinstance(name, str) and len(members) < MEMBERS_MAX:
                members.setdefault(name, kind_of(member))
    return members


def _group(name, value, kind):
    """Values of one group have the same members and docstring: instances without a __dict__ of theirs."""
    if kind == "instance":
        try:
            own = object.__getattribute__(value, "__dict__")
        except (AttributeError, TypeError):
            own = None
        if not own:
            return type(value)
    return name


def _doc(value, kind):
    if kind in ("module", "class"):
        return _mappings(value)[0].get("__doc__")
    plain = (types.FunctionType, types.BuiltinFunctionType)
    return value.__doc__ if isinstance(value, plain) else _mappings(type(value))[0].get("__doc__")


def account(namespace):
    """See kernel/names.h."""
    entries = {word: ["keyword", "", "keyword"] for word in keyword.kwlist}
    told = {"names": entries, "members": {}, "docs": {}}
    keys = {}  # of groups
    room = NAMES_MAX
    for name, value in {**vars(builtins), **namespace}.items():
        if not isinstance(name, str) or room < 0:
            continue
        kind = kind_of(value)
        group = _group(name, value, kind)
        if group not in keys and name in namespace:
            keys[group] = str(len(keys))
            room -= _tell_group(told, keys[group], value, kind, room)
        entries[name] = [kind, keys.get(group, ""), type(value).__name__]
        room -= len(name) + 60
    told["names"] = dict(sorted(entries.items(), key=_order))
    return told


def _tell_group(told, key, value, kind, room):
    """Returns how much room it took."""
    members, doc = _members(value), _doc(value, kind)
    size = sum(map(len, members)) + 20 * len(members)
    if size > room:
        return 0
    told["members"][key] = dict(sorted(members.items(), key=_order))
    if isinstance(doc, str):
        told["docs"][key] = doc[:DOC_MAX]
        size += len(told["docs"][key])
    return size


def _order(item):
    return item[0].lower()


def _lookup(namespace, head):
    """The object that "os.path." names, as a list of one; an empty one if that takes more to know."""
    first, *rest = head.rstrip(".").split(".")
    found = [space[first] for space in (namespace, vars(builtins)) if first in space][:1]
    for name in rest:
        found = [m[name] for value in found for m in _mappings(value) if name in m][:1]
        if found and isinstance(found[0], (property, types.MemberDescriptorType, types.GetSetDescriptorType)):
            return []
    return found


def complete(namespace, code, cursor):
    """completions of names and of members of names; IPython knows more, and takes longer."""
    before = code[:cursor]
    match = WORD.search(before)
    head, tail = match["head"], match["tail"] or ""
    kinds = {}
    if head:
        for value in _lookup(namespace, head):
            kinds = _members(value)
    elif not before[: match.start()].endswith("."):
        kinds = {word: "keyword" for word in keyword.kwlist}
        for space in (vars(builtins), namespace):
            kinds.update((n, kind_of(v)) for n, v in space.items() if isinstance(n, str))
    matches = sorted(
        (n for n in kinds if n.startswith(tail) and (tail or not n.startswith("_"))), key=str.lower
    )
    start = cursor - len(tail)
    found = [
        {"start": start, "end": cursor, "text": n, "type": kinds[n], "signature": ""} for n in matches
    ]
    return {
        "matches": matches,
        "cursor_start": start if matches else cursor,
        "cursor_end": cursor,
        "metadata": {"_jupyter_types_experimental": found},
    }
