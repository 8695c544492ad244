"""Names of types in annotations; nothing here is needed to run.

Only for type checkers: `typing_extensions` and torch are not imported otherwise.
"""

from typing import TYPE_CHECKING, Any, List, Sequence, Union

if TYPE_CHECKING:
    from typing import Protocol

    from torch import Tensor
    from typing_extensions import Buffer

    class HasToList(Protocol):
        """An array of numpy, or what looks like one."""

        def tolist(self) -> Any:
            """A list of Python numbers."""
else:
    Tensor = Buffer = HasToList = Any

Key = Union[str, bytes]
Keys = Union[Sequence[str], Sequence[bytes]]
Numbers = Union[Sequence[int], HasToList]
# A buffer, or an address whose length is given beside it.
Memory = Union[Buffer, int]
NumbersEach = Sequence[Numbers]
Codes = List[int]

__all__ = ["Buffer", "Codes", "HasToList", "Key", "Keys", "Memory", "Numbers", "NumbersEach", "Tensor"]
