"""The calls of serving engines, in their order and form, with ours and both wheels at the other end.

Written from what each connector calls, not from its code. The other end of an engine is the same
program for all implementations (`tests/peers/upstream.py`); objects meet in a pool of ours or of
upstream's master.
"""

import asyncio
import concurrent.futures
import re
import sys
import time
import zlib

import driver
from common import IMPLEMENTATIONS, OURS, TREE, Memory, engine, environment, equal, peer
from harness.peer import Peer
from harness.ports import free_port
from harness.report import Failed, Skip, expect
from masters import OLD, Master

MIB = 1 << 20
BLOCK = 16 * 1024
BLOCKS = 256
DRIVER = TREE / "tests" / "store" / "driver.py"
PEER = TREE / "tests" / "peers" / "upstream.py"


class Pair:
    """Our engine with a KV region here, and one of `kind` with a region there."""

    def __init__(self, kind, protocol="tcp"):
        self.there = peer(kind)
        self.made, self.name = engine(protocol)
        self.memory = Memory(BLOCKS * BLOCK, seed=11)
        equal(self.made.register_memory(self.memory.address, self.memory.length), 0, "register")
        self.remote = self.there.buffer("kv", BLOCKS * BLOCK, seed=12)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.made.close()
        self.there.stop()

    def lists(self, places):
        """Addresses here and there of some blocks, shuffled there, as a connector makes them."""
        here = [self.memory.address + BLOCK * place for place in places]
        there = [self.remote + BLOCK * (BLOCKS - 1 - place) for place in places]
        return here, there, [BLOCK] * len(here)

    def check(self, places):
        """Both ends hold the same blocks."""
        theirs = self.there.checksums("kv", [[BLOCK * (BLOCKS - 1 - place), BLOCK]
                                             for place in places])
        mine = [zlib.crc32(self.memory.bytes[BLOCK * place:BLOCK * (place + 1)])
                for place in places]
        expect(mine == theirs, "the blocks differ")


def settled(pair, places):
    """0.3.7 says a write is done before its bytes are there; give it a moment, and only it."""
    for _ in range(200):
        try:
            return pair.check(places)
        except Failed:
            time.sleep(0.02)
    return pair.check(places)


def vllm_ascend_reads(kind):
    """The p2p connector: initialize with "ascend", register every layer, read from the session."""
    with Pair(kind, "ascend") as pair:
        places = list(range(0, BLOCKS, 2))
        code = pair.made.batch_transfer_sync_read(pair.there.name, *pair.lists(places))
        expect(code >= 0, f"read gave {code}")
        pair.check(places)
        expect(pair.made.get_rpc_port() > 0, "no port")


def vllm_ascend_writes_layer_by_layer(kind):
    """The layer-wise connector: a write for each layer, from a thread of its own."""
    with Pair(kind, "ascend") as pair:
        with concurrent.futures.ThreadPoolExecutor(1) as sender:
            for layer in range(8):
                places = list(range(layer * 32, layer * 32 + 32))
                code = sender.submit(pair.made.batch_transfer_sync_write, pair.there.name,
                                     *pair.lists(places)).result()
                expect(code >= 0, f"layer {layer} gave {code}")
        settled(pair, range(BLOCKS))


def vllm_writes(kind):
    """vLLM's MooncakeConnector: a batch of registrations, writes in threads, one per peer."""
    with Pair(kind) as pair:
        extra = [Memory(BLOCK) for _ in range(4)]
        addresses = [memory.address for memory in extra]
        equal(pair.made.batch_register_memory(addresses, [BLOCK] * 4), 0, "register")

        async def work():
            calls = [asyncio.to_thread(pair.made.batch_transfer_sync_write, pair.there.name,
                                       *pair.lists(range(start, BLOCKS, 4))) for start in range(4)]
            equal(await asyncio.gather(*calls), [0] * 4, "writes")

        asyncio.run(work())
        settled(pair, range(BLOCKS))
        equal(pair.made.batch_unregister_memory(addresses), 0, "unregister")


