"""A Hugging Face decoder in a thin ComposerModel: hidden states, head and token losses in one forward pass.

Composer's own `HuggingFaceModel` drops batch keys that the model's signature lacks, ``labels`` shifted beforehand among
them; rows of ``T + 1`` tokens would lose their last target. Here labels arrive shifted and every position is scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypedDict, cast

import torch
from composer.models import ComposerModel
from torch import nn
from torchmetrics import Metric
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel

from meap.config import ModelConfig
from meap.schema import IGNORE_INDEX, Batch, SftBatch, WeightedSftBatch
from meap.train.attention import Segments
from meap.train.loss import LogitShape, SpeedUp, choose_loss_chunks, linear_cross_entropy, uncompiled
from meap.usage import Usage

__all__ = ["ModelOutput", "NextTokenModel", "TokenLoss", "build_model", "decoder_config", "padded_vocab_size"]


_PLAIN: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False},
    "mistral": {"sliding_window": None},  # it would have one by default
}
"""What makes attention plain causal attention, and the decoder the paper's."""


class ModelOutput(TypedDict):
    """What a forward pass returns."""

    loss: torch.Tensor
    """Mean cross-entropy over scored positions, in nats; scalar. Where the batch has `weights`, over views."""
    losses_BT: torch.Tensor
    """Cross-entropy of each position, detached; 0 where the label is `IGNORE_INDEX`."""


def padded_vocab_size(vocab_size: int, multiple: int) -> int:
    """Embedding rows for `vocab_size` ids: the next multiple (32,001 becomes 32,064 for 64; METHOD of the paper)."""
    return math.ceil(vocab_size / multiple) * multiple


def decoder_config(
    config: ModelConfig, *, vocab_size: int, seq_len: int, bos_id: int | None = 1, eos_id: int = 2
) -> PretrainedConfig:
    """Transformers' description of a decoder from scratch; `vocab_size` is the tokenizer's, unpadded.

    Its RoPE tables stay in fp32; the official code rounds cos and sin to bf16, which moves a logit by up to 3e-3.
    """
    return AutoConfig.for_model(
        config.architecture,
        vocab_size=padded_vocab_size(vocab_size, config.vocab_multiple),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        max_position_embeddings=seq_len,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        hidden_act="silu",
        attention_dropout=0.0,
        tie_word_embeddings=config.tie_word_embeddings,
        use_cache=False,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=None,
        **_PLAIN.get(config.architecture, {}),
    )


