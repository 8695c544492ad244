"""LMCache: the connector to the store, and the channel between engines."""

import asyncio
from types import SimpleNamespace

import torch

import loading
import side

CHUNK_TOKENS = 16


class Key:
    """A key of the cache engine."""

    def __init__(self, name):
        self.name = name

    def to_string(self):
        return self.name


class Memory:
    """A chunk of memory of the CPU backend: bytes, with a shape and a type."""

    def __init__(self, raw, shapes, dtypes, form):
        self.raw_tensor, self.shapes, self.dtypes, self.form = raw, shapes, dtypes, form
        self.tensor = raw.view(dtypes[0]).reshape(*shapes[0])
        self.meta = SimpleNamespace(shape=shapes[0], dtype=dtypes[0], fmt=form)
        self.raw_data, self.released = raw, 0

    data_ptr = property(lambda self: self.raw_tensor.data_ptr())
    byte_array = property(lambda self: memoryview(self.raw_tensor.array).cast("B"))
    metadata = property(lambda self: self.meta)

    def get_size(self):
        return self.raw_tensor.nbytes

    def get_shape(self):
        return self.shapes[0]

    def get_dtype(self):
        return self.dtypes[0]

    def get_shapes(self):
        return self.shapes

    def get_dtypes(self):
        return self.dtypes

    def get_memory_format(self):
        return self.form

    def ref_count_down(self):
        self.released += 1


class Backend:
    """The CPU backend: hands out chunks of one pinned buffer, which is never full."""

    def __init__(self, length, config, metadata):
        self.buffer, self.used = side.filled(length), 0
        self.memory_allocator = SimpleNamespace(pin_allocator=SimpleNamespace(buffer=self.buffer))
        self.config, self.metadata = config, metadata

    def allocate(self, shapes, dtypes, form=None, **_):
        """A chunk; older releases ask for one shape, later ones for a list of them."""
        if not isinstance(shapes, list):
            shapes, dtypes = [shapes], [dtypes]
        length = sum(shape.numel() * dtype.itemsize for shape, dtype in zip(shapes, dtypes))
        made = Memory(self.buffer[self.used:self.used + length], shapes, dtypes, form)
        self.used += length
        return made


