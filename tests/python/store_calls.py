"""mooncake.store by itself, with a master of ours: values, numbers, traps, life."""

import ctypes
import re
import struct
import threading

import mooncake
from common import Memory, child, engine, equal, last, refused
from harness.report import expect
from pool import Pool, config

MIB = 1 << 20
INVALID, MISSING, LEASED, NO_SPACE = -600, -704, -706, -200


def before_setup_and_after_close():
    from mooncake.store import MooncakeDistributedStore
    with Pool() as used:
        used.put("k", b"v")
        equal(used.close(), 0, "close")
        for store in (MooncakeDistributedStore(), used):
            nothing(store)
            equal((store.close(), store.close()), (0, 0), "close twice")


def nothing(store):
    """What every call says without a client."""
    memory = Memory(64)
    place = memory.address
    for call in ((store.put, "k", b"v"), (store.put_batch, ["k"], [b"v"]), (store.remove, "k"),
                 (store.put_parts, "k", b"v"), (store.put_parts, "k"), (store.get_size, "k"),
                 (store.put_from, "k", place, 8), (store.put_from, "k", place, 0),
                 (store.get_into, "k", place, 8), (store.is_exist, "k"), (store.remove_all,),
                 (store.remove_by_regex, "k"), (store.register_buffer, place, 64),
                 (store.unregister_buffer, place), (store.batch_get_session_end, ["k"]),
                 (store.put_from_with_metadata, "k", place, place, 8, 8)):
        equal(call[0](*call[1:]), INVALID, call[0].__name__)
        expect("not set up" in mooncake.last_error(), mooncake.last_error())
    two = [INVALID] * 2
    places, lists = [place] * 2, [[place]] * 2
    keys = ["a", "b"]
    equal(store.batch_is_exist(keys), two, "exist")
    equal(store.batch_put_from(keys, places, [8, 8]), two, "put from")
    equal(store.batch_get_into(keys, places, [8, 8]), two, "get into")
    equal(store.batch_put_from_multi_buffers(keys, lists, [[8]] * 2), two, "put multi")
    equal(store.batch_get_into_multi_buffers(keys, lists, [[8]] * 2), two, "get multi")
    equal(store.batch_remove(keys), two, "remove")
    equal(store.batch_get_session_start(keys), two, "session")
    equal(store.batch_get_into_multi_buffer_ranges(keys, lists, [[8]] * 2, [[0]] * 2), two, "ranges")
    equal(store.batch_put_from_ascend("a", [place], [8]), [INVALID], "ascend put")
    equal(store.batch_get_into_ascend("a", [place], [8]), [INVALID], "ascend get")
    equal((store.get("k"), store.get_batch(["k", "l"]), store.get_buffer("k")), (b"", [b""], None),
          "get")
    equal((store.batch_get_buffer(keys), store.get_tensor("k")), ([None, None], None), "buffers")
    equal((store.get_hostname(), store.health_check()), ("", 1), "health")


def wrong_types_name_the_argument():
    with Pool() as store:
        for value in ("text", 5, None, [1]):
            refused(store.put, "k", value, name="value")
            refused(store.put_batch, ["k"], [value], name="values[0]")
        refused(store.put, 5, b"v", name="key")
        refused(store.put, "k", b"v", {}, name="config")
        refused(store.put, "k", b"v", colour=1, name="colour")
        refused(store.batch_is_exist, "keys", name="keys")
        refused(store.batch_is_exist, ["a", 5], name="keys[1]")
        refused(store.batch_put_from, ["a"], [1.5], [1], name="buffer_ptrs[0]")
        refused(store.batch_put_from, ["a"], [1], [-1], name="sizes[0]")
        refused(store.batch_put_from_multi_buffers, ["a"], [5], [[1]], name="all_buffer_ptrs")
        refused(store.batch_put_from_multi_buffers, ["a"], [[5]], [["1"]], name="all_sizes")
        refused(store.register_buffer, 1 << 64, 1, name="buffer_ptr")
        refused(store.setup, "h", "P2PHANDSHAKE", 1.0, 0, "tcp", "", "m", name="global_segment")
        refused(store.setup, "h", "P2PHANDSHAKE", 1, 0, "tcp", "", "m", engine=7, name="engine")
        # SGLang tries options that a version may lack, and looks for the name in the text.
        refused(store.setup, "h", "P2PHANDSHAKE", 1, 0, "tcp", "", "m", tenant_id="x",
                name="tenant_id")
        refused(store.setup, "h", name="metadata_server")
        try:
            store.put_parts("k", memoryview(struct.pack("<2q", 1, 2)).cast("q"))
            expect(False, "parts of wide items were taken")
        except RuntimeError as error:
            equal(str(error), "parts must be 1-D bytes-like", "text")


