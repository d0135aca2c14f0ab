# SPDX-License-Identifier: BSD-3-Clause
"""Modules named ipykernel.*, for libraries that look for them.

They name what really runs: the shell, the comms, the kernel, the streams. All else comes from the real
package of this Python, if there is one, and is loaded when somebody asks for it; the classes of the
real one that ours take the place of run nowhere here, and would reach nobody.
"""

import importlib.machinery
import importlib.util
import sys
import types

from husk_interpreter import app, comms, kernel, shell, streams

VERSION = "7.4.0"  # the one whose behaviour husk has, for where the package is absent
OF_THE_REAL_ONE = ("__version__", "__all__")  # of the names that begin so, those that it is asked for


class _Module(types.ModuleType):
    """What it lacks comes from the real module of the name, if there is one."""

    def __getattr__(self, name):
        if name == "_real" or name.startswith("__") and name not in OF_THE_REAL_ONE:
            raise AttributeError(name)
        real = self.__dict__.get("_real")
        if real is None:
            real = self.__dict__["_real"] = self._load_real()
        try:
            return getattr(real, name)
        except AttributeError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None

    def _load_real(self):
        parent, _, _ = self.__name__.rpartition(".")
        path = importlib.import_module(parent).__path__ if parent else None
        spec = importlib.machinery.PathFinder.find_spec(self.__name__, path)
        if spec is None or spec.loader is None:
            return None
        real = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(real)
        return real


def _module(name, **attributes):
    module = _Module(name, "Provided by husk.")
    module.__dict__.update(attributes)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


def install():
    spec = importlib.machinery.PathFinder.find_spec("ipykernel")
    if spec and spec.loader:
        _module("ipykernel", __path__=list(spec.submodule_search_locations or ()), __file__=spec.origin)
    else:
        version = tuple(map(int, VERSION.split(".")))
        _module("ipykernel", __path__=[], __version__=VERSION, version_info=version)
    _module("ipykernel.zmqshell", ZMQInteractiveShell=shell.ZMQInteractiveShell,
            ZMQDisplayPublisher=shell.ZMQDisplayPublisher, KernelMagics=shell.KernelMagics)
    _module("ipykernel.displayhook", ZMQShellDisplayHook=shell.ZMQShellDisplayHook)
    _module("ipykernel.iostream", OutStream=streams.OutStream)
    _module("ipykernel.kernelbase", Kernel=kernel.Kernel)
    _module("ipykernel.ipkernel", IPythonKernel=kernel.Kernel, Kernel=kernel.Kernel)
    _module("ipykernel.kernelapp", IPKernelApp=app.IPKernelApp)
    if comms.comm:
        _module("ipykernel.comm", __path__=[], Comm=comms.Comm, CommManager=comms.CommManager)
        _module("ipykernel.comm.comm", Comm=comms.Comm, BaseComm=comms.Comm)
        _module("ipykernel.comm.manager", CommManager=comms.CommManager)
