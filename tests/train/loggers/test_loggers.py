"""Real runs, read back with each tracker's own reader: every step once, in order, also where a run was resumed."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from composer.core import State
from composer.loggers import Logger

from meap.errors import ConfigError
from meap.train.loggers.stepwise import StepwiseLogger

# At a constant learning rate the shorter run begins the longer one.
CONSTANT = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999999")
INTERVAL = ("train.log_interval=3ba", "checkpoint.interval=4ba", "train.eval_interval=4ba", "train.eval_batches=1")
LOSS, HELDOUT = "loss/train/total", "metrics/heldout/loss"


@pytest.fixture(scope="module")
def resumed(train, tmp_path_factory) -> tuple[Path, list[float]]:
    """A run of 7 steps, of which the last three were forgotten and trained again, on to step 10; and its losses."""
    folder = tmp_path_factory.mktemp("runs") / "resumed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        trackers = (
            "loggers.wandb=true",
            "loggers.mlflow=true",
            f"loggers.mlflow_tracking_uri={(folder.parent / 'mlruns').as_uri()}",
        )
        train(folder, "train.max_duration=7ba", *CONSTANT, *INTERVAL, *trackers)
        for newer in (folder / "checkpoints").glob("*7*"):
            newer.unlink()
        return folder, train(folder, "train.max_duration=10ba", *CONSTANT, *INTERVAL, *trackers)


@pytest.mark.slow
def test_the_file_has_every_step_and_what_was_measured_at_it(resumed):
    folder, losses = resumed
    merged: dict[int, dict] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        merged.setdefault(record["step"], {}).update(record)
    assert [merged[step][LOSS] for step in range(1, 11)] == losses
    assert [step for step in merged if HELDOUT in merged[step]] == [4, 7, 8, 10]
    assert all("lr-AdamW/group0" in merged[step] for step in range(1, 11))
    assert all(merged[step]["throughput/tokens_per_sec"] > 0 for step in (3, 6, 9, 10))
    assert merged[10]["time/remaining_estimate"] < 1 / 60  # the last checkpoint


def test_tensorboard_shows_each_step_once(resumed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, losses = resumed
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    points = events.Scalars(LOSS)
    assert [point.step for point in points] == list(range(1, 11))
    assert [point.value for point in points] == pytest.approx(losses, abs=1e-6)
    assert [point.step for point in events.Scalars(HELDOUT)] == [4, 8, 10]
    assert len(list((folder / "tensorboard").iterdir())) == 2  # one file per start


def test_every_tracker_has_the_samples_of_each_evaluation_once(resumed):
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = resumed
    by_step: dict[int, list[dict]] = {}
    for line in (folder / "samples.jsonl").read_text().splitlines():
        record = json.loads(line)
        by_step.setdefault(record["step"], []).append(record)
    assert {step: [each["row"] for each in records] for step, records in by_step.items()} == {
        step: [0, 1, 2] for step in (4, 7, 8, 10)
    }
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for number in range(3):
        texts = events.Tensors(f"samples/{number}/text_summary")
        assert [each.step for each in texts] == [4, 7, 8, 10]  # what is purged at a resumption are scalars
        assert by_step[10][number]["prompt"].splitlines()[0].strip() in texts[-1].tensor_proto.string_val[0].decode()
    sent = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        sent |= read_wandb(path, "samples/2/answer")
    assert sent == {step: records[2]["answer"] for step, records in by_step.items()}
    client, (run_id,) = MlflowClient((folder.parent / "mlruns").as_uri()), (folder / "mlflow.id").read_text().split()
    stored = [each.path for each in client.list_artifacts(run_id, "samples")]
    assert stored == [f"samples/step_{step:09}.json" for step in (4, 7, 8, 10)]


def test_wandb_goes_on_with_the_same_run(resumed):
    folder, losses = resumed
    (run_id,) = (folder / "wandb.id").read_text().split()
    starts = sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert [path.name for path in starts] == [f"run-{run_id}.wandb"] * 2
    first, second = (read_wandb(path) for path in starts)
    assert list(first) == list(range(1, 8))
    assert list(second) == list(range(5, 11))
    assert [(first | second)[step] for step in range(1, 11)] == losses


def read_wandb(path: Path, name: str = LOSS) -> dict[int, float]:
    """A value by step, in the order in which it was written."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store, by_step = DataStore(), {}
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {item.nested_key[0] if item.nested_key else item.key: item for item in record.history.item}
        if name in items:
            assert record.history.step.num not in by_step
            by_step[record.history.step.num] = json.loads(items[name].value_json)
    store.close()
    return by_step


