"""The sizes that a model's config.json states, checked before anything is built by them.

A config.json may come from anywhere and say anything. For a thousand million layers transformers would make as many
objects: that never ends, and takes all memory. So what it states is compared with bounds, and with the weights beside
it, of which the headers alone are read. Other shapes than those of the weights are found while these are loaded;
`misfit` then says which size it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from meap.errors import CheckpointError
from meap.json_text import MOST_BYTES, RESTORE, TooLargeError, parse_json, read_small, too_large

__all__ = ["misfit", "require_allowed_sizes", "require_stated_sizes"]

_CONFIG: Final = "config.json"
_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_CONFIG_BYTES = 1 << 24
_MOST_HEADER_BYTES = 100_000_000
"""What safetensors itself reads."""
_MOST_LAYERS = 4096
"""Thirty times as many as the deepest model in use has."""
_MOST_OF_A_SIZE = 1 << 24
"""Far more than the largest vocabulary in use has, and no other size is larger."""
_LAYERS = re.compile(r"(num|n)_(\w+_)?layers?")
_ALL_LAYERS = {"num_hidden_layers", "num_layers", "n_layers", "n_layer"}
_SIZES = re.compile(
    r"(?!\w*(window|chunk|seq|context|image|batch|cache|block|group|kernel)_size)"  # what no weight has
    r"(\w+_)?(size|dim|heads|groups|experts|rank|width)|(num|n)_(\w+_)?(heads?|experts|embd|inner)|d_(model|ff|kv|inner)"
)
_DIMENSIONS = {"vocab_size", "hidden_size", "intermediate_size", "n_embd", "d_model", "d_ff", "ffn_dim"}
"""Sizes that are dimensions of weights."""
_LAYER_OF_WEIGHT = re.compile(r"\.(\d+)\.")
_REMEDY = "give the config.json that came with these weights"


@dataclass(frozen=True)
class _Weights:
    """What the headers of a model's safetensors files say."""

    name: str
    shapes: Mapping[str, list[int]]

    @property
    def num_layers(self) -> int:
        """As many as the names count; experts are counted, too, which makes it a bound."""
        return 1 + max((int(each) for name in self.shapes for each in _LAYER_OF_WEIGHT.findall(name)), default=0)

    @property
    def num_values(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


def require_stated_sizes(model: str, name: str, *, fresh: bool = False) -> None:
    """Raise `CheckpointError` if a config.json states sizes that no model has, or that its weights cannot have.

    Weights of a name on the hub are compared where they are here already.

    Args:
        model: The model and its key, for the error.
        name: A folder, a config.json, or a name on the hub.
        fresh: Whether weights beside it are not read.
    """
    path = _find(name)
    if path is None:
        return  # whoever reads it says so
    for each in sorted(path.parent.glob("*.json")) if path.name == _CONFIG else ():
        if (size := each.stat().st_size) > MOST_BYTES:  # transformers reads settings and tokenizer beside it whole
            raise CheckpointError(f"{model}: {each} is refused, since {too_large(size, MOST_BYTES)}: {RESTORE}")
    try:
        stored = parse_json(read_small(path, most=_MOST_CONFIG_BYTES))
    except TooLargeError as error:
        raise CheckpointError(f"{model}: {path} describes no model, since {error}: {_REMEDY}") from error
    except (OSError, ValueError):
        return
    require_allowed_sizes(f"{model}: {path}", stored)
    weights = None if fresh or _is_packed(stored) else _read_weights(path.parent)
    if weights is None:
        return
    for key, value in _sizes_of_text(stored):
        if _last(key) in _ALL_LAYERS and value > weights.num_layers:
            raise _refused(f"{model}: {path}", key, value, f"{weights.name} holds weights of {weights.num_layers:,}")
        if value > weights.num_values:
            raise _refused(f"{model}: {path}", key, value, f"{weights.name} holds {weights.num_values:,} values in all")


def require_allowed_sizes(origin: str, stored: Any) -> None:
    """Raise `CheckpointError` if a description states more layers, or a larger size, than any model has.

    Args:
        origin: The model and the file, for the error.
        stored: transformers' configuration of the model, as a dictionary.
    """
    for key, value in _stated_sizes(stored):
        most = _MOST_LAYERS if _LAYERS.fullmatch(_last(key)) else _MOST_OF_A_SIZE
        if value > most:
            raise _refused(origin, key, value, f"{most:,} is the most that is allowed")


def misfit(name: str, error: Exception) -> str | None:
    """Which stated size it is that transformers refused weights for; None where that was not the reason.

    Args:
        name: A folder, or a name on the hub.
        error: What it raised, whose text advises to set an option of its own.
    """
    if "ignore_mismatched_sizes" not in str(error):
        return None
    path = _find(name)
    weights = None if path is None else _read_weights(path.parent)
    said = f"its weights have other shapes than {path or _CONFIG} states"
    if path is not None and weights is not None:
        there = {each for shape in weights.shapes.values() for each in shape}
        sizes = _sizes_of_text(parse_json(read_small(path)))
        wrong = {key: value for key, value in sizes if _last(key) in _DIMENSIONS and value not in there}
        if wrong:
            stated = ", ".join(f"{key}={value:,}" for key, value in wrong.items())
            said += f" ({stated}: no weight in {weights.name} has a dimension of this size)"
    return f"{said}: {_REMEDY}"


def _refused(origin: str, key: str, value: float, bound: str) -> CheckpointError:
    return CheckpointError(f"{origin} states {key}={value:,}, but {bound}: {_REMEDY}, or correct it")


def _find(name: str) -> Path | None:
    """The config.json of a folder or of the hub; the file itself where that is named."""
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        return path / _CONFIG if (path / _CONFIG).is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, _CONFIG))
    except Exception:  # noqa: BLE001 - no such name, no network: whoever reads the model says so
        return None


