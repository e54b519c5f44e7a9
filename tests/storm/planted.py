"""Does the storm find what it is for? Guards of the project are taken out, one at a time, in a copy of the tree.

    make storm PLANTED=1 [MINUTES=30] [SEED=1]

Each copy is stormed until an invariant breaks, or the time is over. Prints a table.
A guard whose text is gone from its file is an error: a planted bug must be one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .running import ROOT

_PARTS = ("meap", "recipes", "dataprep", "yamls", "tests")


@dataclass(frozen=True)
class Guard:
    """What stands between a user and a fault."""

    name: str
    file: str
    text: str
    without: str

    def plant(self, root: Path) -> None:
        """Take it out of a copy of the tree."""
        path = root / self.file
        content = path.read_text()
        if content.count(self.text) != 1:
            raise SystemExit(f"{self.name}: its text is {content.count(self.text)} times in {self.file}, not once")
        path.write_text(content.replace(self.text, self.without))


GUARDS = (
    Guard(
        "a checkpoint's record is written last",
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
    Guard(
        "the hash of a shard",
        "meap/data/pinned/stream.py",
        "            if found != expected:\n",
        "            if found != expected and not found:\n",
    ),
    Guard(
        "the shutdown of workers",
        "meap/processes.py",
        """    threading.Thread(target=_force_exit, args=[status], name="exit", daemon=True).start()
    end_processes([each for each in multiprocessing.active_children() if each.daemon])
""",
        "",
    ),
    Guard(
        "the canonical nodes",
        "meap/data/loader.py",
        "        num_canonical_nodes=epoch.canonical_nodes,\n",
        "        num_canonical_nodes=world_size // int(__import__('os').environ.get('LOCAL_WORLD_SIZE', '1')),\n",
    ),
    Guard(
        "a lock",
        "meap/locks.py",
        "        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "",
    ),
    Guard(
        "a retry",
        "meap/back_off.py",
        "stop=tenacity.stop_after_attempt(self.attempts)",
        "stop=tenacity.stop_after_attempt(1)",
    ),
    Guard(
        "the exit status",
        "meap/config/command.py",
        "        return _USAGE_ERROR if isinstance(error, ConfigError) else 1\n",
        "        return 0\n",
    ),
    Guard(
        "a temporary folder's rename",
        "meap/places/whole.py",
        """    draft.mkdir(parents=True)
    try:
        yield draft
""",
        """    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
        return
""",
    ),
    Guard(
        "the resume's epoch",
        "meap/data/pinned/dataset.py",
        """            state["epoch"] = max(state["epoch"], self.next_epoch)\n""",
        """            state["epoch"] = max(state["epoch"], 0)\n""",
    ),
    Guard(
        "the masks' epoch",
        "meap/data/dataset.py",
        "            inputs, chosen = self._masks.apply(inputs, sample_ids, epoch=self.epoch)\n",
        "            inputs, chosen = self._masks.apply(inputs, sample_ids, epoch=0)\n",
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


def storm_without(guard: Guard, *, minutes: float, seed: int) -> Result:
    """Storm a copy of the tree without a guard, until a journey breaks that does not in the tree as it is."""
    result, number = Result(guard.name), 0
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        folder = Path(name)
        for part in _PARTS:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        guard.plant(folder)
        while (left := minutes - result.seconds / 60) > 0:
            entries = _storm(folder, folder / "planted", f"--minutes={left}", f"--seed={seed}", f"--begin={number}")
            result.journeys += len(entries)
            result.seconds += sum(each["seconds"] for each in entries)
            if not entries or entries[-1]["verdict"] in {"quiet", "refused"}:
                break
            last = entries[-1]
            number = last["number"] + 1
            intact = _storm(ROOT, folder / "intact", f"--seed={seed}", f"--journey={last['number']}")
            if [each["verdict"] for each in intact] == ["quiet"]:
                result.found, result.told = last["verdict"], last["told"][-2000:]
                break
    return result


def _storm(root: Path, notes: Path, *arguments: str) -> list[dict[str, Any]]:
    """What a storm of this tree has on record."""
    shutil.rmtree(notes, ignore_errors=True)
    words = [sys.executable, "-m", "tests.storm", "--first", f"--folder={notes}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, check=False)
    record = notes / "record.jsonl"
    if not record.exists():
        raise SystemExit(f"the storm ended with {done.returncode}\n{done.stderr}")
    return [json.loads(line) for line in record.read_text().splitlines()]


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
    options = parser.parse_args()
    results = list[Result]()
    for guard in GUARDS:
        if options.guard and not any(part in guard.name for part in options.guard):
            continue
        results.append(storm_without(guard, minutes=options.minutes, seed=options.seed))
        print(json.dumps(asdict(results[-1])), flush=True)
    print(table(results))
    return int(sum(each.found == "not found" for each in results) > 1)


if __name__ == "__main__":
    sys.exit(main())
