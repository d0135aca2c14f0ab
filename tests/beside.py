# SPDX-License-Identifier: BSD-3-Clause
"""husk beside ipykernel: both installed, one session or notebook run in each, and what they bring compared.

Equal means what a reader sees, after PATTERNS and `traceback` below: each says why.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import conftest
import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

# What is not the same in two runs of one kernel, or says where a kernel is installed.
PATTERNS = [
    (r"\x1b\[[0-9;]*m", ""),
    # A terminal and a notebook show of a line what stands behind its last \r.
    (r"(?m)^[^\n]*\r(?!\n)", ""),
    # The file name of a cell; both kernels mean the same by it, the prompt stands beside it.
    (r"<ipython-input-\d+-[0-9a-f]+>|/tmp/ipykernel_\d+/\d+\.py|(?<=\()\d+\.py", "<cell>"),
    (r"\b0x[0-9a-f]{6,}", "<address>"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{24}_\d+_\d+\b", "<message>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", "<time>"),
    (r"\[\d\d:\d\d(<|&lt;)[^\]\n]*\]", "[<time>]"),  # of a progress bar
    # A cell of binder runs papermill, whose ipykernel says one of these if the interrupt that comes with
    # every shutdown finds it at work: races of its own.
    (r"(?ms)^[^\n]*ERROR:tornado\.general:Uncaught exception in ZMQStream callback\n.*?^zmq\.error\.ZMQError: [^\n]*\n", ""),
    (r"(?m)^[^\n]*\[IPKernelApp\] ERROR \| KeyboardInterrupt caught in kernel\.\n", ""),
]
DURATIONS = {"start_time", "end_time", "duration"}  # of papermill
KERNELS = ("ipykernel", "husk")
# Both are installed under the name that the notebooks and the clients' own tests use: nbclient
# gives the kernel of this name an option of ipykernel's (--HistoryManager.hist_file=:memory:).
NAME = "python3"


def install_both(directory, *options):
    """{kernel: its directory of kernelspecs}; `options` are for husk."""
    subprocess.run(
        [sys.executable, "-m", "ipykernel", "install", "--prefix", str(directory / "stock"),
         "--name", NAME],
        check=True, capture_output=True, timeout=conftest.TIMEOUT,
    )
    return {
        "ipykernel": directory / "stock" / "share" / "jupyter" / "kernels",
        "husk": conftest.spec_directory(directory / "husk", *options, name=NAME),
    }


class Reader:
    """Reads what a kernel that worked in `directory` wrote, as PATTERNS say."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.ids = {}

    def text(self, text):
        for pattern, to in PATTERNS:
            text = re.sub(pattern, to, text)
        # Random ids become numbers in the order of their appearance: relations stay.
        text = re.sub(r"(?<![0-9a-f])([0-9a-f]{32}|[0-9a-f]{16})(?![0-9a-f])", self._number, text)
        return text.replace(self.directory, "<directory>")

    def _number(self, match):
        return self.ids.setdefault(match[0], f"<id {len(self.ids)}>")

    def value(self, value):
        if isinstance(value, (str, tuple, list)):
            return self.text(value) if isinstance(value, str) else [self.value(v) for v in value]
        if not isinstance(value, dict):
            return value
        if "traceback" in value:
            frames = [traceback(t) for t in value["traceback"] if not of_a_kernel(t)]
            value = {**value, "traceback": frames}
        return {
            self.text(k): "<time>" if k in DURATIONS and v is not None else self.value(v)
            for k, v in value.items()
        }

    def notebook(self, notebook, error):
        """What of an executed notebook must be equal: {what: value}, cells by their number."""
        found = {"error": self.value(error)}
        for i, cell in enumerate(notebook.cells):
            found[i] = {
                "source": self.text(cell.source),
                "count": cell.get("execution_count"),
                "outputs": [self.value(o) for o in joined(cell.get("outputs", []))],
                "metadata": self.value(cell.metadata),
            }
        return {**found, **{k: self.value(v) for k, v in notebook.metadata.items()}}


def traceback(text):
    """A frame's place and the line that failed, without its surroundings.

    ipykernel names cells after files that do not exist. IPython then shows them raw; with husk
    it may show them as its terminal does: the expression that failed is marked, and blank lines
    are left out.
    """
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")
    failed = [line for line in lines[1:] if re.match("-+> ?[0-9]", line)]
    return "\n".join([lines[0], *failed]) if failed else text


def joined(outputs):
    """Text as it reads: how it was cut into messages is a matter of time."""
    out = []
    for output in outputs:
        output = dict(output)
        last = out[-1] if out else {"output_type": None}
        if output["output_type"] == last["output_type"] == "stream" and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            out.append(output)
    return out


def of_a_kernel(text):
    """Whether a frame of a traceback is the kernel's own: input() is Python in both."""
    first = re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")[0]
    return bool(re.match(r"File \S+/(ipykernel|husk_interpreter)/\w+\.py:\d+", first))


def parts(stock, mine, at=""):
    """(where, ipykernel's, husk's) of the smallest parts that differ."""
    if type(stock) is type(mine) is dict and set(stock) == set(mine):
        inner = [(stock[k], mine[k], f"{at}.{k}") for k in stock]
    elif type(stock) is type(mine) is list and len(stock) == len(mine):
        inner = [(a, b, f"{at}[{i}]") for i, (a, b) in enumerate(zip(stock, mine))]
    else:
        return [] if stock == mine else [(at, stock, mine)]
    return [part for a, b, where in inner for part in parts(a, b, where)]




