# SPDX-License-Identifier: BSD-3-Clause
"""Python values to the JSON that leaves through the wall."""

import base64
import datetime
import numbers
import sys

import _husk

from husk_interpreter import causes


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
