"""What a run of the tasks leaves behind."""

import json
from pathlib import Path

import pytest

from meap.errors import ConfigError, DataError
from meap.evals.runner import choose_tasks, read_results, results_dir, run_tasks
from meap.evals.tables import grid_csv, print_results
from meap.evals.tasks import TASKS
from meap.places.locks import sole_writer

NAMES = ("perplexity", "key_retrieval", "multidoc_qa")


@pytest.fixture
def run(make_inputs, oracle, tmp_path):
    def run(*overrides, names=NAMES, model=None, folder="eval", **how):
        inputs = make_inputs(*overrides)
        model = model or oracle([each for name in names for each in TASKS[name].examples(inputs)])
        return run_tasks(inputs, model, names, tmp_path / folder, **how)

    return run


@pytest.mark.slow
def test_results_say_what_was_measured_on_what(run, tmp_path, tokenizer, pictures):
    results = run(facts={"data": "here"})
    assert read_results(tmp_path / "eval") == json.loads(json.dumps(results))
    assert list(results["tasks"]) == list(NAMES)
    assert results["model"] == {"name": "oracle"}
    assert results["tokenizer"]["fingerprint"] == tokenizer.fingerprint
    assert results["config"]["key_retrieval"]["examples"] == 30
    assert (results["data"], results["add_bos"], results["seed"], results["partial"]) == ("here", True, 1234, False)
    assert {"meap", "torch", "transformers", "python", "lm-eval"} <= set(results["versions"])
    for numbers in results["tasks"].values():
        assert numbers["n"] > 0
        assert len(numbers["prompts_sha256"]) == 64
        assert {"value", "low", "high", "n", "standard_error"} <= set(numbers["metrics"][numbers["headline"]])
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == sorted(
        ["results.json", "summary.png", *(f"{name}{suffix}" for name in NAMES for suffix in (".png", ".parquet"))]
    )


@pytest.mark.slow
def test_controls_are_in_no_mean(run):
    numbers = run(names=["multidoc_qa"])["tasks"]["multidoc_qa"]
    assert numbers["n"] == numbers["metrics"]["best_subspan_em"]["n"] == 10
    assert [(row["by"]["position"], row["by"]["condition"], row["control"]) for row in numbers["rows"]] == [
        (1, None, False),
        (3, None, False),
        (None, "closed book", True),
        (None, "oracle", True),
    ]


@pytest.mark.slow
def test_a_limited_run_is_marked_and_spread_over_the_task(run):
    results = run("limit=4")
    assert results["partial"]
    numbers = results["tasks"]["multidoc_qa"]
    assert numbers["partial"]
    assert sum(row["n"] for row in numbers["rows"]) == 4
    assert any(row["control"] for row in numbers["rows"])


@pytest.mark.slow
def test_a_second_run_asks_nothing_and_finds_the_same(run, make_inputs, oracle):
    first = run()
    silent = oracle([])  # knows no prompt: it would fail if it were asked
    second = run(model=silent)
    assert not silent.asked
    for name in NAMES:
        assert second["tasks"][name]["rows"] == first["tasks"][name]["rows"]


@pytest.mark.slow
def test_tasks_can_be_run_one_by_one(run):
    run(names=["perplexity"])
    assert set(run(names=["key_retrieval"])["tasks"]) == {"perplexity", "key_retrieval"}


@pytest.mark.slow
def test_results_of_another_model_are_replaced(run, blind):
    run()
    results = run(names=["key_retrieval"], model=blind)
    assert results["model"] == {"name": "blind"}
    assert set(results["tasks"]) == {"key_retrieval"}
    assert results["tasks"]["key_retrieval"]["metrics"]["generation"]["value"] == 0


