"""The page is one whole, well-formed file that asks for nothing else, and its text is the text."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meap.inspect.page import render_page, write_page
from meap.inspect.pieces import Cutter
from meap.inspect.statistics import measure
from meap.show.text import escape_controls
from tests.pages import Page, whole_page


@pytest.fixture(params=["rows", "conversations"])
def made(request, rows_remote, sft_remote, open_split):
    data = open_split(rows_remote if request.param == "rows" else sft_remote, "ratio=0.3")
    samples = [data.sample(number) for number in range(6)]
    return data, samples, measure(data, samples, extra_shards=0)


def test_it_is_well_formed_and_asks_for_nothing(made):
    whole_page(render_page(*made))


def test_the_samples_are_the_text_with_a_mark_for_every_mask(made):
    data, samples, _ = made
    page = Page(render_page(*made))
    cutter = Cutter(data.tokenizer)
    parts = [cutter.cut(part) for sample in samples for part in sample.parts]
    assert page.samples == ["".join(escape_controls(piece.text) for piece in pieces) for pieces in parts]
    assert page.masked == [sum(piece.num_masked > 0 for piece in pieces) for pieces in parts]
    assert "<script>alert" in "".join(page.samples)  # as text


def test_a_sample_keeps_the_lines_it_begins_with(rows_remote, open_split):
    data = open_split(rows_remote, "ratio=0")
    tokens = np.array(data.tokenizer.encode("\n\n  It begins late.\n"))
    sample = data.sample(0)
    part = replace(sample.parts[0], tokens=tokens, is_masked=np.zeros(len(tokens), bool))
    html = render_page(data, [replace(sample, parts=(part,))], measure(data, [], extra_shards=0))
    assert Page(html).samples == ["\n\n  It begins late.\n"]


def test_every_bar_has_its_number_and_they_sum_up(made):
    data, _, measured = made
    html = render_page(*made)
    assert html.count("<svg ") == html.count("</svg>") == (3 if data.is_conversations else 2)
    lengths = html.split("<svg ")[1].split("</svg>")[0]
    under_the_pointer = re.findall(r'class="place">[\d,-]+: ([\d,]+)<', lengths)
    assert sum(int(count.replace(",", "")) for count in under_the_pointer) == len(measured.lengths) > 0
    numbers = Page(html.split("<summary>numbers</summary>")[1].split("</details>")[0]).rows
    assert [count for _, count in numbers[1:]] == under_the_pointer
    assert f"{measured.realised_ratio:.4%} (asked for: 0.3, rounded down to whole tokens)" in html
    assert f"{data.manifest.tokens:,}" in html


def test_names_are_escaped(made, with_manifest):
    data, samples, measured = made
    evil = with_manifest(data, sources=("<b>&.json",), counts={"<i>": 3})
    page = Page(render_page(evil, samples, measured))
    assert not {"b", "i"} & page.tags


def test_nothing_is_asked_for_and_nothing_is_drawn(rows_remote, open_split):
    data = open_split(rows_remote, "ratio=0")
    html = render_page(data, [], measure(data, [], extra_shards=0))
    assert Page(html).samples == []
    assert "nothing to show" in html


def test_it_is_written_whole(made, tmp_path: Path):
    target = tmp_path / "page.html"
    target.write_text("old")
    write_page(target, *made)
    assert target.read_text(encoding="utf-8") == render_page(*made)
    assert [path.name for path in tmp_path.glob("*page.html*")] == ["page.html"]
