# SPDX-License-Identifier: BSD-3-Clause
"""Profile image: a root file system of its own, from a directory or an archive.

HUSK_IMAGE names a tar of a small Debian with Python; without it make-image.sh makes one, once, in
build/ (that needs root and a network).
"""

import fcntl
import gzip
import hashlib
import io
import json
import os
import pathlib
import subprocess
import tarfile
import time
import urllib.parse
import zipfile

import conftest
import psutil
import pytest

ROOT = os.geteuid() == 0
UNPACK = conftest.PREFIX / "libexec" / "husk" / "husk-unpack"
# Whether an image has more users than its root: an ordinary user needs rows in /etc/subuid and /etc/subgid.
SUBORDINATE = not ROOT and subprocess.run(["unshare", "--user", "--map-root-user", "--map-auto", "true"],
                                          capture_output=True, timeout=60).returncode == 0
MANY = ROOT or SUBORDINATE
CAPABILITIES = 0x800000FB if MANY else 0  # chown, dac_override, fowner, fsetid, kill, setgid, setuid, setfcap
PYTHON = ("--python", "python3")


# --- the image of the tests


@pytest.fixture(scope="session")
def image_tar():
    said = os.environ.get("HUSK_IMAGE")
    if said:
        return pathlib.Path(said)
    tests = pathlib.Path(__file__).resolve().parent
    path = tests.parent / "build" / "test-image.tar"
    path.parent.mkdir(exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([tests / "make-image.sh", path], check=True, capture_output=True, timeout=900)
    return path


@pytest.fixture(scope="session")
def image(image_tar, tmp_path_factory):
    """An unpacked root file system that belongs to whoever runs the tests."""
    directory = tmp_path_factory.mktemp("image") / "debian"
    directory.mkdir()
    subprocess.run(["tar", "-C", directory, "--exclude=./dev/*", "-xpf", image_tar], check=True, timeout=300)
    yield directory
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=True, timeout=300)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Looks like a root file system, and has no Python."""
    directory = tmp_path_factory.mktemp("small")
    (directory / "usr/bin").mkdir(parents=True)
    return directory


def sh(kernel, command, timeout=conftest.TIMEOUT):
    """Runs a command inside; what it printed, and fails with that if it fails."""
    result = kernel.run(
        "import subprocess as s\n"
        f"r = s.run({command!r}, shell=True, stdout=s.PIPE, stderr=s.STDOUT, text=True)\n"
        "print(r.stdout, end=''); r.returncode", timeout=timeout)
    assert result.value == "0", (command, result.stdout, result.stderr, result.evalue)
    return result.stdout.strip()


@pytest.fixture(scope="module")
def kernel(image, tmp_path_factory):
    k = conftest.Kernel(tmp_path_factory.mktemp("kernel"), "--profile", "image", "--image", image, *PYTHON)
    conftest.refuse_what_is_shared(k)
    yield k
    k.stop()


def listing(directory):
    """Changes with whatever is changed in the tree."""
    digest = hashlib.sha256()
    for top, directories, files in os.walk(directory):
        directories.sort()
        for name in sorted([*directories, *files, "."]):
            path = os.path.join(top, name)
            st = os.lstat(path)
            digest.update(repr((path, st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_nlink,
                                st.st_mtime_ns, st.st_ctime_ns)).encode())
    return digest.hexdigest()


# --- what is there


def test_the_root_is_the_image(kernel):
    assert 'VERSION_CODENAME=bookworm' in kernel.run("open('/etc/os-release').read()").value
    assert kernel.run("import sys; sys.executable").value == "'/usr/bin/python3'"
    assert sh(kernel, "dpkg-query -W -f '${db:Status-Status}' python3") == "installed"


def test_cells_are_root_in_a_private_workspace(kernel):
    assert kernel.run("import os; os.getuid(), os.getgid(), os.getgroups()").value in ("(0, 0, [])", "(0, 0, [0])", "(0, 0, [65534])")
    assert kernel.run("os.getcwd(), os.environ['HOME'], os.path.expanduser('~'), os.listdir()").value == \
        "('/workspace', '/root', '/root', [])"
    assert sh(kernel, "whoami") == "root"


@pytest.mark.parametrize("path", ["/usr/a", "/etc/a", "/root/a", "/a", "/workspace/a", "/tmp/a", "/run/a",
                                  "/var/tmp/a", "/dev/shm/a", "/opt/new/a"])
def test_cells_can_write(kernel, path):
    assert sh(kernel, f"mkdir -p $(dirname {path}) && echo x >{path} && cat {path}") == "x"


def test_names_and_hosts_are_those_of_the_sandbox(kernel):
    assert sh(kernel, "cat /etc/hostname") == "husk"
    assert sh(kernel, "hostname") == "husk"
    assert "husk" in sh(kernel, "cat /etc/hosts")
    assert "nameserver" not in sh(kernel, "cat /etc/resolv.conf")


def test_husk_itself_is_read_only(kernel):
    path = conftest.PREFIX / "lib/husk/interpreter/husk_interpreter/kernel.py"
    assert kernel.run(f"open({str(path)!r}, 'a')").ename in ("OSError", "PermissionError")
    assert kernel.run(f"import os; os.chmod({str(path)!r}, 0o777)").ename in ("OSError", "PermissionError")


def test_nothing_of_the_host_is_there(kernel, image, tmp_path):
    (tmp_path / "secret").write_text("of the host")
    assert kernel.run(f"open({str(tmp_path / 'secret')!r})").ename == "FileNotFoundError"
    # husk's own interpreter package is there at its own path, and nothing beside it is.
    assert kernel.run(f"import os; set(os.listdir('/home')) - set({str(conftest.PREFIX)!r}.split('/'))"
                      ).value == "set()"
    shadow = kernel.run("open('/etc/shadow').read()").value
    assert eval(shadow) == (image / "etc/shadow").read_text()
    root = [line for line in sh(kernel, "cat /proc/self/mountinfo").splitlines() if line.split()[4] == "/"]
    assert len(root) == 1 and str(image) not in root[0] and "lowerdir=l,upperdir=d/u,workdir=d/w" in root[0]


def test_a_mount_appears_as_in_strict(make_kernel, image, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("of the host")
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON, "--mount", f"{data}:/data",
                         "--mount", f"{data}:/shared:rw")
    assert sh(kernel, "cat /data/file; echo x >/shared/new") == "of the host"
    assert kernel.run("open('/data/x', 'w')").ename == "OSError"
    assert (data / "new").stat().st_uid == os.getuid()
    # A set-uid file would act on the host.
    assert kernel.run("import os; os.chmod('/shared/new', 0o4755)").ename == "PermissionError"
    assert (data / "new").stat().st_mode & 0o6000 == 0


# --- what stays


def wait_for_no_layers(directory):
    end = time.monotonic() + conftest.TIMEOUT
    while any(d.is_dir() for d in directory.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_changes_are_private_and_gone_with_the_kernel(make_kernel, image):
    before = listing(image)
    one, two = (make_kernel("--profile", "image", "--image", image, *PYTHON) for _ in range(2))
    sh(one, "echo mine >/etc/mine; rm /usr/bin/apt-get; chmod 700 /usr/share; rm -r /usr/share/doc; echo >>/etc/passwd")
    assert sh(two, "ls -d /usr/bin/apt-get /usr/share/doc | wc -l; test ! -e /etc/mine") == "2"
    one.run("import os; os._exit(1)")
    assert sh(one, "cat /etc/mine") == "mine"  # another interpreter, the same sandbox
    one.stop()
    three = make_kernel("--profile", "image", "--image", image, *PYTHON)
    assert three.run("import os; os.path.exists('/etc/mine'), os.path.exists('/usr/bin/apt-get')").value == "(False, True)"
    two.stop()
    three.stop()
    assert listing(image) == before


def test_the_layer_goes_with_the_sandbox(make_kernel, image, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON,
                         env={"HOME": str(home), "XDG_STATE_HOME": ""})
    sh(kernel, "cp -a /usr/lib/apt /usr/lib/apt2; rm -r /usr/lib/apt; mkdir -m 0 /closed")
    layers = home / ".local/state/husk/sandboxes"
    (layer,) = [d for d in layers.iterdir() if d.is_dir()]
    assert layer.stat().st_mode & 0o777 == 0o700
    kernel.stop()
    wait_for_no_layers(layers)


def test_the_disk_limit_is_that_of_the_layer(make_kernel, image):
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON, "--disk", "64m")
    result = kernel.run("""
