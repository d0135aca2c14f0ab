# SPDX-License-Identifier: BSD-3-Clause
"""Backend docker: the interpreter in a container, with a real dockerd that the tests start themselves.

./check-docker runs the tests of operations and others once more in containers.
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import conftest
import psutil
import pytest
from engine import IMAGE, Engine
from test_image import image_tar  # noqa: F401 - fixture
from test_network import servers  # noqa: F401 - fixture
from test_operations import Operations

pytestmark = pytest.mark.rights("root")  # as dockerd wants; some kernels here belong to somebody else
VARIABLE = "FROM_THE_IMAGE=yes: it is"


@pytest.fixture(scope="module")
def engine(image_tar, tmp_path_factory):  # noqa: F811
    # The path of a socket is short.
    directory = tmp_path_factory.mktemp("e", numbered=False)
    e = Engine(directory).start()
    try:
        e.import_tar(image_tar, changes=[f'ENV FROM_THE_IMAGE "{VARIABLE.partition("=")[2]}"'])
        yield e
    finally:
        e.stop()
        e.remove()


@pytest.fixture(autouse=True)
def here(engine, monkeypatch):
    monkeypatch.setattr(conftest, "PYTHON", "python3")
    monkeypatch.setenv("DOCKER_HOST", engine.host)


OPTIONS = ("--backend", "docker", "--image", IMAGE)


@pytest.fixture
def make(make_kernel, engine):
    def made(*options, **arguments):
        kernel = make_kernel(*OPTIONS, *options, **arguments)
        kernel.run("", silent=True)  # husk answers at once; now its container is there
        return kernel

    yield made


def labelled(engine, kernel):
    """The one container of this kernel."""
    broker = broker_of(kernel)
    found = [c for c in engine.containers() if c["Labels"].get("org.husk.owner", "").split(" ")[0] == str(broker.pid)]
    assert len(found) == 1, found
    return found[0]["Id"]


def broker_of(kernel):
    return next(p for p in psutil.Process(kernel.pid).children() if p.name() == "husk-docker")


def is_gone(engine, container, timeout=conftest.TIMEOUT):
    end = time.monotonic() + timeout
    while container in [c["Id"] for c in engine.containers()]:
        assert time.monotonic() < end, engine.inspect(container)["State"]
        time.sleep(0.05)
    return True


def husk(*arguments, **options):
    return subprocess.run([conftest.HUSK, *arguments], capture_output=True, text=True, timeout=conftest.TIMEOUT, **options)


# --- a stock client


def test_a_stock_client_executes_interrupts_and_restarts(make):
    kernel = make("--profile", "strict")
    assert kernel.run("x = 6 * 7; x").value == "42"
    assert kernel.run("import os; os.system('echo child'); print('mother')").stdout == "child\nmother\n"
    running = kernel.send("import time\nprint('begun', flush=True)\ntime.sleep(1000)")
    while kernel.client.get_iopub_msg(timeout=conftest.TIMEOUT)["msg_type"] != "stream":
        pass
    assert kernel.interrupt()["content"]["status"] == "ok"
    assert kernel.client.get_shell_msg(timeout=conftest.TIMEOUT)["content"]["ename"] == "KeyboardInterrupt"
    assert running and kernel.run("x").value == "42"
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=conftest.TIMEOUT)
    assert kernel.run("x").ename == "NameError"


def test_the_environment_is_that_of_the_image_and_of_husk(make):
    kernel = make("--env", "MINE=a b")
    code = "import os; print(os.environ['FROM_THE_IMAGE'], os.environ['MINE'], os.environ['HOME'], os.environ['PATH'])"
    assert kernel.run(code).stdout.startswith(VARIABLE.partition("=")[2] + " a b /home/user /usr/local/sbin:")


def test_the_command_line_runs_in_a_container(engine):
    r = husk("run", *OPTIONS, "-c", "import platform; print(platform.freedesktop_os_release()['ID'], 2 + 2)")
    assert (r.returncode, r.stdout) == (0, "debian 4\n"), r


# --- what a container may


def test_nothing_is_left_that_can_be_taken_from_a_container(make, engine):
    kernel = make("--profile", "strict", "--memory", "300m", "--pids", "77", "--cpus", "0.5", "--tmp-size", "20m")
    host = engine.inspect(labelled(engine, kernel))
    config, host = host["Config"], host["HostConfig"]
    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None) or host["CapAdd"] == []
    assert host["ReadonlyRootfs"] and host["NetworkMode"] == "none" and not host["Privileged"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"], host["NanoCpus"]) == (300 << 20, 300 << 20, 77, 5 * 10**8)
    assert "no-new-privileges" in host["SecurityOpt"] and any("SCMP_ACT" in o for o in host["SecurityOpt"])
    assert host["IpcMode"] == host["CgroupnsMode"] == "private" and host["PidMode"] == ""
    assert int(config["User"].split(":")[0]) >= 1000
    code = """if True:
    import os, socket
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(*(status[k].strip() for k in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")), os.getuid() > 0)
    print(*sorted(os.listdir("/sys/class/net")))
    for path in ("/new", "/usr/new", "/etc/new", "/run/husk/new"):
        try: open(path, "w")
        except OSError as e: print(path, type(e).__name__, e.errno)
    v = os.statvfs("/tmp")
    print(v.f_blocks * v.f_frsize)
    try: socket.create_connection(("192.0.2.1", 80), 1)
    except OSError as e: print("network", e.errno)
    try: socket.socket(40)
    except OSError as e: print("vsock", e.errno)
    try: os.unshare(os.CLONE_NEWUSER) if hasattr(os, "unshare") else os.chroot("/")
    except OSError as e: print("unshare", e.errno)
    """
    lines = kernel.run(code).stdout.splitlines()
    assert lines[0] == " ".join(["0" * 16] * 4 + ["1", "2", "True"])
    assert lines[1] == "lo"
    assert [line.split()[0] for line in lines[2:6]] == ["/new", "/usr/new", "/etc/new", "/run/husk/new"], lines
    assert lines[6:] == [str(20 << 20), "network 101", "vsock 97", "unshare 1"], lines


def test_pid_1_tells_nothing_and_the_socket_is_gone(make):
    kernel = make()
    code = """if True:
    import os
    print(open("/proc/1/comm").read().strip(), os.listdir("/run/husk"))
    for name in ("environ", "mem", "fd"):
        try: print(os.listdir("/proc/1/fd") if name == "fd" else open("/proc/1/" + name, "rb").read(10))
        except OSError as e: print(type(e).__name__)
    """
    assert kernel.run(code).stdout.split("\n") == ["husk-init []"] + ["PermissionError"] * 3 + [""]


@pytest.mark.parametrize("who", ["owner", "root"])
def test_the_working_directory_is_shared_if_its_owner_is_nobody_special(make, tmp_path, who):
    """A container has one user: the owner of the directory. It is never root."""
    work = tmp_path / "shared"
    work.mkdir()
    (work / "given").write_text("here")
    if who == "owner":
        shutil.chown(work, 4321, 4321)
    kernel = make(cwd=work)
    if who == "root":
        assert kernel.run("import os; print(os.getcwd(), os.listdir())").stdout == f"{work} []\n"
        return
    assert kernel.run("import os; print(open('given').read()); open('made', 'w').write('x'); os.getuid()").value == "4321"
    assert (work / "made").read_text() == "x" and (work / "made").stat().st_uid == 4321


def test_what_is_guarded_in_a_shared_directory_is_read_only(make, tmp_path):
    work = tmp_path / "shared"
    (work / ".git").mkdir(parents=True)
    for path in (work, work / ".git"):
        shutil.chown(path, 4321, 4321)
    kernel = make(cwd=work)
    assert kernel.run("open('free', 'w'); open('.git/config', 'w')").evalue.startswith("[Errno 30]")
    assert kernel.run("import os; os.rename('.git', 'x')").evalue.startswith("[Errno 16]")


def test_a_mount_that_became_something_else_is_noticed(engine, tmp_path, monkeypatch):
    """Between husk's look and the engine's, another sandbox may put a link there: the engine follows it."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    proxy = subprocess.Popen([conftest.sys.executable, pathlib.Path(__file__).parent / "swap_proxy.py", engine.socket,
                              tmp_path / "proxy.sock", good, bad], stdout=subprocess.PIPE)
    try:
        proxy.stdout.readline()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/proxy.sock")
        r = husk("run", *OPTIONS, "--mount", str(good), "-c", "print(1)")
        assert r.returncode != 0 and f"'{good}' is not what it was when husk looked at it" in r.stderr, r
        assert "step 'mounts'" in r.stderr
    finally:
        proxy.kill()
        proxy.wait()


