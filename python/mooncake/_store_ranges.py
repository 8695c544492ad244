"""Pieces of objects: sessions that read or write layer by layer, and ranges of many objects.

The library moves whole objects. A session of reading therefore has the object in local memory, and
pieces are copied from there; one of writing collects the pieces, and puts the object at its end.
"""

from __future__ import annotations

import ctypes
from typing import List, Optional, Sequence

from . import _convert as convert
from . import _prototypes as c
from ._buffers import Value, make_handle
from ._convert import WORD, Keys
from ._core import Memory
from ._replicate import INVALID_PARAMS, ReplicateConfig, options
from ._store_calls import (NO_SPACE, OBJECT_EXISTS, OBJECT_NOT_FOUND, code_of, one_range_each,
                           refuse)
from ._types import Codes, Numbers, NumbersEach
from . import _types as types


class Held:
    """Bytes of an object in local memory, as long as this lives."""

    __slots__ = ("address", "length", "keeper")

    def __init__(self, place, length, keeper):
        self.address, self.length, self.keeper = place, length, keeper


class Staged:
    """An object that is being written, with what was asked of its put."""

    __slots__ = ("memory", "length", "config")

    def __init__(self, length, config):
        self.memory, self.length, self.config = Memory(length), length, config


class Ranges:
    """Calls of the store about pieces of objects."""

    # Reading.

    def batch_get_session_start(self, keys: types.Keys) -> Codes:
        """batch_get_session_start(keys) -> list of 0 or negative: objects that are held for
        reading in pieces until `batch_get_session_end`."""
        names = Keys("keys", keys)
        encoded = [convert.text("keys", key) for key in convert.sequence("keys", keys)]
        client = self._client
        found = self._hold(names, "batch_get_session_start")
        for name, held in zip(encoded, found):
            if client is not None and isinstance(held, Held):
                client.sessions[name] = held
        return [0 if isinstance(held, Held) else held for held in found]

    def batch_get_into_multi_buffer_ranges(self, keys: types.Keys, all_buffer_ptrs: NumbersEach,
                                           all_sizes: NumbersEach,
                                           all_src_offsets: NumbersEach) -> Codes:
        """batch_get_into_multi_buffer_ranges(keys, all_buffer_ptrs, all_sizes, all_src_offsets)
        -> list of bytes read or negative, from objects of a session."""
        names = [convert.text("keys", key) for key in convert.sequence("keys", keys)]
        lists = [convert.sequence(name, values) for name, values in (
            ("all_buffer_ptrs", all_buffer_ptrs), ("all_sizes", all_sizes),
            ("all_src_offsets", all_src_offsets))]
        client = self._client
        if client is None or any(len(values) != len(names) for values in lists):
            return [refuse("no session, or lists of different lengths")] * len(names)
        return [copy_ranges(client.sessions.get(name), *parts)
                for name, *parts in zip(names, *lists)]

    def batch_get_session_end(self, keys: types.Keys) -> int:
        """batch_get_session_end(keys) -> int: 0; objects without a session are passed over."""
        names = [convert.text("keys", key) for key in convert.sequence("keys", keys)]
        client = self._client
        if client is None:
            return refuse("the store is not set up")
        for name in names:
            client.sessions.pop(name, None)
        return 0

    def get_into_ranges(self, buffer_ptrs: Numbers, all_keys: Sequence[types.Keys],
                        all_dst_offsets: Sequence[NumbersEach],
                        all_src_offsets: Sequence[NumbersEach],
                        all_sizes: Sequence[NumbersEach]) -> List[List[List[int]]]:
        """get_into_ranges(buffer_ptrs, all_keys, all_dst_offsets, all_src_offsets, all_sizes)
        -> for each buffer, for each key of its own, for each range: bytes read or negative.

        A destination must be inside the registered memory in which its buffer begins.
        """
        places = convert.numbers("buffer_ptrs", buffer_ptrs)
        keys = [convert.sequence("all_keys", row) for row in convert.sequence("all_keys", all_keys)]
        columns = [each_of_each(name, values) for name, values in (
            ("all_dst_offsets", all_dst_offsets), ("all_src_offsets", all_src_offsets),
            ("all_sizes", all_sizes))]
        fits = len(keys) == len(places) and all(
            [len(row) for row in column] == [len(row) for row in keys] for column in columns)
        if not fits:
            refuse("the lists do not have the same lengths")
            return [[[INVALID_PARAMS] * len(sizes) for sizes in row] for row in columns[2]]
        names = list(dict.fromkeys(key for row in keys for key in row))
        found = dict(zip(names, self._hold(Keys("all_keys", names), "get_into_ranges")))
        client = self._client
        rooms = [client.room(place) if client is not None else 0 for place in places]
        return [[copy_each(found[key], place, room, *ranges) for key, *ranges in zip(row, *lists)]
                for place, room, row, *lists in zip(places, rooms, keys, *columns)]

    def _hold(self, names, call):
        """For each key what holds its object, or a negative number."""
        found = []
        for place, status, handle in self._buffers(names, call):
            buffer = make_handle(handle) if status == 0 else None
            if buffer is not None:
                found.append(Held(buffer.ptr(), buffer.size(), buffer))
            elif status in (0, c.MC_ERR_LIMIT_REACHED):
                value = self._get_directly(names, place)
                held = Value(call, value)
                found.append(Held(held.address, held.length, held) if value else NO_SPACE)
            else:
                found.append(code_of(status))
        return found

    # Writing.

    def batch_put_session_start(self, keys: types.Keys, sizes: Numbers,
                                config: Optional[ReplicateConfig] = None) -> Codes:
        """batch_put_session_start(keys, sizes, config=ReplicateConfig()) -> list of 0 or negative

        Begins objects of these sizes; -705 for one that is there. The pieces are kept in memory of
        this process, and room in the pool is asked for at the end.
        """
        names = [convert.text("keys", key) for key in convert.sequence("keys", keys)]
        sizes = convert.numbers("sizes", sizes)
        code, _ = options("config", config, True)
        if code != 0 or len(sizes) != len(names) or self._client is None:
            return [refuse("not set up, or lists or a config that do not fit")] * len(names)
        there = self.batch_is_exist(names)
        return [self._stage(name, size, config, found)
                for name, size, found in zip(names, sizes, there)]

    def _stage(self, name, size, config, found):
        client = self._client
        if found < 0 or client is None:
            return found or INVALID_PARAMS
        if found or name in client.staged:
            return refuse("there is such an object already", OBJECT_EXISTS)
        if size == 0:
            return refuse("an object of no bytes")
        try:
            client.staged[name] = Staged(size, config)
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            return refuse(f"{size} bytes for an object in pieces: {error}", NO_SPACE)
        return 0

    def batch_put_from_multi_buffer_ranges(self, keys: types.Keys, all_buffer_ptrs: NumbersEach,
                                           all_sizes: NumbersEach,
                                           all_dst_offsets: NumbersEach) -> Codes:
        """batch_put_from_multi_buffer_ranges(keys, all_buffer_ptrs, all_sizes, all_dst_offsets)
        -> list of bytes taken or negative, for objects of a session."""
        names = [convert.text("keys", key) for key in convert.sequence("keys", keys)]
        lists = [convert.sequence(name, values) for name, values in (
            ("all_buffer_ptrs", all_buffer_ptrs), ("all_sizes", all_sizes),
            ("all_dst_offsets", all_dst_offsets))]
        client = self._client
        if client is None or any(len(values) != len(names) for values in lists):
            return [refuse("no session, or lists of different lengths")] * len(names)
        return [fill_ranges(client.staged.get(name), *parts)
                for name, *parts in zip(names, *lists)]

    def batch_put_session_end(self, keys: types.Keys) -> Codes:
        """batch_put_session_end(keys) -> list of 0 or negative: the objects are put."""
        return [self._put_staged(name, staged) for name, staged in self._staged(keys)]

    def _put_staged(self, name, staged):
        if staged is None:
            return refuse("no session for this object")
        names = Keys("keys", (name,))
        ranges = one_range_each(names, convert.array(WORD, (staged.memory.address,)),
                                convert.array(WORD, (staged.length,)))
        return self._put_batch(names, ranges, staged.config, "batch_put_session_end", True)[0]

    def batch_put_session_revoke(self, keys: types.Keys) -> Codes:
        """batch_put_session_revoke(keys) -> list of 0, or -600 without a session: the pieces are
        given up."""
        return [0 if staged is not None else refuse("no session for this object")
                for _, staged in self._staged(keys)]

    def _staged(self, keys):
        """Takes sessions of writing out of the table."""
        names = [convert.text("keys", key) for key in convert.sequence("keys", keys)]
        client = self._client
        return [(name, client.staged.pop(name, None) if client is not None else None)
                for name in names]


