"""Turns arguments into what the library takes; refuses what upstream's binding refuses.

What has the wrong type, or is a number out of range, is a TypeError that names the argument. ctypes
would cut such numbers silently. Lists become one array each, filled at the speed of C.
"""

from array import array
from itertools import accumulate, chain
from operator import index

from ._errors import Refused

WORD = "Q"
WORD_BYTES = array(WORD).itemsize
U64_MAX = (1 << 64) - 1
U32_MAX = (1 << 32) - 1


def wrong(name, wanted, value):
    """The TypeError for an argument."""
    return TypeError(f"argument '{name}': {wanted} expected, not {type(value).__name__}")


def number(name, value, maximum=U64_MAX):
    """An unsigned number: int or anything with __index__."""
    try:
        value = index(value)
    except TypeError:
        raise wrong(name, "an integer", value) from None
    if not 0 <= value <= maximum:
        raise TypeError(f"argument '{name}': {value} is not between 0 and {maximum}")
    return value


def numbers(name, values):
    """An array of unsigned 64-bit numbers from a list, a tuple, a numpy array or a sequence."""
    kind = type(values)
    if kind is not list and kind is not tuple:
        values = sequence(name, values)
    try:
        return array(WORD, values)
    except (TypeError, OverflowError):
        for place, value in enumerate(values):
            number(f"{name}[{place}]", value)
        raise


def sequence(name, values):
    """A list of what is in a sequence; texts and buffers of bytes are none."""
    if isinstance(values, (list, tuple)):
        return values
    if isinstance(values, (str, bytes, bytearray, memoryview, dict, set)):
        raise wrong(name, "a list", values)
    to_list = getattr(values, "tolist", None)
    if to_list is not None:
        found = to_list()
        if isinstance(found, list):
            return found
    elif hasattr(values, "__getitem__") and hasattr(values, "__len__"):
        return list(values)
    raise wrong(name, "a list", values)


def seconds(name, value):
    """A length of time as a number; None for no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise wrong(name, "seconds", value)
    return value


def text(name, value):
    """UTF-8 bytes of a str, or bytes as they are."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise TypeError(f"argument '{name}': text expected that is valid UTF-8") from None
    if isinstance(value, bytes):
        return value
    raise wrong(name, "str", value)


def c_text(name, value, none=False):
    """A text that the library reads up to its NUL, so that it must not hold one."""
    if value is None and none:
        return b""
    value = text(name, value)
    if b"\0" in value:
        raise Refused(f"argument '{name}' holds a NUL")
    return value


def boolean(name, value):
    """A bool, as upstream's binding takes it: True or False, or numpy's."""
    if isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool_", "bool") and type(value).__module__ == "numpy":
        return bool(value)
    raise wrong(name, "bool", value)


class Keys:
    """Names of objects as the library takes them: addresses and lengths, in one buffer."""

    __slots__ = ("bytes", "addresses", "lengths", "count")

    def __init__(self, name, keys):
        keys = sequence(name, keys)
        try:
            encoded = [key.encode() for key in keys]
        except (AttributeError, UnicodeEncodeError):
            encoded = [text(f"{name}[{place}]", key) for place, key in enumerate(keys)]
        self.count = len(encoded)
        self.lengths = array(WORD, map(len, encoded))
        # One NUL keeps the array from being empty.
        self.bytes = array("b", b"".join(encoded) + b"\0")
        first = self.bytes.buffer_info()[0]
        self.addresses = array(WORD, accumulate(chain((first,), self.lengths)))
        self.addresses.pop()

    def name(self, place):
        """The bytes of one name."""
        start = self.addresses[place] - self.addresses[0]
        return self.bytes[start:start + self.lengths[place]].tobytes()


def columns(*parts):
    """An array of structs whose members are 64-bit words, from one array for each member.

    A part that is a number is the same in every struct. At least one part is an array.
    """
    count = next(len(part) for part in parts if isinstance(part, array))
    width = len(parts)
    table = array(WORD, bytes(WORD_BYTES * width * count))
    for place, part in enumerate(parts):
        table[place::width] = part if isinstance(part, array) else array(WORD, (part,)) * count
    return table


def address(words):
    """Where an array's first element is; 0 when it is empty."""
    return words.buffer_info()[0]
