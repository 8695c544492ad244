"""A relay between a client and a master that loses words: calls of a name, or the answers to them."""

import hashlib
import select
import socket
import threading

HEADER_BYTES = 20
CHUNK = 1 << 20


def function_bytes(name):
    """How a frame of our dialect says which function is called."""
    return hashlib.md5(f"libmooncake::Store::{name}".encode()).digest()[:4][::-1]


class Elsewhere:
    """A master that is reached by another way."""

    def __init__(self, address):
        self.address = address


class Relay:
    """`with Relay(port) as relay`: connections to `relay.address` go on to `port` of this host. What comes
    after a lost word on its connection is lost as well; `mend` ends these connections."""

    def __init__(self, port):
        self.port = port
        self.lost_calls, self.lost_answers = set(), set()
        self.losses = 0
        self.broken = []
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.over = False

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.listener.close()
        self.mend()

    @property
    def address(self):
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def lose(self, calls=(), answers=()):
        self.lost_calls = {function_bytes(name) for name in calls}
        self.lost_answers = {function_bytes(name) for name in answers}

    def mend(self):
        self.lost_calls, self.lost_answers = set(), set()
        for end in self.broken:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self):
        while not self.over:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near):
        try:
            far = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        calls_pass = answers_pass = True
        with near, far:
            while not self.over:
                for end in select.select([near, far], [], [], 1)[0]:
                    try:
                        data = end.recv(CHUNK)
                    except OSError:
                        data = b""
                    if not data:
                        return
                    if end is near:
                        # A client has one call under way on a connection, and sends it in one piece.
                        name = data[8:12] if len(data) >= HEADER_BYTES else b""
                        if calls_pass and name in self.lost_calls:
                            calls_pass = self._lost(near)
                        if answers_pass and name in self.lost_answers:
                            answers_pass = self._lost(near)
                    passes = calls_pass if end is near else answers_pass
                    if passes:
                        (far if end is near else near).sendall(data)

    def _lost(self, end):
        self.losses += 1
        self.broken.append(end)
        return False
