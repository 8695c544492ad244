"""The library for new programs: exceptions, context managers, buffers instead of addresses.

    with Engine("127.0.0.1") as here:
        here.register(memory)
        here.open("10.0.0.2:15428").write(memory, peer_address)

Every failure is a MooncakeError with `.status`, `.retryable` and the library's own words. Any
thread may call anything; the interpreter lock is free while the library works. What is registered
stays alive until it is unregistered or the engine is closed.
"""

from __future__ import annotations

import ctypes
import json
from array import array
from typing import Any, List, NamedTuple, Optional, Tuple

from . import _convert as convert
from . import _prototypes as c
from ._buffers import BufferHandle, Value, make_handle
from ._core import Core
from ._errors import Refused, native_text
from ._library import lib
from ._types import Buffer, Key, Memory, Numbers

__all__ = ["Batch", "Engine", "MooncakeError", "Peer", "SegmentBuffer", "Store"]

READ, WRITE = c.MC_READ, c.MC_WRITE
SEGMENT_BUFFERS = 64
NAME_BYTES = 1024


class MooncakeError(RuntimeError):
    """A call failed. `status` is a number of mooncake.h, `name` is that number's name there."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status
        self.name: str = lib.mc_status_name(status).decode()
        self.retryable = bool(lib.mc_status_is_retryable(status))


def check(status):
    """Raises for a failure."""
    if status < 0:
        raise MooncakeError(status, native_text(lib, status))


def span(memory, length):
    """(address, length, what keeps it): of a buffer, or of an address and a length."""
    if isinstance(memory, int):
        return convert.number("memory", memory), convert.number("length", length), None
    held = Value("memory", memory)
    if length is None:
        length = held.length
    elif convert.number("length", length) > held.length:
        raise ValueError(f"{length} bytes of a buffer of {held.length}")
    return held.address, length, held


class SegmentBuffer(NamedTuple):
    """One buffer that a peer has registered."""

    address: int
    length: int
    location: str


class Engine:
    """A transfer engine: threads, connections and registered memory of its own."""

    def __init__(self, local_name: Optional[str] = None, metadata: Optional[str] = None,
                 protocol: Optional[str] = None, **settings: Any):
        """`settings` are those of docs/configuration.md, for example `tcp_io_threads=2`."""
        options = {"local_name": local_name, "metadata": metadata, "protocol": protocol}
        options = {name: c_text(name, value) for name, value in options.items()
                   if value is not None}
        status, core = Core.create(options, settings)
        check(status)
        self._core = core
        self._held = {}

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the engine; again does nothing."""
        check(self._core.close())
        self._held.clear()

    @property
    def name(self) -> str:
        """The name under which peers open this engine."""
        return self._core.name

    @property
    def handle(self) -> int:
        """The handle of the C API, for what is not wrapped here."""
        return self._core.handle

    def dump(self) -> dict:
        """Everything the engine found and chose."""
        return json.loads(self._core.text(lib.mc_engine_dump))

    def register(self, memory: Memory, length: Optional[int] = None, location: str = "*",
                 access: int = 0) -> int:
        """Registers a buffer, or `length` bytes at an address; returns the address."""
        place, length, held = span(memory, length)
        where = c_text("location", location)
        access = convert.number("access", access, convert.U32_MAX)
        # Held first: a buffer must not go while the library knows it.
        if held is not None:
            self._core.kept.append(held)
        status = self._core.register(array("Q", (place,)), array("Q", (length,)), where, access)
        if held is not None:
            if status != 0:
                self._core.kept.remove(held)
            else:
                self._held[place] = held
        check(status)
        return place

    def unregister(self, memory: Memory) -> None:
        """Takes that back, by the buffer or its address; then nobody touches it any more."""
        place, _, _ = span(memory, None if not isinstance(memory, int) else 0)
        check(self._core.unregister(array("Q", (place,))))
        held = self._held.pop(place, None)
        if held is not None:
            self._core.kept.remove(held)

    def open(self, name: str) -> "Peer":
        """The segment of a peer, or this engine's own."""
        status, segment = self._core.segment(c_text("name", name))
        check(status)
        return Peer(self, name, segment)

    def notifications(self) -> List[Tuple[bytes, bytes]]:
        """(name, message) of all that arrived since the last call."""
        status, found = self._core.notifications()
        check(status)
        return found


