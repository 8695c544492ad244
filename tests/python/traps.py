"""Traps of the API that no other group is about; the table in README.md names the test of each."""

import inspect
import json
import os
import pathlib
import re
import signal
import socket
import threading
import time

import mooncake
from common import OURS, Memory, child, engine, equal, last, peer, refused
from engine_calls import Index
from harness.ports import free_port
from harness.report import Failed, expect
from masters import Master
from pool import MIB, Pool, config

INVALID, MISSING = -600, -704
KEYS = ("space in it", "a@b/c:d#e?f%20g", "schlüssel-鍵-🔑", "tab\tnew\nline", "nul\0in", "x" * 4096,
        "-starts", "\\back\\slash", "'\"quotes", "{json: [1]}", ".")


def keys_of_all_kinds():
    """Any text, and bytes, with no length that a binding would know."""
    with Pool() as store:
        for place, key in enumerate(KEYS):
            value = b"%d" % place
            equal((store.put(key, value), store.get(key), store.is_exist(key), store.get_size(key)),
                  (0, value, 1, len(value)), repr(key[:40]))
        equal(store.batch_is_exist(list(KEYS)), [1] * len(KEYS), "batch")
        equal([handle.size() for handle in store.batch_get_buffer(KEYS)][:3], [1, 1, 1], "a tuple")
        equal(store.get(KEYS[2].encode()), b"2", "bytes as a key")
        equal(store.put("", b"v") < 0, True, "no key at all")
        for call in (store.put, store.upsert):
            refused(call, "\ud800", b"v", name="key")
        refused(store.batch_is_exist, ["a", "\ud800"], name="keys[1]")
        pattern = "^(?:" + "|".join(re.escape(key) for key in KEYS[:3]) + ")$"
        equal(store.remove_by_regex("no such " + pattern), 0, "nothing fits")


def results_are_plain():
    """int, bytes, str and list themselves, not what ctypes or numpy have."""
    def plain(value):
        if type(value) in (list, tuple):
            return all(map(plain, value))
        return type(value) in (int, bytes, str, type(None))

    made, name = engine()
    memory = Memory(4096)
    made.register_memory(memory.address, 4096)
    place = memory.address
    with Pool() as store:
        store.register_buffer(place, 4096)
        results = [
            made.get_rpc_port(), made.get_first_buffer_address(name), made.get_local_topology(),
            made.transfer_sync_write(name, place, place + 100, 8), made.get_engine_ptr(),
            made.batch_transfer_sync_read(name, [place], [place + 100], [8]), made.get_notifies(),
            made.allocate_managed_buffer(100), made.transfer_check_status(5),
            store.put("k", b"v"), store.get("k"), store.get_batch(["k", "n"]), store.is_exist("k"),
            store.batch_is_exist(["k", "n"]), store.batch_put_from(["a", "k"], [place] * 2, [8] * 2),
            store.batch_get_into(["a", "n"], [place] * 2, [8] * 2), store.get_into("k", place, 9),
            store.get_size("k"), store.get_hostname(), store.health_check(), store.get_buffer("n"),
            store.batch_get_session_start(["k"]), store.upsert("k", b"w"), store.remove_all(),
            store.get_into_ranges([place], [["k"]], [[[0]]], [[[0]]], [[[1]]]),
            store.unregister_buffer(place)]
    wrong = [value for value in results if not plain(value)]
    expect(not wrong, f"{wrong}")


def sizes_of_setup():
    """Numbers of numpy are sizes; a port that is given is used, and names of 0.3.13 are passed
    over in the dictionary."""
    from mooncake.store import MooncakeDistributedStore
    with Master("ours") as master:
        store, port = MooncakeDistributedStore(), free_port()
        equal(store.setup(f"127.0.0.1:{port}", "P2PHANDSHAKE", Index(MIB), Index(MIB), "tcp", "",
                          master.address), 0, f"setup {last()}")
        equal(store.get_hostname(), f"127.0.0.1:{port}", "the port")
        equal(store.setup({"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE",
                           "master_server_addr": master.address, "tenant_id": "default",
                           "enable_ssd_offload": False, "client_http_port": 9300,
                           "master_server_address": "127.0.0.1:1"}), 0, "the newer name wins")
        equal(store.setup({}), INVALID, "nothing")
        store.close()
    if socket.has_ipv6:
        setup_over_ipv6()


