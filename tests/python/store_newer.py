"""Calls of the store that 0.3.13 added: replacing, pieces, copies, segments, tensors, buffers."""

import ctypes
import json
import os
import struct
import sys
import tempfile
import threading

import fake_torch
import mooncake
from common import Memory, equal, refused
from fake_torch import tensor
from harness.ports import free_port
from harness.report import Failed, Skip, expect
from masters import Master
from pool import MIB, Pool, config

INVALID, MISSING, LEASED, NO_SPACE, EXISTS = -600, -704, -706, -200, -705


def nothing_before_setup():
    from mooncake.store import MooncakeDistributedStore
    with Pool() as used:
        used.close()
        for store in (MooncakeDistributedStore(), used):
            place = Memory(64).address
            for call in ((store.upsert, "k", b"v"), (store.upsert_from, "k", place, 8),
                         (store.upsert_parts, "k", b"v"), (store.upsert_batch, ["k"], [b"v"]),
                         (store.put_tensor, "k", tensor("float32", (2,))),
                         (store.pub_tensor, "k", tensor("float32", (2,))),
                         (store.unmount_and_free_segment, ["x"])):
                equal(call[0](*call[1:]), INVALID, call[0].__name__)
            two, keys = [INVALID] * 2, ["a", "b"]
            equal(store.batch_upsert_from(keys, [place] * 2, [8] * 2), two, "upsert")
            equal(store.batch_put_session_start(keys, [8, 8]), two, "start")
            equal(store.batch_put_session_end(keys), two, "end")
            equal(store.batch_put_session_revoke(keys), two, "revoke")
            equal(store.batch_put_from_multi_buffer_ranges(keys, [[place]] * 2, [[8]] * 2,
                                                           [[0]] * 2), two, "ranges")
            equal(store.get_into_ranges([place], [["a"]], [[[0]]], [[[0]]], [[[8]]]), [[[INVALID]]],
                  "into ranges")
            equal((store.get_replica_desc("a"), store.batch_get_replica_desc(keys)), ([], {}),
                  "replicas")
            equal(store.allocate_and_mount_segment(MIB)["ret"], -1, "mount")
            equal((store.get_tensor("a"), store.batch_get_tensor(keys),
                   store.get_tensor_into("a", place, 64)), (None, [None] * 2, None), "tensors")
            equal((store.alloc_from_mem_pool(8), store.save_tensor_to_safetensor("a")),
                  (0, INVALID), "others")


def upserts():
    with Pool(default_kv_lease_ttl=60_000) as store:
        equal((store.put("k", b"first"), store.get("k")), (0, b"first"), "put, and a lease")
        equal((store.upsert("k", b"second!"), store.get("k")), (0, b"second!"), "replaced")
        equal((store.upsert("new", b"n"), store.get("new")), (0, b"n"), "a new one")
        equal((store.upsert("k", b""), store.get("k")), (INVALID, b"second!"), "nothing")
        equal((store.upsert_parts("k", b"a", bytearray(b"b")), store.get("k")), (0, b"ab"), "parts")
        memory = Memory(100, seed=1)
        equal((store.upsert_from("k", memory.address, 100), store.get("k")), (0, memory.bytes),
              "memory")
        equal(store.upsert_batch(["k", "x", "k"], [b"1", b"2", b"3"]), 0, "a repeated key")
        equal(store.get_batch(["k", "x"]), [b"3", b"2"], "the last wins")
        equal(store.batch_upsert_from(["x", "y"], [memory.address] * 2, [10, 20]), [0, 0], "batch")
        equal(store.get_batch(["x", "y"]), [memory.bytes[:10], memory.bytes[:20]], "batch")
        equal(store.batch_upsert_from(["x"], [1, 2], [1]), [INVALID], "lengths")
        equal(store.upsert("k", b"v", config(replica_num=0)), INVALID, "config")
        equal(store.upsert("k", bytes(64 * MIB)), NO_SPACE, "no room")
        refused(store.upsert, "k", "text", name="value")
        refused(store.upsert, "k", b"v", {}, name="config")


def upserts_by_many_threads():
    """Whoever wins, the value is one of those that were put, and whole."""
    with Pool() as store:
        values = [bytes([65 + place]) * 5000 for place in range(8)]
        seen = set()

        def work(value):
            for _ in range(20):
                seen.add(store.upsert("k", value))
                found = store.get("k")
                seen.add(found == b"" or found in values)

        threads = [threading.Thread(target=work, args=(value,)) for value in values]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        expect(seen <= {0, True, EXISTS, -703, MISSING}, f"{seen}")
        expect(store.upsert("k", b"last") == 0 and store.get("k") == b"last", "the last")


