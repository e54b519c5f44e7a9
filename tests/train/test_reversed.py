"""Runs on rows that are read both ways: the token that says so, from prepared data that lack it to the export."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from meap.checkpoints import CheckpointStore
from meap.checkpoints.trust import load_checkpoint
from meap.config import ModelConfig, TokenizerConfig
from meap.errors import ConfigError
from meap.tokenizer import load_tokenizer
from meap.train.attention import choose_attention
from meap.train.preflight import check_config
from meap.train.start import initial_model

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3


@pytest.fixture(scope="module")
def run(train, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "both_ways"
    train(folder, f"train.max_duration={STEPS}ba", "masking.reversed_ratio=0.5")
    return folder


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(str(run / f"checkpoints/ba{STEPS}.pt"))["state"]["model"]


def losses(run: Path) -> list[float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["loss/train/total"] for record in records if "loss/train/total" in record]


def test_both_sites_give_the_same_run_with_any_replacement(train, run, tmp_path):
    more = (f"train.max_duration={STEPS}ba", "masking.reversed_ratio=0.5")
    assert train(tmp_path / "algorithm", *more, "masking.site=algorithm") == losses(run)
    mixture = (*more, "masking.replacement={mask: 0.4, random: 0.4, keep: 0.2}", "masking.ratio=0.4")
    by_dataset = train(tmp_path / "mixture", *mixture)
    assert train(tmp_path / "mixture_algorithm", *mixture, "masking.site=algorithm") == by_dataset != losses(run)
    records = map(json.loads, (tmp_path / "mixture/metrics.jsonl").read_text().splitlines())
    ratios = [record["masking/ratio"] for record in records if "masking/ratio" in record]
    assert all(5 / 16 <= ratio <= 6 / 16 for ratio in ratios)  # int(0.4 * 15) or int(0.4 * 16) of 16
    assert len(ratios) == STEPS


def test_a_plain_first_epoch_is_plain_and_later_ones_are_not(train, tmp_path):
    """Epochs of eight steps, at both sites and resumed within the second."""
    later = ("masking.from_epoch.1.ratio=0.4", "masking.from_epoch.1.replacement=random")
    steps = ("train.max_duration=10ba", "checkpoint.interval=9ba", "masking.ratio=0")
    first = train(tmp_path / "plain", *steps)
    by_dataset = train(tmp_path / "dataset", *steps, *later)
    assert by_dataset[:8] == first[:8]
    assert by_dataset[8:] != first[8:]
    assert train(tmp_path / "algorithm", *steps, *later, "masking.site=algorithm") == by_dataset
    records = map(json.loads, (tmp_path / "dataset/metrics.jsonl").read_text().splitlines())
    assert [record["masking/ratio"] for record in records if "masking/ratio" in record] == [0] * 8 + [6 / 16] * 2
    CheckpointStore(str(tmp_path / "dataset/checkpoints")).withdraw(10)
    assert train(tmp_path / "dataset", *steps, *later) == by_dataset


def test_a_frozen_embedding_cannot_learn_the_token(small_config, tmp_path):
    config = small_config(tmp_path, "masking.reversed_ratio=0.5", "lora.rank=4", "model.base=b")
    with pytest.raises(ConfigError, match="adds a token to the vocabulary, whose embedding lora.rank=4 leaves frozen"):
        check_config(config)


def test_the_export_has_the_token_and_never_generates_it(run, small_config, tokenizer, monkeypatch):
    monkeypatch.chdir(run)
    export = runpy.run_path(str(ROOT / "recipes/export_hf.py"))["main"]
    for out, keep_mask in (("hf", "true"), ("plain", "false")):
        export(small_config(run, f"export.out_dir={run}/{out}", f"export.keep_mask={keep_mask}"))
    whole, plain = (load_tokenizer(TokenizerConfig(name=str(run / out))) for out in ("hf", "plain"))
    assert whole.direction_id == tokenizer.vocab_size
    assert plain.direction_id is None
    settings = json.loads((run / "hf/generation_config.json").read_text())
    assert {tokenizer.mask_id, whole.direction_id} <= {*settings["suppress_tokens"]}
    rows = json.loads((run / "hf/config.json").read_text())["vocab_size"]
    assert rows > whole.direction_id


def start(base: Path, tokenizer):
    config = ModelConfig(base=str(base))
    attention = choose_attention("sdpa", on_gpu=False, bf16=False)
    return initial_model(config, tokenizer, attention=attention, context=16, seed=0)


def test_what_is_trained_further_keeps_the_token_and_its_embedding(train, run, tokenizer, tmp_path):
    trained = weights_of(run)
    for each in (tokenizer, tokenizer.with_direction()):
        weights = start(run, each).state_dict()
        assert all(torch.equal(weights[name], trained[name]) for name in trained)
    train(tmp_path / "further", "train.max_duration=1ba", f"model.base={run}")
    record = CheckpointStore(str(tmp_path / "further/checkpoints")).record(1)
    assert record.model.tokenizer.direction_id == tokenizer.vocab_size


def test_a_base_that_never_saw_the_token_begins_with_the_mean_of_the_others(train, tokenizer, tmp_path):
    train(tmp_path / "one_way", f"train.max_duration={STEPS}ba")
    trained = weights_of(tmp_path / "one_way")
    both = tokenizer.with_direction()
    for name, weight in start(tmp_path / "one_way", both).state_dict().items():
        expected = trained[name].clone()
        if "embed_tokens" in name or "lm_head" in name:
            expected[both.direction_id] = expected.mean(0)
        torch.testing.assert_close(weight, expected)
