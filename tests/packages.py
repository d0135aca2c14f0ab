# SPDX-License-Identifier: BSD-3-Clause
"""Source packages of others, from the index that pip is configured for, in the versions that are installed."""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile

# pip asks a package that it downloads for its metadata. That of a package that is C++ has all of it compiled
# for an answer; the answer is in the archive already.
BACKEND = """
import email, pathlib, shutil

def get_requires_for_build_wheel(settings=None):
    return []

def prepare_metadata_for_build_wheel(directory, settings=None):
    said = email.message_from_string(pathlib.Path("PKG-INFO").read_text())
    target = pathlib.Path(directory) / f"{said['Name']}-{said['Version']}.dist-info"
    target.mkdir()
    shutil.copy("PKG-INFO", target / "METADATA")
    return target.name
"""


def download(name, directory, version=None, python=sys.executable, backend=None):
    """The archive, in `directory`. `backend`: the module that would compile it, and is not asked."""
    version = version or importlib.metadata.version(name)
    command = [str(python), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-binary", name, "--dest", str(directory), f"{name}=={version}"]
    with tempfile.TemporaryDirectory() as modules:
        env = dict(os.environ)
        if backend:
            with open(os.path.join(modules, f"{backend}.py"), "w") as file:
                file.write(BACKEND)
            command.append("--no-build-isolation")
            env["PYTHONPATH"] = modules
        subprocess.run(command, env=env, check=True, timeout=280)
    (archive,) = directory.glob(f"{name}-{version}.tar.gz")
    return archive


def unpack(archive, *directories, wanted=lambda path: True):
    """Files of an archive whose path `wanted` wants, below each directory; the path is that below the package.
    Written, not extracted: the owner is whoever runs the tests."""
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, path = member.name.partition("/")
            if member.isfile() and ".." not in path and wanted(path):
                count += 1
                data = tar.extractfile(member).read()
                for directory in directories:
                    target = directory / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)
    assert count, f"{archive.name} has none of them"
