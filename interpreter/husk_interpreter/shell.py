# SPDX-License-Identifier: BSD-3-Clause
"""IPython's InteractiveShell as a notebook expects it, with husk's frames below.

The class is named ZMQInteractiveShell because libraries detect notebooks by that name.
"""

import asyncio
import functools
import inspect
import os
import pathlib
import pdb
import subprocess
import sys
import tempfile
import threading
import warnings

import _husk
from IPython.core import debugger, page
from IPython.core.autocall import ZMQExitAutocall
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell, InteractiveShellABC
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magics.code import CodeMagics, MacroToEdit
from IPython.display import Javascript, display
from IPython.utils import openpy
from IPython.utils.process import system
from traitlets import Any, Bool, Instance, Type, observe

from husk_interpreter import messages, parents

try:
    from IPython.core.history import HistoryOutput
except ImportError:  # IPython before 8.32
    HistoryOutput = None


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


class ZMQDisplayPublisher(parents.Parented, parents.Hooked, DisplayPublisher):
    topic = b"display_data"
    store_display_history = Bool(
        False, help="Keep what is displayed in the history manager, too."
    ).tag(config=True)

    def publish(self, data, metadata=None, *, transient=None, update=False, buffers=None, **kwargs):
        metadata = {} if metadata is None else metadata
        if self.store_display_history:
            self._store(data)
        self._validate_data(data, metadata)
        content = {"data": data, "metadata": metadata, "transient": transient or {}}
        self._send("update_display_data" if update else "display_data", content, buffers or ())

    def clear_output(self, wait=False):
        self._send("clear_output", {"wait": bool(wait)})

    def _store(self, data):
        count = self.shell.execution_count - bool(getattr(self, "_in_post_execute", False))
        outputs = getattr(self.shell.history_manager, "outputs", None)
        if outputs is not None and HistoryOutput is not None:
            output = HistoryOutput(output_type="display_data", bundle=data)
            outputs.setdefault(count, []).append(output)

    def _send(self, kind, content, buffers=()):
        content = through_hooks(self, kind, content)
        if content is not None:
            messages.publish(messages.FRAMES[kind], content, buffers=buffers)


def through_hooks(of, kind, content):
    """The content as the hooks leave it; None: one of them has kept it."""
    if not of._hooks:
        return content
    message = parents.kernel().session.msg(kind, content)
    for hook in of._hooks:
        message = hook(message)
        if message is None:
            return None
    return message["content"]


class ZMQShellDisplayHook(parents.Parented, parents.Hooked, DisplayHook):
    """Sends what a cell's last expression is worth; Out, _ and _1 are IPython's own doing."""

    topic = b"execute_result"
    _content = property(
        lambda self: self.shell.kernel.current().of_cell["content"],
        lambda self, value: self.shell.kernel.current().of_cell.update(content=value),
    )

    def start_displayhook(self):
        self.shell.kernel.current().end_steps()
        self._content = {}

    def rehearse(self, code):
        ends = getattr(self, "semicolon_at_end_of_expression", None)  # IPython before 8 looks at the text
        if ends is not None:
            ends(code)

    def write_output_prompt(self):
        self._content["execution_count"] = self.prompt_count

    def write_format_data(self, format_dict, md_dict=None):
        self._content["data"] = format_dict
        self._content["metadata"] = md_dict or {}

    def finish_displayhook(self):
        content, self._content = self._content, None
        if content.get("data"):
            content = through_hooks(self, "execute_result", content)
            if content is not None:
                messages.publish(_husk.EXECUTE_RESULT, content)


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


@functools.cache
def _use_one_lexer():
    from husk_interpreter import colours  # when there is a traceback: nobody starts with it

    colours.use_one_lexer()


def hide_handler(tb, code):
    """An interrupt happened in the cell; that a handler of ours raises it is nobody's concern."""
    while tb is not None:
        if tb.tb_next is not None and tb.tb_next.tb_frame.f_code is code:
            tb.tb_next = None
        tb = tb.tb_next


@magics_class
class KernelMagics(Magics):
    """The magics of ipykernel: a notebook has no terminal to edit, page or clear."""

    @line_magic
    def edit(self, parameter_s="", last_call=None):
        """Ask the front end for an editor on a file, an object's source or earlier input.

        What is edited is not run by itself, as nobody says when the editor was closed."""
        opts, args = self.parse_options(parameter_s, "prn:")
        try:
            filename, line, _ = CodeMagics._find_edit_target(self.shell, args, opts, last_call or ["", ""])
        except MacroToEdit:
            print("Macro editing not yet implemented in 2-process model.")
            return
        self.shell.payload_manager.write_payload(
            {"source": "edit_magic", "filename": str(pathlib.Path(filename).resolve()), "line_number": line}
        )

    @line_magic
    def clear(self, line):
        """Clear the terminal."""
        self.shell.system("clear")

    @line_magic
    def less(self, line):
        """Show a file through the pager, one that ends in .py with its syntax highlighted."""
        if not line:
            raise UsageError("Missing filename.")
        if line.endswith(".py"):
            text = self.shell.pycolorize(openpy.read_py_file(line, skip_encoding_cookie=False))
        else:
            with open(line) as f:
                text = f.read()
        page.page(text)

    more = line_magic("more")(less)

    @line_magic
    def man(self, line):
        """Show a manual page through the pager."""
        page.page(self.shell.getoutput(f"man {line} | col -b", split=False))

    @line_magic
    def connect_info(self, line):
        """Show how other clients connect to this kernel. The supervisor does: nothing of it comes in."""
        _husk.send(_husk.CONNECT_INFO, 0, 0, ())

    @line_magic
    def qtconsole(self, line):
        """Not from inside: a console is a program of yours, and a sandbox has no display."""
        raise UsageError(
            "a sandbox has no display; start it yourself: jupyter qtconsole --existing (see %connect_info)"
        )

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
        """Set after how many seconds the classic notebook saves; 0: never."""
        try:
            seconds = int(line)
        except ValueError as error:
            raise UsageError("%%autosave requires an integer, got %r" % line) from error
        script = Javascript(f"IPython.notebook.set_autosave_interval({1000 * seconds})")
        display(script, include=["application/javascript"])
        print(f"Autosaving every {seconds} seconds" if seconds else "Autosave disabled")


