"""However a run ends, it ends: by itself, soon, with the right status, leaving nothing behind; and it starts again.

The settings that have to do with processes are combined so that each value of one meets each value of every other;
two loader workers and four count as one value where they meet a way out, unless all is to be tried.
"""

import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from meap.errors import ConfigError
from tests.lengths import IS_THOROUGH

from .forked_runs import STOPPED, Run, forked_ranks, starter, state_of

pytestmark = [pytest.mark.slow, pytest.mark.fault(5)]

SECONDS_TO_LEAVE, SECONDS_TO_START = 10, 60
SETTINGS = ("train.max_duration=9ba", "train.eval_interval=2ba", "checkpoint.interval=4ba", "optimizer.lr=0.001")


class Way(NamedTuple):
    """A way out: what happens to which ranks, and with which statuses the ranks may end."""

    name: str
    statuses: tuple[int, ...]
    fault: dict[str, Any] | None = None
    hits_all: bool = False
    is_possible: Callable[[int, int], bool] = lambda workers, world: True


def signalled(name: str, whom: str, point: str = "update", call: int = 5) -> dict[str, Any]:
    return {"point": point, "call": call, "signal": signal.Signals[name], "whom": whom}


WAYS = (
    Way("finished", (0,)),
    Way("SIGTERM to a rank", (STOPPED,), signalled("SIGTERM", "rank")),
    Way("SIGUSR1 to a rank", (STOPPED,), signalled("SIGUSR1", "rank", "forward", 60)),
    Way("SIGHUP to a rank", (STOPPED,), signalled("SIGHUP", "rank", "forward", 60)),
    Way("SIGTERM to all", (STOPPED,), signalled("SIGTERM", "session", "forward", 40), hits_all=True),
    # A rank may lose another before it is interrupted itself.
    Way("SIGINT to a rank", (130, 1), signalled("SIGINT", "rank")),
    Way("SIGINT to all", (130, 1), signalled("SIGINT", "session"), hits_all=True),
    Way("no memory", (1,), {"point": "forward", "call": 60, "whom": "memory"}),
    Way("NaN", (1,), {"point": "forward", "call": 60, "whom": "weights"}),
    Way("full disk", (1,), {"point": "write", "call": 3, "whom": "disk"}),
    Way("killed rank", (-signal.SIGKILL, 1), signalled("SIGKILL", "rank"), is_possible=lambda _, world: world > 1),
    Way("lost worker", (1,), signalled("SIGKILL", "worker"), is_possible=lambda workers, _: workers > 0),
)
WORKERS, HELDOUT, WORLDS = (0, 1, 2, 4), (0, 1), (1, 2)
KINDS = ("pre-training", "fine-tuning", "longer context")


def pairs_of(way: Way, workers: int, heldout: int, world: int, recipe: str) -> set[Any]:
    """Which values meet in a case."""
    settings = {"workers": workers, "heldout": heldout, "world": world, "recipe": recipe}
    at_exit = settings if IS_THOROUGH else settings | {"workers": min(workers, 2)}
    return {*itertools.combinations(settings.items(), 2), *((way.name, *each) for each in at_exit.items())}


def pairwise() -> list[tuple[Way, int, int, int, str]]:
    """Few cases in which each value meets each of all other settings, where that is possible; greedy."""
    possible = [
        case
        for case in itertools.product(WAYS, WORKERS, HELDOUT, WORLDS, KINDS)
        if case[0].is_possible(case[1], case[3])
    ]
    pairs = [pairs_of(*case) for case in possible]
    missing, chosen = set().union(*pairs), []
    while missing:
        best = max(range(len(possible)), key=lambda number: len(pairs[number] & missing))
        chosen.append(possible[best])
        missing -= pairs[best]
    return chosen


CASES = pairwise()


