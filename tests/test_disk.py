# SPDX-License-Identifier: BSD-3-Clause
"""The limit of the private directories on disk (--disk)."""

import time

import conftest
import pytest

WRITE = """
import os
def write(name, mib):
    with open(name, 'ab') as f:
        for i in range(mib): f.write(bytes(1 << 20))
def until(condition):
    import time
    for i in range(2000):
        if condition(): return True
        time.sleep(0.02)
"""


@pytest.fixture
def small(make_kernel):
    kernel = make_kernel("--profile", "strict", "--disk", "20m")
    assert kernel.run(WRITE).status == "ok"
    return kernel


def is_stopped(kernel, name):
    """A fresh file each time: one that grows would meet the limit of a single file."""
    return kernel.run(f"""
def stopped():
    try:
        open({name!r}, 'wb').close()
        write({name!r}, 1)
    except OSError as e: return e.errno == 27
until(stopped)""").value


def test_one_file_is_no_longer_than_the_limit(small):
    result = small.run("write('a', 30)")
    assert result.ename == "OSError" and "File too large" in result.evalue
    assert "may hold 20 MiB together (option --disk)" in result.stderr
    assert small.run("os.path.getsize('a')").value == str(20 << 20)


@pytest.mark.parametrize("place", ["/workspace", "/home/user", "/workspace/" + "d/" * 300],
                         ids=["/workspace", "/home/user", "300 directories deep"])
def test_many_files_are_no_longer_than_the_limit_together(small, place):
    small.run(f"os.makedirs({place!r}, exist_ok=True); os.chdir({place!r})")
    small.run("for i in range(25): write(f'f{i}', 1)")
    assert is_stopped(small, "more") == "True"
    assert small.run("open('small', 'w').write('x' * 1000)").value == "1000"  # life goes on


def test_what_is_removed_can_be_used_again(small):
    small.run("for i in range(25): write(f'f{i}', 1)")
    assert is_stopped(small, "more") == "True"
    small.run("os.unlink('more')\nfor i in range(25): os.unlink(f'f{i}')")
    assert small.run("""
def goes():
    try: write('again', 1); return True
    except OSError: pass
until(goes)""").value == "True"


def test_it_holds_for_children_and_for_the_next_interpreter(small):
    small.run("for i in range(25): write(f'f{i}', 1)")
    assert is_stopped(small, "more") == "True"
    result = small.run("import subprocess; subprocess.run(['sh', '-c', 'head -c 2000000 /dev/zero > child; ls -l child']).returncode")
    assert " 65536 " in result.stdout
    small.run("os._exit(1)")
    small.run(WRITE)
    assert is_stopped(small, "next") == "True"


def test_who_takes_the_stop_off_is_ended_and_told_why(small):
    result = small.run("""
import resource, time
small = (20 << 20, 20 << 20)
for i in range(2000):
    resource.setrlimit(resource.RLIMIT_FSIZE, small)
    try: write(f'f{i}', 1)
    except OSError: pass
    time.sleep(0.002)
""")
    assert result.ename == "InterpreterDied" and "far over their limit of 20 MiB" in result.evalue
    assert small.run("1").value == "1"


def test_who_moves_directories_about_meanwhile_gains_nothing(small):
    small.run("""
import subprocess, sys
mover = subprocess.Popen([sys.executable, '-c', '''
import os
os.makedirs("x/y/z"); os.makedirs("a/b")
while True:
    os.rename("x/y", "a/b/y"); os.rename("a/b/y", "x/y")
'''])
for i in range(25): write(f'f{i}', 1)""")
    assert is_stopped(small, "more") == "True"
    small.run("mover.kill()")


def test_what_is_in_closed_directories_counts(small):
    small.run("""
for d in 'ab':
    os.mkdir(d)
    for i in range(13): write(f'{d}/{i}', 1)
    os.chmod(d, 0)""")
    assert is_stopped(small, "more") == "True"


def test_a_neighbour_does_not_notice(make_kernel, small):
    other = make_kernel("--profile", "strict", "--disk", "20m")
    other.run(WRITE)
    small.run("for i in range(25): write(f'f{i}', 1)")
    assert is_stopped(small, "more") == "True"
    assert other.run("write('a', 15); os.path.getsize('a')").value == str(15 << 20)
    time.sleep(1.5)
    assert other.run("write('b', 2); 'goes on'").value == "'goes on'"


def test_a_shared_directory_is_not_counted(make_kernel):
    kernel = make_kernel("--disk", "10m")
    kernel.run(WRITE)
    assert kernel.run("write('a', 15); os.path.getsize('a')").value == str(15 << 20)
    assert (kernel.cwd / "a").stat().st_size == 15 << 20


def test_as_many_small_files_as_fit(small):
    """Names count, too: a kibibyte each."""
    result = small.run("""
import time
os.makedirs('many'); n = 0
end = time.time() + 50
while time.time() < end:
    for i in range(2000):
        os.close(os.open(f'many/{n}', os.O_CREAT | os.O_WRONLY)); n += 1
    try:
        with open('probe', 'wb', buffering=0) as f: f.write(bytes(1 << 17)); f.write(b'x')
    except OSError: break
n < 200000""", timeout=2 * conftest.TIMEOUT)
    assert result.value == "True"
