"""Registered buffers on loan; see `mooncake.store.BufferPool`."""

from .store import BufferLease, BufferPool, RegisteredBufferPool

__all__ = ["BufferLease", "BufferPool", "RegisteredBufferPool"]
