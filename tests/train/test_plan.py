"""Estimates against sums by hand, and against what torch really keeps."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from meap.config import RecipeConfig, load_config
from meap.data import open_shards
from meap.train.attention import choose_attention
from meap.train.model import build_model, decoder_config
from meap.train.plan import (
    checkpoint_bytes,
    device_memory,
    num_checkpoints,
    training_days,
)
from meap.train.timetable import Timetable

YAMLS = Path(__file__).resolve().parents[2] / "yamls"


@pytest.mark.parametrize(
    ("duration", "interval", "keep", "together"),
    [
        ("20ba", "4ba", 2, 3),
        ("20ba", "4ba", -1, 5),
        ("18ba", "4ba", -1, 5),
        ("4ba", "100ba", 3, 1),
        ("8ba", "4ba", 3, 2),
        ("2ep", "1ep", 3, 2),
        ("3ep", "0.25dur", -1, 4),
    ],
)
def test_checkpoints_that_lie_beside_each_other(small_config, tmp_path, duration, interval, keep, together):
    settings = (f"train.max_duration={duration}", f"checkpoint.interval={interval}", f"checkpoint.keep={keep}")
    config = small_config(tmp_path, *settings)
    timetable = Timetable.of(config, open_shards(config.data, "train"))
    assert num_checkpoints(timetable, keep=config.checkpoint.keep) == together


def test_a_checkpoint_is_as_large_as_estimated(train, tmp_path):
    train(tmp_path / "run", "train.max_duration=1ba", "model.hidden_size=128", "model.intermediate_size=256")
    saved = max(path.stat().st_size for path in (tmp_path / "run/checkpoints").rglob("*") if path.is_file())
    # 320 rows each of embedding and head, two layers of 128 -> 64 per key and value.
    parameters = 2 * 320 * 128 + 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256 + 2 * 128) + 128
    assert saved == pytest.approx(checkpoint_bytes(parameters), rel=0.05)


def test_activations_are_those_that_torch_keeps_for_the_backward_pass(small_config, tmp_path):
    config = small_config(
        tmp_path,
        *("model.hidden_size=64", "model.num_attention_heads=2", "model.num_key_value_heads=2"),
        *("model.intermediate_size=176", "model.num_hidden_layers=6", "data.seq_len=256"),
        *("train.global_batch_size=4", "train.microbatch_size=4"),
    )
    architecture = decoder_config(config.model, vocab_size=64, seq_len=256)
    model = build_model(architecture, attention=choose_attention("sdpa", on_gpu=False, bf16=True), seed=0)
    memory = device_memory(config, architecture, num_parameters=model.num_parameters, num_devices=1)
    # Torch's own: besides activations the weights in bf16, and logits.
    weights_in_bf16 = 2 * (model.num_parameters - 64 * 64)
    expected = memory.activations + weights_in_bf16 + 4 * 1024 * 64
    assert kept_bytes(model) == pytest.approx(expected, rel=0.1)


def kept_bytes(model: torch.nn.Module) -> int:
    """Bytes of what autograd saves in a forward pass under autocast, parameters themselves left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids_BT = torch.randint(0, 64, (4, 256))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        outputs = model({"input_ids": ids_BT, "labels": ids_BT})
    assert outputs["loss"].requires_grad
    return sum(tensor.untyped_storage().nbytes() for address, tensor in saved.items() if address not in own)


def memory_of(*overrides: str, num_devices: int, num_parameters: int = 14 * 10**9):
    config = load_config(RecipeConfig, YAMLS / "1b.yaml", overrides)
    architecture = decoder_config(config.model, vocab_size=32_001, seq_len=4096)
    return device_memory(config, architecture, num_parameters=num_parameters, num_devices=num_devices)


def test_sharding_and_recomputation_save_what_they_promise():
    plain = memory_of(num_devices=8)
    assert (plain.weights, plain.gradients, plain.optimizer) == (6 * 14e9, 8 * 14e9, 8 * 14e9)  # DDP's buckets, too
    assert memory_of(num_devices=1).gradients == 4 * 14e9
    grad_op = memory_of("train.sharding=grad_op", num_devices=8)
    assert (grad_op.gradients, grad_op.optimizer) == (4 * 14e9 / 8, plain.optimizer / 8)
    full = memory_of("train.sharding=full", num_devices=8)
    assert full.weights < plain.weights / 4
    assert (full.activations, full.logits) == (plain.activations, plain.logits)
    assert memory_of("train.sharding=full", num_devices=16).total < full.total < grad_op.total < plain.total + 4 * 14e9
    recomputed = memory_of("train.activation_checkpointing=true", num_devices=8)
    assert recomputed.activations < plain.activations / 8


def test_adapters_of_an_8b_model_fit_a_card_of_80_gb_and_all_of_its_weights_do_not():
    config = load_config(RecipeConfig, YAMLS / "sft_llama3_8b_lora.yaml")
    hidden, mlp, keys, layers, rows, rank = 4096, 14_336, 1024, 32, 128_320, 16
    architecture = AutoConfig.for_model(
        "llama",
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        vocab_size=rows,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    base = 2 * rows * hidden + layers * (2 * hidden * (hidden + keys) + 3 * hidden * mlp + 2 * hidden) + hidden
    adapters = (
        layers * rank * (2 * 2 * hidden + 2 * (hidden + keys) + 3 * (hidden + mlp)) + hidden
    )  # and the mask's row
    sizes = {"num_parameters": base + adapters, "num_devices": 1}
    memory = device_memory(config, architecture, **sizes, num_trained=adapters)
    assert memory.weights == 2 * base + 6 * adapters
    assert (memory.gradients, memory.optimizer) == (4 * adapters, 8 * adapters)
    assert memory.total == pytest.approx(33.6e9, rel=0.01)  # as docs/fine-tune.md has it
    assert device_memory(config, architecture, **sizes).total == pytest.approx(161e9, rel=0.01)
    assert checkpoint_bytes(adapters) == pytest.approx(0.5e9, rel=0.01)


def test_the_paper_s_run_in_figures():
    """1.1B on 200 B tokens at 40 %: 9.076 GFLOP a token, 8 x 989 TFLOP/s."""
    config = load_config(RecipeConfig, YAMLS / "1b.yaml")
    architecture = decoder_config(config.model, vocab_size=32_001, seq_len=4096)
    tokens = 190_000 * 256 * 4096
    days = training_days(architecture, context=4096, tokens=tokens, peak_flops=8 * 989e12, utilisation=0.4)
    assert days == pytest.approx(9.076e9 * tokens / (8 * 989e12 * 0.4) / 86_400, rel=1e-3)