def sglang_writes(kind):
    """SGLang's PD: initialize in a helper thread, batches of lists from numpy, both registrations,
    a probe of a peer before it is trusted again."""
    with concurrent.futures.ThreadPoolExecutor(1) as helper:
        with helper.submit(Pair, kind).result() as pair:
            equal(pair.made.batch_transfer_sync_write(pair.there.name, *pair.lists(range(BLOCKS))),
                  0, "write")
            settled(pair, range(BLOCKS))
            equal(pair.made.transfer_sync_write(
                pair.there.name, *(column[0] for column in pair.lists([3]))), 0, "one")
            probe = pair.made.send_probe(pair.there.name)
            if kind != OLD:
                equal(probe, 0, "probe")
            pair.there.kill()
            expect(pair.made.send_probe(pair.there.name) != 0, "a dead peer answered")
            expect(pair.made.batch_transfer_sync_write(
                pair.there.name, *pair.lists([0, 1])) < 0, "a write to a dead peer")
            equal(pair.made.unregister_memory(pair.memory.address), 0, "unregister")


def vllm_v0_pipe(kind):
    """The old pipe: managed buffers, bytes copied in, the reader fetches them."""
    with Pair(kind) as pair:
        made = pair.made
        place = made.allocate_managed_buffer(BLOCK)
        expect(place > 0, "no managed buffer")
        equal(made.transfer_sync_read(pair.there.name, place, pair.remote, BLOCK), 0, "read")
        data = made.read_bytes_from_buffer(place, BLOCK)
        equal(made.write_bytes_to_buffer(place, data[::-1], BLOCK), 0, "bytes in")
        equal(made.transfer_sync_write(pair.there.name, place, pair.remote, BLOCK), 0, "write")
        equal(made.transfer_sync_read(pair.there.name, pair.memory.address, pair.remote, BLOCK), 0,
              "read back")
        expect(pair.memory.bytes[:BLOCK] == data[::-1], "the bytes")
        equal(made.free_managed_buffer(place, BLOCK), 0, "free")


def vllm_v0_over_metadata(kind):
    """The old pipe with a metadata service: `initialize_ext` with its kind, and a segment's first
    buffer as the address to read from."""
    from mooncake.engine import TransferEngine
    from mooncake.http_metadata_server import KVBootstrapServer
    port = free_port()
    service = KVBootstrapServer(port, "127.0.0.1")
    service.run()
    server = f"127.0.0.1:{port}/metadata"
    there = Peer(f"python-{kind}", [sys.executable, str(PEER)], environment(kind))
    try:
        there.create(name=f"127.0.0.1:{free_port()}", metadata=f"http://{server}")
        remote = there.buffer("kv", BLOCK, seed=13)
        made = TransferEngine()
        equal(made.initialize_ext(f"127.0.0.1:{free_port()}", server, "tcp", "", "http"), 0,
              "initialize_ext")
        place = made.allocate_managed_buffer(BLOCK)
        equal(made.transfer_sync_read(there.name, place, remote, BLOCK), 0, "read")
        equal(zlib.crc32(made.read_bytes_from_buffer(place, BLOCK)),
              there.checksums("kv", [[0, BLOCK]])[0], "bytes")
        expect(made.get_first_buffer_address(there.name) > 0, "first buffer")
        made.close()
    finally:
        there.stop()
        service.close()


def lmcache_reads(kind):
    """LMCache: asynchronous reads whose ids are polled."""
    with Pair(kind) as pair:
        number = pair.made.batch_transfer_async_read(pair.there.name, *pair.lists(range(BLOCKS)))
        expect(0 < number < 1 << 63, f"id {number}")
        while (status := pair.made.transfer_check_status(number)) == 0:
            pass
        equal(status, 1, "status")
        pair.check(range(BLOCKS))


def theirs_moves_ours(kind):
    """The other way round: the other implementation reads from and writes to our engine."""
    with Pair(kind) as pair:
        requests = [[BLOCK * place, pair.memory.address + BLOCK * (BLOCKS - 1 - place), BLOCK]
                    for place in range(BLOCKS)]
        for operation in ("write", "read"):
            answer = pair.there.call("transfer", peer=pair.name, operation=operation, id="kv",
                                     requests=requests, batch=32)
            expect(not answer.get("failures"), f"{operation}: {answer}")
        settled(pair, range(BLOCKS))


