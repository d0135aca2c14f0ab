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


def main():
    here = prepare_path()
    import _husk
    from husk_interpreter import messages, streams

    _husk.start(streams.slot_of_context, messages.fallback)
    streams.install()
    from husk_interpreter import kernel

    # Our directory goes to the end, so that nothing of ours shadows a module of the user's.
    sys.path.remove(here)
    sys.path.insert(0, "")
    sys.path.append(here)
    kernel.Kernel().run()


if __name__ == "__main__":
    main()
