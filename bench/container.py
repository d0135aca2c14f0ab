#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""husk in containers beside the engine itself: python bench/container.py HUSK IMAGE, an image of docker/Dockerfile and the
engine of DOCKER_HOST. Rounds in rotated order; medians, in ms, which compare with each other only."""

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from starts import rounds

HUSK, IMAGE = sys.argv[1:3]
ROUNDS = int(os.environ.get("ROUNDS", 9))
BACKEND = ["--backend", "docker", "--image", IMAGE]
UNMASKED = ["--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"]


def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def timed(*command):
    begin = time.perf_counter()
    said(*command)
    return 1000 * (time.perf_counter() - begin)


def answers(*options):
    """Of the image: from docker run until its server answers. It shares the network, as an engine may have none."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    begin = time.perf_counter()
    container = said("docker", "run", "-d", "--network", "host", "-e", "JUPYTER_TOKEN=x", "-e", "JUPYTER_IP=127.0.0.1",
                     "-e", f"JUPYTER_PORT={port}", *options, IMAGE)
    try:
        while time.perf_counter() - begin < 60:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=1).close()
                return 1000 * (time.perf_counter() - begin)
            except OSError:
                time.sleep(0.005)
        sys.exit("container: " + said("docker", "logs", container))
    finally:
        said("docker", "rm", "-f", container)


def main():
    boxes = {"local": said(HUSK, "create"), "docker": said(HUSK, "create", *BACKEND)}
    acts = {
        "backend docker, husk run -c 'print(1)'": lambda: timed(HUSK, "run", *BACKEND, "-c", "print(1)"),
        "docker run python3 -c 'import IPython'": lambda: timed(
            "docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", IMAGE, "-c", "import IPython"),
        "image, docker run -> answers, plain": answers,
        "image, docker run -> answers, unmasked": lambda: answers(*UNMASKED),
    }
    for name, box in boxes.items():
        said(HUSK, "exec", box, "--", "sh", "-c", "echo x > /tmp/a")
        acts[f"husk exec, {name}"] = lambda box=box: timed(HUSK, "exec", box, "--", "true")
        acts[f"husk call files.read, {name}"] = lambda box=box: timed(HUSK, "call", box, "files.read", '{"path": "/tmp/a"}')
    container = said("docker", "run", "-d", "--network", "none", "--entrypoint", "sleep", IMAGE, "1000")
    acts["docker exec"] = lambda: timed("docker", "exec", container, "true")
    try:
        for name, values in rounds(acts, ROUNDS).items():
            print(f"{name:42} {statistics.median(values):8.0f}   least {min(values):.0f}")
    finally:
        said("docker", "rm", "-f", container)
        for box in boxes.values():
            said(HUSK, "rm", box)


main()
