# SPDX-License-Identifier: BSD-3-Clause
"""IPython's InteractiveShell as a notebook expects it, with husk's frames below.

The class is named ZMQInteractiveShell because libraries detect notebooks by that name.
"""

import asyncio
import inspect
import os
import pdb
import subprocess
import sys
import tempfile
import threading
import warnings

import _husk
from IPython.core import debugger, page, payloadpage
from IPython.core.compilerop import CachingCompiler
from IPython.core.autocall import ZMQExitAutocall
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell, InteractiveShellABC
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.utils.process import system
from traitlets import Any, Bool, Instance, Type
from traitlets.config import Config

from husk_interpreter import messages


def has_terminals():
    """With containment landlock there are none: those of /dev/pts are everybody's."""
    try:
        os.close(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
        return True
    except OSError:
        return False


def run_on_pipes(cmd):
    shell = os.environ.get("SHELL", "")
    status = subprocess.call(cmd, shell=True, executable=shell if os.access(shell, os.X_OK) else None)
    return status if status >= 0 else 128 - status


# What a terminal-minded program may assume of a notebook (as ipykernel sets it).
ENVIRONMENT = {
    "TERM": "xterm-color",
    "CLICOLOR": "1",
    "FORCE_COLOR": "1",
    "CLICOLOR_FORCE": "1",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
}


HASH_SEED = 0xC70F6907  # of the names of cells: known to clients by the debugger's debugInfo


CELL_SUFFIX = ".py"


def cell_directory():
    return os.path.join(tempfile.gettempdir(), f"ipykernel_{os.getpid()}")


def cell_file(code):
    number = _husk.murmur2(code.encode("utf-8", "surrogatepass"), HASH_SEED)
    return os.path.join(cell_directory(), f"{number}{CELL_SUFFIX}")


class ZMQDisplayPublisher(DisplayPublisher):
    def publish(self, data, metadata=None, *, transient=None, update=False, buffers=None, **kwargs):
        content = {"data": data, "metadata": metadata or {}, "transient": transient or {}}
        frame = _husk.UPDATE_DISPLAY_DATA if update else _husk.DISPLAY_DATA
        messages.publish(frame, content, buffers=buffers or ())

    def clear_output(self, wait=False):
        messages.publish(_husk.CLEAR_OUTPUT, {"wait": bool(wait)})


class ZMQShellDisplayHook(DisplayHook):
    """Sends what a cell's last expression is worth; Out, _ and _1 are IPython's own doing."""

    _content = property(
        lambda self: self.shell.kernel.current().of_cell["content"],
        lambda self, value: self.shell.kernel.current().of_cell.update(content=value),
    )

    def start_displayhook(self):
        self.shell.kernel.current().end_steps()
        self._content = {}

    def write_output_prompt(self):
        self._content["execution_count"] = self.prompt_count

    def write_format_data(self, format_dict, md_dict=None):
        self._content["data"] = format_dict
        self._content["metadata"] = md_dict or {}

    def finish_displayhook(self):
        if self._content.get("data"):
            messages.publish(_husk.EXECUTE_RESULT, self._content)
        self._content = None


class CellCompiler(CachingCompiler):
    """Names the file of a cell as ipykernel does: tracebacks and debuggers show it."""

    def get_code_name(self, raw_code, code, number):
        given = os.environ.get("IPYKERNEL_CELL_NAME")
        if given is not None:
            return given
        name = cell_file(raw_code)
        # inspect.getmodule() finds no module for a cell, after it has looked at all there are, four
        # times for each frame of a traceback. It need not look at what it has an entry for.
        inspect.modulesbyfile[name] = ""
        return name


def hide_handler(tb, code):
    """An interrupt happened in the cell; that a handler of ours raises it is nobody's concern."""
    while tb is not None:
        if tb.tb_next is not None and tb.tb_next.tb_frame.f_code is code:
            tb.tb_next = None
        tb = tb.tb_next


@magics_class
class KernelMagics(Magics):
    """The few magics of ipykernel that notebooks contain and IPython itself lacks."""

    @line_magic
    def less(self, line):
        """Show a file through the pager."""
        with open(os.path.expanduser(line.strip()), encoding="utf-8", errors="replace") as f:
            payloadpage.page(f.read())

    more = line_magic("more")(less)

    @line_magic
    def man(self, line):
        """Show a manual page through the pager."""
        text = self.shell.getoutput(f"man {line.strip()} | col -b", split=False)
        payloadpage.page(text)

    @line_magic
    def connect_info(self, line):
        """Show how other clients connect to this kernel. The supervisor does: nothing of it comes in."""
        _husk.send(_husk.CONNECT_INFO, 0, 0, ())

    @line_magic
    def subshell(self, line):
        """List the subshells of this kernel, and say in which one this cell runs."""
        here = self.shell.kernel.current()
        others = self.shell.kernel.subshells
        print(f"subshell id: {here.subshell_id}")
        print(f"thread id: {threading.get_ident()}")
        print(f"main thread id: {threading.main_thread().ident}")
        print(f"pid: {os.getpid()}")
        print(f"thread count: {threading.active_count()}")
        print(f"subshell list: {others.ids() if others else []}")

    @line_magic
    def autosave(self, line):
        """Front ends handle this one; here it does nothing."""


def of_cell(name, default):
    """An attribute of which each shell (subshells.py) has its own, as cells run in all at the same time."""
    return property(
        lambda self: self.kernel.current().of_cell.get(name, default),
        lambda self, value: self.kernel.current().of_cell.update({name: value}),
    )


class ZMQInteractiveShell(InteractiveShell):
    compiler_class = Type(CellCompiler)
    displayhook_class = Type(ZMQShellDisplayHook)
    display_pub_class = Type(ZMQDisplayPublisher)
    kernel = Any()
    parent_header = property(lambda self: self.kernel.get_parent())
    keepkernel_on_exit = None
    exiter = Instance(ZMQExitAutocall)
    readline_use = Bool(False)
    execution_count = of_cell("count", 1)
    _last_traceback = of_cell("traceback", None)
    autoindent = Bool(False)
    made = ()  # see remember_files()

    def _exiter_default(self):
        return ZMQExitAutocall(self)

    def _exit_now_changed(self, change):
        pass

    def init_environment(self):
        os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
        if os.environ.pop("HUSK_RUN", None):  # husk run: sys.exit() is meant, nobody needs advice
            warnings.filterwarnings("ignore", "To exit: use")

    def wake(self):
        """What of a fresh start depends on the sandbox: this shell was made in another one."""
        self.init_environment()
        self.starting_dir = os.getcwd()
        visited = self.history_manager.dir_hist  # of strings or paths, as the version of IPython has it
        visited[:] = [type(one)(self.starting_dir) for one in visited]
        for path, mode, content in self.made:
            try:
                if content is None:
                    os.mkdir(path, mode)
                else:
                    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                    os.write(fd, content)
                    os.close(fd)
            except OSError:
                pass  # it is there; or IPython will say what is wrong when it wants something of it

    def remember_files(self):
        """What IPython made below the home directory, so that wake() can make it without asking IPython, whose way
        there touches a megabyte of memory that is shared else."""
        self.made = [(self.ipython_dir, os.stat(self.ipython_dir).st_mode & 0o777, None)]
        for top, directories, files in os.walk(self.ipython_dir):
            for name in sorted(directories + files):
                path = os.path.join(top, name)
                content = None
                if name in files:
                    with open(path, "rb") as f:
                        content = f.read()
                self.made.append((path, os.stat(path).st_mode & 0o777, content))

    def init_hooks(self):
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(payloadpage.page), 99)

    def init_magics(self):
        super().init_magics()
        self.register_magics(KernelMagics)
        self.magics_manager.register_alias("ed", "edit")

    def init_data_pub(self):
        pass

    def init_virtualenv(self):
        pass  # the interpreter is the virtual environment's own

    def ask_exit(self):
        """exit, quit: front ends that own the kernel read the payload, husk reads the frame."""
        keep = bool(self.keepkernel_on_exit)
        self.payload_manager.write_payload({"source": "ask_exit", "keepkernel": keep})
        _husk.send(_husk.LEAVE, 0, int(keep), ())

    def set_next_input(self, text, replace=False):
        self.payload_manager.write_payload(
            {"source": "set_next_input", "text": text, "replace": replace}
        )

    def set_parent(self, parent):
        """The supervisor says whose request this is."""

    def get_parent(self):
        return self.kernel.get_parent()

    def _get_exc_info(self, exc_tuple=None):
        self.kernel.current().end_steps()
        etype, value, tb = super()._get_exc_info(exc_tuple)
        if issubclass(etype, KeyboardInterrupt):
            hide_handler(tb, self.kernel.current().on_sigint.__func__.__code__)
            if self.kernel.debugger is not None:
                self.kernel.debugger.hide_frames(tb)
        return etype, value, tb

    def _showtraceback(self, etype, evalue, stb):
        if self.kernel.current().cancelled and issubclass(etype, asyncio.CancelledError):
            # An interrupt reaches a cell that awaits by way of a cancellation; the user pressed
            # one button and sees one exception, wherever the cell was.
            etype, evalue = KeyboardInterrupt, KeyboardInterrupt().with_traceback(evalue.__traceback__)
            stb = self.InteractiveTB.structured_traceback(etype, evalue, evalue.__traceback__)
        # IPython comes here a second time when showing the first try failed.
        try:
            value = str(evalue)
        except Exception:
            value = "<exception str() failed>"
        content = {"ename": etype.__name__, "evalue": value, "traceback": list(stb)}
        self._last_traceback = content
        sys.stdout.flush()
        messages.publish(_husk.ERROR, content)

    def system_piped(self, cmd):
        if cmd.rstrip().endswith("&"):
            raise OSError("Background processes not supported.")
        run = system if has_terminals() else run_on_pipes
        self.user_ns["_exit_code"] = run(self.var_expand(cmd, depth=1))

    system = system_piped

    def enable_gui(self, gui=None):
        if gui not in (None, "asyncio", "inline"):
            raise ValueError(
                f"the event loop '{gui}' needs a display, and a sandbox has none; "
                "use %matplotlib inline"
            )

    def init_display_formatter(self):
        super().init_display_formatter()
        self.display_formatter.ipython_display_formatter.enabled = True


