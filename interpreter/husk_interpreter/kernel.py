# SPDX-License-Identifier: BSD-3-Clause
"""The interpreter's loop: one request at a time from the supervisor, answered by the shell."""

import _signal
import asyncio
import atexit
import builtins
import contextvars
import datetime
import faulthandler
import functools
import gc
import getpass
import importlib.util
import inspect
import io
import json
import linecache
import os
import signal
import sys
import threading
import time
import types

import _husk

from husk_interpreter import comms, facade, imports, messages, parents

SILENT = 1 << _husk.EXECUTE_SILENT_SHIFT
STORE = 1 << _husk.EXECUTE_STORE_SHIFT


# Seconds. A client that runs widgets itself (nbclient) answers comm messages over the socket on
# which it waits for the reply, and jupyter_client's send loses the wake-up of a reply that comes
# just then: the client waits for ever. So the reply of a cell that spoke to comms comes later.
COMMS_SETTLE = 0.02
REST = 0.4  # seconds in which nothing was asked


class StdinNotImplementedError(RuntimeError):
    """Stands in for IPython's where IPython is missing."""


def _decode(part):
    return json.loads(part.decode("utf-8", "surrogatepass")) if part else {}


def place_path(here):
    """The working directory comes after the standard library: no file beside a notebook takes the place of
    one of its modules. Ours goes to the end, so that nothing of it shadows a module of the user's."""
    for name in (here, ""):
        if name in sys.path:
            sys.path.remove(name)
    packages = (i for i, p in enumerate(sys.path) if os.path.basename(p) in ("site-packages", "dist-packages"))
    sys.path.insert(next(packages, 0), "")
    sys.path.append(here)


