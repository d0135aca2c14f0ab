# SPDX-License-Identifier: BSD-3-Clause
"""The interpreter's loop: one request at a time from the supervisor, answered by the shell."""

import asyncio
import builtins
import faulthandler
import gc
import getpass
import json
import os
import signal
import sys
import time

import _husk

from husk_interpreter import comms, messages, streams

SILENT = 1 << _husk.EXECUTE_SILENT_SHIFT
STORE = 1 << _husk.EXECUTE_STORE_SHIFT


class StdinNotImplementedError(RuntimeError):
    """Stands in for IPython's where IPython is missing."""


def _decode(part):
    return json.loads(part.decode("utf-8", "surrogatepass")) if part else {}


class Session:
    """What is left of jupyter_client's Session inside: signing is the supervisor's."""

    def __init__(self, kernel):
        self._kernel = kernel

    def send(self, stream, msg_or_type, content=None, parent=None, ident=None, buffers=None,
             track=False, header=None, metadata=None):
        if isinstance(msg_or_type, dict):
            content, msg_or_type = msg_or_type["content"], msg_or_type["header"]["msg_type"]
        self._kernel.send_response(stream, msg_or_type, content, buffers=buffers, metadata=metadata)


class Kernel:
    """Also what libraries get from get_ipython().kernel; their names for things are kept."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.parent = {}
        self.slot = 0
        self.session = Session(self)
        self.user_ns = {}
        self.allow_stdin = False
        self.interruptible = False  # a signal may raise KeyboardInterrupt right now
        self.interrupted_at = 0.0
        self.cancelled = False  # the running cell was interrupted in an await
        self.task = None  # the running cell, if it awaits
        self.leaving = False
        self.shell = self._make_shell()
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
            from husk_interpreter import shell
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

        shims.install(self)
        made = shell.make(self, None)
        self.user_ns = made.user_ns
        return made

    def run(self):
        builtins.input = self.raw_input
        getpass.getpass = self.getpass
        signal.signal(signal.SIGINT, self.on_sigint)
        # A crash tells where it was, and so does a cell that does not hear an interrupt.
        faulthandler.enable(2)
        faulthandler.register(signal.SIGURG, 2, all_threads=True)
        self.loop.add_reader(_husk.SOCKET, self.on_readable)
        gc.freeze()  # what was imported so far lives for ever: no collection looks at it again
        _husk.send(_husk.HELLO, 0, _husk.VERSION, (messages.encode(self.about()),))
        while not self.leaving:
            try:
                self.loop.run_forever()
            except KeyboardInterrupt:
                continue  # it hit a task of the user's; asyncio has told the task

    def about(self):
        about = {"version": "%d.%d.%d" % sys.version_info[:3], "ipython": None}
        if self.plain:
            about["plain"] = self.plain.why
        else:
            about["ipython"] = sys.modules["IPython"].__version__
        return about

    def on_readable(self):
        try:
            frame = _husk.receive(False)
            while frame is not None and not self.leaving:
                self.dispatch(*frame)
                # The supervisor waits for our reply: there is rarely more, so no system call.
                frame = _husk.receive(False) if _husk.buffered() else None
        except EOFError:
            os._exit(0)

    def dispatch(self, number, slot, value, parts):
        if number == _husk.SHUTDOWN:
            self.shutdown()
            return
        if number == _husk.INPUT_REPLY:
            return  # of a question that was interrupted
        header, metadata, content = map(_decode, parts[:3])
        self.set_parent(slot, header, metadata, content)
        handler = self.handlers[number]
        try:
            handler(slot, value, content, number, parts[3:])
        except BaseException as error:  # also SystemExit of a comm handler: one reply, always
            self.reply_error(slot, error)

    def shutdown(self):
        self.leaving = True
        self.loop.stop()

    # --- what belongs to a request

    def set_parent(self, slot, header, metadata, content):
        self.slot = slot
        self.interrupted_at = 0.0  # several signals are one press of the button within a request
        self.parent = {
            "header": header,
            "parent_header": {},
            "metadata": metadata,
            "content": content,
            "msg_id": header.get("msg_id"),
            "msg_type": header.get("msg_type"),
        }
        _husk.set_slot(slot)
        streams.set_slot_of_context(slot)

    def get_parent(self, channel=None):
        return self.parent

    def reply(self, slot, content, value=0):
        _husk.sync()
        _husk.send(_husk.REPLY, slot, value, (messages.encode(content), messages.EMPTY))

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
        if self.plain:
            result = self.guarded(lambda: self.plain.run(code, silent, store))
            self.finish(slot, content, result)
            return
        arguments = {"store_history": store, "silent": silent}
        cell_id = self.parent["metadata"].get("cellId")
        if cell_id is not None and _accepts_cell_id(self.shell):
            arguments["cell_id"] = cell_id
        transformed, error = self.transform(code)
        self.shell._last_traceback = None
        self.cancelled = False
        coroutine = self.shell.run_cell_async(
            code, transformed_cell=transformed, preprocessing_exc_tuple=error, **arguments
        )
        if self.shell.should_run_async(
            code, transformed_cell=transformed, preprocessing_exc_tuple=error
        ):
            self.task = self.loop.create_task(self.execute_async(slot, content, coroutine, silent))
        else:
            # No task and no turn of the loop for a cell that awaits nothing.
            result = self.guarded(lambda: self.settle(_step(coroutine), silent))
            self.finish(slot, content, result)

    def settle(self, result, silent):
        """What IPython's own run_cell does after the cell: figures are shown by these events."""
        self.shell.events.trigger("post_execute")
        if not silent:
            self.shell.events.trigger("post_run_cell", result)
        return result

    def transform(self, code):
        try:
            return self.shell.transform_cell(code), None
        except Exception:
            return code, sys.exc_info()

    def guarded(self, run):
        """Runs user code, where an interrupt is a KeyboardInterrupt; returns it if it escapes."""
        try:
            self.interruptible = True
            try:
                return run()
            finally:
                self.interruptible = False
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
        if isinstance(result, BaseException):
            error = result
            self.show_escaped(error)
        elif self.plain:
            error = result.error
        else:
            error = result.error_before_exec or result.error_in_exec
            result.result = None
        reply = {"status": "ok", "user_expressions": {}, "payload": []}
        if error is None:
            reply["user_expressions"] = self.shell.user_expressions(
                content.get("user_expressions") or {}
            )
        else:
            shown = self.shell._last_traceback
            self.shell._last_traceback = None
            if shown is None:
                shown = {"ename": type(error).__name__, "evalue": _text(error), "traceback": []}
            reply.update(shown, status="error")
        if not self.plain:
            reply["payload"] = self.shell.payload_manager.read_payload()
            self.shell.payload_manager.clear_payload()
        self.reply(slot, reply, self.shell.execution_count)

    def show_escaped(self, error):
        if self.shell._last_traceback is None:
            shown = {"ename": type(error).__name__, "evalue": _text(error), "traceback": []}
            shown["traceback"] = [f"{shown['ename']}: {shown['evalue']}"]
            self.shell._last_traceback = shown
            messages.publish(_husk.ERROR, shown)

    # --- interrupts

    def on_sigint(self, number, frame):
        now = time.monotonic()
        if not self.interruptible or now - self.interrupted_at < 0.3:
            return  # nothing runs, or several came for one press of the button
        self.interrupted_at = now
        if self.task is not None and not self._in_user_code():
            self.cancelled = True
            self.loop.call_soon_threadsafe(self.task.cancel)
            return
        raise KeyboardInterrupt

    def _in_user_code(self):
        """Whether the loop is running a task just now; else it sleeps, and the cell awaits."""
        return asyncio.current_task(self.loop) is not None

    # --- other requests

    def complete(self, slot, value, content, number, buffers):
        code, cursor = content["code"], content.get("cursor_pos")
        if cursor is None:
            cursor = len(code)
        if self.plain:
            found = self.plain.complete(code, cursor)
        else:
            from husk_interpreter import completion

            found = completion.complete(self.shell, code, cursor)
        self.reply(slot, {"status": "ok", **found})

    def inspect(self, slot, value, content, number, buffers):
        code, cursor = content["code"], content.get("cursor_pos")
        if cursor is None:
            cursor = len(code)
        detail = content.get("detail_level") or 0
        if self.plain:
            data = self.plain.inspect(code, cursor, detail)
        else:
            from husk_interpreter import completion

            data = completion.inspect(self.shell, code, cursor, detail, content)
        self.reply(slot, {"status": "ok", "found": bool(data), "data": data, "metadata": {}})

    def is_complete(self, slot, value, content, number, buffers):
        if self.plain:
            self.reply(slot, self.plain.is_complete(content["code"]))
            return
        status, indent = self.shell.input_transformer_manager.check_complete(content["code"])
        reply = {"status": status}
        if status == "incomplete":
            reply["indent"] = " " * (indent or 0)
        self.reply(slot, reply)

    def comm_info(self, slot, value, content, number, buffers):
        self.reply(slot, {"status": "ok", "comms": comms.info(content.get("target_name"))})

    def comm(self, slot, value, content, number, buffers):
        kind = {
            _husk.COMM_OPEN: "comm_open",
            _husk.COMM_MSG: "comm_msg",
            _husk.COMM_CLOSE: "comm_close",
        }[number]
        header, metadata = self.parent["header"], self.parent["metadata"]
        result = self.guarded(lambda: comms.handle(kind, header, metadata, content, buffers))
        if isinstance(result, BaseException):
            print(f"{type(result).__name__}: {_text(result)}", file=sys.stderr)
        self.reply(slot, {"status": "ok"})

    # --- input

    def raw_input(self, prompt=""):
        return self._ask(str(prompt), False)

    def getpass(self, prompt="Password: ", stream=None):
        return self._ask(str(prompt), True)

    def _ask(self, prompt, password):
        if not self.allow_stdin:
            raise _stdin_error()(
                "raw_input was called, but this frontend does not support input requests."
            )
        slot = self.slot
        content = messages.encode({"prompt": prompt, "password": password})
        _husk.sync()
        _husk.send(_husk.INPUT_REQUEST, slot, 0, (content,))
        while True:
            number, of, value, parts = _husk.receive(True)
            if number == _husk.SHUTDOWN:
                self.shutdown()
                raise EOFError("the kernel is shutting down")
            if number == _husk.INPUT_REPLY and of == slot:
                break
        if value:
            raise _stdin_error()(parts[0].decode("utf-8", "replace"))
        text = parts[0].decode("utf-8", "surrogatepass")
        if text == "\x04":
            raise EOFError
        return text

    # --- the facade that libraries expect of ipykernel's kernel

    @property
    def comm_manager(self):
        return comms.manager()

    @property
    def _parent_header(self):
        return self.parent

    @property
    def iopub_socket(self):
        return None

    def send_response(self, stream, msg_or_type, content=None, ident=None, buffers=None,
                      track=False, header=None, metadata=None, channel=None):
        frames = {
            "display_data": _husk.DISPLAY_DATA,
            "update_display_data": _husk.UPDATE_DISPLAY_DATA,
            "clear_output": _husk.CLEAR_OUTPUT,
            "error": _husk.ERROR,
            "execute_result": _husk.EXECUTE_RESULT,
        }
        if msg_or_type == "stream":
            target = sys.stderr if content.get("name") == "stderr" else sys.stdout
            target.write(content.get("text", ""))
        elif msg_or_type in frames:
            messages.publish(frames[msg_or_type], content, metadata, buffers or ())
        else:
            raise ValueError(f"husk cannot publish '{msg_or_type}'")

    def do_one_iteration(self):
        """Requests are answered one at a time: there is nothing to do in the middle of one."""


def _step(coroutine):
    """Runs a coroutine that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a cell without await was suspended")


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
