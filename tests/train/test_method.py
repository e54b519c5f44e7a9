"""The Algorithm, the monitor, the optimiser and its schedule."""

import dataclasses
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composer.core import Event, Time, Timestamp

from meap.config import OptimizerConfig
from meap.errors import ConfigError
from meap.masking import MaskRule
from meap.schema import IGNORE_INDEX
from meap.train.algorithm import InputMasking
from meap.train.callbacks import MaskingMonitor
from meap.train.data import count_tokens
from meap.train.optim import LearningRateSchedule, build_optimizer, learning_rate_factor

MASK = 99
RULE = MaskRule(mask_id=MASK, ratio=0.25, seed=5)


def make_batch(num_rows: int = 4, num_tokens: int = 32) -> dict[str, torch.Tensor]:
    tokens = torch.randint(0, MASK, (num_rows, num_tokens + 1), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:].clone(), "sample_id": torch.arange(num_rows) + 10}


def apply(algorithm: InputMasking, batch, epoch: int = 0):
    state = SimpleNamespace(batch=batch, timestamp=Timestamp(epoch=epoch))
    assert algorithm.match(Event.AFTER_DATALOADER, state)
    algorithm.apply(Event.AFTER_DATALOADER, state, None)
    return state.batch


@pytest.mark.parametrize("changed", [{}, {"protected_ids": (3, 4)}, {"span_length": 4}], ids=str)
def test_the_algorithm_says_which_tokens_are_chosen_where_inputs_do_not_show_it(changed):
    rule = dataclasses.replace(RULE, random_share=0.5, keep_share=0.3, num_ids=100, special_ids=(0, MASK), **changed)
    batch = make_batch()
    masked = apply(InputMasking(rule), batch, 2)
    samples, inputs = batch["sample_id"].numpy(), batch["input_ids"].numpy()
    np.testing.assert_array_equal(masked["input_ids"].numpy(), rule.apply(inputs, samples, epoch=2))
    chosen = rule.choose(samples, num_tokens=32, epoch=2, input_ids_BT=inputs)
    np.testing.assert_array_equal(masked["chosen"].numpy(), chosen)
    assert (masked["input_ids"] != batch["input_ids"]).sum() < chosen.sum()  # some are kept
    with pytest.raises(ConfigError, match="masked already"):
        apply(InputMasking(rule), masked)


def test_the_algorithm_reverses_rows_as_the_rule_does():
    rule = dataclasses.replace(RULE, reversed_ratio=0.5, direction_id=MASK + 1)
    batch = make_batch(num_rows=20)
    turned = rule.turn(*(batch[name].numpy() for name in ("input_ids", "labels", "sample_id")), epoch=1)
    masked = apply(InputMasking(rule), batch, 1)
    assert 0 < (masked["input_ids"][:, 0] == MASK + 1).sum() < 20
    np.testing.assert_array_equal(masked["labels"].numpy(), turned[1])
    np.testing.assert_array_equal(
        masked["input_ids"].numpy(), rule.apply(turned[0], batch["sample_id"].numpy(), epoch=1)
    )
    with pytest.raises(ConfigError, match="masked already"):
        apply(InputMasking(dataclasses.replace(rule, ratio=0.0)), masked)
    batch["labels"][0, 3] = IGNORE_INDEX
    with pytest.raises(ConfigError, match="masking.reversed_ratio needs rows without padding"):
        apply(InputMasking(rule), batch)


@pytest.mark.parametrize("epoch", [0, 3])
def test_the_algorithm_masks_as_the_dataset_does(epoch):
    batch = make_batch()
    algorithm = InputMasking(RULE)
    masked = apply(algorithm, batch, epoch)
    expected = RULE.apply(batch["input_ids"].numpy(), batch["sample_id"].numpy(), epoch=epoch)
    np.testing.assert_array_equal(masked["input_ids"].numpy(), expected)
    assert masked["labels"] is batch["labels"]


