"""Decoders of transformers at large: training computes what they compute, on packed rows and on whole ones."""

from itertools import accumulate, pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from meap.schema import IGNORE_INDEX
from meap.train.attention import choose_attention
from meap.train.flops import training_flops_per_token
from meap.train.model import NextTokenModel, build_model
from meap.train.speed import compile_model

from .architectures import NAMES, PARTICULAR, tiny

VOCAB, T = 300, 32
LENGTHS = [[13, 11], [3, 20, 9]]


def make(name: str, **more) -> NextTokenModel:
    attention = choose_attention("auto", on_gpu=False, bf16=False)
    return build_model(tiny(name, **more), attention=attention, seed=3, weights="own")


def batch_of(*, is_packed: bool) -> dict:
    tokens = torch.randint(VOCAB, (2, T + 1), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:].clone(), "sample_id": torch.arange(2)}
    batch["labels"][:, ::5] = IGNORE_INDEX
    if is_packed:
        borders = [[*accumulate(row, initial=0)] for row in LENGTHS]
        positions = [[place - max(b for b in row if b <= place) for place in range(T)] for row in borders]
        batch |= {"position_ids": torch.tensor(positions), "segment_lengths": LENGTHS}
        batch["labels"][0, sum(LENGTHS[0]) :] = IGNORE_INDEX
    return batch


def loss_apart(model: NextTokenModel, batch: dict) -> torch.Tensor:
    """Transformers' own attention and head, segment by segment, or row by row."""
    stock, losses = model.model, []
    stock.set_attn_implementation("eager")
    for row, lengths in enumerate(batch.get("segment_lengths", [[T]] * 2)):
        for start, end in pairwise(accumulate(lengths, initial=0)):
            logits = stock(batch["input_ids"][row : row + 1, start:end], use_cache=False).logits[0]
            labels = batch["labels"][row, start:end]
            losses.append(F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum"))
    return torch.stack(losses).sum() / (batch["labels"] != IGNORE_INDEX).sum()


def gradients(model: NextTokenModel, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("is_packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_transformers_own_segment_by_segment(name, is_packed):
    """In one chunk and in three: a head's scale and cap are in both."""
    model, batch = make(name), batch_of(is_packed=is_packed)
    computed = []
    for model.loss_chunks in (1, 3):
        loss = model(batch)["loss"]
        computed.append((loss.detach(), gradients(model, loss)))
    expected = loss_apart(model, batch)
    of_expected = gradients(model, expected)
    for loss, found in computed:
        torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-5)
        for one, other in zip(found, of_expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layers_and_loss_compile_as_whole_graphs(name):
    """Whether a graph breaks is decided as it is traced: what compiles it then needs no minute of C++."""
    plain, compiled, batch = make(name), make(name), batch_of(is_packed=False)
    torch._dynamo.reset()
    compile_model(compiled, backend="eager")
    losses = [model(batch)["losses_BT"] for model in (plain, compiled)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_operations_are_those_that_torch_counts(name):
    """Of whole windows: transformers' own attention, which computes no product twice, computes them all."""
    model = make(name, **({"sliding_window": T} if "sliding_window" in PARTICULAR[name] else {}))
    model.model.set_attn_implementation("eager")
    rows = torch.zeros(2, T, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model({"input_ids": rows, "labels": rows, "sample_id": torch.arange(2)})["loss"].backward()
    expected = rows.numel() * training_flops_per_token(model.config, context=T, causal=False)
    assert counter.get_total_flops() == pytest.approx(expected, rel=2e-3)  # rotary angles are not counted


def test_a_window_counts_as_many_keys():
    whole, windowed = (tiny("mistral", sliding_window=window) for window in (None, 6))
    for causal, keys in ((False, 32 - 6), (True, 16 - 6 * (1 - 6 / 64))):
        flops = [training_flops_per_token(each, context=32, causal=causal) for each in (whole, windowed)]
        assert flops[0] - flops[1] == pytest.approx(6 * 2 * 3 * 32 * keys)


@pytest.mark.parametrize("name", NAMES)
def test_fresh_weights_are_the_architecture_s_own_and_the_seed_s(name):
    one, same, other = (
        build_model(tiny(name), attention="eager", seed=seed, weights="own").model for seed in (5, 5, 6)
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        stock = AutoModelForCausalLM.from_config(tiny(name))
    for key, weight in stock.state_dict().items():
        assert torch.equal(one.state_dict()[key], weight)
        assert torch.equal(same.state_dict()[key], weight)
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)
    assert (one.get_input_embeddings().weight is one.get_output_embeddings().weight) == one.config.tie_word_embeddings
