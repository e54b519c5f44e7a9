"""Context extension as a whole: a finished run, a new theta, longer rows, and the exported model."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from meap.checkpoints.trust import load_checkpoint
from meap.errors import ConfigError

from .conftest import losses

ROOT = Path(__file__).resolve().parents[2]
LONG = 64

EXTENSION = (
    f"data.seq_len={LONG}",
    "model.base_rope_theta=640000",
    "train.global_batch_size=4",
    "train.microbatch_size=1",
    "train.activation_checkpointing=true",
    "scheduler.warmup_ratio=0",
    "scheduler.final_ratio=0.999999",
)


@pytest.fixture(scope="module")
def first(train, tmp_path_factory) -> Path:
    """The run whose context is extended: rows of 16 tokens."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    train(folder, "train.max_duration=6ba", "checkpoint.interval=6ba")
    return folder


@pytest.fixture(scope="module")
def extend(first, write_shards, small_config, tmp_path_factory):
    recipe = runpy.run_path(str(ROOT / "recipes/meap_1b.py"))
    remote = write_shards(tmp_path_factory.mktemp("long"), rows=32, seq_len=LONG, validation_rows=8)

    def run(run_dir: Path, *overrides: str):
        settings = (*EXTENSION, f"data.remote={remote}", f"model.base={first}")
        config = small_config(run_dir, *settings, *overrides)
        recipe["check"](config)
        recipe["main"](config)
        return config

    return run


@pytest.mark.slow
def test_an_extended_model_starts_from_the_base_resumes_and_is_exported(first, extend, train, tmp_path):
    extend(tmp_path / "whole", "train.max_duration=8ba")
    whole = losses(tmp_path / "whole")
    # Its first loss is the base's under the new theta, its optimiser is fresh, and it goes on where it stopped.
    extend(tmp_path / "parts", "train.max_duration=4ba")
    config = extend(tmp_path / "parts", "train.max_duration=8ba")
    assert losses(tmp_path / "parts") == pytest.approx(whole, abs=1e-5)
    train(tmp_path / "scratch", f"data.seq_len={LONG}", f"data.remote={config.data.remote}", "train.max_duration=1ba")
    assert whole[0] < losses(tmp_path / "scratch")[0] - 0.01

    runpy.run_path(str(ROOT / "recipes/export_hf.py"))["main"](config)
    folder = tmp_path / "parts/hf"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (model.config.rope_parameters["rope_theta"], model.config.max_position_embeddings) == (640_000.0, LONG)
    record = json.loads((folder / "meap_export.json").read_text())
    assert (record["source"]["base"], record["mask_token"]) == (str(first), "[MASK]")
    before = load_checkpoint(str(first / "checkpoints/ba6.pt"))["state"]["model"]
    assert not torch.equal(model.lm_head.weight, before["model.lm_head.weight"])


def test_a_theta_without_a_base_and_rows_longer_than_the_base_without_a_theta_are_refused(extend, tmp_path):
    with pytest.raises(ConfigError, match=r"base_rope_theta=640000 replaces the theta of model.base, which is not set"):
        extend(tmp_path / "run", "model.base=null")
    with pytest.raises(
        ConfigError, match=r"has max_position_embeddings=16, but segments .* 64 positions: .*model.base_rope_theta"
    ):
        extend(tmp_path / "run", "model.base_rope_theta=null")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_base_with_scaled_rope_is_refused(extend, make_base, tokenizer, tmp_path):
    scaling = {"rope_type": "linear", "factor": 2.0}
    base = make_base("llama", vocab_rows=tokenizer.plain_vocab_size, rope_scaling=scaling)
    with pytest.raises(ConfigError, match=r"scales its RoPE already.* choose a base with plain RoPE"):
        extend(tmp_path / "run", f"model.base={base}")
