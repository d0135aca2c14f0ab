# SPDX-License-Identifier: BSD-3-Clause
"""Modules named ipykernel.*, for libraries that look for them.

Where the real package is absent, all that is here stands in for it. Beside a real one only the
modules do that name what really runs, the shell and the comms: the classes of the real ones run
nowhere here, and reach nobody. All else of the real package is importable as it is.
"""

import importlib.machinery
import importlib.util
import sys
import types

from husk_interpreter import comms, shell


class _Module(types.ModuleType):
    """What it lacks comes from the real module of the name, if there is one."""

    def __getattr__(self, name):
        if name.startswith("__") or name == "_real":
            raise AttributeError(name)
        real = self.__dict__.get("_real")
        if real is None:
            real = self.__dict__["_real"] = self._load_real()
        try:
            return getattr(real, name)
        except AttributeError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None

    def _load_real(self):
        parent, _, name = self.__name__.rpartition(".")
        if not parent:
            return None
        path = importlib.import_module(parent).__path__
        spec = importlib.machinery.PathFinder.find_spec(self.__name__, path)
        if spec is None:
            return None
        real = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(real)
        return real


def _module(name, **attributes):
    module = _Module(name, "Provided by husk.")
    module.__dict__.update(attributes)
    sys.modules[name] = module
    return module


def _what_runs():
    """The modules by their name below ipykernel."""
    modules = {
        "zmqshell": _module(
            "ipykernel.zmqshell",
            ZMQInteractiveShell=shell.ZMQInteractiveShell,
            ZMQDisplayPublisher=shell.ZMQDisplayPublisher,
        ),
        "displayhook": _module(
            "ipykernel.displayhook", ZMQShellDisplayHook=shell.ZMQShellDisplayHook
        ),
    }
    if comms.comm:
        ours = _module("ipykernel.comm", __path__=[], Comm=comms.Comm, CommManager=comms.CommManager)
        ours.comm = _module("ipykernel.comm.comm", Comm=comms.Comm, BaseComm=comms.Comm)
        ours.manager = _module("ipykernel.comm.manager", CommManager=comms.CommManager)
        modules["comm"] = ours
    return modules


class _Loader:
    """Loads the real package, then puts what runs into it."""

    def __init__(self, loader, modules):
        self._loader = loader
        self._modules = modules

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        module.__dict__.update(self._modules)


class _Finder:
    def __init__(self, modules):
        self._modules = modules

    def find_spec(self, name, path=None, target=None):
        if name != "ipykernel":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader, self._modules)
        return spec


def install():
    modules = _what_runs()
    if importlib.util.find_spec("ipykernel"):
        sys.meta_path.insert(0, _Finder(modules))
        return
    top = _module("ipykernel", __path__=[], __version__="7.0.0", version_info=(7, 0, 0))
    top.__dict__.update(modules)
    top.kernelapp = _module("ipykernel.kernelapp", IPKernelApp=type("IPKernelApp", (), {}))
