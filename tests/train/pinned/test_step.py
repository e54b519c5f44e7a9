"""A step that never waits for the device, tried on a device whose values nobody can read."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from composer import Callback, DataSpec, Trainer
from composer.algorithms import GradientClipping
from composer.callbacks import LRMonitor, SpeedMonitor
from composer.devices import DeviceCPU
from composer.loggers import LoggerDestination

from meap.config import ModelConfig
from meap.train.attention import choose_attention
from meap.train.callbacks import MaskingMonitor
from meap.train.data import count_tokens
from meap.train.model import build_model, decoder_config
from meap.train.pinned.step import LeanTrainer

TINY = ModelConfig(
    hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2
)
VOCAB, SEQ_LEN = 50, 8


class DeviceMeta(DeviceCPU):
    """Torch's device of shapes without values, once training starts: asking it for a number is an error."""

    def module_to_device(self, module):
        # Transformers computes angles under torch.autocast, which this device has none of.
        angles = torch.empty(1, SEQ_LEN, TINY.hidden_size // TINY.num_attention_heads, device="meta")
        module.model.model.rotary_emb.forward = lambda *_, **__: (angles, angles)
        return module.to("meta")

    def start(self) -> None:
        self._device = torch.device("meta")


def make_batches(num_batches: int, *, segments: bool = False) -> list[dict]:
    tokens = torch.randint(0, VOCAB, (num_batches, 4, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0))
    batches = [
        {"input_ids": rows[:, :-1], "labels": rows[:, 1:].contiguous(), "sample_id": torch.arange(4)} for rows in tokens
    ]
    for step, batch in enumerate(batches):
        if segments:
            batch["position_ids"] = torch.arange(SEQ_LEN).repeat(4, 1)
            batch["segment_lengths"] = [[3, SEQ_LEN - 3], [SEQ_LEN], [2, 4], [1 + step]]
            batch["num_targets"] = [8, 8, 8, 8]
    return batches


class History(LoggerDestination):
    """Every loss with the step it is logged for."""

    def __init__(self) -> None:
        self.losses: list[tuple[int | None, float]] = []

    def log_metrics(self, metrics, step=None):
        self.losses += [(step, value) for name, value in metrics.items() if name == "loss/train/total"]


def parts(batches: Sequence[dict], *, device=None, interval: int = 1) -> dict:
    config = decoder_config(TINY, vocab_size=VOCAB, seq_len=SEQ_LEN)
    model = build_model(config, attention=choose_attention("auto", on_gpu=False, bf16=False), seed=0)
    model = (device or DeviceCPU()).module_to_device(model)
    return {
        "model": model,
        "train_dataloader": DataSpec(batches, get_num_tokens_in_batch=count_tokens),
        "optimizers": torch.optim.AdamW(model.parameters(), lr=1e-2, fused=device is None),
        "algorithms": [GradientClipping("norm", 1.0)],
        "callbacks": [MaskingMonitor(mask_id=3, interval=interval), LRMonitor(), SpeedMonitor(window_size=2)],
        "loggers": [History()],
        "device": device or DeviceCPU(),
        "device_train_microbatch_size": 2,
        "max_duration": f"{len(batches)}ba",
        "progress_bar": False,
    }


def losses_of(trainer: Trainer) -> list[tuple[int | None, float]]:
    (history,) = [each for each in trainer.logger.destinations if isinstance(each, History)]
    return history.losses


@pytest.mark.slow
@pytest.mark.parametrize("segments", [False, True])
def test_no_step_between_two_readings_asks_the_device_for_anything(segments):
    device = DeviceMeta()
    given = parts(make_batches(6, segments=segments), interval=100, device=device)
    trainer = LeanTrainer(loss_interval=100, **given | {"max_duration": "100ba"})
    device.start()
    # Six batches pass; what asks first is the reading at the end of the epoch.
    with pytest.raises(RuntimeError) as raised:
        trainer.fit()
    assert "_read" in [frame.name for frame in raised.traceback]
    assert trainer.state.timestamp.batch == 6
    assert losses_of(trainer) == []


@pytest.mark.parametrize("segments", [False, True])
def test_losses_are_those_of_composers_trainer_bit_for_bit_each_under_its_step(segments):
    batches = make_batches(6, segments=segments)
    theirs = Trainer(**parts(batches), accumulate_train_batch_on_tokens=True)
    theirs.fit()
    for interval in (1, 4):
        ours = LeanTrainer(loss_interval=interval, **parts(batches))
        ours.fit()
        assert losses_of(ours) == [(step + 1, loss) for step, (_, loss) in enumerate(losses_of(theirs))]
        assert ours.state.timestamp == theirs.state.timestamp.copy(
            **{name: getattr(ours.state.timestamp, name) for name in ("total_wct", "epoch_wct", "batch_wct")},
            iteration_wct=ours.state.timestamp.iteration_wct,
        )
    for name, weight in theirs.state.model.state_dict().items():
        assert torch.equal(weight, ours.state.model.state_dict()[name])


TWO_RANKS = """
import torch
from composer import Trainer
from composer.utils import dist
from composer.utils.device import get_device
from meap.train.pinned.step import LeanTrainer
from tests.train.pinned.test_step import losses_of, make_batches, parts

dist.initialize_dist(get_device("cpu"), timeout=120)
rank = dist.get_global_rank()
for weighting in ("tokens", "rows"):
    batches = make_batches(4, segments=True)
    for batch in batches:
        batch["num_targets"] = [8, 8 - rank, 8, 8]
        batch["labels"][1, :rank] = -100
        if weighting == "rows":
            batch["num_views"] = [2, 1, 1, 1 + 2 * rank]
            of_row = torch.tensor(batch["num_views"]) / torch.tensor(batch["num_targets"])
            batch["weights"] = of_row[:, None] * (batch["labels"] != -100)
    theirs = Trainer(**parts(batches), accumulate_train_batch_on_tokens=True)
    theirs.fit()
    ours = LeanTrainer(loss_interval=3, **parts(batches))
    ours.fit()
    assert [loss for _, loss in losses_of(ours)] == [loss for _, loss in losses_of(theirs)]
    assert ours.state.timestamp.token == theirs.state.timestamp.token == 2 * 4 * 32
"""


@pytest.mark.slow
def test_ranks_that_score_unequally_many_tokens_train_as_with_composers_trainer(tmp_path, warm_python):
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    command = [warm_python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OMP_NUM_THREADS": "1",
        "PYTHON_EXEC": warm_python,
    }
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert finished.returncode == 0, finished.stderr


def test_losses_are_read_before_a_checkpoint_is_written():
    trainer = LeanTrainer(loss_interval=100, **parts(make_batches(6)))
    seen = []

    class Saving(Callback):
        def batch_checkpoint(self, state, logger):
            if state.timestamp.batch == 2:
                state.state_dict()
                seen.append([step for step, _ in losses_of(trainer)])

    trainer.state.callbacks.append(Saving())
    trainer.fit()
    assert seen == [[1, 2]]
    assert [step for step, _ in losses_of(trainer)] == [1, 2, 3, 4, 5, 6]
