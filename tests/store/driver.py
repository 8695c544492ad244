"""A peer process around one store client, ours or upstream's, that obeys JSON lines on its stdin.

    driver.py ours          libmooncake.so through `mc_store_*`
    driver.py ours-c        libmooncake.so through upstream's `store_c.h`
    driver.py upstream      the wheel on PYTHONPATH

Results are upstream's numbers for all three. Bytes are made from a seed on the spot and come back as
length and checksum, so nothing large travels between the processes.
"""

import ctypes
import pathlib
import random
import sys
import zlib

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests"))

from harness.commands import obey  # noqa: E402


def made(seed, length):
    """The bytes of a seed; neighbours differ, so a shifted or torn copy is seen."""
    block = random.Random(seed).randbytes(min(length, 65536))
    return (block * (length // len(block) + 1))[:length] if length else b""


def seen(value):
    return [len(value), zlib.crc32(value)]


class Memory:
    """A piece of plain memory with an address."""

    def __init__(self, content):
        self.array = (ctypes.c_char * max(1, len(content))).from_buffer_copy(content or b"\0")
        self.length = len(content)

    @property
    def address(self):
        return ctypes.addressof(self.array)

    def part(self, start, length):
        return self.array.raw[start:start + length]


class Driver:
    """Commands on top of a backend."""

    def __init__(self, backend):
        self.backend = backend

    def setup(self, **options):
        return {"code": self.backend.setup(**options), "hostname": self.backend.hostname()}

    def put(self, key, seed, length, config=None):
        return {"code": self.backend.put(key, made(seed, length), config or {})}

    def put_batch(self, keys, seeds, parts, config=None):
        """Each object from its own parts of memory."""
        memory = [[Memory(piece) for piece in cut(made(seed, sum(sizes)), sizes)]
                  for seed, sizes in zip(seeds, parts)]
        return {"codes": self.backend.put_batch(keys, memory, config or {})}

    def get(self, key):
        value = self.backend.get(key)
        return {"got": seen(value) if isinstance(value, bytes) else value}

    def get_batch(self, keys, parts, same_node=False):
        """Each object into its own parts of memory."""
        memory = [[Memory(bytes(size)) for size in sizes] for sizes in parts]
        codes = self.backend.get_batch(keys, memory, same_node)
        got = []
        for code, pieces in zip(codes, memory):
            whole = b"".join(piece.part(0, piece.length) for piece in pieces)
            got.append(seen(whole[:code]) if code >= 0 else code)
        return {"got": got}

    def exists(self, keys):
        return {"codes": self.backend.exists(keys)}

    def size(self, key):
        return {"code": self.backend.size(key)}

    def remove(self, key):
        return {"code": self.backend.remove(key)}

    def remove_by_regex(self, pattern):
        return {"code": self.backend.remove_by_regex(pattern)}

    def remove_all(self):
        return {"code": self.backend.remove_all()}

    def churn(self, prefix, count, length, seed):
        """Puts many objects one after the other; how each ended."""
        return {"codes": [self.backend.put(f"{prefix}{index}", made(seed + index, length), {})
                          for index in range(count)]}

    def mixed(self, prefix, count, seed, least, most):
        """Puts objects of many sizes, small ones more often; how each ended, and all bytes."""
        sizes = random.Random(seed)
        codes, total = {}, 0
        for index in range(count):
            length = int(least * (most / least) ** sizes.random())
            code = self.backend.put(f"{prefix}{index}", made(seed + index, length), {})
            codes[code] = codes.get(code, 0) + 1
            total += length
        return {"codes": codes, "bytes": total}

    def survey(self, prefix, count, length, seed):
        """Reads them again: right, wrong, missing."""
        right = wrong = missing = 0
        for index in range(count):
            value = self.backend.get(f"{prefix}{index}")
            if not isinstance(value, bytes) or not value:
                missing += 1
            elif value == made(seed + index, length):
                right += 1
            else:
                wrong += 1
        return {"right": right, "wrong": wrong, "missing": missing}

    def metric(self, name):
        return {"value": self.backend.metric(name)}

    def health(self):
        return {"health": self.backend.health()}

    def close(self):
        self.backend.close()
        return {}


def cut(value, sizes):
    start = 0
    for size in sizes:
        yield value[start:start + size]
        start += size


COMMANDS = frozenset(name for name in vars(Driver) if not name.startswith("_"))


def backend_of(kind):
    """The client of that kind."""
    if kind == "upstream":
        import upstream_client
        return upstream_client.Upstream()
    import our_client
    return our_client.OursC() if kind == "ours-c" else our_client.Ours()


if __name__ == "__main__":
    obey(lambda: Driver(backend_of(sys.argv[1])), COMMANDS)