@pytest.fixture(scope="module")
def start(warm_python, small_config, tmp_path_factory) -> Iterator[Callable[..., Run]]:
    with forked_ranks(warm_python) as forks:
        yield starter(forks, small_config, tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def conversations(write_conversations, tmp_path_factory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("conversations"), seq_len=256)


@pytest.mark.parametrize(
    ("way", "workers", "heldout", "world", "kind"), CASES, ids=lambda value: getattr(value, "name", str(value))
)
def test_a_run_ends_by_itself_and_starts_again(
    start, conversations, make_base, tmp_path, record_property, way, workers, heldout, world, kind
):
    settings = [*SETTINGS, f"data.num_workers={workers}", f"train.eval_batches={heldout}"]
    if kind != "pre-training":
        settings.append(f"model.base={make_base('llama', vocab_rows=320, max_position_embeddings=512)}")
    recipe = "meap_sft.py" if kind == "fine-tuning" else "meap_1b.py"
    if kind == "fine-tuning":
        settings += [f"data.remote={conversations}", "data.seq_len=256"]
    if kind == "longer context":
        settings.append("model.base_rope_theta=40000")
    temporary = Path(tempfile.mkdtemp())  # short: workers make sockets there

    def run_once(faults: dict[int, Any] | None, *, is_killed: bool = False) -> tuple[list[int], str]:
        run = start(tmp_path / "run", world, *settings, recipe=recipe, faults=faults, TMPDIR=str(temporary))
        ended, segments = end(run, temporary)
        assert "Traceback" not in run.printed, run.printed
        if is_killed:  # what it leaves, the next start removes, but for a folder of multiprocessing's
            return ended, run.printed
        for folder in temporary.glob("pymp-*") if way.name == "killed rank" else ():
            shutil.rmtree(folder)  # with the socket of who was killed
        assert list(temporary.iterdir()) == [], run.printed
        assert not [path for path in Path("/dev/shm").iterdir() if path.name.startswith(segments)]
        assert not list(tmp_path.rglob("*.in_use"))
        return ended, run.printed

    faults = dict.fromkeys(range(world if way.hits_all else 1), way.fault) if way.fault else None
    ended, printed = run_once(faults, is_killed=way.name == "killed rank")
    assert set(ended) <= set(way.statuses), printed
    assert ended[0] == way.statuses[0], printed
    record_property("injected", int(way.fault is not None))
    ended, printed = run_once(None)
    assert ended == [0] * world, printed
    assert "step      9/9" in printed or "already trained for 9" in printed
    shutil.rmtree(tmp_path / "run")
    temporary.rmdir()


def test_a_temporary_folder_whose_path_is_too_long_for_sockets_is_an_error(train, tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(ConfigError, match=r"long, has a path of \d+ bytes, and .* leave it 75: set TMPDIR"):
        train(tmp_path / "run", "data.num_workers=1")


def is_ours(name: str) -> bool:
    """Segments of streaming, which begin with a run's number, and torch's; other tests have theirs beside."""
    return name.startswith("torch_")


def end(run: Run, temporary: Path) -> tuple[list[int], tuple[str, ...]]:
    """Statuses of ranks that end by themselves, and of which none lives on for long after its last word.

    Also what names of segments in shared memory begin with: streaming's and torch's, while they were there.
    """
    segments = set()
    while any(state_of(pid) != "Z" for pid in run.pids) or run.members():
        silence = time.time() - last_word(run)
        assert silence < SECONDS_TO_START, f"{run.members()} live on\n{run.printed}"
        segments |= {path.name.rpartition("-")[2] for path in temporary.glob("meap-streaming-*")}
        time.sleep(0.02)
    # A machine with more to do than it has cores takes as much longer as everything else there does.
    allowed = SECONDS_TO_LEAVE * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert time.time() - last_word(run) < allowed, f"it took long to leave\n{run.printed}"
    assert any(name.isdecimal() for name in segments), run.printed
    return run.wait(), (*segments, *(f"torch_{pid}_" for pid in run.pids))


def last_word(run: Run) -> float:
    return max((log.stat().st_mtime for log in run.out.glob("*.log")), default=time.time())