# --- deaths


def test_deaths_and_limits_are_named(make):
    kernel = make("--memory", "200m", "--profile", "strict")
    r = kernel.run("x = bytearray(10**9)")
    assert r.ename == "InterpreterDied" and "the memory limit of 200 MiB was reached" in r.evalue
    assert "killed by signal 9" in kernel.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").evalue
    assert "it exited with status 3" in kernel.run("import os; os._exit(3)").evalue
    assert kernel.run("1 + 1").value == "2"


def test_a_container_that_is_killed_is_named(make, engine):
    kernel = make()
    engine.call("POST", f"/containers/{labelled(engine, kernel)}/kill")
    kernel.manager.provisioner.process.wait(conftest.TIMEOUT)
    assert "the container was ended from outside" in kernel.log.read_text()


@pytest.mark.parametrize("whom", ["supervisor", "broker", "both"])
def test_nothing_is_left_after_a_kill(make, engine, whom):
    kernel = make("--profile", "strict")
    container, broker = labelled(engine, kernel), broker_of(kernel)
    assert kernel.run("import subprocess; p = subprocess.Popen(['sleep', '1000'], start_new_session=True)").status == "ok"
    inside = [p for p in psutil.process_iter(["uids"]) if p.info["uids"].real == int(
        engine.inspect(container)["Config"]["User"].split(":")[0])]
    assert len(inside) >= 3
    if whom != "supervisor":
        broker.send_signal(signal.SIGKILL)
    if whom != "broker":
        os.kill(kernel.pid, signal.SIGKILL)
    assert is_gone(engine, container)
    _, alive = psutil.wait_procs(inside, 5)
    assert not alive


