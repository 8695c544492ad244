"""Tensors as objects, in the layout of 0.3.7; whole, over memory of the caller, or cut into shards.

A shard of rank N is an object of its own, named KEY_tp_N. torch is imported when a tensor is asked
for, and by nothing else.
"""

from __future__ import annotations

import ctypes
from typing import List, Optional, Sequence

from . import _convert as convert
from . import _errors, _safetensors, _tensor
from ._buffers import Value
from ._convert import Keys
from ._errors import Refused
from ._replicate import INVALID_PARAMS, ReplicateConfig, options, part_of
from ._store_calls import many_ranges_each, refuse
from ._store_ranges import Held
from ._types import Codes, Key, Numbers, Tensor
from . import _types as types

SHARDS_MAX = 1 << 16


class Stored:
    """A tensor as it is stored: the header, the elements, and what keeps both."""

    __slots__ = ("places", "sizes", "keepers")

    def __init__(self, tensor, header):
        tensor = tensor.detach().cpu().contiguous()
        head = Value("header", header)
        length = tensor.element_size() * tensor.numel()
        self.places, self.sizes, self.keepers = [head.address], [head.length], (head, tensor)
        if length:
            self.places.append(tensor.data_ptr())
            self.sizes.append(length)


class Tensors:
    """Calls of the store about tensors."""

    # Whole.

    def put_tensor(self, key: Key, tensor: Tensor) -> int:
        """put_tensor(key, tensor) -> int: 0 or negative. At most four dimensions."""
        return self._put_tensors((key,), (tensor,), None, "put_tensor")[0]

    def pub_tensor(self, key: Key, tensor: Tensor,
                   config: Optional[ReplicateConfig] = None) -> int:
        """pub_tensor(key, tensor, config=ReplicateConfig()) -> int: as `put_tensor`."""
        return self._put_tensors((key,), (tensor,), config, "pub_tensor")[0]

    def upsert_tensor(self, key: Key, tensor: Tensor) -> int:
        """upsert_tensor(key, tensor) -> int: as `put_tensor`, with the rules of `upsert`."""
        return self._put_tensors((key,), (tensor,), None, "upsert_tensor", over=True)[0]

    def upsert_pub_tensor(self, key: Key, tensor: Tensor,
                          config: Optional[ReplicateConfig] = None) -> int:
        """upsert_pub_tensor(key, tensor, config=ReplicateConfig()) -> int: as `upsert_tensor`."""
        return self._put_tensors((key,), (tensor,), config, "upsert_pub_tensor", over=True)[0]

    def batch_put_tensor(self, keys: types.Keys, tensors_list: Sequence[Tensor]) -> Codes:
        """batch_put_tensor(keys, tensors_list) -> list of 0 or negative."""
        return self._put_tensors(keys, tensors_list, None, "batch_put_tensor")

    def batch_pub_tensor(self, keys: types.Keys, tensors_list: Sequence[Tensor],
                         config: Optional[ReplicateConfig] = None) -> Codes:
        """batch_pub_tensor(keys, tensors_list, config=ReplicateConfig()) -> list of 0 or
        negative."""
        return self._put_tensors(keys, tensors_list, config, "batch_pub_tensor")

    def batch_upsert_tensor(self, keys: types.Keys, tensors_list: Sequence[Tensor]) -> Codes:
        """batch_upsert_tensor(keys, tensors_list) -> list of 0 or negative; see `upsert`."""
        return self._put_tensors(keys, tensors_list, None, "batch_upsert_tensor", over=True)

    def batch_upsert_pub_tensor(self, keys: types.Keys, tensors_list: Sequence[Tensor],
                                config: Optional[ReplicateConfig] = None) -> Codes:
        """batch_upsert_pub_tensor(keys, tensors_list, config=ReplicateConfig()) -> list of 0 or
        negative; see `upsert`."""
        return self._put_tensors(keys, tensors_list, config, "batch_upsert_pub_tensor", over=True)

    def get_tensor(self, key: Key) -> Optional[Tensor]:
        """get_tensor(key) -> torch tensor with memory of its own, or None."""
        return self.batch_get_tensor((convert.text("key", key),))[0]

    def batch_get_tensor(self, keys: types.Keys) -> List[Optional[Tensor]]:
        """batch_get_tensor(keys) -> list of tensors, None where there is none."""
        return [self._load(held) for held in self._hold(Keys("keys", keys), "batch_get_tensor")]

    @staticmethod
    def _load(held):
        if not isinstance(held, Held):
            return None
        memory = (ctypes.c_char * held.length).from_address(held.address)
        found = _tensor.load(memory)
        return found if found is not None else refuse("this object is no tensor", None)

    def _put_tensors(self, keys, tensors, config, call, over=False):
        """One object for each tensor; what cannot be stored is -600 by itself."""
        names = [convert.text("keys", key) for key in convert.sequence("keys", keys)]
        tensors = convert.sequence("tensors_list", tensors)
        if len(tensors) != len(names):
            return [refuse("the lists do not have the same lengths")] * len(names)
        codes, good = [INVALID_PARAMS] * len(names), []
        try:
            options("config", config, len(names))
        except Refused as reason:
            return [refuse(reason)] * len(names)
        for place, tensor in enumerate(tensors):
            header = _tensor.header_of(tensor) if _tensor.is_tensor(tensor) else None
            if header is None:
                refuse(f"{call}: {kind_of(tensor)}")
            else:
                good.append((place, Stored(tensor, header)))
        chosen = Keys("keys", [names[place] for place, _ in good])
        ranges = many_ranges_each(chosen, [stored.places for _, stored in good],
                                  [stored.sizes for _, stored in good])
        config = part_of(config, [place for place, _ in good])
        put = self._upsert_batch(chosen, ranges, config, call) if over \
            else self._put_batch(chosen, ranges, config, call, False)
        for (place, _), code in zip(good, put):
            codes[place] = code
        return codes

    # Over memory of the caller: the header, then the elements.

    def put_tensor_from(self, key: Key, buffer_ptr: int, size: int) -> int:
        """put_tensor_from(key, buffer_ptr, size) -> int: 0 or negative; the memory holds a tensor
        as `get_tensor_into` leaves it, and `size` is what that takes."""
        return self.batch_put_tensor_from((convert.text("key", key),),
                                          (convert.number("buffer_ptr", buffer_ptr),),
                                          (convert.number("size", size),))[0]

    def upsert_tensor_from(self, key: Key, buffer_ptr: int, size: int) -> int:
        """upsert_tensor_from(key, buffer_ptr, size) -> int: as `put_tensor_from`, with the rules of
        `upsert`."""
        return self.batch_upsert_tensor_from((convert.text("key", key),),
                                             (convert.number("buffer_ptr", buffer_ptr),),
                                             (convert.number("size", size),))[0]

    def batch_put_tensor_from(self, keys: types.Keys, buffer_ptrs: Numbers,
                              sizes: Numbers) -> Codes:
        """batch_put_tensor_from(keys, buffer_ptrs, sizes) -> list of 0 or negative."""
        return self._put_tensors_from(keys, buffer_ptrs, sizes, self.batch_put_from)

    def batch_upsert_tensor_from(self, keys: types.Keys, buffer_ptrs: Numbers,
                                 sizes: Numbers) -> Codes:
        """batch_upsert_tensor_from(keys, buffer_ptrs, sizes) -> list of 0 or negative; see
        `upsert`."""
        return self._put_tensors_from(keys, buffer_ptrs, sizes, self.batch_upsert_from)

    @staticmethod
    def _put_tensors_from(keys, places, sizes, put):
        names = convert.sequence("keys", keys)
        places, sizes = convert.numbers("buffer_ptrs", places), convert.numbers("sizes", sizes)
        if not len(names) == len(places) == len(sizes):
            return [refuse("the lists do not have the same lengths")] * len(names)
        good = [place for place, words in enumerate(zip(places, sizes)) if holds_tensor(*words)]
        codes = [INVALID_PARAMS] * len(names)
        for place, code in zip(good, put([names[place] for place in good],
                                         [places[place] for place in good],
                                         [sizes[place] for place in good])):
            codes[place] = code
        return codes

    def get_tensor_into(self, key: Key, buffer_ptr: int, size: int) -> Optional[Tensor]:
        """get_tensor_into(key, buffer_ptr, size) -> tensor over that memory, or None. The memory
        must stay as long as the tensor."""
        return self.batch_get_tensor_into((convert.text("key", key),),
                                          (convert.number("buffer_ptr", buffer_ptr),),
                                          (convert.number("size", size),))[0]

    def batch_get_tensor_into(self, keys: types.Keys, buffer_ptrs: Numbers,
                              sizes: Numbers) -> List[Optional[Tensor]]:
        """batch_get_tensor_into(keys, buffer_ptrs, sizes) -> list of tensors over that memory, None
        where there is none."""
        places = convert.numbers("buffer_ptrs", buffer_ptrs)
        found = self.batch_get_into(keys, places, sizes)
        return [_tensor.view((ctypes.c_char * length).from_address(place)) if length > 0 else None
                for place, length in zip(places, found)] \
            if len(found) == len(places) else [None] * len(found)

    # In shards.

    def put_tensor_with_tp(self, key: Key, tensor: Tensor, tp_rank: int = 0, tp_size: int = 1,
                           split_dim: int = 0) -> int:
        """put_tensor_with_tp(key, tensor, tp_rank=0, tp_size=1, split_dim=0) -> int

        0 or negative. All shards are put, whatever `tp_rank` is.
        """
        return self.batch_pub_tensor_with_tp((key,), (tensor,), None, tp_rank, tp_size,
                                             split_dim)[0]

    def pub_tensor_with_tp(self, key: Key, tensor: Tensor,
                           config: Optional[ReplicateConfig] = None, tp_rank: int = 0,
                           tp_size: int = 1, split_dim: int = 0) -> int:
        """pub_tensor_with_tp(key, tensor, config=ReplicateConfig(), tp_rank=0, tp_size=1,
        split_dim=0) -> int: as `put_tensor_with_tp`."""
        return self.batch_pub_tensor_with_tp((key,), (tensor,), config, tp_rank, tp_size,
                                             split_dim)[0]

    def batch_put_tensor_with_tp(self, base_keys: types.Keys, tensors_list: Sequence[Tensor],
                                 tp_rank: int = 0, tp_size: int = 1, split_dim: int = 0) -> Codes:
        """batch_put_tensor_with_tp(base_keys, tensors_list, tp_rank=0, tp_size=1, split_dim=0)
        -> list of 0 or negative."""
        return self.batch_pub_tensor_with_tp(base_keys, tensors_list, None, tp_rank, tp_size,
                                             split_dim)

    def batch_pub_tensor_with_tp(self, base_keys: types.Keys, tensors_list: Sequence[Tensor],
                                 config: Optional[ReplicateConfig] = None, tp_rank: int = 0,
                                 tp_size: int = 1, split_dim: int = 0) -> Codes:
        """batch_pub_tensor_with_tp(base_keys, tensors_list, config=ReplicateConfig(), tp_rank=0,
        tp_size=1, split_dim=0) -> list of 0 or negative."""
        names = [convert.text("base_keys", key)
                 for key in convert.sequence("base_keys", base_keys)]
        tensors = convert.sequence("tensors_list", tensors_list)
        shards = shard_count(tp_rank, tp_size, split_dim)
        if len(tensors) != len(names):
            return [refuse("the lists do not have the same lengths")] * len(names)
        try:
            options("config", config, len(names))
        except Refused as reason:
            return [refuse(reason)] * len(names)
        # All shards of a tensor are in its group.
        return [self._put_shards(name, tensor, shards, split_dim, part_of(config, [place] * shards))
                for place, (name, tensor) in enumerate(zip(names, tensors))]

    def _put_shards(self, name, tensor, shards, dimension, config):
        if shards == 1:
            return self._put_tensors((name,), (tensor,), config, "put_tensor_with_tp")[0]
        if not _tensor.is_tensor(tensor):
            return refuse(f"put_tensor_with_tp: {kind_of(tensor)}")
        if dimension >= len(tensor.shape):
            return refuse(f"a tensor of {len(tensor.shape)} dimensions has no {dimension}")
        parts = list(tensor.chunk(shards, dimension))
        if len(parts) != shards:
            return refuse(f"{tensor.shape[dimension]} rows do not make {shards} shards")
        keys = [shard_name(name, rank, shards) for rank in range(shards)]
        codes = self._put_tensors(keys, parts, config, "put_tensor_with_tp")
        return next((code for code in codes if code != 0), 0)

    def put_tensor_with_tp_from(self, key: Key, buffer_ptr: int, size: int, tp_rank: int = 0,
                                tp_size: int = 1, split_dim: int = 0) -> int:
        """put_tensor_with_tp_from(key, buffer_ptr, size, tp_rank=0, tp_size=1, split_dim=0) -> int

        The memory holds the whole tensor; all shards are put, whatever `tp_rank` is.
        """
        return self.batch_put_tensor_with_tp_from(
            (convert.text("key", key),), (convert.number("buffer_ptr", buffer_ptr),),
            (convert.number("size", size),), tp_rank, tp_size, split_dim)[0]

    def batch_put_tensor_with_tp_from(self, base_keys: types.Keys, buffer_ptrs: Numbers,
                                      sizes: Numbers, tp_rank: int = 0, tp_size: int = 1,
                                      split_dim: int = 0) -> Codes:
        """batch_put_tensor_with_tp_from(base_keys, buffer_ptrs, sizes, tp_rank=0, tp_size=1,
        split_dim=0) -> list of 0 or negative."""
        if shard_count(tp_rank, tp_size, split_dim) == 1:
            return self.batch_put_tensor_from(base_keys, buffer_ptrs, sizes)
        names = convert.sequence("base_keys", base_keys)
        places = convert.numbers("buffer_ptrs", buffer_ptrs)
        lengths = convert.numbers("sizes", sizes)
        if not len(names) == len(places) == len(lengths):
            return [refuse("the lists do not have the same lengths")] * len(names)
        whole = [_tensor.view((ctypes.c_char * size).from_address(place))
                 if holds_tensor(place, size) else None for place, size in zip(places, lengths)]
        return self.batch_put_tensor_with_tp(names, whole, tp_rank, tp_size, split_dim)

    def get_tensor_with_tp(self, key: Key, tp_rank: int = 0, tp_size: int = 1,
                           split_dim: int = 0) -> Optional[Tensor]:
        """get_tensor_with_tp(key, tp_rank=0, tp_size=1, split_dim=0) -> the shard of a rank, or
        None."""
        shard_count(tp_rank, tp_size, split_dim)
        return self.batch_get_tensor_with_tp((convert.text("key", key),), tp_rank, tp_size)[0]

    def batch_get_tensor_with_tp(self, base_keys: types.Keys, tp_rank: int = 0,
                                 tp_size: int = 1) -> List[Optional[Tensor]]:
        """batch_get_tensor_with_tp(base_keys, tp_rank=0, tp_size=1) -> list of shards, None where
        there is none."""
        return self.batch_get_tensor(shard_names(base_keys, tp_rank, tp_size))

    def get_tensor_with_tp_into(self, key: Key, buffer_ptr: int, size: int, tp_rank: int = 0,
                                tp_size: int = 1, split_dim: int = 0) -> Optional[Tensor]:
        """get_tensor_with_tp_into(key, buffer_ptr, size, tp_rank=0, tp_size=1, split_dim=0) -> the
        shard of a rank over that memory, or None."""
        shard_count(tp_rank, tp_size, split_dim)
        return self.get_tensor_into(shard_names((convert.text("key", key),), tp_rank, tp_size)[0],
                                    buffer_ptr, size)

    def batch_get_tensor_with_tp_into(self, base_keys: types.Keys, buffer_ptrs: Numbers,
                                      sizes: Numbers, tp_rank: int = 0,
                                      tp_size: int = 1) -> List[Optional[Tensor]]:
        """batch_get_tensor_with_tp_into(base_keys, buffer_ptrs, sizes, tp_rank=0, tp_size=1)
        -> list of shards over that memory, None where there is none."""
        return self.batch_get_tensor_into(shard_names(base_keys, tp_rank, tp_size), buffer_ptrs,
                                          sizes)

    # Files.

    def save_tensor_to_safetensor(self, key: Key, file_name: Optional[str] = None) -> int:
        """save_tensor_to_safetensor(key, file_name=None) -> int: 0 or negative. Without a name the
        key is that of the file; what was there is replaced."""
        name = convert.text("key", key).decode("utf-8", "replace")
        path = name if file_name is None else convert.text("file_name", file_name).decode("utf-8", "surrogateescape")
        data = self.get(name)
        if not data:
            return refuse(f"no object {name}")
        found = _tensor.parse(data)
        if found is None:
            return refuse(f"{name} is no tensor")
        try:
            _safetensors.write(path, name, *found, memoryview(data)[_tensor.HEADER.size:])
        except (OSError, ValueError) as reason:
            return refuse(f"{path}: {reason}", -1)
        return 0

    def load_tensor_from_safetensor(self, key: Optional[Key] = None,
                                    file_name: Optional[str] = None) -> Optional[Tensor]:
        """load_tensor_from_safetensor(key=None, *, file_name) -> tensor, or None

        Puts the file's tensor of that name, or its first, into the store and returns it. Without a
        key the file's name is that of the object.
        """
        if file_name is None:
            raise convert.wrong("file_name", "str", file_name)
        path = convert.text("file_name", file_name).decode("utf-8", "surrogateescape")
        name = path if key is None else convert.text("key", key).decode("utf-8", "replace")
        try:
            dtype, shape, elements = _safetensors.read(path, name)
        except (OSError, ValueError) as reason:
            return refuse(f"{path}: {reason}", None)
        header = _tensor.header(dtype, shape)
        if header is None or len(elements) != _tensor.size_of(dtype, shape):
            return refuse(f"{path}: a tensor that is no object of the store", None)
        code = self.put_parts(name, header, elements)
        return _tensor.load(header + elements) if code == 0 else None


