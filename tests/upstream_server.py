# SPDX-License-Identifier: BSD-3-Clause
"""The fixtures of jupyter_server's own tests, for a server of husk's in the place of theirs: upstream.py makes
it the conftest.py of the tests of its services."""

import sys
import types
import urllib.parse

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

sys.path.insert(0, HERE)  # noqa: F821 (upstream.py says it)

from serving import Server  # noqa: E402


@pytest.fixture
def husk(jp_root_dir):
    s = Server("--profile=notebook", f"--workdir={jp_root_dir}")
    yield s
    s.stop()


@pytest.fixture
def jp_base_url():
    return "/"


@pytest.fixture
def jp_auth_header(husk):
    return {"Authorization": f"token {husk.token}"}


@pytest.fixture
def jp_serverapp(husk, jp_root_dir):
    """What tests ask of the object, where a server has such a thing at all."""
    kernels = types.SimpleNamespace(use_pending_kernels=False, get_kernel=lambda kernel: None)
    return types.SimpleNamespace(kernel_manager=kernels, root_dir=str(jp_root_dir), base_url="/")


def address(base, parts, params):
    path = "/".join(urllib.parse.quote(p.strip("/")) for p in parts)
    return f"{base}/{path}" + (f"?{urllib.parse.urlencode(params)}" if params else "")


@pytest.fixture
def jp_fetch(husk, jp_auth_header):
    async def fetch(*parts, headers=None, params=None, **options):
        url = address(husk.url, parts, params)
        return await AsyncHTTPClient().fetch(url, headers={**jp_auth_header, **(headers or {})}, request_timeout=20, **options)
    return fetch


@pytest.fixture
def jp_ws_fetch(husk, jp_auth_header):
    async def fetch(*parts, headers=None, params=None, **options):
        url = address(husk.url.replace("http", "ws", 1), parts, params)
        return await websocket_connect(HTTPRequest(url, headers={**jp_auth_header, **(headers or {})}, connect_timeout=20, **options))
    return fetch


@pytest.fixture
def jp_cleanup_subprocesses():
    async def nothing():
        pass
    return nothing
