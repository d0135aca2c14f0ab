# SPDX-License-Identifier: BSD-3-Clause
"""The allow-list of the network, tried by cells in real sandboxes against servers on loopback.

127.0.0.1 is an address that the guard refuses; so each port that a test may reach is listed as a
literal, too. What is outside of 127.0.0.0/8 is never connected to, only refused.

For --network all the whole kernel runs in a network namespace where public addresses are routed to
servers of the test.
"""

import contextlib
import fcntl
import hashlib
import http.server
import itertools
import json
import os
import shutil
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import zipfile

import conftest
import pytest
from test_bad_input import NO_NFTABLES

BIG = 200 * 1000 * 1000
BLOCK = hashlib.sha512(b"husk").digest() * 1024  # 64 KiB

ADDRESSES = {
    "mirror.test": ["127.0.0.1"],
    "other.test": ["127.0.0.1"],
    "a.wild.test": ["127.0.0.1"],
    "a.b.wild.test": ["127.0.0.1"],
    "second.test": ["127.0.0.3", "127.0.0.1"],  # nothing listens at the first
    "mixed.test": ["10.1.2.3", "127.0.0.1"],
    "closed.test": ["127.0.0.3"],
    "rebind.test": ["10.1.2.3"],
    "loop.test": ["127.0.0.9"],
    "meta.test": ["169.254.169.254"],
    "zero.test": ["0.0.0.0"],
    "alias.test": ["198.18.0.1"],
    "six.test": ["::1"],
    "mapped.test": ["::ffff:127.0.0.1", "::ffff:127.0.0.9"],
    "empty.test": [],
    "evil.test": ["127.0.0.1"],
    "wild.test": ["127.0.0.1"],
    "evil-wild.test": ["127.0.0.1"],
    "evil-mirror.test": ["127.0.0.1"],
    "public.test": ["203.0.113.5"],
    "six-only.test": ["2001:db9::5"],
    "both.test": ["2001:db9::6", "203.0.113.6"],
    "private.test": ["10.99.0.1"],
    "own.test": ["198.51.100.1"],
    "six-private.test": ["fd00::1"],
}
TURNS = itertools.cycle(["203.0.113.5", "10.99.0.1"])  # of turns.test, one for each question


def answer_dns(packet):
    name, at = [], 12
    while packet[at]:
        name.append(packet[at + 1:at + 1 + packet[at]].decode())
        at += packet[at] + 1
    kind, = struct.unpack(">H", packet[at + 1:at + 3])
    known = ADDRESSES.get(".".join(name).lower())
    if name == ["turns", "test"]:
        known = [next(TURNS)] if kind == 1 else []
    if name == ["broken", "test"]:
        return packet[:2] + b"\x81\x82" + packet[4:]
    family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
    found = [a for a in known or () if family and (":" in a) == (family == socket.AF_INET6)]
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, 4 if kind == 1 else 16) + socket.inet_pton(family, a)
        for a in found)
    flags = b"\x81\x80" if known is not None else b"\x81\x83"
    return packet[:2] + flags + struct.pack(">HHHH", 1, len(found), 0, 0) + packet[12:at + 5] + records


class Dns(socketserver.BaseRequestHandler):
    def handle(self):
        packet, sock = self.request
        sock.sendto(answer_dns(packet), self.client_address)


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        size = BIG if self.path == "/big" else len(self.headers["Host"])
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.path != "/big":
            self.wfile.write(self.headers["Host"].encode())
            return
        while size:
            size -= self.wfile.write(BLOCK[:size])

    def log_message(self, *_):
        pass


class Echo(socketserver.BaseRequestHandler):
    """Greets first, as SSH does; then echoes; after the end of its client says how much it was."""

    def handle(self):
        self.request.sendall(b"hello\n")
        total = 0
        while data := self.request.recv(1 << 16):
            total += len(data)
            self.request.sendall(data)
        self.request.sendall(b"<%d>" % total)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 200


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Ports by name, and `ca`, a certificate to trust."""
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", "key.pem", "-out", "ca.pem", "-days", "30", "-subj", "/CN=mirror.test",
         "-addext", "subjectAltName=DNS:mirror.test,DNS:other.test"],
        cwd=directory, check=True, capture_output=True, timeout=60)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "ca.pem", directory / "key.pem")
    with contextlib.ExitStack() as stack:
        found = {"ca": (directory / "ca.pem").read_text()}

        def serve(name, server):
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            found[name] = server.server_address[1]

        serve("dns", socketserver.ThreadingUDPServer(("127.0.0.1", 0), Dns))
        serve("http", http.server.ThreadingHTTPServer(("127.0.0.1", 0), Http))
        serve("echo", Server(("127.0.0.1", 0), Echo))
        https = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Http)
        https.socket = tls.wrap_socket(https.socket, server_side=True, do_handshake_on_connect=False)
        serve("https", https)
        held = stack.enter_context(socket.socket())  # connections wait in its queue for ever
        held.bind(("127.0.0.1", 0))
        held.listen(1000)
        found["held"] = held.getsockname()[1]
        yield found


def rules(servers):
    names = ["mirror.test", "other.test", "*.wild.test", "second.test", "mixed.test", "closed.test",
             "rebind.test", "loop.test", "meta.test", "zero.test", "alias.test", "six.test",
             "mapped.test", "empty.test", "missing.test", "127.0.0.1", "127.0.0.3"]
    yield from ("--resolver", f"127.0.0.1:{servers['dns']}")
    for name in names:
        yield from ("--allow", f"{name}:{servers['http']}")
    for port in ("echo", "https", "held"):
        yield from ("--allow", f"Mirror.Test.:{servers[port]}", "--allow", f"127.0.0.1:{servers[port]}")
    yield from ("--allow", "203.0.113.0/24:8443")


PRELUDE = """
import concurrent.futures, errno, hashlib, os, select, socket, ssl, struct, threading, time, urllib.request
HTTP, HTTPS, ECHO, HELD = {http}, {https}, {echo}, {held}
def get(host, port=HTTP, path='/'):
    return urllib.request.urlopen(f'http://{{host}}:{{port}}{{path}}', timeout=50).read().decode()
