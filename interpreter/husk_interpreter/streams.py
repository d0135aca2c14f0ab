# SPDX-License-Identifier: BSD-3-Clause
"""sys.stdout and sys.stderr over the ring, and the context that says which cell prints."""

import contextvars
import io
import sys

import _husk

# The request that this context works for; 0: none of its own, so that of the latest cell.
# asyncio tasks copy their context and keep their cell; plain threads start without one and
# print to the latest cell, as ipykernel 7 does.
_slot = contextvars.ContextVar("husk_slot", default=0)
slot_of_context = _slot.get
set_slot_of_context = _slot.set


class OutStream(io.TextIOBase):
    """A text stream whose write() is the C function itself: no Python frame for each print."""

    def __init__(self, name, fd, write):
        super().__init__()
        self.name = f"<{name}>"
        self.mode = "w"
        self.write = write
        self._fd = fd
        self._buffer = None
        self.pub_thread = None  # looked for by libraries that know ipykernel's stream

    encoding = "UTF-8"
    errors = "backslashreplace"
    newlines = None
    line_buffering = True
    write_through = True

    def fileno(self):
        return self._fd

    def isatty(self):
        return False

    def writable(self):
        return True

    def readable(self):
        return False

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        pass  # text is on its way as soon as it is written

    def close(self):
        pass  # the descriptor belongs to the process

    def reconfigure(self, **options):
        pass

    @property
    def buffer(self):
        """Binary access goes to the descriptor; the supervisor keeps the order of both."""
        if self._buffer is None:
            self._buffer = io.FileIO(self._fd, "w", closefd=False)
        return self._buffer


def install():
    sys.stdout = sys.__stdout__ = OutStream("stdout", 1, _husk.write_stdout)
    sys.stderr = sys.__stderr__ = OutStream("stderr", 2, _husk.write_stderr)
