# SPDX-License-Identifier: BSD-3-Clause
"""sys.stdout and sys.stderr over the ring, and the print() that knows them."""

import builtins
import io
import os
import sys

import _husk

from husk_interpreter import parents


class OutStream(parents.Parented, parents.Hooked, io.TextIOBase):
    """A text stream whose write() is the C function itself: no Python frame for each print."""

    def __init__(self, name, fd, write):
        super().__init__()
        self.name = name
        self.mode = "w"
        self.topic = b"stream." + name.encode()
        self.write = write
        self._fd = fd
        self._buffer = None
        self._master_pid = os.getpid()
        self.pub_thread = self.echo = None  # looked for by libraries that know ipykernel's stream

    encoding = "UTF-8"
    errors = "backslashreplace"
    newlines = None
    line_buffering = True
    write_through = True

    def _is_master_process(self):
        return os.getpid() == self._master_pid

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


OutStream.__module__ = "ipykernel.iostream"  # as libraries know it


def install():
    sys.stdout = sys.__stdout__ = OutStream("stdout", 1, _husk.write_stdout)
    sys.stderr = sys.__stderr__ = OutStream("stderr", 2, _husk.write_stderr)
    builtins.print = _husk.make_print(builtins.print)
