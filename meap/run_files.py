"""Names of what stands in the folder of a run: training and evaluation write it, reports and resumption read it."""

from __future__ import annotations

from typing import Final

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
