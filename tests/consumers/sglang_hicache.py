"""SGLang's HiCache over the store: pages of the host's KV pool by hash."""

import os
import runpy
import sys
from types import SimpleNamespace

import torch

import loading
import side

STORE = "sglang.srt.mem_cache.storage.mooncake_store.mooncake_store"
PAGE_TOKENS = 4


class Pool:
    """The host's KV pool: for each page its K and its V, as `page_first` has them."""

    layout, page_size, dtype = "page_first", PAGE_TOKENS, torch.uint8

    def __init__(self, pages, page_bytes, parts, seed, allocator=None):
        self.page_bytes, self.parts, self.allocator = page_bytes, parts, allocator
        shape = (pages * parts * page_bytes,)
        self.kv_buffer = side.filled(*shape) if allocator is None \
            else allocator.allocate(shape, torch.uint8)
        if seed is not None:
            self.kv_buffer.copy_(side.filled(shape[0], seed))

    def get_page_buffer_meta(self, indices):
        """Addresses and sizes of the pages of these tokens."""
        addresses, start = [], self.kv_buffer.data_ptr()
        for token in indices.tolist()[::self.page_size]:
            page = start + token // self.page_size * self.parts * self.page_bytes
            addresses += [page + part * self.page_bytes for part in range(self.parts)]
        return addresses, [self.page_bytes] * len(addresses)

    def get_ksize_per_token(self):
        return self.parts * self.page_bytes // self.page_size

    def get_hybrid_pool_buffer(self):
        return [self.kv_buffer]


class Side:
    def __init__(self, folder, version):
        self.consumer = consumer = loading.Consumer(folder)
        consumer.load("sglang.srt.environ")
        self.storage = consumer.load("sglang.srt.mem_cache.hicache_storage")
        if (consumer.folder / "sglang/srt/mem_cache/pool_host").is_dir():
            consumer.given("sglang.srt.mem_cache.pool_host", HostTensorAllocator=object)
        self.module = consumer.load(STORE)

    def config(self, mla, **extra):
        """What the cache controller tells the store."""
        known = dict(tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
                     is_mla_model=mla, enable_storage_metrics=False, is_page_first_layout=True,
                     model_name="m/k", extra_config=extra)
        fields = self.storage.HiCacheStorageConfig.__dataclass_fields__
        return self.storage.HiCacheStorageConfig(**{name: value for name, value in known.items()
                                                    if name in fields})

    def start(self, pages, page_bytes, seed=None, mla=False, standalone=False, **extra):
        """The store, warmed up, and a pool registered with it."""
        allocator = self.module.MooncakeHostTensorAllocator() if standalone else None
        self.pool = Pool(pages, page_bytes, 1 if mla else 2, seed, allocator)
        arguments = [self.pool] if self.module.MooncakeStore.__init__.__code__.co_argcount > 2 else []
        self.store = self.module.MooncakeStore(self.config(mla, **extra), *arguments)
        self.store.register_mem_pool_host(self.pool)

    def tokens(self, first, pages):
        return torch.arange(first * PAGE_TOKENS, (first + pages) * PAGE_TOKENS)

    def exists(self, keys):
        return self.store.batch_exists(keys)

    def put(self, keys, first=0):
        return self.store.batch_set_v1(keys, self.tokens(first, len(keys)))

    def get(self, keys, first=0):
        return self.store.batch_get_v1(keys, self.tokens(first, len(keys)))

    def clear_pool(self):
        self.pool.kv_buffer.zero_()

    def pool_bytes(self):
        return side.seen(self.pool.kv_buffer)

    def clear(self):
        self.store.clear()

    def layer_wise(self, keys, layers):
        """The direct linker: pages put as hybrid pools are, then loaded one layer after the other in a
        session; what was put, what came, and which layers were told."""
        linker = self.consumer.load("sglang.srt.mem_cache.storage.mooncake_store.mooncake_direct_linker")
        kv, page = self.storage.PoolName.KV, self.pool.page_bytes
        self.store.registered_pools[kv] = self.pool
        transfer = self.storage.PoolTransfer(name=kv, keys=keys, host_indices=self.tokens(0, len(keys)))
        put = self.store.batch_set_v2([transfer])[kv]
        target = side.filled(len(keys) * page)
        self.store.register_buffer(target)
        length = page // layers

        def ranges(pages, layer):
            return ([[target.data_ptr() + at * page + layer * length] for at in pages],
                    [[length]] * len(pages), [[layer * length]] * len(pages))

        entry = SimpleNamespace(prepare_locations=lambda tokens: list(range(len(tokens) // PAGE_TOKENS)),
                                get_prepared_layer_range_meta=ranges)
        told = []
        made = linker.MooncakeDirectLinker.__new__(linker.MooncakeDirectLinker)
        made.storage, made.pools, made.num_layers = self.store, {kv: entry}, layers
        made.layer_done_counter = SimpleNamespace(complete=lambda _, layer: told.append(layer),
                                                  fail=lambda _, error: told.append(str(error)))
        made.load_layer_wise(0, [[transfer]])
        return [put, side.seen(target), told]

    def own_tests(self, **variables):
        """Runs SGLang's own test program of this store."""
        os.environ.update(variables)
        folder = self.consumer.folder.joinpath(*STORE.split(".")[:-1])
        # It imports its neighbour by the short name.
        sys.modules["mooncake_store"] = self.module
        runpy.run_path(str(folder / "test_mooncake_store.py"), run_name="__main__")

    def embeddings(self, **extra):
        """The store of embeddings: put, ask, get, whole and in parts."""
        module = self.consumer.load("sglang.srt.mem_cache.embedding_store",
                                    "sglang.srt.mem_cache.storage.mooncake_store.mooncake_embedding_store")
        store = module.MooncakeEmbeddingStore(self.config(False, **extra))
        memory = side.filled(8 * 4096, 41)
        wanted = side.seen(memory[:4 * 4096])
        store.register_buffer(memory)
        address, hashes = memory.data_ptr(), ["one", "two"]
        places, sizes = [address, address + 4096], [4096, 4096]
        found = {"before": store.batch_is_exist(hashes), "put": store.batch_put(hashes, places, sizes),
                 "again": store.batch_put(hashes, places, sizes), "after": store.batch_is_exist(hashes)}
        parts = [[address + 8192, address + 12288]]
        found["parts"] = store.batch_put_from_multi_buffers(["three"], parts, [[4096, 4096]])
        found["get"] = store.batch_get(hashes, [place + 16384 for place in places], sizes)
        found["get_parts"] = store.batch_get_into_multi_buffers(
            ["three"], [[place + 16384 for place in parts[0]]], [[4096, 4096]])
        found["missing"] = store.batch_get(["four"], [address], [4096])
        found["same"] = side.seen(memory[4 * 4096:]) == wanted
        return found