def test_mlflow_goes_on_with_the_same_run_and_knows_the_settings(resumed):
    from mlflow import MlflowClient

    folder, losses = resumed
    client = MlflowClient((folder.parent / "mlruns").as_uri())
    (run_id,) = (folder / "mlflow.id").read_text().split()
    (run,) = client.search_runs([client.get_experiment_by_name("meap").experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (run_id, "resumed", "FINISHED")
    assert run.data.params["masking.ratio"] == "0.15"
    history = sorted(client.get_metric_history(run_id, LOSS), key=lambda point: point.step)
    assert [point.step for point in history] == list(range(1, 11))
    assert [point.value for point in history] == losses


@pytest.mark.slow
def test_where_a_full_disk_has_damaged_the_mlflow_run_another_one_is_begun(train, tmp_path, capsys):
    """Its own reader refuses an empty file of metrics, and the run could not be resumed at all."""
    from mlflow import MlflowClient

    uri = (tmp_path / "mlruns").as_uri()
    settings = (*CONSTANT, *INTERVAL, "loggers.mlflow=true", f"loggers.mlflow_tracking_uri={uri}")
    train(tmp_path / "run", *settings, "train.max_duration=4ba")
    before = (tmp_path / "run" / "mlflow.id").read_text().strip()
    (damaged,) = (tmp_path / "mlruns").glob(f"*/{before}/metrics/{LOSS}")
    damaged.write_bytes(b"")
    assert len(train(tmp_path / "run", *settings, "train.max_duration=8ba")) == 8
    assert f"MLflow run {before} is damaged (" in capsys.readouterr().out
    after = (tmp_path / "run" / "mlflow.id").read_text().strip()
    assert after != before
    assert [each.step for each in MlflowClient(uri).get_metric_history(after, LOSS)] == [5, 6, 7, 8]


@pytest.mark.parametrize(("key", "module"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_missing_package_is_named_with_what_installs_it(small_config, tmp_path, monkeypatch, key, module):
    monkeypatch.setitem(sys.modules, module, None)  # what Python itself does for "not there"
    config = small_config(tmp_path, f"loggers.{key}=true")
    with pytest.raises(ConfigError, match=rf"loggers\.{key}=true needs {key}, .*: make install EXTRAS={key} "):
        config.loggers.require_packages()


def test_a_password_in_a_tracking_address_is_refused_and_not_repeated(small_config, tmp_path):
    with pytest.raises(ConfigError, match="loggers.mlflow_tracking_uri is a URL with a user or password") as refused:
        small_config(tmp_path, "loggers.mlflow_tracking_uri=https://me:hunter2@mlflow.example")
    assert "hunter2" not in str(refused.value)


def test_a_logger_that_cannot_be_closed_is_a_warning_of_one_line(capsys):
    """Composer printed a traceback of forty lines where no more files could be opened."""

    class Full(StepwiseLogger):
        def finish(self) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "runs/base/tensorboard")

    logger = Full(interval=1)
    logger.fit_start(State.__new__(State), Logger.__new__(Logger))
    logger.close(State.__new__(State), Logger.__new__(Logger))
    told = "warning: the last steps are not on record: [Errno 24] Too many open files: 'runs/base/tensorboard'\n"
    assert capsys.readouterr().err == told


def test_wandb_without_a_key_says_what_to_set(train, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match=r"loggers\.wandb=true, but W&B did not start .*: set WANDB_API_KEY or run"):
        train(tmp_path / "run", "train.max_duration=1ba", "loggers.wandb=true")