class Session:
    """One session with one of the kernels: cells are run in their order, and what each of them brings
    is collected until the end, as some of it comes later than its cell."""

    def __init__(self, specs, work, env, *arguments):
        self.log = open(work.parent / f"{work.name}.log", "w+b")
        while not self._start(specs, work, env, arguments):
            self.log.truncate(0)
        self.poller = zmq.Poller()
        for channel in self._channels():
            self.poller.register(channel.socket, zmq.POLLIN)
        self.requests = {}  # msg_id: {"reply": content, "messages": [(type, content, buffers)], "idle": bool}

    def _start(self, specs, work, env, arguments):
        self.manager = KernelManager(kernel_name=NAME, kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)]),
                                     connection_file=str(work.parent / f"{work.name}.json"))
        self.manager.start_kernel(cwd=str(work), env=env, stderr=self.log, stdout=self.log,
                                  extra_arguments=list(arguments))
        self.client = self.manager.client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=conftest.TIMEOUT)
        except RuntimeError as error:
            log = pathlib.Path(self.log.name).read_text()
            if "Address already in use" not in log:  # of ports that jupyter_client believed to be free
                raise RuntimeError(f"{error}; its log: {log}") from None
            self.client.stop_channels()
            self.manager.cleanup_resources()
            return False
        return True

    def _channels(self):
        return self.client.shell_channel, self.client.stdin_channel, self.client.iopub_channel

    def ask(self, msg_type, content, answers=(), buffers=(), metadata=None, replied=True):
        """Sends a request and waits for its idle, and its reply if there is one; returns its msg_id."""
        message = self.client.session.msg(msg_type, content, metadata=metadata)
        msg_id = message["header"]["msg_id"]
        request = self.requests[msg_id] = {"reply": None, "messages": [], "idle": False, "prompts": [],
                                           "answers": list(answers)}
        self.client.session.send(self.client.shell_channel.socket, message, buffers=list(buffers))
        end = time.monotonic() + conftest.TIMEOUT
        while not request["idle"] or replied and request["reply"] is None:
            assert time.monotonic() < end and self.manager.is_alive(), f"no reply or no idle: {content}"
            self.take(1000)
        return msg_id

    def run(self, code, answers=(), **options):
        return self.ask("execute_request", {
            "code": code, "silent": False, "store_history": True, "user_expressions": {},
            "allow_stdin": True, "stop_on_error": True, **options}, answers)

    def take(self, timeout):
        """Takes what has come; waits up to `timeout` ms if nothing has."""
        ready = dict(self.poller.poll(timeout))
        for channel in self._channels():
            if channel.socket in ready:
                message = channel.get_msg(timeout=0)
                request = self.requests.get(message["parent_header"].get("msg_id"))
                if request is not None:
                    self._keep(request, channel, message)

    def _keep(self, request, channel, message):
        kind, content = message["msg_type"], message["content"]
        if channel is self.client.stdin_channel:
            request["prompts"].append(content)
            answer = request["answers"].pop(0) if request["answers"] else "\x04"
            self.client.input(answer)
        elif channel is self.client.shell_channel:
            request["reply"] = content
        elif kind == "status":
            request["idle"] = content["execution_state"] == "idle"
        else:
            request["messages"].append((kind, content, [bytes(b) for b in message["buffers"]]))

    def settle(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.take(int(left * 1000) + 1)

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.log.close()


REPLY = ("status", "execution_count", "ename", "evalue", "traceback", "user_expressions", "payload")


def seen(reader, request, text_first=False):
    """What a user sees of a request, to be compared."""
    messages = request["messages"]
    if text_first:
        messages = sorted(messages, key=lambda m: m[0] != "stream")
    reply = {k: v for k, v in (request["reply"] or {}).items() if k in REPLY}
    return reader.value({
        "reply": reply, "outputs": ordered(messages), "prompts": request["prompts"],
    })


def ordered(messages):
    """Text between two other messages as it reads, one stream after the other: how it was cut is a
    matter of time, and the order of two streams is one that ipykernel does not keep."""
    out, texts = [], {}
    for kind, content, buffers in [*messages, (None, None, None)]:
        if kind == "stream":
            texts[content["name"]] = texts.get(content["name"], "") + content["text"]
            continue
        if out and not texts and kind == out[-1].get("type") == "update_display_data" and (
                content["transient"] == out[-1]["transient"]):
            out.pop()  # a state that was there for less than a moment; husk does not send all of them
        out += [{"stream": name, "text": texts[name]} for name in sorted(texts)]
        texts = {}
        if kind:
            out.append({"type": kind, **content, **({"buffers": buffers} if buffers else {})})
    return out


def compared(stock, mine, differs=None):
    """Lines: what differs without a reason, or has one and does not differ. `differs`: {place: reason}."""
    differs = dict(differs or {})
    found = []
    for where, a, b in parts(stock, mine):
        reasons = [place for place in differs if where.startswith(place)]
        if not reasons:
            found.append(f"{where}:\n    ipykernel {a!r}\n    husk      {b!r}")
        for place in reasons:
            differs[place] = None
    return found + [f"{place}: no longer differs, yet has a reason to" for place in differs if differs[place]]
