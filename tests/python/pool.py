"""A master and a client of ours, for tests of the store."""

from common import equal
from masters import Master

MIB = 1 << 20


class Pool:
    """A master and one client, which gives memory to the pool."""

    def __init__(self, segment=32 * MIB, local_buffer=16 * MIB, **flags):
        self.master = Master("ours", **flags)
        self.sizes = segment, local_buffer

    def __enter__(self):
        self.master.start()
        self.store = self.open(*self.sizes)
        return self.store

    def open(self, segment, local_buffer, **named):
        from mooncake.store import MooncakeDistributedStore
        store = MooncakeDistributedStore()
        code = store.setup("127.0.0.1", "P2PHANDSHAKE", segment, local_buffer, "tcp", "",
                           self.master.address, **named)
        equal(code, 0, "setup")
        return store

    def __exit__(self, *_):
        self.store.close()
        self.master.kill()


def config(**fields):
    from mooncake.store import ReplicateConfig
    made = ReplicateConfig()
    for name, value in fields.items():
        setattr(made, name, value)
    return made
