"""Section `loggers`: where metrics go besides the run's own file."""

from __future__ import annotations

from dataclasses import dataclass

from meap.config.checks import require_plain_address
from meap.errors import ConfigError
from meap.extras import require_packages

__all__ = ["LOGGERS", "LoggersConfig"]

LOGGERS = {"tensorboard": "train", "wandb": "wandb", "mlflow": "mlflow"}
"""Logger -> the extra that contains its package. Logger, package and module in `meap.train.loggers` share one name."""


@dataclass(frozen=True)
class LoggersConfig:
    """Where metrics go besides <run.dir>/metrics.jsonl. Keys and passwords come from the environment only."""

    tensorboard: bool = True
    """Whether curves for TensorBoard are written, to <run.dir>/tensorboard."""
    wandb: bool = False
    """Whether metrics are sent to Weights & Biases; needs the extra [wandb] and, unless offline, WANDB_API_KEY."""
    wandb_project: str = "meap"
    """Project of the run on W&B."""
    wandb_entity: str | None = None
    """User or team that owns the project. Unset: the default of the account."""
    mlflow: bool = False
    """Whether metrics are sent to MLflow; needs the extra [mlflow]."""
    mlflow_tracking_uri: str | None = None
    """Server or folder (https://..., file:///...). Unset: MLFLOW_TRACKING_URI."""
    mlflow_experiment: str = "meap"
    """Experiment of the run in MLflow; created if it does not exist."""

    def __post_init__(self) -> None:
        if not self.wandb_project:
            raise ConfigError("loggers.wandb_project is empty: give the name of a project")
        if not self.mlflow_experiment:
            raise ConfigError("loggers.mlflow_experiment is empty: give the name of an experiment")
        if self.mlflow_tracking_uri is not None:
            require_plain_address("loggers.mlflow_tracking_uri", self.mlflow_tracking_uri)

    @property
    def chosen(self) -> list[str]:
        """Names of the loggers that are on."""
        return [name for name in LOGGERS if getattr(self, name)]

    def require_packages(self) -> None:
        """Raise `MissingPackageError` if the package of a logger that is on is not installed."""
        for name in self.chosen:
            require_packages(f"loggers.{name}=true", name, extra=LOGGERS[name])