def test_the_end_of_a_kernel_is_the_end_of_its_container(make, engine):
    kernel = make()
    container = labelled(engine, kernel)
    kernel.manager.shutdown_kernel()
    assert is_gone(engine, container)


def test_rm_all_removes_what_a_crash_left(engine):
    """As a broker that was killed between two calls leaves it: made and not started."""
    def left(owner, user=0):
        labels = {"org.husk.user": str(user), "org.husk.owner": owner, "org.husk.id": "crashed"}
        return engine.call("POST", "/containers/create", {"Image": IMAGE, "Cmd": ["x"], "Labels": labels})[1]["Id"]

    mine = psutil.Process()
    with open("/proc/self/stat") as f:
        start = f.read().rpartition(")")[2].split()[19]
    crashed, alive, other = left("2147483 1"), left(f"{mine.pid} {start}"), left("2147483 1", 4321)
    r = husk("rm", "--all", env={**os.environ, "XDG_RUNTIME_DIR": str(engine.directory)})
    assert (r.returncode, r.stdout) == (0, "crashed\n"), r
    assert {crashed, alive, other} & {c["Id"] for c in engine.containers()} == {alive, other}
    for c in (alive, other):
        engine.call("DELETE", f"/containers/{c}")


# --- files and commands


def test_files_and_commands_go_through_the_agent(make):
    ops = Operations(make("--profile", "strict"))
    try:
        ops("files.write", path="a/b.txt", parents=True, buffers=[b"text"])
        assert ops.read("a/b.txt") == b"text"
        ran = ops("exec.run", cmd="cat a/b.txt; exit 3")
        assert (ran["stdout"], ran["exit_code"]) == ("text", 3), ran
        assert "/workspace/a" in [e["path"] for e in ops("sandbox.diff")["entries"]]
    finally:
        ops.close()


def test_an_image_without_python_is_good_for_commands_and_files(make, engine):
    engine.import_busybox("husk-busybox")
    kernel = make("--image", "husk-busybox", "--profile", "strict")
    r = kernel.run("1")
    assert (r.status, r.ename) == ("error", "NoInterpreter") and "'husk-busybox' has no python3" in r.evalue
    assert r.of("error")[0]["ename"] == "NoInterpreter"
    ops = Operations(kernel)
    try:
        ops("files.write", path="a.txt", buffers=[b"one two"])
        assert ops("exec.run", cmd="cat a.txt | wc -w")["stdout"] == "2\n"
        assert ops("sandbox.info")["state"] == "idle"
    finally:
        ops.close()
    said = refusal("--backend", "docker", "--image", "husk-busybox", "--python", "/opt/python")
    assert "step 'execute'" in said and "/opt/python" in said


