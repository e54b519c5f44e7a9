"""The head and the cross-entropy of every token, a chunk of tokens at a time where all logits at once are too many.

A row of 65,536 tokens over 32,064 ids, or eight rows of 4,096 over 128,256, have more than two thousand million logits:
21 GB and more with their gradient. In chunks no more than a chunk's are ever held. Each chunk's gradient is computed
along with its losses, as the loss of a batch is a sum over its tokens: nothing is computed twice.

Some decoders scale their logits (Granite, Cohere), or cap them by a tanh (Gemma): `LogitShape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F

from meap.schema import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["LogitShape", "SpeedUp", "TokenLosses", "choose_loss_chunks", "linear_cross_entropy", "uncompiled"]

SpeedUp = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Turns a function into a faster one with the same result."""

_MAX_LOGITS = 2**30
"""Logits up to which one chunk is used: eight rows of 4,096 over 32,064 ids."""
_CHUNK_LOGITS = 2**28
"""Logits of a chunk: 1 GB in fp32, and enough to keep a GPU busy."""


class TokenLosses(NamedTuple):
    """The loss of a batch in two forms; 0 where the label is `IGNORE_INDEX`."""

    total: torch.Tensor
    """Sum over all tokens, by their weights; differentiable."""
    losses_BT: torch.Tensor
    """Cross-entropy of each token in nats, detached."""


