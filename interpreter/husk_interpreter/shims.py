# SPDX-License-Identifier: BSD-3-Clause
"""Modules named ipykernel.*, for libraries that look for them.

Only where the real package is absent: a real ipykernel stays importable and is not shadowed, but for
its comms, which need its own kernel.
"""

import importlib.util
import sys
import types

from husk_interpreter import comms


def _module(name, **attributes):
    module = types.ModuleType(name, "Provided by husk: ipykernel itself is not installed.")
    module.__dict__.update(attributes)
    sys.modules[name] = module
    return module


def install(kernel):
    from husk_interpreter import shell

    real = importlib.util.find_spec("ipykernel") is not None
    if comms.comm:
        # Also beside a real ipykernel, whose own Comm publishes nothing without its kernel.
        ours = _module("ipykernel.comm", __path__=[], Comm=comms.Comm, CommManager=comms.CommManager)
        ours.comm = _module("ipykernel.comm.comm", Comm=comms.Comm, BaseComm=comms.Comm)
        ours.manager = _module("ipykernel.comm.manager", CommManager=comms.CommManager)
    if real:
        return
    top = _module("ipykernel", __path__=[], __version__="7.0.0", version_info=(7, 0, 0))
    top.zmqshell = _module(
        "ipykernel.zmqshell",
        ZMQInteractiveShell=shell.ZMQInteractiveShell,
        ZMQDisplayPublisher=shell.ZMQDisplayPublisher,
    )
    top.displayhook = _module(
        "ipykernel.displayhook", ZMQShellDisplayHook=shell.ZMQShellDisplayHook
    )
    top.kernelapp = _module("ipykernel.kernelapp", IPKernelApp=type("IPKernelApp", (), {}))
    if comms.comm:
        top.comm = ours