def _stated_sizes(stored: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of layers and sizes by dotted key, also of a model's parts."""
    for key, value in cast("dict[str, Any]", stored).items() if isinstance(stored, dict) else ():
        if isinstance(value, dict):
            yield from _stated_sizes(value, f"{prefix}{key}.")
        elif type(value) in {int, float} and (_LAYERS.fullmatch(key) or _SIZES.fullmatch(key)):
            yield f"{prefix}{key}", value


def _sizes_of_text(stored: Any) -> list[tuple[str, float]]:
    """Those of the decoder of text: of a model that also sees, other weights may have been left out."""
    return [each for each in _stated_sizes(stored) if each[0].rpartition(".")[0] in {"", "text_config"}]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _is_packed(stored: Any) -> bool:
    """Whether weights are quantised, so that several may be one value of the file."""
    return not isinstance(stored, dict) or "quantization_config" in stored


def _read_weights(folder: Path) -> _Weights | None:
    """The weights in a folder; None where not all are there or readable, which whoever loads them says."""
    try:
        if (folder / _WEIGHTS).is_file():
            return _Weights(str(folder / _WEIGHTS), _shapes(folder / _WEIGHTS))
        index = parse_json(read_small(folder / _WEIGHTS_INDEX))
        shapes: dict[str, list[int]] = {}
        for name in sorted(set(index["weight_map"].values())):
            shapes |= _shapes(folder / name)
        return _Weights(str(folder / _WEIGHTS_INDEX), shapes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _shapes(path: Path) -> dict[str, list[int]]:
    """Shapes by name, from the header of a safetensors file."""
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        if num_bytes > _MOST_HEADER_BYTES:
            raise ValueError(f"a header of {num_bytes:,} bytes")
        header = cast("dict[str, Any]", parse_json(file.read(num_bytes)))
    return {name: [int(size) for size in each["shape"]] for name, each in header.items() if name != "__metadata__"}