def a_reader_keeps_an_object_on_masters_of_old():
    """Such a master cannot remove what is leased; the old value stays, and the number says why."""
    with Master("upstream", default_kv_lease_ttl=60_000) as master:
        from mooncake.store import MooncakeDistributedStore
        store = MooncakeDistributedStore()
        equal(store.setup("127.0.0.1", "P2PHANDSHAKE", 16 * MIB, MIB, "tcp", "", master.address), 0,
              "setup")
        equal((store.put("k", b"old"), store.get("k")), (0, b"old"), "put")
        equal((store.upsert("k", b"new"), store.get("k")), (LEASED, b"old"), "leased")
        equal((store.upsert("free", b"1"), store.upsert("free", b"2"), store.get("free")),
              (0, 0, b"2"), "not leased")
        found = store.batch_get_replica_desc(["k"])["k"]
        endpoint = found[0].get_memory_descriptor().buffer_descriptor
        equal((len(found), endpoint.size), (1, 3), "replicas")
        store.close()


def put_sessions():
    with Pool() as store:
        data = Memory(300, seed=2)
        store.put("there", b"v")
        equal(store.batch_put_session_start(["a", "b", "there"], [300, 10, 5]), [0, 0, EXISTS],
              "start")
        equal(store.batch_put_session_start(["a"], [300]), [EXISTS], "twice")
        equal((store.is_exist("a"), store.get("a")), (0, b""), "not yet")
        place = data.address
        equal(store.batch_put_from_multi_buffer_ranges(
            ["a", "none"], [[place + 200, place], [place]], [[100, 100], [1]],
            [[200, 0], [0]]), [200, INVALID], "pieces")
        equal(store.batch_put_from_multi_buffer_ranges(["a"], [[place + 100]], [[100]], [[100]]),
              [100], "the rest")
        equal(store.batch_put_from_multi_buffer_ranges(["a"], [[place]], [[100]], [[201]]),
              [INVALID], "beyond the end")
        equal(store.batch_put_session_end(["a", "none"]), [0, INVALID], "end")
        equal(store.get("a"), data.bytes, "the object")
        equal(store.batch_put_session_revoke(["b", "b"]), [0, INVALID], "revoke")
        equal((store.is_exist("b"), store.batch_put_session_end(["b"])), (0, [INVALID]), "given up")
        equal(store.batch_put_session_start(["e"], [0]), [INVALID], "nothing")
        equal(store.batch_put_session_start(["e"], [1 << 62]), [NO_SPACE], "too much")
        equal(store.batch_put_session_start(["e"], [1, 2]), [INVALID], "lengths")


def ranges_of_objects():
    with Pool(local_buffer=MIB) as store:
        large, small, out = Memory(2 * MIB, seed=3), Memory(100, seed=4), Memory(1000)
        store.put("large", large.bytes)
        store.put("small", small.bytes)
        equal(store.get_into_ranges([out.address], [["small"]], [[[0]]], [[[0]]], [[[1]]]),
              [[[INVALID]]], "memory that is not registered")
        equal(store.register_buffer(out.address, 1000), 0, "register")
        found = store.get_into_ranges(
            [out.address, out.address + 500], [["small", "large", "none"], ["small"]],
            [[[0, 10], [20], [0]], [[0]]], [[[5, 95], [2 * MIB - 10], [0]], [[0]]],
            [[[10, 10], [10], [7]], [[100]]])
        equal(found, [[[10, INVALID], [10], [MISSING]], [[100]]], "numbers")
        equal(out.bytes[:10] + out.bytes[20:30] + out.bytes[500:600],
              small.bytes[5:15] + large.bytes[-10:] + small.bytes, "bytes")
        equal(store.get_into_ranges([out.address], [["a", "b"]], [[[0]]], [[[0]]], [[[1]]]),
              [[[INVALID]]], "lengths")
        # One byte beyond what is registered is refused, wherever in it the buffer begins.
        before = out.bytes
        equal(store.get_into_ranges([out.address, out.address + 500], [["small"], ["small"]],
                                    [[[901, 900]], [[401, 500]]], [[[0, 0]], [[0, 0]]],
                                    [[[100, 0]], [[100, 0]]]),
              [[[INVALID, 0]], [[INVALID, 0]]], "beyond the end")
        equal(out.bytes, before, "nothing was written")
        equal((store.unregister_buffer(out.address),
               store.get_into_ranges([out.address], [["small"]], [[[0]]], [[[0]]], [[[1]]])),
              (0, [[[INVALID]]]), "unregistered again")
        # An object that finds no room in the local buffer has a session all the same.
        equal(store.batch_get_session_start(["large"]), [0], "start")
        equal(store.batch_get_into_multi_buffer_ranges(["large"], [[out.address]], [[900]], [[MIB]]),
              [900], "layer")
        equal(out.bytes[:900], large.bytes[MIB:MIB + 900], "bytes")


