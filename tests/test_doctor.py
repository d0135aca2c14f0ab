# SPDX-License-Identifier: BSD-3-Clause
"""`husk doctor`: what this machine can do, and what repairs it when something is refused.

Every refusal is made to happen: in a user namespace of its own, by a system call filter around
husk, by mounts that only the doctor sees. All of it runs as root and as an ordinary user alike.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading

import conftest
import pytest
from test_bad_input import MASKED_PROC, NO_NFTABLES, NO_OTHER_PROC, STEPS, X86, connection, nothing_is_left  # noqa: F401 (a fixture)

CHECKS = ["kernel", "user-namespaces", "sandbox", "process", "limits", "landlock", "seccomp", "id-mapped-mounts",
          "subordinate-ids", "network-all", "apparmor", "unprivileged_userns_clone", "max_user_namespaces", "container", "containment", "python",
          "state", "kernelspec", "container-engine"]
# Written again by hand: HOST_STEPS and BUILD_STEPS of sandbox/build.h in their order, then the process.
BROKER = ["prepare", "namespaces", "maps", "gate"]
CHILD = ["session", "identity", "network", "hostname", "trees", "root", "etc",
         "view", "proc", "dev", "pivot", "seal", "groups", "cgroup_namespace", "limits", "no_new_privs", "capabilities", "init"]

IN_USER_NAMESPACE = ["unshare", "-Ur", "sh", "-c"]
WITH_MOUNTS = ["unshare", "-Urm", "sh", "-c"]
NO_NAMESPACES = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\""
NO_CGROUPS = "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\""
SETTING = NO_OTHER_PROC.replace("{", "{{").replace("}", "}}") + "mount -t tmpfs none /proc/sys/kernel && echo {1} > /proc/sys/kernel/{0} && exec \"$@\""
REFUSE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import test_bad_input
test_bad_input.refuse(*eval(sys.argv[2]))()
os.execv(sys.argv[3], sys.argv[3:])
"""


def refusing(name):
    """A command in front of another: from there on the calls of that row of STEPS are refused."""
    calls = [(pair[0 if X86 else 1], code, flags) for pair, code, flags in STEPS[name]]
    return [sys.executable, "-c", REFUSE, str(pathlib.Path(__file__).parent), repr(calls)]


def doctor(*arguments, command=(), env=None, **options):
    return subprocess.run([*command, conftest.HUSK, "doctor", *arguments], capture_output=True, text=True,
                          timeout=conftest.TIMEOUT,
                          env={**os.environ, "VIRTUAL_ENV": sys.prefix, **(env or {})}, **options)


def diagnose(**options):
    """The JSON of a run that wrote nothing else; its checks by name."""
    result = doctor("-o", "json", **options)
    assert result.stderr == "" and result.returncode in (0, 1), result
    found = json.loads(result.stdout)
    assert found["ok"] == (result.returncode == 0)
    found["checks"] = {check["name"]: check for check in found["checks"]}
    return found


def missing(found):
    return {name for name, check in found["checks"].items() if check["status"] == "missing"}


def as_text(found):
    lines = []
    for check in found["checks"]:
        lines.append(f"{check['status']:8} {check['name']:26} {check['found']}")
        lines += [" " * 9 + line for line in check["repair"].splitlines()]
    return lines


# --- this machine, which runs all other tests

def test_this_machine_can_build_a_sandbox():
    found = diagnose()
    assert found["ok"] is True and list(found["checks"]) == CHECKS
    assert not missing(found)
    for name in ("user-namespaces", "sandbox", "process", "landlock", "seccomp", "python", "state"):
        assert found["checks"][name]["status"] == "ok", found["checks"][name]
    assert os.uname().release in found["checks"]["kernel"]["found"]