class Place:
    """A master of `kind`; "holder" is one of upstream where a client of the wheel has all memory."""

    def __init__(self, kind, segment=32 * MIB):
        self.master = Master("upstream" if kind == "holder" else kind)
        self.held, self.segment = kind == "holder", segment
        self.holder = None

    def __enter__(self):
        self.master.start()
        self.address = self.master.address
        if self.held:
            self.holder = client(OLD)
            answer = self.holder.call("setup", host="127.0.0.1", master=self.address,
                                      segment=max(self.segment, 16 * MIB), local_buffer=16 * MIB)
            equal(first(answer), 0, "setup of the holder")
        return self

    def __exit__(self, *_):
        if self.holder is not None:
            self.holder.stop()
        self.master.kill()

    def bytes(self, segment=None):
        """What a client of ours gives to this pool."""
        return 0 if self.held else self.segment if segment is None else segment


def client(kind):
    """A process with a store client: our package and the wheel run the same program."""
    return Peer(f"python-store-{kind}", [sys.executable, str(DRIVER), "upstream"],
                environment(kind))


def store(place, segment=None, local=16 * MIB, **named):
    from mooncake.store import MooncakeDistributedStore
    made = MooncakeDistributedStore()
    equal(made.setup("127.0.0.1", "P2PHANDSHAKE", place.bytes(segment), local, "tcp", "",
                     place.address, **named), 0, "setup")
    return made


def config(**fields):
    from mooncake.store import ReplicateConfig
    made = ReplicateConfig()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def vllm_ascend_pool(kind):
    """The pooled store: one engine for p2p and pool, multi-buffer puts with preferred segment and
    same node, gets with and without the fourth argument, exist before both."""
    with Place(kind) as there:
        made, _ = engine("ascend")
        memory = Memory(64 * BLOCK, seed=21)
        made.register_memory(memory.address, memory.length)
        pool = store(there, engine=made.get_engine())
        expect(pool.register_buffer(memory.address, memory.length) in (0, -600), "register")
        keys = [f"model@{index}" for index in range(8)]
        places = [[memory.address + BLOCK * (4 * index + part) for part in range(4)]
                  for index in range(8)]
        sizes = [[BLOCK] * 4 for _ in keys]
        equal(pool.batch_is_exist(keys), [0] * 8, "nothing yet")
        asked = config(preferred_segment=pool.get_hostname(), prefer_alloc_in_same_node=True)
        equal(pool.batch_put_from_multi_buffers(keys, places, sizes, asked), [0] * 8, "put")
        equal(pool.batch_is_exist(keys), [1] * 8, "exist")
        back = [[place + 32 * BLOCK for place in row] for row in places]
        for last in ((True,), ()):
            equal(pool.batch_get_into_multi_buffers(keys, back, sizes, *last), [4 * BLOCK] * 8,
                  "get")
        expect(memory.bytes[:32 * BLOCK] == memory.bytes[32 * BLOCK:], "the blocks")
        equal(pool.batch_put_from_ascend("one", places[0], sizes[0]), [0], "ascend put")
        equal(pool.batch_get_into_ascend("one", back[0], sizes[0]), [sum(sizes[0])], "ascend get")
        pool.close()
        made.close()