class Kernel(facade.Facade):
    """Also what libraries get from get_ipython().kernel; their names for things are kept.

    It is the main shell, too. A subshell (subshells.py) is one of these with a thread and a loop of
    its own, and shares all else.
    """

    subshell_id = None
    subshells = None  # a Subshells, once there were some
    listening = False  # aside.py's thread is there
    debugger = None  # a DebugShell, while a client has a session with it

    def __init__(self):
        self._init_requests()
        parents.install(self)
        self.user_ns = {}
        self.shell = self._make_shell()

    def _init_requests(self):
        """What belongs to the requests of one shell. Its loop has descriptors, which who is frozen has not."""
        self.loop = None
        self.context = contextvars.copy_context()  # of cells: what one sets, the next one sees
        self.parent = {}
        self.slot = 0
        self.of_cell = {}  # what IPython keeps for the running cell, see shell.py
        self.allow_stdin = False
        self.interruptible = False  # a signal may raise KeyboardInterrupt right now
        self.interrupted_at = 0.0
        self.heard = []  # frames about shells that are not acted on yet
        self.hearing = False
        self.struck = False  # an interrupt came meanwhile
        self.cancelled = False  # the running cell was interrupted in an await
        self.task = None  # the running cell, if it awaits
        self.leaving = False
        self.source = None  # of the running cell, where magics made it another than was entered
        self.spoke_to_comms = False  # since the last cell
        self.stirred = False  # something was asked since rest() was called
        self.resting = True  # rest() is not going to be called
        self.deferred = []  # frames that came while input() waited for its answer
        self.handlers = {
            _husk.EXECUTE: self.execute,
            _husk.COMPLETE: self.complete,
            _husk.INSPECT: self.inspect,
            _husk.IS_COMPLETE: self.is_complete,
            _husk.COMM_INFO: self.comm_info,
            _husk.COMM_OPEN: self.comm,
            _husk.COMM_MSG: self.comm,
            _husk.COMM_CLOSE: self.comm,
        }

    # --- start and loop

    def _make_shell(self):
        comms.install(self)
        try:
            from husk_interpreter import app
        except Exception as error:  # absent, or broken: either way the user must be told
            from husk_interpreter import plain

            main = sys.modules["__main__"].__dict__
            self.user_ns = {"__name__": "__main__", "__builtins__": builtins}
            main.clear()
            main.update(self.user_ns)
            self.user_ns = main
            self.plain = plain.PlainShell(self, main, f"{type(error).__name__}: {error}")
            return self.plain
        self.plain = None
        from husk_interpreter import shims

        shims.install()
        self.app = app.make(self)
        self.user_ns = self.app.shell.user_ns
        return self.app.shell

    def open_loop(self):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)

    def run(self):
        self.become_the_kernel()
        arguments = os.environ.pop("HUSK_RUN", None)  # of husk run
        if arguments:
            sys.argv[:] = json.loads(arguments)
        self.open_loop()
        builtins.input = self.raw_input
        getpass.getpass = self.getpass
        signal.signal(signal.SIGINT, self.on_sigint)
        # A crash tells where it was, and so does a cell that does not hear an interrupt.
        faulthandler.enable(2)
        faulthandler.register(signal.SIGURG, 2, all_threads=True)
        signal.signal(signal.SIGWINCH, self.on_look)
        signal.siginterrupt(signal.SIGWINCH, False)  # no call that C code waits in is cut short
        self.loop.add_reader(_husk.SOCKET, self.context.run, self.on_readable)
        if not self.plain:
            self.context.run(sys.modules["husk_interpreter.app"].run_startup, self.app)
        gc.freeze()  # what was imported so far lives for ever: no collection looks at it again
        self.stir()
        _husk.send(_husk.HELLO, 0, _husk.VERSION, (self.about,))
        while not self.leaving:
            try:
                self.loop.run_forever()
            except KeyboardInterrupt:
                continue  # it hit a task of the user's; asyncio has told the task
        self.end()

    def end(self):
        """What Python does at its end, but for taking apart what nobody sees again: that costs more than a start.

        Threads are waited for, atexit handlers run, the user's objects end, and what was written to files is there.
        """
        for step in (threading._shutdown, atexit._run_exitfuncs, self.user_ns.clear, gc.collect, _flush_files, _husk.sync):
            try:
                step()
            except BaseException:
                sys.excepthook(*sys.exc_info())
        os._exit(0)

    @functools.cached_property
    def about(self):
        """For kernel_info. Known before this is frozen: what it is made from is looked at before it is thawed."""
        about = {"version": "%d.%d.%d" % sys.version_info[:3], "ipython": None}
        about["debugger"] = not self.plain and importlib.util.find_spec("debugpy") is not None
        if self.plain:
            about["plain"] = self.plain.why
        else:
            about["ipython"] = sys.modules["IPython"].__version__
        return about

    def stir(self):
        self.stirred = True
        if self.resting and "husk_interpreter.frozen" in sys.modules:
            self.resting = False
            self.loop.call_later(REST, self.rest)

    def rest(self):
        """What an idle interpreter has in common with others that were thawed from the same file is shared again."""
        self.resting = not self.stirred
        self.stirred = False
        if self.resting:
            _husk.rest()
        else:
            self.loop.call_later(REST, self.rest)

    def on_readable(self):
        try:
            while self.deferred:
                self.dispatch(*self.deferred.pop(0))
            frame = _husk.receive(False)
            while frame is not None and not self.leaving:
                self.dispatch(*frame)
                # The supervisor waits for our reply: there is rarely more, so no system call.
                frame = _husk.receive(False) if _husk.buffered() else None
            self.stir()
        except EOFError:
            os._exit(0)

    def dispatch(self, number, slot, value, parts):
        if number == _husk.SHUTDOWN:
            self.shutdown()
            return
        if number == _husk.INPUT_REPLY:
            return  # of a question that was interrupted
        if number in _ABOUT_SHELLS:
            self.hear_of_shell(number, value, parts)
            return
        if self.task is not None and number in _COMMS:
            self.comm_beside(number, slot, parts)
            return
        header, metadata, content = map(_decode, parts[:3])
        self.take_up(slot, header, metadata, content, parts[3:])
        handler = self.handlers[number]
        try:
            handler(slot, value, content, number, parts[3:])
        except BaseException as error:  # also SystemExit of a comm handler: one reply, always
            self.reply_error(slot, error)

    def on_look(self, number, frame):
        """A thread is wanted while a cell runs: it need not wait until the cell is over."""
        try:
            for about, slot, value, parts in _husk.look():
                self.hear_of_shell(about, value, parts)
        except EOFError:
            os._exit(0)
        # What else came is in our buffer now, where the loop does not see it.
        self.loop.call_soon_threadsafe(self.context.run, self.on_readable)

    def hear_of_shell(self, number, value, parts):
        """One after the other, in the order in which they came: what a signal brings while this is at
        work with locks in its hands waits, and so does an interrupt."""
        self.heard.append((number, value, parts))
        if self.hearing:
            return
        while self.heard:
            self.hearing = True
            try:
                self.act_on_shell(*self.heard.pop(0))
            finally:
                self.hearing = False
        if self.struck:
            self.struck = False
            self.on_sigint(signal.SIGINT, None)

    def act_on_shell(self, number, value, parts):
        if number == _husk.LISTEN:
            self.listen()
            return
        if self.subshells is None:
            from husk_interpreter import subshells

            self.subshells = subshells.Subshells(self)
        self.subshells.hear(number, value, parts)

    def shutdown(self):
        self.leaving = True
        self.loop.stop()

    # --- what belongs to a request

    def take_up(self, slot, header, metadata, content, buffers):
        self.slot = slot
        self.interrupted_at = 0.0  # several signals are one press of the button within a request
        self.parent = _parent(header, metadata, content, buffers)
        self.begin(slot)
        parents.remember(slot, self.parent)
        parents.enter(slot, self.parent)

    def begin(self, slot):
        # A handler that a cell sets is that cell's: pdb leaves its own after `continue`. signal.getsignal() raises
        # and catches two errors inside, which costs time and which a debugger may be asked to stop at.
        if _signal.getsignal(signal.SIGINT) != self.on_sigint:
            signal.signal(signal.SIGINT, self.on_sigint)
        _husk.begin(slot)

    def used(self):
        return _husk.used()

    def current(self):
        """The shell that this code runs in: of threads that are no shell's, the main one."""
        return (self.subshells and self.subshells.of_thread()) or self

    def get_parent(self, channel=None):
        return parents.of_context() or self.current().parent

    def reply(self, slot, content, value=0, **about):
        _husk.sync()
        if not _husk.send(_husk.REPLY, slot, value, (content, {**self.used(), **about})):
            _leave_child(content)

    def reply_error(self, slot, error):
        try:
            text = str(error)
        except Exception:
            text = "<exception str() failed>"
        content = {"status": "error", "ename": type(error).__name__, "evalue": text, "traceback": []}
        self.reply(slot, content, self.shell.execution_count)

    # --- execute

    def execute(self, slot, value, content, number, buffers):
        code = content["code"]
        silent = bool(value & SILENT)
        store = bool(value & STORE)
        self.allow_stdin = bool(content.get("allow_stdin", True))
        self.shell.execution_count = value & _husk.EXECUTE_COUNT
        if self.debugger is not None:
            self.debugger.trace_cell()
        if self.plain:
            result = self.guarded(lambda: self.plain.run(code, silent, store))
            self.finish(slot, content, result)
            return
        arguments = {"store_history": store, "silent": silent}
        cell_id = self.parent["metadata"].get("cellId")
        if cell_id is not None and _accepts_cell_id(self.shell):
            arguments["cell_id"] = cell_id
        transformed, error = self.transform(code)
        self.source = transformed if transformed.rstrip("\n") != code.rstrip("\n") else None
        coroutine = self.begin_cell(code, transformed, error, arguments)
        # IPython compiles the cell to find out; without these words there is nothing to find.
        if ("await" in transformed or "async" in transformed) and self.shell.should_run_async(
            code, transformed_cell=transformed, preprocessing_exc_tuple=error
        ):
            self.task = self.loop.create_task(self.execute_async(slot, content, coroutine, silent))
            _husk.send(_husk.AWAITS, slot, 0, ())
        else:
            # No task and no turn of the loop for a cell that awaits nothing.
            result = self.guarded(lambda: _step(coroutine, lambda done: self.settle(done, silent)))
            if isinstance(result, _Suspended):
                self.task = self.loop.create_task(
                    self.execute_async(slot, content, _go_on(coroutine, result.awaited), silent)
                )
            else:
                self.finish(slot, content, result)

    def begin_cell(self, code, transformed, error, arguments):
        self.shell._last_traceback = None
        self.of_cell.pop("unshown", None)
        self.cancelled = False
        return self.shell.run_cell_async(
            code, transformed_cell=transformed, preprocessing_exc_tuple=error, **arguments
        )

    def rehearse(self, code):
        """Runs a cell that awaits nothing and leaves no trace. For frozen.py, before there is anybody."""
        kept = (linecache.cache, inspect.modulesbyfile, getattr(self.shell.compile, "_filename_map", {}))
        before = [set(names) for names in kept]
        coroutine = self.begin_cell(code, *self.transform(code), {"store_history": False, "silent": True})
        self.guarded(lambda: _step(coroutine, lambda done: self.settle(done, True)))
        self.shell.rehearse_value()
        for names, known in zip(kept, before):
            for name in set(names) - known:
                del names[name]
        self.of_cell = {}
        self.shell.last_execution_result = None

    def settle(self, result, silent):
        """What IPython's own run_cell does after the cell: figures are shown by these events."""
        self.end_steps()
        self.shell.events.trigger("post_execute")
        if not silent:
            self.shell.events.trigger("post_run_cell", result)
        return result

    def end_steps(self):
        if self.debugger is not None:
            self.debugger.end_steps()

    def transform(self, code):
        try:
            return self.shell.transform_cell(code), None
        except Exception:
            return code, sys.exc_info()

    def guarded(self, run):
        """Runs user code, where an interrupt is a KeyboardInterrupt; returns it if it escapes."""
        before = self.interruptible  # beside a cell that awaits, it stays so
        try:
            self.interruptible = True
            try:
                return run()
            finally:
                self.interruptible = before
        except BaseException as error:
            return error

    async def execute_async(self, slot, content, coroutine, silent):
        try:
            self.interruptible = True
            try:
                result = self.settle(await coroutine, silent)
            finally:
                self.interruptible = False
                self.task = None
        except asyncio.CancelledError:
            result = KeyboardInterrupt()
        except BaseException as error:
            result = error
        self.finish(slot, content, result)

    def finish(self, slot, content, result):
        """execute_reply, from an ExecutionResult or from an exception that escaped it."""
        if self.interrupted_at:
            imports.let_go()
        if isinstance(result, BaseException):
            error = result
            self.show_escaped(error)
        elif self.plain:
            error = result.error
        else:
            # What could not be shown has been told, and the cell has failed.
            error = result.error_before_exec or result.error_in_exec or self.of_cell.get("unshown")
            result.result = None
        reply = {"status": "ok", "user_expressions": {}, "payload": []}
        if error is None:
            reply["user_expressions"] = self.shell.user_expressions(
                content.get("user_expressions") or {}
            )
        else:
            messages.tell_cause(error)
            shown = self.shell._last_traceback
            self.shell._last_traceback = None
            if shown is None:
                shown = {"ename": type(error).__name__, "evalue": _text(error), "traceback": []}
            reply.update(shown, status="error")
        if not self.plain:
            reply["payload"] = self.shell.payload_manager.read_payload()
            self.shell.payload_manager.clear_payload()
        if self.spoke_to_comms:
            self.spoke_to_comms = False
            time.sleep(COMMS_SETTLE)
        about = {"source": self.source} if self.source is not None else {}
        self.reply(slot, reply, self.shell.execution_count, **about)

    def show_escaped(self, error):
        if self.shell._last_traceback is None:
            shown = {"ename": type(error).__name__, "evalue": _text(error), "traceback": []}
            shown["traceback"] = [f"{shown['ename']}: {shown['evalue']}"]
            self.shell._last_traceback = shown
            messages.publish(_husk.ERROR, shown)

    # --- interrupts

    def on_sigint(self, number, frame):
        now = time.monotonic()
        if self.hearing:
            self.struck = True
            return
        if not self.interruptible or now - self.interrupted_at < 0.3:
            return  # nothing runs, or several came for one press of the button
        self.interrupted_at = now
        if self.task is not None and not self._in_user_code():
            self.cancelled = True
            self.loop.call_soon_threadsafe(self.task.cancel)
            return
        if self.debugger is not None:
            self.debugger.release(frame)
        raise KeyboardInterrupt

    def _in_user_code(self):
        """Whether the loop is running a task just now; else it sleeps, and the cell awaits."""
        return asyncio.current_task(self.loop) is not None

    def listen(self):
        """A client asks for completions: from now on they are answered while a cell runs, too."""
        if not self.listening:
            self.listening = True
            from husk_interpreter import aside

            aside.start(self)

    # --- other requests

    def complete(self, slot, value, content, number, buffers):
        self.reply(slot, self.completions(content))

    def inspect(self, slot, value, content, number, buffers):
        self.reply(slot, self.inspection(content))

    def is_complete(self, slot, value, content, number, buffers):
        self.reply(slot, self.completeness(content))

    # The contents of three replies; while a cell runs, aside.py asks for them.

    def completions(self, content, aside=False):
        code, cursor = content["code"], content.get("cursor_pos")
        if cursor is None:
            cursor = len(code)
        if self.plain:
            found = self.plain.complete(code, cursor)
        else:
            from husk_interpreter import completion

            found = (completion.complete_aside if aside else completion.complete)(self.shell, code, cursor)
        return {"status": "ok", **found}

    def inspection(self, content):
        code, cursor = content["code"], content.get("cursor_pos")
        if cursor is None:
            cursor = len(code)
        detail = content.get("detail_level") or 0
        if self.plain:
            data = self.plain.inspect(code, cursor, detail)
        else:
            from husk_interpreter import completion

            data = completion.inspect(self.shell, code, cursor, detail, content)
        return {"status": "ok", "found": bool(data), "data": data, "metadata": {}}

    def completeness(self, content):
        if self.plain:
            return self.plain.is_complete(content["code"])
        status, indent = self.shell.input_transformer_manager.check_complete(content["code"])
        reply = {"status": status}
        if status == "incomplete":
            reply["indent"] = " " * (indent or 0)
        return reply

    def comm_info(self, slot, value, content, number, buffers):
        self.reply(slot, {"status": "ok", "comms": comms.info(content.get("target_name"))})

    def comm(self, slot, value, content, number, buffers):
        header, metadata = self.parent["header"], self.parent["metadata"]
        message = (number, slot, header, metadata, content, buffers)
        if not self.handled_elsewhere(number, content, message):
            self.handle_comm(*message)

    def comm_beside(self, number, slot, parts):
        """A comm message while the running cell awaits."""
        header, metadata, content = map(_decode, parts[:3])
        message = (number, slot, header, metadata, content, parts[3:])
        if not self.handled_elsewhere(number, content, message):
            self.run_beside(*message)

    def handled_elsewhere(self, number, content, message):
        """Whether another shell waits for this message than the one that the client addressed."""
        if self.subshells is None and self.subshell_id is None or number == _husk.COMM_OPEN:
            return False
        other = comms.waiting(content)
        return other is not None and other is not self and other.post_comm(*message)

    def post_comm(self, *message):
        """From another shell's thread."""
        self.loop.call_soon_threadsafe(self.run_beside, *message)
        return True

    def run_beside(self, number, slot, header, metadata, content, buffers):
        """In a context of its own, so that what it prints is its own; the cell then goes on as before."""
        before = self.parent
        self.parent = _parent(header, metadata, content, buffers)
        parents.remember(slot, self.parent)
        context = contextvars.copy_context()
        try:
            context.run(parents.enter, slot, self.parent)
            context.run(self.handle_comm, number, slot, header, metadata, content, buffers)
        finally:
            self.parent = before

    def handle_comm(self, number, slot, header, metadata, content, buffers):
        kind = _COMMS[number]
        result = self.guarded(lambda: comms.handle(kind, header, metadata, content, buffers))
        if isinstance(result, BaseException):
            print(f"{type(result).__name__}: {_text(result)}", file=sys.stderr)
        self.reply(slot, {"status": "ok"})

    # --- input

    def raw_input(self, prompt=""):
        return self.current()._ask(str(prompt), False)

    def getpass(self, prompt="Password: ", stream=None):
        return self.current()._ask(str(prompt), True)

    def _ask(self, prompt, password):
        if not self.allow_stdin:
            name = "getpass" if password else "raw_input"
            raise _stdin_error()(
                f"{name} was called, but this frontend does not support input requests."
            )
        slot = self.slot
        _husk.sync()
        _husk.send(
            _husk.INPUT_REQUEST, slot, 0, ({"prompt": prompt, "password": password},)
        )
        refused, answer = self._wait_for_answer(slot)
        if refused:
            raise _stdin_error()(answer.decode("utf-8", "replace"))
        text = answer.decode("utf-8", "surrogatepass")
        if text == "\x04":
            raise EOFError
        return text

    def _wait_for_answer(self, slot):
        while True:
            try:
                number, of, value, parts = _husk.receive(True)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("Interrupted by user") from None
            if number == _husk.SHUTDOWN:
                self.shutdown()
                raise EOFError("the kernel is shutting down")
            if number == _husk.INPUT_REPLY:
                if of == slot:
                    return value, parts[0]
            elif number in _ABOUT_SHELLS:
                self.hear_of_shell(number, value, parts)
            else:
                self.deferred.append((number, of, value, parts))
                self.loop.call_soon(self.context.run, self.on_readable)


