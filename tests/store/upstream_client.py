"""Upstream's store client of the wheel, as a backend of `driver.py`."""


class Upstream:
    """`mooncake.store` of 0.3.7.post2."""

    def __init__(self):
        from mooncake.store import MooncakeDistributedStore, ReplicateConfig
        self.store = MooncakeDistributedStore()
        self.config_type = ReplicateConfig

    def setup(self, host, master, segment, local_buffer, metadata="P2PHANDSHAKE"):
        return self.store.setup(host, metadata, segment, local_buffer, "tcp", "", master)

    def hostname(self):
        return self.store.get_hostname()

    def config(self, wanted):
        config = self.config_type()
        for name, value in wanted.items():
            setattr(config, name, value)
        return config

    def put(self, key, value, config):
        return self.store.put(key, value, self.config(config))

    def put_batch(self, keys, memory, config):
        addresses = [[piece.address for piece in pieces] for pieces in memory]
        sizes = [[piece.length for piece in pieces] for pieces in memory]
        if all(len(pieces) == 1 for pieces in memory):
            return self.store.batch_put_from(
                keys, [a[0] for a in addresses], [s[0] for s in sizes], self.config(config))
        return self.store.batch_put_from_multi_buffers(
            keys, addresses, sizes, self.config(config))

    def get(self, key):
        return self.store.get(key)

    def get_batch(self, keys, memory, same_node):
        addresses = [[piece.address for piece in pieces] for pieces in memory]
        sizes = [[piece.length for piece in pieces] for pieces in memory]
        if all(len(pieces) == 1 for pieces in memory):
            return self.store.batch_get_into(
                keys, [a[0] for a in addresses], [s[0] for s in sizes])
        return self.store.batch_get_into_multi_buffers(keys, addresses, sizes, same_node)

    def exists(self, keys):
        return self.store.batch_is_exist(keys)

    def size(self, key):
        return self.store.get_size(key)

    def remove(self, key):
        return self.store.remove(key)

    def remove_by_regex(self, pattern):
        return self.store.remove_by_regex(pattern)

    def remove_all(self):
        return self.store.remove_all()

    def health(self):
        return {}

    def close(self):
        self.store.close()
