# SPDX-License-Identifier: BSD-3-Clause
"""The thread that answers questions about names while a cell runs (wall/aside.def).

It is started by a signal of the supervisor, for clients that ask such things. It needs the GIL: what
holds that for long is answered for by the supervisor, from the names that it was told last.
"""

import importlib
import json
import os
import struct
import sys
import threading
import time

import _husk

from husk_interpreter import names

HEAD = struct.Struct(">IHHIIQ")  # wall/frame.h
PART = struct.Struct(">I")


LEXERS = "pygments.lexers"
PATIENCE = 5  # seconds


def start(kernel):
    """In the main thread, between two steps of whatever runs there."""
    if not kernel.plain:
        importlib.import_module(LEXERS)
    thread = threading.Thread(target=_run, args=(kernel,), name="husk-aside", daemon=True)
    thread.pydev_do_not_trace = True  # debuggers leave it alone, as they do ipykernel's threads
    thread.is_pydev_daemon_thread = True
    thread.start()


def _read(size):
    data = b""
    while len(data) < size:
        part = os.read(_husk.ASIDE_SOCKET, size - len(data))
        if not part:
            raise EOFError
        data = data + part if data else part
    return data


def _receive():
    length, number, _, slot, value, _ = HEAD.unpack(_read(HEAD.size))
    return number, slot, value, _read(length)[PART.size :]


def _send(number, slot=0, value=0, content=None):
    part = b""
    if content is not None:
        text = json.dumps(content).encode()
        part = PART.pack(len(text)) + text
    data = memoryview(HEAD.pack(len(part), number, 0, slot, value, 0) + part)
    while data:
        data = data[os.write(_husk.ASIDE_SOCKET, data) :]


def _run(kernel):
    try:
        _send(_husk.ASIDE_LISTENING)
        if not kernel.plain:
            from husk_interpreter import completion

            _await_lexers()
            completion.warm_up(kernel.shell)
        while True:
            number, slot, value, content = _receive()
            if number == _husk.ASIDE_TELL_NAMES:
                _send(_husk.ASIDE_NAMES, 0, value, names.account(dict(kernel.user_ns)))
            else:
                _send(_husk.ASIDE_ANSWER, slot, 0, _answer(kernel, number, value, json.loads(content)))
    except (EOFError, OSError):
        pass  # the supervisor is gone, or the cell has closed the socket


def _await_lexers():
    """That package puts another module in its place while it is imported, and whoever imports it at
    the same time finds half of it. The main thread may have been about to when this one began."""
    end = time.monotonic() + PATIENCE
    while not hasattr(sys.modules.get(LEXERS), "PythonLexer") and time.monotonic() < end:
        time.sleep(0.01)


def _answer(kernel, number, running, content):
    try:
        if number == _husk.ASIDE_COMPLETE:
            answer = kernel.completions(content, aside=True)
        elif number == _husk.ASIDE_INSPECT:
            answer = kernel.inspection(content)
        else:
            return kernel.completeness(content)
        about = {"source": "live", "stale": False, "running": running}
        answer.setdefault("metadata", {})["husk"] = about
        return answer
    except BaseException as error:
        return {"status": "error", "ename": type(error).__name__, "evalue": "", "traceback": []}
