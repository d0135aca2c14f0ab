# SPDX-License-Identifier: BSD-3-Clause
"""A Docker daemon of the tests' own: no network, no bridge, everything in one directory. Needs root.

    python engine.py DIRECTORY     starts one there, with an image `husk-test` made of the tar HUSK_IMAGE, and prints
                                   its DOCKER_HOST; it ends with its standard input
"""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tarfile
import time

TIMEOUT = 120
IMAGE = "husk-test"
# What no test looks at: half of the files, and most of the time that the import takes.
LEFT_OUT = ("usr/share/man", "usr/share/doc", "usr/share/locale", "usr/share/zoneinfo", "usr/share/perl", "var/lib/apt",
            "var/cache", "usr/lib/python3/dist-packages/pip", "usr/share/bash-completion", "boot", "dev")


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("docker", timeout=TIMEOUT)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self.path))


class Engine:
    """dockerd in `directory`. What it mounts, nobody else sees, and it goes with its last process. Images and
    containers are in memory: on a disk, making and removing them takes most of the time."""

    def __init__(self, directory, network=False):
        self.network = ["--net"] if network else []  # one of its own, in which there is a bridge
        self.directory = pathlib.Path(directory)
        self.socket = self.directory / "docker.sock"
        self.host = f"unix://{self.socket}"
        self.process = self.place = None

    def make_place(self):
        (self.directory / "data").mkdir()
        mount = 'mount -t tmpfs none "$1" && { ip link set lo up || true; } && echo && exec sleep infinity'
        self.place = subprocess.Popen(["unshare", *self.network, "--mount", "--propagation", "slave", "sh", "-c", mount, "sh",
                                       self.directory / "data"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self.place.stdout.readline() == b"\n"

    def start(self):
        if not self.place:
            self.make_place()
        self.log = open(self.directory / "log", "ab")
        self.process = subprocess.Popen(
            ["nsenter", *self.network, "--mount", "--target", str(self.place.pid), "dockerd", "--iptables=false",
             "--bip=10.231.7.1/24" if self.network else "--bridge=none", "--host", self.host, "--data-root", self.directory / "data",
             "--exec-root", self.directory / "exec", "--pidfile", self.directory / "pid"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        end = time.monotonic() + TIMEOUT
        while True:
            with contextlib.suppress(OSError):
                if self.call("GET", "/_ping")[0] == 200:
                    return self
            assert self.process.poll() is None and time.monotonic() < end, (self.directory / "log").read_text()
            time.sleep(0.05)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(TIMEOUT)
            self.log.close()
        self.process = None

    def remove(self):
        if self.place:
            self.place.kill()
            self.place.wait()
            self.place.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def call(self, method, path, body=None, **headers):
        connection = Connection(self.socket)
        if body is not None and not hasattr(body, "read"):
            body, headers = json.dumps(body), {"Content-Type": "application/json"}
        try:
            connection.request(method, "/v1.41" + path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        with contextlib.suppress(ValueError):
            text = json.loads(text)
        return answer.status, text

    def containers(self):
        return self.call("GET", "/containers/json?all=1")[1]

    def inspect(self, container):
        return self.call("GET", f"/containers/{container}/json")[1]

    def import_busybox(self, name):
        """An image of commands alone."""
        tar = self.directory / "busybox.tar"
        with tarfile.open(tar, "w") as new:
            new.add("/bin/busybox", "bin/busybox")
            for command in ("sh", "cat", "echo", "id", "ls", "sleep", "wc"):
                link = tarfile.TarInfo(f"bin/{command}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                new.addfile(link)
        self.import_file(tar, name)

    def import_tar(self, tar, name=IMAGE, changes=()):
        """`docker import` of a tar, without LEFT_OUT."""
        slim = self.directory / "slim.tar"
        with tarfile.open(tar) as old, tarfile.open(slim, "w") as new:
            for m in old:
                if not m.name.removeprefix("./").startswith(LEFT_OUT):
                    new.addfile(m, old.extractfile(m) if m.isreg() else None)
        self.import_file(slim, name, changes)

    def import_file(self, slim, name, changes=()):
        query = "".join(f"&changes={c.replace(' ', '%20')}" for c in changes)
        with open(slim, "rb") as file:
            connection = Connection(self.socket)
            connection.request("POST", f"/v1.41/images/create?fromSrc=-&repo={name}&tag=latest{query}", file,
                               {"Content-Length": str(slim.stat().st_size), "Content-Type": "application/x-tar"})
            answer = connection.getresponse()
            text = answer.read().decode()
        slim.unlink()
        assert answer.status == 200 and '"error"' not in text, text


if __name__ == "__main__":
    engine = Engine(sys.argv[1]).start()
    try:
        engine.import_tar(os.environ["HUSK_IMAGE"])
        print(engine.host, flush=True)
        sys.stdin.read()
    finally:
        engine.stop()
        engine.remove()
