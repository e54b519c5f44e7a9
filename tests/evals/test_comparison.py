"""Two evaluations side by side."""

import json
import shutil

import pytest

from meap.errors import ConfigError, DataError, MismatchError
from meap.evals.comparison import compare, print_comparison, short_names
from meap.evals.runner import run_tasks
from meap.evals.tasks import TASKS

NAMES = ("perplexity", "key_retrieval")


@pytest.fixture(scope="module")
def evaluate(make_inputs, tmp_path_factory):
    parent = tmp_path_factory.mktemp("evaluations")

    def evaluate(model, folder, *overrides, names=NAMES):
        run_tasks(make_inputs(*overrides), model, names, parent / folder)
        return parent / folder

    return evaluate


@pytest.fixture(scope="module")
def both(evaluate, make_inputs, oracle, blind):
    inputs = make_inputs()
    perfect = oracle([each for name in NAMES for each in TASKS[name].examples(inputs)])
    return evaluate(blind, "a"), evaluate(perfect, "b")


@pytest.mark.slow
def test_differences_are_the_second_less_the_first(both, tmp_path, capsys):
    found = compare(f"{both[0]},{both[1]}", tmp_path / "out")
    assert found["models"] == ["blind", "oracle"]
    generation = found["tasks"]["key_retrieval"]["metrics"]["generation"]
    assert (generation["first"]["value"], generation["second"]["value"]) == (0, 1)
    assert generation["difference"]["value"] == 1
    assert generation["difference"]["p"] < 0.01
    assert generation["relative"] is None
    row = found["tasks"]["key_retrieval"]["rows"][0]["metrics"]["generation"]["difference"]
    assert (row["test"], row["p"]) == ("mcnemar", pytest.approx(2 / 2**6))
    assert found["tasks"]["perplexity"]["metrics"]["loss"]["difference"]["value"] < 0
    assert json.loads((tmp_path / "out/compare.json").read_text()) == json.loads(json.dumps(found))
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    print_comparison(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["blind", "oracle", "difference", "95", "%", "interval", "relative", "p", "n"]
    (mean,) = [line.split() for line in lines if line.startswith("mean, generation")]
    assert mean[2:5] == ["0.0", "100.0", "+100.0"]


def test_a_model_does_not_differ_from_itself(both, tmp_path):
    found = compare(f"{both[0]}, {both[0]}", tmp_path / "out")
    for numbers in found["tasks"].values():
        for metric in numbers["metrics"].values():
            assert (metric["difference"]["value"], metric["difference"]["p"]) == (0, 1)


@pytest.mark.slow
def test_other_prompts_are_refused(both, evaluate, blind, tmp_path):
    other = evaluate(blind, "c", "seed=7", names=("key_retrieval", "perplexity"))
    with pytest.raises(
        MismatchError, match="were not asked the same prompts: those of key_retrieval differ; evaluate both"
    ):
        compare(f"{both[0]},{other}", tmp_path / "out")
    plain = evaluate(blind, "e", "add_bos=false", names=("key_retrieval",))
    with pytest.raises(MismatchError, match="add_bos differs; give both the same"):
        compare(f"{both[0]},{plain}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_compared_is_reported(both, evaluate, blind, tmp_path):
    with pytest.raises(ConfigError, match="compare=a names 1 folders: give two"):
        compare("a", tmp_path / "out")
    with pytest.raises(DataError, match="give a folder that an evaluation wrote"):
        compare(f"{both[0]},{tmp_path / 'none'}", tmp_path / "out")
    other = evaluate(blind, "d", names=("kv_retrieval",))
    with pytest.raises(DataError, match="have no task in common"):
        compare(f"{both[0]},{other}", tmp_path / "out")
    shutil.copytree(both[0], tmp_path / "moved")
    (tmp_path / "moved/perplexity.parquet").unlink()
    with pytest.raises(DataError, match="perplexity.parquet does not exist: evaluate perplexity again"):
        compare(f"{tmp_path / 'moved'},{both[1]}", tmp_path / "out")


def test_names_are_as_short_as_they_can_be():
    assert short_names(["runs/ntp/hf", "runs/meap/hf/"]) == ["ntp/hf", "meap/hf"]
    assert short_names(["a/x", "a/y"]) == ["x", "y"]
    assert short_names(["same", "same"]) == ["A", "B"]
