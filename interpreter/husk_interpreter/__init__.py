# SPDX-License-Identifier: BSD-3-Clause
"""The thin Python side of husk: IPython's shell behind a wall of frames.

Runs inside the sandbox, in the user's own Python. Nothing here is trusted.
"""