def setup_over_ipv6():
    from mooncake.store import MooncakeDistributedStore
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            port = probe.getsockname()[1]
    except OSError:
        return
    with Master("ours") as master:
        store = MooncakeDistributedStore()
        equal(store.setup(f"[::1]:{port}", "P2PHANDSHAKE", MIB, MIB, "tcp", "", master.address), 0,
              f"setup {last()}")
        equal((store.get_hostname(), store.put("k", b"v"), store.get("k")),
              (f"[::1]:{port}", 0, b"v"), "over it")
        store.close()


def options_that_are_not_there_are_not_named():
    """vllm-ascend looks for the option's name in the signature, else in the docstring."""
    from mooncake.store import MooncakeDistributedStore, ReplicateConfig
    setup = MooncakeDistributedStore.setup
    for word in ("enable_ssd_offload", "ssd_offload_path", "tenant_id", "client_http_port"):
        expect(word not in inspect.signature(setup).parameters and word not in setup.__doc__, word)
    # SGLang tries them, reads which one was refused, and tries again without it.
    store, options = MooncakeDistributedStore(), {"enable_ssd_offload": True, "tenant_id": "x"}
    with Master("ours") as master:
        for _ in range(3):
            try:
                code = store.setup("127.0.0.1", "P2PHANDSHAKE", 0, 0, "tcp", "", master.address, None,
                                   **options)
                break
            except TypeError as error:
                options = {name: value for name, value in options.items() if name not in str(error)}
        equal((code, options), (0, {}), "as SGLang does it")
        store.close()
    for name in ("session_ids", "nof_replica_num", "dfs_replica_num"):
        expect(not hasattr(ReplicateConfig(), name), name)


def arguments_at_the_edges():
    """What a check of one kind of argument once overlooked."""
    from mooncake.engine import SharedSegment, TransferEngine
    from mooncake.native import Engine
    from mooncake.store import BufferPool, MooncakeDistributedStore
    with TransferEngine() as made:
        equal(made.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""), 0, "initialize")
        equal(json.loads(made.get_local_topology(b"none")).keys(),
              json.loads(made.get_local_topology()).keys(), "bytes for a name")
        refused(made.get_local_topology, 5, name="device_name")
    for size in (float("inf"), float("nan"), 1e30, -1.0, 1.5):
        equal(MooncakeDistributedStore().setup({
            "local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE",
            "global_segment_size": size}), INVALID, f"a size of {size}")
    try:
        SharedSegment.create("a\0b", 4096, 1, 0)
        expect(False, "a NUL in a name")
    except RuntimeError:
        pass
    with Pool() as store:
        for value in ("1", True, float("nan"), [1]):
            refused(BufferPool, store, default_timeout=value, name="default_timeout")
            refused(BufferPool(store).acquire, 1, timeout=value, name="timeout")
    with Engine("127.0.0.1") as engine:
        peer = engine.open(engine.name)
        room = bytearray(8)
        refused(engine.register, room, access=-1, name="access")
        refused(engine.register, room, location=5, name="location")
        room.append(1)  # Nobody holds it.
        for value in (-1, 1 << 32, 1.5, "1"):
            refused(peer.probe, value, name="timeout_ms")
            refused(peer.notify, "a", "b", value, name="timeout_ms")
        for call in (engine.open, lambda name: Engine(name)):
            try:
                call("a\0b")
                expect(False, "a NUL in a name")
            except ValueError as error:
                expect("NUL" in str(error), error)


