"""What the store knows about copies and segments: descriptors, and memory that is mounted later.

A mounted segment is a client of its own beside the first, with the same master; unmounting closes
it.
"""

from __future__ import annotations

import json
import time
import uuid
from array import array
from ctypes import byref, c_size_t, create_string_buffer
from typing import Any, Dict, List

from . import _convert as convert
from . import _errors
from ._convert import Keys, address
from ._errors import Refused
from ._library import lib
from ._replicas import ReplicaDescriptor
from ._store_calls import answers, code_of, names_only, refuse
from ._types import Key
from . import _types as types

# Of one replica of one range, as text; more is asked for when that was too little.
REPLICA_BYTES = 512
FAILED = -1
GRACE_SECONDS_MAX = 3600
HALF_BITS = 64


class Segments:
    """Calls of the store about replicas and segments."""

    def get_replica_desc(self, key: Key) -> List[ReplicaDescriptor]:
        """get_replica_desc(key) -> list of ReplicaDescriptor; empty when there is no object."""
        name = convert.text("key", key)
        return next(iter(self._replicas(Keys("key", (name,)), "get_replica_desc")), None) or []

    def batch_get_replica_desc(self, keys: types.Keys) -> Dict[str, List[ReplicaDescriptor]]:
        """batch_get_replica_desc(keys) -> dict of lists of ReplicaDescriptor, without the keys of
        which there is no object."""
        names = convert.sequence("keys", keys)
        found = self._replicas(Keys("keys", names), "batch_get_replica_desc")
        return {name if isinstance(name, str) else name.decode("utf-8", "replace"): replicas
                for name, replicas in zip(names, found) if replicas is not None}

    def _replicas(self, names, call):
        """For each key a list of descriptors, or None."""
        try:
            handle = self._handle()
        except Refused as reason:
            return [refuse(reason, None)] * names.count
        if names.count == 0:
            return []
        objects, statuses = names_only(names), array("i", bytes(4 * names.count))
        length = c_size_t(REPLICA_BYTES * names.count)
        while True:
            room = length.value + 1
            text = create_string_buffer(room)
            status = lib.mc_store_replicas(handle, address(objects), names.count, 0,
                                           address(statuses), text, room, byref(length))
            if status != 0 or length.value < room:
                break
        answers(names, status, statuses, call, code_of)
        if status != 0:
            return [None] * names.count
        return [None if entries is None else [ReplicaDescriptor(entry) for entry in entries]
                for entries in json.loads(text.value)]

    def allocate_and_mount_segment(self, size: int, protocol: str = "tcp",
                                   location: str = "") -> Dict[str, Any]:
        """allocate_and_mount_segment(size, protocol="tcp", location="") -> dict

        Gives more memory to the pool: "ret" is 0 or negative, "segment_ids" a list of texts,
        "allocated_size" bytes. `location` changes nothing.
        """
        size = convert.number("size", size)
        protocol = convert.text("protocol", protocol).partition(b"\0")[0]
        convert.text("location", location)
        failed = {"ret": FAILED, "segment_ids": [], "allocated_size": 0}
        client = self._client
        if client is None or size == 0:
            return refuse("the store is not set up" if size else "a segment of no bytes", failed)
        status, mounted = client.beside(size, protocol)
        if status != 0:
            _errors.tell_native(lib, status, "allocate_and_mount_segment")
            return dict(failed, ret=code_of(status))
        number = uuid.uuid4().int
        name = f"{number >> HALF_BITS}-{number & ((1 << HALF_BITS) - 1)}"
        client.mounted[name] = mounted
        return {"ret": 0, "segment_ids": [name], "allocated_size": size}

    def unmount_and_free_segment(self, segment_ids: List[str],
                                 grace_period_seconds: int = 0) -> int:
        """unmount_and_free_segment(segment_ids, grace_period_seconds=0) -> int

        0, or -1 when one is unknown. Objects that are only there go with it, after the time of
        grace, which this call waits for.
        """
        names = [convert.text("segment_ids", name).decode("utf-8", "replace")
                 for name in convert.sequence("segment_ids", segment_ids)]
        grace = convert.number("grace_period_seconds", grace_period_seconds, GRACE_SECONDS_MAX)
        client = self._client
        if client is None:
            return refuse("the store is not set up")
        unknown = [name for name in names if name not in client.mounted]
        if unknown:
            return refuse(f"no segment {unknown[0]}", FAILED)
        if names and grace:
            time.sleep(grace)
        ended = [client.mounted.pop(name, None) for name in names]
        codes = [code_of(segment.close()) for segment in ended if segment is not None]
        return next((code for code in codes if code != 0), 0)
