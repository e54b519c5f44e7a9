"""What a run of the tasks leaves behind."""

import json
from dataclasses import replace

import numpy as np
import pytest

from meap.config import EvalConfig
from meap.errors import DataError
from meap.evals import runner
from meap.evals.runner import TASKS, print_table, run_tasks
from meap.evals.task import LazyRows, TaskInputs

CONFIG = EvalConfig(model="m", out_dir="o", num_examples=15, num_sentences=2, perplexity_rows=4)


def inputs(model, tokenizer):
    rows = np.random.default_rng(0).integers(2, 300, (6, 33))
    return TaskInputs(model, tokenizer, CONFIG, LazyRows(6, rows.__getitem__))


@pytest.fixture
def results(oracle, tokenizer, tmp_path):
    return run_tasks(inputs(oracle(CONFIG), tokenizer), TASKS, tmp_path / "eval", facts={"data": "here"})


def test_results_say_what_was_measured_on_what(results, tmp_path, tokenizer):
    assert json.loads((tmp_path / "eval" / "results.json").read_text()) == results
    assert set(results["tasks"]) == {"perplexity", "key_retrieval"}
    assert results["model"] == {"name": "oracle"}
    assert results["tokenizer"]["fingerprint"] == tokenizer.fingerprint
    assert results["config"]["num_examples"] == 15
    assert results["data"] == "here"
    assert {"meap", "torch", "transformers", "python"} <= set(results["versions"])
    for numbers in results["tasks"].values():
        assert numbers["n"] > 0
        assert numbers["seconds"] >= 0


def test_every_example_has_a_line(results, tmp_path):
    for name, count in (("key_retrieval", 15), ("perplexity", 4)):
        lines = (tmp_path / "eval" / f"{name}.jsonl").read_text().splitlines()
        assert len([json.loads(line) for line in lines]) == count


def test_the_picture_is_a_picture(results, tmp_path):
    from matplotlib.image import imread

    height, width, _ = imread(tmp_path / "eval" / "summary.png").shape
    assert width > 2 * height
    assert sorted(path.suffix for path in (tmp_path / "eval").iterdir()) == [".json", ".jsonl", ".jsonl", ".png"]


def test_the_table_has_a_line_per_number(results, capsys):
    print_table(results)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-4:] for line in lines if line.startswith("key retrieval, ranking (chance 0.25)")] == [
        ["1.0000", "[0.7961,", "1.0000]", "15"]
    ]
    assert len(lines) == 2 + len(results["headline"])


def test_an_earlier_evaluation_is_replaced(results, blind, tokenizer, tmp_path):
    run_tasks(inputs(blind, tokenizer), ["key_retrieval"], tmp_path / "eval")
    found = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert found["model"] == {"name": "blind"}
    assert set(found["tasks"]) == {"key_retrieval"}


def test_what_stops_a_task_is_found_out_before_any_runs(oracle, tokenizer, tmp_path):
    given = replace(inputs(oracle(CONFIG), tokenizer), heldout_rows=())
    with pytest.raises(DataError, match="no held-out rows"):
        run_tasks(given, ["key_retrieval", "perplexity"], tmp_path / "eval")
    assert not (tmp_path / "eval").exists()


def test_progress_has_the_time_left(capsys, monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 12.0, 20.0])
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(clock))
    report = runner._progress_lines("perplexity")
    for done in (1, 5, 6, 10):
        report(done, 10)
    assert capsys.readouterr().out.splitlines() == [
        "perplexity          5/10 | 0:00:10 so far, 0:00:10 left",
        "perplexity         10/10 | 0:00:20 so far, 0:00:00 left",
    ]
