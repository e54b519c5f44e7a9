"""The files that a path, glob, folder or URL stands for; what of them is passed over is said."""

from __future__ import annotations

import glob
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast

from fsspec.implementations.local import LocalFileSystem

from meap.errors import DataError
from meap.places.addresses import is_url, relative_to
from meap.places.folder import open_filesystem
from meap.places.problems import place_errors
from meap.prep.decompression import COMPRESSIONS
from meap.prep.hub import is_data_set, patterns_of_data_set

__all__ = ["list_files"]


def list_files(source: str, *, suffixes: tuple[str, ...], kind: str, key: str) -> tuple[str, dict[str, int]]:
    """The folder or URL that holds the files, and the stored bytes of each by its path below, sorted.

    Args:
        source: A path, glob, folder or URL. One that exists is taken as it is, with brackets in its name or not.
        suffixes: Ends of the file names that are read in a folder.
        kind: What the files hold, for error messages.
        key: Of the configuration, for error messages.

    Raises:
        DataError: It stands for no file, for something else than files, or cannot be listed.
    """
    filesystem, _ = open_filesystem(source)
    shown = source if is_url(source) else str(Path(source).expanduser())
    passed_over: list[str] = []
    with place_errors(f"{key}={source}"):
        root, pattern = _split_glob(filesystem, shown)
        path = cast("str", filesystem._strip_protocol(root or "."))
        if pattern:
            found = _matching(filesystem, path, [pattern])
            passed_over = _other_cases(filesystem, path, pattern, found)
        elif is_data_set(source):
            root = shown.rstrip("/")
            found = _matching(filesystem, path, patterns_of_data_set(filesystem, source, path, suffixes))
        elif filesystem.isdir(path):
            root = shown.rstrip("/") or shown
            entries = _entries(filesystem, path)
            found = {name: info for name, info in entries.items() if _is_file(info) and name.lower().endswith(suffixes)}
            passed_over = [
                name + "/" * (info["type"] == "directory") for name, info in entries.items() if name not in found
            ]
        elif filesystem.exists(path):
            root, _, _ = shown.rpartition("/")
            found = {path: filesystem.info(path)}
        else:
            found = {}
    said = _described(passed_over)
    if not found:
        of_folder = [suffix for suffix in suffixes if not suffix.endswith(COMPRESSIONS)]
        raise DataError(
            f"{key}={source} matches no file{relative_to(source)}{f'; passed over: {said}' if said else ''}: give a "
            f"path, glob, folder (of {', '.join(of_folder)}) or URL of {kind}"
        )
    if said:
        print(f"note: {key}={source}: passed over {said}", file=sys.stderr, flush=True)
    for name, info in found.items():
        _require_regular(filesystem, name, info)
    base = cast("str", filesystem._strip_protocol(root or ".")).rstrip("/") + "/"
    sizes = {name.removeprefix(base): int(info.get("size") or 0) for name, info in found.items()}
    return root or ".", dict(sorted(sizes.items()))


def _split_glob(filesystem: Any, source: str) -> tuple[str, str]:
    """The part of a source before its first wildcard, up to a slash, and the rest; what exists has no wildcard."""
    parts = source.split("/")
    for number, part in enumerate(parts):
        before = "/".join(parts[: number + 1])
        if glob.has_magic(part) and not filesystem.exists(filesystem._strip_protocol(before)):
            root = "/".join(parts[:number])
            return root or ("/" if source.startswith("/") else "."), "/".join(parts[number:])
    return source, ""


def _matching(filesystem: Any, path: str, patterns: Iterable[str]) -> dict[str, dict[str, Any]]:
    # Else the Hugging Face hub is asked for the last commit of each file.
    options = {"expand_info": False} if "hf" in filesystem.protocol else {}
    found: dict[str, dict[str, Any]] = {}
    for pattern in patterns:
        found |= filesystem.glob(f"{glob.escape(path.rstrip('/'))}/{pattern}", detail=True, **options)
    return {name: info for name, info in found.items() if not _is_folder(info)}


def _entries(filesystem: Any, path: str) -> dict[str, dict[str, Any]]:
    """What is directly in a folder, but for hidden files."""
    options = {"expand_info": False} if "hf" in filesystem.protocol else {}
    listed = {info["name"].rstrip("/"): info for info in filesystem.ls(path, detail=True, **options)}
    return {name: info for name, info in listed.items() if name != path.rstrip("/") and not _name(name).startswith(".")}


def _other_cases(filesystem: Any, path: str, pattern: str, found: Mapping[str, Any]) -> list[str]:
    """Local files that a pattern would match if they were written in small letters, as it is."""
    if "/" in pattern or pattern != pattern.lower() or not isinstance(filesystem, LocalFileSystem):
        return []
    others = [each for each in _entries(filesystem, path) if each not in found] if filesystem.isdir(path) else []
    return [each for each in others if PurePosixPath(_name(each).lower()).match(pattern) and _name(each) != pattern]


def _described(names: Iterable[str]) -> str:
    """How many files there are by the ends of their names, and how many folders."""
    all_names = list(names)
    counts = Counter(f"of {PurePosixPath(name).suffix or 'no extension'}" for name in all_names if name[-1] != "/")
    said = [f"{count:,} {kind}" for kind, count in counts.most_common()]
    folders = len(all_names) - counts.total()
    return ", ".join([*said, f"{folders:,} folder{'s' * (folders > 1)}"] if folders else said)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _is_file(info: Mapping[str, Any]) -> bool:
    return not _is_folder(info)


def _is_folder(info: Mapping[str, Any]) -> bool:
    return info["type"] == "directory" or (bool(info.get("islink")) and Path(info["name"]).is_dir())


def _require_regular(filesystem: Any, name: str, info: Mapping[str, Any]) -> None:
    """Raise unless a local file can be read twice and has an end, as pipes and devices have not."""
    if not isinstance(filesystem, LocalFileSystem) or info["type"] == "file":
        return
    mode = (
        Path(name).stat().st_mode if Path(name).exists() else stat.S_IFREG
    )  # a link that leads nowhere: opening it says so
    if not stat.S_ISREG(mode):
        what = "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise DataError(f"{name} is {what}, which cannot be read again after an interruption: write it to a file")
