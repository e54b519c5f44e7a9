"""Where metrics go: console, a file, and what section `loggers` asks for.

console         a bar on a terminal, a line per interval elsewhere; always there
metrics_file    always there
stepwise        what all but the console share: each gets every step once, whole and in order
tensorboard, wandb, mlflow    one each, with a `build_logger` that is found by the name of its key

To add a logger: a module here, and its name and keys in `meap.config.loggers`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from composer.loggers import LoggerDestination

from meap.config import RecipeConfig
from meap.train.loggers.console import build_console
from meap.train.loggers.metrics_file import MetricsFile

__all__ = ["build_loggers"]


def build_loggers(config: RecipeConfig, run_dir: Path, *, is_leader: bool, interval: int) -> list[LoggerDestination]:
    """Console, the run's own file of metrics, and what section `loggers` asks for besides.

    Args:
        config: The whole configuration, which trackers show beside the curves.
        run_dir: The run's folder.
        is_leader: Whether this is rank 0.
        interval: Batches between writings.

    Raises:
        MissingPackageError: A package is missing.
    """
    config.loggers.require_packages()
    chosen = (import_module(f"{__name__}.{name}") for name in config.loggers.chosen)
    return [
        *build_console(run_dir, is_leader=is_leader, interval=interval),
        MetricsFile(run_dir, interval=interval),
        *(module.build_logger(config, run_dir, interval=interval) for module in chosen),
    ]
