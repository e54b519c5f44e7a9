"""Runs that are killed, stopped and continued on other numbers of processes, in real processes and against real S3."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meap.checkpoints import CheckpointStore
from meap.config import save_config

from .conftest import losses

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EPOCH, STEPS = 8, 14
STOPPED = os.EX_TEMPFAIL
# At this learning rate, what rounding makes of a step does not grow.
SETTINGS = (f"train.max_duration={STEPS}ba", "train.microbatch_size=2", "optimizer.lr=0.001")
SHARDED = ("train.sharding=full", "checkpoint.state_dict=sharded")


@dataclass
class Run:
    """Ranks under way."""

    forks: subprocess.Popen[str]
    pids: list[int]
    out: Path

    def wait(self) -> list[int]:
        """Exit statuses, negative where a signal ended the rank."""
        return ask(self.forks, {"wait": self.pids})["exit"]

    def kill(self) -> None:
        """As a launcher does that has lost a rank, or a machine that is gone."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        self.wait()

    @property
    def printed(self) -> str:
        """What all ranks have printed."""
        return "".join(path.read_text() for path in sorted(self.out.glob("*.log")))


def ask(forks: subprocess.Popen[str], job: dict[str, Any]) -> dict[str, Any]:
    assert forks.stdin is not None
    assert forks.stdout is not None
    forks.stdin.write(json.dumps(job) + "\n")
    forks.stdin.flush()
    return json.loads(forks.stdout.readline())


def until(condition: Callable[[], object], run: Run) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, run.printed
        time.sleep(0.01)


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("training_ranks.py"))],
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def start(forks, small_config, tmp_path_factory) -> Callable[..., Run]:
    def run(run_dir: Path, world: int, *overrides: str, nodes: bool = False, **environment: str) -> Run:
        out = tmp_path_factory.mktemp(f"{run_dir.name}-{world}-")
        save_config(small_config(run_dir, *SETTINGS, "checkpoint.interval=3ba", *overrides), out / "config.yaml")
        job = {
            "world": world,
            "nodes": nodes,
            "config": str(out / "config.yaml"),
            "out": str(out),
            "environment": environment,
        }
        return Run(forks, ask(forks, job)["pids"], out)

    return run


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory) -> dict[int, Run]:
    """Runs that nobody interrupts, by number of ranks; their losses are beside."""
    runs = {world: start(tmp_path_factory.mktemp(f"whole{world}-"), world, run_name(world)) for world in (1, 2)}
    for run in runs.values():
        assert set(run.wait()) == {0}, run.printed
    return runs


def run_name(world: int) -> str:
    return f"run.name=whole{world}"


def run_dir_of(run: Run) -> Path:
    from meap.config import TrainingConfig, load_config

    return Path(load_config(TrainingConfig, run.out / "config.yaml").run.dir)


def rows_by_step(run: Run, world: int) -> list[set[tuple[int, str]]]:
    """Ids and masks of each step of a run, whichever rank had them."""
    by_rank = [
        [[(i, h) for i, h in json.loads(line)] for line in (run.out / f"rank{rank}.jsonl").read_text().splitlines()]
        for rank in range(world)
    ]
    passes = 8 // world // 2
    return [
        {row for rows in by_rank for each in rows[at : at + passes] for row in each}
        for at in range(0, min(map(len, by_rank)), passes)
    ]


def test_two_ranks_give_the_same_losses_and_rows_as_one(whole):
    assert losses(run_dir_of(whole[2])) == pytest.approx(losses(run_dir_of(whole[1])), abs=1e-5)
    assert rows_by_step(whole[2], 2) == rows_by_step(whole[1], 1)
    assert "machine    2 x cpu" in whole[2].printed


def test_a_rank_is_killed_in_the_second_epoch_and_others_continue(start, whole, tmp_path):
    run = start(tmp_path / "run", 2, *SHARDED)
    store = CheckpointStore(str(tmp_path / "run/checkpoints"))
    until(lambda: 9 in store.steps(), run)
    os.kill(run.pids[1], signal.SIGKILL)
    run.kill()
    at = store.steps()[0]
    assert rows_by_step(run, 2)[:at] == rows_by_step(whole[1], 1)[:at]
    # What a kill leaves half-written is no checkpoint, and goes at the next start.
    (tmp_path / "run/checkpoints/.saving/ba99").mkdir(parents=True)

    again = start(tmp_path / "run", 1, *SHARDED)
    assert again.wait() == [0], again.printed
    assert f"continues  from {store.location}/ba{at}, step {at} (epoch 1)" in again.printed
    assert rows_by_step(again, 1) == rows_by_step(whole[1], 1)[at:]
    assert losses(tmp_path / "run") == pytest.approx(losses(run_dir_of(whole[1])), abs=1e-5)
    assert not (tmp_path / "run/checkpoints/.saving").exists()
    assert store.steps() == [STEPS, 12, 9]
    weights_of_the_export(store, run_dir_of(whole[1]))


