"""Summaries and their scores: prompts, sets of articles, ROUGE by hand, and a judge on this machine."""

import pytest

from meap.errors import ConfigError, MismatchError
from meap.evals.comparison import compare
from meap.evals.runner import run_tasks
from meap.evals.task import Example, Output
from meap.evals.tasks.hallucination import examples, prompt, score
from meap.prep.sft.templates import DEFAULT_TEMPLATE


@pytest.fixture
def judged(judge_server):
    return "judge.model=judge", f"judge.base_url={judge_server.url}"


@pytest.fixture
def evaluate(make_inputs, articles, oracle, tmp_path):
    def evaluate(*overrides, model=None, folder="eval", spell=lambda answer: answer):
        inputs = make_inputs(*articles, *overrides)
        model = model or oracle(examples(inputs), spell)
        return run_tasks(inputs, model, ["hallucination"], tmp_path / folder)["tasks"]["hallucination"]

    return evaluate


def test_the_model_is_asked_in_one_line_before_the_article():
    assert prompt("An article.\nOf two lines.") == "Summarize the following article: An article.\nOf two lines."


def test_alpaca_s_frame_is_that_of_fine_tuning():
    from jinja2 import Template

    message = {"role": "user", "content": "Summarize the following article:", "input": "An article."}
    rendered = Template(DEFAULT_TEMPLATE).render(
        messages=[message], add_generation_prompt=True, bos_token="", eos_token="</s>"
    )
    assert prompt("An article.", "alpaca") == rendered


def test_articles_are_drawn_by_seed_from_each_set(make_inputs, articles, tokenizer):
    found = examples(make_inputs(*articles))
    assert [each.facts["data_set"] for each in found] == ["xsum"] * 3 + ["multi_news"] * 3 + ["wikisum"] * 3
    assert [each.id for each in found] == [each.id for each in examples(make_inputs(*articles))]
    assert [each.id for each in found] != [each.id for each in examples(make_inputs(*articles, "seed=1"))]
    assert len(examples(make_inputs(*articles, "hallucination.examples=100"))) == 18
    first = found[0]
    assert first.facts["article"] == f"x{first.id.removeprefix('xsum-')}"
    text = tokenizer.decode(first.prompt.tolist(), skip_special_tokens=True)
    assert text == prompt(first.facts["document"])


@pytest.mark.slow
def test_long_articles_are_cut_and_counted(evaluate, make_inputs, articles, tokenizer):
    for each in examples(make_inputs(*articles)):
        assert each.facts["kept_tokens"] == 60 < each.facts["document_tokens"]
        assert len(tokenizer.encode(each.facts["document"])) == 60
    assert evaluate()["notes"][0] == "9 of 9 articles were cut to 60 tokens"
    whole = evaluate("hallucination.document_tokens=1000", folder="whole")
    assert whole["articles_cut"] == 0
    assert not any("were cut" in note for note in whole["notes"])