def replicate_config():
    made = config()
    fresh = [made.replica_num, made.preferred_segment, made.prefer_alloc_in_same_node,
             made.with_soft_pin, made.with_hard_pin, made.preferred_segments]
    equal(fresh, [1, "", False, False, False, []], "defaults")
    expect(str(config(replica_num=3)).startswith("ReplicateConfig: { replica_num: 3"), str(made))
    equal(int(config(with_soft_pin=True).soft_pin_action), 1, "the alias")
    for name in ("session_ids", "anything"):
        expect(not hasattr(made, name), f"{name} is there and does nothing")
        try:
            setattr(made, name, 1)
            expect(False, f"{name} can be set")
        except AttributeError:
            pass
    for name, value in (("replica_num", -1), ("replica_num", 1.0), ("preferred_segment", 5),
                        ("with_soft_pin", 1), ("prefer_alloc_in_same_node", "yes"),
                        ("soft_pin_ttl_ms", -1), ("soft_pin_ttl_ms", 1 << 64), ("data_type", 2)):
        refused(setattr, made, name, value, name=name)
    refused(type(made), 5)
    with Pool() as store:
        equal(store.put("a", b"v", config(replica_num=0)), INVALID, "no replica")
        equal(store.put("a", b"v", config(preferred_segment="nobody:1")), 0, "unknown segment")
        equal(store.put("b", b"v", config=config(preferred_segment=store.get_hostname())), 0, "own")
        same, place = config(prefer_alloc_in_same_node=True), Memory(64).address
        equal(store.put("c", b"v", same), INVALID, "put")
        equal(store.put_batch(["c"], [b"v"], same), INVALID, "put_batch")
        equal(store.batch_put_from(["c", "d"], [place] * 2, [8] * 2, same), [INVALID] * 2, "from")
        equal(store.batch_put_from_multi_buffers(["c"], [[place]], [[8]], same), [0], "multi")
        equal(store.put("e", b"v", config(with_soft_pin=True)), 0, "pin")


def values():
    with Pool() as store:
        equal(store.put("k", b"first"), 0, "put")
        equal((store.put("k", b"second"), store.get("k")), (0, b"first"), "again")
        equal(store.put_batch(["a", "b", "a"], [b"1", b"2", b"3"]), 0, "a repeated key")
        expect(store.get("a") in (b"1", b"3"), "the repeated key")
        equal(store.get_batch(["a", "none", "b"])[1:], [b"", b"2"], "misses")
        equal((store.put("e", b""), store.put_batch(["f", "g"], [b"x", b""])), (INVALID,) * 2,
              "empty values")
        wide = memoryview(struct.pack("<10q", *range(10))).cast("q")
        equal((store.put("wide", wide), store.get("wide")), (0, wide.tobytes()), "wide items")
        for kind in (bytearray, memoryview):
            equal((store.put(kind.__name__, kind(b"abc")), store.get(kind.__name__)), (0, b"abc"),
                  kind.__name__)
        refused(store.put, "gap", memoryview(b"abcdef")[::2], name="value")
        key = "Ключ 键 @/:#?% " + "x" * 5000
        equal((store.put(key, b"v"), store.get(key), store.is_exist(key)), (0, b"v", 1), "any key")
        equal((store.put(b"raw", b"v"), store.get("raw")), (0, b"v"), "a key of bytes")
        equal(store.put_parts("p", b"ab", bytearray(b"cd"), b"", memoryview(b"ef")), 0, "parts")
        equal((store.get("p"), store.get_size("p")), (b"abcdef", 6), "parts")
        equal((store.put_parts("q"), store.put_parts("q", b""), store.is_exist("q")), (0, 0, 0),
              "no parts")
        head, body = Memory(4, seed=1), Memory(8, seed=2)
        equal(store.put_from_with_metadata("m", body.address, head.address, 8, 4), 0, "metadata")
        equal(store.get("m"), head.bytes + body.bytes, "metadata first")
        equal(store.put_from("z", body.address, 0), 0, "size 0")
        equal(store.is_exist("z"), 0, "no object of size 0")
        large = Memory(20 * MIB, seed=3).bytes
        equal(store.put("large", large), 0, "larger than the local buffer")
        expect(store.get("large") == large, "the large value came back differently")
        equal(store.put("huge", bytes(64 * MIB)), NO_SPACE, "no room")
        expect("huge" in mooncake.last_error(), mooncake.last_error())


