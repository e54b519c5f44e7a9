"""Several processes that share an evaluation, as ``torchrun`` and ``composer`` start them; alone without a launcher."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Ranks", "join_ranks"]

_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int = 0
    num_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one prints, and writes the results."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when all have come here."""
        if self.num_ranks > 1:
            import torch.distributed

            torch.distributed.barrier()


def join_ranks() -> Ranks:
    """Meet the others over the address that the launcher set; they exchange nothing but that they are done."""
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks > 1:
        import torch.distributed

        # A rank may have long examples left when another has none.
        torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    return Ranks(int(os.environ.get("RANK", "0")), num_ranks)
