"""A program as users write them, for a type checker only: it is never run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

import mooncake
from mooncake.async_store import MooncakeDistributedStoreAsync
from mooncake.buffer_pool import BufferPool
from mooncake.engine import TransferEngine, TransferNotify, TransferOpcode
from mooncake.mooncake_config import MooncakeConfig
from mooncake.mooncake_store_service import MooncakeStoreService
from mooncake.native import Engine, MooncakeError, Store
from mooncake.store import (BufferHandle, MooncakeDistributedStore, MooncakeHostMemAllocator,
                            ReplicaDescriptor, ReplicateConfig, SoftPinAction, bind_to_numa_node)

if TYPE_CHECKING:
    from typing_extensions import assert_type


def moves(addresses: List[int]) -> int:
    """The engine of a connector."""
    engine = TransferEngine()
    if engine.initialize("10.0.0.1", "P2PHANDSHAKE", "ascend", None) != 0:
        raise RuntimeError(mooncake.last_error())
    lengths = [4096] * len(addresses)
    code = engine.batch_register_memory(addresses, lengths, location="cpu:0")
    assert_type(engine.get_rpc_port(), int)
    number = engine.batch_transfer_async_read("10.0.0.2:1234", addresses, tuple(addresses), lengths)
    while engine.transfer_check_status(number) == 0:
        pass
    engine.transfer_sync("10.0.0.2:1234", 1, 2, 3, TransferOpcode.Write, TransferNotify("a", "b"))
    assert_type([note.msg for note in engine.get_notifies()], List[str])
    assert_type(engine.read_bytes_from_buffer(addresses[0], 5), bytes)
    return code


def pools(engine: TransferEngine, keys: List[str]) -> Optional[BufferHandle]:
    """The store of a connector."""
    bind_to_numa_node(0)
    store = MooncakeDistributedStore()
    assert_type(store.setup("h", "P2PHANDSHAKE", 1 << 30, 1 << 20, "tcp", "", "m:50051",
                            engine.get_engine()), int)
    store.setup({"local_hostname": "h", "metadata_server": "P2PHANDSHAKE"})
    config = ReplicateConfig()
    config.replica_num, config.preferred_segment = 2, store.get_hostname()
    config.soft_pin_action, config.soft_pin_ttl_ms = SoftPinAction.ENABLE, 5000
    place = MooncakeHostMemAllocator().alloc(4096)
    store.register_buffer(place, 4096)
    assert_type(store.batch_put_from(keys, [place] * 2, [4, 4], config), List[int])
    assert_type(store.batch_put_from_multi_buffers(keys, [[place], (place,)], [[4], (4,)]), List[int])
    assert_type(store.put_parts(keys[0], b"head", memoryview(b"body"), config=config), int)
    assert_type(store.get_batch(keys), List[bytes])
    assert_type(store.get_into_ranges([place], [keys], [[[0]]], [[[0]]], [[[1]]]),
                List[List[List[int]]])
    assert_type(store.batch_get_replica_desc(keys), Dict[str, List[ReplicaDescriptor]])
    for replica in store.get_replica_desc(keys[0]):
        if replica.is_memory_replica():
            assert_type(replica.get_memory_descriptor().buffer_descriptor.size, int)
    with BufferPool(store, max_bytes=1 << 30).buffer(100) as lease:
        lease.buffer[:4] = b"text"
        store.upsert_from(keys[0], lease.ptr, lease.size)
    found = store.get_buffer(keys[0])
    if found is not None:
        assert_type(memoryview(found)[:4].tobytes(), bytes)
        assert_type(found.ptr() + found.size() + len(found), int)
    return found


def raises() -> bytes:
    """The module with exceptions."""
    memory = bytearray(4096)
    with Engine("127.0.0.1", tcp_io_threads=2) as engine, Store("m:50051", "h", engine=engine) as store:
        try:
            engine.register(memory)
            engine.open("10.0.0.2:1234").write(memory, 4096, timeout_ms=100)
        except MooncakeError as error:
            assert_type((error.status, error.retryable), Tuple[int, bool])
        found = store.get("key")
        return b"" if found is None else bytes(found)


async def waits() -> None:
    """Coroutines, settings, the service."""
    store = MooncakeDistributedStoreAsync()
    await store.async_put("key", b"value")
    config = MooncakeConfig.load_from_env()
    assert_type(config.global_segment_size, int)
    service = MooncakeStoreService(cli_config={"local_hostname": "h"})
    if not await service.start_store_service():
        await service.stop()


if __name__ == "__main__":
    asyncio.run(waits())
