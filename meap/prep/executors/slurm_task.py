"""What one element of a Slurm array runs: ``python -m meap.prep.executors.slurm_task <pickled executor>``."""

from __future__ import annotations

import sys
from typing import IO, cast

import dill
from datatrove.io import open_file

from meap.config.command import report_errors
from meap.processes import leave

__all__ = ["run_element"]


def run_element(location: str) -> None:
    """Load the executor that the command has pickled, and run the task of this element."""
    with cast("IO[bytes]", open_file(location, "rb")) as pickled:
        executor = dill.load(pickled)  # noqa: S301  our own
    executor.run()


if __name__ == "__main__":
    leave(report_errors, lambda: run_element(sys.argv[1]))
