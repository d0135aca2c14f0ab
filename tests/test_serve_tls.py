# SPDX-License-Identifier: BSD-3-Clause
"""husk serve with a certificate: what goes through it, and what clients that do not keep to it do to others."""

import hashlib
import http.client
import os
import socket
import ssl
import subprocess

import pytest

from conftest import HUSK, TIMEOUT
from serving import V1, Server, wait_until

SIZE = 3_000_000  # more than any buffer on the way


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    made = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", made / "key", "-out", made / "cert",
                    "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                   check=True, capture_output=True)
    return made


class TlsServer(Server):
    def __init__(self, pair, *options):
        super().__init__(f"--certfile={pair / 'cert'}", f"--keyfile={pair / 'key'}", *options)
        self.certificate = str(pair / "cert")
        self.address = "127.0.0.1", int(self.url.rsplit(":", 1)[1])

    def request(self, method, path, **options):
        return super().request(method, path, verify=self.certificate, **options)

    def connect(self, kernel, *given, **options):
        return super().connect(kernel, *given, sslopt={"ca_certs": self.certificate}, **options)

    def plain(self):
        return socket.create_connection(self.address, TIMEOUT)

    def context(self, version=None):
        context = ssl.create_default_context(cafile=self.certificate)
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        if version:
            context.minimum_version = context.maximum_version = version
        return context

    def secure(self):
        return self.context().wrap_socket(self.plain(), server_hostname="localhost", suppress_ragged_eofs=False)


@pytest.fixture(scope="module")
def server(pair):
    s = TlsServer(pair)
    yield s
    s.stop()


@pytest.fixture(scope="module")
def kernel(server):
    return server.start()


@pytest.mark.parametrize("form", [None, [V1]], ids=["legacy", "v1"])
def test_megabytes_go_both_ways_over_a_websocket(server, kernel, form):
    assert server.url.startswith("https://")
    c = server.connect(kernel, subprotocols=form)
    sent = c.run(f"held = '{'y' * SIZE}'; print('x' * {SIZE}); len(held)")
    assert sent.stdout == "x" * SIZE + "\n"
    assert sent.of("execute_result")[0]["content"]["data"]["text/plain"] == str(SIZE)
    c.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_file_goes_in_and_out(server, kernel, version):
    data, where = os.urandom(SIZE), f"/api/kernels/{kernel}/sandbox/files?path=f"
    c = http.client.HTTPSConnection(*server.address, timeout=TIMEOUT, context=server.context(version))
    for method, body in (("PUT", data), ("GET", None)):
        c.request(method, where, body, server.headers)
        reply = c.getresponse()
        got = reply.read()
        assert reply.status < 300, got
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    c.close()


def test_the_end_of_a_reply_is_told_from_one_that_was_cut_off(server, kernel):
    c = server.connect(kernel)
    c.run(f"open('f', 'wb').write(b'z' * {SIZE})")
    c.close()
    with server.secure() as s:
        s.sendall(f"GET /api/kernels/{kernel}/sandbox/files?path=f HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                  "Authorization: token secret\r\n\r\n".encode())
        got = b"".join(iter(lambda: s.recv(1 << 16), b""))  # cut off: ssl.SSLEOFError
    assert got.endswith(b"z" * SIZE)


def test_the_answer_to_a_body_that_is_too_large_arrives_although_it_was_not_read(pair):
    server = TlsServer(pair, "--max-body=1k")
    with server.secure() as s:
        s.sendall(b"POST /api/kernels HTTP/1.1\r\nHost: localhost\r\nAuthorization: token secret\r\n"
                  b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000)
        assert s.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
    server.stop()


def test_a_close_code_arrives(server, kernel):
    c = server.connect(kernel)
    c.socket.send("no JSON")
    code, why = c.close_code()
    assert (code, why) == (1007, "byte 0: no value")
    c.close()


NOT_TLS = {
    "HTTP": b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "noise": bytes(range(256)) * 20,
    "a record that is too long": b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
}


@pytest.mark.parametrize("said", NOT_TLS.values(), ids=NOT_TLS)
def test_what_is_no_tls_is_hung_up_on(server, said):
    with server.plain() as s:
        try:
            s.sendall(said)
            while s.recv(4096):
                pass
        except ConnectionError:
            pass
    assert server.get("/api/status").ok


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_an_old_version_is_refused(server, version):
    context = server.context(ssl.TLSVersion[version])
    context.set_ciphers("ALL:@SECLEVEL=0")  # this client would
    with server.plain() as s, pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        context.wrap_socket(s, server_hostname="localhost")


def test_half_a_hello_and_a_client_that_does_not_read_hold_up_nobody(server, kernel):
    with server.plain() as half, server.secure() as deaf:
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        deaf.sendall(f"GET /api/kernels/{kernel}/sandbox/files?path=/dev/zero HTTP/1.1\r\nHost: localhost\r\n"
                     "Authorization: token secret\r\n\r\n".encode())
        assert server.get("/api/status").ok
        c = server.connect(kernel)
        assert c.run("print(1)").stdout == "1\n"
        c.close()


def test_connections_beyond_the_limit_wait_for_one_that_ends(pair):
    server = TlsServer(pair, "--max-connections=2")
    held = [server.secure(), server.secure()]
    with server.plain() as third:
        with server.context().wrap_socket(third, server_hostname="localhost", do_handshake_on_connect=False) as s:
            s.settimeout(0.3)
            with pytest.raises(TimeoutError):
                s.do_handshake()
            held.pop().close()
            s.settimeout(TIMEOUT)
            s.do_handshake()
            s.sendall(b"GET /api HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert s.recv(4096).startswith(b"HTTP/1.1 200 ")
    held.pop().close()
    server.stop()


def test_nothing_stays_of_connections_that_are_over(pair):
    server = TlsServer(pair)

    def descriptors():
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    before = descriptors()
    many = [server.secure() for _ in range(20)] + [server.plain() for _ in range(20)]
    wait_until(lambda: descriptors() == before + 20 * 3 + 20, "a socket for each, and a pair for those that shook hands")
    for s in many:
        s.close()
    wait_until(lambda: descriptors() == before, "descriptors that stay")
    server.stop()


@pytest.mark.parametrize("cert, key, why", [
    ("cert", "other", "'{0}/cert' and '{0}/other' are no certificate and its key: "),
    ("key", "key", "'{0}/key' and '{0}/key' are no certificate and its key: "),
    ("none", "key", "read '{0}/none': No such file or directory"),
], ids=["another's key", "no certificate", "no file"])
def test_what_is_no_pair_is_refused(pair, cert, key, why):
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", pair / "other"],
                   check=True, capture_output=True)
    done = subprocess.run([HUSK, "serve", "--port=0", f"--certfile={pair / cert}", f"--keyfile={pair / key}"],
                          capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 71 and why.format(pair) in done.stderr
