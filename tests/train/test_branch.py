"""A branch: another run's weights, optimiser and place in the data, in a folder of its own."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meap.checkpoints import CheckpointStore
from meap.checkpoints.trust import load_checkpoint
from meap.errors import CheckpointError, ConfigError, MismatchError

ROOT = Path(__file__).resolve().parents[2]
AT, STEPS = 4, 10  # the second epoch begins after 8 steps
SETTINGS = ("optimizer.lr=0.004", "checkpoint.keep=-1", f"train.max_duration={STEPS}ba")


@pytest.fixture(scope="module")
def run(small_config, release_caches) -> Callable[..., None]:
    main = runpy.run_path(str(ROOT / "recipes/meap_1b.py"))["main"]

    def run_it(run_dir: Path, *overrides: str, dry_run: bool = False) -> None:
        main(small_config(run_dir, *SETTINGS, *overrides), dry_run=dry_run)
        release_caches()

    return run_it


@pytest.fixture(scope="module")
def trunk(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trunk"
    run(folder, "scheduler.schedule=constant", "scheduler.warmup_duration=2ba")
    return folder


def branch_from(folder: Path, step: int = AT) -> str:
    return f"train.branch_from={folder}/checkpoints/ba{step}.pt"


def by_step(run_dir: Path, name: str) -> dict[int, float]:
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record[name] for record in records if name in record}


def state_at(run_dir: Path, step: int) -> dict:
    state = load_checkpoint(str(run_dir / f"checkpoints/ba{step}.pt"))["state"]
    return {name: state[name] for name in ("model", "optimizers", "dataset_state")}


def are_equal(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(are_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(are_equal, one, other))
    return bool((one == other).all()) if hasattr(one, "all") else one == other


def test_a_branch_begins_where_its_trunk_ended(run, trunk, tmp_path):
    """A constant rate never falls, at the trunk's last step neither."""
    folder = tmp_path / "branch"
    run(
        folder,
        branch_from(trunk, STEPS),
        "train.max_duration=12ba",
        "scheduler.schedule=wsd",
        "scheduler.decay_fraction=1",
    )
    rates = [rate / 0.004 for rate in by_step(folder, "lr-AdamW/group0").values()]
    assert rates == pytest.approx([1, 0.55])


def test_a_branch_without_decay_continues_as_the_trunk_does_bit_for_bit(run, trunk, tmp_path, capsys):
    shutil.copytree(trunk, tmp_path / "moved")
    folder = tmp_path / "branch"
    run(folder, branch_from(tmp_path / "moved"), "scheduler.schedule=wsd", "scheduler.decay_fraction=0")
    printed = capsys.readouterr().out
    assert f"branches   from {tmp_path}/moved/checkpoints/ba{AT}.pt, step {AT} (epoch 0)" in printed
    assert f"; those up to {AT} are of the run it branches from" in printed
    assert "with train.branch_from=" not in printed
    assert "with scheduler.schedule=wsd (was constant)" in printed
    expected = by_step(trunk, "loss/train/total")
    assert by_step(folder, "loss/train/total") == {step: expected[step] for step in range(AT + 1, STEPS + 1)}
    assert are_equal(state_at(folder, STEPS), state_at(trunk, STEPS))
    (start,) = map(json.loads, (folder / "starts.jsonl").read_text().splitlines())
    assert (start["branch_from"], start["from_step"]) == (f"{tmp_path}/moved/checkpoints/ba{AT}.pt", AT)

    # It is a run like any other: whole without its trunk, and resumed from its own checkpoints.
    shutil.rmtree(tmp_path / "moved")
    store, whole = CheckpointStore(str(folder / "checkpoints")), state_at(folder, STEPS)
    assert store.steps() == [STEPS, 8]
    for file in store.record(STEPS).model.tokenizer_files:
        store.read(file)
    store.withdraw(STEPS)
    run(folder, branch_from(tmp_path / "moved"), "scheduler.schedule=wsd", "scheduler.decay_fraction=0")
    assert "step 8 (epoch 0)" in capsys.readouterr().out
    assert are_equal(state_at(folder, STEPS), whole)