import time
with open('/usr/big', 'wb') as f:
    for i in range(300):
        f.write(bytes(1 << 20)); f.flush(); time.sleep(0.02)
""")
    assert result.status == "error"


# --- packages


def ar_member(name, data):
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return head + data + b"\n" * (len(data) % 2)


def tar_of(*members):
    """(name, type or content, uid, gid, mode) -> a gzipped tar."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content, uid, gid, mode in members:
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.mode = uid, gid, mode
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return gzip.compress(raw.getvalue())


def write_deb(directory, name, depends, members, **scripts):
    control = (f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: husk <husk@invalid>\n"
               + (f"Depends: {depends}\n" if depends else "") + f"Description: {name}\n")
    inner = [("./", None, 0, 0, 0o755), ("./control", control.encode(), 0, 0, 0o644)]
    inner += [(f"./{k}", v.encode(), 0, 0, 0o755) for k, v in scripts.items()]
    deb = b"!<arch>\n" + ar_member("debian-binary", b"2.0\n") + ar_member("control.tar.gz", tar_of(*inner)) + \
        ar_member("data.tar.gz", tar_of(*members))
    path = directory / f"{name}_1.0_all.deb"
    path.write_bytes(deb)
    return control + (f"Filename: ./{path.name}\nSize: {len(deb)}\n"
                      f"SHA256: {hashlib.sha256(deb).hexdigest()}\n\n")


