"""What a run will take: memory, disk and time, from its configuration and sizes alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from meap.config import RecipeConfig
from meap.train.flops import training_flops_per_token
from meap.train.timetable import Timetable

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = [
    "DeviceMemory",
    "checkpoint_bytes",
    "device_memory",
    "num_checkpoints",
    "training_days",
]

_FP32, _BF16 = 4, 2
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device at the peak of a step, in bf16 with fp32 weights."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def parts(self) -> dict[str, int]:
        """By name."""
        return asdict(self)

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(self.parts.values())


def device_memory(
    config: RecipeConfig,
    architecture: PretrainedConfig,
    *,
    num_parameters: int,
    num_devices: int,
    num_trained: int | None = None,
) -> DeviceMemory:
    """An estimate of what one device holds; compiled runs, whose kernels keep less, stay below it.

    With P parameters on N devices, L layers, hidden size h, MLP size m, widths q of all queries and k of all keys, V
    rows of the vocabulary, and t tokens of a micro-batch:

        weights      4 P in fp32, and 2 P for the copies in bf16 that autocast keeps during a step
        gradients    4 P, and 4 P for the buckets that DDP gathers them in
        optimizer    8 P: AdamW's two moments
        activations  t L (26 h + 4 q + 4 k + 8 m), what the backward pass of a layer reads: both norms' inputs and
                     results in fp32 (16 h), the latter in bf16 for each of five projections (10 h); in bf16 queries,
                     attention's result, keys and values (4 q + 4 k), and gate, up, SiLU and product (8 m). Recomputed:
                     4 t L h, the layers' inputs, and those of one layer
        logits       10 t V: in bf16, in fp32, and the gradient in fp32; of one chunk (`meap.train.loss`)

    `train.sharding` of grad_op divides gradients, optimizer and the fp32 weights between steps by N, though a step has
    all weights gathered; full divides all of them, but for the two layers that are gathered at a time.

    Beside adapters, a frozen weight takes 2 bytes: it is stored in bf16, and has neither gradient nor optimizer.

    Args:
        config: The whole configuration.
        architecture: Sizes of the model.
        num_parameters: P.
        num_devices: N.
        num_trained: Those of the P that are trained; all of them where unset.
    """
    trained = num_parameters if num_trained is None else num_trained
    mode = config.train.sharding_mode
    shards = num_devices if mode.spreads_weights else 1
    layers, hidden = architecture.num_hidden_layers, architecture.hidden_size
    copies = 1 if architecture.tie_word_embeddings else 2
    per_layer = (num_parameters - copies * architecture.vocab_size * hidden) // layers
    is_whole = mode.gathers_in_step or not mode.spreads_weights
    gathered = num_parameters if is_whole else min(num_parameters, 2 * per_layer)
    weights = _FP32 * num_parameters // shards + _BF16 * gathered + (_FP32 * gathered if shards > 1 else 0)
    if trained < num_parameters:
        frozen = num_parameters - trained
        weights = (_BF16 * frozen + _FP32 * trained) // shards + _BF16 * (gathered if shards > 1 else trained)

    rows = min(config.train.microbatch_size, -(-config.train.global_batch_size // num_devices))
    tokens = rows * config.data.seq_len
    from meap.train.loss import choose_loss_chunks  # imports torch, which counting checkpoints does not need

    chunks = config.train.loss_chunks or choose_loss_chunks(tokens, architecture.vocab_size)
    head = getattr(architecture, "head_dim", None) or hidden // architecture.num_attention_heads
    heads = architecture.num_attention_heads
    queries, keys = head * heads, head * (getattr(architecture, "num_key_value_heads", None) or heads)
    inner = getattr(architecture, "intermediate_size", None) or 4 * hidden
    layer = tokens * (26 * hidden + 4 * queries + 4 * keys + 8 * inner)
    kept = layer * layers
    if config.train.activation_checkpointing:
        kept = layer + _FP32 * tokens * hidden * layers
    return DeviceMemory(
        weights=weights,
        gradients=_FP32 * trained * (2 if num_devices > 1 == shards else 1) // shards,
        optimizer=2 * _FP32 * trained // shards,
        activations=kept,
        logits=(_BF16 + 2 * _FP32) * -(-tokens // chunks) * architecture.vocab_size,
    )


def checkpoint_bytes(num_parameters: int) -> int:
    """Size of a checkpoint: the trained weights and AdamW's two moments, in fp32."""
    return 3 * _FP32 * num_parameters


def num_checkpoints(timetable: Timetable, *, keep: int) -> int:
    """Checkpoints on the disk at once: an old one is deleted after the new one is whole."""
    saved = timetable.times_left(timetable.checkpoint_interval, done=timetable.branch_step)
    return saved if keep == -1 else min(saved, keep + 1)


def training_days(
    architecture: PretrainedConfig,
    *,
    context: int,
    tokens: int,
    peak_flops: float,
    utilisation: float,
    frozen: bool = False,
) -> float:
    """Days at a model FLOPs utilisation by PaLM's convention, of devices with `peak_flops` per second together."""
    flops = training_flops_per_token(architecture, context=context, causal=False, frozen=frozen) * tokens
    return flops / (peak_flops * utilisation) / _SECONDS_PER_DAY