def nothing_is_put_of_nothing():
    with Pool() as store:
        equal((store.put_parts("k"), store.put_parts("k", b"", bytearray())), (0, 0), "no parts")
        equal((store.put_from("k", 4096, 0), store.upsert_parts("k"), store.upsert_from("k", 0, 0)),
              (0, 0, 0), "no bytes")
        equal(store.is_exist("k"), 0, "and no object")


def a_master_that_is_gone():
    """Every call ends with a number; the client lives on and closes."""
    pool = Pool()
    with pool as store:
        equal((store.put("k", b"v"), store.health_check()), (0, 0), "before")
        pool.master.kill()
        memory = Memory(64)
        found = [store.put("l", b"v"), store.is_exist("k"), store.get_size("k"), store.remove("k"),
                 store.remove_all(), store.get_into("k", memory.address, 64),
                 store.batch_put_from(["m"], [memory.address], [8])[0],
                 store.batch_get_into(["k"], [memory.address], [64])[0], store.upsert("k", b"w")]
        expect(all(code < 0 for code in found), f"{found}")
        equal((store.get("k"), store.get_buffer("k"), store.get_replica_desc("k")), (b"", None, []), "")
        expect(mooncake.last_error(), "no reason given")
        # That is what the client last heard; it asks every second.
        end = time.monotonic() + 60
        while store.health_check() != 2:
            expect(time.monotonic() < end, "the client never noticed")
            time.sleep(0.05)
        store.close()


def the_lock_is_free_during_setup_and_close():
    """A master that accepts and says nothing does not stop the other threads of the interpreter."""
    from mooncake.store import MooncakeDistributedStore
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store, codes = MooncakeDistributedStore(), []
        setup = threading.Thread(target=lambda: codes.append(store.setup(
            "127.0.0.1", "P2PHANDSHAKE", 0, 0, "tcp", "", f"127.0.0.1:{silent.getsockname()[1]}")))
        setup.start()
        silent.settimeout(60)
        # With the lock held by setup, this thread would not get here before its end.
        taken, _ = silent.accept()
        expect(setup.is_alive(), "setup has ended already")
        taken.close()
        silent.close()
        setup.join(60)
        expect(codes and codes[0] < 0, f"{codes}")


GONE = """
import ctypes, mmap, mooncake
from mooncake.engine import TransferEngine
from mooncake.store import MooncakeDistributedStore
def mapped():
    memory = mmap.mmap(-1, 1 << 20)
    pin = ctypes.c_char.from_buffer(memory)
    return memory, ctypes.addressof(pin)
a, b = TransferEngine(), TransferEngine()
for e in (a, b):
    assert e.initialize('127.0.0.1', 'P2PHANDSHAKE', 'tcp', '') == 0
here, x = mapped()
there, y = mapped()
assert a.register_memory(x, 1 << 20) == 0 and b.register_memory(y, 1 << 20) == 0
name = f'127.0.0.1:{{b.get_rpc_port()}}'
assert a.transfer_sync_write(name, x, y, 4096) == 0
s = MooncakeDistributedStore()
assert s.setup('127.0.0.1', 'P2PHANDSHAKE', 4 << 20, 1 << 20, 'tcp', '', {master!r}) == 0
kept, z = mapped()
assert s.register_buffer(z, 1 << 20) == 0 and s.put_from('k', z, 4096) == 0
import gc; gc.collect()
for memory in (here, there, kept):
    memory.close()
assert a.transfer_sync_write(name, x, y, 4096) < 0 and mooncake.last_error()
assert a.transfer_sync_read(name, x, y, 4096) < 0
assert s.put_from('l', z, 4096) < 0 and s.get_into('k', z, 4096) < 0, mooncake.last_error()
assert s.get('k') == bytes(4096)
assert a.unregister_memory(x) == 0 and s.unregister_buffer(z) == 0
print('alive')
"""


