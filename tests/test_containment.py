# SPDX-License-Identifier: BSD-3-Clause
"""What a cell tries, and what it gets. SECURITY.md points here, claim by claim.

Every probe runs as a cell inside a real sandbox and nothing of it on the machine itself: many
would do harm there. A probe that may change its process runs in a child of the cell.
"""

import json
import os
import platform
import pwd
import socket
import subprocess
import sys
import tempfile
import types

import conftest
import pytest

# Numbers of system calls on x86-64 and on machines with the generic table (aarch64, riscv64).
NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280),
    "capset": (126, 91), "chroot": (161, 51), "clock_settime": (227, 112), "clone": (56, 220),
    "clone3": (435, 435), "delete_module": (176, 106), "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263), "fchmodat2": (452, 452), "finit_module": (313, 273),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "get_mempolicy": (239, 236), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioctl": (16, 29),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104),
    "keyctl": (250, 219), "mbind": (237, 235), "memfd_secret": (447, 447),
    "migrate_pages": (256, 238), "mount": (165, 40), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "move_pages": (279, 239), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "openat": (257, 56),
    "openat2": (437, 437), "perf_event_open": (298, 241), "personality": (135, 92),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "pivot_root": (155, 41),
    "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "prlimit64": (302, 261),
    "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142),
    "request_key": (249, 218), "set_mempolicy": (238, 237), "setdomainname": (171, 162),
    "sethostname": (170, 161), "setns": (308, 268), "settimeofday": (164, 170),
    "socket": (41, 198), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
X86 = platform.machine() == "x86_64"

PRELUDE = r'''
import ctypes, errno, fcntl, json, mmap, os, resource, signal, socket, stat, struct, subprocess, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def name_of(code):
    return errno.errorcode.get(code, str(code))

def raw(name, *args):
    """A system call by name; 'OK' or the name of the errno."""
    ctypes.set_errno(0)
    number = NUMBERS[name] if isinstance(name, str) else name
    r = libc.syscall(ctypes.c_long(number), *[a if isinstance(a, bytes) or a is None else ctypes.c_long(a) for a in args])
    if name == "clone" and r == 0:
        os._exit(99)
    return "OK" if r >= 0 else name_of(ctypes.get_errno())

def attempt(f, *args, **kwargs):
    try:
        f(*args, **kwargs)
        return "OK"
    except OSError as e:
        return type(e).__name__ if isinstance(e, socket.gaierror) else name_of(e.errno)

def forked(f, *args, **kwargs):
    """What f says in a child, or how the child died."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(w, str(f(*args, **kwargs)).encode())
        except BaseException as e:
            os.write(w, repr(e).encode())
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        said = f.read().decode()
    status = os.waitpid(pid, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else said

def call(name, *args):
    return forked(raw, name, *args)

def attempted(f, *args, **kwargs):
    return forked(attempt, f, *args, **kwargs)

def opens(path, flags=os.O_RDONLY):
    return attempted(os.open, path, flags)

def run_machine_code(code, returns=None):
    m = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    m.write(code)
    return ctypes.CFUNCTYPE(returns)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()

def mode_after(make):
    """The set-uid and set-gid bits of a file in the working directory after make(path)."""
    path = os.path.join(os.getcwd(), "bits")
    said = attempted(make, path)
    bits = os.stat(path).st_mode & 0o6000 if os.path.exists(path) else 0
    if os.path.exists(path):
        os.unlink(path)
    return [said, bits]

def made(path, mode=0o644):
    return os.open(path, os.O_CREAT | os.O_RDWR, mode)
'''


def ask(kernel, code):
    """Runs `code` as a cell; the value of its last line."""
    body, _, last = code.strip().rpartition("\n")
    result = kernel.run(f"{body}\nprint(json.dumps({last}))")
    assert result.status == "ok", f"{result.ename}: {result.evalue}"
    return json.loads(result.stdout)


class Unconfined:
    """Runs code in a Python of the machine, as a kernel without a sandbox would."""

    def __init__(self, *prefix):
        self.prefix = prefix

    def run(self, code, **_):
        done = subprocess.run([*self.prefix, sys.executable, "-c", code], capture_output=True, text=True,
                              check=True, timeout=conftest.TIMEOUT)
        return types.SimpleNamespace(stdout=done.stdout, status="ok")


@pytest.mark.parametrize("prefix, shared", [
    ([], ", ".join(conftest.NAMESPACES)),
    (["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount", "--ipc", "--uts", "--net"], "cgroup"),
], ids=["all", "one"])
def test_no_probe_runs_where_a_namespace_is_shared(prefix, shared):
    with pytest.raises(RuntimeError, match=f"it shares {shared} with the machine"):
        prepare(Unconfined(*prefix))


def prepare(kernel):
    conftest.refuse_what_is_shared(kernel)
    return load(kernel)


def load(kernel):
    numbers = {name: pair[0 if X86 else 1] for name, pair in NUMBERS.items()}
    assert kernel.run(f"{PRELUDE}\nNUMBERS = {numbers!r}").status == "ok"
    return kernel


PROFILES = ["notebook", "strict"]
in_a_shared_directory = pytest.mark.parametrize("probe", ["notebook"], indirect=True)


@pytest.fixture(scope="module", params=PROFILES)
def probe(request, tmp_path_factory):
    k = conftest.Kernel(tmp_path_factory.mktemp("probe"), "--profile", request.param, env={"HUSK_TEST_SECRET": "s3cret-of-the-host"})
    yield prepare(k)
    k.stop()


def table(*rows):
    """Tests that take (code, wanted); the claim is the name. A set: any of these."""
    return pytest.mark.parametrize("code, wanted", [r[1:] for r in rows], ids=[r[0] for r in rows])


def check(probe, code, wanted):
    got = ask(probe, code)
    assert got in wanted if isinstance(wanted, set) else got == wanted, got


# --- processes and their memory

OF_PID_1 = ["environ", "mem", "maps", "smaps", "pagemap", "auxv", "stack", "syscall", "io", "personality"]


@table(
    *((f"/proc/1/{f}", f"opens('/proc/1/{f}')", {"EACCES", "EPERM"}) for f in OF_PID_1),
    *((f"/proc/1/{f}/", f"attempted(os.listdir, '/proc/1/{f}')", {"EACCES", "EPERM"})
      for f in ("fd", "fdinfo", "map_files", "root", "cwd")),
    *((f"link /proc/1/{f}", f"attempted(os.readlink, '/proc/1/{f}')", {"EACCES", "EPERM"})
      for f in ("exe", "root", "cwd", "ns/mnt", "ns/net", "ns/user")),
)
def test_pid_1_shows_nothing(probe, code, wanted):
    check(probe, code, wanted)


@table(
    *((f"/proc/1/{f}", f"attempted(lambda: os.write(os.open('/proc/1/{f}', os.O_WRONLY), b'0'))", {"EACCES", "EPERM"})
      for f in ("mem", "oom_score_adj", "clear_refs", "coredump_filter", "uid_map", "comm", "timerslack_ns")),
)
def test_pid_1_cannot_be_written(probe, code, wanted):
    check(probe, code, wanted)