def pointers():
    with Pool() as store:
        memory = Memory(4096, seed=4)
        place = memory.address
        registered = [store.register_buffer(*what) for what in
                      ((place, 4096), (place, 4096), (place + 8, 8), (0, 10), (place, 0))]
        equal(registered, [0] + [INVALID] * 4, "register")
        equal(store.put_from("a", place, 100), 0, "put_from")
        equal(store.get_into("a", place + 200, 100), 100, "get_into")
        equal(memory.bytes[200:300], memory.bytes[:100], "bytes")
        equal(store.get_into("a", place, 99), INVALID, "too small")
        equal(store.get_into("none", place, 99), MISSING, "missing")
        equal(store.batch_put_from(["a", "b"], [place], [8, 8]), [INVALID] * 2, "lengths")
        equal(store.batch_get_into(["a"], [place, place], [8]), [INVALID], "lengths")
        equal((store.batch_put_from([], [], []), store.batch_get_into([], [], []),
               store.batch_is_exist([]), store.get_batch([]), store.batch_get_buffer([])),
              ([], [], [], [], []), "nothing")
        equal(store.batch_put_from(["c", "d"], (place, place + 8), (8, 8)), [0, 0], "batch")
        equal(store.batch_get_into(["c", "x", "d"], [place + 500] * 3, [8, 8, 8]),
              [8, MISSING, 8], "order")
        lists = ([[place, place + 8], (place + 16,)], [[8, 8], (8,)])
        equal(store.batch_put_from_multi_buffers(["m", "n"], *lists), [0, 0], "multi")
        for last in ((), (True,), (False,)):
            equal(store.batch_get_into_multi_buffers(
                ["m", "n", "o"], [[place + 1000, place + 1100], [place + 1200], [place]],
                [[8, 8], [8], [8]], *last), [16, 8, MISSING], "multi")
        equal(memory.bytes[1000:1008] + memory.bytes[1100:1108], memory.bytes[:16], "parts")
        equal(store.batch_put_from_multi_buffers(["r"], [[place, place]], [[8]]), [INVALID], "parts")
        equal(store.batch_put_from_ascend("s", [place, place + 8], [8, 8]), [0], "ascend put")
        equal(store.batch_get_into_ascend("s", [place + 100, place + 200], [8, 8]), [16], "get")
        equal(store.batch_get_into_ascend("t", [place], [8]), [MISSING], "missing")
        equal(store.unregister_buffer(place, 4096), 0, "with a size, as the EC connector does")
        equal(store.unregister_buffer(place), INVALID, "unknown")
        equal(store.put_from("u", place, 8), 0, "memory that is not registered")


def buffer_handles():
    from mooncake.store import BufferHandle
    with Pool() as store:
        data = Memory(1000, seed=5).bytes
        store.put("k", data)
        handle = store.get_buffer("k")
        expect(isinstance(handle, BufferHandle), type(handle))
        equal((handle.size(), handle.len(), len(handle)), (1000,) * 3, "size")
        view = memoryview(handle)
        equal((view.ndim, view.itemsize, view.readonly, view.nbytes), (1, 1, False, 1000), "view")
        expect(handle.ptr() > 0 and bytes(view) == data and bytes(view[10:20]) == data[10:20],
               "the bytes")
        equal(struct.unpack_from("<Q", handle, 8), struct.unpack_from("<Q", data, 8), "unpack")
        view.cast("B")[0] = 7
        expect(bytes(handle)[0] == 7, "not writable")
        equal([item and item.size() for item in store.batch_get_buffer(["k", "none"])],
              [1000, None], "batch")
        del handle
        store.close()
        expect(bytes(view[1:]) == data[1:], "the memory went with the store")
        refused(BufferHandle)


def removal():
    with Pool(default_kv_lease_ttl=60_000) as store:
        for key in ("a", "b", "x(1)", "x(2)"):
            store.put(key, b"v")
        store.get("a")
        equal((store.remove("a"), store.remove("none")), (LEASED, MISSING), "remove")
        pattern = "^(?:" + "|".join(re.escape(key) for key in ("x(1)", "none")) + ")$"
        equal(store.remove_by_regex(pattern), 1, pattern)
        equal(store.batch_is_exist(["a", "x(1)"]), [1, 0], "removed")
        equal(store.remove_by_regex("\\(2"), 1, "anywhere in the key")
        expect(store.remove_by_regex("(") < 0, "a wrong expression")
        equal(store.batch_remove(["b", "none"]), [0, MISSING], "batch")
        equal(store.remove_all(), 0, "leased objects stay")
        equal(store.remove("a", force=True), 0, "forced")


