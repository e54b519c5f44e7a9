"""Starting from a .pth of the official code, against an independent forward pass of that code's model."""

import os

import pytest
import torch
import torch.nn.functional as F

from meap.config import ModelConfig
from meap.errors import CheckpointError, ConfigError, DataError, MismatchError
from meap.train.attention import choose_attention
from meap.train.start import initial_model

HIDDEN, INTERMEDIATE, HEADS, GROUPS, LAYERS = 32, 48, 8, 2, 2
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "num_hidden_layers": LAYERS,
}


def lit_gpt_weights(rows: int, *, swiglu: str = "swiglu.w1 swiglu.w2 swiglu.w3") -> dict[str, torch.Tensor]:
    """Random weights under the official code's names, in shapes of its model."""
    generator = torch.Generator().manual_seed(0)
    gate, up, down = swiglu.split()
    head_size = HIDDEN // HEADS
    shapes = {"lm_head": (rows, HIDDEN), "transformer.wte": (rows, HIDDEN), "transformer.ln_f": (HIDDEN,)}
    for layer in range(LAYERS):
        prefix = f"transformer.h.{layer}."
        shapes |= {
            f"{prefix}norm_1": (HIDDEN,),
            f"{prefix}attn.attn": ((HEADS + 2 * GROUPS) * head_size, HIDDEN),
            f"{prefix}attn.proj": (HIDDEN, HIDDEN),
            f"{prefix}norm_2": (HIDDEN,),
            f"{prefix}mlp.{gate}": (INTERMEDIATE, HIDDEN),
            f"{prefix}mlp.{up}": (INTERMEDIATE, HIDDEN),
            f"{prefix}mlp.{down}": (HIDDEN, INTERMEDIATE),
        }
    return {f"{name}.weight": torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def lit_gpt_logits(weights: dict[str, torch.Tensor], ids_BT: torch.Tensor) -> torch.Tensor:
    """What the official model computes, in fp32 and without any library's attention."""
    head_size, per_group = HIDDEN // HEADS, HEADS // GROUPS
    num_tokens = ids_BT.shape[1]
    theta = 10_000.0 ** -(torch.arange(0, head_size, 2) / head_size)
    angles = torch.outer(torch.arange(num_tokens).float(), theta)[None, :, None]  # (1, T, 1, head / 2)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        one, two = x.chunk(2, dim=-1)
        return torch.cat([one * angles.cos() - two * angles.sin(), one * angles.sin() + two * angles.cos()], dim=-1)

    x = F.embedding(ids_BT, weights["transformer.wte.weight"])
    future = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(1)
    for layer in range(LAYERS):
        prefix = f"transformer.h.{layer}."
        qkv = norm(x, f"{prefix}norm_1") @ weights[f"{prefix}attn.attn.weight"].T
        qkv = qkv.view(*ids_BT.shape, GROUPS, per_group + 2, head_size)
        attended = []
        for head in range(HEADS):
            group = qkv[:, :, head // per_group]
            q, k = rotate(group[:, :, [head % per_group]])[:, :, 0], rotate(group[:, :, [per_group]])[:, :, 0]
            scores = (q @ k.transpose(1, 2) / head_size**0.5).masked_fill(future, -torch.inf)
            attended.append(scores.softmax(-1) @ group[:, :, per_group + 1])
        x = x + torch.cat(attended, dim=-1) @ weights[f"{prefix}attn.proj.weight"].T
        inner = norm(x, f"{prefix}norm_2")
        gate = inner @ weights[f"{prefix}mlp.swiglu.w1.weight"].T
        up = inner @ weights[f"{prefix}mlp.swiglu.w2.weight"].T
        x = x + (F.silu(gate) * up) @ weights[f"{prefix}mlp.swiglu.w3.weight"].T
    return norm(x, "transformer.ln_f") @ weights["lm_head.weight"].T


@pytest.fixture
def save(tmp_path):
    """Write what Fabric writes in the official code: the optimiser and plain settings beside the model."""

    def write(weights, name: str = "iter-000007-ckpt.pth", **more):
        optimizer = {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 4e-4, "betas": (0.9, 0.95)}]}
        hparams = {"model_name": "tiny_LLaMA_1b_mask", "learning_rate": 4e-4, "use_mask": True}
        state = {"model": weights, "optimizer": optimizer, "hparams": hparams, "iter_num": 28, "step_count": 7}
        torch.save(state | more, tmp_path / name)
        return str(tmp_path / name)

    return write


def begin(base: str, tokenizer, *, context: int = 64, weights="start", **sizes):
    config = ModelConfig(base=base, **(SIZES | sizes))
    attention = choose_attention("sdpa", on_gpu=False, bf16=False)
    return initial_model(config, tokenizer, attention=attention, context=context, seed=0, weights=weights)


