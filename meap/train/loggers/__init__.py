"""Where metrics go: a file, and what section `loggers` asks for. Each gets every step once, whole and in order.

stepwise        what they share
metrics_file    always there
tensorboard, wandb, mlflow    one each, with a `build_logger` that is found by the name of its key

To add a logger: a module here, and its name and keys in `meap.config.loggers`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from composer.loggers import LoggerDestination

from meap.config import TrainingConfig
from meap.train.loggers.metrics_file import MetricsFile
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
    config.loggers.require_packages()
    chosen = (import_module(f"{__name__}.{name}") for name in config.loggers.chosen)
    return [
        MetricsFile(run_dir / METRICS_NAME, interval=interval),
        *(module.build_logger(config, run_dir, interval=interval) for module in chosen),
    ]