class Peer:
    """The open segment of an engine."""

    def __init__(self, engine: Engine, name: str, segment: int):
        self.engine = engine
        self.name = name
        self.segment = segment

    def buffers(self) -> List[SegmentBuffer]:
        """What the peer has registered, freshly asked."""
        core = self.engine._core
        check(lib.mc_segment_refresh(core.handle, self.segment))
        room = SEGMENT_BUFFERS
        while True:
            found, count = (c.mc_segment_buffer_t * room)(), ctypes.c_size_t()
            check(lib.mc_segment_buffers(core.handle, self.segment, found, room,
                                         ctypes.byref(count)))
            if count.value <= room:
                return [SegmentBuffer(one.address, one.length_bytes, one.location.decode())
                        for one in found[:count.value]]
            room = count.value

    def read(self, memory: Memory, address: int, length: Optional[int] = None,
             timeout_ms: int = 0) -> None:
        """Fills `memory`, inside a registered buffer, from the peer's address."""
        self._one(lib.mc_read, memory, address, length, timeout_ms)

    def write(self, memory: Memory, address: int, length: Optional[int] = None,
              timeout_ms: int = 0) -> None:
        """Writes `memory`, inside a registered buffer, to the peer's address."""
        self._one(lib.mc_write, memory, address, length, timeout_ms)

    def _one(self, call, memory, address, length, timeout_ms):
        place, length, _held = span(memory, length)
        check(call(self.engine._core.handle, self.segment, place,
                   convert.number("address", address), length, milliseconds(timeout_ms)))

    def read_many(self, locals_: Numbers, addresses: Numbers,
                  lengths: Numbers, timeout_ms: int = 0) -> None:
        """Reads ranges, all of them, and waits."""
        self._many(READ, locals_, addresses, lengths, timeout_ms)

    def write_many(self, locals_: Numbers, addresses: Numbers,
                   lengths: Numbers, timeout_ms: int = 0) -> None:
        """Writes ranges, all of them, and waits."""
        self._many(WRITE, locals_, addresses, lengths, timeout_ms)

    def _many(self, operation, locals_, addresses, lengths, timeout_ms):
        columns = three(locals_, addresses, lengths)
        if columns[0]:
            check(self.engine._core.move(operation, self.segment, *columns,
                                         milliseconds(timeout_ms)))

    def submit(self, operation: int, locals_: Numbers, addresses: Numbers,
               lengths: Numbers, timeout_ms: int = 0) -> "Batch":
        """Starts ranges (READ or WRITE) and returns at once."""
        columns = three(locals_, addresses, lengths)
        status, handle = self.engine._core.submit(operation, self.segment, *columns,
                                                  milliseconds(timeout_ms))
        check(status)
        return Batch(self.engine, handle)

    def notify(self, name: Key, message: Key, timeout_ms: int = 0) -> None:
        """Tells the peer something; returns when it has it."""
        name, message = convert.text("name", name), convert.text("message", message)
        check(lib.mc_notify_send(self.engine._core.handle, self.segment, name, len(name), message,
                                 len(message), milliseconds(timeout_ms)))

    def probe(self, timeout_ms: int = 0) -> None:
        """Asks the peer for a sign of life."""
        check(lib.mc_segment_probe(self.engine._core.handle, self.segment,
                                   milliseconds(timeout_ms)))


class Batch:
    """Ranges under way. Leaving the context, or `close`, cancels what has not ended."""

    def __init__(self, engine: Engine, handle: int):
        self.engine = engine
        self._handle = handle

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self):
        handle, self._handle = getattr(self, "_handle", None), None
        if handle is not None:
            lib.mc_batch_destroy(handle)

    def done(self) -> bool:
        """Whether all has ended well; raises when something failed."""
        status = lib.mc_batch_poll(self._handle, None)
        check(status)
        return status == c.MC_OK

    def wait(self, timeout_ms: int) -> None:
        """Waits; raises when something failed or the time is over, and then it goes on."""
        check(lib.mc_batch_wait(self._handle, milliseconds(timeout_ms), None))

    def fileno(self) -> int:
        """Readable while all has ended; for select and event loops."""
        number = ctypes.c_int()
        check(lib.mc_batch_event_fd(self._handle, ctypes.byref(number)))
        return number.value

    def close(self) -> None:
        """Gives the batch up; then its local memory is not touched any more."""
        handle, self._handle = self._handle, None
        if handle is not None:
            check(lib.mc_batch_destroy(handle))