def start(base: str, tokenizer, **choices):
    return begin(base, tokenizer, **choices).model


def logits(model, ids_BT: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids_BT).logits


def test_an_official_checkpoint_keeps_its_logits(save, tokenizer):
    weights = lit_gpt_weights(320)
    model = start(save(weights), tokenizer)
    ids = torch.randint(tokenizer.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(logits(model, ids), lit_gpt_logits(weights, ids), rtol=0, atol=1e-5)
    assert (model.config.vocab_size, model.config.max_position_embeddings) == (320, 4096)
    assert begin(save(weights), tokenizer).rows_without_mask is None


@pytest.mark.parametrize("swiglu", ["w1 w2 w3", "fc_1 fc_2 proj"])
def test_every_spelling_of_the_feed_forward_layer_and_weights_alone_are_read(save, tokenizer, tmp_path, swiglu):
    expected = start(save(lit_gpt_weights(320)), tokenizer).state_dict()
    torch.save(lit_gpt_weights(320, swiglu=swiglu), tmp_path / "plain.pth")
    given = start(str(tmp_path / "plain.pth"), tokenizer).state_dict()
    assert all(torch.equal(given[name], expected[name]) for name in expected)


def test_a_checkpoint_without_the_mask_token_is_given_one(save, tokenizer):
    plain = tokenizer.plain_vocab_size
    weights = lit_gpt_weights(plain)
    model = start(save(weights), tokenizer)
    assert model.config.vocab_size == 320
    ids = torch.randint(plain, (2, 20), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(logits(model, ids)[..., :plain], lit_gpt_logits(weights, ids), rtol=0, atol=1e-5)
    assert begin(save(weights), tokenizer).rows_without_mask == plain


def test_without_weights_there_are_shapes_only(save, tokenizer):
    base = save(lit_gpt_weights(320))
    shapes = {name: each.shape for name, each in start(base, tokenizer).state_dict().items()}
    empty = start(base, tokenizer, weights="none")
    assert {name: each.shape for name, each in empty.state_dict().items()} == shapes
    assert {each.device.type for each in empty.parameters()} == {"meta"}


class Payload:
    """Unpickling this would create the file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.fault(10)
def test_what_is_not_data_is_refused_and_never_run(save, tokenizer, tmp_path):
    base = save(lit_gpt_weights(320), hparams=Payload(tmp_path / "touched"))
    with pytest.raises(CheckpointError, match=r"asks for \S*system: loading it could run a program, so it is refused"):
        start(base, tokenizer)
    assert not (tmp_path / "touched").exists()


@pytest.mark.fault(9)
def test_what_does_not_fit_gets_one_clear_error(save, tokenizer, tmp_path):
    weights = lit_gpt_weights(320)
    with pytest.raises(
        CheckpointError, match=r"does not fit section model \(missing: model.layers.2.*num_hidden_layers"
    ):
        start(save(weights), tokenizer, num_hidden_layers=3)
    with pytest.raises(
        CheckpointError, match=r"other shapes: model.layers.0.mlp.gate_proj.weight \(48, 32\), not \(64, "
    ):
        start(save(weights), tokenizer, intermediate_size=64)
    with pytest.raises(CheckpointError, match=r"unknown: transformer.h.0.attn.attn.weight"):
        start(save(weights), tokenizer, num_attention_heads=16, num_key_value_heads=2)
    with pytest.raises(
        CheckpointError, match=r"has no transformer.wte.weight, .* \(it has other\): give a .pth that the"
    ):
        start(save({"other": torch.zeros(2)}), tokenizer)
    for rows in (200, 32_064):
        with pytest.raises(
            MismatchError, match=f"has a vocabulary of {rows:,} rows, but the tokenizer of the data has 301"
        ):
            start(save(lit_gpt_weights(rows)), tokenizer)
    with pytest.raises(DataError, match=r"nowhere.pth is no local file: check the path, which must be"):
        start(str(tmp_path / "nowhere.pth"), tokenizer)
    for place in ("s3://bucket", "https://host", f"file://{tmp_path}"):
        with pytest.raises(DataError, match=f"model.base={place}/a.pth: a .pth is read from a local file only; downl"):
            start(f"{place}/a.pth", tokenizer)
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"text.pth is damaged, or no file of torch.save"):
        start(str(tmp_path / "text.pth"), tokenizer)
    with pytest.raises(ConfigError, match=r"has max_position_embeddings=4096, but .* can take 8192 positions"):
        start(save(weights), tokenizer, context=8192)
