"""The destinations that section `loggers` asks for."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from composer.loggers import LoggerDestination

from meap.config import LoggersConfig, TrainingConfig, to_yaml
from meap.errors import ConfigError
from meap.train.loggers.metrics_file import MetricsFile
from meap.train.run_folder import METRICS_NAME

__all__ = ["build_loggers", "require_packages"]

_PACKAGES = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard"),
    "wandb": ("wandb", "'meap[wandb]'"),
    "mlflow": ("mlflow", "'meap[mlflow]'"),
}
"""Key of the section: what is imported, and what pip installs."""


def build_loggers(config: TrainingConfig, run_dir: Path, *, interval: int) -> list[LoggerDestination]:
    """The run's own file of metrics, and what section `loggers` asks for besides.

    Args:
        config: The whole configuration, which trackers show beside the curves.
        run_dir: The run's folder.
        interval: Batches between writings.

    Raises:
        ConfigError: A package is missing.
    """
    require_packages(config.loggers)
    loggers: list[LoggerDestination] = [MetricsFile(run_dir / METRICS_NAME, interval=interval)]
    if config.loggers.tensorboard:
        from meap.train.loggers.tensorboard import TensorBoardLogger

        loggers.append(TensorBoardLogger(run_dir / "tensorboard", settings=to_yaml(config), interval=interval))
    settings = dict(_flat(dataclasses.asdict(config)))
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


def require_packages(config: LoggersConfig) -> None:
    """Raise `ConfigError` if a destination is asked for whose package is not installed."""
    for key, (module, package) in _PACKAGES.items():
        if not getattr(config, key):
            continue
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"loggers.{key}=true, but its package cannot be imported ({error}): pip install {package}, or set "
                f"loggers.{key}=false"
            ) from error


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