@table(
    ("kill -9", "attempted(os.kill, 1, 9)", "EPERM"),
    ("any signal", "sorted({attempted(os.kill, 1, n) for n in range(1, 65)})", ["EPERM"]),
    ("signal 0", "attempted(os.kill, 1, 0)", "EPERM"),
    ("a pidfd", "attempted(lambda: signal.pidfd_send_signal(os.pidfd_open(1), 9))", "EPERM"),
    ("limits", "attempted(resource.prlimit, 1, resource.RLIMIT_NOFILE, (0, 0))", "EPERM"),
    ("limits, asked", "attempted(resource.prlimit, 1, resource.RLIMIT_NOFILE)", "EPERM"),
    ("limits, high bits in the pid", "call('prlimit64', 0x100000001, 0, 0, 0)", "EPERM"),
    ("ptrace", "call('ptrace', 16, 1, 0, 0)", "EPERM"),
    ("process_vm_readv", "call('process_vm_readv', 1, 0, 0, 0, 0, 0)", "EPERM"),
    ("process_vm_writev", "call('process_vm_writev', 1, 0, 0, 0, 0, 0)", "EPERM"),
    ("a descriptor of it", "forked(lambda: raw('pidfd_getfd', os.pidfd_open(1), 3, 0))", "EPERM"),
    ("a namespace of it", "forked(lambda: raw('setns', os.pidfd_open(1), 0x20000))", "EPERM"),
    ("kcmp", "call('kcmp', 1, os.getpid(), 0, 3, 3)", "EPERM"),
    ("scheduling", "attempted(os.sched_setaffinity, 1, {0})", {"EPERM", "OK"}),
    ("process group", "attempted(os.setpgid, 1, 0)", {"EPERM", "ESRCH"}),
)
def test_pid_1_cannot_be_touched(probe, code, wanted):
    check(probe, code, wanted)
    assert "husk-init" in ask(probe, "open('/proc/1/comm').read()")


@table(
    ("a core, which a handler may want", "resource.getrlimit(resource.RLIMIT_CORE)", [1, 1]),
    ("open files", "resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 4096", True),
    ("locked memory", "resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] <= 8 << 20", True),
    ("message queues", "resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1] <= 819200", True),
    ("real-time priority", "resource.getrlimit(resource.RLIMIT_RTPRIO)", [0, 0]),
    ("pending signals", "resource.getrlimit(resource.RLIMIT_SIGPENDING)[1] <= 4096", True),
    ("processes", "resource.getrlimit(resource.RLIMIT_NPROC)[1] <= 1024", True),
)
def test_resources_of_a_process_are_limited(probe, code, wanted):
    check(probe, code, wanted)


def test_signals_are_as_a_program_expects_them(probe):
    """Pid 1 blocks SIGCHLD and others; what it starts must not inherit that."""
    assert ask(probe, "sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))") == []
    assert ask(probe, "os.getsid(0) == os.getpid()") is True


def test_pid_1_leads_a_session_of_its_own(probe):
    assert ask(probe, "os.getsid(1)") == 1  # 0: one that began outside


MOUNT_LATER = """
import pathlib, subprocess, sys
sys.path.insert(0, sys.argv[1])
import conftest
kernel = conftest.Kernel(pathlib.Path(sys.argv[2]))
sub = kernel.cwd / "sub"
sub.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "none", str(sub)], check=True)
(sub / "late").touch()
print(kernel.run("import os; os.listdir('sub')").value)
kernel.stop()
"""


def test_what_is_mounted_later_on_the_host_does_not_flow_in(tmp_path):
    """It would come with set-uid files and devices. In a namespace whose mounts are shared."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "shared", sys.executable,
         "-c", MOUNT_LATER, os.path.dirname(__file__), str(tmp_path)],
        capture_output=True, text=True, timeout=conftest.TIMEOUT)
    assert done.stdout == "[]\n", done
    if os.geteuid() == 0:  # there the trees are taken by another process, in another namespace
        (tmp_path / "again").mkdir()
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "shared", sys.executable, "-c", MOUNT_LATER,
             os.path.dirname(__file__), str(tmp_path / "again")],
            capture_output=True, text=True, timeout=conftest.TIMEOUT)
        assert done.stdout == "[]\n", done


def test_a_signal_to_everybody_does_not_reach_pid_1(make_kernel):
    kernel = make_kernel()
    kernel.run("import os, subprocess; child = subprocess.Popen(['sleep', '60'])")
    assert kernel.run("os.kill(-1, 9)").status == "ok"  # neither the sender nor pid 1 is a target
    assert kernel.run("child.wait()").value == "-9"
    assert "husk-init" in kernel.run("open('/proc/1/comm').read()").value


@pytest.mark.parametrize("how", ["a descriptor's signal", "a child's end"])
def test_pid_1_survives_signals_that_the_kernel_sends_for_a_cell(make_kernel, how):
    kernel = prepare(make_kernel())
    if how == "a descriptor's signal":
        code = ("a, b = socket.socketpair()\ntry:\n    fcntl.fcntl(a, fcntl.F_SETSIG, 9); fcntl.fcntl(a, fcntl.F_SETOWN, 1)\n"
                "    fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)\nexcept OSError: pass\nb.send(b'x')")
    else:
        code = "for s in (9, 15, 17, 19): raw('clone', 0x8000 | s, 0, 0, 0, 0)"  # CLONE_PARENT: a child of pid 1
    assert kernel.run(code).status == "ok"
    assert kernel.run("import subprocess; subprocess.run(['echo', 'well'], capture_output=True).stdout").value == r"b'well\n'"
    assert "husk-init" in kernel.run("open('/proc/1/comm').read()").value


def test_only_the_processes_of_the_sandbox_are_visible(probe):
    assert ask(probe, "sorted(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid())") == [1]


def test_no_process_of_the_host_answers_to_its_pid(probe):
    for pid in (os.getpid(), os.getppid(), probe.pid):
        assert ask(probe, f"attempted(os.kill, {pid}, 0) if {pid} > 100 else 'ESRCH'") == "ESRCH"
    code = ("alive = [p for p in range(2, 70000) if p not in (os.getpid(), os.getppid())"
            " and attempt(os.kill, p, 0) != 'ESRCH']\nalive")
    assert ask(probe, code) == []


def test_the_supervisor_behind_the_socket_cannot_be_reached(probe):
    """Linux hands out a pidfd of a socket's peer; it must be good for nothing."""
    code = """
import fcntl
peer = socket.socket(fileno=os.dup(3))
said = {}
pid, uid, gid = struct.unpack('3i', peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
said['pid'] = pid
try:
    fd = peer.getsockopt(socket.SOL_SOCKET, 77)  # SO_PEERPIDFD
except OSError as e:
    fd = -1
if fd >= 0:
    said['signals'] = sorted({attempt(signal.pidfd_send_signal, fd, n) for n in (0, 2, 9, 15)})
    said['descriptors'] = raw('pidfd_getfd', fd, 3, 0)
    said['namespaces'] = sorted({attempt(fcntl.ioctl, fd, 0xff00 + n) for n in range(1, 11)})
    said['setns'] = raw('setns', fd, 0x20000)
    os.close(fd)
peer.close()
said
"""
    said = ask(probe, code)
    assert said["pid"] == 0
    assert set(said.get("signals", [])) <= {"EINVAL", "EPERM", "ESRCH"}
    assert set(said.get("namespaces", [])) <= {"EACCES", "EPERM", "ESRCH", "ENOTTY", "EOPNOTSUPP", "EINVAL"}
    assert said.get("descriptors", "EPERM") == said.get("setns", "EPERM") == "EPERM"


# --- secrets

