"""vLLM: the pipe and lookup buffer of its first engine, and the Mooncake connectors of the second."""

import math
import sys
import threading
import types
from types import SimpleNamespace

import torch

import loading
import side
import vllm_parts
from side import until

KV = "vllm.distributed.kv_transfer"
V1 = f"{KV}.kv_connector.v1"
EC = "vllm.distributed.ec_transfer.ec_connector"
BLOCK_TOKENS = 16


def safetensors_of_arrays():
    """`safetensors.torch` for our tensors: the real format by way of `safetensors.numpy`."""
    import safetensors.numpy
    module = types.ModuleType("safetensors.torch")
    module.save = lambda tensors: safetensors.numpy.save(
        {name: one.contiguous().array for name, one in tensors.items()})
    module.load = lambda data: {name: torch.Tensor(array)
                                for name, array in safetensors.numpy.load(bytes(data)).items()}
    sys.modules["safetensors.torch"] = module


def values(seed, *shape):
    """A tensor of float32 with known bytes."""
    return side.filled(4 * math.prod(shape), seed).view(torch.float32).reshape(*shape)


class Side(side.Buffers):
    def __init__(self, folder, version):
        super().__init__()
        self.consumer = loading.Consumer(folder)
        vllm_parts.prepare(self.consumer)
        safetensors_of_arrays()

    def settings(self, **fields):
        side.config_file(**fields)

    # The first engine.

    def start_pipe(self, rank):
        module = self.consumer.load(f"{KV}.kv_pipe.base", f"{KV}.kv_pipe.mooncake_pipe")
        self.pipe = module.MooncakePipe(0, SimpleNamespace(kv_rank=rank, kv_buffer_device="cpu"))

    def send(self, seed, shape):
        self.pipe.send_tensor(None if seed is None else values(seed, *shape))

    def receive(self):
        """Shape and bytes of what came, or None."""
        found = self.pipe.recv_tensor()
        return None if found is None else [list(found.shape), *side.seen(found)]

    def start_lookup(self):
        module = self.consumer.load(f"{KV}.kv_lookup_buffer.base", f"{KV}.kv_lookup_buffer.mooncake_store")
        self.lookup = module.MooncakeStore(SimpleNamespace())

    def insert(self, key, seed, shape):
        self.lookup.put(key, values(seed, *shape))

    def select(self, key):
        found = self.lookup.get(key)
        return None if found is None else [list(found.shape), *side.seen(found)]

    def close(self):
        (self.pipe if hasattr(self, "pipe") else self.lookup).close()

    # The second engine: encoder caches between processes.

    def start_encoder(self):
        module = self.consumer.load(f"{EC}.mooncake.transfer")
        module.ensure_mooncake_available()
        self.encoder = module.MooncakeTransfer("127.0.0.1", "tcp")
        self.encoder.ensure_ready()
        return self.encoder.local_session()

    def register(self, name):
        return self.encoder.register_memory(self.tensors[name])

    def unregister(self, name):
        return self.encoder.unregister_memory(self.tensors[name])

    def push(self, session, name, there, parts):
        """Views of one tensor, each registered for the time of the write and shared by two batches."""
        tensor = self.tensors[name]
        length = tensor.nbytes // parts
        views = [tensor[at * length:(at + 1) * length] for at in range(parts)]
        first = self.encoder.acquire_sources(views)
        again = self.encoder.acquire_sources(views[:1])
        self.encoder.write(session, first, [there + at * length for at in range(parts)], [length] * parts)
        return [self.encoder.release_sources(first), self.encoder.release_sources(again)]

    def push_unregistered(self, session, name, there):
        """What a write from memory that nobody registered ends as."""
        tensor = self.tensors[name]
        try:
            self.encoder.write(session, [tensor.data_ptr()], [there], [tensor.nbytes])
        except RuntimeError as error:
            return str(error).partition(":")[0][:30]
        return "written"

    def close_encoder(self):
        self.encoder.close()

    # Embeddings in the store.

    def start_embeddings(self):
        self.consumer.load("vllm.distributed.mooncake_store", f"{V1}.mooncake.rdma_utils")
        self.data = self.consumer.load(f"{EC}.mooncake_store_embedding.data")
        module = self.consumer.load(f"{EC}.mooncake_store_embedding.store_client")
        self.client = module.create_mooncake_embedding_store_client(1 << 20)

    def put_embedding(self, key, seed, tokens, width):
        self.client.put_tensor(key, values(seed, tokens, width))

    def put_error(self, key, seed, tokens, width):
        """How the client takes a put that the pool has no room for."""
        try:
            self.client.put_tensor(key, values(seed, tokens, width))
        except Exception as error:
            return [type(error).__name__, str(error)]
        return None

    def embeddings(self, keys, tokens, width):
        spec = self.data.TensorSpec((tokens, width), "torch.float32", tokens * width * 4)
        loaded = self.client.load_tensors({key: spec for key in keys}, "cpu")
        return {key: [list(one.shape), *side.seen(one)] for key, one in loaded.items()}

    def embeddings_exist(self, keys):
        return self.client.batch_exists(keys)

    def close_embeddings(self):
        self.client.close()

    # The store connector's worker threads.

    def start_store(self, blocks, layers, block_bytes, seed=None):
        consumer = self.consumer
        for name in ("vllm.v1.core.kv_cache_utils",):
            consumer.given(name, BlockHash=bytes, BlockHashListWithBlockSize=object,
                           maybe_convert_block_hash=lambda one: one)
        consumer.given("vllm.v1.attention.backends.utils", NULL_BLOCK_ID=-1)
        consumer.given("vllm.utils.torch_utils", is_non_overlapping_and_dense=lambda one: one.is_contiguous())
        settings = consumer.load("vllm.distributed.mooncake_store")
        consumer.load(f"{V1}.mooncake.rdma_utils")
        self.data = consumer.load(f"{V1}.mooncake.store.data")
        consumer.load(f"{V1}.mooncake.store.protocol")
        self.worker = consumer.load(f"{V1}.mooncake.store.worker")
        from mooncake.store import MooncakeDistributedStore, ReplicateConfig
        self.store = MooncakeDistributedStore()
        settings.setup_mooncake_store(self.store, settings.MooncakeStoreConfig.load_from_config(), "127.0.0.1")
        self.layers = [side.filled(blocks * block_bytes, None if seed is None else seed + layer)
                       for layer in range(layers)]
        for layer in self.layers:
            code = self.store.register_buffer(layer.data_ptr(), layer.nbytes)
            if code != 0:
                raise RuntimeError(f"register_buffer gave {code}")
        database = self.data.ChunkedTokenDatabase(self.data.KeyMetadata("model", 0, 0, 0, 0), BLOCK_TOKENS)
        database.store_layout.register_kv_caches([layer.reshape(blocks, block_bytes) for layer in self.layers],
                                                 blocks)
        # One group of full attention: every chunk is stored and loaded.
        whole = SimpleNamespace(
            lcm_block_size=BLOCK_TOKENS, hash_block_size=BLOCK_TOKENS,
            store_mask=lambda tokens, start, num_prompt_tokens=None: [[True] * (tokens // BLOCK_TOKENS)],
            load_mask=lambda hashes, tokens: [[True] * (tokens // BLOCK_TOKENS)])
        config = ReplicateConfig()
        self.operations = []

        def record(**what):
            self.operations.append([what["operation"], what["status"], what["num_keys"]])

        self.sending = self.worker.KVCacheStoreSendingThread(
            self.store, whole, [database], BLOCK_TOKENS, 0, [1], "kv_both", threading.Event(),
            replicate_config=config, record_operation=record, enable_group_semantics=True,
            supports_group_ids=self.worker._replicate_config_supports_group_ids(ReplicateConfig, config))
        self.receiving = self.worker.KVCacheStoreRecvingThread(
            self.store, whole, [database], BLOCK_TOKENS, 0, threading.Event(), record_operation=record)
        for thread in (self.sending, self.receiving):
            thread.start()
        self.jobs = 0

    def request(self, blocks, **more):
        return self.data.ReqMeta(
            req_id="r", token_len_chunk=blocks * BLOCK_TOKENS, block_ids=(list(range(blocks)),),
            block_hashes=[block.to_bytes(8, "big") for block in range(blocks)], **more)

    def save(self, blocks):
        """One job of the sending thread; what it did."""
        self.operations.clear()
        self.jobs += 1
        self.sending.add_request(self.request(blocks, can_save=True, store_job_id=self.jobs))
        until(lambda: self.sending.take_completed_saves(), "the save")
        return self.operations

    def load(self, blocks):
        """One job of the receiving thread; what it did, and the blocks it could not load."""
        self.operations.clear()
        self.receiving.add_request(self.request(blocks, load_spec=self.data.LoadSpec(
            0, blocks * BLOCK_TOKENS, True, blocks * BLOCK_TOKENS)))
        until(lambda: self.receiving.get_and_clear_finished_requests(), "the load")
        return [self.operations, sorted(self.receiving.get_and_clear_block_ids_with_load_errors())]

    def tiers(self, blocks):
        """What the connector writes into its log: where objects are."""
        layout = self.sending.token_databases[0].store_layout
        keys = [layout.key_for(0, block.to_bytes(8, "big")) for block in range(blocks)]
        found = self.worker._get_replica_tiers_by_key(self.store, keys)
        return [found[key] for key in keys]

    def layer_bytes(self):
        return [side.seen(layer) for layer in self.layers]

    # The connector between prefill and decode.

    def start_connector(self):
        """Its worker up to the point where the engine is there."""
        self.consumer.given(f"{KV}.kv_connector.utils", EngineId=str)
        module = self.consumer.load(f"{V1}.mooncake.mooncake_connector")
        made = module.MooncakeConnectorWorker
        self.connector = made.__new__(made)
        self.connector.engine = module.TransferEngine()
        code = self.connector.engine.initialize("127.0.0.1", "P2PHANDSHAKE", "rdma", "")
        if code != 0:
            raise RuntimeError(f"initialize gave {code}")
        self.connector.xfer_stats = SimpleNamespace(record_transfer=lambda **_: None,
                                                    record_failed_transfer=lambda: None)
        return f"127.0.0.1:{self.connector.engine.get_rpc_port()}"

    def register_caches(self, names):
        one = [self.tensors[name] for name in names]
        self.connector._kv_unregistered = False
        self.connector.seen_base_addresses = [tensor.data_ptr() for tensor in one]
        return self.connector.engine.batch_register_memory([tensor.data_ptr() for tensor in one],
                                                           [tensor.nbytes for tensor in one])

    def unregister_caches(self):
        self.connector.unregister_kv_caches()

    def send_blocks(self, session, name, there, blocks, length):
        here = self.tensors[name].data_ptr()
        return self.connector._send_blocks(session, [here + at * length for at in blocks],
                                           [there + at * length for at in reversed(blocks)],
                                           [length] * len(blocks))
