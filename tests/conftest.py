# SPDX-License-Identifier: BSD-3-Clause
"""A kernel from an installed tree, driven by jupyter_client as any front end does.

HUSK_PREFIX names the tree (PREFIX/bin/husk). HUSK_PYTHON is the Python that runs the cells;
without it the one that runs the tests, which has IPython.
"""

import contextlib
import itertools
import json
import os
import pathlib
import random
import shlex
import shutil
import socket
import subprocess
import sys
import time

import pytest
from jupyter_client.connect import LocalPortCache
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

PREFIX = pathlib.Path(os.environ.get("HUSK_PREFIX", "/usr/local")).resolve()
HUSK = str(PREFIX / "bin" / "husk")
PYTHON = os.environ.get("HUSK_PYTHON", sys.executable)
START = os.environ.get("HUSK_TEST_START")
BACKEND = shlex.split(os.environ.get("HUSK_BACKEND", ""))  # options of every kernel: ./check-docker
TIMEOUT = 60  # seconds; generous, no test depends on speed


def pytest_configure(config):
    config.addinivalue_line("markers", "outcome(said): what each value of the parameters must bring; see probes.py")
    config.addinivalue_line("markers", "rights(whose): a claim about husk as `root`, or as a `user`")


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
PORTS = itertools.cycle(random.sample(range(10000 + 2500 * WORKER, 12500 + 2500 * WORKER), 2500))


def find_available_port(cache, ip):
    """jupyter_client lets go of the port that it chose until the kernel binds it. These are none that the machine
    gives to whoever asks for any (ip_local_port_range), and none of another process of the tests."""
    while True:
        port = next(PORTS)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind((ip, port))
            return port


LocalPortCache.find_available_port = find_available_port


def spec_directory(directory, *options, name="husk", husk=HUSK):
    """Installs a kernelspec below `directory` and returns the directory of kernelspecs."""
    subprocess.run(
        [str(husk), "install", "--prefix", str(directory), "--name", name, "--python", PYTHON, *BACKEND, *options],
        check=True, capture_output=True, timeout=TIMEOUT,
    )
    return pathlib.Path(directory) / "share" / "jupyter" / "kernels"


def is_gone(pid):
    """Or a zombie, whose parent looks for it when it likes: of an orphan that is the machine's own pid 1."""
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


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
                 husk=HUSK, arguments=(), within=(), iopub=True):
        """`options` go into the kernelspec, `arguments` are what a client adds to it; `within` is a command
        that is put in front of husk. Without `iopub` the client has not subscribed yet."""
        if "--history" not in options:  # nor does a test read what others entered
            options = ("--history", "session", *options)
        if START and "--start" not in options:
            options = ("--start", START, *options)
        directories = spec_directory(directory / "spec", *options, husk=husk)
        specs = KernelSpecManager(kernel_dirs=[str(directories)])
        if within:
            spec = directories / "husk" / "kernel.json"
            text = json.loads(spec.read_text())
            spec.write_text(json.dumps({**text, "argv": [*within, *text["argv"]]}))
        self.cwd = pathlib.Path(cwd or directory / "work")
        self.cwd.mkdir(exist_ok=True, parents=True)
        if BACKEND and os.geteuid() == 0:  # a container shares a directory of somebody, and never one of root's
            shutil.chown(self.cwd, 4321, 4321)
        self.log = directory / "kernel.log"
        self._stderr = open(self.log, "ab")  # stays open: a restart inherits it again
        while True:
            self.manager = KernelManager(
                kernel_name="husk", kernel_spec_manager=specs, transport=transport,
                connection_file=str(directory / "kernel.json"),
            )
            if transport == "ipc":
                self.manager.ip = str(directory / "ipc")
            self.manager.start_kernel(
                cwd=str(self.cwd), env={**os.environ, **(env or {})}, stderr=self._stderr,
                extra_arguments=list(arguments),
            )
            self.client = self.manager.client()
            # jupyter_client's heartbeat that is stopped as it starts never ends: it makes sockets while there are any.
            self.client.start_channels(hb=ready, iopub=iopub)
            if not ready:
                return
            try:
                self.client.wait_for_ready(timeout=TIMEOUT)
                if BACKEND:  # husk answers at once, and in a container Python may take its time
                    self.run("", silent=True)
                return
            except RuntimeError as error:
                log = self.log.read_text()
                # jupyter_client picks ports that are free, and lets go of them until the kernel binds.
                if "Address already in use" not in log:
                    raise RuntimeError(f"{error}; its log: {log}") from None
                self._end()
                self.log.write_text("")

    @property
    def pid(self):
        return self.manager.provisioner.pid

    def send(self, code, **options):
        """execute_request; returns its msg_id at once."""
        return self.client.execute(code, **options)

    def begin(self, code, **options):
        """As send(), of a cell that runs when this returns."""
        msg_id = self.send("print('begun', flush=True)\n" + code, **options)
        self.await_stream()
        return msg_id

    def await_stream(self):
        while self.client.get_iopub_msg(timeout=TIMEOUT)["msg_type"] != "stream":
            pass

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

    def _end(self):
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def stop(self):
        self._end()
        self._stderr.close()


