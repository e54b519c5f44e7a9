"""Runs that are killed, stopped and continued on other numbers of processes, in real processes and against real S3."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meap.checkpoints import CheckpointStore
from meap.config import save_config
from meap.tokenizer import TOKENIZER_FILES

from .conftest import losses
from .forked_runs import EPOCH, SETTINGS, STEPS, STOPPED, Run, forked_ranks, starter, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHARDED = ("train.sharding=full", "checkpoint.state_dict=sharded")


@pytest.fixture(scope="module")
def start(warm_python, small_config, tmp_path_factory) -> Iterator[Callable[..., Run]]:
    with forked_ranks(warm_python) as forks:
        yield starter(forks, small_config, tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory) -> dict[int, Run]:
    """Runs that nobody interrupts, by number of ranks; their losses are beside."""
    runs = {world: start(tmp_path_factory.mktemp(f"whole{world}-"), world, run_name(world)) for world in (1, 2)}
    for run in runs.values():
        assert set(run.wait()) == {0}, run.printed
    return runs


def run_name(world: int) -> str:
    return f"run.name=whole{world}"


@pytest.mark.fault(7)
def test_two_ranks_give_the_same_losses_and_rows_as_one(whole):
    assert losses(whole[2].run_dir) == pytest.approx(losses(whole[1].run_dir), abs=1e-5)
    assert whole[2].rows(2) == whole[1].rows(1)
    assert "machine    2 x cpu" in whole[2].printed


@pytest.mark.fault(7)
def test_few_rows_are_trained_and_measured_alike_on_any_number_of_ranks(start, write_shards, tmp_path):
    """Fewer rows than a round of the canonical nodes; three held out, so that one of four ranks has none."""
    remote = write_shards(tmp_path / "data", rows=20, seq_len=16, validation_rows=3)
    few = (f"data.remote={remote}", "data.num_canonical_nodes=24", "train.eval_batches=9", "train.eval_interval=1ep")
    results: list[tuple[list[float], list[float]]] = []
    for world, sharding in ((1, "none"), (2, "none"), (4, "full")):
        overrides = (*few, "train.max_duration=2ep", f"train.sharding={sharding}")
        run = start(tmp_path / f"run{world}", world, *overrides)
        assert set(run.wait()) == {0}, run.printed
        records = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
        measured = [each["metrics/heldout/loss"] for each in records if "metrics/heldout/loss" in each]
        results.append((losses(run.run_dir), measured))
    for trained, measured in results:
        assert (len(trained), len(measured)) == (4, 2)
        assert trained == pytest.approx(results[0][0], abs=1e-5)
        assert measured == pytest.approx(results[0][1], abs=1e-5)


@pytest.mark.fault(5)
def test_a_rank_is_killed_in_the_second_epoch_and_others_continue(start, whole, tmp_path):
    run = start(tmp_path / "run", 2, *SHARDED)
    store = CheckpointStore(str(tmp_path / "run/checkpoints"))
    until(lambda: 9 in store.steps(), run)
    os.kill(run.pids[1], signal.SIGKILL)
    run.kill()
    at = store.steps()[0]
    assert run.rows(2)[:at] == whole[1].rows(1)[:at]
    # What a kill leaves half-written is no checkpoint, and goes at the next start.
    (tmp_path / "run/checkpoints/.saving/ba99").mkdir(parents=True)

    again = start(tmp_path / "run", 1, *SHARDED)
    assert again.wait() == [0], again.printed
    assert f"resumes    from {store.location}/ba{at}, step {at} (epoch 1)" in again.printed
    assert again.rows(1) == whole[1].rows(1)[at:]
    assert losses(tmp_path / "run") == pytest.approx(losses(whole[1].run_dir), abs=1e-5)
    assert not (tmp_path / "run/checkpoints/.saving").exists()
    assert store.steps() == [STEPS, 12, 9]
    weights_of_the_export(store, whole[1].run_dir)


def weights_of_the_export(store: CheckpointStore, whole_dir: Path) -> None:
    """A sharded checkpoint holds the weights of the whole run's single file."""
    from meap.checkpoints import find_checkpoint
    from meap.checkpoints.reading import read_checkpoint

    found = read_checkpoint(Path(find_checkpoint(store.location)))
    expected = read_checkpoint(Path(find_checkpoint(str(whole_dir / "checkpoints"))))
    assert (found.step, found.tokens, found.run_name) == (STEPS, expected.tokens, "run")
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in found.weights.items():
        assert float((weight - expected.weights[name]).abs().max()) < 1e-5, name


