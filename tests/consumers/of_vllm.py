"""vLLM: pipe and lookup buffer of the first engine; encoder cache, embeddings, store threads and
connector of the second."""

import contextlib
import math
import random
import zlib

from harness.ports import free_port
from harness.report import expect
from masters import OLD
from process import Consumer, arrived, checksum, master

V0_FIRST, V0_LAST, LAST = "0.8.5", "0.10.2", "0.33.0"
MIB = 1 << 20
BLOCK, BLOCKS, LAYERS, SEED = 8192, 12, 3, 81


def side(version, kind):
    return Consumer("vllm_side", "vllm", version, kind)


@contextlib.contextmanager
def metadata_service():
    """Our HTTP service, which both implementations speak to."""
    from mooncake.http_metadata_server import KVBootstrapServer
    port = free_port()
    service = KVBootstrapServer(port, "127.0.0.1")
    service.run()
    try:
        yield f"http://127.0.0.1:{port}/metadata"
    finally:
        service.close()


def ports_of_pipes():
    """Two ports whose ninth and tenth successors are free as well: the pipe's own sockets."""
    free = {free_port() for _ in range(48)}
    fits = [port for port in sorted(free) if {port + 9, port + 10} <= free]
    first = fits[0]
    taken = {first, first + 9, first + 10}
    return first, next(port for port in fits if not taken & {port, port + 9, port + 10})


def pipe(version, cast):
    """Tensors through the pipe, both ways, and None."""
    with metadata_service() as server, side(version, cast.one) as prefill, side(version, cast.other) as decode:
        urls = [f"127.0.0.1:{port}" for port in ports_of_pipes()]
        for process in (prefill, decode):
            process.ask("settings", prefill_url=urls[0], decode_url=urls[1], metadata_server=server,
                        metadata_backend=None, protocol="tcp", device_name="")
        prefill.ask("start_pipe", rank=0)
        decode.ask("start_pipe", rank=1)
        for at, shape in enumerate([[3], [4, 5, 6], [64, 1024]]):
            prefill.ask("send", seed=at, shape=shape)
            decode.check("receive", [shape, *checksum(4 * math.prod(shape), at)])
        decode.ask("send", seed=None, shape=[])
        prefill.check("receive", None)
        decode.ask("send", seed=9, shape=[2, 2])
        prefill.check("receive", [[2, 2], *checksum(16, 9)])


def lookup(version, cast):
    """The lookup buffer: tensors put by one engine, taken by another; a miss is None."""
    with master(cast) as owner, side(version, cast.one) as one, side(version, cast.other) as other:
        for process in (one, other):
            process.ask("settings", local_hostname="127.0.0.1", metadata_server="P2PHANDSHAKE",
                        protocol="tcp", device_name="", master_server_address=owner.address,
                        global_segment_size=32 * MIB, local_buffer_size=16 * MIB)
            process.ask("start_lookup")
        one.ask("insert", key="layer_1", seed=5, shape=[64, 512])
        arrived(lambda: other.ask("select", key="layer_1"), [[64, 512], *checksum(64 * 512 * 4, 5)], cast)
        other.check("select", None, key="layer_2")
        one.ask("close")


def encoder(version, cast):
    """The encoder cache: views registered for the time of a write, shared by batches."""
    length, parts = MIB, 8
    with side(version, cast.one) as producer, side(version, cast.other) as consumer:
        producer.ask("start_encoder")
        session = consumer.ask("start_encoder")
        there = consumer.ask("buffer", name="ec", length=length)
        producer.ask("buffer", name="ec", length=length, seed=SEED)
        consumer.check("register", 0, name="ec")
        producer.check("push", [True, True], session=session, name="ec", there=there, parts=parts)
        arrived(lambda: consumer.ask("bytes_of", name="ec"), checksum(length, SEED), cast)
        # Again after all was released: nothing is left over from the first time.
        consumer.ask("clear", name="ec")
        producer.check("push", [True, True], session=session, name="ec", there=there, parts=parts)
        arrived(lambda: consumer.ask("bytes_of", name="ec"), checksum(length, SEED), cast)
        consumer.check("unregister", True, name="ec")
        for process in (producer, consumer):
            process.ask("close_encoder")


