# SPDX-License-Identifier: BSD-3-Clause
"""Python values to the JSON that leaves through the wall."""

import base64
import datetime
import numbers
import sys

import _husk

from husk_interpreter import causes


# What can be published: everything else is the supervisor's to say.
FRAMES = {
    "display_data": _husk.DISPLAY_DATA,
    "update_display_data": _husk.UPDATE_DISPLAY_DATA,
    "clear_output": _husk.CLEAR_OUTPUT,
    "error": _husk.ERROR,
    "execute_result": _husk.EXECUTE_RESULT,
    "comm_open": _husk.OPEN_COMM,
    "comm_msg": _husk.SEND_COMM,
    "comm_close": _husk.CLOSE_COMM,
}


def fallback(value):
    """What JSON itself does not know but notebooks send all the same."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (set, frozenset, tuple)) or hasattr(value, "__iter__"):
        return list(value)
    return repr(value)


def tell_cause(exception):
    """Names the limit of the sandbox that it comes from, if one does."""
    limit = causes.cause(exception)
    if limit:
        sys.stderr.write(f"[husk: {limit}]\n")


def publish(number, content, metadata=None, buffers=(), slot=0):
    """Sends one publication; `number` is a frame of interp.def. slot 0: of this context."""
    return _husk.send(number, slot, 0, (content, metadata or {}, *map(bytes, buffers)))
