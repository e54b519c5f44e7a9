"""Text of others, made safe to show."""

from __future__ import annotations

import re

__all__ = ["escape_controls", "one_line"]

# C0 and C1 but tab and newline; line and paragraph separators; what turns the direction of text around.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_NEWLINE = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
_CUT = "\N{HORIZONTAL ELLIPSIS}"


def escape_controls(text: str) -> str:
    """Escape control characters, which a terminal or browser would obey rather than show."""
    return _CONTROLS.sub(lambda found: _escape(found[0]), text)


def one_line(text: str, *, most: int, keep: str = "start") -> str:
    """The text in one line of `most` characters before escapes, newlines as arrows, without control characters.

    Args:
        text: Any text.
        most: Characters that are kept.
        keep: Which end of a longer text is kept, `start` or `end`.
    """
    if len(text) > most:
        text = text[:most] + _CUT if keep == "start" else _CUT + text[-most:]
    return escape_controls(text.replace("\r\n", "\n").replace("\t", " ")).replace("\n", _NEWLINE)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