def build_model(
    config: PretrainedConfig, *, attention: str, seed: int, weights: Literal["official", "own"] = "official"
) -> NextTokenModel:
    """A freshly initialised model on the CPU.

    `official` weights follow the official code: linear and embedding weights normal(0, sqrt(2 / (5 * hidden))), the
    output projections of attention and MLP normal(0, 1 / (sqrt(hidden) * layers)), norms one, biases zero. The
    architecture's `own` are those of its ``_init_weights`` in transformers, by the ``initializer_range`` of its
    config.json: what is right for a norm that adds one to its weight (Gemma), say, only the architecture knows.

    Args:
        config: Architecture, see `decoder_config`.
        attention: Name from `meap.train.attention.choose_attention`.
        seed: Seed of the weights; the same seed gives the same weights on any machine.
        weights: Whose initialisation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = cast("Any", MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])(config)
        if weights == "official":
            _initialise(model)
    model.config._attn_implementation = attention
    return NextTokenModel(model)


class NextTokenModel(ComposerModel):
    """Next-token prediction on pre-shifted labels.

    Args:
        model: One of transformers' ``*ForCausalLM``: a backbone, and a head without bias.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.loss_chunks = 0
        """Pieces of the loss, see `meap.train.loss`; 0 chooses by the number of tokens and ids."""
        self.rows_without_mask: int | None = None
        """Embedding rows before our training added the mask token; None where that came from elsewhere."""
        self.has_direction = False
        """Whether a finished model that training starts from knows the token that begins reversed rows."""
        self.base_fingerprint: str | None = None
        """Of the weights that are frozen, with adapters beside them (`meap.train.lora`); None where all are trained."""
        self.base_dtype = "fp32"
        """What those are stored in, fp32 or bf16."""
        self.base_usage = Usage()
        """How the finished model that training starts from is prompted."""
        self.speed_up_loss: SpeedUp = uncompiled
        # Head and loss run inside of the decoder's own call: that is where FSDP has gathered the head's weight.
        model.forward = partial(self._decode, model.forward)  # type: ignore[method-assign]

    @property
    def num_parameters(self) -> int:
        """Weights, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder's layers, in order."""
        length = self.config.num_hidden_layers
        lists = (module for module in self.model.base_model.modules() if isinstance(module, nn.ModuleList))
        return next(list(each) for each in lists if len(each) == length)

    @property
    def num_trained(self) -> int:
        """Weights that are trained: all of them, or those of adapters."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def head_weight(self) -> torch.Tensor:
        """The head, as the loss computes with it."""
        return cast("nn.Linear", self.model.get_output_embeddings()).weight

    def forward(self, batch: Batch | SftBatch | WeightedSftBatch) -> ModelOutput:
        """Losses of a batch; the head runs here too, so that DDP and FSDP see every parameter used in forward."""
        labels_BT = batch["labels"]
        weights_BT = batch.get("weights")
        if weights_BT is not None:
            weights_BT = weights_BT.view(torch.int32)  # FSDP makes bf16 of every argument that is no integer
        total, losses_BT = self.model(
            batch["input_ids"], targets_BT=labels_BT, weights_BT=weights_BT, **_segment_arguments(batch)
        )
        if "num_views" in batch:
            num_scored = max(1, sum(batch["num_views"]))
        else:
            num_scored = (labels_BT != IGNORE_INDEX).sum().clamp(min=1)
        return {"loss": total / num_scored, "losses_BT": losses_BT}

    def _decode(
        self,
        stock: Callable[..., Any],
        input_ids_BT: torch.Tensor,
        *,
        targets_BT: torch.Tensor | None = None,
        weights_BT: torch.Tensor | None = None,
        **more: Any,
    ) -> Any:
        """The decoder's forward pass: losses if there are targets, else its usual outputs."""
        if targets_BT is None:
            return stock(input_ids_BT, **more)
        # use_cache=False: transformers' default of True breaks compiled graphs and keeps keys and values alive.
        hidden_BTD = self.model.base_model(input_ids=input_ids_BT, use_cache=False, **more).last_hidden_state
        return linear_cross_entropy(
            hidden_BTD,
            self.head_weight(),
            targets_BT,
            weights_BT=None if weights_BT is None else weights_BT.view(torch.float32),
            num_chunks=self.loss_chunks or choose_loss_chunks(targets_BT.numel(), self.config.vocab_size),
            shape=LogitShape.of(self.config),
            speed_up=self.speed_up_loss,
        )

    @contextmanager
    def generating(self, settings: GenerationConfig) -> Iterator[Any]:
        """The decoder as transformers has it, to call `generate` of: its own forward pass and attention, uncompiled."""
        decoder, was_training = self.model, self.model.training
        packed, attention = decoder.__dict__.pop("forward"), decoder.config._attn_implementation
        # Those of a base may set sampling and penalties.
        settings_before, decoder.generation_config = decoder.generation_config, settings
        decoder.config._attn_implementation = "sdpa"
        is_compiled = self.speed_up_loss is not uncompiled
        try:
            decoder.eval()
            # A compiled layer would be compiled anew for every length.
            with torch.compiler.set_stance("force_eager") if is_compiled else nullcontext():
                yield decoder
        finally:
            decoder.train(was_training)
            decoder.config._attn_implementation = attention
            decoder.generation_config = settings_before
            decoder.forward = packed

    def loss(self, outputs: ModelOutput, batch: Batch, *_: Any, **__: Any) -> torch.Tensor:
        """The mean loss computed by `forward`."""
        return outputs["loss"]

    def eval_forward(self, batch: Batch, outputs: ModelOutput | None = None) -> ModelOutput:
        """Losses of a held-out batch."""
        return outputs if outputs is not None else self.forward(batch)

    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        """Held-out loss over tokens. Training has none: Composer would compute the loss a second time."""
        return {} if is_train else {"loss": TokenLoss()}

    def update_metric(self, batch: Batch, outputs: ModelOutput, metric: Metric) -> None:
        """Add a batch to the held-out loss."""
        metric.update(outputs["losses_BT"], batch["labels"])


class TokenLoss(Metric):
    """Cross-entropy averaged over tokens across batches and ranks, in nats."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.total: torch.Tensor
        self.count: torch.Tensor
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, losses_BT: torch.Tensor, labels_BT: torch.Tensor) -> None:
        """Add the losses of a batch, 0 where the label is not scored."""
        self.total += losses_BT.sum(dtype=torch.float64)
        self.count += (labels_BT != IGNORE_INDEX).sum()

    def compute(self) -> torch.Tensor:
        """Mean loss per scored token."""
        return self.total / self.count


def _segment_arguments(batch: Batch | SftBatch) -> dict[str, Any]:
    """Positions and segments of fine-tuning rows, which transformers passes to the attention function."""
    if "segment_lengths" not in batch:
        return {}
    input_ids_BT = batch["input_ids"]
    segments = Segments.of(batch["segment_lengths"], num_tokens=input_ids_BT.shape[1], device=input_ids_BT.device)
    return {"position_ids": batch["position_ids"], "segments": segments}


def _initialise(model: PreTrainedModel) -> None:
    hidden, layers = model.config.hidden_size, model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        elif parameter.ndim < 2:
            torch.nn.init.ones_(parameter)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(parameter, std=1 / (math.sqrt(hidden) * layers))
        else:
            torch.nn.init.normal_(parameter, std=math.sqrt(2 / (5 * hidden)))