def registry(directory):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    config = directory / "registry.yml"
    config.write_text(json.dumps({"version": "0.1", "http": {"addr": f"127.0.0.1:{port}"}, "storage": {
        "filesystem": {"rootdirectory": str(directory / "registry")}}}))
    process = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + conftest.TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, f"127.0.0.1:{port}"
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_an_image_is_pulled_with_progress(engine, tmp_path):
    """From a registry of the tests' own; engines trust one on 127.0.0.1."""
    process, address = registry(tmp_path)
    try:
        engine.import_busybox(f"{address}/pulled")
        anybody = {"X-Registry-Auth": "e30="}  # {}
        assert "digest" in str(engine.call("POST", f"/images/{address}/pulled/push?tag=latest", **anybody)[1])
        engine.call("DELETE", f"/images/{address}/pulled")
        options = ("--backend", "docker", "--image", f"{address}/pulled")
        assert "the container engine has no image" in refusal(*options, "--pull", "never")
        said = refusal(*options)  # no Python in it, but it is there
        assert f"the image '{address}/pulled' is being pulled" in said and "Downloaded newer image" in said, said
        assert "is being pulled" not in refusal(*options)
        assert "is being pulled" in refusal(*options, "--pull", "always")
        assert "there is no image" in refusal("--backend", "docker", "--image", f"{address}/missing")
    finally:
        process.kill()
        process.wait()


def test_the_engine_is_found_by_its_context(engine, tmp_path, monkeypatch):
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name, host in (("mine", engine.host), ("far", "ssh://far")):
        place = tmp_path / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
        place.mkdir(parents=True)
        (place / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    assert husk("run", *OPTIONS, "-c", "print(7)").stdout == "7\n"
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    assert "the Docker context 'far' is 'ssh://far': husk uses an engine on this machine only" in refusal(*OPTIONS)
    monkeypatch.setenv("DOCKER_CONTEXT", "no")
    assert "there is no Docker context 'no'; see: docker context ls" in refusal(*OPTIONS)


# --- errors


def refusal(*options, **arguments):
    r = husk("run", *options, "-c", "1", **arguments)
    assert r.returncode and not r.stdout, r
    return r.stderr


@pytest.mark.parametrize("host, said", [
    ("unix:///nowhere/docker.sock", "no container engine runs at '/nowhere/docker.sock'; start it"),
    ("tcp://127.0.0.1:2375", "husk uses an engine on this machine only"),
    ("ssh://somewhere", "husk uses an engine on this machine only"),
])
def test_an_engine_that_cannot_be_used(monkeypatch, host, said):
    monkeypatch.setenv("DOCKER_HOST", host)
    assert said in refusal(*OPTIONS)


def open_way(path):
    """Others may go through what pytest made for the tests."""
    for p in (path, *path.parents):
        if p == pathlib.Path(tempfile.gettempdir()) or len(p.parts) < 3:
            break
        p.chmod(p.stat().st_mode | 0o055)


@pytest.fixture
def as_anybody(engine, tmp_path):
    """husk for a user who has nothing but a home directory: run(*arguments) -> what it printed."""
    for path in (engine.directory, tmp_path):
        open_way(path)
    prefix, home = tmp_path / "prefix", tmp_path / "home"
    shutil.copytree(conftest.PREFIX, prefix, symlinks=True)  # the tests' own may lie in root's home
    home.mkdir()
    runtime = pathlib.Path(tempfile.mkdtemp(prefix="husk-", dir="/tmp"))  # sockets have short paths
    for path in (home, runtime):
        shutil.chown(path, 4321, 4321)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "DOCKER_HOST": engine.host}

    def run(*arguments, ok=True):
        r = subprocess.run(["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups", prefix / "bin" / "husk",
                            *arguments], capture_output=True, text=True, timeout=conftest.TIMEOUT, env=env, cwd=home)
        assert (r.returncode == 0) == ok, r
        return r.stdout if ok else r.stderr

    yield run
    shutil.rmtree(runtime)


def test_an_ordinary_user_has_all_of_it(engine, as_anybody):
    """Who may use the socket; the container's user is that user."""
    engine.socket.chmod(0o666)
    name = as_anybody("create", *OPTIONS).strip()
    try:
        assert as_anybody("exec", name, "--", "sh", "-c", "id -u; cd /workspace; mkdir a; echo x > a/b; chmod 0 a") == "4321\n"
        assert {e["path"] for e in json.loads(as_anybody("call", name, "sandbox.diff"))["entries"]} == {
            "/workspace/a", "/workspace/a/b"}
        server = as_anybody("exec", "-d", name, "--", "python3", "-m", "http.server", "8000").strip()
        as_anybody("call", name, "proc.wait", json.dumps({"id": server, "until": "port", "port": 8000, "timeout_ms": 50000}))
        url = as_anybody("port", name, "8000").strip()
        assert b"Directory listing" in urllib.request.urlopen(url, timeout=conftest.TIMEOUT).read()
    finally:
        as_anybody("rm", name)
        engine.socket.chmod(0o660)