POSTINST = """#!/bin/sh
set -e
groupadd --system probe
useradd --system -g probe -d /var/lib/probe probe
chown probe:probe /var/lib/probe
chown games:games /var/lib/probe/own
mkfifo /var/lib/probe/fifo
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    directory = tmp_path_factory.mktemp("repository") / "repo"
    directory.mkdir()
    index = write_deb(directory, "probe-data", None, [
        ("./", None, 0, 0, 0o755), ("./var/", None, 0, 0, 0o755), ("./var/lib/", None, 0, 0, 0o755),
        ("./var/lib/probe/", None, 33, 33, 0o2770), ("./var/lib/probe/own", b"mine", 13, 8, 0o640)])
    index += write_deb(directory, "probe", "probe-data, dpkg", [
        ("./", None, 0, 0, 0o755), ("./usr/", None, 0, 0, 0o755), ("./usr/bin/", None, 0, 0, 0o755),
        ("./usr/bin/probe", b"#!/bin/sh\necho probed\n", 0, 0, 0o4755)],
        postinst=POSTINST, postrm="#!/bin/sh\nset -e\nuserdel probe\n")
    (directory / "Packages").write_text(index)
    directory.chmod(0o755)
    return directory


def owner(name):
    """With neither root outside nor subordinate users there is one user inside."""
    return name if MANY else "root"


def test_apt_installs_and_removes(make_kernel, image, repository):
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON, "--mount", f"{repository}:/repo")
    sh(kernel, "echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list; apt-get update")
    out = sh(kernel, "DEBIAN_FRONTEND=noninteractive apt-get install -y probe")
    assert "Setting up probe (1.0)" in out and "W:" not in out
    assert sh(kernel, "probe; getent passwd probe | cut -d: -f6").split() == ["probed", "/var/lib/probe"]
    assert sh(kernel, "stat -c '%U %a' /usr/bin/probe") == "root 4755"
    assert sh(kernel, "stat -c '%U:%G' /var/lib/probe") == f"{owner('probe')}:{owner('probe')}"
    assert sh(kernel, "stat -c '%U:%G %a' /var/lib/probe/own") == f"{owner('games')}:{owner('games')} 640"
    assert sh(kernel, "stat -c %F /var/lib/probe/fifo") == "fifo"
    sh(kernel, "apt-get remove -y probe; ! getent passwd probe; ! test -e /usr/bin/probe; dpkg --audit")


def test_apt_installs_from_the_mirror_that_is_allowed_and_not_without(make_kernel, image):
    """A real package, from the mirror that made the image."""
    sources = (image / "etc/apt/sources.list").read_text().split()
    url = urllib.parse.urlsplit(next(word for word in sources if "://" in word))
    mirror = f"{url.hostname}:{url.port or {'http': 80, 'https': 443}[url.scheme]}"
    options = ("--profile", "image", "--image", image, *PYTHON, "--allow")
    kernel = make_kernel(*options, mirror)
    out = sh(kernel, "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install hello && hello",
             timeout=3 * conftest.TIMEOUT)
    assert "Setting up hello" in out and out.endswith("Hello, world!") and "W:" not in out
    other = make_kernel(*options, "another.example")
    result = other.run("import subprocess as s; s.run(['apt-get', '-q', 'update']); "
                       "s.run(['apt-get', '-qy', 'install', 'hello']).returncode", timeout=3 * conftest.TIMEOUT)
    assert result.value == "100", result.stdout
    assert f"husk: {url.hostname} was refused: no --allow names it" in result.stderr


def test_processes_of_other_users_inside_end_with_the_interpreter(make_kernel, image):
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON)
    become = "os.setgid(33); os.setuid(33); " if MANY else ""
    sh(kernel, f"python3 -c 'import os; {become}os.execlp(\"tail\", \"tail\", \"-f\", \"/dev/null\")' "
               ">/dev/null 2>&1 & until grep -qx tail /proc/[0-9]*/comm; do sleep 0.05; done")
    kernel.run("import os; os._exit(1)")
    assert "tail" not in sh(kernel, "cat /proc/[0-9]*/comm").split()


def test_dpkg_installs_files(make_kernel, image, repository):
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON, "--mount", f"{repository}:/repo")
    sh(kernel, "dpkg -i /repo/probe-data_1.0_all.deb /repo/probe_1.0_all.deb && probe")
    assert sh(kernel, "dpkg --verify probe probe-data; dpkg-query -W -f '${db:Status-Status}' probe").endswith("installed")


def test_pip_installs_a_wheel(make_kernel, image, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "probed-1.0-py3-none-any.whl", "w") as z:
        z.writestr("probed.py", "value = 7\n")
        z.writestr("probed-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: probed\nVersion: 1.0\n")
        z.writestr("probed-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: husk\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("probed-1.0.dist-info/RECORD", "probed.py,,\nprobed-1.0.dist-info/METADATA,,\n"
                                                  "probed-1.0.dist-info/WHEEL,,\nprobed-1.0.dist-info/RECORD,,\n")
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON, "--mount", f"{wheels}:/wheels")
    sh(kernel, "pip install --no-index --break-system-packages /wheels/*.whl")
    assert kernel.run("import probed; probed.value, probed.__file__").value.startswith("(7, '/usr/local/lib/")


# --- containment


def outside(kernel, field):
    """That line of /proc/PID/status of everything in the sandbox, as the host sees it."""
    found = []
    for process in psutil.Process(kernel.pid).children(recursive=True):
        status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines())
        if len(status["NSpid"].split()) > 1:
            found.append(status[field].split())
    return found


def test_root_inside_is_not_root_outside(kernel):
    uids, gids = outside(kernel, "Uid"), outside(kernel, "Gid")
    assert len(uids) >= 2
    for ids, mine in ((uids, os.getuid()), (gids, os.getgid())):
        for row in ids:
            if ROOT:
                assert all(0x71000000 <= int(i) < 0x80000000 for i in row)
            else:
                assert all(int(i) == mine for i in row)


def test_two_sandboxes_have_no_user_in_common(kernel, make_kernel, image):
    """With root; an ordinary user has one id, and those that the administrator gave."""
    other = make_kernel("--profile", "image", "--image", image, *PYTHON)
    one, two = ([int(n) for n in sh(k, "cat /proc/self/uid_map").split()] for k in (kernel, other))
    if ROOT:
        assert one[0] == 0 and one[2] == 65536 and abs(one[1] - two[1]) >= 65536
    else:
        assert one == two and one[:3] == [0, os.getuid(), 1]
        assert len(one) == (6 if SUBORDINATE else 3) and (not SUBORDINATE or one[3::2] == [1, 65535])


def test_there_are_no_capabilities_but_those_of_packages(kernel):
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert {int(row[0], 16) for row in outside(kernel, name)} == {CAPABILITIES}
    for name in ("CapInh", "CapAmb"):
        assert {int(row[0], 16) for row in outside(kernel, name)} == {0}
    assert {row[0] for row in outside(kernel, "NoNewPrivs")} == {"1"}
    assert "Seccomp:\t2" in sh(kernel, "cat /proc/self/status")


def test_who_is_not_root_has_none(kernel):
    said = sh(kernel, "python3 -c 'import os; os.setgroups([]); os.setgid(33); os.setuid(33); "
                      "os.execvp(\"cat\", [\"cat\", \"/proc/self/status\", \"/etc/shadow\"])' || true")
    assert "CapEff:\t0000000000000000" in said and "CapPrm:\t0000000000000000" in said
    if MANY:  # else it was answered, and not done
        assert "Uid:\t33\t33" in said and "/etc/shadow: Permission denied" in said


def test_subordinate_users_are_not_let_into_a_shared_directory(make_kernel, image, tmp_path):
    """They would own files there that the user cannot remove. With root the directory is id-mapped."""
    shared = tmp_path / "shared"
    shared.mkdir()
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON, "--mount", f"{shared}:/shared:rw")
    sh(kernel, "touch /shared/f; chown 33:33 /shared/f || true")
    if not ROOT:
        assert len(sh(kernel, "cat /proc/self/uid_map").splitlines()) == 1
        assert (shared / "f").stat().st_uid == os.getuid()


def own_state(tmp_path):
    """A state directory that is no other kernel's; where the sandboxes lie in it."""
    return {"XDG_STATE_HOME": str(tmp_path / "state")}, tmp_path / "state" / "husk" / "sandboxes"


