import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from meap.config import ModelConfig
from meap.config.model import ARCHITECTURES
from meap.errors import ConfigError
from meap.schema import IGNORE_INDEX
from meap.train.attention import causal_sdpa, choose_attention
from meap.train.model import TokenLoss, build_model, decoder_config, padded_vocab_size

SMALL = ModelConfig(
    hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3
)
VOCAB, SEQ_LEN = 301, 24


@pytest.fixture
def model():
    attention = choose_attention("auto", on_gpu=False, bf16=False)
    return build_model(decoder_config(SMALL, vocab_size=VOCAB, seq_len=SEQ_LEN), attention=attention, seed=3)


@pytest.fixture
def batch():
    tokens = torch.randint(0, VOCAB, (2, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:].contiguous(), "sample_id": torch.arange(2)}


def test_llama2_ids_get_32064_rows():
    assert padded_vocab_size(32_001, 64) == 32_064
    assert padded_vocab_size(32_064, 64) == 32_064


def test_the_loss_is_next_token_cross_entropy_over_all_positions(model, batch):
    outputs = model(batch)
    stock = LlamaForCausalLM(decoder_config(SMALL, vocab_size=VOCAB, seq_len=SEQ_LEN))
    stock.load_state_dict(model.model.state_dict())
    stock.set_attn_implementation("eager")
    logits = stock(batch["input_ids"]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(outputs["loss"], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs["losses_BT"].mean(), expected, rtol=0, atol=1e-5)
    assert not outputs["losses_BT"].requires_grad


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_every_architecture_from_scratch_computes_what_transformers_does(batch, name, tied):
    config = dataclasses.replace(SMALL, architecture=name, head_dim=16, tie_word_embeddings=tied)
    architecture = decoder_config(config, vocab_size=VOCAB, seq_len=SEQ_LEN)
    model = build_model(architecture, attention=choose_attention("auto", on_gpu=False, bf16=False), seed=3)
    stock = AutoModelForCausalLM.from_config(decoder_config(config, vocab_size=VOCAB, seq_len=SEQ_LEN))
    stock.load_state_dict(model.model.state_dict())
    stock.set_attn_implementation("eager")
    logits = stock(batch["input_ids"]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(model(batch)["loss"], expected, rtol=0, atol=1e-5)
    assert stock.config.model_type == name
    weights = dict(model.model.named_parameters())
    assert weights["model.layers.0.self_attn.q_proj.weight"].shape == (4 * 16, 32)
    assert ("lm_head.weight" in weights) != tied
    assert {float(each.detach().abs().max()) for key, each in weights.items() if key.endswith("bias")} <= {0.0}


def test_ignored_labels_are_not_scored(model, batch):
    everything = model(batch)["losses_BT"]
    batch["labels"][:, ::2] = IGNORE_INDEX
    outputs = model(batch)
    assert (outputs["losses_BT"][:, ::2] == 0).all()
    torch.testing.assert_close(outputs["loss"], everything[:, 1::2].mean())


def test_no_scored_label_gives_zero_not_nan(model, batch):
    batch["labels"][:] = IGNORE_INDEX
    assert float(model(batch)["loss"].detach()) == 0.0


def test_the_causal_path_is_taken_without_a_mask(model, batch, monkeypatch):
    """The flash kernels need attn_mask=None; transformers' own sdpa would build a (B, 1, T, T) mask in training."""
    calls = []
    original = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        calls.append((args[1].shape, kwargs))
        return original(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model.train()
    model(batch)
    assert len(calls) == SMALL.num_hidden_layers
    for key_shape, arguments in calls:
        assert arguments.get("attn_mask") is None
        assert arguments["is_causal"] is True
        assert arguments["enable_gqa"] is True
        assert key_shape[1] == SMALL.num_key_value_heads  # keys are not repeated


def test_padded_rows_are_refused():
    states = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match="packed rows take no attention mask"):
        causal_sdpa(torch.nn.Identity(), states, states, states, torch.ones(1, 1, 4, 4))


def test_flash_attention_is_refused_where_it_cannot_run():
    with pytest.raises(ConfigError, match=r"model\.attention=flash_attention_2 needs the flash-attn package"):
        choose_attention("flash_attention_2", on_gpu=False, bf16=False)


def test_weights_follow_the_official_initialisation():
    wide = ModelConfig(
        hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4
    )
    model = build_model(decoder_config(wide, vocab_size=2000, seq_len=8), attention="sdpa", seed=0)
    expected = {"embed_tokens": math.sqrt(2 / (5 * 256)), "q_proj": math.sqrt(2 / (5 * 256))}
    expected |= {"o_proj": 1 / (math.sqrt(256) * 4), "down_proj": 1 / (math.sqrt(256) * 4)}
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all()
        for kind, std in expected.items():
            if kind in name:
                assert float(parameter.std().detach()) == pytest.approx(std, rel=0.02)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    config = decoder_config(SMALL, vocab_size=VOCAB, seq_len=SEQ_LEN)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (build_model(config, attention="sdpa", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    key = "model.lm_head.weight"
    assert torch.equal(one[key], same[key])
    assert not torch.equal(one[key], other[key])


def test_held_out_loss_is_averaged_over_tokens():
    metric = TokenLoss()
    metric.update(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[5, 6, IGNORE_INDEX]]))
    metric.update(torch.tensor([[6.0]]), torch.tensor([[1]]))
    assert float(metric.compute()) == 3.0
