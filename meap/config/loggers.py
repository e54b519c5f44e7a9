"""Section `loggers`: where metrics go besides the run's own file."""

from __future__ import annotations

from dataclasses import dataclass

from meap.config.checks import require_plain_address
from meap.errors import ConfigError

__all__ = ["LoggersConfig"]


@dataclass(frozen=True)
class LoggersConfig:
    """Where metrics go besides <run.dir>/metrics.jsonl. Keys and passwords come from the environment only."""

    tensorboard: bool = True
    """Whether curves for TensorBoard are written, to <run.dir>/tensorboard."""
    wandb: bool = False
    """Whether the run is shown on Weights & Biases; needs the extra [wandb] and, unless offline, WANDB_API_KEY."""
    wandb_project: str = "meap"
    """Project that the run belongs to."""
    wandb_entity: str | None = None
    """User or team that owns the project. Unset: the default of whoever has logged in."""
    mlflow: bool = False
    """Whether the run is shown in MLflow; needs the extra [mlflow]."""
    mlflow_tracking_uri: str | None = None
    """Server or folder (https://..., file:///...). Unset: MLFLOW_TRACKING_URI."""
    mlflow_experiment: str = "meap"
    """Experiment that the run belongs to; made where it is missing."""

    def __post_init__(self) -> None:
        if not self.wandb_project:
            raise ConfigError("loggers.wandb_project is empty: give the name of a project")
        if not self.mlflow_experiment:
            raise ConfigError("loggers.mlflow_experiment is empty: give the name of an experiment")
        if self.mlflow_tracking_uri is not None:
            require_plain_address("loggers.mlflow_tracking_uri", self.mlflow_tracking_uri)