@pytest.mark.parametrize(
    ("text", "rouge"),
    [
        ("the cat sat on the mat", (1, 1, 1)),
        (" The CATS sat on the mats.\n", (1, 1, 1)),  # stems, case and punctuation
        ("the cat", (0.5, 2 / 6, 0.5)),  # precision 1, recall 2/6 and 1/5
        ("on the mat the cat sat", (1, 4 / 5, 0.5)),  # the longest common subsequence is three words
        ("a dog", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_rouge_by_hand(text, rouge):
    example = Example("0", answers=("The cat sat on the mat.",), facts={"prediction": None})
    assert tuple(score(example, Output(text)).values()) == pytest.approx(rouge)


def test_without_a_judge_there_is_rouge_and_it_is_said(evaluate):
    numbers = evaluate()
    assert list(numbers["metrics"]) == ["rouge1", "rouge2", "rougeL"]
    assert numbers["headline"] == "rouge1"
    assert numbers["metrics"]["rouge1"]["value"] == 1
    assert numbers["judge"] is None
    assert numbers["notes"][-1].startswith("no judge was asked: set judge.model")


def test_a_judge_is_asked_once_about_each_summary_and_told_nothing_of_the_model(evaluate, judged, judge_server):
    numbers = evaluate(*judged)
    assert numbers["headline"] == "similarity"
    for protocol in ("similarity", "faithfulness"):
        assert numbers["metrics"][protocol]["value"] == 1
        assert numbers["metrics"][protocol]["low"] == pytest.approx(0.6500, abs=1e-4)  # 3 of 3 three times
    assert (numbers["judge"]["models"], numbers["judge"]["replies"]) == (["judge-2024"], 18)
    assert len(judge_server.prompts) == 18
    assert not any("oracle" in body for body in judge_server.bodies)
    again = evaluate(*judged)
    assert again["rows"] == numbers["rows"]
    assert len(judge_server.prompts) == 18


def test_a_blind_model_scores_nothing(evaluate, blind, judged):
    numbers = evaluate(*judged, model=blind)
    assert {name: metric["value"] for name, metric in numbers["metrics"].items()} == dict.fromkeys(
        ("similarity", "faithfulness", "rouge1", "rouge2", "rougeL"), 0
    )


def test_silence_is_wrong_without_a_question(evaluate, judged, judge_server):
    numbers = evaluate(*judged, spell=lambda answer: " ")
    assert numbers["metrics"]["similarity"]["value"] == 0
    assert not judge_server.prompts


def test_replies_without_a_verdict_are_counted_by_themselves(evaluate, judged, judge_server):
    fair = judge_server.verdict
    judge_server.verdict = lambda asked: "Score: maybe" if "boat" in asked else fair(asked)
    numbers = evaluate(*judged, "hallucination.protocols=[similarity]")
    assert numbers["judge"]["without_verdict"] == {"similarity": 3}
    assert (numbers["metrics"]["similarity"]["n"], numbers["metrics"]["similarity"]["value"]) == (6, 1)
    assert "3 replies had no verdict, and are not in 'judged similar'" in numbers["notes"]


def test_predictions_that_came_along_are_a_control(make_inputs, oracle, judged, tmp_path):
    rows = [
        '{"id": "a", "document": "One.", "reference": "It is one.", "prediction": "It is two."}',
        '{"id": "b", "document": "Two.", "reference": "It is two."}',
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(rows))
    inputs = make_inputs(*judged, f"hallucination.xsum={tmp_path / 'own.jsonl'}")
    model = oracle(examples(inputs), lambda answer: answer)
    numbers = run_tasks(inputs, model, ["hallucination"], tmp_path / "eval")["tasks"]["hallucination"]
    assert [(row["by"]["condition"], row["control"], row["n"]) for row in numbers["rows"]] == [
        (None, False, 2),
        ("prediction", True, 1),
    ]
    assert [row["metrics"]["similarity"]["value"] for row in numbers["rows"]] == [1, 0]
    assert numbers["metrics"]["similarity"]["value"] == 1


@pytest.mark.slow
def test_two_models_are_compared_where_both_were_judged(evaluate, blind, judged, judge_server, tmp_path):
    fair = judge_server.verdict
    evaluate(*judged)
    judge_server.verdict = lambda asked: "Score: maybe" if "boat" in asked and "well." in asked else fair(asked)
    evaluate(*judged, model=blind, folder="blind")
    evaluate(model=blind, folder="unjudged")
    numbers = compare(f"{tmp_path / 'blind'},{tmp_path / 'eval'}", tmp_path / "out")["tasks"]["hallucination"]
    assert numbers["metrics"]["similarity"]["difference"]["value"] == 1
    assert ["similarity" in row["metrics"] for row in numbers["rows"]] == [False, True, True]
    assert numbers["rows"][1]["metrics"]["similarity"]["difference"]["test"] == "sign flip"
    shared = compare(f"{tmp_path / 'unjudged'},{tmp_path / 'eval'}", tmp_path / "out")["tasks"]["hallucination"]
    assert shared["headline"] == "rouge1"
    assert set(shared["metrics"]) == {"rouge1", "rouge2", "rougeL"}
    evaluate(*judged[1:], "judge.model=other", model=blind, folder="other")
    with pytest.raises(MismatchError, match="hallucination by other-2024 and by judge-2024; judge both with the same"):
        compare(f"{tmp_path / 'other'},{tmp_path / 'eval'}", tmp_path / "out")


def test_a_judge_without_a_key_stops_before_any_model_is_asked(evaluate, judged, monkeypatch, oracle):
    monkeypatch.delenv("MEAP_TEST_KEY")
    silent = oracle([])
    with pytest.raises(ConfigError, match="the environment has no such variable"):
        evaluate(*judged, model=silent)
    assert not silent.asked
