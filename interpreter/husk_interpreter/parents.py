# SPDX-License-Identifier: BSD-3-Clause
"""Whose output it is: which request a context works for, and how that is changed.

A request is known to the supervisor by its slot, and to libraries by the message that asked, its
parent. asyncio tasks copy their context and keep their cell; plain threads start without one and
work for the latest cell, as in ipykernel 7.
"""

import contextvars
import threading

import _husk

KEPT = 256  # slots, as the supervisor keeps headers (kernel/request.h)

_slot = contextvars.ContextVar("husk_slot", default=0)  # 0: none of its own, so that of the latest cell
_parent = contextvars.ContextVar("husk_parent", default=None)
_slots = {}  # by msg_id, the oldest first
_kernel = None
slot_of_context = _slot.get
of_context = _parent.get


def install(kernel):
    global _kernel
    _kernel = kernel


def kernel():
    return _kernel


def enter(slot, parent):
    """From here on this context works for the request `slot`, whose message is `parent`."""
    _slot.set(slot)
    _parent.set(parent)


def remember(slot, parent):
    """A request has come: who keeps its message can have output belong to it later."""
    _slots[parent["msg_id"]] = slot
    if len(_slots) > KEPT:
        del _slots[next(iter(_slots))]


def slot_of(parent):
    """`parent`: a message or its header. 0: not known, or forgotten."""
    header = parent.get("header", parent) if isinstance(parent, dict) else {}
    return _slots.get(header.get("msg_id") if isinstance(header, dict) else None, 0)


class Parented:
    """The part of ipykernel's streams, hooks and publishers by which libraries say whose output it
    is. Said to one of them, it counts for all: there is one context."""

    @property
    def parent_header(self):
        parent = of_context() or _kernel.current().parent
        return parent.get("header", parent)

    @parent_header.setter
    def parent_header(self, parent):
        self.set_parent(parent)

    def set_parent(self, parent):
        """For this context, and for all that have none of their own."""
        slot = slot_of(parent)
        enter(slot, parent)
        if slot:
            _husk.set_slot(slot)

    def set_thread_parent(self, parent):
        """For this context. Returns what reset_thread_parent takes."""
        return _slot.set(slot_of(parent)), _parent.set(parent)

    def reset_thread_parent(self, tokens):
        _slot.reset(tokens[0])
        _parent.reset(tokens[1])


class Hooked:
    """Functions that a message goes through on its way out, of one thread: each returns the message,
    changed or not, or None to keep it back."""

    def _hooks_of_thread(self):
        local = self.__dict__.setdefault("_husk_hooks", threading.local())
        if not hasattr(local, "hooks"):
            local.hooks = []
        return local.hooks

    _hooks = property(_hooks_of_thread)

    def register_hook(self, hook):
        self._hooks.append(hook)

    def unregister_hook(self, hook):
        try:
            self._hooks.remove(hook)
            return True
        except ValueError:
            return False
