"""Layers of what was given -> one configuration, every reference to another key replaced by its value."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast, get_args, get_origin

from meap.config.conversion import as_typed, convert, split_optional
from meap.config.given import Given, given_value
from meap.config.keys import config_keys, fields_of, hint_at, is_section, nearest_keys, unknown_keys

__all__ = ["assemble"]

ConfigT = TypeVar("ConfigT")

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def assemble(config_class: type[ConfigT], layers: Sequence[Given]) -> ConfigT:
    """Build a `config_class` from layers, of which later ones win, key by key.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type or range, or a reference leads nowhere.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for unknown, given in unknown_keys(config_class, layer):
            key, meant = _meant(config_class, unknown, given)
            raise given.fails(f"unknown key {key!r}; {meant}")
        _merge(config_class, merged, layer, "")
    return cast("ConfigT", _Assembly(config_class, merged).section(config_class, merged, ""))


def _merge(section: Any, merged: dict[str, Any], layer: Given, prefix: str) -> None:
    for name, given in layer.entries.items():
        key, hint = f"{prefix}{name}", hint_at(section, [name])
        if not is_section(hint):
            merged[name] = given
        elif given.kind == "section":
            _merge(hint, merged.setdefault(name, {}), given, f"{key}.")
        elif not (given.place and given.kind == "plain" and not given.text):  # its keys are all commented out
            example = next(config_keys(hint, f"{key}."))
            raise given.fails(f"{key}={given.text or '[...]'}: {key} is a section: give its keys, such as {example}")


def _meant(config_class: type[Any], key: str, given: Given) -> tuple[str, str]:
    """The unknown key, in full if a known one differs in case only, and a remedy."""
    if key in config_keys(config_class):
        section, _, name = key.rpartition(".")
        return key, f"in a yaml, keys stand below their sections: write {section}: {{{name}: ...}}"
    whole = key
    while len(given.entries) == 1:
        ((name, given),) = given.entries.items()
        whole = f"{whole}.{name}"
    if whole.lower() in config_keys(config_class):
        return whole, f"did you mean {whole.lower()!r}?"
    if meant := nearest_keys(config_class, key) or (whole != key and nearest_keys(config_class, whole)):
        return key, f"did you mean {' or '.join(map(repr, meant))}?"
    return key, "run with --help for the list of keys"


class _Assembly:
    """Resolves each key once; a reference resolves another key."""

    def __init__(self, config_class: type[Any], merged: Mapping[str, Any]) -> None:
        self._class, self._merged = config_class, merged
        self._values = dict[str, Any]()
        self._open = list[str]()

    def section(self, section: Any, merged: Mapping[str, Any], prefix: str) -> Any:
        """A dataclass, or a mapping from names of the user's choice."""
        if get_origin(section) is dict:
            hint = get_args(section)[1]
            return {name: self._field(hint, merged[name], f"{prefix}{name}", None) for name in merged}
        hints = fields_of(section)
        values = {
            item.name: self._field(hints[item.name], merged.get(item.name), f"{prefix}{item.name}", item)
            for item in dataclasses.fields(section)
        }
        return section(**values)

    def _field(self, hint: Any, found: Any, key: str, item: dataclasses.Field[Any] | None) -> Any:
        if is_section(hint):
            return self.section(hint, found or {}, f"{key}.")
        return self._leaf(hint, found, key, None if item is None else item.default)

    def _leaf(self, hint: Any, given: Given | None, key: str, default: Any) -> Any:
        if key in self._values:
            return self._values[key]
        if given is None:
            if not isinstance(default, str) or "${" not in default:
                return default
            given = Given(f"default of {key}", "quoted", default)
        if key in self._open:
            circle = " -> ".join([*self._open[self._open.index(key) :], key])
            raise given.fails(f"{key}={given.text} leads back to itself ({circle}): give one of them a value")
        self._open.append(key)
        value = convert(self._referred(given), hint, key)
        if value == "" and default and not given.is_stored and not split_optional(hint)[1]:
            raise given.fails(f"{key} is empty: give it a value, such as {as_typed(default)}, or leave the key out")
        self._open.pop()
        self._values[key] = value
        return value

    def _referred(self, given: Given) -> Given:
        """The same with values in place of references."""
        if given.is_stored:
            return given
        if given.items:
            return dataclasses.replace(given, items=tuple(map(self._referred, given.items)))
        text = given.text or ""
        if whole := _REFERENCE.fullmatch(text):
            return dataclasses.replace(given_value(self._value_of(whole[1], given), given.place), is_stored=True)
        if "${" not in text:
            return given
        replaced = _REFERENCE.sub(lambda match: self._text_of(match[1], given), text)
        if "${" in _REFERENCE.sub("", text):
            raise given.fails(f"{text!r} has a ${{ without its }}: a reference is written ${{section.key}}")
        return dataclasses.replace(given, text=replaced, kind="quoted")

    def _text_of(self, reference: str, given: Given) -> str:
        value = self._value_of(reference, given)
        if value is None or isinstance(value, tuple):
            what = "not set" if value is None else "a list"
            raise given.fails(f"${{{reference}}} is {what}, so it cannot be part of a text")
        return value if isinstance(value, str) else as_typed(value)

    def _value_of(self, reference: str, given: Given) -> Any:
        if ":" in reference:
            raise given.fails(
                f"${{{reference}}} is refused: its value would be stored in logs and checkpoints. Refer to other keys "
                "only, as ${run.name}; libraries read credentials from the environment by themselves"
            )
        hint: Any = self._class
        found: Any = self._merged
        default: Any = None
        for name in reference.split("."):
            if dataclasses.is_dataclass(hint):
                default = {item.name: item.default for item in dataclasses.fields(hint)}.get(name)
                hint = fields_of(hint).get(name)
            else:  # a name of the user's choice, which is a key only where it was chosen
                hint, default = hint_at(hint, [name]) if found and name in found else None, None
            found = cast("dict[str, Any]", found).get(name) if isinstance(found, dict) else None
        if hint is None:
            meant = nearest_keys(self._class, reference)
            remedy = f"did you mean ${{{meant[0]}}}?" if meant else "references are to keys, as ${run.name}"
            raise given.fails(f"${{{reference}}} is not a key of the configuration: {remedy}")
        if is_section(hint):
            raise given.fails(f"${{{reference}}} is a section: refer to one of its keys")
        return self._leaf(hint, found, reference, default)