@pytest.mark.parametrize("step", [0, 7, 51, 120])
def test_the_official_preset_masks_every_row_as_the_official_code_does(step):
    state = SimpleNamespace(batch=make_batch(), timestamp=Timestamp(batch=step))
    InputMasking(RULE, preset="official").apply(Event.AFTER_DATALOADER, state, None)
    expected = torch.zeros(4, 32, dtype=torch.bool)
    expected[:, random.Random(50 + step % 51).sample(range(31), 8)] = True
    assert torch.equal(state.batch["input_ids"] == MASK, expected)


def test_the_algorithm_runs_once_per_device_batch():
    algorithm = InputMasking(RULE)
    assert [event for event in Event if algorithm.match(event, None)] == [Event.AFTER_DATALOADER]


def test_a_batch_is_never_masked_twice():
    algorithm = InputMasking(RULE)
    with pytest.raises(ConfigError, match="masked already: masking.site must be either dataset or algorithm"):
        apply(algorithm, apply(algorithm, make_batch()))


def test_a_loader_without_sample_ids_is_refused():
    batch = make_batch()
    del batch["sample_id"]
    with pytest.raises(ConfigError, match="needs a loader whose batches hold 'sample_id'"):
        apply(InputMasking(RULE), batch)


def test_the_monitor_logs_the_realised_ratio_and_both_losses():
    logged = {}
    logger = SimpleNamespace(log_metrics=logged.update)
    monitor = MaskingMonitor(mask_id=MASK, interval=2)
    inputs = torch.tensor([[1, MASK, 3, MASK], [5, 6, 7, MASK]])
    labels = torch.tensor([[2, 3, 4, 5], [6, 7, IGNORE_INDEX, 9]])
    losses = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 0.0, 64.0]])
    state = SimpleNamespace(
        batch={"input_ids": inputs, "labels": labels},
        outputs={"losses_BT": losses},
        timestamp=Timestamp(batch=1),
        max_duration=Time.from_batch(100),
    )
    for batch in (1, 2):
        monitor.after_forward(state, logger)
        state.timestamp = Timestamp(batch=batch)
        monitor.batch_end(state, logger)
        assert bool(logged) == (batch == 2)
    assert logged["masking/ratio"] == 3 / 8
    chosen = inputs == MASK
    # Random and kept tokens count as masked ones do.
    state.batch |= {"input_ids": torch.tensor([[1, 4, 3, MASK], [5, 6, 7, 8]]), "chosen": chosen}
    other = dict(logged)
    monitor.after_forward(state, logger)
    monitor.batch_end(state, logger)
    assert logged == other
    assert logged["masking/loss_masked_targets"] == pytest.approx((1.0 + 4.0) / 2)  # the third is not scored
    assert logged["masking/loss_clean_targets"] == pytest.approx((2.0 + 8.0 + 16.0 + 32.0 + 64.0) / 5)


def test_the_monitor_of_a_control_run_has_no_masked_targets():
    logged = {}
    batch = make_batch()
    state = SimpleNamespace(batch=batch, outputs={"losses_BT": torch.ones(4, 32)}, timestamp=Timestamp(batch=1))
    monitor = MaskingMonitor(mask_id=MASK, interval=1)
    monitor.after_forward(state, None)
    monitor.batch_end(state, SimpleNamespace(log_metrics=logged.update))
    assert logged == {"masking/ratio": 0.0, "masking/loss_clean_targets": 1.0}


def test_every_position_of_a_packed_row_generates_loss():
    assert count_tokens(make_batch()) == {"total": 128, "loss_generating": 128}


@pytest.mark.parametrize(("decay_norms", "left"), [(False, 1.0), (True, (1 - 0.4 * 0.05) ** 3)])
def test_matrices_decay_the_embedding_among_them_and_norms_only_if_asked(decay_norms, left):
    """Three steps at a rate of 0.4 without gradient: decay alone moves the weights."""
    model = torch.nn.Sequential(torch.nn.Embedding(4, 4), torch.nn.Linear(4, 4), torch.nn.RMSNorm(4))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    config = OptimizerConfig(lr=0.4, weight_decay=0.05, decay_norms=decay_norms)
    optimizer = build_optimizer(config, model, fused=False)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(3):
        optimizer.step()
    for parameter, first in zip(model.parameters(), before, strict=True):
        share = (1 - 0.4 * 0.05) ** 3 if parameter.ndim == 2 else left
        torch.testing.assert_close(parameter, first * share)
    assert optimizer.defaults["betas"] == (0.9, 0.95)


