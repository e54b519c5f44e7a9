"""The processes that share an evaluation, started by ``torchrun`` or ``composer``; one without a launcher."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from meap.processes import open_line, wait_with_ranks

__all__ = ["Ranks", "join_ranks"]

_PATIENCE = timedelta(days=7)
"""A rank may have long examples left when another has none."""
_SECONDS_TO_JOIN = 1800.0
"""As torch allows by default."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and the number of ranks."""

    rank: int = 0
    num_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank prints and writes the results."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all ranks.

        Raises:
            LostRankError: Another one has ended.
        """
        if self.num_ranks > 1:
            import torch.distributed

            wait_with_ranks(torch.distributed.barrier)


def join_ranks() -> Ranks:
    """Join the other ranks at the address that the launcher set; they only wait for each other.

    Raises:
        LostRankError: Another rank has ended meanwhile, or has not come.
    """
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks > 1:
        import torch.distributed

        joined = partial(torch.distributed.init_process_group, "gloo", timeout=_PATIENCE)
        wait_with_ranks(joined, seconds=_SECONDS_TO_JOIN)
        wait_with_ranks(open_line, seconds=_SECONDS_TO_JOIN)
    return Ranks(int(os.environ.get("RANK", "0")), num_ranks)
