"""The store, as upstream's `mooncake.store` offers it.

Calls answer with upstream's numbers, `b""` or None on failure; `mooncake.last_error()` then has the
reason. What has the wrong type is a TypeError. Every call may be made from any thread at any time,
before `setup` and after `close` too. The interpreter lock is free while the library works.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from array import array
from ctypes import byref, c_int32, c_size_t, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, overload

from . import _convert as convert
from . import _dummy, _errors, _numa
from . import _prototypes as c
from . import _types as types
from ._buffer_pool import BufferLease, BufferPool
from ._buffers import BufferHandle, Value, empty_bytes, make_handle
from ._convert import WORD, Keys, address, columns
from ._core import Memory
from ._errors import Refused
from ._library import lib
from ._replicas import (Descriptor, DiskDescriptor, MemoryDescriptor, ReplicaDescriptor,
                        ReplicaStatus)
from ._replicate import INVALID_PARAMS, ReplicateConfig, SoftPinAction, options
from ._sizes import parse_size
from ._store_calls import (answers, code_of, flat_bytes, many_ranges_each, names_only,
                           one_range_each, put_code_of, refuse, told)
from ._store_ranges import Ranges
from ._store_segments import Segments
from ._store_tensors import Tensors
from ._store_tensors import deserialize as _deserialize_tensor
from ._store_tensors import metadata_size as _tensor_metadata_size
from ._store_tensors import serialize as _serialize_tensor
from ._store_upserts import Upserts
from ._types import Buffer, Codes, Key, Numbers, NumbersEach

if TYPE_CHECKING:
    from .engine import InnerTransferEngine

__all__ = ["COMPLETE", "FAILED", "INITIALIZED", "PROCESSING", "REMOVED", "UNDEFINED",
           "BufferHandle", "BufferLease", "BufferPool", "Descriptor", "DiskDescriptor",
           "MemoryDescriptor", "MooncakeDistributedStore", "MooncakeHostMemAllocator",
           "RegisteredBufferLease", "RegisteredBufferPool", "ReplicaDescriptor", "ReplicaStatus",
           "ReplicateConfig", "SoftPinAction", "_deserialize_tensor", "_serialize_tensor",
           "_tensor_metadata_size", "bind_to_numa_node"]

HEALTHY, NOT_SET_UP, MASTER_UNREACHABLE = 0, 1, 2
NAME_BYTES = 1024
POOL_ALIGNMENT = 64

DEFAULT_SIZE = 16 << 20
DEFAULT_MASTER = "127.0.0.1:50051"
# Names of the dictionary form; the second of a pair is what LMCache writes.
DICT_NAMES = {"local_hostname": "local_hostname", "metadata_server": "metadata_server",
              "global_segment_size": "global_segment_size",
              "local_buffer_size": "local_buffer_size", "protocol": "protocol",
              "rdma_devices": "rdma_devices", "device_name": "rdma_devices",
              "master_server_addr": "master_server_addr",
              "master_server_address": "master_server_addr"}

NO_TENANT = (None, "", "default")

UNDEFINED, INITIALIZED, PROCESSING = (ReplicaStatus.UNDEFINED, ReplicaStatus.INITIALIZED,
                                      ReplicaStatus.PROCESSING)
COMPLETE, REMOVED, FAILED = ReplicaStatus.COMPLETE, ReplicaStatus.REMOVED, ReplicaStatus.FAILED

RegisteredBufferPool, RegisteredBufferLease = BufferPool, BufferLease

_MISSING: Any = object()


def bind_to_numa_node(node: int) -> None:
    """bind_to_numa_node(node) -> None: the calling thread, and its memory, go to that node if
    they can."""
    _numa.bind(convert.number("node", node) if not isinstance(node, int) else node)


class MooncakeHostMemAllocator:
    """Memory of the host, by address."""

    def __init__(self) -> None:
        self._memory: Dict[int, Memory] = {}

    def alloc(self, size: int) -> int:
        """alloc(size) -> int: an address, or 0."""
        size = convert.number("size", size)
        try:
            memory = Memory(size)
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            _errors.tell(f"alloc: {error}")
            return 0
        self._memory[memory.address] = memory
        return memory.address

    def free(self, addr: int) -> int:
        """free(addr) -> int: 0, or -1 when it is not of this allocator."""
        found = self._memory.pop(convert.number("addr", addr), None)
        return 0 if found is not None else -1


class Client:
    """A running client of the store, the engine it uses, and what it was opened with."""

    def __init__(self, handle, engine, given=None):
        self.handle = handle
        self.engine = engine
        self.given = given
        # What is read or written in pieces, by key, and segments that were mounted later.
        self.sessions, self.staged, self.mounted = {}, {}, {}
        self.pool = None
        # Address -> length of what is registered with this client.
        self.registered = {}
        # At exit clients end before engines: the last made goes first.
        self._end = weakref.finalize(self, lib.mc_store_close, handle)

    def beside(self, size, protocol):
        """(status, client): another one with the same settings and a segment of its own."""
        given = c.mc_store_options_t.from_buffer_copy(self.given)
        # A port that was asked for is taken by the first.
        given.local_hostname = without_port(given.local_hostname)
        given.global_segment_bytes, given.local_buffer_bytes = size, c.MC_STORE_NO_BYTES
        given.protocol = protocol
        handle = c_void_p()
        engine = self.engine.handle if self.engine else None
        status = lib.mc_store_open(byref(given), engine, byref(handle))
        return status, Client(handle.value, self.engine, given) if status == 0 else None

    def room(self, place):
        """Bytes from an address to the end of the registered memory that it is in; 0 outside."""
        length = self.registered.get(place)
        if length is not None:
            return length
        known = list(self.registered.items())
        if self.pool is not None:
            known.append((self.pool.memory.address, self.pool.memory.length))
        if self.engine is not None:
            known += [(start, size) for start, (size,) in list(self.engine.registered.items())]
            known += [(memory.address, memory.length) for memory in list(self.engine.kept)
                      if isinstance(memory, Memory)]
        return max((start + size - place for start, size in known if start <= place < start + size),
                   default=0)

    def close(self):
        for mounted in list(self.mounted.values()):
            mounted.close()
        self.mounted.clear()
        self.staged.clear()
        return self._end() or 0


class Pool:
    """Registered memory that a program takes pieces of and never gives back."""

    def __init__(self, length):
        self.memory, self.left = Memory(length), length
        self.lock = threading.Lock()

    def take(self, size):
        """An address, or 0."""
        size = -(-size // POOL_ALIGNMENT) * POOL_ALIGNMENT
        with self.lock:
            if not 0 < size <= self.left:
                return 0
            self.left -= size
            return self.memory.address + self.left

    def holds(self, place, size):
        """Whether a range is inside."""
        start = self.memory.address
        return size > 0 and start <= place and place + size <= start + self.memory.length


class MooncakeDistributedStore(Tensors, Upserts, Ranges, Segments):
    """A client of the store: it puts objects into a pool of memory and gets them by name."""

    def __init__(self) -> None:
        self._client: Optional[Client] = None

    # Life.

    @overload
    def setup(self, local_hostname: Key, metadata_server: Key, global_segment_size: int,
              local_buffer_size: int, protocol: Key, rdma_devices: Optional[Key],
              master_server_addr: Key, engine: Optional[InnerTransferEngine] = None) -> int: ...

    @overload
    def setup(self, local_hostname: Dict[str, Any]) -> int: ...

    @overload
    def setup(self, *, config: Dict[str, Any]) -> int: ...

    def setup(self, local_hostname: Any = _MISSING, metadata_server: Any = _MISSING,
              global_segment_size: Any = _MISSING, local_buffer_size: Any = _MISSING,
              protocol: Any = _MISSING, rdma_devices: Any = _MISSING,
              master_server_addr: Any = _MISSING, engine: Any = None, *,
              config: Any = _MISSING) -> int:
        """setup(local_hostname, metadata_server, global_segment_size, local_buffer_size, protocol,
        rdma_devices, master_server_addr, engine=None) -> int
        setup(config: dict) -> int

        0 or a negative number. A second call replaces the client. `engine` is what
        `TransferEngine.get_engine()` gave. The dictionary has the names of the arguments, sizes
        may have units ("4GB"); `device_name` and `master_server_address` are taken too.
        """
        given = {"metadata_server": metadata_server, "global_segment_size": global_segment_size,
                 "local_buffer_size": local_buffer_size, "protocol": protocol,
                 "rdma_devices": rdma_devices, "master_server_addr": master_server_addr}
        found = [name for name, value in given.items() if value is not _MISSING]
        if config is _MISSING and isinstance(local_hostname, dict):
            config, local_hostname = local_hostname, _MISSING
        try:
            if config is not _MISSING:
                if found or local_hostname is not _MISSING:
                    raise TypeError("setup() takes a dictionary, or arguments, not both")
                if not isinstance(config, dict):
                    raise convert.wrong("config", "dict", config)
                return self._open(engine=engine, **from_dict(config))
            given["local_hostname"] = local_hostname
            missing = [name for name, value in given.items() if value is _MISSING]
            if missing:
                raise TypeError(f"setup() lacks the argument '{missing[0]}'")
            return self._open(engine=engine, **given)
        except Refused as reason:
            return refuse(reason)

    def _open(self, local_hostname, metadata_server, global_segment_size, local_buffer_size,
              protocol, rdma_devices, master_server_addr, engine):
        from .engine import CHOSEN, DEVICE_SUFFIX, InnerTransferEngine
        core = None
        if engine is not None:
            if not isinstance(engine, InnerTransferEngine):
                raise convert.wrong("engine", "InnerTransferEngine", engine)
            core = engine._core
        host = convert.c_text("local_hostname", local_hostname)
        bare = DEVICE_SUFFIX.match(host.decode("utf-8", "replace"))
        sizes = [convert.number(name, value) or c.MC_STORE_NO_BYTES
                 for name, value in (("global_segment_size", global_segment_size),
                                     ("local_buffer_size", local_buffer_size))]
        protocol = convert.c_text("protocol", protocol)
        given = c.mc_store_options_t(
            ctypes.sizeof(c.mc_store_options_t), 0, bare.group(1).encode() if bare else host,
            convert.c_text("metadata_server", metadata_server),
            # Which transport is used follows from what the host has; here that is TCP.
            b"tcp" if protocol.decode("utf-8", "replace") in CHOSEN else protocol,
            convert.c_text("rdma_devices", rdma_devices, none=True),
            convert.c_text("master_server_addr", master_server_addr), *sizes)
        handle = c_void_p()
        status = lib.mc_store_open(byref(given), core.handle if core else None, byref(handle))
        if status != 0:
            _errors.tell_native(lib, status, "setup")
            return code_of(status)
        before, self._client = self._client, Client(handle.value, core, given)
        if before is not None:
            before.close()
        return 0

    def init_all(self, protocol: str, device_name: str, mount_segment_size: int) -> int:
        """init_all(protocol, device_name, mount_segment_size) -> int

        `setup` with the addresses of a test bench on this host: etcd at 2379, master at 50051.
        """
        return self.setup("localhost:12345", "127.0.0.1:2379", mount_segment_size, DEFAULT_SIZE,
                          protocol, device_name, DEFAULT_MASTER)

    def setup_dummy(self, mem_pool_size: int, local_buffer_size: int, server_address: str) -> int:
        """setup_dummy(mem_pool_size, local_buffer_size, server_address) -> int

        `setup` with what the `mooncake_client` at that address tells: a client of its master that
        gives no memory to the pool. `alloc_from_mem_pool` gives out registered memory of
        `mem_pool_size` bytes.
        """
        pool_size = convert.number("mem_pool_size", mem_pool_size)
        buffer_size = convert.number("local_buffer_size", local_buffer_size)
        server = convert.text("server_address", server_address).decode("utf-8", "replace")
        try:
            own, told = _dummy.attach(server)
            pool = Pool(pool_size) if pool_size else None
        except (_dummy.NotThere, OSError, ValueError, OverflowError, MemoryError) as reason:
            return refuse(f"setup_dummy: {reason}")
        code = self.setup(own, told["metadata_server"], 0, buffer_size, told["protocol"],
                          told["device_names"], told["master_server_address"])
        client = self._client
        if code == 0 and pool is not None and client is not None:
            code = self.register_buffer(pool.memory.address, pool.memory.length)
            client.registered.clear()
            client.pool = pool
        return code

    def alloc_from_mem_pool(self, size: int) -> int:
        """alloc_from_mem_pool(size) -> int: address of registered memory of `setup_dummy`, for good;
        0 when there is none or no more."""
        size = convert.number("size", size)
        pool = self._client.pool if self._client is not None else None
        place = pool.take(size) if pool is not None else 0
        return place or refuse(f"{size} bytes are not in the pool of setup_dummy", 0)

    def close(self) -> int:
        """close() -> int: 0; again does nothing."""
        client, self._client = self._client, None
        if client is None:
            return 0
        status = client.close()
        if status != 0:
            _errors.tell_native(lib, status, "close")
        return code_of(status)

    def __enter__(self) -> MooncakeDistributedStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handle(self):
        client = self._client
        if client is None:
            raise Refused("the store is not set up")
        return client.handle

    def get_hostname(self) -> str:
        """get_hostname() -> str: "host:port" of this client; empty before `setup`."""
        try:
            buffer = ctypes.create_string_buffer(NAME_BYTES)
            length = c_size_t()
            status = lib.mc_store_hostname(self._handle(), buffer, NAME_BYTES, byref(length))
        except Refused as reason:
            return refuse(reason, "")
        return buffer.value.decode() if status == 0 else ""

    def health_check(self) -> int:
        """health_check() -> int: 0 healthy, 1 not set up, 2 master unreachable."""
        health = c.mc_store_health_t(ctypes.sizeof(c.mc_store_health_t))
        client = self._client
        if client is None or lib.mc_store_health(client.handle, byref(health)) != 0:
            return NOT_SET_UP
        return HEALTHY if health.master_is_reachable else MASTER_UNREACHABLE

    def _metrics_text(self):
        """Counters of the client in the format that Prometheus reads; empty before `setup`."""
        client, length = self._client, c_size_t(NAME_BYTES)
        while client is not None:
            room = length.value + 1
            text = ctypes.create_string_buffer(room)
            status = lib.mc_store_metrics_text(client.handle, text, room, byref(length))
            if status != 0 or length.value < room:
                return text.value.decode("utf-8", "replace") if status == 0 else ""
        return ""

    # One object.

    def put(self, key: Key, value: Buffer, config: Optional[ReplicateConfig] = None) -> int:
        """put(key, value, config=ReplicateConfig()) -> int

        0, also when the object is there already and stays as it is; negative on failure. All bytes
        of any contiguous buffer are put.
        """
        held = Value("value", value)
        return self._put_one(key, (held.address,), (held.length,), config, "put")

    def put_from(self, key: Key, buffer_ptr: int, size: int,
                 config: Optional[ReplicateConfig] = None) -> int:
        """put_from(key, buffer_ptr, size, config=ReplicateConfig()) -> int: as put, from memory.
        A size of 0 puts nothing and is 0."""
        place, size = convert.number("buffer_ptr", buffer_ptr), convert.number("size", size)
        if size == 0 and self._client is not None:
            convert.text("key", key)
            return options("config", config)[0]
        return self._put_one(key, (place,), (size,), config, "put_from")

    def put_parts(self, key: Key, *parts: Buffer, config: Optional[ReplicateConfig] = None) -> int:
        """put_parts(key, *parts, config=ReplicateConfig()) -> int: one object of all parts.
        Nothing at all puts nothing and is 0."""
        for part in parts:
            flat_bytes(part)
        held = [Value("parts", part) for part in parts]
        held = [part for part in held if part.length]
        if not held and self._client is not None:
            convert.text("key", key)
            return options("config", config)[0]
        return self._put_one(key, [part.address for part in held], [part.length for part in held],
                             config, "put_parts")

    def put_from_with_metadata(self, key: Key, buffer_ptr: int, metadata_buffer_ptr: int,
                               size: int, metadata_size: int,
                               config: Optional[ReplicateConfig] = None) -> int:
        """put_from_with_metadata(key, buffer_ptr, metadata_buffer_ptr, size, metadata_size,
        config=ReplicateConfig()) -> int: one object, metadata first."""
        places = (convert.number("metadata_buffer_ptr", metadata_buffer_ptr),
                  convert.number("buffer_ptr", buffer_ptr))
        sizes = (convert.number("metadata_size", metadata_size), convert.number("size", size))
        return self._put_one(key, places, sizes, config, "put_from_with_metadata")

    def _put_one(self, key, places, sizes, config, call):
        """One object from ranges."""
        name = convert.text("key", key)
        code, given = options("config", config)
        try:
            handle = self._handle()
        except Refused as reason:
            return refuse(reason)
        if code != 0:
            return refuse("the config asks for what this call does not do", code)
        if len(places) == 1:
            status = lib.mc_store_put(handle, name, len(name), places[0], sizes[0],
                                      byref(given.struct) if given else None)
        else:
            keys = Keys("key", (name,))
            ranges = columns(array(WORD, places), array(WORD, sizes))
            objects = columns(keys.addresses, keys.lengths, address(ranges), len(places))
            result = c_int32()
            status = lib.mc_store_put_batch(handle, address(objects), 1,
                                            byref(given.struct) if given else None, byref(result))
            status = status or result.value
        return told(status, call, put_code_of)

    def get(self, key: Key) -> bytes:
        """get(key) -> bytes: empty when there is none."""
        return self.get_batch((key,))[0]

    def get_into(self, key: Key, buffer_ptr: int, size: int) -> int:
        """get_into(key, buffer_ptr, size) -> int: bytes read, or negative."""
        place, room = convert.number("buffer_ptr", buffer_ptr), convert.number("size", size)
        name = convert.text("key", key)
        try:
            handle = self._handle()
        except Refused as reason:
            return refuse(reason)
        read = c_uint64()
        status = lib.mc_store_get(handle, name, len(name), place, room, 0, byref(read))
        return read.value if status == 0 else told(status, "get_into")

    def get_buffer(self, key: Key) -> Optional[BufferHandle]:
        """get_buffer(key) -> BufferHandle, or None."""
        name = convert.text("key", key)
        try:
            store = self._handle()
        except Refused as reason:
            return refuse(reason, None)
        handle = c_void_p()
        status = lib.mc_store_get_buffer(store, name, len(name), 0, byref(handle))
        if status != 0:
            told(status, "get_buffer")
            return None
        return make_handle(handle.value)

    def get_size(self, key: Key) -> int:
        """get_size(key) -> int: bytes of the object, or negative."""
        name = convert.text("key", key)
        size = c_uint64()
        try:
            status = lib.mc_store_size(self._handle(), name, len(name), 0, byref(size))
        except Refused as reason:
            return refuse(reason)
        return size.value if status == 0 else told(status, "get_size")

    def is_exist(self, key: Key) -> int:
        """is_exist(key) -> int: 1, 0, or negative."""
        name = convert.text("key", key)
        found = c_int32()
        try:
            status = lib.mc_store_exists(self._handle(), name, len(name), 0, byref(found))
        except Refused as reason:
            return refuse(reason)
        return found.value if status == 0 else told(status, "is_exist")

    def remove(self, key: Key, force: bool = False) -> int:
        """remove(key, force=False) -> int: 0; -704 missing; -706 leased by a reader."""
        name, force = convert.text("key", key), convert.boolean("force", force)
        try:
            status = lib.mc_store_remove(self._handle(), name, len(name), force, 0)
        except Refused as reason:
            return refuse(reason)
        return told(status, "remove")

    def remove_by_regex(self, regex_pattern: str, force: bool = False) -> int:
        """remove_by_regex(regex_pattern, force=False) -> int

        How many objects were removed in whose names the expression is found; negative on failure.
        """
        name = convert.text("regex_pattern", regex_pattern)
        force, count = convert.boolean("force", force), c_uint64()
        try:
            status = lib.mc_store_remove_by_pattern(self._handle(), name, len(name), force,
                                                    byref(count))
        except Refused as reason:
            return refuse(reason)
        return count.value if status == 0 else told(status, "remove_by_regex")

    def remove_all(self, force: bool = False) -> int:
        """remove_all(force=False) -> int: how many objects were removed, or negative."""
        force, count = convert.boolean("force", force), c_uint64()
        try:
            status = lib.mc_store_remove_all(self._handle(), force, byref(count))
        except Refused as reason:
            return refuse(reason)
        return count.value if status == 0 else told(status, "remove_all")

    # Memory.

    def register_buffer(self, buffer_ptr: int, size: int) -> int:
        """register_buffer(buffer_ptr, size) -> int: 0; -600 for an overlap or nothing."""
        place, size = convert.number("buffer_ptr", buffer_ptr), convert.number("size", size)
        client = self._client
        if client is None:
            return refuse("the store is not set up")
        if client.pool is not None and client.pool.holds(place, size):
            # The library has all of it; a piece is noted, as nothing is read beyond its end.
            if place in client.registered:
                return refuse(f"memory at {place:#x} is registered already")
            client.registered[place] = size
            return 0
        code = told(lib.mc_store_register_buffer(client.handle, place, size), "register_buffer")
        if code == 0:
            client.registered[place] = size
        return code

    def unregister_buffer(self, buffer_ptr: int, size: int = 0) -> int:
        """unregister_buffer(buffer_ptr) -> int: 0; -600 unknown. A size is taken and ignored."""
        place = convert.number("buffer_ptr", buffer_ptr)
        client = self._client
        if client is None:
            return refuse("the store is not set up")
        # First out of the table, so that nobody copies there any more.
        length = client.registered.pop(place, None)
        if length is not None and client.pool is not None and client.pool.holds(place, length):
            return 0
        code = told(lib.mc_store_unregister_buffer(client.handle, place), "unregister_buffer")
        if code != 0 and length is not None:
            client.registered[place] = length
        return code

    # Many objects.

    def put_batch(self, keys: types.Keys, values: Sequence[Buffer],
                  config: Optional[ReplicateConfig] = None) -> int:
        """put_batch(keys, values, config=ReplicateConfig()) -> int: 0, or the first failure."""
        names = Keys("keys", keys)
        held = [Value(f"values[{place}]", value)
                for place, value in enumerate(convert.sequence("values", values))]
        if len(held) == names.count and not all(value.length for value in held):
            options("config", config)
            return refuse("an empty value")
        results = self._put_ranges(names, array(WORD, [value.address for value in held]),
                                   array(WORD, [value.length for value in held]), config,
                                   "put_batch")
        return next((code for code in results if code != 0), 0)

    def batch_put_from(self, keys: types.Keys, buffer_ptrs: Numbers,
                       sizes: Numbers,
                       config: Optional[ReplicateConfig] = None) -> Codes:
        """batch_put_from(keys, buffer_ptrs, sizes, config=ReplicateConfig()) -> list of 0 or
        negative, one for each key."""
        return self._put_ranges(Keys("keys", keys), convert.numbers("buffer_ptrs", buffer_ptrs),
                                convert.numbers("sizes", sizes), config, "batch_put_from")

    def _put_ranges(self, keys, places, sizes, config, call):
        ranges = one_range_each(keys, places, sizes)
        return self._put_batch(keys, ranges, config, call, False)

    def batch_put_from_multi_buffers(self, keys: types.Keys,
                                     all_buffer_ptrs: NumbersEach,
                                     all_sizes: NumbersEach,
                                     config: Optional[ReplicateConfig] = None) -> Codes:
        """batch_put_from_multi_buffers(keys, all_buffer_ptrs, all_sizes, config=ReplicateConfig())
        -> list of 0 or negative; each key is one object of all its parts."""
        names = Keys("keys", keys)
        ranges = many_ranges_each(names, all_buffer_ptrs, all_sizes)
        return self._put_batch(names, ranges, config, "batch_put_from_multi_buffers", True)

    def batch_put_from_ascend(self, key: Key, buffer_ptrs: Numbers, sizes: Numbers,
                              config: Optional[ReplicateConfig] = None) -> Codes:
        """batch_put_from_ascend(key, buffer_ptrs, sizes, config=ReplicateConfig()) -> [0] or
        [negative]: one object of all ranges."""
        names = Keys("key", (key,))
        ranges = many_ranges_each(names, (buffer_ptrs,), (sizes,))
        return self._put_batch(names, ranges, config, "batch_put_from_ascend", True)

    def _put_batch(self, keys, ranges, config, call, multi_buffer):
        code, given = options("config", config, multi_buffer)
        try:
            handle = self._handle()
            if ranges is None:
                raise Refused("the lists do not have the same lengths")
            if code != 0:
                raise Refused("the config asks for what this call does not do")
        except Refused as reason:
            return [refuse(reason)] * keys.count
        if keys.count == 0:
            return []
        objects, _held = ranges
        statuses = array("i", bytes(4 * keys.count))
        status = lib.mc_store_put_batch(handle, address(objects), keys.count,
                                        byref(given.struct) if given else None, address(statuses))
        return answers(keys, status, statuses, call, put_code_of)

    def get_batch(self, keys: types.Keys) -> List[bytes]:
        """get_batch(keys) -> list of bytes, empty where there is no object."""
        names = Keys("keys", keys)
        if self._client is None:
            return [refuse("the store is not set up", b"")]
        found = []
        for place, status, handle in self._buffers(names, "get_batch"):
            if status == c.MC_ERR_LIMIT_REACHED:
                found.append(self._get_directly(names, place))
            elif status != 0:
                found.append(b"")
            else:
                start = lib.mc_store_buffer_address(handle)
                found.append(ctypes.string_at(start, lib.mc_store_buffer_size(handle)))
                lib.mc_store_buffer_release(handle)
        return found

    def _get_directly(self, keys, place):
        """An object that finds no room in the local buffer, read into bytes of its own."""
        name, length = keys.addresses[place], keys.lengths[place]
        size = c_uint64()
        try:
            handle = self._handle()
        except Refused as reason:
            return refuse(reason, b"")
        status = lib.mc_store_size(handle, name, length, 0, byref(size))
        if status == 0:
            value, start = empty_bytes(size.value)
            status = lib.mc_store_get(handle, name, length, start, len(value), 0, byref(size))
            # The object may have been replaced by another in between.
            if status == 0 and size.value == len(value):
                return value
        told(status or c.MC_ERR_OBJECT_NOT_READY, "get")
        return b""

    def batch_get_buffer(self, keys: types.Keys) -> List[Optional[BufferHandle]]:
        """batch_get_buffer(keys) -> list of BufferHandle, None where there is no object."""
        names = Keys("keys", keys)
        return [make_handle(handle) if status == 0 else None
                for _, status, handle in self._buffers(names, "batch_get_buffer")]

    def _buffers(self, keys, call):
        """[(place, status, handle)] for each key."""
        try:
            store = self._handle()
        except Refused as reason:
            refuse(reason)
            return [(place, c.MC_ERR_INVALID_STATE, None) for place in range(keys.count)]
        if keys.count == 0:
            return []
        handles = array(WORD, bytes(8 * keys.count))
        statuses = array("i", bytes(4 * keys.count))
        objects = names_only(keys)
        status = lib.mc_store_get_buffers(store, address(objects), keys.count, 0,
                                          address(handles), address(statuses))
        answers(keys, status, statuses, call, code_of)
        if status != 0:
            return [(place, status, None) for place in range(keys.count)]
        return list(zip(range(keys.count), statuses, handles))

    def batch_get_into(self, keys: types.Keys, buffer_ptrs: Numbers,
                       sizes: Numbers) -> Codes:
        """batch_get_into(keys, buffer_ptrs, sizes) -> list of bytes read or negative."""
        names = Keys("keys", keys)
        ranges = one_range_each(names, convert.numbers("buffer_ptrs", buffer_ptrs),
                                convert.numbers("sizes", sizes))
        return self._get_batch(names, ranges, "batch_get_into")

    def batch_get_into_multi_buffers(self, keys: types.Keys,
                                     all_buffer_ptrs: NumbersEach,
                                     all_sizes: NumbersEach,
                                     prefer_alloc_in_same_node: bool = False) -> Codes:
        """batch_get_into_multi_buffers(keys, all_buffer_ptrs, all_sizes,
        prefer_alloc_in_same_node=False) -> list of bytes read or negative. The last argument
        changes nothing."""
        convert.boolean("prefer_alloc_in_same_node", prefer_alloc_in_same_node)
        names = Keys("keys", keys)
        ranges = many_ranges_each(names, all_buffer_ptrs, all_sizes)
        return self._get_batch(names, ranges, "batch_get_into_multi_buffers")

    def batch_get_into_ascend(self, key: Key, buffer_ptrs: Numbers,
                              sizes: Numbers) -> Codes:
        """batch_get_into_ascend(key, buffer_ptrs, sizes) -> [bytes read] or [negative]."""
        names = Keys("key", (key,))
        ranges = many_ranges_each(names, (buffer_ptrs,), (sizes,))
        return self._get_batch(names, ranges, "batch_get_into_ascend")

    def _get_batch(self, keys, ranges, call):
        try:
            handle = self._handle()
            if ranges is None:
                raise Refused("the lists do not have the same lengths")
        except Refused as reason:
            return [refuse(reason)] * keys.count
        if keys.count == 0:
            return []
        objects, _held = ranges
        sizes = array(WORD, bytes(8 * keys.count))
        statuses = array("i", bytes(4 * keys.count))
        status = lib.mc_store_get_batch(handle, address(objects), keys.count, 0, address(sizes),
                                        address(statuses))
        codes = answers(keys, status, statuses, call, code_of)
        return [size if code == 0 else code for size, code in zip(sizes, codes)]

    def batch_is_exist(self, keys: types.Keys) -> Codes:
        """batch_is_exist(keys) -> list of 1, 0, or negative."""
        names = Keys("keys", keys)
        try:
            handle = self._handle()
        except Refused as reason:
            return [refuse(reason)] * names.count
        if names.count == 0:
            return []
        found = array("i", bytes(4 * names.count))
        statuses = array("i", bytes(4 * names.count))
        objects = names_only(names)
        status = lib.mc_store_exists_batch(handle, address(objects), names.count, 0,
                                           address(found), address(statuses))
        codes = answers(names, status, statuses, "batch_is_exist", code_of)
        return [there if code == 0 else code for there, code in zip(found, codes)]

    def batch_remove(self, keys: types.Keys, force: bool = False) -> Codes:
        """batch_remove(keys, force=False) -> list of 0 or negative."""
        names, force = Keys("keys", keys), convert.boolean("force", force)
        try:
            handle = self._handle()
        except Refused as reason:
            return [refuse(reason)] * names.count
        if names.count == 0:
            return []
        statuses = array("i", bytes(4 * names.count))
        objects = names_only(names)
        status = lib.mc_store_remove_batch(handle, address(objects), names.count, force, 0,
                                           address(statuses))
        return answers(names, status, statuses, "batch_remove", code_of)


def without_port(name):
    """The host of "host:port", "[v6]:port", or as it is."""
    if name.startswith(b"["):
        return name.partition(b"]")[0] + b"]"
    return name.partition(b":")[0] if name.count(b":") == 1 else name


def from_dict(config):
    """Arguments of `setup` from the dictionary form."""
    found = {}
    for name, value in config.items():
        target = DICT_NAMES.get(name)
        # Of two names of one thing the newer wins.
        if target is not None and value is not None and (name == target or target not in found):
            found[target] = value
    for name in ("local_hostname", "metadata_server"):
        if not found.get(name):
            raise Refused(f"setup lacks {name}")
    # Whoever asks for a tenant wants to be apart from others; to go on would mix them.
    if config.get("tenant_id") not in NO_TENANT:
        raise Refused(f"there are no tenants here: {config['tenant_id']}")
    found.setdefault("protocol", "tcp")
    found.setdefault("rdma_devices", "")
    found.setdefault("master_server_addr", DEFAULT_MASTER)
    for name in ("global_segment_size", "local_buffer_size"):
        try:
            found[name] = parse_size(found.get(name, DEFAULT_SIZE))
        except ValueError as reason:
            raise Refused(f"{name}: {reason}") from None
    return {name: value if name.endswith("_size") else str(value)
            for name, value in found.items()}
