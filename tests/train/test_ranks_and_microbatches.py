"""The same update on any split of a batch over ranks and micro-batches; the same start where weights are sharded."""

import runpy
import subprocess
from pathlib import Path

import pytest
import torch

from meap.checkpoints.trust import load_checkpoint
from meap.config import RecipeConfig, load_config, save_config
from meap.train.attention import choose_attention
from meap.train.start import initial_model

from .architectures import config_alone, tiny
from .conftest import losses

ROOT = Path(__file__).resolve().parents[2]
SFT, PRETRAINING = str(ROOT / "recipes/meap_sft.py"), str(ROOT / "recipes/meap_1b.py")
ROW = 256
STEPS = 12

FINE_TUNING = (
    f"data.seq_len={ROW}",
    "data.num_canonical_nodes=2",
    "data.num_workers=0",
    "masking.ratio=0.25",
    "optimizer.lr=0.001",
    f"train.max_duration={STEPS}ba",
    "train.global_batch_size=8",
    "train.log_interval=1ba",
    "train.eval_batches=0",
    "train.device=cpu",
    f"checkpoint.interval={STEPS}ba",
)


def weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_checkpoint(str(run_dir / f"checkpoints/ba{step}.pt"))["state"]["model"]


@pytest.mark.slow
def test_ranks_microbatches_and_sharding_change_nothing(
    make_base, write_conversations, small_config, tokenizer, tmp_path, warm_python, quiet_environment
):
    """Fine-tuning rows carry different numbers of labels: an average of averages would drift off within a step."""
    base = make_base("llama", vocab_rows=tokenizer.plain_vocab_size, max_position_embeddings=512)
    remote = write_conversations(tmp_path / "shards", seq_len=ROW)

    def tuning(name: str, microbatch_size: int, weighting: str = "tokens") -> RecipeConfig:
        place = (f"run.dir={tmp_path / name}", f"run.name={name}", f"data.remote={remote}", f"model.base={base}")
        how = (f"train.microbatch_size={microbatch_size}", f"sft.weighting={weighting}")
        return load_config(RecipeConfig, None, [*FINE_TUNING, *place, *how])

    # Without a lead the rate of the first step is 0: what is saved after it are the weights the run started from.
    warmup = (
        "scheduler.lead=0",
        "scheduler.warmup_ratio=0",
        "scheduler.warmup_duration=1ba",
        "train.max_duration=2ba",
        "checkpoint.interval=1ba",
    )
    tiny("gemma3_text").save_pretrained(tmp_path / "config")  # with buffers, which ranks without weights need as well
    fresh = small_config(tmp_path / "fresh", "train.sharding=full", *config_alone(tmp_path / "config"), *warmup)
    split = {f"micro{size}": ("tokens", size) for size in (1, 2, 4)} | {"rows2": ("rows", 2)}
    runs = [(SFT, tuning(name, size, weighting)) for name, (weighting, size) in split.items()]
    runs.append((PRETRAINING, fresh))
    words = []
    for recipe, config in runs:
        save_config(config, tmp_path / f"{config.run.name}.yaml")
        words += [recipe, str(tmp_path / f"{config.run.name}.yaml")]
    ranks = subprocess.Popen(
        [warm_python, str(ROOT / "tests/train/several_runs.py"), "2", *words],
        env=quiet_environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for weighting in ("tokens", "rows"):
            runpy.run_path(SFT)["main"](tuning(f"alone_{weighting}", 8, weighting))
        output, _ = ranks.communicate(timeout=300)
    finally:
        ranks.kill()
        ranks.wait()
    assert ranks.returncode == 0, output

    histories = {weighting: losses(tmp_path / f"alone_{weighting}") for weighting in ("tokens", "rows")}
    assert all(history[-1] < history[0] - 0.02 for history in histories.values())
    assert abs(histories["tokens"][0] - histories["rows"][0]) > 1e-4
    for name, (weighting, _) in split.items():
        assert losses(tmp_path / name) == pytest.approx(histories[weighting], abs=1e-5)
        alone, on_ranks = weights(tmp_path / f"alone_{weighting}", STEPS), weights(tmp_path / name, STEPS)
        largest = max(float((on_ranks[each] - weight).abs().max()) for each, weight in alone.items())
        assert largest <= 1e-5, name

    attention = choose_attention("sdpa", on_gpu=False, bf16=False)
    expected = initial_model(fresh.model, tokenizer, attention=attention, context=16, seed=fresh.run.seed).state_dict()
    sharded = weights(tmp_path / "fresh", 1)
    assert all(torch.equal(sharded[name], weight) for name, weight in expected.items())


def test_a_rank_that_is_handed_its_weights_builds_none(tokenizer, small_config, tmp_path):
    config = small_config(tmp_path / "x").model
    attention = choose_attention("sdpa", on_gpu=False, bf16=False)
    full, empty = (
        initial_model(config, tokenizer, attention=attention, context=16, seed=0, weights=weights)
        for weights in ("start", "none")
    )
    assert {each.device.type for each in empty.parameters()} == {"meta"}
    assert {name: each.shape for name, each in empty.state_dict().items()} == {
        name: each.shape for name, each in full.state_dict().items()
    }
