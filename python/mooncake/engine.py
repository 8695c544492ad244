"""The transfer engine, as upstream's `mooncake.engine` offers it.

Calls answer with upstream's numbers: 0 or a handle, and a negative number on failure;
`mooncake.last_error()` then has the reason. What has the wrong type is a TypeError. Every call may
be made from any thread at any time, before `initialize` and after the end too. The interpreter lock
is free while the library works. New programs may prefer `mooncake.native`.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import json
import os
import re
import threading
import time
from array import array
from typing import List, Optional, Union

from . import _convert as convert
from . import _errors
from . import _prototypes as c
from ._arena import Arenas
from ._core import Core
from ._errors import Refused
from ._library import lib
from ._shared_segment import SharedSegment
from ._types import Key, Numbers

__all__ = ["InnerTransferEngine", "Read", "SharedSegment", "TransferEngine", "TransferNotify", "TransferOpcode",
           "Write"]

FAILED = -1
ADDRESS_NOT_REGISTERED = -3
ADDRESS_OVERLAPPED = -7

TRANSFER_TIMEOUT_S = 30
TRANSFER_TIMEOUT_S_MIN = 5
TRANSFER_TIMEOUT_S_MAX = 3600
GIB = 1 << 30
WAIT_MS_MAX = 3_600_000
# Of an engine that was given no memory; address space until it is written.
FIRST_BUFFER_BYTES = 64 << 20

# Names that upstream knows; which transport is used follows from what the host has.
CHOSEN = frozenset(("rdma", "ascend", "ascend_direct", "hccl", "ub", "efa", "nvlink",
                    "nvlink_intra", "hip", "cxl", "barex", "musa", "nvmeof", "shm", ""))
# "host:port:npu_N" names a card for peers of the same kind; here it is no part of the name.
DEVICE_SUFFIX = re.compile(r"^(.*?):npu_\d+$")

SUPPORT_CUDA = SUPPORT_EFA = SUPPORT_HIP = False
SUPPORT_MNNVL = SUPPORT_INTRA_NVLINK = SUPPORT_MUSA = False


class TransferOpcode(enum.IntEnum):
    """Direction of a transfer: Read is from the peer, Write is to the peer."""

    Read = 0
    Write = 1


Read = TransferOpcode.Read
Write = TransferOpcode.Write


class TransferNotify:
    """TransferNotify() or TransferNotify(name, msg): what a peer is told after a transfer."""

    __slots__ = ("_name", "_msg")

    def __init__(self, *texts: Key, **named: Key):
        if texts and len(texts) != 2:
            raise TypeError(f"TransferNotify() takes no or two arguments, not {len(texts)}")
        given = dict(zip(("name", "msg"), texts)) if texts else {"name": "", "msg": ""}
        for name, value in named.items():
            if name not in given or texts:
                raise TypeError(f"TransferNotify() got an unexpected keyword argument '{name}'")
            given[name] = value
        self.name, self.msg = given["name"], given["msg"]

    @property
    def name(self) -> str:
        """Whose message it is."""
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = convert.text("name", value).decode("utf-8", "replace")

    @property
    def msg(self) -> str:
        """The message."""
        return self._msg

    @msg.setter
    def msg(self, value: str) -> None:
        self._msg = convert.text("msg", value).decode("utf-8", "replace")

    def __repr__(self):
        return f"TransferNotify({self._name!r}, {self._msg!r})"


class InnerTransferEngine:
    """Handle of a running engine, for `MooncakeDistributedStore.setup(engine=...)`."""

    __slots__ = ("_core",)

    def __init__(self, core: Core):
        self._core = core


def transfer_timeout():
    """MC_TRANSFER_TIMEOUT in ms, within its bounds."""
    try:
        seconds = int(os.environ.get("MC_TRANSFER_TIMEOUT", TRANSFER_TIMEOUT_S))
    except ValueError:
        seconds = TRANSFER_TIMEOUT_S
    return 1000 * min(max(seconds, TRANSFER_TIMEOUT_S_MIN), TRANSFER_TIMEOUT_S_MAX)


def refuse(text, value=FAILED):
    _errors.tell(text)
    return value


class TransferEngine:
    """One engine: it registers memory, and moves bytes between it and that of peers.

    It ends when nothing refers to it any more, or at `close()`.
    """

    TransferOpcode = TransferOpcode

    def __init__(self) -> None:
        self._core: Optional[Core] = None
        self._arenas: Optional[Arenas] = None
        self._own_names = frozenset()
        self._timeout_ms = 1000 * TRANSFER_TIMEOUT_S
        self._ids = itertools.count(1)
        # Held for bookkeeping of managed memory only, and made anew in a forked child.
        self._lock = threading.Lock()
        self._pid = os.getpid()

    # Life.

    def initialize(self, local_hostname: Key, metadata_server: Key, protocol: Key,
                   device_name: Optional[Key]) -> int:
        """initialize(local_hostname, metadata_server, protocol, device_name) -> int

        0, or -1. A metadata server without a scheme is an etcd cluster; "P2PHANDSHAKE" is none at
        all, and the engine then chooses its port: see `get_rpc_port`.
        """
        return self._initialize(local_hostname, metadata_server, protocol, device_name, "")

    def initialize_ext(self, local_hostname: Key, metadata_server: Key, protocol: Key,
                       device_name: Optional[Key], metadata_type: Key) -> int:
        """initialize_ext(local_hostname, metadata_server, protocol, device_name, metadata_type)
        -> int

        As `initialize`; `metadata_type` is the scheme of a server that has none.
        """
        return self._initialize(local_hostname, metadata_server, protocol, device_name,
                                metadata_type)

    def _initialize(self, local_hostname, metadata_server, protocol, device_name, scheme):
        try:
            host = convert.c_text("local_hostname", local_hostname, none=True).decode()
            server = convert.c_text("metadata_server", metadata_server, none=True).decode()
            protocol = convert.c_text("protocol", protocol, none=True).decode()
            device = convert.c_text("device_name", device_name, none=True).decode()
            scheme = convert.c_text("metadata_type", scheme, none=True).decode()
        except Refused as reason:
            return refuse(str(reason))
        except UnicodeDecodeError as reason:
            return refuse(f"an argument is no UTF-8: {reason}")
        bare = DEVICE_SUFFIX.match(host)
        host = bare.group(1) if bare else host
        if scheme and "://" not in server and server != "P2PHANDSHAKE":
            server = f"{scheme}://{server}"
        options = {"local_name": host.encode(), "metadata": server.encode()}
        if protocol not in CHOSEN:
            options["protocol"] = protocol.encode()
        settings = {}
        if device:
            settings["device_filters"] = [name for name in device.split(",") if name]
        status, core = Core.create(options, settings)
        if status != 0:
            _errors.tell_native(lib, status, "initialize")
            return FAILED
        before = self._core
        self._core, self._arenas = core, Arenas(core)
        self._own_names = frozenset((host, core.name))
        self._timeout_ms = transfer_timeout()
        if before is not None:
            before.close()
        return 0

    def close(self) -> int:
        """close() -> int

        Ends the engine now instead of when it is garbage; again does nothing. A store that was set
        up with it must be closed before.
        """
        core = self._core
        return self._answer(core.close(), "close") if core is not None else 0

    def __enter__(self) -> TransferEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, status, call):
        if status == 0:
            return 0
        _errors.tell_native(lib, status, call)
        return FAILED

    def _ready(self):
        """The engine; refused before `initialize`."""
        core = self._core
        if core is None:
            raise Refused("the engine is not initialized")
        return core

    def _locked(self):
        """The lock; one that another thread held while this process was forked is left behind."""
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock

    def get_rpc_port(self) -> int:
        """get_rpc_port() -> int: the port under which peers find this engine; 0 before."""
        core = self._core
        return core.rpc_port if core is not None else refuse("the engine is not initialized", 0)

    def get_engine(self) -> Optional[InnerTransferEngine]:
        """get_engine() -> InnerTransferEngine for the store; None before `initialize`."""
        core = self._core
        return InnerTransferEngine(core) if core is not None else None

    def get_engine_ptr(self) -> int:
        """get_engine_ptr() -> int: the handle as a number; 0 before `initialize`."""
        core = self._core
        return core.handle if core is not None else 0

    def get_local_topology(self, device_name: Optional[Key] = None) -> str:
        """get_local_topology(device_name=None) -> str: JSON, which adapters are near which
        memory."""
        if device_name is not None:
            convert.text("device_name", device_name)
        core = self._core
        if core is None:
            return refuse("the engine is not initialized", "{}")
        dump = json.loads(core.text(lib.mc_engine_dump) or "{}")
        matrix = dump.get("topology", {}).get("matrix", {})
        if device_name:
            matrix = {place: [[name for name in group if name in device_name.split(",")]
                              for group in groups] for place, groups in matrix.items()}
        return json.dumps(matrix)

    def warmup_efa_segment(self, segment_name: Key) -> int:
        """warmup_efa_segment(segment_name) -> int: 0; there is no EFA to prepare."""
        convert.text("segment_name", segment_name)
        return 0

    # Memory.

    def register_memory(self, buffer_addr: int, capacity: int, location: Key = "*") -> int:
        """register_memory(buffer_addr, capacity, location="*") -> int

        0; -7 when part or all of it is registered already; -1.
        """
        place = convert.number("buffer_addr", buffer_addr)
        size = convert.number("capacity", capacity)
        return self._register(array("Q", (place,)), array("Q", (size,)), location)

    def batch_register_memory(self, buffer_addresses: Numbers, capacities: Numbers,
                              location: Key = "*") -> int:
        """batch_register_memory(buffer_addresses, capacities, location="*") -> int

        All of them, or none when one is refused; as `register_memory`.
        """
        places = convert.numbers("buffer_addresses", buffer_addresses)
        sizes = convert.numbers("capacities", capacities)
        return self._register(places, sizes, location)

    def _register(self, places, sizes, location):
        try:
            where = convert.c_text("location", location)
            core = self._ready()
            if len(places) != len(sizes):
                raise Refused(f"{len(places)} addresses, but {len(sizes)} sizes")
        except Refused as reason:
            return refuse(str(reason))
        if not places:
            return 0
        # The library counts equal registrations; upstream refuses them.
        claimed = []
        for place, size in zip(places, sizes):
            mine = (size,)
            if core.registered.setdefault(place, mine) is not mine:
                self._unclaim(core, claimed)
                return refuse(f"memory at {place:#x} is registered already", ADDRESS_OVERLAPPED)
            claimed.append(place)
        status = core.register(places, sizes, where)
        if status == 0:
            return 0
        self._unclaim(core, claimed)
        _errors.tell_native(lib, status, "register_memory")
        return ADDRESS_OVERLAPPED if status == c.MC_ERR_OVERLAP else FAILED

    @staticmethod
    def _unclaim(core, places):
        for place in places:
            core.registered.pop(place, None)

    def unregister_memory(self, buffer_addr: int) -> int:
        """unregister_memory(buffer_addr) -> int: 0; -3 when nothing is registered there; -1."""
        return self._unregister(array("Q", (convert.number("buffer_addr", buffer_addr),)))

    def batch_unregister_memory(self, buffer_addresses: Numbers) -> int:
        """batch_unregister_memory(buffer_addresses) -> int: all of them or none; as
        `unregister_memory`."""
        return self._unregister(convert.numbers("buffer_addresses", buffer_addresses))

    def _unregister(self, places):
        try:
            core = self._ready()
        except Refused as reason:
            return refuse(str(reason))
        missing = [place for place in places if place not in core.registered]
        if missing:
            return refuse(f"no memory is registered at {missing[0]:#x}", ADDRESS_NOT_REGISTERED)
        status = core.unregister(places)
        if status == 0:
            self._unclaim(core, places)
            return 0
        _errors.tell_native(lib, status, "unregister_memory")
        return ADDRESS_NOT_REGISTERED if status == c.MC_ERR_NOT_REGISTERED else FAILED

    def allocate_managed_buffer(self, length: int) -> int:
        """allocate_managed_buffer(length) -> int: address of registered memory; 0 on failure."""
        length = convert.number("length", length)
        arenas = self._arenas
        if arenas is None:
            return refuse("the engine is not initialized", 0)
        with self._locked():
            why, place = arenas.allocate(length)
        if isinstance(why, int) and why != 0:
            _errors.tell_native(lib, why, "allocate_managed_buffer")
        elif why != 0:
            _errors.tell(f"allocate_managed_buffer: {why}")
        return place

    def free_managed_buffer(self, buffer_addr: int, length: int) -> int:
        """free_managed_buffer(buffer_addr, length) -> int: 0; -1 unless exactly this was
        allocated."""
        place = convert.number("buffer_addr", buffer_addr)
        length = convert.number("length", length)
        arenas = self._arenas
        if arenas is None:
            return refuse("the engine is not initialized")
        with self._locked():
            if arenas.release(place, length):
                return 0
        return refuse(f"no managed buffer of {length} bytes at {place:#x}")

    def get_first_buffer_address(self, segment_name: Key) -> int:
        """get_first_buffer_address(segment_name) -> int: of a peer or this engine; 0 on
        failure."""
        try:
            name = convert.c_text("segment_name", segment_name)
            core = self._ready()
        except Refused as reason:
            return refuse(str(reason), 0)
        own = name.decode("utf-8", "replace") in self._own_names
        status, segment = core.segment(core.name.encode() if own else name)
        if status == 0:
            status, place = core.first_buffer(segment)
        if status != 0:
            _errors.tell_native(lib, status, "get_first_buffer_address")
            return 0
        if place == 0 and own:
            # Upstream registers managed memory in advance; here the first who asks does, and has
            # it for itself.
            with self._locked():
                why, place = self._arenas.allocate(FIRST_BUFFER_BYTES)
            if place == 0:
                _errors.tell(f"get_first_buffer_address: {why}")
        return place

    def _reachable(self, place, length):
        """Whether bytes may be copied there: managed or registered memory."""
        if self._arenas.holds(place, length):
            return True
        core = self._core
        known = core.registered.get(place)
        if known is not None:
            return length <= known[0]
        return any(start <= place and place + length <= start + size
                   for start, (size,) in list(core.registered.items()))

    def write_bytes_to_buffer(self, dest_address: int, src_ptr: Union[bytes, str],
                              length: int) -> int:
        """write_bytes_to_buffer(dest_address, src_ptr, length) -> int

        Copies the first `length` bytes into managed or registered memory: 0, or -1.
        """
        place = convert.number("dest_address", dest_address)
        length = convert.number("length", length)
        try:
            data = convert.text("src_ptr", src_ptr)
            self._ready()
        except Refused as reason:
            return refuse(str(reason))
        if length > len(data):
            return refuse(f"{length} bytes asked of {len(data)}")
        if not self._reachable(place, length):
            return refuse(f"{length} bytes at {place:#x} are no managed or registered memory")
        ctypes.memmove(place, data, length)
        return 0

    def read_bytes_from_buffer(self, source_address: int, length: int) -> bytes:
        """read_bytes_from_buffer(source_address, length) -> bytes

        A copy from managed or registered memory; empty on failure.
        """
        place = convert.number("source_address", source_address)
        length = convert.number("length", length)
        if self._core is None:
            return refuse("the engine is not initialized", b"")
        if not self._reachable(place, length):
            return refuse(f"{length} bytes at {place:#x} are no managed or registered memory", b"")
        return ctypes.string_at(place, length)

    # Transfers that wait.

    def transfer_sync_write(self, target_hostname: Key, buffer: int, peer_buffer_address: int,
                            length: int, transport_hint: Key = "") -> int:
        """transfer_sync_write(target_hostname, buffer, peer_buffer_address, length,
        transport_hint="") -> int: 0 when the peer has the bytes, or -1."""
        return self._one(c.MC_WRITE, target_hostname, buffer, peer_buffer_address, length,
                         transport_hint)

    def transfer_sync_read(self, target_hostname: Key, buffer: int, peer_buffer_address: int,
                           length: int, transport_hint: Key = "") -> int:
        """transfer_sync_read(target_hostname, buffer, peer_buffer_address, length,
        transport_hint="") -> int: 0 when the bytes are here, or -1."""
        return self._one(c.MC_READ, target_hostname, buffer, peer_buffer_address, length,
                         transport_hint)

    def transfer_sync(self, target_hostname: Key, buffer: int, peer_buffer_address: int,
                      length: int, opcode: TransferOpcode,
                      notify: Optional[TransferNotify] = None, transport_hint: Key = "") -> int:
        """transfer_sync(target_hostname, buffer, peer_buffer_address, length, opcode, notify=None,
        transport_hint="") -> int: 0 or -1."""
        operation = opcode_of(opcode)
        if notify is None:
            return self._one(operation, target_hostname, buffer, peer_buffer_address, length,
                             transport_hint)
        return self._notifying(operation, target_hostname, (buffer,), (peer_buffer_address,),
                               (length,), notify, transport_hint)

    def batch_transfer_sync_write(self, target_hostname: Key, buffers: Numbers,
                                  peer_buffer_addresses: Numbers, lengths: Numbers,
                                  transport_hint: Key = "") -> int:
        """batch_transfer_sync_write(target_hostname, buffers, peer_buffer_addresses, lengths,
        transport_hint="") -> int: 0 when the peer has all bytes, or -1."""
        return self._many(c.MC_WRITE, target_hostname, buffers, peer_buffer_addresses, lengths,
                          transport_hint)

    def batch_transfer_sync_read(self, target_hostname: Key, buffers: Numbers,
                                 peer_buffer_addresses: Numbers, lengths: Numbers,
                                 transport_hint: Key = "") -> int:
        """batch_transfer_sync_read(target_hostname, buffers, peer_buffer_addresses, lengths,
        transport_hint="") -> int: 0 when all bytes are here, or -1."""
        return self._many(c.MC_READ, target_hostname, buffers, peer_buffer_addresses, lengths,
                          transport_hint)

    def batch_transfer_sync(self, target_hostname: Key, buffers: Numbers,
                            peer_buffer_addresses: Numbers, lengths: Numbers,
                            opcode: TransferOpcode, notify: Optional[TransferNotify] = None,
                            transport_hint: Key = "") -> int:
        """batch_transfer_sync(target_hostname, buffers, peer_buffer_addresses, lengths, opcode,
        notify=None, transport_hint="") -> int: 0 or -1."""
        operation = opcode_of(opcode)
        if notify is None:
            return self._many(operation, target_hostname, buffers, peer_buffer_addresses, lengths,
                              transport_hint)
        return self._notifying(operation, target_hostname, buffers, peer_buffer_addresses, lengths,
                               notify, transport_hint)

    def _one(self, operation, target, local, remote, length, hint):
        local = convert.number("buffer", local)
        remote = convert.number("peer_buffer_address", remote)
        length = convert.number("length", length)
        try:
            core, segment = self._target(target, hint)
        except Refused as reason:
            return refuse(str(reason))
        call = lib.mc_write if operation == c.MC_WRITE else lib.mc_read
        status = call(core.handle, segment, local, remote, length, self._limit_ms(length))
        return 0 if status == 0 else self._answer(status, f"transfer with {target}")

    def _many(self, operation, target, locals_, remotes, lengths, hint):
        locals_, remotes, lengths = lists(locals_, remotes, lengths)
        try:
            core, segment = self._target(target, hint, len(locals_), len(remotes), len(lengths))
        except Refused as reason:
            return refuse(str(reason))
        if segment is None:
            return 0
        status = core.move(operation, segment, locals_, remotes, lengths,
                           self._limit_ms(sum(lengths)))
        return 0 if status == 0 else self._answer(status, f"transfer with {target}")

    def _notifying(self, operation, target, locals_, remotes, lengths, notify, hint):
        if not isinstance(notify, TransferNotify):
            raise convert.wrong("notify", "TransferNotify", notify)
        code = self._many(operation, target, locals_, remotes, lengths, hint)
        if code != 0:
            return code
        # The peer has it when this returns, which a notification of the batch itself is not for.
        core, segment = self._target(target, hint)
        name, message = notify.name.encode(), notify.msg.encode()
        return self._answer(lib.mc_notify_send(core.handle, segment, name, len(name), message,
                                               len(message), 0), f"notification of {target}")

    def _target(self, target, hint, *counts):
        """(core, segment); a segment of None when there is nothing to move."""
        name = convert.c_text("target_hostname", target)
        convert.text("transport_hint", hint)
        core = self._ready()
        if counts and not counts[0] == counts[1] == counts[2]:
            raise Refused(f"the lists have {counts[0]}, {counts[1]} and {counts[2]} entries")
        if counts and counts[0] == 0:
            return core, None
        status, segment = core.segment(name)
        if status != 0:
            raise Refused(f"{target}: {_errors.native_text(lib, status)}")
        return core, segment

    def _limit_ms(self, total):
        return min(self._timeout_ms + 1000 * (total // GIB), WAIT_MS_MAX)

    # Transfers that go on by themselves.

    def transfer_submit_write(self, target_hostname: Key, buffer: int, peer_buffer_address: int,
                              length: int, transport_hint: Key = "") -> int:
        """transfer_submit_write(target_hostname, buffer, peer_buffer_address, length,
        transport_hint="") -> int: a batch id, or 0 on failure."""
        return self._begin(c.MC_WRITE, target_hostname, (buffer,), (peer_buffer_address,),
                           (length,), transport_hint)

    def batch_transfer_async_write(self, target_hostname: Key, buffers: Numbers,
                                   peer_buffer_addresses: Numbers, lengths: Numbers,
                                   transport_hint: Key = "") -> int:
        """batch_transfer_async_write(target_hostname, buffers, peer_buffer_addresses, lengths,
        transport_hint="") -> int: a batch id, or 0 on failure."""
        return self._begin(c.MC_WRITE, target_hostname, buffers, peer_buffer_addresses, lengths,
                           transport_hint)

    def batch_transfer_async_read(self, target_hostname: Key, buffers: Numbers,
                                  peer_buffer_addresses: Numbers, lengths: Numbers,
                                  transport_hint: Key = "") -> int:
        """batch_transfer_async_read(target_hostname, buffers, peer_buffer_addresses, lengths,
        transport_hint="") -> int: a batch id, or 0 on failure."""
        return self._begin(c.MC_READ, target_hostname, buffers, peer_buffer_addresses, lengths,
                           transport_hint)

    def batch_transfer_async(self, target_hostname: Key, buffers: Numbers,
                             peer_buffer_addresses: Numbers, lengths: Numbers,
                             opcode: TransferOpcode, transport_hint: Key = "") -> int:
        """batch_transfer_async(target_hostname, buffers, peer_buffer_addresses, lengths, opcode,
        transport_hint="") -> int: a batch id, or 0 on failure."""
        return self._begin(opcode_of(opcode), target_hostname, buffers, peer_buffer_addresses,
                           lengths, transport_hint)

    def _begin(self, operation, target, locals_, remotes, lengths, hint):
        locals_, remotes, lengths = lists(locals_, remotes, lengths)
        try:
            core, segment = self._target(target, hint, len(locals_), len(remotes), len(lengths))
            if segment is None:
                raise Refused("there is nothing to transfer")
        except Refused as reason:
            return refuse(str(reason), 0)
        limit_ms = self._limit_ms(sum(lengths))
        status, batch = core.submit(operation, segment, locals_, remotes, lengths, limit_ms)
        if status != 0:
            _errors.tell_native(lib, status, f"transfer with {target}")
            return 0
        number = next(self._ids)
        core.batches[number] = (batch, time.monotonic() + limit_ms / 1000)
        return number

    def _finish(self, number):
        """Waits for a batch and frees it: 0 or -1."""
        core = self._core
        batch, deadline = core.batches.pop(number, (None, 0))
        if batch is None:
            return refuse(f"there is no batch {number}")
        left_ms = min(max(0, int(1000 * (deadline - time.monotonic()))) + 1000, WAIT_MS_MAX)
        status = lib.mc_batch_wait(batch, left_ms, None)
        if status != 0:
            _errors.tell_native(lib, status, f"batch {number}")
        lib.mc_batch_destroy(batch)
        return 0 if status == 0 else FAILED

    def transfer_check_status(self, batch_id: int) -> int:
        """transfer_check_status(batch_id) -> int

        0 running, 1 done, -1 failed or unknown, -2 timed out. All but 0 free the id.
        """
        number = convert.number("batch_id", batch_id)
        core = self._core
        batch, _ = core.batches.get(number, (None, 0)) if core is not None else (None, 0)
        if batch is None:
            return refuse(f"there is no batch {number}")
        status = lib.mc_batch_poll(batch, None)
        if status == c.MC_IN_PROGRESS:
            return 0
        if status != 0:
            _errors.tell_native(lib, status, f"batch {number}")
        if core.batches.pop(number, None) is not None:
            lib.mc_batch_destroy(batch)
        if status == 0:
            return 1
        return -2 if status == c.MC_ERR_TIMEOUT else FAILED

    def get_batch_transfer_status(self, batch_ids: Numbers) -> int:
        """get_batch_transfer_status(batch_ids) -> int

        Waits for all and frees their ids: 0, or -1 when one failed or is unknown.
        """
        numbers = convert.numbers("batch_ids", batch_ids)
        if self._core is None:
            return refuse("the engine is not initialized") if numbers else 0
        return min((self._finish(number) for number in numbers), default=0)

    # Peers.

    def get_notifies(self) -> List[TransferNotify]:
        """get_notifies() -> list of TransferNotify that arrived since the last call."""
        core = self._core
        if core is None:
            return refuse("the engine is not initialized", [])
        status, found = core.notifications()
        if status != 0:
            _errors.tell_native(lib, status, "get_notifies")
        return [TransferNotify(name.decode("utf-8", "replace"), message.decode("utf-8", "replace"))
                for name, message in found]

    def send_probe(self, peer_server_name: Key) -> int:
        """send_probe(peer_server_name) -> int: 0 when the peer answers, else -1."""
        try:
            core, segment = self._target(peer_server_name, "")
        except Refused as reason:
            return refuse(str(reason))
        return self._answer(lib.mc_segment_probe(core.handle, segment, 0), "send_probe")


def opcode_of(opcode):
    if not isinstance(opcode, TransferOpcode):
        raise convert.wrong("opcode", "TransferOpcode", opcode)
    return int(opcode)


def lists(locals_, remotes, lengths):
    return (convert.numbers("buffers", locals_),
            convert.numbers("peer_buffer_addresses", remotes),
            convert.numbers("lengths", lengths))
