"""The recipe as a whole: what a run promises, tried with real runs."""

import dataclasses
import itertools
import json
import math
import os
import random
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from meap.checkpoints import CheckpointStore, describe_file
from meap.checkpoints.trust import load_checkpoint
from meap.config import RecipeConfig, TokenizerConfig, load_config
from meap.data import build_loader, open_shards, open_tokenizer
from meap.errors import CheckpointError, ConfigError, IncompleteError, MismatchError
from meap.schema import VALIDATION_SPLIT
from meap.train.attention import choose_attention
from meap.train.model import NextTokenModel, build_model, decoder_config
from meap.train.optim import build_optimizer

from .architectures import config_alone, tiny

ROOT = Path(__file__).resolve().parents[2]
EPOCH = 8  # steps


@pytest.mark.slow
def test_two_runs_with_the_same_seed_are_identical_and_another_seed_differs(train, tmp_path):
    first, second = (train(tmp_path / name, "train.max_duration=6ba") for name in "ab")
    assert first == second
    assert train(tmp_path / "c", "train.max_duration=6ba", "run.seed=18") != first


@pytest.mark.slow
def test_both_sites_and_any_microbatch_give_the_same_run(train, tmp_path):
    by_dataset = train(tmp_path / "dataset", "train.max_duration=10ba")
    assert train(tmp_path / "algorithm", "train.max_duration=10ba", "masking.site=algorithm") == by_dataset
    split = train(tmp_path / "split", "train.max_duration=10ba", "train.microbatch_size=2")
    assert split == pytest.approx(by_dataset, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("override", ["masking.strategy=span", "masking.protected=[bos,eos]", "masking.mask_last=true"])
def test_every_rule_is_the_same_at_both_sites_and_a_run_of_its_own(train, tmp_path, override):
    by_dataset = train(tmp_path / "dataset", "train.max_duration=3ba", "masking.ratio=0.4", override)
    by_algorithm = ("train.max_duration=3ba", "masking.ratio=0.4", override, "masking.site=algorithm")
    assert train(tmp_path / "algorithm", *by_algorithm) == by_dataset
    plain = train(tmp_path / "plain", "train.max_duration=3ba", "masking.ratio=0.4")
    assert (plain != by_dataset) == ("protected" not in override)  # the random rows of this test hold no BOS or EOS


@pytest.mark.slow
def test_a_scheduled_ratio_is_logged_realised_and_resumed(train, tmp_path):
    constant = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999999")  # the learning rate
    schedule = (
        "masking.site=algorithm",
        "masking.scope=response",
        "masking.schedule=linear",
        "masking.final_ratio=0.9",
    )
    overrides = (*constant, *schedule, "masking.ratio=0.2", "masking.schedule_duration=10ba")
    whole = train(tmp_path / "whole", "train.max_duration=12ba", *overrides)
    ratios = logged(tmp_path / "whole", "masking/ratio_scheduled")
    assert ratios == pytest.approx([min(0.9, 0.2 + 0.07 * step) for step in range(12)])
    # All tokens of a packed row are targets but the first: 15 of 16.
    assert logged(tmp_path / "whole", "masking/ratio") == [min(int(15 * ratio), 14) / 16 for ratio in ratios]

    train(tmp_path / "parts", "train.max_duration=4ba", *overrides)
    assert train(tmp_path / "parts", "train.max_duration=12ba", *overrides) == pytest.approx(whole, abs=1e-6)
    assert logged(tmp_path / "parts", "masking/ratio_scheduled") == ratios


def logged(run_dir: Path, name: str) -> list[float]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record[name] for record in records if name in record]


def test_a_schedule_that_goes_nowhere_is_the_constant_ratio_bit_for_bit(train, tmp_path):
    by_dataset = train(tmp_path / "dataset", "train.max_duration=5ba", "masking.ratio=0.25")
    flat = ("masking.site=algorithm", "masking.schedule=cosine", "masking.ratio=0.25", "masking.final_ratio=0.25")
    assert train(tmp_path / "flat", "train.max_duration=5ba", *flat) == by_dataset


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 0.15])
def test_training_lowers_the_loss_with_and_without_masking(train, tmp_path, ratio):
    history = train(tmp_path / "run", f"train.max_duration={EPOCH * 4}ba", f"masking.ratio={ratio}")
    assert history[-1] < history[0] - 0.1


