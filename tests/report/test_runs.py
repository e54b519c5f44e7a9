"""Reading the folder of a run: what a kill, a resume or an absence leaves behind."""

import json

import pytest

from meap.errors import ConfigError, DataError
from meap.report.runs import read_run, read_runs

from .conftest import NUM_STEPS, metric_lines


def test_a_run_is_read(make_run):
    run = read_run(make_run("a", loss=1.5), "a")
    assert run.last_step == NUM_STEPS
    assert run.tokens_per_step == 8 * 256
    assert set(run.series) >= {"train_loss", "heldout_loss", "masked_loss", "clean_loss", "mask_ratio", "learning_rate"}
    assert run.series["heldout_loss"].steps.tolist() == [50, 100, 150, 200]
    assert list(run.evaluations) == ["eval"]
    assert not run.notes


def test_sizes_that_a_base_brings_are_no_settings_of_the_run(make_run):
    """Those of the configuration are unused there, and looked like a difference."""
    assert "model.hidden_size" in read_run(make_run("a"), "a").settings
    assert "model.hidden_size" not in read_run(make_run("b", "model.base=runs/a"), "b").settings
    assert "model.hidden_size" in read_run(make_run("c", "model.base=official.pth"), "c").settings


def test_a_line_that_a_kill_left_broken_is_left_out_and_said(make_run):
    folder = make_run("a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 201, "loss/tr')
    run = read_run(folder, "a")
    assert run.last_step == NUM_STEPS
    (note,) = run.notes
    assert note.startswith("the last line of metrics.jsonl was broken and left out")
    with (folder / "metrics.jsonl").open("a") as file:  # the next start goes on in the same line
        file.write('{"step": 201, "loss/train/total": 1.0}\n{"step": 202, "loss/train/total": 1.0}\n')
    run = read_run(folder, "a")
    assert run.last_step == 202
    assert run.notes[0].startswith("one line of metrics.jsonl was broken")


def test_a_resumed_run_counts_the_steps_it_wrote_last(make_run):
    lines = metric_lines()
    resumed = [{"step": step, "loss/train/total": 9.0} for step in range(150, 181)]
    run = read_run(make_run("a", lines=lines + resumed), "a")
    assert run.series["train_loss"].values[149:180].tolist() == [9.0] * 31
    assert len(run.series["train_loss"].steps) == NUM_STEPS
    assert run.series["learning_rate"].values[149] == pytest.approx(
        1e-3 * 150 / NUM_STEPS
    )  # what was not written again stays


def test_lines_of_a_step_merge_in_any_order(make_run):
    whole = metric_lines()
    split = [{"step": line["step"], key: value} for line in whole for key, value in line.items() if key != "step"]
    one, other = read_run(make_run("a", lines=whole), "a"), read_run(make_run("b", lines=split[::-1]), "b")
    assert one.series.keys() == other.series.keys()
    for key, series in one.series.items():
        assert series.steps.tolist() == other.series[key].steps.tolist()
        assert series.values.tolist() == other.series[key].values.tolist()


def test_losses_that_are_no_numbers_are_said(make_run):
    lines = metric_lines()
    lines[20]["loss/train/total"] = float("nan")
    (note,) = read_run(make_run("a", lines=lines), "a").notes
    assert note == "training loss is not finite at 1 of its steps (21)"


def test_all_but_the_metrics_may_be_missing(make_run):
    folder = make_run("a")
    (folder / "config.yaml").unlink()
    run = read_run(folder, "a")
    assert run.tokens_per_step is None
    assert run.notes == ["there is no config.yaml, so its settings and tokens are not known"]


def test_results_are_found_by_name_and_broken_ones_said(make_run):
    folder = make_run("a", loss=1.0)
    (folder / "eval" / "multi_needle.chains.json").write_text("[1, 2]")  # a task's own file, not results
    (folder / "eval" / "64k").mkdir()
    (folder / "eval" / "64k" / "results.json").write_text((folder / "eval" / "results.json").read_text())
    (folder / "eval" / "broken").mkdir()
    (folder / "eval" / "broken" / "results.json").write_text('{"headline"')
    run = read_run(folder, "a")
    assert list(run.evaluations) == ["eval", "eval/64k"]
    assert [note.split(" holds")[0] for note in run.notes] == ["eval/broken/results.json"]


def test_versions_and_starts_are_read_where_they_are(make_run):
    folder = make_run("a")
    (folder / "versions.json").write_text(json.dumps({"torch": "2.7.0", "git": {"commit": "abc", "dirty": False}}))
    (folder / "starts.jsonl").write_text('{"from_step": 0, "devices": 8}\n{"from_step": 90, "devices": 4}\n{"st')
    run = read_run(folder, "a")
    assert run.versions == {"torch": "2.7.0", "git.commit": "abc", "git.dirty": False}
    assert [start["devices"] for start in run.starts] == [8, 4]
    assert run.resumed_from == [90]
    assert "starts.jsonl" in run.notes[0]


def test_files_that_are_broken_are_left_out_and_said(make_run):
    folder = make_run("a")
    (folder / "versions.json").write_text("{")
    (folder / "config.yaml").write_text("run: [")
    run = read_run(folder, "a")
    assert not run.versions
    assert not run.settings
    assert [note.split(" ")[0] for note in run.notes] == [f"{folder / 'config.yaml'}:1:7:", "versions.json"]


def test_names_are_as_long_as_they_must_be(make_run):
    a, b = make_run("one/eval0"), make_run("two/eval0")
    assert [run.name for run in read_runs([a])] == ["eval0"]
    assert [run.name for run in read_runs([a, b])] == ["one/eval0", "two/eval0"]


def test_what_is_not_a_run_is_refused_with_those_that_are(make_run, tmp_path):
    folder = make_run("a")
    for given, message in (
        (folder.parent, f"holds no metrics.jsonl, .*; there are {folder}"),
        (folder.parent / "c", f"there is no folder .*; there are {folder}"),
        (folder / "metrics.jsonl", "metrics.jsonl is a file: give the folder of a run, such as"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_runs([given])
    with pytest.raises(ConfigError, match="is given twice"):
        read_runs([folder, folder / ".." / "a"])
    (folder / "metrics.jsonl").write_text("not a metric\n")
    with pytest.raises(DataError, match="holds no step that can be read"):
        read_runs([folder])


def test_of_samples_that_a_resumed_run_wrote_again_the_last_count(make_run):
    folder = make_run("a")
    assert not read_run(folder, "a").samples
    lines = [(50, 0, "old"), (50, 1, "old"), (100, 0, "x"), (50, 0, "new"), (50, 1, "new")]
    with (folder / "samples.jsonl").open("w") as file:
        for step, row, answer in lines:
            file.write(json.dumps({"step": step, "row": row, "prompt": "p", "answer": answer, "expected": "e"}) + "\n")
        file.write('{"step": 150, "row": 0, "pro')
    run = read_run(folder, "a")
    assert {step: [each["answer"] for each in samples] for step, samples in run.samples.items()} == {
        50: ["new", "new"],
        100: ["x"],
    }
    assert "the last line of samples.jsonl was broken" in run.notes[0]
