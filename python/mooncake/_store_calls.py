"""What all calls of the store share: numbers of failures, lists made into what the library takes."""

import ctypes
from array import array
from itertools import accumulate, chain
from typing import Dict

from . import _convert as convert
from . import _errors
from . import _prototypes as c
from ._convert import WORD, address, columns
from ._errors import Refused
from ._library import lib
from ._replicate import INVALID_PARAMS, must_be_config, options

NO_SPACE, OBJECT_NOT_FOUND, OBJECT_EXISTS = -200, -704, -705
STRUCT_BYTES = ctypes.sizeof(c.mc_store_range_t)

_codes: Dict[int, int] = {0: 0}


def code_of(status):
    """Upstream's number for a status of the library."""
    code = _codes.get(status)
    if code is None:
        code = _codes[status] = lib.mc_store_upstream_code(status)
    return code


def put_code_of(status):
    """As `code_of`; an object that is there is what a put wants. One that is only on its way may
    never arrive: that is -703, where upstream has success."""
    return 0 if status == c.MC_ERR_OBJECT_EXISTS else code_of(status)


def refuse(reason, value=INVALID_PARAMS):
    """What a call answers without asking the library."""
    _errors.tell(str(reason))
    return value


def put_of_nothing(key, config):
    """What a put of no bytes gives that is no mistake."""
    convert.text("key", key)
    try:
        options("config", config, 1)
    except Refused as reason:
        return refuse(reason)
    return 0


def empty_value(config):
    """What a put of an empty value gives."""
    must_be_config("config", config)
    return refuse("an empty value")


def told(status, call, translate=code_of):
    """Upstream's number for a status; the reason is kept when that is a failure."""
    code = translate(status)
    if code != 0:
        _errors.tell_native(lib, status, call)
    return code


def answers(keys, status, statuses, call, translate):
    """Upstream's numbers for all keys of a batch."""
    if status != 0:
        return [told(status, call)] * keys.count
    if not any(statuses):
        return [0] * keys.count
    codes = [translate(status) for status in statuses]
    failed = next((status for status in statuses if translate(status) != 0), 0)
    if failed:
        _errors.tell_native(lib, failed, call)
    return codes


def names_only(keys):
    """mc_store_object_t of keys without memory."""
    return columns(keys.addresses, keys.lengths, 0, 0)


def one_range_each(keys, places, sizes):
    """(objects, what they point at), or None when the lists do not fit."""
    if not len(places) == len(sizes) == keys.count:
        return None
    if keys.count == 0:
        return (), ()
    ranges = columns(places, sizes)
    first = address(ranges)
    starts = array(WORD, range(first, first + STRUCT_BYTES * keys.count, STRUCT_BYTES))
    return columns(keys.addresses, keys.lengths, starts, 1), ranges


def many_ranges_each(keys, all_places, all_sizes):
    """(objects, what they point at), or None when the lists do not fit."""
    all_places = convert.sequence("all_buffer_ptrs", all_places)
    all_sizes = convert.sequence("all_sizes", all_sizes)
    all_places = [convert.sequence("all_buffer_ptrs", places) for places in all_places]
    all_sizes = [convert.sequence("all_sizes", sizes) for sizes in all_sizes]
    counts = array(WORD, map(len, all_places))
    flat_places = convert.numbers("all_buffer_ptrs", list(chain.from_iterable(all_places)))
    flat_sizes = convert.numbers("all_sizes", list(chain.from_iterable(all_sizes)))
    if len(counts) != keys.count or counts != array(WORD, map(len, all_sizes)):
        return None
    if keys.count == 0:
        return (), ()
    ranges = columns(flat_places, flat_sizes)
    starts = array(WORD, accumulate(chain((address(ranges),),
                                          (STRUCT_BYTES * count for count in counts))))
    starts.pop()
    return columns(keys.addresses, keys.lengths, starts, counts), ranges


def flat_bytes(part):
    """Refuses, as upstream does, what is not one row of bytes."""
    try:
        view = memoryview(part)
    except TypeError:
        raise convert.wrong("parts", "contiguous bytes", part) from None
    if view.ndim != 1 or view.itemsize != 1:
        raise RuntimeError("parts must be 1-D bytes-like")