SEARCH = """
import re
needle = bytes.fromhex(NEEDLE)
shift = bytes((b + 1) % 256 for b in range(256))
found = []

def look(where, data):
    # compared in a shifted form, so that this probe does not find itself
    if needle in data.translate(shift):
        found.append(where)

for p in [p for p in os.listdir('/proc') if p.isdigit()]:
    for f in os.listdir('/proc/' + p):
        if f in ('mem', 'pagemap', 'clear_refs') or not os.path.isfile(f'/proc/{p}/{f}'):
            continue
        try:
            with open(f'/proc/{p}/{f}', 'rb') as file: look(f'/proc/{p}/{f}', file.read())
        except OSError: pass
    try:
        maps = open(f'/proc/{p}/maps').read()
        memory = open(f'/proc/{p}/mem', 'rb', buffering=0)
    except OSError: continue
    for line in maps.splitlines():
        a, b = (int(x, 16) for x in line.split()[0].split('-'))
        if line.split()[1][0] != 'r' or '[v' in line: continue
        for at in range(a, b, 1 << 22):
            try: memory.seek(at); look(f'{p} {line}', memory.read(min(b - at, (1 << 22) + 256)))
            except (OSError, OverflowError, ValueError): break
    memory.close()
for top in (os.getcwd(), os.path.expanduser('~'), '/tmp', '/var', '/run', '/dev/shm', '/dev/mqueue', '/etc'):
    for d, _, files in os.walk(top):
        for f in files:
            try:
                with open(os.path.join(d, f), 'rb') as file: look(os.path.join(d, f), file.read())
            except OSError: pass
for f in os.listdir('/proc/self/fd'):
    try:
        if stat.S_ISREG(os.stat(int(f)).st_mode): look('fd ' + f, os.pread(int(f), 1 << 20, 0))
    except OSError: pass
found
"""


def search(kernel, secret):
    return ask(kernel, SEARCH.replace("NEEDLE", repr(bytes((b + 1) % 256 for b in secret).hex())))


def test_the_search_finds_what_is_there(probe):
    """Otherwise the next tests would prove nothing."""
    probe.run("visible = bytes(range(97, 123)).decode() * 2")
    assert search(probe, bytes(range(97, 123)) * 2)


def test_the_key_is_nowhere(probe):
    assert search(probe, probe.manager.get_connection_info()["key"]) == []


def test_the_environment_of_the_supervisor_is_nowhere(probe):
    assert search(probe, b"s3cret-of-the-host") == []
    assert ask(probe, "'HUSK_TEST_SECRET' in os.environ") is False


def test_the_connection_file_is_not_there(probe):
    path = probe.manager.connection_file
    assert os.path.exists(path)
    assert ask(probe, f"opens({path!r})") == "ENOENT"


@in_a_shared_directory
def test_a_file_beside_the_working_directory_is_not_there(probe):
    secret = probe.cwd.parent / "secret"
    secret.write_text("s3cret")
    assert ask(probe, f"opens({str(secret)!r})") == "ENOENT"
    assert ask(probe, "opens('../secret')") == "ENOENT"
    assert ask(probe, "os.listdir('..')") == [probe.cwd.name]


def test_a_file_of_the_home_directory_is_not_there(probe):
    home = os.path.expanduser("~")
    with tempfile.NamedTemporaryFile("w", dir=home, prefix=".husk-test-") as secret:
        secret.write("s3cret")
        secret.flush()
        assert ask(probe, f"opens({secret.name!r})") == "ENOENT"
        name = os.path.basename(secret.name)
        assert ask(probe, f"opens(os.path.expanduser('~/{name}'))") == "ENOENT"


def test_a_directory_below_home_shows_nothing_else_of_home(make_kernel, tmp_path):
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id").write_text("s3cret")
    (home / "other").mkdir()
    kernel = prepare(make_kernel(cwd=home / "project", env={"HOME": str(home)}))
    assert ask(kernel, "os.path.expanduser('~')") == str(home)
    assert ask(kernel, "[n for n in os.listdir(os.path.expanduser('~')) if n in ('.ssh', 'other')]") == []
    assert ask(kernel, "open('made', 'w').write('x')") == 1
    assert (home / "project" / "made").exists()
    assert ask(kernel, "open(os.path.expanduser('~/made'), 'w').write('x')") == 1
    assert not (home / "made").exists()


def test_homes_of_others_are_not_there(probe):
    own = os.path.realpath(os.path.expanduser("~"))
    others = sorted({os.path.realpath(u.pw_dir) for u in pwd.getpwall() if u.pw_dir.startswith(("/home/", "/root"))} - {own})
    assert ask(probe, f"[h for h in {others!r} if os.path.exists(h) and os.listdir(h)]") == []
    named = [u.pw_name for u in pwd.getpwall() if u.pw_dir.startswith("/home/")]
    assert ask(probe, "[u.pw_name for u in __import__('pwd').getpwall() if u.pw_name in %r]" % named) == []


@table(
    *((path, f"opens({path!r})", "ENOENT")
      for path in ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh", "/etc/crontab", "/etc/fstab",
                   "/etc/machine-id", "/var/lib/dpkg", "/var/log", "/var/spool", "/boot", "/sys", "/srv",
                   "/mnt", "/media", "/run/docker.sock", "/var/run/docker.sock", "/run/user", "/run/systemd",
                   "/run/dbus", "/dev/mem", "/dev/kmsg", "/dev/port", "/dev/kvm", "/dev/net/tun", "/dev/fuse",
                   "/dev/vda", "/dev/sda", "/dev/disk", "/dev/loop-control", "/dev/vsock", "/dev/vhost-vsock",
                   "/dev/input", "/dev/snd", "/dev/dri", "/dev/userfaultfd")),
    ("nothing in /run", "os.listdir('/run')", []),
    ("no name of the host", "[os.uname().nodename, open('/etc/hostname').read()]", ["husk", "husk\n"]),
    ("only husk's own passwd", "[l.split(':')[0] for l in open('/etc/passwd')][0]", "root"),
)
def test_the_system_of_the_host_is_not_there(probe, code, wanted):
    check(probe, code, wanted)


def test_nothing_is_inherited_but_what_husk_gave(probe):
    """No descriptor of a file or a directory of the host; nothing that leads out of the root."""
    code = """
seen = {}
for f in os.listdir('/proc/self/fd'):
    try: seen[int(f)] = [os.readlink('/proc/self/fd/' + f), stat.S_ISDIR(os.stat(int(f)).st_mode)]
    except OSError: pass
seen
"""
    seen = {int(k): v for k, v in ask(probe, code).items()}
    assert {0, 1, 2, 3} <= set(seen)
    assert seen[0][0] == "/dev/null" and seen[1][0].startswith("pipe:") and seen[3][0].startswith("socket:")
    for fd, (target, is_directory) in seen.items():
        assert not is_directory, (fd, target)
        assert target.startswith(("pipe:", "socket:", "anon_inode:[event", "/memfd:husk-", "/dev/null")), (fd, target)


def test_the_supervisor_s_half_of_the_shared_memory_cannot_be_written(probe):
    code = """
line = [l for l in open('/proc/self/maps') if 'husk-progress' in l][0]
start = int(line.split('-')[0], 16)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
def writable():
    ctypes.set_errno(0)
    return "OK" if libc.mprotect(start, 4096, 3) == 0 else name_of(ctypes.get_errno())
said = {'mapped': line.split()[1], 'mprotect': forked(writable), 'mem': forked(lambda: attempt(
    lambda: (lambda f: (f.seek(start), f.write(b'x')))(open('/proc/self/mem', 'r+b', buffering=0))))}
said['again'] = [opens('/proc/self/fd/' + f, os.O_RDWR) for f in os.listdir('/proc/self/fd')
                 if os.path.lexists('/proc/self/fd/' + f) and 'husk-progress' in os.readlink('/proc/self/fd/' + f)]
said
"""
    said = ask(probe, code)
    assert said["mapped"] == "r--s"
    assert said["mprotect"] == "EACCES"
    assert said["mem"] != "OK"
    assert "OK" not in said["again"]


