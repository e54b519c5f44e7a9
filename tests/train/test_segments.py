"""Attention of fine-tuning rows: every segment is computed as if it stood alone."""

import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from meap.config import SftConfig
from meap.data.sft import collate_rows, expand_row
from meap.masking import MaskRule
from meap.schema import IGNORE_INDEX
from meap.train import attention
from meap.train.attention import Segments, choose_attention
from meap.train.model import NextTokenModel

VOCAB, T = 300, 256
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
WINDOW = 24
CONFIGS = [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=WINDOW), Qwen2Config(**SIZES)]
RULE = MaskRule(mask_id=299, ratio=0.3, seed=1)


@pytest.fixture(params=CONFIGS, ids=lambda config: config.model_type)
def model(request) -> NextTokenModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(request.param)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.1)  # logits that all but vanish would hide a difference
    model.config._attn_implementation = choose_attention("auto", on_gpu=False, bf16=False)
    return NextTokenModel(model)


def batch_of(rows, layout, **sft):
    sft = SftConfig(layout=layout, **sft)
    samples = [expand_row(row, n, seq_len=T, sft=sft, rule=RULE, epoch=0) for n, row in enumerate(rows[:4])]
    return collate_rows(
        [
            {name: torch.from_numpy(each) if isinstance(each, np.ndarray) else each for name, each in sample.items()}
            for sample in samples
        ]
    )


@pytest.mark.parametrize("layout", ["concat", "separate"])
def test_the_logits_of_a_segment_are_those_of_the_segment_alone(model, conversation_rows, layout):
    batch = batch_of(conversation_rows, layout)
    segments = Segments.of(batch["segment_lengths"], num_tokens=T, device=torch.device("cpu"))
    with torch.no_grad():
        packed = model.model(
            batch["input_ids"], position_ids=batch["position_ids"], segments=segments, use_cache=False
        ).logits
        model.model.config._attn_implementation = "eager"  # transformers' own reference, with its own mask
        compared = 0
        for row, lengths in enumerate(batch["segment_lengths"]):
            start = 0
            for length in lengths:
                alone = model.model(batch["input_ids"][row : row + 1, start : start + length]).logits[0]
                torch.testing.assert_close(packed[row, start : start + length], alone, rtol=0, atol=1e-5)
                start += length
                compared += 1
    assert compared > (12 if layout == "separate" else 11)


def test_one_copy_does_not_see_its_original_in_layout_separate_and_does_in_concat(model, conversation_rows):
    """Change a token of the first original: which logits of its copy follow?"""
    rows = [row for row in conversation_rows if row["copied"][0]]
    first = int(rows[0]["lengths"][0])
    follows = {}
    for layout in ("concat", "separate"):
        batch = batch_of(rows, layout)
        before = model(batch)["losses_BT"]
        batch["input_ids"] = batch["input_ids"].clone()
        batch["input_ids"][0, 0] = 77
        after = model(batch)["losses_BT"]
        follows[layout] = bool((before[0, first : 2 * first] != after[0, first : 2 * first]).any())
        torch.testing.assert_close(before[0, 2 * first :], after[0, 2 * first :], rtol=0, atol=0)
        torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=0)
    assert follows == {"concat": True, "separate": False}


