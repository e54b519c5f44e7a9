"""Fine-tuning as a whole: real runs of the recipe on a small base model."""

import itertools
import json
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from meap.answers import SCORED
from meap.config import RecipeConfig, load_config, save_config
from meap.errors import ConfigError, MismatchError
from meap.schema import MANIFEST_NAME

from .conftest import losses

ROOT = Path(__file__).resolve().parents[2]
WIDE = 256

SMALL = (
    f"data.seq_len={WIDE}",
    "data.num_canonical_nodes=2",
    "data.num_workers=0",
    "masking.ratio=0.25",
    "optimizer.lr=0.003",
    "train.max_duration=8ba",
    "train.global_batch_size=4",
    "train.microbatch_size=2",
    "train.log_interval=1ba",
    "train.eval_batches=0",
    "train.device=cpu",
    "checkpoint.interval=4ba",
)


@pytest.fixture(scope="module")
def remote(write_conversations, tmp_path_factory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("sft"), seq_len=WIDE)


@pytest.fixture
def base(make_base, tokenizer) -> Path:
    return make_base("llama", vocab_rows=tokenizer.plain_vocab_size, max_position_embeddings=512)


@pytest.fixture
def settings(remote, base):
    def make(run_dir: Path, *overrides: str) -> list[str]:
        where = (f"data.remote={remote}", f"run.dir={run_dir}", f"run.name={run_dir.name}", f"model.base={base}")
        return [*SMALL, *where, *overrides]

    return make


@pytest.fixture
def tune(settings):
    recipe = runpy.run_path(str(ROOT / "recipes/meap_sft.py"))

    def run(run_dir: Path, *overrides: str) -> list[float]:
        config = load_config(RecipeConfig, None, settings(run_dir, *overrides))
        recipe["check"](config)
        recipe["main"](config)
        return losses(run_dir)

    return run


@pytest.mark.slow
def test_tuning_lowers_the_loss_and_starts_from_the_base(tune, tmp_path, capsys):
    history = tune(tmp_path / "run", "train.max_duration=24ba", "train.eval_batches=2", "train.eval_interval=12ba")
    assert history[-1] < history[0] - 0.2
    printed = capsys.readouterr().out
    assert "heldout loss" in printed
    assert f"from {tmp_path}" in printed


@pytest.mark.slow
@pytest.mark.parametrize("change", ["sft.layout=separate", "sft.loss=masked", "masking.ratio=0", "run.seed=18"])
def test_every_choice_makes_a_run_of_its_own_and_repeats_exactly(tune, tmp_path, change):
    first, again = (tune(tmp_path / name, "train.max_duration=3ba", change) for name in ("one", "two"))
    assert first == again
    assert tune(tmp_path / "plain", "train.max_duration=3ba") != first


@pytest.mark.slow
def test_the_microbatch_changes_nothing_although_rows_have_different_numbers_of_targets(tune, tmp_path):
    whole = tune(tmp_path / "whole", "train.microbatch_size=4", "train.max_duration=4ba")
    assert tune(tmp_path / "split", "train.microbatch_size=1", "train.max_duration=4ba") == pytest.approx(
        whole, abs=1e-5
    )


@pytest.mark.slow
def test_activation_checkpointing_changes_nothing(tune, tmp_path):
    plain = tune(tmp_path / "plain", "train.max_duration=4ba")
    again = tune(tmp_path / "again", "train.max_duration=4ba", "train.activation_checkpointing=true")
    assert again == pytest.approx(plain, abs=1e-6)


@pytest.mark.slow
def test_a_run_continues_where_it_stopped(tune, tmp_path):
    flat = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999")
    whole = tune(tmp_path / "whole", "train.max_duration=16ba", *flat)
    tune(tmp_path / "halves", "train.max_duration=6ba", *flat)
    halves = tune(tmp_path / "halves", "train.max_duration=16ba", *flat)
    assert halves == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