def replicas_are_shown():
    from mooncake.store import COMPLETE, ReplicaStatus
    pool = Pool()
    with pool as store:
        store.put("k", b"v" * 100)
        (found,) = store.get_replica_desc("k")
        memory = found.get_memory_descriptor().buffer_descriptor
        equal((found.status, memory.size, memory.buffer_address > 0),
              (ReplicaStatus.COMPLETE, 100, True), "descriptor")
        expect(COMPLETE is ReplicaStatus.COMPLETE and int(COMPLETE) == 3, "the number")
        expect(memory.transport_endpoint.startswith("127.0.0.1:"), memory.transport_endpoint)
        equal((found.is_memory_replica(), found.is_disk_replica(), found.is_local_disk_replica()),
              (True, False, False), "kinds")
        try:
            found.get_disk_descriptor()
            raise Failed("memory has a file")
        except RuntimeError as error:
            expect("DiskDescriptor" in str(error), error)
        equal(sorted(store.batch_get_replica_desc(["k", "none"])), ["k"], "batch")
        equal(store.get_replica_desc("none"), [], "missing")
        many = [f"{place}/{'x' * 200}" for place in range(300)]
        equal(store.put_batch(many, [b"v"] * 300), 0, "many")
        equal(len(store.batch_get_replica_desc(many)), 300, "many")
        other = pool.open(16 * MIB, 0)
        store.put("there", b"v", config(preferred_segment=other.get_hostname()))
        (there,) = store.get_replica_desc("there")
        where = there.get_memory_descriptor().buffer_descriptor.transport_endpoint
        expect(where != memory.transport_endpoint, "the preferred segment")
        other.close()


def copies_over_fabrics_are_refused():
    """Programs of 0.3.13 set their number, to 0; hasattr tells that they are not there."""
    from mooncake.store import ReplicateConfig
    asked = ReplicateConfig()
    asked.nof_replica_num = 0
    expect(not hasattr(asked, "nof_replica_num"), "there are none")
    with Pool() as store:
        equal(store.put("k", b"v", asked), 0, "put")
    try:
        asked.nof_replica_num = 1
    except ValueError as error:
        expect("nof_replica_num" in str(error), error)
    else:
        raise Failed("a copy over NVMe fabrics was promised")


def segments_that_come_and_go():
    pool = Pool(segment=0)
    with pool as store:
        equal(store.put("k", bytes(MIB)), NO_SPACE, "no memory yet")
        made = store.allocate_and_mount_segment(16 * MIB)
        equal((made["ret"], made["allocated_size"], len(made["segment_ids"])), (0, 16 * MIB, 1),
              f"mount {mooncake.last_error()}")
        equal((store.put("k", bytes(MIB)), len(store.get("k"))), (0, MIB), "memory")
        equal(store.allocate_and_mount_segment(0)["ret"], -1, "nothing")
        equal(store.unmount_and_free_segment(made["segment_ids"] + ["x"]), -1, "unknown")
        equal(store.unmount_and_free_segment(made["segment_ids"], grace_period_seconds=0), 0, "end")
        equal(store.unmount_and_free_segment(made["segment_ids"]), -1, "twice")
        equal((store.unmount_and_free_segment([]), store.is_exist("k")), (0, 0), "gone")
        refused(store.unmount_and_free_segment, [], 1 << 40, name="grace_period_seconds")
        equal(store.allocate_and_mount_segment(MIB)["ret"], 0, "again")
    # The second segment ends with its client.
    with Master("ours") as master:
        from mooncake.store import MooncakeDistributedStore
        store = MooncakeDistributedStore()
        store.setup(f"127.0.0.1:{free_port()}", "P2PHANDSHAKE", 0, 0, "tcp", "", master.address)
        equal(store.allocate_and_mount_segment(MIB)["ret"], 0, "a client with a port of its own")
        expect("127.0.0.1" in master.get("/get_all_segments"), "mounted")
        store.close()
        equal(master.get("/get_all_segments").strip(), "", "unmounted")