def dial(host, port):
    return socket.create_connection((host, port), 50)
def read_all(s):
    return b''.join(iter(lambda: s.recv(1 << 16), b''))
def tls(host, name):
    c = ssl.create_default_context(cadata={ca!r})
    c.check_hostname = False
    return c.wrap_socket(dial(host, HTTPS), server_hostname=name)
def ask(packet):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    for i in range(20):  # UDP: as every resolver, more than once
        s.sendto(packet, ('127.0.0.53', 53))
        try: return s.recv(600)
        except TimeoutError: pass
"""


def start(make, servers, *more):
    k = make(*rules(servers), *more)
    assert k.run(PRELUDE.format(**servers)).status == "ok"
    return k


@pytest.fixture(scope="module")
def net(servers, tmp_path_factory):
    k = conftest.Kernel(tmp_path_factory.mktemp("net"), *rules(servers))
    assert k.run(PRELUDE.format(**servers)).status == "ok"
    yield k
    k.stop()


def stderr_with(k, result, text, timeout=20):
    """The stderr of a cell; a notice may come after the cell has ended."""
    found, end = result.stderr, time.monotonic() + timeout
    while text not in found and time.monotonic() < end:
        with contextlib.suppress(Exception):
            m = k.client.get_iopub_msg(timeout=0.2)
            if m["msg_type"] == "stream" and m["content"]["name"] == "stderr":
                found += m["content"]["text"]
    return found


def value(k, code):
    r = k.run(code)
    assert r.status == "ok", (r.ename, r.evalue, r.stderr)
    return r.value


# --- what works


def test_an_allowed_name_is_reached(net, servers):
    assert value(net, "get('mirror.test')") == repr(f"mirror.test:{servers['http']}")


@pytest.mark.parametrize("name", ["MIRROR.test", "mirror.test.", "a.wild.test", "a.b.wild.test", "second.test"])
def test_names_are_one_whatever_their_form(net, name):
    assert name.rstrip(".").lower() in value(net, f"get({name!r})").lower()


def test_an_address_that_may_not_be_used_is_passed_over(net):
    assert "mixed.test" in value(net, "get('mixed.test')")


def test_https_with_a_certificate(net, servers):
    code = f"""
c = ssl.create_default_context(cadata={servers['ca']!r})
urllib.request.urlopen(f'https://mirror.test:{{HTTPS}}/', context=c, timeout=50).read().decode()"""
    assert value(net, code) == repr(f"mirror.test:{servers['https']}")


def test_a_server_may_speak_first(net):
    assert value(net, "s = dial('mirror.test', ECHO); s.recv(6)") == repr(b"hello\n")


def test_each_side_may_end_alone(net):
    code = """
s = dial('mirror.test', ECHO); s.sendall(b'x' * 100000); s.shutdown(socket.SHUT_WR)
data = read_all(s); (data[:7], len(data), data[-8:])"""
    assert value(net, code) == repr((b"hello\nx", 6 + 100000 + 8, b"<100000>"))


def test_a_large_download_is_exact(net):
    digest = hashlib.sha256()
    for _ in range(BIG // len(BLOCK)):
        digest.update(BLOCK)
    digest.update(BLOCK[:BIG % len(BLOCK)])
    code = """
h = hashlib.sha256(); r = urllib.request.urlopen(f'http://mirror.test:{HTTP}/big', timeout=50)
while b := r.read(1 << 20): h.update(b)
h.hexdigest()"""
    assert value(net, code) == repr(digest.hexdigest())


def test_bytes_in_both_directions_at_once_while_nobody_reads(net):
    """What a side does not take makes the other wait, and is not lost."""
    code = """
s = dial('mirror.test', ECHO); s.settimeout(None); sent = os.urandom(1 << 16) * 320
t = threading.Thread(target=lambda: (s.sendall(sent), s.shutdown(socket.SHUT_WR))); t.start()
time.sleep(1); data = read_all(s); t.join()
data == b'hello\\n' + sent + b'<%d>' % len(sent)"""
    assert value(net, code) == "True"


def test_a_hundred_connections_at_once(net):
    code = """
def one(i):
    s = dial('mirror.test', ECHO); s.recv(6); return s
with concurrent.futures.ThreadPoolExecutor(100) as pool: many = list(pool.map(one, range(100)))
for i, s in enumerate(many): s.sendall(b'%03d' % i)
got = [s.recv(3) for s in many]
for s in many: s.close()
got == [b'%03d' % i for i in range(100)]"""
    assert value(net, code) == "True"


def test_the_address_of_a_name_is_stable_and_no_real_one(net):
    code = "a = socket.gethostbyname('mirror.test'); (a == socket.gethostbyname('mirror.test'), a.startswith('198.18.'))"
    assert value(net, code) == "(True, True)"


def test_a_name_has_no_other_records(net):
    query = "b'\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\6mirror\\4test\\0\\0\\x1c\\0\\1'"
    assert value(net, f"ask({query})[2:12].hex()") == repr("81800001000000000000")


def test_its_own_loopback_is_the_sandboxs(net):
    code = """