@pytest.mark.fault(3)
@pytest.mark.fault(5)
def test_all_are_killed_while_uploading_and_another_machine_continues(start, whole, s3_faults, bucket, tmp_path):
    keys = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    folder = ("checkpoint.folder=s3://corpus/run", "checkpoint.keep=2")
    s3_faults.rule = lambda method, path, _: "stall" if method == "PUT" and path.endswith("ba9.pt") else None
    run = start(tmp_path / "run", 2, *folder, S3_ENDPOINT_URL=s3_faults.url, **keys)
    until(lambda: s3_faults.requests["PUT", "/corpus/run/ba9.pt"], run)
    run.kill()
    s3_faults.resumed.set()
    stored = {each.key for each in bucket.objects.all()}
    tokenizer = {f"run/tokenizer/{name}" for name in TOKENIZER_FILES}
    assert stored == {"run/ba3.json", "run/ba3.pt", "run/ba6.json", "run/ba6.pt", *tokenizer}
    shutil.rmtree(tmp_path / "run")

    s3_faults.rule = lambda method, path, count: 503 if path.endswith("ba12.pt") and count == 1 else None
    other = start(tmp_path / "run", 1, *folder, "masking.ratio=0.2", S3_ENDPOINT_URL=s3_faults.url, **keys)
    assert other.wait() == [1]
    assert "ba6.pt holds a run with masking.ratio=0.15, not 0.2: give this run another run.name" in other.printed

    again = start(tmp_path / "run", 1, *folder, S3_ENDPOINT_URL=s3_faults.url, **keys)
    assert again.wait() == [0], again.printed
    assert again.rows(1) == whole[1].rows(1)[6:]
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = {each["step"]: each["loss/train/total"] for each in records if "loss/train/total" in each}
    assert sorted(measured) == list(range(7, STEPS + 1))
    assert list(measured.values()) == pytest.approx(losses(whole[1].run_dir)[6:], abs=1e-5)
    stored = {each.key for each in bucket.objects.all()}
    assert stored == {"run/ba12.json", "run/ba12.pt", f"run/ba{STEPS}.json", f"run/ba{STEPS}.pt", *tokenizer}


@pytest.mark.fault(5)
def test_one_rank_is_told_to_stop_and_the_same_command_continues(start, whole, tmp_path):
    run = start(tmp_path / "run", 2)
    until(lambda: (tmp_path / "run/metrics.jsonl").exists() and len(losses(tmp_path / "run")) > EPOCH, run)
    os.kill(run.pids[1], signal.SIGUSR1)
    assert run.wait() == [STOPPED, STOPPED], run.printed
    at = len(losses(tmp_path / "run"))
    assert f"stopped by SIGUSR1 at step {at}: everything is saved; run the same command again to resume" in run.printed
    assert CheckpointStore(str(tmp_path / "run/checkpoints")).steps()[0] == at

    again = start(tmp_path / "run", 2)
    assert again.wait() == [0, 0], again.printed
    assert losses(tmp_path / "run") == losses(whole[2].run_dir)


@pytest.mark.fault(5)
def test_the_launcher_is_told_to_stop_and_its_ranks_save_and_leave(
    small_config, whole, start, tmp_path, warm_python, wait_until
):
    config = small_config(tmp_path / "run", *SETTINGS, "data.num_workers=1", "train.eval_batches=1")
    save_config(config, tmp_path / "config.yaml")
    composer = Path(sys.executable).with_name("composer")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHON_EXEC": warm_python}
    launcher = subprocess.Popen(
        [warm_python, str(composer), "-n", "2", str(ROOT / "recipes/meap_1b.py"), str(tmp_path / "config.yaml")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if line.startswith("step      2"):
                break
        launcher.terminate()
        rest = launcher.stdout.read()  # until the last rank has left, too
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.communicate()
    assert launcher.returncode == STOPPED, rest
    assert f"stopped by SIGTERM at step {len(losses(tmp_path / 'run'))}: everything is saved" in rest
    at = len(losses(tmp_path / "run"))
    assert 2 <= at < STEPS
    assert CheckpointStore(str(tmp_path / "run/checkpoints")).steps()[0] == at, rest
    wait_until(lambda: is_gone(launcher.pid))

    again = start(tmp_path / "run", 2)
    assert again.wait() == [0, 0], again.printed
    assert losses(tmp_path / "run") == losses(whole[2].run_dir)


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_nodes_that_do_not_share_the_folder_are_told_before_the_first_step(start, tmp_path):
    run = start(tmp_path / "run", 2, "checkpoint.folder=here", nodes=True)
    assert run.wait() == [2, 2], run.printed
    assert "checkpoint.folder=here is a local folder that 1 of 2 nodes do not see: choose a folder" in run.printed
    assert "step      1" not in run.printed