def serialize(tensor: Tensor) -> tuple:
    """_serialize_tensor(tensor) -> (header, address, bytes, owner): what `put_tensor` stores."""
    header = _tensor.header_of(tensor) if _tensor.is_tensor(tensor) else None
    if header is None:
        raise ValueError(f"{kind_of(tensor)} cannot be stored")
    owner = tensor.detach().cpu().contiguous()
    return header, owner.data_ptr(), owner.element_size() * owner.numel(), owner


def deserialize(data: bytes) -> Optional[Tensor]:
    """_deserialize_tensor(data) -> tensor with memory of its own; None when it is none."""
    return _tensor.load(data)


def metadata_size() -> int:
    """_tensor_metadata_size() -> int: bytes before the elements of a stored tensor."""
    return _tensor.HEADER.size


def kind_of(value):
    """What a value is, for people."""
    if not _tensor.is_tensor(value):
        return f"{type(value).__name__} is no torch tensor"
    return f"{value.dtype} with {len(value.shape)} dimensions"


def holds_tensor(place, size):
    """Whether memory holds one stored tensor and nothing more."""
    if place == 0 or size < _tensor.HEADER.size:
        _errors.tell("memory that is too small for a tensor")
        return False
    found = _tensor.parse(ctypes.string_at(place, _tensor.HEADER.size))
    if found is None or _tensor.HEADER.size + _tensor.size_of(*found) != size:
        _errors.tell("memory that holds no tensor of this size")
        return False
    return True


def shard_count(tp_rank, tp_size, split_dim):
    """How many shards; 0 is none, as 1."""
    convert.number("tp_rank", tp_rank, SHARDS_MAX)
    convert.number("split_dim", split_dim, SHARDS_MAX)
    return max(1, convert.number("tp_size", tp_size, SHARDS_MAX))


def shard_name(name, rank, shards):
    return name if shards == 1 else name + b"_tp_%d" % rank


def shard_names(keys, rank, size):
    """Names of the shards of one rank."""
    shards = shard_count(rank, size, 0)
    return [shard_name(convert.text("base_keys", key), rank, shards)
            for key in convert.sequence("base_keys", keys)]
