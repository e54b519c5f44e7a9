"""Sums over attention weights: closed forms, transformers' own weights, and nothing left changed."""

import copy

import numpy as np
import pytest
import torch
from transformers import (
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.models.auto import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from meap.errors import CheckpointError, ConfigError
from meap.evals import attention
from meap.evals.attention import WeightSums, read_attention
from meap.evals.lm import Reading

FIELDS = ("later_LT", "own_LT", "relative_LT", "squares_LT", "last_LT", "asking_LT")

SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 48}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1),
    "window": MistralConfig(**GROUPED, sliding_window=8),
    "soft cap": Gemma2Config(**GROUPED, head_dim=8, sliding_window=8),
    "query norm": Qwen3Config(**GROUPED, head_dim=8),
}


def build(config) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module", params=["grouped queries", *CONFIGS])
def model(request, llama) -> PreTrainedModel:
    return llama if request.param == "grouped queries" else build(CONFIGS[request.param])


def readings(lengths=(30, 12, 30, 2), asking=(3, 7)):
    rng = np.random.default_rng(0)
    return [Reading(rng.integers(2, 300, length), asking if length > asking[1] else (0, 0)) for length in lengths]


def read(model, some, batch_tokens=1000):
    return read_attention(model, some, name="small", batch_tokens=batch_tokens)


def assert_same(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        for name in FIELDS:
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=tolerance, abs=tolerance), name


def from_transformers(model, reading, attention_of):
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.inference_mode():
        layers = eager(input_ids=torch.tensor(reading.ids)[None], output_attentions=True).attentions
    return attention_of(torch.cat(layers).double().numpy(), reading.asking)


# --- sums of known weights ---


def sums_of(weights, asking, pieces):
    """Through `WeightSums`, in pieces of so many queries."""
    found = []
    for of_layer in torch.tensor(np.array(weights), dtype=torch.float32):
        num_tokens = of_layer.shape[-1]
        sums = WeightSums(num_tokens, [asking], torch.device("cpu"))
        first = 0
        for size in pieces:
            sums.add(of_layer[None, :, first : first + size, : first + size])
            first += size
        assert first == sums.num_queries == num_tokens
        assert sums.furthest_from_1 < 1e-6
        found.append([array[0] for array in sums.arrays()])
    return [np.stack(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("pieces", [(9,), (4, 5), (1,) * 9])
def test_uniform_weights_have_closed_forms(uniform, pieces):
    later, own, relative, squares, last, asked = sums_of(uniform(9), (5, 7), pieces)
    position = np.arange(9)
    tails = np.array([sum(1 / (i + 1) for i in range(j + 1, 9)) for j in position])
    square_tails = np.array([sum(1 / (i + 1) ** 2 for i in range(j + 1, 9)) for j in position])
    for layer in range(2):
        assert later[layer] == pytest.approx(tails, abs=1e-6)
        assert own[layer] == pytest.approx(1 / (position + 1), abs=1e-6)
        assert relative[layer] == pytest.approx(8 - position, abs=1e-5)
        assert squares[layer] == pytest.approx(square_tails, abs=1e-6)
        assert last[layer] == pytest.approx(1 / 9, abs=1e-6)
        assert asked[layer] == pytest.approx([(1 / 6 + 1 / 7) / 2] * 6 + [1 / 14] + [0, 0], abs=1e-6)


def test_weights_on_one_token_are_all_its(attention_of):
    weights = np.zeros((1, 2, 6, 6))
    weights[..., 0] = 1
    later, own, relative, squares, last, asked = sums_of(weights, (2, 4), (6,))
    assert later[0].tolist() == squares[0].tolist() == [5, 0, 0, 0, 0, 0]
    assert own[0].tolist() == last[0].tolist() == asked[0].tolist() == [1, 0, 0, 0, 0, 0]
    assert relative[0].tolist() == [2 + 3 + 4 + 5 + 6, 0, 0, 0, 0, 0]


def test_the_order_of_heads_does_not_matter():
    weights = np.tril(np.random.default_rng(0).random((2, 4, 12, 12)))
    weights /= weights.sum(-1, keepdims=True)
    for one, other in zip(
        sums_of(weights, (2, 5), (12,)), sums_of(weights[:, [2, 0, 3, 1]], (2, 5), (12,)), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-6)


# --- weights of models ---


def test_sums_are_those_of_the_weights_of_transformers(model, attention_of):
    some = readings()
    assert_same(read(model, some), [from_transformers(model, each, attention_of) for each in some], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_queries", [1, 7, 29])
def test_pieces_are_as_the_whole(model, num_queries, monkeypatch):
    some = readings()
    whole = read(model, some)
    largest = []
    add = WeightSums.add
    monkeypatch.setattr(WeightSums, "add", lambda sums, weights: largest.append(weights.numel()) or add(sums, weights))
    monkeypatch.setattr(attention, "_NUM_WEIGHTS", 4 * 30 * num_queries)
    assert_same(read(model, some), whole, 1e-5)
    assert max(largest) <= 4 * 30 * num_queries


def test_sums_are_those_of_queries_and_keys(llama, attention_of):
    """Recomputed from the layers' inputs: projections, rotary positions, groups of heads, causal softmax."""
    (reading,) = readings((20,))
    inputs: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, arguments, named: inputs.append(named["hidden_states"]), with_kwargs=True
        )
        for layer in llama.model.layers
    ]
    with torch.inference_mode():
        llama(input_ids=torch.tensor(reading.ids)[None])
        for hook in hooks:
            hook.remove()
        cos, sin = llama.model.rotary_emb(inputs[0], torch.arange(20)[None])
        weights = []
        for layer, hidden_BTD in zip(llama.model.layers, inputs, strict=True):
            query, key = (
                projection(hidden_BTD).view(1, 20, -1, 8).transpose(1, 2)
                for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj)
            )
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
            future = torch.ones(20, 20, dtype=torch.bool).triu(1)
            weights.append(scores.masked_fill(future, -torch.inf).softmax(-1))
    assert weights[0].shape == (1, 4, 20, 20)
    assert_same(read(llama, [reading]), [attention_of(torch.cat(weights).double().numpy(), reading.asking)], 1e-5)