@pytest.fixture(scope="session", autouse=True)
def frozen_interpreters():
    """Kernels of the tests start as those of users do, but for their first one: warm. HUSK_TEST_START=cold: none does."""
    if START is None and os.path.exists(HUSK):
        for profile in ("notebook", "strict"):
            subprocess.run([HUSK, "warm", "--python", PYTHON, "--profile", profile], capture_output=True, timeout=TIMEOUT * 2)


NAMESPACES = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]
if BACKEND:
    NAMESPACES.remove("user")  # a container shares it, as a user who is nobody and without capabilities
# Files whose cells unlink, kill or fill from the first one on. test_containment.py asks by itself.
DESTRUCTIVE = {"test_death", "test_limits_and_death", "test_memory", "test_disk", "test_image", "test_profiles"}


def refuse_what_is_shared(kernel):
    """Probes unlink, mount, kill and fill: not one of them runs where a namespace is the machine's."""
    code = "import json, os\nprint(json.dumps([os.readlink('/proc/self/ns/' + n) for n in %r]))" % NAMESPACES
    inside = json.loads(kernel.run(code, store_history=False).stdout)  # no cell, for who counts them
    shared = [n for n, link in zip(NAMESPACES, inside, strict=True) if link == os.readlink(f"/proc/self/ns/{n}")]
    if shared:
        raise RuntimeError(f"no probe runs here: it shares {', '.join(shared)} with the machine")


def mounts_of(directory):
    """Of the host, those that are husk's or lie below the directory: what else the machine mounts is not ours."""
    with open("/proc/self/mounts") as mounts:
        return [line for line in mounts if "/husk/" in line or str(directory) in line]


def groups_of(*brokers):
    """Paths of the cgroups of these brokers, by pid: husk-BROKER-ID."""
    names = tuple(f"husk-{b}-" for b in brokers)
    return [os.path.join(top, d) for top, directories, _ in os.walk("/sys/fs/cgroup")
            for d in directories if d.startswith(names)]


def remove_groups(*brokers):
    """After kill -9 of a broker nobody is left to remove its groups but the next one, and other tests,
    which run at the same time, look for what is left."""
    end = time.monotonic() + TIMEOUT
    while paths := groups_of(*brokers):
        for path in paths:
            try:
                os.rmdir(path)
            except FileNotFoundError:  # the next broker was there first
                pass
            except OSError:  # its processes have not ended yet
                assert time.monotonic() < end, path
                time.sleep(0.05)


@pytest.fixture
def make_kernel(request, tmp_path):
    """make_kernel(*options, cwd=, env=, transport=) -> Kernel; all are stopped at the end."""
    made = []

    def make(*options, **arguments):
        directory = tmp_path / f"kernel{len(made)}"
        directory.mkdir()
        made.append(Kernel(directory, *options, **arguments))
        if request.module.__name__ in DESTRUCTIVE and arguments.get("ready", True):
            refuse_what_is_shared(made[-1])
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


def pytest_collection_modifyitems(config, items):
    """A claim about one kind of user is no test for the other: left out, not skipped."""
    mine = "root" if os.geteuid() == 0 else "user"
    others = [i for i in items if (m := i.get_closest_marker("rights")) and m.args[0] != mine]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [i for i in items if i not in set(others)]
