"""A process of a fault run: a store client that holds memory, writes or reads, and obeys JSON lines.

    fault_worker.py KIND NUMBER BOARD    KIND: ours or upstream; NUMBER: its place on the board

Writers and readers work in a thread of their own from `run` to `halt`, so they go on while the
suite kills and freezes processes. What they see that must not be goes into their report.
"""

import ctypes
import os
import random
import sys
import threading
import time

from driver import Memory, backend_of
from fault_value import LEAST_BYTES, Board, Wrong, made, version_of
from harness.commands import obey

EXISTS, NO_MASTER = -705, -900
# Longer calls are told to the suite, which knows how long the process was frozen.
SLOW_SECONDS = 6
LISTED_MAX = 20
READ_AT_ONCE_MAX = 8


class Worker:
    """One client and at most one loop."""

    def __init__(self, kind, number, board, keys):
        self.backend = backend_of(kind)
        self.is_ours = kind == "ours"
        self.number = number
        self.board = Board(board, keys)
        self.halted = threading.Event()
        self.thread = None
        self.counts = {}
        self.wrong, self.slow, self.errors = [], [], []
        self.before = None

    def setup(self, **options):
        self.before = resources()
        return {"code": self.backend.setup(**options), "hostname": self.backend.hostname()}

    def run(self, role, seed, **options):
        self.halted.clear()
        loop = {"write": self.write, "read": self.read}[role]

        def work():
            try:
                loop(random.Random(seed), **options)
            except Exception as error:  # A loop that ends by itself fails the run.
                self.errors.append(f"{type(error).__name__}: {error}")

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
        return {}

    def halt(self, seconds=60):
        self.halted.set()
        if self.thread:
            self.thread.join(seconds)
            if self.thread.is_alive():
                self.errors.append("the loop does not end")
            self.thread = None
        return self.report()

    def report(self):
        return {"counts": self.counts, "wrong": self.wrong, "slow": self.slow,
                "errors": self.errors}

    def call(self, what, function, *arguments):
        """One call into the client, with its times on the board."""
        began = time.monotonic_ns()
        self.board.enter(self.number, began)
        try:
            return function(*arguments)
        finally:
            self.board.leave(self.number)
            took = time.monotonic_ns() - began
            if took > SLOW_SECONDS * 1e9 and len(self.slow) < LISTED_MAX:
                self.slow.append([what, began / 1e9, (began + took) / 1e9])

    def count(self, what, code):
        name = f"{what} {code}"
        self.counts[name] = self.counts.get(name, 0) + 1

    # Writing: the keys from `first` on are this writer's alone, so it knows their versions.

    def write(self, rng, first, keys, size_max, copies_max, size_min=LEAST_BYTES):
        while not self.halted.is_set():
            chosen = rng.sample(range(first, first + keys), rng.choice((1, 1, 4, 8)))
            config = {"replica_num": rng.randint(1, copies_max)}
            if rng.random() < 0.5:
                for key in chosen:
                    self.remove(key)
            self.put(chosen, [size_of(rng, size_min, size_max) for _ in chosen], config)
            if rng.random() < 0.2:
                self.remove(rng.choice(chosen))

    def put(self, keys, sizes, config):
        values, names = [], [name_of(key) for key in keys]
        for key, name, size in zip(keys, names, sizes):
            # On the board first: whoever reads it later knows that it was begun.
            self.board.begin(key, self.board.begun(key) + 1)
            values.append(made(name, self.board.begun(key), size))
        if len(keys) == 1:
            codes = [self.call("put", self.backend.put, names[0], values[0], config)]
        else:
            memory = [[Memory(value)] for value in values]
            codes = self.call("put_batch", self.backend.put_batch, names, memory, config)
        if codes[0] == NO_MASTER:
            time.sleep(0.02)
        for key, code in zip(keys, codes):
            self.count("put", code)
            if code == 0 and self.is_ours:
                # What was there before is not there any more.
                self.board.end(key, self.board.begun(key) - 1)

    def remove(self, key):
        begun = self.board.begun(key)
        code = self.call("remove", self.backend.remove, name_of(key))
        self.count("remove", code)
        if code == 0:
            self.board.end(key, begun)

    # Reading: every byte of everything that is given out.

    def read(self, rng, keys, size_max, first=0, checked=True):
        rooms = [Memory(bytes(size_max)) for _ in range(READ_AT_ONCE_MAX)]
        while not self.halted.is_set():
            count = rng.choice((1, 1, 4, READ_AT_ONCE_MAX))
            chosen = rng.sample(range(first, keys), count)
            over = [0 if self.board.forgets else self.board.over(key) for key in chosen]
            if count == 1:
                value = self.call("get", self.backend.get, name_of(chosen[0]))
                values = [value]
            else:
                for room in rooms:
                    ctypes.memset(room.address, 0xEE, LEAST_BYTES)
                names = [name_of(key) for key in chosen]
                codes = self.call("get_batch", self.backend.get_batch, names,
                                  [[room] for room in rooms[:count]], False)
                values = [room.part(0, code) if code > 0 else code
                          for code, room in zip(codes, rooms)]
            for key, value, floor in zip(chosen, values, over):
                if checked or not isinstance(value, bytes):
                    self.look(key, value, floor)
            if values[0] == NO_MASTER:
                # Refused at once; the time is better spent otherwise.
                time.sleep(0.02)

    def look(self, key, value, floor):
        if not isinstance(value, bytes) or not value:
            self.count("get", value if isinstance(value, int) else "nothing")
            return
        self.count("get", "whole")
        try:
            version = version_of(name_of(key), value)
            begun = self.board.begun(key)
            if version > begun:
                raise Wrong(f"{name_of(key)} version {version}: only {begun} were begun")
            if version <= floor and not self.board.forgets:
                raise Wrong(f"{name_of(key)} version {version}: over since {floor}")
        except Wrong as error:
            if len(self.wrong) < LISTED_MAX:
                self.wrong.append([time.monotonic(), str(error)])

    # Single calls, for what the suite does itself.

    def probe(self, key, within):
        """Puts an object until it works; reads it; returns how long that took."""
        began = time.monotonic()
        name = f"probe/{key}"
        value = made(name, 1, 10_000)
        while True:
            code = self.call("put", self.backend.put, name, value, {})
            if code in (0, EXISTS):
                got = self.call("get", self.backend.get, name)
                if got == value:
                    return {"seconds": time.monotonic() - began}
                code = got if isinstance(got, int) else len(got)
            if time.monotonic() - began > within:
                return {"seconds": None, "code": code}
            time.sleep(0.05)

    def get_probe(self, key, within):
        """Gets it until that works: this client may not know yet that the master is back."""
        end = time.monotonic() + within
        while True:
            got = self.call("get", self.backend.get, f"probe/{key}")
            if got == made(f"probe/{key}", 1, 10_000):
                return {"code": 0}
            if time.monotonic() > end or isinstance(got, bytes) and got:
                return {"code": got if isinstance(got, int) else len(got)}
            time.sleep(0.05)

    def close(self):
        """Closes the client; what is left of its threads and descriptors."""
        began = time.monotonic()
        self.backend.close()
        took = time.monotonic() - began
        end = began + 5
        while resources() != self.before and time.monotonic() < end:
            time.sleep(0.02)
        return {"seconds": took, "before": self.before, "after": resources()}


def resources():
    """Threads and descriptors of this process."""
    return [len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))]


def name_of(key):
    return f"fault/{key}"


def size_of(rng, least, most):
    return int(least * (most / least) ** rng.random())


COMMANDS = ("setup", "run", "halt", "report", "probe", "get_probe", "close")


def worker():
    """The worker that the arguments ask for."""
    kind, number, board, keys = sys.argv[1:]
    return Worker(kind, int(number), board, int(keys))


if __name__ == "__main__":
    obey(worker, COMMANDS)
