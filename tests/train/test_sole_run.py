"""A run holds its folders as long as it lives; nothing of that is left, and nothing but another run is kept out."""

import errno
import fcntl
import math
import os
import runpy
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from meap.errors import ConfigError
from meap.places import locks
from meap.train.sole_run import sole_run

pytestmark = pytest.mark.fault(2)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "_SECONDS_TO_DIE", 0.0)


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("checkpoint.folder={}/saved", "run.dir"),
        ("run.dir={}/b", "checkpoint.folder"),
        ("checkpoint.folder={}/run", "run.dir"),
        ("checkpoint.folder=memory://bucket/run", "run.dir"),
    ],
)
def test_a_place_is_one_run_s_at_a_time(small_config, tmp_path, place, key):
    first = small_config(tmp_path / "run", f"checkpoint.folder={tmp_path}/run/checkpoints")
    second = small_config(tmp_path / "run", f"checkpoint.folder={tmp_path}/run/checkpoints", place.format(tmp_path))
    with sole_run(first, is_leader=True):
        with pytest.raises(ConfigError, match=rf"^{key}=\S+ is in use by process "), sole_run(second, is_leader=True):
            pass
        with sole_run(second, is_leader=False):  # a rank of the first
            pass
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    with sole_run(second, is_leader=True):
        pass


def test_who_holds_a_place_is_told_before_other_ranks_give_up(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_SECONDS_TO_DIE", math.inf)
    config = small_config(tmp_path / "run", "train.dist_timeout=1")
    refused = pytest.raises(ConfigError, match="is in use by")
    with sole_run(config, is_leader=True), refused, sole_run(config, is_leader=True):
        pass


def test_a_stale_handle_is_no_failure_of_the_run(small_config, tmp_path, monkeypatch):
    """NFS calls it so where another machine has removed the folder."""

    def stale(_: int) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch, sole_run(small_config(tmp_path / "run"), is_leader=True):
        patch.setattr(os, "fstat", stale)


def test_what_is_held_leaves_nothing_behind(small_config, tmp_path):
    (tmp_path / "saved").mkdir()
    config = small_config(tmp_path / "run", f"checkpoint.folder={tmp_path}/saved")
    with pytest.raises(KeyboardInterrupt), sole_run(config, is_leader=True):
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "saved"]


def test_nobody_is_kept_out_where_there_are_no_locks(small_config, tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    config = small_config(tmp_path / "run")
    with sole_run(config, is_leader=True), sole_run(config, is_leader=True):
        assert not list(tmp_path.rglob(".in_use"))


def test_a_folder_that_cannot_be_used_is_one_error(small_config, tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "file" / "gone")
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"^run.dir=\S+ cannot be written "),
        sole_run(small_config(tmp_path / "run"), is_leader=True),
    ):
        pass


def test_links_in_a_circle_are_one_error(small_config, tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    config = small_config(tmp_path / "run", f"checkpoint.folder={tmp_path}/circle")
    with pytest.raises(ConfigError, match=r"^checkpoint.folder=\S+circle cannot be "), sole_run(config, is_leader=True):
        pass


def test_a_folder_that_was_removed_and_made_again_is_left_to_its_run(small_config, tmp_path):
    config = small_config(tmp_path / "run")
    first = ExitStack()
    first.enter_context(sole_run(config, is_leader=True))
    shutil.rmtree(tmp_path / "run")
    with sole_run(config, is_leader=True):
        first.close()
        assert (tmp_path / "run/.in_use").exists()


def test_a_plan_is_made_beside_a_run(small_config, tmp_path, project_root: Path, capsys):
    config = small_config(tmp_path / "run")
    with sole_run(config, is_leader=True):
        runpy.run_path(str(project_root / "recipes/meap_1b.py"))["main"](config, dry_run=True)
    assert "is in use" not in capsys.readouterr().out