def tensors():
    """The layout of 0.3.7: six numbers, then the elements."""
    with Pool() as store:
        one = tensor("float32", (2, 3))
        equal(store.put_tensor("t", one), 0, "put")
        equal(store.get("t"), struct.pack("<6i", 0, 2, 2, 3, -1, -1) + one.bytes, "layout")
        store.put("b", struct.pack("<6i", 12, 1, 12, -1, -1, -1) + one.bytes)
        equal(store.put_tensor("x", b"no tensor"), INVALID, "bytes")
        equal(store.put_tensor("x", tensor("float32", (1,) * 5)), INVALID, "5 dimensions")
        equal(store.put_tensor("x", tensor("complex64", (3,))), INVALID, "complex")
        equal(store.put_tensor("scalar", tensor("int64", ())), 0, "no dimension")
        equal(store.put_tensor("empty", tensor("float32", (0, 3))), 0, "no element")
        expect("torch" not in sys.modules, "torch was imported")
        with fake_torch.Present():
            found = store.get_tensor("t")
            equal((found.shape, found.dtype, found.bytes), ((2, 3), "torch.float32", one.bytes),
                  "got")
            equal(store.get_tensor("b").shape, (12,), "bfloat16")
            equal((store.get_tensor("scalar").shape, store.get_tensor("empty").shape),
                  ((), (0, 3)), "shapes")
            equal(store.get_tensor("none"), None, "missing")
            wrong = (b"short", struct.pack("<6i", 0, 9, 1, 1, 1, 1),
                     struct.pack("<6i", 77, 1, 1, -1, -1, -1), struct.pack("<6i", 0, 1, 5, 0, 0, 0),
                     struct.pack("<6i", 0, 4, *[1 << 30] * 4) + b"1234",
                     struct.pack("<6i", 0, 1, 1, 0, 0, 0) + b"123", struct.pack("<6i", 0, -1, 1, 1, 1, 1))
            for place, data in enumerate(wrong):
                store.put(f"w{place}", data)
                equal(store.get_tensor(f"w{place}"), None, data)


def batches_of_tensors():
    with Pool() as store, fake_torch.Present():
        one, two = tensor("float32", (2, 3), 1), tensor("int64", (4,), 2)
        equal(store.batch_put_tensor(["a", "b", "c"], [one, "no", two]), [0, INVALID, 0], "put")
        equal([found and found.bytes for found in store.batch_get_tensor(["a", "b", "c"])],
              [one.bytes, None, two.bytes], "get")
        equal(store.batch_put_tensor(["a"], []), [INVALID], "lengths")
        equal(store.batch_pub_tensor(["p"], [one], config(replica_num=0)), [INVALID], "config")
        equal((store.pub_tensor("p", one, config()), store.upsert_tensor("p", two)), (0, 0), "upsert")
        equal(store.get_tensor("p").bytes, two.bytes, "replaced")
        equal(store.batch_upsert_pub_tensor(["p"], [one], config()), [0], "upsert")
        equal((store.upsert_pub_tensor("p", two), store.batch_upsert_tensor(["p"], [one])), (0, [0]),
              "upsert")
        equal(store.get_tensor("p").bytes, one.bytes, "replaced")
        # Over memory: what one call leaves the other takes.
        memory = Memory(100)
        found = store.get_tensor_into("a", memory.address, 100)
        equal((found.data_ptr(), found.bytes), (memory.address + 24, one.bytes), "into")
        equal(store.put_tensor_from("d", memory.address, 48), 0, "from")
        equal((store.put_tensor_from("e", memory.address, 47), store.put_tensor_from("e", 0, 48),
               store.put_tensor_from("e", memory.address + 1, 48)), (INVALID,) * 3, "no tensor")
        equal(store.get("d"), store.get("a"), "the same")
        equal(store.batch_upsert_tensor_from(["c", "d"], [memory.address] * 2, [48, 3]),
              [0, INVALID], "upsert from")
        equal(store.upsert_tensor_from("c", memory.address, 48), 0, "upsert from")
        equal(store.get_tensor_into("a", memory.address, 10), None, "too small")
        equal([found and found.bytes for found in store.batch_get_tensor_into(
            ["c", "none"], [memory.address, memory.address], [100, 100])], [one.bytes, None], "into")
        equal(store.batch_get_tensor_into(["c"], [1, 2], [3]), [None], "lengths")


