"""KV cache between inference processes: `mooncake.engine`, `mooncake.store`, `mooncake.native`.

Importing this package loads nothing; its modules load the library when they are imported.
"""

from pkgutil import extend_path

# Other distributions may add submodules of their own.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
__all__ = ["last_error"]


def last_error() -> str:
    """Why the last call of this thread failed that returned a number instead of raising."""
    from . import _errors
    return _errors.last()
