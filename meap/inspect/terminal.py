"""Prints samples: in colour, or with brackets where there is none."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence

from meap.inspect.pieces import Cutter, Piece
from meap.inspect.samples import InspectedData, Part, Sample
from meap.show.text import escape_controls

__all__ = [
    "describe_masks",
    "describe_part",
    "describe_sample",
    "mark_with_brackets",
    "mark_with_color",
    "print_samples",
    "shown_text",
]

_MASKED, _SCORED, _SPECIAL = "7;35", "32", "2;36"
_HEADING = "1"
_OPEN = {"masked": "⟦", "scored": "⟪", "special": "⟨"}
_CLOSE = {"masked": "⟧", "scored": "⟫", "special": "⟩"}
_BRACKETS = re.compile(f"[{''.join([*_OPEN.values(), *_CLOSE.values()])}]")
_NEWLINE_SIGN = "↵"
_BECOMES = "→"


def print_samples(data: InspectedData, samples: Iterable[Sample], *, color: str = "auto") -> None:
    """Write samples to standard output.

    Args:
        data: What they come from.
        samples: The samples.
        color: `always`, `never`, or `auto`: on a terminal, unless NO_COLOR is set.
    """
    in_color = color == "always" or (color == "auto" and _shows_color())
    mark = mark_with_color if in_color else mark_with_brackets
    cutter = Cutter(data.tokenizer)
    manifest = data.manifest
    noun = "conversations" if data.is_conversations else "documents"
    print(
        f"{data.remote} {data.split}: {manifest.rows:,} rows of {manifest.seq_len:,} tokens, {manifest.documents:,} "
        f"{noun}, {manifest.tokens:,} tokens"
    )
    print(describe_masks(data))
    print(f"legend: {_legend(in_color, data)}")
    for sample in samples:
        print()
        print(_heading(f"── {describe_sample(data, sample)} ──", in_color))
        for part in sample.parts:
            if part.conversation is not None:
                print(_heading(f"─ {describe_part(part)}", in_color))
            print(mark(cutter.cut(part)))


def describe_masks(data: InspectedData) -> str:
    """How samples are masked, in a line."""
    masking = data.masking
    layout = f"; layout {data.sft.layout}, loss {data.sft.loss}" if data.is_conversations else ""
    if data.rule is None:
        what = "no masked copies" if data.is_conversations else "not masked"
        reason = ", as held-out rows are in a run (ratio= shows masks)" if data.split != "train" else ""
        return f"{what}{reason}{layout}"
    strategy = "single tokens" if masking.tokens_per_span == 1 else f"spans of {masking.tokens_per_span}"
    replacement = f", replacement {masking.replacement}" if not data.rule.shows_choice else ""
    protected = f", {' and '.join(masking.protected)} protected" if masking.protected else ""
    protected += f", {masking.reversed_ratio:g} of the rows read right to left" if masking.reversed_ratio else ""
    return f"ratio {masking.ratio:g}, {strategy}{replacement}{protected}, seed {data.seed}, epoch {data.epoch}{layout}"


def describe_sample(data: InspectedData, sample: Sample) -> str:
    """A sample's numbers, in a line."""
    share = (
        f" of {sample.num_maskable:,} ({sample.num_masked / sample.num_maskable:.1%})" if sample.num_maskable else ""
    )
    title = f"sample {sample.sample_id:,}, epoch {sample.epoch}: "
    if not data.is_conversations:
        backwards = "read right to left, " if sample.parts[0].is_reversed else ""
        return f"{title}{backwards}{sample.num_masked:,} masked{share}"
    num_copies = sum(part.is_copy for part in sample.parts)
    used = sum(len(part.tokens) for part in sample.parts)
    return (
        f"{title}{len(sample.parts) - num_copies} conversations, {num_copies} copies, {sample.num_masked:,} masked"
        f"{share}, {sample.num_scored:,} scored, {used:,} of {sample.seq_len:,} positions used"
    )


def describe_part(part: Part) -> str:
    """What a part of a row of conversations is, in a line."""
    assert part.conversation is not None
    kind = "masked copy" if part.is_copy else "original"
    last = part.first_position + len(part.tokens) - 1
    return (
        f"conversation {part.conversation}, {kind}: {len(part.tokens):,} tokens at positions {part.first_position}-"
        f"{last}, {int(part.is_masked.sum())} masked, {int(part.is_scored.sum())} scored"
    )


def mark_with_color(pieces: Sequence[Piece]) -> str:
    """The text of `pieces` with ANSI colours, and a sign at masked line ends."""
    marked = []
    for piece in pieces:
        text = escape_controls(shown_text(piece))
        code = _color_of(piece)
        if piece.num_masked:
            text = text.replace("\n", f"{_NEWLINE_SIGN}\n")
        # Line by line, or a background would run on to the edge of the screen.
        marked.append("\n".join(_paint(line, code) for line in text.split("\n")))
    return "".join(marked)


def mark_with_brackets(pieces: Sequence[Piece]) -> str:
    """The text of `pieces` with brackets around masked, scored and special tokens; brackets of the text are escaped."""
    marked = []
    is_open = False
    for piece in pieces:
        text = _BRACKETS.sub(lambda found: f"\\u{ord(found[0]):04x}", escape_controls(shown_text(piece)))
        if piece.is_special:
            text = f"{_OPEN['special']}{text}{_CLOSE['special']}"
        if piece.num_masked:
            text = f"{_OPEN['masked']}{text}{_CLOSE['masked']}"
        opens = piece.is_scored and not piece.num_masked  # in a copy what is masked is what is scored
        if opens != is_open:
            marked.append(_OPEN["scored"] if opens else _CLOSE["scored"])
            is_open = opens
        marked.append(text)
    return "".join([*marked, _CLOSE["scored"]] if is_open else marked)


def shown_text(piece: Piece) -> str:
    """Its text; behind an arrow what replaces it, unless that is the mask token."""
    return f"{piece.text}{_BECOMES}{piece.became}" if piece.became else piece.text


def _legend(in_color: bool, data: InspectedData) -> str:
    masked = "masked, the hidden token shown"
    if data.rule is not None and not data.rule.shows_choice:
        masked += f"{_BECOMES}what is read instead, if not the mask token"
    entries = [
        (masked, "masked", _MASKED),
        ("special token", "special", _SPECIAL),
    ]
    if data.is_conversations:
        entries.insert(1, ("answer that is scored", "scored", _SCORED))
    if in_color:
        return "  ".join(_paint(name, code) for name, _, code in entries)
    return "  ".join(f"{_OPEN[kind]}{name}{_CLOSE[kind]}" for name, kind, _ in entries)


def _color_of(piece: Piece) -> str | None:
    if piece.num_masked:
        return _MASKED
    if piece.is_special:
        return f"{_SPECIAL};4" if piece.is_scored else _SPECIAL
    return _SCORED if piece.is_scored else None


def _heading(text: str, in_color: bool) -> str:
    return _paint(text, _HEADING) if in_color else text


def _paint(text: str, code: str | None) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


def _shows_color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
