# SPDX-License-Identifier: BSD-3-Clause
"""Locks of the import system that an interrupt has left behind.

importlib takes a lock in one step and enters its try block in the next. A KeyboardInterrupt between the two
leaves the lock with the thread for ever, and every other thread that imports anything waits for it.
"""

import _imp
import importlib


def let_go():
    """What this thread still holds, while it imports nothing."""
    _release(_imp.release_lock)
    for reference in list(getattr(importlib._bootstrap, "_module_locks", {}).values()):
        lock = reference()
        if hasattr(lock, "release"):
            _release(lock.release)


def _release(release):
    try:
        while True:
            release()
    except RuntimeError:
        pass  # it is not ours
