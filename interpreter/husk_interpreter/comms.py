# SPDX-License-Identifier: BSD-3-Clause
"""Comms: package `comm` with husk's wall as its wire.

Where the package is missing, comms are refused in words; nothing else depends on it.
"""

import types

import _husk

from husk_interpreter import messages

try:
    import comm
    import comm.base_comm
except ImportError:
    comm = None

_FRAMES = {
    "comm_open": _husk.OPEN_COMM,
    "comm_msg": _husk.SEND_COMM,
    "comm_close": _husk.CLOSE_COMM,
}

if comm:

    class Comm(comm.base_comm.BaseComm):
        kernel = None  # set by install(): ipywidgets sends nothing over a comm without one

        def __init__(self, *args, **kwargs):
            # ipykernel's Comm takes these as traits; BaseComm would refuse them.
            for name in ("kernel", "show_warning"):
                kwargs.pop(name, None)
            super().__init__(*args, **kwargs)

        def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
            content = {"data": {} if data is None else data, "comm_id": self.comm_id, **keys}
            messages.publish(_FRAMES[msg_type], content, metadata, buffers or ())

    class CommManager(comm.base_comm.CommManager):
        """The registry of package comm, plus one door for each request of the client."""

        kernel = None

    _manager = CommManager()

    def manager():
        return _manager

    class _CommModule(types.ModuleType):
        """Package comm, whose two hooks stay husk's: a real ipykernel that is imported later
        sets them to its own, which reach nobody here."""

        create_comm = property(lambda self: Comm, lambda self, value: None)
        get_comm_manager = property(lambda self: manager, lambda self, value: None)

    def install(kernel):
        Comm.kernel = CommManager.kernel = kernel
        comm.__class__ = _CommModule

else:

    def manager():
        return None

    def install(kernel):
        pass


def handle(kind, header, metadata, content, buffers):
    """One comm_open, comm_msg or comm_close of a client."""
    if comm is None:
        raise RuntimeError("comms need the package 'comm': pip install comm (or ipykernel)")
    message = {
        "header": header,
        "parent_header": {},
        "metadata": metadata,
        "content": content,
        "buffers": buffers,
    }
    getattr(_manager, kind)(None, None, message)


def info(target):
    if comm is None:
        return {}
    return {
        name: {"target_name": c.target_name}
        for name, c in list(_manager.comms.items())
        if target is None or c.target_name == target
    }
