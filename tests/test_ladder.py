# SPDX-License-Identifier: BSD-3-Clause
"""Containment landlock: what a sandbox holds where namespaces are refused, and that nobody gets there unasked.

Every kernel here runs under a filter around husk that refuses namespaces as Docker's does. Probes run
as cells, and do nothing to anything but what this file has made: the sandbox shares its namespaces. With root the sandbox is a user of its own; with an ordinary user it is that user, and what
is told apart by that is said at the test.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import conftest
import psutil
import pytest
from test_bad_input import EPERM, STEPS, X86, connection, refuse, start
from test_containment import ask
from test_containment import load as prepare
from test_doctor import diagnose, doctor, missing, refusing

DOCKER = "clone, as in Docker"
ROOT = os.geteuid() == 0
as_root = pytest.mark.rights("root")
as_user = pytest.mark.rights("user")  # as root the sandbox is another user


# What fills the machine or kills whatever it can runs here, and with the kernel's process all of it is thrown away;
# after a while without, too. A client's number means somebody else in there.
THROWN_AWAY = ["unshare", *([] if ROOT else ["--user", "--map-current-user"]), "--fork", "--pid", "--mount-proc",
               "--kill-child"]
LIVES_A_WHILE = ["sh", "-c", '"$@" & exec sleep 100', "sh", "env", "-u", "JPY_PARENT_PID"]


@contextlib.contextmanager
def filtered(before=()):
    """Kernelspecs made meanwhile start husk under the filter."""
    install = conftest.spec_directory

    def spec_directory(*arguments, **options):
        directory = install(*arguments, **options)
        path = directory / "husk" / "kernel.json"
        spec = json.loads(path.read_text())
        spec["argv"] = [*before, *refusing(DOCKER), *spec["argv"]]
        path.write_text(json.dumps(spec))
        return directory

    conftest.spec_directory = spec_directory
    try:
        yield
    finally:
        conftest.spec_directory = install


def start_kernel(directory, *options, before=(), **more):
    with filtered(before):
        return conftest.Kernel(directory, "--containment", "landlock", *options, **more)


@pytest.fixture
def make(tmp_path):
    made = []

    def make_one(*options, **more):
        directory = tmp_path / f"alone{len(made)}"
        directory.mkdir()
        made.append(start_kernel(directory, *options, **more))
        return made[-1]

    yield make_one
    for kernel in made:
        kernel.stop()


@pytest.fixture
def make_thrown_away(make):
    if subprocess.run([*THROWN_AWAY, "true"], capture_output=True).returncode:
        pytest.skip("no process number of its own can be had here, and this does not run without")
    return lambda *options, **more: make(*options, before=[*THROWN_AWAY, *LIVES_A_WHILE], **more)


@pytest.fixture(scope="module", params=["notebook", "strict"])
def alone(request, tmp_path_factory):
    k = start_kernel(tmp_path_factory.mktemp("alone"), "--profile", request.param,
                     env={"HUSK_TEST_SECRET": "s3cret-of-the-host"})
    yield prepare(k)
    k.stop()


def wait_until(condition):
    end = time.monotonic() + conftest.TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def kin(kernel):
    """husk, husk-sandbox, husk-init."""
    top = psutil.Process(kernel.pid)
    husk = next(p for p in [top, *top.children(recursive=True)] if p.name() == "husk")
    (broker,) = husk.children()
    init = next(p for p in broker.children() if p.name() == "husk-init")
    return husk, broker, init


# --- asked for by name, or not at all

def test_nobody_slips_into_it(tmp_path):
    result = subprocess.run([*refusing(DOCKER), conftest.HUSK, "kernel", "-f", str(connection(tmp_path)), "--python", conftest.PYTHON],
                            cwd=tmp_path, capture_output=True, text=True, timeout=conftest.TIMEOUT)
    assert result.returncode == 78 and result.stderr.count("\n") == 1
    assert "step 'namespaces'" in result.stderr and "'--containment landlock'" in result.stderr


def test_full_can_be_said_and_refuses_the_same(tmp_path):
    result = subprocess.run([*refusing(DOCKER), conftest.HUSK, "kernel", "-f", str(connection(tmp_path)), "--python", conftest.PYTHON,
                             "--containment", "full"], cwd=tmp_path, capture_output=True, text=True, timeout=conftest.TIMEOUT)
    assert result.returncode == 78 and "step 'namespaces'" in result.stderr


def test_there_are_only_so_many_levels(tmp_path):
    result = start("-f", connection(tmp_path), "--python", conftest.PYTHON, "--containment", "some", cwd=tmp_path)
    assert result.returncode == 78 and "there are full, landlock and none" in result.stderr


def test_the_level_is_told(alone):
    info = alone.control("kernel_info_request")["content"]
    assert info["husk"]["containment"] == "landlock"
    assert "Containment: landlock (no namespaces: " in info["banner"]


def test_full_is_told(make_kernel):
    info = make_kernel().control("kernel_info_request")["content"]
    assert info["husk"]["containment"] == "full" and "Containment: full; " in info["banner"]


def test_it_is_what_was_asked_for_where_full_would_be_possible(make_kernel):
    kernel = make_kernel("--containment", "landlock")
    assert kernel.control("kernel_info_request")["content"]["husk"]["containment"] == "landlock"
    inside = int(kernel.run("import os; os.getpid()").value)
    assert inside in [p.pid for p in kin(kernel)[2].children()], "its numbers are those of the host"


@pytest.mark.parametrize("options, words", [
    (["--hostname", "box"], "no host name of its own"), (["--tmp-size", "1m"], "--disk limits"),
    (["--mount", "/usr/share:/data"], "at its own path only"), (["--allow", "example.org"], "no network of its own")], ids=lambda v: v[0] if isinstance(v, list) else "")
def test_what_it_cannot_do_is_refused(tmp_path, options, words):
    result = start("-f", connection(tmp_path), "--python", conftest.PYTHON, "--containment", "landlock", *options, cwd=tmp_path)
    assert result.returncode == 78 and words in result.stderr


def test_an_image_is_refused_before_it_is_unpacked(tmp_path):
    result = start("-f", connection(tmp_path), "--containment", "landlock", "--profile", "image", "--image", "/no/such", cwd=tmp_path)
    assert result.returncode == 64 and "no root file system of its own" in result.stderr


@pytest.mark.parametrize("step, word", [
    ("landlock_create_ruleset", "landlock"), ("landlock_add_rule", "landlock"), ("landlock_restrict_self", "landlock"),
    ("seccomp", "seccomp"), ("capset", "no_capabilities"), ("execveat", "init"), ("close_range", "init"),
    pytest.param("setresuid", "user", marks=as_root)])
def test_a_step_that_is_refused_ends_the_start(tmp_path, step, word):
    calls = [(pair[0 if X86 else 1], code, flags) for pair, code, flags in STEPS[DOCKER] + STEPS[step]]
    result = start("-f", connection(tmp_path), "--python", conftest.PYTHON, "--containment", "landlock", cwd=tmp_path,
                   preexec_fn=refuse(*calls))
    assert result.returncode == 78 and f"step '{word}'" in result.stderr, result.stderr
    assert "userns" not in result.stderr


@as_root
def test_root_that_cannot_be_another_user_is_refused(tmp_path):
    result = start("-f", connection(tmp_path), "--python", conftest.PYTHON, "--containment", "landlock", cwd=tmp_path,
                   command=["setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid"])
    assert result.returncode == 78 and "CAP_SETUID" in result.stderr and "never uid 0" in result.stderr


@as_root
def test_root_of_a_user_namespace_without_other_users_is_refused(tmp_path):
    if subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode:
        return  # a container that has none to be root of
    result = start("-f", connection(tmp_path), "--python", conftest.PYTHON, "--containment", "landlock", cwd=tmp_path,
                   command=["unshare", "-Ur"])
    assert result.returncode == 78 and "step 'user'" in result.stderr and "run husk as an ordinary user" in result.stderr


NONE = "; none is no sandbox, and had with --unconfined yes only"


def test_doctor_tells_what_can_be_had():
    here = diagnose()
    check = here["checks"]["containment"]
    assert (check["status"], check["found"]) == (("ok", "full; also landlock" + NONE) if here["ok"] else ("note", "landlock; not full" + NONE))
    found = diagnose(command=refusing(DOCKER))
    assert found["checks"]["containment"]["found"] == "landlock; not full" + NONE and "containment" not in missing(found)
    last = doctor(command=refusing(DOCKER)).stdout.splitlines()[-1]
    assert last == "A full sandbox cannot be built here; --containment landlock can."
    found = diagnose(command=refusing("landlock_restrict_self"))["checks"]["containment"]
    assert "none of the levels; not landlock: step 'landlock'" in found["found"]


# --- a kernel as any other

PNG = "image/png"


def test_values_text_and_errors(alone):
    assert alone.run("6 * 7").value == "42"
    assert alone.run("print('text'); import os; os.system('echo child'); None").stdout == "text\nchild\n"
    assert alone.run("1 / 0").ename == "ZeroDivisionError"
    assert alone.run("!echo by the shell").stdout.strip() == "by the shell"
    assert alone.run("!exit 3\n").status == "ok" and alone.run("_exit_code").value == "3"


def test_a_figure_and_a_frame(alone):
    result = alone.run("import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()")
    assert any(PNG in content["data"] for content in result.of("display_data"))
    pytest.importorskip("pandas")
    assert alone.run("import pandas; pandas.DataFrame({'a': [1, 2]}).shape").value == "(2, 1)"


def test_processes_and_threads(alone):
    assert alone.run("import subprocess; subprocess.run(['sh', '-c', 'echo $((1+1))'], capture_output=True).stdout").value == r"b'2\n'"
    assert alone.run("import threading; l = []; t = threading.Thread(target=l.append, args=(1,)); t.start(); t.join(); l").value == "[1]"
    for method in ("fork", "spawn"):
        result = alone.run(f"import multiprocessing as mp\nwith mp.get_context({method!r}).Pool(2) as p: x = p.map(abs, [-1, -2])\nx")
        assert result.value == "[1, 2]", result.evalue
    code = ("from multiprocessing import shared_memory\ns = shared_memory.SharedMemory(create=True, size=9)\n"
            "s.buf[0] = 7; t = shared_memory.SharedMemory(s.name); v = t.buf[0]; t.close(); s.close(); s.unlink(); v")
    assert alone.run(code).value == "7"
    assert alone.run("import asyncio; p = await asyncio.create_subprocess_exec('true'); await p.wait()").value == "0"


def test_temporary_files_and_home_are_its_own(alone):
    assert ask(alone, "import pathlib\n[os.path.isfile(tempfile.mkstemp()[1]), os.listdir(pathlib.Path.home()) is not None]") == [True, True]
    assert ask(alone, "x = open(os.path.expanduser('~/x'), 'w').write('x')\n[os.environ['HOME'].endswith('/home'), tempfile.gettempdir().endswith('/tmp')]") == [True, True]
    assert ask(alone, "\n[os.stat(d).st_mode & 0o777 for d in (os.environ['HOME'], os.environ['TMPDIR'])]") == [0o700, 0o700]


def test_interrupt(alone):
    msg_id = alone.send("print('on', flush=True)\nimport time; time.sleep(1000)")
    wait_until(lambda: alone.client.get_iopub_msg(timeout=conftest.TIMEOUT)["msg_type"] == "stream")
    alone.interrupt()
    end = time.monotonic() + conftest.TIMEOUT
    while (reply := alone.client.get_shell_msg(timeout=conftest.TIMEOUT))["parent_header"]["msg_id"] != msg_id:
        assert time.monotonic() < end
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_a_new_interpreter_after_a_death(make):
    kernel = make("--profile", "strict")
    kernel.run("open('kept', 'w').write('k'); import subprocess; subprocess.Popen(['sleep', '98765'], start_new_session=True)")
    assert kernel.run("import os; os._exit(3)").ename == "InterpreterDied"
    assert kernel.run("open('kept').read()").value == "'k'"
    assert not [p for p in kin(kernel)[2].children(recursive=True) if p.name() == "sleep"]


def operate(kernel, method, **params):
    return kernel.control("sandbox_request", {"method": method, "params": params})["content"]


def test_operations_on_files_but_no_commands_beside_cells(make):
    kernel = make("--profile", "strict")
    assert operate(kernel, "files.write", path="made", data="text")["status"] == "ok"
    assert kernel.run("open('made').read()").value == "'text'"
    assert operate(kernel, "files.read", path="/etc/passwd")["code"] == "permission_denied"
    refused = operate(kernel, "exec.run", cmd="true")
    assert refused["code"] == "not_supported" and "in cells only" in refused["message"]
    refused = operate(kernel, "ports.expose", port=8080)
    assert refused["code"] == "not_supported" and "would be the host's" in refused["message"]


def test_what_does_operations_outlives_an_interpreter(make_thrown_away):
    kernel = make_thrown_away("--profile", "strict", "--pids", "100")
    assert operate(kernel, "files.exists", path="made")["result"]["exists"] is False
    agent = next(p for p in kin(kernel)[2].children() if p.name() == "husk-agent")
    mark = explode(kernel, "many")
    assert kernel.run("import os; os.kill(os.getpid(), 9)").ename == "InterpreterDied"
    wait_until(lambda: not marked(mark))
    assert kernel.run("open('made', 'w').write('x')").value == "1"
    assert operate(kernel, "files.exists", path="made")["result"]["exists"] is True
    assert agent.is_running()


def test_there_is_no_debugger(alone):
    """debugpy needs a loopback that is the sandbox's own."""
    reply = alone.control("kernel_info_request")["content"]
    assert reply["debugger"] is False and "debugger" not in reply["supported_features"]
    content = {"type": "request", "seq": 1, "command": "initialize", "arguments": {}}
    reply = alone.control("debug_request", content)["content"]
    assert reply["success"] is False and "containment" in reply["message"]


