"""The method as Composer packages methods: the function, the Algorithm on a foreign loader and model, and the card."""

import doctest
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composer import Trainer
from composer.core import Callback, Event, Timestamp
from composer.models import HuggingFaceModel
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from meap.config import MaskingConfig
from meap.errors import ConfigError
from meap.masking import MaskRule
from meap.positions import count_masked
from meap.schema import IGNORE_INDEX
from meap.train import algorithm
from meap.train.algorithm import InputMasking, build_input_masking, mask_batch
from meap.train.schedule import RatioSchedule

MASK = 63
RULE = MaskRule(mask_id=MASK, ratio=0.25, seed=5)
PROMPT, LENGTH, PADDED = 8, 20, 24
ROWS, BATCH = 32, 8


class InstructionRows(Dataset):
    """Padded rows as transformers' collators make them: labels are not shifted, prompt and padding are ignored."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int):
        tokens = torch.randint(1, MASK, (PADDED,), generator=torch.Generator().manual_seed(row))
        tokens[LENGTH:] = 0
        labels = tokens.clone()
        labels[:PROMPT] = IGNORE_INDEX
        labels[LENGTH:] = IGNORE_INDEX
        return {
            "input_ids": tokens,
            "labels": labels,
            "attention_mask": (torch.arange(PADDED) < LENGTH).long(),
            "sample_id": row,
        }


def first_batch() -> dict[str, torch.Tensor]:
    return next(iter(DataLoader(InstructionRows(), batch_size=BATCH)))


def shifted(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ignored = torch.full((BATCH, 1), IGNORE_INDEX)
    return {**batch, "labels": torch.cat([batch["labels"][:, 1:], ignored], 1)}


def test_the_function_returns_a_new_batch_with_only_the_inputs_changed():
    batch = first_batch()
    before = {name: values.clone() for name, values in batch.items()}
    masked = mask_batch(batch, RULE, epoch=1)
    for name, values in before.items():
        assert torch.equal(batch[name], values)
        assert name == "input_ids" or masked[name] is batch[name]
    expected = RULE.apply(batch["input_ids"][:, :LENGTH].numpy(), np.arange(BATCH), epoch=1)
    np.testing.assert_array_equal(masked["input_ids"][:, :LENGTH].numpy(), expected)
    assert not (masked["input_ids"] == MASK)[:, LENGTH:].any()


@pytest.mark.parametrize("labels_are_shifted", [False, True])
def test_a_response_is_what_the_labels_score_whichever_way_they_are_written(labels_are_shifted):
    batch = shifted(first_batch()) if labels_are_shifted else first_batch()
    masked = mask_batch(batch, RULE, epoch=0, scope="response", labels_are_shifted=labels_are_shifted)
    is_mask = masked["input_ids"] == MASK
    assert not is_mask[:, :PROMPT].any()
    assert not is_mask[:, LENGTH - 1 :].any()  # the last token, and padding
    assert (is_mask.sum(1) == count_masked(LENGTH - PROMPT, 0.25)).all()
    same = mask_batch(first_batch(), RULE, epoch=0, scope="response", labels_are_shifted=False)
    assert torch.equal(masked["input_ids"], same["input_ids"])


def test_of_a_row_that_is_all_response_the_first_token_is_no_target():
    tokens = torch.arange(1, 9).repeat(200, 1)
    batch = {"input_ids": tokens, "labels": tokens + 1, "sample_id": torch.arange(200)}
    for is_shifted in (True, False):
        masked = mask_batch(batch, RULE, epoch=0, scope="response", labels_are_shifted=is_shifted)
        is_mask = masked["input_ids"] == MASK
        assert is_mask.any(0).tolist() == [False, *[True] * 6, False]


def test_an_attention_mask_that_leaves_nothing_out_changes_nothing():
    batch = {name: values for name, values in first_batch().items() if name != "attention_mask"}
    with_mask = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    expected = mask_batch(batch, RULE, epoch=0)["input_ids"]
    assert torch.equal(mask_batch(with_mask, RULE, epoch=0)["input_ids"], expected)


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({"sample_id": None}, {}, "batches hold 'sample_id'"),
        ({"labels": None}, {"scope": "response"}, "batches hold 'labels'"),
        ({"sample_id": [3] * BATCH}, {}, r"'sample_id' of a batch is \[3, .* must be an integer tensor \(8,\)"),
        ({"sample_id": torch.zeros(BATCH)}, {}, r"'sample_id' of a batch is torch.float32 \(8,\), but must be"),
        ({"sample_id": torch.arange(3)}, {}, r"'sample_id' of a batch is torch.int64 \(3,\), but must be"),
        ({"attention_mask": torch.ones(BATCH, 1, 4, 4)}, {}, r"shape \(8, 1, 4, 4\), not \(8, 24\): let the loader"),
        ({}, {"scope": "prompt"}, "scope 'prompt' is not known: choose one of all, response"),
    ],
)
def test_each_bad_batch_gets_one_clear_error(changed, arguments, message):
    batch = {name: values for name, values in (first_batch() | changed).items() if values is not None}
    with pytest.raises(ConfigError, match=message):
        mask_batch(batch, RULE, epoch=0, **arguments)


def test_the_official_preset_stands_alone_and_takes_packed_rows_only():
    for arguments in ({"scope": "response"}, {"schedule": RatioSchedule("linear", 0.5)}):
        with pytest.raises(ConfigError, match="preset 'official' fixes the rule: it takes neither a schedule nor"):
            InputMasking(RULE, preset="official", **arguments)
    state = SimpleNamespace(batch=first_batch(), timestamp=Timestamp())
    with pytest.raises(ConfigError, match="rows must be without padding: pack them"):
        InputMasking(RULE, preset="official").apply(Event.AFTER_DATALOADER, state, None)


def test_a_scope_is_checked_before_training():
    with pytest.raises(ConfigError, match="scope 'prompt' is not known"):
        InputMasking(RULE, scope="prompt")


class Recorder(Callback):
    """Keeps what reaches the model: inputs of each training batch, put together from its micro-batches."""

    def __init__(self) -> None:
        self.batches: list[torch.Tensor] = []
        self.evaluated: list[torch.Tensor] = []
        self._parts: list[torch.Tensor] = []

    def before_forward(self, state, logger) -> None:
        self._parts.append(state.batch["input_ids"].clone())

    def batch_end(self, state, logger) -> None:
        self.batches.append(torch.cat(self._parts))
        self._parts = []

    def eval_before_forward(self, state, logger) -> None:
        self.evaluated.append(state.batch["input_ids"].clone())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The tokenizer was not provided")
def test_any_loader_and_composer_s_own_model_whatever_the_microbatch():
    """Two epochs; the ratio is scheduled over both, so that it also changes within each."""
    rule = MaskRule(mask_id=MASK, ratio=0.2, seed=1)
    architecture = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=PADDED,
    )

    def run(microbatch_size: int) -> Recorder:
        recorder = Recorder()
        model = HuggingFaceModel(LlamaForCausalLM(architecture), tokenizer=None, use_logits=True, metrics=[])
        schedule = RatioSchedule("linear", final_ratio=0.8)
        trainer = Trainer(
            model=model,
            train_dataloader=DataLoader(InstructionRows(), batch_size=BATCH),
            eval_dataloader=DataLoader(InstructionRows(), batch_size=BATCH),
            max_duration="2ep",
            eval_interval="2ep",
            algorithms=[InputMasking(rule, schedule=schedule, scope="response", labels_are_shifted=False)],
            callbacks=[recorder],
            optimizers=torch.optim.AdamW(model.parameters()),
            device="cpu",
            device_train_microbatch_size=microbatch_size,
            progress_bar=False,
        )
        trainer.fit()
        trainer.close()
        return recorder

    expected = run(BATCH)
    counts = [count_masked(LENGTH - PROMPT, 0.2 + 0.6 * step / 8) for step in range(8)]
    assert [(batch == MASK).sum(1).unique().tolist() for batch in expected.batches] == [[count] for count in counts]
    assert (expected.batches[0] == MASK).tolist() != (expected.batches[4] == MASK).tolist()  # another epoch
    assert expected.evaluated
    assert not any((batch == MASK).any() for batch in expected.evaluated)
    for microbatch_size in (1, 2, 4):
        for one, other in zip(run(microbatch_size).batches, expected.batches, strict=True):
            assert torch.equal(one, other)


def test_the_algorithm_is_what_the_yaml_says():
    config = MaskingConfig(
        site="algorithm", scope="response", schedule="linear", final_ratio=0.75, schedule_duration="10ba"
    )
    logged = {}
    state = SimpleNamespace(
        batch=shifted(first_batch()), timestamp=Timestamp(batch=5), max_duration=None, dataloader_len=None
    )
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.update(metrics, step=step))
    build_input_masking(config, RULE).apply(Event.AFTER_DATALOADER, state, logger)
    assert logged == {"masking/ratio_scheduled": 0.5, "step": 6}
    is_mask = state.batch["input_ids"] == MASK
    assert (is_mask.sum(1) == (LENGTH - PROMPT) // 2).all()
    assert not is_mask[:, :PROMPT].any()


def test_the_examples_of_the_docstrings_hold():
    failed, attempted = doctest.testmod(algorithm)
    assert attempted >= 8
    assert failed == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The tokenizer was not provided")
def test_the_examples_of_the_card_run():
    card = (Path(algorithm.__file__).parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "card"})