@pytest.mark.slow
def test_results_of_another_model_are_named_before_they_go_with_all_their_files(run, blind, tmp_path, capsys, pictures):
    names = ["multi_needle", "needle_fu", "key_retrieval"]
    run("limit=2", names=names)
    folder = tmp_path / "eval"
    (folder / "needle_fu.notes").touch()
    assert "warning" not in capsys.readouterr().err

    class Asked(type(blind)):
        def loglikelihoods(self, rows):
            told.append(capsys.readouterr().err)
            return super().loglikelihoods(rows)

    told: list[str] = []  # before it was asked
    other = Asked(blind._tokenizer)
    results = run("limit=2", names=["key_retrieval"], model=other)
    assert told[0] == (
        f"warning: {folder} holds results of oracle (tasks key_retrieval, needle_fu, multi_needle), which will be "
        "replaced; to keep them choose another out_dir\n"
    )
    assert set(results["tasks"]) == {"key_retrieval"}
    assert sorted(path.name for path in folder.iterdir()) == [
        *("key_retrieval.parquet", "key_retrieval.png", "needle_fu.notes", "results.json", "summary.png")
    ]
    told.clear()
    run("limit=2", names=["perplexity"], model=other)
    assert "warning" not in "".join(told)
    assert set(read_results(folder)["tasks"]) == {"perplexity", "key_retrieval"}
    told.clear()
    run("limit=2", "add_bos=false", names=["perplexity"], model=other)
    assert "holds results of blind with another add_bos (tasks perplexity, key_retrieval)" in told[0]


@pytest.mark.slow
def test_what_a_stopped_evaluation_of_this_model_has_finished_is_kept(run, blind, tmp_path):
    names = ["perplexity", "key_retrieval"]
    run("limit=2", names=names)
    before = (tmp_path / "eval" / "results.json").read_bytes()
    run("limit=2", names=names, model=blind)
    (tmp_path / "eval" / "results.json").write_bytes(before)  # as if it had been stopped at the end
    run("limit=2", names=["perplexity"], model=blind)
    assert (tmp_path / "eval" / "key_retrieval.parquet").is_file()


@pytest.mark.parametrize(
    "content", ["{", '{"model": "gpt2", "accuracy": 0.5}', '{"model": {}, "identity": [], "tasks": []}']
)
def test_results_that_are_damaged_or_something_else_are_replaced(content, run, blind, tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "results.json").write_text(content)
    run(names=["kv_retrieval"], model=blind)
    assert set(read_results(tmp_path / "eval")["tasks"]) == {"kv_retrieval"}


@pytest.mark.slow
def test_no_task_keeps_the_answers_of_another_model(run, blind):
    """Also where a task comes after one that writes files of its own."""
    names = ["needle_fu", "needle_magic", "kv_retrieval"]
    run("limit=2", names=names)
    replaced = run("limit=2", names=names, model=blind)["tasks"]
    alone = run("limit=2", names=names, model=blind, folder="alone")["tasks"]
    for name in names:
        assert replaced[name]["metrics"] == alone[name]["metrics"], name
        assert replaced[name]["rows"] == alone[name]["rows"], name


def test_too_long_counts_as_wrong_where_that_is_asked(run, oracle, make_inputs, tmp_path):
    inputs = make_inputs("too_long=wrong")
    model = oracle(TASKS["key_retrieval"].examples(inputs))
    model.max_positions = sorted(each.positions for each in model.examples)[14]
    numbers = run_tasks(inputs, model, ["key_retrieval"], tmp_path / "other")["tasks"]["key_retrieval"]
    assert numbers["too_long"] > 5
    assert numbers["metrics"]["ranking"]["n"] == 30
    assert numbers["metrics"]["ranking"]["value"] == pytest.approx(1 - numbers["too_long"] / 30)


def test_what_stops_a_task_is_found_out_before_any_runs(oracle, make_inputs, tmp_path):
    inputs = make_inputs()
    model = oracle(TASKS["key_retrieval"].examples(inputs))
    model.max_positions = 100
    with pytest.raises(ConfigError, match="key_retrieval: 30 of 30 examples exceed the 100 tokens"):
        run_tasks(inputs, model, ["perplexity", "key_retrieval"], tmp_path / "eval")
    assert not (tmp_path / "eval").exists()
    assert not model.asked


