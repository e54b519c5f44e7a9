"""MLflow, on a tracking server or in a folder. Credentials come from the environment, as MLflow reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composer.core import State

from meap.config import RecipeConfig, flatten, to_values
from meap.errors import ConfigError
from meap.extras import require_packages
from meap.places.whole import write_whole
from meap.train.loggers.stepwise import StepwiseLogger, Table

__all__ = ["MlflowLogger", "build_logger"]

require_packages("loggers.mlflow=true", "mlflow", extra="mlflow")

_ID_NAME = "mlflow.id"
_LAST_STEP_TAG = "meap.last_step"
_BATCH = 1000  # metrics that a server takes in one request
_PARAM_LENGTH = 500


class MlflowLogger(StepwiseLogger):
    """One MLflow run per run folder, which keeps its id; a resumed run continues the same one.

    A later failure of the server is reported and does not end training: metrics.jsonl has everything.

    Args:
        config: The whole configuration; section `loggers` names the server, all of it is kept with the run.
        run_dir: The run's folder.
        interval: Batches between writings.
    """

    def __init__(self, config: RecipeConfig, run_dir: Path, *, interval: int) -> None:
        super().__init__(interval=interval)
        self._config = config.loggers
        self._run_name = config.run.name
        self._run_dir = run_dir
        self._settings = flatten(to_values(config))
        self._client: Any = None
        self._run_id = ""
        self._last_step = -1
        self._rows: list[tuple[int, Mapping[str, float]]] = []

    def open(self, state: State) -> None:
        """Start or continue the run.

        Raises:
            ConfigError: The server or folder refuses it.
        """
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        stored = self._run_dir / _ID_NAME
        try:
            client = self._client = MlflowClient(self._config.mlflow_tracking_uri)
            if (run := _begun(client, stored)) is not None:
                client.update_run(run.info.run_id, status="RUNNING")
                self._last_step = int(run.data.tags.get(_LAST_STEP_TAG, -1))
            else:
                name = self._config.mlflow_experiment
                experiment = client.get_experiment_by_name(name)
                identity = experiment.experiment_id if experiment else client.create_experiment(name)
                run = client.create_run(identity, run_name=self._run_name)
                params = [Param(key, str(value)[:_PARAM_LENGTH]) for key, value in self._settings.items()]
                for start in range(0, len(params), 100):
                    client.log_batch(run.info.run_id, params=params[start : start + 100])
        except (MlflowException, OSError) as error:
            raise ConfigError(
                f"loggers.mlflow=true, but {self._config.mlflow_tracking_uri or 'the tracking server'} did not start a "
                f"run ({type(error).__name__}: {error}): check loggers.mlflow_tracking_uri and the credentials in the "
                f"environment, delete {stored} to start another MLflow run, or set loggers.mlflow=false"
            ) from error
        self._run_id = run.info.run_id
        write_whole(stored, self._run_id + "\n")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep a step for `flush`. MLflow would show a repeated step twice: those it has are left out."""
        if step > self._last_step:
            self._rows.append((step, metrics))

    def write_table(self, step: int, table: Table) -> None:
        """Keep the texts of a step as an artifact, in the form of MLflow's own tables."""
        from mlflow.exceptions import MlflowException

        content = {"columns": table.columns, "data": table.rows}
        try:
            self._client.log_dict(self._run_id, content, f"{table.name}/step_{step:09}.json")
        except (MlflowException, OSError, ValueError) as error:
            print(f"MLflow refuses {table.name} ({type(error).__name__}); they are in {table.name}.jsonl", flush=True)

    def flush(self) -> None:
        """Send what was kept, in as few requests as the server allows."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        if not self._rows:
            return
        now = int(time.time() * 1000)
        points = [Metric(name, value, now, step) for step, metrics in self._rows for name, value in metrics.items()]
        newest, self._rows = self._rows[-1][0], []
        try:
            for start in range(0, len(points), _BATCH):
                self._client.log_batch(self._run_id, metrics=points[start : start + _BATCH])
            self._client.set_tag(self._run_id, _LAST_STEP_TAG, str(newest))
        except (MlflowException, OSError, ValueError) as error:
            print(f"MLflow refuses metrics ({type(error).__name__}); they are in metrics.jsonl", flush=True)

    def finish(self) -> None:
        """Mark the run as ended."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_terminated(self._run_id)
        except (MlflowException, OSError, ValueError) as error:
            print(f"MLflow could not end the run ({type(error).__name__})", flush=True)


def _begun(client: Any, stored: Path) -> Any:
    """The MLflow run that this run has begun; None where there is none, or files of it are damaged."""
    if not stored.is_file():
        return None
    name = stored.read_text(encoding="utf-8").strip()
    try:
        return client.get_run(name)
    except ValueError as error:  # of a folder, on a disk that was full
        print(f"MLflow run {name} is damaged ({error}): another one is begun", flush=True)
        return None


build_logger = MlflowLogger