def test_nothing_but_the_mounts_that_are_meant_is_writable(probe):
    code = r"""
rows = []
for line in open('/proc/self/mountinfo'):
    left, _, right = line.partition(' - ')
    fields = left.split()
    rows.append([fields[4].encode().decode('unicode_escape'), fields[5].split(','), right.split()[0]])
rows
"""
    mine = {*ask(probe, "[os.getcwd(), os.path.expanduser('~')]"), "/tmp", "/var/tmp", "/run", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts",
            "/proc", *(f"/dev/{d}" for d in ("null", "zero", "full", "random", "urandom", "tty"))}
    rows = ask(probe, code)
    assert len(rows) > 10
    for target, options, kind in rows:
        assert "nosuid" in options, target
        assert "nodev" in options or target == "/dev" or target.startswith("/dev/"), target
        assert "ro" in options or target in mine, target
        assert kind != "sysfs", target


WALK = """
def depth(path): return path.count('/')
found = []
private = ['/proc', '/tmp', '/var/tmp', '/run', '/dev/shm', '/dev/mqueue', '/dev/pts', os.path.expanduser('~'), os.getcwd()]
todo = ['/', os.path.dirname(os.getcwd()), sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)] + [p for p in sys.path if p]
seen = set()
while todo:
    d = todo.pop()
    if d in seen: continue
    seen.add(d)
    for name in ('husk-probe',):
        if attempt(os.mkdir, os.path.join(d, name)) == 'OK': found.append(d); os.rmdir(os.path.join(d, name))
    try: inside = list(os.scandir(d))
    except OSError: continue
    todo += [e.path for e in inside if e.is_dir(follow_symlinks=False) and depth(e.path) < 4 and e.path not in private]
len(seen) > 100 and found
"""


def test_no_directory_outside_the_private_ones_can_be_changed(probe):
    # a prefix below /tmp or home lies in a private directory, which may have directories of its own
    tolerated = ("/tmp", "/var/tmp", os.path.expanduser("~"))
    found = ask(probe, WALK)
    assert [d for d in found if not d.startswith(tolerated)] == []


@table(
    *((name, f"opens({code}, os.O_WRONLY | os.O_APPEND)", {"EROFS", "EACCES", "ETXTBSY"}) for name, code in (
        ("the standard library", "os.__file__"), ("the interpreter", "os.path.realpath(sys.executable)"),
        ("the glue of husk", "sys.modules['husk_interpreter.kernel'].__file__"),
        ("the extension of husk", "sys.modules['_husk'].__file__"), ("a library", "json.__file__"),
        ("/bin/sh", "'/bin/sh'"), ("/etc/passwd", "'/etc/passwd'"), ("/etc/resolv.conf", "'/etc/resolv.conf'"),
        ("/etc/ld.so.cache", "'/etc/ld.so.cache'"))),
    *((f"a file in {d}/", f"attempted(open, '{d}/husk-test', 'w')", {"EROFS", "EACCES"})
      for d in ("", "/usr", "/usr/bin", "/usr/local/bin", "/etc", "/dev", "/var", "/lib")),
    ("a file in the prefix", "attempted(open, sys.prefix + '/husk-test', 'w')", {"EROFS", "EACCES"}),
    ("a file in the base prefix", "attempted(open, sys.base_prefix + '/husk-test', 'w')", {"EROFS", "EACCES"}),
    ("the mode of a program", "attempted(os.chmod, '/bin/sh', 0o777)", {"EROFS", "EPERM", "EACCES"}),
    ("the time of a program", "attempted(os.utime, '/bin/sh')", {"EROFS", "EPERM", "EACCES"}),
    ("the owner of a program", "attempted(os.chown, '/bin/sh', 1000, 1000)", {"EROFS", "EPERM", "EACCES"}),
    ("an attribute of a program", "attempted(os.setxattr, '/bin/sh', 'user.x', b'1')", {"EROFS", "EPERM", "EACCES"}),
    ("a program's removal", "attempted(os.unlink, os.path.realpath('/bin/sh'))", {"EROFS", "EPERM", "EACCES"}),
)
def test_what_belongs_to_the_system_cannot_be_changed(probe, code, wanted):
    check(probe, code, wanted)


# --- /proc and devices

@table(
    *((f"/proc/{f}", f"opens('/proc/{f}')", {"EACCES", "ENOENT", "EPERM"})
      for f in ("kcore", "kmsg", "keys", "timer_list", "sched_debug", "kallsyms", "kpagecount", "kpageflags",
                "kpagecgroup", "config.gz", "slabinfo", "vmallocinfo", "modules", "latency_stats")),
    *((f"/proc/{d} is empty", f"os.listdir('/proc/{d}') if os.path.exists('/proc/{d}') else []", [])
      for d in ("acpi", "scsi", "asound", "driver", "fs")),
    ("/proc/sysrq-trigger", "opens('/proc/sysrq-trigger', os.O_WRONLY)", {"EACCES", "ENOENT"}),
    ("the cgroup shows no path of the host", "sorted({l.strip().split(':')[2] for l in open('/proc/self/cgroup')})", ["/"]),
)
def test_proc_is_masked(probe, code, wanted):
    check(probe, code, wanted)


def test_no_file_of_proc_that_means_the_machine_can_be_written(probe):
    code = """
found = []
for d, dirs, files in os.walk('/proc'):
    if d == '/proc':
        dirs[:] = [x for x in dirs if not x.isdigit() and x not in ('self', 'thread-self')]
    for f in files:
        path = os.path.join(d, f)
        if attempt(lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))) == 'OK': found.append(path)
found
"""
    assert ask(probe, code) == []


@table(
    *((f"/proc/self/{f}", f"attempted(lambda: os.write(os.open('/proc/self/{f}', os.O_WRONLY), b{text!r}))",
       {"EPERM", "EACCES"})
      for f, text in (("uid_map", "0 1000 1"), ("gid_map", "0 1000 1"), ("setgroups", "allow"),
                      ("oom_score_adj", "-1000"))),
)
def test_a_process_cannot_lift_itself(probe, code, wanted):
    check(probe, code, wanted)


def test_devices_are_the_six_and_terminals(probe):
    code = """
seen = {}
for d, _, files in os.walk('/dev'):
    for f in files:
        s = os.lstat(os.path.join(d, f))
        if stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode):
            seen[os.path.join(d, f)] = [stat.S_ISCHR(s.st_mode), os.major(s.st_rdev), os.minor(s.st_rdev)]
seen
"""
    assert ask(probe, code) == {
        "/dev/null": [True, 1, 3], "/dev/zero": [True, 1, 5], "/dev/full": [True, 1, 7], "/dev/random": [True, 1, 8],
        "/dev/urandom": [True, 1, 9], "/dev/tty": [True, 5, 0], "/dev/pts/ptmx": [True, 5, 2]}


@table(
    *((f"mknod of {kind} {major}:{minor} in {where}",
       f"attempted(os.mknod, {where} + '/device', stat.S_IF{kind} | 0o600, os.makedev({major}, {minor}))",
       {"EPERM", "EACCES"})
      for kind, major, minor in (("BLK", 8, 0), ("BLK", 254, 0), ("CHR", 1, 1), ("CHR", 1, 3))
      for where in ("'/tmp'", "os.getcwd()", "'/dev'", "'/dev/shm'")),
)
def test_no_device_can_be_made(probe, code, wanted):
    check(probe, code, wanted)


@table(
    *((f"command {c:#x}", f"a, b = os.openpty()\ncall('ioctl', b, {c}, 0)", "EPERM")
      for c in (0x5412, 0x100005412, 0x7fffffff00005412, 0x541c, 0x10000541c)),
)
def test_nothing_can_be_typed_into_a_terminal(probe, code, wanted):
    check(probe, code, wanted)


# --- network

