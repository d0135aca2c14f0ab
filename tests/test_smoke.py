# SPDX-License-Identifier: BSD-3-Clause
"""The shortest way through everything."""


def test_a_value_comes_back(kernel):
    assert kernel.run("6 * 7").value == "42"


def test_text_comes_back(kernel):
    assert kernel.run("print('hi')").stdout == "hi\n"


def test_an_error_comes_back(kernel):
    assert kernel.run("1 / 0").ename == "ZeroDivisionError"