def directories(place):
    """Those of sandboxes; with root there is a file beside them."""
    return [d for d in place.iterdir() if d.is_dir()]


OF_OTHERS = "mkdir -p /opt/d/e && touch /opt/d/e/f && chown -R 33:33 /opt/d && chmod 700 /opt/d /opt/d/e"


def test_what_other_users_of_an_image_made_is_removed(make_kernel, image, tmp_path):
    env, sandboxes = own_state(tmp_path)
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON, env=env)
    sh(kernel, OF_OTHERS)
    assert sh(kernel, "stat -c %u /opt/d/e/f") == ("33" if MANY else "0")
    kernel.stop()
    end = time.monotonic() + 30
    while directories(sandboxes) and time.monotonic() < end:
        time.sleep(0.1)
    assert not directories(sandboxes)


def test_what_other_users_made_is_removed_by_the_next_kernel(make_kernel, image, tmp_path):
    env, sandboxes = own_state(tmp_path)
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON, env=env)
    sh(kernel, OF_OTHERS)
    left, = directories(sandboxes)
    for process in [*psutil.Process(kernel.pid).children(), psutil.Process(kernel.pid)]:
        process.kill()
    assert left.exists()
    make_kernel("--profile", "strict", env=env)
    end = time.monotonic() + 30
    while len(directories(sandboxes)) > 1 and time.monotonic() < end:
        time.sleep(0.1)
    assert len(directories(sandboxes)) == 1 and not left.exists()


