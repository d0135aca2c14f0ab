# SPDX-License-Identifier: BSD-3-Clause
"""The image of docker/Dockerfile, in plain containers. Not among the tests of ./check, as it takes minutes to build:
./check-docker names it, and HUSK_CONTAINER_IMAGE, a tar of `docker save`."""

import json
import os
import subprocess
import sys
import time

import conftest
import pytest
from engine import Engine

TIMEOUT = 120
UNMASKED = ("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined")
IMAGE = "husk:slim"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    e = Engine(tmp_path_factory.mktemp("e", numbered=False), network=True).start()
    try:
        subprocess.run(["docker", "-H", e.host, "load", "-q", "-i", os.environ["HUSK_CONTAINER_IMAGE"]], check=True, timeout=TIMEOUT)
        yield e
    finally:
        e.stop()
        e.remove()


def docker(engine, *arguments):
    r = subprocess.run(["docker", "-H", engine.host, *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT)
    assert r.returncode == 0, r
    return (r.stdout + r.stderr).strip()


def near(engine, code, **env):
    """A program in the network of the engine, where published ports are."""
    r = subprocess.run(["nsenter", "--net", "--target", str(engine.place.pid), sys.executable, "-c", code],
                       capture_output=True, text=True, timeout=TIMEOUT,
                       env={**os.environ, "DOCKER_HOST": engine.host, **env})
    assert r.returncode == 0, r.stderr
    return r.stdout


class Container:
    def __init__(self, engine, *options):
        self.engine = engine
        self.id = docker(engine, "run", "-d", "-e", "JUPYTER_TOKEN=secret", "-p", "127.0.0.1::8888", *options, IMAGE)
        self.port = docker(engine, "port", self.id, "8888").rpartition(":")[2]
        end = time.monotonic() + TIMEOUT
        while "husk: serving" not in (log := docker(engine, "logs", self.id)):
            assert time.monotonic() < end and "no sandbox" not in log, log
            time.sleep(0.1)
        self.level = log.partition("husk: containment ")[2].split()[0]

    def run(self, code):
        return near(self.engine, f"""if True:
            from jupyter_kernel_client import JupyterKernelClient
            with JupyterKernelClient(server_url="http://127.0.0.1:{self.port}", token="secret") as k:
                r = k.execute({code!r}, timeout={TIMEOUT})
                print("".join(o.get("text") or str(o) for o in r["outputs"]))
        """)

    def remove(self):
        docker(self.engine, "rm", "-f", self.id)


@pytest.fixture
def container(engine):
    made = []

    def make(*options):
        made.append(Container(engine, *options))
        return made[-1]

    yield make
    for c in made:
        c.remove()


@pytest.mark.parametrize("options, level", [
    ((), "landlock"),
    (("--cap-drop", "ALL", "--user", "12345:0", "--security-opt", "no-new-privileges"), "landlock"),
    (UNMASKED, "full"),
    ((*UNMASKED, "--user", "12345:0", "--cap-drop", "ALL"), "full"),
    ((*UNMASKED, "--user", "12345", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/home/husk:mode=1777,exec",
      "--tmpfs", "/workspace:mode=1777,exec"), "full"),
    (("-e", "HUSK_CONTAINMENT=landlock", *UNMASKED), "landlock"),
], ids=["plain", "nobody", "unmasked", "unmasked-nobody", "read-only", "asked"])
def test_the_level_is_the_highest_that_there_is_and_is_told(container, engine, options, level):
    c = container(*options)
    assert c.level == level
    directory, uid, pid = c.run("import os; open('made', 'w').close(); print(os.getcwd(), os.getuid(), os.getpid())").split()
    # A namespace of users and one of processes has full alone.
    assert directory == "/workspace" and (uid == "1000" or level == "landlock") and (int(pid) == 2) == (level == "full")
    # What is written is the container's, whoever that is.
    assert docker(engine, "exec", c.id, "ls", "/workspace").split() == ["made"]


def test_a_level_that_cannot_be_had_is_no_server(engine):
    r = subprocess.run(["docker", "-H", engine.host, "run", "--rm", "-e", "JUPYTER_TOKEN=x", "-e", "HUSK_CONTAINMENT=full", IMAGE],
                       capture_output=True, text=True, timeout=TIMEOUT)
    assert r.returncode == 78 and "no sandbox of containment full can be built" in r.stderr, r


def test_it_becomes_healthy_and_ends_in_time(container, engine):
    c = container()
    end = time.monotonic() + TIMEOUT
    while (state := engine.inspect(c.id)["State"])["Health"]["Status"] != "healthy":
        assert time.monotonic() < end, state
        time.sleep(0.2)
    began = time.monotonic()
    docker(engine, "stop", "-t", "60", c.id)
    assert time.monotonic() - began < 30 and engine.inspect(c.id)["State"]["ExitCode"] in (0, 143)


def test_code_sandboxes_with_its_docker_variant(engine):
    """Unchanged: its checks, variables, mounts; and what its own image has not: variables, interrupts."""
    out = near(engine, """if True:
        import json, threading, time
        from code_sandboxes import Sandbox
        with Sandbox.create(variant="docker", image="husk:slim", timeout=100) as s:
            said = [s.run_code("6 * 7").text, s.run_code("import os; print(os.getcwd())").stdout]
            s.set_variable("v", {"a": [1, 2]})
            said.append(s.get_variable("v"))
            s.files.write("/workspace/a.txt", "kept")
            said.append(s.files.read("/workspace/a.txt"))
            said.append(s.commands.run("cat a.txt").stdout)
            print(json.dumps(said))
    """)
    assert json.loads(out.splitlines()[-1]) == ["42", "/workspace", {"a": [1, 2]}, "kept", "kept"], out


# Of the checks that an environment of code_sandboxes has to pass, what is no claim about this image: the first is a
# program of the company that wrote them, the other wants pip, which the slim image has of its base or not at all.
NOT_OURS = {"doctor", "python"}


@pytest.mark.parametrize("variant", ["docker", "jupyter-server"])
def test_the_conformance_checks_of_code_sandboxes(container, engine, variant):
    """Its own, both tiers, with the names and places of this image in their contract."""
    how = f"'docker', image={IMAGE!r}"
    if variant != "docker":  # docker-py cannot ask for an unmasked /proc
        how = f"'jupyter-server', server_url='http://127.0.0.1:{container(*UNMASKED).port}', token='secret'"
    out = near(engine, f"""if True:
        import json
        from code_sandboxes import Sandbox
        from code_sandboxes.environments.conformance import run_conformance
        from code_sandboxes.environments.contract import SANDBOX_CONTRACT_V1
        with Sandbox.create({how}, timeout=100) as s:
            uid, gid, home = s.run_code("import os; print(os.getuid(), os.getgid(), os.environ['HOME'])").stdout.split()
            user = "import pwd; print([p.pw_name for p in pwd.getpwall() if p.pw_uid == os.getuid()])"
            contract = SANDBOX_CONTRACT_V1.model_copy(update={{
                "user": (eval(s.run_code(user).stdout) or [None])[0], "uid": int(uid), "gid": int(gid), "home": home,
                "workdir": "/workspace", "reserved_path": "/opt/husk"}})
            said = run_conformance(
                s, python_version="3.11", expected_packages={{"jupyter_mimetypes": "0.2.0"}}, contract=contract,
                secret_values=["a secret of the build"], restart=s.kernel_client.restart)
            print(json.dumps({{c.name: [c.passed, c.detail, c.data] for c in said.checks}}))
    """)
    said = json.loads(out.splitlines()[-1])
    failed = {name for name, (passed, *_) in said.items() if not passed} - NOT_OURS
    if variant == "docker":  # it looks for zombies in /proc, which nobody may list at the level landlock
        assert failed == {"shutdown"} and "Permission denied: '/proc'" in said["shutdown"][1], json.dumps(said)
    else:
        assert not failed and said["shutdown"][2]["actual"]["pid1"] == "husk-init", json.dumps(said)
    assert len(said) == 14


def test_pid_1_of_a_plain_container_reaps_orphans(container, engine):
    """As seen from outside; a zombie has its name in brackets, and stays."""
    c = container()
    orphan = "sleep 0.5 >/dev/null 2>&1 &"
    c.run(f"import subprocess; subprocess.run(['sh', '-c', {orphan!r}])")
    docker(engine, "exec", c.id, "sh", "-c", orphan)
    end = time.monotonic() + TIMEOUT
    while "sleep" in (seen := docker(engine, "top", c.id, "-eo", "pid,stat,args")):
        assert time.monotonic() < end, seen
        time.sleep(0.1)


def test_twenty_containers_at_once(engine, tmp_path):
    """Of the backend docker, with this image. All of them are there before any may end."""
    tmp_path.chmod(0o755)
    code = f"""if True:
    import os, time
    print("begun", flush=True)
    while not os.path.exists("{tmp_path}/go"): time.sleep(0.05)
    print(6 * 7)
    """
    kernels = [subprocess.Popen([conftest.HUSK, "run", "--backend", "docker", "--image", IMAGE, "--mount", tmp_path, "-c", code],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**os.environ, "DOCKER_HOST": engine.host}) for _ in range(20)]
    try:
        assert [k.stdout.readline() for k in kernels] == ["begun\n"] * 20
        assert len(engine.containers()) == 20
        (tmp_path / "go").touch()
        assert [(k.communicate(timeout=TIMEOUT)[0], k.returncode) for k in kernels] == [("42\n", 0)] * 20
    finally:
        for k in kernels:
            k.kill()
            k.communicate()
    end = time.monotonic() + TIMEOUT
    while left := engine.containers():
        assert time.monotonic() < end, left
        time.sleep(0.1)
