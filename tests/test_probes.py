# SPDX-License-Identifier: BSD-3-Clause
"""Probes that run as cells inside real sandboxes: what a cell tries, and what it gets.

Each row is a claim, code whose value is what happened, and what must have happened. The helpers
below are defined inside the sandbox; nothing here runs on the machine itself.
"""

import os
import pathlib
import pwd
import socket

import pytest

PRELUDE = r'''
import ctypes, errno, os, socket, struct, sys, stat
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def call(number, *args):
    """A system call by number: 'OK' or the name of the errno."""
    ctypes.set_errno(0)
    r = libc.syscall(ctypes.c_long(number), *[a if isinstance(a, (bytes, type(None))) else ctypes.c_long(a) for a in args])
    return "OK" if r >= 0 else errno.errorcode[ctypes.get_errno()]

def attempt(f, *args, **kwargs):
    try:
        f(*args, **kwargs)
        return "OK"
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))

def fork_call(f):
    """What becomes of a child that runs f: 'signal N' or 'exit N'."""
    pid = os.fork()
    if pid == 0:
        try:
            f()
        finally:
            os._exit(7)
    status = os.waitpid(pid, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"

def run_code(machine):
    import mmap
    m = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    m.write(machine)
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
'''

NAMESPACES = {"NEWNS": 0x20000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000, "NEWIPC": 0x8000000,
              "NEWUSER": 0x10000000, "NEWPID": 0x20000000, "NEWNET": 0x40000000, "NEWTIME": 0x80}
# x86-64 numbers of calls that are refused whatever their arguments
REFUSED = {"ptrace": 101, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
           "setns": 308, "unshare": 272, "swapon": 167, "reboot": 169, "init_module": 175,
           "kexec_load": 246, "add_key": 248, "keyctl": 250, "perf_event_open": 298,
           "name_to_handle_at": 303, "open_by_handle_at": 304, "process_vm_readv": 310,
           "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "bpf": 321,
           "userfaultfd": 323, "open_tree": 428, "move_mount": 429, "fsopen": 430,
           "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447, "sethostname": 170,
           "settimeofday": 164, "clock_settime": 227, "iopl": 172, "modify_ldt": 154,
           "capset": 126, "fanotify_init": 300, "quotactl": 179, "acct": 163, "syslog": 103}
FAMILIES = {"AF_ALG": 38, "AF_VSOCK": 40, "AF_PACKET": 17, "AF_KEY": 15, "AF_RXRPC": 33,
            "AF_XDP": 44, "AF_TIPC": 30, "AF_BLUETOOTH": 31, "AF_CAN": 29, "AF_SMC": 43}