def test_what_other_users_wrote_counts(make_kernel, image):
    kernel = make_kernel("--profile", "image", "--image", image, *PYTHON, "--disk", "200m")
    result = kernel.run(f"""
import os, subprocess, time
subprocess.run({OF_OTHERS!r}, shell=True, check=True)
try:
    with open('/opt/d/e/big', 'wb') as f:
        for _ in range(2000):
            f.write(bytes(1 << 20)); f.flush(); os.chown('/opt/d/e/big', 33, 33); time.sleep(0.005)
except OSError as e: print(e.errno)
os.path.getsize('/opt/d/e/big') < 1500 << 20""", timeout=120)
    assert (result.stdout, result.value) == ("27\n", "True") or "disk" in (result.evalue or ""), (result.stdout, result.evalue)


PROBE = """
import ctypes, errno, os
c = ctypes.CDLL(None, use_errno=True)
def call(*a):
    return errno.errorcode.get(ctypes.get_errno(), '0') if c.syscall(*a) < 0 else 'done'
"""
# x86_64 and arm64
NUMBERS = {
    "unshare": (272, 97), "mount": (165, 40), "umount2": (166, 39), "setns": (308, 268), "ptrace": (101, 117),
    "pivot_root": (155, 41), "chroot": (161, 51), "bpf": (321, 280), "keyctl": (250, 219), "fsopen": (430, 430),
    "open_tree": (428, 428), "move_mount": (429, 429), "open_by_handle_at": (304, 265), "perf_event_open": (298, 241),
    "init_module": (175, 105), "sethostname": (170, 161), "process_vm_readv": (310, 270), "userfaultfd": (323, 282),
}


@pytest.mark.outcome("EPERM")
@pytest.mark.parametrize("name", NUMBERS)
def test_root_is_refused(kernel, name):
    number = NUMBERS[name][os.uname().machine == "aarch64"]
    kernel.run(PROBE)
    assert kernel.run(f"call({number}, 0x10000000, 0, 0, 0, 0, 0)").value == "'EPERM'"


@pytest.mark.outcome("EPERM")
def test_clone_makes_no_user_namespace(kernel):
    kernel.run(PROBE)
    number = 220 if os.uname().machine == "aarch64" else 56
    assert kernel.run(f"call({number}, 0x10000000 | 17, 0, 0, 0, 0)").value == "'EPERM'"


@pytest.mark.outcome("OSError")
@pytest.mark.parametrize("family", [38, 17, 40, 15])
def test_sockets_are_few(kernel, family):
    assert kernel.run(f"import socket; socket.socket({family}, socket.SOCK_RAW)").ename == "OSError"


@pytest.mark.parametrize("path", ["/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/1/root/etc", "/proc/kcore",
                                  "/proc/kallsyms"])
def test_pid_1_and_the_kernel_show_nothing(kernel, path):
    result = kernel.run(f"import os; os.listdir({path!r}) if os.path.isdir({path!r}) else open({path!r}, 'rb').read(1)")
    assert result.value in (None, "b''"), result.value


@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches"])
def test_the_machine_is_not_changed(kernel, path):
    assert kernel.run(f"f = os.open({path!r}, os.O_WRONLY); os.write(f, b'x')").status == "error"


def test_there_are_no_device_nodes(kernel):
    kernel.run("import os, stat\ntry: os.mknod('/root/dev', stat.S_IFBLK | 0o666, os.makedev(254, 0))\nexcept OSError: pass")
    assert kernel.run("os.path.exists('/root/dev')").value == "False"


def test_set_uid_gives_nothing(kernel):
    sh(kernel, "cp /usr/bin/id /usr/bin/id2; chmod 4755 /usr/bin/id2; chown 1 /usr/bin/id2; chmod 4755 /usr/bin/id2")
    assert sh(kernel, "id2 -u") == "0"


# --- what is refused


def start_fails(directory, *options, code=71, **arguments):
    """The one line that says why a kernel with these options does not start."""
    connection = directory / "connection.json"
    connection.write_text(
        '{"transport": "ipc", "ip": "%s", "key": "k", "signature_scheme": "hmac-sha256",'
        '"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}'
        % (directory / "socket"))
    done = subprocess.run([conftest.HUSK, "kernel", "-f", str(connection), *map(str, options)],
                          capture_output=True, text=True, timeout=conftest.TIMEOUT, cwd=directory, **arguments)
    lines = done.stderr.splitlines()
    assert done.returncode == code and len(lines) == 1, done
    return lines[0]