def test_text_says_what_json_says():
    text, found = doctor(), json.loads(doctor("-o", "json").stdout)
    assert text.returncode == 0 and text.stderr == ""
    *lines, verdict = text.stdout.splitlines()
    assert lines == as_text(found) and verdict == "A full sandbox can be built here."
    assert doctor("-o", "text").stdout == text.stdout
    assert set(found) == {"ok", "version", "checks", "steps"}
    assert found["version"] == subprocess.run([conftest.HUSK, "--version"], capture_output=True, text=True).stdout.split()[1]
    assert all(set(check) == {"name", "status", "found", "repair"} for check in found["checks"])
    assert all(set(step) == {"name", "microseconds", "meaning"} for step in found["steps"])


def test_steps_are_told_in_their_order():
    steps = diagnose()["steps"]
    assert [step["name"] for step in steps] == BROKER + CHILD + ["process"]
    assert all(type(step["microseconds"]) is int and step["microseconds"] > 0 for step in steps), steps
    assert all(step["meaning"] for step in steps)
    *lines, verdict = doctor("--steps").stdout.splitlines()
    rows = [line.split(None, 2) for line in lines[lines.index("") + 1:] if line]
    assert [row[0] for row in rows] == ["step", *BROKER, *CHILD, "process"]
    assert all(int(row[1]) > 0 for row in rows[1:])
    assert [row[2] for row in rows[1:]] == [step["meaning"] for step in steps]
    assert verdict == "A full sandbox can be built here."


def test_the_sum_of_the_steps_is_not_more_than_the_whole():
    """What is counted twice, or in other units, would be."""
    start = os.times().elapsed
    steps = diagnose()["steps"]
    assert sum(step["microseconds"] for step in steps) / 1e6 < os.times().elapsed - start + 0.02


def test_who_is_root_and_who_is_not():
    check = diagnose()["checks"]["id-mapped-mounts"]
    assert check["status"] == ("ok" if os.geteuid() == 0 else "note"), check
    assert diagnose(command=["unshare", "-Ur"])["checks"]["id-mapped-mounts"]["status"] == "note"


