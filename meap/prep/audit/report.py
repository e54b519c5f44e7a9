"""Statistics as a table in the terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from meap.places.whole import write_named
from meap.prep.audit.statistics import SourceShare, Statistics
from meap.show.numbers import size
from meap.show.tables import align

__all__ = ["bin_lengths", "describe_source", "shares", "summary", "table_lines", "write_json"]

_BAR = 40
_PERCENTILES = (0.05, 0.5, 0.95, 0.99)


def table_lines(statistics: Statistics, *, top: int) -> Iterator[str]:
    """Everything that was measured, as tables in text.

    Args:
        statistics: What was measured.
        top: Tokens and sources to list.
    """
    yield f"{statistics.location}: {statistics.shards:,} shards, read in {statistics.seconds:,.1f} s"
    yield f"tokenizer {statistics.tokenizer}, {statistics.vocab_size:,} ids"
    yield ""
    yield from (f"{name:<16}{value}" for name, value in summary(statistics))
    for table in (_split_lines, _length_lines, partial(_source_lines, top=top), partial(_token_lines, top=top)):
        yield ""
        yield from table(statistics)
    yield ""
    yield from _table(
        ("of", "counted", "copies", "share", "most copied"),
        [
            (name, f"{each.items:,}", f"{each.copies:,}", f"{each.share:.2%}", f"{each.most:,} times")
            for name, each in statistics.repeats.items()
        ],
    )
    yield from (f"note: {note}" for note in statistics.notes)


def _split_lines(statistics: Statistics) -> Iterator[str]:
    rows = [
        (
            split.name,
            f"{split.documents:,}",
            f"{split.tokens:,}",
            f"{split.rows:,}",
            size(split.stored_bytes),
            _ratio(split.bytes_per_token),
        )
        for split in statistics.splits
    ]
    yield from _table(("split", _noun(statistics), "tokens", "rows", "stored", "bytes per token"), rows)


def _length_lines(statistics: Statistics) -> Iterator[str]:
    what = "conversations" if statistics.is_conversations else "documents, BOS and EOS not counted"
    if not (bins := bin_lengths(statistics)):
        yield f"tokens of {what}: not known"
        return
    mean = sum(length * count for length, count in statistics.lengths.items()) / statistics.lengths.total()
    percentiles = ", ".join(f"{share:.0%} {statistics.length_at(share):,}" for share in _PERCENTILES)
    yield f"tokens of {what}: mean {mean:,.0f}; percentiles {percentiles}"
    highest = max(count for *_, count in bins)
    rows = [
        (f"{low:,}" if low == high else f"{low:,}-{high:,}", f"{count:,}", "#" * round(_BAR * count / highest))
        for low, high, count in bins
    ]
    yield from _table(("tokens", _noun(statistics), ""), rows)


def _source_lines(statistics: Statistics, *, top: int) -> Iterator[str]:
    by_source = shares(statistics)
    yield from _table(
        ("source", "tokens", "share"),
        [(name, f"{tokens:,}", f"{share:.2%}") for name, tokens, share in by_source[:top]],
    )
    if len(by_source) > top:
        yield f"and {len(by_source) - top:,} more (json= has all)"


def _token_lines(statistics: Statistics, *, top: int) -> Iterator[str]:
    total = max(1, int(statistics.token_counts.sum()))
    rows = [
        (str(each), repr(statistics.token_texts.get(each, "")), f"{count:,}", f"{count / total:.2%}")
        for each, count in statistics.top_tokens(top)
    ]
    yield from _table(("id", "token", "count", "share"), rows)
    unused = int((statistics.token_counts == 0).sum())
    yield f"{unused:,} of {statistics.vocab_size:,} ids never occur (the mask token's is one)"


def _noun(statistics: Statistics) -> str:
    return "conversations" if statistics.is_conversations else "documents"


def write_json(statistics: Statistics, path: Path, *, top: int) -> None:
    """Write all numbers to `path`, atomically, with the `top` most frequent tokens.

    Raises:
        DataError: It cannot be written.
    """
    values = {key: value for key, value in vars(statistics).items() if key not in {"token_counts", "token_texts"}}
    values |= {
        "splits": [asdict(split) for split in statistics.splits],
        "sources": [asdict(source) for source in statistics.sources],
        "text_bytes": statistics.text_bytes,
        "bytes_per_token": statistics.bytes_per_token,
        "lengths": {str(length): count for length, count in sorted(statistics.lengths.items())},
        "length_percentiles": {f"{share:g}": statistics.length_at(share) for share in _PERCENTILES},
        "top_tokens": [
            {"id": each, "count": count, "text": statistics.token_texts.get(each)}
            for each, count in statistics.top_tokens(top)
        ],
        "unused_tokens": int((statistics.token_counts == 0).sum()),
        "repeats": {name: asdict(each) | {"share": each.share} for name, each in statistics.repeats.items()},
    }
    write_named("json", path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def summary(statistics: Statistics) -> list[tuple[str, str]]:
    """The main numbers, by name."""
    splits = statistics.splits
    tokens, rows = sum(split.tokens for split in splits), sum(split.rows for split in splits)
    stored = sum(split.stored_bytes for split in splits)
    per_token = statistics.bytes_per_token
    return [
        (_noun(statistics), f"{sum(split.documents for split in splits):,}"),
        ("tokens", f"{tokens:,}"),
        ("rows", f"{rows:,} of {' and '.join(sorted({f'{split.seq_len:,}' for split in splits}))} tokens"),
        ("text", "not known" if statistics.text_bytes is None else size(statistics.text_bytes)),
        ("bytes per token", _ratio(per_token)),
        ("stored", f"{size(stored)}, {stored / max(1, tokens):.3f} bytes per token"),
    ]


def bin_lengths(statistics: Statistics) -> list[tuple[int, int, int]]:
    """First and last length of each bin (0, 1, 2-3, 4-7, ...) that is needed, and documents in it."""
    counts: dict[int, int] = {}
    for length, count in statistics.lengths.items():
        counts[length.bit_length()] = counts.get(length.bit_length(), 0) + count
    bits = range(min(counts), max(counts) + 1) if counts else ()
    return [((1 << bit) // 2, (1 << bit) - 1, counts.get(bit, 0)) for bit in bits]


def shares(statistics: Statistics) -> list[tuple[str, int, float]]:
    """Tokens of each stream if there are several, else of each source, and their share; largest first."""
    by_name: dict[str, int] = {}
    has_streams = len({source.stream for source in statistics.sources}) > 1
    for source in statistics.sources:
        name = source.stream if has_streams else describe_source(source)
        if not has_streams and name in by_name:  # a file of that name in another folder
            name = source.files[0]
        by_name[name] = by_name.get(name, 0) + source.tokens
    total = max(1, sum(by_name.values()))
    ordered = sorted(by_name.items(), key=lambda item: -item[1])
    return [(name, tokens, tokens / total) for name, tokens in ordered]


def describe_source(source: SourceShare) -> str:
    """The first input file of a source, and how many more there are."""
    files = list(source.files)
    if not files:
        return "input files not recorded"
    others = f" +{len(files) - 1:,}" if len(files) > 1 else ""
    return files[0].rsplit("/", 1)[-1] + others


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns; the first, bars and texts are aligned to the left."""
    left = [place for place, name in enumerate(heading) if not place or name in {"", "token"}]
    return align([heading, *rows], left=left)


def _ratio(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
