"""Experiments: the declaration decides what is run, tested and said; a killed one goes on; pages follow the numbers."""

import dataclasses
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from lab.declaration import ExperimentConfig
from lab.findings import find, sentence_of, text_of
from lab.pages import page_of, read_all, with_summary
from lab.running import reported_units
from lab.texts import TEXTS

from meap.config import EvaluationConfig, RecipeConfig, load_config
from meap.errors import ConfigError
from meap.synthetic import NUM_CANDIDATES

ROOT = Path(__file__).resolve().parent.parent
DECLARED = sorted((ROOT / "experiments").glob("*.yaml"))
TINY = """
title: "T: tiny"
question: Is it so?
hypothesis: It is.
refuted_by: The contrary.
not_tried: All else.
out_dir: {folder}/out
seeds: [1, 2]
data:
  records: {{texts: records, megabytes: 0.6, vocab_size: 700, settings: [seq_len=256]}}
stages:
  base: {{yaml: {settings}/train_cpu.yaml, data: records, shared: true, settings: [{short}, masking.ratio=0]}}
  train:
    yaml: {settings}/train_cpu.yaml
    data: records
    settings: ["model.base={{base}}", {short}, train.eval_interval=1ba, train.eval_batches=1]
    evaluation: {settings}/eval_cpu.yaml
    evaluation_settings: [tasks=record_retrieval, "record_retrieval.sentences=[0]", record_retrieval.examples=4]
arms:
  plain: {{label: plain, settings: [masking.ratio=0]}}
  masked: {{label: masked, settings: ["train:masking.ratio=0.3", "base:masking.ratio=0.9"]}}
tuning: {{values: [1.0e-3, 2.0e-3], seeds: [7], measure: last}}
measures:
  last: {{label: last loss, stage: train}}
  best: {{label: best loss, stage: train, at: best}}
  ranking: {{label: ranking, stage: train, metric: "record_retrieval.ranking[sentences=0]", percent: true}}
primary:
  {{arm: masked, control: plain, measure: last, expected: lower, supported: Less, refuted: Not less, undecided: Open}}
secondaries:
  ranking: {{arm: masked, control: plain, measure: ranking}}
pictures:
  curve: {{title: Loss, curve: last}}
  ranking: {{title: Ranking, measures: [ranking], x: [1]}}
"""
SHORT = "train.max_duration=2ba, scheduler.warmup_duration=1ba"


@pytest.fixture
def tiny(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(folder=tmp_path, settings=ROOT / "experiments/settings", short=SHORT))
    return path


@pytest.fixture
def declared(tiny) -> ExperimentConfig:
    return load_config(ExperimentConfig, tiny)


def records_of(plain, masked):
    return [
        {"arm": arm, "seed": seed, "measures": dict.fromkeys(("last", "best", "ranking"), value),
         "tokens": 9, "hours": 1, "curves": {"metrics/heldout/loss": [2 * value, value]}}
        for arm, values in (("plain", plain), ("masked", masked))
        for seed, value in enumerate(values, start=1)
    ]  # fmt: skip


def found_of(declared, plain, masked, *, has_bases=False, **primary):
    seeds = tuple(range(1, len(plain) + 1))
    stages = {
        name: dataclasses.replace(stage, shared=stage.shared and has_bases) for name, stage in declared.stages.items()
    }
    declared = dataclasses.replace(declared, stages=stages)
    changed = dataclasses.replace(declared, seeds=seeds, primary=dataclasses.replace(declared.primary, **primary))
    changed = dataclasses.replace(changed, tuning=dataclasses.replace(declared.tuning, seeds=(1000,)))
    return find(changed, records_of(plain, masked), {})


def test_p_is_the_share_of_all_ways_to_deal_the_runs_out(declared):
    plain, masked = [0.5, 0.9, 1.4, 1.7], [0.3, 0.6, 0.8, 1.0]
    all_runs = np.array(plain + masked)
    differences = [
        all_runs[list(chosen)].mean() - np.delete(all_runs, list(chosen)).mean()
        for chosen in itertools.combinations(range(8), 4)
    ]
    observed = np.mean(masked) - np.mean(plain)
    found = found_of(declared, plain, masked)["primary"]
    assert found["value"] == pytest.approx(observed)
    assert found["p"] == pytest.approx(np.mean(np.abs(differences) >= abs(observed) - 1e-12))
    assert found["low"] < observed < found["high"]


