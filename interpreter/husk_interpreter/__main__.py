# SPDX-License-Identifier: BSD-3-Clause
"""Entry point: ``python3 .../husk_interpreter`` as husk-init starts it.

Order matters: text and errors of everything that is imported below must already have a way out.
"""

import os
import sys


def prepare_path():
    """What a user expects in sys.path: the working directory, and not ours.

    The modules that we need were found through sys.path[0]; the name stays importable because
    the packages are in sys.modules and know their own paths.
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[0] = here
    return here


def load_extension(here):
    """The one for glibc, or else the one for musl: images have either."""
    try:
        import _husk
    except ImportError as why:
        sys.path[0] = os.path.join(here, "musl")
        try:
            import _husk
        except ImportError:
            raise why from None
        finally:
            sys.path[0] = here
    return _husk


def main():
    here = prepare_path()
    _husk = load_extension(here)
    from husk_interpreter import messages, parents, streams

    freezes = sys.argv[1:2] == ["--freeze"]
    if freezes:
        from husk_interpreter import frozen

        frozen.begin()
    else:
        _husk.start(parents.slot_of_context, messages.fallback)
    streams.install()
    from husk_interpreter import kernel

    # Before the working directory may be searched: nothing in it stands in for what IPython imports.
    # Nothing here is global from now on: in plain mode this module is the user's own.
    made = kernel.Kernel()
    kernel.place_path(here)
    if freezes:
        frozen.freeze(made)  # returns in who is thawed
        _husk.start(parents.slot_of_context, messages.fallback)
    made.run()


if __name__ == "__main__":
    main()