def test_input(alone):
    alone.client.allow_stdin = True
    msg_id = alone.send("input('name? ')", allow_stdin=True)
    question = alone.client.get_stdin_msg(timeout=conftest.TIMEOUT)
    assert question["content"]["prompt"] == "name? "
    alone.client.input("it")
    assert alone.result(msg_id).value == "'it'"


# --- who it is

@as_root
def test_with_root_it_is_a_user_that_nobody_else_is(alone):
    uid, gid, groups = ask(alone, "\n[os.getresuid(), os.getresgid(), os.getgroups()]")
    assert len(set(uid)) == 1 and uid[0] > 1879048192 and len(set(gid)) == 1 and groups == []
    assert ask(alone, "\nattempted(os.setuid, 0)") == "EPERM"


@as_user
def test_without_root_it_is_the_user(alone):
    assert ask(alone, "\nos.getresuid()") == [os.geteuid()] * 3


def test_no_capability_and_no_new_privs(alone):
    status = ask(alone, "lines = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
                        "[lines[n].strip() for n in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb', 'NoNewPrivs', 'Seccomp')]")
    assert status == ["0" * 16] * 4 + ["1", "2"]


@as_root
def test_capabilities_that_husk_would_hand_on_are_not(make):
    kernel = make(before=["setpriv", "--inh-caps=+chown"])
    assert kernel.run("[line.split()[1] for line in open('/proc/self/status') if line.startswith('CapInh')]").value == f"['{0:016x}']"