@table(
    ("TCP", "attempted(socket.create_connection, ('192.0.2.1', 80), 3)", "ENETUNREACH"),
    ("the cloud's metadata", "attempted(socket.create_connection, ('169.254.169.254', 80), 3)", "ENETUNREACH"),
    ("UDP", "attempted(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto, b'x', ('192.0.2.1', 53))", "ENETUNREACH"),
    ("broadcast", "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.setsockopt(1, 6, 1)\n"
     "attempted(s.sendto, b'x', ('255.255.255.255', 9))", "ENETUNREACH"),
    ("multicast", "attempted(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto, b'x', ('224.0.0.1', 9))", "ENETUNREACH"),
    ("IPv6", "attempted(socket.create_connection, ('2001:db8::1', 80), 3)", {"ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT"}),
    ("names", "attempted(socket.getaddrinfo, 'example.org', 80)", "gaierror"),
    ("raw", "attempted(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)", "EPERM"),
    ("raw IPv6", "attempted(socket.socket, socket.AF_INET6, socket.SOCK_RAW, 58)", {"EPERM", "EAFNOSUPPORT"}),
    ("interfaces", "[n for _, n in socket.if_nameindex()]", ["lo"]),
    ("interfaces in /proc", "[l.split(':')[0].strip() for l in open('/proc/net/dev') if ':' in l]", ["lo"]),
    ("routes", "open('/proc/net/route').read().splitlines()[1:]", []),
    ("lo cannot be changed", "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
     "attempted(fcntl.ioctl, s, 0x8914, struct.pack('16sH14x', b'lo', 0))", "EPERM"),
    ("no interface can be made", "s = socket.socket(16, socket.SOCK_RAW, 0)\n"
     "s.send(struct.pack('=IHHII', 32, 16, 0x605, 1, 0) + bytes(16))\n"
     "name_of(-struct.unpack('=16xi', s.recv(4096)[:20])[0])", "EPERM"),
    ("the loopback inside works", "s = socket.create_server(('127.0.0.1', 0))\nattempted(socket.create_connection, s.getsockname(), 3)", "OK"),
)
def test_there_is_no_way_out(probe, code, wanted):
    check(probe, code, wanted)


def test_no_socket_family_but_four(probe):
    """AF_ALG 38, AF_VSOCK 40, AF_PACKET 17, AF_KEY 15, AF_RXRPC 33, AF_XDP 44, AF_TIPC 30 and the rest."""
    code = """
said = {}
for family in range(64):
    said[family] = sorted({attempt(lambda: socket.socket(family, kind, 0).close()) for kind in (1, 2, 3, 5)})
said
"""
    said = ask(probe, code)
    for family in range(64):
        if family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
            assert said[str(family)] == ["EAFNOSUPPORT"], family
    assert "OK" in said["1"] and "OK" in said["2"] and "OK" in said["16"]


def test_high_bits_in_a_socket_family_change_nothing(probe):
    code = "{str(f): call('socket', (1 << 32) | f, 2, 0) for f in (15, 17, 38, 40, 44)}"
    assert set(ask(probe, code).values()) == {"EAFNOSUPPORT"}
    assert ask(probe, "call('socket', (1 << 32) | 16, 3, 6)") in ("EAFNOSUPPORT", "EPROTONOSUPPORT")


def test_no_netlink_but_that_of_routes(probe):
    """XFRM is 6, NETFILTER 12, AUDIT 9, KOBJECT_UEVENT 15, GENERIC 16, CRYPTO 21."""
    code = "{p: attempt(lambda: socket.socket(16, socket.SOCK_RAW, p).close()) for p in range(32)}"
    said = ask(probe, code)
    assert said.pop("0") == "OK"
    assert set(said.values()) == {"EPROTONOSUPPORT"}


def test_no_socket_pairs_but_local_ones(probe):
    assert ask(probe, "attempted(socket.socketpair, socket.AF_UNIX)") == "OK"
    assert ask(probe, "sorted({attempt(socket.socketpair, f, 1, 0) for f in range(64) if f != 1})") == ["EAFNOSUPPORT"]


def test_the_loopback_of_the_host_is_another(probe):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert ask(probe, f"attempted(socket.create_connection, ('127.0.0.1', {port}), 3)") == "ECONNREFUSED"
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_ports_of_the_kernel_itself_cannot_be_reached(probe):
    info = probe.manager.get_connection_info()
    ports = [info[f"{c}_port"] for c in ("shell", "iopub", "stdin", "control", "hb")]
    code = f"sorted({{attempted(socket.create_connection, ('127.0.0.1', p), 3) for p in {ports!r}}})"
    assert ask(probe, code) == ["ECONNREFUSED"]


def test_an_abstract_socket_of_the_host_is_not_there(probe):
    name = f"\0husk-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        assert ask(probe, f"attempted(socket.socket(socket.AF_UNIX).connect, {name!r})") in ("ECONNREFUSED", "EPERM")


