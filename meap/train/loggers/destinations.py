"""The destinations that section `loggers` asks for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from composer.loggers import LoggerDestination

from meap.config import TrainingConfig, flatten, to_yaml
from meap.train.loggers.metrics_file import MetricsFile
from meap.train.preflight import require_loggers
from meap.train.run_folder import METRICS_NAME

__all__ = ["build_loggers"]


def build_loggers(config: TrainingConfig, run_dir: Path, *, interval: int) -> list[LoggerDestination]:
    """The run's own file of metrics, and what section `loggers` asks for besides.

    Args:
        config: The whole configuration, which trackers show beside the curves.
        run_dir: The run's folder.
        interval: Batches between writings.

    Raises:
        MissingPackageError: A package is missing.
    """
    require_loggers(config.loggers)
    loggers: list[LoggerDestination] = [MetricsFile(run_dir / METRICS_NAME, interval=interval)]
    if config.loggers.tensorboard:
        from meap.train.loggers.tensorboard import TensorBoardLogger

        loggers.append(TensorBoardLogger(run_dir / "tensorboard", settings=to_yaml(config), interval=interval))
    settings = flatten(dataclasses.asdict(config))
    if config.loggers.wandb:
        from meap.train.loggers.wandb import WandbLogger

        loggers.append(
            WandbLogger(config.loggers, run_name=config.run.name, run_dir=run_dir, settings=settings, interval=interval)
        )
    if config.loggers.mlflow:
        from meap.train.loggers.mlflow import MlflowLogger

        loggers.append(
            MlflowLogger(
                config.loggers, run_name=config.run.name, run_dir=run_dir, settings=settings, interval=interval
            )
        )
    return loggers
