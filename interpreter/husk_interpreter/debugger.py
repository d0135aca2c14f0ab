# SPDX-License-Identifier: BSD-3-Clause
"""The debugger: debugpy of the user's own Python, asked by clients through debug_request.

    client -> supervisor -> DebugShell (a thread) -> Adapter (TCP, 127.0.0.1) -> debugpy -> cells

debugpy does the debugging. What it does not know of notebooks is answered here: where the code of a cell
lies, what the variables are while nothing is stopped, how a value looks. One request at a time, in the order
of arrival; the thread is none that debugpy stops.

The address is that of the sandbox's own network: nobody outside can connect to it. Where there is no such
network (containment landlock, which has no sockets either) there is no debugger.
"""

import asyncio
import importlib.util
import itertools
import json
import keyword
import linecache
import os
import re
import sys
import threading

import _husk

from husk_interpreter import messages
from husk_interpreter.subshells import HiddenThread, Subshell

HEAD = b"Content-Length: "  # DAP, base protocol
GRACE = 5  # seconds that debugpy has to let go of a session
LIMIT = 256 << 20  # bytes of one message, as the wall takes no more

# Of IPython and the interpreter, and nothing that a user has made.
HIDDEN = frozenset(
    "In Out exit quit open get_ipython _oh _dh _ih _ii _iii _ __ ___ _i __name__ __doc__ __package__ "
    "__loader__ __spec__ __annotations__ __builtin__ __builtins__ __display__ debugpy".split()
)
HISTORY = re.compile(r"_i?\d+")
GOING_ON = frozenset(("continue", "next", "stepIn", "stepOut", "disconnect", "terminate"))
NOTHING = {"data": {}, "metadata": {}}


class Refused(Exception):
    """A request that cannot be done; its text is for the user."""


def available():
    return importlib.util.find_spec("debugpy") is not None


# --- called by what debugpy evaluates in a stopped frame

_handed = []


def hand_over(value):
    """Takes a value of a frame: what debugpy tells of it is text, and cut."""
    _handed[:] = [value]


def _expression(name):
    return f"__import__('sys').modules[{__name__!r}].hand_over({name})"


def _is_visible(name):
    return name not in HIDDEN and not HISTORY.fullmatch(name)


# --- what is debugpy's, by the files that its code lies in


def _is_of_debugpy(frame):
    code = frame.f_code  # of its C code, only the name says whose it is
    return "pydevd_" in code.co_filename + code.co_name or f"{os.sep}debugpy{os.sep}" in code.co_filename


def hide_frames(tb):
    """Cuts a traceback where debugpy begins: an interrupt of a stopped cell happened in the cell."""
    while tb is not None and tb.tb_next is not None:
        after = tb.tb_next
        again = after.tb_frame is tb.tb_frame and after.tb_next is not None  # the frame that was traced
        if _is_of_debugpy(after.tb_next.tb_frame if again else after.tb_frame):
            tb.tb_next = None
        tb = tb.tb_next


def _load():
    """debugpy's own debugger, without a session. It warns of frozen modules on stderr, if not told."""
    quiet = "PYDEVD_DISABLE_FILE_VALIDATION"
    before = os.environ.get(quiet)
    os.environ[quiet] = "1"
    try:
        import debugpy
        import debugpy.server.api  # noqa: F401 - makes _pydevd_bundle importable
    finally:
        if before is None:
            del os.environ[quiet]
    return debugpy


def _forget_in_child():
    """A forked child has no debugger: nobody would ever let it go on from a breakpoint."""
    if hasattr(sys, "monitoring") and sys.monitoring.get_tool(sys.monitoring.DEBUGGER_ID):
        sys.monitoring.set_events(sys.monitoring.DEBUGGER_ID, 0)
        sys.monitoring.free_tool_id(sys.monitoring.DEBUGGER_ID)
    threading.settrace(None)
    if sys.gettrace() is not None:
        sys.modules["pydevd_tracing"].SetTrace(None)