def test_what_cannot_be_measured_is_skipped_with_its_reason(make_inputs, blind, tmp_path, capsys):
    results = run_tasks(make_inputs(num_rows=0), blind, ["perplexity", "kv_retrieval"], tmp_path / "eval")
    assert set(results["tasks"]) == {"kv_retrieval"}
    print_results(results)
    assert "skipped perplexity: no held-out rows" in capsys.readouterr().out


def test_two_evaluations_into_one_folder_do_not_meet(run, blind, tmp_path):
    with (
        sole_writer(tmp_path / "eval"),
        pytest.raises(DataError, match=r"eval is being written by another process: wait"),
    ):
        run(names=["kv_retrieval"], model=blind)
    assert not list((tmp_path / "eval").iterdir())

    def show(folder: Path) -> None:
        assert read_results(folder)["tasks"]
        with pytest.raises(DataError, match="is being written by another process"), sole_writer(folder):
            pass
        shown.append(folder)

    shown: list[Path] = []
    assert run(names=["kv_retrieval"], model=blind, write_page=show)["tasks"]
    assert shown == [tmp_path / "eval"]


def test_nothing_to_measure_is_an_error_and_leaves_former_results(make_inputs, blind, tmp_path):
    run_tasks(make_inputs(), blind, ["kv_retrieval"], tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(DataError, match="tasks=perplexity would measure nothing .perplexity: no held-out rows"):
        run_tasks(make_inputs(num_rows=0), blind, ["perplexity"], tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.slow
def test_the_table_has_a_line_per_row_and_metric(run, capsys):
    print_results(run(names=["key_retrieval"]))
    lines = [line for line in capsys.readouterr().out.splitlines() if "tokens |" not in line]
    assert lines[1] == "Key retrieval (key_retrieval): ranking, %, chance 25.0"
    assert [line.split("  ")[0] for line in lines[3:]] == [
        *(f"depth {depth}" for depth in (0.0, 0.25, 0.5, 0.75, 1.0)),
        "mean, ranking",
        "mean, generation",
    ]
    assert lines[-1].split() == ["mean,", "generation", "100.0", "[86.2,", "100.0]", "30", "30"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["needle_fu", "needle_magic"])
def test_a_grid_lies_beside_its_picture(run, tmp_path, name):
    grid = run(names=[name])["tasks"][name]["grid"]
    header, *lines = (tmp_path / "eval" / f"{name}.grid.csv").read_text().splitlines()
    assert header == "depth," + ",".join(map(str, grid["lengths"]))
    assert lines == [f"{depth}," + ",".join(["1.0"] * len(grid["lengths"])) for depth in grid["depths"]]


def test_a_cell_of_a_grid_that_nobody_asked_for_is_empty():
    grid = {"lengths": [100, 200], "depths": [0, 50], "values": [[0.5, float("nan")], [1 / 3, 0.0]]}
    assert grid_csv(grid) == "depth,100,200\n0,0.5,\n50,0.3333333333333333,0.0\n"


def test_tasks_are_named():
    assert choose_tasks("all") == list(TASKS)
    assert choose_tasks("kv_retrieval, perplexity") == ["kv_retrieval", "perplexity"]
    for asked in ("needle", "perplexity,x"):
        with pytest.raises(ConfigError, match=f"tasks={asked}: there is no .*; choose from perplexity, "):
            choose_tasks(asked)
    with pytest.raises(ConfigError, match="names none"):
        choose_tasks(",")


def test_results_that_are_not_there_are_reported(tmp_path):
    with pytest.raises(DataError, match="give a folder that an evaluation wrote"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        read_results(tmp_path)


def test_an_export_that_is_this_folder_does_not_hold_its_results(tmp_path, monkeypatch):
    """The next export would replace them with it."""
    run = tmp_path / "runs/1b"
    (run / "hf").mkdir(parents=True)
    (run / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert results_dir("runs/1b/hf/", is_export=True) == Path("runs/1b/eval")
    monkeypatch.chdir(run / "hf")
    assert results_dir(".", is_export=True) == run / "eval"