def c_text(name, value, none=False):
    """A text without a NUL, which is a ValueError here."""
    try:
        return convert.c_text(name, value, none)
    except Refused as reason:
        raise ValueError(str(reason)) from None


def milliseconds(timeout_ms):
    """A time limit as the library takes it; ctypes would cut a larger number silently."""
    return convert.number("timeout_ms", timeout_ms, convert.U32_MAX)


def three(locals_, addresses, lengths):
    columns = (convert.numbers("locals_", locals_), convert.numbers("addresses", addresses),
               convert.numbers("lengths", lengths))
    if len({len(column) for column in columns}) != 1:
        raise ValueError("the lists have different lengths")
    return columns


class Store:
    """A client of the store. Keys are str or bytes, values are buffers."""

    def __init__(self, master: str, local_hostname: str, *, metadata_server: str = "P2PHANDSHAKE",
                 segment_bytes: int = 0, local_buffer_bytes: int = 16 << 20,
                 engine: Optional[Engine] = None, **settings: Any):
        """`segment_bytes` is memory given to the pool; `settings` are those of mooncake.json."""
        text = json.dumps(settings).encode() if settings else None
        given = c.mc_store_options_t(
            ctypes.sizeof(c.mc_store_options_t),
            local_hostname=c_text("local_hostname", local_hostname),
            metadata_server=c_text("metadata_server", metadata_server),
            master_server_address=c_text("master", master),
            global_segment_bytes=convert.number("segment_bytes", segment_bytes)
            or c.MC_STORE_NO_BYTES,
            local_buffer_bytes=convert.number("local_buffer_bytes", local_buffer_bytes)
            or c.MC_STORE_NO_BYTES, json=text)
        handle = ctypes.c_void_p()
        check(lib.mc_store_open(ctypes.byref(given), engine.handle if engine else None,
                                ctypes.byref(handle)))
        from .store import Client
        self._client = Client(handle.value, engine)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the client; again does nothing."""
        check(self._client.close())

    @property
    def handle(self) -> int:
        """The handle of the C API, for what is not wrapped here."""
        return self._client.handle

    def put(self, key: Key, value: Buffer) -> bool:
        """Puts an object; False when there was one already, which stays as it is."""
        name, held = convert.text("key", key), Value("value", value)
        status = lib.mc_store_put(self.handle, name, len(name), held.address, held.length, None)
        if status == c.MC_ERR_OBJECT_EXISTS:
            return False
        check(status)
        return True

    def get(self, key: Key) -> Optional[BufferHandle]:
        """An object's bytes, in memory of the store; None when there is no object."""
        name, handle = convert.text("key", key), ctypes.c_void_p()
        status = lib.mc_store_get_buffer(self.handle, name, len(name), 0, ctypes.byref(handle))
        if status == c.MC_ERR_OBJECT_NOT_FOUND:
            return None
        check(status)
        made = make_handle(handle.value)
        if made is None:
            raise MooncakeError(c.MC_ERR_LIMIT_REACHED, "no room for a copy that may be changed")
        return made

    def get_into(self, key: Key, memory: Memory, length: Optional[int] = None) -> int:
        """Reads an object into a writable buffer, or to an address; returns its size."""
        if not isinstance(memory, int) and memoryview(memory).readonly:
            raise TypeError("argument 'memory': a writable buffer expected")
        name, size = convert.text("key", key), ctypes.c_uint64()
        place, room, _held = span(memory, length)
        check(lib.mc_store_get(self.handle, name, len(name), place, room, 0, ctypes.byref(size)))
        return size.value

    def exists(self, key: Key) -> bool:
        """Whether there is such an object, complete."""
        name, found = convert.text("key", key), ctypes.c_int32()
        check(lib.mc_store_exists(self.handle, name, len(name), 0, ctypes.byref(found)))
        return bool(found.value)

    def remove(self, key: Key, force: bool = False) -> None:
        """Removes an object."""
        name = convert.text("key", key)
        check(lib.mc_store_remove(self.handle, name, len(name), bool(force), 0))
