"""The monitor on every kind of batch, and that it never waits for the device."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composer.core import Time, Timestamp

from meap.config import SftConfig
from meap.data.sft import collate_rows, expand_row
from meap.masking import MaskRule
from meap.schema import ANSWER_COLUMN, COPIED_COLUMN, IGNORE_INDEX, LENGTHS_COLUMN, TOKENS_COLUMN
from meap.train.callbacks import MaskingMonitor

MASK = 99


def monitored(batch, losses_BT: torch.Tensor, *, microbatches: int = 1) -> dict[str, float]:
    """What the monitor logs of one batch, split as Composer splits it."""
    logged: dict[str, float] = {}
    monitor = MaskingMonitor(mask_id=MASK, interval=1)
    for rows in np.array_split(np.arange(len(losses_BT)), microbatches):
        part = {
            name: values[torch.from_numpy(rows)] if torch.is_tensor(values) else [values[row] for row in rows]
            for name, values in batch.items()
        }
        state = SimpleNamespace(batch=part, outputs={"losses_BT": losses_BT[torch.from_numpy(rows)]})
        monitor.after_forward(state, None)
    monitor.batch_end(SimpleNamespace(timestamp=Timestamp(batch=1)), SimpleNamespace(log_metrics=logged.update))
    return logged


def conversations(seq_len: int, loss: str, ratio: float) -> dict:
    """Two rows, padded: a prompt of 4 with an answer of 8 words, copied; one of 3 with an answer of 5, not copied."""
    rule = MaskRule(mask_id=MASK, ratio=ratio, seed=1) if ratio else None
    columns = {
        TOKENS_COLUMN: np.arange(1, 21, dtype=np.uint16),
        ANSWER_COLUMN: np.array([0] * 4 + [5] * 8 + [0] * 3 + [1] * 5, np.uint8),
        LENGTHS_COLUMN: np.array([12, 8], np.uint32),
        COPIED_COLUMN: np.array([1, 0], np.uint8),
    }
    sft = SftConfig(loss=loss, min_answer_tokens=0)
    rows = [expand_row(columns, number, seq_len=seq_len, sft=sft, rule=rule, epoch=0) for number in range(2)]
    return collate_rows(
        [{name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in row.items()} for row in rows]
    )


@pytest.mark.parametrize("microbatches", [1, 2])
def test_fine_tuning_rows_count_tokens_and_score_originals_and_copies_apart(microbatches):
    batch = conversations(48, "answer+masked", 0.5)
    is_mask = batch["input_ids"] == MASK
    assert is_mask.sum(1).tolist() == [4, 4]
    losses = torch.rand(2, 48, generator=torch.Generator().manual_seed(0)) * (batch["labels"] != IGNORE_INDEX)
    by_hand = {"masked": [], "clean": []}
    for row in range(2):
        for position in range(47):
            if batch["labels"][row, position] != IGNORE_INDEX:
                kind = "masked" if batch["input_ids"][row, position + 1] == MASK else "clean"
                by_hand[kind].append(float(losses[row, position]))
    assert (len(by_hand["masked"]), len(by_hand["clean"])) == (8, 2 * (8 + 5))
    logged = monitored(batch, losses, microbatches=microbatches)
    assert "masking/ratio" not in logged
    assert logged["masking/ratio_of_answers"] == 0.5
    assert logged["masking/loss_masked_targets"] == pytest.approx(np.mean(by_hand["masked"]))
    assert logged["masking/loss_clean_targets"] == pytest.approx(np.mean(by_hand["clean"]))


@pytest.mark.parametrize(("loss", "ratio", "kinds"), [("masked", 0.5, {"masked", "clean"}), ("masked", 0.0, {"clean"})])
def test_the_same_rows_on_the_masked_tokens_alone_and_of_the_control(loss, ratio, kinds):
    batch = conversations(48, loss, ratio)
    logged = monitored(batch, (batch["labels"] != IGNORE_INDEX).float())
    assert {name.split("_")[1] for name in logged if "loss" in name} == kinds
    assert all(value == 1.0 for name, value in logged.items() if "loss" in name)


def test_a_kind_of_target_that_did_not_occur_is_not_logged():
    batch = {"input_ids": torch.tensor([[1, MASK, 3]]), "labels": torch.tensor([[2, IGNORE_INDEX, IGNORE_INDEX]])}
    assert monitored(batch, torch.tensor([[2.0, 0.0, 0.0]])) == {
        "masking/ratio": pytest.approx(1 / 3),
        "masking/loss_masked_targets": 2.0,
    }


def test_padding_that_an_attention_mask_leaves_out_is_no_input():
    batch = {
        "input_ids": torch.tensor([[1, MASK, 3, 0, 0]]),
        "labels": torch.tensor([[2, 3, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
    }
    assert monitored(batch, torch.tensor([[2.0, 4.0, 0.0, 0.0, 0.0]])) == {
        "masking/ratio": pytest.approx(1 / 3),
        "masking/loss_masked_targets": 2.0,
        "masking/loss_clean_targets": 4.0,
    }


@pytest.mark.parametrize("kind", ["packed", "attention_mask", "segment_lengths"])
def test_between_logs_nothing_is_read_from_the_device(kind):
    """Tensors of the meta device hold no values: whoever asked for one would get an error."""
    batch = {name: torch.empty(2, 8, dtype=torch.long, device="meta") for name in ("input_ids", "labels")}
    if kind == "attention_mask":
        batch["attention_mask"] = torch.empty(2, 8, dtype=torch.long, device="meta")
    if kind == "segment_lengths":
        batch["segment_lengths"] = [[3, 2], [8]]
    losses = {"losses_BT": torch.empty(2, 8, device="meta")}
    state = SimpleNamespace(batch=batch, outputs=losses, max_duration=Time.from_batch(100))
    monitor = MaskingMonitor(mask_id=MASK, interval=10)
    for step in range(1, 10):
        for _ in range(2):
            monitor.after_forward(state, None)
        state.timestamp = Timestamp(batch=step)
        monitor.batch_end(state, None)
    state.timestamp = Timestamp(batch=10)
    with pytest.raises((NotImplementedError, RuntimeError), match="(?i)meta"):
        monitor.batch_end(state, None)