def weights_of_the_export(store: CheckpointStore, whole_dir: Path) -> None:
    """A sharded checkpoint holds the weights of the whole run's single file."""
    from meap.export.checkpoint import find_checkpoint, read_checkpoint
    from meap.train.trust import load_checkpoint

    found = read_checkpoint(Path(find_checkpoint(store.location)), load_checkpoint)
    expected = read_checkpoint(Path(find_checkpoint(str(whole_dir / "checkpoints"))), load_checkpoint)
    assert (found.step, found.tokens, found.run_name) == (STEPS, expected.tokens, "run")
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in found.weights.items():
        assert float((weight - expected.weights[name]).abs().max()) < 1e-5, name


def test_all_are_killed_while_uploading_and_another_machine_continues(start, whole, s3_faults, bucket, tmp_path):
    keys = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    folder = ("checkpoint.folder=s3://corpus/run", "checkpoint.keep=2")
    s3_faults.rule = lambda method, path, _: "stall" if method == "PUT" and path.endswith("ba9.pt") else None
    run = start(tmp_path / "run", 2, *folder, S3_ENDPOINT_URL=s3_faults.url, **keys)
    until(lambda: s3_faults.requests["PUT", "/corpus/run/ba9.pt"], run)
    run.kill()
    s3_faults.resumed.set()
    stored = {each.key for each in bucket.objects.all()}
    assert stored == {"run/ba3.json", "run/ba3.pt", "run/ba6.json", "run/ba6.pt"}
    shutil.rmtree(tmp_path / "run")

    s3_faults.rule = lambda method, path, count: 503 if path.endswith("ba12.pt") and count == 1 else None
    other = start(tmp_path / "run", 1, *folder, "masking.ratio=0.2", S3_ENDPOINT_URL=s3_faults.url, **keys)
    assert other.wait() == [1]
    assert "ba6.pt holds a run with masking.ratio=0.15, not 0.2: give this run another run.name" in other.printed

    again = start(tmp_path / "run", 1, *folder, S3_ENDPOINT_URL=s3_faults.url, **keys)
    assert again.wait() == [0], again.printed
    assert rows_by_step(again, 1) == rows_by_step(whole[1], 1)[6:]
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = {each["step"]: each["loss/train/total"] for each in records if "loss/train/total" in each}
    assert sorted(measured) == list(range(7, STEPS + 1))
    assert list(measured.values()) == pytest.approx(losses(run_dir_of(whole[1]))[6:], abs=1e-5)
    stored = {each.key for each in bucket.objects.all()}
    assert stored == {"run/ba12.json", "run/ba12.pt", f"run/ba{STEPS}.json", f"run/ba{STEPS}.pt"}


def test_one_rank_is_told_to_stop_and_the_same_command_continues(start, whole, tmp_path):
    run = start(tmp_path / "run", 2)
    until(lambda: (tmp_path / "run/metrics.jsonl").exists() and len(losses(tmp_path / "run")) > EPOCH, run)
    os.kill(run.pids[1], signal.SIGUSR1)
    assert run.wait() == [STOPPED, STOPPED], run.printed
    at = len(losses(tmp_path / "run"))
    assert f"stopped by SIGUSR1 at step {at}: everything is saved, the same command continues" in run.printed
    assert CheckpointStore(str(tmp_path / "run/checkpoints")).steps()[0] == at

    again = start(tmp_path / "run", 2)
    assert again.wait() == [0, 0], again.printed
    assert losses(tmp_path / "run") == losses(run_dir_of(whole[2]))


def test_the_launcher_is_told_to_stop_and_its_ranks_save_and_leave(small_config, whole, start, tmp_path, wait_until):
    config = small_config(tmp_path / "run", *SETTINGS)
    save_config(config, tmp_path / "config.yaml")
    composer = Path(sys.executable).with_name("composer")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(
        [str(composer), "-n", "2", str(ROOT / "recipes/meap_1b.py"), str(tmp_path / "config.yaml")],
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
    assert losses(tmp_path / "run") == losses(run_dir_of(whole[2]))


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
