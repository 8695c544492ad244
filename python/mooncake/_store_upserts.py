"""Putting over what is there: upstream's `upsert` family.

Masters of 0.3.7 have no such call, so an object that is there is removed and put again. That is not
one step: in between readers find nothing, and of two that upsert one key at once either may win. A
reader that has begun gets the old bytes: memory of removed objects rests until leases have ended.
"""

from __future__ import annotations

from array import array
from ctypes import byref
from typing import List, Optional, Sequence

from . import _convert as convert
from . import _prototypes as c
from ._buffers import Value
from ._convert import WORD, Keys, address
from ._errors import Refused
from ._library import lib
from ._replicate import ReplicateConfig, options
from ._store_calls import (answers, code_of, empty_value, flat_bytes, many_ranges_each,
                           one_range_each, put_code_of, put_of_nothing, refuse)
from ._types import Buffer, Codes, Key, Numbers
from . import _types as types

# How often an object that others put meanwhile is removed again before it is theirs.
ROUNDS_MAX = 8


class Upserts:
    """Calls of the store that replace objects."""

    def upsert(self, key: Key, value: Buffer, config: Optional[ReplicateConfig] = None) -> int:
        """upsert(key, value, config=ReplicateConfig()) -> int

        As `put`, but what is there is replaced, not in one step: readers may find nothing in
        between. -706 when a reader has it and the master cannot remove it in spite of that (those
        of 0.3.7).
        """
        held = Value("value", value)
        if held.length == 0:
            convert.text("key", key)
            return empty_value(config)
        return self._upsert_one(key, (held.address,), (held.length,), config, "upsert")

    def upsert_from(self, key: Key, buffer_ptr: int, size: int,
                    config: Optional[ReplicateConfig] = None) -> int:
        """upsert_from(key, buffer_ptr, size, config=ReplicateConfig()) -> int: as `upsert`, from
        memory. A size of 0 does nothing and is 0."""
        place, size = convert.number("buffer_ptr", buffer_ptr), convert.number("size", size)
        if size == 0 and self._client is not None:
            return put_of_nothing(key, config)
        return self._upsert_one(key, (place,), (size,), config, "upsert_from")

    def upsert_parts(self, key: Key, *parts: Buffer,
                     config: Optional[ReplicateConfig] = None) -> int:
        """upsert_parts(key, *parts, config=ReplicateConfig()) -> int: as `upsert`, one object of
        all parts. Nothing at all does nothing and is 0."""
        for part in parts:
            flat_bytes(part)
        held = [found for found in (Value("parts", part) for part in parts) if found.length]
        if not held and self._client is not None:
            return put_of_nothing(key, config)
        return self._upsert_one(key, [part.address for part in held],
                                [part.length for part in held], config, "upsert_parts")

    def upsert_batch(self, keys: types.Keys, values: Sequence[Buffer],
                     config: Optional[ReplicateConfig] = None) -> int:
        """upsert_batch(keys, values, config=ReplicateConfig()) -> int: 0, or the first failure."""
        names = Keys("keys", keys)
        held = [Value(f"values[{place}]", value)
                for place, value in enumerate(convert.sequence("values", values))]
        if len(held) == names.count and not all(value.length for value in held):
            return empty_value(config)
        ranges = one_range_each(names, array(WORD, [value.address for value in held]),
                                array(WORD, [value.length for value in held]))
        results = self._upsert_batch(names, ranges, config, "upsert_batch")
        return next((code for code in results if code != 0), 0)

    def batch_upsert_from(self, keys: types.Keys, buffer_ptrs: Numbers, sizes: Numbers,
                          config: Optional[ReplicateConfig] = None) -> Codes:
        """batch_upsert_from(keys, buffer_ptrs, sizes, config=ReplicateConfig()) -> list of 0 or
        negative, one for each key."""
        names = Keys("keys", keys)
        ranges = one_range_each(names, convert.numbers("buffer_ptrs", buffer_ptrs),
                                convert.numbers("sizes", sizes))
        return self._upsert_batch(names, ranges, config, "batch_upsert_from")

    def _upsert_one(self, key, places, sizes, config, call):
        names = Keys("key", (convert.text("key", key),))
        ranges = many_ranges_each(names, (places,), (sizes,))
        return self._upsert_batch(names, ranges, config, call)[0]

    def _upsert_batch(self, keys, ranges, config, call) -> List[int]:
        """Removes what is there, puts, and does so again with what others put in between."""
        try:
            handle, _ = self._begin_put(keys, ranges, config)
        except Refused as reason:
            return [refuse(reason)] * keys.count
        if keys.count == 0:
            return []
        objects, _held = ranges
        codes = [0] * keys.count
        # Of a key that comes twice the last value is meant.
        last = {keys.name(place): place for place in range(keys.count)}
        open_ = sorted(last.values())
        for _ in range(ROUNDS_MAX):
            open_ = self._replace(handle, keys, objects, config, open_, codes, call)
            if not open_:
                break
        for place in open_:
            codes[place] = refuse("others put this object all the time",
                                  code_of(c.MC_ERR_OBJECT_EXISTS))
        return [codes[last[keys.name(place)]] for place in range(keys.count)]

    @staticmethod
    def _replace(handle, keys, objects, config, there, codes, call):
        """Removes these objects and puts them anew; those that others were faster with.

        Removed first: a put that finds an object takes a lease on it, and masters of old do not
        remove what is leased.
        """
        rows, statuses = rows_of(objects, keys.count, there), array("i", bytes(4 * len(there)))
        # In spite of leases where the master can do that.
        for force in (1, 0):
            status = lib.mc_store_remove_batch(handle, address(rows), len(there), force, 0,
                                               address(statuses))
            if c.MC_ERR_UNSUPPORTED not in (status, *statuses):
                break
        gone = array("i", [0 if found == c.MC_ERR_OBJECT_NOT_FOUND else found
                           for found in statuses])
        for place, code in zip(there, answers(Count(there), status, gone, call, code_of)):
            codes[place] = code
        there = [place for place in there if codes[place] == 0]
        if not there:
            return []
        rows, statuses = rows_of(objects, keys.count, there), array("i", bytes(4 * len(there)))
        given = options("config", config, keys.count, places=there)
        status = lib.mc_store_put_batch(handle, address(rows), len(there),
                                        byref(given.struct) if given else None, address(statuses))
        for place, code in zip(there, answers(Count(there), status, statuses, call, put_code_of)):
            codes[place] = code
        return [place for place, found in zip(there, statuses) if found == c.MC_ERR_OBJECT_EXISTS]


class Count:
    """How many keys a part of a batch has."""

    def __init__(self, places):
        self.count = len(places)


def rows_of(objects, count, places):
    """Some of the structs of an array."""
    width = len(objects) // count
    rows = array(WORD)
    for place in places:
        rows.extend(objects[place * width:(place + 1) * width])
    return rows