InteractiveShellABC.register(ZMQInteractiveShell)
# Libraries look for 'zmq' in the name of the class, module included.
ZMQInteractiveShell.__module__ = ZMQDisplayPublisher.__module__ = "ipykernel.zmqshell"


# Characters without which none of IPython's own token transformers finds anything to change.
_SPECIAL = frozenset("%!?,;/")


def spare_tokenizing(manager):
    """Skips IPython's tokenizing of cells that hold none of its escapes.

    The tokenizer is the largest part of what IPython does for a short cell. It runs only to find
    magics, system commands and help; a transformer that somebody added turns this off.
    """
    own = list(manager.token_transformers)
    tokenizing = manager.do_token_transforms

    def do_token_transforms(lines):
        if manager.token_transformers == own and not any(
            not _SPECIAL.isdisjoint(line) for line in lines
        ):
            return lines
        return tokenizing(lines)

    manager.do_token_transforms = do_token_transforms


def make_debugger_interruptible():
    """pdb's own prompt takes an interrupt for an empty line and asks again, for ever."""
    if hasattr(debugger, "InterruptiblePdb"):
        debugger.Pdb = debugger.InterruptiblePdb
        pdb.Pdb = debugger.Pdb
        pdb.set_trace = debugger.set_trace


def configuration():
    config = Config()
    config.IPKernelApp.connection_file = ""  # present, as libraries test for it; known to nobody
    config.HistoryManager.hist_file = ":memory:"  # the supervisor keeps the history
    return config


def make(kernel, user_ns):
    shell = ZMQInteractiveShell.instance(
        config=configuration(), kernel=kernel, user_ns=user_ns
    )
    shell.displayhook.shell = shell
    spare_tokenizing(shell.input_transformer_manager)
    make_debugger_interruptible()
    return shell
