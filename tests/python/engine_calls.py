"""mooncake.engine by itself: arguments, numbers, misuse, life, fork and exit."""

import threading

import mooncake
from common import Memory, child, engine, equal, refused
from harness.report import expect

MANY = 4096
MIB = 1 << 20


def wrong_types_name_the_argument():
    made, name = engine()
    refused(made.register_memory, 1.5, 10, name="buffer_addr")
    refused(made.register_memory, -1, 10, name="buffer_addr")
    refused(made.register_memory, 1 << 64, 10, name="buffer_addr")
    refused(made.register_memory, "1", 10, name="buffer_addr")
    refused(made.register_memory, None, 10, name="buffer_addr")
    refused(made.transfer_sync_write, 5, 1, 1, 1, name="target_hostname")
    refused(made.transfer_sync_write, name, 1, 1, 1.0, name="length")
    refused(made.batch_transfer_sync_read, name, [1, "2"], [1, 1], [1, 1], name="buffers[1]")
    refused(made.batch_transfer_sync_read, name, [1], [-1], [1], name="peer_buffer_addresses[0]")
    refused(made.batch_transfer_sync_read, name, "12", [1], [1], name="buffers")
    refused(made.batch_register_memory, {1: 2}, [1], name="buffer_addresses")
    refused(made.transfer_sync, name, 1, 1, 1, 1, name="opcode")
    refused(made.initialize, "h", "P2PHANDSHAKE", "tcp", 3, name="device_name")
    refused(made.transfer_sync_write, name, 1, 1, 1, speed=2, name="speed")
    refused(made.initialize, "h", name="metadata_server")


class Index:
    """A number that is no int, as numpy's are."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Array:
    """A sequence with tolist(), as numpy's are."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return list(self.values)


def numbers_and_lists_of_other_kinds():
    made, name = engine()
    memory = Memory(4096, seed=1)
    equal(made.register_memory(Index(memory.address), Index(4096)), 0, "register")
    for kind in (list, tuple, Array):
        code = made.batch_transfer_sync_write(
            name, kind([memory.address, Index(memory.address + 8)]),
            kind([memory.address + 2048, memory.address + 3000]), kind([8, Index(8)]))
        equal(code, 0, kind.__name__)
    equal(memory.bytes[2048:2056], memory.bytes[:8], "bytes")
    equal(type(made.get_rpc_port()), int, "type of a result")


def before_initialize_and_after_close():
    from mooncake.engine import TransferEngine, TransferNotify, Write
    made = TransferEngine()
    for closed in (False, True):
        equal(made.transfer_sync_write("127.0.0.1:1", 1, 2, 3), -1, "write")
        expect(mooncake.last_error(), "no reason given")
        equal(made.transfer_sync("127.0.0.1:1", 1, 2, 3, Write, TransferNotify("a", "b")), -1,
              "notify")
        equal(made.batch_transfer_sync_read("127.0.0.1:1", [1], [2], [3]), -1, "batch read")
        equal(made.batch_transfer_async_read("127.0.0.1:1", [1], [2], [3]), 0, "async")
        equal(made.transfer_check_status(7), -1, "check")
        equal(made.get_batch_transfer_status([7]), -1, "wait")
        equal(made.register_memory(4096, 10), -1, "register")
        equal(made.unregister_memory(4096), -3 if closed else -1, "unregister")
        equal(made.send_probe("127.0.0.1:1"), -1, "probe")
        equal(made.get_notifies(), [], "notifies")
        equal(made.get_first_buffer_address("127.0.0.1:1"), 0, "first")
        equal(made.write_bytes_to_buffer(4096, b"a", 1), -1, "write bytes")
        equal(made.read_bytes_from_buffer(4096, 1), b"", "read bytes")
        if not closed:
            equal((made.get_rpc_port(), made.allocate_managed_buffer(10), made.get_engine()),
                  (0, 0, None), "nothing")
            equal(made.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""), 0, "initialize")
            equal((made.close(), made.close()), (0, 0), "close")