def test_no_right_to_the_engine(as_anybody):
    said = as_anybody("run", *OPTIONS, "-c", "1", ok=False)
    assert "you may not use the container engine" in said and "usermod -aG docker" in said


def test_an_image_that_is_not_there(engine):
    said = refusal("--backend", "docker", "--image", "husk-no-such/image:1", "--pull", "never")
    assert "the container engine has no image 'husk-no-such/image:1'; see 'docker images'" in said


@pytest.mark.parametrize("options, said", [
    (("--backend", "podman", "--image", "x"), "--backend 'podman' is not one of local, docker"),
    (("--backend", "docker"), "--backend docker needs --image NAME"),
    (("--runtime", "runsc"), "--runtime means nothing without --backend docker"),
    (("--gpus", "all"), "--gpus means nothing without --backend docker"),
    ((*OPTIONS, "--pull", "maybe"), "--pull 'maybe' is not one of missing, always, never"),
    ((*OPTIONS, "--containment", "landlock"), "a container has all that full has"),
    ((*OPTIONS, "--runtime", "no-such"), "no-such"),
], ids=lambda o: "_".join(o) if isinstance(o, tuple) else "")
def test_options_that_make_no_sense(options, said):
    assert said in refusal(*options)


def test_doctor_finds_the_engine(engine):
    check = {c["name"]: c for c in json.loads(husk("doctor", "-o", "json").stdout)["checks"]}["container-engine"]
    assert check["status"] == "ok" and f"'{engine.socket}', version " in check["found"] and "API 1." in check["found"]


# --- the network; ./check-docker runs all of test_network.py


NETWORK = """
import socket, urllib.request
def get(host, port={http}):
    return urllib.request.urlopen(f'http://{{host}}:{{port}}/', timeout=50).read().decode()
def refused(host, port={http}):
    try: return get(host, port)
    except OSError as e: return str(e)
"""


def test_the_network_is_what_is_allowed_and_no_more(make, engine, servers):  # noqa: F811
    kernel = make("--resolver", f"127.0.0.1:{servers['dns']}", "--allow", f"mirror.test:{servers['http']}",
                  "--allow", f"127.0.0.1:{servers['http']}")
    assert kernel.run(NETWORK.format(**servers)).status == "ok"
    assert kernel.run("get('mirror.test')").value == repr(f"mirror.test:{servers['http']}")
    assert "Name or service not known" in kernel.run("refused('evil.test')").value
    assert "reset" in kernel.run("refused('127.0.0.1')").value  # that of the machine is not reached
    assert kernel.run("[n for _, n in socket.if_nameindex()]").value == "['lo']"
    assert engine.inspect(labelled(engine, kernel))["HostConfig"]["CapAdd"] in (None, [])  # and the other is gone
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=conftest.TIMEOUT)
    assert kernel.run(NETWORK.format(**servers)).status == "ok"
    assert kernel.run("get('mirror.test')").value == repr(f"mirror.test:{servers['http']}")


def test_a_network_of_everything_keeps_from_what_is_private(make, servers):  # noqa: F811
    kernel = make("--resolver", f"127.0.0.1:{servers['dns']}", "--network", "all")
    assert kernel.run(NETWORK.format(**servers)).status == "ok"
    assert "reset" in kernel.run("refused('10.1.2.3')").value
    assert kernel.run("[n for _, n in socket.if_nameindex()]").value == "['lo']"


def test_without_a_network_the_resolver_of_the_machine_is_not_told(make):
    kernel = make()
    assert kernel.run("print(open('/etc/resolv.conf').read())").stdout.strip().splitlines()[-1:] == ["nameserver 127.0.0.53"]


# --- the engine ends in the middle; last, as it takes everything along


def test_the_engine_is_restarted_in_the_middle(make, engine):
    kernel = make()
    running = kernel.send("import time; time.sleep(1000)")
    while kernel.client.get_iopub_msg(timeout=conftest.TIMEOUT)["msg_type"] != "execute_input":
        pass
    engine.stop()
    reply = kernel.client.get_shell_msg(timeout=conftest.TIMEOUT)
    assert reply["parent_header"]["msg_id"] == running and reply["content"]["status"] == "error"
    kernel.manager.provisioner.process.wait(conftest.TIMEOUT)
    log = kernel.log.read_text()
    assert "the container ended with the container engine" in log or "or by a restart of the engine" in log
    engine.start()
    assert make().run("1 + 1").value == "2"
