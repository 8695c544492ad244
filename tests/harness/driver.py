"""What a peer process does: the commands of `harness.commands` for one engine.

A peer process owns one engine, which a backend class wraps (`tests/peers/upstream.py`,
`tests/interop/ours.py`), and the memory it registers. This file owns everything that is the same
for all engines: memory, patterns, checksums, loops and threads, so that a cell of the matrix
measures the engine and not two different test programs.
"""

import ctypes
import mmap
import random
import threading
import time
import zlib

from harness.commands import obey

FILL_CHUNK_BYTES = 1 << 20
FAILURES_LISTED_MAX = 20


class Memory:
    """An anonymous mapping with a known address, filled and read only between transfers."""

    def __init__(self, length):
        self.length = length
        self.map = mmap.mmap(-1, length)
        self.view = memoryview(self.map)
        # The ctypes object must live as long as the address is used: it pins the mapping.
        self.pin = (ctypes.c_char * length).from_buffer(self.map)
        self.address = ctypes.addressof(self.pin)

    def fill(self, seed, offset, length):
        """Writes the byte stream of `seed`; two ranges of one stream are never equal by chance."""
        stream = random.Random(seed)
        end = offset + length
        while offset < end:
            step = min(FILL_CHUNK_BYTES, end - offset)
            self.view[offset:offset + step] = stream.randbytes(step)
            offset += step

    def checksum(self, offset, length):
        return zlib.crc32(self.view[offset:offset + length])


class Driver:
    """Turns commands into calls of the backend; every public method is one command."""

    def __init__(self, backend):
        self.backend = backend
        self.memory = {}

    def create(self, **options):
        return self.backend.create(**options)

    def buffer(self, id, length, seed=None, register=True):
        memory = Memory(length)
        if seed is not None:
            memory.fill(seed, 0, length)
        if register:
            self.backend.register(memory.address, length)
        self.memory[id] = memory
        return {"address": memory.address}

    def unregister(self, id):
        self.backend.unregister(self.memory[id].address)
        return {}

    def fill(self, id, seed, offset=0, length=None):
        memory = self.memory[id]
        memory.fill(seed, offset, memory.length - offset if length is None else length)
        return {}

    def checksums(self, id, ranges):
        memory = self.memory[id]
        return {"checksums": [memory.checksum(offset, length) for offset, length in ranges]}

    def transfer(self, peer, operation, id, requests, batch=1, threads=1, repeat=1):
        """Runs `requests` ([local offset, remote address, length], ...) `repeat` times over.

        With `batch` above 1 that many go into one engine call, and a failed call counts every
        request in it, since upstream tells no more than that. With `threads` above 1 the groups
        are dealt out in turn, one engine call in flight per thread.
        """
        base = self.memory[id].address
        groups = [
            (first, [(base + local, remote, length)
                     for local, remote, length in requests[first:first + batch]])
            for first in range(0, len(requests), batch)
        ]
        failures = []
        failed = [0] * threads

        def work(lane):
            for _ in range(repeat):
                for first, group in groups[lane::threads]:
                    error = self.backend.transfer(peer, operation, group)
                    if error is not None:
                        failed[lane] += len(group)
                        if len(failures) < FAILURES_LISTED_MAX:
                            failures.append([first, str(error)])

        started = time.monotonic()
        if threads == 1:
            work(0)
        else:
            lanes = [threading.Thread(target=work, args=(lane,)) for lane in range(threads)]
            for lane in lanes:
                lane.start()
            for lane in lanes:
                lane.join()
        return {
            "count": len(requests) * repeat,
            "failed": sum(failed),
            "failures": failures,
            "seconds": time.monotonic() - started,
        }

    def notify(self, peer, name, message, id, request):
        """Sends one small write with a notification attached."""
        local, remote, length = request
        error = self.backend.notify(
            peer, name, message, (self.memory[id].address + local, remote, length))
        return {"error": None if error is None else str(error)}

    def notifications(self):
        return {"notifications": self.backend.notifications()}

    def extra(self, what, **arguments):
        """A command only one kind of engine has."""
        return getattr(self.backend, "extra_" + what)(**arguments)

    def destroy(self):
        self.backend.destroy()
        return {}


COMMANDS = frozenset(
    ["create", "buffer", "unregister", "fill", "checksums", "transfer", "notify", "notifications",
     "extra", "destroy"])


def serve(backend):
    """Runs until the command `exit` or the end of stdin."""
    obey(lambda: Driver(backend), COMMANDS)