def initialize_failures_and_names():
    from mooncake.engine import TransferEngine
    made = TransferEngine()
    equal(made.initialize("127.0.0.1", "foo://x", "tcp", ""), -1, "scheme")
    expect("foo" in mooncake.last_error(), mooncake.last_error())
    equal(made.initialize("127.0.0.1", "P2PHANDSHAKE", "pigeon", ""), -1, "protocol")
    equal(made.initialize("127.0.0.1\0", "P2PHANDSHAKE", "tcp", ""), -1, "NUL")
    equal(made.initialize_ext("127.0.0.1", "127.0.0.1:9", "tcp", "", "nope"), -1, "type")
    # Unmodified vllm-ascend passes this on every host; a port and a card are no part of the name.
    for host, protocol, device in (("127.0.0.1:4321", "ascend", None), ("127.0.0.1", "shm", ""),
                                   ("127.0.0.1:4321:npu_3", "ascend", ""),
                                   ("127.0.0.1", "rdma", "")):
        equal(made.initialize(host, "P2PHANDSHAKE", protocol, device), 0, f"{host} {protocol}")
        expect(made.get_rpc_port() > 0, "no port")


def registration_numbers():
    made, _ = engine()
    a, b = Memory(8192), Memory(8192)
    equal(made.register_memory(a.address, 8192), 0, "register")
    equal(made.register_memory(a.address, 8192), -7, "again")
    equal(made.register_memory(a.address + 10, 100), -7, "overlap")
    equal(made.unregister_memory(b.address), -3, "unknown")
    equal(made.batch_register_memory([b.address, a.address], [10, 10]), -7, "all or none")
    equal(made.batch_register_memory([b.address, b.address], [10, 10]), -7, "twice in one")
    equal(made.batch_register_memory([b.address], [10, 10]), -1, "lengths")
    equal(made.batch_register_memory([], []), 0, "nothing")
    equal(made.batch_unregister_memory([]), 0, "nothing")
    equal(made.register_memory(b.address, 8192, location="cpu:0"), 0, "location")
    equal(made.batch_unregister_memory([a.address, b.address + 1]), -3, "all or none")
    equal(made.batch_unregister_memory([a.address, b.address]), 0, "both")
    expect(made.register_memory(a.address, 0) < 0, "size 0")
    expect(made.register_memory(0, 10) < 0, "null")


def transfer_numbers():
    made, name = engine()
    memory = Memory(1 << 16, seed=2)
    start = memory.address
    made.register_memory(start, memory.length)
    equal(made.batch_transfer_sync_write(name, [start], [start], [1, 2]), -1, "unequal lists")
    equal(made.batch_transfer_sync_write(name, [], [], []), 0, "three empty lists")
    equal(made.transfer_sync_write("127.0.0.1:1", start, start, 8), -1, "nobody there")
    expect("127.0.0.1:1" in mooncake.last_error(), "the peer is not named")
    outside = Memory(4096)
    equal(made.transfer_sync_write(name, start, outside.address, 8), -1, "outside")
    equal(made.transfer_check_status(12345), -1, "unknown id")
    half = memory.length // 2
    numbers = [made.batch_transfer_async_write(name, [start + 4 * i for i in range(MANY)],
                                               [start + half + 4 * i for i in range(MANY)],
                                               [4] * MANY) for _ in range(3)]
    expect(all(0 < number < 1 << 63 for number in numbers), f"ids {numbers}")
    while (status := made.transfer_check_status(numbers[0])) == 0:
        pass
    equal((status, made.transfer_check_status(numbers[0])), (1, -1), "done, then freed")
    equal(made.get_batch_transfer_status(numbers[1:]), 0, "wait")
    equal(made.get_batch_transfer_status(numbers[1:]), -1, "freed")
    equal(memory.bytes[half:half + 4 * MANY], memory.bytes[:4 * MANY], "bytes")


