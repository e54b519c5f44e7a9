"""The page of an evaluation, and of a comparison."""

import pytest

from meap.evals.comparison import compare
from meap.evals.page import write_comparison_page, write_results_page
from meap.evals.runner import run_tasks
from meap.evals.tasks import TASKS
from tests.pages import whole_page

NAMES = ("perplexity", "key_retrieval", "hallucination")


def page_of(path):
    return whole_page(path.read_text())


def pictures_of(page):
    return [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg" and "role" in attributes]


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
    assert len(pictures_of(page)) == len(NAMES)
    told = " ".join(page.texts)
    for name in NAMES:
        assert TASKS[name].title in told
    assert ["Key retrieval: ranking, %", "100.0", "[86.2, 100.0]", "30", "30", "25.0"] in page.rows
    assert ["depth 0.5", "100.0", "[61.0, 100.0]", "6", "6"] in page.rows
    assert ["mean, generation", "100.0", "[86.2, 100.0]", "30", "30"] in page.rows
    assert ["seed", "1234"] in page.rows
    assert ["data", "<mds>"] in page.rows
    assert ["tokenizer fingerprint", tokenizer.fingerprint] in page.rows
    assert ["key_retrieval.examples", "30"] in page.rows
    assert any(row[0] == "openai" for row in page.rows)
    assert "no judge was asked" in told
    assert "perplexity" in {row[0] for row in page.rows}
    assert told.count("expected") == 6, "three answers of each task that has right and wrong ones"
    assert ["partial", "false"] in page.rows
    assert "not all examples were asked" not in told


@pytest.mark.slow
def test_what_is_missing_is_on_the_page(evaluate, blind):
    page = page_of(evaluate(lambda _: blind, "eval", "limit=4", num_rows=0) / "report.html")
    told = " ".join(page.texts)
    assert "partial: not all examples were asked (limit)" in told
    assert "skipped perplexity: no held-out rows" in told
    assert len(pictures_of(page)) == 2


@pytest.mark.slow
def test_a_comparison_is_one_page(evaluate, perfect, blind, tmp_path):
    first = evaluate(lambda _: blind, "a")
    second = evaluate(perfect, "b", names=NAMES[1:])
    found = compare(f"{first},{second}", tmp_path / "out")
    write_comparison_page(found, tmp_path / "out")
    page = page_of(tmp_path / "out/report.html")
    assert len(pictures_of(page)) == 2
    assert ["", "blind", "oracle"] in page.rows
    assert ["name", "blind", "oracle"] in page.rows
    [row] = [row for row in page.rows if row[0] == "mean, generation"]
    assert row[1:4] == ["0.0", "100.0", "+100.0"]
    told = " ".join(page.texts)
    assert "blind: perplexity was not compared" in told
    assert "McNemar's, if answers are right or wrong" in told
