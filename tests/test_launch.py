# SPDX-License-Identifier: BSD-3-Clause
"""husk launch, as Enterprise Gateway and gateway_provisioners start kernels: the other side is the
response manager of gateway_provisioners, and a stock client."""
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess

import conftest
import pytest
from jupyter_client import BlockingKernelClient

os.environ.update(GP_RESPONSE_IP="127.0.0.1", GP_RESPONSE_PORT="0")


class Gateway:
    """The real response manager; each kernel is asked for and waited for in a loop of its own."""

    def __init__(self, environment):
        self.environment = environment

    def launch(self, *options, ids="--kernel-id={} --response-address={} --public-key={}", extra={}):
        """-> (process, what the manager got, or None if nothing came before the process ended)"""
        return asyncio.run(self._launch(options, ids, extra))

    async def _launch(self, options, ids, extra):
        from gateway_provisioners.response_manager import ResponseManager
        manager = ResponseManager()
        # It believes the port that it asked for, and 0 is another one afterwards.
        address = "{}:{}".format(*manager._response_socket.getsockname())
        try:
            manager.register_event("the-kernel")
            words = ids.format("the-kernel", address, manager.public_key).split()
            process = subprocess.Popen([conftest.HUSK, "launch", *words, *options, "--python", conftest.PYTHON],
                                       stderr=subprocess.PIPE, text=True, env={**self.environment, **extra})
            while process.poll() is None:  # it waits half a second each time, as a provisioner lets it
                with contextlib.suppress(asyncio.TimeoutError):
                    return process, await manager.get_connection_info("the-kernel")
            return process, None
        finally:
            manager.stop_response_manager()