def test_nobody_listens_in_the_place_of_husk_init(alone):
    code = ("f = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7fff0000), 8)\n"
            "call(NUMBERS['seccomp'], 1, 8, struct.pack('HxxxxxxP', 1, ctypes.addressof(f)))")
    assert ask(alone, f"import ctypes, struct\nNUMBERS['seccomp'] = {317 if X86 else 277}\n{code}") == "EBUSY"


def test_husk_and_its_broker_show_neither_memory_nor_environment(alone):
    """To no process of the same user, wherever it is."""
    for process in kin(alone):
        for name in ("environ", "mem", "maps", "fd"):
            assert os.stat(f"/proc/{process.pid}/{name}").st_uid == 0, (process.name(), name)
        if not ROOT:
            with pytest.raises(PermissionError):
                open(f"/proc/{process.pid}/environ").read()


# --- what a cell tries

@pytest.fixture(scope="module")
def host():
    """Things of the host that any process may open, if nothing keeps it from them."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="husk-ladder-"))
    directory.chmod(0o755)
    (directory / "secret").write_text("s3cret")
    (directory / "secret").chmod(0o644)
    listening = []

    def listen(family, kind, address):
        s = socket.socket(family, kind)
        s.bind(address)
        if kind == socket.SOCK_STREAM:
            s.listen()
        listening.append(s)
        return s

    named, datagram, abstract = str(directory / "stream"), str(directory / "datagram"), f"\0husk-ladder-{os.getpid()}"
    listen(socket.AF_UNIX, socket.SOCK_STREAM, named)
    listen(socket.AF_UNIX, socket.SOCK_DGRAM, datagram)
    listen(socket.AF_UNIX, socket.SOCK_STREAM, abstract)
    for name in (named, datagram):
        os.chmod(name, 0o777)
    victim = subprocess.Popen(["sleep", "100000"], env={"HUSK_VICTIM": "s3cret"})
    shared = f"/dev/shm/husk-ladder-{os.getpid()}"
    pathlib.Path(shared).write_text("x")
    yield {"directory": str(directory), "named": named, "datagram": datagram, "abstract": abstract, "victim": victim.pid,
           "tcp": listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)).getsockname()[1],
           "udp": listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)).getsockname()[1],
           "home": os.path.expanduser("~"), "shared": shared}
    assert victim.poll() is None, "somebody killed it"
    victim.kill()
    victim.wait()
    for s in listening:
        s.close()
    os.unlink(shared)
    shutil.rmtree(directory)


def the(alone, host):
    husk, broker, init = (p.pid for p in kin(alone))
    return {**host, "husk": husk, "broker": broker, "init": init, "file": alone.manager.connection_file}


REFUSED = {"EACCES", "EPERM", "ESRCH"}
PROBES = {
    "the home directory": "attempted(os.listdir, H['home'])",
    "a file that everybody may read": "opens(H['directory'] + '/secret')",
    "a directory of the host": "attempted(os.listdir, H['directory'])",
    "the root directory": "attempted(os.listdir, '/')",
    "/tmp": "attempted(os.listdir, '/tmp')",
    "a new file in /tmp": "opens('/tmp/husk-ladder-new', os.O_CREAT | os.O_WRONLY)",
    "a new file in /var/tmp": "opens('/var/tmp/husk-ladder-new', os.O_CREAT | os.O_WRONLY)",
    "/run": "attempted(os.listdir, '/run')",
    "/sys": "attempted(os.listdir, '/sys/class/net')",
    "/etc/shadow": "opens('/etc/shadow')",
    "/etc/passwd": "opens('/etc/passwd')",
    "/etc/hostname": "opens('/etc/hostname')",
    "writing the system": "opens('/etc/husk-ladder-new', os.O_CREAT | os.O_WRONLY)",
    "the connection file": "opens(H['file'])",
    "the list of processes": "attempted(os.listdir, '/proc')",
    "the network of /proc": "opens('/proc/self/net/dev')",
    "terminals": "opens('/dev/ptmx', os.O_RDWR)",
    "names of shared memory": "attempted(os.listdir, '/dev/shm')",
    "a device": "opens('/dev/tty')",
    "abstract socket": "attempted(lambda: socket.socket(socket.AF_UNIX).connect(H['abstract']))",
    "named socket": "attempted(lambda: socket.socket(socket.AF_UNIX).connect(H['named']))",
    "named datagram socket": "attempted(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', H['datagram']))",
    "named datagram socket from a pair": "attempted(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendmsg([b'x'], [], 0, H['datagram']))",
    "the same, by its old name": "attempted(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)[0].sendmsg([b'x'], [], 0, H['datagram']))",
    "TCP out": "attempted(lambda: socket.create_connection(('127.0.0.1', H['tcp'])))",
    "TCP in": "attempted(lambda: socket.create_server(('127.0.0.1', 0)))",
    "UDP out": "attempted(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', H['udp'])))",
    "UDP over IPv6": "attempted(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))",
    "raw socket": "attempted(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))",
    "list of interfaces": "attempted(socket.if_nameindex)",
    "list of interfaces, by any socket": "attempted(lambda: fcntl.ioctl(socket.socketpair()[0], 0x8912, bytes(64)))",
    "unshare": "call('unshare', 0x10000000)",
    "a user namespace": "call('clone', 0x10000000 | 17, 0, 0, 0, 0)",
    "mount": "call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)",
    "keyctl": "call('keyctl', 0, -3, 0)",
    "bpf": "call('bpf', 0, 0, 0)",
    "ptrace": "call('ptrace', 16, H['victim'], 0, 0)",
    "memory by vm_readv": "call('process_vm_readv', H['victim'], 0, 0, 0, 0, 0)",
    "limits of another": "call('prlimit64', H['victim'], 7, 0, 0)",
    **{f"signal to {who}": f"attempted(os.kill, H['{who}'], {number})" for who in ("husk", "broker", "init", "victim") for number in (0, 9)},
    **{f"signal to {who} by descriptor": f"call('pidfd_send_signal', os.pidfd_open(H['{who}']), 9, 0, 0)" for who in ("husk", "broker", "init", "victim")},
    **{f"priority of {who}": f"attempted(os.setpriority, os.PRIO_PROCESS, H['{who}'], 19)" for who in ("husk", "victim")},
    **{f"processors of {who}": f"attempted(os.sched_setaffinity, H['{who}'], os.sched_getaffinity(0))" for who in ("husk", "victim")},
    **{f"{name} of {who}": f"opens('/proc/%d/{name}' % H['{who}'])" for name in ("environ", "mem", "maps", "cmdline", "stat")
       for who in ("husk", "broker", "init", "victim")},
    **{f"descriptors of {who}": f"attempted(os.listdir, '/proc/%d/fd' % H['{who}'])" for who in ("husk", "broker", "init", "victim")},
    **{f"root of {who}": f"attempted(os.readlink, '/proc/%d/root' % H['{who}'])" for who in ("husk", "broker", "init", "victim")},
}
OTHER = {
    "AF_ALG": ("attempted(lambda: socket.socket(38, socket.SOCK_SEQPACKET))", "EAFNOSUPPORT"),
    "AF_VSOCK": ("attempted(lambda: socket.socket(40, socket.SOCK_STREAM))", "EAFNOSUPPORT"),
    "AF_PACKET": ("attempted(lambda: socket.socket(17, socket.SOCK_RAW))", "EAFNOSUPPORT"),
    "io_uring": ("call('io_uring_setup', 1, 0)", "ENOSYS"),
    "System V memory": ("call(NUMBERS['shmget'], 1234, 4096, 0o1600)", "ENOSYS"),
    "System V queues": ("call(NUMBERS['msgget'], 1234, 0o1600)", "ENOSYS"),
    "POSIX queues": ("call(NUMBERS['mq_open'], b'husk', 0o100, 0o600, 0)", "ENOSYS"),
    "watching directories": ("call(NUMBERS['inotify_init1'], 0)", "ENOSYS"),
    "a foreign ABI": ("forked(run_machine_code, bytes.fromhex('b814000000cd80c3'))", "signal 31"),
}
MORE_NUMBERS = {"shmget": (29, 194), "msgget": (68, 186), "mq_open": (240, 180), "inotify_init1": (294, 26)}


@pytest.mark.parametrize("name", PROBES)
def test_is_refused(alone, host, name):
    said = ask(alone, f"H = {the(alone, host)!r}\n{PROBES[name]}")
    assert said in REFUSED or (said == "gaierror" and "TCP" in name), said


@pytest.mark.parametrize("name", OTHER)
def test_is_not_there(alone, name):
    code, expected = OTHER[name]
    if "machine_code" in code and not X86:
        return
    numbers = {name: pair[0 if X86 else 1] for name, pair in MORE_NUMBERS.items()}
    assert ask(alone, f"NUMBERS.update({numbers!r})\n{code}") == expected


def test_the_environment_is_not_the_host_s(alone):
    assert ask(alone, "\n'HUSK_TEST_SECRET' in os.environ") is False


def test_nothing_of_it_leaks_through_children(alone, host):
    """A program that a cell starts is bound by the same, though it has another /proc/self."""
    said = alone.run(f"!cat {host['directory']}/secret /proc/{host['victim']}/environ /etc/shadow; kill -9 {host['victim']}")
    assert "s3cret" not in said.stdout + said.stderr
    assert psutil.pid_exists(host["victim"])


# --- the working directory

@pytest.fixture
def work(tmp_path):
    directory = tmp_path / "project"
    (directory / ".git" / "hooks").mkdir(parents=True)
    (directory / ".git" / "config").write_text("before")
    (directory / "data").mkdir()
    (directory / "data" / "a").write_text("a")
    (directory / "plan").write_text("plan")
    return directory


@as_root
def test_with_root_the_working_directory_is_private(make, work):
    kernel = make(cwd=work)
    assert kernel.run("import os; os.listdir('.')").value == "[]"
    assert kernel.run(f"open('{work}/plan')").ename == "PermissionError"
    banner = kernel.control("kernel_info_request")["content"]["banner"]
    assert "the working directory is private (husk is root" in banner and "it goes with the sandbox)" in banner
    assert kernel.run("open('mine', 'w').write('x')").status == "ok"


@as_user
def test_a_directory_without_guarded_names_is_shared_whole(make, tmp_path):
    kernel = make()
    assert kernel.run("open('new', 'w').write('x'); import os; os.mkdir('d'); os.rename('new', 'd/new')").status == "ok"
    assert (kernel.cwd / "d" / "new").read_text() == "x"
    assert "guarded" not in kernel.control("kernel_info_request")["content"]["banner"]


GUARDED = {
    "what is guarded, written": "open('.git/config', 'w')",
    "a new hook": "open('.git/hooks/post-checkout', 'w')",
    "renamed": "os.rename('.git', 'data/git')",
    "something else in its place": "os.rename('data', '.git')",
    "removed": "os.unlink('.git/config')",
    "under another name": "os.link('.git/config', 'data/config')",
    "out of it": "os.rename('.git/config', 'data/config')",
    "a new guarded name": "open('.envrc', 'w')",
    "new at the top": "open('new', 'w')",
}


@as_user
@pytest.mark.parametrize("what", GUARDED)
def test_what_runs_later_on_the_host_cannot_be_written(make, work, what):
    kernel = prepare(make(cwd=work))
    before = sorted(work.rglob("*"))
    assert ask(kernel, f"\nattempt(lambda: {GUARDED[what]})") in ("EACCES", "EXDEV", "ENOTEMPTY")
    assert sorted(work.rglob("*")) == before and (work / ".git" / "config").read_text() == "before"


@as_user
def test_the_rest_of_a_directory_with_guarded_names_is_shared(make, work):
    kernel = make(cwd=work)
    assert kernel.run("open('.git/config').read()").value == "'before'"
    assert kernel.run("open('plan', 'w').write('new'); open('data/b', 'w').write('b'); import os; os.unlink('data/a'); sorted(os.listdir('.'))").value == "['.git', 'data', 'plan']"
    assert (work / "plan").read_text() == "new" and (work / "data" / "b").read_text() == "b"
    assert "new files can be made in its directories only" in kernel.control("kernel_info_request")["content"]["banner"]


@as_user
def test_a_connection_file_in_the_working_directory_cannot_be_read(make, tmp_path):
    kernel = make(cwd=tmp_path / "alone0")
    assert kernel.run("import os; 'kernel.json' in os.listdir('.')").value == "True"
    assert kernel.run("open('kernel.json')").ename == "PermissionError"
    assert kernel.run("os.rename('kernel.json', 'work/x')").ename in ("PermissionError", "OSError", "FileNotFoundError")


@as_user
def test_a_link_that_a_cell_put_in_place_of_a_directory_opens_nothing(make, tmp_path, host):
    """The rules are made anew for each interpreter."""
    (tmp_path / "w" / "sub").mkdir(parents=True)
    kernel = make("--mount", f"{tmp_path}/w/sub:rw", cwd=tmp_path / "w")
    assert kernel.run(f"import os; os.rename('sub', 'other'); os.symlink({host['directory']!r}, 'sub')").status == "ok"
    assert kernel.run("os._exit(1)").ename == "InterpreterDied"
    assert kernel.run("open('sub/secret')").ename == "PermissionError"


@as_user
def test_a_home_directory_is_not_shared(make, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine").write_text("x")
    kernel = make(cwd=home, env={"HOME": str(home), "XDG_STATE_HOME": ""})
    assert kernel.run(f"open('{home}/mine')").ename == "PermissionError"
    assert "it is your home directory" in kernel.control("kernel_info_request")["content"]["banner"]


@as_user
def test_a_mount_at_its_own_path(make, work):
    kernel = prepare(make("--profile", "strict", "--mount", f"{work}:rw"))
    assert ask(kernel, f"\n[open('{work}/plan').read(), attempt(open, '{work}/.git/config', 'w'), attempt(open, '{work}/data/n', 'w')]") == ["plan", "EACCES", "OK"]
    kernel = prepare(make("--profile", "strict", "--mount", str(work)))
    assert ask(kernel, f"\n[open('{work}/plan').read(), attempt(open, '{work}/data/n', 'w')]") == ["plan", "EACCES"]


def test_the_python_that_runs_cannot_be_written(make, tmp_path):
    """Though its user may, outside."""
    prefix = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", prefix], check=True, timeout=120)
    for directory in [tmp_path, *tmp_path.parents][:-2]:  # the user of the sandbox must come through
        with contextlib.suppress(PermissionError):
            directory.chmod(0o755)
    kernel = prepare(make("--python", str(prefix / "bin" / "python")))
    assert ask(kernel, f"\n[sys.prefix == {str(prefix)!r}, attempt(open, {str(prefix / 'pyvenv.cfg')!r}, 'a')]") == [True, "EACCES"]


# --- the end

HOSTILE = r'''
import os, signal, subprocess, sys, threading, time
def run(code):
    subprocess.Popen([sys.executable, "-S", "-c", "import os, signal, time, ctypes\n" + code, MARK], start_new_session=True)
deaf = "for s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
run("if os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n" + deaf + "time.sleep(100000)")
run(deaf + "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n    time.sleep(100000)\ntime.sleep(100000)")
run("import threading\nthreading.Thread(target=time.sleep, args=(100000,)).start()\nctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)")
run("while True:\n    if os.fork(): os._exit(0)\n    os.setsid(); time.sleep(0.002)")
run("ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\nos.kill(os.getpid(), signal.SIGSTOP)")
time.sleep(0.5)
'''


def marked(mark):
    """By thread: a process whose first thread has ended shows no command line of its own."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                if mark in pathlib.Path(f"/proc/{pid}/task/{task}/cmdline").read_text():
                    found.add(int(pid))
    return found


