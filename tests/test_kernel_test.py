# SPDX-License-Identifier: BSD-3-Clause
"""jupyter_kernel_test, with every capability filled in: nothing is skipped."""

import os
import tempfile
import unittest

import conftest
import jupyter_kernel_test

_directory = tempfile.TemporaryDirectory()
_specs = conftest.spec_directory(_directory.name, "--history", "session")


class _Husk:
    kernel_name = "husk"

    @classmethod
    def setUpClass(cls):
        cls._before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = str(_specs.parent)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        if cls._before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = cls._before


class TestHusk(_Husk, jupyter_kernel_test.KernelTests):
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('oops', file=sys.stderr)"
    completion_samples = [
        {"text": "zi", "matches": {"zip"}},
        {"text": "import itertools; itertools.cy", "matches": {"cycle"}},
    ]
    complete_code_samples = ["1", "print('hello')", "def f(x):\n  return x*2\n\n\n"]
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2", "for i in range(3):"]
    invalid_code_samples = ["import = 7q", "1 + +"]
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('no')"
    code_execute_result = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    ]
    code_display_data = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>x</b>'))",
         "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))",
         "mime": "text/latex"},
        {"code": "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()",
         "mime": "image/png"},
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


class TestWelcome(_Husk, jupyter_kernel_test.IopubWelcomeTests):
    support_iopub_welcome = True


if __name__ == "__main__":
    unittest.main()