CLAIMS = [
    *((f"{name} is refused", f"call({no}, 0, 0, 0, 0, 0)", "EPERM") for name, no in REFUSED.items()),
    *((f"clone with CLONE_{n} is refused", f"call(56, {flag} | 17, 0, 0, 0, 0)", "EPERM")
      for n, flag in NAMESPACES.items()),
    ("clone3 answers as an old kernel does", "call(435, 0, 0)", "ENOSYS"),
    ("io_uring answers as an old kernel does", "call(425, 1, 0)", "ENOSYS"),
    ("openat2 answers as an old kernel does", "call(437, 0, 0, 0, 0)", "ENOSYS"),
    ("a number that no kernel has", "call(9999)", "ENOSYS"),
    *((f"{name} sockets are refused", f"attempt(socket.socket, {no}, socket.SOCK_DGRAM, 0)", "EAFNOSUPPORT")
      for name, no in FAMILIES.items()),
    ("netlink XFRM is refused", "attempt(socket.socket, 16, socket.SOCK_RAW, 6)", "EPROTONOSUPPORT"),
    ("netlink NETFILTER is refused", "attempt(socket.socket, 16, socket.SOCK_RAW, 12)", "EPROTONOSUPPORT"),
    ("raw sockets are refused", "attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)", "EPERM"),
    ("TIOCSTI is refused", "call(16, 0, 0x5412, 0)", "EPERM"),
    ("TIOCSTI with high bits is refused", "call(16, 0, 0x100005412, 0)", "EPERM"),
    ("TIOCLINUX is refused", "call(16, 0, 0x541c, 0)", "EPERM"),
    ("limits of pid 1 cannot be set", "call(302, 1, 0, 0, 0)", "EPERM"),
    ("ASLR cannot be switched off", "call(135, 0x40000)", "EPERM"),
    ("the i386 ABI kills", "fork_call(lambda: run_code(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3'))", "signal 31"),
    ("the x32 ABI kills", "fork_call(lambda: call(0x40000000 + 39))", "signal 31"),
    ("chmod gives no set-uid bit", "open('/tmp/a','w'); attempt(os.chmod, '/tmp/a', 0o4755)", "EPERM"),
    ("fchmod gives no set-gid bit", "attempt(os.fchmod, os.open('/tmp/b', os.O_CREAT|os.O_RDWR), 0o2755)", "EPERM"),
    ("open makes no set-uid file", "attempt(os.open, '/tmp/c', os.O_CREAT|os.O_WRONLY, 0o4755)", "EPERM"),
    ("mknod makes no set-uid file", "attempt(os.mknod, '/tmp/d', stat.S_IFREG | 0o4755)", "EPERM"),
    ("mknod makes no device", "attempt(os.mknod, '/tmp/e', stat.S_IFBLK | 0o600, os.makedev(8, 0))", "EPERM"),
    ("uid 0 cannot be had", "attempt(os.setuid, 0)", "EINVAL"),
    ("no capability in any set",
     "sorted({l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')})", ["0" * 16]),
    ("no_new_privs is set, and a filter",
     "[l.split()[1] for l in open('/proc/self/status') if l.startswith(('NoNewPrivs', 'Seccomp:'))]", ["1", "2"]),
    ("pid 1 cannot be killed", "attempt(os.kill, 1, 9)", "EPERM"),
    *((f"/proc/1/{f} is closed", f"attempt(open, '/proc/1/{f}')", "EACCES") for f in ("environ", "mem", "maps")),
    ("/proc/1/root is closed", "attempt(os.listdir, '/proc/1/root')", "EACCES"),
    ("only processes of the sandbox are visible",
     "all(int(p) == 1 or os.stat('/proc/' + p).st_uid == 1000 for p in os.listdir('/proc') if p.isdigit())"
     " and len([p for p in os.listdir('/proc') if p.isdigit()]) < 10", True),
    *((f"/proc/{f} is closed", f"attempt(open, '/proc/{f}', 'rb')", {"EACCES", "ENOENT"})
      for f in ("kcore", "kmsg", "keys", "timer_list", "kallsyms", "kpagecount", "config.gz", "slabinfo")),
    ("/proc/sysrq-trigger is closed", "attempt(open, '/proc/sysrq-trigger', 'w')", {"EACCES", "ENOENT"}),
    ("sysctls cannot be written", "attempt(open, '/proc/sys/kernel/core_pattern', 'w')", {"EROFS", "EACCES"}),
    *((f"{d} cannot be written", f"attempt(open, '{d}/husk-test', 'w')", {"EROFS", "EACCES"})
      for d in ("/usr", "/etc", "", "/dev", "/usr/bin", "/var")),
    ("the interpreter cannot be changed", "attempt(open, os.__file__, 'a')", {"EROFS", "EACCES"}),
    ("husk's glue cannot be changed",
     "attempt(open, sys.modules['husk_interpreter.kernel'].__file__, 'a')", {"EROFS", "EACCES"}),
    ("/etc/shadow does not exist", "attempt(open, '/etc/shadow')", "ENOENT"),
    ("/sys does not exist", "attempt(os.listdir, '/sys')", "ENOENT"),
    ("no Docker socket", "os.path.exists('/var/run/docker.sock')", False),
    ("only loopback", "[n for _, n in socket.if_nameindex()]", ["lo"]),
    ("no way out over TCP", "attempt(socket.create_connection, ('192.0.2.1', 80), 3)", "ENETUNREACH"),
    ("no way out over UDP",
     "attempt(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto, b'x', ('192.0.2.1', 53))", "ENETUNREACH"),
    ("no way out over IPv6", "attempt(socket.create_connection, ('2001:db8::1', 80), 3)",
     {"ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT"}),
    ("the loopback inside works",
     "s = socket.create_server(('127.0.0.1', 0)); attempt(socket.create_connection, s.getsockname())", "OK"),
    ("nothing is inherited but what husk gave",
     "[t for t in (os.readlink(f'/proc/self/fd/{f}') for f in os.listdir('/proc/self/fd') if int(f) < 64 and"
     " os.path.lexists(f'/proc/self/fd/{f}')) if not t.startswith(('pipe:', 'socket:', '/dev/null', 'anon_inode:', '/proc/', '/tmp/'))]", []),
    ("the environment of the supervisor stays outside", "'HUSK_TEST_SECRET' in os.environ", False),
    ("devices are six, terminals and directories",
     "sorted(os.listdir('/dev'))", ["fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
                                    "stderr", "stdin", "stdout", "tty", "urandom", "zero"]),
]


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    import conftest

    k = conftest.Kernel(tmp_path_factory.mktemp("probe"), env={"HUSK_TEST_SECRET": "s3cret"})
    assert k.run(PRELUDE).status == "ok"
    yield k
    k.stop()


