# SPDX-License-Identifier: BSD-3-Clause
"""Which limit of the sandbox an exception of a cell comes from, and what changes it.

The kernel says "No space left on device"; the user must hear of which, how much it holds, and by
which option it could hold more. Only what is seen to be exhausted is named.
"""

import errno
import os

LIMITS = {}
IN_MEMORY = ("/tmp", "/var/tmp", "/dev/shm", "/run")


def read_limits():
    """Again where an interpreter was thawed: its sandbox is another one."""
    said = os.environ.get("HUSK_LIMITS", "").split(",")
    LIMITS.clear()
    LIMITS.update(item.split("=", 1) for item in said if "=" in item)


read_limits()


def _size(number):
    number = int(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:.4g} {unit}"
        number /= 1024


def _full():
    for path in IN_MEMORY:
        try:
            space = os.statvfs(path)
        except OSError:
            continue
        if space.f_bavail == 0 or space.f_favail == 0:
            what = _size(space.f_blocks * space.f_frsize) if space.f_bavail == 0 else f"{space.f_files} files"
            return f"{path} is full: it holds {what} (option --tmp-size)"
    return None


def _processes():
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                pass
    limit = int(LIMITS["pids"])
    if count >= limit * 0.9:
        return f"the sandbox has {count} processes and threads of at most {limit} (option --pids)"
    return None


def _files():
    return f"a process may have {LIMITS['files']} open files (option --files)"


def _disk():
    return f"home and a private workspace may hold {_size(LIMITS['disk'])} together (option --disk)"


def _memory():
    return f"the sandbox may use {_size(LIMITS['memory'])} of memory (option --memory)"


_NETWORKS = {
    "none": "this sandbox has no network (options --allow, --network)",
    "allow": "this sandbox reaches what --allow lists, by TCP, and no other address",
}


def _network():
    return _NETWORKS.get(LIMITS["network"])


_BY_ERRNO = {
    errno.ENETUNREACH: _network,
    errno.ENOSPC: _full,
    errno.EAGAIN: _processes,
    errno.EMFILE: _files,
    errno.EFBIG: _disk,
    errno.ENOMEM: _memory,
}


def cause(error):
    """One sentence, or None."""
    find, reason = None, getattr(error, "reason", None)
    if isinstance(reason, OSError):  # urllib wraps
        error = reason
    if isinstance(error, MemoryError):
        find = _memory
    elif type(error).__name__ == "gaierror" and LIMITS.get("network") == "none":
        find = _network  # with an allow-list the name that was refused is told
    elif isinstance(error, OSError):
        find = _BY_ERRNO.get(error.errno)
    elif isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        find = _processes
    try:
        return find() if find else None
    except (KeyError, ValueError, OSError):
        return None  # the limits are not known, or nothing more can be opened