def test_the_plan_of_a_branch_is_of_its_own_steps(run, trunk, tmp_path, capsys):
    def planned(*overrides: str) -> list[str]:
        run(tmp_path / "run", "checkpoint.interval=1ba", *overrides, dry_run=True)
        told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
        return [told["disk"], told["compute"]]

    own_steps = f"train.max_duration={STEPS - AT}ba"
    assert planned(branch_from(trunk)) == planned(own_steps)
    assert planned(own_steps) != planned()


def test_a_branch_that_resumes_needs_its_trunk_named(run, trunk, tmp_path, capsys):
    decay = ("scheduler.schedule=wsd", "scheduler.decay_fraction=1", "scheduler.warmup_duration=3ba")
    run(tmp_path / "branch", branch_from(trunk), *decay)
    assert "scheduler.warmup_duration=3ba (was 2ba); not read, as a branch begins" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"lower one of them; to resume a branch, give its train.branch_from as well"):
        run(tmp_path / "branch", *decay)


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_a_branch_decays_over_its_own_steps_and_may_mask_otherwise(run, trunk, tmp_path, schedule):
    folder = tmp_path / "branch"
    decay = (f"scheduler.schedule={schedule}", "scheduler.decay_fraction=1", "scheduler.final_ratio=0")
    run(folder, branch_from(trunk), *decay, "masking.ratio=0")
    rates = [rate / 0.004 for rate in by_step(folder, "lr-AdamW/group0").values()]
    assert rates[0] == 1
    assert rates == sorted(rates, reverse=True)
    assert rates[3] == pytest.approx(0.5)
    assert set(by_step(folder, "masking/ratio").values()) == {0}


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ["optimizer.lr=0.1"],
            MismatchError,
            "holds a run with optimizer.lr=0.004, not 0.1: of what decides the result, a branch may",
        ),
        (
            ["run.seed=3"],
            MismatchError,
            "holds a run with run.seed=17, not 3: of what decides the result, a branch may",
        ),
        (
            ["masking.reversed_ratio=0.5"],
            MismatchError,
            "masking.reversed_ratio=0.0, not 0.5: .* but not masking.reversed_ratio, which adds a token: leave it as",
        ),
        (["train.global_batch_size=16"], MismatchError, "holds a run with train.global_batch_size=8, not 16"),
        ([f"train.max_duration={AT}ba"], ConfigError, r"max_duration=4ba \(4 steps\) ends no later than train.branch_"),
    ],
)
def test_what_is_no_branch_of_it_is_refused(run, trunk, tmp_path, overrides, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "branch", branch_from(trunk), *overrides)
    assert not (tmp_path / "branch").exists()


def test_a_checkpoint_off_the_peak_is_refused(run, trunk, tmp_path):
    run(tmp_path / "cosine", "train.max_duration=4ba", "checkpoint.interval=2ba")
    with pytest.raises(ConfigError, match="its run has 0.55 of the peak learning rate at step 2, with scheduler"):
        run(tmp_path / "branch", branch_from(tmp_path / "cosine", 2))


def test_a_checkpoint_that_is_missing_or_damaged_is_refused(run, trunk, tmp_path):
    with pytest.raises(CheckpointError, match=r"^train.branch_from=.*ba5.pt does not exist: choose from ba"):
        run(tmp_path / "branch", branch_from(trunk, 5))
    shutil.copytree(trunk, tmp_path / "damaged")
    (tmp_path / f"damaged/checkpoints/ba{AT}.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"ba4.pt is damaged \(ba4.pt has 1 bytes instead of .*give another"):
        run(tmp_path / "branch", branch_from(tmp_path / "damaged"))
