"""A run: settings checked, ranks joined, folder open. With ``--dry-run``, one that only plans.

Composer, streaming and torch read the rank variables, partly at import. A recipe therefore calls `open_run` first, and
nothing heavy is imported here: mistakes are reported before the slow imports.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from meap.config import RecipeConfig, TrainConfig, save_config
from meap.errors import ConfigError
from meap.places.addresses import use_one_s3_endpoint
from meap.places.whole import temporary_folder
from meap.processes import require_files_for_ranks
from meap.run_files import CONFIG_NAME
from meap.train.preflight import check_config, check_ranks
from meap.train.ranks import Ranks, adopt_ranks
from meap.train.run_folder import require_same_settings

if TYPE_CHECKING:
    from meap.train.machine import Machine

__all__ = ["EXAMPLE_DEVICES", "PlannedRun", "Run", "open_run"]

EXAMPLE_DEVICES = 8
"""Devices of the node that a single process plans for, and of the example in its plan."""


@dataclass(frozen=True)
class Run:
    """A run that trains."""

    machine: Machine
    """Device, precision and ranks."""
    dir: Path
    """`run.dir`, which holds everything the run writes."""
    cache_dir: Path
    """Local folder for downloaded shards."""
    plans_for: Ranks | None = None
    """Ranks to plan for instead of training. A single process plans for one node with the most GPUs, up to eight, that
    the settings fit."""
    refusal: str | None = None
    """Why the ranks there are would not train, where the plan is for others."""

    def start_weights(self, config: TrainConfig) -> Literal["start", "none"]:
        """`start` if this rank loads the initial weights, else `none`: rank 0 hands sharded weights out."""
        return "none" if config.sharding_mode.spreads_weights and not self.machine.is_leader else "start"

    def fit(self, trainer: Any) -> None:
        """Train to the end.

        Args:
            trainer: What `meap.train.trainer.build_trainer` has built.

        Raises:
            TrainingError: A step failed; says which checkpoint the same command resumes from.
            StoppedError: A signal asked to stop, and a checkpoint is saved.
        """
        from meap.train.fitting import fit

        fit(trainer)
        trainer.close()


@dataclass(frozen=True)
class PlannedRun(Run):
    """A run that opens and builds what another would, says what it will take, and leaves nothing behind."""

    def start_weights(self, config: TrainConfig) -> Literal["start", "none"]:
        """No rank: the model's sizes are all that is needed."""
        return "none"

    def fit(self, trainer: Any) -> None:
        """Print the plan."""
        if self.machine.is_leader:
            trainer.fit()


@contextmanager
def open_run(config: RecipeConfig, *, dry_run: bool = False) -> Iterator[Run]:
    """Check the settings, join the ranks, and open the run's folder.

    Args:
        config: The whole configuration.
        dry_run: Only plan: no folder is made.

    Raises:
        ConfigError: Settings contradict each other, or do not fit the ranks; or another run writes in the same folder.
        MismatchError: The run exists with another value of a key that must not change.
        MeapError: The ranks do not find each other.
    """
    use_one_s3_endpoint()
    ranks, refusal = adopt_ranks(), None
    check_config(config)
    if dry_run and ranks.world_size == 1:
        refusal = _refusal(config, ranks)
        ranks = _example_ranks(config)
    check_ranks(config, ranks)
    require_files_for_ranks(is_loaded=False)

    from meap.train.checkpoints.trust import forbid_unpickling
    from meap.train.machine import join_machine
    from meap.train.sole_run import sole_run

    forbid_unpickling()
    machine = join_machine(config.train)
    folder = Path(config.run.dir)
    if dry_run:
        if machine.is_leader:
            require_same_settings(config)
        with temporary_folder("meap-dry-run-") as temporary:
            yield PlannedRun(machine, folder, temporary, plans_for=ranks, refusal=refusal)
        return
    with sole_run(config, is_leader=machine.is_leader):
        if machine.is_leader:
            require_same_settings(config)
            save_config(config, folder / CONFIG_NAME)
        # Nodes may share the folder, but cannot agree on what is in a cache; one alone finds its own again among more.
        cache_dir = folder / "cache" / f"node{machine.rank // machine.ranks_per_node}"
        yield Run(machine, folder, Path(config.data.cache_dir or cache_dir))


def _example_ranks(config: RecipeConfig) -> Ranks:
    """A node whose ranks the settings fit; where they fit none, one whose ranks divide the batch."""
    rows = config.train.global_batch_size
    nodes = [Ranks(devices, devices) for devices in range(EXAMPLE_DEVICES, 0, -1) if rows % devices == 0]
    return next((ranks for ranks in nodes if _refusal(config, ranks) is None), nodes[0])


def _refusal(config: RecipeConfig, ranks: Ranks) -> str | None:
    try:
        check_ranks(config, ranks)
    except ConfigError as error:
        return str(error)
    return None
