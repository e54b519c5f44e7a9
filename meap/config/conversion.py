"""Converts text to the declared type of a key."""

from __future__ import annotations

import re
import types
from typing import Any, Literal, Union, cast, get_args, get_origin

from meap.config.given import Given

__all__ = ["as_typed", "convert", "split_optional", "takes_list"]

_UNIONS = {Union, types.UnionType}
_UNSET = {"", "null", "~"}
_TRUE, _FALSE = {"true", "yes", "on"}, {"false", "no", "off"}
_WHOLE = re.compile(r"[+-]?\d[\d_]*", re.ASCII)
_NUMBER = re.compile(r"[+-]?((\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d+)?|\.?inf|\.?nan)", re.ASCII | re.IGNORECASE)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%", re.ASCII)
_MOST_SHOWN = 80


def convert(given: Given, hint: Any, key: str) -> Any:
    """The value of a key.

    Args:
        given: What was given.
        hint: str, int, float, bool, a tuple of these, a value or a tuple of such values, or one of them or None.
        key: For errors.

    Raises:
        ConfigError: It is not of that type.
    """
    hint, is_optional = split_optional(hint)
    if is_optional and given.kind == "plain" and given.text in _UNSET:
        return None
    if get_origin(hint) in _UNIONS:
        one, several = get_args(hint)
        hint = several if given.kind == "list" else one
    if get_origin(hint) is tuple:
        return _convert_list(given, get_args(hint), key)
    if hint is str:
        if given.is_stored and given.kind == "plain" and given.text == "null":
            raise given.fails(f"{key} cannot be unset: give it a value, or leave it out")
        if given.text is None:
            raise given.fails(f"{key} is text, not a {given.kind}: write it in the key's own line, or in quotes")
        return given.text
    if given.kind in {"list", "section"} or given.text is None:
        raise given.fails(f"{key} is one value, not a {given.kind}")
    return _SCALARS[hint](given, given.text.strip(), key)


def split_optional(hint: Any) -> tuple[Any, bool]:
    """The type of a value where it is set, and whether it may be unset."""
    if get_origin(hint) not in _UNIONS or type(None) not in get_args(hint):
        return hint, False
    others = tuple(each for each in get_args(hint) if each is not type(None))
    return Union[others], True  # noqa: UP007  their number is not known


def takes_list(hint: Any) -> Literal["never", "maybe", "always"]:
    """Whether a value may be a list."""
    hint, _ = split_optional(hint)
    if get_origin(hint) in _UNIONS:
        return "maybe"
    return "always" if get_origin(hint) is tuple else "never"


def as_typed(value: Any) -> str:
    """A value as written on the command line; empty if it is unset."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_typed, cast('tuple[Any, ...]', value)))}]"
    if isinstance(value, str):
        return value if value.isprintable() else f'"{value.encode("unicode_escape").decode()}"'
    return "" if value is None else str(value).lower()


def _convert_list(given: Given, hints: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    if given.kind != "list":
        remedy = f"write [{given.text}]" if given.text else "write [a, b]"
        raise given.fails(f"{key}={_shown(given)} is not a list: {remedy}")
    if hints[-1] is ...:
        hints = (hints[0],) * len(given.items)
    if len(given.items) != len(hints):
        raise given.fails(f"{key}={_shown(given)} has {len(given.items)} elements: give {len(hints)}")
    for item in given.items:
        if item.text == "" and item.kind == "plain":
            raise given.fails(f"{key}={_shown(given)} has an empty element: remove a comma")
    return tuple(convert(item, hint, key) for item, hint in zip(given.items, hints, strict=True))


def _whole_number(given: Given, text: str, key: str) -> int:
    if _WHOLE.fullmatch(text):
        try:
            return int(text)
        except ValueError:  # too many digits, or underscores
            pass
    remedy = "write digits only"
    if _NUMBER.fullmatch(text):
        try:
            number = float(text.replace("_", ""))
            remedy = f"write {number:.0f}" if number.is_integer() else f"write {number:.0f}, say"
        except (OverflowError, ValueError):
            pass
    raise given.fails(f"{key}={_shown(given)} is not a whole number: {remedy}")


def _number(given: Given, text: str, key: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan").replace("_", ""))
    remedy = "write digits, as 0.15 or 4e-4"
    if percent := _PERCENT.fullmatch(text):
        remedy = f"write {float(percent[1]) / 100:g}"
    elif _NUMBER.fullmatch(text.replace(",", ".", 1)):
        remedy = f"write {text.replace(',', '.', 1)}, with a point"
    raise given.fails(f"{key}={_shown(given)} is not a number: {remedy}")


def _truth(given: Given, text: str, key: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise given.fails(f"{key}={_shown(given)} is neither true nor false: write one of these")


def _shown(given: Given) -> str:
    text = given.text or f"<{given.kind}>"
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


_SCALARS = {bool: _truth, int: _whole_number, float: _number}