def test_an_image_and_its_profile_go_together(tmp_path, small):
    assert "--image needs --profile image" in start_fails(tmp_path, "--image", small, code=64)
    assert "--image needs --profile image" in start_fails(tmp_path, "--profile", "strict", "--image", small, code=64)
    assert "needs --image" in start_fails(tmp_path, "--profile", "image", code=64)
    assert "--workdir" in start_fails(tmp_path, "--profile", "image", "--image", small, "--workdir", tmp_path, code=64)


def with_python(directory):
    (directory / "usr/bin").mkdir(parents=True, exist_ok=True)
    python = directory / "usr/bin/python3"
    if not python.exists():
        python.write_text("#!/bin/sh\n")
        python.chmod(0o755)
    return directory


def refused(directory, image, **arguments):
    return start_fails(directory, "--profile", "image", "--image", image, code=78, **arguments)


def test_directories_that_are_no_image(tmp_path):
    assert "'/' is not used as an image" in refused(tmp_path, "/")
    home = with_python(tmp_path / "home")
    assert "is your home directory" in refused(tmp_path, home, env={**os.environ, "HOME": str(home)})
    state = with_python(tmp_path / "state")
    assert "stays hidden" in refused(tmp_path, state, env={**os.environ, "XDG_STATE_HOME": str(state)})
    link = tmp_path / "link"
    link.symlink_to(with_python(tmp_path / "good"))
    assert "symbolic link" in refused(tmp_path, link)
    (tmp_path / "other/bin2").mkdir(parents=True)
    (tmp_path / "other/python3").write_text("")
    (tmp_path / "other/python3").chmod(0o755)
    assert "holds no root file system" in start_fails(
        tmp_path, "--profile", "image", "--image", tmp_path / "other", "--python", "/python3", code=78)
    assert "connection file" in refused(tmp_path, with_python(tmp_path))


def test_an_image_of_somebody_else(tmp_path):
    if not ROOT:
        return  # cannot make one
    other = with_python(tmp_path / "other")
    os.chown(other, 1234, 1234)
    assert "belongs to user 1234" in refused(tmp_path, other)


def test_an_image_that_is_nowhere(tmp_path):
    assert "No such file" in start_fails(tmp_path, "--profile", "image", "--image", tmp_path / "none")
    os.mkfifo(tmp_path / "fifo")
    assert "neither a directory nor a file" in start_fails(tmp_path, "--profile", "image", "--image", tmp_path / "fifo")


def test_an_image_without_python(tmp_path, small):
    line = start_fails(tmp_path, "--profile", "image", "--image", small, code=72)
    assert "the image has no python3" in line
    line = start_fails(tmp_path, "--profile", "image", "--image", small, "--python", "/usr/bin/python9", code=72)
    assert "has no program '/usr/bin/python9'" in line


def test_a_python_of_an_image_runs_nowhere_but_inside(tmp_path):
    """It is no Python, and says so when it starts there."""
    image = tmp_path / "image"
    (image / "usr/bin").mkdir(parents=True)
    python = image / "usr/bin/python3"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    python.chmod(0o755)
    start_fails(tmp_path, "--profile", "image", "--image", image, code=72)
    assert not (tmp_path / "ran").exists()


def test_a_link_in_an_image_leads_nowhere_outside(tmp_path):
    image = with_python(tmp_path / "image")
    (image / "etc").symlink_to(tmp_path)
    start_fails(tmp_path, "--profile", "image", "--image", image, code=78)
    assert not (tmp_path / "hostname").exists()
    (image / "etc").unlink()
    (image / "workspace").symlink_to(tmp_path)
    start_fails(tmp_path, "--profile", "image", "--image", image, code=78)


# --- archives


def entry(name, kind=tarfile.REGTYPE, content=b"", mode=0o755, link="", size=None):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    info.size = len(content) if size is None else size
    return info, content


DIRECTORY = tarfile.DIRTYPE
BASE = [entry("usr", DIRECTORY), entry("usr/bin", DIRECTORY), entry("usr/bin/x", content=b"x")]


def tar_bytes(entries, mode="w"):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def unpack(directory, source):
    """(the root file system or None, what was wrong)"""
    images = directory / "images"
    images.mkdir(exist_ok=True)
    done = subprocess.run([UNPACK, source, images], capture_output=True, text=True, timeout=conftest.TIMEOUT)
    assert not (images / "work").exists()
    line = done.stdout.strip()
    return (images / line[1:], "") if line.startswith("=") else (None, line)


