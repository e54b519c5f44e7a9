"""Samples and statistics -> what the template `samples.html` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from meap.inspect.pieces import Cutter, Piece
from meap.inspect.samples import InspectedData, Sample
from meap.inspect.statistics import NUM_PLACES, Measured, group_sources
from meap.inspect.terminal import describe_masks, describe_part, describe_sample, shown_text
from meap.manifest import CONVERSATIONS, Manifest
from meap.places.whole import write_named
from meap.show.bars import Bars, show_bars
from meap.show.bins import bin_by_powers_of_two, bin_linearly
from meap.show.pages import render
from meap.show.text import escape_controls

__all__ = ["render_page", "write_page"]

_MOST_NAMES = 3
_MOST_GROUPS = 100


def write_page(path: Path, data: InspectedData, samples: Sequence[Sample], measured: Measured) -> None:
    """Write the page completely or not at all.

    Raises:
        DataError: It cannot be written.
    """
    write_named("html", path, render_page(data, samples, measured))


def render_page(data: InspectedData, samples: Sequence[Sample], measured: Measured) -> str:
    """The page as text."""
    return render(
        "samples.html",
        title=f"{data.remote} {data.split}",
        masks=describe_masks(data),
        overview=_overview(data),
        sources=_sources(data.manifest),
        measured=_measured(data, measured),
        is_conversations=data.is_conversations,
        samples=list(_samples(data, samples)),
    )


def _overview(data: InspectedData) -> dict[str, Any]:
    manifests = sorted((data.manifest, *data.other_manifests), key=lambda each: each.split)
    things = "conversations" if data.is_conversations else "documents"
    rows = [
        ("rows", *(f"{each.rows:,}" for each in manifests)),
        (things, *(f"{each.documents:,}" for each in manifests)),
        ("tokens", *(f"{each.tokens:,}" for each in manifests)),
        (f"tokens per {things[:-1]}", *(f"{each.tokens / max(each.documents, 1):,.1f}" for each in manifests)),
        ("tokens dropped at the ends of tasks", *(f"{each.dropped_tail_tokens:,}" for each in manifests)),
        (f"{things} that end among these", *(f"{each.dropped_tail_documents:,}" for each in manifests)),
        ("shards", *(f"{len(each.shards):,}" for each in manifests)),
        ("stored bytes", *(f"{sum(shard.bytes for shard in each.shards):,}" for each in manifests)),
    ]
    counted = dict.fromkeys(name for each in manifests for name in each.counts)
    rows += [(name.replace("_", " "), *(f"{each.counts.get(name, 0):,}" for each in manifests)) for name in counted]
    manifest, tokenizer = data.manifest, data.manifest.tokenizer
    bos = "no BOS" if tokenizer.bos_id is None else f"BOS {tokenizer.bos_id}"
    facts = (
        f"{manifest.kind} of {manifest.seq_len:,} positions, {manifest.dtype}; tokenizer {tokenizer.name}, "
        f"{tokenizer.vocab_size:,} ids, {bos}, EOS {tokenizer.eos_id}, mask {tokenizer.mask_id}; "
        f"{manifest.bad_lines:,} bad lines left out"
    )
    return {"header": ("", *(each.split for each in manifests)), "rows": rows, "facts": facts}


def _sources(manifest: Manifest) -> dict[str, Any]:
    if not manifest.sources:
        return {"rows": [], "note": "The manifest names no input files."}
    groups = group_sources(manifest)
    rows = [
        (_names(group.files), f"{group.rows:,}", "not recorded" if group.tokens is None else f"{group.tokens:,}")
        for group in groups[:_MOST_GROUPS]
    ]
    if len(groups) == 1 and len(manifest.sources) > 1:
        note = "One task read all files, so the manifest does not tell their shares apart."
    elif any(len(group.files) > 1 for group in groups):
        note = "Files in one line were read by one task; the manifest does not tell their shares apart."
    else:
        note = "Each file was read by a task of its own."
    note += (
        " Tokens of conversations are recorded for the whole split only."
        if manifest.kind == CONVERSATIONS
        else " Tokens are those in rows."
    )
    if len(groups) > _MOST_GROUPS:
        note += f" {len(groups) - _MOST_GROUPS:,} more tasks are not listed."
    return {"rows": rows, "note": note}


def _names(files: Sequence[str]) -> str:
    shown = ", ".join(files[:_MOST_NAMES])
    return shown if len(files) <= _MOST_NAMES else f"{shown} and {len(files) - _MOST_NAMES:,} more"


def _measured(data: InspectedData, measured: Measured) -> dict[str, Any]:
    total = data.manifest.rows
    scope = (
        f"All {measured.rows:,} rows of {measured.shards:,} of {len(data.manifest.shards):,} shards were read "
        f"({measured.rows / max(total, 1):.1%} of the split's {total:,} rows), masked as in epoch {data.epoch}."
    )
    if not data.is_conversations and measured.rows < total:
        scope += " Shard edges cut long documents more often than short ones, so the chart shows too few of them."
    charts = [*_length_charts(data, measured), *_mask_charts(data, measured)]
    return {
        "scope": scope,
        "rows": list(_measured_rows(data, measured)),
        "charts": [(bars, show_bars(bars) if bars.values else None) for bars in charts],
    }


def _measured_rows(data: InspectedData, measured: Measured) -> Iterator[tuple[str, str]]:
    positions = max(measured.rows * data.manifest.seq_len, 1)
    asked = f"asked for: {data.masking.ratio:g}, rounded down to whole tokens"
    yield "tokens that may be masked", f"{measured.num_maskable:,}"
    yield "masked", f"{measured.num_masked:,}"
    yield "realised ratio", f"{measured.realised_ratio:.4%} ({asked})"
    yield "scored tokens", f"{measured.num_scored:,} ({measured.num_scored / positions:.1%} of positions)"
    if data.is_conversations:
        yield "conversations", f"{len(measured.lengths):,}, of which {measured.num_copies:,} with a masked copy"
        yield "positions used", f"{measured.num_used:,} ({measured.num_used / positions:.1%}; the rest is padding)"
    else:
        cut = f"cut by the edges of shards and left out: {measured.num_cut:,}"
        yield "whole documents", f"{len(measured.lengths):,} ({cut})"


def _length_charts(data: InspectedData, measured: Measured) -> Iterator[Bars]:
    if not data.is_conversations:
        lengths = bin_by_powers_of_two(measured.lengths)
        yield Bars("Document lengths, BOS and EOS not counted", *lengths, "tokens (powers of two)", "documents")
        return
    yield Bars("Conversation lengths", *bin_linearly(measured.lengths), "tokens", "conversations")
    title = "Scored tokens per conversation, its copy included"
    yield Bars(title, *bin_linearly(measured.answer_lengths), "scored tokens", "conversations")


def _mask_charts(data: InspectedData, measured: Measured) -> Iterator[Bars]:
    if not measured.num_masked:
        return
    where = "position in the row, %"
    if data.is_conversations:
        where = "position among the tokens of a copy's answers that may be masked, %"
    yield Bars(
        "Where masks fall; dashed: the mean",
        [f"{number * 100 / NUM_PLACES:.0f}" for number in range(NUM_PLACES)],
        measured.masked_share_by_place.tolist(),
        where,
        "share masked",
        is_share=True,
        reference=measured.realised_ratio,
    )


def _samples(data: InspectedData, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    cutter = Cutter(data.tokenizer)
    for sample in samples:
        parts = [
            {
                "title": "" if part.conversation is None else describe_part(part),
                "pieces": list(map(_piece, cutter.cut(part))),
            }
            for part in sample.parts
        ]
        yield {"title": describe_sample(data, sample), "parts": parts}


def _piece(piece: Piece) -> dict[str, str]:
    classes = {
        "masked": piece.num_masked > 0,
        "scored": piece.is_scored and not piece.num_masked,
        "special": piece.is_special,
        "end": piece.is_end,
    }
    several = piece.num_masked and piece.num_tokens > 1
    return {
        "text": escape_controls(shown_text(piece)),
        "classes": " ".join(name for name, holds in classes.items() if holds),
        "told": f"{piece.num_masked} of {piece.num_tokens} tokens masked" if several else "",
    }
