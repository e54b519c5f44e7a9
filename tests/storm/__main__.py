"""Journeys under faults, drawn from a seed, until the time is over or one breaks an invariant.

make storm                          half an hour, of a seed that it prints
make storm MINUTES=5 SEED=1         as CI does
make storm SEED=1 JOURNEY=12        that journey alone
make storm REPLAY=runs/storm/failure-1-12.json
make storm TABLE=docs/guarantees.md the table of all that is on record
"""

import argparse
import json
import logging
import sys
import time
from collections import Counter
from pathlib import Path
from random import SystemRandom

from . import record
from .invariants import BrokenError
from .journeys import Journey, draw_journey
from .quiet import Quiet, QuietFailureError
from .shrinking import shrink
from .travel import Traveller
from .world import World, make_world

SECONDS_TO_SHRINK = 600.0
JOURNEYS_OF_A_QUIET_HOME = 25
"""What it holds stays until it is left, and its disk is small."""


class Storm:
    """Goes through journeys, and keeps what was found."""

    def __init__(self, world: World, quiet: Quiet, folder: Path) -> None:
        self.world, self.quiet, self.folder, self.homes = world, quiet, folder, 0

    def travel(self, journey: Journey) -> tuple[Traveller, str, str]:
        """Go through a journey; returns also the invariant that broke, if any, and what was seen."""
        self.homes += 1
        with self.world.home(f"{self.quiet.home.path.name}-{self.homes}") as home:
            traveller = Traveller(home, quiet=self.quiet)
            try:
                traveller.go(journey)
            except QuietFailureError as refusal:
                return traveller, "refused", str(refusal)
            except BrokenError as error:
                return traveller, error.invariant, str(error)
            return traveller, "quiet", ""

    def note(self, journey: Journey) -> bool:
        """Go through a journey and put it on record; says whether all held."""
        started = time.monotonic()
        traveller, verdict, told = self.travel(journey)
        seconds = time.monotonic() - started
        drawn = f"{traveller.steps} steps, {len(traveller.hits)} faults, {seconds:.0f} s"
        print(f"journey {journey.number}: {drawn}: {verdict}", flush=True)
        faults = dict(Counter(traveller.hits))
        entry = record.Entry(journey.seed, journey.number, traveller.steps, faults, seconds, verdict, told, time.time())
        record.append(self.folder / "record.jsonl", entry)
        if verdict == "quiet":
            return True
        self.tell(journey, traveller, told)
        return verdict == "refused"

    def tell(self, journey: Journey, traveller: Traveller, told: str) -> None:
        """Print a failure as commands that a person can type."""
        path = self.folder / f"failure-{journey.seed}-{journey.number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(journey.to_values(), indent=1))
        lines = [f"{told}\n", f"seed {journey.seed}, journey {journey.number}; again: make storm REPLAY={path}"]
        print("\n".join([*lines, *traveller.said, ""]), flush=True)

    def shorten(self, journey: Journey, verdict: str) -> None:
        """Print the shortest journey that breaks the same invariant."""
        shortest = shrink(journey, lambda each: self.travel(each)[1] == verdict, seconds=SECONDS_TO_SHRINK)
        traveller, _, told = self.travel(shortest)
        print("the shortest that breaks in the same way:")
        self.tell(shortest, traveller, told)


def main() -> int:
    """Storm; 1 if an invariant broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--journey", type=int)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/storm"))
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure, and shorten none")
    options = parser.parse_args()
    if options.table:
        record.replace_table(options.table, record.table(record.read([options.folder / "record.jsonl"])))
        return 0
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    seed = SystemRandom().randrange(10**6) if options.seed is None else options.seed
    deadline, number, failures = time.monotonic() + 60 * options.minutes, options.journey or 0, 0
    world = make_world(seed)
    print(f"seed {seed}, store {world.make}", flush=True)
    try:
        while time.monotonic() < deadline:
            with world.home(f"quiet{number}") as quiet_home:
                storm = Storm(world, Quiet(quiet_home), options.folder)
                if options.replay:
                    return int(not storm.note(Journey.from_values(json.loads(options.replay.read_text()))))
                for _ in range(JOURNEYS_OF_A_QUIET_HOME):
                    journey = draw_journey(seed, number, is_private=world.is_private)
                    is_quiet, number = storm.note(journey), number + 1
                    failures += not is_quiet
                    if not is_quiet and not options.keep_going:
                        storm.shorten(journey, storm.travel(journey)[1])
                    is_over = options.journey is not None or not (is_quiet or options.keep_going)
                    if is_over or time.monotonic() > deadline:
                        return int(failures > 0)
    finally:
        world.close()
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
