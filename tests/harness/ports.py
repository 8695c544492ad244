"""Ports for servers that a test starts and stops: no other test program gets the same one.

The same names are reserved by `tests/common/ports.rs`, which tells why.
"""

import os
import socket
import threading

FIRST = 20_000
COUNT = 10_000

_reserved = []
_reserving = threading.Lock()


def free_port(host="127.0.0.1"):
    """A port of `host` that is this process's until it ends."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    start = os.getpid() * 97 % COUNT
    with _reserving:
        for step in range(COUNT):
            port = FIRST + (start + step) % COUNT
            reservation = socket.socket(socket.AF_UNIX)
            try:
                reservation.bind(f"\0mooncake-test-port-{port}")
            except OSError:
                reservation.close()
                continue
            _reserved.append(reservation)
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError:
                    continue
            return port
    raise OSError(f"no port of {FIRST} and the {COUNT} after it is free")
