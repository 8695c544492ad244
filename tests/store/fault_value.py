"""Objects that tell what they are, and the board on which all processes of a fault run agree.

An object says which key and version it was made for and its body follows from that, so a foreign,
mixed, torn or stale byte is seen by whoever reads it. The board is a file that all processes map:
which versions were begun, which are over for good, and since when each process is in a call.
"""

import ctypes
import hashlib
import mmap
import os
import random
import struct

MAGIC = b"mcfault1"
HEAD = struct.Struct("<8sQQI")
# A prime: a copy that is shifted within an object does not look whole.
BLOCK_BYTES = 65_521
LEAST_BYTES = HEAD.size + 64
PROCESSES_MAX = 32
BLOCKS_KEPT_MAX = 512


class Wrong(Exception):
    """Bytes that were never put under this key, or not in this form."""


def body(key, version, length):
    """The bytes behind the head."""
    name = f"{key}/{version}"
    block = BLOCKS.get(name)
    if block is None:
        if len(BLOCKS) >= BLOCKS_KEPT_MAX:
            BLOCKS.clear()
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        block = BLOCKS[name] = random.Random(seed).randbytes(BLOCK_BYTES)
    return (block * (length // BLOCK_BYTES + 1))[:length]


BLOCKS = {}


def made(key, version, length):
    """The object of that version; `length` is that of all of it."""
    name = key.encode()
    head = HEAD.pack(MAGIC, version, length, len(name)) + name
    return head + body(key, version, length - len(head))


def version_of(key, value):
    """Checks every byte; returns the version."""
    if len(value) < HEAD.size:
        raise Wrong(f"{key}: {len(value)} bytes are too few")
    magic, version, length, size = HEAD.unpack_from(value)
    name = value[HEAD.size:HEAD.size + size]
    if magic != MAGIC or name != key.encode():
        raise Wrong(f"{key}: begins as {bytes(value[:48])!r}, another object")
    if length != len(value):
        raise Wrong(f"{key} version {version}: {len(value)} bytes, not {length}")
    wanted = body(key, version, length - HEAD.size - size)
    got = value[HEAD.size + size:]
    if got != wanted:
        first = next(at for at, (one, other) in enumerate(zip(got, wanted)) if one != other)
        last = max(at for at, (one, other) in enumerate(zip(got, wanted)) if one != other)
        at = HEAD.size + size
        raise Wrong(f"{key} version {version}, {length} bytes: foreign bytes from {first + at} to "
                    f"{last + at}: {bytes(got[first:first + 40])!r}")
    return version


class Board:
    """Numbers of eight bytes in a shared file. Each is written by one process only."""

    def __init__(self, path, keys, create=False):
        self.keys = keys
        count = 2 + 2 * keys + 2 * PROCESSES_MAX
        if create:
            with open(path, "wb") as file:
                file.truncate(8 * count)
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 8 * count)
        self.numbers = (ctypes.c_uint64 * count).from_buffer(self.map)
        self.path = os.fspath(path)

    # Whether versions that are over may come back: after a master without a journal was killed.
    @property
    def forgets(self):
        return self.numbers[0] != 0

    def forget(self):
        self.numbers[0] = 1

    def begun(self, key):
        return self.numbers[2 + 2 * key]

    def begin(self, key, version):
        self.numbers[2 + 2 * key] = version

    def over(self, key):
        """No version up to this one may be read by a call that begins now."""
        return self.numbers[2 + 2 * key + 1]

    def end(self, key, version):
        if version > self.over(key):
            self.numbers[2 + 2 * key + 1] = version

    def enter(self, process, now_ns):
        place = 2 + 2 * self.keys + 2 * process
        self.numbers[place] = now_ns
        self.numbers[place + 1] += 1

    def leave(self, process):
        self.numbers[2 + 2 * self.keys + 2 * process] = 0

    def inside_since(self, process):
        return self.numbers[2 + 2 * self.keys + 2 * process]

    def calls(self, process):
        return self.numbers[2 + 2 * self.keys + 2 * process + 1]
