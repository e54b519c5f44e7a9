"""Random numbers of a step are a function of its number, for models with dropout."""

from __future__ import annotations

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

__all__ = ["StepSeeds"]


class StepSeeds(Callback):
    """Seed torch at each step by (seed, step, rank): a resumed run leaves out what it would have without interruption.

    Composer restores a random state at the start of an epoch only.

    Args:
        seed: The run's.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def batch_start(self, state: State, logger: Logger) -> None:
        """Seed."""
        address = [self._seed, int(state.timestamp.batch), dist.get_global_rank()]
        torch.manual_seed(int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0] >> np.uint64(1)))
