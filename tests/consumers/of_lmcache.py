"""LMCache: the connector to the store, the scheduler's look-up, the channel between engines."""

import time

from common import OURS
from harness.ports import free_port
from harness.report import expect
from masters import OLD
from process import Consumer, arrived, checksum, master

FIRST, LAST = "0.3.7", "0.5.6"
NEW = "0.3.13.post1"
UNKNOWN_MASTER = "its dictionary form does not know `master_server_address`"
MIB = 1 << 20
LATE_SECONDS = 10


def side(version, kind):
    return Consumer("lmcache_side", "lmcache", version, kind)


def settings(owner):
    return dict(local_hostname="127.0.0.1", metadata_server="P2PHANDSHAKE", protocol="tcp", device_name="",
                master_server_address=owner.address, global_segment_size=32 * MIB,
                local_buffer_size=16 * MIB, transfer_timeout=30)


def store(version, cast, meta):
    """Chunks put one by one and at once, seen and read by another connector; misses are None."""
    if version == LAST:
        cast.without(NEW, UNKNOWN_MASTER)
    with master(cast) as owner, side(version, cast.one) as one, side(version, cast.other) as other:
        for process in (one, other):
            process.ask("start_store", meta_in_store=meta == "meta", from_file=process is other,
                        **settings(owner))
        length = one.ask("chunk_bytes")
        one.check("exists", [False, False], key="c0")
        one.ask("put", key="c0", seed=50)
        one.ask("put_batch", keys=["c1", "c2"], seeds=[51, 52])
        one.check("exists", [True, True], key="c2")
        wanted = [checksum(length, 50 + at) for at in range(3)]
        arrived(lambda: other.ask("get", keys=["c0", "c1", "c2", "none"]), [*wanted, None], cast)
        arrived(lambda: one.ask("get", keys=["c2", "c1", "c0"]), wanted[::-1], cast)
        other.check("close", None)
        one.check("close", None)


def lookup(version, cast):
    """The scheduler's client has no memory and asks how far a request is in the store."""
    cast.without(NEW, UNKNOWN_MASTER)
    with master(cast) as owner, side(version, cast.one) as one, side(version, cast.other) as other:
        one.ask("start_store", meta_in_store=True, **settings(owner))
        one.ask("put_batch", keys=["c0", "c1"], seeds=[1, 2])
        other.check("lookup", 32, master=owner.address, keys=["c0", "c1", "c2"])


def channel(version, cast):
    """Two engines read each other's buffers; handshakes over ZeroMQ, ids that are polled."""
    ports, length = [free_port(), free_port()], MIB
    with side(version, cast.one) as one, side(version, cast.other) as other:
        one.ask("start_channel", port=ports[0], length=length, seed=61)
        other.ask("start_channel", port=ports[1], length=length, seed=62)
        part = length // 16
        remote = [[part * at, part] for at in range(8)]
        local = [[part * (8 + at), part] for at in range(8)]
        one.check("read", [True] * 8, port=ports[1], local=local, remote=remote)
        wanted = other.ask("memory_bytes", start=0, length=length // 2)
        if cast.one != OURS:
            # Upstream tells the end of a batch of reads while some run, also from one of its own kind.
            end = time.monotonic() + LATE_SECONDS
            while one.ask("memory_bytes", start=length // 2, length=length // 2) != wanted \
                    and time.monotonic() < end:
                time.sleep(0.02)
        one.check("memory_bytes", wanted, start=length // 2, length=length // 2)
        # The server learned of its client in the handshake, and may read back.
        other.check("clients", 1)
        other.check("read", [True], port=ports[0], local=[[0, part]], remote=[[part * 8, part]])
        other.kill()
        if cast.one != OLD:
            # What a read of a dead peer ends as: refused at once, or failed when polled.
            try:
                found = one.ask("read", port=ports[1], local=[[0, part]], remote=[[0, part]])
                expect(found == [False], f"a dead peer was read: {found}")
            except Exception as error:
                expect("Failed to submit" in str(error), f"{error}")
        one.ask("close_channel")


TESTS = tuple((store, version, meta) for version in (FIRST, LAST) for meta in ("meta", "plain")) \
    + ((lookup, LAST), (channel, LAST))
ENGINES = ((channel, LAST),)
STORES = ((store, LAST, "meta"),)