def managed_buffers():
    made, name = engine()
    first = made.get_first_buffer_address("127.0.0.1")
    expect(first > 0 and made.get_first_buffer_address(name) == first, "first buffer")
    # It belongs to whoever asked: it can be written at once, and is no other buffer's memory.
    equal((made.write_bytes_to_buffer(first + MIB, b"mine", 4),
           made.read_bytes_from_buffer(first + MIB, 4)), (0, b"mine"), "the first buffer's bytes")
    other = made.allocate_managed_buffer(4096)
    expect(not first <= other < first + 64 * MIB, "a buffer inside the first one")
    a, b = made.allocate_managed_buffer(1000), made.allocate_managed_buffer(1 << 20)
    equal(made.write_bytes_to_buffer(a, b"with\0nul", 8), 0, "write")
    equal(made.write_bytes_to_buffer(b, "text", 4), 0, "str")
    equal(made.read_bytes_from_buffer(a, 8), b"with\0nul", "read")
    equal(made.write_bytes_to_buffer(a, b"short", 6), -1, "more than there is")
    equal(made.write_bytes_to_buffer(16, b"wild", 4), -1, "wild address")
    equal(made.read_bytes_from_buffer(a, 1001), b"", "beyond its end")
    refused(made.write_bytes_to_buffer, a, 7, 1, name="src_ptr")
    equal(made.transfer_sync_write(name, a, b, 8), 0, "transfer")
    equal(made.read_bytes_from_buffer(b, 8), b"with\0nul", "moved")
    equal(made.free_managed_buffer(a, 999), -1, "another size")
    equal(made.free_managed_buffer(a, 1000), 0, "free")
    equal(made.free_managed_buffer(a, 1000), -1, "twice")
    equal(made.allocate_managed_buffer(900), a, "used again")
    equal(made.allocate_managed_buffer(0), 0, "nothing")
    equal(made.allocate_managed_buffer(1 << 62), 0, "too much")


def large_managed_buffers_end_when_they_are_freed():
    """One larger than a mapping has its own: peers reach it no longer, and the memory goes back."""
    (made, _), (other, name) = engine(), engine()
    size = 300 * MIB
    place, local = other.allocate_managed_buffer(size), made.allocate_managed_buffer(4096)
    equal((made.write_bytes_to_buffer(local, b"bytes", 5),
           made.transfer_sync_write(name, local, place + size - 5, 5),
           other.read_bytes_from_buffer(place + size - 5, 5)), (0, 0, b"bytes"), "its last bytes")
    expect(mapped(place), "it is mapped")
    equal(other.free_managed_buffer(place, size), 0, "free")
    expect(not mapped(place), "still mapped")
    equal(made.transfer_sync_write(name, local, place, 5), -1, "write to what was freed")
    equal(other.read_bytes_from_buffer(place, 5), b"", "read of what was freed")
    expect(other.allocate_managed_buffer(size) > 0, "another one")


def mapped(place):
    """Whether an address of this process is mapped."""
    with open("/proc/self/maps", encoding="ascii") as file:
        ranges = [line.split(" ", 1)[0].split("-") for line in file]
    return any(int(start, 16) <= place < int(end, 16) for start, end in ranges)


def notifications_are_drained():
    from mooncake.engine import TransferNotify, Write
    (made, _), (other, name) = engine(), engine()
    a, b = made.allocate_managed_buffer(64), other.allocate_managed_buffer(64)
    equal(made.transfer_sync(name, a, b, 8, Write, TransferNotify("n", "m")), 0, "one")
    equal(made.batch_transfer_sync(name, [a], [b], [8], Write, TransferNotify("o", "p")), 0, "many")
    equal(made.batch_transfer_sync(name, [a], [b], [8], Write), 0, "none")
    found = [(note.name, note.msg) for note in other.get_notifies()]
    equal(found, [("n", "m"), ("o", "p")], "notes")
    equal(other.get_notifies(), [], "drained")


