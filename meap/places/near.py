"""Names of folders that are not there, and what was probably meant."""

from __future__ import annotations

import difflib
from contextlib import suppress
from pathlib import Path

__all__ = ["describe_missing", "is_missing", "is_there", "nearest"]


def is_there(path: Path) -> bool:
    """Whether a path is there, as far as this user may see."""
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError):  # no right to look; no home that ~ stands for
        return False


def is_missing(name: str) -> bool:
    """Whether a name stands for a folder or file here, not for one on the hub, and there is none."""
    path = Path(name)
    if is_there(path) or ("/" not in name and not name.startswith(".")):
        return False
    # `runs/` is where runs are by default, and no account; any other folder may hold what came from the hub.
    return path.is_absolute() or name.startswith((".", "~", "runs/")) or name.count("/") > 1


def nearest(path: Path) -> str:
    """What is called nearly as a path, as a question; empty where nothing is, or where the path is there."""
    there = list[str]()
    with suppress(OSError, RuntimeError):  # that is not there either, or not to be listed
        there = [each.name for each in path.expanduser().parent.iterdir()]
    near = [str(path.with_name(each)) for each in difflib.get_close_matches(path.name, there, n=2)]
    return f"did you mean {' or '.join(near)}?" if near and not is_there(path) else ""


def describe_missing(path: Path, *, remedy: str) -> str:
    """That a path is not there, with what is called nearly so, and with what else helps."""
    question = nearest(path)
    return f"is not there: {question} Or {remedy}" if question else f"is not there: {remedy}"