def memory_that_goes_while_it_is_registered():
    """By address nobody can keep it; then the calls fail, and the process lives."""
    with Master("ours") as master:
        equal(child(GONE.format(master=master.address)), "alive", "unmapped")


LEAVE = """
import threading, time
from mooncake.store import MooncakeDistributedStore
s = MooncakeDistributedStore()
assert s.setup('127.0.0.1', 'P2PHANDSHAKE', 8 << 20, 1 << 20, 'tcp', '', {master!r}) == 0
def work(place):
    turn = 0
    while True:
        turn += 1
        s.put(f'{{place}}/{{turn % 50}}', bytes(10000))
        s.get(f'{{place}}/{{turn % 50}}')
        s.batch_get_buffer([f'{{place}}/{{n}}' for n in range(5)])
for place in range(4):
    threading.Thread(target=work, args=(place,), daemon=True).start()
time.sleep(0.2)
{how}
"""


def exit_and_sigterm_while_threads_work():
    """At the interpreter's end, and when a signal asks for the end: no crash, no waiting."""
    with Master("ours") as master:
        equal(child(LEAVE.format(master=master.address, how="print('leaving')")), "leaving", "exit")
        child(LEAVE.format(master=master.address, how="import os, signal; os.kill(os.getpid(), "
                           "signal.SIGTERM); time.sleep(60)"), status=-15)


FORK = """
import os
import mooncake.engine, mooncake.store
for turn in range(3):
    pid = os.fork()
    if pid == 0:
        e = mooncake.engine.TransferEngine()
        assert e.initialize('127.0.0.1', 'P2PHANDSHAKE', 'tcp', '') == 0
        s = mooncake.store.MooncakeDistributedStore()
        assert s.setup('127.0.0.1', 'P2PHANDSHAKE', 1 << 20, 1 << 20, 'tcp', '', {master!r},
                       e.get_engine()) == 0
        assert s.put(f'k{{turn}}', b'v') == 0 and s.get(f'k{{turn}}') == b'v'
        raise SystemExit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
print('used')
"""


def fork_before_any_use():
    """Both modules are imported by the parent and used by its children only."""
    with Master("ours") as master:
        equal(child(FORK.format(master=master.address)), "used", "fork")


def timeouts_of_transfers():
    """MC_TRANSFER_TIMEOUT: seconds, at least 5, 30 without it or with nonsense."""
    from mooncake.engine import transfer_timeout
    before = os.environ.pop("MC_TRANSFER_TIMEOUT", None)
    try:
        found = []
        for value in (None, "7", "1", "-3", "much", "1000000"):
            if value is not None:
                os.environ["MC_TRANSFER_TIMEOUT"] = value
            found.append(transfer_timeout())
        equal(found, [30_000, 7_000, 5_000, 5_000, 30_000, 3_600_000], "milliseconds")
    finally:
        os.environ.pop("MC_TRANSFER_TIMEOUT", None)
        if before is not None:
            os.environ["MC_TRANSFER_TIMEOUT"] = before


