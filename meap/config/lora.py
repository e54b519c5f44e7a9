"""Section `lora`: adapters beside a frozen base, in place of all its weights."""

from __future__ import annotations

from dataclasses import dataclass

from meap.config.checks import require_at_least, require_ratio
from meap.errors import ConfigError

__all__ = ["LoraConfig"]


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021, by peft) of a frozen model.base; off by default."""

    rank: int = 0
    """Rank of the adapters, such as 16; 0 trains all weights."""
    alpha: float | None = None
    """Adapters are scaled by alpha / rank. Unset: twice the rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that a training step leaves out, in [0, 1)."""
    target_modules: tuple[str, ...] = ()
    """Linear layers that get adapters, by the ends of their names, such as q_proj. Unset: all but the head."""
    use_rslora: bool = False
    """Whether adapters are scaled by alpha / sqrt(rank) instead (Kalajdzievski 2023), for high ranks."""
    train_mask: bool = True
    """Whether the mask token's row of the embedding is trained, too: a base that never saw it has the mean of the
    others there, which a frozen embedding would keep."""

    @property
    def scale(self) -> float:
        """`alpha`, or its default."""
        return 2.0 * self.rank if self.alpha is None else self.alpha

    def __post_init__(self) -> None:
        require_at_least("lora.rank", self.rank, 0)
        if self.alpha is not None and self.alpha <= 0:
            raise ConfigError(f"lora.alpha={self.alpha} must be more than 0")
        require_ratio("lora.dropout", self.dropout, remedy="0 leaves nothing out.")
        for name in self.target_modules:
            if name.split(".")[-1] in ("lm_head", "embed_tokens"):
                raise ConfigError(
                    f"lora.target_modules names {name}, but adapters stand beside linear layers of the decoder: leave "
                    "it out (lora.train_mask trains the mask token's row of the embedding)"
                )
