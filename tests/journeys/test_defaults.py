"""What tests switch off for speed, a journey leaves on: each setting other than a size runs with its default in one."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from meap.config import PrepConfig, RecipeConfig, SftPrepConfig, load_config

from .conftest import ROOT
from .settings import FINE_TUNING, PRE_TRAINING

SIZES_AND_PLACES = {
    "run.name",
    "run.dir",
    "data.remote",
    "data.seq_len",
    "train.max_duration",
    "train.global_batch_size",
    "train.log_interval",
    "train.eval_interval",
    "checkpoint.folder",
    "checkpoint.interval",
    "export.out_dir",
}
PREPARATION = {
    PrepConfig: {"source", "tokenizer.name", "remote", "seq_len"},
    SftPrepConfig: {"source", "tokenizer.name", "remote", "max_length"},
}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        found |= flat(value, f"{prefix}{item.name}.") if is_dataclass(value) else {f"{prefix}{item.name}": value}
    return found


def test_every_setting_of_training_but_sizes_has_its_default_in_a_journey(tmp_path: Path):
    journeys = []
    for name, values in {"own": PRE_TRAINING, "tuned": FINE_TUNING}.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values | {"base": str(ROOT / str(values["base"]))}))
        journeys.append(flat(load_config(RecipeConfig, path)))
    default = flat(load_config(RecipeConfig))
    changed = {key for key, value in default.items() if all(journey[key] != value for journey in journeys)}
    assert changed == SIZES_AND_PLACES


@pytest.mark.parametrize("config", PREPARATION)
def test_preparation_is_told_what_it_must_be_told_and_no_more(config):
    script = {PrepConfig: "c4_to_mds.py", SftPrepConfig: "sft_to_mds.py"}[config]
    commands = [
        found
        for path in Path(__file__).parent.glob("test_*.py")
        for found in re.findall(rf"python dataprep/{script}[^)]*", path.read_text())
    ]
    assert commands
    assert {key for command in commands for key in re.findall(r"[ {\"]([\w.]+)=", command)} <= PREPARATION[config]