def unpack_bytes(directory, data):
    (directory / "i.tar").write_bytes(data)
    return unpack(directory, directory / "i.tar")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_is_unpacked(tmp_path, mode):
    root, why = unpack_bytes(tmp_path, tar_bytes([
        *BASE, entry("usr/lib", tarfile.SYMTYPE, link="bin"), entry("abs", tarfile.SYMTYPE, link="/usr/bin/x"),
        entry("hard", tarfile.LNKTYPE, link="usr/bin/x"), entry("dev/null", tarfile.CHRTYPE),
        entry("usr/bin/\u00e4", content=b"a", mode=0o4555)], mode))
    assert root, why
    assert (root / "usr/bin/x").read_bytes() == b"x" and (root / "hard").stat().st_ino == (root / "usr/bin/x").stat().st_ino
    assert os.readlink(root / "usr/lib") == "bin" and os.readlink(root / "abs") == "/usr/bin/x"
    assert not (root / "dev/null").exists() and (root / "usr/bin/\u00e4").exists()
    assert root.stat().st_uid == os.getuid()


HOSTILE = {
    "absolute": ([entry("/etc/x", content=b"x")], "absolute"),
    "parent": ([entry("../x", content=b"x")], "'..'"),
    "parent in the middle": ([entry("usr/../../x", content=b"x")], "'..'"),
    "link out": ([entry("usr/l", tarfile.SYMTYPE, link="../../x")], "leads outside"),
    "hard link out": ([entry("h", tarfile.LNKTYPE, link="../x")], "leads outside"),
    "absolute hard link": ([entry("h", tarfile.LNKTYPE, link="/etc/passwd")], "leads outside"),
    "through a link": ([entry("l", tarfile.SYMTYPE, link="/tmp"), entry("l/escaped", content=b"x")], "entry 'l/escaped'"),
    "block device": ([entry("usr/sda", tarfile.BLKTYPE)], "device"),
    "character device": ([entry("usr/mem", tarfile.CHRTYPE)], "device"),
    "huge": ([entry("usr/huge", size=1 << 50)], "beyond all measure"),
}


@pytest.mark.outcome(lambda case: HOSTILE[case][1])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tar_is_refused(tmp_path, case):
    entries, why = HOSTILE[case]
    raw = b"".join(info.tobuf(tarfile.GNU_FORMAT) + content.ljust(512 if content else 0, b"\0")
                   for info, content in [*BASE, *entries]) + bytes(1024)
    root, said = unpack_bytes(tmp_path, raw)
    assert root is None and why in said and "\n" not in said
    assert not os.path.exists("/tmp/escaped") and not (tmp_path / "x").exists()
    assert [p.name for p in (tmp_path / "images").iterdir() if not p.name.startswith("file-")] == []


@pytest.mark.parametrize("cut", [100, 700, 1024 + 256])
def test_a_truncated_tar_is_refused(tmp_path, cut):
    data = tar_bytes([*BASE, entry("usr/bin/y", content=bytes(5000))])
    root, said = unpack_bytes(tmp_path, data[:1536 + 512 + cut])
    assert root is None and "damaged" in said
    root, said = unpack_bytes(tmp_path, gzip.compress(data)[:-20])
    assert root is None and said


@pytest.mark.parametrize("data", [b"", b"not a tar at all" * 100, bytes(10240), gzip.compress(b"text", mtime=0)],
                         ids=["nothing", "text", "zeros", "compressed text"])
def test_what_is_no_tar_is_refused(tmp_path, data):
    root, said = unpack_bytes(tmp_path, data)
    assert root is None and said


