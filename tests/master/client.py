"""A process around one `mooncake.store` client; see `harness/driver.py` for how it is spoken to.

Values are streams of a seed, so what is read is told apart from every other value by length and
checksum, and no value travels through the pipe. Run with the wheel's folder on PYTHONPATH.
"""

import ctypes
import mmap
import pathlib
import random
import sys
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from harness import driver  # noqa: E402

BUFFER_BYTES = 16 << 20


def value(seed, length):
    return random.Random(seed).randbytes(length)


def sight(data):
    """What a reader saw: length and checksum."""
    return [len(data), zlib.crc32(data)]


class Client:
    """Commands of the suite: `create`, and each method whose name begins with `extra_`."""

    def create(self, master, segment, metadata="P2PHANDSHAKE", name="127.0.0.1"):
        from mooncake.store import MooncakeDistributedStore, ReplicateConfig
        self.config_type = ReplicateConfig
        self.store = MooncakeDistributedStore()
        status = self.store.setup(name, metadata, segment, BUFFER_BYTES, "tcp", "", master)
        self.map = mmap.mmap(-1, BUFFER_BYTES)
        self.memory = (ctypes.c_char * BUFFER_BYTES).from_buffer(self.map)
        self.address = ctypes.addressof(self.memory)
        if status == 0:
            self.store.register_buffer(self.address, BUFFER_BYTES)
        return {"name": self.store.get_hostname() if status == 0 else "", "status": status}

    def config(self, options):
        config = self.config_type()
        for name, setting in (options or {}).items():
            setattr(config, name, setting)
        return config

    def extra_put(self, key, seed, length, options=None):
        return {"status": self.store.put(key, value(seed, length), self.config(options))}

    def extra_put_parts(self, key, seeds, length):
        parts = [value(seed, length) for seed in seeds]
        return {"status": self.store.put_parts(key, *parts)}

    def extra_put_many(self, prefix, first, count, length, options=None):
        """One put after the other; the statuses."""
        config = self.config(options)
        numbers = range(first, first + count)
        return {"statuses": [self.store.put(f"{prefix}{at}", value(at, length), config)
                             for at in numbers]}

    def extra_put_batch(self, keys, seeds, length):
        values = [value(seed, length) for seed in seeds]
        return {"status": self.store.put_batch(keys, values)}

    def extra_put_pieces(self, keys, pieces, length):
        """Each object from several ranges of registered memory."""
        pointers, at = [], self.address
        for key in range(len(keys)):
            pointers.append([])
            for piece in range(pieces):
                ctypes.memmove(at, value(100 * key + piece, length), length)
                pointers[-1].append(at)
                at += length
        sizes = [[length] * pieces for _ in keys]
        return {"statuses": self.store.batch_put_from_multi_buffers(keys, pointers, sizes)}

    def extra_get(self, key):
        return {"sight": sight(self.store.get(key))}

    def extra_get_many(self, prefix, first, count):
        return {"sights": [sight(self.store.get(f"{prefix}{at}"))
                           for at in range(first, first + count)]}

    def extra_get_batch(self, keys):
        return {"sights": [sight(data) for data in self.store.get_batch(keys)]}

    def extra_get_pieces(self, keys, pieces, length):
        """Each object into several ranges of registered memory."""
        pointers, at = [], self.address
        for _ in keys:
            pointers.append([at + piece * length for piece in range(pieces)])
            at += pieces * length
        ctypes.memset(self.address, 0, at - self.address)
        sizes = [[length] * pieces for _ in keys]
        statuses = self.store.batch_get_into_multi_buffers(keys, pointers, sizes)
        sights = [[sight(ctypes.string_at(one, length)) for one in row] for row in pointers]
        return {"statuses": statuses, "sights": sights}

    def extra_exists(self, keys):
        return {"single": [self.store.is_exist(key) for key in keys],
                "batch": self.store.batch_is_exist(keys)}

    def extra_size(self, key):
        return {"size": self.store.get_size(key)}

    def extra_remove(self, key):
        return {"status": self.store.remove(key)}

    def extra_remove_by_regex(self, pattern):
        return {"count": self.store.remove_by_regex(pattern)}

    def extra_remove_all(self):
        return {"count": self.store.remove_all()}

    def extra_close(self):
        return {"status": self.store.close()}

    def destroy(self):
        self.store = None


if __name__ == "__main__":
    driver.serve(Client())
