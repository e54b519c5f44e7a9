"""What --dry-run says, and that it leaves nothing behind."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from meap.config import save_config
from meap.errors import ConfigError, IncompleteError, MismatchError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rehearse(release_caches) -> Callable[..., None]:
    """The recipe with --dry-run."""
    recipes = {name: runpy.run_path(str(ROOT / f"recipes/{name}.py"))["main"] for name in ("meap_1b", "meap_sft")}

    def run(config, *, recipe: str = "meap_1b") -> None:
        recipes[recipe](config, dry_run=True)
        release_caches()

    return run


@pytest.mark.slow
def test_the_plan_of_a_small_run(rehearse, small_config, tmp_path, capsys):
    config = small_config(tmp_path / "run", "train.max_duration=20ba", "train.eval_batches=1", "checkpoint.keep=2")
    rehearse(config)
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    # 320 rows each of embedding and head, two layers of 16 -> 8 per key and value, MLPs of 32.
    body = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32 + 2 * 16) + 16
    assert told["model"] == f"{2 * 320 * 16 + body:,} parameters, {body:,} without embeddings"
    assert told["data"].startswith("64 rows of 16 tokens from")
    assert told["data"].endswith("held out: 16 rows")
    assert told["epoch"] == "64 rows = 8 steps"
    assert told["measures"] == "held-out loss on 8 of 16 rows at the end; answers to 3 prompts"
    assert told["length"] == "20 steps, 2,560 tokens, 2.50 epochs"
    assert "per GPU, if there are 8 (bf16, sharding none): weights" in told["memory"]
    assert told["disk"].startswith("3 checkpoints at once of")
    assert told["time"] == "an estimate: 0:00:00 on 8 H100 at 40% MFU"
    assert told["note"].startswith("train.eval_interval=1000ba is longer than the run of 20 steps")
    assert not (tmp_path / "run").exists()


def test_fourteen_billion_parameters_need_no_memory(rehearse, small_config, tmp_path, capsys):
    sizes = (
        *("model.hidden_size=5120", "model.intermediate_size=13824", "model.num_hidden_layers=48"),
        *("model.num_attention_heads=40", "model.num_key_value_heads=8", "train.sharding=full"),
        "train.max_duration=20ba",
    )
    rehearse(small_config(tmp_path / "run", *sizes))
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told["model"].startswith("13,")
    assert "sharding full" in told["memory"]


def test_fine_tuning_has_a_plan_too(rehearse, small_config, tmp_path, capsys, make_base, write_conversations):
    remote = write_conversations(tmp_path / "conversations", seq_len=64)
    base = make_base("llama", vocab_rows=320)
    overrides = (f"data.remote={remote}", "data.seq_len=64", f"model.base={base}", "train.max_duration=2ep")
    rehearse(small_config(tmp_path / "run", *overrides), recipe="meap_sft")
    assert "12 steps, 6,144 tokens, 2.00 epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "refusal", "remedy"),
    [
        (
            *(["train.sharding=grad_op"], "train.sharding=grad_op shards the model over ranks, but there is 1 rank: "),
            "start the recipe on several devices (composer -n 2), or set train.sharding=none",
        ),
        (
            *(["train.microbatch_size=3"], "train.microbatch_size=3 does not divide the 8 rows that each of 1 ranks "),
            "has of a batch of 8: choose 2 or 4",
        ),
    ],
)
def test_a_plan_for_other_ranks_says_what_this_start_would_meet(
    rehearse, small_config, tmp_path, capsys, settings, refusal, remedy
):
    rehearse(small_config(tmp_path / "run", "train.max_duration=20ba", *settings))
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"note       this start, with 1 rank, would be refused without --dry-run: {refusal}{remedy}"
    rehearse(small_config(tmp_path / "run", "train.max_duration=20ba"))
    assert "would be refused" not in capsys.readouterr().out


def test_a_plan_is_for_ranks_that_the_settings_fit(rehearse, small_config, tmp_path, capsys):
    fit = ("train.global_batch_size=24", "train.microbatch_size=2", "train.max_duration=20ba")
    rehearse(small_config(tmp_path / "run", *fit))  # each of 8 ranks would have 3 rows
    told = capsys.readouterr().out
    assert "per GPU, if there are 6 " in told
    assert "would be refused" not in told


def test_what_would_stop_the_run_stops_the_rehearsal(rehearse, small_config, tmp_path):
    with pytest.raises(IncompleteError, match="holds no finished 'train' split"):
        rehearse(small_config(tmp_path / "run", f"data.remote={tmp_path}"))
    with pytest.raises(ConfigError, match="scheduler.warmup_duration=9ba"):
        rehearse(small_config(tmp_path / "run", "train.max_duration=9ba", "scheduler.warmup_duration=9ba"))
    assert list(tmp_path.iterdir()) == []
    begun = small_config(tmp_path / "run")
    save_config(begun, tmp_path / "run/config.yaml")
    (tmp_path / "run/metrics.jsonl").touch()
    with pytest.raises(MismatchError, match=r"holds a run with masking\.ratio=0\.15, not 0\.2"):
        rehearse(small_config(tmp_path / "run", "masking.ratio=0.2"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "metrics.jsonl"]
