"""Elastic determinism: a step holds the same samples with the same masks on any number of ranks and loader workers.

Every leg of a run is started anew with real processes joined by gloo, takes the state that the leg before it left, and
is compared with one process that was never interrupted, in the canonical order: position in the batch, then rank.
"""

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lengths import IS_THOROUGH

SEQ_LEN, ROWS, STEPS = 16, 70, 8  # 70 rows make 8 steps of 8; the other six are left out, others in each epoch
EPOCHS = 2
WORLDS, WORKERS = (1, 2, 4), (0, 1, 2, 3)
POINTS = (0, 3, STEPS - 1, STEPS, STEPS + 5)  # mid epoch 0, around its end, mid epoch 1
LEGS = [
    (WORLDS[world], WORKERS[workers], POINTS[point])
    for world, workers, point in itertools.product(*(range(len(each)) for each in (WORLDS, WORKERS, POINTS)))
    # A third of them: each two of world, workers and point meet.
    if IS_THOROUGH or world == (workers + point) % len(WORLDS)
]
LEG_SECONDS = 60

pytestmark = pytest.mark.fault(7)


@dataclass(frozen=True)
class Leg:
    """What one start of a run did."""

    steps: list[tuple[int, list[tuple[int, str]]]]
    """Epoch and, in canonical order, (sample id, hash of the masked input) of each step."""
    states: list[dict[str, Any]]
    """What a checkpoint after each step holds."""
    boundaries: list[dict[str, Any]]
    """What a checkpoint at the end of each epoch holds."""


class Ranks:
    """A process that forks legs."""

    def __init__(self, python: str, environment: dict[str, str], project_root: Path) -> None:
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(Path(__file__).with_name("elastic_ranks.py"))],
            env=environment | {"PYTHONPATH": str(project_root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self,
        config: dict[str, Any],
        out: Path,
        *,
        world: int,
        workers: int,
        state: dict[str, Any] | None = None,
        steps: int = EPOCHS * STEPS,
        epochs: int = EPOCHS,
    ) -> Leg:
        out.mkdir(parents=True)
        job = {"world": world, "workers": workers, "state": state, "steps": steps, "epochs": epochs}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job | {"out": str(out), "seconds": LEG_SECONDS, "config": config}) + "\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line.startswith('{"exit"'):
                assert json.loads(line)["exit"] == [0] * world, printed
                break
            printed += line
        else:
            raise AssertionError(printed)
        ranks = [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(world)]
        return Leg(
            [canonical(of_ranks) for of_ranks in zip(*(rank["steps"] for rank in ranks), strict=True)],
            ranks[0]["states"],
            ranks[0]["boundaries"],
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=LEG_SECONDS) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()


def canonical(of_ranks: tuple[dict[str, Any], ...]) -> tuple[int, list[tuple[int, str]]]:
    (epoch,) = {rank["epoch"] for rank in of_ranks}
    by_position = zip(*(rank["samples"] for rank in of_ranks), strict=True)
    return epoch, [tuple(sample) for samples in by_position for sample in samples]


@pytest.fixture(scope="module")
def ranks(warm_python: str, project_root: Path) -> Iterator[Ranks]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RANK", "WORLD_", "LOCAL_"))}
    ranks = Ranks(warm_python, environment | {"OMP_NUM_THREADS": "1"}, project_root)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory, write_shards) -> dict[str, Any]:
    remote = write_shards(tmp_path_factory.mktemp("remote"), rows=ROWS, seq_len=SEQ_LEN, validation_rows=0)
    return {"remote": str(remote), "seq_len": SEQ_LEN, "num_canonical_nodes": 4}


@pytest.fixture(scope="module")
def reference(ranks, config, tmp_path_factory) -> Leg:
    # One step more than there is, so that the second epoch is seen to end.
    out = tmp_path_factory.mktemp("reference") / "leg"
    return ranks.run(config, out, world=1, workers=0, steps=EPOCHS * STEPS + 1)


def require_same(leg: Leg, reference: Leg, *, first: int) -> int:
    """Compare from step `first` to the end, and the states that the leg would have left; returns the steps compared."""
    assert leg.steps == reference.steps[first:]
    assert leg.states == reference.states[first:]
    return len(leg.steps)


@pytest.mark.slow
def test_the_uninterrupted_run_is_two_epochs_of_different_order_and_masks(reference):
    assert [epoch for epoch, _ in reference.steps] == [0] * STEPS + [1] * STEPS
    first, second = (
        dict(itertools.chain.from_iterable(samples for _, samples in reference.steps[start : start + STEPS]))
        for start in (0, STEPS)
    )
    assert len(first) == len(second) == STEPS * 8, "a row was repeated"
    assert list(first) != list(second)
    assert not set(first.values()) & set(second.values())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("point", [3, STEPS])
def test_one_process_continues_as_two(ranks, config, reference, tmp_path, workers, point):
    before = ranks.run(config, tmp_path / "before", world=1, workers=workers, steps=point)
    assert before.steps == reference.steps[:point]
    after = ranks.run(config, tmp_path / "after", world=2, workers=workers, state=before.states[-1])
    assert require_same(after, reference, first=point) == EPOCHS * STEPS - point


