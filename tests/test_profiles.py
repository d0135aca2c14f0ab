# SPDX-License-Identifier: BSD-3-Clause
"""Profiles and mounts: what a sandbox sees of the host, and what it is refused."""

import os
import pathlib
import signal
import socket
import subprocess
import time

import conftest
import psutil
import pytest


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    directory = tmp_path_factory.mktemp("strict")
    work = directory / "work"
    work.mkdir()
    (work / "secret.txt").write_text("of the host")
    k = conftest.Kernel(directory, "--profile", "strict", cwd=work)
    yield k
    k.stop()


def start_fails(directory, *options, env=None):
    """The one line that says why a kernel with these options does not start."""
    connection = directory / "connection.json"
    connection.write_text(
        '{"transport": "ipc", "ip": "%s", "key": "k", "signature_scheme": "hmac-sha256",'
        '"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}'
        % (directory / "socket"))
    done = subprocess.run(
        [conftest.HUSK, "kernel", "-f", str(connection), "--python", conftest.PYTHON, *map(str, options)],
        capture_output=True, text=True, timeout=conftest.TIMEOUT, cwd=directory,
        env={**os.environ, **(env or {})})
    lines = done.stderr.splitlines()
    assert done.returncode in (64, 71, 78) and len(lines) == 1, done
    return lines[0]


# --- options that cannot be meant

@pytest.mark.parametrize("options, words", [
    (["--env", "=x"], "the name of a variable"), (["--env", "a b=x"], "the name of a variable"), (["--env", ""], "the name of a variable"),
    (["--files", "63"], "a process needs 64 at least"),
    (["--memory", "1g", "--tmp-size", "1025m"], "--tmp-size 1.0 GiB is more than --memory 1 GiB, which it counts in")],
    ids=["a variable without a name", "a name with a space", "no variable", "too few files", "more in memory than memory"])
def test_an_option_that_cannot_be_meant_is_refused(tmp_path, options, words):
    assert words in start_fails(tmp_path, *options)


# --- strict


def test_strict_starts_in_an_empty_workspace(strict):
    assert strict.run("import os; os.getcwd(), os.listdir('.')").value == "('/workspace', [])"


def test_strict_has_a_home_that_names_nobody(strict):
    assert strict.run("import os; os.path.expanduser('~'), os.environ['HOME']").value == "('/home/user', '/home/user')"
    # A Python that lies in somebody's home is there at its own path, and nothing beside it is.
    assert strict.run("import sys; set(os.listdir('/home')) - {*sys.prefix.split('/'), "
                      "*sys.base_prefix.split('/')}").value == "{'user'}"


def test_strict_sees_nothing_of_the_directory_that_the_client_named(strict):
    result = strict.run(f"open({str(strict.cwd / 'secret.txt')!r})")
    assert result.ename in ("FileNotFoundError", "PermissionError")


@pytest.mark.parametrize("path", ["/workspace/a", "/home/user/a", "/tmp/a", "/var/tmp/a", "/dev/shm/a"])
def test_strict_can_write_where_it_is_at_home(strict, path):
    assert strict.run(f"open({path!r}, 'w').write('x'); open({path!r}).read()").value == "'x'"


@pytest.mark.parametrize("path", ["/a", "/usr/a", "/etc/a", "/home/a", "/var/a", "/opt/a"])
def test_strict_can_write_nowhere_else(strict, path):
    assert strict.run(f"open({path!r}, 'w')").ename in ("OSError", "PermissionError", "FileNotFoundError")


def test_strict_keeps_its_files_when_the_interpreter_is_replaced(strict):
    strict.run("open('/workspace/kept', 'w').write('k'); open('/home/user/kept', 'w').write('k')")
    strict.run("os._exit(1)")
    assert strict.run("open('/workspace/kept').read() + open('/home/user/kept').read()").value == "'kk'"
    strict.run("import os")