def test_arms_that_share_a_base_are_compared_in_pairs(declared):
    plain, differences = np.array([0.1, 0.9, 0.4, 0.7, 0.2, 0.6]), np.array([0.02, 0.03, 0.01, 0.04, 0.02, -0.01])
    found = found_of(declared, [*plain], [*(plain + differences)], has_bases=True)["primary"]
    signs = np.array([*itertools.product((-1, 1), repeat=6)])
    as_large = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12
    assert found["value"] == pytest.approx(differences.mean())
    assert found["p"] == pytest.approx(as_large.mean())
    half = 2.5706 * differences.std(ddof=1) / math.sqrt(6)  # Student's t, five degrees of freedom
    assert (found["low"], found["high"]) == pytest.approx((found["value"] - half, found["value"] + half), abs=1e-6)
    apart = found_of(declared, [*plain], [*(plain + differences)])["primary"]
    assert apart["p"] > 0.5


@pytest.mark.parametrize(
    ("shift", "primary", "verdict", "words"),
    [
        (-1.0, {}, "supported", "Less"),
        (1.0, {}, "refuted", "Not less"),
        (1.0, {"expected": "higher"}, "supported", "Less"),
        (0.0, {"smallest": 0.0}, "undecided", "Open"),
        (0.0, {"smallest": 0.5}, "refuted", "Not less"),  # no difference that would matter
        (-0.1, {"smallest": 0.5}, "refuted", "Not less"),  # one that is there for certain, and does not matter
    ],
)
def test_the_verdict_follows_the_declared_rule(declared, shift, primary, verdict, words):
    plain = [1.0, 1.01, 1.02, 1.03, 1.04]
    found = found_of(declared, plain, [value + shift for value in plain], **primary)
    assert found["verdict"] == verdict
    assert found["sentence"].startswith(f"{words} (last loss: masked {1.02 + shift:.4f}, plain 1.0200, difference ")
    assert f"{shift:+.4f} [" in found["sentence"] or shift == 0
    assert "5 and 5 seeds" in found["sentence"]


@pytest.mark.parametrize(
    ("plain", "masked", "expected", "verdict"),
    [
        (0.99, 0.99, "higher", "undecided"),  # nothing above it would have shown
        (0.99, 0.90, "higher", "refuted"),  # what is lower has
        (0.99, 0.99, "lower", "refuted"),
        (0.13, 0.13, "lower", "undecided"),
        (0.13, 0.13, "higher", "refuted"),
        (0.13, 0.90, "higher", "supported"),
    ],
)
def test_where_no_difference_could_show_nothing_is_refuted(declared, plain, masked, expected, verdict):
    measures = declared.measures | {"last": dataclasses.replace(declared.measures["last"], chance=0.125)}
    declared = dataclasses.replace(declared, measures=measures)
    spread = np.array([-0.002, -0.001, 0.0, 0.001, 0.002])
    found = found_of(declared, plain + spread, masked + spread, expected=expected, smallest=0.03)
    assert found["verdict"] == verdict


def test_without_all_runs_there_is_no_verdict(declared):
    found = find(declared, records_of([1.0, 2.0], [3.0]), {})
    assert (found["verdict"], found["sentence"]) == (
        None,
        "Declared; 3 of 4 runs are finished, so there is no verdict.",
    )
    assert find(declared, [], {})["sentence"].startswith("Declared; 0 of 4")