@pytest.mark.slow
def test_a_checkpoint_at_the_end_of_an_epoch_does_not_replay_it(ranks, config, reference, tmp_path):
    """Stock streaming 0.13 would give the first epoch again, and stay one epoch behind for ever."""
    once = ranks.run(config, tmp_path / "once", world=1, workers=0, epochs=1)
    assert once.boundaries[-1]["dataset"]["epoch"] == 1
    again = ranks.run(config, tmp_path / "again", world=2, workers=1, state=once.boundaries[-1])
    assert require_same(again, reference, first=STEPS) == STEPS


@pytest.mark.slow
def test_every_world_resumes_in_every_other(ranks, config, reference, tmp_path, capsys, record_property):
    """All worlds leave the same states (compared at each step), so one resumption per state and world covers all pairs.

    Stops after a real interruption in the middle are in the chains below.
    """
    compared = 0
    for world, workers, point in LEGS:
        out = tmp_path / f"{world}x{workers}at{point}"
        state = reference.states[point - 1] if point else None
        leg = ranks.run(config, out, world=world, workers=workers, state=state, steps=EPOCHS * STEPS + 1)
        compared += require_same(leg, reference, first=point)
        assert leg.boundaries[-1] == reference.boundaries[-1]
    record_property("injected", len(LEGS))
    with capsys.disabled():
        print(f"\nelastic: {len(LEGS)} legs, {compared} steps, 0 differ", end="")


@pytest.mark.slow
@pytest.mark.parametrize(
    "chain",
    [
        [(1, 2, 3), (2, 1, 6), (4, 1, 16)],
        [(4, 2, 5), (1, 0, 8), (2, 3, 11), (4, 0, 16)],
        [(2, 2, 8), (4, 1, 9), (1, 3, 16)],
        [(4, 3, 13), (2, 0, 15), (1, 1, 16)],
    ],
    ids=lambda chain: "-".join(f"{world}x{workers}to{stop}" for world, workers, stop in chain),
)
def test_a_run_interrupted_again_and_again(ranks, config, reference, tmp_path, chain):
    done, state = 0, None
    for world, workers, stop in chain:
        leg = ranks.run(config, tmp_path / str(stop), world=world, workers=workers, state=state, steps=stop - done)
        assert leg.steps == reference.steps[done:stop]
        done, state = stop, leg.states[-1]
    assert done == EPOCHS * STEPS


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["random", "stratified"])
def test_streams_with_proportions_continue_on_other_worlds(ranks, tmp_path, write_shards, batching):
    """The smaller stream comes more than twice per epoch: each time with masks that no world changes."""
    small, large = (
        write_shards(tmp_path / name, rows=rows, seq_len=SEQ_LEN, validation_rows=0, seed=seed)
        for seed, (name, rows) in enumerate({"small": 20, "large": 50}.items())
    )
    config = {
        "streams": {
            "small": {"remote": str(small), "proportion": 3},
            "large": {"remote": str(large), "proportion": 1},
        },
        "seq_len": SEQ_LEN,
        "num_canonical_nodes": 4,
        "batching_method": batching,
    }

    def contents(leg: Leg) -> list[tuple[int, list[tuple[int, str]]]]:
        # A stratified batch is laid out stream after stream: which of its rows a rank gets depends on their number.
        return [(epoch, sorted(samples) if batching == "stratified" else samples) for epoch, samples in leg.steps]

    whole = ranks.run(config, tmp_path / "whole", world=1, workers=0, steps=EPOCHS * STEPS + 1)
    assert len(whole.steps) == EPOCHS * STEPS
    for start in (0, STEPS):
        samples = list(itertools.chain.from_iterable(samples for _, samples in whole.steps[start : start + STEPS]))
        assert len(dict(samples)) == len({masked for _, masked in samples}) == STEPS * 8, "ids or masks were repeated"
        assert sum(sample % 70 >= 50 for sample, _ in samples) == STEPS * 6
    done, state = 0, None
    for world, workers, stop in [(1, 2, 3), (2, 1, STEPS + 3), (4, 1, EPOCHS * STEPS)]:
        out = tmp_path / str(stop)
        leg = ranks.run(config, out, world=world, workers=workers, state=state, steps=stop - done)
        assert contents(leg) == contents(whole)[done:stop]
        assert leg.states == whole.states[done:stop]
        done, state = stop, leg.states[-1]


@pytest.mark.slow
def test_fine_tuning_rows_and_their_copies_continue_on_other_worlds(ranks, tmp_path, write_conversations):
    """Packed conversations, whose rows hold different numbers of them, of copies and of targets."""
    steps = 6  # 48 rows
    remote = write_conversations(tmp_path / "remote", seq_len=256)
    config = {"remote": str(remote), "seq_len": 256, "num_canonical_nodes": 4}
    whole = ranks.run(config, tmp_path / "whole", world=1, workers=0, steps=EPOCHS * steps + 1)
    assert len(whole.steps) == EPOCHS * steps
    first, second = (
        dict(itertools.chain.from_iterable(rows for _, rows in whole.steps[at : at + steps])) for at in (0, steps)
    )
    assert len(first) == len(second) == steps * 8, "a row was repeated"
    assert first.keys() == second.keys()
    assert sum(first[row] == second[row] for row in first) < 6, "masks are those of the first epoch"
    done, state = 0, None
    for world, workers, stop in [(1, 1, 4), (4, 2, steps), (2, 0, steps + 2), (4, 1, EPOCHS * steps)]:
        out = tmp_path / str(stop)
        leg = ranks.run(config, out, world=world, workers=workers, state=state, steps=stop - done)
        assert leg.steps == whole.steps[done:stop]
        assert leg.states == whole.states[done:stop]
        done, state = stop, leg.states[-1]
