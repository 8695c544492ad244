"""The store for event loops: `async_put` runs `put` in the loop's executor, and so on."""

import asyncio
import functools
from typing import Any

from .store import MooncakeDistributedStore

PREFIX = "async_"


class MooncakeDistributedStoreAsync(MooncakeDistributedStore):
    """A store whose every method NAME is also a coroutine `async_NAME`.

    A coroutine that is cancelled leaves its call running; the store stays safe, and the call's
    memory must stay until it ends.
    """

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(PREFIX):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        method = getattr(self, name[len(PREFIX):])
        if not callable(method):
            raise AttributeError(name)

        @functools.wraps(method)
        async def run(*arguments, **named):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, functools.partial(method, *arguments, **named))

        return run
