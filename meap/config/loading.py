"""Read a configuration: defaults < base yaml < yaml < overrides, strict about every key and type."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meap.errors import ConfigError

__all__ = [
    "ANY_NAME",
    "config_keys",
    "entry_class",
    "from_values",
    "load_config",
    "load_resolved",
    "read_yaml",
    "save_config",
    "to_values",
    "to_yaml",
]

ConfigT = TypeVar("ConfigT")

ANY_NAME = "<name>"

_BASE_KEY = "base"
_YAML_SIGNS = ("*", "&", "!", "%", "@", "`")
"""A yaml gives a value that begins so another meaning, or none; on a command line it is text, such as *.json.gz."""


def load_config(config_class: type[ConfigT], path: str | Path | None = None, overrides: Sequence[str] = ()) -> ConfigT:
    """Build a `config_class` from its defaults, a yaml and command-line overrides.

    Args:
        config_class: A frozen dataclass, such as `TrainingConfig`.
        path: A yaml file. Its key ``base`` names another yaml, relative to it, whose values it changes. A run whose
            yaml does not name it is named after the file, so that a variant needs no line for that.
        overrides: ``section.key=value`` strings; the value is read as yaml.

    Raises:
        ConfigError: A file is missing or malformed, a key is unknown, or a value has the wrong type or range.
    """
    layers = [(Path(path), read_yaml(Path(path)))] if path is not None else []
    while layers and _BASE_KEY in layers[0][1]:
        child, values = layers[0]
        base = child.parent / str(values.pop(_BASE_KEY))
        if base in (seen for seen, _ in layers):
            raise ConfigError(f"{child}: base {base} leads back to itself: remove one of the two `base:` lines")
        layers.insert(0, (base, read_yaml(base)))
    if path is not None and "run.name" in config_keys(config_class):
        layers.insert(0, (Path(path), {"run": {"name": Path(path).stem}}))

    given = [(values, str(origin)) for origin, values in layers]
    return _build(config_class, given + [(_parse_override(each), f"override {each!r}") for each in overrides])


def from_values(config_class: type[ConfigT], values: Mapping[str, Any], *, origin: str) -> ConfigT:
    """Read back what `to_values` gave; `origin` names its place in errors."""
    return _build(config_class, [(values, origin)])


def _build(config_class: type[ConfigT], layers: Sequence[tuple[Mapping[str, Any], str]]) -> ConfigT:
    merged = cast("DictConfig", OmegaConf.structured(config_class))
    _make_writable(merged)
    for values, origin in layers:
        _merge(config_class, merged, values, origin=origin)
    try:
        return cast("ConfigT", OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error


def config_keys(config_class: type[Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key of `config_class`, sections included; `ANY_NAME` stands for a name of the user's choice."""
    yield from _typed_keys(config_class, prefix)


def entry_class(hint: Any) -> type[Any] | None:
    """The dataclass of the entries, where `hint` is a mapping from names to sections."""
    if get_origin(hint) is not dict:
        return None
    _, entry = get_args(hint)
    return cast("type[Any]", entry) if dataclasses.is_dataclass(entry) else None


def to_values(config: Any) -> dict[str, Any]:
    """The resolved configuration as nested dictionaries of plain values."""
    return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.structured(config), resolve=True))


def to_yaml(config: Any) -> str:
    """The resolved configuration as yaml that `load_resolved` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def save_config(config: Any, path: Path) -> None:
    """Write the resolved configuration to `path`, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(config), encoding="utf-8")


def load_resolved(config_class: type[ConfigT], path: Path) -> ConfigT:
    """Read back what `save_config` wrote."""
    return load_config(config_class, path)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a yaml as they stand there, unchecked.

    Raises:
        ConfigError: It is missing or malformed.
    """
    if not path.is_file():
        nearby = sorted(str(other) for other in path.parent.glob("*.yaml"))
        hint = f"; there are {', '.join(nearby)}" if nearby else ""
        raise ConfigError(f"no configuration file at {path}{hint}")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:
        raise ConfigError(f"{path} is not valid yaml: {_first_line(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections with keys, not {type(values).__name__}")
    return cast("dict[str, Any]", values)


def _typed_keys(config_class: type[Any], prefix: str = "") -> dict[str, Any]:
    """Every dotted key with its type."""
    hints, keys = get_type_hints(config_class), dict[str, Any]()
    for item in dataclasses.fields(config_class):
        key, section = prefix + item.name, hints[item.name]
        keys[key] = section
        if get_origin(section) is dict:
            key, section = f"{key}.{ANY_NAME}", get_args(section)[1]
            keys[key] = section
        if dataclasses.is_dataclass(section):
            keys |= _typed_keys(cast("type[Any]", section), f"{key}.")
    return keys


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is not an override: write section.key=value")
    if value.startswith(_YAML_SIGNS):
        value = "'" + value.replace("'", "''") + "'"
    try:
        return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={value}"])))
    except Exception as error:
        raise ConfigError(f"override {override!r} has a value that is not valid yaml: {_first_line(error)}") from error


def _merge(config_class: type[Any], merged: DictConfig, values: Mapping[str, Any], *, origin: str) -> None:
    known = _typed_keys(config_class)
    for given in _dotted_keys(values):
        key, name = _general_key(given, known)
        if key not in known:
            same_name = [other for other in sorted(known) if other.split(".")[-1] == key.split(".")[-1]]
            close = same_name or difflib.get_close_matches(key, known, n=1)
            meant = close[0].replace(ANY_NAME, name) if close else ""
            hint = f"did you mean {meant!r}?" if meant else "run with --help for the list of keys"
            raise ConfigError(f"{origin}: unknown key {given!r}; {hint}")
        if key.endswith(ANY_NAME) and dataclasses.is_dataclass(known[key]):
            _add_entry(merged, given, known[key])
    try:
        merged.merge_with(OmegaConf.create(dict(values)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{origin}: {_first_line(error)} (key {error.full_key!r})") from error


def _dotted_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _dotted_keys(cast("Mapping[str, Any]", value), f"{prefix}{name}.")


def _general_key(key: str, known: Collection[str]) -> tuple[str, str]:
    """The key with the user's own name replaced by `ANY_NAME`, as in `known`, and that name."""
    for general in known:
        before, wildcard, _ = general.partition(f".{ANY_NAME}")
        if wildcard and key.startswith(f"{before}."):
            name, dot, after = key.removeprefix(f"{before}.").partition(".")
            return f"{before}.{ANY_NAME}{dot}{after}", name
    return key, ANY_NAME


def _add_entry(merged: DictConfig, key: str, entry: type[Any]) -> None:
    # OmegaConf would make a frozen entry, and then fail to merge anything into it.
    mapping, _, name = key.rpartition(".")
    entries: Any = OmegaConf.select(merged, mapping)
    if name not in entries:
        entries[name] = entry()
        _make_writable(entries)


def _make_writable(config: DictConfig) -> None:
    # OmegaConf marks frozen dataclasses read-only; here they are still being assembled.
    OmegaConf.set_readonly(config, False)
    for key in config:
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, str(key)):
            continue
        if isinstance(config[key], DictConfig):
            _make_writable(config[key])


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
