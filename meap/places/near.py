"""Names of folders that are not there, and what was probably meant."""

from __future__ import annotations

import difflib
from pathlib import Path

__all__ = ["describe_missing", "is_missing", "nearest"]


def is_missing(name: str) -> bool:
    """Whether a name stands for a folder or file here, not for one on the hub, and there is none."""
    path = Path(name).expanduser()
    if path.exists() or ("/" not in name and not name.startswith(".")):
        return False
    # The first part of a hub's name is an account, never a folder that is here; `runs/` is where runs are by default.
    return path.is_absolute() or name.startswith((".", "runs/")) or name.count("/") > 1 or path.parent.is_dir()


def nearest(path: Path) -> str:
    """What is called nearly as a path that is not there, as a question; empty where nothing is."""
    there = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = [str(path.with_name(each)) for each in difflib.get_close_matches(path.name, there, n=2)]
    return f"did you mean {' or '.join(near)}?" if near else ""


def describe_missing(path: Path, *, remedy: str) -> str:
    """That a path is not there, with what is called nearly so, and with what else helps."""
    question = nearest(path)
    return f"is not there: {question} Or {remedy}" if question else f"is not there: {remedy}"
