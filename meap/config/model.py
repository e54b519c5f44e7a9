"""What is trained: section `model`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from meap.config.checks import require_at_least, require_one_of
from meap.errors import ConfigError

__all__ = ["ARCHITECTURES", "MODEL_SIZES", "ModelConfig"]

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Decoders of transformers that are alike enough to be described by sizes: RMSNorm, RoPE and SwiGLU."""
_OTHER_STARTS = ("base", "base_rope_theta")
MODEL_SIZES = (
    *("architecture", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("num_hidden_layers", "head_dim", "tie_word_embeddings", "rope_theta", "rms_norm_eps"),
)
"""Keys that describe a decoder from scratch."""


@dataclass(frozen=True)
class ModelConfig:
    """A finished model to start from, or a decoder from scratch: any of transformers', or one described by sizes."""

    base: str | None = None
    """What training starts from: a Hugging Face folder or hub name; a run of ours (its folder, its checkpoints' folder
    or URL, or one checkpoint); a local `.pth` of the official code. All but the last bring their own sizes: those below
    are then unused."""
    base_rope_theta: float | None = None
    """RoPE theta that replaces the base's, for rows longer than it was trained on (the paper takes 640,000 for 65,536
    positions; yamls/long/). Unset: the base's own, and its own longest row."""
    config: str | None = None
    """Any decoder of transformers from scratch: a folder with config.json, such a file, or a hub name. Weights are
    fresh, as the architecture itself initialises them; vocabulary and longest row are the data's; the sizes below are
    its own, and not to be set. What packed rows are not exact for is refused. Unset: the sizes below."""
    architecture: str = "llama"
    """Decoder described by the sizes below, by its name in transformers: `llama` (the paper), `mistral`, `qwen2` or
    `qwen3`."""
    hidden_size: int = 2048
    """Width of the residual stream, at least 1."""
    intermediate_size: int = 5632
    """Width of the MLP, at least 1."""
    num_attention_heads: int = 32
    """Heads of queries, at least 1."""
    num_key_value_heads: int = 2
    """Heads of keys and values, of which num_attention_heads is a multiple."""
    num_hidden_layers: int = 24
    """Decoder layers, at least 1."""
    head_dim: int | None = None
    """Size of a head, an even number. Unset: hidden_size / num_attention_heads."""
    tie_word_embeddings: bool = False
    """Whether the head shares the weights of the embedding."""
    vocab_multiple: int = 64
    """Embedding rows are padded up to a multiple of this (32,001 ids become 32,064 rows)."""
    rope_theta: float = 10_000.0
    """Base of the rotary embedding's wave lengths, above 0."""
    rms_norm_eps: float = 1e-5
    """What RMSNorm adds to the mean square."""
    attention: str = "auto"
    """`auto` and `sdpa`: torch's own, which chooses the fastest kernel of the device; `flash_attention_2`: the package
    flash-attn."""
    kernels: str = "auto"
    """RMSNorm, RoPE and SwiGLU by `torch`, `liger` (needs CUDA), or `auto`: liger where layers are not compiled."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_multiple"):
            require_at_least(f"model.{name}", getattr(self, name), 1)
        require_at_least("model.num_key_value_heads", self.num_key_value_heads, 1)
        require_one_of("model.architecture", self.architecture, ARCHITECTURES)
        self._check_extension()
        self._check_config()
        if self.head_dim is not None and (self.head_dim < 2 or self.head_dim % 2):
            raise ConfigError(f"model.head_dim={self.head_dim} is not an even number above 0 (RoPE rotates pairs)")
        if self.head_dim is None and self.hidden_size % (2 * self.num_attention_heads):
            raise ConfigError(
                f"model.hidden_size={self.hidden_size} does not split into {self.num_attention_heads} heads of even "
                "size (RoPE rotates pairs): choose a multiple of 2 * model.num_attention_heads, or set model.head_dim"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"model.num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"model.num_key_value_heads={self.num_key_value_heads}"
            )
        require_one_of("model.attention", self.attention, ("auto", "sdpa", "flash_attention_2"))
        require_one_of("model.kernels", self.kernels, ("auto", "torch", "liger"))

    def _check_config(self) -> None:
        """Refuse what contradicts `config`; a size that is given as its default is not told from one that is not."""
        if self.config is None:
            return
        defaults = {field.name: field.default for field in fields(self)}
        for name in (*_OTHER_STARTS, *MODEL_SIZES):
            if (value := getattr(self, name)) != defaults[name]:
                remedy = (
                    "leave one of the two out (model.base brings weights and architecture)"
                    if name in _OTHER_STARTS
                    else f"leave model.{name} out, or change it in a copy of that config.json"
                )
                raise ConfigError(
                    f"model.{name}={value} and model.config={self.config} exclude each other, as the latter states it "
                    f"all: {remedy}"
                )

    def _check_extension(self) -> None:
        if self.base_rope_theta is None:
            return
        if self.base_rope_theta <= 0:
            raise ConfigError(f"model.base_rope_theta={self.base_rope_theta} must be more than 0")
        if self.base is None:
            raise ConfigError(
                f"model.base_rope_theta={self.base_rope_theta:g} replaces the theta of model.base, which "
                "is not set: set it, or give a model from scratch model.rope_theta"
            )
