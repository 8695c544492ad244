"""What the store service answers: objects by key, and memory for the pool that comes and goes.

`Handlers` is the service without its life: coroutines `handle_NAME` for `/api/NAME`. A failure is
{"error": text}, of the store with {"code", "reason"} beside it.
"""

from __future__ import annotations

import functools
from typing import Any, Awaitable, Callable, Dict, List, Optional, Tuple

import mooncake

from ._http import BYTES, Request, Response, told

Answer = Callable[[Any, Request], Awaitable[Response]]


class Refusal(Exception):
    """The answer to a request that cannot be done."""

    def __init__(self, status: int, error: str, **members: Any):
        super().__init__(error)
        self.response = told(status, error=error, **members)


def answered(handler: Answer) -> Answer:
    """A handler of which every end is an answer."""
    @functools.wraps(handler)
    async def complete(self: Any, request: Request) -> Response:
        try:
            return await handler(self, request)
        except Refusal as refusal:
            return refusal.response
        except Exception as error:  # The store's, or of an argument that it refuses.
            return told(500, error=f"{type(error).__name__}: {error}")
    return complete


def done(code: int, error: str, **members: Any) -> None:
    """Refuses unless the store's code is good."""
    if code < 0:
        raise Refusal(500, error, code=code, reason=mooncake.last_error(), **members)


async def members_of(request: Request) -> Dict[str, Any]:
    """The object in a body."""
    try:
        found = await request.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refusal(400, "a JSON object expected")
    return found


def names_of(members: Dict[str, Any]) -> List[str]:
    """The segments that a body names, one or several."""
    found = members.get("segment_ids") or []
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise Refusal(400, "Missing segment_ids")
    return found


class Handlers:
    """Every handler takes a request and gives the answer; any thread may call it."""

    store: Any = None
    config: Any = None

    # Objects.

    @answered
    async def handle_put(self, request: Request) -> Response:
        """PUT {"key", "value"}: stores a text."""
        members = await members_of(request)
        key, value = members.get("key"), members.get("value")
        if not key or value is None:
            raise Refusal(400, "Missing key or value")
        if not isinstance(key, str) or not isinstance(value, str):
            raise Refusal(400, "key and value are texts")
        done(self.store.put(key, value.encode("utf-8", "surrogatepass")), "PUT operation failed")
        return told(200, status="success")

    @answered
    async def handle_get(self, request: Request) -> Response:
        """GET: the bytes of an object."""
        key = request.match_info["key"]
        # No bytes may be no object, or one that came or went between the questions.
        for _ in range(2):
            value = self.store.get(key)
            if value:
                break
            if value is None:
                raise Refusal(500, "GET operation failed", reason=mooncake.last_error())
            found = self.store.is_exist(key)
            done(found, "Exist check failed")
            if not found:
                raise Refusal(404, "Key not found")
        return Response(200, body=value, content_type=BYTES)

    @answered
    async def handle_exist(self, request: Request) -> Response:
        """GET: {"exists": true or false}."""
        found = self.store.is_exist(request.match_info["key"])
        done(found, "Exist check failed")
        return told(200, exists=bool(found))

    @answered
    async def handle_remove(self, request: Request) -> Response:
        """DELETE: removes an object."""
        done(self.store.remove(request.match_info["key"]), "Remove operation failed")
        return told(200, status="success")

    @answered
    async def handle_remove_all(self, request: Request) -> Response:
        """DELETE: removes what nobody is reading, and tells how many that were."""
        count = self.store.remove_all()
        done(count, "RemoveAll operation failed")
        return told(200, status=f"success removed {count} keys", removed=count)

    # Memory for the pool.

    @answered
    async def handle_mount(self, request: Request) -> Response:
        """POST {"size", "protocol", "location"}: gives so many bytes more to the pool."""
        members = await members_of(request)
        size = members.get("size")
        if type(size) is not int or size <= 0:
            raise Refusal(400, "Invalid size, must be a positive integer")
        found = self.store.allocate_and_mount_segment(size, *self._way(members))
        done(found["ret"], "Allocate and mount failed")
        return told(200, status="success", segment_ids=list(found["segment_ids"]),
                    allocated_size=found["allocated_size"])

    @answered
    async def handle_unmount(self, request: Request) -> Response:
        """POST {"segment_ids", "grace_period_seconds"}: takes it back."""
        members = await members_of(request)
        grace = members.get("grace_period_seconds", 0)
        done(self.store.unmount_and_free_segment(names_of(members), grace),
             "Unmount and free failed")
        return told(200, status="success")

    def _way(self, members: Dict[str, Any]) -> Tuple[Any, Any]:
        return members.get("protocol", self.config.protocol), members.get("location", "")