def each_of_each(name, values):
    """Lists of lists of arrays."""
    return [[convert.numbers(name, numbers) for numbers in convert.sequence(name, row)]
            for row in convert.sequence(name, values)]


def pieces(places, sizes, offsets, offsets_name):
    """Three arrays of one length, or None."""
    columns = (convert.numbers("all_buffer_ptrs", places), convert.numbers("all_sizes", sizes),
               convert.numbers(offsets_name, offsets))
    return columns if len({len(column) for column in columns}) == 1 else None


def outside(places, sizes, offsets, length):
    """Which piece is not inside an object, in words; empty when all are."""
    for place, size, offset in zip(places, sizes, offsets):
        if offset + size > length or (place == 0 and size > 0):
            return f"{size} bytes at {offset} of an object of {length}"
    return ""


def copy_ranges(held, places, sizes, offsets):
    """Bytes copied out of an object; negative when a piece is not inside it."""
    columns = pieces(places, sizes, offsets, "all_src_offsets")
    if held is None:
        return refuse("no session for this object", OBJECT_NOT_FOUND)
    why = outside(*columns, held.length) if columns else "lists of different lengths"
    if why:
        return refuse(why)
    for place, size, offset in zip(*columns):
        ctypes.memmove(place, held.address + offset, size)
    return sum(columns[1])


def fill_ranges(staged, places, sizes, offsets):
    """Bytes copied into an object that is being written."""
    columns = pieces(places, sizes, offsets, "all_dst_offsets")
    if staged is None:
        return refuse("no session for this object")
    why = outside(*columns, staged.length) if columns else "lists of different lengths"
    if why:
        return refuse(why)
    for place, size, offset in zip(*columns):
        ctypes.memmove(staged.memory.address + offset, place, size)
    return sum(columns[1])


def copy_each(held, place, room, targets, offsets, sizes):
    """For each range of one object the bytes copied, or negative; `room` bytes are at `place`."""
    if not len(targets) == len(offsets) == len(sizes):
        return [refuse("lists of different lengths")] * len(sizes)
    if not isinstance(held, Held):
        return [held] * len(sizes)
    copied = []
    for target, offset, size in zip(targets, offsets, sizes):
        why = outside((place,), (size,), (offset,), held.length)
        if not why and target + size > room:
            why = f"{size} bytes at {target} of {room} that are registered there"
        if why:
            copied.append(refuse(why))
            continue
        ctypes.memmove(place + target, held.address + offset, size)
        copied.append(size)
    return copied