def test_help_names_it():
    result = subprocess.run([conftest.HUSK, "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "doctor" in result.stdout
    result = doctor("--help")
    assert result.returncode == 0 and "--steps" in result.stdout and "json" in result.stdout


@pytest.mark.parametrize("arguments", [["--stepss"], ["-o"], ["-o", "xml"], ["-o", ""], ["now"], ["--steps", "-o"]], ids=" ".join)
def test_wrong_usage(arguments):
    result = doctor(*arguments)
    assert result.returncode == 64 and result.stdout == ""
    assert result.stderr.startswith("husk: ") and result.stderr.count("\n") == 1


def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        result = subprocess.run([conftest.HUSK, "doctor"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=conftest.TIMEOUT)
    assert result.returncode == 71 and "No space left" in result.stderr


# --- refusals

def test_no_user_namespaces_left():
    found = diagnose(command=[*IN_USER_NAMESPACE, NO_NAMESPACES, "sh"])
    assert missing(found) == {"user-namespaces", "sandbox", "max_user_namespaces"}
    assert "step 'namespaces'" in found["checks"]["sandbox"]["found"]
    assert "No space left on device" in found["checks"]["sandbox"]["found"]
    assert "sudo sysctl -w user.max_user_namespaces=" in found["checks"]["max_user_namespaces"]["repair"]
    assert "/etc/sysctl.d/" in found["checks"]["max_user_namespaces"]["repair"]
    assert [step["name"] for step in found["steps"]] == ["prepare"]


def test_a_filter_that_refuses_user_namespaces():
    """As Docker's does."""
    found = diagnose(command=refusing("clone, as in Docker"))
    assert {"user-namespaces", "sandbox"} <= missing(found) <= {"user-namespaces", "sandbox", "container"}
    assert "step 'namespaces'" in found["checks"]["sandbox"]["found"]
    assert "Operation not permitted" in found["checks"]["sandbox"]["found"]
    assert "--security-opt seccomp=unconfined --security-opt systempaths=unconfined" in found["checks"]["sandbox"]["repair"]
    assert found["checks"]["process"]["status"] == "note"
    assert found["checks"]["max_user_namespaces"]["status"] == "ok"


def test_a_masked_proc():
    """In a container that masks parts of /proc no new one can be mounted."""
    found = diagnose(command=[*WITH_MOUNTS, MASKED_PROC, "sh"])
    assert {"sandbox"} <= missing(found) <= {"sandbox", "container"}
    assert "step 'proc'" in found["checks"]["sandbox"]["found"]
    assert "Operation not permitted" in found["checks"]["sandbox"]["found"]
    assert "--security-opt systempaths=unconfined" in found["checks"]["sandbox"]["repair"]
    assert "procMount: Unmasked" in found["checks"]["sandbox"]["repair"]
    names = BROKER + CHILD
    assert [step["name"] for step in found["steps"]] == names[:names.index("proc")]


@pytest.mark.parametrize("refusal", [[*WITH_MOUNTS, MASKED_PROC, "sh"], refusing("clone, as in Docker")],
                         ids=["masked proc", "filter"])
@pytest.mark.parametrize("variable, sign, words", [
    ({}, "", ["docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined", "Kubernetes"]),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "a pod of Kubernetes", ["hostUsers: false", "procMount: Unmasked", "seccompProfile: {type: Unconfined}"]),
], ids=["docker", "kubernetes"])
def test_in_a_container(refusal, variable, sign, words):
    """The sign of Docker is there if this machine is such a container; that of a pod is made."""
    check = diagnose(command=refusal, env=variable)["checks"]["container"]
    if not variable and check["status"] == "ok":
        assert "no sign" in check["found"] and not os.path.exists("/.dockerenv")
        return
    assert check["status"] == "missing" and sign in check["found"]
    for word in words:
        assert word in check["repair"]


def test_apparmor_of_ubuntu():
    """The user namespace is made, and then the first step that needs a capability is refused."""
    found = diagnose(command=[*WITH_MOUNTS, SETTING.format("apparmor_restrict_unprivileged_userns", 1), "sh",
                              *refusing("sethostname")])
    assert {"sandbox", "apparmor"} <= missing(found) <= {"sandbox", "apparmor", "container"}
    assert found["checks"]["user-namespaces"]["status"] == "ok"
    assert "step 'hostname'" in found["checks"]["sandbox"]["found"]
    repair = found["checks"]["apparmor"]["repair"].splitlines()
    broker = str(conftest.PREFIX / "libexec" / "husk" / "husk-sandbox")
    assert f"profile husk \"{broker}\" flags=(unconfined) {{" in repair
    assert "  userns," in repair and "/etc/apparmor.d/husk" in repair[0]
    assert "sudo apparmor_parser -r /etc/apparmor.d/husk" in repair


def test_a_setting_alone_is_not_blamed():
    """It is 1, but what is refused is something else: the mount over /proc/sys/kernel masks /proc."""
    found = diagnose(command=[*WITH_MOUNTS, SETTING.format("apparmor_restrict_unprivileged_userns", 1), "sh"])
    assert "step 'proc'" in found["checks"]["sandbox"]["found"]
    assert found["checks"]["apparmor"]["status"] == "note" and not found["checks"]["apparmor"]["repair"]
    found = diagnose(command=[*WITH_MOUNTS, SETTING.format("unprivileged_userns_clone", 0), "sh"])
    assert found["checks"]["unprivileged_userns_clone"]["status"] == "note"


def test_debian_s_switch():
    found = diagnose(command=[*WITH_MOUNTS, SETTING.format("unprivileged_userns_clone", 0), "sh",
                              *refusing("clone, as in Docker")])
    check = found["checks"]["unprivileged_userns_clone"]
    assert check["status"] == "missing" and "sudo sysctl -w kernel.unprivileged_userns_clone=1" in check["repair"]


@pytest.mark.parametrize("name, refusal, word", [
    ("landlock", "landlock_create_ruleset", "lsm="), ("landlock", "landlock_restrict_self", "lsm="),
    ("seccomp", "seccomp", "CONFIG_SECCOMP_FILTER"), ("seccomp", "seccomp, as on an old kernel", "CONFIG_SECCOMP_FILTER")])
def test_a_process_that_cannot_be_bound(name, refusal, word):
    found = diagnose(command=refusing(refusal))
    assert {"process", name} <= missing(found) <= {"process", name, "container"}
    assert found["checks"]["sandbox"]["status"] == "ok"
    for check in (found["checks"]["process"], found["checks"][name]):
        assert f"step '{name}'" in check["found"] and word in check["repair"]


@pytest.mark.parametrize("refusal", STEPS)
def test_every_refused_step_is_named_as_a_kernel_names_it(tmp_path, refusal):
    """The same step, errno and advice; whatever it is, doctor itself does not fail."""
    found = diagnose(command=refusing(refusal))
    check = next(check for name, check in found["checks"].items() if name in ("sandbox", "process") and check["status"] == "missing")
    kernel = subprocess.run([*refusing(refusal), conftest.HUSK, "kernel", "-f", str(connection(tmp_path)), "--python", conftest.PYTHON],
                            cwd=tmp_path, capture_output=True, text=True, timeout=conftest.TIMEOUT)
    assert not found["ok"] and kernel.returncode == 78
    assert check["found"] in kernel.stderr
    assert check["repair"] in kernel.stderr


def test_a_failed_check_is_told_in_text():
    result = doctor("--steps", command=[*IN_USER_NAMESPACE, NO_NAMESPACES, "sh"])
    lines = result.stdout.splitlines()
    assert result.returncode == 1 and result.stderr == ""
    at = next(i for i, line in enumerate(lines) if line.startswith("missing  max_user_namespaces"))
    assert lines[at + 1].strip().startswith("sudo sysctl -w user.max_user_namespaces=")
    assert lines[-1].startswith("A full sandbox cannot be built here")


# --- what does not keep a sandbox from being built

def test_limits_without_cgroups():
    found = diagnose(command=[*WITH_MOUNTS, NO_CGROUPS, "sh"])
    check = found["checks"]["limits"]
    assert found["ok"] and check["status"] == "note" and "sampled: no cgroup may be made here" in check["found"]
    assert "systemd-run --user --scope -p Delegate=yes husk" in check["repair"]


def test_subordinate_ids():
    check = diagnose()["checks"]["subordinate-ids"]
    assert check["status"] in ("ok", "note")
    if os.geteuid() != 0 and ": none" in check["found"]:
        assert "usermod --add-subuids" in check["repair"]
    if os.geteuid() != 0 and "not installed" in check["found"]:
        assert "uidmap" in check["repair"]


def test_a_kernel_without_nftables():
    assert diagnose()["checks"]["network-all"]["status"] == "ok"
    found = diagnose(command=NO_NFTABLES)
    check = found["checks"]["network-all"]
    assert found["ok"] and check["status"] == "note" and "an allow-list can" in check["found"]
    assert "modprobe nft_tproxy" in check["repair"]


def test_kernelspecs(tmp_path):
    env = {"XDG_DATA_HOME": str(tmp_path), "JUPYTER_DATA_DIR": "", "VIRTUAL_ENV": ""}
    subprocess.run([conftest.HUSK, "install", "--user", "--name", "one"], check=True, capture_output=True, env={**os.environ, **env})
    spec = tmp_path / "jupyter" / "kernels" / "one" / "kernel.json"
    check = diagnose(env=env)["checks"]["kernelspec"]
    assert check["status"] == "ok" and str(spec) in check["found"]
    content = json.loads(spec.read_text())
    content["argv"][0] = "/nowhere/husk"
    spec.write_text(json.dumps(content))
    check = diagnose(env=env)["checks"]["kernelspec"]
    assert check["status"] == "note" and "not there" in check["found"] and check["repair"] == "husk install --user"
    for other in ("no JSON", "[]", '{"argv": []}', '{"argv": 5}', '{"argv": ["/usr/bin/python3"]}'):
        spec.write_text(other)
        assert str(spec) not in diagnose(env=env)["checks"]["kernelspec"]["found"]


def test_no_container_engine_is_no_fault():
    found = diagnose(env={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    check = found["checks"]["container-engine"]
    assert found["ok"] and check["status"] == "note" and "/nowhere/docker.sock" in check["found"]
    assert check["repair"].startswith("for --backend docker only: start it")


def test_what_answers_as_an_engine_is_shown_as_text_only():
    body = b'{"Version":"\\u001b[31mmine", "ApiVersion":"\\u0007"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

    def serve(listener):
        while listener.fileno() >= 0:
            with contextlib.suppress(OSError):  # who only tries whether it is there hangs up
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(head + body)

    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place + "/s")
        listener.listen()
        threading.Thread(target=serve, args=[listener], daemon=True).start()
        check = diagnose(env={"DOCKER_HOST": f"unix://{place}/s"})["checks"]["container-engine"]
        listener.shutdown(socket.SHUT_RDWR)
    assert (check["status"], check["found"]) == ("ok", f"'{place}/s', version ?[31mmine, API ?")


def test_a_state_directory_that_cannot_be_made():
    before = set(pathlib.Path("/tmp").glob("husk-doctor-*"))
    found = diagnose(env={"XDG_STATE_HOME": "/proc/nowhere"})
    assert missing(found) == {"state"} and not found["ok"]
    assert "XDG_STATE_HOME" in found["checks"]["state"]["repair"]
    assert set(pathlib.Path("/tmp").glob("husk-doctor-*")) <= before


def test_no_python(tmp_path):
    result = doctor("-o", "json", env={"PATH": str(tmp_path), "VIRTUAL_ENV": "", "CONDA_PREFIX": ""})
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.returncode == 0, "the sandbox is what the exit code tells"
    assert found["python"]["status"] == "missing" and "apt install python3" in found["python"]["repair"]
    text = doctor(env={"PATH": str(tmp_path), "VIRTUAL_ENV": "", "CONDA_PREFIX": ""}).stdout
    assert text.splitlines()[-1] == "A full sandbox can be built here, but something else is missing."


def test_a_python_without_ipython(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=120)
    check = diagnose(env={"VIRTUAL_ENV": str(tmp_path / "venv")})["checks"]["python"]
    assert check["status"] == "note" and "without IPython" in check["found"]
    assert check["repair"] == f"'{tmp_path}/venv/bin/python' -m pip install ipython"


@pytest.mark.parametrize("version", ["x" * 63, "x" * 500000, "8.0\x1b[31m", "8.0\nok python", "8.0 \u00e9", ""],
                         ids=["long", "longer", "escape", "two lines", "not ASCII", "empty"])
def test_ipython_is_asked_inside_the_sandbox_only(tmp_path, version):
    """Code of packages must not run outside, nor put words into the report."""
    package = tmp_path / "packages" / "IPython"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"try:\n    open({str(tmp_path / 'marker')!r}, 'w')\nexcept OSError:\n    pass\n"
        f"__version__ = {version!r}\n")
    check = diagnose(env={"PYTHONPATH": str(package.parent)})["checks"]["python"]
    assert not (tmp_path / "marker").exists()
    assert check["status"] == "missing" and (not version or version not in check["found"])
    assert "does not work in the sandbox" in check["found"]


def test_a_python_that_dies_in_the_sandbox(tmp_path):
    """One that says a version and does not end well."""
    package = tmp_path / "packages" / "IPython"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import atexit, os\n__version__ = '8.0'\natexit.register(os.kill, os.getpid(), 9)\n")
    found = diagnose(env={"PYTHONPATH": str(package.parent)})
    assert found["ok"] and found["checks"]["python"]["status"] == "missing"
    assert "ended with signal 9" in found["checks"]["python"]["found"]
