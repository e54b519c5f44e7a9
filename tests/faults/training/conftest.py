"""Runs of the recipe to be damaged: in this process, as in tests/train, or as forked ranks."""

from collections.abc import Callable, Iterator

import pytest

from tests.train.conftest import config_file, remote, small_config, train
from tests.train.forked_runs import Run, forked_ranks, starter

__all__ = ["config_file", "remote", "small_config", "train"]


@pytest.fixture(scope="session")
def start(warm_python, small_config, tmp_path_factory) -> Iterator[Callable[..., Run]]:
    with forked_ranks(warm_python) as forks:
        yield starter(forks, small_config, tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def whole(start, tmp_path_factory) -> dict[int, Run]:
    """Runs that nobody interrupts, by number of ranks."""
    runs = {world: start(tmp_path_factory.mktemp("whole") / "run", world, f"run.name=whole{world}") for world in (1, 2)}
    for run in runs.values():
        assert set(run.wait()) == {0}, run.printed
    return runs
