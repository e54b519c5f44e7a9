"""The keys of a configuration, and the known keys that an unknown one may mean."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast, get_args, get_origin, get_type_hints

from meap.config.given import Given

__all__ = [
    "ANY_NAME",
    "config_keys",
    "entry_class",
    "fields_of",
    "hint_at",
    "is_section",
    "nearest_keys",
    "unknown_keys",
]

ANY_NAME = "<name>"
_MOST_MEANT = 3


@cache
def fields_of(config_class: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass with their types."""
    hints = get_type_hints(config_class)
    return {item.name: hints[item.name] for item in dataclasses.fields(config_class)}


def is_section(hint: Any) -> bool:
    """Whether a key holds keys: those of a dataclass, or names of the user's choice."""
    return dataclasses.is_dataclass(hint) or get_origin(hint) is dict


def entry_class(hint: Any) -> type[Any] | None:
    """The dataclass of the entries, where `hint` is a mapping from names to sections."""
    if get_origin(hint) is not dict:
        return None
    _, entry = get_args(hint)
    return cast("type[Any]", entry) if dataclasses.is_dataclass(entry) else None


def hint_at(hint: Any, names: Sequence[str]) -> Any:
    """The type of the key at `names` below a section; None if there is no such key."""
    for name in names:
        if dataclasses.is_dataclass(hint):
            hint = fields_of(cast("type[Any]", hint)).get(name)
        else:
            hint = get_args(hint)[1] if get_origin(hint) is dict else None
    return hint


def config_keys(hint: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a section, sections included; `ANY_NAME` stands for a name of the user's choice."""
    if get_origin(hint) is dict:
        inner = {ANY_NAME: get_args(hint)[1]}
    else:
        inner = fields_of(cast("type[Any]", hint)) if dataclasses.is_dataclass(hint) else {}
    for name, each in inner.items():
        yield prefix + name
        yield from config_keys(each, f"{prefix}{name}.")


def unknown_keys(hint: Any, given: Given, prefix: str = "") -> Iterator[tuple[str, Given]]:
    """The given keys that a section does not have."""
    for name, each in given.entries.items():
        inner = hint_at(hint, [name])
        if inner is None:
            yield f"{prefix}{name}", each
        elif is_section(inner) or (each.entries and each.text is None and not each.place):
            # The latter: on the command line, key.name=value of a key that has no names below it.
            yield from unknown_keys(inner, each, f"{prefix}{name}.")


def nearest_keys(config_class: type[Any], key: str) -> list[str]:
    """Known keys that an unknown one may mean: the same name elsewhere, or a similar spelling."""
    whole = key.lower()
    # Names of the user's choice are carried over.
    known = [_with_names(each, key.split(".")) for each in config_keys(config_class)]
    close = difflib.get_close_matches(whole, known, n=1)
    same = sorted(each for each in known if each.split(".")[-1] == whole.split(".")[-1])
    same = [each for each in same if ANY_NAME not in each] or same  # those whose names all are known come first
    if whole in known or not same or ("." in whole and close and close[0] in same):
        return close
    return same[:_MOST_MEANT]


def _with_names(general: str, given: Sequence[str]) -> str:
    names = general.split(".")
    at = names.index(ANY_NAME) if ANY_NAME in names else len(given)
    if at < len(given) and list(given[:at]) == names[:at]:
        names[at] = given[at]
    return ".".join(names)