l = socket.create_server(('127.0.0.1', 0)); c = dial('127.0.0.1', l.getsockname()[1]); a = l.accept()[0]
c.sendall(b'own'); a.recv(3)"""
    assert value(net, code) == "b'own'"


# --- what is refused: code, the exception, what the user is told

# The cause of an error; the address itself is never seen by husk-network.
UNLISTED = "[husk: this sandbox reaches what --allow lists, by TCP, and no other address]"
REFUSED = {
    "a name that is not listed": ("get('evil.test')", "Name or service not known", "evil.test was refused: no --allow names it"),
    "a name that only ends like one": ("get('evil-mirror.test')", "Name or service not known", "evil-mirror.test was refused"),
    "the name above a wildcard": ("get('wild.test')", "Name or service not known", "wild.test was refused"),
    "a name that only ends like a wildcard": ("get('evil-wild.test')", "Name or service not known", "evil-wild.test was refused"),
    "a port that no rule has": ("dial('mirror.test', 22)", "Connection refused", ""),
    "a port of another rule": ("dial('mirror.test', 8443).recv(1)", "Connection reset", "mirror.test:8443 was refused: no --allow names this port"),
    "an address that is not listed": ("dial('192.0.2.1', 80)", "Network is unreachable", UNLISTED),
    "the metadata service": ("dial('169.254.169.254', 80)", "Network is unreachable", UNLISTED),
    "a listed address at a port of others": ("dial('203.0.113.5', HTTP).recv(1)", "Connection reset", "203.0.113.5:{http} was refused: no --allow lists it"),
    "an address that stands for nothing": ("dial('198.18.77.77', HTTP).recv(1)", "Connection reset", "198.18.77.77:{http} was refused"),
    "IPv6": ("dial('2001:db9::1', 80)", "", UNLISTED),
    "a name of a private address": ("get('rebind.test')", "Connection reset", "rebind.test:{http} was refused: the name stands for a private address"),
    "a name of loopback": ("get('loop.test')", "Connection reset", "loop.test:{http} was refused: the name stands for a loopback address"),
    "a name of IPv6 loopback": ("get('six.test')", "Connection reset", "six.test:{http} was refused: the name stands for a loopback address"),
    "a name of the metadata service": ("get('meta.test')", "Connection reset", "meta.test:{http} was refused: the name stands for a link-local address"),
    "a name of 0.0.0.0": ("get('zero.test')", "Connection reset", "zero.test:{http} was refused: the name stands for an address of this network"),
    "a name of an alias": ("get('alias.test')", "Connection reset", "alias.test:{http} was refused: the name stands for an address of the sandbox"),
    "a name without address": ("get('empty.test')", "Connection reset", "empty.test:{http} cannot be reached"),
    "a name that does not exist": ("get('missing.test')", "Connection reset", "missing.test:{http} cannot be reached"),
    "a server that is not there": ("get('closed.test')", "Connection reset", "closed.test:{http} cannot be reached: Connection refused"),
    "the host's loopback by its address": ("get('127.0.0.1')", "Connection reset", ""),
    "TLS for another server": ("tls('mirror.test', 'other.test')", "Connection reset", "mirror.test:{https} was refused: its TLS asks for another server, other.test"),
    "TLS without a name": ("tls('mirror.test', None)", "Connection reset", "mirror.test:{https} was refused: its TLS names no server"),
    "TLS that is none": ("s = dial('mirror.test', ECHO); s.sendall(b'\\x16\\3\\1\\0\\5\\2\\0\\0\\1\\0'); read_all(s)", "Connection reset", "mirror.test:{echo} was refused: its TLS begins with what is no ClientHello"),
    "half a ClientHello": ("s = dial('mirror.test', HELD); s.sendall(b'\\x16\\3\\1\\0\\5\\1'); s.shutdown(1); read_all(s)", "Connection reset", "mirror.test:{held} was refused: its TLS ends within the ClientHello"),
}


@pytest.mark.outcome(lambda claim: REFUSED[claim][1] or "an error")
@pytest.mark.parametrize("claim", REFUSED)
def test_refused(net, servers, claim):
    code, error, notice = REFUSED[claim]
    notice = notice.format(**servers)
    r = net.run(code)
    assert r.status == "error", (claim, r.value)
    assert error in r.evalue, (claim, r.ename, r.evalue)
    stderr = stderr_with(net, r, notice)
    if notice == UNLISTED:
        assert stderr == UNLISTED + "\n"
    elif notice:
        assert f"husk: {notice}" in stderr
        assert all(line.startswith("husk: ") for line in stderr.splitlines())
    else:
        assert stderr == ""


def test_a_mapped_loopback_address_is_judged_as_what_it_is(net, servers):
    """::ffff:127.0.0.1 is listed as 127.0.0.1; ::ffff:127.0.0.9 is not, and must not be tried."""
    assert "mapped.test" in value(net, "get('mapped.test')")


def test_a_tls_name_in_pieces_is_judged_all_the_same(net, servers):
    code = """
i, o = ssl.MemoryBIO(), ssl.MemoryBIO()
c = ssl._create_unverified_context(); t = c.wrap_bio(i, o, server_hostname='other.test')
try: t.do_handshake()
except ssl.SSLWantReadError: hello = o.read()
s = dial('mirror.test', HTTPS); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for b in hello[:-1]: s.send(bytes([b]))
time.sleep(0.5); s.send(hello[-1:]); s.recv(1)"""
    r = net.run(code)
    assert "Connection reset" in (r.evalue or ""), r.value


def test_bad_queries_are_answered_or_dropped_and_nothing_ends(net):
    code = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(2000): s.sendto(os.urandom(n % 300), ('127.0.0.53', 53))
loop = b'\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\\xc0\\x0c\\0\\1\\0\\1'
nul = b'\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\\x0bmirror.test\\0\\0\\1\\0\\1'
(ask(loop)[3] & 15, ask(nul)[3] & 15)"""
    assert value(net, code) == "(1, 3)"
    assert "mirror.test" in value(net, "get('mirror.test')")


