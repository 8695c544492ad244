"""Managed buffers of an engine: pieces of a few large registered mappings.

A mapping is address space until it is written, so a large one costs nothing. Free pieces are kept
by size, as serving engines ask for the same few sizes again and again.
"""

from array import array

from ._core import Memory

ARENA_BYTES = 256 << 20
UNIT_BYTES = 4096
# A managed buffer is memory of this host; more than this is a mistake.
BUFFER_BYTES_MAX = 1 << 40


def rounded(size):
    """What a buffer of `size` bytes takes: a power of two, so that freed pieces fit again."""
    return max(UNIT_BYTES, 1 << (size - 1).bit_length())


class Arenas:
    """The managed buffers of one engine."""

    def __init__(self, core):
        self.core = core
        self.free = {}
        self.used = {}
        # Free rest of the newest mapping: [address, bytes left].
        self.rest = [0, 0]
        # Mappings with one buffer, which end with it.
        self.alone = {}

    def grow(self, size):
        """(0, the new mapping), or (the status of the registration, None)."""
        try:
            memory = Memory(size)
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            return str(error), None
        # The engine may touch it until it ends, and only then it goes.
        self.core.kept.append(memory)
        status = self.core.register(array("Q", (memory.address,)), array("Q", (memory.length,)),
                                    None)
        if status != 0:
            self.core.kept.remove(memory)
            return status, None
        return 0, memory

    def allocate(self, size):
        """(0, address), or (why not, 0). Callers hold the engine's lock."""
        if not 0 < size <= BUFFER_BYTES_MAX:
            return f"a managed buffer of {size} bytes", 0
        taken = rounded(size)
        pieces = self.free.get(taken)
        if pieces:
            place = pieces.pop()
        elif size > ARENA_BYTES:
            why, memory = self.grow(size)
            if why != 0:
                return why, 0
            place = memory.address
            self.alone[place] = memory
        else:
            if self.rest[1] < taken:
                why, memory = self.grow(ARENA_BYTES)
                if why != 0:
                    return why, 0
                self.rest = [memory.address, memory.length]
            place = self.rest[0]
            self.rest = [place + taken, self.rest[1] - taken]
        self.used[place] = size
        return 0, place

    def release(self, place, size):
        """True when a buffer of exactly this size was there."""
        if self.used.get(place) != size:
            return False
        del self.used[place]
        memory = self.alone.pop(place, None)
        if memory is None:
            self.free.setdefault(rounded(size), []).append(place)
        elif self.core.unregister(array("Q", (place,))) == 0:
            # Whatever could touch it has ended; else it stays until the engine ends.
            self.core.kept.remove(memory)
        return True

    def holds(self, place, size):
        """Whether a range is inside one managed buffer."""
        found = self.used.get(place)
        if found is not None:
            return size <= found
        return any(start <= place and place + size <= start + length
                   for start, length in list(self.used.items()))
