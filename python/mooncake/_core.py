"""One engine of the library, its segments, batches and memory, with statuses instead of exceptions.

`mooncake.engine` turns these statuses into upstream's numbers, `mooncake.native` into exceptions.
Any thread may call anything at any time; what Python keeps is in dicts whose single operations are
atomic, so that a fork finds no lock taken.
"""

import ctypes
import json
import mmap
import weakref
from ctypes import byref, c_size_t, c_uint16, c_uint64, c_void_p

from . import _prototypes as c
from ._convert import address, columns
from ._library import lib

NAME_BYTES = 1024
MEMORY_LOCATION_ANY = b"*"


class Memory:
    """Zeroed memory of this process, with an address that stays while this object lives."""

    __slots__ = ("length", "address", "_map", "_pin")

    def __init__(self, length):
        self.length = length
        self._map = mmap.mmap(-1, length)
        self._pin = (ctypes.c_char * length).from_buffer(self._map)
        self.address = ctypes.addressof(self._pin)


def destroy(handle, kept):
    """Ends an engine; what it had registered may go only afterwards."""
    status = lib.mc_engine_destroy(handle)
    if status != c.MC_ERR_TIMEOUT:
        kept.clear()
    return status


class Core:
    """A running engine. It ends when nobody holds it any more, at `close`, or at exit."""

    def __init__(self, handle):
        self.handle = handle
        self.segments = {}
        # Address -> (length,) of what is registered by address, once each.
        self.registered = {}
        # What must outlive the engine: memory of its own, and exported buffers.
        self.kept = []
        self.batches = {}
        self.name = self.text(lib.mc_engine_local_name)
        port = c_uint16()
        lib.mc_engine_ports(handle, byref(port), None)
        self.rpc_port = port.value
        self._end = weakref.finalize(self, destroy, handle, self.kept)

    @classmethod
    def create(cls, options, settings):
        """(status, core); `settings` go as JSON below `options`, members of mc_engine_options_t."""
        values = {name: value for name, value in options.items() if value is not None}
        if settings:
            values["json"] = json.dumps(settings).encode()
        given = c.mc_engine_options_t(ctypes.sizeof(c.mc_engine_options_t), **values)
        handle = c_void_p()
        status = lib.mc_engine_create(byref(given), byref(handle))
        return status, cls(handle.value) if status == 0 else None

    def close(self):
        """Ends the engine; a second call does nothing."""
        return self._end() or 0

    @property
    def closed(self):
        return not self._end.alive

    def text(self, call):
        """A text that the library copies out."""
        length = c_size_t(NAME_BYTES)
        while True:
            room = length.value + 1
            buffer = ctypes.create_string_buffer(room)
            status = call(self.handle, buffer, room, byref(length))
            if status != 0 or length.value < room:
                return buffer.value.decode("utf-8", "replace") if status == 0 else ""

    def register(self, addresses, lengths, location, access=0):
        """All of them or none; arrays of words."""
        buffers = columns(addresses, lengths, 0, access)
        place = None
        if location and location != MEMORY_LOCATION_ANY:
            place = ctypes.create_string_buffer(location)
            buffers[2::4] = type(buffers)("Q", (ctypes.addressof(place),)) * len(addresses)
        return lib.mc_buffer_register_many(self.handle, address(buffers), len(addresses))

    def unregister(self, addresses):
        return lib.mc_buffer_unregister_many(self.handle, address(addresses), len(addresses))

    def segment(self, name):
        """(status, segment); opened once for each name and kept."""
        found = self.segments.get(name)
        if found is not None:
            return 0, found
        segment = c_uint64()
        status = lib.mc_segment_open(self.handle, name, byref(segment))
        if status == 0:
            self.segments[name] = segment.value
        return status, segment.value

    def first_buffer(self, segment):
        """(status, address) of the first buffer of a segment, freshly asked; address 0: none."""
        lib.mc_segment_refresh(self.handle, segment)
        buffer, count = c.mc_segment_buffer_t(), c_size_t()
        status = lib.mc_segment_buffers(self.handle, segment, byref(buffer), 1, byref(count))
        return status, buffer.address if status == 0 and count.value else 0

    def move(self, operation, segment, locals_, remotes, lengths, timeout_ms):
        """Moves ranges and waits for them; arrays of words of one length."""
        call = lib.mc_write_vector if operation == c.MC_WRITE else lib.mc_read_vector
        return call(self.handle, segment, address(locals_), address(remotes), address(lengths),
                    len(locals_), timeout_ms)

    def submit(self, operation, segment, locals_, remotes, lengths, timeout_ms):
        """(status, batch handle)."""
        batch = c_void_p()
        count = len(locals_)
        status = lib.mc_batch_create(self.handle, count, byref(batch))
        if status != 0:
            return status, None
        # operation and the zero behind it are one word on little-endian machines.
        requests = columns(operation, locals_, segment, remotes, lengths)
        options = c.mc_submit_options_t(ctypes.sizeof(c.mc_submit_options_t), timeout_ms)
        status = lib.mc_batch_submit_with(batch, address(requests), count, byref(options))
        if status != 0:
            lib.mc_batch_destroy(batch)
            return status, None
        return 0, batch.value

    def notifications(self):
        """(status, [(name, message)]) as bytes."""
        taken = c_void_p()
        status = lib.mc_notify_take(self.handle, byref(taken))
        if status != 0:
            return status, []
        found = []
        name, message, name_len, message_len = c_void_p(), c_void_p(), c_size_t(), c_size_t()
        for index in range(lib.mc_notifications_count(taken)):
            lib.mc_notifications_get(taken, index, byref(name), byref(name_len), byref(message),
                                     byref(message_len))
            found.append((ctypes.string_at(name.value, name_len.value),
                          ctypes.string_at(message.value, message_len.value)))
        lib.mc_notifications_destroy(taken)
        return 0, found