def ec_connector(kind):
    """The encoder cache: bytes lists and pool pointers, a put in a thread with a time limit,
    removal by an escaped expression, unregistering with a second argument."""
    with Place(kind) as there:
        cache = store(there)
        memory = Memory(MIB, seed=22)
        equal(cache.register_buffer(memory.address, MIB), 0, "register")
        keys = ["mm_hash(1)", "mm_hash(2)"]
        asked = config(replica_num=1)
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            put = threads.submit(cache.batch_put_from, keys, [memory.address] * 2, [4096] * 2, asked)
            equal(put.result(timeout=60), [0, 0], "put")
        expect(all(size > 0 for size in cache.batch_get_into(
            keys, [memory.address + 8192, memory.address + 16384], [4096] * 2)), "get")
        expect(memory.bytes[:4096] == memory.bytes[8192:12288], "the bytes")
        equal(cache.put_batch(["meta/1", "meta/2"], [b"{}", b"[]"], asked), 0, "bytes")
        equal(cache.get_batch(["meta/1", "meta/2", "meta/3"]), [b"{}", b"[]", b""], "bytes back")
        pattern = "^(?:" + "|".join(re.escape(key) for key in ["meta/9", "mm_hash(9)"]) + ")$"
        equal(cache.remove_by_regex(pattern), 0, "nothing fits")
        equal(cache.unregister_buffer(memory.address, MIB), 0, "unregister")
        cache.close()


def vllm_ascend_pool_by_keyword(kind):
    """Later releases: every argument of setup by keyword, one key asked for at a time, and blocks
    of which some are there."""
    from mooncake.store import MooncakeDistributedStore
    with Place(kind) as there:
        made, _ = engine("ascend")
        pool, memory = MooncakeDistributedStore(), Memory(8 * BLOCK, seed=26)
        equal(pool.setup(local_hostname="127.0.0.1:npu_0", metadata_server="P2PHANDSHAKE",
                         global_segment_size=there.bytes(), local_buffer_size=MIB,
                         protocol="ascend", rdma_devices="", master_server_addr=there.address,
                         engine=made.get_engine()), 0, "setup")
        equal(made.register_memory(memory.address, memory.length), 0, "register")
        asked = config(preferred_segment=pool.get_hostname(), prefer_alloc_in_same_node=True)
        places = [[memory.address + BLOCK * index] for index in range(4)]
        equal(pool.batch_put_from_multi_buffers(["k0", "k1"], places[:2], [[BLOCK]] * 2, asked),
              [0, 0], "put")
        equal(pool.batch_put_from_multi_buffers([f"k{index}" for index in range(4)], places,
                                                [[BLOCK]] * 4, asked), [0] * 4, "two are there")
        equal([pool.is_exist(key) for key in ("k3", "k4")], [1, 0], "one at a time")
        codes = pool.batch_get_into_multi_buffers(
            ["k4", "k0"], [[place[0] + 4 * BLOCK] for place in places[:2]], [[BLOCK]] * 2)
        equal((codes[0] < 0, codes[1]), (True, BLOCK), "one is missing")
        expect(memory.bytes[5 * BLOCK:6 * BLOCK] == memory.bytes[:BLOCK], "the block")
        pool.close()
        made.close()


def tcp_pool(kind):
    """The TCP variant of the pooled store: one registered pool, same node, the fourth argument
    True, removal by expression, unregistering with a second argument."""
    with Place(kind) as there:
        pool, memory = store(there), Memory(16 * BLOCK, seed=27)
        equal(pool.register_buffer(memory.address, memory.length), 0, "register")
        keys = [f"layer.{index}@[0:8]" for index in range(4)]
        equal((pool.is_exist(keys[0]), pool.batch_is_exist(keys)), (0, [0] * 4), "exist")
        places = [[memory.address + BLOCK * (2 * index + part) for part in (0, 1)]
                  for index in range(4)]
        sizes = [[BLOCK] * 2] * 4
        equal(pool.batch_put_from_multi_buffers(
            keys, places, sizes, config(prefer_alloc_in_same_node=True)), [0] * 4, "put")
        back = [[place + 8 * BLOCK for place in row] for row in places]
        found = pool.batch_get_into_multi_buffers(keys, back, sizes, True)
        expect(all(size > 0 for size in found), f"{found}")
        expect(memory.bytes[8 * BLOCK:] == memory.bytes[:8 * BLOCK], "the blocks")
        time.sleep(0.4)  # The leases of the reads, 300 ms, keep objects from being removed.
        pattern = "^(?:" + "|".join(re.escape(key) for key in keys[:3]) + ")$"
        equal(pool.remove_by_regex(pattern), 3, "removed")
        equal(pool.unregister_buffer(memory.address, 1), 0, "unregister")
        equal(pool.close(), 0, "close")