def setup_forms():
    from mooncake.store import MooncakeDistributedStore
    pool = Pool()
    with pool as other:
        store, address = MooncakeDistributedStore(), pool.master.address
        other.put("k", b"v")
        expect(re.fullmatch(r"127\.0\.0\.1:\d+", other.get_hostname()), other.get_hostname())
        equal(other.health_check(), 0, "health")
        # LMCache's names, with units; upstream ignores the address and talks to port 50051.
        given = {"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE",
                 "global_segment_size": "1MB", "local_buffer_size": 1 << 20, "protocol": "tcp",
                 "device_name": "", "master_server_address": address}
        equal((store.setup(given), store.get("k")), (0, b"v"), "dict")
        equal(store.setup(config=dict(given, global_segment_size="0")), 0, "config=")
        equal(store.setup({"local_hostname": "127.0.0.1"}), INVALID, "lacks metadata_server")
        equal(store.setup(dict(given, global_segment_size="much")), INVALID, "no size")
        equal(store.get("k"), b"v", "a refused setup leaves the client")
        equal(store.setup(local_hostname="127.0.0.1:npu_2", metadata_server="P2PHANDSHAKE",
                          global_segment_size=0, local_buffer_size=0, protocol="ascend",
                          rdma_devices="", master_server_addr=address), 0, "by keyword")
        memory = Memory(64)
        equal((store.put("q", b"w"), store.get_into("q", memory.address, 64)), (0, 1), "no buffer")
        expect(store.setup("127.0.0.1", "P2PHANDSHAKE", 0, 0, "tcp", "", "127.0.0.1:1") < 0,
               "no master there")
        store.close()


def shared_engine():
    pool = Pool()
    with pool as other:
        made, _ = engine()
        inner = made.get_engine()
        store = pool.open(16 * MIB, MIB, engine=inner)
        del made, inner
        equal((store.put("k", b"v"), other.get("k")), (0, b"v"), "over the engine")
        again = pool.open(0, MIB, engine=None)
        equal(again.get("k"), b"v", "engine=None")
        again.close()
        store.close()


def sessions():
    with Pool() as store:
        data, memory = Memory(300, seed=6).bytes, Memory(300)
        store.put("k", data)
        equal(store.batch_get_session_start(["k", "none"]), [0, MISSING], "start")
        for layer in range(3):
            equal(store.batch_get_into_multi_buffer_ranges(
                ["k", "none"], [[memory.address + layer * 100, memory.address + layer * 100 + 50],
                                [memory.address]],
                [[50, 50], [8]], [[layer * 100, layer * 100 + 50], [0]]), [100, MISSING], "layer")
        expect(memory.bytes == data, "the layers")
        equal(store.batch_get_into_multi_buffer_ranges(["k"], [[memory.address]], [[8]], [[299]]),
              [INVALID], "beyond the end")
        equal(store.batch_get_session_end(["k"]), 0, "end")
        equal(store.batch_get_into_multi_buffer_ranges(["k"], [[memory.address]], [[8]], [[0]]),
              [MISSING], "after its end")


def many_threads():
    """32 threads in one store, and one that closes it under them."""
    with Pool() as store:
        seen, going = set(), threading.Event()

        def work(place):
            memory = Memory(256, seed=place)
            for turn in range(30):
                key = f"{place}/{turn}"
                code = store.batch_put_from([key], [memory.address], [256])[0]
                value = store.get(key)
                seen.add((code, value in (b"", memory.bytes)))
                if turn == 5:
                    going.set()

        threads = [threading.Thread(target=work, args=(place,)) for place in range(32)]
        for thread in threads:
            thread.start()
        expect(going.wait(60), "no thread came far")
        store.close()
        for thread in threads:
            thread.join(60)
            expect(not thread.is_alive(), "a call did not end")
        expect(all(right for _, right in seen), "a wrong value was read")
        expect({code for code, _ in seen} <= {0, INVALID, -800, -900}, f"numbers {seen}")


LEAVE = """
import os
from mooncake.store import MooncakeDistributedStore
s = MooncakeDistributedStore()
assert s.setup('127.0.0.1', 'P2PHANDSHAKE', 1 << 20, 1 << 20, 'tcp', '', {master!r}) == 0
assert s.put('k', b'v') == 0
pid = os.fork()
if pid == 0:
    assert s.put('l', b'v') == -600 and s.get('k') == b''
    t = MooncakeDistributedStore()
    assert t.setup('127.0.0.1', 'P2PHANDSHAKE', 0, 1 << 20, 'tcp', '', {master!r}) == 0
    assert t.get('k') == b'v'
    raise SystemExit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
print(s.get_hostname())
"""


