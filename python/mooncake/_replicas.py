"""Where the copies of objects are, in upstream's classes; they are made by the store only."""

from __future__ import annotations

import enum
from typing import List, NamedTuple


class ReplicaStatus(enum.IntEnum):
    """Life of one copy."""

    UNDEFINED = 0
    INITIALIZED = 1
    PROCESSING = 2
    COMPLETE = 3
    REMOVED = 4
    FAILED = 5


class Descriptor(NamedTuple):
    """A range of memory of a client."""

    size: int
    buffer_address: int
    transport_endpoint: str


class MemoryDescriptor(NamedTuple):
    """A copy in memory."""

    buffer_descriptor: Descriptor


class DiskDescriptor(NamedTuple):
    """A copy in a file."""

    file_path: str
    object_size: int


class ReplicaDescriptor:
    """One copy of an object."""

    __slots__ = ("_entry",)

    def __init__(self, entry: dict):
        self._entry = entry

    @property
    def status(self) -> ReplicaStatus:
        """How far the copy is."""
        return ReplicaStatus[self._entry["status"].upper()]

    def is_memory_replica(self) -> bool:
        """is_memory_replica() -> bool: whether it is in memory of a client."""
        return self._entry["kind"] == "memory"

    def is_disk_replica(self) -> bool:
        """is_disk_replica() -> bool: whether it is in a file that every client can open."""
        return self._entry["kind"] == "disk"

    def is_local_disk_replica(self) -> bool:
        """is_local_disk_replica() -> bool: whether it is in a file of one client."""
        return self._entry["kind"] == "local_disk"

    def get_memory_descriptor(self) -> MemoryDescriptor:
        """get_memory_descriptor() -> MemoryDescriptor; RuntimeError for a copy that is elsewhere.

        Of an object that was cut into several ranges it names the first, with the size of all.
        """
        if not self.is_memory_replica():
            raise RuntimeError("Expected MemoryDescriptor: the replica is not in memory")
        ranges: List[dict] = self._entry["ranges"]
        first = ranges[0] if ranges else {"address": 0, "endpoint": ""}
        return MemoryDescriptor(Descriptor(self._entry["size"], first["address"],
                                           first["endpoint"]))

    def get_disk_descriptor(self) -> DiskDescriptor:
        """get_disk_descriptor() -> DiskDescriptor; RuntimeError for a copy that is elsewhere."""
        if not self.is_disk_replica():
            raise RuntimeError("Expected DiskDescriptor: the replica is not in a shared file")
        return DiskDescriptor(self._entry["path"], self._entry["size"])

    def __repr__(self) -> str:
        return f"<ReplicaDescriptor {self._entry['kind']} {self._entry['status']}>"