def layer_of(kernel):
    return pathlib.Path(kernel.run("import os; print(os.environ['HOME'])").stdout.strip()).parent


@pytest.mark.parametrize("end", ["shutdown", "husk", "husk-sandbox", "husk-init", "all but husk-init", "interpreter"])
def test_nothing_lives_on(make_thrown_away, end):
    """Double forks, sessions, deaf processes, subreapers, processes without a first thread, one that is always
    another one, stopped ones."""
    kernel = make_thrown_away("--profile", "strict")
    layer = layer_of(kernel)
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    assert kernel.run(f"MARK = {mark!r}\n{HOSTILE}").status == "ok"
    assert len(marked(mark)) >= 5
    husk, broker, init = kin(kernel)
    if end == "shutdown":
        kernel.control("shutdown_request", {"restart": False})
    elif end == "interpreter":
        assert kernel.run("import os; os.kill(os.getpid(), 9)").ename == "InterpreterDied"
    elif end == "all but husk-init":
        husk.send_signal(signal.SIGSTOP)
        broker.kill()
        husk.kill()
    else:
        {"husk": husk, "husk-sandbox": broker, "husk-init": init}[end].kill()
    wait_until(lambda: not marked(mark))
    if end == "interpreter":
        assert kernel.run("1 + 1").value == "2"
        return
    wait_until(lambda: not init.is_running() or init.status() == psutil.STATUS_ZOMBIE)
    if end in ("husk-sandbox", "all but husk-init"):
        conftest.remove_groups(broker.pid)
    else:
        wait_until(lambda: not layer.exists())


