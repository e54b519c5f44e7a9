"""Runs of recipes one after the other in the ranks of one launch, whose start takes longer than runs this small.

composer -n 2 tests/train/several_runs.py <recipe> <yaml> <recipe> <yaml> ...
"""

import runpy
import sys

from meap.config import TrainingConfig, load_config

for recipe, yaml in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    runpy.run_path(recipe)["main"](load_config(TrainingConfig, yaml))
