"""The page of an evaluation, and of a comparison."""

import base64
from html.parser import HTMLParser

import pytest

from meap.evals.comparison import compare
from meap.evals.page import write_comparison_page, write_results_page
from meap.evals.runner import run_tasks
from meap.evals.tasks import TASKS

NAMES = ("perplexity", "key_retrieval", "hallucination")


class Page(HTMLParser):
    """What a reader sees, and what the page would load."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.rows, self.loaded, self.open = [], [], [], []
        self.feed(text)
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attributes):
        if tag not in {"meta", "img", "link", "input"}:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        self.loaded += [value for name, value in attributes if name in {"src", "href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)
        if self.open and self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] += text


def page_of(path):
    text = path.read_text()
    assert "url(" not in text
    assert "<script" not in text
    page = Page(text)
    for each in page.loaded:
        assert base64.b64decode(each.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    return page


@pytest.fixture
def evaluate(make_inputs, articles, tmp_path):
    def evaluate(make_model, folder, *overrides, names=NAMES, **how):
        inputs = make_inputs(*articles, *overrides, **how)
        run_tasks(inputs, make_model(inputs), names, tmp_path / folder, facts={"data": "<mds>"})
        write_results_page(tmp_path / folder)
        return tmp_path / folder

    return evaluate


@pytest.fixture
def perfect(oracle):
    return lambda inputs: oracle([each for name in NAMES for each in TASKS[name].examples(inputs)])


@pytest.mark.slow
def test_an_evaluation_is_one_page(evaluate, perfect, tokenizer):
    page = page_of(evaluate(perfect, "eval") / "report.html")
    assert len(page.loaded) == len(NAMES)
    told = " ".join(page.texts)
    for name in NAMES:
        assert TASKS[name].title in told
    assert ["Key retrieval: ranking", "100.0", "[88.6, 100.0]", "30", "25.0"] in page.rows
    assert ["depth 0.5", "100.0", "[61.0, 100.0]", "6"] in page.rows
    assert ["mean, generation", "100.0", "[88.6, 100.0]", "30"] in page.rows
    assert ["seed", "1234"] in page.rows
    assert ["data", "<mds>"] in page.rows
    assert ["tokenizer fingerprint", tokenizer.fingerprint] in page.rows
    assert ["key_retrieval.examples", "30"] in page.rows
    assert any(row[0] == "openai" for row in page.rows)
    assert "no judge was asked" in told
    assert ["partial", "false"] in page.rows
    assert "not all examples were asked" not in told


@pytest.mark.slow
def test_what_is_missing_is_on_the_page(evaluate, blind):
    page = page_of(evaluate(lambda _: blind, "eval", "limit=4", num_rows=0) / "report.html")
    told = " ".join(page.texts)
    assert "partial: not all examples were asked (limit)" in told
    assert "skipped perplexity: there are no held-out rows" in told
    assert len(page.loaded) == 2


@pytest.mark.slow
def test_a_comparison_is_one_page(evaluate, perfect, blind, tmp_path):
    first = evaluate(lambda _: blind, "a")
    second = evaluate(perfect, "b", names=NAMES[1:])
    found = compare(f"{first},{second}", tmp_path / "out")
    write_comparison_page(found, tmp_path / "out")
    page = page_of(tmp_path / "out/report.html")
    assert len(page.loaded) == 1
    assert ["", "blind", "oracle"] in page.rows
    assert ["name", "blind", "oracle"] in page.rows
    [row] = [row for row in page.rows if row[0] == "mean, generation"]
    assert row[1:4] == ["0.0", "100.0", "+100.0"]
    told = " ".join(page.texts)
    assert "blind: perplexity was not compared" in told
    assert "McNemar's exact test by row" in told
