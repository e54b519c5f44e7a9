"""Two evaluations side by side."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from meap.config import EvaluationConfig
from meap.errors import ConfigError, DataError, MismatchError
from meap.evals.comparison import compare, comparison_lines, print_comparison, short_names
from meap.evals.responses import ResponseStore
from meap.evals.runner import run_tasks
from meap.evals.summary import summarise
from meap.evals.task import Metric
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
def test_differences_are_the_second_less_the_first(both, tmp_path, capsys, pictures):
    found = compare(f"{both[0]},{both[1]}", tmp_path / "out")
    assert found["models"] == ["blind", "oracle"]
    generation = found["tasks"]["key_retrieval"]["metrics"]["generation"]
    assert (generation["first"]["value"], generation["second"]["value"]) == (0, 1)
    assert generation["difference"]["value"] == 1
    assert generation["difference"]["p"] < 0.01
    assert generation["relative"] is None
    row = found["tasks"]["key_retrieval"]["rows"][0]["metrics"]["generation"]["difference"]
    assert (row["test"], row["p"]) == ("sign flip", pytest.approx(2 / 2**6))
    assert found["tasks"]["perplexity"]["metrics"]["loss"]["difference"]["value"] < 0
    assert json.loads((tmp_path / "out/compare.json").read_text()) == json.loads(json.dumps(found))
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    print_comparison(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == [
        "blind",
        "oracle",
        "difference",
        "95",
        "%",
        "interval",
        "relative",
        "p",
        "p",
        "(Holm)",
        "n",
        "questions",
    ]
    (mean,) = [line.split() for line in lines if line.startswith("mean, generation")]
    assert mean[2:5] == ["0.0", "100.0", "+100.0"]


def write_results(folder, responses):
    """A folder of results with these responses, as an evaluation writes it."""
    metrics = (Metric("similarity", "judged similar"), Metric("rouge1", "ROUGE-1"))
    task = dataclasses.replace(TASKS["hallucination"], metrics=metrics, further=lambda responses: {"judge": None})
    numbers = summarise(task, responses, EvaluationConfig()) | {"prompts_sha256": "x", "partial": False, "seconds": 0}
    ResponseStore(folder, "hallucination", "k").finish(responses)
    results = {"model": {"name": folder.name}, "add_bos": True, "partial": False, "tasks": {"hallucination": numbers}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_values_are_those_of_the_pairs(tmp_path):
    """A judge gave no verdict on some summaries of one model: the other's are not part of the comparison either."""
    verdicts = {"a": [1, 1, 0, None, None, 1], "b": [1, None, 0, 0, 0, 1]}
    folders = []
    for name, scores in verdicts.items():
        (tmp_path / name).mkdir()
        responses = [
            {"id": f"{i}", "cluster": f"{i}", "control": False, "too_long": False, "data_set": "xsum" if i % 2 else "x",
             "condition": None, "similarity": score, "rouge1": i / 10}
            for i, score in enumerate(scores)
        ]  # fmt: skip
        folders.append(write_results(tmp_path / name, responses))
    numbers = compare(",".join(map(str, folders)), tmp_path / "out")["tasks"]["hallucination"]
    for found in (numbers["metrics"]["similarity"], *(row["metrics"]["similarity"] for row in numbers["rows"])):
        assert found["second"]["value"] - found["first"]["value"] == pytest.approx(found["difference"]["value"])
        assert found["difference"]["value"] == 0
    shared = numbers["metrics"]["similarity"]
    assert (shared["first"]["value"], shared["first"]["n"], shared["second"]["n"]) == (0.75, 3, 3)


def test_p_stands_beside_its_correction(both, tmp_path, capsys):
    """Holm's over the lines of a table, each of which is a test; the star goes by it, and the caveat stands below."""
    found = compare(f"{both[0]},{both[1]}", tmp_path / "out")
    for numbers in found["tasks"].values():
        rows = [row["metrics"][numbers["headline"]] for row in numbers["rows"] if len(numbers["rows"]) > 1]
        tests = [each["difference"] for each in (*rows, *numbers["metrics"].values())]
        p = np.array([each["p"] for each in tests])
        order = np.argsort(p, kind="stable")
        steps = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
        assert [tests[place]["p_holm"] for place in order] == pytest.approx(steps.tolist())
        header, *lines = comparison_lines(numbers, ["a", "b"])
        assert len(lines) == len(tests)
        column = header.index("p (Holm)")
        assert [line[column].endswith("*") for line in lines] == [each["p_holm"] < 0.05 for each in tests]
    capsys.readouterr()
    print_comparison(found)
    assert "of twenty tests of equal models one has p < 0.05 by chance" in capsys.readouterr().out


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
    assert short_names(["runs/ntp/hf", "runs/meap/hf/"]) == ["ntp", "meap"]
    assert short_names(["runs/hf", "hf"]) == ["runs/hf", "hf"]
    assert short_names(["hf", "more/runs/hf"]) == ["hf", "runs/hf"]
    assert short_names(["a" * 40, "a" * 20 + "b" * 20]) == [
        "a" * 13 + "\u2026" + "a" * 14,
        "a" * 13 + "\u2026" + "b" * 14,
    ]
    assert short_names(["a" * 20 + each + "a" * 20 for each in "bc"]) == ["A", "B"]
    assert short_names(["a/x", "a/y"]) == ["x", "y"]
    assert short_names(["same", "same"]) == ["A", "B"]
