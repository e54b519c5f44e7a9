"""Does the storm find what it is for? Guards of the project are taken out, one at a time, in a copy of the tree.

    make storm PLANTED=1 [MINUTES=30] [SEED=1]

Each copy is stormed until an invariant breaks, or the time is over. Prints a table.
A guard whose text is gone from its file is an error: a planted bug must be one.
"""

import argparse
import itertools
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .__main__ import Storm
from .journeys import Journey, draw_journey
from .quiet import Quiet
from .running import ROOT
from .world import World, make_world

_PARTS = ("meap", "recipes", "dataprep", "yamls", "tests")


@dataclass(frozen=True)
class Edit:
    """A place of the tree, and what it becomes."""

    file: str
    text: str
    without: str


@dataclass(frozen=True)
class Guard:
    """What stands between a user and a fault, in one place or in several that do the same."""

    name: str
    edits: tuple[Edit, ...]

    def plant(self, root: Path) -> None:
        """Take it out of a copy of the tree."""
        for each in self.edits:
            path = root / each.file
            content = path.read_text()
            if content.count(each.text) != 1:
                times = content.count(each.text)
                raise SystemExit(f"{self.name}: its text is {times} times in {each.file}, not once")
            path.write_text(content.replace(each.text, each.without))


GUARDS = (
    Guard(
        "a checkpoint's record is written last",
        (
            Edit(
                "meap/train/checkpoints/publishing.py",
                """        self._together(lambda: self._store.upload(own, self._folder))
        if rank == 0:
            self._publish(record)
""",
                """        if rank == 0:
            self._publish(record)
        self._together(lambda: self._store.upload(own, self._folder))
""",
            ),
            Edit(
                "meap/train/checkpoints/publishing.py",
                """            if rank == 0 and not self._store.is_remote:
                self._store.withdraw(record.step)
""",
                """            if rank == 0 and not self._store.is_remote:
                self._publish(record)
""",
            ),
            Edit(
                "meap/train/checkpoints/publishing.py",
                """        elif rank == 0:
            self._publish(record)
""",
                "",
            ),
        ),
    ),
    Guard(
        "the hash of a shard",
        (
            Edit(
                "meap/data/pinned/stream.py",
                "            if found != expected:\n",
                "            if found != expected and not found:\n",
            ),
        ),
    ),
    Guard(
        "the shutdown of workers",
        (
            Edit(
                "meap/processes.py",
                """    threading.Thread(target=_force_exit, args=[status], name="exit", daemon=True).start()
    end_processes([each for each in multiprocessing.active_children() if each.daemon])
""",
                "",
            ),
            Edit(
                "meap/data/loader.py",
                """        if not (workers := getattr(iterator, "_workers", [])):\n""",
                "        if True:\n",
            ),
            Edit(
                "meap/data/loader.py", "            end_processes(workers)\n    _kept.clear()\n", "            pass\n"
            ),
        ),
    ),
    Guard(
        "the canonical nodes",
        (
            Edit(
                "meap/data/loader.py",
                "        num_canonical_nodes=epoch.canonical_nodes,\n",
                "        num_canonical_nodes=world_size // int(os.environ.get('LOCAL_WORLD_SIZE', '1')),\n",
            ),
        ),
    ),
    Guard(
        "a lock",
        (
            Edit(
                "meap/places/locks.py",
                """        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another""",
                "        # Another",
            ),
        ),
    ),
    Guard(
        "a retry",
        (
            Edit(
                "meap/back_off.py",
                "is_tried = state.attempt_number >= self.attempts and not may_pass(_error_of(state))",
                "is_tried = True",
            ),
        ),
    ),
    Guard(
        "the exit status",
        (
            Edit(
                "meap/config/command.py",
                "        return _USAGE_ERROR if isinstance(error, ConfigError) else 1\n",
                "        return 0\n",
            ),
        ),
    ),
    Guard(
        "a temporary folder's rename",
        (
            Edit(
                "meap/places/whole.py",
                """    with sole_writer(draft, of=shown), _room_to_remove():
""",
                """    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    return
    with sole_writer(draft), _room_to_remove():
""",
            ),
        ),
    ),
    Guard(
        "the resume's epoch",
        (
            Edit(
                "meap/data/pinned/dataset.py",
                """            state["epoch"] = max(state["epoch"], self.next_epoch)\n""",
                """            state["epoch"] = max(state["epoch"], 0)\n""",
            ),
        ),
    ),
    Guard(
        "the masks' epoch",
        (
            Edit(
                "meap/data/dataset.py",
                "            inputs, chosen = self._masks.apply(inputs, sample_ids, epoch=self.epoch)\n",
                "            inputs, chosen = self._masks.apply(inputs, sample_ids, epoch=0)\n",
            ),
        ),
    ),
)


@dataclass
class Result:
    """Whether a planted bug was found."""

    guard: str
    found: str = "not found"
    """The invariant that broke."""
    journeys: int = 0
    seconds: float = 0.0
    told: str = ""


def storm_without(guard: Guard, world: World, journeys: Iterator[Journey], *, minutes: float) -> Result:
    """Storm a copy of the tree without a guard, until a journey breaks that does not in the tree as it is."""
    result, deadline = Result(guard.name), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        world.root = Path(name)
        world.root.chmod(0o755)  # for another user, who is among the faults
        for part in _PARTS:
            shutil.copytree(ROOT / part, world.root / part)
        guard.plant(world.root)
        with world.home(f"planted{world.number}") as home:
            storm = Storm(world, Quiet(home), world.root)
            while time.monotonic() < deadline and (journey := next(journeys, None)):
                started = time.monotonic()
                _, verdict, told = storm.travel(journey)
                result.journeys += 1
                result.seconds += time.monotonic() - started
                print(f"without {guard.name}, journey {journey.number}: {verdict}", flush=True)
                if verdict not in {"quiet", "refused"} and is_quiet_as_it_is(world, journey):
                    result.found, result.told = verdict, f"journey {journey.number}: {told[-1500:]}"
                    break
    return result


def is_quiet_as_it_is(world: World, journey: Journey) -> bool:
    """Whether the tree with all its guards stays quiet in that journey."""
    planted, world.root = world.root, ROOT
    try:
        with world.home(f"intact{world.number}") as home:
            return Storm(world, Quiet(home), planted).travel(journey)[1] == "quiet"
    finally:
        world.root = planted


def table(results: list[Result]) -> str:
    """The results, in Markdown."""
    rows = [f"| {each.guard} | {each.found} | {each.journeys} | {each.seconds:.0f} |" for each in results]
    return "\n".join(["| without | what broke | journeys | seconds |", "|---|---|---|---|", *rows])


def main() -> int:
    """Plant each; 1 if more than one is not found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guard", action="append", help="only those whose name contains it")
    parser.add_argument("--journey", type=int, action="append", help="only these")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    world = make_world(options.seed, without="meap.")
    results = list[Result]()
    for guard in GUARDS:
        if options.guard and not any(part in guard.name for part in options.guard):
            continue
        numbers = iter(options.journey) if options.journey else itertools.count()
        journeys = (draw_journey(options.seed, number, is_private=world.is_private) for number in numbers)
        results.append(storm_without(guard, world, journeys, minutes=options.minutes))
        print(json.dumps(asdict(results[-1])), flush=True)
    world.close()
    print(table(results))
    return int(sum(each.found == "not found" for each in results) > 1)


if __name__ == "__main__":
    sys.exit(main())