def of_cell(name, default):
    """An attribute of which each shell (subshells.py) has its own, as cells run in all at the same time."""
    return property(
        lambda self: self.kernel.current().of_cell.get(name, default),
        lambda self, value: self.kernel.current().of_cell.update({name: value}),
    )


class ZMQInteractiveShell(parents.Parented, InteractiveShell):
    compiler_class = Type(CellCompiler)
    displayhook_class = Type(ZMQShellDisplayHook)
    display_pub_class = Type(ZMQDisplayPublisher)
    kernel = Any()
    keepkernel_on_exit = None
    exiter = Instance(ZMQExitAutocall)
    readline_use = Bool(False)
    execution_count = of_cell("count", 1)
    _last_traceback = of_cell("traceback", None)
    autoindent = Bool(False)
    made = ()  # see remember_files()

    def _exiter_default(self):
        return ZMQExitAutocall(self)

    @observe("exit_now")
    def _leave(self, change):
        if change["new"]:
            _husk.send(_husk.LEAVE, 0, 0, ())

    def init_environment(self):
        os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
        if "HUSK_RUN" in os.environ:  # sys.exit() is meant, nobody needs advice
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

    def rehearse_value(self):
        """What IPython makes for the first cell and keeps for all others: the formatters, the log, the tokenizer's pattern."""
        self.display_formatter.format(2)
        self.displayhook.rehearse("1 + 1")
        self.logger  # noqa: B018

    def formatters(self):
        """Each is configured when it is made, and not again."""
        display = self.display_formatter
        return [*display.formatters.values(), display.ipython_display_formatter, display.mimebundle_formatter]

    def init_hooks(self):
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(self.payloadpage_page), 99)

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
        keep = self.keepkernel_on_exit
        self.payload_manager.write_payload({"source": "ask_exit", "keepkernel": keep})
        self.exit_now = not keep
        if keep:
            _husk.send(_husk.LEAVE, 0, 1, ())

    def payloadpage_page(self, strg, start=0, screen_lines=0, pager_cmd=None):
        """What would go through a pager goes to the front end; the last two are a terminal's."""
        data = strg if isinstance(strg, dict) else {"text/plain": strg}
        self.payload_manager.write_payload({"source": "page", "data": data, "start": max(0, start)})

    def set_next_input(self, text, replace=False):
        self.payload_manager.write_payload(
            {"source": "set_next_input", "text": text, "replace": replace}
        )

    def get_parent(self):
        return self.kernel.get_parent()

    parent_header = property(get_parent, parents.Parented.set_parent)

    def _get_exc_info(self, exc_tuple=None):
        self.kernel.current().end_steps()
        etype, value, tb = super()._get_exc_info(exc_tuple)
        if issubclass(etype, KeyboardInterrupt):
            hide_handler(tb, self.kernel.current().on_sigint.__func__.__code__)
            if self.kernel.debugger is not None:
                self.kernel.debugger.hide_frames(tb)
        return etype, value, tb

    def showtraceback(self, *args, **options):
        try:
            _use_one_lexer()
        except Exception:
            pass  # it only saves time
        super().showtraceback(*args, **options)

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
        of_cell = self.kernel.current().of_cell
        if of_cell.get("content") is not None:  # of what could not be shown as the cell's value
            of_cell["unshown"] = evalue
        messages.publish(_husk.ERROR, content)

    def system_piped(self, cmd):
        if cmd.rstrip().endswith("&"):
            raise OSError("Background processes not supported.")
        run = system if has_terminals() else run_on_pipes
        status = self.user_ns["_exit_code"] = run(self.var_expand(cmd, depth=1))
        if status and getattr(self, "system_raise_on_error", False):
            raise subprocess.CalledProcessError(status, cmd)

    system = system_piped

    def enable_gui(self, gui=None):
        if gui not in (None, "asyncio", "inline"):
            raise UsageError(
                f"the event loop '{gui}' needs a display, and a sandbox has none; "
                "use %matplotlib inline"
            )
        self.active_eventloop = gui

    def init_display_formatter(self):
        super().init_display_formatter()
        self.display_formatter.ipython_display_formatter.enabled = True


InteractiveShellABC.register(ZMQInteractiveShell)
# Libraries look for 'zmq' in the name of the class, module included.
ZMQInteractiveShell.__module__ = ZMQDisplayPublisher.__module__ = "ipykernel.zmqshell"
ZMQShellDisplayHook.__module__ = "ipykernel.displayhook"


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
