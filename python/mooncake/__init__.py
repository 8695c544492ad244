"""KV cache between inference processes: `mooncake.engine`, `mooncake.store`, `mooncake.native`.

Importing this package loads nothing; its modules load the library when they are imported.
"""

from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# Other distributions may add submodules of their own.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
__all__ = ["BufferPool", "RegisteredBufferPool", "last_error"]

if TYPE_CHECKING:
    from .store import BufferPool, RegisteredBufferPool


def last_error() -> str:
    """Why the last call of this thread failed that returned a number instead of raising."""
    from . import _errors
    return _errors.last()


def __getattr__(name: str) -> Any:
    """Loads the library for those names of it that upstream has here too."""
    if name in ("BufferPool", "RegisteredBufferPool"):
        from . import store
        return store.BufferPool
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
