"""What `torch.distributed.checkpoint` raises where a part of a sharded checkpoint cannot be read or written."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.checkpoint.api import CheckpointException

from meap.errors import CheckpointError, first_line

__all__ = ["errors_of_parts"]


@contextmanager
def errors_of_parts() -> Iterator[None]:
    """Raise within what has failed on a rank, in place of torch's error.

    That is no `Exception`, so that what handles failures would miss it, and its message is a traceback per rank.
    """
    try:
        yield
    except CheckpointException as error:
        failures = [failure for failure, _ in error.failures.values()]
        refused = (each for each in failures if isinstance(each, pickle.UnpicklingError))  # whatever else has failed
        failure = next(refused, failures[0])
        if not isinstance(failure, Exception):
            raise CheckpointError(f"{type(failure).__name__}: {first_line(failure)}") from error
        raise failure from error
