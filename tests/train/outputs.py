"""What a model gives in one of its forward passes, changed: a loss that is no number, and the like."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from meap.train.model import NextTokenModel


@contextmanager
def at_pass(number: int, act: Callable[[Any], None]) -> Iterator[list[list[int]]]:
    """Do something to what the model gives in its forward pass `number`, from 0; yields the sample ids of all."""
    seen: list[list[int]] = []

    def hook(module: torch.nn.Module, given: Any, outputs: Any) -> None:
        if isinstance(module, NextTokenModel) and "sample_id" in given[0]:  # not a trial before the start
            seen.append(given[0]["sample_id"].tolist())
            if len(seen) == number + 1:
                act(outputs)

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def no_number(outputs: Any) -> None:
    outputs["loss"] = outputs["loss"] * float("nan")


def overflow_of_gradient(outputs: Any) -> None:
    outputs["loss"].register_hook(lambda gradient: gradient * float("inf"))


def out_of_memory(_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")
