import pytest
import torch
import torch.nn.functional as F

from meap.schema import IGNORE_INDEX
from meap.train.loss import choose_loss_chunks, linear_cross_entropy

NUM_TOKENS, VOCAB, WIDTH = 23, 37, 8


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, NUM_TOKENS, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, VOCAB, (1, NUM_TOKENS), generator=generator)
    labels[:, ::5] = IGNORE_INDEX
    return hidden, weight, labels


def token_weights(labels: torch.Tensor) -> torch.Tensor:
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
    return weights * (labels != IGNORE_INDEX)


def gradients(num_chunks: int, dtype: torch.dtype = torch.float32, *, is_weighted: bool = False) -> list[torch.Tensor]:
    hidden, weight, labels = inputs(dtype)
    weights = token_weights(labels) if is_weighted else None
    total, losses = linear_cross_entropy(hidden, weight, labels, weights_BT=weights, num_chunks=num_chunks)
    assert not losses.requires_grad
    (total / 7).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return [total.detach(), losses, hidden.grad, weight.grad]


def test_one_chunk_is_plain_cross_entropy_bit_for_bit():
    hidden, weight, labels = inputs()
    logits = F.linear(hidden, weight).flatten(0, 1)
    losses = F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none").view_as(labels)
    (losses.sum() / 7).backward()
    for expected, value in zip([losses.sum(), losses, hidden.grad, weight.grad], gradients(1), strict=True):
        assert torch.equal(expected, value)


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("num_chunks", [2, 5, NUM_TOKENS])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_chunks_change_neither_losses_nor_gradients(num_chunks, dtype, tolerance, is_weighted):
    whole, chunked = (gradients(count, dtype, is_weighted=is_weighted) for count in (1, num_chunks))
    for expected, value in zip(whole, chunked, strict=True):
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("num_chunks", [1, 4])
def test_weights_count_in_the_sum_and_its_gradients_and_not_in_the_losses(num_chunks):
    hidden, weight, labels = inputs()
    logits = F.linear(hidden, weight).flatten(0, 1)
    losses = F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none").view_as(labels)
    total = (losses * token_weights(labels)).sum()
    (total / 7).backward()
    found = gradients(num_chunks, is_weighted=True)
    for expected, value in zip([total, losses, hidden.grad, weight.grad], found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    hidden, weight, labels = inputs(torch.float64)
    assert torch.autograd.gradcheck(
        lambda *given: linear_cross_entropy(*given, labels, num_chunks=4).total, (hidden, weight)
    )


def test_in_bf16_the_weights_gradient_is_summed_in_fp32():
    with torch.autocast("cpu", torch.bfloat16):
        whole, chunked = gradients(1), gradients(6)
    exact = gradients(1)
    for value in chunked:
        assert value.dtype == torch.float32
    for index in range(4):
        error, floor = ((each[index] - exact[index]).norm() for each in (chunked, whole))
        assert error < 1.2 * floor + 1e-6


def test_the_gradient_of_a_weight_in_bf16_is_summed_in_fp32():
    """FSDP hands it in so: a sum in bf16 was twice as far from the truth as no chunks at all."""
    torch.manual_seed(0)
    hidden, exact_weight = torch.randn(1, 512, 32), torch.randn(64, 32) / 6
    labels = torch.randint(0, 64, (1, 512))

    def error(num_chunks: int) -> float:
        weight, exact = exact_weight.bfloat16().requires_grad_(), exact_weight.bfloat16().float().requires_grad_()
        linear_cross_entropy(hidden.bfloat16(), weight, labels, num_chunks=num_chunks).total.backward()
        linear_cross_entropy(hidden.bfloat16().float(), exact, labels, num_chunks=1).total.backward()
        return float((weight.grad.float() - exact.grad).norm() / exact.grad.norm())

    assert error(64) < 1.5 * error(1)


def test_without_gradients_nothing_is_kept():
    hidden, weight, labels = inputs()
    with torch.no_grad():
        total, losses = linear_cross_entropy(hidden, weight, labels, num_chunks=3)
    torch.testing.assert_close([total, losses], gradients(1)[:2])
    assert not total.requires_grad


def test_no_chunk_of_logits_outlives_its_turn():
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    hidden, weight, labels = inputs()
    with Watch():
        linear_cross_entropy(hidden, weight, labels, num_chunks=8).total.backward()
    assert max(sizes) <= max(3 * VOCAB, VOCAB * WIDTH)


@pytest.mark.parametrize(
    ("tokens", "vocab", "chunks"),
    [(8 * 4096, 32_064, 1), (65_536, 32_064, 8), (8 * 4096, 128_256, 16), (4096, 128_256, 1), (65_536, 152_064, 38)],
)
def test_chunks_are_chosen_by_the_number_of_logits(tokens, vocab, chunks):
    assert choose_loss_chunks(tokens, vocab) == chunks