def vllm_v0_store(kind):
    """The old store connector: values are bytes of safetensors, misses are falsy."""
    with Place(kind) as there:
        made = store(there)
        value = driver.made(28, 100_000)
        equal(made.put("layer_1", value), 0, "put")
        expect(made.get("layer_1") == value and not made.get("layer_2"), "get")
        made.close()


def vllm_store(kind):
    """vLLM's store connector: a buffer per KV tensor, codes zipped with keys, -200 for a full
    pool."""
    with Place(kind, segment=16 * MIB) as there:
        made = store(there)
        memory = Memory(4 * MIB, seed=23)
        equal(made.register_buffer(memory.address, memory.length), 0, "register")
        keys = [f"block{index}" for index in range(4)]
        places = [[memory.address + index * MIB, memory.address + index * MIB + MIB // 2]
                  for index in range(4)]
        sizes = [[MIB // 2] * 2] * 4
        equal(made.batch_put_from_multi_buffers(keys, places, sizes, config()), [0] * 4, "put")
        equal(made.batch_get_into_multi_buffers(keys, places, sizes), [MIB] * 4, "get")
        # What it writes into its log about tiers.
        tiers = {key: [one.is_memory_replica() for one in found]
                 for key, found in made.batch_get_replica_desc(keys).items()}
        equal(tiers, {key: [True] for key in keys}, "tiers")
        large = Memory(20 * MIB)
        codes = made.batch_put_from_multi_buffers(["large"], [[large.address]], [[20 * MIB]],
                                                  config())
        equal(codes, [-200], "a full pool")
        made.close()


def sglang_hicache(kind):
    """SGLang's HiCache: a service with the memory, a client of size 0 that warms up, puts and gets
    pages, layers of pages, and never closes."""
    from mooncake.store import MooncakeDistributedStore
    with Place(kind) as there:
        service = store(there)
        made = MooncakeDistributedStore()
        # Eight by position, and options that are dropped one by one when a TypeError names them.
        options = {"enable_ssd_offload": False, "tenant_id": "default"}
        while True:
            try:
                code = made.setup("127.0.0.1", "P2PHANDSHAKE", 0, 16 * MIB, "tcp", "",
                                  there.address, None, **options)
                break
            except TypeError as error:
                options.pop(next(name for name in options if name in str(error)))
        equal(code, 0, "setup")
        page = Memory(8192, seed=24)
        equal((made.put("warm", page.bytes[:4096]), made.is_exist("warm")), (0, 1), "warm-up")
        equal(made.get("warm"), page.bytes[:4096], "warm-up")
        equal(made.register_buffer(page.address, page.length), 0, "register")
        keys = ["page_k", "page_v"]
        equal(made.batch_is_exist(keys), [0, 0], "exist")
        equal(made.batch_put_from(keys, [page.address, page.address + 4096], [4096] * 2), [0, 0],
              "put")
        equal(made.batch_get_into(keys, [page.address, page.address + 4096], [4096] * 2),
              [4096] * 2, "get")
        # With `enable_group_semantics`: one group for the parts of a page, if the field is there.
        grouped = config()
        expect(hasattr(grouped, "group_ids") and not hasattr(grouped, "session_ids"), "its look")
        grouped.group_ids = ["page2", "page2"]
        equal(made.batch_put_from(["page2_k", "page2_v"], [page.address] * 2, [4096] * 2, grouped),
              [0, 0], "put")
        equal(made.batch_is_exist(["page2_k", "page2_v"]), [1, 1], "a page in a group")
        equal(made.batch_get_session_start(keys), [0, 0], "session")
        for layer in range(4):
            equal(made.batch_get_into_multi_buffer_ranges(
                keys, [[page.address + 1024 * layer], (page.address + 4096 + 1024 * layer,)],
                [[1024], (1024,)], [[1024 * layer]] * 2), [1024] * 2, "layer")
        equal(made.batch_get_session_end(keys), 0, "session")
        expect(page.bytes == Memory(8192, seed=24).bytes, "the pages")
        expect(made.remove_all() >= 0, "clear")
        del made
        service.close()


def lmcache_store(kind):
    """LMCache: the dictionary form, parts of a memoryview and bytes, handles read as memoryviews."""
    with Place(kind) as there:
        from mooncake.store import MooncakeDistributedStore, bind_to_numa_node
        bind_to_numa_node(0)
        made = MooncakeDistributedStore()
        equal(made.setup({"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE",
                          "master_server_address": there.address, "protocol": "tcp",
                          "device_name": "", "global_segment_size": there.bytes(),
                          "local_buffer_size": 16 * MIB}), 0, "setup")
        expect(made.get_hostname().startswith("127.0.0.1:"), made.get_hostname())
        memory = Memory(4096, seed=25)
        equal(made.register_buffer(memory.address, 4096), 0, "register")
        equal(made.put_parts("parts", b"head", memoryview(memory.array).cast("B")), 0, "parts")
        handle, none = made.batch_get_buffer(["parts", "none"])
        view = memoryview(handle)
        expect(none is None and bytes(view[:4]) == b"head" and bytes(view[4:]) == memory.bytes,
               "the handle")
        equal(made.put_from("from", memory.address, 4096, config()), 0, "put_from")
        equal((made.is_exist("from"), made.get_size("from")), (1, 4096), "exist")
        equal(made.unregister_buffer(memory.address), 0, "unregister")
        made.close()


def values_meet(writer, reader, master):
    """Bytes, parts and batches put by one implementation and read by the other."""
    if writer == OURS == reader:
        raise Skip("covered by store_calls")
    with Master(master) as owner, client(writer) as one, client(reader) as other:
        for process in (one, other):
            answer = process.call("setup", host="127.0.0.1", master=owner.address,
                                  segment=64 * MIB, local_buffer=16 * MIB)
            equal(list(answer.values())[0], 0, "setup")
        for length in (1, 4096, 3 * MIB + 7):
            key, wanted = f"size{length}", driver.seen(driver.made(length, length))
            equal(first(one.call("put", key=key, seed=length, length=length)), 0, "put")
            found = first(other.call("get", key=key))
            # 0.3.7 completes an object before its bytes have landed.
            for _ in range(200 if writer == OLD else 0):
                if found == wanted:
                    break
                time.sleep(0.02)
                found = first(other.call("get", key=key))
            equal(found, wanted, f"{length} bytes")
        parts = [[4096, 100, 70_000], [1], [MIB, MIB]]
        keys, seeds = ["parts0", "parts1", "parts2"], [31, 32, 33]
        equal(first(one.call("put_batch", keys=keys, seeds=seeds, parts=parts,
                             config={"prefer_alloc_in_same_node": True})), [0] * 3, "parts")
        wanted = [driver.seen(driver.made(seed, sum(sizes))) for seed, sizes in zip(seeds, parts)]
        for _ in range(200 if writer == OLD else 1):
            found = first(other.call("get_batch", keys=keys, parts=parts, same_node=True))
            if found == wanted:
                break
            time.sleep(0.02)
        equal(found, wanted, "parts")


def first(answer):
    return next(iter(answer.values()))


ENGINE_TESTS = (vllm_ascend_reads, vllm_ascend_writes_layer_by_layer, vllm_writes, sglang_writes,
                vllm_v0_pipe, vllm_v0_over_metadata, lmcache_reads, theirs_moves_ours)
STORE_TESTS = (vllm_ascend_pool, vllm_ascend_pool_by_keyword, tcp_pool, ec_connector, vllm_v0_store,
               vllm_store, sglang_hicache, lmcache_store)
TESTS = tuple((test, kind) for test in ENGINE_TESTS for kind in IMPLEMENTATIONS) \
    + tuple((test, kind) for test in STORE_TESTS for kind in (OURS, "upstream", "holder")) \
    + tuple((values_meet, *pair, master) for pair in ((OURS, OLD), (OLD, OURS))
            for master in (OURS, "upstream"))
