"""Weights & Biases. The key comes from the environment (`WANDB_API_KEY`, or `wandb login`), never from a yaml."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composer.core import State

from meap.config import RecipeConfig, flatten, to_values
from meap.errors import ConfigError
from meap.extras import require_packages
from meap.places.whole import write_whole
from meap.train.loggers.stepwise import StepwiseLogger, Table

__all__ = ["WandbLogger", "build_logger"]

require_packages("loggers.wandb=true", "wandb", extra="wandb")

_ID_NAME = "wandb.id"


class WandbLogger(StepwiseLogger):
    """One W&B run per run folder, which keeps its id; a resumed run continues the same one.

    Args:
        config: The whole configuration; section `loggers` names the project, all of it is shown with the run.
        run_dir: The run's folder.
        interval: Batches between writings.
    """

    def __init__(self, config: RecipeConfig, run_dir: Path, *, interval: int) -> None:
        super().__init__(interval=interval)
        self._config = config.loggers
        self._run_name = config.run.name
        self._run_dir = run_dir
        self._settings = flatten(to_values(config))
        self._run: Any = None

    def open(self, state: State) -> None:
        """Start or continue the run.

        Raises:
            ConfigError: W&B refuses it.
        """
        import wandb
        from wandb.errors import Error

        stored = self._run_dir / _ID_NAME
        run_id = stored.read_text(encoding="utf-8").strip() if stored.is_file() else secrets.token_hex(4)
        try:
            self._run = wandb.init(
                id=run_id,
                resume="allow",
                project=self._config.wandb_project,
                entity=self._config.wandb_entity,
                name=self._run_name,
                dir=str(self._run_dir),
                config=self._settings,
            )
        except Error as error:
            raise ConfigError(
                f"loggers.wandb=true, but W&B did not start a run in project {self._config.wandb_project!r} "
                f"({type(error).__name__}: {error}): set WANDB_API_KEY or run `wandb login`, set WANDB_MODE=offline to "
                "keep the run here, or set loggers.wandb=false"
            ) from error
        write_whole(stored, run_id + "\n")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send a step. W&B refuses repeated steps: those that a resumed run repeats, bit for bit, are left out."""
        if step >= self._run.step:
            self._run.log(dict(metrics), step=step)

    def write_table(self, step: int, table: Table) -> None:
        """Send texts as values of the step: a `wandb.Table` asks the server, and an offline run would wait for it."""
        if step >= self._run.step:
            texts = {
                f"{table.name}/{number}/{column}": value
                for number, record in enumerate(table.records())
                for column, value in record.items()
            }
            self._run.log(texts, step=step)

    def finish(self) -> None:
        """Wait until everything is uploaded."""
        self._run.finish()


build_logger = WandbLogger