def test_a_notice_is_told_once(servers, make_kernel):
    k = start(make_kernel, servers)
    r = k.run("""
for n in range(5):
    try: socket.gethostbyname('once.evil.test')
    except OSError: pass
""")
    assert stderr_with(k, r, "once.evil.test") == "husk: once.evil.test was refused: no --allow names it\n"


def test_notices_are_bounded(servers, make_kernel):
    k = start(make_kernel, servers)
    r = k.run("""
for n in range(500):
    try: socket.gethostbyname(f'n{n}.evil.test')
    except OSError: pass
""")
    lines = stderr_with(k, r, "n0.evil.test", 10).splitlines()
    assert 1 <= len(lines) <= 300 and len(lines) == len(set(lines))


def test_connections_are_bounded(servers, make_kernel):
    k = start(make_kernel, servers)
    r = k.run("""
many, refused, p = [], 0, select.poll()
for _ in range(600):
    try: many.append(dial('mirror.test', HELD))
    except ConnectionResetError: refused += 1
for s in many: p.register(s, 0)
end = time.monotonic() + 30
while refused + len(p.poll(0)) < 60 and time.monotonic() < end: time.sleep(0.1)
print(refused + len(p.poll(0)))
for s in many: # a program that closes without a reset is noticed only after a minute
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()
""")
    assert r.status == "ok", r.evalue
    assert int(r.stdout) >= 60
    assert "connections are open" in stderr_with(k, r, "connections are open")
    assert "mirror.test" in value(k, "time.sleep(0.5); get('mirror.test')")  # there is room again


# --- husk-network alone, in a network namespace that has a public address on its lo

ALONE = """
import array, fcntl, os, signal, socket, struct, subprocess, sys, threading, time
sys.path.insert(0, {tests!r})
import test_network as t
t.ADDRESSES["own.test"] = ["203.0.113.9"]
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def set_lo(name, call, *address):
    value = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address[0])) if address else struct.pack("H22x", 0x41)
    fcntl.ioctl(control, call, struct.pack("16s24s", name.encode(), value))
set_lo("lo", 0x8914)                                                           # up
set_lo("lo:1", 0x8916, "203.0.113.9"); set_lo("lo:1", 0x891C, "255.255.255.255")
set_lo("lo:2", 0x8916, "198.18.0.1"); set_lo("lo:2", 0x891C, "255.254.0.0")    # as the build does

dns = t.socketserver.ThreadingUDPServer(("127.0.0.1", 0), t.Dns)
http = t.http.server.ThreadingHTTPServer(("203.0.113.9", 0), t.Http)
for s in (dns, http): threading.Thread(target=s.serve_forever, daemon=True).start()
port = http.server_address[1]
resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); resolver.bind(("127.0.0.53", 0)); resolver.setblocking(False)
listener = socket.create_server(("198.18.0.1", port)); listener.setblocking(False)
broker, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
mine, sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
mine.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [resolver.fileno(), listener.fileno()]))])
os.dup2(theirs.fileno(), 30); os.dup2(sockets.fileno(), 31)
pid = os.fork()
if pid == 0:
    os.dup2(30, 3); os.dup2(31, 4)
    os.closerange(5, 64)
    os.execv({program!r}, ["husk-network", "127.0.0.1:%d" % dns.server_address[1], *(r.replace("PORT", str(port)) for r in {rules!r})])
theirs.close(); os.close(30); os.close(31)
broker.settimeout(20)
assert broker.recv(600)[4:6] == b"\\0\\x11", "ALIVE"
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); ask.settimeout(20)
ask.sendto(b"\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3own\\4test\\0\\0\\1\\0\\1", resolver.getsockname())
assert ask.recv(600)[-4:] == socket.inet_aton("198.18.0.1")
try:
    c = socket.create_connection(("198.18.0.1", port), 20)
    c.sendall(b"GET / HTTP/1.0\\r\\nHost: own.test\\r\\n\\r\\n")
    print(c.recv(12).decode())
except ConnectionResetError:
    print(broker.recv(600)[28:].decode())
broker.close()                                  # the end of the broker
for _ in range(200):
    if os.waitpid(pid, os.WNOHANG)[0]: break
    time.sleep(0.05)
else:
    os.kill(pid, signal.SIGKILL); print("it lived on")
"""


@pytest.mark.outcome(lambda rules, told: told)
@pytest.mark.parametrize("rules, told", [
    (["own.test:PORT"], "was refused: the name stands for an address of this machine"),
    (["own.test:PORT", "0.0.0.0/0:PORT"], "was refused: the name stands for an address of this machine"),
    (["own.test:PORT", "203.0.113.9:PORT"], "HTTP/1.1 200"),
    (["own.test:PORT", "203.0.113.9:1"], "was refused: the name stands for an address of this machine"),
], ids=["the name", "the name and everything", "the name and the address", "the address at another port"])
def test_a_public_address_of_this_machine_is_its_own(rules, told):
    code = ALONE.format(tests=os.path.dirname(__file__), rules=rules,
                        program=str(conftest.PREFIX / "libexec/husk/husk-network"))
    r = subprocess.run(["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", code],
                       capture_output=True, text=True, timeout=60)
    assert told in r.stdout and "lived on" not in r.stdout, (r.stdout, r.stderr)


# --- everything: --network all

