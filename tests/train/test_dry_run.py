"""What --dry-run says, and that it leaves nothing behind."""

from pathlib import Path

import pytest

from meap.errors import ConfigError, IncompleteError
from meap.manifest import CONVERSATIONS
from meap.train.dry_run import rehearse

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_plan_of_a_small_run(small_config, tmp_path, capsys):
    config = small_config(tmp_path / "run", "train.max_duration=20ba", "train.eval_batches=1", "checkpoint.keep=2")
    rehearse(config)
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    # 320 rows each of embedding and head, two layers of 16 -> 8 per key and value, MLPs of 32.
    body = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32 + 2 * 16) + 16
    assert told["model"] == f"{2 * 320 * 16 + body:,} parameters, {body:,} without embeddings"
    assert told["data"].startswith("64 rows of 16 tokens from")
    assert told["data"].endswith("held out: 16 rows")
    assert told["epoch"] == "64 rows = 8 steps"
    assert told["measures"] == "held-out loss on 8 of 16 rows at the end"
    assert told["length"] == "20 steps, 2,560 tokens, 2.50 epochs"
    assert "per GPU, if there are 8 (bf16, sharding none): weights" in told["memory"]
    assert told["disk"].startswith("3 checkpoints at once of")
    assert told["time"].startswith("an estimate: ")
    assert told["time"].endswith("days on 8 H100 at 40% MFU")
    assert told["note"].startswith("train.eval_interval=1000ba is longer than the run of 20 steps")
    assert not (tmp_path / "run").exists()


def test_fourteen_billion_parameters_need_no_memory(small_config, tmp_path, capsys):
    sizes = (
        *("model.hidden_size=5120", "model.intermediate_size=13824", "model.num_hidden_layers=48"),
        *("model.num_attention_heads=40", "model.num_key_value_heads=8", "train.sharding=full"),
        "train.max_duration=20ba",
    )
    rehearse(small_config(tmp_path / "run", *sizes))
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told["model"].startswith("13,")
    assert "sharding full" in told["memory"]


def test_fine_tuning_has_a_plan_too(small_config, tmp_path, capsys, make_base, write_conversations):
    remote = write_conversations(tmp_path / "conversations", seq_len=64)
    base = make_base("llama", vocab_rows=320)
    overrides = (f"data.remote={remote}", "data.seq_len=64", f"model.base={base}", "train.max_duration=2ep")
    rehearse(small_config(tmp_path / "run", *overrides), kind=CONVERSATIONS)
    assert "12 steps, 6,144 tokens, 2.00 epochs" in capsys.readouterr().out


def test_what_would_stop_the_run_stops_the_rehearsal(small_config, tmp_path):
    with pytest.raises(IncompleteError, match="holds no finished 'train' split"):
        rehearse(small_config(tmp_path / "run", f"data.remote={tmp_path}"))
    with pytest.raises(ConfigError, match="scheduler.warmup_duration=9ba"):
        rehearse(small_config(tmp_path / "run", "train.max_duration=9ba", "scheduler.warmup_duration=9ba"))
