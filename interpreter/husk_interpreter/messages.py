# SPDX-License-Identifier: BSD-3-Clause
"""Python values to the JSON that leaves through the wall."""

import base64
import datetime
import json
import math
import numbers

import _husk

EMPTY = b"{}"


def _fallback(value):
    """What json itself does not know but notebooks send all the same."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else repr(number)
    if isinstance(value, (set, frozenset, tuple)) or hasattr(value, "__iter__"):
        return list(value)
    return repr(value)


def _clean(value):
    """The slow way, for values that json refuses: NaN, and keys that are not strings."""
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        return {k if isinstance(k, str) else str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    return _clean(_fallback(value))


def encode(value):
    """JSON as bytes. Never NaN; lone surrogates become escapes, so the result is ASCII."""
    try:
        return json.dumps(value, allow_nan=False, default=_fallback).encode("ascii")
    except (ValueError, TypeError):
        return json.dumps(_clean(value), allow_nan=False).encode("ascii")


def publish(number, content, metadata=None, buffers=(), slot=0):
    """Sends one publication; `number` is a frame of interp.def. slot 0: of this context."""
    return _husk.send(
        number,
        slot,
        0,
        (encode(content), encode(metadata) if metadata else EMPTY)
        + tuple(bytes(b) for b in buffers),
    )
