"""The files of a data set on the Hugging Face hub that is named without any: those of its train split.

Its README.md may say which they are (`configs`); else they are its parquet files, or those of the format that most of
its files have, without those whose path names another split.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from meap.errors import DataError

__all__ = ["is_data_set", "patterns_of_data_set"]

_DATA_SET = re.compile(r"hf://datasets/[^/@]+/[^/@]+(@(refs/(convert|pr)/[^/]+|[^/]+))?/?")
_OTHER_SPLIT = re.compile(r"(?<![a-z])(test|testing|eval|evaluation|valid|validation|val|dev)(?![a-z])")
_MOST_CARD_BYTES = 1 << 24
_TRAIN = "train"


def is_data_set(source: str) -> bool:
    """Whether a source is a whole data set on the hub."""
    return _DATA_SET.fullmatch(source) is not None


def patterns_of_data_set(filesystem: Any, source: str, path: str, suffixes: tuple[str, ...]) -> list[str]:
    """Globs of the train split's files, below the data set.

    Args:
        filesystem: The hub.
        source: The data set, for messages.
        path: The same, as the file system has it.
        suffixes: Ends of the names of readable files.

    Raises:
        DataError: It has several configurations, or no readable file.
    """
    configs = _configs(filesystem, path)
    if configs:
        by_split = _by_split(_chosen(configs, source))
        _say_others([split for split in by_split if split != _TRAIN], source)
        if patterns := by_split.get(_TRAIN):
            return patterns
    names = [name.removeprefix(path.rstrip("/") + "/") for name in filesystem.find(path)]
    kinds = Counter(kind for name in names if (kind := _kind(name, suffixes)))
    if not kinds:
        raise DataError(
            f"source={source}: the data set has no file of {', '.join(suffixes)}: the hub may have converted it, as "
            f"source='{source.partition('@')[0].rstrip('/')}@refs/convert/parquet/*/train/*.parquet'"
        )
    kind = ".parquet" if ".parquet" in kinds else kinds.most_common(1)[0][0]
    readable = [name for name in names if _kind(name, suffixes) == kind]
    training = [name for name in readable if not _OTHER_SPLIT.search(name.lower())]
    _say_others(sorted({_OTHER_SPLIT.search(name.lower())[1] for name in set(readable) - set(training)}), source)  # type: ignore[index]
    return [re.sub(r"([*?[])", r"[\1]", name) for name in training]


def _configs(filesystem: Any, path: str) -> list[dict[str, Any]]:
    from huggingface_hub import DatasetCard

    try:
        card = DatasetCard(
            filesystem.cat_file(f"{path.rstrip('/')}/README.md", start=0, end=_MOST_CARD_BYTES).decode(errors="replace")
        )
    except (FileNotFoundError, ValueError):  # there is no card, or it is not a mapping
        return []
    configs: Any = card.data.to_dict().get("configs")
    return [each for each in configs or [] if isinstance(each, dict) and each.get("data_files")]


def _chosen(configs: list[dict[str, Any]], source: str) -> dict[str, Any]:
    for each in configs:
        if each.get("default") or each.get("config_name") == "default" or len(configs) == 1:
            return each
    files = {str(each.get("config_name")): _by_split(each).get(_TRAIN, []) for each in configs}
    name, patterns = next(iter(files.items()))
    example = ",".join(f"{source.rstrip('/')}/{each}" for each in patterns)
    raise DataError(
        f"source={source} has several configurations ({', '.join(files)}) and no default: name the files of one, as "
        f"those of {name}, source='[{example}]'"
    )


def _by_split(config: dict[str, Any]) -> dict[str, list[str]]:
    """Patterns of a configuration's files."""
    files: Any = config["data_files"]
    if isinstance(files, dict):
        files = [{"split": split, "path": paths} for split, paths in files.items()]
    below = f"{config['data_dir'].strip('/')}/" if config.get("data_dir") else ""
    found: dict[str, list[str]] = {}
    for each in files if isinstance(files, list) else [files]:
        split, paths = (each.get("split", _TRAIN), each.get("path", [])) if isinstance(each, dict) else (_TRAIN, each)
        in_list: list[Any] = [paths] if isinstance(paths, str) else paths
        found.setdefault(str(split), []).extend(f"{below}{path}" for path in in_list)
    return found


def _kind(name: str, suffixes: tuple[str, ...]) -> str | None:
    """What a data file's name ends in; None for others, and for what describes the data set."""
    if name.lower().rsplit("/", 1)[-1] in {
        "dataset_infos.json",
        "dataset_dict.json",
        "state.json",
        "dataset_info.json",
    }:
        return None
    return max((suffix for suffix in suffixes if name.lower().endswith(suffix)), key=len, default=None)


def _say_others(splits: Iterable[str], source: str) -> None:
    if others := ", ".join(splits):
        print(f"note: source={source}: only its train split is read, not {others}", file=sys.stderr, flush=True)
