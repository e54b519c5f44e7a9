"""Training runs for tests: the real recipe, in this process, on shards of random tokens."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from meap.config import RecipeConfig, load_config, save_config

ROOT = Path(__file__).resolve().parents[2]

SMALL = (
    "data.seq_len=16",
    "data.num_canonical_nodes=4",
    "data.num_workers=0",
    "model.hidden_size=16",
    "model.intermediate_size=32",
    "model.num_attention_heads=2",
    "model.num_key_value_heads=1",
    "model.num_hidden_layers=2",
    "optimizer.lr=0.01",
    "train.global_batch_size=8",
    "train.microbatch_size=4",
    "train.log_interval=1ba",
    "train.eval_batches=0",
    "train.device=cpu",
    "checkpoint.interval=4ba",
)


@pytest.fixture(scope="session")
def remote(tmp_path_factory: pytest.TempPathFactory, write_shards: Callable[..., Path]) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), rows=64, seq_len=16, validation_rows=16)


@pytest.fixture(scope="session")
def small_config(remote: Path) -> Callable[..., RecipeConfig]:
    def make(run_dir: Path, *overrides: str, yaml: Path | None = None) -> RecipeConfig:
        given = (*SMALL, f"data.remote={remote}", f"run.dir={run_dir}", f"run.name={run_dir.name}", *overrides)
        return load_config(RecipeConfig, yaml, given)

    return make


@pytest.fixture
def make_base(tmp_path: Path, tokenizer) -> Callable[..., Path]:
    """Write a finished model of a few thousand parameters with its tokenizer, as a hub folder."""

    def make(model_type: str, *, vocab_rows: int, tied: bool = False, with_mask: bool = False, **more) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        more = {"sliding_window": None, "max_position_embeddings": 128} | more
        config = AutoConfig.for_model(
            model_type,
            vocab_size=vocab_rows,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            **more,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                torch.nn.init.normal_(layer.weight, mean=0.05, std=0.3)
        folder = tmp_path / f"base-{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder)
        tokenizer.save(folder, with_mask=with_mask)
        return folder

    return make


@pytest.fixture
def config_file(small_config, tmp_path) -> Callable[..., Path]:
    """Write a run's configuration as a yaml, for commands."""

    def write(run_dir: Path, *overrides: str) -> Path:
        path = tmp_path / f"{run_dir.name}.yaml"
        save_config(small_config(run_dir, *overrides), path)
        return path

    return write


@pytest.fixture(scope="session")
def train(small_config, release_caches) -> Callable[..., list[float]]:
    """Run the recipe and return the loss of each step."""
    main = runpy.run_path(str(ROOT / "recipes/meap_1b.py"))["main"]

    def run(run_dir: Path, *overrides: str, yaml: Path | None = None) -> list[float]:
        main(small_config(run_dir, *overrides, yaml=yaml))
        release_caches()
        return losses(run_dir)

    return run


def losses(run_dir: Path, *, first: int = 1) -> list[float]:
    """Loss of each step from the first, in order; a step that was run again after a resumption counts once."""
    by_step = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "loss/train/total" in record:
            by_step[record["step"]] = record["loss/train/total"]
    assert sorted(by_step) == list(range(first, first + len(by_step)))
    return [by_step[step] for step in sorted(by_step)]
