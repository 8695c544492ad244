"""What is asked of a put beside the bytes: upstream's ReplicateConfig.

`hasattr` is how serving engines ask what a version can do, so a field that has no effect here is
not a field.
"""

from __future__ import annotations

import ctypes
import enum
from ctypes import c_char_p
from typing import List, Optional, Sequence

from . import _convert as convert
from . import _prototypes as c

INVALID_PARAMS = -600


class SoftPinAction(enum.IntEnum):
    """What a put does to the wish to keep an object longer."""

    PRESERVE = 0
    ENABLE = 1
    DISABLE = 2


class ReplicateConfig:
    """ReplicateConfig(): how many copies of an object, and where."""

    __slots__ = ("_replica_num", "_preferred_segment", "_preferred_segments", "_same_node",
                 "_soft_pin_action", "_soft_pin_ttl_ms", "_with_hard_pin")

    def __init__(self) -> None:
        self._replica_num = 1
        self._preferred_segment = ""
        self._preferred_segments = []
        self._same_node = False
        self._soft_pin_action = SoftPinAction.PRESERVE
        self._soft_pin_ttl_ms = None
        self._with_hard_pin = False

    @property
    def replica_num(self) -> int:
        """Copies, each in another segment."""
        return self._replica_num

    @replica_num.setter
    def replica_num(self, value: int) -> None:
        self._replica_num = convert.number("replica_num", value)

    @property
    def nof_replica_num(self) -> int:
        """Not there; but programs that set it to 0 ask for nothing, and may."""
        raise AttributeError("there are no copies over NVMe fabrics here")

    @nof_replica_num.setter
    def nof_replica_num(self, value: int) -> None:
        if convert.number("nof_replica_num", value) != 0:
            raise ValueError("nof_replica_num: there are no copies over NVMe fabrics here")

    @property
    def preferred_segment(self) -> str:
        """Name of the segment to try first: `get_hostname()` of its client."""
        return self._preferred_segment

    @preferred_segment.setter
    def preferred_segment(self, value: str) -> None:
        self._preferred_segment = convert.text("preferred_segment", value).decode()

    @property
    def preferred_segments(self) -> List[str]:
        """Names of segments to try first, a list of its own each time."""
        return list(self._preferred_segments)

    @preferred_segments.setter
    def preferred_segments(self, value: Sequence[str]) -> None:
        names = convert.sequence("preferred_segments", value)
        self._preferred_segments = [convert.text("preferred_segments", name).decode()
                                    for name in names]

    @property
    def prefer_alloc_in_same_node(self) -> bool:
        """Put all parts into one segment; for `batch_put_from_multi_buffers` only."""
        return self._same_node

    @prefer_alloc_in_same_node.setter
    def prefer_alloc_in_same_node(self, value: bool) -> None:
        self._same_node = convert.boolean("prefer_alloc_in_same_node", value)

    @property
    def with_soft_pin(self) -> bool:
        """Evict the object last."""
        return self._soft_pin_action == SoftPinAction.ENABLE

    @with_soft_pin.setter
    def with_soft_pin(self, value: bool) -> None:
        value = convert.boolean("with_soft_pin", value)
        self._soft_pin_action = SoftPinAction.ENABLE if value else SoftPinAction.PRESERVE

    @property
    def soft_pin_action(self) -> SoftPinAction:
        """The same, in the words of 0.3.13."""
        return self._soft_pin_action

    @soft_pin_action.setter
    def soft_pin_action(self, value: SoftPinAction) -> None:
        if not isinstance(value, SoftPinAction):
            raise convert.wrong("soft_pin_action", "SoftPinAction", value)
        self._soft_pin_action = value

    @property
    def soft_pin_ttl_ms(self) -> Optional[int]:
        """How long that lasts; None is what the master says."""
        return self._soft_pin_ttl_ms

    @soft_pin_ttl_ms.setter
    def soft_pin_ttl_ms(self, value: Optional[int]) -> None:
        self._soft_pin_ttl_ms = None if value is None else convert.number("soft_pin_ttl_ms", value)

    @property
    def with_hard_pin(self) -> bool:
        """Never evict the object."""
        return self._with_hard_pin

    @with_hard_pin.setter
    def with_hard_pin(self, value: bool) -> None:
        self._with_hard_pin = convert.boolean("with_hard_pin", value)

    def __str__(self) -> str:
        fields = ("replica_num", "with_soft_pin", "with_hard_pin", "preferred_segments",
                  "prefer_alloc_in_same_node")
        listed = ", ".join(f"{name}: {getattr(self, name)}" for name in fields)
        return f"ReplicateConfig: {{ {listed} }}"

    __repr__ = __str__


# ctypes objects keep what they point at only through `_objects`, so the array rides along.
class Options:
    """mc_put_options_t made from a config, with the memory it points at."""

    __slots__ = ("struct", "names")

    def __init__(self, config):
        flags = (c.MC_PUT_SOFT_PIN * config.with_soft_pin
                 | c.MC_PUT_HARD_PIN * config._with_hard_pin
                 | c.MC_PUT_SAME_NODE * config._same_node)
        names = list(config._preferred_segments)
        if config._preferred_segment:
            names.insert(0, config._preferred_segment)
        # A NUL would cut a name short; a name that nobody has is no error.
        encoded = [name.encode() for name in names if "\0" not in name and name]
        self.names = (c_char_p * len(encoded))(*encoded)
        self.struct = c.mc_put_options_t(
            ctypes.sizeof(c.mc_put_options_t), min(config._replica_num, convert.U32_MAX), flags, 0,
            config._soft_pin_ttl_ms or 0, ctypes.addressof(self.names) if encoded else None,
            len(encoded))


def options(name, config, multi_buffer=False):
    """(0, Options or None), or (-600, None) for what this call does not take."""
    if config is None:
        return 0, None
    if not isinstance(config, ReplicateConfig):
        raise convert.wrong(name, "ReplicateConfig", config)
    if config._replica_num == 0 or (config._same_node and not multi_buffer):
        return INVALID_PARAMS, None
    return 0, Options(config)
