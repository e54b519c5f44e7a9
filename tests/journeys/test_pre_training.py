"""From text of one's own to two models compared, by the README's commands, with whatever comes between."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from .conftest import Home, write_gzip
from .settings import PRE_TRAINING, SEQ_LEN, write_yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PREPARE = (
    "python dataprep/c4_to_mds.py source='crawl/*.jsonl.gz' tokenizer.name=my-tokenizer remote=data/crawl/mds "
    f"seq_len={SEQ_LEN}"
)


EVALUATE = "python recipes/evaluate.py yamls/eval_small.yaml"


@pytest.fixture(scope="module")
def prepared(home: Home, own_texts, write_own_tokenizer) -> Home:
    write_own_tokenizer(home.path / "my-tokenizer")
    for number in range(2):
        write_gzip(home.path / f"crawl/{number}.jsonl.gz", [{"text": text} for text in own_texts[number::2]])
    assert "complete: " in home.run(PREPARE)
    return home


def test_text_is_prepared_once_and_can_be_looked_at(prepared: Home):
    assert "already complete" in prepared.run(PREPARE)
    assert "whole: " in prepared.run("meap verify remote=data/crawl/mds")
    prepared.run("meap stats remote=data/crawl/mds json=crawl.json")
    assert json.loads((prepared.path / "crawl.json").read_text())
    assert "⟦" in prepared.run("meap inspect remote=data/crawl/mds html=samples.html")
    assert (prepared.path / "samples.html").is_file()


def test_a_run_is_stopped_moves_is_resumed_exported_and_compared(prepared: Home):
    home = prepared
    write_yaml(home.path / "own.yaml", PRE_TRAINING)
    plan = home.run("python recipes/meap_1b.py own.yaml --dry-run")
    assert "length     24 steps" in plan
    assert not (home.path / "runs").exists()

    # Stopped by a scheduler that knows the process it has started and no other.
    run = home.start("python recipes/meap_1b.py own.yaml")
    run.wait_for("heldout loss")
    run.interrupt(signal.SIGTERM)
    assert "everything is saved; run the same command again to resume" in run.end(75)

    # The data moves, and the run goes on elsewhere with two ranks.
    (home.path / "disk").mkdir()
    shutil.move(home.path / "data/crawl", home.path / "disk/crawl")
    printed = home.run("composer -n 2 recipes/meap_1b.py own.yaml data.remote=disk/crawl/mds")
    assert "data.remote=disk/crawl/mds (was data/crawl/mds), same rows" in printed
    assert "step     24/24" in printed
    assert steps(home.path / "runs/own") == list(range(1, 25))
    assert "nothing to do" in home.run("python recipes/meap_1b.py own.yaml data.remote=disk/crawl/mds")

    # The control.
    write_yaml(home.path / "control.yaml", PRE_TRAINING | {"masking": {"ratio": 0.0}})
    home.run("python recipes/meap_1b.py control.yaml data.remote=disk/crawl/mds train.max_duration=4ba")

    # What is needed of the data from here on, the runs have.
    shutil.rmtree(home.path / "disk")
    for name in ("own", "control"):
        assert f"written     runs/{name}/hf" in home.run(f"python recipes/export_hf.py {name}.yaml")
        home.run(f"{EVALUATE} model=runs/{name}/hf limit=2 tasks=key_retrieval,attention_decay")
    home.run("python recipes/evaluate.py compare=runs/control/eval,runs/own/eval")
    home.run("meap report runs=runs/own,runs/control html=report.html json=report.json")
    assert (home.path / "report.html").is_file()
    # The report knows what training and evaluation write by name only.
    told = json.loads((home.path / "report.json").read_text())
    assert {"train_loss", "heldout_loss", "masked_loss", "mask_ratio", "learning_rate"} <= told["curves"].keys()
    assert told["evaluations"]
    assert answer_of(home.path / "runs/own/hf")
    assert home.run("meap generate model=runs/own prompt='The import statement' max_new_tokens=8")


def steps(run_dir: Path) -> list[int]:
    """Steps whose loss is on record, each once."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return sorted({record["step"] for record in records if "loss/train/total" in record})


def answer_of(folder: Path) -> str:
    """What a stranger gets of the exported folder, who has transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer("The import statement", return_tensors="pt", return_token_type_ids=False)
    return tokenizer.decode(model.generate(**prompt, max_new_tokens=8, do_sample=False)[0])