def shards():
    with Pool() as store, fake_torch.Present():
        whole = tensor("float32", (4, 3))
        equal(store.put_tensor_with_tp("t", whole, tp_rank=1, tp_size=2), 0, "put")
        equal(store.batch_is_exist(["t", "t_tp_0", "t_tp_1"]), [0, 1, 1], "names")
        halves = [store.get_tensor_with_tp("t", rank, 2).bytes for rank in (0, 1)]
        equal(b"".join(halves), whole.bytes, "bytes")
        equal((store.put_tensor_with_tp("one", whole), store.is_exist("one")), (0, 1), "one shard")
        equal((store.put_tensor_with_tp("x", whole, 0, 5), store.put_tensor_with_tp("x", whole, 0, 2, 7),
               store.put_tensor_with_tp("x", 5, 0, 2)), (INVALID,) * 3, "what cannot be cut")
        memory = Memory(200)
        store.get_tensor_into("one", memory.address, 200)
        equal(store.put_tensor_with_tp_from("f", memory.address, 72, tp_size=4), 0, "from")
        equal(store.batch_put_tensor_with_tp_from(["g", "h"], [memory.address] * 2, [72, 3],
                                                  tp_size=2), [0, INVALID], "from")
        found = store.batch_get_tensor_with_tp(["f", "none"], tp_rank=3, tp_size=4)
        equal([part and part.bytes for part in found], [whole.bytes[-12:], None], "a shard")
        equal(store.get_tensor_with_tp_into("f", memory.address, 200, 0, 4).bytes, whole.bytes[:12],
              "into")
        equal(store.batch_get_tensor_with_tp_into(["g"], [memory.address], [200], 1, 2)[0].bytes,
              whole.bytes[24:], "into")
        equal(store.batch_pub_tensor_with_tp(["i", "j"], [whole, whole], config(), 0, 2), [0, 0], "pub")
        equal(store.pub_tensor_with_tp("k", whole, config(replica_num=0), 0, 2), INVALID, "config")
        equal(store.batch_put_tensor_with_tp(["i"], []), [INVALID], "lengths")
        refused(store.put_tensor_with_tp, "t", whole, tp_size=-1, name="tp_size")


def files_of_safetensors():
    with Pool() as store, fake_torch.Present(), tempfile.TemporaryDirectory() as folder:
        one, path = tensor("float32", (2, 3)), os.path.join(folder, "t.safetensors")
        store.put_tensor("t", one)
        equal(store.save_tensor_to_safetensor("t", path), 0, "save")
        with open(path, "rb") as file:
            data = file.read()
        length = struct.unpack("<Q", data[:8])[0]
        equal(json.loads(data[8:8 + length]),
              {"t": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}, "header")
        equal(data[8 + length:], one.bytes, "elements")
        equal(store.load_tensor_from_safetensor("u", path).bytes, one.bytes, "the first of it")
        equal(store.load_tensor_from_safetensor(file_name=path).bytes, one.bytes, "no key")
        equal((store.get("u"), store.get(path)), (store.get("t"), store.get("t")), "objects")
        equal(store.save_tensor_to_safetensor("none", path), INVALID, "missing")
        equal((store.save_tensor_to_safetensor("t", folder),
               store.save_tensor_to_safetensor("t", "nul\0in")), (-1, -1), "no file")
        refused(store.load_tensor_from_safetensor, "t", name="file_name")
        bad = (b"", b"1234567", struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"[]",
               data[:-1], data.replace(b"F32", b"X32"), data.replace(b"24]", b"-4]"),
               data.replace(b"[2, 3]", b"[2, 4]"))
        for content in bad:
            with open(path, "wb") as file:
                file.write(content)
            equal(store.load_tensor_from_safetensor("bad", path), None, content)
        expect(store.is_exist("bad") == 0, "something bad was put")


