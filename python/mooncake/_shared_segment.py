"""Memory that several processes of one host share: upstream's `SharedSegment`, in host memory.

One rank owns it: an anonymous file of the kernel, which leaves no name behind. What the others need
to find it travels in a blob, by whatever way the program has. They must see the owner in /proc: the
same user, and the same container.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import weakref
from typing import Any, Dict, List, Optional, Tuple, Union

from . import _convert as convert

KIND = "mooncake-shared-segment"
RANKS_MAX = 1 << 16
BYTES_MAX = 1 << 46


class SharedSegment:
    """Made by `create` on every rank, and usable once `complete` had the blobs of all."""

    __slots__ = ("_name", "_size", "_ranks", "_rank", "_owner", "_file", "_map", "_pin", "__weakref__")

    def __init__(self) -> None:
        raise TypeError("a SharedSegment comes from SharedSegment.create()")

    @staticmethod
    def supported(mmap: bool = True, host_register: bool = False) -> bool:
        """supported(mmap=True, host_register=False) -> bool: host memory is, registration with a
        device is not."""
        return convert.boolean("mmap", mmap) and not convert.boolean("host_register", host_register)

    @staticmethod
    def create(name: str, size: int, world_size: int, rank_id: int, owner_rank: int = 0,
               device_id: int = 0, mmap: bool = True,
               host_register: bool = False) -> Tuple[SharedSegment, bytes]:
        """create(name, size, world_size, rank_id, owner_rank=0, device_id=0, mmap=True,
        host_register=False) -> (segment, blob)

        The first phase; `complete` takes the blobs of all ranks. RuntimeError when that is not
        supported or memory is short.
        """
        made: SharedSegment = object.__new__(SharedSegment)
        made._name = convert.text("name", name).decode("utf-8", "replace")
        made._size = convert.number("size", size, BYTES_MAX)
        made._ranks = convert.number("world_size", world_size, RANKS_MAX)
        made._rank = convert.number("rank_id", rank_id, RANKS_MAX)
        made._owner = convert.number("owner_rank", owner_rank, RANKS_MAX)
        convert.number("device_id", device_id)
        if not SharedSegment.supported(mmap, host_register):
            raise RuntimeError("only host memory without registration can be shared")
        if made._size == 0 or made._rank >= made._ranks or made._owner >= made._ranks:
            raise RuntimeError("a segment of no bytes, or a rank that is not in the world")
        made._file, made._map, made._pin = -1, None, None
        told: Dict[str, Any] = {"kind": KIND, "name": made._name, "size": made._size,
                                "rank": made._rank}
        if made._rank == made._owner:
            try:
                made._file = os.memfd_create(made._name[:200], os.MFD_CLOEXEC)
                weakref.finalize(made, os.close, made._file)
                os.ftruncate(made._file, made._size)
            except (OSError, ValueError) as reason:
                raise RuntimeError(f"{made._size} bytes of shared memory: {reason}") from None
            told.update(process=os.getpid(), file=made._file)
        return made, json.dumps(told).encode()

    def complete(self, blobs: List[Union[str, bytes]]) -> None:
        """complete(blobs) -> None: the second phase; blobs are in the order of ranks. RuntimeError
        when they do not belong together."""
        blobs = [convert.text("blobs", blob) for blob in convert.sequence("blobs", blobs)]
        if len(blobs) != self._ranks:
            raise RuntimeError(f"{len(blobs)} blobs of {self._ranks} ranks")
        try:
            told = [json.loads(blob) for blob in blobs]
            fits = all(one["kind"] == KIND and one["name"] == self._name and one["rank"] == rank
                       and one["size"] == self._size for rank, one in enumerate(told))
            process, file = int(told[self._owner]["process"]), int(told[self._owner]["file"])
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise RuntimeError("the blobs are not of one segment")
        try:
            if self._file >= 0:
                self._map = self._mapped(self._file)
            else:
                taken = os.open(f"/proc/{process}/fd/{file}", os.O_RDWR | os.O_CLOEXEC)
                try:
                    self._map = self._mapped(taken)
                finally:
                    os.close(taken)
        except (OSError, ValueError) as reason:
            raise RuntimeError(f"the owner's memory cannot be mapped: {reason}") from None
        self._pin = ctypes.c_char.from_buffer(self._map)

    def _mapped(self, file: int) -> mmap.mmap:
        if os.fstat(file).st_size != self._size:
            raise ValueError("it has another size")
        return mmap.mmap(file, self._size)

    def ready(self) -> bool:
        """ready() -> bool: whether `complete` is done."""
        return self._pin is not None

    def size(self) -> int:
        """size() -> int: bytes."""
        return self._size

    def base_addr(self) -> int:
        """base_addr() -> int: address in this process; 0 before `complete`."""
        pin: Optional[Any] = self._pin
        return ctypes.addressof(pin) if pin is not None else 0

    def device_addr(self) -> int:
        """device_addr() -> int: 0, as the memory is not registered with a device."""
        return 0