def value(kernel, code):
    *first, last = code.split("; ")
    result = kernel.run("; ".join(first) + f"\n_value = {last}\n_value")
    assert result.status == "ok", (result.ename, result.evalue)
    return eval(result.value)


@pytest.mark.parametrize("claim, code, wanted", CLAIMS, ids=[c[0] for c in CLAIMS])
def test_claim(probe, claim, code, wanted):
    got = value(probe, code)
    assert got in wanted if isinstance(wanted, set) else got == wanted, got


def test_secrets_of_the_host_are_not_there(probe, tmp_path):
    home = pathlib.Path(pwd.getpwuid(os.getuid()).pw_dir)
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    for path in (secret, probe.log, home / ".ssh", home / ".bashrc", home / ".bash_history"):
        assert value(probe, f"os.path.exists({str(path)!r})") is False, path


def test_the_key_is_nowhere(probe):
    key = probe.manager.get_connection_info()["key"].decode()
    half = len(key) // 2
    code = (
        f"found = []\nkey = ({key[:half]!r} + {key[half:]!r}).encode()\n"
        "for p in os.listdir('/proc'):\n"
        "    for f in ('environ', 'cmdline', 'maps'):\n"
        "        try:\n"
        "            if key in open(f'/proc/{p}/{f}', 'rb').read(): found.append((p, f))\n"
        "        except OSError: pass\n"
        "for top, _, files in os.walk(os.getcwd()):\n"
        "    for f in files:\n"
        "        try:\n"
        "            if key in open(os.path.join(top, f), 'rb').read(): found.append(f)\n"
        "        except OSError: pass\n"
    )
    assert probe.run(code).status == "ok"
    assert value(probe, "found") == []


def test_the_loopback_of_the_host_is_another(probe):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert value(probe, f"attempt(socket.create_connection, ('127.0.0.1', {port}), 3)") == "ECONNREFUSED"
    with socket.socket(socket.AF_UNIX) as server:
        name = f"\0husk-test-{os.getpid()}"
        server.bind(name)
        server.listen()
        code = f"attempt(socket.socket(socket.AF_UNIX).connect, {name!r})"
        assert value(probe, code) in ("ECONNREFUSED", "EPERM")


def test_a_link_in_the_directory_opens_nothing_outside(probe):
    os.symlink("/etc/passwd", probe.cwd / "link")
    assert "root:x:0:0:root:/nonexistent" in value(probe, "open('link').read()")


def test_two_sandboxes_do_not_meet(make_kernel):
    first, second = make_kernel(), make_kernel()
    for k in (first, second):
        assert k.run(PRELUDE).status == "ok"
    first.run("open('/tmp/x', 'w').write('1'); open('/dev/shm/x', 'w').write('1')\n"
              "s = socket.socket(socket.AF_UNIX); s.bind('\\0husk-meet'); s.listen()\n"
              "t = socket.create_server(('127.0.0.1', 45678))\n"
              "import subprocess; p = subprocess.Popen(['sleep', '4242'])\n"
              "shm = libc.shmget(0x4855, 4096, 0o1666)")
    assert value(second, "os.path.exists('/tmp/x') or os.path.exists('/dev/shm/x')") is False
    assert value(second, "attempt(socket.socket(socket.AF_UNIX).connect, '\\0husk-meet')") == "ECONNREFUSED"
    assert value(second, "attempt(socket.create_connection, ('127.0.0.1', 45678), 3)") == "ECONNREFUSED"
    assert value(second, "any('4242' in open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') if p.isdigit())") is False
    assert value(second, "libc.shmget(0x4855, 4096, 0)") == -1
