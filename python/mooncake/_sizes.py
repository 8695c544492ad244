"""Sizes as people write them in configurations: 4096, "4096", "4gb", "1.5 GiB"."""

import re

UNITS = {"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mb": 1 << 20,
         "mib": 1 << 20, "g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30, "t": 1 << 40, "tb": 1 << 40,
         "tib": 1 << 40}
SIZE_MAX = 1 << 64
FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*$")


def parse_size(value):
    """Bytes; ValueError for what is no size."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is no size")
    if isinstance(value, (int, float)):
        # Neither infinity nor "not a number" is below that.
        if not 0 <= value < SIZE_MAX or value != int(value):
            raise ValueError(f"{value!r} is no size")
        return int(value)
    found = FORM.match(str(value))
    unit = UNITS.get(found.group(2).lower()) if found else None
    if unit is None:
        raise ValueError(f"{value!r} is no size")
    if found.group(1).isdigit():
        return int(found.group(1)) * unit
    return int(float(found.group(1)) * unit)