class Adapter:
    """A connection to debugpy's adapter. Requests may be under way at the same time."""

    def __init__(self, on_event):
        self._on_event = on_event
        self._seq = itertools.count(1)
        self._open = {}  # futures of replies, by seq
        self.writer = None

    async def connect(self, address):
        reader, self.writer = await asyncio.open_connection(*address, limit=LIMIT)
        self._task = asyncio.get_running_loop().create_task(self._read(reader))

    async def _read(self, reader):
        try:
            while True:
                size = None
                while line := (await reader.readuntil(b"\r\n"))[:-2]:
                    if line.startswith(HEAD):
                        size = int(line[len(HEAD) :])
                self._take(json.loads(await reader.readexactly(size)))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writer.close()
            for future in self._open.values():
                future.cancel()
            self._on_event(None)

    def _take(self, message):
        if message["type"] == "event":
            self._on_event(message)
        elif message["type"] == "response":
            future = self._open.pop(message["request_seq"], None)
            if future and not future.done():
                future.set_result(message)

    def send(self, command, arguments=None):
        """A future of the response."""
        seq = next(self._seq)
        text = json.dumps({"type": "request", "seq": seq, "command": command, "arguments": arguments or {}})
        self.writer.write(HEAD + b"%d\r\n\r\n" % len(text.encode()) + text.encode())
        self._open[seq] = asyncio.get_running_loop().create_future()
        return self._open[seq]

    async def ask(self, command, arguments=None):
        try:
            return await self.send(command, arguments)
        except asyncio.CancelledError:
            raise Refused("the debugger has ended") from None

    def close(self):
        self.writer.close()


class Variables:
    """What there is while nothing is stopped, as debugpy would tell it."""

    def __init__(self, namespace):
        _load()
        from _pydevd_bundle import pydevd_api, pydevd_frame_utils, pydevd_suspended_frames

        class Code:
            co_filename, co_name = "<cells>", "<module>"

        class Frame:
            f_code, f_globals, f_locals, f_back, f_lineno = Code, namespace, namespace, None, 1
            f_trace = None

        class Owner:
            variable_presentation = pydevd_api.PyDevdAPI.VariablePresentation()

        # Both are needed as long as there are references to what they told.
        self._frame, self._owner = Frame(), Owner()
        self._manager = pydevd_suspended_frames.SuspendedFramesManager()
        self._tracker = pydevd_suspended_frames._FramesTracker(self._manager, self._owner)
        self._tracker.track("cells", pydevd_frame_utils.create_frames_list_from_frame(self._frame))

    def children(self, reference=None, rules=None):
        found = self._manager.get_variable(reference or id(self._frame))
        return [v.get_var_data() for v in found.get_children_variables(fmt=rules)]


class Session:
    """What one session of a client is; the adapter's address and debugpy itself outlive it."""

    def __init__(self, adapter, capabilities):
        self.adapter = adapter
        self.capabilities = capabilities
        self.initialized = asyncio.Event()
        self.attached = False