def rates(steps: list[int], *, warmup: int = 100, final_ratio: float = 0.1, **more) -> list[float]:
    """As shares of the peak, of a run of 1,000 steps."""
    schedule = LearningRateSchedule(warmup=warmup, total=1000, final_ratio=final_ratio, **more)
    optimizer, found = torch.optim.AdamW([torch.zeros(2)], lr=0.5), []
    for step in steps:
        schedule.batch_start(SimpleNamespace(timestamp=Timestamp(batch=step), optimizers=[optimizer]), None)
        found.append(optimizer.param_groups[0]["lr"] / 0.5)
    return found


def test_the_learning_rate_is_linear_warm_up_then_cosine():
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 900)) for step in (0, 1, 200, 450, 899)]
    expected = [0.01, 0.02, 0.5, 0.99, 1.0, *cosine, 0.1]
    assert rates([0, 1, 49, 98, 99, 100, 101, 300, 550, 999, 1000]) == pytest.approx(expected, abs=1e-12)
    assert cosine[3] == pytest.approx(0.55)


@pytest.mark.parametrize("warmup", [0, 1, 100, 999])
def test_no_step_is_idle(warmup):
    of_all = rates([*range(1000)], warmup=warmup, final_ratio=0.0)
    assert min(of_all) > 0
    assert max(of_all) == of_all[max(0, warmup - 1)] == 1.0


@pytest.mark.parametrize("shape", ["linear", "1-sqrt"])
@pytest.mark.parametrize("decay", [0, 1, 200, 900])
@pytest.mark.parametrize("final_ratio", [0.0, 0.1])
def test_a_stable_rate_falls_at_the_end_alone(shape, decay, final_ratio):
    of_all = rates([*range(1000)], final_ratio=final_ratio, decay=decay, shape=shape)
    assert of_all[:99] == [(step + 1) / 100 for step in range(99)]
    assert set(of_all[99 : 1000 - decay]) <= {1.0}
    done = [step / decay for step in range(decay)]
    left = [1 - (share if shape == "linear" else math.sqrt(share)) for share in done]
    assert of_all[1000 - decay :] == pytest.approx([final_ratio + (1 - final_ratio) * each for each in left])
    assert min(of_all) > 0


@pytest.mark.parametrize("parts", [1, 2, 4, 32])
def test_a_lead_of_all_parts_but_one_gives_the_official_rate_of_an_update(parts):
    """The official rate is set for each of a step's micro-batches, which count on; the update takes the last one's."""
    warmup, total, official = 100 * parts, 1000 * parts, []
    for number in range(total):
        if number < warmup:
            rate = number / warmup
        else:
            rate = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (number - warmup) / (total - warmup)))
        if (number + 1) % parts == 0:
            official.append(rate)
    assert rates([*range(1000)], lead=1 - 1 / parts) == pytest.approx(official, abs=1e-12)
    assert official[:2] == pytest.approx([(1 - 1 / parts) / 100, (2 - 1 / parts) / 100])


@pytest.mark.parametrize("time", [10, 19, 20, 40])
def test_without_a_decay_the_rate_never_falls(time):
    assert learning_rate_factor(time, warmup=10, total=20, final_ratio=0.1, decay=0) == 1


def test_nothing_but_warm_up_ends_at_the_final_rate():
    assert learning_rate_factor(20, warmup=40, total=40, final_ratio=0.1) == 0.5
    assert learning_rate_factor(40, warmup=40, total=40, final_ratio=0.1) == pytest.approx(0.1)