# A process that holds a network namespace, its routes and the servers in it. An address that is routed to
# lo with another source is not the machine's own.
PUBLIC = """
import fcntl, functools, http.server, json, socket, struct, sys, threading
sys.path.insert(0, {tests!r})
import test_network as t
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
t.set_up(control, "lo")
t.set_up(control, "lo:1", "198.51.100.1")
for network, prefix, source in (("203.0.113.0", 24, "127.0.0.1"), ("10.99.0.0", 16, "127.0.0.1"), ("2001:db9::", 32, "::1")):
    t.add_local_route(network, prefix, source)
class Web(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Plain(t.Server):
    address_family = socket.AF_INET6
files = functools.partial(http.server.SimpleHTTPRequestHandler, directory={directory!r})
files.log_message = lambda *_: None
servers = dict(dns=t.socketserver.ThreadingUDPServer(("127.0.0.1", 0), t.Dns), http=Web(("::", 0), t.Http),
               echo=Plain(("::", 0), t.Echo), files=Web(("::", 0), files))
for s in servers.values(): threading.Thread(target=s.serve_forever, daemon=True).start()
print(json.dumps({{name: s.server_address[1] for name, s in servers.items()}}), flush=True)
sys.stdin.read()
"""


def set_up(control, name, address=None):
    if address:
        value = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
        fcntl.ioctl(control, 0x8916, struct.pack("16s24s", name.encode(), value))
    else:
        fcntl.ioctl(control, 0x8914, struct.pack("16s24s", name.encode(), struct.pack("H22x", 0x41)))


def add_local_route(network, prefix, source):
    family = socket.AF_INET6 if ":" in network else socket.AF_INET
    attributes = b"".join(struct.pack("=HH", 4 + len(value), kind) + value for kind, value in (
        (1, socket.inet_pton(family, network)), (4, struct.pack("=I", socket.if_nametoindex("lo"))),
        (7, socket.inet_pton(family, source))))
    body = struct.pack("=8BI", family, prefix, 0, 0, 255, 3, 254, 2, 0) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        s.send(struct.pack("=IHHII", 16 + len(body), 24, 0x405, 1, 0) + body)
        assert struct.unpack("=i", s.recv(4096)[16:20]) == (0,)