BOMBS = {
    "many": "import os\nwhile True:\n    try: os.fork(); os.setsid()\n    except OSError: pass\n",
    # Each lives as long as it takes to have another one: no list of processes has it in it.
    "fleeting": "import os\nfor i in range(5): os.fork()\nwhile True:\n    try:\n        if os.fork(): os._exit(0)\n"
                "        os.setsid()\n    except OSError: pass\n",
}


def explode(kernel, bomb):
    """Returns what marks its processes."""
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {BOMBS[bomb]!r}, {mark!r}], start_new_session=True)"
    assert kernel.run(code).status == "ok"
    # Of those that flee a list has few.
    wait_until(lambda: len(marked(mark)) > (20 if bomb == "many" else 2))
    return mark


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("end", ["husk", "husk-sandbox", "husk-init", "husk, while husk-init hangs", "interpreter"])
def test_a_fork_bomb_ends_too(make_thrown_away, end, bomb):
    kernel = make_thrown_away("--profile", "strict", "--pids", "100")
    mark = explode(kernel, bomb)
    husk, broker, init = kin(kernel)
    if end == "interpreter":
        assert kernel.run("import os; os.kill(os.getpid(), 9)").ename == "InterpreterDied"
    elif "hangs" in end:
        init.suspend()
        husk.kill()
    else:
        {"husk": husk, "husk-sandbox": broker, "husk-init": init}[end].kill()
    wait_until(lambda: not marked(mark))
    if end == "husk-sandbox":
        conftest.remove_groups(broker.pid)
    if end == "interpreter":
        assert kernel.run("import subprocess; subprocess.run('true').returncode").value == "0"