class DebugShell(Subshell):
    """Answers debug requests; subshells.py runs its thread and hands it the frames."""

    def _init_requests(self):
        super()._init_requests()
        self.handlers = {_husk.DEBUG: self.take_request}
        self._session = None
        self._address = None
        self._breakpoints = {}  # by path, as the client asked for them, at the lines that debugpy chose
        self._stopped = set()  # ids of threads
        self._variables = None
        self._transforms = None
        self._reporter = None

    # --- requests

    def take_request(self, slot, value, content, number, buffers):
        if self._reporter is None:  # in the loop to which they belong, before Python 3.10
            self._turn = asyncio.Lock()
            self._events = asyncio.Queue()
            self._reporter = self.loop.create_task(self._report_events())
        self.loop.create_task(self._answer(slot, content, bool(value)))

    async def _answer(self, slot, request, has_network):
        async with self._turn:
            answer = {
                "type": "response",
                "request_seq": request["seq"],
                "seq": request["seq"],
                "command": request["command"],
                "success": True,
            }
            try:
                body = await self._do(request, has_network)
                answer.update(body if "success" in body else {"body": body})
            except Refused as why:
                answer.update(success=False, message=str(why))
            except Exception as error:  # one reply, always
                answer.update(success=False, message=f"{type(error).__name__}: {error}")
            # A front end that shows the last status sees a stopped cell as idle, and one that runs as busy.
            stopped = bool(self._stopped) and request["command"] not in GOING_ON
            self.reply(slot, answer, int(stopped))

    async def _do(self, request, has_network):
        """The body of the answer; or what else there is of a response, with its success."""
        command, arguments = request["command"], request.get("arguments") or {}
        if self.plain:
            raise Refused(f"there is no debugger without IPython ({self.plain.why})")
        if command == "debugInfo":
            return self._info()
        if not available():
            raise Refused("the Python of this kernel has no debugpy: pip install debugpy")
        if not has_network:
            raise Refused("no debugger with this containment: it needs a network of the sandbox's own")
        handler = getattr(self, f"_do_{command}", None)
        if handler is not None:
            return await handler({**request, **arguments})
        if self._session is None:
            raise Refused("no debugger is started: initialize and attach come first")
        return await self._ask(command, arguments)

    async def _ask(self, command, arguments):
        answer = await self._session.adapter.ask(command, arguments)
        return {k: answer[k] for k in ("success", "body", "message") if k in answer}

    def _need_session(self):
        if self._session is None:
            raise Refused("no debugger is started: initialize and attach come first")
        return self._session

    # --- beginning and end

    async def _do_initialize(self, arguments):
        if self._session is not None:  # another client: there is one debugger for all
            return self._session.capabilities
        if self._address is None:
            self._address = await self._listen()
        adapter = Adapter(self._events.put_nowait)
        try:
            await adapter.connect(self._address)
        except OSError:
            raise Refused("the debugger has ended, and comes back with a restart of the kernel") from None
        self._session = Session(adapter, {})
        known = {k: v for k, v in arguments.items() if k not in ("seq", "type", "command", "arguments")}
        answer = await self._ask("initialize", known)
        if not answer["success"]:
            self._end()
            return answer
        self._session.capabilities = answer["body"]
        self._keep_empty_lines(True)
        self.main.debugger = self
        return answer

    async def _listen(self):
        """Not in this thread, as debugpy begins by tracing who calls it."""
        result = self.loop.create_future()

        def listen():
            try:
                debugpy = _load()
                # Children of cells are left alone: front ends know nothing of debugging several processes.
                debugpy.configure(subProcess=False)
                os.register_at_fork(after_in_child=_forget_in_child)
                address, error = debugpy.listen(("127.0.0.1", 0)), None
            except BaseException as why:
                address, error = None, why
            self.loop.call_soon_threadsafe(done, address, error)

        def done(address, error):
            if error is None:
                result.set_result(address)
            else:
                result.set_exception(Refused(f"debugpy does not start: {type(error).__name__}: {error}"))

        HiddenThread("husk-debugpy", listen).start()
        return await result

    async def _do_attach(self, arguments):
        session = self._need_session()
        if session.attached:
            return {}
        own = {"clientID", "justMyCode", "rules", "debugOptions", "variablePresentation", "showReturnValue",
               "stopOnEntry", "pathMappings", "steppingResumesAllThreads", "stopAllThreadsOnSuspend"}
        asked = {k: v for k, v in arguments.items() if k in own}
        answer = session.adapter.send("attach", {"justMyCode": False, "rules": _rules(), **asked,
                                                 "subProcess": False})
        begun = self.loop.create_task(session.initialized.wait())
        await asyncio.wait({answer, begun}, return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        if not answer.done():
            await session.adapter.ask("configurationDone")
        try:
            answer = await answer
        except asyncio.CancelledError:
            raise Refused("the debugger has ended") from None
        session.attached = answer["success"]
        return {k: answer[k] for k in ("success", "body", "message") if k in answer}

    async def _do_configurationDone(self, arguments):
        self._need_session()
        return {}  # was done by attach

    async def _do_disconnect(self, arguments):
        if self._session is not None:
            adapter = self._session.adapter
            try:  # it never takes the interpreter along, whatever the client asks for
                await asyncio.wait_for(adapter.ask("disconnect", {"terminateDebuggee": False}), GRACE)
            except (Refused, asyncio.TimeoutError):
                pass
            self._end()
            adapter.close()
        return {}

    _do_terminate = _do_disconnect

    async def _do_launch(self, arguments):
        raise Refused("nothing is launched: the kernel runs, attach to it")

    def _end(self):
        self._session = None
        self._breakpoints = {}
        self._stopped = set()
        self.main.debugger = None
        self._keep_empty_lines(False)

    def _keep_empty_lines(self, keep):
        """IPython takes them from the top of a cell; lines of breakpoints count them."""
        from IPython.core.inputtransformer2 import leading_empty_lines

        manager = self.shell.input_transformer_manager
        if keep:
            self._transforms = manager.cleanup_transforms
            manager.cleanup_transforms = [t for t in self._transforms if t is not leading_empty_lines]
        elif self._transforms is not None:
            manager.cleanup_transforms, self._transforms = self._transforms, None

    # --- events

    async def _report_events(self):
        while True:
            event = await self._events.get()
            try:
                await self._report(event)
            except Refused:
                pass

    async def _report(self, event):
        session = self._session
        if event is None:
            if session is not None and session.adapter.writer.is_closing():
                self._end()
                self._publish({"type": "event", "event": "terminated", "seq": 0})
            return
        body = event.get("body") or {}
        if event["event"] == "initialized" and session is not None:
            session.initialized.set()
        elif event["event"] == "stopped" and session is not None:
            self._stopped.add(body.get("threadId"))
            if body.get("allThreadsStopped"):
                answer = await session.adapter.ask("threads")
                self._stopped.update(t["id"] for t in (answer.get("body") or {}).get("threads", ()))
        elif event["event"] == "continued":
            if body.get("allThreadsContinued"):
                self._stopped.clear()
            self._stopped.discard(body.get("threadId"))
        elif event["event"] == "output" and "Debugging will be disabled" in body.get("output", ""):
            return  # it is not: see trace_cell()
        self._publish(event)

    def _publish(self, event):
        messages.publish(_husk.DEBUG_EVENT, event, slot=self.slot)

    # --- for the main shell

    hide_frames = staticmethod(hide_frames)

    def trace_cell(self):
        """In its thread. An interrupt ends tracing, where that is made by sys.settrace()."""
        if sys.gettrace() is None:
            from _pydevd_bundle.pydevd_constants import PYDEVD_USE_SYS_MONITORING, get_global_debugger

            if not PYDEVD_USE_SYS_MONITORING and get_global_debugger():
                get_global_debugger().enable_tracing()

    def release(self, frame):
        """In its thread, at an interrupt in this frame: KeyboardInterrupt leaves debugpy by the line of the
        cell where that is stopped, and it must not go on waiting there. What is evaluated meanwhile fails,
        and the cell stays where it is."""
        while frame is not None and frame.f_code.co_filename == threading.__file__:
            frame = frame.f_back
        if frame is not None and _is_of_debugpy(frame):
            self.end_steps()

    def end_steps(self):
        """In its thread, when the code of the cell is over: who steps on would step into ours."""
        from _pydevd_bundle.pydevd_additional_thread_info import set_additional_thread_info
        from _pydevd_bundle.pydevd_constants import STATE_RUN

        info = set_additional_thread_info(threading.current_thread())
        info.pydev_state = STATE_RUN
        info.pydev_step_cmd = info.pydev_original_step_cmd = -1
        info.pydev_step_stop = None

    # --- cells

    def _info(self):
        from husk_interpreter import shell

        return {
            "isStarted": self._session is not None,
            "hashMethod": "Murmur2",
            "hashSeed": shell.HASH_SEED,
            "tmpFilePrefix": shell.cell_directory() + os.sep,
            "tmpFileSuffix": shell.CELL_SUFFIX,
            "breakpoints": [{"source": k, "breakpoints": v} for k, v in self._breakpoints.items()],
            "stoppedThreads": sorted(self._stopped),
            "richRendering": True,
            "exceptionPaths": ["Python Exceptions"],
            "copyToGlobals": True,
        }

    async def _do_dumpCell(self, arguments):
        from husk_interpreter import shell

        code = _want(arguments, "code")
        path = shell.cell_file(code)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(code)
        return {"sourcePath": path}

    async def _do_setBreakpoints(self, arguments):
        self._need_session()
        source = arguments.get("source")
        path = _want(source if isinstance(source, dict) else {}, "path")
        answer = await self._ask("setBreakpoints", arguments["arguments"])
        if answer["success"]:
            asked = arguments.get("breakpoints") or []
            self._breakpoints.pop(path, None)
            if asked:
                self._breakpoints[path] = [
                    {**a, "line": b.get("line", a["line"])}
                    for a, b in zip(asked, answer["body"]["breakpoints"])
                ]
        return answer

    async def _do_source(self, arguments):
        source = arguments.get("source") or {}
        if source.get("sourceReference") or arguments.get("sourceReference"):
            self._need_session()
            return await self._ask("source", arguments["arguments"])
        path = _want(source, "path")
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace", newline="") as file:
                return {"content": file.read()}
        lines = linecache.getlines(path)  # a cell that ran without being dumped
        if not lines:
            raise Refused("source unavailable")
        return {"content": "".join(lines)}

    # --- variables

    async def _do_inspectVariables(self, arguments):
        self._variables = Variables(self.user_ns)
        return {"variables": _visible(self._variables.children())}

    async def _do_variables(self, arguments):
        if self._stopped:
            answer = await self._ask("variables", arguments["arguments"])
            if answer["success"]:
                answer["body"]["variables"] = _visible(answer["body"]["variables"])
            return answer
        if self._variables is None:
            self._variables = Variables(self.user_ns)
        try:
            found = self._variables.children(arguments.get("variablesReference"), arguments.get("format"))
        except KeyError:
            raise Refused("there is no such variable any more") from None
        start, count = arguments.get("start") or 0, arguments.get("count") or None
        return {"variables": _visible(found)[start:][:count]}

    async def _take_from_frame(self, name, frame):
        """The value that a name has in a stopped frame."""
        self._need_session()
        _handed.clear()
        answer = await self._ask(
            "evaluate", {"expression": _expression(name), "frameId": frame, "context": "clipboard"}
        )
        if not answer["success"] or not _handed:
            raise Refused(answer.get("message") or f"there is no variable '{name}' here")
        return _handed.pop()

    async def _do_richInspectVariables(self, arguments):
        name = _want(arguments, "variableName")
        if not _is_name(name):
            # What debugpy puts variables in groups by is no variable, and has no look.
            return {"success": name in ("special variables", "function variables"), "body": NOTHING}
        if self._stopped and arguments.get("frameId") is not None:
            value = await self._take_from_frame(name, arguments["frameId"])
        elif name in self.user_ns:
            value = self.user_ns[name]
        else:
            raise Refused(f"there is no variable '{name}'")
        data, metadata = self.shell.display_formatter.format(value)
        return {"data": data, "metadata": {k: v for k, v in metadata.items() if k in data}}

    async def _do_copyToGlobals(self, arguments):
        source, target = _want(arguments, "srcVariableName"), _want(arguments, "dstVariableName")
        for name in source, target:
            if not _is_name(name):
                raise Refused(f"'{name}' is no name of a variable")
        value = await self._take_from_frame(source, arguments.get("srcFrameId"))
        self.user_ns[target] = value
        return {"value": repr(value), "type": type(value).__name__, "variablesReference": 0}

    async def _do_modules(self, arguments):
        """By their place in sys.modules: start and count are of that."""
        modules = list(sys.modules.values())
        start, count = arguments.get("startModule") or 0, arguments.get("moduleCount") or None
        found = []
        for number, module in list(enumerate(modules))[start:][:count]:
            path = getattr(getattr(module, "__spec__", None), "origin", None)
            if isinstance(path, str) and path.endswith(".py"):
                found.append({"id": number, "name": module.__name__, "path": path})
        return {"modules": found, "totalModules": len(modules)}


def _want(arguments, name):
    value = arguments.get(name)
    if not isinstance(value, str):
        raise Refused(f"'{name}' is missing, or no string")
    return value


def _is_name(text):
    return text.isidentifier() and not keyword.iskeyword(text)


def _visible(variables):
    return [v for v in variables if _is_visible(v["name"])]


def _rules():
    """What runs cells is not stepped into, and not shown."""
    import IPython
    import traitlets

    ours = os.path.dirname(os.path.abspath(__file__))
    files = [os.path.join(d, "**") for d in (ours, *map(os.path.dirname, (IPython.__file__, traitlets.__file__)))]
    # Cells are read with tokenize and re, which raise where nothing is wrong.
    files += [m.__file__ for n in ("asyncio.base_events", "asyncio.events", "asyncio.runners", "contextlib",
                                   "codeop", "tokenize", "re", "re._parser", "re._compiler", "sre_parse", "sre_compile")
              if (m := sys.modules.get(n))]
    return [{"path": path, "include": False} for path in files]