def test_a_hostile_tar_is_one_line_of_husk(tmp_path):
    (tmp_path / "bad.tar").write_bytes(tar_bytes([*BASE, entry("../x")]))
    line = start_fails(tmp_path, "--profile", "image", "--image", tmp_path / "bad.tar",
                       env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")})
    assert "bad.tar' is not unpacked: entry '../x'" in line


def test_an_archive_is_unpacked_once(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes(BASE))
    first, _ = unpack(tmp_path, tmp_path / "a.tar")
    made = first.stat().st_ctime_ns
    assert unpack(tmp_path, tmp_path / "a.tar")[0] == first
    (tmp_path / "b.tar").write_bytes((tmp_path / "a.tar").read_bytes())
    assert unpack(tmp_path, tmp_path / "b.tar")[0] == first and first.stat().st_ctime_ns == made
    (tmp_path / "a.tar").write_bytes(tar_bytes([*BASE, entry("more")]))
    assert unpack(tmp_path, tmp_path / "a.tar")[0] != first


def test_what_a_killed_one_left_is_no_image(tmp_path):
    (tmp_path / "images/work/root/usr").mkdir(parents=True)
    root, _ = unpack_bytes(tmp_path, tar_bytes(BASE))
    assert (root / "usr/bin/x").exists()


LAYERS = [
    tar_bytes([*BASE, entry("etc", DIRECTORY), entry("etc/old", content=b"1"), entry("etc/kept", content=b"1"),
               entry("opt", DIRECTORY), entry("opt/a", content=b"1"), entry("opt/d", DIRECTORY), entry("opt/d/e")]),
    tar_bytes([entry("etc/.wh.old"), entry("etc/kept", content=b"2"), entry("opt/new", content=b"2"),
               entry("opt/.wh..wh..opq")], "w:gz"),
]
APPLIED = {"etc": ["kept"], "opt": ["new"], "usr/bin": ["x"]}


def check_layers(root, why):
    assert root, why
    assert {d: sorted(os.listdir(root / d)) for d in APPLIED} == APPLIED
    assert (root / "etc/kept").read_text() == "2"


def docker_save(layers):
    manifest = json.dumps([{"Config": "c.json", "Layers": [f"{i}/layer.tar" for i in range(len(layers))]}]).encode()
    return tar_bytes([entry(f"{i}/layer.tar", content=layer) for i, layer in enumerate(layers)]
                     + [entry("manifest.json", content=manifest)])


def oci_layout(directory, layers):
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data):
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    manifest = put(json.dumps({"layers": [put(layer) for layer in layers]}).encode())
    other = {"digest": "sha256:" + "0" * 64, "platform": {"os": "plan9", "architecture": "mips"}}
    index = put(json.dumps({"manifests": [other, manifest]}).encode())
    (directory / "index.json").write_text(json.dumps({"manifests": [index]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


def test_the_layers_of_docker_save(tmp_path):
    check_layers(*unpack_bytes(tmp_path, docker_save(LAYERS)))


def test_an_oci_layout_as_a_directory_and_as_a_tar(tmp_path):
    layout = oci_layout(tmp_path / "layout", LAYERS)
    check_layers(*unpack(tmp_path, layout))
    subprocess.run(["tar", "-C", layout, "-cf", tmp_path / "layout.tar", "."], check=True)
    check_layers(*unpack(tmp_path, tmp_path / "layout.tar"))


def test_a_layer_that_was_changed_is_refused(tmp_path):
    layout = oci_layout(tmp_path / "layout", LAYERS)
    for blob in (layout / "blobs/sha256").iterdir():
        if blob.read_bytes() == LAYERS[1]:
            blob.write_bytes(LAYERS[1] + b"\0")
    root, said = unpack(tmp_path, layout)
    assert root is None and "another digest" in said


@pytest.mark.outcome(lambda case: HOSTILE[case][1])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_upper_layer_is_refused(tmp_path, case):
    entries, why = HOSTILE[case]
    raw = b"".join(info.tobuf(tarfile.GNU_FORMAT) + content.ljust(512 if content else 0, b"\0")
                   for info, content in entries) + bytes(1024)
    root, said = unpack_bytes(tmp_path, docker_save([LAYERS[0], raw]))
    assert root is None and why in said


@pytest.mark.parametrize("path", ["l/.wh.victim", "l/.wh..wh..opq"])
def test_a_whiteout_removes_nothing_outside(tmp_path, path):
    victim = tmp_path / "victim"
    victim.write_text("x")
    layers = [tar_bytes([*BASE, entry("l", tarfile.SYMTYPE, link=str(tmp_path))]), tar_bytes([entry(path)])]
    unpack_bytes(tmp_path, docker_save(layers))
    assert victim.exists()


@pytest.mark.parametrize("manifest, why", [
    (b"[]", "no image"), (b"{", "manifest.json"), (b'[{"Layers": ["../../etc/passwd"]}]', "open"),
    (b'[{"Layers": ["/etc/passwd"]}]', "open"), (b'[{"Layers": [5]}]', "no image"),
    (b'[{"Layers": ["a"]}, {"Layers": ["a"]}]', "holds 2 images"),
])
def test_a_manifest_that_makes_no_sense(tmp_path, manifest, why):
    root, said = unpack_bytes(tmp_path, tar_bytes([entry("manifest.json", content=manifest)]))
    assert root is None and why in said


def test_a_kernel_runs_in_an_archive(image_tar, make_kernel, tmp_path):
    state = tmp_path / "state"
    for _ in range(2):
        kernel = make_kernel("--profile", "image", "--image", image_tar, *PYTHON, env={"XDG_STATE_HOME": str(state)})
        assert sh(kernel, "apt-get check >/dev/null; touch /usr/x; id -u") == "0"
        kernel.stop()
    images = [p for p in (state / "husk/images").iterdir() if p.is_dir() and not p.is_symlink()]
    assert len(images) == 1 and not (images[0] / "usr/x").exists()
    wait_for_no_layers(state / "husk/sandboxes")
    subprocess.run(["rm", "-rf", "--one-file-system", state], check=True, timeout=300)
