"""Samples and statistics as one page of HTML that needs nothing else: no network, no script, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from meap.inspect.charts import Bars, bin_by_powers_of_two, bin_linearly, draw_bars
from meap.inspect.pieces import Cutter, Piece, escape_controls
from meap.inspect.samples import InspectedData, Sample
from meap.inspect.statistics import NUM_PLACES, Measured, group_sources
from meap.inspect.terminal import describe_masks, describe_part, describe_sample
from meap.manifest import CONVERSATIONS, Manifest
from meap.places.whole import named_file

__all__ = ["render_page", "write_page"]

_MOST_NAMES = 3
_MOST_GROUPS = 100

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --faint: #667; --line: #d9dce1; --panel: #f6f7f9;
  --bar: #3b6fb6; --reference: #b3261e; --masked: #f3d1f0; --masked-ink: #6d1466; --scored: #d8efd9;
  --special: #4a6a8a; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e6ea; --faint: #9aa3ad; --line: #343a42;
  --panel: #1f2329; --bar: #7aa7e8; --reference: #ff8a80; --masked: #5b2157; --masked-ink: #ffd9fb;
  --scored: #1e4023; --special: #9dbbd8; } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } h4 { font-size: .9rem; margin: 1rem 0 .3rem; color: var(--faint); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--faint); } .number { text-align: right; white-space: nowrap; }
.note { color: var(--faint); font-size: .9rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 500; margin-bottom: .3rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); } .bar { fill: var(--bar); }
.reference { stroke: var(--reference); stroke-width: 1.5; stroke-dasharray: 6 4; }
summary { cursor: pointer; color: var(--faint); font-size: .9rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: .8rem 1rem; font: 14px/1.65 ui-monospace, monospace; margin: .3rem 0; }
.masked { background: var(--masked); color: var(--masked-ink); text-decoration: line-through;
  box-shadow: inset 0 0 0 1px var(--masked-ink); border-radius: 3px; }
.scored { background: var(--scored); border-radius: 3px; } .special { color: var(--special); font-size: .85em; }
.masked.special { color: var(--masked-ink); } .end::after { content: "\\a"; white-space: pre; }
"""


def write_page(path: Path, data: InspectedData, samples: Sequence[Sample], measured: Measured) -> None:
    """Write the page, all of it or nothing.

    Raises:
        DataError: It cannot be written.
    """
    with named_file("--html", path) as draft:
        draft.write_bytes(render_page(data, samples, measured).encode(errors="backslashreplace"))


