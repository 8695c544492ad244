"""What vLLM's connectors do with `mooncake.engine` and `mooncake.store`, without vLLM: the calls that they
make, in their order, on blocks of memory that stand for a KV cache.
"""

import mooncake
from mooncake.engine import TransferEngine
from mooncake.mooncake_config import MooncakeConfig
from mooncake.store import MooncakeDistributedStore, ReplicateConfig

PEER_TO_PEER = ("MooncakeConnector", "MooncakeConnectorV1")
POOLED = ("MooncakeConnectorStoreV1", "MooncakeStoreConnector", "AscendStoreConnector")


def check(code, what):
    """Ends the model server like vLLM does; the reason is the library's."""
    if code != 0:
        raise RuntimeError(f"{what} gave {code}: {mooncake.last_error()}")


class PeerToPeer:
    """Blocks go from the memory of the prefill instance straight into that of the decode instance."""

    def __init__(self, cache, host, protocol):
        self.cache, self.host = cache, host
        self.engine = TransferEngine()
        check(self.engine.initialize(host, "P2PHANDSHAKE", protocol, ""), "initialize")
        for base in cache.bases:
            check(self.engine.register_memory(base, cache.layer_bytes), "register_memory")

    def offer(self, blocks):
        """What the decode instance has to know; the proxy hands it on."""
        return {"do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": blocks,
                "remote_host": self.host, "remote_port": self.engine.get_rpc_port(),
                "remote_bases": self.cache.bases}

    def fetch(self, params, blocks):
        """Reads what was offered into blocks of this process."""
        size, mine, theirs = self.cache.block_bytes, [], []
        for layer, base in enumerate(params["remote_bases"]):
            mine += [self.cache.address(layer, block) for block in blocks]
            theirs += [base + block * size for block in params["remote_block_ids"]]
        code = self.engine.batch_transfer_sync_read(
            f"{params['remote_host']}:{params['remote_port']}", mine, theirs, [size] * len(mine))
        check(code, "batch_transfer_sync_read")


class Pooled:
    """Blocks are objects of the store, named by the prompt up to their end."""

    def __init__(self, cache, extra, engine):
        config = MooncakeConfig.load_from_env()
        self.cache, self.store = cache, MooncakeDistributedStore()
        given = (config.local_hostname, config.metadata_server, config.global_segment_size,
                 config.local_buffer_size, config.protocol, config.device_name,
                 config.master_server_address)
        # Beside a peer-to-peer connector both work on one engine, which knows the memory already.
        check(self.store.setup(*given, *([engine.get_engine()] if engine else [])), "setup")
        if engine is None or extra.get("register_buffer"):
            for base in cache.bases:
                check(self.store.register_buffer(base, cache.layer_bytes), "register_buffer")

    def parts(self, blocks):
        """Addresses and sizes of the blocks: one object has the parts of all layers."""
        layers = range(len(self.cache.bases))
        return ([[self.cache.address(layer, block) for layer in layers] for block in blocks],
                [[self.cache.block_bytes for _ in layers] for _ in blocks])

    def load(self, keys, blocks):
        """How many of the first blocks were in the pool and are here now."""
        known = self.store.batch_is_exist(keys)
        count = next((place for place, found in enumerate(known) if found != 1), len(keys))
        if count == 0:
            return 0
        codes = self.store.batch_get_into_multi_buffers(keys[:count], *self.parts(blocks[:count]))
        return next((place for place, code in enumerate(codes) if code < 0), count)

    def save(self, keys, blocks):
        """Puts those that the pool does not have; a full pool only costs the next hit."""
        known = self.store.batch_is_exist(keys)
        fresh = [place for place, found in enumerate(known) if found != 1]
        if fresh:
            self.store.batch_put_from_multi_buffers(
                [keys[place] for place in fresh], *self.parts([blocks[place] for place in fresh]),
                ReplicateConfig())

    def close(self):
        self.store.close()


def connect(given, cache, host, protocol):
    """(peer-to-peer, pooled) of a --kv-transfer-config; either may be None."""
    wanted = [given]
    if given.get("kv_connector") == "MultiConnector":
        wanted = given["kv_connector_extra_config"]["connectors"]
    peer = pooled = None
    for one in wanted:
        name, extra = one.get("kv_connector"), one.get("kv_connector_extra_config", {})
        if name in PEER_TO_PEER:
            peer = PeerToPeer(cache, host, extra.get("mooncake_protocol", protocol))
        elif name in POOLED:
            pooled = Pooled(cache, extra, peer.engine if peer else None)
        else:
            raise ValueError(f"kv_connector {name}")
    return peer, pooled