@pytest.fixture
def gateway(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    return Gateway({**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"),
                    "XDG_STATE_HOME": str(tmp_path / "state")})


@contextlib.contextmanager
def client_of(info):
    client = BlockingKernelClient()
    client.load_connection_info({k: v for k, v in info.items() if k not in ("pid", "pgid", "comm_port", "kernel_id")}
                                | {"ip": "127.0.0.1"})
    client.start_channels()
    try:
        client.wait_for_ready(timeout=conftest.TIMEOUT)
        yield client
    finally:
        client.stop_channels()


def tell(info, message):
    """As a process proxy does: one JSON text a connection."""
    with socket.create_connection(("127.0.0.1", info["comm_port"])) as s:
        s.sendall(message if isinstance(message, bytes) else json.dumps(message).encode())
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""  # it was read to its end


def execute(client, code):
    return client.execute_interactive(code, timeout=conftest.TIMEOUT, output_hook=lambda m: None)["content"]


def test_the_response_manager_gets_a_kernel_that_works(gateway, tmp_path):
    process, info = gateway.launch("--port-range", "0..0")
    with client_of(info) as client:
        assert info["kernel_id"] == "the-kernel" and info["pid"] == process.pid
        assert (info["ip"], info["transport"], info["signature_scheme"]) == ("0.0.0.0", "tcp", "hmac-sha256")
        assert execute(client, "x = 20")["status"] == "ok" and execute(client, "assert x == 20")["status"] == "ok"
        tell(info, {"signum": 0})
        msg_id = client.execute("import time; print('begun', flush=True); time.sleep(600)")
        while client.get_iopub_msg(timeout=conftest.TIMEOUT)["msg_type"] != "stream":
            pass
        tell(info, {"signum": 2})
        reply = client.get_shell_msg(timeout=conftest.TIMEOUT)
        assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (msg_id, "KeyboardInterrupt")
        assert execute(client, "assert x == 20")["status"] == "ok"
        tell(info, {"shutdown": 1})
        assert process.wait(conftest.TIMEOUT) == 0, process.stderr.read()
    assert not list((tmp_path / "run" / "husk").iterdir())


@pytest.mark.parametrize("prefix", ["RemoteProvisioner.", "RemoteProcessProxy."])
def test_names_of_their_launchers(gateway, prefix):
    ids = " ".join(f"--{prefix}{name}={{}}" for name in ("kernel-id", "response-address", "public-key"))
    process, info = gateway.launch(f"--{prefix}port-range", "20000..29999",
                                   f"--{prefix}spark-context-initialization-mode", "none", ids=ids)
    ports = [v for k, v in info.items() if k.endswith("_port")]
    assert len(set(ports)) == 6 and all(20000 <= p <= 29999 for p in ports)
    process.send_signal(signal.SIGTERM)
    assert process.wait(conftest.TIMEOUT) == 0, process.stderr.read()


def test_variables_of_a_container(gateway):
    launch = Gateway.launch
    process, info = launch(gateway, ids="--kernel-id={} --response-address={} --public-key={}",
                           extra={"PORT_RANGE": "30000..30999", "KERNEL_ID": "another"})
    assert info["kernel_id"] == "the-kernel" and 30000 <= info["comm_port"] <= 30999
    process.kill()
    process.wait()
    with pytest.raises(OSError):  # the kernel has ended with it
        while True:
            socket.create_connection(("127.0.0.1", info["hb_port"])).close()


def test_what_is_no_signal_changes_nothing(gateway):
    process, info = gateway.launch()
    for said in (b"", b"{", b"[]", b"\xff", b'{"signum": "9"}', b'{"signum": -9}', b'{"signum": 1e9}',
                 b'{"signum": 99999}', b"x" * 4096, b'{"shutdown": 0}'):
        with contextlib.suppress(OSError):
            tell(info, said)
    with client_of(info) as client:
        assert execute(client, "1")["status"] == "ok"
    tell(info, {"signum": 9})
    assert process.wait(conftest.TIMEOUT) == 137


def test_connections_that_say_nothing_keep_nobody_out(gateway):
    process, info = gateway.launch()
    idle = [socket.create_connection(("127.0.0.1", info["comm_port"])) for _ in range(40)]
    tell(info, {"shutdown": 1})
    assert process.wait(conftest.TIMEOUT) == 0
    for s in idle:
        s.close()


KEY = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC7"


@pytest.mark.parametrize("options, code, reason", [
    ([], 64, "launch needs --kernel-id or $KERNEL_ID"),
    (["--kernel-id", "k"], 64, "launch needs --response-address or $RESPONSE_ADDRESS"),
    (["--kernel-id", "k", "--response-address", "127.0.0.1:1"], 64, "launch needs --public-key or $PUBLIC_KEY"),
    (["--kernel-id", "k", "--response-address", "127.0.0.1:1", "--public-key", KEY, "--port-range", "1..3"], 64,
     "--port-range '1..3' is no LOW..HIGH with room for 6 ports"),
    (["--kernel-id", "k", "--response-address", "127.0.0.1:1", "--public-key", KEY, "--memorry", "1g"], 64, "memorry"),
    (["--kernel-id", "k", "--response-address", "127.0.0.1:1", "--public-key", KEY, "more"], 64, "launch takes no 'more'"),
    (["--kernel-id", "k", "--response-address", "127.0.0.1:1", "--public-key", KEY], 125,
     "the public key is no RSA key in base64"),
    (["--kernel-id", "k", "--response-address", "nowhere", "--public-key", "GOOD"], 125,
     "the response address 'nowhere' is no ADDRESS:PORT"),
    (["--kernel-id", "k", "--response-address", "127.0.0.1:1", "--public-key", "GOOD"], 125,
     "connect to the response address '127.0.0.1:1': Connection refused"),
    (["--kernel-id", "k", "--response-address", "127.0.0.1:1", "--public-key", "GOOD", "--ip", "here"], 125,
     "find 6 free ports of '0..0' at 'here'"),
    (["--kernel-id", "k", "--response-address", "127.0.0.1:1", "--public-key", "GOOD", "--python", "/bin/false"], 125,
     "the sandbox did not start"),
], ids=["no id", "no address", "no key", "range", "slip", "word", "key", "address", "nobody", "ip", "python"])
def test_what_is_wrong_is_said_and_leaves_nothing(gateway, tmp_path, options, code, reason):
    from Cryptodome.PublicKey import RSA
    good = "".join(RSA.generate(1024).public_key().export_key().decode().splitlines()[1:-1])
    done = subprocess.run([conftest.HUSK, "launch", *(good if o == "GOOD" else o for o in options)],
                          capture_output=True, text=True, env=gateway.environment, timeout=conftest.TIMEOUT)
    assert (done.returncode, done.stdout) == (code, "") and reason in done.stderr
    assert not list(tmp_path.glob("run/husk/*"))
