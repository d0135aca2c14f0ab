# SPDX-License-Identifier: BSD-3-Clause
"""What libraries expect of get_ipython().kernel beyond what a kernel of husk needs to be.

ipykernel's kernel holds sockets, keys and threads; here those are the supervisor's. Their names are kept
where a library can do something sensible with what it finds.
"""

import contextvars
import datetime
import itertools
import os
import sys
import uuid

from husk_interpreter import comms, messages, parents


class Session:
    """What is left of jupyter_client's Session inside: signing is the supervisor's, and so is the key."""

    username = "husk"
    version = "5.6"

    def __init__(self, kernel):
        self._kernel = kernel
        self.session = uuid.uuid4().hex
        self._count = itertools.count()

    def msg_header(self, msg_type):
        return {
            "msg_id": f"{self.session}_{os.getpid()}_{next(self._count)}",
            "msg_type": msg_type,
            "username": self.username,
            "session": self.session,
            "date": datetime.datetime.now(datetime.timezone.utc),
            "version": self.version,
        }

    def msg(self, msg_type, content=None, parent=None, header=None, metadata=None):
        header = header or self.msg_header(msg_type)
        parent = parent or self._kernel.get_parent()
        return {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": parent.get("header", parent),
            "content": content or {},
            "metadata": metadata or {},
        }

    def send(self, stream, msg_or_type, content=None, parent=None, ident=None, buffers=None,
             track=False, header=None, metadata=None):
        message = msg_or_type
        if not isinstance(message, dict):
            message = self.msg(msg_or_type, content, parent, header, metadata)
        # Whose it is, says the message, not this context; what is not known belongs to the latest cell.
        context = contextvars.copy_context()
        context.run(parents.enter, parents.slot_of(message["parent_header"]), None)
        context.run(_publish, message["msg_type"], message["content"], message["metadata"], buffers or ())
        return message


def _publish(kind, content, metadata, buffers):
    if kind == "stream":
        target = sys.stderr if content.get("name") == "stderr" else sys.stdout
        target.write(content.get("text", ""))
    elif kind in messages.FRAMES:
        messages.publish(messages.FRAMES[kind], content, metadata, buffers)
    elif kind != "status":  # busy and idle are the supervisor's to say, and it does
        raise ValueError(f"husk cannot publish '{kind}'")


class Facade:
    """The part of a kernel that libraries reach for."""

    _instance = None
    implementation = "ipython"
    iopub_socket = stdin_socket = shell_stream = control_stream = iopub_thread = None
    eventloop = None
    int_id = -1
    help_links = ()
    debugger = None
    user_module = None
    msg_types = (
        "execute_request", "complete_request", "inspect_request", "history_request", "comm_info_request",
        "kernel_info_request", "connect_request", "shutdown_request", "is_complete_request",
        "interrupt_request",
    )
    control_msg_types = (
        *msg_types, "debug_request", "usage_request", "create_subshell_request", "delete_subshell_request",
        "list_subshell_request",
    )

    def become_the_kernel(self):
        """What no two kernels share is made here, and not before: they may be made of one that was frozen."""
        Facade._instance = self
        sys.stdout._master_pid = sys.stderr._master_pid = os.getpid()
        self.session = Session(self)
        self.ident = str(uuid.uuid4())
        self.processes = {}
        # Requests come over the wall and are given out there: what is put here is called by nobody.
        self.shell_handlers = dict.fromkeys([*self.msg_types, "comm_open", "comm_msg", "comm_close"])
        self.control_handlers = dict.fromkeys(self.control_msg_types)

    @classmethod
    def initialized(cls):
        return Facade._instance is not None

    @classmethod
    def instance(cls, *args, **kwargs):
        return Facade._instance

    comm_manager = property(lambda self: comms.manager())
    _parent_header = property(lambda self: self.get_parent())
    _allow_stdin = property(lambda self: self.current().allow_stdin)
    execution_count = property(lambda self: self.shell.execution_count)
    implementation_version = property(lambda self: sys.modules["IPython"].__version__)
    banner = property(lambda self: self.shell.banner)
    profile_dir = property(lambda self: self.shell.profile_dir)
    config = property(lambda self: self.shell.config)
    log = property(lambda self: self.app.log)

    @property
    def language_info(self):
        return {
            "name": "python",
            "version": sys.version.split()[0],
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "pygments_lexer": "ipython3",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        }

    @property
    def io_loop(self):
        """Tornado's face of the loop, if this Python has tornado."""
        try:
            from tornado import ioloop
        except ImportError as error:
            raise AttributeError("io_loop: there is no tornado") from error
        return ioloop.IOLoop.current()

    def set_parent(self, ident, parent, channel="shell"):
        self.shell.set_parent(parent)

    def _topic(self, topic):
        return f"kernel.{self.ident}.{topic}".encode()

    def send_response(self, stream, msg_or_type, content=None, ident=None, buffers=None,
                      track=False, header=None, metadata=None, channel=None):
        return self.session.send(stream, msg_or_type, content, self.get_parent(), ident, buffers,
                                 track, header, metadata)

    def do_complete(self, code, cursor_pos):
        return self.completions({"code": code, "cursor_pos": cursor_pos})

    def do_inspect(self, code, cursor_pos, detail_level=0, omit_sections=()):
        return self.inspection({"code": code, "cursor_pos": cursor_pos, "detail_level": detail_level,
                                "omit_sections": omit_sections})

    def do_is_complete(self, code):
        return self.completeness({"code": code})

    def do_history(self, hist_access_type, output, raw, session=0, start=0, stop=None, n=None,
                   pattern=None, unique=False):
        """Of this session: what was entered before is the supervisor's, and never comes inside."""
        history = self.shell.history_manager
        found = []
        if hist_access_type == "tail":
            found = history.get_tail(n, raw=raw, output=output, include_latest=True)
        elif hist_access_type == "range":
            found = history.get_range(session, start, stop, raw=raw, output=output)
        elif hist_access_type == "search":
            found = history.search(pattern, raw=raw, output=output, n=n, unique=unique)
        return {"status": "ok", "history": list(found)}

    async def do_execute(self, code, silent, store_history=True, user_expressions=None,
                         allow_stdin=False, *, cell_meta=None, cell_id=None):
        """A cell within a cell: it has the number of the one that asks for it."""
        result = await self.shell.run_cell_async(code, store_history=store_history, silent=silent)
        error = result.error_before_exec or result.error_in_exec
        reply = {"status": "error" if error else "ok", "execution_count": self.execution_count, "payload": []}
        if error:
            return {**reply, "ename": type(error).__name__, "evalue": str(error), "traceback": []}
        return {**reply, "user_expressions": self.shell.user_expressions(user_expressions or {})}

    def do_shutdown(self, restart):
        self.shell.exit_now = True
        return {"status": "ok", "restart": restart}

    def do_one_iteration(self):
        """Requests are answered one at a time: there is nothing to do in the middle of one."""