_ABOUT_SHELLS = (_husk.OPEN_SHELL, _husk.CLOSE_SHELL, _husk.LISTEN)
_COMMS = {
    _husk.COMM_OPEN: "comm_open",
    _husk.COMM_MSG: "comm_msg",
    _husk.COMM_CLOSE: "comm_close",
}


def _parent(header, metadata, content, buffers=()):
    try:
        header["date"] = datetime.datetime.fromisoformat(header["date"])
    except (KeyError, TypeError, ValueError):
        pass  # it stays what it is
    return {
        "header": header,
        "parent_header": {},
        "metadata": metadata,
        "content": content,
        "buffers": buffers,
        "msg_id": header.get("msg_id"),
        "msg_type": header.get("msg_type"),
    }


def _flush_files():
    """Those of modules, which hold them until the very end."""
    for found in gc.get_objects():
        if issubclass(type(found), (io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)) and not found.closed:
            try:
                found.flush()
            except Exception:
                pass  # as at the end of any Python: nobody is there to hear of it


def _leave_child(reply):
    """A child of os.fork() came to the end of the cell: the requests are its parent's to answer.

    It ends as a script would that ended here; what it printed is on its way already.
    """
    status = int(reply["status"] == "error")
    if reply.get("ename") == "SystemExit":
        code = reply["evalue"]
        status = int(code) & 0xFF if code.lstrip("-").isdigit() else int(code not in ("", "None"))
    os._exit(status)


class _Suspended:
    def __init__(self, awaited):
        self.awaited = awaited


def _step(coroutine, settle):
    """Runs a cell that seems to await nothing; what awaits all the same, as its first statement did
    before the second was found to be wrong, is _Suspended and goes on as a task."""
    try:
        return _Suspended(coroutine.send(None))
    except StopIteration as done:
        result = done.value
    return settle(result)


@types.coroutine
def _go_on(coroutine, awaited):
    while True:
        try:
            value = yield awaited
        except BaseException as error:
            step = functools.partial(coroutine.throw, error)
        else:
            step = functools.partial(coroutine.send, value)
        try:
            awaited = step()
        except StopIteration as done:
            return done.value


def _text(error):
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def _stdin_error():
    error = sys.modules.get("IPython.core.error")
    return error.StdinNotImplementedError if error else StdinNotImplementedError


def _accepts_cell_id(shell):
    return "cell_id" in shell.run_cell_async.__func__.__code__.co_varnames
