"""Which checkpoint a run continues from, and what is said where it cannot; in this process, one rank."""

import dataclasses
import os
import resource
import runpy
import shutil
import signal
import time
from pathlib import Path

import fsspec
import pytest

from meap.checkpoints import CheckpointRecord, CheckpointStore
from meap.errors import CheckpointError, ConfigError, MismatchError, StoppedError
from meap.train.checkpoints.publishing import Save
from meap.train.loggers.metrics_file import MetricsFile
from tests.train.conftest import losses
from tests.train.outputs import at_pass

ROOT = Path(__file__).resolve().parents[3]
FLAT = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999999")
BEGUN, LONGER = ("train.max_duration=10ba", *FLAT), ("train.max_duration=12ba", *FLAT)


@pytest.fixture(scope="module")
def begun(train, tmp_path_factory) -> tuple[Path, list[float]]:
    """A run of ten steps with checkpoints at 4, 8 and 10, and the losses of one that goes on to twelve."""
    folder = tmp_path_factory.mktemp("begun")
    train(folder / "run", *BEGUN)
    return folder / "run", train(folder / "whole", *LONGER)


@pytest.fixture
def run_dir(begun, tmp_path) -> Path:
    shutil.copytree(begun[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/bucket/other", b"")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-100] if how == "truncated" else content[:-100] + b"\0" + content[-99:])


def test_checkpoints_are_named_by_their_step_and_recorded(begun):
    store = CheckpointStore(str(begun[0] / "checkpoints"))
    assert {path.name for path in Path(store.location).iterdir()} == {
        "tokenizer",
        *(f"ba{step}.{kind}" for step in (4, 8, 10) for kind in ("pt", "json")),
    }
    record = store.record(10)
    assert (record.step, record.epoch, record.tokens, record.run) == (10, 1, 10 * 8 * 16, "run")
    assert record.config["train"]["max_duration"] == "10ba"
    assert record.versions.keys() >= {"torch", "mosaicml"}


def test_losses_are_on_record_before_the_checkpoint_that_follows_them(train, tmp_path, monkeypatch):
    """A run that is killed in that moment begins after them, and does not log them again."""
    found, publish = dict[int, int](), CheckpointStore.publish

    def look(store: CheckpointStore, record: CheckpointRecord) -> None:
        found[record.step] = len(losses(tmp_path / "run"))
        publish(store, record)

    monkeypatch.setattr(CheckpointStore, "publish", look)
    settings = ("checkpoint.interval=2ba", "train.log_interval=100ba", "train.microbatch_size=8")
    with at_pass(4, lambda _: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(StoppedError):
        train(tmp_path / "run", *BEGUN, *settings)
    assert found == {2: 2, 4: 4, 5: 5}


def test_a_tracker_does_not_keep_a_checkpoint_waiting(train, tmp_path, monkeypatch):
    """Its server may be gone with the power that SIGTERM announces, and is asked for minutes."""
    pytest.importorskip("mlflow")
    from meap.train.loggers.mlflow import MlflowLogger

    order = list[str]()
    for owner, method in ((MlflowLogger, "flush"), (MetricsFile, "flush"), (Save, "start")):
        whole = getattr(owner, method)
        monkeypatch.setattr(
            owner, method, lambda self, whole=whole: (order.append(type(self).__name__), whole(self))[1]
        )
    settings = ("checkpoint.interval=2ba", "train.log_interval=100ba", "loggers.mlflow=true")
    train(tmp_path / "run", *settings, "train.max_duration=3ba", f"loggers.mlflow_tracking_uri={tmp_path.as_uri()}/own")
    assert order[:4] == ["MetricsFile", "Save", "MlflowLogger", "MetricsFile"], order


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncated", "changed", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_continues(train, begun, run_dir, capsys, how):
    damage(run_dir / "checkpoints/ba10.pt", how)
    assert train(run_dir, *LONGER) == begun[1]
    printed = capsys.readouterr().out
    assert printed.count("is damaged") == 1
    assert "checkpoints/ba10 is damaged (ba10.pt " in printed
    assert "resumes    from " in printed
    assert "ba8.pt, step 8 (epoch 0)" in printed


def test_a_record_is_damaged_and_the_one_before_continues(train, begun, run_dir):
    damage(run_dir / "checkpoints/ba10.json", "changed")
    assert train(run_dir, *LONGER) == begun[1]


def test_where_none_is_whole_nothing_starts(train, run_dir):
    for step in (4, 8, 10):
        damage(run_dir / f"checkpoints/ba{step}.pt", "changed")
    before = (run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"none of the 3 checkpoints in .* is whole: restore one from a copy"):
        train(run_dir, *LONGER)
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_a_run_that_shall_start_anew_does_not_mix_with_another(train, run_dir):
    with pytest.raises(ConfigError, match=r"autoresume=false, but .* holds checkpoints up to ba10: set"):
        train(run_dir, *LONGER, "checkpoint.autoresume=false")


def test_without_its_folder_a_run_continues_from_the_store_under_the_same_settings_only(
    train, small_config, tmp_path, memory, capsys
):
    again = runpy.run_path(str(ROOT / "recipes/meap_1b.py"))["main"]
    remote = ("checkpoint.folder=memory://bucket/run", "checkpoint.keep=2")
    train(tmp_path / "run", *BEGUN, *remote)
    assert CheckpointStore("memory://bucket/run").steps() == [10, 8]
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"ba8.pt", "ba10.pt"}
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(MismatchError, match=r"memory://bucket/run/ba10.pt holds a run with optimizer.lr=0.01, not 0.5"):
        train(tmp_path / "run", *LONGER, *remote, "optimizer.lr=0.5")
    memory.pipe("/bucket/run/ba10.pt", b"x" + memory.cat("/bucket/run/ba10.pt")[1:])
    again(small_config(tmp_path / "run", *LONGER, *remote))  # the metrics of the machine that is gone begin anew
    printed = capsys.readouterr().out
    assert "ba10 is damaged (ba10.pt does not have the hash that was recorded): the one before it is used" in printed
    assert (tmp_path / "run/metrics.jsonl").read_text().count("loss/train/total") == 4
    assert CheckpointStore("memory://bucket/run").steps() == [12, 10]


@pytest.mark.fault(2)
def test_a_full_disk_is_an_error_and_the_checkpoints_before_stay(train, begun, run_dir):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            CheckpointError, match=r"ba12.pt could not be written to .*File too large.*Free space or choose another"
        ):
            train(run_dir, *LONGER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert CheckpointStore(str(run_dir / "checkpoints")).steps() == [10, 8, 4]
    assert not (run_dir / "checkpoints/.saving").exists()
    assert train(run_dir, *LONGER) == begun[1]


@pytest.mark.slow
def test_an_upload_that_fails_is_a_warning_then_an_error(train, tmp_path, memory, capsys):
    memory.pipe("/bucket/run/ba4.pt/in the way", b"")  # so that no object can have that name
    with pytest.raises(CheckpointError, match=r"ba4.pt: .*checkpoint.folder=memory://bucket/run"):
        train(tmp_path / "run", "train.max_duration=4ba", "checkpoint.folder=memory://bucket/run")
    assert "tried again with the next one" in capsys.readouterr().err
    assert (tmp_path / "run/checkpoints/ba4.pt").is_file()


@pytest.mark.fault(6)
def test_a_run_that_saves_where_another_began_to_save_leaves_the_store_as_it_is(train, begun, tmp_path, memory):
    """As from two machines, which see nothing of each other but the store."""
    other = CheckpointStore(str(begun[0] / "checkpoints"))

    def save_too(_: object) -> None:
        until = time.monotonic() + 60
        while not memory.exists("/bucket/run/ba4.json") and time.monotonic() < until:  # a thread uploads it
            time.sleep(0.01)
        for name in ("ba10.pt", "ba10.json"):
            memory.pipe(f"/bucket/run/{name}", Path(other.location, name).read_bytes())

    told = r"^checkpoint.folder=memory://bucket/run holds ba10, which another process has written since this one began"
    with at_pass(5, save_too), pytest.raises(CheckpointError, match=told):
        train(tmp_path / "run", *LONGER, "checkpoint.folder=memory://bucket/run", "train.microbatch_size=8")
    assert memory.cat("/bucket/run/ba10.pt") == Path(other.location, "ba10.pt").read_bytes()
    assert CheckpointStore("memory://bucket/run").steps() == [10, 4]


def test_settings_that_exclude_each_other_are_refused(small_config, tmp_path):
    with pytest.raises(ConfigError, match=r"sharded needs sharded state, but train.sharding=none: set"):
        small_config(tmp_path, "checkpoint.state_dict=sharded")
    with pytest.raises(ConfigError, match=r"checkpoint.state_dict='half' is not known"):
        small_config(tmp_path, "checkpoint.state_dict=half")


def test_a_sharded_checkpoint_needs_sharded_state(train, run_dir):
    store = CheckpointStore(str(run_dir / "checkpoints"))
    record = store.record(10)
    parts = Path(store.location, "ba10")
    parts.mkdir()
    Path(store.location, "ba10.pt").rename(parts / "__0_0.distcp")
    files = (dataclasses.replace(record.files[0], name="ba10/__0_0.distcp"),)
    store.publish(dataclasses.replace(record, kind="sharded", files=files))
    with pytest.raises(
        CheckpointError, match=r"ba10 is sharded, but train.sharding=none: set train.sharding=grad_op or"
    ):
        train(run_dir, *LONGER)
