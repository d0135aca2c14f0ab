# SPDX-License-Identifier: BSD-3-Clause
"""Says what this Python needs to see. Run by husk, outside of the sandbox, with -I -S.

So `site` has not run, and no code but the standard library's does: what `site` would do later,
inside, is worked out from files read as text. Works from Python 3.0 on, so that an old one can
say its version.
"""

import ast
import os
import sys


def tell(name, value):
    if "\n" not in value:
        sys.stdout.write(name + "=" + value + "\n")


def find_environment(executable):
    """Prefix of the virtual environment that the executable belongs to, and its pyvenv.cfg."""
    here = os.path.dirname(executable)
    for directory in (here, os.path.dirname(here)):
        config = os.path.join(directory, "pyvenv.cfg")
        tell("looked", config)
        if os.path.isfile(config):
            with open(config, errors="replace") as f:
                pairs = [line.partition("=") for line in f]
            return directory, {k.strip().lower(): v.strip() for k, _, v in pairs}
    return None, {}


def user_base():
    base = os.environ.get("PYTHONUSERBASE")
    return os.path.expanduser(base) if base else os.path.expanduser(os.path.join("~", ".local"))


def site_directories(prefixes):
    version = "python%d.%d" % sys.version_info[:2]
    for prefix in prefixes:
        for lib in sorted({getattr(sys, "platlibdir", "lib"), "lib"}):
            yield os.path.join(prefix, lib, version, "site-packages")
        yield os.path.join(prefix, "lib", version, "dist-packages")  # Debian
        yield os.path.join(prefix, "lib", "python3", "dist-packages")
        yield os.path.join(prefix, "local", "lib", version, "dist-packages")


def editable_directories(directory, name):
    """Where a package that was installed in editable mode by setuptools lives."""
    module = name.split("import", 1)[1].split(";")[0].strip()
    tell("looked", os.path.join(directory, module + ".py"))
    try:
        with open(os.path.join(directory, module + ".py"), encoding="utf-8") as f:
            tree = ast.parse(f.read())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [t.id for t in targets if isinstance(t, ast.Name)]
            if "MAPPING" in names or "NAMESPACES" in names:
                try:
                    value = ast.literal_eval(node.value)
                except ValueError:
                    continue
                for path in value.values():
                    for item in path if isinstance(path, list) else [path]:
                        yield item


def path_files(directory):
    """What the .pth files of a site directory add, without running their import lines."""
    tell("looked", directory)
    try:
        names = sorted(n for n in os.listdir(directory) if n.endswith(".pth"))
    except OSError:
        return
    for name in names:
        tell("looked", os.path.join(directory, name))
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as f:
                lines = f.read().splitlines()
        except OSError:
            continue
        for line in map(str.strip, lines):
            if line.startswith(("import ", "import\t")):
                if "__editable__" in line:
                    for path in editable_directories(directory, line):
                        yield path
            elif line and not line.startswith("#"):
                yield os.path.join(directory, line)


def links(path):
    """The path and every link on the way to what it names."""
    for _ in range(40):
        yield path
        if not os.path.islink(path):
            return
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))


def main():
    if not sys.executable:
        sys.exit("it does not know its own path")
    tell("version", "%d.%d.%d" % sys.version_info[:3])
    executable = os.path.abspath(sys.executable)
    tell("executable", executable)
    # With these it is said what this answer was made from: husk keeps it as long as they are the same.
    tell("looked", os.path.abspath(__file__))
    tell("looked", os.path.abspath(os.__file__))
    for path in list(links(executable)) + [os.path.realpath(executable)]:
        tell("looked", path)
    environment, config = find_environment(executable)
    prefixes = [sys.base_prefix, sys.base_exec_prefix]
    if environment:
        shared = config.get("include-system-site-packages", "false").lower() == "true"
        sites = list(site_directories([environment] + (prefixes if shared else [])))
        use_user = shared
    else:
        sites = list(site_directories(prefixes + ["/usr", "/usr/local"]))
        use_user = True
    if use_user and not os.environ.get("PYTHONNOUSERSITE"):
        sites += site_directories([user_base()])
    wanted = prefixes + ([environment] if environment else []) + sites
    wanted += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(p)]
    for directory in sites:
        wanted += path_files(directory)
    # What debugs cells is told to clients, some of which ask before the interpreter has started.
    if any(os.path.isfile(os.path.join(p, "debugpy", "__init__.py")) for p in wanted):
        tell("debugger", "1")
    own = prefixes + ([environment] if environment else [])
    # pyvenv.cfg is looked for beside the executable and one directory above it, for each of its
    # names: one that does not exist could be made there, so those directories count, too.
    for path in list(links(executable)) + [os.path.realpath(executable)]:
        own += [os.path.dirname(path), os.path.dirname(os.path.dirname(path))]
    # What decides which code this very script is made of, at the next start.
    for path in own:
        for form in (os.path.abspath(path), os.path.realpath(path)):
            tell("own", form)
    wanted += [os.path.dirname(path) for path in links(executable)]
    wanted.append(os.path.dirname(os.path.realpath(executable)))
    for path in wanted:
        if os.path.isabs(path):
            tell("looked", os.path.dirname(path) if os.path.isfile(path) else path)
        for form in (os.path.abspath(path), os.path.realpath(path)):
            if os.path.exists(form):
                tell("path", form)


main()