def test_ratio_zero_is_plain_next_token_prediction_bit_for_bit(train, small_config, tmp_path):
    """Against a bare torch loop that has never heard of masks, clipping and schedule included."""
    steps, config = 10, small_config(tmp_path / "x", "masking.ratio=0", "train.microbatch_size=8")
    history = train(tmp_path / "run", "masking.ratio=0", "train.microbatch_size=8", f"train.max_duration={steps}ba")

    model, _ = fresh_model(config)
    optimizer = build_optimizer(config.optimizer, model, fused=False)
    plain = []
    for step, batch in enumerate(clean_batches(config, tmp_path / "cache", steps)):
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * learning_rate_factor(step + (step < steps // 10), steps)
        optimizer.zero_grad()
        loss = model(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        plain.append(float(loss.detach()))
    assert history == plain


def test_the_official_yaml_is_the_official_loop(small_config, train, tmp_path):
    """Against that loop, written anew: transformers' Llama, torch's AdamW on all weights, Python's random."""
    steps, yaml = 60, ROOT / "yamls/official/0.1b_official.yaml"
    official = load_config(RecipeConfig, yaml)
    assert (official.train.global_batch_size // 8 // official.train.microbatch_size, official.masking.ratio) == (2, 0.1)
    run = (f"train.max_duration={steps}ba", f"checkpoint.interval={steps}ba")
    history = train(tmp_path / "run", *run, yaml=yaml)  # a step is two micro-batches of 4 rows

    config = small_config(tmp_path / "x", yaml=yaml)
    fresh, mask_id = fresh_model(config)
    model = LlamaForCausalLM(fresh.config)
    model.load_state_dict(fresh.model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.05)
    losses = []
    for step, batch in enumerate(clean_batches(config, tmp_path / "cache", steps)):
        masked = random.Random(50 + step % 51).sample(range(16 - 1), max(1, int(16 * 0.1)))
        losses.append(0.0)
        for part in range(2):
            optimizer.param_groups[0]["lr"] = 0.01 * learning_rate_factor(step + part / 2, steps)
            inputs, labels = (batch[name][4 * part : 4 * part + 4].clone() for name in ("input_ids", "labels"))
            inputs[:, masked] = mask_id
            loss = F.cross_entropy(model(inputs).logits.flatten(0, 1), labels.flatten()) / 2
            loss.backward()
            losses[-1] += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert history == pytest.approx(losses, rel=0, abs=1e-5)
    assert history[-1] < history[0] - 0.1


def fresh_model(config: RecipeConfig) -> tuple[NextTokenModel, int]:
    """The model of a run at step 0, and the id of its mask token."""
    tokenizer = open_tokenizer(TokenizerConfig(), open_shards(config.data, "train"))
    architecture = decoder_config(config.model, vocab_size=tokenizer.vocab_size, seq_len=16)
    attention = choose_attention("auto", on_gpu=False, bf16=False)
    return build_model(architecture, attention=attention, seed=config.run.seed), tokenizer.mask_id


def clean_batches(config: RecipeConfig, cache_dir: Path, steps: int) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of the first steps of a run, without masks."""
    shards = open_shards(config.data, "train")
    loader = build_loader(
        config.data,
        shards,
        rule=None,
        seed=config.run.seed,
        global_batch_size=8,
        world_size=1,
        cache_dir=cache_dir,
        shuffle=True,
    )
    yield from itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), steps)


def learning_rate_factor(time: float, steps: int) -> float:
    warmup = steps // 10
    if time < warmup:
        return time / warmup
    return 0.1 + 0.9 * (1 + math.cos((time - warmup) / (steps - warmup) * math.pi)) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("max_duration", "warmup"), [("20ba", None), ("2560tok", "2ba")])
def test_the_learning_rate_of_a_run_is_the_closed_form(train, tmp_path, max_duration, warmup):
    """20 steps of 8 rows of 16 tokens, of which the first two warm up."""
    change = [f"scheduler.warmup_duration={warmup}", "scheduler.warmup_ratio=0.5"] if warmup else []
    assert len(train(tmp_path / "run", f"train.max_duration={max_duration}", "optimizer.lr=0.004", *change)) == 20
    rates = logged(tmp_path / "run", "lr-AdamW/group0")
    assert rates == pytest.approx([0.004 * learning_rate_factor(step + (step < 2), 20) for step in range(20)], rel=1e-9)


def test_held_out_loss_is_measured_on_clean_rows(train, tmp_path, small_config, capsys):
    train(tmp_path / "run", "train.max_duration=4ba", "train.eval_batches=2", "train.eval_interval=4ba")
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if "heldout loss" in line]
    measured = float(line.split()[-1])

    config = small_config(tmp_path / "x")
    shards = open_shards(config.data, VALIDATION_SPLIT)
    loader = build_loader(
        config.data,
        shards,
        rule=None,
        seed=17,
        global_batch_size=8,
        world_size=1,
        cache_dir=tmp_path / "cache",
        shuffle=False,
    )
    tokenizer = open_tokenizer(TokenizerConfig(), shards)
    from meap.checkpoints.trust import load_checkpoint

    model = build_model(
        decoder_config(config.model, vocab_size=tokenizer.vocab_size, seq_len=16),
        attention=choose_attention("auto", on_gpu=False, bf16=False),
        seed=0,
    )
    model.load_state_dict(load_checkpoint(str(tmp_path / "run/checkpoints/ba4.pt"))["state"]["model"])
    with torch.no_grad():
        expected = torch.cat([model(batch)["losses_BT"].flatten() for batch in loader]).mean()
    assert measured == pytest.approx(float(expected), abs=1e-4)


def test_a_finished_run_is_not_trained_again(train, tmp_path, capsys):
    once = train(tmp_path / "run", "train.max_duration=4ba")
    assert train(tmp_path / "run", "train.max_duration=4ba") == once
    assert "already trained for 4 of 4 batches: nothing to do" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("stop", [4, EPOCH])
def test_a_longer_run_continues_from_the_checkpoint_with_nothing_lost_or_repeated(train, tmp_path, stop):
    """At a constant learning rate the shorter run begins the longer one; stops inside and at the end of an epoch."""
    constant = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999999")
    whole = train(tmp_path / "whole", "train.max_duration=20ba", *constant)
    train(tmp_path / "parts", f"train.max_duration={stop}ba", *constant)
    assert train(tmp_path / "parts", "train.max_duration=20ba", *constant) == pytest.approx(whole, abs=1e-6)


@pytest.mark.slow
def test_a_run_in_epochs_is_the_run_in_batches_with_every_total_known(train, tmp_path, capsys):
    """Two epochs of eight steps; all that is due once per epoch is due at its last step."""
    schedule = ("masking.site=algorithm", "masking.schedule=linear", "masking.final_ratio=0.5")
    whole = train(tmp_path / "whole", "train.max_duration=16ba", "scheduler.warmup_duration=8ba", *schedule)
    capsys.readouterr()
    each_epoch = ("train.log_interval=1ep", "train.eval_interval=1ep", "checkpoint.interval=1ep", "checkpoint.keep=-1")
    overrides = (*each_epoch, "train.eval_batches=9", "scheduler.warmup_duration=1ep", *schedule)
    assert train(tmp_path / "run", "train.max_duration=2ep", *overrides) == whole
    printed = capsys.readouterr().out
    starts = [line.split(" | ")[:2] for line in printed.splitlines() if line.startswith("step ")]
    assert [start[0] for start in starts] == ["step      8/16", "step      8", "step     16/16", "step     16"]
    assert [start[1].split()[0] for start in starts] == ["loss", "heldout"] * 2
    assert "length     16 steps, 2,048 tokens, 2.00 epochs" in printed
    assert "measures   held-out loss on all rows every 8 steps and at the end" in printed
    store = CheckpointStore(str(tmp_path / "run/checkpoints"))
    assert store.steps() == [16, 8]

    # As after a kill: the one that was taken at the end of the first epoch is where it continues.
    store.withdraw(16)
    assert train(tmp_path / "run", "train.max_duration=2ep", *overrides) == whole
    assert "step 8 (epoch 0)" in capsys.readouterr().out
    # Longer, and from the end of an epoch again: the totals are the new ones from the first line on.
    constant = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999999")
    train(tmp_path / "longer", "train.max_duration=1ep", *constant)
    longer = train(tmp_path / "longer", "train.max_duration=2ep", "train.log_interval=3ba", *constant)
    assert longer == pytest.approx(train(tmp_path / "at_once", "train.max_duration=2ep", *constant), abs=1e-6)
    assert "step      9/16" in capsys.readouterr().out


def test_the_last_line_shows_its_own_steps_and_the_end_is_measured(train, tmp_path, capsys):
    """Of 7 steps in intervals of 4, the last three."""
    lengths = ("train.max_duration=7ba", "train.log_interval=4ba", "train.eval_interval=5ba", "train.eval_batches=1")
    train(tmp_path / "run", *lengths)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in printed if "heldout" in line] == ["step      5", "step      7"]
    train(tmp_path / "each", *lengths[:1], "train.log_interval=1ba")
    metrics = [json.loads(line) for line in (tmp_path / "each/metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in printed if line.startswith("step      7/7")]
    shown = float(last.split("masked ")[2].split(",")[0])
    kind = "masking/loss_masked_targets"
    before, own = (
        [each[kind] for each in metrics if kind in each and (each["step"] > 4) == is_own] for is_own in (False, True)
    )
    assert min(own) <= shown <= max(own)
    assert shown > sum(before) / len(before) + 0.1, "what the line before has shown"


@pytest.mark.parametrize(("train_rows", "heldout_rows", "batch"), [(11, 3, 8), (1, 1, 1), (9, 0, 8)])
def test_any_data_that_hold_a_batch_are_trained_and_measured(
    train, tmp_path, write_shards, capsys, train_rows, heldout_rows, batch
):
    remote = write_shards(tmp_path / "data", rows=train_rows, seq_len=16, validation_rows=heldout_rows)
    overrides = (f"data.remote={remote}", "data.num_canonical_nodes=24", f"train.global_batch_size={batch}")
    assert len(train(tmp_path / "run", *overrides, "train.max_duration=3ep", "train.eval_batches=16")) == 3
    printed = capsys.readouterr().out
    assert ("heldout loss" in printed) == (heldout_rows > 0)
    assert ("note       the data hold no validation split" in printed) == (heldout_rows == 0)
    assert f"epoch      {batch} rows = 1 steps" in printed
    assert (f"{train_rows - batch:,} rows are left out, others in each epoch" in printed) == (train_rows > batch)


@pytest.mark.fault(8)
def test_a_run_is_not_continued_under_other_settings(train, tmp_path):
    train(tmp_path / "run", "train.max_duration=2ba")
    with pytest.raises(MismatchError, match=r"holds a run with masking\.ratio=0\.15, not 0\.2: give this run another"):
        train(tmp_path / "run", "train.max_duration=2ba", "masking.ratio=0.2")


@pytest.mark.fault(8)
def test_allowed_changes_are_logged(train, tmp_path, capsys):
    train(tmp_path / "run", "train.max_duration=2ba")
    train(tmp_path / "run", "train.max_duration=2ba", "train.microbatch_size=8")
    assert "with train.microbatch_size=8 (was 4)" in capsys.readouterr().out


def test_missing_shards_say_what_to_run(train, tmp_path):
    with pytest.raises(IncompleteError, match="holds no finished 'train' split"):
        train(tmp_path / "run", f"data.remote={tmp_path}")
    # A start that failed binds nobody: the same run may begin with the right address.
    assert len(train(tmp_path / "run", "train.max_duration=1ba")) == 1


@pytest.mark.slow
def test_streams_are_mixed_and_a_longer_run_continues_with_the_same_mixture(train, tmp_path, remote, write_shards):
    other = write_shards(tmp_path / "other", rows=16, seq_len=16, validation_rows=0, seed=1)
    streams = (
        *(f"data.streams.web.remote={remote}", "data.streams.web.proportion=1", "train.eval_interval=4ba"),
        *(f"data.streams.code.remote={other}", "data.streams.code.proportion=1", "train.eval_batches=2"),
        *("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999999", "data.remote=/nowhere"),
    )
    whole = train(tmp_path / "whole", "train.max_duration=12ba", *streams)
    train(tmp_path / "parts", "train.max_duration=5ba", *streams)
    assert train(tmp_path / "parts", "train.max_duration=12ba", *streams) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("name", ["gemma3_text", "granite"])
def test_any_architecture_resumes_and_is_exported(train, small_config, tmp_path, name, capsys):
    """The second run needs no config.json: its checkpoint holds what it said."""
    tiny(name).save_pretrained(tmp_path / "config")
    settings = ("masking.ratio=0", *config_alone(tmp_path / "config"), "checkpoint.interval=2ba")
    whole = train(tmp_path / "whole", "train.max_duration=4ba", *settings)
    assert f"a {name} as in {tmp_path / 'config'}" in capsys.readouterr().out
    train(tmp_path / "parts", "train.max_duration=4ba", *settings)
    for later in (tmp_path / "parts/checkpoints").glob("ba4*"):
        later.unlink()
    shutil.rmtree(tmp_path / "config")
    assert train(tmp_path / "parts", "train.max_duration=4ba", *settings) == whole
    runpy.run_path(str(ROOT / "recipes/export_hf.py"))["main"](small_config(tmp_path / "parts", *settings))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "parts/hf", attn_implementation="eager")
    assert exported.config.model_type == name
    weights = load_checkpoint(str(tmp_path / "whole/checkpoints/ba4.pt"))["state"]["model"]
    assert all(torch.equal(weights[f"model.{key}"], weight) for key, weight in exported.state_dict().items())


def test_an_architecture_is_a_yaml(train, small_config, tmp_path):
    settings = ("model.architecture=qwen3", "model.head_dim=16", "model.tie_word_embeddings=true")
    train(tmp_path / "run", "train.max_duration=2ba", *settings)
    assert len(train(tmp_path / "run", "train.max_duration=4ba", *settings)) == 4
    runpy.run_path(str(ROOT / "recipes/export_hf.py"))["main"](small_config(tmp_path / "run", *settings))
    config = json.loads((tmp_path / "run/hf/config.json").read_text())
    assert (config["architectures"], config["head_dim"]) == (["Qwen3ForCausalLM"], 16)
    assert config["tie_word_embeddings"] is True


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(train, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.device=gpu, but torch sees no CUDA device"):
        train(tmp_path / "run", "train.device=gpu")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_bf16_on_a_cpu_is_refused_with_the_remedy(train, tmp_path: Path, device: str):
    if device == "auto" and torch.cuda.is_available():
        pytest.skip("has a GPU")
    with pytest.raises(ConfigError, match=r"train\.precision=amp_bf16 needs a GPU.*use train\.precision=auto"):
        train(tmp_path / "run", f"train.device={device}", "train.precision=amp_bf16")


class Payload:
    """Unpickling this would create the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.fault(10)
def test_a_malicious_checkpoint_is_never_executed(train, tmp_path):
    train(tmp_path / "run", "train.max_duration=4ba")
    store = CheckpointStore(str(tmp_path / "run/checkpoints"))
    checkpoint = Path(store.location, "ba4.pt")
    torch.save({"state": Payload(tmp_path / "touched")}, checkpoint)
    # Who can write to the store can write records, too.
    store.publish(dataclasses.replace(store.record(4), files=(describe_file(checkpoint, "ba4.pt"),)))
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values; nothing in it was run"):
        train(tmp_path / "run", "train.max_duration=8ba")
    assert not (tmp_path / "touched").exists()
