"""What an evaluation takes, said before it is run."""

import pytest

from meap.errors import ConfigError
from meap.evals.dry_run import rehearse


def test_examples_are_counted_and_nobody_is_asked(make_inputs, articles, judge_server, capsys):
    judged = ("judge.model=judge", f"judge.base_url={judge_server.url}", "judge.max_new_tokens=100")
    rehearse(
        make_inputs(*articles, *judged, num_rows=0),
        ["perplexity", "key_retrieval", "hallucination"],
        max_positions=4096,
    )
    skipped, retrieval, summaries, judge = capsys.readouterr().out.splitlines()
    assert skipped.startswith("skipped perplexity: no held-out rows")
    assert retrieval.split()[:3] == ["key_retrieval", "30", "examples,"]
    assert summaries.split()[:3] == ["hallucination", "9", "examples,"]
    # 18 replies of 150 tokens at 10 dollars a million are 0.027, what is sent at 1 dollar the rest.
    assert judge.strip().startswith("18 questions to judge at most, about 0.03 dollars at 4 characters a token")
    assert judge.endswith("never more than judge.max_cost=5")
    assert not judge_server.prompts


def test_without_a_judge_that_is_said(make_inputs, articles, capsys):
    rehearse(make_inputs(*articles, "limit=4"), ["hallucination"], max_positions=4096)
    summaries, judge = capsys.readouterr().out.splitlines()
    assert "4 examples (partial)" in summaries
    assert judge.strip() == "no judge: judge.model is not set"


def test_what_exceeds_the_context_is_refused_or_counted(make_inputs, capsys):
    with pytest.raises(
        ConfigError, match="key_retrieval: 30 of 30 examples exceed the 8 tokens of the model's context"
    ):
        rehearse(make_inputs(num_rows=0), ["key_retrieval"], max_positions=8)
    rehearse(make_inputs("too_long=wrong", num_rows=0), ["key_retrieval"], max_positions=8)
    assert capsys.readouterr().out.endswith("; 30 exceed the context and count as wrong\n")