def render_page(data: InspectedData, samples: Sequence[Sample], measured: Measured) -> str:
    """The page as text."""
    title = escape(f"{data.remote} {data.split}")
    legend = '<span class="masked">masked, the hidden token shown</span> '
    if data.is_conversations:
        legend += '<span class="scored">answer that is scored</span> '
    sections = [
        f"<h1>{title}</h1>",
        f'<p class="note">{escape(describe_masks(data))}</p>',
        "<h2>Data set</h2>",
        _overview(data),
        "<h2>Sources</h2>",
        _sources(data.manifest),
        "<h2>Measured</h2>",
        _measured(data, measured),
        "<h2>Samples</h2>",
        f'<p class="legend">{legend}<span class="special">special token</span></p>',
        *_samples(data, samples),
    ]
    body = "\n".join(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _overview(data: InspectedData) -> str:
    manifests = sorted((data.manifest, *data.other_manifests), key=lambda each: each.split)
    things = "conversations" if data.is_conversations else "documents"
    rows = [
        ("rows", *(f"{each.rows:,}" for each in manifests)),
        (things, *(f"{each.documents:,}" for each in manifests)),
        ("tokens", *(f"{each.tokens:,}" for each in manifests)),
        (f"tokens per {things[:-1]}", *(f"{each.tokens / max(each.documents, 1):,.1f}" for each in manifests)),
        ("tokens dropped at the ends of tasks", *(f"{each.dropped_tail_tokens:,}" for each in manifests)),
        ("shards", *(f"{len(each.shards):,}" for each in manifests)),
        ("stored bytes", *(f"{sum(shard.bytes for shard in each.shards):,}" for each in manifests)),
    ]
    counted = dict.fromkeys(name for each in manifests for name in each.counts)
    rows += [(name.replace("_", " "), *(f"{each.counts.get(name, 0):,}" for each in manifests)) for name in counted]
    manifest, tokenizer = data.manifest, data.manifest.tokenizer
    facts = (
        f"{manifest.kind} of {manifest.seq_len:,} positions, {manifest.dtype}; tokenizer {tokenizer.name}, "
        f"{tokenizer.vocab_size:,} ids, BOS {tokenizer.bos_id}, EOS {tokenizer.eos_id}, mask {tokenizer.mask_id}; "
        f"{manifest.bad_lines:,} bad lines left out"
    )
    header = ("", *(each.split for each in manifests))
    return f'{_table(header, rows)}<p class="note">{escape(facts)}</p>'


def _sources(manifest: Manifest) -> str:
    if not manifest.sources:
        return '<p class="note">The manifest names no input files.</p>'
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
    return f'{_table(("input files", "rows", "tokens"), rows)}<p class="note">{escape(note)}</p>'


def _names(files: Sequence[str]) -> str:
    shown = ", ".join(files[:_MOST_NAMES])
    return shown if len(files) <= _MOST_NAMES else f"{shown} and {len(files) - _MOST_NAMES:,} more"


def _measured(data: InspectedData, measured: Measured) -> str:
    total = data.manifest.rows
    scope = (
        f"All {measured.rows:,} rows of {measured.shards:,} of {len(data.manifest.shards):,} shards were read "
        f"({measured.rows / max(total, 1):.1%} of the split's {total:,} rows), masked as in epoch {data.epoch}."
    )
    positions = measured.rows * data.manifest.seq_len
    asked = f"asked for: {data.masking.ratio:g}, rounded down to whole tokens"
    rows = [
        ("tokens that may be masked", f"{measured.num_maskable:,}"),
        ("masked", f"{measured.num_masked:,}"),
        ("realised ratio", f"{measured.realised_ratio:.4%} ({asked})"),
        ("scored tokens", f"{measured.num_scored:,} ({measured.num_scored / max(positions, 1):.1%} of positions)"),
    ]
    if data.is_conversations:
        rows += [
            ("conversations", f"{len(measured.lengths):,}, of which {measured.num_copies:,} with a masked copy"),
            (
                "positions used",
                f"{measured.num_used:,} ({measured.num_used / max(positions, 1):.1%}; the rest is padding)",
            ),
        ]
        labels, counts = bin_linearly(measured.lengths)
        answer_labels, answer_counts = bin_linearly(measured.answer_lengths)
        charts = [
            ("Conversation lengths", Bars(labels, counts, "tokens", "conversations")),
            (
                "Scored tokens per conversation, its copy included",
                Bars(answer_labels, answer_counts, "scored tokens", "conversations"),
            ),
        ]
        where = "place among the tokens of a copy's answers that may be masked, %"
    else:
        rows.append(
            (
                "whole documents",
                f"{len(measured.lengths):,} (cut by the edges of shards and left out: {measured.num_cut:,})",
            )
        )
        labels, counts = bin_by_powers_of_two(measured.lengths)
        bars = Bars(labels, counts, "tokens (scale of powers of two)", "documents")
        charts = [("Document lengths, BOS and EOS not counted", bars)]
        where = "place in the row, %"
    if measured.num_masked:
        labels = [f"{number * 100 / NUM_PLACES:.0f}" for number in range(NUM_PLACES)]
        shares = measured.masked_share_by_place.tolist()
        bars = Bars(labels, shares, where, "share masked", is_share=True, reference=measured.realised_ratio)
        charts.append(("Where masks fall; dashed: the mean", bars))
    drawn = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{draw_bars(bars)}{_numbers(bars)}</figure>"
        for title, bars in charts
    )
    caveat = (
        ""
        if data.is_conversations or measured.rows == total
        else (" Long documents are cut by the edges more often than short ones, so they are too few in the chart.")
    )
    return f'<p class="note">{escape(scope + caveat)}</p>{_table(("", ""), rows)}<div class="charts">{drawn}</div>'


def _numbers(bars: Bars) -> str:
    rows = [(label, bars.format_value(value)) for label, value in zip(bars.labels, bars.values, strict=True)]
    return f"<details><summary>numbers</summary>{_table((bars.x_title, bars.y_title), rows)}</details>"


def _samples(data: InspectedData, samples: Iterable[Sample]) -> Iterable[str]:
    cutter = Cutter(data.tokenizer)
    for sample in samples:
        yield f"<h3>{escape(describe_sample(data, sample))}</h3>"
        for part in sample.parts:
            if part.conversation is not None:
                yield f"<h4>{escape(describe_part(part))}</h4>"
            yield f"<pre>{''.join(map(_span, cutter.cut(part)))}</pre>"


def _span(piece: Piece) -> str:
    text = escape(escape_controls(piece.text))
    classes = [
        name
        for name, holds in (
            ("masked", piece.num_masked > 0),
            ("scored", piece.is_scored and not piece.num_masked),
            ("special", piece.is_special),
            ("end", piece.is_end),
        )
        if holds
    ]
    if not classes:
        return text
    several = f' title="{piece.num_masked} of {piece.num_tokens} tokens masked"' if piece.num_tokens > 1 else ""
    return f'<span class="{" ".join(classes)}"{several if piece.num_masked else ""}>{text}</span>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        first = f"<th>{escape(cells[0])}</th>"
        rest = "".join(f'<{tag} class="number">{escape(cell)}</{tag}>' for cell in cells[1:])
        return f"<tr>{first}{rest}</tr>"

    head = f"<thead>{line(header, 'th')}</thead>" if any(header) else ""
    return f"<table>{head}<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"
