"""Registered buffers that are lent and taken back: `BufferPool(store)`.

Registration is dear, so memory is registered in regions, and regions are cut into pieces of one
size. Any thread may call anything; `acquire` may wait for a piece that others give back.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from . import _convert as convert
from . import _errors
from ._core import Memory

if TYPE_CHECKING:
    from .store import MooncakeDistributedStore

PAGE = 4096


class PoolTimeout(RuntimeError, TimeoutError):
    """No buffer became free in time."""


class BufferLease:
    """A buffer on loan. It goes back at `release()`, at the end of a `with`, or as garbage."""

    __slots__ = ("_pool", "_piece", "_memory", "_size", "_references")

    def __init__(self, pool: BufferPool, piece: Any, size: int):
        self._pool: Optional[BufferPool] = pool
        self._piece, self._size = piece, size
        self._memory: Any = (ctypes.c_ubyte * size).from_address(piece[0])
        # Every view has one more; how many there are without any differs between interpreters.
        self._references = sys.getrefcount(self._memory)

    def _open(self) -> None:
        if self._pool is None:
            raise RuntimeError("buffer lease is closed")

    @property
    def ptr(self) -> int:
        """Address of the first byte."""
        self._open()
        return int(self._piece[0])

    @property
    def size(self) -> int:
        """Bytes that were asked for."""
        self._open()
        return self._size

    @property
    def buffer(self) -> memoryview:
        """The bytes, to be read and written."""
        self._open()
        return memoryview(self._memory).cast("B")

    def release(self) -> None:
        """release() -> None: gives the buffer back; again does nothing. RuntimeError while views
        of it exist."""
        pool = self._pool
        if pool is None:
            return
        if sys.getrefcount(self._memory) > self._references:
            raise RuntimeError("cannot release buffer while exported views exist")
        self._pool = None
        pool._take_back(self._piece)

    def __enter__(self) -> BufferLease:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        pool = getattr(self, "_pool", None)
        # With views about, the piece stays lent for good: nobody may write to it any more.
        if pool is not None and sys.getrefcount(self._memory) <= self._references:
            self._pool = None
            pool._take_back(self._piece)


class BufferPool:
    """Buffers of powers of two from `min_size_class` on, in memory registered with a store.

    `max_bytes` and `max_regions` bound the memory, 0 and None do not. What is larger than
    `max_size_class` gets memory of its own, which goes when it is given back.
    """

    def __init__(self, store: MooncakeDistributedStore, max_bytes: int = 0,
                 min_size_class: int = 65536, max_size_class: Optional[int] = None,
                 alignment: int = 8388608, block_on_exhaustion: bool = True,
                 default_timeout: Optional[float] = None, max_regions: Optional[int] = None,
                 prewarm_size: Optional[int] = None, prewarm_count: int = 0):
        from .store import MooncakeDistributedStore
        if not isinstance(store, MooncakeDistributedStore):
            raise convert.wrong("store", "MooncakeDistributedStore", store)
        if not store.get_hostname():
            raise RuntimeError("MooncakeDistributedStore is not initialized")
        self._store = store
        self._bytes_max = convert.number("max_bytes", max_bytes)
        self._least = max(1, convert.number("min_size_class", min_size_class))
        self._largest = None if max_size_class is None \
            else convert.number("max_size_class", max_size_class)
        self._alignment = convert.number("alignment", alignment)
        if self._alignment < 8 or self._alignment & (self._alignment - 1):
            raise RuntimeError("alignment must be a power of two and at least sizeof(void*)")
        self._blocks = convert.boolean("block_on_exhaustion", block_on_exhaustion)
        self._timeout = default_timeout
        self._regions_max = None if max_regions is None \
            else convert.number("max_regions", max_regions)
        self._changed = threading.Condition()
        self._free: Dict[int, List[Any]] = {}
        # Address of a region -> what keeps its memory.
        self._regions: Dict[int, Any] = {}
        self._bytes = self._lent = 0
        self._closed = False
        if prewarm_size is not None:
            self.prewarm(prewarm_size, prewarm_count)

    def acquire(self, size: int, block: Optional[bool] = None,
                timeout: Optional[float] = None) -> BufferLease:
        """acquire(size, block=None, timeout=None) -> BufferLease

        `block` says whether to wait for one that is given back, `timeout` how many seconds.
        RuntimeError when there is none, and after `close`.
        """
        size = convert.number("size", size)
        block = self._blocks if block is None else convert.boolean("block", block)
        timeout = self._timeout if timeout is None else timeout
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                piece = self._piece(self._class_of(size))
                if piece is not None:
                    self._lent += 1
                    return BufferLease(self, piece, size)
                if not self._lent:
                    raise RuntimeError(f"{size} bytes are more than the buffer pool's capacity")
                if not block:
                    raise RuntimeError("buffer pool is exhausted")
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise PoolTimeout("buffer pool is exhausted: none was given back in time")
                self._changed.wait(left)

    def buffer(self, size: int, block: Optional[bool] = None,
               timeout: Optional[float] = None) -> BufferLease:
        """buffer(size, block=None, timeout=None) -> BufferLease: `acquire`, for a `with`."""
        return self.acquire(size, block, timeout)

    def prewarm(self, size: int, count: int) -> None:
        """prewarm(size, count) -> None: registers memory for that many buffers now."""
        size, count = convert.number("size", size), convert.number("count", count)
        with self._changed:
            held = [self._piece(self._class_of(size)) for _ in range(count)]
            for piece in held:
                if piece is not None:
                    self._free.setdefault(piece[1], []).append(piece)
            if None in held:
                raise RuntimeError("buffer pool is exhausted")

    def close(self) -> None:
        """close() -> None: unregisters all memory; again does nothing. RuntimeError while buffers
        are lent."""
        with self._changed:
            if self._lent:
                raise RuntimeError("cannot close buffer pool with active leases")
            self._closed = True
            for place in self._regions:
                self._store.unregister_buffer(place)
            self._regions.clear()
            self._free.clear()
            self._changed.notify_all()

    def _class_of(self, size: int) -> int:
        if self._largest is not None and size > self._largest:
            return -(-size // PAGE) * PAGE
        return max(self._least, 1 << max(0, size - 1).bit_length())

    def _piece(self, length: int) -> Any:
        """(address, length, address of the region) of a free piece; None when there is no room."""
        if self._closed:
            raise RuntimeError("buffer pool is closed")
        pieces = self._free.setdefault(length, [])
        if not pieces:
            pieces.extend(self._grow(length))
        return pieces.pop() if pieces else None

    def _grow(self, length: int) -> List[Any]:
        total = -(-length // self._alignment) * self._alignment
        if self._regions_max is not None and len(self._regions) >= self._regions_max:
            return []
        if self._bytes_max and self._bytes + total > self._bytes_max:
            # A limit below one region still has room for the piece itself.
            total = length
            if self._bytes + total > self._bytes_max:
                return []
        try:
            memory = Memory(total + self._alignment)
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            raise RuntimeError(f"{total} bytes of memory: {error}") from None
        start = -(-memory.address // self._alignment) * self._alignment
        if self._store.register_buffer(start, total) != 0:
            raise RuntimeError(f"memory cannot be registered: {_errors.last()}")
        self._regions[start] = (memory, total)
        self._bytes += total
        return [(start + offset, length, start)
                for offset in reversed(range(0, total - length + 1, length))]

    def _take_back(self, piece: Any) -> None:
        with self._changed:
            self._lent -= 1
            if self._largest is not None and piece[1] > self._largest:
                memory, total = self._regions.pop(piece[2], (None, 0))
                self._store.unregister_buffer(piece[2])
                self._bytes -= total
            elif not self._closed:
                self._free.setdefault(piece[1], []).append(piece)
            self._changed.notify()
