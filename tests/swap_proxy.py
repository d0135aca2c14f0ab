# SPDX-License-Identifier: BSD-3-Clause
"""swap_proxy.py ENGINE SOCKET GOOD BAD: the engine, but before it makes a container a link to BAD takes the place of
the directory GOOD, as a cell of another sandbox could do it just then."""

import os
import socket
import sys
import threading

engine, here, good, bad = sys.argv[1:]


def carry(source, target, look):
    while data := source.recv(65536):
        if look and b"/containers/create" in data and not os.path.islink(good):
            os.rmdir(good)
            os.symlink(bad, good)
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


def serve(client):
    server = socket.socket(socket.AF_UNIX)
    server.connect(engine)
    threading.Thread(target=carry, args=(client, server, True), daemon=True).start()
    threading.Thread(target=carry, args=(server, client, False), daemon=True).start()


listener = socket.socket(socket.AF_UNIX)
listener.bind(here)
listener.listen()
print("ready", flush=True)
while True:
    serve(listener.accept()[0])