def test_a_socket_file_beside_the_working_directory_is_not_there(probe):
    path = str(probe.cwd.parent / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert ask(probe, f"attempted(socket.socket(socket.AF_UNIX).connect, {path!r})") == "ENOENT"


# --- system calls

FLAGS = {"NEWTIME": 0x80, "NEWNS": 0x20000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000, "NEWIPC": 0x8000000,
         "NEWUSER": 0x10000000, "NEWPID": 0x20000000, "NEWNET": 0x40000000}


@table(
    *((f"unshare {n}", f"call('unshare', {f})", "EPERM") for n, f in FLAGS.items()),
    *((f"clone {n}", f"call('clone', {f} | 17, 0, 0, 0, 0)", "EPERM") for n, f in FLAGS.items()
      if n != "NEWTIME"),  # the low byte of clone's flags is a signal, see the next row
    ("clone NEWTIME", "call('clone', 0x80 | 17, 0, 0, 0, 0)", {"EPERM", "EINVAL"}),
    ("clone of everything, high bits", "call('clone', 0x17e020011, 0, 0, 0, 0)", "EPERM"),
    ("clone3", "call('clone3', 0, 0)", "ENOSYS"),
    *((f"setns {n}", f"forked(lambda: raw('setns', os.open('/proc/self/ns/{n}', os.O_RDONLY), 0))", "EPERM")
      for n in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")),
)
def test_no_namespace_can_be_made_or_entered(probe, code, wanted):
    check(probe, code, wanted)


@table(
    *((f"{request} of {n}", f"forked(lambda: attempt(fcntl.ioctl, os.open('/proc/self/ns/{n}', os.O_RDONLY), {code}))",
       {"EPERM", "EINVAL", "ENOTTY", "EACCES", "ENOENT"})
      for request, code, names in (("the parent", 0xb702, ("user", "pid")),
                                   ("the next one", 0x8010b70b, ("mnt",)), ("the one before", 0x8010b70c, ("mnt",)))
      for n in names),
    *((f"system call {number}", f"call({number}, 0, 0, 0, 0)", "ENOSYS") for number in (457, 458, 467, 468, 469, 470)),
)
def test_no_namespace_leads_to_one_outside(probe, code, wanted):
    """Also statmount, listmount and whatever came after husk was written."""
    check(probe, code, wanted)


@table(
    ("mount", "call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)", "EPERM"),
    ("bind", "call('mount', b'/usr', b'/tmp', None, 4096, None)", "EPERM"),
    ("remount", "call('mount', None, b'/usr', None, 32, None)", "EPERM"),
    ("umount", "call('umount2', b'/tmp', 2)", "EPERM"),
    ("umount of a mask", "call('umount2', b'/proc/keys', 2)", "EPERM"),
    ("pivot_root", "call('pivot_root', b'.', b'.')", "EPERM"),
    ("chroot", "call('chroot', b'/tmp')", "EPERM"),
    ("open_tree", "call('open_tree', -100, b'/', 1)", "EPERM"),
    ("move_mount", "call('move_mount', -100, b'/usr', -100, b'/tmp', 0)", "EPERM"),
    ("fsopen", "call('fsopen', b'tmpfs', 0)", "EPERM"),
    ("fsconfig", "call('fsconfig', 0, 6, 0, 0, 0)", "EPERM"),
    ("fsmount", "call('fsmount', 0, 0, 0)", "EPERM"),
    ("fspick", "call('fspick', -100, b'/', 0)", "EPERM"),
    ("mount_setattr", "call('mount_setattr', -100, b'/usr', 0, bytes(32), 32)", "EPERM"),
    ("open_by_handle_at", "call('open_by_handle_at', -100, bytes(64), 0)", "EPERM"),
    ("name_to_handle_at", "call('name_to_handle_at', -100, b'/', bytes(64), bytes(8), 0)", "EPERM"),
)
def test_no_mount_can_be_changed(probe, code, wanted):
    check(probe, code, wanted)


@table(
    *((f"{n}", f"call({n!r}, 0, 0, 0, 0, 0)", "EPERM")
      for n in ("bpf", "perf_event_open", "userfaultfd", "add_key", "request_key", "keyctl", "memfd_secret",
                "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "swapon",
                "swapoff", "acct", "quotactl", "syslog", "settimeofday", "clock_settime", "adjtimex", "sethostname",
                "setdomainname", "vhangup", "fanotify_init", "fanotify_mark", "ptrace", "process_vm_readv",
                "process_vm_writev", "process_madvise", "process_mrelease", "kcmp", "pidfd_getfd", "capset",
                "move_pages", "migrate_pages", "mbind", "set_mempolicy", "get_mempolicy")),
    ("reboot", "call('reboot', 0xfee1dead, 672274793, 0, 0)", "EPERM"),
    ("ptrace of a child", "call('ptrace', 0, 0, 0, 0)", "EPERM"),
    ("keyctl, the session's keyring", "call('keyctl', 0, -3, 0)", "EPERM"),
    *((f"{n} as on an old kernel", f"call({n!r}, 0, 0, 0, 0, 0)", "ENOSYS")
      for n in ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "openat2")),
    ("a number that no kernel has", "call(9999)", "ENOSYS"),
    ("a negative number", "call(-2)", {"ENOSYS", "signal 31"}),
)
def test_the_machine_cannot_be_touched(probe, code, wanted):
    check(probe, code, wanted)


@table(
    ("no ASLR", "call('personality', 0x40000)", "EPERM"),
    ("READ_IMPLIES_EXEC", "call('personality', 0x400000)", "EPERM"),
    ("high bits", "call('personality', 0x100040000)", "EPERM"),
    ("asking", "call('personality', 0xffffffff)", "OK"),
)
def test_the_layout_of_memory_cannot_be_weakened(probe, code, wanted):
    check(probe, code, wanted)


if X86:
    @table(
        ("i386 by int 0x80", r"forked(run_machine_code, b'\xb8\x14\0\0\0\xcd\x80\xc3')", "signal 31"),
        ("i386 mount by int 0x80", r"forked(run_machine_code, b'\xb8\x15\0\0\0\xcd\x80\xc3')", "signal 31"),
        ("x32 getpid", "call(0x40000000 + 39)", "signal 31"),
        ("x32 ptrace", "call(0x40000000 + 521, 0, 0, 0, 0)", "signal 31"),
        *((f"{name}, with a handler of the signal",
           f"forked(lambda: (signal.signal(signal.SIGSYS, lambda *_: None), {code})[1] not in (os.getpid(), os.getppid()))", "True")
          for name, code in (("i386 getpid by int 0x80", r"run_machine_code(b'\xb8\x14\0\0\0\xcd\x80\xc3', ctypes.c_int)"),
                             ("x32 getpid", "libc.syscall(ctypes.c_long(0x40000000 + 39))"))),
        ("the machine code itself runs", r"forked(lambda: run_machine_code(b'\xb8\x27\0\0\0\x0f\x05\xc3') or 'ran')", "ran"),
    )
    def test_a_foreign_abi_kills(probe, code, wanted):
        check(probe, code, wanted)


@pytest.mark.outcome("EPERM")
@pytest.mark.parametrize("make", [
    "(os.close(made(p)), os.chmod(p, 0o4755))",
    "(os.close(made(p)), os.chmod(p, 0o2755))",
    "(os.close(made(p)), os.chmod(p, 0o6777))",
    "os.fchmod(made(p), 0o4755)",
    "os.fchmod(made(p), 0o2755)",
    "(os.close(made(p)), os.chmod(os.path.basename(p), 0o4755, dir_fd=os.open('.', 0)))",
    "made(p, 0o4755)",
    "made(p, 0o2755)",
    "os.open(os.path.basename(p), os.O_CREAT | os.O_WRONLY, 0o4755, dir_fd=os.open('.', 0))",
    "os.open('.', os.O_TMPFILE | os.O_RDWR, 0o4755)",
    "os.open('.', os.O_TMPFILE | os.O_RDWR, 0o2755)",
    "os.mknod(p, stat.S_IFREG | 0o4755)",
    "os.mknod(os.path.basename(p), stat.S_IFREG | 0o2755, dir_fd=os.open('.', 0))",
])
def test_no_file_becomes_set_uid(probe, make):
    assert ask(probe, f"mode_after(lambda p: {make})") == ["EPERM", 0]


def test_no_file_becomes_set_uid_by_the_newest_call(probe):
    code = """
path = os.path.join(os.getcwd(), 'bits')
os.close(made(path))
said = [call('fchmodat2', -100, path.encode(), m, 0) for m in (0o4755, 0o2755, (1 << 32) | 0o4755)]
said.append(os.stat(path).st_mode & 0o6000)
os.unlink(path)
said
"""
    *said, bits = ask(probe, code)
    assert bits == 0 and set(said) <= {"EPERM", "ENOSYS"}


@table(
    ("a capability of a file", "os.close(made('/tmp/capable'))\n"
     "attempted(os.setxattr, '/tmp/capable', 'security.capability', bytes.fromhex('0100000201000000000000000000000000000000'))", "EPERM"),
    ("an immutable file", "f = made('immutable')\nattempted(fcntl.ioctl, f, 0x40086602, struct.pack('l', 0x10))", {"EPERM", "ENOTTY", "EOPNOTSUPP"}),
    ("another owner", "os.close(made('/tmp/owned'))\nattempted(os.chown, '/tmp/owned', 0, 0)", {"EPERM", "EINVAL"}),
    ("setuid", "attempted(os.setuid, 0)", {"EPERM", "EINVAL"}),
    ("setgid", "attempted(os.setgid, 0)", {"EPERM", "EINVAL"}),
    ("setresuid", "attempted(os.setresuid, 0, 0, 0)", {"EPERM", "EINVAL"}),
    ("setgroups", "attempted(os.setgroups, [0])", {"EPERM", "EINVAL"}),
    ("an ambient capability", "forked(lambda: libc.prctl(47, 2, 21, 0, 0))", "-1"),
    ("secure bits", "forked(lambda: libc.prctl(28, 0, 0, 0, 0))", "-1"),
    ("no_new_privs off", "forked(lambda: libc.prctl(38, 0, 0, 0, 0))", "-1"),
    ("real-time scheduling", "attempted(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(10))", "EPERM"),
    ("a better priority", "attempted(os.setpriority, os.PRIO_PROCESS, 0, -10)", {"EPERM", "EACCES"}),
    ("every capability set is empty",
     "{l.split()[0]: int(l.split()[1], 16) for l in open('/proc/self/status') if l.startswith('Cap')}",
     {"CapInh:": 0, "CapPrm:": 0, "CapEff:": 0, "CapBnd:": 0, "CapAmb:": 0}),
    ("no_new_privs and a filter", "[l.split()[1] for l in open('/proc/self/status') if l.startswith(('NoNewPrivs:', 'Seccomp:'))]", ["1", "2"]),
    ("no group of the host", "os.getgroups() in ([], [1000], [65534])", True),
    ("core files", "resource.getrlimit(resource.RLIMIT_CORE)[1] <= 1", True),
)
def test_no_privilege_is_there_and_none_to_be_had(probe, code, wanted):
    if isinstance(wanted, dict):
        assert ask(probe, code) == wanted
    else:
        check(probe, code, wanted)


def test_a_child_program_has_no_more(probe):
    """What exec may change: capabilities, no_new_privs, the filter, what is mounted."""
    code = ("out = subprocess.run(['grep', '-E', '^(Cap|NoNewPrivs|Seccomp:)', '/proc/self/status'], "
            "capture_output=True, text=True).stdout\n"
            "{l.split()[0]: int(l.split()[1], 16) for l in out.splitlines()}")
    assert ask(probe, code) == {"CapInh:": 0, "CapPrm:": 0, "CapEff:": 0, "CapBnd:": 0, "CapAmb:": 0,
                                "NoNewPrivs:": 1, "Seccomp:": 2}


# --- the working directory, and what else is shared

@in_a_shared_directory
def test_what_a_cell_writes_is_there_and_belongs_to_the_owner_of_the_directory(probe):
    probe.run("import os, subprocess\nopen('file', 'w').write('by a cell')\nos.makedirs('deep/er', exist_ok=True)\n"
              "subprocess.run('echo by a program > deep/er/file', shell=True)\nos.symlink('file', 'link')")
    assert (probe.cwd / "file").read_text() == "by a cell"
    assert (probe.cwd / "deep/er/file").read_text() == "by a program\n"
    owner = probe.cwd.stat()
    for name in ("file", "deep", "deep/er/file", "link"):
        made = (probe.cwd / name).lstat()
        assert (made.st_uid, made.st_gid) == (owner.st_uid, owner.st_gid), name


@in_a_shared_directory
def test_a_link_in_the_directory_leads_nowhere_outside(probe):
    secret = probe.cwd.parent / "linked"
    secret.write_text("s3cret")
    os.symlink(secret, probe.cwd / "to-secret")
    os.symlink("../linked", probe.cwd / "to-secret-relative")
    os.symlink(os.path.expanduser("~"), probe.cwd / "to-home")
    os.symlink("/proc/1/root", probe.cwd / "to-root")
    os.symlink("/", probe.cwd / "to-top")
    assert ask(probe, "[opens('to-secret'), opens('to-secret-relative')]") == ["ENOENT", "ENOENT"]
    assert ask(probe, "attempted(os.listdir, 'to-root')") in ("EACCES", "EPERM")
    assert ask(probe, "opens('to-top/etc/shadow')") == "ENOENT"
    with tempfile.NamedTemporaryFile(dir=os.path.expanduser("~"), prefix=".husk-test-") as f:
        assert ask(probe, f"opens('to-home/{os.path.basename(f.name)}')") == "ENOENT"


def test_a_cell_makes_no_hard_link_to_what_it_cannot_write(probe):
    for path in ("os.path.realpath('/bin/sh')", "os.__file__", "os.path.realpath(sys.executable)", "'/proc/self/exe'"):
        assert ask(probe, f"attempted(os.link, {path}, 'hard')") in ("EXDEV", "EPERM", "EACCES", "EROFS"), path
    assert not (probe.cwd / "hard").exists()


def test_a_descriptor_of_the_directory_does_not_lead_out(probe):
    code = ("d = os.open('.', os.O_RDONLY)\nup = d\nfor _ in range(40): up = os.open('..', os.O_RDONLY, dir_fd=up)\n"
            "sorted(os.listdir(up)) == sorted(os.listdir('/')) and opens('/etc/shadow')")
    assert ask(probe, code) == "ENOENT"


@pytest.mark.parametrize("kind", ["home", "root"])
def test_home_and_root_are_not_shared_as_working_directory(make_kernel, tmp_path, kind):
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("s3cret")
    kernel = prepare(make_kernel(cwd=home if kind == "home" else "/",
                                 env={"HOME": str(home), "XDG_STATE_HOME": str(tmp_path / "state")}))
    name = f"husk-test-{os.getpid()}"
    assert ask(kernel, f"open({name!r}, 'w').write('x')") == 1
    assert ask(kernel, f"opens({str(home / 'secret')!r})") == "ENOENT"
    assert not (home / name).exists() and not os.path.exists(f"/{name}")


def test_where_jupyter_keeps_connection_files_is_not_shared(make_kernel, tmp_path):
    """By default, below $XDG_DATA_HOME (jupyter_core.paths.jupyter_data_dir)."""
    runtime = tmp_path / "data" / "jupyter" / "runtime"
    runtime.mkdir(parents=True)
    (runtime / "kernel-1.json").write_text("key")
    env = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_STATE_HOME": str(tmp_path / "state")}
    kernel = prepare(make_kernel(cwd=tmp_path / "data", env=env))
    assert ask(kernel, "os.path.exists('jupyter/runtime/kernel-1.json')") is False


def test_a_guarded_repository_takes_no_settings_from_elsewhere(make_kernel, tmp_path):
    """.git/commondir would move config and hooks of the repository to a place that a cell writes."""
    for name in (".git/config", ".git/hooks/pre-commit", ".git/HEAD"):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    kernel = make_kernel(cwd=tmp_path / "project")
    assert kernel.run("open('.git/commondir', 'w').write('../evil')").status == "error"


def environment(directory, *options):
    subprocess.run([conftest.PYTHON, "-m", "venv", "--without-pip", *options, str(directory)], check=True, timeout=120)
    return directory / "bin" / "python", next((directory / "lib").glob("python*")) / "site-packages"


def test_an_environment_made_in_the_working_directory_itself_cannot_be_changed(make_kernel, tmp_path):
    """python -m venv . : pyvenv.cfg decides which standard library runs, outside, at the next start."""
    python, _ = environment(tmp_path / "project")
    kernel = make_kernel("--python", str(python), cwd=tmp_path / "project",
                         env={"XDG_STATE_HOME": str(tmp_path / "state")})
    config = tmp_path / "project" / "pyvenv.cfg"
    before = config.read_text()
    kernel.run("open('pyvenv.cfg', 'a').write('home = /evil')")
    kernel.run(f"open({str(config)!r}, 'a').write('home = /evil')")
    kernel.run("import os; os.rename('pyvenv.cfg', 'old'); open('pyvenv.cfg', 'w').write('home = /evil')")
    assert config.read_text() == before


def test_a_python_in_the_working_directory_itself_cannot_be_replaced(make_kernel, tmp_path):
    """It runs outside of the sandbox at the next start."""
    project = tmp_path / "project"
    project.mkdir()
    python = project / "py"
    target = os.path.realpath(conftest.PYTHON)
    python.symlink_to(target)
    kernel = make_kernel("--python", str(python), cwd=project, env={"XDG_STATE_HOME": str(tmp_path / "state")})
    kernel.run(f"import os; os.unlink({str(python)!r}); open({str(python)!r}, 'w').write('#!/bin/sh')")
    assert os.readlink(python) == target


def test_no_pyvenv_cfg_can_be_made_beside_the_python(make_kernel, tmp_path):
    """project/bin/python: Python looks for pyvenv.cfg beside itself and one directory above."""
    project = tmp_path / "project"
    (project / "bin").mkdir(parents=True)
    python = project / "bin" / "python"
    python.symlink_to(os.path.realpath(conftest.PYTHON))
    kernel = make_kernel("--python", str(python), cwd=project, env={"XDG_STATE_HOME": str(tmp_path / "state")})
    for name in (project / "pyvenv.cfg", project / "bin" / "pyvenv.cfg"):
        kernel.run(f"open({str(name)!r}, 'w').write('home = /evil')")
        assert not name.exists(), name


@pytest.mark.parametrize("way", ["--python", "PATH"])
def test_a_link_in_the_working_directory_that_leads_to_python_cannot_be_replaced(make_kernel, tmp_path, way):
    """project/.venv -> elsewhere, a usual layout: what is behind the name runs outside at the next start."""
    python, _ = environment(tmp_path / "env")
    project = tmp_path / "project"
    project.mkdir()
    link = project / ".venv"
    link.symlink_to(tmp_path / "env")
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    if way == "PATH":
        env["PATH"] = f"{link / 'bin'}:{os.environ['PATH']}"
    options = ["--python", str(link / "bin" / "python")] if way == "--python" else []
    kernel = make_kernel(*options, cwd=project, env=env)
    kernel.run(f"import os; os.unlink({str(link)!r}); os.symlink('evil', {str(link)!r})")
    kernel.run(f"import os; os.rename({str(link)!r}, {str(link) + '2'!r})")
    assert link.is_symlink() and os.readlink(link) == str(tmp_path / "env")


def test_a_link_outside_that_leads_through_one_inside_cannot_be_replaced(make_kernel, tmp_path):
    environment(tmp_path / "env")
    project = tmp_path / "project"
    project.mkdir()
    inner = project / "inner"
    inner.symlink_to(tmp_path / "env")
    (tmp_path / "outer").symlink_to(inner)
    kernel = make_kernel("--python", str(tmp_path / "outer" / "bin" / "python"), cwd=project,
                         env={"XDG_STATE_HOME": str(tmp_path / "state")})
    kernel.run(f"import os; os.unlink({str(inner)!r}); os.symlink('evil', {str(inner)!r})")
    assert os.readlink(inner) == str(tmp_path / "env")


def test_a_directory_that_a_pth_file_adds_is_visible_and_read_only(make_kernel, tmp_path):
    added = tmp_path / "added"
    added.mkdir()
    (added / "husk_added.py").write_text("value = 42")
    python, site = environment(tmp_path / "venv")
    (site / "added.pth").write_text(f"{added}\n")
    (tmp_path / "secret").write_text("s3cret")
    kernel = make_kernel("--python", str(python))
    assert kernel.run("import husk_added; husk_added.value").value == "42"
    assert kernel.run("open(husk_added.__file__, 'a')").ename in ("OSError", "PermissionError")
    assert kernel.run(f"open({str(added / 'new')!r}, 'w')").ename in ("OSError", "PermissionError")
    assert kernel.run(f"open({str(site / 'new')!r}, 'w')").ename in ("OSError", "PermissionError")
    assert kernel.run(f"open({str(tmp_path / 'secret')!r})").ename == "FileNotFoundError"


def test_a_user_site_is_visible_and_read_only_and_the_home_around_it_is_not(make_kernel, tmp_path):
    home = tmp_path / "home"
    python, _ = environment(tmp_path / "venv", "--system-site-packages")
    site = home / ".local" / "lib" / (tmp_path / "venv" / "lib").glob("python*").__next__().name / "site-packages"
    site.mkdir(parents=True)
    (site / "husk_user.py").write_text("value = 42")
    (home / ".local" / "secret").write_text("s3cret")
    kernel = make_kernel("--python", str(python), env={"HOME": str(home), "PYTHONNOUSERSITE": ""})
    assert kernel.run("import husk_user; husk_user.value").value == "42"
    assert kernel.run("open(husk_user.__file__, 'a')").ename in ("OSError", "PermissionError")
    assert kernel.run(f"open({str(home / '.local' / 'secret')!r})").ename == "FileNotFoundError"


def test_a_pth_file_cannot_show_home_or_tmp(make_kernel, tmp_path):
    """Less is seen, and nothing fails, when Python's path holds a directory that stays hidden."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("s3cret")
    python, site = environment(tmp_path / "venv")
    (site / "wide.pth").write_text(f"{home}\n{tmp_path}\n/\n/tmp\n/run\n/home\n/etc\n/proc\n")
    kernel = make_kernel("--python", str(python), env={"HOME": str(home)})
    assert kernel.run(f"open({str(home / 'secret')!r})").ename == "FileNotFoundError"
    assert kernel.run("open('/etc/shadow')").ename == "FileNotFoundError"
    assert kernel.run("import os; os.listdir('/run')").value == "[]"


def test_a_python_behind_a_chain_of_links_starts(make_kernel, tmp_path):
    python, _ = environment(tmp_path / "venv")
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "py").symlink_to(tmp_path / "second" / "py")
    (tmp_path / "second" / "py").symlink_to(python)
    kernel = make_kernel("--python", str(tmp_path / "first" / "py"))
    assert kernel.run("6 * 7").value == "42"


# --- two sandboxes

MEET = """
import mmap
for d in ('/tmp', '/var/tmp', '/run', '/dev/shm', os.path.expanduser('~')):
    open(d + '/husk-meet', 'w').write('1')
abstract = socket.socket(socket.AF_UNIX); abstract.bind('\\0husk-meet'); abstract.listen()
named = socket.socket(socket.AF_UNIX); named.bind('/tmp/husk-meet.sock'); named.listen()
tcp = socket.create_server(('127.0.0.1', 45678))
child = subprocess.Popen(['sleep', '4242'])
libc.mq_open.restype = ctypes.c_int
ids = [libc.shmget(0x4855, 4096, 0o1666), libc.semget(0x4855, 1, 0o1666), libc.msgget(0x4855, 0o1666),
       libc.syscall(QUEUE, b'husk-meet', os.O_CREAT | os.O_RDWR, 0o666, None)]
min(ids)
"""


@pytest.fixture(scope="module", params=PROFILES)
def pair(request, tmp_path_factory):
    kernels = [prepare(conftest.Kernel(tmp_path_factory.mktemp("pair"), "--profile", request.param))
               for _ in range(2)]
    queue = 240 if X86 else 180
    assert ask(kernels[0], MEET.replace("QUEUE", str(queue))) >= 0
    yield kernels[1]
    for k in kernels:
        k.stop()


@table(
    ("files", "[d for d in ('/tmp', '/var/tmp', '/run', '/dev/shm', os.path.expanduser('~'))"
     " if os.path.exists(d + '/husk-meet')]", []),
    ("abstract sockets", "attempted(socket.socket(socket.AF_UNIX).connect, '\\0husk-meet')", "ECONNREFUSED"),
    ("named sockets", "attempted(socket.socket(socket.AF_UNIX).connect, '/tmp/husk-meet.sock')", "ENOENT"),
    ("ports", "attempted(socket.create_connection, ('127.0.0.1', 45678), 3)", "ECONNREFUSED"),
    ("processes", "[p for p in os.listdir('/proc') if p.isdigit() and b'4242' in open(f'/proc/{p}/cmdline', 'rb').read()]", []),
    ("shared memory", "libc.shmget(0x4855, 4096, 0)", -1),
    ("semaphores", "libc.semget(0x4855, 1, 0)", -1),
    ("message queues", "libc.msgget(0x4855, 0)", -1),
    ("POSIX queues", "os.listdir('/dev/mqueue')", []),
)
def test_two_sandboxes_do_not_meet(pair, code, wanted):
    check(pair, code, wanted)


def test_two_sandboxes_are_different_users_where_husk_may_choose(pair, probe):
    """As root: on the host no two have one uid, and none has uid 0."""
    uids = [ask(k, "int(open('/proc/self/uid_map').read().split()[1])") for k in (pair, probe)]
    if os.getuid() == 0:
        assert uids[0] != uids[1] and 0 not in uids
    else:
        assert set(uids) == {os.getuid()}