def store_settings(owner):
    return dict(metadata_server="P2PHANDSHAKE", master_server_address=owner.address, protocol="tcp",
                device_name="", global_segment_size=32 * MIB, local_buffer_size=16 * MIB)


def embeddings(version, cast):
    """Embeddings of the encoder in the store, whole tensors with a header of vLLM's own."""
    cast.without(OLD, "has no ObjectDataType")
    with master(cast) as owner, side(version, cast.one) as one, side(version, cast.other) as other:
        for process in (one, other):
            process.ask("settings", **store_settings(owner))
            process.ask("start_embeddings")
        keys = ["e0", "e1"]
        for at, key in enumerate(keys):
            one.ask("put_embedding", key=key, seed=at, tokens=32, width=64)
        one.check("embeddings_exist", [True, True, False], keys=[*keys, "e2"])
        wanted = {key: [[32, 64], *checksum(32 * 64 * 4, at)] for at, key in enumerate(keys)}
        arrived(lambda: other.ask("embeddings", keys=[*keys, "e2"], tokens=32, width=64), wanted, cast)
        found = one.ask("put_error", key="large", seed=1, tokens=1024, width=17_000)
        expect(found is not None and found[0] == "EmbeddingStoreOperationError", f"{found}")
        # The client is healthy after a full pool.
        one.check("embeddings_exist", [True], keys=["e0"])
        for process in (one, other):
            process.ask("close_embeddings")


def store(version, cast):
    """The threads of the store connector: a request saved once, loaded by another worker; blocks that
    are missing are told."""
    with master(cast) as owner, side(version, cast.one) as one, side(version, cast.other) as other:
        for process in (one, other):
            process.ask("settings", **store_settings(owner))
            process.ask("start_store", blocks=BLOCKS, layers=LAYERS, block_bytes=BLOCK,
                        seed=SEED if process is one else None)
        one.check("save", [["save_exists", "ok", 8], ["save_put", "ok", 8]], blocks=8)
        if cast.one != OLD:  # Which has no batch_get_replica_desc.
            one.check("tiers", ["memory"] * 8 + ["unknown"], blocks=9)
        other.check("load", [[["load_get", "ok", 8]], []], blocks=8)
        found = other.ask("load", blocks=BLOCKS)
        expect(found == [[["load_get", "partial_failure", BLOCKS]], [8, 9, 10, 11]], f"{found}")
        one.ask("save", blocks=BLOCKS)
        other.check("load", [[["load_get", "ok", BLOCKS]], []], blocks=BLOCKS)
        arrived(lambda: (other.ask("load", blocks=BLOCKS), other.ask("layer_bytes"))[1],
                [checksum(BLOCKS * BLOCK, SEED + layer) for layer in range(LAYERS)], cast)


def connector(version, cast):
    """The connector between prefill and decode: its engine, its registrations and its writes."""
    with side(version, cast.one) as prefill, side(version, cast.other) as decode:
        prefill.ask("start_connector")
        session = decode.ask("start_connector")
        there = decode.ask("buffer", name="kv", length=BLOCK * BLOCKS)
        prefill.ask("buffer", name="kv", length=BLOCK * BLOCKS, seed=SEED)
        for process in (prefill, decode):
            process.check("register_caches", 0, names=["kv"])
        prefill.check("send_blocks", 0, session=session, name="kv", there=there,
                      blocks=list(range(BLOCKS)), length=BLOCK)
        data = random.Random(SEED).randbytes(BLOCK * BLOCKS)
        turned = b"".join(data[at * BLOCK:(at + 1) * BLOCK] for at in reversed(range(BLOCKS)))
        arrived(lambda: decode.ask("bytes_of", name="kv"), [len(turned), zlib.crc32(turned)], cast)
        prefill.ask("unregister_caches")


TESTS = ((pipe, V0_FIRST), (pipe, V0_LAST), (lookup, V0_FIRST), (lookup, V0_LAST), (encoder, LAST),
         (embeddings, LAST), (store, LAST), (connector, LAST))
ENGINES = ((pipe, V0_LAST), (encoder, LAST), (connector, LAST))
STORES = ((lookup, V0_LAST), (store, LAST))