def helpers_of_tensors():
    from mooncake.store import _deserialize_tensor, _serialize_tensor, _tensor_metadata_size
    one = tensor("float32", (2, 3))
    header, place, length, owner = _serialize_tensor(one)
    equal((len(header), place, length, owner), (_tensor_metadata_size(), one.data_ptr(), 24, one), "")
    with fake_torch.Present():
        equal(_deserialize_tensor(header + one.bytes).bytes, one.bytes, "back")
        equal(_deserialize_tensor(b"x"), None, "nothing")
        refused(_deserialize_tensor, 5)
    try:
        _serialize_tensor(b"bytes")
        raise Failed("bytes are a tensor")
    except ValueError as error:
        expect("bytes" in str(error), error)


def raises(words, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except RuntimeError as error:
        expect(words in str(error), f"{words} is not in: {error}")
        return
    raise Failed(f"no RuntimeError about {words}")


def pools_of_buffers():
    from mooncake import BufferPool
    from mooncake.store import BufferLease, MooncakeDistributedStore, RegisteredBufferPool
    expect(BufferPool is RegisteredBufferPool, "the old name")
    raises("not initialized", BufferPool, MooncakeDistributedStore())
    refused(BufferPool, None, name="store")
    with Pool() as store:
        raises("power of two", BufferPool, store, alignment=3)
        pool = BufferPool(store, prewarm_size=1000, prewarm_count=2)
        lease = pool.acquire(100_000)
        expect(isinstance(lease, BufferLease) and lease.ptr % (8 << 20) == 0 or lease.ptr > 0, lease)
        equal((lease.size, len(lease.buffer), lease.buffer.readonly), (100_000, 100_000, False), "")
        lease.buffer[:5] = b"hello"
        equal((store.put_from("k", lease.ptr, 5), store.get("k")), (0, b"hello"), "registered")
        equal(store.register_buffer(lease.ptr, 5), INVALID, "registered already")
        view = lease.buffer
        raises("exported views", lease.release)
        raises("active leases", pool.close)
        del view
        place = lease.ptr
        lease.release()
        lease.release()
        raises("closed", lambda: lease.ptr)
        with pool.buffer(100_000) as again:
            equal(again.ptr, place, "used again")
        del again
        pool.close()
        pool.close()
        raises("pool is closed", pool.acquire, 1)
        equal(store.unregister_buffer(place), INVALID, "unregistered")


def pools_that_are_full():
    from mooncake.store import BufferPool
    with Pool() as store:
        pool = BufferPool(store, max_bytes=1 << 20, min_size_class=4096, alignment=4096)
        lease = pool.acquire(1 << 20)
        raises("exhausted", pool.acquire, 1, block=False)
        raises("in time", pool.acquire, 1 << 20, timeout=0.05)
        got = []
        waiting = threading.Thread(target=lambda: got.append(pool.acquire(1 << 20, timeout=60)))
        waiting.start()
        lease.release()
        waiting.join(60)
        equal((len(got), got[0].size), (1, 1 << 20), "one that was given back")
        got.clear()
        pool.acquire(1 << 20)
        pool.close()
        one = BufferPool(store, max_regions=1, block_on_exhaustion=False, max_size_class=1 << 20)
        large = one.acquire(3 << 20)
        raises("exhausted", one.acquire, 1)
        large.release()
        one.acquire(1).release()
        one.close()
        store.close()


def many_threads_share_a_pool():
    from mooncake.store import BufferPool
    with Pool() as store:
        pool = BufferPool(store, max_bytes=256 << 10, min_size_class=65536, alignment=65536)
        wrong = []

        def work(place):
            for turn in range(40):
                with pool.buffer(1000, timeout=60) as lease:
                    memory = (ctypes.c_char * 8).from_address(lease.ptr)
                    memory.value = b"%d" % place
                    if memory.value != b"%d" % place:
                        wrong.append(turn)

        threads = [threading.Thread(target=work, args=(place,)) for place in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        expect(not wrong, "two had one buffer")
        pool.close()


TESTS = (nothing_before_setup, upserts, upserts_by_many_threads,
         a_reader_keeps_an_object_on_masters_of_old, put_sessions, ranges_of_objects,
         replicas_are_shown, copies_over_fabrics_are_refused, segments_that_come_and_go, tensors,
         batches_of_tensors, shards,
         files_of_safetensors, helpers_of_tensors, pools_of_buffers, pools_that_are_full,
         many_threads_share_a_pool)
