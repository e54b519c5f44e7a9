"""Warnings of libraries that nobody who runs a command can act upon.

Entry points silence them, importing never does: in a program of one's own every warning stays.
``PYTHONWARNINGS=default``, or Python's ``-W``, shows them all again.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

__all__ = ["hide_loading_bars", "silence_libraries"]

_SILENCED = (
    # train.sharding is built on it, pinned to the version that it is tested with.
    "FSDP2 Config/APIs are experimental",
    # torch's own sharded checkpoints use it.
    "TypedStorage is deprecated",
    # A run of few steps has a warm-up of none.
    r"\s*The warmup duration is 0",
)
"""How the messages of warnings begin."""


def hide_loading_bars(model: str | Path) -> None:
    """Let transformers read a model from a folder without a bar for its tensors; a download from the hub keeps its own.

    Args:
        model: What is about to be loaded.
    """
    transformers: Any = sys.modules.get("transformers")  # whoever loads has imported it; here it would be too heavy
    if transformers is not None and Path(model).is_dir():
        transformers.utils.logging.disable_progress_bar()


def silence_libraries() -> None:
    """Ignore these warnings in this process, unless whoever started it has said which are to be shown."""
    if sys.warnoptions:
        return
    for message in _SILENCED:
        warnings.filterwarnings("ignore", message=message)
