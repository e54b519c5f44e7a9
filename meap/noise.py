"""Silences warnings of libraries that users of a command cannot act on.

Entry points call this; importing the library never does, so that other programs keep every warning.
``PYTHONWARNINGS=default``, or Python's ``-W``, shows them all again.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

__all__ = ["hide_loading_bars", "silence_libraries"]

_SILENCED = (
    # train.sharding uses it, at the version that it is tested with.
    "FSDP2 Config/APIs are experimental",
    # torch's own sharded checkpoints use it.
    "TypedStorage is deprecated",
    # A short run has no warm-up steps.
    r"\s*The warmup duration is 0",
)
"""How the messages of warnings begin."""


def hide_loading_bars(model: str | Path) -> None:
    """Hide transformers' progress bar for loading a local model; a download from the hub keeps its own.

    Args:
        model: Folder or hub name of the model that is about to be loaded.
    """
    transformers: Any = sys.modules.get("transformers")  # callers have imported it; an import here would be slow
    if transformers is not None and Path(model).is_dir():
        transformers.utils.logging.disable_progress_bar()


def silence_libraries() -> None:
    """Ignore these warnings in this process, unless the user chose which warnings to show.

    Ignore, too, that a library's own log cannot be written: `logging` prints a traceback, as for W&B's on a full disk.
    """
    if sys.warnoptions:
        return
    logging.raiseExceptions = False
    for message in _SILENCED:
        warnings.filterwarnings("ignore", message=message)