def test_a_fork_bomb_without_any_guard_does_not_grow(make_thrown_away):
    """Nobody is left to end it, and none of it can have another one."""
    kernel = make_thrown_away("--profile", "strict", "--pids", "100")
    mark = explode(kernel, "many")
    guards = kin(kernel)
    interpreter = next(p for p in guards[2].children() if "husk_interpreter" in " ".join(p.cmdline()))
    kernel.send("while True: pass")  # it hears nothing of their end
    wait_until(lambda: kernel.client.get_iopub_msg(timeout=conftest.TIMEOUT)["msg_type"] == "execute_input")
    for process in guards:
        process.suspend()
    for process in guards:
        process.kill()
    wait_until(lambda: not interpreter.is_running() or interpreter.status() == psutil.STATUS_ZOMBIE)
    time.sleep(0.5)
    left = marked(mark)
    time.sleep(0.5)
    assert marked(mark) <= left
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not marked(mark))
    conftest.remove_groups(guards[1].pid)


def test_processes_are_counted(make_thrown_away):
    """Those of the sandbox and no others: the user's own may be more than that already."""
    kernel = make_thrown_away("--profile", "strict", "--pids", "60")
    mark = explode(kernel, "many")
    for _ in range(20):
        assert len(marked(mark)) <= 60
        time.sleep(0.02)
    assert kernel.run("import os; os.fork()").ename == "BlockingIOError"
    assert kernel.run("import threading; threading.Thread(target=print).start()").ename == "RuntimeError"
    assert kernel.run("1 + 1").value == "2"
    for pid in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: kernel.run("import subprocess; subprocess.run('true').returncode").value == "0")