def test_sharded_ranks_train_the_model_of_one_process_and_resume_as_one(
    tune, settings, tmp_path, warm_python, quiet_environment
):
    flat = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999", "train.microbatch_size=1")
    measured = ("train.eval_batches=1", "train.eval_interval=6ba", "train.sample_tokens=4")
    words, kinds = [], ("grad_op", "full")
    for sharding, stop in itertools.product(kinds, (4, 6)):
        overrides = (f"train.max_duration={stop}ba", f"train.sharding={sharding}", *flat, *measured)
        path = tmp_path / f"{sharding}-{stop}.yaml"
        save_config(load_config(RecipeConfig, None, settings(tmp_path / sharding, *overrides)), path)
        words += [str(ROOT / "recipes/meap_sft.py"), str(path)]
    done = subprocess.run(
        [warm_python, str(ROOT / "tests/train/several_runs.py"), "2", *words],
        env=quiet_environment | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    whole = tune(tmp_path / "one", "train.max_duration=8ba", *flat, *measured)
    asked = prompts(tmp_path / "one")
    assert [step for step, _ in asked] == [6] * 3 + [8] * 3
    for sharding in kinds:
        assert set(asked[:3]) < set(prompts(tmp_path / sharding))
        assert tune(tmp_path / sharding, "train.max_duration=8ba", *flat) == pytest.approx(whole, abs=2e-4)


def prompts(run_dir: Path) -> list[tuple[int, str]]:
    """Steps and held-out prompts that were answered."""
    lines = map(json.loads, (run_dir / "samples.jsonl").read_text().splitlines())
    return [(each["step"], each["prompt"]) for each in lines]


@pytest.mark.slow
def test_the_prompts_are_conversations_up_to_their_first_answer(tune, tmp_path, conversation_rows, tokenizer):
    tune(tmp_path / "run", "train.max_duration=1ba", "train.eval_batches=1", "train.samples=5")
    expected = []
    for row in conversation_rows[:2]:
        start = 0
        for length in row["lengths"]:
            tokens = row["tokens"][start : start + length].tolist()
            answer = (row["answer"][start : start + length] & SCORED).tolist()
            first = answer.index(1)
            end = answer.index(0, first) if 0 in answer[first:] else length
            expected.append((tokenizer.decode(tokens[:first]), tokenizer.decode(tokens[first:end])))
            start += length
    found = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    assert [(each["prompt"], each["expected"]) for each in found] == expected[:5]


@pytest.mark.slow
@pytest.mark.parametrize("keep_mask", [True, False])
@pytest.mark.parametrize("tied", [False, True])
def test_a_tuned_model_is_exported_with_or_without_its_mask_token(
    tune, settings, tmp_path, make_base, tokenizer, keep_mask, tied
):
    """Once it has begun, what it started from may be gone; and its data, once it has ended."""
    base = make_base("qwen3", vocab_rows=tokenizer.plain_vocab_size, tied=tied, max_position_embeddings=512)
    before = AutoModelForCausalLM.from_pretrained(base)
    tune(tmp_path / "run", f"model.base={base}", "train.max_duration=1ba")
    shutil.rmtree(base)
    tune(tmp_path / "run", f"model.base={base}", "train.max_duration=2ba")
    export = runpy.run_path(str(ROOT / "recipes/export_hf.py"))["main"]
    keep = f"export.keep_mask={str(keep_mask).lower()}"
    overrides = settings(tmp_path / "run", f"model.base={base}", "data.remote=gone", keep)
    export(load_config(RecipeConfig, None, overrides))

    folder = tmp_path / "run/hf"
    model, exported = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "qwen3"
    assert model.config.tie_word_embeddings == tied
    assert model.config.vocab_size == (320 if keep_mask else tokenizer.plain_vocab_size)
    assert exported.mask_token_id == (tokenizer.mask_id if keep_mask else None)
    assert len(exported) == (tokenizer.vocab_size if keep_mask else tokenizer.plain_vocab_size)
    record = json.loads((folder / "meap_export.json").read_text())
    assert record["source"]["base"] == str(base)
    assert record["mask_token"] == ("[MASK]" if keep_mask else None)
    assert f"`{base.name}` trained further" in (folder / "README.md").read_text()
    assert not torch.equal(before.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)


@pytest.mark.slow
def test_what_is_not_fine_tuning_is_refused(tune, tmp_path, write_shards):
    with pytest.raises(ConfigError, match=r"masking.site=algorithm is for pre-training"):
        tune(tmp_path / "a", "masking.site=algorithm")
    with pytest.raises(ConfigError, match=r"model.base is not set"):
        tune(tmp_path / "b", "model.base=null")
    rows = write_shards(tmp_path / "rows", rows=16, seq_len=WIDE)
    with pytest.raises(MismatchError, match=r"holds rows, not conversations: recipes/meap_1b.py trains on it"):
        tune(tmp_path / "c", f"data.remote={rows}")
    with pytest.raises(ConfigError, match=r"max_position_embeddings=\d+, but segments .* can take 256 positions"):
        tune(tmp_path / "d", f"model.base={short_base(tmp_path, tune)}")


def test_rows_without_room_for_copies_are_for_the_control_alone(tune, tmp_path, remote):
    shutil.copytree(remote, plain := tmp_path / "plain")
    for path in plain.glob(f"*/{MANIFEST_NAME}"):
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"config": manifest["config"] | {"copies": False}}))
    with pytest.raises(ConfigError, match=r"masking.ratio=0.2, but .*plain was prepared with copies=false"):
        tune(tmp_path / "a", f"data.remote={plain}", "masking.ratio=0", "masking.from_epoch.1.ratio=0.2")
    tune(tmp_path / "b", f"data.remote={plain}", "masking.ratio=0", "train.max_duration=1ba")


def short_base(tmp_path: Path, tune) -> Path:
    """The base of the run, with a shorter context."""
    (base,) = (path for path in tmp_path.iterdir() if path.name.startswith("base-"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    return base