def test_runs_go_seed_by_seed_with_what_was_tuned(declared, tmp_path):
    arms = declared.arms | {"masked": dataclasses.replace(declared.arms["masked"], seeds=2)}
    units = reported_units(dataclasses.replace(declared, seeds=(3, 4, 5), arms=arms), tmp_path, {"plain": "2.0e-3"})
    assert [(unit.arm, unit.seed) for unit in units] == [
        ("plain", 3), ("masked", 3), ("plain", 4), ("masked", 4), ("plain", 5),
    ]  # fmt: skip
    assert units[0].settings[-1] == "optimizer.lr=2.0e-3"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seeds=[7,8]"], "choose settings on seeds that are not reported"),
        (["primary.arm=nobody"], "primary.arm=nobody is not declared: choose one of plain, masked"),
        (["measures.last.stage=records"], "measures.last.stage=records is not declared: choose one of base, train"),
        (["arms.plain.seeds=3"], r"arms.plain.seeds=3 is out of range: it must be in \[2, 2\]"),
    ],
)
def test_what_a_declaration_cannot_mean_is_refused(tiny, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(ExperimentConfig, tiny, overrides)


@pytest.mark.parametrize("kind", [name for name, kind in TEXTS.items() if kind.prompts])
def test_prompts_hold_what_they_ask_for_and_rivals_of_it(kind):
    prompts = list(TEXTS[kind].prompts(0))
    assert len({prompt["prompt"] for prompt in prompts}) == len(prompts)
    assert prompts[::40] == list(itertools.islice(TEXTS[kind].prompts(0), 0, None, 40)), "the same every time"
    for prompt in prompts:
        passage, _, question = prompt["prompt"].rpartition(".")
        group = prompt["group"].split()
        if kind == "short_cuts":
            asked = re.search(r"The (\w+) is$", question)[1]
            near = re.findall(r"So (\w+)\.", f"{passage}.")
            stated = re.findall(rf"The {asked} is (\w+)\.", f"{passage}.")
            assert stated == ([] if group == ["near"] else [prompt["answer"]])
            assert [each == prompt["answer"] for each in near] == {"far": [], "conflict": [False]}.get(group[0], [True])
        else:
            asked = re.search(r"There is (\w+)$", question)[1]
            stated = dict(re.findall(r"There is (\w+) (\w+) \1\.", f"{passage}."))
            assert stated[asked] == prompt["answer"]
            assert len(stated) == int(group[1] if kind == "rivals" else group[-2])
            if kind == "rivals":
                sentences = re.findall(r"[^.]+\.", f"{passage}.")
                at = next(at for at, each in enumerate(sentences) if f"There is {asked} " in each)
                begins, ends = 3 * at / len(sentences), 3 * (at + 1) / len(sentences)
                third = ("first", "middle", "last").index(group[2])
                assert begins < third + 1
                assert ends > third
            assert len({*stated.values()} & {*prompt["candidates"]}) == min(len(stated), NUM_CANDIDATES)
        assert prompt["answer"] in prompt["candidates"]
        assert len({*prompt["candidates"]}) == len(prompt["candidates"]) == NUM_CANDIDATES


def test_what_a_conversation_asks_is_answered_first_and_depth_is_where_it_stands():
    for index in range(20):
        question, answer = (
            turn["content"] for turn in json.loads(TEXTS["conversations"].text_of(0, index))["messages"]
        )
        place = re.search(r"What is there in (\w+)\?$", question)[1]
        assert answer.startswith(f"There is {place} ")
        assert answer.split(".")[0] in question
    for prompt in TEXTS["conversations"].prompts(0):
        documents, position = map(int, prompt["group"].removeprefix("tuning ").split())
        place = re.search(r"What is there in (\w+)\?", prompt["prompt"])[1]
        assert f"Document {position}: There is {place} {prompt['answer']} {place}." in prompt["prompt"]
        assert f"Document {documents}:" in prompt["prompt"]


def test_every_statement_is_made_again():
    """In summaries, so that there is something to look back for."""
    for kind in ("statements", "rivals"):
        for index in range(20):
            first, *others = TEXTS[kind].text_of(0, index).splitlines()
            stated = {*re.findall(r"There is \w+ \w+ \w+\.", first)}
            assert stated
            assert all({*re.findall(r"There is \w+ \w+ \w+\.", each)} == stated for each in others)


def test_documentation_is_prose_of_installed_packages_each_text_once():
    texts = TEXTS["documentation"].reads(["meap.show", "meap.mds"])
    assert len(texts) == len({*texts}) > 3
    assert texts == TEXTS["documentation"].reads(["meap.show", "meap.mds"])
    assert min(map(len, texts)) >= 500
    with pytest.raises(ConfigError, match="'nowhere' is not an installed package"):
        TEXTS["documentation"].reads(["nowhere"])


@pytest.mark.parametrize("path", DECLARED, ids=lambda path: path.stem)
def test_declared_experiments_fit_the_commands_that_they_start(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    declared = load_config(ExperimentConfig, path)
    assert declared.out_dir == f"runs/experiments/{path.stem}"
    assert min(map(len, (declared.question, declared.hypothesis, declared.refuted_by, declared.not_tried))) > 10
    assert min(len(declared.seeds_of(arm)) for arm in declared.arms) >= 5, "fewer cannot show much at 5 %"
    assert all((declared.primary.supported, declared.primary.refuted, declared.primary.undecided))
    for arm, stage in itertools.product(declared.arms.values(), declared.stages.values()):
        settings = [*stage.settings, *(() if stage.shared else arm.settings)]
        for measured in [settings, [*settings, *declared.tuning.settings]]:
            known = [each.rpartition(":")[2] if ":" in each.partition("=")[0] else each for each in measured]
            load_config(RecipeConfig, stage.yaml, [re.sub(r"\{\w+\}", "x", each) for each in known])
        if stage.evaluation:
            load_config(EvaluationConfig, stage.evaluation, ["model=x", *stage.evaluation_settings])


def test_the_pages_say_what_the_numbers_say():
    experiments = read_all()
    assert (ROOT / "experiments/README.md").read_text() == page_of(experiments), "run python experiments/map.py"
    readme = (ROOT / "README.md").read_text()
    assert readme == with_summary(readme, experiments), "run python experiments/map.py"
    for found in experiments.values():
        assert found["sentence"] == sentence_of(found)
    assert all(path.stat().st_size < 300_000 for path in (ROOT / "experiments/results").glob("*"))


MANY_COMMANDS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lab import launching

def run(number):
    try:
        launching.run_command_line(folder / f"{number}.txt", folder / "command.py", str(number % 2))
    except launching.MeapError as error:
        return str(error).partition(" (")[0].partition("status ")[2]

folder = Path(sys.argv[1])
if __name__ == "__main__":
    launching.IMPORTED = ["torch", "meap.processes"]
    launching.share_the_machine()
    with ThreadPoolExecutor(8) as pool:
        print(*pool.map(run, range(400)), sep=",")
"""


def test_commands_that_end_together_end_with_their_own_status(tmp_path, quiet_environment):
    (tmp_path / "many.py").write_text(MANY_COMMANDS)
    (tmp_path / "command.py").write_text("import sys; print('so it is'); sys.exit(3 * int(sys.argv[1]))")
    ended = subprocess.run(
        [sys.executable, tmp_path / "many.py", tmp_path], text=True, stdout=subprocess.PIPE, timeout=300, check=True,
        env=quiet_environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'experiments'}"},
    )  # fmt: skip
    assert ended.stdout.strip() == ",".join(["None", "3: so it is"] * 200)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_experiment_goes_on_to_its_verdict(tiny, tmp_path, warm_python, quiet_environment):
    def start(*overrides) -> subprocess.Popen:
        return subprocess.Popen(
            [warm_python, "-W", "ignore", ROOT / "experiments/run.py", tiny, *overrides],
            cwd=ROOT, env=quiet_environment | {"PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    out = tmp_path / "out"
    first = start("parallel=1")
    while not list(out.glob("runs/*/record.json")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()

    stopped = start()
    trained = len(list(out.rglob("*.trained")))
    while len(list(out.rglob("*.trained"))) == trained:
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.05)
    begun = psutil.Process(stopped.pid).children(recursive=True)
    stopped.terminate()
    errors = stopped.communicate(timeout=120)[1]
    assert stopped.returncode == os.EX_TEMPFAIL, errors
    assert "Traceback" not in errors
    assert psutil.wait_procs(begun, timeout=30)[1] == []
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*/record.json")}

    printed, errors = (second := start()).communicate()
    assert second.returncode == 0, errors
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    found = json.loads((out / "results.json").read_text())
    assert found["runs"] == {"finished": 4, "declared": 4}
    assert found["verdict"] is not None
    assert text_of(found) == (out / "table.txt").read_text().removesuffix("\n")
    assert found["sentence"] in printed
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert all(len(each["metrics/heldout/loss"]) == 2 for arm in found["arms"].values() for each in arm["curves"])
    values = [each["measures"]["last"]["values"] for each in found["arms"].values()]
    assert len({*values[0], *values[1]}) == 4, "four models"
    configs = {
        run: load_config(RecipeConfig, out / f"runs/{run}/config.yaml") for run in ("shared-1/base", "masked-1/train")
    }
    assert [config.masking.ratio for config in configs.values()] == [0.0, 0.3]
    assert str(configs["masked-1/train"].optimizer.lr) == str(float(found["tuned"]["choices"]["masked"]))

    # Elsewhere, what is on record is not run again, and what is missing is: losses are the same to the bit.
    results = json.loads((out / "results.json").read_text())
    missing = results["finished"].pop("runs/masked-2")
    (tmp_path / "some.json").write_text(json.dumps(results))
    elsewhere = start(f"out_dir={tmp_path}/elsewhere", f"begin_with={tmp_path}/some.json")
    errors = elsewhere.communicate()[1]
    assert elsewhere.returncode == 0, errors
    again = json.loads((tmp_path / "elsewhere/results.json").read_text())
    assert again["finished"]["runs/masked-2"]["measures"] == missing["measures"]
    assert again["sentence"] == found["sentence"]
    assert not (tmp_path / "elsewhere/runs/plain-1/train").exists()
    for overrides, error in (["seeds=[1,2,3]"], "was declared otherwise"), (["parallel=3"], None):
        other = start(f"out_dir={tmp_path}/{len(overrides)}{error}", f"begin_with={out}/results.json", *overrides)
        errors = other.communicate()[1]
        assert (error in errors) if error else other.returncode == 0, errors
    (tmp_path / "no.json").write_text("{}")
    nothing = start(f"begin_with={tmp_path}/no.json")
    assert "no.json holds no results" in nothing.communicate()[1]
    assert nothing.returncode == 1

    other = start("seeds=[3,4]")
    errors = other.communicate()[1]
    assert other.returncode == 2, errors
    assert "holds an experiment that was declared otherwise" in errors


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["a_delay", "b_rivals", "c_fine_tuning", "e_short_cuts"])
def test_all_stages_of_a_declared_experiment_fit_each_other(name, tmp_path, warm_python, quiet_environment):
    """Both arms of the primary endpoint, with few steps on little text; d_repetition has one stage."""

    def shortened(setting: str) -> str:
        setting = re.sub(r"(?<=/ba)\d+|\d+(?=ba\b)", lambda steps: str(math.ceil(int(steps[0]) / 600)), setting)
        return re.sub(r"\d+(?=ep\b)", "1", setting)

    declared = yaml.safe_load((ROOT / f"experiments/{name}.yaml").read_text())
    prompts = {}
    for data in declared["data"].values():
        data["megabytes"] = min(2.0, data["megabytes"] / 2)
        for prompt in kind.prompts(0) if (kind := TEXTS[data["texts"]]).prompts else ():
            prompts.setdefault(prompt["group"], prompt)
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts.values()))
    for stage in declared["stages"].values():
        stage["settings"] = [*map(shortened, stage["settings"]), "scheduler.warmup_duration=1ba"]
        if name != "e_short_cuts":  # which shows that compiled steps are as good
            stage["settings"].append("train.compile=false")
        stage["evaluation_settings"] = [
            *stage.get("evaluation_settings", []), "perplexity.rows=2",
            "record_retrieval.examples=2", "attention_decay.rows=2", f"choice.source={tmp_path}/prompts.jsonl",
        ]  # fmt: skip
    for arm in declared["arms"].values():
        arm["settings"] = [*map(shortened, arm["settings"])]
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    running = subprocess.Popen(
        [warm_python, "-W", "ignore", ROOT / "experiments/run.py", path, f"out_dir={tmp_path}/out", "seeds=[1,2]",
         f"tuning.values={declared['tuning']['values'][:1]}"],
        cwd=ROOT, env=quiet_environment | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    records = [tmp_path / f"out/runs/{declared['primary'][arm]}-1/record.json" for arm in ("arm", "control")]
    while not all(record.is_file() for record in records):
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    for record in records:
        assert all(map(math.isfinite, json.loads(record.read_text())["measures"].values()))
    running.terminate()  # the other runs have the same stages
    errors = running.communicate(timeout=120)[1]
    assert running.returncode in {os.EX_OK, os.EX_TEMPFAIL}, errors