@pytest.mark.parametrize("layout", ["concat", "separate"])
def test_loss_and_gradients_are_those_of_the_segments_one_by_one(model, conversation_rows, layout):
    batch = batch_of(conversation_rows, layout)
    outputs = model(batch)
    outputs["loss"].backward()
    packed = [parameter.grad.clone() for parameter in model.parameters()]
    assert all(torch.isfinite(gradient).all() for gradient in packed)
    model.zero_grad()
    model.model.config._attn_implementation = "eager"
    losses = []
    for row, lengths in enumerate(batch["segment_lengths"]):
        start = 0
        for length in lengths:
            here = slice(start, start + length)
            logits = model.model(batch["input_ids"][row : row + 1, here]).logits[0]
            losses.append(
                F.cross_entropy(logits, batch["labels"][row, here], ignore_index=IGNORE_INDEX, reduction="sum")
            )
            start += length
    alone = torch.stack(losses).sum() / sum(batch["num_targets"])
    torch.testing.assert_close(outputs["loss"], alone, rtol=0, atol=1e-5)
    alone.backward()
    for gradient, parameter in zip(packed, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("loss", ["answer+masked", "masked"])
@pytest.mark.parametrize("layout", ["concat", "separate"])
def test_by_rows_the_loss_is_the_mean_of_the_views_means(model, conversation_rows, layout, loss, copies):
    """What the official loop gives with a view per device: the model's loss on each, and the mean of these."""
    if not copies:
        conversation_rows = [row | {"copied": np.zeros_like(row["copied"])} for row in conversation_rows]
    batch = batch_of(conversation_rows, layout, loss=loss, weighting="rows")
    outputs = model(batch)
    outputs["loss"].backward()
    packed = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.model.config._attn_implementation = "eager"
    means = []
    for row, stored in enumerate(conversation_rows[:4]):
        start = 0
        for length, is_copied in zip(stored["lengths"].tolist(), stored["copied"].tolist(), strict=True):
            ends = [start + length, start + 2 * length][: 1 + is_copied]
            for end in ends:
                # In `concat` a copy attends to its original, whose own targets count by themselves.
                first = start if layout == "concat" else end - length
                logits = model.model(batch["input_ids"][row : row + 1, first:end]).logits[0, end - length - first :]
                if ((labels := batch["labels"][row, end - length : end]) != IGNORE_INDEX).any():
                    means.append(F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX))
            start = ends[-1]
    assert len(means) == sum(batch["num_views"])
    expected = torch.stack(means).mean()
    torch.testing.assert_close(outputs["loss"], expected, rtol=0, atol=1e-5)
    expected.backward()
    for gradient, parameter in zip(packed, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


def test_no_mask_is_built_but_for_segments_longer_than_a_window(model, conversation_rows, monkeypatch):
    shapes, window = [], getattr(model.config, "sliding_window", None) or T
    original = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        shapes.append((args[0].shape[2], kwargs.get("attn_mask") is None))
        return original(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    batch = batch_of(conversation_rows, "separate")
    model(batch)
    lengths = [length for row in batch["segment_lengths"] for length in row]
    assert shapes == [(length, length <= window) for length in lengths] * SIZES["num_hidden_layers"]


@pytest.mark.parametrize("kernel", ["flash_attn", "varlen_attn"])
def test_the_variable_length_kernels_are_asked_for_the_same(model, conversation_rows, monkeypatch, kernel):
    """Their contract, computed sequence by sequence: the kernels themselves run on CUDA only."""
    calls = []

    def attend(query, key, value, borders, other_borders, longest, other_longest, *, scale, window_size):
        calls.append((longest, other_longest, window_size, borders.dtype))
        left = longest if window_size[0] == -1 else window_size[0]  # keys before the current one
        assert borders is other_borders
        assert int(borders[-1]) == len(query) == len(key) == len(value)
        assert int(borders.diff().max()) == longest
        return torch.cat(
            [
                F.scaled_dot_product_attention(
                    *(each[start:end].transpose(0, 1) for each in (query, key, value)),
                    attn_mask=torch.ones(end - start, end - start, dtype=torch.bool).tril().triu(-left),
                    scale=scale,
                    enable_gqa=True,
                ).transpose(0, 1)
                for start, end in pairwise(borders.tolist())
            ]
        )

    def flash_attn_varlen_func(*states, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options):
        places = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        assert options["causal"]
        window_size = options.get("window_size", (-1, 0))
        return attend(*states, *places, scale=options["softmax_scale"], window_size=window_size)

    def varlen_attn(*states_and_places, scale, window_size, enable_gqa):
        assert enable_gqa
        return attend(*states_and_places, scale=scale, window_size=window_size)

    batch = batch_of(conversation_rows, "separate")
    expected = model(batch)["losses_BT"]
    if kernel == "flash_attn":
        kernels = SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func, flash_attn_func=None)
        monkeypatch.setitem(sys.modules, "flash_attn", kernels)
        model.model.config._attn_implementation = "meap_fa2"
    else:
        monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_attn)
        monkeypatch.setattr(attention, "_takes_varlen", lambda query: True)
    torch.testing.assert_close(model(batch)["losses_BT"], expected, rtol=0, atol=1e-5)
    before = WINDOW - 1 if getattr(model.config, "sliding_window", None) else -1
    assert set(calls) == {(max(segments_with_padding(batch)),) * 2 + ((before, 0), torch.int32)}