class Side(side.Buffers):
    def __init__(self, folder, version):
        super().__init__()
        self.version = version
        self.consumer = loading.Consumer(folder)
        self.consumer.load("lmcache.logging")

    def start_store(self, meta_in_store, seed=None, from_file=False, **settings):
        """The connector as the remote backend makes it, over a pinned buffer of 4 MiB."""
        consumer, old = self.consumer, self.version == "0.3.7"
        formats = consumer.load("lmcache.v1.memory_management").MemoryFormat
        self.form = formats.KV_2LTD
        shape, kind = torch.Size([2, 4, CHUNK_TOKENS, 32]), torch.bfloat16
        self.shape, self.kind, self.seed = shape, kind, seed
        consumer.given("lmcache.integration.vllm.utils",
                       get_size_bytes=lambda shapes, kinds: sum(one.numel() * of.itemsize
                                                                for one, of in zip(shapes, kinds)))
        consumer.load("lmcache.v1.protocol", "lmcache.v1.storage_backend.connector.base_connector")
        module = consumer.load("lmcache.v1.storage_backend.connector.mooncakestore_connector")
        extra = dict(settings, save_chunk_meta=meta_in_store)
        if from_file:
            side.config_file(**settings)
        config = SimpleNamespace(extra_config=extra, use_layerwise=False, chunk_size=CHUNK_TOKENS)
        metadata = SimpleNamespace(
            get_shapes=lambda: [shape], get_dtypes=lambda: [kind], use_mla=False, chunk_size=CHUNK_TOKENS,
            get_num_groups=lambda: 1, kv_shape=(4, 2, CHUNK_TOKENS, 4, 8), kv_dtype=kind)
        self.backend = Backend(4 << 20, config, metadata)
        self.loop = asyncio.new_event_loop()
        if old:
            self.connector = module.MooncakestoreConnector("", 0, "", self.loop, self.backend, config)
            self.connector.init_chunk_meta(config, metadata)
        else:
            self.connector = module.MooncakestoreConnector(self.loop, self.backend, config)
        if self.connector.registered_buffer_ptr is None:
            raise RuntimeError("the buffer of the backend is not registered")

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def chunk(self, seed):
        made = self.backend.allocate([self.shape], [self.kind], self.form)
        made.raw_tensor.copy_(side.filled(made.raw_tensor.nbytes, seed))
        return made

    def chunk_bytes(self):
        return self.shape.numel() * self.kind.itemsize

    def put(self, key, seed):
        self.run(self.connector.put(Key(key), self.chunk(seed)))

    def put_batch(self, keys, seeds):
        """Only later releases put several at once."""
        if self.connector.support_batched_put():
            self.run(self.connector.batched_put([Key(key) for key in keys],
                                                [self.chunk(seed) for seed in seeds]))
        else:
            for key, seed in zip(keys, seeds):
                self.put(key, seed)

    def get(self, keys):
        """Bytes of each chunk, None for a miss."""
        found = self.run(self.connector.batched_get([Key(key) for key in keys]))
        return [None if one is None else side.seen(one.raw_tensor) for one in found]

    def exists(self, key):
        both = [self.run(self.connector.exists(Key(key))), self.connector.exists_sync(Key(key))]
        return [bool(one) for one in both]

    def close(self):
        self.run(self.connector.close())
        return self.connector.registered_buffer_ptr

    # The scheduler's question which tokens are in the store.

    def lookup(self, master, keys):
        consumer = self.consumer
        consumer.given("lmcache.v1.config", LMCacheEngineConfig=SimpleNamespace)
        database = SimpleNamespace(process_tokens=lambda tokens: (
            (CHUNK_TOKENS * at, CHUNK_TOKENS * (at + 1), Key(key))
            for at, key in enumerate(keys)))
        consumer.given("lmcache.v1.token_database", ChunkedTokenDatabase=lambda *_: database)
        consumer.given("lmcache.utils", CacheEngineKey=Key)
        consumer.load("lmcache.v1.storage_backend.connector.mooncakestore_connector")
        module = consumer.load("lmcache.v1.lookup_client.mooncake_lookup_client")
        client = module.MooncakeLookupClient(SimpleNamespace(enable_blending=False), None, master)
        return client.lookup([0] * CHUNK_TOKENS * len(keys))

    # The channel.

    def start_channel(self, port, length, seed=None):
        """The context that owns an engine, a registered buffer and a server of handshakes."""
        home = "lmcache.v1.distributed.transfer_channel"
        self.consumer.load(f"{home}.api", f"{home}.abstract", f"{home}.factory")
        module = self.consumer.load(f"{home}.impl.mooncake_te_impl")
        self.memory = side.filled(length, seed)
        described = SimpleNamespace(ptr=self.memory.data_ptr(), size=length, align_bytes=4096)
        self.channel = module.create_mooncake_te_transfer_channel_context(
            described, f"127.0.0.1:{port}", f"127.0.0.1:{port}")

    def read(self, port, local, remote):
        """A read of (offset, size) pairs, polled to its end."""
        client = self.channel.get_transfer_channel_client(f"127.0.0.1:{port}")
        task = client.submit_read(self.channel.get_transfer_channel_address([tuple(one) for one in local]),
                                  self.channel.get_transfer_channel_address([tuple(one) for one in remote]))
        while not (result := client.query_read_status(task)).is_finished():
            pass
        return result.succeeded_mask

    def clients(self):
        return self.channel.get_num_connected_clients()

    def memory_bytes(self, start, length):
        return side.seen(self.memory[start:start + length])

    def close_channel(self):
        self.channel.close()
