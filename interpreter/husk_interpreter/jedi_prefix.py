# SPDX-License-Identifier: BSD-3-Clause
"""Makes jedi look at the names that begin as the word at the cursor does, and at no others.

jedi makes an object of each of the 388 names in `os`, asks what it is and whether a flow of control
reaches it, and then keeps the five that begin with "pa". Asked in the other order the answer is the
same, in a third of the time. Where jedi is not as it is known here, it stays as it is.
"""

import contextvars
import functools

_prefix = contextvars.ContextVar("husk_jedi_prefix", default="")


def _takes_prefix(complete):
    """jedi's way from the word to the names: the word is known to all that it calls."""

    @functools.wraps(complete)
    def wrapper(self, *args):
        token = _prefix.set(self._like_name.lower())
        try:
            return complete(self, *args)
        finally:
            _prefix.reset(token)

    return wrapper


def _filtered(values, only):
    """A filter's values(): all that it calls in turn sees every name again."""

    @functools.wraps(values)
    def wrapper(self):
        prefix = _prefix.get()
        if not prefix:
            return values(self)
        token = _prefix.set("")
        try:
            return only(self, lambda name: name.lower().startswith(prefix))
        finally:
            _prefix.reset(token)

    return wrapper


def install():
    try:
        from jedi.api.completion import Completion
        from jedi.inference.compiled import builtin_from_name
        from jedi.inference.compiled.value import CompiledValueFilter
        from jedi.inference.filters import ParserTreeFilter

        of_trailer = Completion._complete_trailer_for_values
        of_scope = Completion._complete_global_scope
        of_value = CompiledValueFilter.values
        of_tree = ParserTreeFilter.values
        CompiledValueFilter._get, ParserTreeFilter.get  # noqa: B018
    except Exception:
        return

    def value_names(self, wanted):
        access = self.compiled_value.access_handle
        names = []
        for name in filter(wanted, access.dir()):
            names += self._get(name, access.is_allowed_getattr, lambda name: True)
        if not self.is_instance and access.needs_type_completions():
            for of_type in builtin_from_name(self._inference_state, "type").get_filters():
                names += of_type.values()
        return names

    def tree_names(self, wanted):
        return [name for key in list(self._used_names) if wanted(key) for name in self.get(key)]

    Completion._complete_trailer_for_values = _takes_prefix(of_trailer)
    Completion._complete_global_scope = _takes_prefix(of_scope)
    CompiledValueFilter.values = _filtered(of_value, value_names)
    ParserTreeFilter.values = _filtered(of_tree, tree_names)
