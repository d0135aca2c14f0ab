# SPDX-License-Identifier: BSD-3-Clause
"""A kernel from an installed tree, driven by jupyter_client as any front end does.

HUSK_PREFIX names the tree (PREFIX/bin/husk). HUSK_PYTHON is the Python that runs the cells;
without it the one that runs the tests, which has IPython.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

PREFIX = pathlib.Path(os.environ.get("HUSK_PREFIX", "/usr/local")).resolve()
HUSK = str(PREFIX / "bin" / "husk")
PYTHON = os.environ.get("HUSK_PYTHON", sys.executable)
TIMEOUT = 60  # seconds; generous, no test depends on speed


def spec_directory(directory, *options, name="husk", husk=HUSK):
    """Installs a kernelspec below `directory` and returns the directory of kernelspecs."""
    subprocess.run(
        [str(husk), "install", "--prefix", str(directory), "--name", name, "--python", PYTHON, *options],
        check=True, capture_output=True, timeout=TIMEOUT,
    )
    return pathlib.Path(directory) / "share" / "jupyter" / "kernels"


class Result:
    """What one request brought: the reply, and the iopub messages from busy to idle."""

    def __init__(self, reply, messages):
        self.reply = reply["content"]
        self.message = reply
        self.messages = messages

    def of(self, *types):
        return [m["content"] for m in self.messages if m["msg_type"] in types]

    def text(self, name="stdout"):
        return "".join(c["text"] for c in self.of("stream") if c["name"] == name)

    stdout = property(lambda self: self.text("stdout"))
    stderr = property(lambda self: self.text("stderr"))
    status = property(lambda self: self.reply["status"])
    ename = property(lambda self: self.reply.get("ename"))
    evalue = property(lambda self: self.reply.get("evalue"))

    @property
    def value(self):
        """text/plain of the execute_result, or None."""
        found = self.of("execute_result")
        return found[0]["data"].get("text/plain") if found else None


class Kernel:
    def __init__(self, directory, *options, cwd=None, env=None, transport="tcp", ready=True,
                 husk=HUSK):
        specs = KernelSpecManager(
            kernel_dirs=[str(spec_directory(directory / "spec", *options, husk=husk))]
        )
        self.cwd = pathlib.Path(cwd or directory / "work")
        self.cwd.mkdir(exist_ok=True, parents=True)
        self.log = directory / "kernel.log"
        self.manager = KernelManager(
            kernel_name="husk", kernel_spec_manager=specs, transport=transport,
            connection_file=str(directory / "kernel.json"),
        )
        if transport == "ipc":
            self.manager.ip = str(directory / "ipc")
        self._stderr = open(self.log, "ab")  # stays open: a restart inherits it again
        self.manager.start_kernel(
            cwd=str(self.cwd), env={**os.environ, **(env or {})}, stderr=self._stderr
        )
        self.client = self.manager.client()
        self.client.start_channels()
        if ready:
            self.client.wait_for_ready(timeout=TIMEOUT)

    @property
    def pid(self):
        return self.manager.provisioner.pid

    def send(self, code, **options):
        """execute_request; returns its msg_id at once."""
        return self.client.execute(code, **options)

    def result(self, msg_id, timeout=TIMEOUT):
        """Collects everything of one request until both its idle and its reply have come."""
        messages, reply, idle = [], None, False
        end = time.monotonic() + timeout
        while not (idle and reply):
            left = end - time.monotonic()
            assert left > 0, f"no {'reply' if idle else 'idle'} in {timeout} s; log: {self.log.read_text()}"
            if not idle:
                try:
                    m = self.client.get_iopub_msg(timeout=min(left, 0.5))
                except Exception:
                    continue
                if m["parent_header"].get("msg_id") == msg_id:
                    messages.append(m)
                    idle = m["msg_type"] == "status" and m["content"]["execution_state"] == "idle"
                continue
            try:
                m = self.client.get_shell_msg(timeout=min(left, 0.5))
            except Exception:
                continue
            if m["parent_header"].get("msg_id") == msg_id:
                reply = m
        return Result(reply, messages)

    def run(self, code, timeout=TIMEOUT, **options):
        return self.result(self.send(code, **options), timeout)

    def control(self, msg_type, content=None, timeout=TIMEOUT):
        """Sends a request on the control channel and returns its reply message."""
        msg = self.client.session.msg(msg_type, content or {})
        self.client.control_channel.send(msg)
        end = time.monotonic() + timeout
        while True:
            reply = self.client.get_control_msg(timeout=max(0.1, end - time.monotonic()))
            if reply["parent_header"].get("msg_id") == msg["header"]["msg_id"]:
                return reply

    def interrupt(self):
        return self.control("interrupt_request")

    def stop(self):
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self._stderr.close()


@pytest.fixture
def make_kernel(tmp_path):
    """make_kernel(*options, cwd=, env=, transport=) -> Kernel; all are stopped at the end."""
    made = []

    def make(*options, **arguments):
        directory = tmp_path / f"kernel{len(made)}"
        directory.mkdir()
        made.append(Kernel(directory, *options, **arguments))
        return made[-1]

    yield make
    for kernel in made:
        kernel.stop()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for the tests of a module that do not change it for the others."""
    k = Kernel(tmp_path_factory.mktemp("kernel"))
    yield k
    k.stop()
