"""The ways to spread a run's state over its ranks: `train.sharding`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SHARDINGS", "Sharding", "spreading_modes"]


@dataclass(frozen=True)
class Sharding:
    """A way to spread state, through FSDP 2."""

    name: str
    """Value of `train.sharding`."""
    spreads_weights: bool
    """Whether each rank keeps a part of weights, gradients and optimiser between steps, instead of all of them."""
    gathers_in_step: bool
    """Whether a step gathers all weights and keeps them to its end, instead of a layer at a time."""


SHARDINGS = {
    mode.name: mode
    for mode in (
        Sharding("none", spreads_weights=False, gathers_in_step=False),
        Sharding("grad_op", spreads_weights=True, gathers_in_step=True),
        Sharding("full", spreads_weights=True, gathers_in_step=False),
    )
}


def spreading_modes() -> str:
    """Names of the modes that spread state, for messages."""
    return " or ".join(mode.name for mode in SHARDINGS.values() if mode.spreads_weights)