def test_rows_share_a_pass_or_not(llama):
    some = readings((30, 12, 30, 30, 12))
    alone = [read(llama, [each])[0] for each in some]
    assert_same(read(llama, some), alone, 1e-5)
    assert_same(read(llama, some, batch_tokens=1), alone, 1e-5)


def test_a_model_is_left_as_it_was(llama):
    model = copy.deepcopy(llama).to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    read(model, readings())
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in model.modules())
    after = model.state_dict()
    assert all(tensor.dtype == torch.bfloat16 and torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_weights_of_bf16_models_are_read_in_float32(llama):
    low = copy.deepcopy(llama).to(torch.bfloat16)
    assert_same(read(low, readings()), read(copy.deepcopy(low).float(), readings()), 1e-6)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (
            MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4),
            "MambaForCausalLM.* returns the attention weights of 0 of its 2",
        ),
        (FalconConfig(**SIZES), "FalconForCausalLM.* does not support eager attention"),
    ],
    ids=["mamba", "falcon"],
)
def test_models_without_weights_are_reported(config, what):
    model = build(config)
    before = model.config._attn_implementation
    with pytest.raises(CheckpointError, match=rf"model small \({what}.*leave attention_decay and attention_segments"):
        read(model, readings())
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("factor", "what"), [(0.75, "has attention weights whose sum is 0.25 away from 1"), (np.nan, "not finite")]
)
def test_weights_that_are_no_shares_are_reported(llama, factor, what):
    hook = llama.model.layers[1].self_attn.register_forward_hook(
        lambda module, arguments, output: (output[0], output[1] * factor)
    )
    try:
        with pytest.raises(CheckpointError, match=what):
            read(llama, readings())
    finally:
        hook.remove()


def test_too_long_is_refused(lm):
    with pytest.raises(ConfigError, match="a row to read takes 129 tokens, but the context of model small is 128"):
        lm.attention(readings((129,)))
    assert lm.attention(readings((128,)))[0].last_LT.shape == (2, 128)