def many_threads():
    """32 threads in one engine, and one that closes it under them."""
    made, name = engine()
    memory = Memory(1 << 16, seed=3)
    made.register_memory(memory.address, memory.length)
    seen, going = set(), threading.Event()

    def work(place):
        start = memory.address + place * 1024
        for turn in range(40):
            seen.add(made.batch_transfer_sync_write(name, [start] * 8, [start + 512] * 8, [64] * 8))
            if turn == 5:
                going.set()

    threads = [threading.Thread(target=work, args=(place,)) for place in range(32)]
    for thread in threads:
        thread.start()
    going.wait()
    made.close()
    for thread in threads:
        thread.join(60)
        expect(not thread.is_alive(), "a call did not end")
    expect(seen <= {0, -1} and 0 in seen, f"numbers {seen}")


def the_lock_is_free_during_calls():
    """While one thread waits for a peer that answers nothing, another runs."""
    import socket
    made, _ = engine()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = f"127.0.0.1:{silent.getsockname()[1]}"
        waiting = threading.Thread(target=made.send_probe, args=(name,))
        waiting.start()
        # Once there is a connection the call is under way, and this thread could not take it if
        # the lock were held.
        silent.settimeout(60)
        taken, _ = silent.accept()
        expect(waiting.is_alive(), "the call has ended already")
        # The engine's end is the call's end.
        made.close()
        waiting.join(60)
        expect(not waiting.is_alive(), "the call did not end")
        taken.close()


FORK = """
import os, ctypes, mooncake
from mooncake.engine import TransferEngine
a = TransferEngine()
assert a.initialize('127.0.0.1', 'P2PHANDSHAKE', 'tcp', '') == 0
name = f'127.0.0.1:{a.get_rpc_port()}'
x = a.allocate_managed_buffer(64)
pid = os.fork()
if pid == 0:
    assert a.transfer_sync_write(name, x, x, 8) == -1
    assert 'FORKED' in mooncake.last_error(), mooncake.last_error()
    b = TransferEngine()
    assert b.initialize('127.0.0.1', 'P2PHANDSHAKE', 'tcp', '') == 0
    y = b.allocate_managed_buffer(64)
    assert b.transfer_sync_write(name, y, x, 8) == 0, mooncake.last_error()
    raise SystemExit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert a.transfer_sync_write(name, x, x, 8) == 0
print('done')
"""


def a_forked_child():
    equal(child(FORK), "done", "fork")


EXIT = """
import threading, ctypes
from mooncake.engine import TransferEngine
a = TransferEngine()
a.initialize('127.0.0.1', 'P2PHANDSHAKE', 'tcp', '')
x = a.allocate_managed_buffer(1 << 20)
name = f'127.0.0.1:{a.get_rpc_port()}'
def work():
    while True:
        a.transfer_sync_write(name, x, x + (1 << 19), 1 << 18)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
import time
time.sleep(0.2)
print('leaving')
"""


def exit_while_threads_work():
    equal(child(EXIT), "leaving", "exit")


IMPORT = """
import os, sys, threading
before = set(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))
import mooncake, mooncake.engine, mooncake.store, mooncake.native
from mooncake import *
links = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')
         if os.path.lexists(f'/proc/self/fd/{fd}')]
assert not [link for link in links if link.startswith(('socket:', '/dev/infiniband', '/dev/dav'))]
assert len(os.listdir('/proc/self/fd')) == len(before[0]), links
assert len(os.listdir('/proc/self/task')) == before[1]
assert not {'numpy', 'torch', 'asyncio', 'aiohttp'} & set(sys.modules), sorted(sys.modules)
print('quiet')
"""


def import_opens_nothing():
    equal(child(IMPORT), "quiet", "import")


