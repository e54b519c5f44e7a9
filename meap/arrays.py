"""Operations that numpy and torch spell differently, on arrays of either.

torch is never imported here: a caller with tensors has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "arange",
    "cast_like",
    "concatenate",
    "copy_of",
    "flip",
    "full",
    "is_numpy",
    "like",
    "place_in",
    "repeat",
    "torch_of",
    "where",
]

Array: TypeAlias = Any
"""A numpy array or a torch tensor."""


def is_numpy(array: Array) -> bool:
    """Whether it is numpy's."""
    return isinstance(array, np.ndarray)


def torch_of() -> Any:
    """The module."""
    return sys.modules["torch"]


def copy_of(array: Array) -> Array:
    """A copy."""
    return array.copy() if is_numpy(array) else array.clone()


def arange(stop: int, *, like: Array) -> Array:
    """int64 from 0, where `like` is."""
    return np.arange(stop, dtype=np.int64) if is_numpy(like) else torch_of().arange(stop, device=like.device)


def full(shape: tuple[int, ...], value: bool | int, *, like: Array) -> Array:
    """`value` everywhere, where `like` is."""
    return np.full(shape, value) if is_numpy(like) else torch_of().full(shape, value, device=like.device)


def like(values: NDArray[Any], array: Array) -> Array:
    """`values`, where `array` is."""
    return values if is_numpy(array) else torch_of().as_tensor(values, device=array.device)


def cast_like(values: Array, array: Array) -> Array:
    """`values` in the type of `array`."""
    return values.astype(array.dtype) if is_numpy(values) else values.to(array.dtype)


def concatenate(columns: Sequence[Array]) -> Array:
    """Along the second axis."""
    return np.concatenate(columns, 1) if is_numpy(columns[0]) else torch_of().cat(tuple(columns), 1)


def repeat(values: Array, times: Array) -> Array:
    """Each value as often as `times` says."""
    return np.repeat(values, times) if is_numpy(values) else torch_of().repeat_interleave(values, times)


def where(condition: Array, one: Array, other: Array) -> Array:
    """Elements of `one` where the condition holds, else those of `other`."""
    return np.where(condition, one, other) if is_numpy(condition) else torch_of().where(condition, one, other)


def flip(array_BT: Array) -> Array:
    """The second axis from its end."""
    return array_BT[:, ::-1] if is_numpy(array_BT) else array_BT.flip(1)


def place_in(ascending: Array, values: Array) -> Array:
    """How many of the `ascending` numbers are smaller than each value."""
    return np.searchsorted(ascending, values) if is_numpy(values) else torch_of().searchsorted(ascending, values)
