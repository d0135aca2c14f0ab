# SPDX-License-Identifier: BSD-3-Clause
"""The short form of soak.py."""

import soak


def test_no_reply_and_no_idle_is_lost_and_nothing_grows(make_kernel):
    soak.soak(make_kernel(), 450, seed=1, per_round=150)