SIGNAL = """
import os, signal, time
from mooncake.engine import TransferEngine
a = TransferEngine()
a.initialize('127.0.0.1', 'P2PHANDSHAKE', 'tcp', '')
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


def sigterm_ends_the_process():
    child(SIGNAL, status=-15)


def garbage_is_collected():
    """An engine that nobody holds ends; one whose handle is held goes on."""
    import gc
    import os
    made, _ = engine()
    inner = made.get_engine()
    threads = len(os.listdir("/proc/self/task"))
    del made
    gc.collect()
    equal(len(os.listdir("/proc/self/task")), threads, "threads of a held engine")
    del inner
    gc.collect()
    expect(len(os.listdir("/proc/self/task")) < threads, "its threads are still there")


SHARE = """
import ctypes
from mooncake.engine import SharedSegment
mine, blob = SharedSegment.create('kv', 1 << 20, 2, 1)
mine.complete([{blob!r}, blob])
assert mine.ready() and ctypes.string_at(mine.base_addr(), 5) == b'hello'
ctypes.memmove(mine.base_addr() + 100, b'world', 5)
print('shared')
"""


def shared_segments():
    """A second process sees the same memory, which can be registered; wrong blobs are refused."""
    import ctypes

    from mooncake.engine import SharedSegment
    equal([SharedSegment.supported(), SharedSegment.supported(host_register=True)], [True, False],
          "supported")
    mine, blob = SharedSegment.create("kv", 1 << 20, 2, 0)
    equal((mine.ready(), mine.base_addr(), mine.size(), mine.device_addr()),
          (False, 0, 1 << 20, 0), "not yet")
    _, other = SharedSegment.create("kv", 1 << 20, 2, 1)
    mine.complete([blob, other.decode()])
    place = mine.base_addr()
    ctypes.memmove(place, b"hello", 5)
    equal(child(SHARE.format(blob=blob)), "shared", "the second process")
    equal(ctypes.string_at(place + 100, 5), b"world", "what it wrote")
    made, _ = engine()
    equal(made.register_memory(place, 1 << 20), 0, "register")
    made.close()
    second, _ = SharedSegment.create("kv", 1 << 20, 2, 1)
    foreign = blob.replace(b'"file": ', b'"file": 9999')
    for blobs in ([blob], [other, blob], [b"x", other], [foreign, other], ["{}", "[]"],
                  [blob.replace(b"kv", b"kw"), other]):
        try:
            second.complete(blobs)
            expect(False, f"{blobs} were taken")
        except RuntimeError:
            expect(not second.ready(), "ready in spite of it")
    for wrong in ((0, 2, 0), (10, 2, 2), (10, 0, 0)):
        try:
            SharedSegment.create("kv", *wrong)
            expect(False, f"{wrong} was made")
        except RuntimeError:
            pass
    refused(SharedSegment.create, "kv", -1, 2, 0, name="size")
    refused(SharedSegment)


def native_raises():
    from mooncake.native import Engine, MooncakeError
    with Engine("127.0.0.1") as here, Engine("127.0.0.1") as there:
        mine, theirs = bytearray(b"hello" * 10), bytearray(50)
        here.register(mine)
        address = there.register(theirs)
        try:
            theirs.extend(b"x")
            expect(False, "a registered buffer was moved")
        except BufferError:
            pass
        segment = here.open(there.name)
        equal([(one.address, one.length) for one in segment.buffers()], [(address, 50)], "buffers")
        segment.write(mine, address)
        equal(bytes(theirs), bytes(mine), "bytes")
        with segment.submit(0, [here.register(bytearray(8))], [address], [8]) as batch:
            batch.wait(10_000)
        segment.notify("n", b"m")
        equal(there.notifications(), [(b"n", b"m")], "notes")
        try:
            segment.read(mine, address + 4096)
            expect(False, "a wrong range was read")
        except MooncakeError as error:
            equal((error.name, error.retryable), ("MC_ERR_REMOTE_RANGE", False), "the error")
        there.unregister(theirs)
        theirs.extend(b"x")


TESTS = (wrong_types_name_the_argument, numbers_and_lists_of_other_kinds,
         before_initialize_and_after_close, initialize_failures_and_names, registration_numbers,
         transfer_numbers, managed_buffers, large_managed_buffers_end_when_they_are_freed,
         notifications_are_drained, many_threads,
         the_lock_is_free_during_calls, a_forked_child, exit_while_threads_work,
         import_opens_nothing, sigterm_ends_the_process, garbage_is_collected, shared_segments,
         native_raises)
