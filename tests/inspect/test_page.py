"""The page is one whole, well-formed file that asks for nothing else, and its text is the text."""

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from meap.errors import DataError
from meap.inspect.page import render_page, write_page
from meap.inspect.pieces import Cutter, escape_controls
from meap.inspect.statistics import measure

VOID = {"meta"}


class Page(HTMLParser):
    """Elements, checked for nesting, and the text and marks of every <pre>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.samples: list[str] = []
        self.masked: list[int] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "pre":
            self.samples.append("")
            self.masked.append(0)
        if tag == "span" and "masked" in (dict(attrs)["class"] or "").split() and "pre" in self.open:
            self.masked[-1] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "pre" in self.open:
            self.samples[-1] += data


@pytest.fixture(params=["rows", "conversations"])
def made(request, rows_remote, sft_remote, open_split):
    data = open_split(rows_remote if request.param == "rows" else sft_remote, "--ratio", "0.3")
    samples = [data.sample(number) for number in range(6)]
    return data, samples, measure(data, samples, extra_shards=0)


def test_it_is_well_formed_and_asks_for_nothing(made):
    html = render_page(*made)
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    for _, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on")} | (
            {"src", "href", "srcset", "xlink:href", "style"} & attributes.keys()
        )
    assert not re.search(r"url\(|@import|https?:", html)
    assert "prefers-color-scheme: dark" in html
    assert [tag for tag, _ in page.elements if tag in {"html", "head", "body"}] == ["html", "head", "body"]


def test_the_samples_are_the_text_with_a_mark_for_every_mask(made):
    data, samples, _ = made
    page = Page(render_page(*made))
    cutter = Cutter(data.tokenizer)
    parts = [cutter.cut(part) for sample in samples for part in sample.parts]
    assert page.samples == ["".join(escape_controls(piece.text) for piece in pieces) for pieces in parts]
    assert page.masked == [sum(piece.num_masked > 0 for piece in pieces) for pieces in parts]
    assert "<script>alert" in "".join(page.samples)  # as text


def test_every_bar_has_its_number_and_they_sum_up(made):
    data, _, measured = made
    html = render_page(*made)
    assert html.count("<svg ") == html.count("</svg>") == (3 if data.is_conversations else 2)
    bars = re.findall(r'<rect class="bar" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"><title>', html)
    for x, y, width, height in (map(float, bar) for bar in bars):
        assert x >= 0
        assert x + width <= 640
        assert y >= 0
        assert height >= 0
        assert y + height <= 260
    for chart in html.split("<svg ")[1:]:
        labels = re.findall(r'<text x="([\d.]+)" y="224" text-anchor="middle">([^<]*)<', chart)
        reach = [(float(x) - 3.5 * len(text), float(x) + 3.5 * len(text)) for x, text in labels]
        assert all(one[1] < other[0] for one, other in itertools.pairwise(reach))
    lengths = html.split("<svg ")[1].split("</svg>")[0]
    counts = [int(count.replace(",", "")) for count in re.findall(r"<title>[\d,-]+: ([\d,]+)</title>", lengths)]
    assert sum(counts) == len(measured.lengths) > 0
    assert f"{measured.realised_ratio:.4%} (asked for: 0.3, rounded down to whole tokens)" in html
    assert f"{data.manifest.tokens:,}" in html


def test_names_are_escaped(made, with_manifest):
    data, samples, measured = made
    evil = with_manifest(data, sources=("<b>&.json",), counts={"<i>": 3})
    page = Page(render_page(evil, samples, measured))
    assert not {"b", "i"} & {tag for tag, _ in page.elements}


def test_nothing_is_asked_for_and_nothing_is_drawn(rows_remote, open_split):
    data = open_split(rows_remote, "--ratio", "0")
    html = render_page(data, [], measure(data, [], extra_shards=0))
    assert Page(html).samples == []
    assert "nothing to show" in html


def test_it_is_written_whole_or_not_at_all(made, tmp_path: Path):
    target = tmp_path / "page.html"
    target.write_text("old")
    write_page(target, *made)
    assert target.read_text(encoding="utf-8") == render_page(*made)
    assert [path.name for path in tmp_path.glob("*page.html*")] == ["page.html"]
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(DataError, match=r"--html .*taken.html could not be written \(.*\): choose another place"):
        write_page(tmp_path / "taken.html", *made)
    assert [path.name for path in tmp_path.glob(".*")] == []