def test_strict_takes_no_working_directory(tmp_path):
    assert "--workdir" in start_fails(tmp_path, "--profile", "strict", "--workdir", tmp_path)


def test_there_are_only_so_many_profiles(tmp_path):
    assert "there is no profile 'lax'" in start_fails(tmp_path, "--profile", "lax")


def test_packages_of_the_user_are_importable_in_strict(make_kernel, tmp_path):
    """They lie below the home of the host, which is another one inside."""
    home = tmp_path / "home"
    version = subprocess.run([conftest.PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                             capture_output=True, text=True, check=True).stdout.strip()
    site = home / ".local" / "lib" / f"python{version}" / "site-packages"
    site.mkdir(parents=True)
    (site / "of_the_user.py").write_text("value = 5")
    kernel = make_kernel("--profile", "strict", env={"HOME": str(home), "PYTHONPATH": str(site)})
    assert kernel.run("import of_the_user; of_the_user.value").value == "5"
    assert "Read-only" in kernel.run("open(of_the_user.__file__, 'w')").evalue


# --- layers


def layers(home):
    directory = home / ".local/state/husk/sandboxes"
    return list(directory.iterdir()) if directory.exists() else []


def wait_until(condition):
    end = time.monotonic() + conftest.TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def home(tmp_path):
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


def at(home):
    return {"HOME": str(home), "XDG_STATE_HOME": ""}


@pytest.mark.parametrize("profile", ["strict", "notebook"])
def test_private_directories_are_on_disk_and_go_with_the_sandbox(make_kernel, home, profile):
    kernel = make_kernel("--profile", profile, env=at(home))
    kernel.run("import os; open(os.path.expanduser('~/x'), 'w').write('on disk')")
    (layer,) = layers(home)
    assert (layer / "home/x").read_text() == "on disk"
    assert layer.stat().st_mode & 0o777 == 0o700
    kernel.stop()
    wait_until(lambda: not layers(home))


HOSTILE = """
import os
def deep(name, levels, part):
    os.makedirs(name); top = os.open(name, os.O_RDONLY); fd = top
    for i in range(levels):
        os.mkdir(part, dir_fd=fd); new = os.open(part, os.O_RDONLY, dir_fd=fd)
        if fd != top: os.close(fd)
        fd = new
    os.close(os.open('leaf', os.O_CREAT | os.O_WRONLY, dir_fd=fd)); os.close(fd); os.close(top)
deep('deep', 1500, 'd' * 200)        # a path of 300 kB
deep('shallow', 3, '.1')             # names that a remover might use itself
for i in range(5): os.makedirs(f'closed/{i}/in'); open(f'closed/{i}/in/f', 'w').close()
for i in range(5): os.chmod(f'closed/{i}/in', 0o500); os.chmod(f'closed/{i}', 0)
os.chmod('closed', 0o400)
os.symlink('/etc', 'out'); os.symlink('..', 'up'); os.symlink('out', 'again')
os.mkfifo('fifo')
import socket; s = socket.socket(socket.AF_UNIX); s.bind('socket')
os.mkdir('many')
for i in range(3000): open(f'many/{i}', 'w').close()
os.mkdir('odd'); open(b'odd/\\xff\\n', 'w').close(); os.mkdir('odd/ - rf')
os.chmod('.', 0o500)
"""


def test_the_tree_of_a_hostile_cell_goes_too(make_kernel, home):
    kernel = make_kernel("--profile", "strict", env=at(home))
    assert kernel.run(HOSTILE).status == "ok"
    kernel.stop()
    wait_until(lambda: not layers(home))
    assert os.path.exists("/etc/passwd")


def test_what_a_killed_broker_left_is_removed_by_the_next(make_kernel, home):
    kernel = make_kernel("--profile", "strict", env=at(home))
    assert kernel.run(HOSTILE).status == "ok"
    for process in psutil.Process(kernel.pid).children():
        process.send_signal(signal.SIGKILL)
    kernel.stop()
    assert len(layers(home)) == 1
    other = make_kernel("--profile", "strict", env=at(home))
    wait_until(lambda: len(layers(home)) == 1)
    assert other.run("open('/workspace/x', 'w').write('x')").status == "ok"
    third = make_kernel("--profile", "strict", env=at(home))
    time.sleep(0.5)  # it looks for left ones, and must not take those of the living
    assert other.run("open('/workspace/x').read()").value == "'x'"
    assert third.run("import os; os.listdir('/workspace')").value == "[]"


def test_a_state_directory_that_cannot_be_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert "file/husk" in start_fails(tmp_path, env={"XDG_STATE_HOME": str(tmp_path / "file")})


# --- mounts


@pytest.fixture
def data(tmp_path):
    directory = tmp_path / "data"
    (directory / "sub").mkdir(parents=True)
    (directory / "file.txt").write_text("of the host")
    (directory / ".git").mkdir()
    (directory / ".git" / "config").write_text("before")
    return directory


def test_a_mount_is_read_only_at_its_own_path_unless_said(make_kernel, data):
    kernel = make_kernel("--profile", "strict", "--mount", data)
    assert kernel.run(f"open('{data}/file.txt').read()").value == "'of the host'"
    assert "Read-only" in kernel.run(f"open('{data}/file.txt', 'w')").evalue
    assert "Read-only" in kernel.run(f"open('{data}/new', 'w')").evalue


@pytest.mark.parametrize("target", ["/data", "/home/user/data", "/workspace/data", "/mnt/a/b", "/tmp/data", "/opt/data"])
def test_a_mount_appears_where_it_is_asked_for(make_kernel, data, target):
    kernel = make_kernel("--profile", "strict", "--mount", f"{data}:{target}:rw")
    assert kernel.run(f"open('{target}/new', 'w').write('x'); open('{target}/file.txt').read()").value == "'of the host'"
    assert (data / "new").read_text() == "x"
    assert (data / "new").owner() == data.owner()


def test_what_runs_later_on_the_host_is_read_only_in_a_mount_too(make_kernel, data):
    kernel = make_kernel("--profile", "strict", "--mount", f"{data}:/data:rw")
    assert "Read-only" in kernel.run("open('/data/.git/config', 'w')").evalue
    assert kernel.run("import os; os.rename('/data/.git', '/data/x')").ename == "OSError"
    assert (data / ".git/config").read_text() == "before"


def test_a_single_file_can_be_mounted(make_kernel, data):
    kernel = make_kernel("--profile", "strict", "--mount", f"{data}/file.txt:/data/one.txt:ro",
                         "--mount", f"{data}/file.txt:/data/two.txt:rw")
    assert kernel.run("open('/data/one.txt').read()").value == "'of the host'"
    assert "Read-only" in kernel.run("open('/data/one.txt', 'w')").evalue
    assert kernel.run("open('/data/two.txt', 'w').write('changed')").status == "ok"
    assert (data / "file.txt").read_text() == "changed"


def test_a_mount_works_beside_a_shared_directory(make_kernel, data):
    kernel = make_kernel("--mount", f"{data}:/data")
    kernel.run("open('here', 'w').write('x')")
    assert (kernel.cwd / "here").exists()
    assert kernel.run("open('/data/file.txt').read()").value == "'of the host'"


def test_a_relative_mount_means_the_directory_of_whoever_says_it(tmp_path, data):
    specs = conftest.spec_directory
    cwd = os.getcwd()
    os.chdir(data)
    try:
        directory = specs(tmp_path / "spec", "--mount", "./sub//:/data:ro", "--mount=.")
    finally:
        os.chdir(cwd)
    text = (directory / "husk" / "kernel.json").read_text()
    assert f'"{data}/sub:/data:ro"' in text and f'"--mount={data}:{data}:ro"' in text


# Somebody's own Python is often in their home, and says so first.
PYTHON_IN_HOME = {"above the home inside": "hide the Python"} if conftest.PYTHON.startswith("/home/") else {}

REFUSED_SOURCES = {
    "a link": ("{data}/link", "symbolic link"),
    "below a link": ("{data}/link/sub", "symbolic link"),
    "a socket": ("{data}/socket", "neither a directory nor a regular file"),
    "a fifo": ("{data}/fifo", "neither a directory nor a regular file"),
    "a device": ("/dev/null", "devices"),
    "nothing": ("{data}/none", "No such file"),
    "the home": ("{home}", "your home directory"),
    "above the home": ("{home}/..", "plain form"),
    "what contains the home": ("/", "contains your home"),
    "processes": ("/proc", "of the host"),
    "sockets of the host": ("/run", "of the host"),
    "husk's state": ("{home}/.local/state/husk", "stays hidden"),
    "above husk's state": ("{home}/.local", "stays hidden"),
    "the system, to be written": ("/usr/share:/data:rw", "to be written"),
    "etc, to be written": ("/etc:/data:rw", "to be written"),
    "no mode": ("{data}:/data:rx", "is not SRC"),
    "a relative target": ("{data}:data", "absolute DST"),
    "no source": (":/data", "is not SRC"),
    "empty": ("", "is not SRC"),
    "onto the root": ("{data}:/", "stands there"),
    "onto the system": ("{data}:/usr", "the system stands there"),
    "into the system": ("{data}:/usr/local/data", "the system stands there"),
    "onto proc": ("{data}:/proc/1", "the system stands there"),
    "onto etc": ("{data}:/etc", "the system stands there"),
    "onto tmp": ("{data}:/tmp", "private directory"),
    "onto the home": ("{data}:/home/user", "home directory stands there"),
    "above the home inside": ("{data}:/home", "home directory stands there"),
    "onto the workspace": ("{data}:/workspace", "working directory stands there"),
}


@pytest.mark.outcome(lambda case: REFUSED_SOURCES[case][1])
@pytest.mark.parametrize("case", REFUSED_SOURCES)
def test_a_mount_that_cannot_be_meant_is_refused_with_the_reason(tmp_path, data, home, case):
    spec, reason = REFUSED_SOURCES[case]
    os.symlink(data, data / "link")
    os.mkfifo(data / "fifo")
    server = socket.socket(socket.AF_UNIX)
    os.chdir(data)  # a short name for the socket
    server.bind("socket")
    os.chdir(pathlib.Path(__file__).parent)
    line = start_fails(tmp_path, "--profile", "strict", "--mount", spec.format(data=data, home=home),
                       env=at(home))
    assert PYTHON_IN_HOME.get(case, reason) in line, line


def test_two_mounts_do_not_share_a_target(tmp_path, data):
    assert "two mounts" in start_fails(tmp_path, "--profile", "strict", "--mount", f"{data}:/data",
                                       "--mount", f"{data}/sub:/data")


def test_the_python_that_runs_is_not_mounted_to_be_written(tmp_path, data):
    prefix = pathlib.Path(subprocess.run([conftest.PYTHON, "-c", "import sys; print(sys.prefix)"],
                                         capture_output=True, text=True, check=True).stdout.strip())
    if prefix == pathlib.Path("/usr"):
        wanted = "belongs to the system"
    else:
        wanted = "the Python itself lies there"
    assert wanted in start_fails(tmp_path, "--profile", "strict", "--mount", f"{prefix}:/data:rw")


# --- host name


def test_the_host_name_is_as_asked(make_kernel):
    kernel = make_kernel("--hostname", "box-7")
    assert kernel.run("import socket, os; socket.gethostname(), os.uname().nodename").value == "('box-7', 'box-7')"
    assert kernel.run("socket.gethostbyname('box-7')").value == "'127.0.0.1'"


@pytest.mark.parametrize("name", ["UPPER", "a b", "", "x" * 80, "a/b"])
def test_a_host_name_that_is_none_is_refused(tmp_path, name):
    assert "hostname" in start_fails(tmp_path, "--hostname", name)
