"""What the report claims about runs."""

import shutil

import pytest

from meap.report.comparison import Figure, compare
from meap.report.runs import read_runs

from .conftest import metric_lines


def figure(comparison, label) -> Figure:
    return next(each for each in comparison.figures if each.label.startswith(label))


def test_runs_that_differ_in_the_ratio_alone_are_said_to(make_run):
    control = metric_lines(offset=0.1, ratio=0.0)
    folders = [
        make_run("ntp", "run.name=ntp", "masking.ratio=0", lines=control),
        make_run("meap", "run.name=meap", "train.microbatch_size=4"),
    ]
    comparison = compare(read_runs(folders))
    assert comparison.remarks[0] == "These runs differ in masking.ratio alone."
    assert comparison.remarks[1] == "Settings that should change speed only differ: train.microbatch_size."
    assert "compare held-out losses" in comparison.remarks[2]
    assert [setting.key for setting in comparison.differing][:2] == ["masking.ratio", "train.microbatch_size"]
    assert figure(comparison, "training loss, mean").better == ""
    heldout = figure(comparison, "held-out loss, the last")
    assert heldout.values[0] - heldout.values[1] == pytest.approx(0.1)


def test_what_differs_beside_the_ratio_is_named(make_run):
    folders = [make_run("a", "masking.ratio=0"), make_run("b", "optimizer.lr=0.1", "run.seed=1")]
    assert compare(read_runs(folders)).remarks[0] == (
        "These runs differ in masking.ratio, and in optimizer.lr and run.seed too: the ratio is not all that is "
        "compared."
    )


def test_data_that_moved_is_the_same_data(make_run, write_shards, tmp_path):
    folders = [make_run(name, f"data.remote={tmp_path}/{name}", f"tokenizer.name={name}") for name in "abc"]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        data = write_shards(tmp_path / folder.name, rows=8, validation_rows=0, seed=seed)
        shutil.copytree(data / "train", folder / "data/train")
    assert compare(read_runs(folders[:2])).remarks == ["These runs have the same settings."]
    assert compare(read_runs(folders[::2])).remarks == ["These runs differ in data.remote and tokenizer.name."]


def test_equal_settings_are_said_and_losses_may_then_be_judged(make_run):
    comparison = compare(read_runs([make_run("a"), make_run("b")]))
    assert comparison.remarks == ["These runs have the same settings."]
    assert figure(comparison, "training loss, mean").better == "lower"
    assert not [setting for setting in comparison.differing if setting.weight == "result"]


def test_runs_of_different_length_are_compared_where_the_shorter_ended(make_run):
    short = make_run("short", "train.global_batch_size=16", lines=metric_lines(60))
    (short / "starts.jsonl").write_text('{"from_step": 0, "steps": 200}\n')
    comparison = compare(read_runs([make_run("long"), short]))
    assert "short is not finished: 60 of 200 steps." in comparison.remarks
    both = figure(comparison, "held-out loss up to 245,760 tokens")  # 60 * 16 * 256
    long_run, short_run = comparison.runs
    assert list(both.values) == [long_run.series["heldout_loss"].values[1], short_run.series["heldout_loss"].values[0]]


def test_a_run_without_a_configuration_is_not_judged(make_run):
    folder = make_run("a")
    (folder / "config.yaml").unlink()
    comparison = compare(read_runs([folder, make_run("b")]))
    assert not [remark for remark in comparison.remarks if remark.startswith("These runs")]
    assert figure(comparison, "training loss, mean").better == ""
    assert figure(comparison, "tokens seen").values == [None, 200 * 2048]


def test_a_single_run_is_a_report_too(make_run):
    comparison = compare(read_runs([make_run("a", loss=1.0)]))
    assert not comparison.remarks
    assert not comparison.differing
    assert comparison.same["masking.ratio"] == 0.15


def test_evaluations_stand_side_by_side_and_unlike_questions_are_said(make_run):
    folders = [make_run("a", loss=1.0), make_run("b"), make_run("c", loss=2.0)]
    results = folders[2] / "eval" / "results.json"
    results.write_text(results.read_text().replace('"num_facts": 4', '"num_facts": 8'))
    comparison = compare(read_runs(folders))
    (result,) = comparison.results
    assert [each and each["value"] for each in result.estimates] == [1.0, None, 2.0]
    assert "Evaluations (eval) were not of the same questions: num_facts differ." in comparison.remarks
