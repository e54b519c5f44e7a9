"""Warnings of libraries that nobody who runs a command can act upon.

Entry points silence them, importing never does: in a program of one's own every warning stays.
``PYTHONWARNINGS=default``, or Python's ``-W``, shows them all again.
"""

from __future__ import annotations

import sys
import warnings

__all__ = ["silence_libraries"]

_SILENCED = (
    # train.sharding is built on it, pinned to the version that it is tested with.
    "FSDP2 Config/APIs are experimental",
    # torch's own sharded checkpoints use it.
    "TypedStorage is deprecated",
    # A run of few steps has a warm-up of none.
    r"\s*The warmup duration is 0",
)
"""How the messages of warnings begin."""


def silence_libraries() -> None:
    """Ignore these warnings in this process, unless whoever started it has said which are to be shown."""
    if sys.warnoptions:
        return
    for message in _SILENCED:
        warnings.filterwarnings("ignore", message=message)
