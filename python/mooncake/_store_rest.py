"""What the store service answers: objects by key, and memory for the pool that comes and goes.

`Handlers` is the service without its life: coroutines `handle_NAME` for `/api/NAME`. A failure is
{"error": text}, of the store with {"code", "reason"} beside it.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, Awaitable, Callable, Dict, List, Optional, Tuple

import mooncake

from ._http import BYTES, Request, Response, told

SHARED_MEMORY = "/dev/shm/"
PREFILL, DECODE = "prefill", "decode"

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


def _shm_name_to_path(name: Any) -> Optional[str]:
    """The file of a name of shared memory, which may begin with a slash; None for another text."""
    if not isinstance(name, str):
        return None
    bare = name[1:] if name.startswith("/") else name
    return None if bare in ("", ".", "..") or "/" in bare or "\0" in bare else SHARED_MEMORY + bare


class Handlers:
    """Every handler takes a request and gives the answer; any thread may call it."""

    store: Any = None
    config: Any = None
    # What /api/reconfigure has made of this service.
    current_mode = PREFILL
    mounted_segment_ids: List[str]
    last_mount_info: Dict[str, Any]
    # One change of the mode at a time; a process has one service.
    _changing = threading.Lock()

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

    @answered
    async def handle_mount_shm(self, request: Request) -> Response:
        """POST {"name", "size", "offset", "protocol", "location"}: gives shared memory to the pool,
        which others of this host have as well."""
        members = await members_of(request)
        path, size = _shm_name_to_path(members.get("name")), members.get("size")
        if path is None or size is None:
            raise Refusal(400, "Missing or invalid name or size")
        found = self._mount(path, size, members)
        done(found["ret"], "Mount failed")
        return told(200, status="success", segment_ids=list(found["segment_ids"]))

    @answered
    async def handle_unmount_shm(self, request: Request) -> Response:
        """POST {"segment_ids", "grace_period_seconds"}: takes it back, each for itself."""
        members = await members_of(request)
        names, grace = names_of(members), members.get("grace_period_seconds", 0)
        with self._changing:
            failed = [name for name in names if self.store.unmount_segment([name], grace) != 0]
            self.mounted_segment_ids = [name for name in self.mounted_segment_ids
                                        if name not in names or name in failed]
            if not self.mounted_segment_ids:
                self.current_mode = PREFILL
        if failed:
            raise Refusal(500, "Unmount failed for one or more segments",
                          failed_segment_ids=failed, reason=mooncake.last_error())
        return told(200, status="success")

    @answered
    async def handle_reconfigure(self, request: Request) -> Response:
        """POST {"mode": "decode", "path", "size", ...}: mounts a file of shared memory in place of
        the one before, which stays when that fails. {"mode": "prefill"}: unmounts it."""
        members = await members_of(request)
        mode = members.get("mode")
        mode = mode.lower() if isinstance(mode, str) else ""
        if mode not in (DECODE, PREFILL):
            raise Refusal(400, "Invalid mode. Use 'decode' or 'prefill'")
        if mode == DECODE and (not members.get("path") or members.get("size") is None):
            raise Refusal(400, "Missing path or size for decode mode")
        with self._changing:
            if mode == PREFILL:
                self._leave()
                return told(200, status="success", mode=self.current_mode)
            self._enter(members)
            return told(200, status="success", mode=self.current_mode,
                        segment_ids=list(self.mounted_segment_ids))

    def _enter(self, members: Dict[str, Any]) -> None:
        path, size, before = members["path"], members["size"], self.mounted_segment_ids
        found = self._mount(path, size, members)
        if found["ret"] < 0:
            if not before:
                self.current_mode = PREFILL
                self.last_mount_info = {}
            what = "keeping previous decode segments" if before else "rolled back to prefill"
            done(found["ret"], f"Mount failed; {what}", mode=self.current_mode)
        kept = [name for name in before if self.store.unmount_segment([name]) != 0]
        self.mounted_segment_ids = list(found["segment_ids"]) + kept
        self.current_mode = DECODE
        protocol, location = self._way(members)
        self.last_mount_info = {"path": path, "offset": members.get("offset", 0), "size": size,
                                "protocol": protocol, "location": location}

    def _leave(self) -> None:
        if self.mounted_segment_ids:
            done(self.store.unmount_segment(self.mounted_segment_ids), "Unmount failed")
        self.mounted_segment_ids, self.last_mount_info = [], {}
        self.current_mode = PREFILL

    def _mount(self, path: str, size: Any, members: Dict[str, Any]) -> Dict[str, Any]:
        mount = getattr(self.store, "mount_segment", None)
        if mount is None:
            raise Refusal(501, "memory of others cannot be mounted by this version")
        found: Dict[str, Any] = mount(path, size, members.get("offset", 0), *self._way(members))
        return found

    def _way(self, members: Dict[str, Any]) -> Tuple[Any, Any]:
        return members.get("protocol", self.config.protocol), members.get("location", "")
