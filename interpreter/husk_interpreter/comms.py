# SPDX-License-Identifier: BSD-3-Clause
"""Comms: package `comm` with husk's wall as its wire.

Where the package is missing, comms are refused in words; nothing else depends on it.
"""

import types

from husk_interpreter import messages

try:
    import comm
    import comm.base_comm
except ImportError:
    comm = None

OPEN_REQUESTS = 1000  # of one comm, of which it is known which shell waits for the answer

if comm:

    class Comm(comm.base_comm.BaseComm):
        kernel = None  # set by install(): ipywidgets sends nothing over a comm without one

        def __init__(self, *args, **kwargs):
            # ipykernel's Comm takes these as traits; BaseComm would refuse them.
            for name in ("kernel", "show_warning"):
                kwargs.pop(name, None)
            self.senders = {}
            super().__init__(*args, **kwargs)

        def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
            content = {"data": {} if data is None else data, "comm_id": self.comm_id, **keys}
            messages.publish(messages.FRAMES[msg_type], content, metadata, buffers or ())
            shell = self.kernel.current()
            shell.spoke_to_comms = True
            self.senders[None] = shell
            request = _request(data)
            if request is not None:
                self.senders[request] = shell
                if len(self.senders) > OPEN_REQUESTS:  # not all are answered: the oldest is forgotten
                    del self.senders[next(k for k in self.senders if k is not None)]

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


def _request(data):
    """The id of a request that a widget sends in its data, or of the answer to it."""
    content = data.get("content") if isinstance(data, dict) else None
    request = content.get("id") if isinstance(content, dict) else None
    return request if isinstance(request, str) else None


def waiting(content):
    """The shell that waits for this message: which asked for it, or the last one that sent something
    over this comm, if its cell awaits. None: nobody that is known."""
    senders = getattr(_manager.comms.get(content.get("comm_id")), "senders", None) if comm else None
    if not senders:
        return None
    asked = senders.pop(_request(content.get("data")) or "", None)
    last = senders.get(None)
    return asked or (last if last.task is not None else None)


def info(target):
    if comm is None:
        return {}
    return {
        name: {"target_name": c.target_name}
        for name, c in list(_manager.comms.items())
        if target is None or c.target_name == target
    }
