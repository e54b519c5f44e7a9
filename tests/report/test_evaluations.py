"""Results files of either shape, and what is none."""

import json

import pytest

from meap.report.curves import evaluation_curves
from meap.report.evaluations import read_evaluation
from meap.report.runs import read_runs

ESTIMATE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}


def results(**changes):
    depths = [{"depth": depth, "ranking": ESTIMATE, "generation": ESTIMATE} for depth in (0.0, 1.0)]
    return {
        "headline": {"key retrieval, ranking": ESTIMATE},
        "tasks": {"key_retrieval": {"by_depth": depths}},
        "config": {"model": "hf", "batch_size": 4, "num_facts": 4},
        "data": "mds",
    } | changes


def by_task():
    metric = {"label": "ranking", "binary": True, "higher_is_better": True, **ESTIMATE}
    metrics = {"ranking": metric, "generation": metric | {"label": "generation"}}
    rows = [{"by": {"depth": depth}, "n": 20, "metrics": metrics} for depth in (0.0, 1.0)]
    task = {"title": "key retrieval", "by": ["depth"], "metrics": metrics, "rows": rows}
    found = results(tasks={"key_retrieval": task})
    del found["headline"]
    return found


@pytest.mark.parametrize(
    ("found", "label"), [(results(), "key retrieval, ranking"), (by_task(), "key retrieval: ranking")]
)
def test_headlines_or_else_the_metrics_of_all_tasks_are_read(found, label, make_run):
    folder = make_run("a", loss=1.0)
    path = folder / "eval" / "results.json"
    path.write_text(json.dumps(found))
    evaluation = read_evaluation(path)
    assert evaluation is not None
    assert evaluation.estimates[label] == ESTIMATE
    assert evaluation.asked == {"num_facts": 4}
    charts = list(evaluation_curves(read_runs([folder])))
    assert [chart.title for chart in charts] == ["Key retrieval by ranking", "Key retrieval by generation"]
    assert charts[0].lines[0].x.tolist() == [0.0, 1.0]


def test_held_out_rows_are_known_by_what_they_are_not_by_where(tmp_path):
    def asked(remote: str, rows: str):
        config = {"perplexity": {"remote": [remote], "rows": 20}}
        path = tmp_path / "results.json"
        path.write_text(json.dumps(results(tasks={"perplexity": {"prompts_sha256": rows}}, config=config, data=remote)))
        return read_evaluation(path).asked

    assert asked("here", "sha") == asked("there", "sha") != asked("here", "other")


@pytest.mark.parametrize(
    "found",
    [[], {}, results(headline={}), results(headline={"loss": 1.0}), results(headline={"loss": {"n": 1}}), {"tasks": 1}],
    ids=str,
)
def test_what_holds_no_results_is_none(found, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(found))
    assert read_evaluation(path) is None
