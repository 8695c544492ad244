"""vllm-ascend: the pooled store and the connectors between prefill and decode."""

import threading
from types import SimpleNamespace

import torch

import loading
import side
import vllm_parts
from side import ENDS, until

STORES = {"0.11.0": "vllm_ascend.distributed.mooncake",
          "0.13.0": "vllm_ascend.distributed.kvpool.backend",
          "0.23.0": "vllm_ascend.distributed.kv_transfer.kv_pool.ascend_store.backend"}
ENGINES = {"0.11.0": "vllm_ascend.distributed.mooncake.transfer_engine",
           "0.13.0": "vllm_ascend.distributed.mooncake_transfer_engine",
           "0.23.0": "vllm_ascend.distributed.kv_transfer.utils.mooncake_transfer_engine"}
CONNECTORS = {"0.11.0": "vllm_ascend.distributed", "0.13.0": "vllm_ascend.distributed",
              "0.23.0": "vllm_ascend.distributed.kv_transfer.kv_p2p"}
BLOCK_TOKENS = 16


class Side(side.Buffers):
    def __init__(self, folder, version):
        super().__init__()
        self.version = version
        self.consumer = loading.Consumer(folder)
        vllm_parts.prepare(self.consumer)
        self.engines = self.consumer.load(ENGINES[version])

    def settings(self, **fields):
        """The file that `MOONCAKE_CONFIG_PATH` names."""
        side.config_file(metadata_server="P2PHANDSHAKE", protocol="ascend", device_name="",
                         global_segment_size=32 << 20, local_buffer_size=16 << 20, **fields)

    def imports(self):
        """All connectors of the release can be imported; where their engine is from."""
        names = ["mooncake_connector", "mooncake_layerwise_connector"]
        if self.version == "0.23.0":
            names.append("mooncake_hybrid_connector")
        return [self.consumer.load(f"{CONNECTORS[self.version]}.{name}").TransferEngine.__module__
                for name in names]

    # The pooled store, 0.11: its worker threads with the real database of keys.

    def start_pool(self, blocks, layers, block_bytes, seed=None):
        """KV caches of some layers, registered, and the store with its two threads."""
        home = STORES[self.version]
        data = self.consumer.load(f"{home}.config_data")
        module = self.consumer.load(f"{home}.mooncake_store")
        threads = self.consumer.load(f"{home}.kv_transfer")
        self.store = module.Mooncakestore(SimpleNamespace(tensor_parallel_size=1, data_parallel_rank_local=0))
        self.layers = [side.filled(blocks * block_bytes, None if seed is None else seed + layer)
                       for layer in range(layers)]
        for layer in self.layers:
            code = self.store.register_buffer(layer.data_ptr(), layer.nbytes)
            if code != 0:
                raise RuntimeError(f"register_buffer gave {code}")
        database = data.ChunkedTokenDatabase(data.MooncakeEngineMetadata(
            "model", 1, 0, torch.bfloat16, (layers, 2, BLOCK_TOKENS, 1, 1), BLOCK_TOKENS))
        shared = (0, 1, self.store, [layer.data_ptr() for layer in self.layers], database, [block_bytes],
                  BLOCK_TOKENS)
        self.sending = threads.KVCacheStoreSendingThread(*shared, threading.Event())
        self.receiving = threads.KVCacheStoreRecvingThread(*shared, threading.Event())
        self.database = database
        for thread in (self.sending, self.receiving):
            thread.start()

    def tokens(self, blocks):
        return torch.tensor(list(range(blocks * BLOCK_TOKENS)))

    def found(self, blocks):
        """What the scheduler asks: which blocks of these tokens are in the pool."""
        keys = [key.to_string() for _, _, key in self.database.process_tokens(self.tokens(blocks))]
        return self.store.batch_exists(keys)

    def save(self, blocks):
        self.sending.add_request("r", self.tokens(blocks), list(range(blocks)), is_last_chunk=True)
        until(lambda: self.sending.get_and_clear_finished_requests(), "the put")

    def load(self, blocks):
        self.receiving.add_request("r", self.tokens(blocks), list(range(blocks)))
        until(lambda: self.receiving.get_and_clear_finished_requests(), "the get")

    def layer_bytes(self):
        return [side.seen(layer) for layer in self.layers]

    def clear_layers(self):
        for layer in self.layers:
            layer.zero_()

    def close_pool(self):
        self.store.close()

    # The pooled store, later: a backend with lists of addresses.

    def start_backend(self, blocks, layers, block_bytes, seed=None):
        module = self.consumer.load(*([f"{STORES[self.version]}.backend"]
                                      + [f"{STORES[self.version]}.mooncake_backend"]))
        self.backend = module.MooncakeBackend(SimpleNamespace())
        self.layers = [side.filled(blocks * block_bytes, None if seed is None else seed + layer)
                       for layer in range(layers)]
        self.block_bytes = block_bytes
        self.backend.register_buffer([layer.data_ptr() for layer in self.layers],
                                     [layer.nbytes for layer in self.layers])

    def places(self, blocks):
        """Addresses and sizes of the blocks: one list for each, over all layers."""
        addresses = [[layer.data_ptr() + block * self.block_bytes for layer in self.layers]
                     for block in range(blocks)]
        return addresses, [[self.block_bytes] * len(self.layers)] * blocks

    def backend_exists(self, keys):
        return self.backend.exists(keys)

    def backend_put(self, keys):
        self.backend.put(keys, *self.places(len(keys)))

    def backend_get(self, keys):
        return self.backend.get(keys, *self.places(len(keys)))

    # Prefill to decode.

    def engine(self):
        """The engine that all connectors of a process share; its port."""
        if self.version == "0.11.0":
            self.te = self.engines.get_global_te("127.0.0.1", None)
        else:
            self.te = self.engines.global_te.get_transfer_engine("127.0.0.1", device_name=None)
        return self.te.get_rpc_port()

    def caches(self, blocks, layers, block_bytes, seed=None):
        """Registered KV caches, as the worker of a connector registers them."""
        self.layers = [side.filled(blocks * block_bytes, None if seed is None else seed + layer)
                       for layer in range(layers)]
        self.block_bytes = block_bytes
        for layer in self.layers:
            code = self.te.register_memory(layer.data_ptr(), layer.nbytes)
            if code != 0:
                raise RuntimeError(f"register_memory gave {code}")
        return [layer.data_ptr() for layer in self.layers]

    def serve(self, port, blocks):
        """The thread of prefill that tells where its caches are."""
        module = self.connector()
        port_of_engine, ready = self.te.get_rpc_port(), threading.Event()
        if self.version == "0.23.0":
            group, places, lengths = self.by_layers()
            metadata = module.MooncakeAgentMetadata(
                "prefill", port_of_engine, group, BLOCK_TOKENS, places, [[1, 1]] * len(places), blocks,
                lengths, lengths, "127.0.0.1", port)
        else:
            metadata = module.MooncakeAgentMetadata(
                "prefill", port_of_engine, [layer.data_ptr() for layer in self.layers], blocks)
        if self.version == "0.11.0":
            self.server = module.KVCacheSendingThread(0, 1, "prefill", "127.0.0.1", port, metadata, ready, {})
        else:
            self.server = module.KVCacheSendingThread(self.config(), 0, 1, "prefill", "127.0.0.1", port, metadata,
                                                      ready, {}, 0)
            self.server.task_tracker.add_req_to_process("r1")
        self.server.start()
        if not ready.wait(ENDS):
            raise RuntimeError("the sending thread is not ready")

    def connector(self):
        self.consumer.given("vllm_ascend.ascend_config",
                            get_ascend_config=lambda: SimpleNamespace(enable_kv_nz=False))
        self.consumer.given("vllm.distributed.utils", get_pp_indices=lambda layers, _rank, _size: (0, layers))
        return self.consumer.load(f"{CONNECTORS[self.version]}.mooncake_connector")

    def by_layers(self):
        """The caches as 0.23 tells of them: one group of full attention, K and V of each layer."""
        pairs = list(zip(self.layers[::2], self.layers[1::2]))
        group = {0: ({"kv_cache_spec_type": "FullAttentionSpec"}, list(range(len(pairs))))}
        return (group, [[one.data_ptr() for one in pair] for pair in pairs],
                [[self.block_bytes] * 2 for _ in pairs])

    def config(self):
        """What the threads read of vLLM's configuration."""
        text = SimpleNamespace(num_key_value_heads=1, num_hidden_layers=len(self.layers) // 2, head_dim=64)
        return SimpleNamespace(
            model_config=SimpleNamespace(hf_config=text, hf_text_config=text, is_deepseek_mla=False),
            speculative_config=None,
            cache_config=SimpleNamespace(block_size=BLOCK_TOKENS),
            parallel_config=SimpleNamespace(pipeline_parallel_size=1))

    def released(self):
        """Which requests prefill may free."""
        return sorted(self.server.get_and_clear_finished_requests())

    def pull(self, port, local, remote):
        """The thread of decode: asks prefill where the blocks are and reads them."""
        module = self.connector()
        places, ready = [layer.data_ptr() for layer in self.layers], threading.Event()
        if self.version == "0.23.0":
            group, places, lengths = self.by_layers()
            thread = module.KVCacheRecvingThread(
                0, 1, 1, self.te, "decode", port + 1, port + 1, places, lengths, lengths, ready_event=ready,
                vllm_config=self.config(), kv_group2layeridx=group, block_size_scale=[[1, 1]] * len(places))
            thread.task_tracker.add_req_to_process("r1")
            thread.start()
            thread.add_request("r1", "r1", (local,), (remote,), [module.GroupPull(0, 0, 1)], "prefill",
                               "127.0.0.1", port, all_task_done=True)
            return self.pulled(thread)
        if self.version == "0.11.0":
            thread = module.KVCacheRecvingThread(0, 1, self.te, "decode", port + 1, places, [self.block_bytes],
                                                 ready, self.config(), {})
            last = ()
        else:
            caches = {f"layer{at}": (None, None) for at in range(len(self.layers) // 2)}
            thread = module.KVCacheRecvingThread(0, 1, 1, self.te, "decode", port + 1, port + 1, places,
                                                 [self.block_bytes], ready, self.config(), caches)
            last = ({}, True)
            thread.task_tracker.add_req_to_process("r1")
        thread.start()
        thread.add_request("r1", local, remote, "prefill", "127.0.0.1", port, 0, 1, *last)
        return self.pulled(thread)

    @staticmethod
    def pulled(thread):
        until(lambda: thread.get_and_clear_finished_requests(), "the transfer")

    def push_layers(self, session_port, remote, local_blocks, remote_blocks):
        """The layer-wise connector: its thread writes one layer after the other."""
        module = self.consumer.load("vllm_ascend.distributed.mooncake_layerwise_connector")
        ended = []
        thread = module.KVCacheSendingLayerThread(
            engine=self.te, total_layers=len(self.layers) // 2, ready_event=threading.Event(), tp_rank=0,
            pd_head_ratio=1, num_head_replica=1, kv_cache_base_addr=[one.data_ptr() for one in self.layers],
            use_mla=False, block_len=[self.block_bytes], first_kv_cache=self.layers[0],
            callback_func=lambda request, _: ended.append(request))
        thread.start()
        request = module.ReqMeta(
            local_block_ids=local_blocks, token_ids=[], remote_block_ids=remote_blocks,
            remote_engine_id="decode", remote_host="127.0.0.1", remote_port=0,
            remote_te_rpc_port=session_port, remote_kv_caches_base_addr=remote, metaserver=None)
        for layer in range(len(self.layers) // 2):
            thread.send_queue.put(("r2", request, layer, None, None))
        until(lambda: ended, "the last layer")

    def blocks_seen(self, blocks):
        """Checksums of some blocks of every layer."""
        return [[side.seen(layer[block * self.block_bytes:(block + 1) * self.block_bytes])
                 for block in blocks] for layer in self.layers]
