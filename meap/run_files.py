"""Names of what stands in the folder of a run: training and evaluation write it, reports and resumption read it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from meap.errors import ConfigError

__all__ = [
    "CONFIG_NAME",
    "DATA_DIR",
    "EVAL_DIR",
    "EXPORT_DIR",
    "LOG_NAME",
    "METRICS_NAME",
    "RESULTS_NAME",
    "SAMPLES_NAME",
    "STARTS_NAME",
    "VERSIONS_NAME",
    "find_model",
]

CONFIG_NAME: Final = "config.yaml"
METRICS_NAME: Final = "metrics.jsonl"
"""A line per step."""
SAMPLES_NAME: Final = "samples.jsonl"
"""The model's answers to held-out prompts, a line each time."""
LOG_NAME: Final = "log.txt"
"""What the console showed."""
VERSIONS_NAME: Final = "versions.json"
"""Software and machines of the first start."""
STARTS_NAME: Final = "starts.jsonl"
"""A line per start."""
DATA_DIR: Final = "data"
"""The manifests of the data, one folder per stream."""
EXPORT_DIR: Final = "hf"
"""The Hugging Face folder, by default."""
EVAL_DIR: Final = "eval"
"""What evaluations of the export write, by default."""
RESULTS_NAME: Final = "results.json"
"""In a folder of an evaluation."""

_OF_A_RUN = (CONFIG_NAME, METRICS_NAME, STARTS_NAME, "checkpoints/ba*.json")
"""Each shows that a folder is that of a run: of one that was moved, some may be missing."""


def find_model(model: str) -> str:
    """A folder or hub name as it is; of a run's folder, what was exported there.

    Raises:
        ConfigError: It is the folder of a run that has not been exported, or of the export that it lacks.
    """
    folder = Path(model)
    if (folder / EXPORT_DIR / "config.json").is_file():
        return str(folder / EXPORT_DIR)
    if (folder / "config.json").is_file():
        return model
    for run in (folder, folder.parent) if folder.name == EXPORT_DIR else (folder,):
        if any(any(run.glob(name)) for name in _OF_A_RUN):
            raise ConfigError(
                f"model={model}: {run} is a run that has not been exported: run `python recipes/export_hf.py "
                f"run.dir={shlex.quote(str(run))}`"
            )
    return model
