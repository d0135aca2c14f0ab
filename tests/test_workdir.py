# SPDX-License-Identifier: BSD-3-Clause
"""The shared directory: what a cell may do there, and what it may not."""

import os
import pathlib
import shutil
import venv

import conftest
import pytest

GUARDED = [".git/hooks/pre-commit", ".git/config", ".envrc", ".vscode/tasks.json", ".bashrc"]


@pytest.fixture
def project(tmp_path):
    directory = tmp_path / "project"
    for name in GUARDED:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    return directory


@pytest.mark.parametrize("name", GUARDED)
def test_what_runs_later_on_the_host_is_read_only(make_kernel, project, name):
    kernel = make_kernel(cwd=project)
    result = kernel.run(f"open({name!r}, 'w')")
    assert result.ename == "OSError" and "Read-only" in result.evalue
    assert kernel.run(f"open({name!r}).read()").value == "'before'"
    assert (project / name).read_text() == "before"


def test_the_guarded_directory_cannot_be_renamed_away(make_kernel, project):
    kernel = make_kernel(cwd=project)
    assert "busy" in kernel.run("import os; os.rename('.git', 'other')").evalue
    assert "Read-only" in kernel.run("open('.git/commondir', 'w')").evalue


def test_a_directory_above_a_guarded_one_cannot_be_renamed_away(make_kernel, tmp_path):
    directory = tmp_path / "project"
    commands = directory / "deep" / "er" / "bin"
    commands.mkdir(parents=True)
    kernel = make_kernel(cwd=directory, env={"PATH": f"{commands}:{os.environ['PATH']}"})
    for name in ("deep/er/bin", "deep/er", "deep"):
        assert kernel.run(f"import os; os.rename({name!r}, 'other')").ename == "OSError", name
    assert commands.is_dir()
    assert "Read-only" in kernel.run("open('deep/er/bin/python3', 'w')").evalue
    assert kernel.run("open('deep/file', 'w').write('x')").status == "ok"


def test_husk_itself_is_read_only_where_the_directory_holds_it(make_kernel, tmp_path):
    directory = tmp_path / "project"
    shutil.copytree(conftest.PREFIX, directory / "own", symlinks=True)
    kernel = make_kernel(cwd=directory, husk=directory / "own" / "bin" / "husk")
    for name in ("own/bin/husk", "own/libexec/husk/husk-sandbox", "own/libexec/husk/husk-init",
                 "own/libexec/husk/husk-network",
                 "own/lib/husk/interpreter/probe.py"):
        assert kernel.run(f"open({name!r}, 'a')").status == "error", name
        assert kernel.run(f"import os; os.rename({name!r}, 'x')").ename == "OSError", name
    assert kernel.run("import os; os.rename('own', 'x')").ename == "OSError"


def test_a_guarded_name_that_is_a_link_is_not_followed(make_kernel, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("s3cret")
    directory = tmp_path / "project"
    directory.mkdir()
    os.symlink(secret, directory / ".vscode")
    kernel = make_kernel(cwd=directory)
    assert kernel.run("open('.vscode/key').read()").ename == "FileNotFoundError"


def test_files_of_a_cell_belong_to_the_owner_of_the_directory(make_kernel, project):
    kernel = make_kernel(cwd=project)
    assert kernel.run("open('made', 'w').write('by a cell')").status == "ok"
    made = (project / "made").stat()
    assert (made.st_uid, made.st_gid) == (project.stat().st_uid, project.stat().st_gid)
    assert kernel.run("import os; os.getcwd()").value == repr(str(project))


def test_the_home_directory_is_not_shared_and_what_is_written_there_is_kept(make_kernel, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("s3cret")
    env = {"HOME": str(home), "XDG_STATE_HOME": str(tmp_path / "state")}
    first = make_kernel(cwd=home, env=env)
    assert first.run("import os; 'secret' in os.listdir('.')").value == "False"
    assert first.run("open('kept', 'w').write('1')").status == "ok"
    assert not (home / "kept").exists()
    info = first.control("kernel_info_request")["content"]
    assert "private" in info["banner"] and "home directory" in info["banner"]
    second = make_kernel(cwd=home, env=env)
    assert second.run("open('kept').read()").value == "'1'"


@pytest.mark.parametrize("directory", ["/", "/tmp", "/usr", "/etc"])
def test_directories_of_the_system_are_not_shared(make_kernel, tmp_path, directory):
    kernel = make_kernel(cwd=directory, env={"XDG_STATE_HOME": str(tmp_path / "state")})
    name = f"husk-test-{os.getpid()}"
    kernel.run(f"open({str(pathlib.Path(directory, name))!r}, 'w').write('x')")
    assert not pathlib.Path(directory, name).exists()
    assert kernel.run("1 + 1").value == "2"


def test_the_connection_file_cannot_be_read_where_the_directory_holds_it(make_kernel, tmp_path):
    kernel = make_kernel(cwd=tmp_path / "kernel0")  # where the fixture puts kernel.json
    assert (tmp_path / "kernel0" / "kernel.json").stat().st_size > 100
    assert kernel.run("open('kernel.json').read()").ename == "PermissionError"
    assert kernel.run("import os; os.rename('kernel.json', 'x')").ename == "OSError"
    assert kernel.run("open('other', 'w').write('x')").status == "ok"


def test_a_directory_with_connection_files_of_others_is_not_shared(make_kernel, tmp_path):
    runtime = tmp_path / "data" / "runtime"
    runtime.mkdir(parents=True)
    (runtime / "kernel-1.json").write_text("key")
    env = {"JUPYTER_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(tmp_path / "state")}
    kernel = make_kernel(cwd=tmp_path / "data", env=env)
    assert kernel.run("import os; os.path.exists('runtime/kernel-1.json')").value == "False"


def test_a_directory_with_the_connection_files_and_sockets_of_commands_is_not_shared(make_kernel, tmp_path):
    kept = tmp_path / "data" / "husk"
    kept.mkdir(parents=True, mode=0o700)
    (kept / "1.connection").write_text("key")
    env = {"XDG_RUNTIME_DIR": str(tmp_path / "data"), "XDG_STATE_HOME": str(tmp_path / "state")}
    kernel = make_kernel(cwd=tmp_path / "data", env=env)
    assert kernel.run("import os; os.path.exists('husk/1.connection')").value == "False"
    assert kernel.run(f"import os; os.path.exists({str(kept)!r})").value == "False"


def test_a_link_on_the_way_to_python_makes_the_directory_private(make_kernel, tmp_path):
    """A cell would put its own link, and with it its own Python, in the place of this one."""
    venv.create(tmp_path / "elsewhere", system_site_packages=True)
    project = tmp_path / "project"
    project.mkdir()
    os.symlink(tmp_path / "elsewhere", project / ".venv")
    kernel = make_kernel("--python", str(project / ".venv" / "bin" / "python"), cwd=project,
                         env={"XDG_STATE_HOME": str(tmp_path / "state")})
    assert kernel.run("6 * 7").value == "42"
    kernel.run(f"import os; os.rename({str(project / '.venv')!r}, 'x')")
    kernel.run(f"os.unlink({str(project / '.venv')!r})")
    assert os.readlink(project / ".venv") == str(tmp_path / "elsewhere")
