"""Read a configuration: defaults < base yaml < yaml < overrides, strict about every key and type.

given       text with its position      keys       known keys, nearest keys
conversion  text -> the type of a key   assembly   layers -> one configuration
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from meap.config.assembly import assemble
from meap.config.conversion import takes_list
from meap.config.given import (
    Given,
    find_yaml,
    given_list,
    given_scalar,
    given_section,
    given_value,
    read_given,
    read_yaml,
)
from meap.config.keys import hint_at, is_section
from meap.errors import ConfigError
from meap.places.whole import write_whole

if TYPE_CHECKING:
    import yaml

__all__ = [
    "flatten",
    "from_values",
    "load_config",
    "load_resolved",
    "read_layers",
    "read_yaml",
    "save_config",
    "to_values",
    "to_yaml",
]

ConfigT = TypeVar("ConfigT")


def load_config(config_class: type[ConfigT], path: str | Path | None = None, overrides: Sequence[str] = ()) -> ConfigT:
    """Build a `config_class` from its defaults, a yaml and command-line overrides.

    Text is taken literally: the type of a key alone decides how it is read. ``null``, ``~`` or nothing unsets a key
    that may be unset. ``${section.key}`` stands for the value of another key.

    Args:
        config_class: A frozen dataclass, such as `RecipeConfig`.
        path: A yaml file, see `read_layers`. A run whose yaml does not name it is named after the file, so that a
            variant needs no line for that.
        overrides: ``section.key=value`` strings; a list is ``[a,b]``, quotes around all of a value are removed.

    Raises:
        ConfigError: A file is missing or malformed, a key is unknown, or a value has the wrong type or range.
    """
    layers = list[Given]()
    if path is not None:
        if hint_at(config_class, ["run", "name"]):
            layers.append(given_value({"run": {"name": Path(path).stem}}, str(path)))
        layers += (layer for layer, _ in read_layers(Path(path)))
    return assemble(config_class, [*layers, *(_parse_override(config_class, each) for each in overrides)])


def from_values(config_class: type[ConfigT], values: Mapping[str, Any], *, origin: str) -> ConfigT:
    """Read what `to_values` returned; `origin` names its source in errors."""
    return assemble(config_class, [given_value(values, origin)])


def load_resolved(config_class: type[ConfigT], path: Path) -> ConfigT:
    """Read what `save_config` wrote."""
    return assemble(config_class, [read_given(path, is_stored=True)])


def read_layers(path: Path) -> list[tuple[Given, str | None]]:
    """A yaml and those it inherits from, the farthest first.

    Its key ``base`` names another yaml, relative to it, whose values it changes; ``recipe`` names the entry point that
    it is for, and is given beside the layer.

    Raises:
        ConfigError: One is missing or malformed, or inherits from itself.
    """
    layers, seen = list[tuple[Given, str | None]](), set[Path]()
    while True:
        given = read_given(path)
        seen.add(path.resolve())
        entries = dict(given.entries)
        base, recipe = (entries.pop(key, None) for key in ("base", "recipe"))
        layers.insert(0, (dataclasses.replace(given, entries=entries), recipe and recipe.text))
        if base is None:
            return layers
        if not base.text:
            raise base.fails("base must name a yaml, relative to this one")
        path = path.parent / base.text
        if not path.is_file():
            found = [each.resolve() for each in (find_yaml(path), find_yaml(Path(path.name))) if each is not None]
            meant = next((each for each in found if each not in seen), None)
            remedy = f"write base: {meant}" if meant is not None else "correct the path, or copy that yaml, too"
            raise base.fails(f"base={base.text} is relative to this yaml, and there is no {path}: {remedy}")
        if path.resolve() in seen:
            raise base.fails(f"base {path} leads back to itself: remove one of the two `base:` lines")


def to_values(config: Any) -> dict[str, Any]:
    """The configuration as nested dictionaries of plain values."""
    return cast("dict[str, Any]", _plain(dataclasses.asdict(config)))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their keys joined with dots, as the command line names them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def to_yaml(config: Any) -> str:
    """The configuration as yaml that `load_resolved` reads back."""
    import yaml

    return yaml.dump(to_values(config), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=1 << 30)


def save_config(config: Any, path: Path) -> None:
    """Write the configuration to `path`, creating its folder."""
    write_whole(path, to_yaml(config))


def _parse_override(config_class: type[Any], override: str) -> Given:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is not an override: write section.key=value")
    try:
        override.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{override!a} is not UTF-8 text: check its encoding") from error
    names = key.split(".")
    hint = hint_at(config_class, names)
    lists = takes_list(hint)
    if lists == "always" or (lists == "maybe" and value.startswith("[") and value.endswith("]")):
        given = given_list(value)
    elif is_section(hint) and value.startswith("{"):
        given = given_section(value, key)
    else:
        given = given_scalar(value)
    for name in reversed(names):
        given = Given("", "section", entries={name: given})
    return given


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    return value


@cache
def _dumper() -> type[yaml.SafeDumper]:
    """The writer of yaml; it quotes text that some readers would take for another type."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            """No anchors: a value that occurs twice is written twice."""
            return True

    def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        is_plain = text[:1].isalpha() and text.lower() not in {"y", "n", "inf", "nan", "infinity"}
        style = (None if is_plain else "'") if text.isprintable() else '"'
        return cast("Any", dumper).represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, represent_text)
    return Dumper