def all_stopped(pid):
    """Whether every thread of a process has been stopped: the signal takes its time."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


def a_peer_that_says_nothing_more():
    """The time limit ends a transfer; an asynchronous one has failed or timed out, and is freed."""
    with peer(OURS) as there:
        remote = there.buffer("kv", 4096, seed=1)
        # Within a host the memory of a peer that stands still is read all the same.
        os.environ["MC_SAME_HOST"] = "0"
        try:
            made, _ = engine()
        finally:
            del os.environ["MC_SAME_HOST"]
        place = made.allocate_managed_buffer(4096)
        equal(made.transfer_sync_write(there.name, place, remote, 8), 0, "while it answers")
        there.process.send_signal(signal.SIGSTOP)
        while not all_stopped(there.process.pid):
            time.sleep(0.01)
        # Fewer than the five seconds that a variable can ask for.
        made._timeout_ms = 300
        equal(made.transfer_sync_read(there.name, place, remote, 8), -1, "read")
        number = made.batch_transfer_async_read(there.name, [place], [remote], [8])
        while number and (status := made.transfer_check_status(number)) == 0:
            pass
        expect(number == 0 or status in (-1, -2), f"status {status}")
        equal(made.transfer_check_status(number), -1, "freed")
        there.process.send_signal(signal.SIGCONT)
        made.close()


def a_port_that_is_given_is_ignored_by_p2p():
    from mooncake.engine import TransferEngine
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port, made = busy.getsockname()[1], TransferEngine()
        equal(made.initialize(f"127.0.0.1:{port}", "P2PHANDSHAKE", "tcp", ""), 0, "a port in use")
        expect(made.get_rpc_port() not in (0, port), "the port was taken from the name")
        made.close()


def many_threads_before_setup_and_after_close():
    """Calls without a client from many threads, while one opens and closes it."""
    from mooncake.store import MooncakeDistributedStore
    with Master("ours") as master:
        store, ending, seen = MooncakeDistributedStore(), threading.Event(), set()

        def work(place):
            memory = Memory(64)
            while not ending.is_set():
                seen.add(store.put(f"k{place}", b"v" * 8))
                seen.add(store.batch_put_from(["x"], [memory.address], [8])[0])
                seen.add(store.get(f"k{place}") in (b"", b"v" * 8))
                seen.add(store.upsert("y", b"v"))
                store.batch_get_session_start(["x"])
                store.get_replica_desc("x")

        threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            equal(store.setup("127.0.0.1", "P2PHANDSHAKE", MIB, MIB, "tcp", "", master.address), 0,
                  f"setup {last()}")
            equal(store.close(), 0, "close")
        ending.set()
        for thread in threads:
            thread.join(60)
            expect(not thread.is_alive(), "a call did not end")
        codes = {code for code in seen if not isinstance(code, bool)}
        expect(False not in seen or 0 in seen, f"{seen}")
        expect(codes <= {0, INVALID, MISSING, -200, -703, -705, -706, -800, -900, -1}, f"{codes}")


def wrong_lists_of_lists():
    """Shapes that do not fit are -600 for every key; things that are no lists are refused."""
    with Pool() as store:
        place = Memory(64).address
        two, keys = [INVALID] * 2, ["a", "b"]
        for pointers, sizes in (([[place]], [[8], [8]]), ([[place], [place]], [[8]]),
                                ([[place, place], [place]], [[8], [8]]), ([], [])):
            equal(store.batch_put_from_multi_buffers(keys, pointers, sizes), two, "put")
            equal(store.batch_get_into_multi_buffers(keys, pointers, sizes), two, "get")
        for wrong in (7, None, "12", {1: 2}):
            for call in (store.batch_put_from_multi_buffers, store.batch_get_into_multi_buffers):
                try:
                    call(keys, wrong, [[8], [8]])
                    raise Failed(f"{wrong!r} is a list")
                except TypeError as error:
                    expect("all_buffer_ptrs" in str(error), error)
        equal(store.put_batch(["a"], [b"1", b"2"]), INVALID, "values")
        equal(store.put("a", b"v", config(replica_num=1 << 40)), 0, "as many as there are")


TESTS = (keys_of_all_kinds, results_are_plain, sizes_of_setup,
         options_that_are_not_there_are_not_named, arguments_at_the_edges, nothing_is_put_of_nothing,
         a_master_that_is_gone,
         the_lock_is_free_during_setup_and_close, memory_that_goes_while_it_is_registered,
         exit_and_sigterm_while_threads_work, fork_before_any_use, timeouts_of_transfers,
         a_peer_that_says_nothing_more, a_port_that_is_given_is_ignored_by_p2p,
         many_threads_before_setup_and_after_close, wrong_lists_of_lists)
