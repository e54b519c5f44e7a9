import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from meap.config import ModelConfig
from meap.train.flops import matmul_parameters, peak_flops_per_second, training_flops_per_token
from meap.train.model import build_model, decoder_config

SIZES = {
    "1.1b": ModelConfig(),
    "0.5b": ModelConfig(hidden_size=1024, intermediate_size=4864, num_attention_heads=16),
    "0.3b": ModelConfig(hidden_size=1024, intermediate_size=2736, num_attention_heads=16),
    "0.1b": ModelConfig(hidden_size=768, intermediate_size=2048, num_attention_heads=12, num_hidden_layers=12),
}


@pytest.mark.parametrize(
    ("size", "causal", "giga"),
    [
        ("1.1b", True, 7.868),
        ("1.1b", False, 9.076),
        ("0.5b", False, 3.896),
        ("0.3b", False, 2.955),
        ("0.1b", False, 1.040),
    ],
)
def test_the_papers_models_cost_what_is_published_for_them(size, causal, giga):
    config = decoder_config(SIZES[size], vocab_size=32_001, seq_len=4096)
    assert training_flops_per_token(config, context=4096, causal=causal) / 1e9 == pytest.approx(giga, abs=6e-4)


def test_the_formula_counts_what_torch_counts():
    small = ModelConfig(
        hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2
    )
    config = decoder_config(small, vocab_size=256, seq_len=32)
    model = build_model(config, attention="eager", seed=0)
    rows = torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model({"input_ids": rows, "labels": rows, "sample_id": torch.arange(2)})["loss"].backward()
    expected = rows.numel() * training_flops_per_token(config, context=32, causal=False)
    # Not in the formula: the rotary angles, once per batch a product of 32 positions and 8 frequencies.
    assert counter.get_total_flops() - expected in (0, 2 * 32 * 8)


def test_the_head_counts_when_tied_and_heads_may_be_of_any_size():
    qwen = AutoConfig.for_model(
        "qwen3",
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
    )
    per_layer = 2 * 64 * 4 * 32 + 2 * 64 * 2 * 32 + 3 * 64 * 128
    assert matmul_parameters(qwen) == 2 * per_layer + 64 * 1000


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10G", 70),
        ("AMD Ryzen 9", None),
        ("cpu", None),
    ],
)
def test_the_peak_of_a_device_goes_by_its_name(name, tera):
    assert peak_flops_per_second(name) == (tera * 1e12 if tera else None)