def fork_and_exit_without_close():
    """A child of a fork has its own client; a process that never closes leaves in good order."""
    pool = Pool()
    with pool as store:
        name = child(LEAVE.format(master=pool.master.address))
        expect(name.startswith("127.0.0.1:"), name)
        segments = pool.master.get("/get_all_segments")
        expect(name not in segments, f"{name} is still in {segments}")
        expect(store.get_hostname() in segments, segments)


def coroutines():
    import asyncio
    from mooncake.async_store import MooncakeDistributedStoreAsync
    pool = Pool()
    with pool:
        store = MooncakeDistributedStoreAsync()

        async def work():
            equal(await store.async_setup("127.0.0.1", "P2PHANDSHAKE", 0, MIB, "tcp", "",
                                          pool.master.address), 0, "setup")
            equal(await store.async_put("k", b"v"), 0, "put")
            equal(await asyncio.gather(*(store.async_get("k") for _ in range(8))), [b"v"] * 8, "get")
            # A call that its caller has given up goes on, and the store stays safe.
            try:
                await asyncio.wait_for(store.async_put("late", bytes(8 * MIB)), 0)
            except asyncio.TimeoutError:
                pass
            equal(await store.async_close(), 0, "close")

        asyncio.run(work())
        try:
            store.async_nonsense
            expect(False, "async_nonsense exists")
        except AttributeError:
            pass


def the_rest():
    from mooncake.store import MooncakeHostMemAllocator, bind_to_numa_node
    equal([bind_to_numa_node(node) for node in (0, 999999, -1)], [None] * 3, "numa")
    allocator = MooncakeHostMemAllocator()
    place = allocator.alloc(4096)
    expect(place > 0, "no memory")
    equal((allocator.free(place), allocator.free(place), allocator.alloc(0)), (0, -1, 0), "free")
    equal((allocator.alloc(1 << 62), allocator.free(12345)), (0, -1), "what cannot be")
    expect("MC_ERR" in last() or "allocator" in last(), last())
    refused(allocator.alloc, -1, name="size")
    other = MooncakeHostMemAllocator()
    place = other.alloc(64 * MIB)
    equal((place % (16 * MIB), ctypes.string_at(place + 64 * MIB - 8, 8)), (0, bytes(8)), "zeroed")
    equal((allocator.free(place), other.free(place)), (-1, 0), "each its own")


def memory_by_function_addresses():
    """As LMCache does it: functions of C by their addresses, and memory that is registered."""
    from mooncake.store import get_alloc_func_addr, get_free_func_addr
    allocate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(get_alloc_func_addr())
    free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(get_free_func_addr())
    equal((allocate(0), allocate((1 << 64) - 1), free(None), free(12345)), (None,) * 4, "nothing")
    with Pool() as store:
        place = allocate(MIB)
        equal(ctypes.string_at(place, MIB), bytes(MIB), "zeroed")
        equal(store.register_buffer(place, MIB), 0, "register")
        ctypes.memset(place, 7, 4096)
        equal((store.put_from("k", place, 4096), store.get_into("k", place + 4096, 4096)), (0, 4096),
              "transfers")
        equal(ctypes.string_at(place, 8192), b"\7" * 8192, "bytes")
        equal(store.unregister_buffer(place), 0, "unregister")
        free(place)


def native_raises():
    from mooncake.native import MooncakeError, Store
    pool = Pool()
    with pool, Store(pool.master.address, "127.0.0.1", segment_bytes=MIB) as store:
        equal((store.put("k", b"v"), store.put("k", b"w"), bytes(store.get("k"))),
              (True, False, b"v"), "put")
        equal((store.get("none"), store.exists("none"), store.exists("k")), (None, False, True), "")
        room = bytearray(1)
        equal((store.get_into("k", room), bytes(room)), (1, b"v"), "into")
        refused(store.get_into, "k", b"read-only", name="memory")
        try:
            store.remove("none")
            expect(False, "removed nothing")
        except MooncakeError as error:
            equal((error.name, error.retryable), ("MC_ERR_OBJECT_NOT_FOUND", False), "error")


TESTS = (before_setup_and_after_close, wrong_types_name_the_argument, replicate_config, values,
         pointers, buffer_handles, removal, setup_forms, shared_engine, sessions, many_threads,
         fork_and_exit_without_close, coroutines, the_rest, memory_by_function_addresses,
         native_raises)