def test_under_autocast_the_kernel_for_segments_gets_half_precision(model, conversation_rows, monkeypatch):
    """RoPE makes fp32 of queries and keys there, and each segment was computed by a call of its own."""
    given = []

    def varlen_attn(query, key, value, *_, **__):
        given.append({query.dtype, key.dtype, value.dtype})
        return torch.zeros_like(query)

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_attn)
    monkeypatch.setattr(attention, "_takes_varlen", lambda query: query.dtype == torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        model(batch_of(conversation_rows, "separate"))
    assert given == [{torch.bfloat16}] * SIZES["num_hidden_layers"]


def test_rows_weigh_the_same_where_fsdp_casts_what_a_model_is_given(model, conversation_rows):
    """To bf16: a third became 0.334."""
    batch = batch_of(conversation_rows, "separate", weighting="rows")
    expected = model(batch)["loss"]

    def cast(_, given, named):
        narrow = {name: each.bfloat16() if each.is_floating_point() else each for name, each in named.items()
                  if torch.is_tensor(each)}  # fmt: skip
        return given, named | narrow

    model.model.register_forward_pre_hook(cast, with_kwargs=True)
    assert model(batch)["loss"] == expected


def test_rows_longer_than_a_window_are_segments_of_the_variable_length_kernel(monkeypatch):
    """Also as one compiled graph."""
    borders, states = [], [torch.randn(2, heads, 32, 8) for heads in (4, 2, 2)]
    expected, _ = attention.causal_sdpa(torch.nn.Identity(), *states, None, sliding_window=6)

    def varlen_attn(query, key, value, first, second, longest, other_longest, *, scale, window_size, enable_gqa):
        band = torch.ones(32, 32, dtype=torch.bool).tril().triu(-window_size[0])
        borders.append((first, longest, window_size))
        rows = (each.view(2, 32, -1, 8).transpose(1, 2) for each in (query, key, value))
        return F.scaled_dot_product_attention(*rows, attn_mask=band, enable_gqa=True).transpose(1, 2).flatten(0, 1)

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_attn)
    monkeypatch.setattr(attention, "_takes_varlen", lambda query: True)
    for compiled in (False, True):
        torch._dynamo.reset()
        compute = (
            torch.compile(attention.causal_sdpa, fullgraph=True, backend="eager") if compiled else attention.causal_sdpa
        )
        found, _ = compute(torch.nn.Identity(), *states, None, sliding_window=6)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        first, longest, window_size = borders.pop()
        assert (first.tolist(), longest, window_size) == ([0, 32, 64], 32, (5, 0))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"s_aux": torch.zeros(4)}, "sinks"),
        ({"softcap": 30.0}, "scores capped by a tanh"),
        ({"position_bias": torch.zeros(1)}, "a bias by position"),
        ({"is_causal": False}, "not causal"),
    ],
)
def test_what_is_not_computed_is_refused_and_never_passed_over(monkeypatch, asked, reason):
    state = torch.zeros(1, 4, 8, 8)
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=None, flash_attn_func=None))
    for compute in (attention.causal_sdpa, attention.causal_flash_attention):
        with pytest.raises(ValueError, match=reason):
            compute(torch.nn.Identity(), state, state, state, None, **asked)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's variable-length kernel runs on CUDA only")
@pytest.mark.parametrize("window", [None, 40])
def test_the_variable_length_kernel_is_exact_on_this_device(window):
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((2, 8, T, 64), (2, 2, T, 64), (2, 2, T, 64))
    states = [torch.randn(shape, device="cuda", generator=generator, requires_grad=True) for shape in shapes]
    segments = Segments.of([[100, 57], [200, 40, 16]], num_tokens=T, device=torch.device("cuda"))
    results = []
    for dtype in (torch.float32, torch.bfloat16):  # one call per segment; all in one
        given = [each.to(dtype) for each in states]
        output, _ = attention.causal_sdpa(torch.nn.Identity(), *given, None, segments=segments, sliding_window=window)
        kept = torch.cat([output[0, :157], output[1]]).float()
        results.append((kept, *torch.autograd.grad(kept.square().sum(), states)))
    for exact, half in zip(*results, strict=True):
        assert (half - exact).norm() < 0.01 * exact.norm()


def segments_with_padding(batch) -> list[int]:
    return [length for row in batch["segment_lengths"] for length in [*row, T - sum(row)]]


def test_borders_count_padding_as_one_more_segment():
    segments = Segments.of([[3, 4], [10], [1]], num_tokens=10, device=torch.device("cpu"))
    assert segments.borders.tolist() == [0, 3, 7, 10, 20, 21, 30]
    assert segments.longest == 10
    with pytest.raises(ValueError, match="segments of 11 tokens do not fit a row of 10"):
        Segments.of([[4, 7]], num_tokens=10, device=torch.device("cpu"))