def test_others_of_the_same_user_are_left_alone(make, host):
    """What is not a descendant is never signalled, whatever its group, session or user."""
    bystander = subprocess.Popen(["sleep", "100000"], start_new_session=True)
    kernel = make()
    kernel.run("import os; os._exit(1)")
    kernel.run("1")
    kernel.stop()
    assert bystander.poll() is None and psutil.pid_exists(host["victim"])
    bystander.kill()
    bystander.wait()


def test_a_cell_that_kills_whatever_it_can_kills_itself(make_thrown_away, host):
    kernel = make_thrown_away("--profile", "strict")
    before = kin(kernel)
    assert kernel.run("import os; os.kill(-1, 9); os.kill(os.getpid(), 9)").ename == "InterpreterDied"
    assert kernel.run("1 + 1").value == "2" and kin(kernel) == before and psutil.pid_exists(host["victim"])


# --- limits

def test_memory_is_limited(make):
    kernel = make("--memory", "512m")
    assert kernel.run("x = bytearray(2 << 30)").ename in ("MemoryError", "InterpreterDied")
    assert kernel.run("1 + 1").value == "2"


def test_no_file_grows_beyond_the_disk_limit(make):
    kernel = make("--profile", "strict", "--disk", "64m")
    code = "with open('big', 'wb') as f:\n    for i in range(300): f.write(bytes(1 << 20))"
    assert kernel.run(code).ename in ("OSError", "InterpreterDied")


