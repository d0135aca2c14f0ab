# SPDX-License-Identifier: BSD-3-Clause
"""The application around the shell: the user's profile, its configuration, extensions and startup files.

Libraries know it as ipykernel's: they ask whether it is there, and for its kernel and shell.
"""

import copy
import functools
import os
import sys
import traceback

from IPython.core import application
from IPython.core.application import BaseIPythonApplication
from IPython.core.shellapp import InteractiveShellApp
from traitlets import Any, Unicode
from traitlets.config import Config

from husk_interpreter import shell


class IPKernelApp(BaseIPythonApplication, InteractiveShellApp):
    name = "ipython-kernel"  # hence ipython_kernel_config.py
    connection_file = Unicode("").tag(config=True)  # known to nobody inside
    kernel = Any()
    rehearsed = None  # the directory in which it has started once, with nothing to load or run

    def init_crash_handler(self):
        """What escapes is shown as any error of a cell."""

    def exit(self, exit_status=0):
        """IPython leaves when a profile is of no use; a kernel goes on without."""
        raise RuntimeError("the IPython profile cannot be used")

    def init_shell(self):
        self.shell = shell.ZMQInteractiveShell.instance(
            parent=self, profile_dir=self.profile_dir, kernel=self.kernel, user_ns=None
        )
        self.shell.displayhook.shell = self.shell
        self.shell.configurables.append(self)
        shell.spare_tokenizing(self.shell.input_transformer_manager)
        shell.make_debugger_interruptible()

    def init_gui_pylab(self):
        if self.pylab or self.matplotlib or self.gui:
            super().init_gui_pylab()


def _ours():
    """What no profile changes."""
    config = Config()
    config.IPKernelApp.connection_file = ""  # present, as libraries test for it
    config.HistoryManager.hist_file = ":memory:"  # the supervisor keeps the history
    return config


def _tell(what):
    print(f"husk: {what}:", file=sys.stderr)
    traceback.print_exc(limit=0)


def make(kernel):
    """The application with its shell, before it is known whose it is (frozen.py)."""
    app = IPKernelApp.instance(kernel=kernel, config=_ours())
    app.init_profile_dir()
    app.init_shell()
    for extension in app.default_extensions:
        app.shell.extension_manager.load_extension(extension)
    return app


def _load_profile(app):
    profile = os.environ.pop("HUSK_IPYTHON", app.profile)
    if profile != app.profile:
        app.profile, app.profile_dir = profile, None
        app.init_profile_dir()
        app.shell.profile_dir = app.profile_dir
    app.init_config_files()
    before = copy.deepcopy(app.config)
    app.load_config_file()
    app.update_config(_ours())
    if app.config != before:
        for each in (app.shell, *app.shell.configurables, *app.shell.formatters()):
            if each is not app:
                each.update_config(app.config)


def run_startup(app):
    """In the order of ipykernel: what a startup file finds is there. What fails is told of, and done without."""
    if app.rehearsed is not None:
        here = os.getcwd()  # among the places in IPython before 9
        app.config_file_paths = [here if place == app.rehearsed else place for place in app.config_file_paths]
        if not _anything_to_run(app, app.config_file_paths):
            os.environ.pop("HUSK_IPYTHON", None)
            return
        del app.config_file_paths[len(app.config_file_paths) - len(CONFIG_DIRS):]
    for step in (functools.partial(_load_profile, app), app.init_gui_pylab, app.init_extensions, app.init_code):
        try:
            step()
        except (Exception, SystemExit, KeyboardInterrupt):
            _tell("the IPython profile")


def rehearse_startup(app):
    """For frozen.py: IPython's search for what is rarely there takes longer than all else of a start. Who is thawed
    only looks whether it would find anything."""
    if not _anything_to_run(app, [*app.config_file_paths, *CONFIG_DIRS]):
        run_startup(app)
        app.rehearsed = os.getcwd()


CONFIG_DIRS = [*getattr(application, "ENV_CONFIG_DIRS", ()), *getattr(application, "SYSTEM_CONFIG_DIRS", ())]
CONFIG_FILES = [name + end for name in ("ipython_config", "ipython_kernel_config") for end in (".py", ".json")]


def _anything_to_run(app, places):
    """Whether IPython would load or run anything in _load_profile() and init_code()."""
    if os.environ.get("HUSK_IPYTHON", app.profile) != app.profile or os.environ.get("PYTHONSTARTUP"):
        return True
    for place in places:
        for name in CONFIG_FILES:
            if os.access(os.path.join(place, name), os.F_OK):
                return True
    for place in (app.profile_dir.location, *CONFIG_DIRS):
        startup = os.path.join(place, "startup")
        try:
            if os.access(startup, os.F_OK) and any(name.endswith((".py", ".ipy")) for name in os.listdir(startup)):
                return True
        except OSError:
            return True  # IPython finds words for it
    return False
