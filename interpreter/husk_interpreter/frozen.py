# SPDX-License-Identifier: BSD-3-Clause
"""An interpreter that is written down before its first cell, and what it does when it wakes up.

``freeze`` is called once, in a sandbox without network that sees what cells will see, and returns in
every interpreter that is made of what it wrote (wall/frozen.h). Until then no code of a user ran. What must
differ between two interpreters is made anew here: a test compares one of these with a fresh one.
"""

import asyncio
import gc
import importlib
import os
import sys
import threading

import _husk

from husk_interpreter import causes

STREAM = 3  # descriptor: where the supervisor reads
TRIAL = 3  # arguments of one that is only to be seen alive: the last says so


def files():
    """What an interpreter that starts later must find as it is now, or it would be another one."""
    found = {sys.executable, os.path.realpath(sys.executable)}
    for prefix in (sys.prefix, os.path.dirname(os.path.realpath(sys.executable))):
        found.add(os.path.join(prefix, "pyvenv.cfg"))
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str):
            found.add(path)
    for directory in sys.path:
        found.add(directory)
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        found.update(os.path.join(directory, n) for n in names if n.endswith(".pth"))
    return sorted(p for p in found if os.path.isabs(p) and "\n" not in p)


def describe(path):
    """One line: time of the last change in nanoseconds, size, inode, path. Zeros: it is not there."""
    try:
        st = os.stat(path)
    except OSError:
        return f"0 0 0 {path}\n"
    return f"{st.st_mtime_ns} {st.st_size} {st.st_ino} {path}\n"


def hazard():
    """Why this process cannot be written down, if it cannot."""
    others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if others:
        return f"what is imported started threads of Python: {', '.join(others)}"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this Python has no global lock"
    return _native_threads()


# Parts of the names of libraries that end their threads before a fork, and start them again when they need some.
READY_FOR_FORKS = ("openblas",)


def _native_threads():
    threads = os.listdir("/proc/self/task")
    if len(threads) == 1:
        return None
    with open("/proc/self/maps") as maps:
        if any(name in line for line in maps for name in READY_FOR_FORKS):
            return None
    names = []
    for thread in threads:
        with open(f"/proc/self/task/{thread}/comm") as f:
            names.append(f.read().strip())
    return f"what is imported started threads: {', '.join(names)}"


def refuse(why):
    os.write(2, why.encode("utf-8", "backslashreplace") + b"\n")
    os._exit(1)


def begin():
    """Before anything is imported. Libraries that keep random state see by the number of the process that it is
    another one; so who is written down has one that an interpreter never has."""
    why = hazard()  # start-up files have run; the fork would hide their threads
    if why:
        refuse(why)
    _husk.spend_numbers()
    go_on_in_a_child()


def go_on_in_a_child():
    pid = os.fork()
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)


def preload(names):
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as error:
            return f"--preload {name}: {type(error).__name__}: {error}"
    return None


def freeze(kernel):
    """Returns in a thawed interpreter. The one that is written down ends here."""
    why = preload(sys.argv[2:]) or hazard()
    if why:
        refuse(why)
    listed = "".join(map(describe, files())).encode("utf-8", "surrogateescape")
    with open(STREAM, "wb", closefd=False) as stream:
        stream.write(len(listed).to_bytes(8, "big") + listed)
    del stream, listed
    sys.argv[1:] = []
    if hasattr(sys, "orig_argv"):
        del sys.orig_argv[sys.orig_argv.index("--freeze"):]
    rehearse(kernel)
    go_on_in_a_child()
    if "sqlite3" in sys.modules:  # it forgets its random numbers in the first file of a process, and has made none since
        sys.modules["sqlite3"].connect(os.devnull).close()
    gc.collect()
    gc.freeze()  # its collector does not write to what all share
    result = _husk.freeze(STREAM)
    if not isinstance(result, tuple):
        os._exit(1 if result else 0)
    environment, arguments = result
    wake(kernel, environment)
    if arguments >= TRIAL:
        os._exit(0)


def rehearse(kernel):
    """What each start does, once: what it compiles, looks up and counts is in the file, then."""
    if not kernel.plain:
        kernel.shell.remember_files()
    wake(kernel, [f"{k}={v}".encode() for k, v in os.environ.items()])
    kernel.about  # noqa: B018
    kernel.open_loop()
    kernel.loop.call_soon(kernel.loop.stop)
    kernel.loop.run_forever()
    kernel.loop.close()
    asyncio.set_event_loop(None)
    kernel.loop = None
    if not kernel.plain:
        sys.modules["husk_interpreter.app"].rehearse_startup(kernel.app)
        kernel.rehearse("1 + 1")


def wake(kernel, environment):
    """As after a fork, whose child this is for the modules that ask to be told (os.register_at_fork);
    then what forks share and fresh starts do not."""
    values = os.environ._data
    values.clear()
    for item in environment:
        name, equals, value = item.partition(b"=")
        if equals:
            values[name] = value
    causes.read_limits()
    _forget_random_state()
    if not kernel.plain:
        kernel.shell.wake()


def _forget_random_state():
    """`random` is told of forks. Names of temporary files and these are not."""
    modules = sys.modules
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None
        modules["tempfile"].tempdir = None
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "multiprocessing.process" in modules:
        modules["multiprocessing.process"].current_process().authkey = os.urandom(32)
    if "torch" in modules:
        modules["torch"].seed()