@as_root
def test_a_disk_limit_that_cannot_stop_ends(make):
    """As in a container without CAP_SYS_RESOURCE: nobody else's limits can be changed there."""
    install = conftest.spec_directory

    def spec_directory(*arguments, **options):
        directory = install(*arguments, **options)
        path = directory / "husk" / "kernel.json"
        spec = json.loads(path.read_text())
        spec["argv"] = [shutil.which("setpriv"), "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", *spec["argv"]]
        path.write_text(json.dumps(spec))
        return directory

    conftest.spec_directory = spec_directory
    try:
        kernel = make("--profile", "strict", "--disk", "32m")
    finally:
        conftest.spec_directory = install
    code = "import time\nfor i in range(600):\n    open(f'f{i}', 'wb').write(bytes(8 << 20)); time.sleep(0.1)"
    result = kernel.run(code)
    assert result.ename == "InterpreterDied" and "over their limit of 32 MiB" in result.evalue


# --- what is weaker, as SECURITY.md says: a change here is a change there

@as_user
def test_weaker_the_mode_of_a_file_of_the_user_can_be_changed(alone, tmp_path):
    path = tmp_path / "mine"
    path.write_text("x")
    assert ask(alone, f"\nattempted(os.chmod, {str(path)!r}, 0o600)") == "OK"
    assert path.stat().st_mode & 0o777 == 0o600


def test_weaker_names_that_are_known_can_be_asked_for(alone):
    assert ask(alone, "\n[os.path.exists('/etc/passwd'), os.uname().nodename]") == [True, os.uname().nodename]