def make_files(directory):
    """What pip and git ask for: an index with a wheel, and a repository."""
    wheel = directory / "simple" / "tiny" / "tiny-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("tiny.py", "answer = 42\n")
        z.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        z.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("tiny-1.0.dist-info/RECORD", "")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t.test", "-C", str(directory)]
    for command in (["init", "-q", "work"], ["-C", "work", "commit", "-q", "--allow-empty", "-m", "one commit"],
                    ["clone", "-q", "--bare", "work", "repo.git"], ["-C", "repo.git", "update-server-info"]):
        subprocess.run([*git, *command], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Ports by name, and `within`: the command that brings a kernel there."""
    directory = tmp_path_factory.mktemp("files")
    make_files(directory)
    root = os.geteuid() == 0
    command = ["unshare", "--net"] if root else ["unshare", "--user", "--map-current-user", "--keep-caps", "--net"]
    code = PUBLIC.format(tests=os.path.dirname(__file__), directory=str(directory))
    with subprocess.Popen([*command, sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as holder:
        found = json.loads(holder.stdout.readline())
        enter = ["nsenter", "--net"] if root else ["nsenter", "--user", "--preserve-credentials", "--net"]
        found["within"] = [*enter, "--target", str(holder.pid), "--"]
        yield found
        holder.stdin.close()
        holder.wait(30)


EVERYTHING = """
import errno, hashlib, os, socket, struct, subprocess, threading, urllib.request
HTTP, ECHO, FILES = {http}, {echo}, {files}
def get(host, port=HTTP, path='/'):
    return urllib.request.urlopen(f'http://{{host}}:{{port}}{{path}}', timeout=50).read().decode()
def dial(host, port):
    return socket.create_connection((host, port), 50)
def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    return done.returncode, done.stdout.strip() or done.stderr[-600:]
"""


def start_all(make, public, *more):
    k = make("--network", "all", "--resolver", f"127.0.0.1:{public['dns']}", *more, within=public["within"],
             transport="ipc")
    assert k.run(EVERYTHING.format(**public)).status == "ok"
    return k


@pytest.fixture(scope="module")
def everything(public, tmp_path_factory):
    def make(*options, **more):
        return conftest.Kernel(tmp_path_factory.mktemp("all"), *options, **more)

    k = start_all(make, public, "--allow", f"10.99.0.7:{public['http']}")
    yield k
    k.stop()


REACHED = {
    "a name": ("get('public.test')", "'public.test:{http}'"),
    "a name at another port": ("dial('public.test', ECHO).recv(5)", "b'hello'"),
    "a name in other letters": ("get('PUBLIC.test')", "'PUBLIC.test:{http}'"),
    "a name that has IPv6 alone": ("get('six-only.test')", "'six-only.test:{http}'"),
    "a name that has both": ("get('both.test')", "'both.test:{http}'"),
    "an address": ("get('203.0.113.77')", "'203.0.113.77:{http}'"),
    "an address at another port": ("dial('203.0.113.77', ECHO).recv(5)", "b'hello'"),
    "an address of IPv6": ("get('[2001:db9::77]')", "'[2001:db9::77]:{http}'"),
    "an address of IPv4 by a socket of IPv6": ("dial('::ffff:203.0.113.5', ECHO).recv(5)", "b'hello'"),
    "a private address that is listed": ("get('10.99.0.7')", "'10.99.0.7:{http}'"),
    "by a name that does not block": (
        "import asyncio; r, w = await asyncio.open_connection('public.test', ECHO); await r.read(5)", "b'hello'"),
    "a server that is not named in what looks like TLS": (
        "s = dial('public.test', ECHO); s.recv(6); s.sendall(b'\\x16\\3\\1\\0\\5\\2\\0\\0\\1\\0'); s.recv(9, socket.MSG_WAITALL)",
        repr(b"\x16\3\1\0\5\2\0\0\1")),
    "curl": ("run('curl', '-sS', f'http://public.test:{{HTTP}}/')", "(0, 'public.test:{http}')"),
    "git": ("run('git', 'clone', '-q', f'http://public.test:{{FILES}}/repo.git', '/tmp/repo'); "
            "run('git', '-C', '/tmp/repo', 'log', '--format=%s')", "(0, 'one commit')"),
    "its own loopback": ("l = socket.create_server(('127.0.0.1', 0)); c = dial(*l.getsockname()); c.getpeername() == l.getsockname()",
                         "True"),
    "its own loopback of IPv6": ("l = socket.create_server(('::1', 0), family=socket.AF_INET6); c = dial(*l.getsockname()[:2]); "
                                 "c.getpeername() == l.getsockname()", "True"),
    "a port that it listens at itself": ("l = socket.create_server(('', HTTP)); r = get('203.0.113.9'); l.close(); r", "'203.0.113.9:{http}'"),
}


@pytest.mark.parametrize("claim", REACHED)
def test_all_reaches(everything, public, claim):
    code, value_of_it = REACHED[claim]
    r = everything.run(code.format())
    assert r.status == "ok", (claim, r.ename, r.evalue, r.stderr)
    assert r.value == value_of_it.format(**public) and r.stderr == ""


RESET = "Connection reset"
KEPT = {
    "a private address": ("dial('10.99.0.1', HTTP).recv(1)", RESET, "10.99.0.1:{http} was refused: it is a private address"),
    "a listed one at another port": ("dial('10.99.0.7', ECHO).recv(1)", RESET, "10.99.0.7:{echo} was refused: it is a private address"),
    "another private network": ("dial('192.168.1.1', 22).recv(1)", RESET, "192.168.1.1:22 was refused: it is a private address"),
    "the metadata service": ("dial('169.254.169.254', 80).recv(1)", RESET, "169.254.169.254:80 was refused: it is a link-local address"),
    "a provider's network": ("dial('100.100.100.200', 80).recv(1)", RESET, "100.100.100.200:80 was refused: it is an address of a provider's network"),
    "a provider's agent": ("dial('168.63.129.16', 80).recv(1)", RESET, "168.63.129.16:80 was refused: it is an address of a provider's network"),
    "this machine": ("dial('198.51.100.1', HTTP).recv(1)", RESET, "198.51.100.1:{http} was refused: it is an address of this machine"),
    "an address that stands for no name": ("dial('198.18.77.77', 1).recv(1)", RESET, "198.18.77.77:1 was refused: it stands for no name"),
    "reserved addresses": ("dial('240.1.2.3', 80).recv(1)", RESET, "240.1.2.3:80 was refused: it is a reserved address"),
    "multicast": ("dial('224.0.0.1', 80)", "unreachable", ""),
    "broadcast": ("dial('255.255.255.255', 80)", "unreachable", ""),
    "this network": ("dial('0.0.0.0', HTTP)", "refused", ""),
    "loopback of the host": ("dial('127.0.0.1', HTTP)", "refused", ""),
    "loopback of the host by IPv6": ("dial('::1', HTTP)", "refused", ""),
    "the resolver by TCP": ("dial('127.0.0.53', 53).recv(1)", RESET, ""),
    "a private address of IPv6": ("dial('fd00::1', 80).recv(1)", RESET, "[fd00::1]:80 was refused: it is a private address"),
    "a site-local address of IPv6": ("dial('fec0::1', 80).recv(1)", RESET, "[fec0::1]:80 was refused: it is a reserved address"),
    "a link-local address of IPv6": ("dial('fe80::1%lo', 80).recv(1)", RESET, "[fe80::1]:80 was refused: it is a link-local address"),
    "6to4": ("dial('2002:a63:1::1', 80).recv(1)", RESET, "[2002:a63:1::1]:80 was refused: it is a reserved address"),
    "NAT64 of a private address": ("dial('64:ff9b::10.99.0.1', 80).recv(1)", RESET, "[64:ff9b::a63:1]:80 was refused: it is a private address"),
    "a private address by a socket of IPv6": ("dial('::ffff:10.99.0.1', 80).recv(1)", RESET, "10.99.0.1:80 was refused: it is a private address"),
    "a name of a private address": ("get('private.test')", RESET, "private.test:{http} was refused: the name stands for a private address"),
    "a name of loopback": ("get('loop.test')", RESET, "loop.test:{http} was refused: the name stands for a loopback address"),
    "a name of the metadata service": ("get('meta.test')", RESET, "meta.test:{http} was refused: the name stands for a link-local address"),
    "a name of this machine": ("get('own.test')", RESET, "own.test:{http} was refused: the name stands for an address of this machine"),
    "a name of a private address of IPv6": ("get('six-private.test')", RESET, "six-private.test:{http} was refused: the name stands for a private address"),
    "a name that turns private between question and connection": ("dial(socket.gethostbyname('turns.test'), HTTP).recv(1)", RESET, "turns.test:{http} was refused: the name stands for a private address"),
    "a server that is not there": ("dial('203.0.113.5', 1).recv(1)", RESET, "203.0.113.5:1 cannot be reached: Connection refused"),
    "a name that does not exist": ("get('missing.test')", "Name or service not known", ""),
    "a name without an address": ("get('empty.test')", "No address associated with hostname", ""),
    "a name whose servers fail": ("get('broken.test')", "Temporary failure in name resolution", ""),
    "UDP": ("u = socket.socket(type=socket.SOCK_DGRAM); u.connect(('203.0.113.5', 53)); u.settimeout(9); u.send(b'x'); u.recv(1)", "refused", ""),
    "UDP of IPv6": ("u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.connect(('2001:db9::5', 53)); u.settimeout(9); u.send(b'x'); u.recv(1)", "refused", ""),
    "what makes the rule": ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)", "", ""),
    "a socket that takes what is not its own": ("socket.socket().setsockopt(0, 19, 1)", "not permitted", ""),
}


@pytest.mark.parametrize("claim", KEPT)
def test_all_keeps_from(everything, public, claim):
    code, error, notice = KEPT[claim]
    notice = notice.format(**public)
    r = everything.run(code)
    assert r.status == "error", (claim, r.value)
    assert error in r.evalue, (claim, r.ename, r.evalue)
    stderr = stderr_with(everything, r, notice)
    assert f"husk: {notice}\n" == stderr if notice else stderr == ""


def test_all_brings_a_large_download_exactly(everything):
    digest = hashlib.sha256()
    for _ in range(BIG // len(BLOCK)):
        digest.update(BLOCK)
    digest.update(BLOCK[:BIG % len(BLOCK)])
    code = """
h = hashlib.sha256(); r = urllib.request.urlopen(f'http://203.0.113.5:{HTTP}/big', timeout=50)
while b := r.read(1 << 20): h.update(b)
h.hexdigest()"""
    assert value(everything, code) == repr(digest.hexdigest())


def test_all_lets_pip_install(everything):
    code = """
import sys
run(sys.executable, '-m', 'pip', '--isolated', 'install', '-q', '--disable-pip-version-check', '--no-cache-dir', '--target', '/tmp/x',
    '--index-url', f'http://public.test:{FILES}/simple/', '--trusted-host', 'public.test', 'tiny')[0]"""
    assert value(everything, code) == "0"
    assert value(everything, "sys.path.insert(0, '/tmp/x'); import tiny; tiny.answer") == "42"


@pytest.mark.parametrize("address", ["203.0.113.5", "2001:db9::5"])
def test_all_never_lets_a_connection_meet_itself(everything, address):
    """From a port to the same one: what happens by chance with a port that the kernel chooses."""
    code = f"""
s = socket.socket({'socket.AF_INET6' if ':' in address else ''}); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', ECHO)); s.settimeout(20); s.connect(({address!r}, ECHO)); s.recv(5)"""
    assert value(everything, code) == "b'hello'"


def test_all_ends_with_husk_network(public, make_kernel):
    k = start_all(make_kernel, public)
    assert value(k, "get('203.0.113.5')") == repr(f"203.0.113.5:{public['http']}")
    os.kill(find(k, "husk-network")[0], signal.SIGKILL)
    r = k.run("import time; time.sleep(1); get('203.0.113.5')")
    assert r.status == "error" and "refused" in r.evalue
    assert value(k, "1 + 1") == "2"


def test_the_banner_says_all(everything):
    banner = everything.client.kernel_info(reply=True, timeout=60)["content"]["banner"]
    assert "network: all but private addresses" in banner


def test_all_without_nftables_is_an_error_that_says_what_to_do(make_kernel):
    k = make_kernel("--network", "all", within=NO_NFTABLES, ready=False)
    assert k.manager.provisioner.process.wait(30) == 78
    assert "step 'network" in k.log.read_text() and "modprobe nft_tproxy" in k.log.read_text()


# --- processes and options


def descendants(pid):
    """{pid: command} of a process, its children, and theirs."""
    found, parents = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = open(f"/proc/{entry}/stat").read()
                parents[int(entry)] = (int(stat[stat.rindex(")") + 2:].split()[1]), stat[stat.index("(") + 1:stat.rindex(")")])
    for one in parents:
        at = one
        while at in parents and at != pid:
            at = parents[at][0]
        if at == pid:
            found[one] = parents[one][1]
    return found


def find(k, command):
    return [pid for pid, name in descendants(k.pid).items() if name == command]


def test_husk_network_has_given_up_what_it_can(net):
    pid, = find(net, "husk-network")
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert "0" not in status["Uid"].split()
    sandbox, = find(net, "husk-init")
    assert os.stat(f"/proc/{pid}/status").st_uid != os.stat(f"/proc/{sandbox}").st_uid or os.geteuid()


@pytest.mark.parametrize("victim", ["husk", "husk-sandbox", "husk-network"])
def test_it_ends_with_the_kernel(servers, make_kernel, victim):
    k = start(make_kernel, servers)
    network, = find(k, "husk-network")
    os.kill(find(k, victim)[0], signal.SIGKILL)
    end = time.monotonic() + 10
    while not conftest.is_gone(network) and time.monotonic() < end:
        time.sleep(0.05)
    assert conftest.is_gone(network)


def test_without_it_a_sandbox_has_no_network_and_goes_on(servers, make_kernel):
    k = start(make_kernel, servers)
    assert k.run("get('mirror.test')").status == "ok"
    r = k.send("time.sleep(2)")
    os.kill(find(k, "husk-network")[0], signal.SIGKILL)
    r = k.result(r)
    assert "the network has ended" in stderr_with(k, r, "the network has ended")
    assert k.run("get('mirror.test')").status == "error"
    assert value(k, "1 + 1") == "2"


@pytest.mark.parametrize("program, why", [(None, "No such file"), ("/bin/false", "ended before it was ready")])
def test_a_network_that_cannot_be_started_is_an_error(servers, make_kernel, tmp_path, program, why):
    prefix = tmp_path / "prefix"
    shutil.copytree(conftest.PREFIX, prefix, symlinks=True, ignore=shutil.ignore_patterns("husk-network"))
    if program:
        shutil.copy(program, prefix / "libexec" / "husk" / "husk-network")
    k = make_kernel(*rules(servers), husk=prefix / "bin" / "husk", ready=False)
    assert k.manager.provisioner.process.wait(30) == 78
    assert "step 'network" in k.log.read_text() and why in k.log.read_text()


def test_a_restarted_interpreter_has_the_same_network(servers, make_kernel):
    k = start(make_kernel, servers)
    assert k.run("os._exit(1)").status == "error"
    assert k.run(PRELUDE.format(**servers)).status == "ok"
    assert "mirror.test" in value(k, "get('mirror.test')")


def test_nothing_of_it_without_an_allow_list(kernel):
    assert find(kernel, "husk-network") == []
    code = "import socket, os; (open('/etc/resolv.conf').read(), socket.if_nameindex(), open('/proc/net/udp').read().count(':0035 '), len(open('/proc/net/tcp').readlines()))"
    assert value(kernel, code) == "('# this sandbox has no network\\n', [(1, 'lo')], 0, 1)"
    r = kernel.run("socket.create_connection(('198.18.0.1', 80))")
    no_network = "[husk: this sandbox has no network (options --allow, --network)]"
    assert "Network is unreachable" in r.evalue and no_network in r.stderr
    for code, ename in (("socket.gethostbyname('mirror.test')", "gaierror"),
                        ("import urllib.request; urllib.request.urlopen('http://mirror.test')", "URLError")):
        r = kernel.run(code)
        assert r.ename == ename and no_network in r.stderr


def test_the_banner_says_what_may_be_reached(net, kernel, servers):
    assert f"network: only mirror.test:{servers['http']}, " in net.client.kernel_info(reply=True, timeout=60)["content"]["banner"]
    assert "network: none" in kernel.client.kernel_info(reply=True, timeout=60)["content"]["banner"]


OPTIONS = {
    "none with a host": (("--network", "none", "--allow", "example.org"), "contradicts"),
    "allow without a host": (("--network", "allow"), "needs an --allow"),
    "all with a name": (("--network", "all", "--allow", "example.org"), "contradicts"),
    "all as a rule": (("--allow", "*"), "is said as --network all"),
    "junk": (("--network", "some"), "not one of none, allow, all"),
    "a bad rule": (("--allow", "example.org:0"), "1 to 65535"),
    "a URL": (("--allow", "https://example.org/"), "URL"),
    "an alias": (("--allow", "198.18.0.1"), "cannot be allowed"),
    "a bad resolver": (("--allow", "example.org", "--resolver", "dns.example"), "no DNS server"),
    "a resolver for nobody": (("--resolver", "127.0.0.1"), "without --allow or --network all"),
}


@pytest.mark.outcome(lambda claim: OPTIONS[claim][1])
@pytest.mark.parametrize("claim", OPTIONS)
def test_half_a_wish_is_an_error(tmp_path, claim):
    arguments, reason = OPTIONS[claim]
    for command in (["kernel", "-f", str(tmp_path / "none.json")], ["install", "--prefix", str(tmp_path)]):
        r = subprocess.run([conftest.HUSK, *command, *arguments], capture_output=True, text=True, timeout=60)
        assert r.returncode == 64 and reason in r.stderr, r.stderr


def test_allow_may_be_said_twice(tmp_path):
    specs = conftest.spec_directory(tmp_path, "--network", "allow", "--allow", "a.example", "--allow=*.b.example:8080")
    text = (specs / "husk" / "kernel.json").read_text()
    assert '"a.example"' in text and '"--allow=*.b.example:8080"' in text


# --- a real package, from the index that this machine is configured for


def of_pip(name):
    done = subprocess.run([conftest.PYTHON, "-m", "pip", "config", "get", f"global.{name}"],
                          capture_output=True, text=True, timeout=conftest.TIMEOUT)
    return done.stdout.strip()


def pip_of_the_machine():
    """What pip is told here: hosts, and options for a pip that does not see the configuration."""
    index = os.environ.get("PIP_INDEX_URL") or of_pip("index-url") or "https://pypi.org/simple"
    url = urllib.parse.urlsplit(index)
    port = url.port or (443 if url.scheme == "https" else 80)
    hosts = [f"{url.hostname}:{port}"]
    if url.hostname == "pypi.org":
        hosts.append("files.pythonhosted.org:443")
    bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or of_pip("cert")
    return hosts, ["--index-url", index], bundle


PIP = """
import subprocess, sys
done = subprocess.run([sys.executable, '-m', 'pip', 'install', '--disable-pip-version-check', '--no-input',
                       '--no-cache-dir', '--no-deps', '--retries', '0', '--target', '/workspace/x', *{options!r},
                       'six==1.17.0'], capture_output=True, text=True)
sys.path.insert(0, '/workspace/x')
print(done.stderr[-800:], file=sys.stderr)
done.returncode
"""


def test_pip_installs_a_package_with_the_hosts_of_the_index_and_not_with_one_fewer(make_kernel, tmp_path):
    hosts, options, bundle = pip_of_the_machine()
    extra = []
    if bundle and os.path.isfile(bundle):
        extra = ["--mount", f"{os.path.realpath(bundle)}:/workspace/ca.crt"]
        options = [*options, "--cert", "/workspace/ca.crt"]
    allow = [word for host in hosts for word in ("--allow", host)]
    k = make_kernel("--profile", "strict", *allow, *extra)
    result = k.run(PIP.format(options=options), timeout=2 * conftest.TIMEOUT)
    assert result.value == "0", result.stderr
    assert k.run("import six; six.__version__, six.__file__").value == "('1.17.0', '/workspace/x/six.py')"
    fewer = allow[:-2] or ["--allow", "another.example"]
    other = make_kernel("--profile", "strict", *fewer, *extra)
    result = other.run(PIP.format(options=options), timeout=2 * conftest.TIMEOUT)
    assert result.value == "1"
    assert f"husk: {hosts[-1].rpartition(':')[0]} was refused: no --allow names it" in result.stderr