class LogitShape(NamedTuple):
    """What a decoder does to its head's outputs: ``cap * tanh(scale * outputs / cap)``."""

    scale: float = 1.0
    cap: float | None = None
    """Bound of logits; None for none."""

    @classmethod
    def of(cls, config: PretrainedConfig) -> LogitShape:
        """By the names that transformers gives to the two."""
        scale = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        return cls(float(scale) / float(divisor), getattr(config, "final_logit_softcapping", None))

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits of the head's `outputs`, in fp32 or wider."""
        logits = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def outputs_gradient(self, gradient: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The gradient with regard to the head's outputs, of one with regard to `logits`."""
        gradient = gradient if self.cap is None else gradient * (1 - (logits / self.cap).square())
        return gradient if self.scale == 1.0 else gradient * self.scale


_PLAIN = LogitShape()


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function itself."""
    return function


def choose_loss_chunks(num_tokens: int, vocab_size: int) -> int:
    """Into how many chunks to split the tokens of a forward pass."""
    num_logits = num_tokens * vocab_size
    return 1 if num_logits <= _MAX_LOGITS else math.ceil(num_logits / _CHUNK_LOGITS)


def linear_cross_entropy(
    hidden_BTD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_BT: torch.Tensor,
    *,
    num_chunks: int,
    shape: LogitShape = _PLAIN,
    weights_BT: torch.Tensor | None = None,
    speed_up: SpeedUp = uncompiled,
) -> TokenLosses:
    """Cross-entropy of a linear head without bias, in fp32 (or wider, where hidden states are).

    Args:
        hidden_BTD: Last hidden states.
        weight_VD: The head.
        labels_BT: Target ids, or `IGNORE_INDEX`.
        num_chunks: Pieces into which the tokens are split, of equal length but the last; 1 keeps all logits.
        shape: What follows the head.
        weights_BT: What the loss of each token counts in the sum, 0 where the label is `IGNORE_INDEX`. Unset: 1.
        speed_up: What compiles the arithmetic.
    """
    labels_T = labels_BT.flatten()
    if num_chunks == 1:
        losses_BT = speed_up(_losses)(hidden_BTD, weight_VD, labels_T, shape).view_as(labels_BT)
        return TokenLosses(_weighted_sum(losses_BT, weights_BT), losses_BT.detach())
    hidden_TD = hidden_BTD.flatten(0, 1)
    weights_T = None if weights_BT is None else weights_BT.flatten()
    size = math.ceil(len(labels_T) / num_chunks)
    if torch.is_grad_enabled():
        compute = speed_up(_losses_and_gradients)
        total, losses_T = cast(
            "Any", _ChunkedLoss.apply(hidden_TD, weight_VD, labels_T, weights_T, size, shape, compute)
        )
    else:
        pieces = zip(hidden_TD.split(size), labels_T.split(size), strict=True)
        losses_T = torch.cat([speed_up(_losses)(states_TD, weight_VD, ids_T, shape) for states_TD, ids_T in pieces])
        total = _weighted_sum(losses_T, weights_T)
    return TokenLosses(total, losses_T.view_as(labels_BT))


class _ChunkedLoss(torch.autograd.Function):
    """The sum of the losses; its gradient is computed in the forward pass, up to the incoming factor."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_T: torch.Tensor,
        weights_T: torch.Tensor | None,
        chunk_size: int,
        shape: LogitShape,
        compute: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = hidden_TD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_TD.dtype
        losses, hidden_gradients = [], []
        # In bf16, which FSDP hands the weight in, a sum would lose small addends.
        is_trained = ctx.needs_input_grad[1]
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        weight_gradient_VD = torch.zeros_like(weight_VD, dtype=wide) if is_trained else None
        narrow_VD = weight_VD.to(dtype)
        factors_T = labels_T != IGNORE_INDEX if weights_T is None else weights_T
        chunks = zip(*(each.split(chunk_size) for each in (hidden_TD, labels_T, factors_T)), strict=True)
        with torch.autocast(device, enabled=False):
            for states_TD, *ids_and_factors in chunks:
                chunk_losses, chunk_gradient_TD, gradient_VD = compute(
                    states_TD.to(dtype), narrow_VD, *ids_and_factors, shape, is_trained
                )
                losses.append(chunk_losses)
                hidden_gradients.append(chunk_gradient_TD)
                if weight_gradient_VD is not None and gradient_VD is not None:
                    weight_gradient_VD += gradient_VD
        losses_T = torch.cat(losses)
        if weight_gradient_VD is not None:
            weight_gradient_VD = weight_gradient_VD.to(weight_VD.dtype)
        ctx.save_for_backward(torch.cat(hidden_gradients).to(hidden_TD.dtype), weight_gradient_VD)
        ctx.mark_non_differentiable(losses_T)
        return _weighted_sum(losses_T, weights_T), losses_T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, /, *factors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients = (None if gradient is None else factors[0] * gradient for gradient in ctx.saved_tensors)
        return *gradients, None, None, None, None, None


def _losses(hidden: torch.Tensor, weight_VD: torch.Tensor, labels_T: torch.Tensor, shape: LogitShape) -> torch.Tensor:
    logits = shape.logits(F.linear(hidden, weight_VD))
    return F.cross_entropy(logits.view(-1, len(weight_VD)), labels_T, ignore_index=IGNORE_INDEX, reduction="none")


def _losses_and_gradients(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_T: torch.Tensor,
    factors_T: torch.Tensor,
    shape: LogitShape,
    is_trained: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Losses, and the gradient of their sum, each times its factor, by hidden states and, if trained, the weight."""
    logits_TV = shape.logits(F.linear(hidden_TD, weight_VD))
    logs_TV = F.log_softmax(logits_TV, dim=-1)
    losses_T = F.nll_loss(logs_TV, labels_T, ignore_index=IGNORE_INDEX, reduction="none")
    is_label_TV = torch.arange(len(weight_VD), device=labels_T.device) == labels_T.unsqueeze(-1)
    gradient_TV = (logs_TV.exp() - is_label_TV.to(logs_TV.dtype)) * factors_T.unsqueeze(-1)
    gradient_TV = shape.outputs_gradient(gradient_TV, logits_TV).to(hidden_TD.dtype)
    return losses_T, gradient_TV @ weight_VD, gradient_TV.T @ hidden_TD if is_trained else None


def _weighted_sum(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return losses.sum() if weights is None else (losses * weights).sum()
